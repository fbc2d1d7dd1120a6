"""DeepLIFT of quotients whose denominator is nearly nothing at the baseline: cosines, correlations, overlaps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..close import close

P = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8)


def dot(z: Tensor) -> Tensor:
    return (z * P[0]).sum(-1)


def correlation(z: Tensor) -> Tensor:
    c = z.reshape(-1, 2, 4) - z.reshape(-1, 2, 4).mean(-1, keepdim=True)
    return (c[:, 0] * c[:, 1]).sum(-1) / ((c[:, 0] ** 2).sum(-1) * (c[:, 1] ** 2).sum(-1) + 1e-12).sqrt()


def among_themselves(z: Tensor) -> Tensor:
    a = z.reshape(-1, 2, 4)
    lengths = a.norm(dim=-1)
    return ((a @ a.mT) / (lengths[:, :, None] * lengths[:, None] + 1e-8)).flatten(1)


#: Each is in [-1, 1], or is at most 2.
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine_similarity": lambda z: F.cosine_similarity(z[:, None], P[None], dim=-1),
    "quotient": lambda z: dot(z) / (z.norm(dim=-1) * P[0].norm() + 1e-8),
    "clamped": lambda z: dot(z) / z.norm(dim=-1).clamp_min(1e-12),
    "times a reciprocal": lambda z: dot(z) * (1 / (z.norm(dim=-1) + 1e-8)),
    "a root, reciprocal": lambda z: torch.rsqrt(z.pow(2).sum(-1) + 1e-10).mul(dot(z)),
    "of a table": lambda z: (z @ P.T) / (z.norm(dim=-1)[:, None] * P.norm(dim=1)[None] + 1e-8),
    "among themselves": among_themselves,
    "correlation": correlation,
    "overlap": lambda z: 2 * (z.abs() * P[0].abs()).sum(-1) / (z.abs().sum(-1) + 1e-6),
    "one by one": lambda z: torch.stack([z[:, i] / (z.pow(2).mean(-1) + 1e-8).sqrt() for i in range(8)], 1),
}


class Net(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act = nn.Linear(6, 8, bias=False), act
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        found = self.act(self.a(x)).reshape(len(x), -1)
        return found @ torch.linspace(1, 0.1, found.shape[1], dtype=x.dtype)


@pytest.mark.parametrize("baseline", [0.0, 1e-5])
@pytest.mark.parametrize("name", BOUNDED)
def test_shares_of_what_is_bounded_are_of_its_size(name: str, baseline: float) -> None:
    """They were 1e5 to 1e9, which sum to the difference of the scores as well."""
    model, x = Net(BOUNDED[name]), torch.randn(4, 6, dtype=torch.float64)
    found = fa.deep_lift(model, x, baselines=baseline)
    close(found.sum(1), (model(x) - model(torch.full_like(x, baseline))).detach(), 1e-9)
    assert found.abs().max() < 5


SPELLED = [lambda a, b: a / b, lambda a, b: a * (1 / b), lambda a, b: b.pow(-1).reshape(b.shape) * a]


@pytest.mark.parametrize("b0", [1e-9, 1e-3, 0.0199, 0.0201, 0.5, 2.0, 150.0, 250.0, -1e-9, -0.5, -40.0, -250.0])
@pytest.mark.parametrize("spelled", SPELLED)
def test_a_quotient_is_a_product_from_the_other_side(spelled: Callable[[Tensor, Tensor], Tensor], b0: float) -> None:
    """Where the denominator is far from what it was: of ``z b = a``, ``dz (b + b0) / 2 + db (z + z0) / 2 = da``, or, where it
    changes its sign, all is its own. Elsewhere each one's share is the mean over who comes first."""
    a, b, a0, base = (torch.tensor([[t]]).double() for t in (0.7, 2.0, 0.2, b0))
    of_a, of_b = fa.deep_lift(lambda a, b: spelled(a, b).sum(1), (a, b), baselines=(a0, base))
    z, z0 = a / b, a0 / base
    close(of_a + of_b, z - z0)
    if max(abs(b0), 2.0) <= 100 * min(abs(b0), 2.0):
        close(of_a, ((a - a0) / b + (a - a0) / base) / 2)
        close(of_b, (a * (1 / b - 1 / base) + a0 * (1 / b - 1 / base)) / 2)
        return
    assert max(of_a.abs(), of_b.abs()) <= 2 * (z.abs() + z0.abs())
    if b0 > 0:
        close(of_a, (a - a0) * 2 / (b + base))
        close(of_b, -(b - base) * (z + z0) / (b + base))
    else:
        close(of_b, z - z0)


@pytest.mark.parametrize("b0", [1e-9, -1e-9, 0.5, -1e-3])
@pytest.mark.parametrize("spelled", SPELLED)
def test_a_quotient_by_one_number_for_many_is_bounded(spelled: Callable[[Tensor, Tensor], Tensor], b0: float) -> None:
    """Whatever the sign that the number had."""
    a, b = torch.tensor([[0.7, -0.2, 0.4]]).double(), torch.tensor([[2.0]]).double()
    a0, base = torch.tensor([[0.2, 0.1, 0.0]]).double(), torch.tensor([[b0]]).double()
    of_a, of_b = fa.deep_lift(lambda a, b: spelled(a, b).sum(1), (a, b), baselines=(a0, base))
    close(of_a.sum() + of_b.sum(), (a / b - a0 / base).sum(), 1e-9 * max(1.0, 1 / abs(b0)))
    assert of_a.abs().le(2 * ((a / b).abs() + (a0 / base).abs())).all()


@pytest.mark.parametrize(
    "root",
    [
        lambda v: v.rsqrt_(),
        lambda v: v.pow_(-0.5),
        lambda v: v.sqrt_().reciprocal_(),
        lambda v: torch.empty_like(v).copy_(v.rsqrt()),
    ],
)
def test_a_reciprocal_in_place_is_one(root: Callable[[Tensor], Tensor]) -> None:
    """It was taken for any factor: complete, and other shares than the same out of place."""
    x, base = torch.randn(2, 6).double(), 0.1 * torch.ones(1, 6).double()

    def norm(root: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: (x * root(x.pow(2).mean(-1, keepdim=True).add_(1e-6)) * torch.arange(6.0).double()).sum(1)

    close(fa.deep_lift(norm(root), x, baselines=base), fa.deep_lift(norm(torch.rsqrt), x, baselines=base))


def test_what_is_added_to_a_reciprocal_in_place_makes_it_none() -> None:
    x, base = torch.randn(2, 6).double(), 0.1 * torch.ones(1, 6).double()

    def norm(add: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: (x * add(x.pow(2).mean(-1, keepdim=True).rsqrt()) * torch.arange(6.0).double()).sum(1)

    found = fa.deep_lift(norm(lambda r: r.add_(1.0)), x, baselines=base)
    close(found, fa.deep_lift(norm(lambda r: r + 1.0), x, baselines=base))
