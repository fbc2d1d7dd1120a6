"""How near is equal: the tolerances of the tests, and the one comparison that they use."""

from __future__ import annotations

from typing import Any

import torch

from .reference import leaves

#: In float64, of the same sums in another order.
ROUNDING = 1e-10
#: Smaller values are differences of scores of about this size, and carry their rounding.
SMALL = 1.0


def close(found: Any, expected: Any, tolerance: float = ROUNDING) -> None:
    """The floating-point tensors of two nested values are the same, up to `tolerance` times the largest value of each."""
    ours, theirs = leaves(found), [t.detach() for t in leaves(expected)]
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs):
        size = max(SMALL, float(b.abs().max())) if b.numel() else 0.0
        torch.testing.assert_close(a.detach(), b, rtol=0.0, atol=tolerance * size)


def close_and_not_zero(found: Any, expected: Any, tolerance: float = ROUNDING) -> None:
    """Zeros prove nothing."""
    assert any(bool((t != 0).any()) for t in leaves(expected))
    close(found, expected, tolerance)


def distance(found: Any, expected: Any) -> float:
    """The largest relative distance of a tensor, in whatever precision and wherever it is."""
    ours, theirs = leaves(found), leaves(expected)
    assert len(ours) == len(theirs) > 0
    return max(float((a.cpu().double() - b.double()).norm() / b.double().norm()) for a, b in zip(ours, theirs))
