"""What a model writes to, of its own, where vmap maps over what is written: then it maps over that, too."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, MethodWrapperType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from .._torch import (
    alone_in_memory,
    base_of,
    below_vmap,
    is_mapped,
    is_view,
    is_wrapped,
    only_vmap_runs,
    plain_data,
    saved_tensors_hooked,
    swap_tensors,
    tracing,
    vmapped_over,
    without_transforms,
)
from .._types import as_it_is

T = TypeVar("T")
#: A place in code: an instruction of it.
Place: TypeAlias = tuple[CodeType, int]

#: Operations that write to their first argument.
WRITES = {
    getattr(Tensor, name)
    for name in dir(Tensor)
    if name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__iand__", "__ior__", "__ixor__")
    or (name.endswith("_") and not name.startswith("_") and hasattr(Tensor, name[:-1]))
} | {Tensor.copy_, Tensor.index_copy_, Tensor.masked_fill_, Tensor.scatter_}


#: What moves or casts a tensor, and returns the tensor itself where that changes nothing.
MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16}


def unmoved(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """What an operation of `MOVES` makes outside of transforms of a tensor that is none of theirs: the tensor itself, or one
    without a graph. A module that the model moves would keep a transform's tensor in the place of a parameter."""
    if not args or is_wrapped(args[0]):
        return None
    with without_transforms():
        found = func(*(plain_data(t) if isinstance(t, Tensor) else t for t in args), **kwargs)
    return found if found is args[0] or not torch.is_grad_enabled() else None


class WrittenTo(RuntimeError):
    """The model writes what is mapped over to what it made in a place of its code, which is not, and has other names."""

    complaint = (
        "torch.func maps over what the model writes to a view of a tensor that it does not map over"  # no error of the model's
    )

    def __init__(self, place: Place):
        super().__init__(self.complaint)
        self.place = place


class _Mapped(threading.local):
    places: frozenset[Place] | None = None  # None: nobody would begin anew


_mapped = _Mapped()


def with_own_mapped(run: Callable[[], T], places: set[Place], before_vmap: Callable[[], bool] = lambda: False) -> T:
    """``run()``, something under vmap: anew where it is `WrittenTo`, and what is made in that place is mapped over then.

    Where a graph of it is asked for, what would run parts of the model again for that (torch.utils.checkpoint) is refused: it
    would do so when vmap is gone. `before_vmap` says that what was refused ran before the vmap began, and may.
    """
    asked = torch.is_grad_enabled() and not tracing()
    before = _mapped.places
    try:
        while True:
            _mapped.places = (before or frozenset()) | places
            try:
                with _hooks_refused(_AGAIN) if asked else as_it_is:
                    return run()
            except WrittenTo as error:
                places.add(error.place)
            except RuntimeError as error:
                if not (asked and _AGAIN in str(error) and before_vmap()):
                    raise
                asked = False
    finally:
        _mapped.places = before


@contextlib.contextmanager
def _hooks_refused(why: str) -> Iterator[None]:
    """Inside, hooks on what is saved for a backward pass are an error; but for those that are on already, the caller's."""
    with contextlib.nullcontext() if saved_tensors_hooked() else torch.autograd.graph.disable_saved_tensors_hooks(why):
        yield


_AGAIN = "the model runs a part of itself again, or hooks on what is saved, for a further derivative"


class Own:
    """What the model made in this pass."""

    def __init__(self) -> None:
        #: By operations, not read off, and where; what else has such a number is younger still.
        self.made: dict[int, Place] = {}

    def met(self, func: Any, found: Any, given: tuple[Any, ...]) -> Any:
        """What an operation `found`, which the model may write to."""
        if type(found) is not Tensor or type(func) is MethodWrapperType or any(found is t for t in given):
            return found
        frame = sys._getframe(2)  # of what called the operation, in front of the mode
        place = frame.f_code, frame.f_lasti
        found = _repeated(found) if place in (_mapped.places or ()) else found
        self.made[id(found)] = place
        return found

    def written(self, target: Any, *others: Any) -> None:
        """Have vmap map over `target`, which the model made for itself, if it maps over what is to be written there.

        It is the same tensor by all its names. Not so what it is a view of, its views, nor what a graph has kept of it: where
        there are any, it is to be mapped over from the first.
        """
        writes = any(is_mapped(t) for other in others for t in _parts(other))
        if not writes or is_mapped(target) or not only_vmap_runs():
            return
        place = self.made.get(id(base_of(target) if is_view(target) else target))
        if place is None:
            return
        repeated = target if swap_tensors is None else _repeated(target)
        if repeated is not target:
            with contextlib.suppress(RuntimeError):  # something of torch's holds it
                swap_tensors(target, repeated)
                return
        if _mapped.places is not None and place not in _mapped.places:
            raise WrittenTo(place)


def _repeated(value: Tensor) -> Tensor:
    """A copy of `value` for each that vmap maps over; itself where something shares its memory."""
    if is_mapped(value) or not (only_vmap_runs() and alone_in_memory(value)):
        return value
    size = vmapped_over()
    return below_vmap(lambda t: [t.expand(size, *t.shape).clone()], value)[0]


def _parts(given: Any) -> list[Tensor]:
    found = given if isinstance(given, (tuple, list)) else [given]
    return [t for t in found if isinstance(t, Tensor)]
