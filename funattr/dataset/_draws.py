"""Random numbers by (seed, id): what an example meets depends on no batch, order, worker or restart.

The definition: a method that draws explains each example alone, with torch's global generator, and every generator that is
bound in the method, seeded by the run's seed and the example's id. That a method draws is seen: a generator has moved.

Alone is slow, so a batch is tried with a stream for each row: where the method asks for numbers whose shape has the batch in
it, each row is drawn from its own generator. Whether that is the same is not assumed: batches are compared with the
definition, and where they differ (numbers shared by the rows, generators that are wound back) examples go on alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._ids import Id, seed_of, state_of
from ._trees import flatten, mapped, unflatten

#: ``call(x, target)``: the method on a batch.
Call = Callable[[Any, Any], Any]

_DRAWS = {torch.randn: torch.randn, torch.rand: torch.rand, torch.randint: torch.randint}
_LIKE = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}


MIXED = (
    "what the method finds of an example depends on the others in its batch (the model, or the method, takes a mean or a "
    "largest value over all of them): examples are explained one at a time, which is slower."
)
LATE = (
    " Batches before this one showed nothing of it, and examples in them may be off: explain them again into another folder, "
    "with batch_size=1."
)


class Looks:
    """Which batches are looked at: the first, the fourth, the sixteenth and so on, and the first of another size, for one may
    be without what tells."""

    def __init__(self) -> None:
        self.count = 0
        self.sizes: set[int] = set()

    def due(self, size: int) -> bool:
        self.count, new = self.count + 1, size not in self.sizes
        self.sizes.add(size)
        return new or self.count in (4**i for i in range(1, 20))


class Seeded:
    """A method whose draws are those of each example alone. `leading`: dimensions of its results before the batch."""

    def __init__(self, call: Call, seed: int, generators: Sequence[torch.Generator], leading: int = 0) -> None:
        self.call, self.seed, self.generators, self.leading = call, seed, list(generators), leading
        self.random = False
        self.last: list[bytes] | None = None  # the generators' state after a batch
        self.others = False  # whether somebody else draws, such as a transform
        self.shapes: list[torch.Size] | None = None  # of the draws for one example; None: rows have no streams
        self.looks: Looks | None = Looks()  # None: each example alone

    def __call__(self, ids: Sequence[Id], x: Any, target: Any) -> Any:
        if not self.random:
            found, drew = self._watched(x, target)
            if not drew:
                return found
            self.random = True
        if len(ids) > 1 and self.looks is not None and self.looks.due(len(ids)):
            return self._compared(ids, x, target, self.looks)
        if len(ids) > 1 and self.shapes is not None:
            found, fits = self._by_rows(ids, x, target)
            if fits:
                return found
        return self._each(ids, x, target)

    def one_by_one(self) -> None:
        """From now on each example is explained alone, as if the method drew numbers that rows share."""
        self.random, self.looks, self.shapes = True, None, None

    def _watched(self, x: Any, target: Any) -> tuple[Any, bool]:
        """The batch, and whether the method drew. It starts where the last batch ended, unless somebody else draws."""
        before = self._state() if self.others or self.last is None else self.last
        found, after = self.call(x, target), self._state()
        if after != before and self.last is not None and not self.others:
            self.others, before = True, after
            found, after = self.call(x, target), self._state()
        self.last = after
        return found, after != before

    def _state(self) -> list[bytes]:
        states = [state_of(torch.default_generator), *map(state_of, self.generators)]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states.append(torch.cuda.get_rng_state().numpy().tobytes())
        return states

    def _alone(self, identity: Id, x: Any, target: Any, row: int) -> Any:
        torch.manual_seed(seed_of(self.seed, identity))
        for stream, generator in enumerate(self.generators, 1):
            generator.manual_seed(seed_of(self.seed, identity, stream))
        return self.call(mapped(lambda t: t[row : row + 1], x), target_of(target, row))

    def _each(self, ids: Sequence[Id], x: Any, target: Any) -> Any:
        parts = [flatten(self._alone(identity, x, target, row)) for row, identity in enumerate(ids)]
        return self._joined([leaves for leaves, _ in parts], parts[0][1])

    def _joined(self, parts: list[dict[str, Tensor]], spec: Any) -> Any:
        return unflatten({name: torch.cat([part[name] for part in parts], self.leading) for name in parts[0]}, spec)

    def _by_rows(self, ids: Sequence[Id], x: Any, target: Any) -> tuple[Any, bool]:
        with _Rows(self, ids) as rows:
            found = self.call(x, target)
        return found, rows.fits and rows.drawn == len(self.shapes or ())

    def _compared(self, ids: Sequence[Id], x: Any, target: Any, looks: Looks) -> Any:
        """A batch, by rows if that is the same as each alone."""
        with _Shapes() as shapes:
            first = self._alone(ids[0], x, target, 0)
        self.shapes = shapes.seen
        found, fits = self._by_rows(ids, x, target)
        last = self._alone(ids[-1], x, target, len(ids) - 1)
        if fits and self._equal(found, first, 0) and self._equal(found, last, len(ids) - 1):
            return found
        if looks.count > 1:
            warnings.warn(MIXED + LATE, stacklevel=1)
        self.one_by_one()
        return self._each(ids, x, target)

    def _equal(self, found: Any, alone: Any, row: int) -> bool:
        for both, one in zip(flatten(found)[0].values(), flatten(alone)[0].values()):
            own, one = both.narrow(self.leading, row, 1).double(), one.double()
            if own.shape != one.shape or not torch.allclose(own, one, rtol=1e-3, atol=1e-4 * float(one.abs().amax())):
                return False
        return True


def target_of(target: Any, row: int) -> Any:
    """A row's part of the targets of a batch: a list has one for each example."""
    return target[row : row + 1] if isinstance(target, list) else target


class _Shapes(TorchFunctionMode):
    """Writes down the shapes that are drawn."""

    def __init__(self) -> None:
        self.seen: list[torch.Size] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in _DRAWS or function in _LIKE:
            self.seen.append(found.shape)
        return found


class _Rows(TorchFunctionMode):
    """Draws each row from the stream of its example, where the shape for one example says which dimension is the batch."""

    def __init__(self, seeded: Seeded, ids: Sequence[Id]) -> None:
        self.seeded, self.ids, self.drawn, self.fits = seeded, ids, 0, True
        self.streams: dict[tuple[int, torch.device], list[torch.Generator]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function not in _DRAWS and function not in _LIKE:
            return function(*args, **kwargs)
        if function in _LIKE:
            like, (function, args) = args[0], (_LIKE[function], (args[0].shape,))
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
        args, size = _without_size(function, args, kwargs)
        alone = self.seeded.shapes or []
        known = alone[self.drawn] if self.drawn < len(alone) else torch.Size()
        self.drawn += 1
        place = [d for d, (a, b) in enumerate(zip(known, size)) if a != b]
        given = kwargs.pop("generator", None)
        stream = 0 if given is None else 1 + next((i for i, g in enumerate(self.seeded.generators) if g is given), -2)
        if len(known) != len(size) or len(place) != 1 or known[place[0]] != 1 or size[place[0]] != len(self.ids) or stream < 0:
            self.fits = False
            return function(*args, tuple(size), **kwargs)  # to be thrown away
        device = torch.device(kwargs.get("device") or "cpu")
        parts = [function(*args, tuple(known), generator=g, **kwargs) for g in self._streams(stream, device)]
        return torch.cat(parts, place[0])

    def _streams(self, stream: int, device: torch.device) -> list[torch.Generator]:
        if (stream, device) not in self.streams:
            seeds = [seed_of(self.seeded.seed, identity, stream) for identity in self.ids]
            self.streams[stream, device] = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        return self.streams[stream, device]


def _without_size(function: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Sequence[int]]:
    """The arguments of a draw without its shape, and the shape, which has several spellings."""
    if "size" in kwargs:
        return args, kwargs.pop("size")
    if args and isinstance(args[-1], (tuple, list)):
        return args[:-1], args[-1]
    return ((), args) if function is not torch.randint else (args, ())
