"""Models that are functions: the modules that they name keep state and are in train mode as a module that is passed is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Keeps(nn.Module):
    """A stream: what it saw before is in what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh()
        self.before = y if self.before is None else self.before / 2 + y
        return self.before + y


class Calls:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)

    def run(self, x: Tensor) -> Tensor:
        return self.net(x)


class OfTheFile:
    def __call__(self, x: Tensor) -> Tensor:
        return NET(x)


class Inherits(OfTheFile):
    pass


def inherited(net: nn.Module) -> Inherits:
    global NET
    NET = net
    return Inherits()


def around(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x)


def decorated(net: nn.Module) -> Callable[[Tensor], Tensor]:
    inner = around(net)

    @functools.wraps(inner)
    def outer(x: Tensor) -> Tensor:
        return inner(x)

    return outer


def default(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor, run: Any = net, *, also: Any = None) -> Tensor:
        return run(x)

    return model


def of_the_file(net: nn.Module) -> Callable[[Tensor], Tensor]:
    global NET
    NET = net
    return lambda x: NET(x)


def listed(net: nn.Module) -> Callable[[Tensor], Tensor]:
    nets = {"all": [net]}
    return lambda x: nets["all"][0](x)


NET: nn.Module
SPELLINGS: list[Callable[[nn.Module], Any]] = [
    *(around, decorated, default, of_the_file, inherited, listed, Calls),
    lambda net: Calls(net).run,
    lambda net: functools.partial(lambda m, x: m(x), net),
    lambda net: lambda x: around(net)(x),
]


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize("method", [fa.feature_ablation, fa.gradient, fa.integrated_gradients])
def test_a_function_around_a_stream_is_the_stream(spelled: Callable[[nn.Module], Any], method: Any) -> None:
    torch.manual_seed(0)
    net, x = Keeps().double(), torch.randn(3, 4, dtype=torch.float64)
    expected = method(net, x, target=1)
    model = spelled(net)
    torch.testing.assert_close(method(model, x, target=1), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(method(model, x, target=1), expected, rtol=0, atol=1e-14)
    assert net.before is None


def test_a_function_around_a_net_in_train_mode_is_told_of_and_learns_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    with pytest.warns(UserWarning, match="train mode with batch norm"):
        fa.saliency(around(net), torch.randn(5, 4), target=1)
    assert torch.equal(norm.running_mean, before)
