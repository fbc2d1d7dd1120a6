"""How the backward pass flows: rules for single operations, as function modes around a forward pass.

A mode sees ``nn.ReLU``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` alike, wherever the model calls them, needs no
hooks, works under vmap, and compiles into the one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.kernels import unruled
from .._torch import autograd_function, current_grad_level, is_view, tracing, transforms_active
from .._words import complaint

#: Every spelling of ReLU, and whether it works in place.
RELU = {
    F.relu: False,
    torch.relu: False,
    Tensor.relu: False,
    torch.relu_: True,
    Tensor.relu_: True,
}
#: Spellings of ReLU only when the bound is zero and there is no upper one.
CLAMP = {
    torch.clamp: False,
    Tensor.clamp: False,
    torch.clamp_min: False,
    Tensor.clamp_min: False,
    torch.clip: False,
    Tensor.clip: False,
    torch.clamp_: True,
    Tensor.clamp_: True,
    torch.clamp_min_: True,
    Tensor.clamp_min_: True,
}


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
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if ctx.ruled:
            gradient = torch.relu(gradient)
            if not ctx.guided:
                return gradient, None, None, None
        return torch.ops.aten.threshold_backward(gradient, y, 0), None, None, None


def guided_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients at positive outputs: ``relu(g) * (y > 0)``."""
    return _Rectify.apply(x, True, current_grad_level(), in_place)  # type: ignore[no-any-return, no-untyped-call]


def deconv_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients, wherever they go: ``relu(g)``."""
    return _Rectify.apply(x, False, current_grad_level(), in_place)  # type: ignore[no-any-return, no-untyped-call]


class ReluRule(TorchFunctionMode):
    """Gives every ReLU of a forward pass another backward; notes in `fired` that it met one.

    `fired` is the caller's list: an attribute of the mode could not be read after it exits in a compiled function.
    """

    def __init__(self, rule: Callable[[Tensor, bool], Tensor], fired: list[bool]):
        super().__init__()
        self.rule = rule
        self.fired = fired

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rnn_relu or func is torch.rnn_relu_cell:
            text = "nn.RNN(nonlinearity='relu') runs its ReLU inside one fused operation, where a rule cannot reach."
            raise complaint(ValueError, text)
        if func in RELU:
            in_place = RELU[func] or kwargs.get("inplace", args[1] if len(args) > 1 else False)
        elif func in CLAMP and _is_relu(*args[1:], **kwargs):
            in_place = CLAMP[func]
        else:
            return unruled(func, args, kwargs)
        x = args[0] if args else kwargs["input"]
        self.fired.append(True)
        if not in_place:
            return self.rule(x, False)
        if tracing() or transforms_active() or is_view(x):  # there, a function that writes to its input is refused
            return x.copy_(self.rule(x, False))
        return self.rule(x, True)


def _is_relu(min: Any = None, max: Any = None, **other: Any) -> bool:
    return max is None and isinstance(min, (int, float)) and min == 0 and not set(other) - {"input"}


def guided(fired: list[bool]) -> ReluRule:
    """Guided backpropagation (Springenberg et al. 2014)."""
    return ReluRule(guided_relu, fired)


def deconv(fired: list[bool]) -> ReluRule:
    """The deconvolutional network (Zeiler & Fergus 2014)."""
    return ReluRule(deconv_relu, fired)
