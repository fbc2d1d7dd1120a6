"""Losses of several steps, out of operations that have rules, of the value that torch's have."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._types import by_channel


def mse_loss(
    x: Tensor, y: Tensor, size_average: Any = None, reduce: Any = None, reduction: Any = "mean", weight: Any = None
) -> Tensor:
    if isinstance(size_average, int) and not isinstance(size_average, bool):  # of torch's own, in C, it is the number
        size_average, reduction = None, size_average
    d = x - y
    d = d * d  # of one difference, so that rules see a square
    return reduced(d if weight is None else d * weight, older(size_average, reduce, reduction), weight)


def older(size_average: Any, reduce: Any, reduction: Any) -> Any:
    """What losses take for `reduction` where they are given what was its name before."""
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def reduced(loss: Tensor, reduction: Any, weight: Tensor | None = None) -> Tensor:
    """By torch's names for it, or its numbers; the mean of what was weighed, if so."""
    if reduction in ("mean", 1):
        return loss.mean() if weight is None else loss.sum() / weight.sum()
    return loss.sum() if reduction in ("sum", 2) else loss


def cross_entropy(
    x: Tensor,
    y: Tensor,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    dim, reduction = 1 if x.dim() > 1 else 0, older(size_average, reduce, reduction)
    logs = torch.log_softmax(x, dim)
    weighed = logs if weight is None else logs * by_channel(weight, x.dim() + 1 - dim)
    if y.is_floating_point():
        each = -(weighed * (y * (1 - label_smoothing) + label_smoothing / x.shape[dim])).sum(dim)
        return each.sum() / max(each.numel(), 1) if reduction == "mean" else reduced(each, reduction)
    ignored = y == ignore_index
    each = F.nll_loss(logs, y, weight, ignore_index=ignore_index, reduction="none")
    if label_smoothing:
        each = each * (1 - label_smoothing) - weighed.mean(dim).masked_fill(ignored, 0.0) * label_smoothing
    if reduction != "mean":
        return reduced(each, reduction)
    shares = torch.ones_like(each) if weight is None else weight[y.masked_fill(ignored, 0)]
    return reduced(each, reduction, shares.masked_fill(ignored, 0.0))


def binary_cross_entropy_with_logits(
    x: Tensor, y: Tensor, weight: Any = None, pos_weight: Any = None, reduction: Any = 1
) -> Tensor:
    positive = 1 if pos_weight is None else pos_weight
    loss: Tensor = (1 - y) * x + (1 + (positive - 1) * y) * F.softplus(-x)
    loss = loss if weight is None else loss * weight
    return reduced(loss, reduction)
