"""Programs: what `export` makes of a method gives what the method gives, at batches of any size; and what is refused, why."""

from __future__ import annotations

import io
import logging
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import funattr as fa

from ..breadth import breadth
from ..close import close, close_and_not_zero
from ..exported import NETS, Cell, cells

pytestmark = pytest.mark.skipif(torch.__version__ < "2.4", reason="programs need torch 2.4")

DRAWN = ("gradient_shap", "noise_tunnel", "lime")
CELLS = [cell for cell in cells() if not cell.name.startswith(DRAWN)]
KEPT = {
    "grad_cam, at a layer of CNN",
    "integrated_gradients, at a layer of MLP",
    "feature_ablation, with a mask, at a layer of MLP",
}


def run_at(program: Any, net: Any, cell: Cell, *sizes: int) -> None:
    run, model = program.module(), net.model()
    for size in sizes:
        x = net.x(size)
        close_and_not_zero(run(x), cell.method(model, x, **cell.options), 1e-6)


def some(cell: Cell) -> bool:
    """Of the MLP at a layer, of the CNN at the input and with maps: `scripts/export_table.py` tries all."""
    at_layer = cell.name.endswith("at a layer")
    return (cell.net == "MLP" and at_layer) or (cell.net == "CNN" and (not at_layer or "cam" in cell.name))


@pytest.mark.parametrize("cell", breadth(list(filter(some, CELLS)), lambda cell: repr(cell) in KEPT), ids=repr)
def test_a_program_is_the_method_at_any_batch(cell: Cell) -> None:
    net = NETS[cell.net]
    model = net.model()
    program = fa.export(cell.method, model, net.x(2), **cell.options)
    run_at(program, net, cell, 1, 5, 7)
    assert set(model.state_dict()) >= {name for name in program.state_dict if "constant" not in name}


OF_VIT = ("grad_cam,", "integrated_gradients, at a layer", "deep_lift,", "feature_ablation, with", "shapley")


@pytest.mark.full
@pytest.mark.parametrize("cell", [c for c in CELLS if c.net == "ViT" and c.name.startswith(OF_VIT)], ids=repr)
def test_of_a_transformer(cell: Cell) -> None:
    net = NETS["ViT"]
    run_at(fa.export(cell.method, net.model(), net.x(3), **cell.options), net, cell, 1, 2, 6)


@pytest.mark.full
@pytest.mark.parametrize("rules", [fa.rules.attn_lrp(), fa.rules.epsilon_plus(), fa.rules.flat()], ids=["attn", "plus", "flat"])
def test_rules_of_a_transformer(rules: Any) -> None:
    net = NETS["ViT"]
    cell = Cell("ViT", "lrp", fa.lrp, {"target": "argmax", "rules": rules})
    run_at(fa.export(cell.method, net.model(), net.x(3), **cell.options), net, cell, 1, 2, 6)


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *layers, nn.Linear(8, 3)).eval().double()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()


BY_HAND: dict[str, Any] = {
    "paths": partial(fa.integrated_gradients, layer="1", target=1, n_steps=4, chunk_size=3),
    "rates": partial(fa.conductance, layer="1", target=1, n_steps=4),
    "targets": fa.each_target(fa.input_x_gradient, range(3)),
    "masks": partial(fa.feature_ablation, target=1, feature_mask=torch.tensor([5, 0, 5, 9]), chunk_size=2),
    "channels": partial(fa.ablation_cam, layer="1", target=1),
    "a class for each": partial(fa.feature_ablation, target="argmax"),
}


@pytest.mark.parametrize("name", breadth(BY_HAND, lambda name: name in ("paths", "masks")))
def test_traced_by_hand(name: str) -> None:
    """Who calls make_fx without us, with all sizes symbols, gets a graph for any batch, too."""
    method, y = partial(BY_HAND[name], net()), torch.cat([X, -X])
    graph = make_fx(method, tracing_mode="symbolic", _allow_non_fake_inputs=True)(X)
    close_and_not_zero(graph(y), method(y))


# What goes in and out.


def test_one_class_for_each_is_an_input() -> None:
    model, targets = net(), torch.tensor([2, 0, -1])
    run = fa.export(fa.gradient, model, X, target=targets).module()
    y, other = torch.cat([X, X]), torch.tensor([0, 1, 2, 2, 1, 0])
    close_and_not_zero(run(y, other), fa.gradient(model, y, target=other))
    alone = fa.export(fa.gradient, model, X[:1], target=torch.tensor([1])).module()
    close_and_not_zero(alone(y, other), fa.gradient(model, y, target=other))
    constant = fa.export(fa.gradient, model, X, target=torch.tensor([1])).module()  # one class for all three
    close_and_not_zero(constant(y), fa.gradient(model, y, target=1))


def test_a_baseline_for_each_is_an_input() -> None:
    model, y = net(), torch.cat([X, X])
    run = fa.export(fa.integrated_gradients, model, X, target=0, n_steps=4, baselines=X.flip(0)).module()
    close_and_not_zero(run(y, -y), fa.integrated_gradients(model, y, target=0, n_steps=4, baselines=-y))
    run = fa.export(fa.integrated_gradients, model, X, target=0, n_steps=4, baselines=X[:1]).module()
    close_and_not_zero(run(y), fa.integrated_gradients(model, y, target=0, n_steps=4, baselines=X[:1]))


@pytest.mark.parametrize("kind", breadth(["list", "array", "bound"], lambda kind: kind == "bound"))
def test_classes_in_any_form_are_an_input(kind: str) -> None:
    given: Any = {"list": [2, 0, -1], "array": np.array([2, 0, -1]), "bound": torch.tensor([2, 0, -1])}[kind]
    method, options = (partial(fa.gradient, target=given), {}) if kind == "bound" else (fa.gradient, {"target": given})
    run, y, other = fa.export(method, net(), X, **options).module(), torch.cat([X, X]), torch.tensor([0, 1, 2, 2, 1, 0])
    close_and_not_zero(run(y, other), fa.gradient(net(), y, target=other))


@pytest.mark.full
def test_baselines_of_several_inputs_are_inputs() -> None:
    model, x, y = nn.Bilinear(4, 4, 3).double(), (X, X.flip(0)), (X[:2] ** 2, X[:2])
    run = fa.export(fa.integrated_gradients, model, x, target=0, n_steps=3, baselines=(-X, X + 1)).module()
    found, expected = (
        run(*y, -y[0], y[1] + 1),
        fa.integrated_gradients(model, y, target=0, n_steps=3, baselines=(-y[0], y[1] + 1)),
    )
    close_and_not_zero(found[0], expected[0])
    close_and_not_zero(found[1], expected[1])


@pytest.mark.full
@pytest.mark.parametrize("method", [fa.deep_lift_shap, fa.mean_over_baselines(fa.deep_lift)])
def test_a_distribution_is_a_constant_however_many_it_has(method: Any) -> None:
    run = fa.export(method, net(), X, target=[0, 1, 2], baselines=X.flip(1)).module()  # as many as examples
    y, target = torch.cat([X, X**2]), torch.tensor([0, 1, 2, 2, 1, 0])
    close_and_not_zero(run(y, target), method(net(), y, target=target, baselines=X.flip(1)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.number, self.out = nn.Embedding(9, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, ids: Tensor, table: Tensor) -> dict[str, Tensor]:
        found = self.out(torch.tanh(self.embed(ids).mean(1) + self.number(table)) * self.scale)
        return {"logits": found}


def test_inputs_by_name() -> None:
    model, ids = TwoInputs().double().eval(), torch.tensor([[1, 2], [3, 4], [5, 0]])
    y = (torch.tensor([[1, 8]] * 5), torch.randn(5, 4).double())
    named = fa.export(fa.gradient, model, {"table": X, "ids": ids}, layer="embed", target=torch.tensor([0, 1, 2]))
    target = torch.tensor([0, 1, 2, 1, 0])
    found = named.module()(ids=y[0], table=y[1], target=target)
    close_and_not_zero(found, fa.gradient(model, y, layer="embed", target=target))
    assert set(named.state_dict) == set(model.state_dict())


@pytest.mark.full
def test_inputs_by_position() -> None:
    model, ids = TwoInputs().double().eval(), torch.tensor([[1, 2], [3, 4], [5, 0]])
    y = (torch.tensor([[1, 8]] * 5), torch.randn(5, 4).double())
    run = fa.export(fa.integrated_gradients, model, (ids, X), layer=["embed", "number"], target=1, n_steps=3).module()
    close_and_not_zero(run(*y), fa.integrated_gradients(model, y, layer=["embed", "number"], target=1, n_steps=3))


def test_results_are_the_methods_own() -> None:
    model = net()
    run = fa.export(fa.gradient, model, X, layer={"a": "0", "b": ["1", "2"]}, target=1).module()
    found, expected = run(X[:1]), fa.gradient(model, X[:1], layer={"a": "0", "b": ["1", "2"]}, target=1)
    assert set(found) == {"a", "b"}
    close(found["b"][1], expected["b"][1])
    assert not found["a"].requires_grad


def test_it_is_saved_and_loaded() -> None:
    model, file = net(), io.BytesIO()
    torch.export.save(fa.export(partial(fa.gradient, layer="1"), model, X, target=1), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    close_and_not_zero(loaded(X[:2]), fa.gradient(model, X[:2], layer="1", target=1))


def test_a_batch_of_one_size() -> None:
    model = net()
    program = fa.export(fa.conductance, model, X, dynamic_batch=False, layer="1", target=1, n_steps=4)
    close_and_not_zero(program.module()(-X), fa.conductance(model, -X, layer="1", target=1, n_steps=4))
    assert not program.range_constraints


def test_the_model_is_left_as_found() -> None:
    model = net(nn.BatchNorm1d(8))
    before = {name: (value, value.clone(), value.requires_grad) for name, value in model.state_dict(keep_vars=True).items()}
    keys = [set(module.__dict__) for module in model.modules()]
    fa.export(fa.conductance, model, X, layer="1", target=1, n_steps=3)
    for name, value in model.state_dict(keep_vars=True).items():
        same, data, requires_grad = before[name]
        assert value is same
        assert value.requires_grad is requires_grad
        torch.testing.assert_close(value, data, rtol=0, atol=0)
    assert [set(module.__dict__) for module in model.modules()] == keys
    assert not any(module._forward_hooks for module in model.modules())


# Models whose rows meet, or that hold something of the batch.


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5 * x.mean(0)


def test_a_model_whose_rows_meet() -> None:
    """Points in one batch would meet each other: shown of the program, which then runs them one after another."""
    model, y = net(Mixing()), torch.cat([X, X**2])
    places: list[dict[str, Any]] = [{}, {"layer": "2"}]
    for options in places:
        program = fa.export(fa.integrated_gradients, model, X, target=1, n_steps=3, **options)
        for batch in (y, y[:2], y[:1]):
            expected = fa.integrated_gradients(model, batch, target=1, n_steps=3, **options)
            close(program.module()(batch), expected)


def test_sizes_that_are_the_batchs_by_chance() -> None:
    """A layer as wide as the batch is no batch."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    x = torch.randn(5, 5).double()
    program = fa.export(fa.integrated_gradients, model, x, target=1, layer="0", n_steps=3).module()
    for size in (1, 2, 3, 5):
        close_and_not_zero(program(x[:size]), fa.integrated_gradients(model, x[:size], target=1, layer="0", n_steps=3))


# What is written in place, and what a model keeps.


class Residual(nn.Module):
    """Blocks as people write them, with ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.side, self.out = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.relu(self.first(x)))
        y += self.side(x)
        return self.out(self.relu(y))


WRITTEN: dict[str, Any] = {
    "targets": fa.each_target(fa.deep_lift, [0, 2]),
    "rules": fa.each_target(fa.lrp, [0, 2]),
    "ablation": partial(fa.feature_ablation, layer="norm", target=1),
    "a path": partial(fa.integrated_gradients, layer="norm", target=1, n_steps=20),
}


@pytest.mark.parametrize("name", breadth(WRITTEN, lambda name: name == "ablation"))
def test_operations_in_place_are_not_taken_for_one(name: str) -> None:
    """And what lies beside the layer has a row for each point, too: in one batch, not in 20 copies of what follows it."""
    model, method, y = Residual().double().eval(), WRITTEN[name], torch.cat([X, X**2])
    program = fa.export(method, model, X)
    close_and_not_zero(program.module()(y), method(model, y))
    assert len(program.graph.nodes) < 250


@pytest.mark.full
def test_what_was_tried_and_failed_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """In one batch from the layer on, the shortcut has too few rows, and torch logs that with a traceback."""
    model, method = Residual().double().eval(), partial(fa.integrated_gradients, layer="norm", target=1, n_steps=3)
    program = fa.export(method, model, X, dynamic_batch=False)
    close_and_not_zero(program.module()(-X), method(model, -X))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Keeps(nn.Module):
    runs: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.register_buffer("runs", torch.ones(()))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y = self.linear(x)
        self.seen.add_(y.mean(0).detach())
        return y * torch.tanh(self.runs) + y * y


def with_norm_in_train_mode() -> nn.Module:
    torch.manual_seed(0)
    last = [nn.Unflatten(1, (1, 4)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), *last).double().train()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*(train mode|one after another)")
@pytest.mark.parametrize("model", [Keeps().double(), with_norm_in_train_mode()], ids=["keeps", "norm"])
def test_what_a_model_keeps_is_as_it_was(model: nn.Module) -> None:
    before, held = {name: t.clone() for name, t in model.state_dict().items()}, {id(t) for t in model.buffers()}
    run = fa.export(fa.integrated_gradients, model, X, target=1, n_steps=3).module()
    for _ in range(2):
        close_and_not_zero(run(X**2), fa.integrated_gradients(model, X**2, target=1, n_steps=3))
    assert {id(t) for t in model.buffers()} == held
    for name, t in model.state_dict().items():
        torch.testing.assert_close(t, before[name], rtol=0, atol=0)


FUNCTIONS: dict[str, Any] = {
    "a lambda": lambda x: (x**2).sum(1)[:, None].expand(-1, 2),
    "a bound tensor": partial(torch.mul, torch.tensor([1.0, -2.0, 3.0, 0.5]).double()),
}


@pytest.mark.parametrize("name", breadth(FUNCTIONS, lambda name: name == "a lambda"))
def test_functions(name: str) -> None:
    """Of a function nobody knows whether it draws: what watches for that is no part of the program."""
    run = fa.export(fa.input_x_gradient, FUNCTIONS[name], X, target=1).module()
    close_and_not_zero(run(X[:2]), fa.input_x_gradient(FUNCTIONS[name], X[:2], target=1))


@pytest.mark.full
def test_what_cancels_out_is_equal_to_rounding() -> None:
    """The mean of the gradient before an instance norm is zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(50, 3)).double()
    x = torch.randn(2, 1, 7, 7).double()
    assert fa.export(fa.grad_cam, model, x, layer="0", target=1).module()(x).abs().max() < 1e-12


# What cannot be.


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Holds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(3.0).to(x)[:, None] * x if x.shape[0] == 3 else x


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


WRONG: dict[str, tuple[Any, nn.Module, dict[str, Any], str]] = {
    "a branch": (
        fa.gradient,
        net(Branches()),
        {},
        r"at test_export.py:\d+, in forward, the values of a tensor decide what runs",
    ),
    "a drawing method": (
        partial(fa.gradient_shap, baselines=torch.zeros(2, 4).double()),
        net(),
        {},
        r"the method draws random numbers \(aten\.\w+.*and draw outside",
    ),
    "noise": (fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.1), net(), {}, r"the method draws random numbers"),
    "a counted batch": (fa.gradient, net(Counts()), {}, r"as len\(x\) does: write x\.shape\[0\]"),
    "a batch of its own": (
        fa.gradient,
        net(Holds()),
        {},
        r"for a batch of 3 is not what the method gives.*dynamic_batch=False",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_a_program_is_told_why(name: str) -> None:
    method, model, options, text = WRONG[name]
    with pytest.raises(ValueError, match=text) as told:
        fa.export(method, model, X, target=1, **options)
    assert str(told.value).startswith("export(target=1")
    assert "cannot be a program for batches of any size: " in str(told.value)


OF_ONE_BATCH: dict[str, tuple[Any, dict[str, Any]]] = {
    "indices": (fa.gradient, {"target": [(0,), (1,), (2,)]}),
    "a mask": (fa.feature_ablation, {"target": 1, "feature_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 2, 2]])}),
    "targets of a combinator": (fa.each_target(fa.gradient, torch.tensor([[0, 1, 2], [2, 1, 0]])), {}),
}


@pytest.mark.parametrize("name", breadth(OF_ONE_BATCH, lambda name: name == "indices"))
def test_what_is_for_the_examples_of_one_batch_is_told(name: str) -> None:
    method, options = OF_ONE_BATCH[name]
    with pytest.raises(ValueError, match=r"an argument is for the examples of x alone.*Pass dynamic_batch=False") as told:
        fa.export(method, net(), X, **options)
    assert not re.search(r"\bs\d+\b", str(told.value))
    program = fa.export(method, net(), X, dynamic_batch=False, **options)
    close_and_not_zero(program.module()(-X), method(net(), -X, **options))


def test_a_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rtol= chooses nodes by what it finds.*pass n_steps= in its place"):
        fa.export(fa.integrated_gradients, net(), X, target=1, rtol=0.9)


def test_a_model_in_train_mode_draws() -> None:
    model = net(nn.Dropout(0.5)).train()
    with pytest.warns(UserWarning, match="train mode"), pytest.raises(ValueError, match=r"model draws .* model\.eval\(\)"):
        fa.export(fa.gradient, model, X, target=1)


def test_mistakes_are_told_as_the_method_tells_them() -> None:
    with pytest.raises(ValueError, match=r"export\(layer='9', target=1\): .*has no layer '9'"):
        fa.export(fa.grad_cam, net(), X, layer="9", target=1)
    wrong: Any = "grad_cam"
    with pytest.raises(TypeError, match="expected a method"):
        fa.export(wrong, net(), X)
    wrong = 1
    with pytest.raises(TypeError, match="dynamic_batch must be True or False, got int 1"):
        fa.export(fa.gradient, net(), X, target=1, dynamic_batch=wrong)
