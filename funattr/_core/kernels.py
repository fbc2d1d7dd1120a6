"""Operations under vmap with the mapped dimension folded into the batch, so that the fused kernels run, and run once."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import below_vmap, is_mapped, is_plain, modes_around, only_vmap_runs, plain_data, tracing, without_modes
from .._words import complaint
from .attention import plain_attention
from .plain import ORDERED, attention_body, in_order, plain_hardsigmoid
from .written import MOVES, WRITES, Own, unmoved


class Folded(TorchFunctionMode):
    """Without it, vmap takes the plain form of attention, which holds every weight, or runs it sample by sample.

    It also lets models write what vmap maps over into what they made themselves in this pass: `out += shortcut`. And it tells
    those that look for a graph, which is recorded below vmap, of the one that each step has by itself. With `plain`, what has
    no second derivative (the fused kernels of attention) runs in plain operations. `made`, a mode, counts what is made while
    asked to.
    """

    def __init__(self, plain: bool = False, made: Any = None) -> None:
        super().__init__()
        self.own, self.plain, self.made = Own(), plain, made

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _SPECIAL and (self.made is None or not self.made.counts):  # most are not
            return self.own.met(func, func(*args, **kwargs), (*args, *kwargs.values()) if kwargs else args)
        if not tracing() and func in MOVES and (moved := unmoved(func, args, kwargs)) is not None:
            return moved
        if func in WRITES:
            self.own.written(*args, *kwargs.values())
        if func in _LOOKS and is_mapped(args[0]) and only_vmap_runs() and not _ours(sys._getframe(1)):
            return _looked(func, args[0])
        if func in ORDERED:
            args, kwargs = in_order(func, args, kwargs)
        return self.own.met(func, self.run(func, args, kwargs), (*args, *kwargs.values()))

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is F.scaled_dot_product_attention and only_vmap_runs():
            return (plain_attention if self.plain else _folded)(*args, **kwargs)
        if func is F.hardsigmoid and self.plain:
            return plain_hardsigmoid(*args, **kwargs)
        if func is F.batch_norm and only_vmap_runs():
            return _folded_norm(*args, **kwargs)
        if func in (torch.select_scatter, Tensor.select_scatter) and only_vmap_runs():
            return _scattered(*args, **kwargs)
        if func in (torch.index_fill, Tensor.index_fill) and only_vmap_runs():
            return _with_filled(func, *args, **kwargs)
        if func is F.multi_head_attention_forward and only_vmap_runs():
            with self:  # a mode is off while it handles a call, and the attention is inside this one
                return attention_body(*args, **kwargs)
        if self.made is None or not self.made.counts:
            folds = func is F.linear and only_vmap_runs() and not modes_around()  # which below vmap would not see it
            return _folded_linear(*args, **kwargs) if folds else func(*args, **kwargs)
        with self.made:
            return func(*args, **kwargs)


#: What a model can ask of the graph of a tensor: without hooks, and with.
_TENSOR: Any = Tensor  # whose properties are to stubs what they give
_ASKS = {_TENSOR.requires_grad.__get__, _TENSOR.is_leaf.__get__}
_LOOKS = {*_ASKS, _TENSOR.grad_fn.__get__, Tensor.register_hook}
#: What is not called as it is.
_SPECIAL = {
    *(*MOVES, *WRITES, *_LOOKS, *ORDERED, F.scaled_dot_product_attention, F.hardsigmoid, F.batch_norm, F.linear),
    *(F.multi_head_attention_forward, torch.select_scatter, Tensor.select_scatter, torch.index_fill, Tensor.index_fill),
}


def _ours(frame: FrameType) -> bool:
    """Whether a rule asks, and not the model."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]


def _looked(func: Any, value: Tensor) -> Any:
    """What is to be known of the graph of a tensor that vmap maps over, below it; a hook would be given all steps at once."""
    if func in _ASKS:
        return func(plain_data(value))
    raise complaint(RuntimeError, "the model looks at the graph of a tensor, or has a hook on its gradient, which vmap hides")


def _folded(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: Any = 0.0, is_causal: Any = False, **named: Any
) -> Any:
    options = {"dropout_p": dropout_p, "is_causal": is_causal, **named}
    if not any(map(is_mapped, (query, key, value, attn_mask))):
        with without_modes():  # modes outside would take it apart
            return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    given = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
    maps = [is_mapped(t) for t in given]

    return below_vmap(lambda *parts: [_attention_of(maps, options, *parts)], *given)[0]


def _attention_of(maps: list[bool], options: dict[str, Any], *parts: Tensor) -> Tensor:
    """Attention of query, key, value and mask, of which those that `maps` tells have the mapped dimension in front."""
    size = next(t.shape[0] for t, mapped in zip(parts, maps) if mapped)
    whole = [t if mapped else t.expand(size, *t.shape) for t, mapped in zip(parts, maps)]
    query, key, value = whole[:3]
    mask, batch = parts[3] if len(parts) > 3 else None, query.shape[1]
    folds = query.dim() == 5  # the kernels want [batch, heads, length, features]
    if mask is not None and (maps[3] or mask.dim() >= query.dim() - 1):
        mask = whole[3]
        while mask.dim() < query.dim():
            mask = mask.unsqueeze(1)
        if folds:
            mask = mask.expand(size, batch, *mask.shape[2:]).flatten(0, 1)
    if folds:
        query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    with without_modes():
        found = F.scaled_dot_product_attention(query, key, value, mask, **options)
    return found.reshape(size, batch, *found.shape[1:]) if folds else found


def _folded_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear layer. Vmap's own rule adds the bias by itself, after it has multiplied it by one."""
    if not (is_mapped(input) and is_plain(weight) and (bias is None or is_plain(bias))) or is_mapped(weight) or is_mapped(bias):
        return F.linear(input, weight, bias)

    return below_vmap(lambda whole: [F.linear(whole, weight, bias)], input)[0]


def _scattered(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """`torch.select_scatter`, whose gradient is that of other places where vmap maps over it (torch 2.0 to 2.14)."""
    at = index % input.shape[dim]
    return torch.slice_scatter(input, src.unsqueeze(dim), dim, at, at + 1)


def _with_filled(func: Any, input: Tensor, dim: Any, index: Tensor, value: Any) -> Tensor:
    """`torch.index_fill`; with a value that vmap maps over torch (2.0 to 2.14) gives it to other places."""
    if not isinstance(value, Tensor) or not is_mapped(value):
        found: Tensor = func(input, dim, index, value)
        return found
    there = torch.zeros(input.shape[dim], dtype=torch.bool, device=input.device).index_fill(0, index, True)
    return torch.where(there.reshape(-1, *[1] * (input.dim() - 1 - dim % input.dim())), value, input)


def _folded_norm(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Batch norm in eval mode. Vmap's own rule moves the mapped dimension into the channels, and copies."""
    others = [*args, *kwargs.values()]
    training = kwargs.get("training", len(args) > 4 and args[4])
    if training or not is_mapped(input) or any(is_mapped(t) for t in others if isinstance(t, Tensor)):
        return F.batch_norm(input, *args, **kwargs)

    def folded(input: Tensor) -> list[Tensor]:
        with without_modes():
            found = F.batch_norm(input.flatten(0, 1), *args, **kwargs)
        return [found.reshape(input.shape)]

    return below_vmap(folded, input)[0]
