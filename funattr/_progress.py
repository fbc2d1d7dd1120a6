"""How far a long run has come, for whoever wants to know."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ._torch import tracing


class _Here(threading.local):
    listener: Callable[[int, int], None] | None = None  # per thread: a run in another thread is somebody else's


_here = _Here()


def report(done: int, total: int) -> None:
    """Say that `done` of `total` steps have run. Nobody listens, or torch.compile traces: nothing happens."""
    if not tracing() and _here.listener is not None:
        _here.listener(done, total)


def reported(chunks: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The chunks ``(start, stop)`` of a run, with a report after each."""
    return chunks if tracing() or _here.listener is None or not chunks else _reporting(chunks)


def _reporting(chunks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    total = chunks[-1][1]
    report(0, total)
    for start, stop in chunks:
        yield start, stop
        report(stop, total)


@contextlib.contextmanager
def progress(callback: Callable[[int, int], None] | None = None) -> Iterator[None]:
    """Show how far the long runs inside the block have come: steps on a path, samples, groups, baselines.

    For this thread alone; costs nothing outside the block, and is silent under torch.compile.

    Args:
        callback: called with ``(done, total)``, first with 0, last with the total, for each run. None: a bar on stderr, by
            tqdm where it is installed.

    Returns:
        A context manager.

    Raises:
        TypeError: `callback` cannot be called.

    Example:
        >>> import torch, funattr as fa
        >>> with fa.progress(lambda done, total: print(done, "of", total)):
        ...     _ = fa.feature_ablation(lambda x: x.sum(1), torch.ones(1, 3), chunk_size=2)
        0 of 4
        2 of 4
        4 of 4
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"progress(): callback must be callable, called with (done, total); got {type(callback).__name__}.")
    before = _here.listener
    _here.listener = callback or _Bar()
    try:
        yield
    finally:
        _here.listener = before


class _Bar:
    """A bar per run: tqdm's, or a plain line."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
            return
        if done == 0 or self.bar is None:
            self.bar = tqdm(total=total)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
            self.bar = None
