"""A neuron as the target of every method: against Captum where it is right, and against plain loops where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import captum.attr as ca
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import funattr as fa
from funattr._types import Place

from .. import reference
from ..breadth import full
from ..close import close_and_not_zero as close
from ..methods import METHODS, Row
from ..models import CASES, Mlp, OneByOne, Residual, double
from ..project.test_from_captum import defined
from ..reference import Asked as Loop
from ..reference.table import expected

TARGETED = [row for row in METHODS if row.targeted]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", "Setting forward, backward hooks")
        warnings.filterwarnings("ignore", "Input Tensor")
        warnings.filterwarnings("ignore", "The neuron_selector provided is a callable")
        yield


# Captum, where it is right: each activation a module, out of place, used once.


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 5, 3, stride=2), nn.ReLU()
        self.conv2, self.relu2, self.fc = nn.Conv2d(5, 6, 2), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu2(self.conv2(self.relu1(self.conv1(x)))).mean((2, 3)))


class Pair(nn.Module):
    """Two inputs of different shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 5, 3), nn.ReLU()
        self.first, self.tanh = nn.Linear(6, 5), nn.Tanh()
        self.second, self.act, self.fc = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.fc(self.act(self.second(self.relu(self.conv(image)).mean((2, 3)) + self.tanh(self.first(table)))))


def image(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64)


def table(n: int) -> Tensor:
    return torch.randn(n, 6, dtype=torch.float64)


def mixed(value: Tensor) -> Tensor:
    rows = value.flatten(1)
    return rows[:, ::2].sum(1) - 3 * rows[:, 1]


def product(value: Tensor) -> Tensor:
    """Here Captum's DeepLift takes the plain gradient."""
    rows = value.flatten(1)
    return rows[:, 0] * rows[:, 3]


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], str, tuple[Any, ...]]] = {
    "mlp": (Mlp, table, "fc2", (2, (2,), (slice(1, 4),), mixed)),
    "conv": (Maps, image, "conv2", ((1, 0, 1), (1, slice(0, 2), 1), mixed)),
    "pair": (Pair, lambda n: (image(n), table(n)), "second", (2, (2,), (slice(1, 4),), mixed)),
}


class Asked(NamedTuple):
    """A neuron of a net: as Captum takes it, and as we do."""

    model: nn.Module
    layer: nn.Module
    x: Any
    index: Any
    side: dict[str, bool]
    target: Any
    start: Any  # one baseline
    several: Any


def through(q: Asked) -> Any:
    """The recipe of docs/from-captum.md."""
    return defined()["through"](q.model, q.target.layer, q.index)


#: Captum's class, the same of ours, and to what they agree.
PAIRS: dict[str, tuple[Callable[[Asked], Any], Callable[[Asked], Any], float]] = {
    "NeuronGradient": (
        lambda q: ca.NeuronGradient(q.model, q.layer).attribute(q.x, q.index, **q.side),
        lambda q: fa.gradient(q.model, q.x, target=q.target),
        1e-12,
    ),
    "NeuronGuidedBackprop": (
        lambda q: ca.NeuronGuidedBackprop(q.model, q.layer).attribute(q.x, q.index, **q.side),
        lambda q: fa.guided_backprop(q.model, q.x, target=q.target),
        1e-12,
    ),
    "NeuronDeconvolution": (
        lambda q: ca.NeuronDeconvolution(q.model, q.layer).attribute(q.x, q.index, **q.side),
        lambda q: fa.deconvnet(q.model, q.x, target=q.target),
        1e-12,
    ),
    "NeuronIntegratedGradients": (
        lambda q: ca.NeuronIntegratedGradients(q.model, q.layer).attribute(q.x, q.index, q.start, n_steps=6, **q.side),
        lambda q: fa.integrated_gradients(q.model, q.x, baselines=q.start, target=q.target, n_steps=6),
        1e-6,  # Captum rounds the steps to float32
    ),
    "NeuronDeepLift": (
        lambda q: ca.NeuronDeepLift(q.model, q.layer).attribute(q.x, q.index, q.start, **q.side),
        lambda q: fa.deep_lift(q.model, q.x, baselines=q.start, target=q.target),
        1e-9,
    ),
    "NeuronDeepLiftShap": (
        lambda q: ca.NeuronDeepLiftShap(q.model, q.layer).attribute(q.x, q.index, q.several, **q.side),
        lambda q: fa.deep_lift_shap(q.model, q.x, baselines=q.several, target=q.target),
        1e-9,
    ),
    "NeuronGradientShap": (  # in expectation: with one baseline, that of integrated gradients
        lambda q: ca.NeuronGradientShap(q.model, q.layer).attribute(q.x, q.index, q.start, n_samples=2000, **q.side),
        lambda q: fa.gradient_shap(q.model, q.x, baselines=q.start, target=q.target, n_samples=2000),
        0.2,
    ),
    "NeuronFeatureAblation": (
        lambda q: ca.NeuronFeatureAblation(q.model, q.layer).attribute(q.x, q.index, q.start, **q.side),
        lambda q: fa.feature_ablation(q.model, q.x, baselines=q.start, target=q.target),
        1e-9,
    ),
    "NeuronConductance": (
        lambda q: ca.NeuronConductance(q.model, q.layer).attribute(
            q.x, q.index, q.start, 1, n_steps=6, method="gausslegendre", **q.side
        ),
        lambda q: fa.integrated_gradients(through(q), q.x, baselines=q.start, target=1, n_steps=6),
        1e-6,
    ),
}


def single(index: Any) -> bool:
    return not callable(index) and not any(isinstance(i, slice) for i in reference.as_tuple(index))


CAPTUM = [
    pytest.param(name, net, index, id=f"{name}-{net}-{i}", marks=[] if i == 0 else full)
    for name in PAIRS
    for net, (*_, indices) in NETS.items()
    for i, index in enumerate(indices)
    if name != "NeuronConductance" or single(index)  # of several neurons Captum multiplies the sums
]


@pytest.mark.parametrize("inputs", [False, True], ids=["output", "input"])
@pytest.mark.parametrize(("name", "net", "index"), CAPTUM)
def test_captum(name: str, net: str, index: Any, inputs: bool) -> None:
    np.random.seed(0)  # where Captum draws baselines
    build, inputs_for, layer, _ = NETS[net]
    model, x = build().double().eval(), inputs_for(4)
    target = fa.neuron(fa.input_of(layer) if inputs else layer, index)
    side = {"attribute_to_neuron_input": inputs}
    asked = Asked(model, model.get_submodule(layer), x, index, side, target, inputs_for(1), inputs_for(3))
    theirs, ours, tolerance = PAIRS[name]
    close(ours(asked), theirs(asked), tolerance)


def test_float32() -> None:
    model, x = Mlp().eval(), table(4).float()
    theirs = ca.NeuronGradient(model, model.act1).attribute(x.clone().requires_grad_(), 2)
    close(fa.gradient(model, x, target=fa.neuron("act1", 2)), theirs, 1e-6)


# Beyond Captum: in-place operations, reused activations, attention, nested values; and seen from a layer.


class Ends(nn.Module):
    """A model that ends at a place inside it: the value there is kept by a plain hook, before anyone writes to it."""

    def __init__(self, model: nn.Module, place: Any) -> None:
        super().__init__()
        self.model, self.place = model, place

    def forward(self, *x: Tensor) -> Any:
        kept: list[Any] = []
        module = self.model.get_submodule(self.place.layer)

        def keep(value: Any) -> None:
            kept.append(tree_map(lambda part: part.clone() if isinstance(part, Tensor) else part, value))

        if self.place.inputs:
            hook = module.register_forward_pre_hook(lambda _, args: keep(args[0]))
        else:
            hook = module.register_forward_hook(lambda _, args, out: keep(out))
        with hook:
            self.model(*x)
        return kept[self.place.call or 0]


def by_hand(index: Any) -> Callable[[Any], Tensor]:
    """The score that an index means."""

    def score(value: Any) -> Tensor:
        if callable(index):
            return index(value)
        return value[(slice(None),) + reference.as_tuple(index)].reshape(len(value), -1).sum(1)

    return score


class Hard(NamedTuple):
    net: str
    neuron: Any  # the place
    index: Any
    sites: tuple[Any, ...]  # from where it is seen


def last(value: Any) -> Tensor:
    """A neuron of an LSTM: of its output, times one of its last hidden state."""
    return value[0][:, -1, 2] * value[1][0][0, :, 1]


place = fa.output_of
HARD = [
    Hard("residual", place("layer2"), product, (None, "layer1.bn1")),
    Hard("residual", place("layer1.bn2"), (1, 2, 3), (None, "stem", "layer1.conv1")),  # the shortcut is added in place
    Hard("residual", place("layer1.relu", 0), (2, slice(1, 4), 1), (None, "stem")),  # a reused module, in place
    Hard("residual", fa.input_of("layer2.relu", 1), mixed, (None, "layer1", "layer2.bn1")),
    Hard("tokens", place("qkv"), (3, 5), (None, "norm1")),
    Hard("tokens", place("up"), (slice(0, 3), 2), (None, "embed", "qkv")),  # behind attention and layer norm
    Hard("tokens", fa.input_of("head"), 4, ("proj", "down")),
    Hard("recurrent", place("lstm"), last, (None, fa.input_of("lstm"))),
    Hard("writes", place("fc1"), 3, (None, fa.input_of("fc1"))),
    Hard("writes", fa.input_of("act"), (slice(2, 6),), (None, "fc1")),
]
COMBINED = [
    pytest.param(row, hard, site, id=f"{row.name}-{hard.net}-{i}-{j}")
    for row in TARGETED
    for i, hard in enumerate(HARD)
    for j, site in enumerate(hard.sites)
    if (row.at_input if site is None else row.at_layer) and (hard.net == "residual" or not (row.convolutional or row.relu))
]


def in_module(model: nn.Module, site: Any) -> Any:
    """A site by module, where names begin elsewhere."""
    if site is None:
        return None
    found = site if isinstance(site, Place) else Place(site, False, None)
    return Place(model.get_submodule(found.layer), found.inputs, found.call)  # type: ignore[arg-type]  # a name here


@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM
@pytest.mark.parametrize(("row", "hard", "site"), COMBINED)
def test_seen_from_anywhere(row: Row, hard: Hard, site: Any) -> None:
    model, x = double(next(case for case in CASES if case.name == hard.net))
    found = row.method(model, x, layer=site, target=fa.neuron(hard.neuron, hard.index), **row.options)
    ends = Ends(model, hard.neuron)  # the neuron as an output
    close(found, expected(Loop(ends, x, in_module(model, site), by_hand(hard.index)), row))


@pytest.mark.parametrize("hard", [h for h in HARD if h.net != "writes"], ids=lambda h: h.net)
def test_deep_lift_is_complete(hard: Hard) -> None:
    model, x = double(next(case for case in CASES if case.name == hard.net))
    ends, score = Ends(model, hard.neuron), by_hand(hard.index)
    gain = (score(ends(x)) - score(ends(torch.full_like(x, 0.3)))).detach()
    found = fa.deep_lift(model, x, baselines=0.3, target=fa.neuron(hard.neuron, hard.index))
    close(found.flatten(1).sum(1), gain)


INDEX = (1, 2, 3)


def spelled_out() -> tuple[Any, Any, Tensor]:
    """The residual net, the same net as Captum likes it, and an input."""
    net, x = double(CASES[2])
    assert isinstance(net, Residual)
    return net, OneByOne(net).eval(), x


def tail_of(net: Residual) -> nn.Module:
    """From the output of layer1 to layer2.bn2, where the neuron is."""
    block = net.layer2
    return nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2)


def guided(method: Any) -> Callable[[Any, nn.Module, Tensor, Tensor, Tensor], Tensor]:
    return lambda plain, tail, x, v, v0: method(tail).attribute(v, INDEX)


def guided_cam(plain: Any, tail: nn.Module, x: Tensor, v: Tensor, v0: Tensor) -> Tensor:
    cam = ca.LayerGradCam(tail, tail[0]).attribute(v, INDEX, attribute_to_layer_input=True, relu_attributions=True)
    fine = ca.NeuronGuidedBackprop(plain, plain.net.layer2.bn2).attribute(x, INDEX)
    return fine * ca.LayerAttribution.interpolate(cam, (8, 8))


#: What Captum says of the tail as a model, given the value at the site and that for the baseline.
TAILS: dict[str, Callable[[Any, nn.Module, Tensor, Tensor, Tensor], Tensor]] = {
    "gradient": lambda plain, tail, x, v, v0: ca.Saliency(tail).attribute(v, INDEX, abs=False),
    "input_x_gradient": lambda plain, tail, x, v, v0: ca.InputXGradient(tail).attribute(v, INDEX),
    "guided_backprop": guided(ca.GuidedBackprop),
    "deconvnet": guided(ca.Deconvolution),
    "guided_grad_cam": guided_cam,
    "deep_lift": lambda plain, tail, x, v, v0: ca.DeepLift(tail).attribute(v, v0, INDEX),
    "feature_ablation": lambda plain, tail, x, v, v0: ca.FeatureAblation(tail).attribute(v, 0, INDEX),
}


@pytest.mark.parametrize("name", TAILS)
def test_captum_on_the_tail(name: str) -> None:
    """Captum cannot look at a neuron from another layer; but at the part between them as a model of its own it can."""
    row = next(row for row in METHODS if row.name == name)
    net, plain, x = spelled_out()
    start = torch.full_like(x, row.options.get("baselines", 0.0))
    with torch.no_grad():
        v, v0 = (ca.LayerActivation(plain, plain.acts[1]).attribute(at) for at in (x, start))
    theirs = TAILS[name](plain, tail_of(net).double().eval(), x, v, v0)
    close(row.method(net, x, layer="layer1", target=fa.neuron("layer2.bn2", INDEX), **row.options), theirs)


@pytest.mark.parametrize("name", ["NeuronGuidedBackprop", "NeuronDeconvolution", "NeuronDeepLift", "NeuronFeatureAblation"])
def test_captum_on_the_same_net_spelled_out(name: str) -> None:
    net, plain, x = spelled_out()
    start = torch.randn_like(x[:1])
    theirs, ours, tolerance = PAIRS[name]
    target = fa.neuron("layer2.bn2", INDEX)
    captums = theirs(Asked(plain, net.layer2.bn2, x, INDEX, {}, target, start, None))
    close(ours(Asked(net, net.layer2.bn2, x, INDEX, {}, target, start, None)), captums, tolerance)


# Dimensions of size 1 after the one that a target picks from, as a fully convolutional head leaves them.


class Head(nn.Module):
    """Classes as ``[N, 5, 1, 1]``, or flat."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 5, 3, stride=2), nn.ReLU()
        self.conv2, self.flat = nn.Conv2d(5, 5, 2), flat

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu1(self.conv1(x))).mean((2, 3), keepdim=True)
        return y.flatten(1) if self.flat else y


def heads() -> tuple[Head, Head]:
    torch.manual_seed(0)
    plain = Head(flat=True).double().eval()
    other = Head(flat=False).double().eval()
    other.load_state_dict(plain.state_dict())
    return plain, other


WITH_LAYER = {row.name: {"layer": "relu1"} for row in METHODS if not row.at_input}


@pytest.mark.parametrize("row", TARGETED, ids=lambda row: row.name)
@pytest.mark.parametrize("target", [3, torch.tensor(3), torch.tensor([4, 0, 2]), [4, 0, 2], "argmax"], ids=str)
def test_classes_of_a_fully_convolutional_head(row: Row, target: Any) -> None:
    plain, other = heads()
    options: dict[str, Any] = {**row.options, **WITH_LAYER.get(row.name, {}), "target": target}
    x = image(3)
    close(row.method(other, x, **options), row.method(plain, x, **options))


@pytest.mark.parametrize("row", TARGETED, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "target",
    [(3,), lambda output: output[:, 3], lambda output: output[:, 3:4], fa.neuron("conv2", lambda v: v.mean((2, 3))[:, 3:4])],
    ids=["tuple", "callable", "slice", "neuron"],
)
def test_one_value_for_each_example_in_more_dimensions(row: Row, target: Any) -> None:
    plain, other = heads()
    options: dict[str, Any] = {**row.options, **WITH_LAYER.get(row.name, {})}
    x = image(3)
    close(row.method(other, x, **options, target=target), row.method(plain, x, **options, target=3))


def test_a_neuron_of_a_value_with_more_dimensions_of_size_1() -> None:
    _, other = heads()
    net, x = nn.Sequential(other, nn.Flatten()), image(3)
    close(fa.deep_lift(net, x, target=fa.neuron("0", 3)), fa.deep_lift(net, x, target=3))


def test_every_class_of_a_fully_convolutional_head() -> None:
    plain, other = heads()
    x = image(3)
    for method in (fa.gradient, fa.integrated_gradients, fa.deep_lift, fa.feature_ablation):
        close(fa.each_target(method, range(5))(other, x), fa.each_target(method, range(5))(plain, x))


def test_a_compiled_class_of_a_fully_convolutional_head() -> None:
    plain, other = heads()
    x = image(3)
    for target in (3, torch.tensor([4, 0, 2]), "argmax", lambda output: output[:, 3]):
        found = torch.compile(fa.gradient, fullgraph=True, backend="eager")(other, x, target=target)
        close(found, fa.gradient(plain, x, target=target))


@pytest.mark.parametrize("target", [3, "argmax", [0, 1, 2], torch.tensor([0, 1, 2]), lambda output: output[:, 3], (3,)])
def test_several_values_for_each_example_are_refused(target: Any) -> None:
    _, other = heads()
    net = nn.Sequential(other.conv1, other.relu1, other.conv2)
    with pytest.raises(ValueError, match=r"several values per example|expected one value per example|has 1 of the 3"):
        fa.gradient(net, image(3), target=target)
