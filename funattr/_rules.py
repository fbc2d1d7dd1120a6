"""How the backward pass flows: rules for single operations, as function modes around a forward pass.

A mode sees ``nn.ReLU``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` alike, wherever the model calls them, needs no
hooks, works under vmap, and compiles into the one graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._door import complaint
from ._torch import autograd_function, current_grad_level, tracing, transforms_active

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


def unruled(func: Any, args: Any, kwargs: Any) -> Any:
    """What a mode does with an operation that it leaves alone."""
    if func is Tensor.unflatten:  # written in Python with super(), which does not trace inside a mode
        func = torch.unflatten
    return func(*args, **kwargs)


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
        if tracing() or transforms_active() or x._is_view():  # there, a function that writes to its input is refused
            return x.copy_(self.rule(x, False))
        return self.rule(x, True)


def _is_relu(min: Any = None, max: Any = None, **other: Any) -> bool:
    return max is None and isinstance(min, (int, float)) and min == 0 and not set(other) - {"input"}


def guided(fired: list[bool]) -> ReluRule:
    """Guided backpropagation (Springenberg et al. 2014)."""
    if tracing():
        from . import _traced  # noqa: F401
    return ReluRule(guided_relu, fired)


def deconv(fired: list[bool]) -> ReluRule:
    """The deconvolutional network (Zeiler & Fergus 2014)."""
    if tracing():
        from . import _traced  # noqa: F401
    return ReluRule(deconv_relu, fired)


class PlainAttention(TorchFunctionMode):
    """Attention in plain operations: the fused kernels have no second derivative, and not all have a batching rule."""

    def __init__(self, only: str | None = None):
        super().__init__()
        self.only = only

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.only in (None, args[0].device.type if args else None):
            return plain_attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:  # a mode is off while it handles a call, and the attention is inside this one
                return attention_body(*args, **kwargs)
        return unruled(func, args, kwargs)


#: The body of `F.multi_head_attention_forward`, which does not hand itself to the mode again.
attention_body = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
)
attention_body.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(q k^T scale + mask) v``, with the arguments and the result of `F.scaled_dot_product_attention`."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = scores.softmax(-1)
    else:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
        nothing = (scores == -math.inf).all(-1, keepdim=True)  # a query that may look nowhere gets zeros, not NaN
        weights = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value
