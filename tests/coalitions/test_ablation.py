"""Feature ablation against plain forward passes, one per group, and against Captum where Captum is right."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, LayerFeatureAblation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa
from funattr import feature_ablation
from funattr._torch import transforms_active, tree_flatten

from .. import reference
from ..close import close
from ..models import CASES, Case, Mlp, Recurrent, Residual, Text, Writes, case_id, double
from ..reference import looped

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
        return self.head(torch.tanh(out))


class Decides(nn.Module):
    """Control flow that depends on data: vmap cannot run it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return (h * 2 if h.sum() > 0 else h).sum(1)


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
        close(feature_ablation(model, x, layer=layer, feature_mask=mask, chunk_size=4), expected)
    assert len(caught) == 1
    assert not transforms_active()
    close(feature_ablation(model, x, layer=layer, feature_mask=mask, chunk_size=1), expected)


def test_layers_inside_a_transform_of_the_models_own() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.grad(lambda x: (torch.tanh(self.a(x)) ** 2).sum())(x).sum(1)

    model, x = Slope().double(), torch.randn(4, 6, dtype=torch.float64)
    for layer in (None, "a"):
        one = feature_ablation(model, x, layer=layer, chunk_size=1)
        assert one.any()
        close(feature_ablation(model, x, layer=layer), one)
    assert not transforms_active()


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
    close(found, looped(called, ids, None, reference.pick(TARGET), 3))
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
        close(found, looped(called, ids, None, reference.pick(TARGET)))
    seven = torch.randn(7, 7, dtype=torch.float64)  # an adjacency, whatever the batch

    def graph(x: Tensor, adjacency: Tensor) -> Tensor:
        assert adjacency.shape == (7, 7)
        return (x @ adjacency).tanh().sum(1)

    x = torch.randn(7, 7, dtype=torch.float64)
    close(
        feature_ablation(functools.partial(graph, adjacency=seven), x, chunk_size=3),
        looped(functools.partial(graph, adjacency=seven), x, None, lambda y: y),
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
        return (self.c(torch.tanh(self.a(x))) * self.b(x)).sum(1)


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
