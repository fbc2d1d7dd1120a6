"""How many steps run at once where the library chooses: as many as there is room for, by what a pass makes of its input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr._core.passes import question
from funattr._steps.chunks import shows_room
from funattr._steps.ways import Runner, Steps

from ..breadth import breadth
from ..cost import cost

ROOM = 1 << 22


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr._steps.chunks.ROOM", ROOM)


class Decoder(nn.Module):
    """A picture from a code."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.conv = nn.Linear(8, 64), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.interpolate(self.code(z).reshape(-1, 4, 4, 4), scale_factor=16.0)
        return torch.relu(self.conv(h)).square().mean((1, 2, 3))


class Distances(nn.Module):
    """All pairs of points, by broadcasting: no function is named that makes much of little."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.code(x)
        return torch.exp(-(h[:, :, None] - h[:, None]).square().sum(-1)).mean((1, 2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.code(x)
        return self.head(torch.softmax(h @ h.mT, -1) @ h).mean((1, 2))


class Centres(nn.Module):
    """Distances of a few numbers from many centres."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.code, self.head = nn.Parameter(torch.randn(2000, 16)), nn.Linear(16, 16), nn.Linear(2000, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.exp(-(self.code(x)[:, None] - self.centres).square().mean(-1)))[:, 0]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Embedding(3000, 8), nn.Linear(8, 3000, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.log_softmax(self.head(torch.tanh(self.code(ids)).cumsum(1)), -1)[:, -1, 5]


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "decoder": (Decoder().eval(), torch.randn(2, 8)),
        "distances": (Distances().eval(), torch.randn(1, 200, 3)),
        "attention": (Attention().eval(), torch.randn(1, 300, 4)),
        "centres": (Centres().eval(), torch.randn(4, 16)),
        "words": (Words().eval(), torch.randint(0, 3000, (1, 64))),
    }


def groups(value: Tensor, count: int = 24) -> Tensor:
    return (torch.arange(value[0].numel()) * count // value[0].numel()).reshape(value[0].shape)


def references(x: Tensor) -> Tensor:
    return 0.1 * torch.randn(24, *x.shape[1:], generator=torch.Generator().manual_seed(1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


Call = Callable[..., Any]
AT_INPUT: dict[str, Call] = {
    "integrated_gradients": lambda m, x, **o: fa.integrated_gradients(m, x, **o),
    "conductance": lambda m, x, **o: fa.conductance(m, x, layer="code", **o),
    "internal_influence": lambda m, x, **o: fa.internal_influence(m, x, layer="code", **o),
    "gradient_shap": lambda m, x, **o: fa.gradient_shap(m, x, baselines=references(x), n_samples=24, generator=seeded(), **o),
    "deep_lift_shap": lambda m, x, **o: fa.deep_lift_shap(m, x, baselines=references(x), **o),
    "noise_tunnel": lambda m, x, **o: fa.noise_tunnel(fa.saliency, n_samples=24, generator=seeded(), **o)(m, x),
    "occlusion": lambda m, x, **o: fa.occlusion(m, x, window=(-(-x.shape[1] // 24), *x.shape[2:]), **o),
}
ANYWHERE: dict[str, Call] = {
    "feature_ablation": lambda m, x, **o: fa.feature_ablation(m, x, feature_mask=groups(x), **o),
    "shapley": lambda m, x, **o: fa.shapley(m, x, feature_mask=groups(x, 6), **o),
    "lime": lambda m, x, **o: fa.lime(m, x, feature_mask=groups(x), n_samples=40, generator=seeded(), **o),
    "integrated_gradients at a layer": lambda m, x, **o: fa.integrated_gradients(m, x, layer="code", baselines=0, **o),
    "feature_ablation at a layer": lambda m, x, **o: fa.feature_ablation(
        m, x, layer="code", feature_mask=groups(fa.activation(m, x, layer=fa.output_of("code", 0))), **o
    ),
}
CASES = [(name, call) for name, (_, x) in models().items() for call in (AT_INPUT if x.is_floating_point() else {}) | ANYWHERE]


KEPT = {*AT_INPUT, "feature_ablation at a layer"}


@pytest.mark.parametrize(
    ("name", "method"), breadth(CASES, lambda case: case[0] == "words" or (case[0] == "attention" and case[1] in KEPT), True)
)
@pytest.mark.filterwarnings("ignore")
def test_memory_is_bounded_by_what_a_pass_makes(name: str, method: str) -> None:
    model, x = models()[name]
    call = (AT_INPUT | ANYWHERE)[method]

    def one_pass() -> None:
        start = model.code(x).detach().requires_grad_()
        handle = model.code.register_forward_hook(lambda *_: start)
        torch.autograd.grad(model(x).sum(), start)
        handle.remove()

    one = cost(one_pass).peak
    assert 24 * one > 3 * ROOM  # so many at once would be too many
    found = cost(lambda: call(model, x))
    assert found.peak <= 1.25 * ROOM + 2 * one
    by_one = call(model, x, chunk_size=1)
    torch.testing.assert_close(call(model, x), by_one, rtol=2e-4, atol=1e-5 * float(by_one.abs().max()))


@pytest.mark.parametrize("layer", ["code", None])
def test_no_pass_runs_twice_to_see_how_much_it_makes(layer: str | None) -> None:
    """But where more than there is room for was begun at a layer."""
    model, x = models()["attention"]
    with torch.no_grad():
        forward = cost(lambda: model(x)).flops
    for chunk_size in (1, 8, None):
        found = cost(lambda: fa.feature_ablation(model, x, layer=layer, feature_mask=groups(x, 12), chunk_size=chunk_size))  # noqa: B023  called before the loop goes on
        assert found.flops <= 13.3 * forward


class Picture(nn.Module):
    """A late layer with many channels and few places, which no operation relates to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 256, 5), nn.Conv2d(256, 512, 1), nn.Linear(512, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.first(x)))).mean((2, 3)))


class Tokens(nn.Module):
    """An early layer, and a table that meets its rows: baselines share the pass at x."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.table, self.head = nn.Linear(4, 8), nn.Parameter(torch.randn(1, 64, 8)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.code(x) + self.table
        return self.head(torch.softmax(h @ h.transpose(1, 2), -1) @ torch.tanh(h)).mean(1)


def test_steps_that_share_a_pass_share_it_where_nobody_says_how_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step alone, to show how much it makes, took what lies before the layer, or the pass at x, once more."""
    monkeypatch.setattr("funattr._steps.chunks.ROOM", 1 << 28)
    model, x, mask = Picture().eval(), torch.randn(8, 3, 6, 6), torch.arange(512).reshape(-1, 1, 1) // 64
    late = partial(fa.feature_ablation, model, x, layer="last", target=1, feature_mask=mask)
    assert cost(late).flops == cost(partial(late, chunk_size=9)).flops
    net, tokens, references = Tokens().eval(), torch.randn(64, 64, 4), torch.randn(4, 64, 4)
    early = partial(fa.deep_lift_shap, net, tokens, layer="code", target=1, baselines=references)
    for layer in ("code", None):
        shared = partial(early, layer=layer)
        assert cost(shared).flops == cost(partial(shared, chunk_size=4)).flops


def test_who_shows_how_much_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 6)
    assert shows_room(question(net, x, None, 1), x, False) is False
    assert shows_room(question(net, x, "0", 1), x, True) is False
    assert shows_room(question(lambda x: net(x), x, None, 1), x, False) is False
    assert shows_room(question(lambda x: torch.cdist(x, x), x, None, 1), x, False) is True
    model, points = models()["distances"]
    assert shows_room(question(model, points, None, None), points, False) is True
    at_layer, value = question(model, points, "code", None), fa.activation(model, points, layer="code")
    assert shows_room(at_layer, value, False) is shows_room(at_layer, value, True) is True
    monkeypatch.setattr("funattr._steps.chunks.ROOM", 1 << 25)
    assert shows_room(at_layer, value, True) is None


def test_a_chunk_that_makes_too_much_is_stopped_and_what_others_stop_goes_on_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr._steps.chunks.ROOM", 1 << 25)
    model, x = models()["distances"]
    q = question(model, x, "code", None)
    run = Steps(q, fa.activation(model, x, layer="code"), shares=True).runner(None)
    assert (run.unsure, run.most > 1000) == (True, True)
    ran: list[int] = []

    def steps(first: int, last: int) -> Any:
        ran.append(last - first)
        yield torch.ones(last - first, 1 << 21).exp().sum(1)  # 4 bytes each: a quarter of the room, and as much before

    found = torch.cat(list(run.bounded(10, steps)))
    assert (len(found), ran[:2], max(ran[1:])) == (10, [10, 1], 2)
    outer = Runner().within(q, x, True)
    outer.unsure, outer.most = True, 1 << 60
    ran.clear()
    list(outer.bounded(2, lambda a, b: Steps(q, x, shares=True).runner(None).bounded(10 * (b - a), steps)))
    assert sum(ran) >= 20


def test_the_callers_chunk_is_the_callers() -> None:
    model, x = models()["attention"]
    few, all_at_once = (cost(lambda n=n: fa.integrated_gradients(model, x, n_steps=24, chunk_size=n)).peak for n in (2, 24))  # type: ignore[misc]  # mypy cannot see the default
    assert all_at_once > 8 * few > ROOM
