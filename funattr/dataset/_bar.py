"""How far a run has come: a bar in a terminal, lines where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_EVERY = 10.0  # seconds between lines


@contextlib.contextmanager
def bar(shown: bool | None, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """What to call with each number of examples that have been done; less than 0 where a worker died with them.

    `shown`: None shows it where stderr is a terminal.
    """
    terminal = sys.stderr.isatty()
    if not (terminal if shown is None else shown):
        yield lambda more: None
        return
    if terminal:
        tqdm = _tqdm()
        if tqdm is not None:
            with tqdm(total=total, initial=done, unit=" examples") as shows:
                yield lambda more: shows.update(more) and None
            return
    lines = _Lines(total, done)
    try:
        yield lines.update
    finally:
        if lines.done != lines.said:
            lines.say()


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


class _Lines:
    """A line now and then, and one at the end."""

    def __init__(self, total: int | None, done: int) -> None:
        self.total, self.done, self.first, self.said = total, done, done, done
        self.start = self.last = time.monotonic()

    def update(self, more: int) -> None:
        self.done += more
        if time.monotonic() - self.last >= _EVERY:
            self.say()

    def say(self) -> None:
        self.last, self.said = time.monotonic(), self.done
        rate = (self.done - self.first) / max(self.last - self.start, 1e-9)
        of, left = "", ""
        if self.total is not None:
            of = f" of {self.total}"
            left = f", {_time((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        print(f"{self.done}{of} examples, {rate:.1f} per second{left}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
