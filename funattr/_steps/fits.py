"""Linear fits to the scores of coalitions, for all examples at once: least squares and lasso."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Numbers in the rows of a fit that are made at once.
ROOM = 1 << 22


def least_squares(rows: Callable[[int, int], Tensor], right: Tensor, width: int, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The least squares solution of least norm ``[M, N]`` of ``A x = right``, and its standard errors.

    ``A`` ``[K, M]`` comes in parts: ``rows(start, stop)``. By ``(A^T A)+``, and twice the same for what is left over, so that
    no digits are lost. Errors are ``diag(A+ diag(drawn r^2 / (1 - h)) A+^T)``, squared, with the residuals r and the
    leverages h.
    """
    step = max(1, ROOM // max(width, 1))
    parts = [(a, min(a + step, len(right))) for a in range(0, len(right), step)]
    inverse = _inverse(rows, parts, width)
    found = right.new_zeros(width, right.shape[1])
    for _ in range(3):
        missed = torch.zeros_like(found)
        for a, b in parts:
            own = rows(a, b).to(right)
            missed = missed + own.T @ (right[a:b] - own @ found)
        found = found + inverse.to(right) @ missed
    squares = torch.zeros_like(found)
    for a, b in parts:
        own = rows(a, b)
        back = own @ inverse  # [k, M]
        free = 1 - (back * own).sum(1)
        shares = torch.where(free > 1e-9, drawn[a:b] / free, 0)[:, None].to(right)
        left = (right[a:b] - own.to(right) @ found).square()
        squares = squares + back.square().T.to(right) @ (shares * left)
    return found, squares.sqrt()


def _inverse(rows: Callable[[int, int], Tensor], parts: list[tuple[int, int]], width: int) -> Tensor:
    """``(A^T A)+``: where A has few rows, and may be nearly singular, by its own singular values, which are not squared."""
    if len(parts) == 1 and parts[0][1] <= 2 * width:
        _, s, v = torch.linalg.svd(rows(*parts[0]), full_matrices=False)
        least = 1e-13 * s.max()
        found: Tensor = (v.T * torch.where(s > least, 1 / s.clamp(min=least).square(), 0)) @ v
    else:
        gram = torch.zeros(width, width, dtype=torch.float64)
        for a, b in parts:
            own = rows(a, b)
            gram += own.T @ own
        found = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
    return found


def lasso(kept: Tensor, right: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``b`` of ``min sum_s w_s (y_s - c - z_s b)^2 / (2 sum w) + alpha |b|_1``, ``[M, N]``.

    For bool z ``[S, M]`` and y ``[S, N]``. Without `alpha` the least squares solution of least norm; else by coordinate
    descent, until nothing moves.
    """
    share = (weights / weights.sum())[:, None]
    z = kept.double()
    z, y = z - (share * z).sum(0), right - (share.to(right) * right).sum(0)
    roots = share.sqrt()
    if not alpha:
        return least_squares(lambda a, b: roots[a:b] * z[a:b], roots.to(y) * y, z.shape[1], torch.zeros(len(z)))[0]
    gram, slope = (z.T @ (share * z)).to(y), z.T.to(y) @ (share.to(y) * y)
    found = torch.zeros_like(slope)
    for _ in range(SWEEPS):
        before = found.clone()
        for j in range(len(found)):
            if kept[:, j].any() and not kept[:, j].all():
                free = slope[j] - gram[j] @ found + gram[j, j] * found[j]
                found[j] = torch.sign(free) * (free.abs() - alpha).clamp(min=0) / gram[j, j]
        if found.is_meta or (found - before).abs().max() <= 1e-12 * max(1e-300, float(found.abs().max())):
            break
    return found


#: Rounds of coordinate descent at most: it needs tens.
SWEEPS = 10_000
