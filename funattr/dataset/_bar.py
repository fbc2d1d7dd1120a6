"""A bar with the rate and the time that is left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(shown: bool | None, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """What to call with each number of examples that are done: tqdm's bar where it is installed, a plain one, or nothing.

    `shown`: None shows it where stderr is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda more: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        plain = _Plain(total, done)
        yield plain.update
        print(file=sys.stderr, flush=True)
        return
    with tqdm(total=total, initial=done, unit=" examples") as shows:
        yield lambda more: shows.update(more) and None


class _Plain:
    """A line that is written over."""

    def __init__(self, total: int | None, done: int) -> None:
        self.total, self.done, self.first, self.start = total, done, done, time.monotonic()

    def update(self, more: int) -> None:
        self.done += more
        rate = (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)
        of, left = "", ""
        if self.total is not None:
            of, left = f"/{self.total}", f", {_time((self.total - self.done) / max(rate, 1e-9))} left"
        print(f"\r{self.done}{of} examples, {rate:.1f}/s{left}  ", end="", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
