"""Every method under torch.compile, in one graph: equal to the eager result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call

import funattr as fa

from ..breadth import breadth, full
from ..close import close
from ..methods import METHODS, NO_CHANGE, Row, seed
from ..models import CASES, MIXING, SPELLINGS, Case, Residual, Text, double
from ..pairs import PAIRS, TARGET, options_of, sites_of, state
from ..reference import leaves

#: One pair per method, and one per net: compiling all of them takes too long.
COMPILED = [(case, row) for case, row in PAIRS if case.name == "residual" or row.name == "input_x_gradient"]
#: torch.compile refuses nn.LSTM by itself, whatever is asked of it; and LIME draws in Python, which cannot be traced.
COMPILED = [(case, row) for case, row in COMPILED if case.name != "recurrent" and row.name != "lime"]
COMPILED += [(case, row) for case in MIXING for row in METHODS if row.name == "input_x_gradient" and case.name != "frames"]


#: One method of each engine, at both ends of the net. The others are at its last layer, or at its input.
ENGINES = {
    "grad_cam",
    "integrated_gradients",
    "conductance",
    "deep_lift",
    "deep_lift_shap",
    "lrp",
    "feature_ablation",
    "shapley",
}
#: Of these, one of each kind runs always.
ALWAYS = {("residual", name) for name in ("grad_cam", "guided_backprop")} | {("writes", "input_x_gradient")}


def always(pair: tuple[Case, Row]) -> bool:
    return (pair[0].name, pair[1].name) in ALWAYS


@pytest.mark.parametrize(
    ("case", "row"), breadth(COMPILED, always, several=True), ids=[f"{case.name}-{row.name}" for case, row in COMPILED]
)
def test_compiled_equals_eager(case: Case, row: Row) -> None:
    model, x = double(case)
    more = tuple(part.flip(0) for part in x) if isinstance(x, tuple) else x.flip(0)
    before = state(model)
    sites = sites_of(row, case)
    for site in [sites[0], sites[-1]] if row.name in ENGINES else [sites[-1]]:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(row.method, fullgraph=True, backend=counter)
        eager = row.method(model, x, layer=site, **options_of(row, TARGET))
        seed()
        found = compiled(model, x, layer=site, **options_of(row, TARGET))
        close(found, eager)
        assert not any(t.requires_grad for t in leaves(found))  # no graph that nobody asked for is held by it
        # Other data, another target: the same graph.
        eager = row.method(model, more, layer=site, **options_of(row, TARGET.flip(0)))
        seed()
        close(compiled(model, more, layer=site, **options_of(row, TARGET.flip(0))), eager)
        assert counter.frame_count == 1
    assert state(model) == before


@pytest.mark.parametrize("spelling", breadth(SPELLINGS, lambda spelling: spelling == "mixed"))
def test_compiled_rules_meet_every_spelling_of_relu(spelling: str) -> None:
    model, x = Residual(spelling).double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for method in (fa.guided_backprop, fa.deconvnet):
        torch._dynamo.reset()
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, x, target=1), method(model, x, target=1))


AGAIN = [fa.guided_backprop, fa.deconvnet, fa.input_x_gradient, fa.guided_grad_cam, fa.integrated_gradients, fa.deep_lift]


@pytest.mark.parametrize("method", breadth([*AGAIN, fa.feature_ablation], lambda m: m is fa.input_x_gradient))
def test_compiled_results_can_be_differentiated(method: Any) -> None:
    """Second derivatives through a compiled method: where Dynamo's own autograd.Function goes wrong."""
    model, x = double(CASES[2])

    def slope(method: Any) -> Any:
        leaf = x.clone().requires_grad_()
        found = method(model, leaf, layer="layer1", target=TARGET, create_graph=True)
        return torch.autograd.grad(found.square().sum(), leaf)[0]

    close(slope(torch.compile(method, fullgraph=True, backend="aot_eager")), slope(method))


@full
def test_compiled_with_inductor() -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.guided_grad_cam, fullgraph=True)
    close(compiled(model, x, layer="layer1", target=TARGET), fa.guided_grad_cam(model, x, layer="layer1", target=TARGET), 1e-8)


TARGETS = [3, (3,), [3, 0, 0, 1], torch.tensor([2]), "argmax", fa.neuron("layer2", (1, 2, 2)), lambda y: y[:, 0]]


@pytest.mark.parametrize("target", breadth(TARGETS, lambda target: isinstance(target, (str, type(fa.neuron("layer2", 1))))))
def test_compiled_targets(target: Any) -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="stem", target=target), fa.gradient(model, x, layer="stem", target=target))


@pytest.mark.full
def test_compiled_on_several_layers_and_a_composition() -> None:
    model, x = double(CASES[2])
    sites = {"a": ["stem", None], "b": fa.input_of("layer2")}
    own = fa.multiply(fa.relu(fa.gradient), fa.input_x_gradient)
    for method in (fa.input_x_gradient, own):
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, x, layer=sites, target=1), method(model, x, layer=sites, target=1))


def test_compiled_value_and_gradient_and_split() -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.value_and_gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="layer1", target=1), fa.value_and_gradient(model, x, layer="layer1", target=1))

    def own(model: Any, x: Any) -> Any:
        value_at, rest = fa.split(model, "layer1")
        value = value_at(x)
        return torch.func.grad(lambda v: fa.score(rest(v, x), 1).sum())(value) * value

    compiled_own = torch.compile(own, fullgraph=True, backend="aot_eager")
    close(compiled_own(model, x), fa.input_x_gradient(model, x, layer="layer1", target=1))


def mapped_text() -> tuple[Text, torch.Tensor, torch.Tensor]:
    return Text().double().eval(), torch.randint(0, 20, (4, 7)), torch.rand(4, 7, dtype=torch.float64)


def bound() -> tuple[Any, Any, dict[str, Any]]:
    text, ids, mask = mapped_text()
    return functools.partial(text, mask=mask), ids, {"layer": "mix"}


def by_keyword() -> tuple[Any, Any, dict[str, Any]]:
    text, ids, mask = mapped_text()
    return text, {"ids": ids, "mask": mask}, {"layer": "mix"}


def functional() -> tuple[Any, Any, dict[str, Any]]:
    net, x = double(CASES[2])
    parameters: dict[str, Any] = dict(net.named_parameters())
    return functools.partial(torch.func.functional_call, net, parameters), x, {"layer": "layer1"}


def wrapped(wrap: Callable[[Any], Any], layer: Callable[[Any], Any] = lambda net: "layer1") -> Callable[[], Any]:
    def kind() -> tuple[Any, Any, dict[str, Any]]:
        net, x = double(CASES[2])
        return wrap(net), x, {"layer": layer(net)}

    return kind


def two_inputs() -> tuple[Any, Any, dict[str, Any]]:
    return *double(next(case for case in CASES if case.name == "two")), {}


#: Each way to hand over a model, and an input in each form.
KINDS: dict[str, Callable[[], tuple[Any, Any, dict[str, Any]]]] = {
    "bound": bound,
    "by keyword": by_keyword,
    "functional": functional,
    "compiled": wrapped(lambda net: torch.compile(net, backend="eager")),
    "data parallel": wrapped(torch.nn.DataParallel),
    "lambda": wrapped(lambda net: lambda v: net(v), lambda net: net.layer1),
    "method": wrapped(lambda net: net.forward),
    "two inputs": two_inputs,
}


@pytest.mark.parametrize("kind", breadth(KINDS, lambda kind: kind == "method"))
def test_compiled_models_of_every_kind(kind: str) -> None:
    model, given, options = KINDS[kind]()
    for method in (fa.input_x_gradient, functools.partial(fa.integrated_gradients, n_steps=3)):
        torch._dynamo.reset()
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, given, target=1, **options), method(model, given, target=1, **options))


@full
def test_compiled_path_methods_twice_in_one_graph_and_with_another_number_of_steps() -> None:
    model, x = double(CASES[2])

    def both(model: Any, x: Any, n: int) -> Any:
        path = fa.integrated_gradients(model, x, target=1, n_steps=n)
        return path - fa.conductance(model, x, layer="layer1", target=1, n_steps=4).sum()

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for n in (5, 7, 3):
        close(compiled(model, x, n), both(model, x, n))


def test_compiled_with_other_hooks_on_the_layer() -> None:
    model, x = double(CASES[2])
    handle = model.layer1.register_forward_hook(lambda module, args, output: output * 2)
    eager = fa.input_x_gradient(model, x, layer="layer1", target=TARGET)
    compiled = torch.compile(fa.input_x_gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="layer1", target=TARGET), eager)
    handle.remove()
    torch._dynamo.reset()
    assert not torch.allclose(fa.input_x_gradient(model, x, layer="layer1", target=TARGET), eager)


class Norms(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3), norm, nn.ReLU()
        self.drop, self.fc = nn.Dropout(0.0), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.act(self.norm(self.conv(x))).square().mean((2, 3))))


TRAINED: dict[str, Callable[..., Any]] = {
    "activation": lambda net, x: fa.activation(net, x, layer="act"),
    "gradient": lambda net, x: fa.input_x_gradient(net, x, layer="act", target=1),
    "path": lambda net, x: fa.integrated_gradients(net, x, target=1, n_steps=2),
    "ablation": lambda net, x: fa.feature_ablation(net, x, target=1, feature_mask=torch.arange(3)[:, None, None]),
    "cam": lambda net, x: fa.ablation_cam(net, x, layer="act", target=1),
    "deep_lift": lambda net, x: fa.deep_lift(net, x, target=1, baselines=0.3),
    "rules": lambda net, x: fa.noise_tunnel(fa.lrp, n_samples=2, stdevs=0.0)(net, x, target=1, rules=NO_CHANGE),
    "functional": lambda net, x: fa.gradient(functools.partial(functional_call, net, dict(net.named_buffers())), x, target=1),
}


@pytest.mark.parametrize("name", breadth(TRAINED, lambda name: name == "activation"))
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # not compiled
@pytest.mark.parametrize(
    "kind",
    breadth(
        [nn.BatchNorm2d, functools.partial(nn.InstanceNorm2d, affine=True, track_running_stats=True)],
        lambda kind: kind is nn.BatchNorm2d,
    ),
)
def test_compiled_train_mode_is_told_of_once_and_learns_nothing(name: str, kind: Any) -> None:
    """Statistics were updated in silence by what runs no transform, and by all else ended in torch's error."""
    torch._dynamo.reset()
    net, x = Norms(kind(6)).double().train(), torch.randn(3, 3, 7, 7, dtype=torch.float64)
    with pytest.warns(UserWarning, match="train mode"):
        expected = TRAINED[name](net, x)
    before = state(net)
    compiled: Any = torch.compile(TRAINED[name], fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match="train mode with batch norm") as caught:
        close(compiled(net, x), expected)
    assert len(caught) == 1
    assert state(net) == before
    assert not torch.equal(compiled(net.eval(), x), expected)  # another graph
