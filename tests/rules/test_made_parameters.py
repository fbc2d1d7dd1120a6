"""Weights, biases and slopes that a model makes of its input (adaptive norms, dynamic convolutions) are what they are written
out: a product of two that vary, and a sum."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funattr as fa
from funattr import rules as R

from ..close import close

torch.manual_seed(0)
X = torch.randn(2, 5, dtype=torch.float64)
H, W, B, LAST = (torch.randn(n, 5, dtype=torch.float64) for n in (24, 6, 6, 24))
KERNEL, ENDS = torch.randn(4, 4, 3, dtype=torch.float64), torch.randn(52, dtype=torch.float64)
MEAN, VARIANCE = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
Op = Callable[[Tensor, Tensor, Tensor], Tensor]


def around(op: Op) -> Callable[[Tensor], Tensor]:
    """`op` of values [1, 4, 6], a weight [6] and a bias [6] of each example, all of which x has made."""

    def score(x: Tensor) -> Tensor:
        y = op((x @ H.T).reshape(1, 4, 6), (x @ W.T)[0], (x @ B.T)[0]).flatten()
        return (y * ENDS[: y.numel()]).sum()[None]

    return lambda x: torch.cat([score(x[i : i + 1]) for i in range(len(x))])


def channels(t: Tensor) -> Tensor:
    return t[:4, None]


PAIRS: dict[str, tuple[Op, Op]] = {
    "layer norm": (lambda h, w, b: F.layer_norm(h, (6,), w, b), lambda h, w, b: F.layer_norm(h, (6,)) * w + b),
    "group norm": (
        lambda h, w, b: F.group_norm(h, 2, w[:4], b[:4]),
        lambda h, w, b: F.group_norm(h, 2) * channels(w) + channels(b),
    ),
    "instance norm": (
        lambda h, w, b: F.instance_norm(h, weight=w[:4], bias=b[:4]),
        lambda h, w, b: F.instance_norm(h) * channels(w) + channels(b),
    ),
    "batch norm": (
        lambda h, w, b: F.batch_norm(h, MEAN, VARIANCE, w[:4], b[:4]),
        lambda h, w, b: F.batch_norm(h, MEAN, VARIANCE) * channels(w) + channels(b),
    ),
    "batch norm of the batch": (
        lambda h, w, b: F.batch_norm(h, None, None, w[:4], training=True),
        lambda h, w, b: F.batch_norm(h, None, None, training=True) * channels(w),
    ),
    "batch norm after a convolution": (
        lambda h, w, b: F.batch_norm(F.conv1d(h, KERNEL), MEAN, VARIANCE, w[:4], b[:4]),
        lambda h, w, b: F.batch_norm(F.conv1d(h, KERNEL), MEAN, VARIANCE) * channels(w) + channels(b),
    ),
    "bias of a convolution": (
        lambda h, w, b: F.conv1d(h, KERNEL, b[:4]),
        lambda h, w, b: F.conv1d(h, KERNEL) + channels(b),
    ),
    "bias of a transposed convolution": (
        lambda h, w, b: F.conv_transpose1d(h, KERNEL, b[:4], stride=2),
        lambda h, w, b: F.conv_transpose1d(h, KERNEL, stride=2) + channels(b),
    ),
    "kernel, without a batch": (
        lambda h, w, b: F.conv1d(h[0], h.reshape(2, 4, 3), b[:2]),
        lambda h, w, b: F.conv1d(h[0], h.reshape(2, 4, 3)) + b[:2, None],
    ),
    "slopes": (lambda h, w, b: F.prelu(h, w[:4]), lambda h, w, b: torch.where(h > 0, h, channels(w) * h)),
    "slopes by name": (
        lambda h, w, b: F.prelu(input=h, weight=w[:4]),
        lambda h, w, b: torch.where(h > 0, h, channels(w) * h),
    ),
    "one slope": (lambda h, w, b: F.prelu(h, w[:1]), lambda h, w, b: torch.where(h > 0, h, w[0] * h)),
    "bilinear layer": (
        lambda h, w, b: F.bilinear(h, h[..., :3], h.repeat(3, 3, 1)[:2, :6, :3], b[:2]),
        lambda h, w, b: torch.einsum("...i,oij,...j->...o", h, h.repeat(3, 3, 1)[:2, :6, :3], h[..., :3]) + b[:2],
    ),
}
if hasattr(F, "rms_norm"):  # since torch 2.4
    PAIRS["rms norm"] = (lambda h, w, b: F.rms_norm(h, (6,), w), lambda h, w, b: F.rms_norm(h, (6,)) * w)
SETS = {"epsilon_plus": R.epsilon_plus(), "alpha_beta": R.alpha_beta(), "gamma": R.gamma(), "cp_lrp": R.cp_lrp()}
UNMET = pytest.mark.filterwarnings("ignore:.*einsum")


@UNMET
@pytest.mark.parametrize("rules", SETS)
@pytest.mark.parametrize("name", PAIRS)
def test_relevance_of_what_is_made_is_that_of_what_is_written_out(name: str, rules: str) -> None:
    fused, written = map(around, PAIRS[name])
    if rules == "cp_lrp" and ("bias" in name or "layer" in name.split()[1:]):  # meets nothing in these
        pytest.skip()
    found = fa.lrp(fused, X, rules=SETS[rules])
    close(found, fa.lrp(written, X, rules=SETS[rules]), 1e-10)
    kept = fa.absorbed(fused, X, rules=SETS[rules])
    close(found.sum(1) + sum(kept.values()), fused(X), 1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_deep_lift_of_what_is_made_is_complete(name: str) -> None:
    fused, written = map(around, PAIRS[name])
    base = 0.3 * torch.ones(1, 5, dtype=torch.float64)
    found = fa.deep_lift(fused, X, baselines=base)
    close(found.sum(1), fused(X) - fused(base), 1e-9)
    close(found, fa.deep_lift(written, X, baselines=base), 1e-9)


LEAST = torch.randn(4, 6, dtype=torch.float64)
SPELLED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "max": (lambda h: torch.max(h, LEAST), lambda h: torch.maximum(h, LEAST)),
    "min by name": (lambda h: h.min(other=LEAST), lambda h: torch.minimum(h, LEAST)),
    "max, of two that vary": (lambda h: torch.max(h, h.flip(1)), lambda h: torch.maximum(h, h.flip(1))),
    "one example": (
        lambda h: F.conv1d(LEAST, h.reshape(2, 4, 3), MEAN[:2]),
        lambda h: F.conv1d(LEAST[None], h.reshape(2, 4, 3), MEAN[:2]),
    ),
    "one example, transposed": (
        lambda h: F.conv_transpose1d(LEAST, h.reshape(4, 2, 3), MEAN[:2]),
        lambda h: F.conv_transpose1d(LEAST[None], h.reshape(4, 2, 3), MEAN[:2]),
    ),
}


@pytest.mark.parametrize("rules", SETS)
@pytest.mark.parametrize("name", SPELLED)
def test_a_maximum_of_two_and_a_kernel_that_meets_one_example_are_what_they_are(name: str, rules: str) -> None:
    if rules == "cp_lrp" and ("example" in name or "vary" in name):  # meets nothing in these
        pytest.skip()
    first, second = SPELLED[name]
    one, other = around(lambda h, w, b: first(h)), around(lambda h, w, b: second(h))
    close(fa.lrp(one, X, rules=SETS[rules]), fa.lrp(other, X, rules=SETS[rules]), 1e-10)


def of_first(p: Any, h: Tensor) -> Tensor:
    found: Tensor = torch.linalg.norm(h[0], p)
    return found


MATRIX: dict[str, Callable[[Tensor], Tensor]] = {
    **{f"linalg {p}": partial(of_first, p) for p in (1, -1, torch.inf, -torch.inf, "fro")},
    "linalg, of two dimensions": lambda h: torch.linalg.norm(h, torch.inf, dim=(1, 2), keepdim=True),
    "linalg, of two dimensions turned": lambda h: torch.linalg.norm(h, 1, (-1, 1)),
    "linalg, without an order": lambda h: torch.linalg.norm(h, dim=(1, 2)),
    "linalg, of a vector": lambda h: torch.linalg.norm(h, 1, 2),
    "two dimensions as one vector": lambda h: torch.norm(h, 1, (1, 2)),
    "distances by how many differ": lambda h: torch.cdist(h, h.flip(1) * 2, 0.0),
    "a number's": lambda h: h.sum().amax(0, True) + h.mean().max(0, keepdim=True).values + h.sum().prod(0),
}


@pytest.mark.parametrize("name", MATRIX)
def test_norms_of_matrices_are_no_norms_of_vectors(name: str) -> None:
    """Beside the baseline, where another function would sum to its own difference."""
    model = around(lambda h, w, b: MATRIX[name](h) + 0 * h.sum())
    base = 0.3 * torch.ones(1, 5, dtype=torch.float64)
    close(fa.deep_lift(model, X, baselines=base).sum(1), model(X) - model(base), 1e-9)


@pytest.mark.parametrize("p", [2, -2, "nuc"])
@pytest.mark.parametrize("norm", [torch.linalg.norm, torch.norm])
def test_norms_by_singular_values_are_named(norm: Callable[..., Tensor], p: object) -> None:
    if norm is torch.norm and p != "nuc":
        pytest.skip("which is of vectors")
    with pytest.warns(UserWarning, match="linalg_svdvals is not linear and DeepLIFT has no rule"):
        fa.deep_lift(around(lambda h, w, b: norm(h[0], p)), X, baselines=0.3)
