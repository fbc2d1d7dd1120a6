"""A compiled call of a model that keeps something of its passes: as the eager one, and it leaves the model as it found it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.act, self.fc = nn.Linear(4, 4).double(), nn.Tanh(), nn.Linear(4, 3).double()
        self.n, self.last, self.kept = 0, None, torch.ones(4, dtype=torch.float64)
        self.rows: list[Tensor] = [torch.ones(4, dtype=torch.float64)]
        self.table: dict[str, Tensor] = {}
        self.register_buffer("total", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.passed(self.act(self.before(x))))

    def passed(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class Number(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.n += 1
        return h * self.n


class Buffer(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.total.add_(h.detach().square().sum())
        return h * self.total


class BufferRebound(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.total: Tensor = self.total + h.detach().square().sum()
        return h * self.total


class Last(Net):
    """What it goes on from comes with a gradient."""

    last: Any

    def passed(self, h: Tensor) -> Tensor:
        h = h if self.last is None else h + 0.5 * self.last
        self.last = h
        return h


class Made(Net):
    """Only in its first pass."""

    def passed(self, h: Tensor) -> Tensor:
        if not hasattr(self, "mean"):
            self.mean = h.detach().mean(0)
        return h - self.mean


class Part(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.kept[1:] = self.kept[1:] + h.detach().mean(0)[1:]
        return h * self.kept


class InAList(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.rows.append(h.detach().mean(0))
        return h * torch.stack(self.rows).sum(0)


class InATable(Net):
    def passed(self, h: Tensor) -> Tensor:
        self.table["last"] = self.table["last"] * 2 if "last" in self.table else h.detach().mean(0)
        return h * self.table["last"]


NETS = [Number, Buffer, BufferRebound, Last, Made, Part, InAList, InATable]
METHODS: dict[str, Any] = {
    "gradient": fa.gradient,
    "integrated_gradients": partial(fa.integrated_gradients, n_steps=4, chunk_size=2),
    "feature_ablation": partial(fa.feature_ablation, chunk_size=2),
    "deep_lift": fa.deep_lift,
    "lrp": fa.lrp,
}
#: What vmap maps over torch cannot write to what is not, compiled.
WRITTEN = [(net, method) for net in (Buffer, Part) for method in ("integrated_gradients", "feature_ablation")]
CASES = [(net, name, layer) for net in NETS for name in METHODS for layer in (None, "act") if (net, name) not in WRITTEN]


def kept(case: Any) -> bool:
    net, method, layer = case
    return (method == "gradient" and layer is None) or (net is Last and method == "integrated_gradients")


def held(net: nn.Module) -> dict[str, Any]:
    return copy.deepcopy({**vars(net), **dict(net.named_buffers())})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "method", "layer"), breadth(CASES, kept, several=True))
def test_as_the_eager_call_and_all_is_as_it_was(kind: type[Net], method: str, layer: str | None) -> None:
    torch._dynamo.reset()
    net, explain = kind().eval(), METHODS[method]
    expected = explain(net, X, target=1, layer=layer)
    before = held(net)
    fast = torch.compile(lambda net, x: explain(net, x, target=1, layer=layer), backend="aot_eager", fullgraph=True)
    for _ in range(2):
        close(fast(net, X), expected)
        after = held(net)
        assert after.keys() == before.keys()
        for name in ("n", "last", "kept", "rows", "table", "total"):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


class Shows(nn.Module):
    def __init__(self, store: dict[str, Tensor], total: Tensor) -> None:
        super().__init__()
        self.store = store
        self.register_buffer("total", total)

    def forward(self, h: Tensor) -> Tensor:
        return h * self.store["h"] + self.total


class Shared(nn.Module):
    """One module writes to what another holds, and reads."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.store: dict[str, Tensor] = {"h": torch.zeros(4, dtype=torch.float64)}
        self.register_buffer("total", torch.ones((), dtype=torch.float64))
        self.fc, self.shows = nn.Linear(4, 4).double(), Shows(self.store, self.total)

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.fc(x))
        self.store["h"] = h.detach().mean(0) + self.store["h"]
        self.total.add_(h.detach().square().sum())
        return self.shows(h)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", breadth(["gradient", "deep_lift", "lrp"], lambda method: method == "gradient"))
def test_what_another_module_holds(method: str) -> None:
    torch._dynamo.reset()
    net, explain = Shared(), METHODS[method]
    expected = explain(net, X, target=1)
    fast = torch.compile(lambda x: explain(net, x, target=1), backend="aot_eager", fullgraph=True)
    for _ in range(2):
        close(fast(X), expected)
        assert net.total == net.shows.total == 1
        assert net.store is net.shows.store
        assert not net.store["h"].any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", breadth(METHODS, lambda method: method == "gradient"))
@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm], ids=["weight", "spectral"])
def test_norms_of_weights_that_are_hooks(norm: Any, method: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, explain = nn.Sequential(norm(nn.Linear(4, 5)), nn.Tanh(), norm(nn.Linear(5, 3))).double().eval(), METHODS[method]
    fast = torch.compile(lambda x: explain(net, x, target=1, layer="1"), backend="aot_eager", fullgraph=True)
    close(fast(X), explain(net, X, target=1, layer="1"))
