"""What a model writes behind the graph's back, where sums are promised: it is said. And values written through views, where the
sums hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from .close import close

D = 4


class Net(nn.Module):
    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.does = nn.Linear(D, D).double(), nn.Linear(D, 2).double(), does

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.does(self.first(x))))


def after(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def does(h: Tensor) -> Tensor:
        write(h)
        return h

    return does


def assigned(h: Tensor) -> None:
    h.data = h.data * 2


def of_numpy(h: Tensor) -> None:
    h.detach().numpy()[...] *= 2


def hooked(h: Tensor, factor: float = 2.0) -> None:
    if h.requires_grad:
        h.register_hook(lambda g: g * factor)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda h: h.data.mul_(2),
    "part of data": lambda h: h.data[:, :2].mul_(2),
    "detach": lambda h: h.detach().mul_(2),
    "no_grad": torch.no_grad()(lambda h: h.mul_(2)),
    "item of data": lambda h: h.data.__setitem__((slice(None), 0), 3.0),
    "assigned": assigned,
    "numpy": of_numpy,
    "hook": hooked,
}
KEPT: dict[str, Callable[[Tensor], Any]] = {
    "of a copy": lambda h: h.detach().clone().mul_(2),
    "data that is read": lambda h: h.data.abs().sum(),
    "numpy that reads": lambda h: h.detach().numpy().sum(),
    "a hook that looks": lambda h: hooked(h, 1.0),
    "in the graph": lambda h: h.mul_(2),
    "numpy, and then the graph": lambda h: (h.detach().numpy().sum(), h.mul_(2)),
    "a table": torch.no_grad()(lambda h: torch.zeros_like(h).copy_(h)),
}


def said(method: Any, does: Callable[[Tensor], Any], layer: Any) -> list[str]:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        method(Net(after(does)), torch.randn(3, D).double(), layer=layer, target=0)
    return [str(warning.message) for warning in met]


def lifted(*given: Any, **asked: Any) -> Any:
    return fa.deep_lift(*given, baselines=0.0, **asked)


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", WRITES)
def test_it_is_said_once(name: str, layer: Any) -> None:
    (text,) = said(lifted, WRITES[name], layer)
    assert "miss the difference of the scores" in text
    (text,) = said(fa.lrp, WRITES[name], layer)
    assert "relevance does not sum to the score" in text


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", KEPT)
def test_nothing_is_said_of_what_changes_nothing(name: str, layer: Any) -> None:
    assert said(lifted, KEPT[name], layer) == []
    assert said(fa.lrp, KEPT[name], layer) == []


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice": after(lambda h: h[:, :2].mul_(2)),
    "a slice, augmented": after(lambda h: h.__setitem__((slice(None), slice(2)), h[:, :2] * 2)),
    "reshaped, by halves": after(lambda h: h.view(-1, 2, 2)[:, 0].relu_()),
    "a view of a view": after(lambda h: h[:, 1:][:, :2].add_(1)),
    "a function that returns a view": Same.apply,
}


@pytest.mark.filterwarnings("ignore:operations without a rule keep their gradient")
@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", VIEWS)
def test_what_is_written_through_a_view_is_absorbed(name: str, layer: Any) -> None:
    torch.manual_seed(0)
    net, x = Net(VIEWS[name]), torch.randn(3, D).double()
    kept = fa.absorbed(net, x, layer=layer, target=0, rules=fa.rules.epsilon())
    relevance = fa.lrp(net, x, layer=layer, target=0, rules=fa.rules.epsilon())
    close(relevance.sum(1) + sum(kept.values()), net(x)[:, 0])
