"""Norms of vectors and matrices, distances and angles, in plain operations: see compound.py."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, ord: Any = None) -> Tensor:
    p = p if ord is None else ord
    if p == "nuc":
        return _of_matrices(x, p, dim, keepdim, dtype)
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
    if p == 0:  # how many are not 0
        return x.abs().sign().sum(dims, keepdim=keepdim)
    return torch.pow(torch.pow(x.abs(), p).sum(dims, keepdim=keepdim), 1 / p)


def linalg_norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """That of a matrix, where `ord` is given, and x or `dim` says that there are two dimensions."""
    two = x.dim() == 2 if dim is None else isinstance(dim, (tuple, list)) and len(dim) == 2
    if ord is not None and two:
        return _of_matrices(x, ord, dim, keepdim, dtype)
    return norm(x, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def _of_matrices(x: Tensor, ord: Any, dim: Any, keepdim: bool, dtype: Any) -> Tensor:
    """The largest, or least, sum of a column (1) or of a row (inf); of what singular values make, for which there is no rule,
    torch's own."""
    x = x if dtype is None else x.to(dtype)
    rows, columns = (d % x.dim() for d in ((-2, -1) if dim is None else dim))
    if ord == "fro":
        return norm(x, 2, (rows, columns), keepdim)
    if ord not in (1, -1, math.inf, -math.inf):
        found: Tensor = torch.linalg.matrix_norm(x, ord, (rows, columns), keepdim)
        return found
    summed, other = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = x.abs().sum(summed, keepdim=True)
    y = sums.amax(other, keepdim=True) if ord > 0 else sums.amin(other, keepdim=True)
    return y if keepdim else y.squeeze((rows, columns))


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    lengths = [(t * t).sum(dim).sqrt().clamp_min(eps) for t in (x, y)]
    return (x * y).sum(dim) / (lengths[0] * lengths[1])


def pairwise_distance(x: Tensor, y: Tensor, p: Any = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    return norm(x - y + eps, p, -1, keepdim)


def distances(x: Tensor, y: Tensor, p: Any = 2.0, compute_mode: str | None = None) -> Tensor:
    return norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)
