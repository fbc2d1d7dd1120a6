"""Several layers in one call: each its own attribution, or one joint site, for every method and every combinator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

import funattr as fa
from benchmarks.cost import cost

from .. import reference
from ..breadth import breadth
from ..close import close_and_not_zero as close
from ..methods import METHODS, Row
from ..models import CASES, Residual, Text, double

TARGET = torch.tensor([1, 4, 0, 2])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def arranged(a: Any, b: Any) -> list[Any]:
    """Two layers in every structure."""
    return [[a, b], (a, b), {"first": a, "then": b}, [[a], {"inner": (b,)}], {"both": [a, b], "again": b}]


def structure(tree: Any, leaf: Callable[[Any], bool]) -> Any:
    """Lists, tuples and dicts, without what is in them."""
    return tree_flatten(put(lambda _: 0, tree, leaf))[1]


def put(f: Callable[[Any], Any], tree: Any, leaf: Callable[[Any], bool]) -> Any:
    """`f` of each leaf, in the structure of `tree`. (torch 2.0's tree_map cannot be told what a leaf is.)"""
    if leaf(tree):
        return f(tree)
    if isinstance(tree, dict):
        return {name: put(f, part, leaf) for name, part in tree.items()}
    return type(tree)(put(f, part, leaf) for part in tree)


# Methods of value and gradient: each layer its total gradient, also where one feeds the other.

#: Path and replacement methods take all layers as one joint site.
JOINT = (
    *(fa.integrated_gradients, fa.deep_lift, fa.deep_lift_shap, fa.feature_ablation),
    *(inspect.unwrap(method) for method in (fa.shapley, fa.lime, fa.occlusion)),
)
#: Of all layers together (one scale), or of a layer's map and the input's.
OTHER = ("normalize(gradient)", "guided_grad_cam")
COMBINED = [
    Row("gradient_shap", fa.gradient_shap, None, options={"baselines": 0.2, "n_samples": 2}),
    Row("noise_tunnel(input_x_gradient)", fa.noise_tunnel(fa.input_x_gradient, n_samples=2, stdevs=0.0), lambda v, g: v * g),
    Row("each_target(grad_cam)", fa.each_target(fa.grad_cam, [0, 3]), None, at_input=False, targeted=False),
    Row("relu(grad_cam)", fa.relu(fa.grad_cam), None, at_input=False),
    Row("multiply(gradient, activation)", fa.multiply(fa.gradient, fa.activation), lambda v, g: v * g),
    Row(
        "mean_over_baselines(conductance)",
        fa.mean_over_baselines(fa.conductance),
        None,
        options={"baselines": torch.full((1, 1), 0.3), "n_steps": 2},
    ),
]
EACH = [
    row
    for row in [*METHODS, *COMBINED]
    if row.method not in JOINT and inspect.unwrap(row.method) not in JOINT and row.name not in OTHER
]
#: A net, and two layers of which the first feeds the second.
FEEDS: list[tuple[str, Any, Any]] = [
    ("residual", "stem", "layer1.bn1"),  # overwritten in place; and the block's own input, twice
    ("residual", None, "layer2"),
    ("tokens", "embed", "proj"),
    ("writes", "fc1", fa.input_of("act")),  # the same tensor, two edges
    ("keywords", "gate", "last"),
    ("thrice", fa.output_of("inner", call=0), fa.output_of("inner", call=-1)),
]
ASKED = [
    pytest.param(row, net, a, b, id=f"{row.name}-{net}-{i}")
    for row in EACH
    for i, (net, a, b) in enumerate(FEEDS)
    if (row.at_input or a is not None)
    and (net == "residual" or not row.convolutional)
    and (net in ("residual", "writes") or not row.relu)
]


def seeds(row: Row) -> dict[str, Any]:
    return {"generator": seeded()} if row.method is fa.gradient_shap else {}


@pytest.mark.parametrize(("row", "net", "a", "b"), ASKED)
def test_each_layer_as_if_alone(row: Row, net: str, a: Any, b: Any) -> None:
    model, x = double(next(case for case in CASES if case.name == net))
    options = row.options | ({"target": TARGET} if row.targeted else {})
    alone = {site: row.method(model, x, layer=site, **options, **seeds(row)) for site in (a, b)}
    if row.formula is not None:  # plain autograd: the total gradient
        for site, one in alone.items():
            values, gradients = reference.value_and_gradient(model, x, site, reference.pick(TARGET))
            close(one, [row.formula(v, g) for v, g in zip(values, gradients)])
    for layers in arranged(a, b):
        found = row.method(model, x, layer=layers, **options, **seeds(row))
        close(found, put(alone.__getitem__, layers, is_site))
        if all(isinstance(one, Tensor) for one in alone.values()):
            assert structure(found, lambda part: isinstance(part, Tensor)) == structure(layers, is_site)


def is_site(part: Any) -> bool:
    return not isinstance(part, (list, tuple, dict))


def test_the_input_named_twice() -> None:
    model, x = double(CASES[2])
    expected = reference.value_and_gradient(model, x, None, reference.pick(TARGET))[1]
    close(fa.gradient(model, x, layer=[None, None], target=TARGET), expected * 2)


def test_nested_values_among_several_layers() -> None:
    model, x = double(next(case for case in CASES if case.name == "recurrent"))
    for method in (fa.gradient, fa.input_x_gradient):
        found = method(model, x, layer={"lstm": "lstm", "rest": [fa.input_of("head"), None]}, target=TARGET)
        for got, site in [(found["lstm"], "lstm"), (found["rest"][0], fa.input_of("head")), (found["rest"][1], None)]:
            values, gradients = reference.value_and_gradient(model, x, site, reference.pick(TARGET))
            close(got, gradients if method is fa.gradient else [v * g for v, g in zip(values, gradients)])
    assert [type(part) for part in found["lstm"]] == [Tensor, tuple]


def test_a_neuron_seen_from_several_layers() -> None:
    model, x = double(next(case for case in CASES if case.name == "residual"))
    found = fa.gradient(model, x, layer=["stem", {"block": "layer1"}], target=fa.neuron("layer2.bn1", (1, 2, 3)))
    value = fa.activation(model, x, layer="layer1").requires_grad_()
    block = model.layer2
    expected = torch.autograd.grad(block.bn1(block.conv1(value))[:, 1, 2, 3].sum(), value)[0]
    close(found[1]["block"], expected)
    leaf = fa.activation(model, x, layer="stem").requires_grad_()
    after = block.bn1(block.conv1(model.layer1(torch.tanh(leaf))))
    close(found[0], torch.autograd.grad(after[:, 1, 2, 3].sum(), leaf)[0])


def test_at_input_drops_them_all() -> None:
    model, x = double(CASES[2])
    expected = reference.value_and_gradient(model, x, None, reference.pick(TARGET))[1]
    close(fa.at_input(fa.gradient)(model, x, layer=["stem", "layer1"], target=TARGET), expected)


@pytest.mark.parametrize("layers", [["stem", "layer1"], ("layer1",), {"early": "stem", "late": ["layer2"]}])
def test_interpolated_maps_of_several_layers(layers: Any) -> None:
    model, x = double(CASES[2])
    for mode in ("nearest", "bilinear"):
        maps = fa.grad_cam(model, x, layer=layers, target=TARGET)
        expected = [F.interpolate(cam, (8, 8), mode=mode) for cam in reference.leaves(maps)]
        close(fa.interpolate(fa.grad_cam, mode=mode)(model, x, layer=layers, target=TARGET), expected)


@pytest.mark.parametrize(
    "layers",
    breadth([["stem", "layer1"], ("layer1",), {"early": "stem", "late": ["layer2"]}], lambda layers: isinstance(layers, dict)),
)
def test_guided_grad_cam_of_several_layers(layers: Any) -> None:
    """Guided backpropagation, the same for each, times each layer's map; compiled too."""
    model, x = double(CASES[2])
    maps = reference.leaves(fa.grad_cam(model, x, layer=layers, target=TARGET))
    guided = fa.guided_backprop(model, x, target=TARGET)
    expected = [guided * F.interpolate(cam.clamp(min=0), (8, 8)) for cam in maps]
    found = fa.guided_grad_cam(model, x, layer=layers, target=TARGET)
    assert type(found) is type(layers)
    close(found, expected)
    compiled = torch.compile(fa.guided_grad_cam, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer=layers, target=TARGET), expected)


def test_maps_of_several_layers_for_several_inputs() -> None:
    """A map for each input, of each layer."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Residual()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a[..., ::2] + b)

    model = Added().double().eval()
    a, b = torch.randn(4, 3, 8, 16, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    layers = ["net.stem", "net.layer2"]
    maps = fa.grad_cam(model, (a, b), layer=layers, target=TARGET)
    found = fa.interpolate(fa.grad_cam)(model, (a, b), layer=layers, target=TARGET)
    for cam, (for_a, for_b) in zip(maps, found):
        close([for_a, for_b], [F.interpolate(cam, (8, 16)), F.interpolate(cam, (8, 8))])


def test_noise_at_several_layers_for_integers() -> None:
    """The noise is put at the layers, as one joint site: it cannot be where one feeds the other."""
    model, ids = Text().double().eval(), torch.randint(0, 20, (4, 7))
    quiet = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0)
    with pytest.raises(ValueError, match="'mix' depends on another"):
        quiet(model, ids, layer=["embedding", "mix"], target=TARGET)
    with pytest.raises(ValueError, match="depends on another"):
        quiet(model, ids, layer={"a": "mix", "b": "mix"}, target=TARGET)
    expected = reference.value_and_gradient(model, ids, "mix", reference.pick(TARGET))[1]
    close(quiet(model, ids, layer=["mix"], target=TARGET), expected)


# Path and replacement methods: one joint site.


class Product(nn.Module):
    """Two branches side by side, and a product of them."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.after, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.of_both(self.image(image), self.after(torch.tanh(self.table(table))))

    def of_both(self, u: Tensor, v: Tensor) -> Tensor:
        """The rest of the model, as a function of both values."""
        return self.head(torch.tanh(u).mean((2, 3)) * torch.relu(v))


def joint() -> tuple[Product, tuple[Tensor, Tensor], list[Tensor], list[Tensor]]:
    """A model, its input, and both values at x and at the baseline 0.2."""
    model = Product().double().eval()
    x = (torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64))
    return model, x, values_at(model, *x), values_at(model, *(torch.full_like(part, 0.2) for part in x))


def values_at(model: Product, image: Tensor, table: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model.image(image), model.after(torch.tanh(model.table(table)))]


def score_of(model: Product, u: Tensor, v: Tensor, target: Tensor = TARGET) -> Tensor:
    return model.of_both(u, v)[torch.arange(4), target]


def path_by_hand(model: Product, ends: list[Tensor], starts: list[Tensor], target: Tensor = TARGET, n: int = 5) -> list[Tensor]:
    """Integrated gradients of a function of both values."""
    total = [torch.zeros_like(end) for end in ends]
    for a, w in reference.gauss(n):
        u, v = ((s + a * (e - s)).requires_grad_() for e, s in zip(ends, starts))
        found = torch.autograd.grad(score_of(model, u, v, target).sum(), (u, v))
        total = [t + w * g * (e - s) for t, g, e, s in zip(total, found, ends, starts)]
    return total


def lift_by_hand(model: Product, ends: list[Tensor], starts: list[Tensor]) -> list[Tensor]:
    """DeepLIFT: half the other factor's sum each; tanh and ReLU by the rescale rule, times the difference."""
    (u, v), (u0, v0), w = ends, starts, model.head.weight[TARGET].detach()
    p, p0, q, q0 = torch.tanh(u).mean((2, 3)), torch.tanh(u0).mean((2, 3)), torch.relu(v), torch.relu(v0)
    to_u = (w * (q + q0) / 2)[..., None, None] * (torch.tanh(u) - torch.tanh(u0)) / u[0, 0].numel()
    return [to_u, w * (p + p0) / 2 * (q - q0)]


def loss_by_hand(model: Product, ends: list[Tensor], baseline: float) -> list[Tensor]:
    """What the score loses without one feature, for all features of both values."""
    found = [torch.zeros_like(end) for end in ends]
    with torch.no_grad():
        whole = score_of(model, *ends)
        for part, (result, end) in enumerate(zip(found, ends)):
            for i in range(end[0].numel()):
                without = [value.clone() for value in ends]
                without[part].view(4, -1)[:, i] = baseline
                result.view(4, -1)[:, i] = whole - score_of(model, *without)
    return found


def test_joint_sites() -> None:
    model, x, ends, starts = joint()
    path, lift, loss = path_by_hand(model, ends, starts), lift_by_hand(model, ends, starts), loss_by_hand(model, ends, 0.5)
    gain = (score_of(model, *ends) - score_of(model, *starts)).detach()
    for layers in arranged("image", "after")[:4]:
        ablated = {"baselines": tree_map(lambda _: 0.5, layers)}
        for method, expected, options in (
            (fa.integrated_gradients, path, {"baselines": 0.2, "n_steps": 5}),
            (fa.deep_lift, lift, {"baselines": 0.2}),
            (fa.deep_lift_shap, lift, {"baselines": (torch.full((2, 3, 6, 6), 0.2), torch.full((2, 6), 0.2))}),
            (fa.feature_ablation, loss, ablated),
        ):
            found = method(model, x, layer=layers, target=TARGET, **options)
            close(found, expected)
            assert structure(found, lambda part: isinstance(part, Tensor)) == structure(layers, is_site)
    close(sum(part.flatten(1).sum(1) for part in lift), gain)  # the reference is complete over both
    fine = fa.integrated_gradients(model, x, baselines=0.2, layer=["image", "after"], target=TARGET, n_steps=400)
    close(sum(part.flatten(1).sum(1) for part in fine), gain, 1e-3)


class Gate(nn.Module):
    """Two layers side by side whose values have the same shape: nothing but their place tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(x)) * torch.sigmoid(self.b(x)))


#: All but those for images, and one that draws other numbers for groups in another order.
PLAIN = [row for row in METHODS if not (row.convolutional or row.relu or row.name == "lime")]


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_layers_named_in_another_order_than_they_run(row: Row) -> None:
    model, x = Gate().double().eval(), torch.randn(4, 6, dtype=torch.float64)
    call = row.options | ({"target": TARGET} if row.targeted else {})
    as_run = row.method(model, x, layer=["a", "b"], **call)
    close(row.method(model, x, layer=["b", "a"], **call), as_run[::-1])
    if "chunk_size" in inspect.signature(row.method).parameters:
        close(row.method(model, x, layer={"b": "b", "a": "a"}, **(call | {"chunk_size": 1})), as_run[::-1])


def test_joint_groups() -> None:
    """A group that reaches over both values."""
    model, x, ends, _ = joint()
    masks = {"u": torch.arange(16).reshape(1, 1, 4, 4) // 8, "v": torch.tensor([0, 1, 1, 2])}
    found = fa.feature_ablation(model, x, layer={"u": "image", "v": "after"}, target=TARGET, feature_mask=masks)
    with torch.no_grad():
        for group in (0, 1, 2):
            without = [torch.where(mask == group, 0.0, end) for mask, end in zip(masks.values(), ends)]
            lost = score_of(model, *ends) - score_of(model, *without)
            for result, mask in zip(found.values(), masks.values()):
                away = (mask == group).expand_as(result)
                if away.any():
                    close(result[away], lost.reshape(4, *[1] * (result.dim() - 1)).expand_as(result)[away])


def test_combinators_of_joint_sites() -> None:
    model, x, ends, starts = joint()
    expected = path_by_hand(model, ends, starts)
    call: dict[str, Any] = {"layer": {"u": "image", "v": ["after"]}, "n_steps": 5}
    once = call | {"baselines": 0.2, "target": TARGET}
    method = fa.integrated_gradients
    close(fa.relu(method)(model, x, **once), [torch.relu(part) for part in expected])
    close(fa.noise_tunnel(method, n_samples=2, stdevs=0.0)(model, x, **once), expected)
    close(fa.multiply(method, fa.activation)(model, x, **once), [part * end for part, end in zip(expected, ends)])
    every = [path_by_hand(model, ends, starts, torch.full((4,), k)) for k in (0, 3)]
    found = fa.each_target(method, [0, 3])(model, x, baselines=0.2, **call)
    close(found, [torch.stack(same) for same in zip(*every)])
    several = (torch.randn(3, 3, 6, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64))
    for averaged, by_hand, options in (
        (fa.mean_over_baselines(method), path_by_hand, call),
        (fa.deep_lift_shap, lift_by_hand, {"layer": call["layer"]}),
    ):
        starts_of_all = values_at(model, *several)
        one_by_one = [by_hand(model, ends, [s[i : i + 1] for s in starts_of_all]) for i in range(3)]
        found = averaged(model, x, baselines=several, target=TARGET, **options)
        close(found, [torch.stack(same).mean(0) for same in zip(*one_by_one)])


METHOD_OF: dict[str, Callable[..., Any]] = {
    "integrated_gradients": fa.integrated_gradients,
    "deep_lift": fa.deep_lift,
    "feature_ablation": fa.feature_ablation,
    "deep_lift_shap": lambda model, x, **options: fa.deep_lift_shap(
        model, x, baselines=tuple(part[:2] for part in x), **options
    ),
    "mean_over_baselines": lambda model, x, **options: fa.mean_over_baselines(fa.integrated_gradients)(
        model, x, baselines=tuple(part[:2] for part in x), **options
    ),
    "relu": fa.relu(fa.integrated_gradients),
    "each_target": lambda model, x, *, target, **options: fa.each_target(fa.feature_ablation, [target])(model, x, **options),
}
DEPENDENT: dict[str, Any] = {
    "fed": ["table", "after"],
    "feeding": ("after", "table"),
    "input": [None, "image"],
    "nested": {"deep": ["table", {"inner": "head"}], "beside": "image"},
    "twice": ["table", "table"],
}


@pytest.mark.parametrize("kind", DEPENDENT)
@pytest.mark.parametrize("name", METHOD_OF)
def test_layers_that_depend_on_each_other(name: str, kind: str) -> None:
    model, x, _, _ = joint()
    with pytest.raises(ValueError, match="depend"):
        METHOD_OF[name](model, x, layer=DEPENDENT[kind], target=1)


@pytest.mark.parametrize("around", ["targets", "noise", "vmap"])
@pytest.mark.parametrize("kind", DEPENDENT)
@pytest.mark.parametrize("name", METHOD_OF)
def test_layers_that_depend_on_each_other_where_a_transform_runs(name: str, kind: str, around: str) -> None:
    """What one contains of the other counted twice there, in silence."""
    model, x, _, _ = joint()
    options: dict[str, Any] = {"layer": DEPENDENT[kind]}

    def method(model: Any, x: Any, **options: Any) -> Any:
        return METHOD_OF[name](model, x, **options)

    def vmapped(model: Any, x: Any, **options: Any) -> Any:
        return torch.func.vmap(lambda *x: method(model, x, target=1, **options))(*(part[None] for part in x))

    noisy = functools.partial(fa.noise_tunnel(method, chunk_size=5), target=1)
    call = {"targets": fa.each_target(method, [0, 1], chunk_size=2), "noise": noisy, "vmap": vmapped}[around]
    with pytest.raises(ValueError, match="depend"):
        call(model, x, **options)


# Cost.


@pytest.mark.parametrize(
    "method", [fa.grad_cam, fa.input_x_gradient, fa.saliency, fa.guided_backprop, fa.internal_influence, fa.relu(fa.grad_cam)]
)
def test_two_layers_cost_one_pass(method: Any) -> None:
    model, x = Residual().eval(), torch.randn(2, 3, 16, 16)
    options = {"n_steps": 4} if method is fa.internal_influence else {}
    one = cost(lambda: method(model, x, layer="stem", target=1, **options)).flops
    late = cost(lambda: method(model, x, layer="layer2", target=1, **options)).flops
    assert late < one
    for layers in (["stem", "layer2"], {"late": "layer2", "early": ["stem", "layer1"]}):
        assert cost(lambda layers=layers: method(model, x, layer=layers, target=1, **options)).flops == one  # type: ignore[misc]  # a lambda with a default has no type for mypy


def test_a_joint_path_runs_each_branch_once() -> None:
    model, x, _, _ = joint()
    floats = tuple(part.float() for part in x)
    model.float()

    def flops(layer: Any) -> int:
        return cost(lambda: fa.integrated_gradients(model, floats, layer=layer, target=1, n_steps=6)).flops

    assert flops(["image", "after"]) <= flops("image") + flops("after")
