"""The baseline pass of DeepLIFT: rows that are the same are computed once, and it shows in no number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

N = 5
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 0, 4, 3, 2]])


class Net(nn.Module):
    """Two linear layers and a convolution around `middle`, whose value is looked at."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.out, self.middle = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(24, 3), middle
        self.seen = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.seen(self.middle(self.conv(x))).flatten(1))


def first_row_written(h: Tensor) -> Tensor:
    h = h * 1.0
    h[0] = h[0] + 1
    return h.tanh()


def view_written(h: Tensor) -> Tensor:
    h.view(-1, 6)[3].mul_(3.0)
    return h


def copy_written(h: Tensor) -> Tensor:
    flat = h.reshape(-1, 6)
    flat[2] = 0.5  # h, too: reshape gave a view
    return h + flat.view_as(h)


def data_written(h: Tensor) -> Tensor:
    h.data[1] = 2.0
    return h


def numpy_written(h: Tensor) -> Tensor:
    h.detach().numpy()[0] = 0.0
    return h


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    h[0] = 1.0
    return h


def out_written(h: Tensor) -> Tensor:
    torch.mul(h, 2.0, out=h) if not h.requires_grad else None
    return h if not h.requires_grad else h * 2.0


def nodes(h: Tensor) -> Tensor:
    return h + torch.zeros_like(h).index_add(0, EDGES[1], h[EDGES[0]])


MIDDLES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": lambda h: h.relu_(),
    "F.relu(inplace)": lambda h: F.relu(h, inplace=True),
    "F.relu(True)": lambda h: F.relu(h, True),
    "+= itself": lambda h: h.add_(h * 2),
    "+= rows": lambda h: h.add_(torch.arange(N)[:, None, None] / N),
    "less the mean": lambda h: h - h.mean(0),
    "softmax over rows": lambda h: h.softmax(0),
    "by their number": lambda h: h / len(h),
    "by their place": lambda h: h * torch.arange(h.shape[0])[:, None, None],
    "cumulative": lambda h: h.cumsum(0),
    "nodes": nodes,
    "a product of rows": lambda h: (h.flatten(1) @ h.flatten(1).T) @ h.flatten(1),
    "merged": lambda h: F.gelu(h.view(-1, 12)).view_as(h),
    "one row": lambda h: torch.cat([h[:1] * 2, h[1:]]),
    "sorted": lambda h: h.flip(0).roll(1, 0) * torch.linspace(0, 1, N)[:, None, None],
    "first row written": first_row_written,
    "a view written": view_written,
    "a copy written": copy_written,
    "seen by numpy": lambda h: h + float(h.detach().numpy().sum()),
}


def base_seen(model: Any, x: Tensor, baselines: Any) -> Tensor:
    """The value at `seen` in the baseline pass."""
    found: list[Tensor] = []

    def keep(m: Tensor, value: Tensor, reference: Tensor) -> Tensor:
        found.append(reference.clone())
        return m

    fa.deep_lift(model, x, layer="seen", baselines=baselines, target=1, attribution_func=keep)
    return found[0]


@pytest.mark.parametrize("name", MIDDLES)
def test_the_baseline_is_that_of_the_whole_batch(name: str) -> None:
    torch.manual_seed(0)
    model, x, base = Net(MIDDLES[name]).double().eval(), torch.randn(N, 2, 6).double(), torch.randn(1, 2, 6).double()
    with torch.no_grad():
        expected = model.middle(model.conv(base.expand(N, -1, -1).clone()))
    torch.testing.assert_close(base_seen(model, x, base), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("write", [data_written, numpy_written, scripted])
def test_what_is_written_out_of_sight(write: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Net(lambda h: h).double().eval(), torch.randn(N, 2, 6).double()

    class Writes(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h if torch.is_grad_enabled() else write(h)  # at the baseline alone

    model.middle = Writes()
    with torch.no_grad():
        expected = write(model.conv(torch.zeros(N, 2, 6).double()))
    torch.testing.assert_close(base_seen(model, x, 0.0), expected)


@pytest.mark.parametrize("name", ["less the mean", "by their number", "nodes", "+= rows", "one row", "by their place"])
def test_the_batch_is_complete(name: str) -> None:
    """Where rows meet, the sum over the batch is what there is."""
    torch.manual_seed(0)
    model, x = Net(MIDDLES[name]).double().eval(), torch.randn(N, 2, 6).double()
    with torch.no_grad():
        expected = (model(x) - model(0 * x))[:, 1].sum()
    for called in (model, partial(model), lambda x: model(x)):
        torch.testing.assert_close(fa.deep_lift(called, x, target=1).sum(), expected, rtol=1e-9, atol=1e-9)


class Attends(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.norm, self.out, self.batch_first = nn.LayerNorm(8), nn.Linear(8, 3), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.out(x.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("steps", [4, N])  # as many steps as examples: one is not taken for the other
def test_attention_of_each_example_alone(batch_first: bool, steps: int) -> None:
    torch.manual_seed(0)
    model, x, base = Attends(batch_first).double().eval(), torch.randn(N, steps, 8).double(), torch.randn(1, steps, 8).double()
    found = fa.deep_lift(model, x, baselines=base, target=1)
    alone = torch.cat([fa.deep_lift(model, x[i : i + 1], baselines=base, target=1) for i in range(N)])
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(found.sum((1, 2)), (model(x) - model(base))[:, 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["relu", "relu_", "by their number", "less the mean", "merged", "first row written"])
def test_under_vmap_over_baselines(name: str) -> None:
    torch.manual_seed(0)
    model, x, bases = Net(MIDDLES[name]).double().eval(), torch.randn(N, 2, 6).double(), torch.randn(3, 2, 6).double()
    found = fa.deep_lift_shap(model, x, baselines=bases, target=1, chunk_size=2)
    alone = torch.stack([fa.deep_lift(model, x, baselines=base[None], target=1) for base in bases]).mean(0)
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)


def test_the_models_own_error_comes_out() -> None:
    model = Net(lambda h: h.view(7, -1))
    with pytest.raises(RuntimeError, match="shape '\\[7, -1\\]' is invalid"):
        fa.deep_lift(model, torch.randn(N, 2, 6), target=1)
