"""What a layer returned, and the model writes to under another name: told where it matters, and nowhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

SAYS = "the model writes to what layer '{}' returned, which has other names"
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


class Keeps(nn.Module):
    """Keeps a view of what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.kept = nn.Linear(4, 4), [torch.zeros(0)]

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.fc(x))
        self.kept[0] = y.view(-1, 2, 2)
        return y


class Net(nn.Module):
    def __init__(self, how: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.more, self.keeps, self.drop, self.flat, self.head = (
            *(nn.Linear(4, 4), nn.Linear(4, 4), Keeps(), nn.Dropout(), nn.Flatten(), nn.Linear(4, 3)),
        )
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, torch.tanh(self.fc(x)))


def a_view_that_is_kept(net: Any, h: Tensor) -> Tensor:
    y = net.keeps(h)
    net.keeps.kept[0][:, 0].mul_(3.0)
    return net.head(y)


def its_input(net: Any, h: Tensor) -> Tensor:
    y = net.drop(h)
    h.mul_(3.0)
    return net.head(y)


def the_memory_of_its_input(net: Any, h: Tensor) -> Tensor:
    y = net.flat(h)  # a view
    h += 1
    return net.head(y)


def one_of_its_rows(net: Any, h: Tensor) -> Tensor:
    y = net.drop(h)
    h[:, 1] = 0
    return net.head(y).relu()


def under_its_own_name_where_the_other_is_read(net: Any, h: Tensor) -> Tensor:
    y = net.drop(h)
    y += 1
    return net.head(y * h)


def a_view_of_its_input(net: Any, h: Tensor) -> Tensor:
    y = net.flat(h)
    y.mul_(2.0)
    return net.head(y + h)


def after_it_was_read(net: Any, h: Tensor) -> Tensor:
    out = net.head(net.drop(h))
    h.mul_(3.0)
    return out * h.sum(1, keepdim=True)


def a_workspace(net: Any, h: Tensor) -> Tensor:
    out = net.head(net.keeps(h))
    net.keeps.kept[0].zero_()
    return out


def by_its_own_name_alone(net: Any, h: Tensor) -> Tensor:
    """Of two."""
    y = net.drop(h)
    y += 1
    return net.head(y)


def by_its_own_name(net: Any, h: Tensor) -> Tensor:
    y = net.more(h)
    y += 1
    y.mul_(torch.sigmoid(y))
    return net.head(y)


WRONG: list[tuple[Any, str]] = [
    *((a_view_that_is_kept, "keeps"), (its_input, "drop"), (the_memory_of_its_input, "flat"), (one_of_its_rows, "drop")),
    *((under_its_own_name_where_the_other_is_read, "drop"), (a_view_of_its_input, "flat")),
]
RIGHT: list[tuple[Any, str]] = [
    (after_it_was_read, "drop"),
    (a_workspace, "keeps"),
    (by_its_own_name, "more"),
    (by_its_own_name_alone, "drop"),
]
METHODS: list[Callable[..., Any]] = [
    fa.each_target(fa.gradient, [0, 2]),
    *(partial(method, target=1) for method in (fa.gradient, fa.input_x_gradient, fa.feature_ablation, fa.shapley, fa.lrp)),
    *(partial(fa.integrated_gradients, target=1, n_steps=4, chunk_size=size) for size in (None, 1)),
    *(partial(method, target=1) for method in (fa.conductance, fa.deep_lift, fa.noise_tunnel(fa.gradient, n_samples=2))),
]


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if "which has other names" in str(each.message)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: None)
@pytest.mark.parametrize(("how", "layer"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_write_that_does_not_reach_what_is_put_there_is_told_of_once(how: Any, layer: str, method: Any) -> None:
    told = said(lambda: method(Net(how).eval(), X, layer=layer))
    assert [text.startswith(SAYS.format(layer)) for text in told] == [True]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: None)
@pytest.mark.parametrize(("how", "layer"), RIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_one_that_nobody_reads_there_is_not(how: Any, layer: str, method: Any) -> None:
    assert said(lambda: method(Net(how).eval(), X, layer=layer)) == []


def test_the_value_alone_is_right() -> None:
    """Nothing is put there: it is what the layer returned."""
    net = Net(its_input).eval()
    assert said(lambda: fa.activation(net, X, layer="drop")) == []
    torch.testing.assert_close(fa.activation(net, X, layer="drop"), torch.tanh(net.fc(X)))


def test_under_a_transform_of_the_caller() -> None:
    net = Net(its_input).eval()
    told = said(lambda: torch.func.vmap(lambda x: fa.gradient(net, x[None], layer="drop", target=1))(X))
    assert len(told) == 1


def test_what_it_costs_where_nothing_is_written() -> None:
    """No pass."""
    net, runs = Net(by_its_own_name).eval(), []
    net.head.register_forward_hook(lambda *given: runs.append(1))
    fa.gradient(net, X, layer="more", target=1)
    assert len(runs) == 1


class InPlace(nn.Module):
    """Reads what a layer in place writes to under its old name, or does not."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.fc, self.act, self.more, self.head = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Linear(4, 3)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        y = self.more(self.act(h))
        return self.head(h + y if self.reads else y)  # type: ignore[no-any-return]  # a module returns any


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("method", METHODS[1:4], ids=lambda method: None)
def test_with_create_graph_the_old_name_of_a_layer_in_place(method: Any, reads: bool) -> None:
    net, x = InPlace(reads), X.clone().requires_grad_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method(net, x, layer="act", create_graph=True)
        method(net, x, layer=fa.input_of("act"), create_graph=True)  # which reaches it
    assert len([each for each in caught if "is read under its old name" in str(each.message)]) == reads
