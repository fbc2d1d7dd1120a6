"""Lengths of vectors and matrices, and what is made of them, taken apart into operations that have rules of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._types import in_single, map_tensors


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, ord: Any = None) -> Tensor:
    """`torch.norm` and `vector_norm`: of all numbers along `dim`, as one vector."""
    p = p if ord is None else ord
    if p == "nuc":
        return matrix_norm(x, p, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    x = x if dtype is None else x.to(dtype)
    dims = list(range(x.dim())) if dim is None else dim
    if p in (None, "fro", 2):
        return (x * x).sum(dims, keepdim=keepdim).sqrt()
    if p == math.inf:
        return x.abs().amax(dims, keepdim=keepdim)
    if p == -math.inf:
        return x.abs().amin(dims, keepdim=keepdim)
    if p == 0:  # how many there are
        return x.sign().abs().sum(dims, keepdim=keepdim)
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    return torch.pow(torch.pow(x.abs(), p).sum(dims, keepdim=keepdim), 1 / p)


def linalg_norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`torch.linalg.norm`: with an order, along two dimensions, of a matrix."""
    dims = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    of_matrix = ord is not None and len(dims) == 2
    return (matrix_norm if of_matrix else norm)(x, ord, dims if of_matrix else dim, keepdim, dtype=dtype)


def matrix_norm(x: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The largest or least sum of a column (1) or a row (inf), or one by singular values, for which there is no rule."""
    if ord == "fro":
        return norm(x, 2, list(dim), keepdim, dtype=dtype)
    x = x if dtype is None else x.to(dtype)
    if ord in ("nuc", 2, -2):
        values = torch.linalg.svdvals(x.movedim(tuple(dim), (-2, -1)))
        y = values.sum(-1) if ord == "nuc" else values.amax(-1) if ord == 2 else values.amin(-1)
        y = y.unsqueeze(-1).unsqueeze(-1).movedim((-2, -1), tuple(dim))
    else:
        along, across = dim if abs(ord) == 1 else dim[::-1]
        sums = x.abs().sum(along, keepdim=True)
        y = sums.amax(across, keepdim=True) if ord > 0 else sums.amin(across, keepdim=True)
    found: Tensor = y if keepdim else y.movedim(tuple(dim), (-2, -1)).squeeze(-1).squeeze(-1)
    return found


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    lengths = [(t * t).sum(dim).sqrt().clamp_min(eps) for t in (x, y)]
    return (x * y).sum(dim) / (lengths[0] * lengths[1])


def pairwise_distance(x: Tensor, y: Tensor, p: Any = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    return norm(x - y + eps, p, -1, keepdim)


def distances(x: Tensor, y: Tensor, p: Any = 2.0, compute_mode: str | None = None) -> Tensor:
    return norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def single(body: Callable[..., Any]) -> Callable[..., Any]:
    """Of half precision in float32, as torch runs it: squares and products of a few hundred are too large for float16."""

    def run(x: Tensor, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
        kind = x.dtype if dtype is None else dtype
        args, kwargs = map_tensors(in_single, ((x, *args), kwargs))
        return map_tensors(lambda t: t.to(kind), body(*args, **kwargs))

    return run


LENGTHS: dict[str, Callable[..., Any]] = {
    **{body.__name__: single(body) for body in (norm, linalg_norm, cosine_similarity, pairwise_distance)},
    **dict.fromkeys(("vector_norm", "linalg_vector_norm"), single(norm)),
    **dict.fromkeys(("matrix_norm", "linalg_matrix_norm"), single(matrix_norm)),
    "cdist": single(distances),
}
