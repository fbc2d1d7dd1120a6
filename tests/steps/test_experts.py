"""Mixtures of experts: products of matrices for each group of rows (`torch.nn.functional.grouped_mm`), and what is chosen."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

R = fa.rules
GROUPED: Any = getattr(torch.nn.functional, "grouped_mm", None)
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))


class Experts(nn.Module):
    """Each row by two of three experts, all of them in one product, or one after another."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Parameter(0.4 * torch.randn(3, 8, 16)), nn.Parameter(0.4 * torch.randn(3, 16, 8))
        self.route, self.enter, self.head = nn.Linear(8, 3, bias=False), nn.Linear(8, 8), nn.Linear(8, 4)
        self.grouped = grouped

    def product(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        if self.grouped:
            return GROUPED(rows, weight, offs=ends)  # type: ignore[no-any-return]  # torch's
        starts = [0, *ends.tolist()]
        return torch.cat([rows[a:b] @ w for a, b, w in zip(starts, starts[1:], weight)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.enter(x))
        weight, chosen = self.route(h.detach()).softmax(-1).topk(2)
        order = chosen.flatten().argsort(stable=True)
        ends = torch.bincount(chosen.flatten(), minlength=3).cumsum(0).int()
        rows = torch.relu(self.product(h[order // 2], self.up, ends))
        each = self.product(rows, self.down, ends) * weight.flatten()[order, None]
        found: Tensor = self.head(h + each[order.argsort()].unflatten(0, (-1, 2)).sum(1))
        return found


needs = pytest.mark.skipif(GROUPED is None, reason="torch 2.10 or later has it")
SETS = {"epsilon": R.epsilon(), "epsilon_plus": R.epsilon_plus(), "gamma": R.gamma(0.25), "alpha_beta": R.alpha_beta(2, 1)}


@needs
@pytest.mark.parametrize("name", SETS)
def test_a_rule_for_what_is_linear_is_for_each_expert(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.lrp(Experts(True), X, target=1, rules=SETS[name])
        rest = fa.absorbed(Experts(True), X, target=1, rules=SETS[name])
    torch.testing.assert_close(found, fa.lrp(Experts(False), X, target=1, rules=SETS[name]), rtol=1e-4, atol=1e-5)
    total = found.flatten(1).sum(1) + sum(t.flatten(1).sum(1) for t in (v.reshape(5, -1) for v in rest.values()))
    torch.testing.assert_close(total, Experts(True)(X)[:, 1], rtol=1e-4, atol=1e-5)


@needs
def test_deep_lift_where_the_same_experts_are_chosen_at_the_baseline() -> None:
    start = X * 1.01
    found = fa.deep_lift(Experts(True), X, target=1, baselines=start)
    model = Experts(True)
    torch.testing.assert_close(found.sum(1), (model(X) - model(start))[:, 1], rtol=1e-3, atol=1e-5)
    with pytest.warns(UserWarning, match="grouped_mm"):
        fa.deep_lift(Experts(True), X, target=1, baselines=-X)


PICKS: dict[str, Any] = {
    "topk": lambda h: h.topk(3)[0],
    "sort": lambda h: torch.sort(h, descending=True).values[:, :3],
    "msort": lambda h: torch.msort(h.T)[-3:].T,
    "kthvalue": lambda h: torch.kthvalue(h, 7, keepdim=True).values,
    "median": lambda h: h.median(1, keepdim=True).values,
    "mode": lambda h: torch.mode(h, 1, keepdim=True).values,
    "cummax": lambda h: h.cummax(1)[0],
    "aminmax": lambda h: torch.stack(torch.aminmax(h, dim=1), 1),
    "quantile": lambda h: h.quantile(0.7, 1, keepdim=True),
}


class Picks(nn.Module):
    def __init__(self, pick: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.pick = nn.Linear(8, 8, bias=False).double(), pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(torch.relu(self.enter(x))).sum(1, keepdim=True)  # type: ignore[no-any-return]  # of a dict


@pytest.mark.parametrize("name", PICKS)
def test_the_winner_takes_all(name: str) -> None:
    model = Picks(PICKS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.lrp(model, X.double(), target=0, rules=R.epsilon(0.0))
    torch.testing.assert_close(found, fa.input_x_gradient(model, X.double(), target=0))
    torch.testing.assert_close(found.sum(1), model(X.double())[:, 0])
