"""How far a long run has come: sums of its steps so far, chunk by chunk, so that memory does not grow with their number; and
reports for whoever wants to know."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from .._torch import tracing, tree_flatten, tree_unflatten
from .._types import Tree, in_floats, in_single
from .._words import complaint, warn

#: More runs than anybody waits for who does not know of them: each pixel of a photograph, say.
MANY = 100_000


class _Here(threading.local):
    listener: Callable[[int, int], None] | None = None  # per thread: a run in another thread is somebody else's


_here = _Here()


def report(done: int, total: int) -> None:
    """Say that `done` of `total` steps have run. Nobody listens, or torch.compile traces: nothing happens."""
    if tracing():
        return
    if _here.listener is not None:
        _here.listener(done, total)
    elif done == 0 and total > MANY:
        text = f"{total:,} runs of the model are ahead: watch them with fa.progress()"
        warn(f"{text}, or ask for fewer (features in groups by feature_mask, fewer steps or samples).")


def reported(chunks: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The chunks ``(start, stop)`` of a run, with a report after each."""
    if tracing() or not chunks:
        return chunks
    if _here.listener is not None:
        return _reporting(chunks)
    report(0, chunks[-1][1])
    return chunks


def _reporting(chunks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    total = chunks[-1][1]
    report(0, total)
    for start, stop in chunks:
        yield start, stop
        report(stop, total)


@contextlib.contextmanager
def progress(callback: Callable[[int, int], None] | None = None) -> Iterator[None]:
    """Show how far the long runs inside the block have come: steps on a path, samples, groups, baselines, targets.

    For this thread alone; costs nothing outside the block, and is silent under torch.compile. Of more than 100,000 steps
    ahead that nobody watches there is a warning.

    Args:
        callback: called with ``(done, total)``, first with 0, last with the total, for each run; a run inside another (steps
            of each sample) reports in between. None: a bar on stderr, by tqdm where it is installed.

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
    before, bar = _here.listener, _Bar()
    _here.listener = callback or bar
    try:
        yield
    finally:
        _here.listener = before
        bar.close()


class _Bar:
    """A bar per run, below that of the run around it: tqdm's, or a plain one."""

    def __init__(self) -> None:
        self.open: list[Any] = []  # the innermost last

    def __call__(self, done: int, total: int) -> None:
        if done == 0:
            self.open.append(_new_bar(total, nested=bool(self.open)))
            return
        # A run that an exception ended has said nothing: its bar lies above the one that goes on.
        while self.open and not (self.open[-1].total == total and self.open[-1].n < done):
            self.open.pop().close()
        if not self.open:  # the block began in the middle of a run
            self.open.append(_new_bar(total, nested=False))
        self.open[-1].update(done - self.open[-1].n)
        if done == total:
            self.open.pop().close()

    def close(self) -> None:
        while self.open:
            self.open.pop().close()


def _new_bar(total: int, nested: bool) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _PlainBar(total, nested)
    return tqdm(total=total, leave=not nested)  # a bar inside another goes when its run ends


class _PlainBar:
    """A line that is written over; that of a run inside another takes its place for a while."""

    def __init__(self, total: int, nested: bool) -> None:
        self.n, self.total, self.nested = 0, total, nested
        self.update(0)

    def update(self, more: int) -> None:
        self.n += more
        marks = "#" * (_WIDTH * self.n // max(self.total, 1))
        print(f"\r[{marks:{_WIDTH}}] {f'{self.n}/{self.total}':{_WIDTH}}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self.nested:
            print(file=sys.stderr, flush=True)


_WIDTH = 30


# Sums of the steps so far.


class Sum:
    """A sum of trees over their leading dimension. What is no tensor stays as it first came.

    Of integers and bools, which a method of one's own may give, a mean is no integer.
    """

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.spec: Any = None

    def add(self, found: Tree, weights: Tensor | None = None, power: int = 1) -> None:
        """Add the steps of a chunk: each times its weight, or a power of it. Half precision is summed in float32."""
        leaves, self.spec = tree_flatten(found)
        new = [_summed(t, weights, power) if isinstance(t, Tensor) else t for t in leaves]
        check_rows(self.parts, new)
        self.parts = [a + b if isinstance(a, Tensor) else a for a, b in zip(self.parts, new)] if self.parts else new
        self.dtypes = [in_floats(t[:0]).dtype if isinstance(t, Tensor) else None for t in leaves]

    def total(self, count: int = 1) -> Tree:
        """The sum, divided by `count`, in the dtypes of what was added."""
        found = [
            (t / count if count != 1 else t).to(dtype) if isinstance(t, Tensor) else t
            for t, dtype in zip(self.parts, self.dtypes)
        ]
        return tree_unflatten(found, self.spec)


def _summed(t: Tensor, weights: Tensor | None, power: int) -> Tensor:
    wide = in_single(in_floats(t))
    wide = wide if power == 1 else wide**power
    if weights is not None:
        wide = wide * weights.to(wide).reshape(-1, *[1] * (t.dim() - 1))
    return wide.sum(0)


def check_rows(some: Sequence[Any], others: Sequence[Any]) -> None:
    """Values of one layer, met at several inputs, must be of one shape."""
    for a, b in zip(some, others):
        if isinstance(a, Tensor) and a.shape != b.shape:
            raise complaint(
                ValueError,
                f"the value at the site has the shape {list(a.shape)} for one input and {list(b.shape)} for another: what it "
                f"holds depends on the data (the tokens of an expert, say), and cannot be compared. Choose a layer around it.",
            )
