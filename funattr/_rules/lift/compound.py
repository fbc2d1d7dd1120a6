"""Operations that DeepLIFT takes apart: run again in plain operations, each of which has a rule of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core.kernels import plain_attention
from .secants import Rule
from .tape import Lift


def taken_apart(body: Callable[..., Any]) -> Rule:
    """A rule that runs `body` in the operation's place, with the `Lift` watching."""

    def rule(lift: Lift, func: Any, *args: Any, **kwargs: Any) -> Any:
        with lift:
            return body(*args, **kwargs)

    return rule


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, ord: Any = None) -> Tensor:
    p = p if ord is None else ord
    x = x if dtype is None else x.to(dtype)
    dims = list(range(x.dim())) if dim is None else dim
    if p in (None, "fro", 2, 2.0):
        return (x * x).sum(dims, keepdim=keepdim).sqrt()
    if p == math.inf:
        return x.abs().amax(dims, keepdim=keepdim)
    if p == -math.inf:
        return x.abs().amin(dims, keepdim=keepdim)
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    return torch.pow(torch.pow(x.abs(), p).sum(dims, keepdim=keepdim), 1 / p)


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    lengths = [(t * t).sum(dim).sqrt().clamp_min(eps) for t in (x, y)]
    return (x * y).sum(dim) / (lengths[0] * lengths[1])


def pairwise_distance(x: Tensor, y: Tensor, p: Any = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    return norm(x - y + eps, p, -1, keepdim)


def distances(x: Tensor, y: Tensor, p: Any = 2.0, compute_mode: str | None = None) -> Tensor:
    return norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def variance(x: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Tensor:
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    dims = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    taken = correction if correction is not None else 1 if unbiased in (None, True) else 0
    count = math.prod([x.shape[d] for d in dims])
    c = x - x.mean(dims, keepdim=True)
    return (c * c).sum(dims, keepdim=keepdim) / max(count - taken, 0)


def deviation(*args: Any, **kwargs: Any) -> Tensor:
    return variance(*args, **kwargs).sqrt()


def variance_mean(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return variance(x, dim, *args, **kwargs), _mean_beside(x, dim, *args, **kwargs)


def deviation_mean(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return variance(x, dim, *args, **kwargs).sqrt(), _mean_beside(x, dim, *args, **kwargs)


def _mean_beside(x: Tensor, dim: Any, unbiased: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    dims = list(range(x.dim())) if dim is None or isinstance(dim, bool) else dim
    return x.mean(dims, keepdim=keepdim)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    return a * b.sigmoid()


def added(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """addmm and the like: a bias, and a product of two."""

    def body(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        return beta * bias + alpha * product(x, y)

    return body


addmm = added(torch.matmul)


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (a * b)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (a / b)


def lerp(x: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return x + (end - x) * weight


def mse_loss(x: Tensor, y: Tensor, *codes: Any, reduction: Any = "mean", weight: Any = None, **old: Any) -> Tensor:
    reduction = codes[0] if codes and isinstance(codes[0], int) and not isinstance(codes[0], bool) else reduction
    d = (x - y) * (x - y)
    return reduced(d if weight is None else d * weight, reduction)


def reduced(loss: Tensor, reduction: Any) -> Tensor:
    """By torch's names for it, or its numbers."""
    return loss.mean() if reduction in ("mean", 1) else loss.sum() if reduction in ("sum", 2) else loss


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
    dim = 1 if x.dim() > 1 else 0
    logs = torch.log_softmax(x, dim)
    if not y.is_floating_point():
        loss = F.nll_loss(logs, y, weight, ignore_index=ignore_index, reduction=reduction)
        if not label_smoothing:
            return loss
        y = F.one_hot(y, x.shape[dim]).movedim(-1, dim).to(x)
    smooth = y * (1 - label_smoothing) + label_smoothing / x.shape[dim]
    smooth = smooth if weight is None else smooth * weight.reshape(-1, *[1] * (x.dim() - 2))
    each = -(logs * smooth).sum(dim)
    return each.sum() / max(each.numel(), 1) if reduction == "mean" else reduced(each, reduction)


def binary_cross_entropy_with_logits(
    x: Tensor, y: Tensor, weight: Any = None, pos_weight: Any = None, reduction: Any = 1
) -> Tensor:
    positive = 1 if pos_weight is None else pos_weight
    loss: Tensor = (1 - y) * x + (1 + (positive - 1) * y) * F.softplus(-x)
    loss = loss if weight is None else loss * weight
    return reduced(loss, reduction)


def float_power(x: Any, y: Any) -> Tensor:
    return torch.pow(x.double() if isinstance(x, Tensor) else x, y.double() if isinstance(y, Tensor) else y)


def products(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """prod, by halves: a tree of products of two."""
    x = x if dtype is None else x.to(dtype)
    x = x.flatten() if dim is None else x.movedim(dim, -1)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        y = x[..., :half] * x[..., half : 2 * half]
        x = torch.cat([y, x[..., 2 * half :]], -1) if x.shape[-1] % 2 else y
    y = x[..., 0] if x.shape[-1] else torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device)
    return y.unsqueeze(dim) if keepdim and dim is not None else y


#: Those that are called here as torch calls them.
_OWN: tuple[Callable[..., Any], ...] = (
    *(norm, cosine_similarity, pairwise_distance, glu, addcmul, addcdiv, lerp),
    *(mse_loss, cross_entropy, binary_cross_entropy_with_logits, float_power),
)
COMPOUND: dict[str, Callable[..., Any]] = {
    **{body.__name__: body for body in _OWN},
    **dict.fromkeys(("linalg_norm", "vector_norm", "linalg_vector_norm"), norm),
    "cdist": distances,
    "var": variance,
    "std": deviation,
    "var_mean": variance_mean,
    "std_mean": deviation_mean,
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    "addbmm": added(lambda x, y: torch.matmul(x, y).sum(0)),
    "addr": added(lambda x, y: x.unsqueeze(1) * y),
    "prod": products,
    "scaled_dot_product_attention": plain_attention,
}
