"""Layers that write to what they are called with, where the model goes on with that under its old name: as their twins out of
place do, whose input has another name from there on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close
from ..methods import METHODS, Row


class Written(nn.Module):
    """Writes to its input, and does not say so."""

    def forward(self, h: Tensor) -> Tensor:
        return h.mul_(torch.sigmoid(h))


class Gate(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h * torch.sigmoid(h)


class Two(nn.Module):
    """Gives what it has written to beside something else."""

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h.relu_()
        return h, h.mean((2, 3))


class Net(nn.Module):
    """`how` says what becomes of the block's result and of its input; `twin` runs the block out of place."""

    def __init__(self, block: nn.Module, how: str, twin: bool) -> None:
        super().__init__()
        self.conv1, self.block, self.conv2 = nn.Conv2d(2, 3, 3), block, nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.fc, self.before = nn.ReLU(), nn.Linear(3, 4), nn.Identity()
        self.how, self.twin = how, twin

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv1(x))
        if self.how == "first" and self.twin:  # the block begins in place: all see what its first layer writes
            h = self.block[0](self.before(h))
            found = self.block[1](h)
        elif self.how == "by keyword":
            found = self.block(h=h)
        else:
            found = self.block(h)
        if isinstance(found, tuple):
            found, h = found[0] + found[1][..., None, None], found[0]
        elif self.how != "first":
            h = found if self.twin else h
        found = h if self.how == "ignored" else found
        return self.fc(self.act(self.conv2(found) + h).mean((2, 3)))


NETS: dict[str, tuple[str, Callable[[bool], nn.Module]]] = {
    "ignored": ("ignored", lambda twin: nn.ReLU(inplace=not twin)),
    "residual": ("both", lambda twin: nn.ReLU(inplace=not twin)),
    "by keyword": ("by keyword", lambda twin: Gate() if twin else Written()),
    "unsaid": ("both", lambda twin: Gate() if twin else Written()),
    "unsaid, ignored": ("ignored", lambda twin: Gate() if twin else Written()),
    "block": ("first", lambda twin: nn.Sequential(nn.ReLU(inplace=not twin), nn.Conv2d(3, 3, 1))),
    "tuple": ("both", lambda twin: Two()),
}
#: Of a layer in place its input and its output; of a block, its input: what comes out is new. And where in the twin.
PLACES: dict[str, list[tuple[Any, Any]]] = {
    name: [(fa.input_of("block"), "before")] if name == "block" else [("block", "block"), (fa.input_of("block"),) * 2]
    for name in NETS
}
PLACES["tuple"].pop()
ROWS = [row for row in METHODS if row.at_layer and not (row.draws or row.name == "guided_grad_cam")]
TARGET = torch.tensor([1, 3])


def pair(name: str) -> tuple[Net, Net, Tensor]:
    how, block = NETS[name]
    torch.manual_seed(3)
    net = Net(block(False), how, False).double().eval()
    twin = Net(block(True), how, True).double().eval()
    twin.load_state_dict(net.state_dict())
    return net, twin, torch.randn(2, 2, 6, 6, dtype=torch.float64)


def asked(row: Row, **more: Any) -> Callable[..., Any]:
    options = row.options | ({"target": TARGET} if row.targeted else {}) | more

    def ask(net: nn.Module, x: Tensor, layer: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the steps run one after another")
            return row.method(net, x, layer=layer, **options)

    return ask


def reads_two(row: Row, name: str) -> bool:
    """Of a tuple: CAMs have no channels there."""
    return name == "tuple" and row.convolutional


CASES = [(name, row) for name in NETS for row in ROWS if not reads_two(row, name) and name != "tuple"]


@pytest.mark.parametrize(("name", "row"), CASES, ids=[f"{name}-{row.name}" for name, row in CASES])
def test_in_place_is_as_out_of_place(name: str, row: Row) -> None:
    net, twin, x = pair(name)
    assert torch.equal(net(x), twin(x))
    for layer, there in PLACES[name]:
        close(asked(row)(net, x, layer), asked(row)(twin, x, there), 1e-9)


@pytest.mark.filterwarnings("ignore:what layer .* writes to is read under its old name")
def test_the_score_is_the_models() -> None:
    """Law 1, at every place: what is put there reaches all who hold what the layer writes to."""
    for name, places in PLACES.items():
        net, _, x = pair(name)
        for layer, _ in places:
            value_at, rest = fa.split(net, layer)
            close(rest(value_at(x), x), net(x))


@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_what_a_hook_writes() -> None:
    """Of somebody's, around a layer of torch's that writes to nothing."""
    net, twin, x = pair("residual")
    net.block = nn.Identity()
    net.block.register_forward_hook(lambda layer, args, output: output.relu_())
    for method in (
        fa.input_x_gradient,
        functools.partial(fa.feature_ablation, feature_mask=torch.arange(3).reshape(1, 3, 1, 1)),
    ):
        close(method(net, x, layer="block", target=TARGET), method(twin, x, layer="block", target=TARGET))


def test_dropout_that_is_off_writes_nothing() -> None:
    """Nor does it say more than nn.Dropout() does: the input that goes on beside it is not its value."""
    net, twin, x = pair("residual")
    net.block, twin.block = nn.Dropout(inplace=True), nn.Dropout()
    twin.twin = False
    for layer in ("block", fa.input_of("block")):
        for method in (fa.input_x_gradient, fa.integrated_gradients):
            ask = functools.partial(method, layer=layer, target=TARGET)
            close(ask(net.eval(), x), ask(twin.eval(), x))


def test_a_tuple() -> None:
    net, _, x = pair("tuple")
    found = fa.integrated_gradients(net, x, layer="block", target=TARGET, n_steps=60)
    value_at, rest = fa.split(net, "block")
    gap = (net(x) - rest(value_at(torch.zeros_like(x)), x)).gather(1, TARGET[:, None])[:, 0]
    close(sum(part.flatten(1).sum(1) for part in found), gap, 1e-2)


@pytest.mark.parametrize("chunk_size", [1, 2, None])
@pytest.mark.parametrize("name", ["ignored", "residual", "block"])
def test_steps_at_once_or_one_after_another(name: str, chunk_size: int | None) -> None:
    """A vmap has no room where the layer writes: it is tried, and seen, and the steps run one after another."""
    net, twin, x = pair(name)
    groups = {"feature_mask": torch.arange(3).reshape(1, 3, 1, 1)}
    for method, options in ((fa.integrated_gradients, {"n_steps": 4}), (fa.feature_ablation, groups), (fa.shapley, groups)):
        ask = functools.partial(method, target=TARGET, chunk_size=chunk_size, **options)  # type: ignore[arg-type]  # each its own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the steps run one after another")
            for layer, there in PLACES[name]:
                close(ask(net, x, layer=layer), ask(twin, x, layer=there), 1e-9)


def test_where_the_layers_own_result_goes_on_nothing_is_slower() -> None:
    """As nearly all models do: ``h = relu(h)``."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 4)).double()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.integrated_gradients(net, x, layer="1", target=TARGET, n_steps=5)
        fa.feature_ablation(net, x, layer="1", target=TARGET, feature_mask=torch.arange(3).reshape(1, 3, 1, 1))
    net[1] = nn.ReLU()
    close(found, fa.integrated_gradients(net, x, layer="1", target=TARGET, n_steps=5))


@pytest.mark.parametrize(
    ("name", "method"),
    breadth(
        [(name, method) for name in ("ignored", "residual") for method in (fa.input_x_gradient, fa.deep_lift, fa.grad_cam)],
        lambda case: case == ("residual", fa.input_x_gradient),
        several=True,
    ),
)
def test_compiled(name: str, method: Any) -> None:
    net, _, x = pair(name)
    for layer, _ in PLACES[name]:
        found = torch.compile(lambda x: method(net, x, layer=layer, target=TARGET), backend="aot_eager", fullgraph=True)(x)  # noqa: B023  (called here)
        close(found, method(net, x, layer=layer, target=TARGET), 1e-9)


def test_compiled_steps_at_once_are_not_wrong_in_silence() -> None:
    """Nobody can look there whether the layer's input is read under its old name: what is, is NaN."""
    net, _, x = pair("ignored")
    ask = functools.partial(fa.integrated_gradients, net, layer="block", target=TARGET, n_steps=2)
    assert torch.compile(ask, backend="aot_eager", fullgraph=True)(x).isnan().all()
