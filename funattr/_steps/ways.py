"""Running a function over steps: vmap in chunks, one after another where vmap cannot.

Arguments that all steps share are not mapped: what depends on them alone (the part of a model before a site) runs once
per chunk, and nobody's extra arguments are ever expanded.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.backward import further
from .._core.checks import same
from .._core.cures import raised_by_model
from .._core.kept import drawn, writes_parameters
from .._core.passes import Question
from .._core.written import Place, with_own_mapped
from .._torch import any_batch, must_rise, no_vmap_inside, quiet, tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import ChunkSize, Tree, map_tensors, tensors
from .._words import complaint, warn
from .chunks import Made, TooMuch, chunk_for, chunks, given_chunk, room_on, shows_room


class OneByOne(BaseException):
    """The steps would run one after another. A BaseException: nobody else is to catch it."""


_around = threading.local()


@contextlib.contextmanager
def at_once_or_not(shares: bool) -> Iterator[None]:
    """Inside, what would run its steps one after another is `OneByOne`, if what maps over them `shares` their passes else."""
    before, _around.shares = getattr(_around, "shares", False), shares
    try:
        yield
    finally:
        _around.shares = before


#: More steps than there are.
_ALL = 1 << 60


class Runner:
    """Runs chunks of steps, and remembers over the chunks of one call what vmap could not do."""

    def __init__(self, sequential: bool = False) -> None:
        self.ways = [] if sequential or any_batch() or no_vmap_inside() or writes_parameters() else [mapped, mapped_functional]
        #: What was shown to be exact in one batch, of how many, and where the batch is in its tensors; None: rows meet, or
        #: nobody can see.
        self.folds: dict[tuple[Callable[..., Any], int], Sequence[int]] | None = None if any_batch() else {}
        self.places: set[Place] = set()  # of the model's code, whose tensors are mapped over, for it writes to views of them
        self.cause: str | None = None
        self.shown: set[Any] = set()  # of what is asked, that vmap gives for a step what it gives alone
        self.most = _ALL  # how many steps at once there is room for
        self.unsure = False  # whether so many are too much is still to be seen
        self.room = 0

    def within(self, q: Question, like: Tree, shares: bool, own: bool = True) -> Runner:
        """Run no more steps like this at once than there is room for, however many a chunk has."""
        if (shows := shows_room(q, like, shares, own)) is not False:
            self.unsure, self.room = True, room_on(tensors(like))
        self.most = 1 if shows else _ALL
        return self

    def bounded(self, count: int, run: Callable[[int, int], Iterator[Tree]]) -> Iterator[Tree]:
        """``run(first, last)`` of as many of the steps of a chunk at once as there is room for, which the first ones show."""
        start = 0
        while start < count:
            last = start + chunks(count - start, self.most)[0][1]
            if not self.unsure:
                yield from run(start, last)
            else:
                made = Made(self.limit(last - start))
                try:
                    with made:
                        found = list(run(start, last))
                except TooMuch as error:
                    self.stopped(error, made)
                    continue
                self.shown_by(made, last - start)
                yield from found
                del found
            start = last

    def limit(self, steps: int) -> float:
        """What so many steps may make before they are stopped, where that is still to be seen."""
        return self.room if self.unsure and steps > 1 else math.inf

    def stopped(self, error: TooMuch, made: Made) -> None:
        """A chunk has made too much, if it is ours: one step is to show how many there is room for."""
        if error.made is not made:
            raise error
        self.most = 1

    def shown_by(self, made: Made, steps: int) -> None:
        """So many steps have shown how much they make."""
        if self.unsure:
            self.unsure, self.most = False, max(1, int(self.room * steps / max(made.peak, 1)))

    def __call__(self, function: Callable[..., Tree], part: Tree, *shared: Any) -> Iterator[Tree]:
        """``function(step, *shared)`` for every step of a chunk (the leading dimension of its tensors).

        Yields results with a leading dimension, in order: as many steps as there is room for, or one after another, so count
        them by that dimension. Take what is needed from one before asking for the next, and memory does not grow. What is no
        tensor in a result comes as it is.
        """
        if tracing():
            yield mapped(function, part, shared)
            return
        steps = tensors(part)[0].shape[0]
        yield from self.bounded(steps, lambda a, b: self.chunk(function, _part(part, a, b), *shared))

    def chunk(
        self,
        function: Callable[..., Tree],
        part: Tree,
        *shared: Any,
        folded: Callable[[], Tree | None] | None = None,
        few: bool = False,
        asks: Any = None,
    ) -> Iterator[Tree]:
        """Results with a leading dimension, in order: of all steps of a chunk, or of one after another.

        `folded` is asked where vmap cannot: for all of them in one batch, or None where that is not shown to be exact. Of a
        `few` steps one after another nobody is warned. `asks` tells functions apart that a runner is given.
        """
        single = tensors(part)[0].shape[0] == 1  # vmap over one step costs more than the step
        while not single and self.way_is_seen():
            try:
                result = with_own_mapped(partial(self.ways[0], function, part, shared), self.places)
                alike = self.is_as_alone(asks, function, part, shared, result)
            except Exception as error:
                if not refused(error):
                    raise
                self.refuse(error)
            else:
                if alike:
                    yield result
                    return
                self.give_up(_OTHERS.format("draws" if drawn() else "writes to a view, or scripted,"))
        found = folded() if folded is not None and not single else None
        if found is not None:
            yield found
            return
        if self.cause and not few and getattr(_around, "shares", False):
            raise OneByOne
        for step in slices(part):
            result = function(step, *shared)
            if not few:
                self.warn()
            yield map_tensors(lambda t: t[None], result)

    def first(self, function: Callable[..., Tree], steps: Tree) -> Tree | None:
        """The steps at once, by vmap; None where it cannot, and nothing has run.

        `function` must not draw random numbers: each step has its own where they run one after another.
        """
        while self.way_is_seen():
            try:
                found = with_own_mapped(partial(self.ways[0], function, steps, (), randomness="error"), self.places)
                if not drawn():
                    return found
                self.give_up("it draws random numbers")
            except Exception as error:
                if not refused(error):
                    raise
                self.refuse(error)
        return None

    def way_is_seen(self) -> bool:
        """Whether there is another way whose graph can be seen, where it is asked for below a transform."""
        unseen = self.ways[:1] == [mapped_functional] and transforms_active() and torch.is_grad_enabled()
        return bool(self.ways) and not unseen

    def is_as_alone(self, asks: Any, function: Callable[..., Tree], part: Tree, shared: Sequence[Any], result: Tree) -> bool:
        """Whether steps of several at once are what they are alone. Two are looked at (one may be without what tells) where the
        model draws, or is functionalized: writes to views may come out wrong, and derivatives of scripted code lose a part."""
        functional = self.ways[0] is mapped_functional
        if asks in self.shown or not (functional or (drawn() and not transforms_active())):
            return True
        for i in {tensors(part)[0].shape[0] // 2, 0}:
            both = [[t[i] for t in tensors(result)], tensors(function(next(slices(_part(part, i, i + 1))), *shared))]
            if not (all(map(same, *both)) and (not functional or all(map(same, *further(both, tensors((part, shared))))))):
                return False
        self.shown.add(asks)
        return True

    def refuse(self, error: Exception) -> None:
        """Go on to the next way."""
        # The first is what the model does. Not the error itself: its traceback holds the model's activations.
        self.cause = self.cause or str(error)
        # What reads data by its address (scripted code, on torch 2.0) would crash on that of a functional tensor, which is 0.
        # And nobody counts how often one was written to.
        neither = "Cannot access data pointer" in str(error) or hasattr(error, "written")
        del self.ways[: 2 if neither else 1]

    def give_up(self, cause: str) -> None:
        """Go on to none: the steps run one after another."""
        self.cause, self.ways = cause, []

    def warn(self) -> None:
        """Say, once, that the steps run one after another: a step has, so vmap was to blame."""
        if self.cause is not None:
            cause, self.cause = textwrap.shorten(self.cause, 300, placeholder=" ..."), None
            text = "the steps run one after another, which is slower: torch.func.vmap cannot run this model"
            warn(f"{text}, or what is asked of it ({cause})")


_OTHERS = "what it {} comes out otherwise there"


class Steps(NamedTuple):
    """What is known of steps before they run, for how many run at once where the caller does not say."""

    q: Question
    like: Tree  # what one holds, `times` over
    times: int = 1
    shares: bool = False  # what lies before a site; otherwise they are inputs
    own: bool = True  # passes; otherwise all share one, whatever they do to it

    def parts(self, count: int, chunk_size: ChunkSize) -> list[tuple[int, int]]:
        """So many of them in chunks."""
        root = self.q.bound.root
        return chunks(count, chunk_for(count, chunk_size, self.like, shares=self.shares, times=self.times, root=root))

    def runner(self, chunk_size: ChunkSize, run: Runner | None = None) -> Runner:
        """What runs chunks of them, and may have run something else before."""
        run = Runner() if run is None else run
        return run if given_chunk(chunk_size) is not None else run.within(self.q, self.like, self.shares, self.own)


def slices(part: Tree) -> Iterator[Tree]:
    """The steps of a chunk."""
    for i in range(tensors(part)[0].shape[0]):
        yield map_tensors(lambda t: t[0], _part(part, i, i + 1))


def _part(mapped: Tree, start: int, stop: int) -> Tree:
    return map_tensors(lambda t: t[start:stop], mapped)


def mapped(function: Callable[..., Tree], part: Tree, shared: tuple[Any, ...], randomness: str = "same") -> Tree:
    dims = (0, *(None for _ in shared))
    rest: list[Any] = []

    def tensors_of(step: Tree, *shared: Any) -> list[Tensor]:  # vmap takes nothing else
        leaves, spec = tree_flatten(function(step, *shared))
        rest[:] = [[None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves], spec]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    with contextlib.nullcontext() if tracing() else quiet:
        # "same": all steps see one dropout mask, so that the score is one function along a path.
        found = iter(torch.func.vmap(tensors_of, in_dims=dims, randomness=randomness)(part, *shared))
    return tree_unflatten([next(found) if other is None else other[0] for other in rest[0]], rest[1])


def mapped_functional(function: Callable[..., Tree], part: Tree, shared: tuple[Any, ...], randomness: str = "same") -> Tree:
    """For models that write a mapped tensor into a shared one in place: `out += shortcut`."""

    def guarded(*args: Any) -> Tree:
        with InTorch():
            return function(*args)

    try:
        return mapped(torch.func.functionalize(guarded), part, shared, randomness)
    finally:
        torch.clear_autocast_cache()  # of weights that were cast in there, whose data is gone


class InTorch(TorchFunctionMode):
    """Refuses to hand data to numpy: a functional tensor has none, and what numpy is given there is whatever lies in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEAVES:
            raise complaint(RuntimeError, "the model takes its data out of torch")
        return func(*args, **(kwargs or {}))


_LEAVES = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr}


def refused(error: Exception) -> bool:
    """Whether vmap or torch.func may be why there is an `error`, and not the model. A step on its own will tell."""
    if must_rise(error):
        return False
    if isinstance(error, ValueError):  # our own words for it
        return "torch.func" in getattr(error, "complaint", "")
    return not raised_by_model(error)
