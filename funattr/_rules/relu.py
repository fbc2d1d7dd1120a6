"""How the backward pass flows: rules for single operations, as function modes around a forward pass.

A mode sees ``nn.ReLU``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` alike, wherever the model calls them, needs no
hooks, works under vmap, and compiles into the one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.plain import unruled
from .._torch import (
    as_recorded,
    autograd_function,
    current_grad_level,
    edge_of,
    is_view,
    kept_whole,
    nodes_before,
    times_written,
    tracing,
    transforms_active,
)
from .._words import complaint
from .rectifiers import COPY, KINDS, SPELLED
from .spelled import EXPORTED, SWITCHED, Entry, exported, placed, told


@autograd_function
class _Rectify(torch.autograd.Function):
    """ReLU with a rule for its backward pass, for gradients of one level only.

    Differentiated once more (``create_graph=True``), the values that the rule's gradient was made of vary as ReLU says,
    not as the rule says: so the rule holds at the grad level of the attribution, and outer levels see a plain ReLU.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, guided: bool, level: int, in_place: bool) -> Tensor:
        return torch.relu_(x) if in_place else torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.guided, level, in_place = inputs
        ctx.ruled = current_grad_level() == level
        ctx.set_materialize_grads(False)  # what hands on no gradient (quantised operations) is not to pass for one of zeros
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None, None
        if ctx.ruled:
            gradient = torch.relu(gradient)
            if not ctx.guided:
                return gradient, None, None, None
        return torch.ops.aten.threshold_backward(gradient, y, 0), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *constant: None) -> Any:
        return torch.ops.aten.threshold_backward(tangent, *ctx.saved_tensors, 0)


def _rectified(x: Tensor, guided: bool, in_place: bool) -> Tensor:
    if in_place and (tracing() or transforms_active() or is_view(x)):  # there, writing to an input is refused
        return x.copy_(_rectified(x, guided, False))
    return _Rectify.apply(x, guided, current_grad_level(), in_place)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types for apply


def guided_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients at positive outputs: ``relu(g) * (y > 0)``."""
    return _rectified(x, True, in_place)


def deconv_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients, wherever they go: ``relu(g)``."""
    return _rectified(x, False, in_place)


class ReluRule(TorchFunctionMode):
    """Gives every ReLU of a forward pass another backward; notes in `fired` that it met one.

    `fired` is the caller's list: an attribute of the mode could not be read after it exits in a compiled function.
    """

    def __init__(self, rule: Callable[[Tensor, bool], Tensor], fired: list[bool], unmet: list[str]):
        super().__init__()
        self.rule = rule
        self.fired = fired
        self.unmet = unmet  # likewise: what the graph shows, and no mode was told of
        # Masks, of what they say where it is positive, or where not, and whether that is sure.
        self.signs: list[tuple[Tensor, Tensor, bool, int, Any]] = []
        self.copies: list[tuple[Tensor, Tensor, int, int]] = []  # of what, and how often each was written to
        self.copied: Tensor | None = None  # what the operation copies that was seen last

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = self.seen(func, args, kwargs or {})
        copied, self.copied = self.copied, None
        return self.made(unruled(func, args, kwargs or {}), copied) if found is None else found[0]

    def seen(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any] | None:
        """What becomes of an operation that is a ReLU; None of one that is none, of which is noted what masks it makes."""
        entry = _entry(func)
        if entry is None:
            if tracing() and isinstance(func, FunctionType) and kept_whole(func):
                self.unmet.append(told(func))
            return None
        placed_args, rest = placed(entry.order, args, kwargs) if kwargs else (args, kwargs)
        found = entry.rule(self, *placed_args, **rest)
        if found is None:
            return None
        if isinstance(found, list):  # of what the result says, as a mask
            y = unruled(func, args, kwargs)
            self.signs += [(y, *said) for said in found]
            return (y,)
        if found is COPY:
            self.copied = placed_args[0]
            return None
        x, sure = found
        self.fired.append(True)
        if sure is not True:
            if func is Tensor.__setitem__:
                return None
            return (torch.where(sure, self.rule(x, False), unruled(func, args, kwargs)),)
        return (self._ruled(x, args[0] if args else x, in_place(func, entry, args, kwargs)),)

    def made(self, y: Any, x: Tensor | None) -> Any:
        """What an operation made, noted where it is a copy."""
        if x is not None:
            self.copies.append((y, x, times_written(y), times_written(x)))
        return y

    def look(self, scores: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        """Notes ReLUs between these that left torch's own backward pass: what this mode meets leaves another."""
        ends = {edge_of(as_recorded(t)).node for t in leaves}
        names = {node.name() for node in nodes_before((as_recorded(t).grad_fn for t in scores), ends)}
        self.unmet += [name for name in names if name.startswith("ReluBackward") or "torch::jit" in name]

    def _ruled(self, x: Tensor, target: Tensor, in_place: bool) -> Tensor:
        return target.copy_(self.rule(x, False)) if in_place and target is not x else self.rule(x, in_place)

    def chosen(self, mask: Any, x: Any, positive: bool) -> Any:
        """Whether `mask` says where `x` is positive (or where it is not)."""
        return next(
            (
                sure
                for m, t, sign, version, sure in self.signs
                if mask is m and positive is sign and times_written(t) == version and self._same(x, t)
            ),
            False,
        )

    def _same(self, x: Any, t: Tensor) -> bool:
        """Whether `x` is `t`, or one is what the other has been copied from, without a gradient, say, and still is."""
        return x is t or any(
            ((x is y and t is z) or (x is z and t is y)) and times_written(y) == of_y and times_written(z) == of_z
            for y, z, of_y, of_z in self.copies
        )


def _entry(func: Any) -> Entry | None:
    if func is torch.rnn_relu or func is torch.rnn_relu_cell:
        text = "nn.RNN(nonlinearity='relu') runs its ReLU inside one fused operation, where a rule cannot reach."
        raise complaint(ValueError, text)
    if func in SPELLED:
        return SPELLED[func]
    return exported(KINDS, func) if not tracing() and isinstance(func, EXPORTED) else None


def in_place(func: Any, entry: Entry, args: Any, kwargs: dict[str, Any]) -> bool:
    at = SWITCHED.get(func, len(args))
    return entry.in_place or func is Tensor.__setitem__ or bool(kwargs.get("inplace", args[at] if len(args) > at else False))
