"""Attention in plain operations, as the fused kernels run it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._types import HALVES, as_it_is, in_single


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
    if is_single(query):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    (query, key, value), off, kind = in_float32(query, key, value)
    with off:
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa).to(kind)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, dropout_p: float, is_causal: bool, scale: Any, enable_gqa: bool
) -> Tensor:
    if enable_gqa:
        key, value = (t.repeat_interleave(query.size(-3) // t.size(-3), -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = scores.softmax(-1)
    else:
        plain = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if plain else scores + attn_mask
        nothing = (scores == -math.inf).all(-1, keepdim=True)  # a query that may look nowhere gets zeros, not NaN
        weights = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value


def is_single(query: Tensor) -> bool:
    """Whether attention with this query runs in no less than single precision as it is: as most does."""
    return query.dtype not in HALVES and not casts_on(query.device.type)[0]


def in_float32(*given: Tensor) -> tuple[list[Tensor], Any, torch.dtype]:
    """What the fused kernels sum: half precision, and what autocast makes such, in float32; a context in which it stays that;
    and the dtype of their result. Scores may be too large for float16, and too near each other for bfloat16."""
    device = given[0].device.type
    on, kind = casts_on(device)
    cast = [t.to(kind) if on and t.dtype != torch.float64 else t for t in given]
    off = torch.autocast(device, enabled=False) if on else as_it_is
    return [in_single(t) for t in cast], off, cast[0].dtype


def casts_on(device: str) -> tuple[bool, torch.dtype]:
    """Whether autocast is on, which a model may turn on inside, and what it casts to."""
    if device == "meta":  # of which torch knows no autocast
        return False, torch.float32
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    if device == "cpu":  # before torch 2.4
        return torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
