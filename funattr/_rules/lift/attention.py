"""DeepLIFT's rule for attention: its two products and its softmax as one map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._core.attention import in_float32, is_single, plain_attention
from ..._core.checks import may_read
from ..._torch import is_plain, only_vmap_runs, tracing, transforms_active
from . import slopes
from .rows import falls
from .tape import Lift, Met, far_off


def attention(
    lift: Lift,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``softmax(q k^T scale + mask) v`` by the rules for its parts. With a mask that is added, dropout or shared heads, and
    where not all three vary, it is taken apart."""
    if is_single(query):
        return _attention(lift, func, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    with lift:
        (q, k, v), off, kind = in_float32(query, key, value)
    with off:
        found = _attention(lift, func, q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    with lift:
        return found.to(kind)


def _attention(
    lift: Lift,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any,
    dropout_p: float,
    is_causal: bool,
    scale: Any,
    enable_gqa: bool,
) -> Any:
    given = query, key, value
    options: dict[str, Any] = {} if scale is None else {"scale": scale}  # since torch 2.1
    adds = attn_mask is not None and attn_mask.dtype != torch.bool
    if adds or dropout_p or enable_gqa or not all(map(lift.varies, given)):
        with lift:
            return plain_attention(*given, attn_mask, dropout_p, is_causal, enable_gqa=enable_gqa, **options)
    met = lift.meet(*given) if attn_mask is None else lift.meet(*given, attn_mask)
    if met is None:
        plain = torch.is_grad_enabled() or tracing() or (transforms_active() and not only_vmap_runs())
        return (plain_attention if plain else func)(*given, attn_mask, 0.0, is_causal, **options)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril() if is_causal else None
    with lift.constants():
        (q, q0), (k, k0), (v, v0) = ((t.contiguous(), t0) for t, t0 in met[:3])  # once, and not in each product
        mask, mask0, moves = (causal, causal, False) if attn_mask is None else _masks(lift, attn_mask, met[3])
        s, s0 = (q @ k.mT).mul_(scale), (q0 @ k0.mT).mul_(scale)
        p, p0 = _logs(s, mask, moves), _logs(s0, mask0, moves)
        w, w0 = p.exp(), p0.exp()
        mean = torch.maximum(w, w0).mul_(falls(p, p0))
        total = mean.sum(-1, keepdim=True).clamp_min_(torch.finfo(mean.dtype).tiny)
        found = [*(torch.lerp(t, t0, 0.5) for t, t0 in ((q, q0), (k, k0), (v, v0), (w, w0))), mean, total]
        if moves:
            found.append(_bend(s, s0, mask, mask0))
        y = w @ v
    return slopes.attention(*given, tuple(found), scale, y)


def _masks(lift: Lift, mask: Tensor, met: Met) -> tuple[Tensor, Tensor, bool]:
    """The masks of the two passes, and whether they are others."""
    moves = _moves(*met)
    return *(lift.settled(mask, met) if moves else met), moves


def _moves(mask: Tensor, mask0: Tensor) -> bool:
    """Whether scores may count at one end alone."""
    return not (may_read() and is_plain(mask)) or bool((mask != mask0).any())


def _logs(scores: Tensor, mask: Tensor | None, moves: bool) -> Tensor:
    """The logarithms of the weights; -inf for all of a query that may look nowhere."""
    if mask is None:
        return scores.log_softmax(-1)
    nothing = ~mask.any(-1, keepdim=True)
    logs = scores.masked_fill(~mask & ~nothing, -far_off(scores) if moves else -math.inf).log_softmax(-1)
    return logs.masked_fill(nothing, -math.inf)


def _bend(s: Tensor, s0: Tensor, mask: Any, mask0: Any) -> Tensor:
    """The slope of the scores that count in the scores, as `where` has it: those that do so at one end alone are far off at
    the other."""
    z, z0 = s.masked_fill(~mask, -far_off(s)), s0.masked_fill(~mask0, -far_off(s))
    still = s == s0
    step = ((z - z0) / (s - s0).masked_fill(still, 1.0)).masked_fill(still, 0.0)
    return torch.where(mask == mask0, mask.to(s.dtype), step)
