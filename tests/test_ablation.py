"""Feature ablation against plain forward passes, one per group, and against Captum where Captum is right."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation, LayerFeatureAblation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import funattr as fa
from benchmarks.cost import flop_registry
from funattr import feature_ablation, progress
from funattr._torch import transforms_active, tree_flatten
from funattr._types import Place

from . import reference
from .breadth import breadth
from .close import close
from .models import CASES, Case, Mlp, Recurrent, Residual, Text, Writes, case_id, double
from .reference import looped

TARGET = torch.tensor([1, 4, 0, 2])


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


SMALL = [case for case in CASES if case.name not in ("conv",)]


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_equals_plain_forward_passes(case: Case) -> None:
    model, x = double(case)
    for site in (None, *case.layers):
        with warnings.catch_warnings():
            if case.name in ("recurrent", "masked"):  # torch has no batching rule for a fused LSTM, nor for nested tensors
                warnings.filterwarnings("ignore", "the steps run one after another")
            found = feature_ablation(model, x, layer=site, target=TARGET, baselines=0.5 if case.name != "text" else 0)
        base = 0.5 if case.name != "text" else 0
        close(found, looped(model, x, site, reference.pick(TARGET), base))
        assert all(leaf.dtype == torch.float64 and not leaf.requires_grad for leaf in tensors(found))


def test_an_lstm_runs_one_after_another_with_one_warning() -> None:
    model, x = Recurrent().double().eval(), torch.randn(4, 7, 4, dtype=torch.float64)
    with contextlib.suppress(RuntimeError):
        torch.func.vmap(torch.func.functionalize(model))(torch.stack([x, x]))
        pytest.skip("this torch has a batching rule for it")
    with pytest.warns(UserWarning, match="one after another") as caught:
        found = feature_ablation(model, x, layer=fa.input_of("lstm"), target=TARGET, chunk_size=5)
    assert len(caught) == 1
    close(found, looped(model, x, None, reference.pick(TARGET)))
    close(feature_ablation(model, x, target=TARGET, chunk_size=5), found)  # at the input: one batch, and no vmap


class Fixed(Mlp):
    """Takes its own batch size only."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.rows)


class Mixes(Mlp):
    """Normalises over the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


@pytest.mark.parametrize("build", [Fixed, Mixes])
def test_models_whose_batch_may_not_grow(build: Callable[[], nn.Module]) -> None:
    model, x = build().double().eval(), torch.randn(4, 6, dtype=torch.float64)
    expected = looped(model, x, None, reference.pick(TARGET))
    for chunk_size in (1, 3, None):
        close(feature_ablation(model, x, target=TARGET, chunk_size=chunk_size), expected)


def test_a_target_that_knows_its_batch() -> None:
    model, x = double(CASES[0])
    labels = torch.randn(4, 5, dtype=torch.float64)

    def loss(y: Tensor) -> Tensor:
        assert y.shape == labels.shape
        return (y - labels).square().sum(1)

    close(feature_ablation(model, x, target=loss), looped(model, x, None, loss))
    text, ids = Text().double().eval(), torch.randint(1, 20, (4, 7))  # its output is a dataclass
    close(feature_ablation(text, ids, target=lambda out: out.logits[:, 1]), feature_ablation(text, ids, target=1))


# Captum, where it is right.


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_equals_captum(name: str) -> None:
    model, x = double(next(case for case in CASES if case.name == name))
    close(feature_ablation(model, x, target=TARGET), FeatureAblation(model).attribute(x, target=TARGET))
    layer = {"mlp": "act1", "conv": "conv2"}[name]
    expected = LayerFeatureAblation(model, model.get_submodule(layer)).attribute(x, target=TARGET)
    close(feature_ablation(model, x, layer=layer, target=TARGET), expected)
    mask = torch.randint(-3, 3, (1, *x.shape[1:])) * 7
    base = torch.randn_like(x)
    captums = FeatureAblation(model).attribute(x, target=TARGET, feature_mask=mask, baselines=base)
    close(feature_ablation(model, x, target=TARGET, feature_mask=mask, baselines=base), captums)


def test_per_example_targets_with_any_chunk_size() -> None:
    """Captum crashes with several perturbations at once."""
    model, x = double(CASES[0])
    expected = looped(model, x, "act1", reference.pick(TARGET))
    for chunk_size in (1, 2, 3, 7, 9, 100, None):
        for target in (TARGET, TARGET.tolist(), [(i,) for i in TARGET.tolist()], TARGET - 5, lambda y: y[range(4), TARGET]):
            close(feature_ablation(model, x, layer="act1", target=target, chunk_size=chunk_size), expected)


@pytest.mark.parametrize("layer", ["fc1", "act", fa.input_of("act"), fa.input_of("head")])
def test_in_place_operations_after_the_layer(layer: Any) -> None:
    """Captum is silently wrong: its reference is overwritten by the model."""
    model, x = Writes().double().eval(), torch.randn(4, 6, dtype=torch.float64)
    kept = x.clone()
    expected = looped(model, x, layer, reference.pick(TARGET))
    for chunk_size in (1, 3, None):
        close(feature_ablation(model, x, layer=layer, target=TARGET, chunk_size=chunk_size), expected)
    assert torch.equal(x, kept)


def test_spellings_of_a_residual_net_agree() -> None:
    found = []
    for spelling in ("in-place", "functional", "methods", "mixed"):
        torch.manual_seed(1)
        model = Residual(spelling).double().eval()
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        found.append(feature_ablation(model, x, layer="layer1.bn1", target=3, baselines=0.1))
    for other in found[1:]:
        close(other, found[0])


class Shortcut(nn.Module):
    """What does not depend on layer `b` is written to in place by what does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, identity = self.a(x), torch.tanh(self.b(x))
        out += identity
        return self.head(torch.tanh(out))  # type: ignore[no-any-return]


class Decides(nn.Module):
    """Control flow that depends on data: vmap cannot run it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return (h * 2 if h.sum() > 0 else h).sum(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_a_shared_tensor_is_overwritten(chunk_size: int | None) -> None:
    model, x = Shortcut().double(), torch.randn(4, 6, dtype=torch.float64)
    expected = looped(model, x, "b", reference.pick(TARGET))
    close(feature_ablation(model, x, layer="b", target=TARGET, chunk_size=chunk_size), expected)
    assert not transforms_active()


@pytest.mark.parametrize("mask", [None, torch.arange(6)])
@pytest.mark.parametrize("layer", [None, "a"])
def test_what_vmap_cannot_run_goes_one_after_another(layer: Any, mask: Any) -> None:
    model, x = Decides().double(), torch.randn(4, 6, dtype=torch.float64)
    expected = looped(model, x, layer, lambda y: y)
    with pytest.warns(UserWarning, match="one after another") as caught:
        close(feature_ablation(model, x, layer=layer, feature_mask=mask, chunk_size=3), expected)
    assert len(caught) == 1
    assert not transforms_active()
    close(feature_ablation(model, x, layer=layer, feature_mask=mask, chunk_size=1), expected)


def test_layers_inside_a_transform_of_the_models_own() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.grad(lambda x: (torch.tanh(self.a(x)) ** 2).sum())(x).sum(1)  # type: ignore[no-any-return]

    model, x = Slope().double(), torch.randn(4, 6, dtype=torch.float64)
    for layer in (None, "a"):
        one = feature_ablation(model, x, layer=layer, chunk_size=1)
        assert one.any()
        close(feature_ablation(model, x, layer=layer), one)
    assert not transforms_active()


def test_differentiable_in_the_parameters() -> None:
    model, x = Shortcut().double(), torch.randn(4, 6, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def total(parameters: dict[str, Any]) -> Tensor:
        called = functools.partial(torch.func.functional_call, model, parameters)
        found = feature_ablation(called, x, layer="a", target=TARGET, create_graph=True)
        return found.square().sum()  # type: ignore[no-any-return]

    found = torch.func.grad(total)(parameters)
    by_backward = torch.autograd.grad(total(parameters), list(parameters.values()))
    close(found, list(by_backward))
    assert found["head.weight"].any()


# Masks.


@pytest.mark.parametrize("chunk_size", [1, 2, None])
@pytest.mark.parametrize("site", [None, "stem", "layer2"])
def test_masks_of_every_form(site: Any, chunk_size: int | None) -> None:
    model, x = double(CASES[2])
    shape = (4, 3, 8, 8) if site is None else (4, 6, 6, 6)
    masks = {
        "shared": torch.randint(0, 4, (1, *shape[1:])),
        "no batch dimension": torch.randint(0, 4, shape[1:]),
        "channels": torch.arange(shape[1]).reshape(-1, 1, 1),
        "space": torch.randint(0, 3, shape[2:]),
        "per example": torch.randint(0, 3, shape),
        "ids per example": torch.arange(4).reshape(4, 1, 1, 1) * 10 + torch.randint(0, 2, (1, 1, *shape[2:])),
        "not contiguous, negative": torch.tensor([-7, 0, 10**12])[torch.randint(0, 3, (1, *shape[1:]))],
        "small dtype": torch.randint(0, 3, (1, 1, *shape[2:]), dtype=torch.uint8),
        "one group": torch.zeros((), dtype=torch.long),
    }
    for name, mask in masks.items():
        expected = looped(model, x, site, reference.pick(TARGET), masks=[mask])
        found = feature_ablation(model, x, layer=site, target=TARGET, feature_mask=mask, chunk_size=chunk_size)
        assert found.shape == shape, name
        close(found, expected)


def test_groups_shared_across_the_tensors_of_a_tuple() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    masks = (torch.randint(0, 3, (1, 1, 8, 8)), torch.tensor([[0, 0, 1, 5, 5, 2]]))
    expected = looped(model, x, None, reference.pick(TARGET), masks=masks)
    close(feature_ablation(model, x, target=TARGET, feature_mask=masks), expected)
    captums = FeatureAblation(model).attribute(x, target=TARGET, feature_mask=masks)
    close(feature_ablation(model, x, target=TARGET, feature_mask=masks), captums)
    # A number is a mask too: each tensor one group. None leaves a tensor out.
    by_tensor = feature_ablation(model, x, target=TARGET, feature_mask=(0, 1))
    close(by_tensor, looped(model, x, None, reference.pick(TARGET), masks=(torch.tensor(0), torch.tensor(1))))
    image, table = feature_ablation(model, x, target=TARGET, feature_mask=(None, 1))
    assert image is None
    close(table, by_tensor[1])


def test_structures_of_x_and_of_the_value() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    expected = feature_ablation(model, x, target=1, baselines=(0.5, x[1][:1]), chunk_size=4)
    assert isinstance(expected, tuple)
    named = feature_ablation(
        model, {"image": x[0], "table": x[1]}, target=1, baselines={"table": x[1][:1], "image": 0.5}, chunk_size=50
    )
    assert list(named) == ["image", "table"]
    close(named, expected)
    lstm, sequence = Recurrent().double().eval(), torch.randn(4, 3, 4, dtype=torch.float64)
    out, (h, c) = feature_ablation(lstm, sequence, layer="lstm", target=TARGET)
    assert (out.shape, h.shape, c.shape) == ((4, 3, 6), (1, 4, 6), (1, 4, 6))
    assert h.any()
    assert not c.any()  # the model does not use it
    assert not out[:, :-1].any()


def test_the_output_may_be_a_dict() -> None:
    model, x = double(next(case for case in CASES if case.name == "keywords"))
    close(feature_ablation(model, x, target=TARGET), looped(model, x, None, reference.pick(TARGET)))
    by_callable = feature_ablation(model, x, target=lambda out: out["features"][:, 3])
    close(by_callable, looped(model, x, None, lambda out: out["features"][:, 3]))


# Integers.


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens_with_a_baseline_id(dtype: torch.dtype) -> None:
    model = Text().double().eval()
    ids = torch.randint(1, 20, (4, 7)).to(dtype)
    called = functools.partial(lambda m, ids: m(ids.long()), model)
    found = feature_ablation(called, ids, baselines=3, target=TARGET)
    assert found.dtype == torch.float64
    close(found, looped(called, ids, None, reference.pick(TARGET), 3))  # type: ignore[arg-type]
    tensor = torch.full((1, 7), 3)
    assert torch.equal(feature_ablation(called, ids, baselines=tensor, target=TARGET), found)
    assert torch.equal(feature_ablation(called, ids, baselines=tensor.double(), target=TARGET), found)


def test_bound_arguments_are_never_expanded() -> None:
    model = Text().double().eval()
    ids = torch.randint(1, 20, (4, 7))
    mask = (torch.rand(4, 7) > 0.4).double()
    called = functools.partial(model, mask=mask)
    for chunk_size in (1, 4, None):
        found = feature_ablation(called, ids, target=TARGET, chunk_size=chunk_size)
        close(found, looped(called, ids, None, reference.pick(TARGET)))  # type: ignore[arg-type]
    seven = torch.randn(7, 7, dtype=torch.float64)  # an adjacency, whatever the batch

    def graph(x: Tensor, adjacency: Tensor) -> Tensor:
        assert adjacency.shape == (7, 7)
        return (x @ adjacency).tanh().sum(1)

    x = torch.randn(7, 7, dtype=torch.float64)
    close(
        feature_ablation(functools.partial(graph, adjacency=seven), x, chunk_size=3),
        looped(functools.partial(graph, adjacency=seven), x, None, lambda y: y),  # type: ignore[arg-type]
    )


def test_integers_beside_floats_are_held_unless_a_mask_names_them() -> None:
    def model(x: Tensor, ids: Tensor) -> Tensor:
        return (x * ids).sum(1)

    x, ids = torch.randn(3, 2), torch.tensor([[1, 2], [3, 4], [5, 6]])
    found, held = feature_ablation(model, (x, ids))
    torch.testing.assert_close(found, x * ids)
    assert held is None
    _, named = feature_ablation(model, (x, ids), feature_mask=(torch.tensor([0, 1]), torch.tensor([2, 3])))
    torch.testing.assert_close(named, x * ids)
    both = feature_ablation(lambda a, b: (a * b).sum(1).double(), (ids, ids + 1))
    assert [part.dtype for part in both] == [torch.float64] * 2


# Targets.


def test_argmax_is_resolved_once() -> None:
    x = torch.tensor([[3.0, 2.0], [1.0, 5.0]])
    found = feature_ablation(nn.Identity(), x, target="argmax")
    assert torch.equal(found, torch.tensor([[3.0, 0.0], [0.0, 5.0]]))  # and not 1 and 4: the class stays
    for chunk_size in (1, 2, 3):
        assert torch.equal(feature_ablation(nn.Identity(), x, target="argmax", chunk_size=chunk_size), found)


@pytest.mark.parametrize("site", [None, "fc1"])
def test_neurons(site: Any) -> None:
    model, x = double(CASES[0])
    for index in (3, (slice(1, 4),), lambda v: v[:, 0] * v[:, 1]):
        for layer in ("fc2", fa.output_of("act1", call=-1)):
            at = model.fc2 if layer == "fc2" else model.act1
            kept: list[Tensor] = []
            with at.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out)):  # type: ignore[union-attr]

                def score(_: Any, kept: list[Tensor] = kept, index: Any = index) -> Tensor:
                    value = kept[-1]
                    if callable(index):
                        return index(value)  # type: ignore[no-any-return]
                    return value[:, 3] if index == 3 else value[:, 1:4].sum(1)

                expected = looped(model, x, site, score)
            close(feature_ablation(model, x, layer=site, target=fa.neuron(layer, index)), expected)
    # A neuron before the layer does not see it.
    assert not feature_ablation(model, x, layer="fc3", target=fa.neuron("fc1", 0)).any()


def test_the_score_decides_the_dtype() -> None:
    x = torch.randn(3, 4)
    assert feature_ablation(lambda x: x.double().sum(1), x).dtype == torch.float64
    assert feature_ablation(lambda x: x.bfloat16().sum(1), x).dtype == torch.bfloat16
    assert feature_ablation(lambda x: (x > 0).sum(1), x).dtype == torch.float32
    assert feature_ablation(lambda x: x.sum(1) > 0, x).dtype == torch.float32


# Laws.


@given(data=st.data())
def test_linear_models(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x, w, b = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((n, d), (d,), (1, d)))
    chunk_size = data.draw(st.one_of(st.none(), st.integers(1, d + 2)))
    rows = data.draw(st.sampled_from([1, n]))
    ids = torch.tensor(data.draw(st.lists(st.integers(-2, 2), min_size=rows * d, max_size=rows * d))).reshape(rows, d)
    found = feature_ablation(lambda x: x @ w, x, baselines=b, chunk_size=chunk_size)
    close(found, w * (x - b))
    grouped = feature_ablation(lambda x: x @ w, x, baselines=b, chunk_size=chunk_size, feature_mask=ids)
    same = ids[:, :, None] == ids[:, None, :]
    close(grouped, torch.einsum("nij,nj->ni", same.expand(n, d, d).double(), w * (x - b)))


@given(seed=st.integers(0, 1000), chunk_size=st.integers(1, 12), layer=st.sampled_from([None, "fc1", "act2"]))
def test_ignored_features_batches_and_chunks(seed: int, chunk_size: int, layer: str | None) -> None:
    torch.manual_seed(seed)
    model, x = Mlp().double(), torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        model.fc1.weight[:, 2] = 0
    found = feature_ablation(model, x, layer=layer, target="argmax", chunk_size=chunk_size, baselines=0.3)
    if layer is None:
        assert found[:, 2].abs().max() < 1e-14
    close(found, feature_ablation(model, x, layer=layer, target="argmax", baselines=0.3))
    alone = [feature_ablation(model, x[i : i + 1], layer=layer, target="argmax", baselines=0.3) for i in range(3)]
    close(found, torch.cat(alone))


def test_empty() -> None:
    model = Mlp()
    assert feature_ablation(model, torch.empty(0, 6), target=1).shape == (0, 6)
    assert feature_ablation(model, torch.empty(0, 6), layer="fc1", target=1).shape == (0, 8)
    mask = torch.tensor([0, 0, 1, 1, 2, 2])
    assert feature_ablation(model, torch.empty(0, 6), target=1, feature_mask=mask).shape == (0, 6)
    assert feature_ablation(model, torch.empty(0, 6), layer=["fc1"], target="argmax")[0].shape == (0, 8)
    assert feature_ablation(lambda x: x.sum(1), torch.empty(3, 0)).shape == (3, 0)


# Several layers.


class Sides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.c(torch.tanh(self.a(x))) * self.b(x)).sum(1)  # type: ignore[no-any-return]


def test_several_layers_are_one_joint_site() -> None:
    model, x = Sides().double(), torch.randn(4, 4, dtype=torch.float64)
    a, b = (feature_ablation(model, x, layer=name, baselines=0.2) for name in "ab")
    for layer, expected in ((["a", "b"], [a, b]), (("a", "b"), (a, b)), ({"first": "a", "then": "b"}, {"first": a, "then": b})):
        found = feature_ablation(model, x, layer=layer, baselines=0.2, chunk_size=3)
        assert type(found) is type(layer)
        close(found, expected)
    joint = feature_ablation(model, x, layer=["a", "b"], feature_mask=[0, torch.tensor([0, 1])], baselines=[0.2, 0.2])
    value = {name: fa.activation(model, x, layer=name) for name in "ab"}
    value["b"][:, 0], value["a"] = 0.2, torch.full_like(value["a"], 0.2)
    without = (model.c(torch.tanh(value["a"])) * value["b"]).sum(1)
    close(joint[1][:, 0], model(x) - without)
    close(joint[0], (model(x) - without)[:, None].expand(4, 3))


@pytest.mark.parametrize("layer", [["a", "c"], ["c", "a"], [None, "b"], ["a", "a"], {"x": "b", "y": None}])
def test_layers_that_depend_on_each_other(layer: Any) -> None:
    model = Sides()
    with pytest.raises(ValueError, match="depends on another of the layers"):
        feature_ablation(model, torch.randn(4, 4), layer=layer)
    with torch.inference_mode(), pytest.raises(ValueError, match="depends on another of the layers"):
        feature_ablation(model, torch.randn(4, 4), layer=layer)


# Transforms.


def state(model: nn.Module) -> Any:
    return [(sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]


COMPILED = [case for case in CASES if case.name in ("mlp", "residual", "tokens", "keywords", "writes", "two", "text")]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", breadth(COMPILED, lambda case: case.name in ("mlp", "text")), ids=case_id)
def test_compiled_equals_eager(case: Case) -> None:
    model, x = double(case)
    more = tuple(part.flip(0) for part in x) if isinstance(x, tuple) else x.flip(0)
    before = state(model)
    for site in (None, case.layers[0], case.layers[-1]):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled: Any = torch.compile(feature_ablation, fullgraph=True, backend=counter)
        for data, target in ((x, TARGET), (more, TARGET.flip(0))):
            eager = feature_ablation(model, data, layer=site, target=target, chunk_size=200)
            close(compiled(model, data, layer=site, target=target, chunk_size=200), eager)
        assert counter.frame_count == 1
    assert state(model) == before


@pytest.mark.parametrize(
    "target", breadth([3, "argmax", [3, 0, 0, 1], fa.neuron("act2", 2), lambda y: y[:, 0]], lambda target: target == "argmax")
)
def test_compiled_targets_and_chunks(target: Any) -> None:
    model, x = double(CASES[0])
    compiled = torch.compile(feature_ablation, fullgraph=True, backend="aot_eager")
    for chunk_size in (3, 1):
        eager = feature_ablation(model, x, layer="fc1", target=target, baselines=0.5)
        close(compiled(model, x, layer="fc1", target=target, baselines=0.5, chunk_size=chunk_size), eager)


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ("recurrent", "masked", "conv")], ids=case_id)
def test_vmapped_equals_looped(case: Case) -> None:
    model, x = double(case)
    several = isinstance(x, tuple)
    for site in (None, case.layers[0]):

        def alone(*parts: Any, site: Any = site) -> Any:
            *inputs, target = (part.unsqueeze(0) for part in parts)
            found = feature_ablation(model, tuple(inputs) if several else inputs[0], layer=site, target=target, chunk_size=99)
            return [leaf[0] for leaf in tensors(found)]

        parts = (*(x if several else (x,)), TARGET)
        in_one = torch.func.vmap(alone, randomness="same")(*parts)
        close(in_one, [torch.stack(leaves) for leaves in zip(*[alone(*example) for example in zip(*parts)])])


@pytest.mark.parametrize("site", [None, "fc1"])
def test_compiled_with_a_mask(site: Any) -> None:
    model, x = double(CASES[0])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(feature_ablation, fullgraph=True, backend=counter)
    size = 6 if site is None else 8
    for _ in range(3):  # other groups, and another number of them: the same graph
        mask = torch.randint(-9, 3, (size,))
        eager = feature_ablation(model, x, layer=site, target=TARGET, feature_mask=mask)
        close(compiled(model, x, layer=site, target=TARGET, feature_mask=mask), eager)
    assert counter.frame_count == 1


def test_vmapped_over_masks() -> None:
    model, x = double(CASES[0])
    masks = torch.tensor([[3, 3, -1, 0, 0, 3], [0, 1, 0, 1, 0, 1], [5, 4, 3, 2, 1, 0]])
    in_one = torch.func.vmap(lambda mask: feature_ablation(model, x, target=2, feature_mask=mask))(masks)
    close(in_one, torch.stack([feature_ablation(model, x, target=2, feature_mask=mask) for mask in masks]))


def test_vmapped_with_a_shared_mask() -> None:
    model, x = double(CASES[0])
    mask = torch.tensor([3, 3, -1, 0, 0, 3])
    in_one = torch.func.vmap(lambda x: feature_ablation(model, x[None], target=2, feature_mask=mask)[0])(x)
    close(in_one, feature_ablation(model, x, target=2, feature_mask=mask))


@pytest.mark.parametrize("name", ["residual", "tokens", "mlp"])
def test_differentiable(name: str) -> None:
    model, x = double(next(case for case in CASES if case.name == name))
    site = {"residual": "layer1", "tokens": "embed", "mlp": "act1"}[name]
    for layer in (None, site):
        channels = x.shape[1] if layer is None else fa.activation(model, x, layer=layer).shape[1]
        mask = torch.arange(channels).reshape(channels, *(1,) * (x.dim() - 2))

        def total(x: Tensor, layer: Any = layer, mask: Any = mask) -> Tensor:
            found = feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask, create_graph=True, chunk_size=4)
            return found.square().sum()  # type: ignore[no-any-return]

        leaf = x.clone().requires_grad_()
        (by_backward,) = torch.autograd.grad(total(leaf), leaf)
        close(torch.func.grad(total)(x), by_backward)
        direction, step = torch.randn_like(x), 1e-6
        slope = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
        torch.testing.assert_close((by_backward * direction).sum(), slope.detach(), rtol=1e-4, atol=1e-7)
    constant = feature_ablation(model, leaf, target=1, feature_mask=torch.tensor(0))
    assert not constant.requires_grad
    with torch.no_grad():
        close(
            feature_ablation(model, x, target=1, layer=site, chunk_size=99),
            inside := feature_ablation(model, x, target=1, layer=site),
        )
    with torch.inference_mode():
        close(feature_ablation(model, x.clone(), target=1, layer=site), inside)


def test_threads() -> None:
    model, x = double(CASES[2])
    mask = torch.arange(6).reshape(6, 1, 1)
    layers = ["stem", "layer1", "layer2", "layer1.bn1"]
    expected = {layer: feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask) for layer in layers}
    wrong: list[Any] = []

    def work(layer: str) -> None:
        try:
            for chunk_size in (1, 3, None) * 3:
                found = feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask, chunk_size=chunk_size)
                close(found, expected[layer])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Cost.


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FLOPs, and the most bytes that lived at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        for leaf in tensors(out):
            storage = leaf.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def counted(f: Callable[[], Any]) -> Counted:
    mode = Counted()
    with torch.no_grad(), mode:
        f()
    return mode


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2", fa.input_of("fc")])
def test_flops_are_at_the_floor(layer: Any) -> None:
    model, x = double(next(case for case in CASES if case.name == "conv"))
    value = fa.activation(model, x, layer=layer)
    mask = torch.arange(value.shape[1]).reshape(-1, *(1,) * (value.dim() - 2))
    groups = value.shape[1]
    whole = counted(lambda: model(x)).flops
    place = layer if isinstance(layer, Place) else fa.output_of(layer)
    early = Place(place.layer, place.inputs, 0)
    prefix = counted(lambda: fa.activation(model, x, layer=early)).flops
    found = counted(lambda: feature_ablation(model, x, layer=layer, target=1, feature_mask=mask)).flops
    assert found <= 1.001 * (prefix + (groups + 1) * (whole - prefix))
    every = counted(lambda: feature_ablation(model, x[:1], layer=layer, target=1)).flops
    assert every <= 1.001 * (prefix + (value[0].numel() + 1) * (whole - prefix)) / 4
    at_input = counted(lambda: feature_ablation(model, x, target=1, feature_mask=torch.arange(8))).flops
    assert at_input <= 1.001 * 9 * whole


@pytest.mark.parametrize("layer", [None, "relu1"])
def test_memory_is_flat_in_the_number_of_groups(layer: Any) -> None:
    model = CASES[1].build().eval()
    x = torch.randn(2, 3, 16, 16)
    peaks = []
    for step in (4, 2, 1):  # 16, 64, 256 squares
        mask = (torch.arange(16)[:, None] // step) * 100 + torch.arange(16)[None] // step
        found = functools.partial(feature_ablation, model, x, layer=layer, target=1, feature_mask=mask, chunk_size=4)
        peaks.append(counted(found).peak)
    assert max(peaks) <= 1.05 * peaks[0]


@pytest.mark.filterwarnings("ignore:150,528 features are ablated one by one")
def test_many_groups_are_set_up_quickly() -> None:
    x = torch.randn(1, 3, 224, 224)
    runs = []

    class Enough(Exception):
        pass

    def model(x: Tensor) -> Tensor:
        runs.append(1)
        if len(runs) == 2:
            raise Enough
        return x.mean((1, 2, 3))

    mode = Counted()
    with mode, pytest.raises(Enough):
        feature_ablation(model, x, chunk_size=2)
    assert mode.peak < 12 * x.numel() * 4


# Progress.


def test_progress() -> None:
    model, x = double(CASES[0])
    heard: list[tuple[int, int]] = []
    with progress(lambda done, total: heard.append((done, total))):
        feature_ablation(model, x, target=1, chunk_size=3)
        feature_ablation(model, x, layer="fc1", target=1, chunk_size=1)
    assert heard[:4] == [(0, 7), (3, 7), (5, 7), (7, 7)]
    assert heard[4:] == [(i, 9) for i in range(10)]
    feature_ablation(model, x, target=1)
    assert len(heard) == 14
    others: list[Any] = []
    with progress(lambda done, total: others.append(done)):
        thread = threading.Thread(target=lambda: feature_ablation(model, x, target=1))
        thread.start()
        thread.join()
        compiled = torch.compile(feature_ablation, fullgraph=True, backend="aot_eager")
        compiled(model, x, target=1)
    assert not others


# Bad input.


class Attends(nn.Module):
    """Attention gives a tuple of one tensor and None, as most transformers' layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(torch.tanh(x + y).mean(1))  # type: ignore[no-any-return]


def test_one_tensor_stands_for_a_structure_with_one_tensor() -> None:
    net, x = Attends().double().eval(), torch.randn(4, 7, 8, dtype=torch.float64)
    mask, base = torch.arange(7).view(1, 7, 1), torch.randn(4, 7, 8, dtype=torch.float64)
    options: dict[str, Any] = {"layer": "attention", "target": 1}
    found = feature_ablation(net, x, feature_mask=mask, baselines=base, **options)
    expected = feature_ablation(net, x, feature_mask=(mask, None), baselines=(base, None), **options)
    assert found[1] is expected[1] is None
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], expected[0])
    lone = feature_ablation(net, {"x": x}, feature_mask=mask, baselines=base, target=1)
    torch.testing.assert_close(lone["x"], feature_ablation(net, x, feature_mask=mask, baselines=base, target=1))


def errors() -> Iterator[tuple[type[Exception], str, dict[str, Any]]]:
    image, ids = torch.randn(4, 3, 8, 8), torch.randint(0, 20, (4, 7))
    yield ValueError, r"feature_mask has the shape \[5\], which does not broadcast to x \[4, 3, 8, 8\]", {"feature_mask": [5]}
    yield ValueError, r"feature_mask has the shape \[2, 3, 8, 8\]", {"feature_mask": [2, 3, 8, 8]}
    yield ValueError, r"feature_mask has the shape \[1, 4, 3, 8, 8\]", {"feature_mask": [1, 4, 3, 8, 8]}
    yield ValueError, r"to the value at layer 'stem' \[4, 6, 6, 6\]", {"feature_mask": [3, 8, 8], "layer": "stem"}
    yield TypeError, "torch.float32, expected integers.*pass feature_mask.long", {"feature_mask": torch.zeros(8)}
    yield TypeError, "torch.bool, expected integers", {"feature_mask": torch.zeros(8) > 0}
    yield TypeError, "must hold integer tensors, one id per feature, got str", {"feature_mask": "channels"}
    yield ValueError, "feature_mask is a tuple of 1, and x is a tensor", {"feature_mask": (torch.zeros(8).long(),)}
    yield ValueError, "names no group", {"feature_mask": (None,)}
    yield ValueError, r"baselines has the shape \[5\], which does not broadcast to x", {"baselines": torch.zeros(5)}
    yield ValueError, r"baselines has the shape \[2, 3, 8, 8\]", {"baselines": torch.zeros(2, 3, 8, 8)}
    yield ValueError, "baselines is a tuple of 2, and x is a tensor", {"baselines": (0.0, 1.0)}
    yield ValueError, "baselines=nan cannot stand in x", {"baselines": float("nan")}
    yield ValueError, "baselines=1e[+]300 cannot stand in x, which is torch.float32", {"baselines": 1e300}
    yield ValueError, "a tensor of torch.float32 cannot stand in x", {"baselines": torch.full((8,), torch.inf)}
    yield TypeError, "baselines must be numbers or tensors for x, got str", {"baselines": "zero"}
    yield TypeError, "baselines must be numbers or tensors for x, got ndarray", {"baselines": torch.zeros(8).numpy()}
    yield ValueError, "no target says which", {"target": None}
    yield ValueError, "target 5 is out of range", {"target": 5}
    yield ValueError, "target 7 is out of range", {"target": torch.tensor([0, 1, 2, 7])}
    yield ValueError, "no layer 'layer9'", {"layer": "layer9"}
    yield ValueError, "ran 2 times in one forward pass", {"layer": "layer1.relu"}
    yield ValueError, "ran 2 times in one forward pass", {"layer": "layer1.relu", "feature_mask": 0}
    yield ValueError, "chunk_size must be at least 1, got 0", {"chunk_size": 0}
    yield TypeError, "chunk_size must be an int, got float", {"chunk_size": 1.5}
    yield TypeError, "x must be a tensor.*got list: pass torch.stack", {"x": [image]}
    yield TypeError, "x must be a tensor.*got ndarray", {"x": image.numpy()}
    yield ValueError, "x .* holds NaN or inf", {"x": image / 0}
    yield ValueError, "baselines=0.5 cannot stand in x, which is torch.int64: give whole numbers", {"x": ids, "baselines": 0.5}
    yield ValueError, "baselines=300 cannot stand in x, which is torch.uint8", {"x": ids.byte(), "baselines": 300}
    yield ValueError, "a tensor of torch.int64 cannot stand in x", {"x": ids.byte(), "baselines": torch.tensor([300])}
    yield ValueError, "a tensor of torch.float32 cannot stand in x", {"x": ids, "baselines": torch.tensor([0.5])}
    yield ValueError, "baselines=2 cannot stand in x, which is torch.bool", {"x": ids > 3, "baselines": 2}
    yield (
        ValueError,
        "a tensor.*with the keys|feature_mask is a tensor .* and x is a tuple of 2",
        {"x": (image, ids), "feature_mask": [8]},
    )
    yield (
        ValueError,
        "feature_mask is a dict with the keys 'a', and x is a dict with the keys 'b'",
        {
            "x": {"b": image},
            "feature_mask": {"a": 0},
        },
    )
    yield ValueError, "baselines is a tuple of 1, and layer is a list of 2", {"layer": ["stem", "fc"], "baselines": (0,)}


@pytest.mark.parametrize(("kind", "text", "call"), list(errors()), ids=[text[:50] for _, text, _ in errors()])
def test_bad_input(kind: type[Exception], text: str, call: dict[str, Any]) -> None:
    model = Residual().eval()
    options = {"target": 1} | {k: v for k, v in call.items() if k != "x"}
    if isinstance(options.get("feature_mask"), list):
        options["feature_mask"] = torch.zeros(options["feature_mask"], dtype=torch.long)
    x = call.get("x", torch.randn(4, 3, 8, 8))
    any_model: Any = model if "x" not in call else lambda *args, **named: F.one_hot(torch.zeros(4).long(), 5)
    before = state(model)
    with pytest.raises(kind, match=f"(?s)^feature_ablation.*{text}"):
        feature_ablation(any_model, x, **options)
    assert state(model) == before


def test_the_models_own_errors_come_through() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("vmap is what this model says")

    with pytest.raises(RuntimeError, match="is what this model says"):
        feature_ablation(broken, torch.randn(2, 3))

    class Late(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            self.fc1(x)
            raise KeyError("mine")

    for chunk_size in (1, 3):
        with pytest.raises(KeyError, match="mine"):
            feature_ablation(Late(), torch.randn(2, 6), layer="fc1", chunk_size=chunk_size)
        assert not transforms_active()


def test_a_layer_without_tensors() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = Names()

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) * self.names(x)[0]  # type: ignore[no-any-return]

    class Names(nn.Module):
        def forward(self, x: Tensor) -> tuple[int, ...]:
            return (x.shape[1],)

    with pytest.raises(TypeError, match="holds no tensor to ablate"):
        feature_ablation(Odd(), torch.randn(2, 3), layer="names")
