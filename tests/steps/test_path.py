"""Methods along a path, against plain loops over autograd, Captum where it is right, and their laws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients, InternalInfluence, LayerConductance, LayerIntegratedGradients
from torch import Tensor, nn

import funattr as fa
from funattr import conductance, convergence_delta, gradient_shap, integrated_gradients, internal_influence
from funattr._steps import points, ways

from ..close import close
from ..models import CASES, Case, Conv, Mlp, case_id, double
from ..reference import path_at_site, path_in_input

PATHS = [integrated_gradients, internal_influence, conductance]
SITES = [pytest.param(case, layer, id=f"{case.name}-{i}") for case in CASES for i, layer in enumerate((None, *case.layers))]


def built(index: int) -> tuple[Any, Any]:
    return double(CASES[index])


def score(output: Any) -> Tensor:
    return fa.score(output, 2)


def is_ids(x: Any) -> bool:
    return isinstance(x, Tensor) and not x.is_floating_point()


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize(("case", "layer"), SITES)
def test_formula(case: Case, layer: Any, chunk_size: int | None) -> None:
    model, x = double(case)
    options: dict[str, Any] = {"layer": layer, "target": 2, "n_steps": 5, "chunk_size": chunk_size}
    if layer is not None or not is_ids(x):
        close(integrated_gradients(model, x, **options), path_at_site(model, x, layer, score, 5))
    if not is_ids(x):
        influence, flow = path_in_input(model, x, layer, score, 5)
        close(internal_influence(model, x, **options), influence)
        close(conductance(model, x, **options), flow)


def one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "rows_alone", lambda q: False)
    before = ways.Runner.__init__
    monkeypatch.setattr(ways.Runner, "__init__", lambda self: before(self, sequential=True))


def mapped_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "rows_alone", lambda q: False)


@pytest.mark.parametrize("force", [one_after_another, mapped_only])
@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ("text", "recurrent", "masked")], ids=case_id)
def test_ways_to_run_steps_agree(case: Case, method: Any, force: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = double(case)
    options: dict[str, Any] = {"target": [0, 1, 2, 3], "n_steps": 3}
    layers = (None, case.layers[-1])
    expected = [method(model, x, layer=layer, **options) for layer in layers]
    force(monkeypatch)
    for layer, one in zip(layers, expected):
        close(method(model, x, layer=layer, **options), one, 1e-12)


# Captum, where it is right.


@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"])
def test_captum_integrated_gradients(rule: str) -> None:
    model, x = built(1)
    start = torch.randn_like(x)
    options: dict[str, Any] = {"target": 3, "n_steps": 7}
    theirs = IntegratedGradients(model).attribute(x, start, method=rule, **options)
    close(integrated_gradients(model, x, baselines=start, quadrature=rule, **options), theirs, 1e-6)  # float32 nodes
    theirs = LayerIntegratedGradients(model, model.conv1).attribute(x, start, method=rule, **options)
    close(integrated_gradients(model, x, layer="conv1", baselines=start, quadrature=rule, **options), theirs, 1e-6)
    theirs = InternalInfluence(model, model.conv2).attribute(x, start, method=rule, **options)
    close(internal_influence(model, x, layer="conv2", baselines=start, quadrature=rule, **options), theirs, 1e-6)


def test_captum_conductance_converges_to_the_same() -> None:
    model, x = built(4)
    theirs = LayerConductance(model, model.proj).attribute(x, x * 0, target=1, n_steps=2000, method="riemann_middle")
    ours = conductance(model, x, layer="proj", target=1)
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() / scale < 1e-3
    precise = conductance(model, x, layer="proj", target=1, n_steps=300)
    assert (ours - precise).abs().max() / scale < 1e-6


def test_captum_gradient_shap_in_expectation() -> None:
    model, x = built(1)
    references = torch.randn(3, *x.shape[1:], dtype=x.dtype)
    ours = gradient_shap(model, x, baselines=references, target=1, n_samples=400)
    theirs = GradientShap(model).attribute(x, references, target=1, n_samples=400)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 0.2
    gain = score_of(model, x, 1) - score_of(model, references, 1).mean()
    assert (ours.flatten(1).sum(1) - gain).abs().max() < 0.05


def score_of(model: Any, x: Any, target: Any) -> Tensor:
    with torch.no_grad():
        return fa.score(model(*x) if isinstance(x, tuple) else model(x), target)


# Laws.


@pytest.mark.parametrize(
    ("index", "layers"),
    [(0, ("fc1", "act2")), (4, ("embed",)), (5, ("encoder.layers.0",)), (8, ("first", fa.input_of("last")))],
)
def test_completeness(index: int, layers: tuple[Any, ...]) -> None:
    model, x = built(index)
    for layer in (None, *layers):
        for method in (integrated_gradients, conductance):
            found = method(model, x, layer=layer, target="argmax", baselines=0.3, n_steps=300)
            delta = convergence_delta(found, model, x, target="argmax", baselines=0.3)
            assert delta.shape == (4,)
            assert delta.abs().max() < 2e-3


@pytest.mark.parametrize("layer", ["fc1", "act1", "act2"])
def test_conductance_is_complete_at_kinks(layer: str) -> None:
    model, x = built(0)
    found = conductance(model, x, layer=layer, target=1)
    assert convergence_delta(found, model, x, target=1).abs().max() < 2e-2


def test_conductance_at_the_input_is_integrated_gradients() -> None:
    model, x = built(2)
    expected = integrated_gradients(model, x, target=1, n_steps=9)
    close(conductance(model, x, target=1, n_steps=9), expected, 1e-12)
    close(conductance(model, x, layer=fa.input_of("stem"), target=1, n_steps=9), expected, 1e-12)
    close(integrated_gradients(model, x, layer=fa.input_of("stem"), target=1, n_steps=9), expected, 1e-12)


@pytest.mark.parametrize("method", PATHS)
def test_batch_independence_and_linearity(method: Any) -> None:
    model, x = built(2)
    for layer in (None, "layer1"):
        options: dict[str, Any] = {"layer": layer, "n_steps": 4}
        together = method(model, x, target=1, **options)
        alone = [method(model, x[i : i + 1], target=1, **options) for i in range(4)]
        close(together, torch.cat(alone))
        other = method(model, x, target=3, **options)
        close(method(model, x, target=lambda out: 2 * out[:, 1] - out[:, 3], **options), 2 * together - other)


def test_several_layers_are_one_path() -> None:
    model, x = built(11)
    found = integrated_gradients(model, x, layer={"a": "conv", "b": "fc"}, target=1, n_steps=200)
    assert list(found) == ["a", "b"]
    assert convergence_delta(found, model, x, target=1).abs().max() < 1e-3
    model, x = built(2)
    for layer in (["layer1", "layer2"], ["layer2", "layer1"], [None, "stem"]):
        with pytest.raises(ValueError, match="depend on each other"):
            integrated_gradients(model, x, layer=layer, target=1)
    close(integrated_gradients(model, x, layer=["stem"], target=1)[0], integrated_gradients(model, x, layer="stem", target=1))


def test_neurons() -> None:
    model, x = built(0)
    close(integrated_gradients(model, x, target=fa.neuron("fc1", 3)), model.fc1.weight[3] * x)
    picked = fa.neuron("fc1", lambda value: value[:, 0] + value[:, 1])
    close(integrated_gradients(model, x, target=picked, chunk_size=3), (model.fc1.weight[0] + model.fc1.weight[1]) * x)
    inner = integrated_gradients(model, x, layer="fc1", target=fa.neuron("fc2", 2), n_steps=300)
    with torch.no_grad():
        gain = [model.fc2(model.act1(model.fc1(v)))[:, 2] for v in (x, x * 0)]
    assert (inner.sum(1) - (gain[0] - gain[1])).abs().max() < 1e-2


# Baselines, ids, bound arguments.


def test_baselines_in_all_forms() -> None:
    model, x = built(1)
    full = torch.full_like(x, 0.5)
    for layer in (None, "conv1"):
        expected = integrated_gradients(model, x, baselines=full, layer=layer, target=1, n_steps=3)
        for form in (0.5, full[:1], full[0], torch.tensor(0.5), full[:1, :1], torch.full((8,), 0.5)):
            close(integrated_gradients(model, x, baselines=form, layer=layer, target=1, n_steps=3), expected, 1e-12)
    two, pair = built(11)
    expected = integrated_gradients(two, pair, baselines=(0.0, 1.0), target=1, n_steps=3)
    given = (torch.zeros_like(pair[0]), torch.ones(6))
    close(integrated_gradients(two, pair, baselines=given, target=1, n_steps=3), expected, 1e-12)
    named = integrated_gradients(
        two, {"image": pair[0], "table": pair[1]}, baselines={"table": 1, "image": 0}, target=1, n_steps=3
    )
    close(named, expected, 1e-12)


def test_ids_with_a_mask_bound() -> None:
    model, ids = built(12)
    mask = torch.rand(4, 7).double()
    bound = partial(model, mask=mask)
    pad = torch.tensor([3, 1, 2, 3, 4, 5, 6])
    for baselines in (0.0, 3, pad, pad.expand(4, 7)):
        for call in (bound, lambda ids: model(ids, mask)):
            layer = model.embedding
            found = integrated_gradients(call, ids, layer=layer, baselines=baselines, target=1)
            assert found.shape == (4, 7, 8)
            assert convergence_delta(found, call, ids, baselines=baselines, target=1).abs().max() < 1e-10
    with pytest.raises(ValueError, match="integer"):
        integrated_gradients(model, ids, layer="embedding", baselines=0.5, target=1)
    with pytest.raises(TypeError, match="after the embedding"):
        integrated_gradients(model, ids, target=1)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, ids: Tensor, x: Tensor) -> Any:
        return torch.tanh(self.fc(self.embedding(ids) * x))


def test_integers_beside_floats_stay_at_x() -> None:
    model = Mixed().double()
    x = (torch.tensor([1, 2, 3]), torch.randn(3, 6).double())
    found = integrated_gradients(model, x, target=1)
    assert found[0] is None
    assert (found[1].sum(1) - (score_of(model, x, 1) - score_of(model, (x[0], 0 * x[1]), 1))).abs().max() < 1e-10
    assert gradient_shap(model, x, baselines=(0, torch.randn(4, 6).double()), target=1)[0] is None
    assert conductance(model, x, layer="fc", target=1).shape == (3, 5)


def test_a_matrix_that_is_no_batch_is_not_expanded() -> None:
    adjacency, layer = torch.rand(4, 4).double(), nn.Linear(6, 5).double()

    def model(x: Tensor, adjacency: Tensor) -> Any:
        assert adjacency.shape == (4, 4)
        return layer(torch.tanh(adjacency @ x))

    x = torch.randn(4, 6).double()
    found = integrated_gradients(partial(model, adjacency=adjacency), x, target=1)
    delta = found.sum() - (model(x, adjacency)[:, 1] - model(0 * x, adjacency)[:, 1]).sum()
    assert abs(delta.item()) < 1e-10


# gradient_shap.


def drawn(**options: Any) -> Any:
    return gradient_shap(generator=torch.Generator().manual_seed(3), **options)


@pytest.mark.parametrize("stdevs", [0.0, 0.2])
@pytest.mark.parametrize("name", [None, "conv1", "conv2"])
def test_same_seed_whatever_the_chunk(name: str | None, stdevs: float) -> None:
    model, x = built(1)
    options = {"model": model, "x": x, "baselines": torch.randn_like(x)[:3], "layer": name, "target": 1, "stdevs": stdevs}
    expected = drawn(**options, n_samples=7)
    for chunk_size in (1, 3, 7):
        close(drawn(**options, n_samples=7, chunk_size=chunk_size), expected, 1e-12)
    torch.manual_seed(1)
    once = gradient_shap(**options)
    assert not torch.equal(once, gradient_shap(**options))
    torch.manual_seed(1)
    assert torch.equal(once, gradient_shap(**options))


def test_gradient_shap_of_a_line() -> None:
    weight = torch.randn(6).double()
    x, references = torch.randn(4, 6).double(), torch.randn(5, 6).double()

    def line(x: Tensor, y: Tensor) -> Tensor:
        return x @ weight + 2 * (y @ weight)

    # Joint draws: the baselines of both inputs are the same row, so the two parts are in step.
    a, b = gradient_shap(line, (x, x), baselines=(references, references), n_samples=1)
    close(b, 2 * a, 1e-12)
    rows = (x[:, None] - references) * weight
    assert all(any(torch.allclose(a[i], rows[i, r]) for r in range(5)) for i in range(4))
    close(
        gradient_shap(line, (x, x), baselines=lambda x: (x[0][:1], x[1][:1]), multiply_by_inputs=False)[0], weight.expand(4, 6)
    )
    with pytest.raises(ValueError, match="joint samples"):
        gradient_shap(line, (x, x), baselines=(references, references[:2]))
    with pytest.raises(ValueError, match="negative"):
        gradient_shap(line, (x, x), baselines=(references, references), stdevs=(0.1, -1))


def test_gradient_shap_of_ids_and_in_bfloat16() -> None:
    model, ids = built(12)
    for bound in (model, partial(model, mask=torch.rand(4, 7).double())):
        options = {"model": bound, "x": ids, "baselines": torch.randint(0, 20, (3, 7)), "layer": "embedding", "target": 1}
        expected = drawn(**options, stdevs=0.1)
        assert expected.shape == (4, 7, 8)
        close(drawn(**options, stdevs=0.1, chunk_size=2), expected, 1e-12)
    one = drawn(model=model, x=ids, baselines=ids[:1] * 0, layer="embedding", target=1, n_samples=2000)
    assert (one.flatten(1).sum(1) - (score_of(model, ids, 1) - score_of(model, ids * 0, 1))).abs().max() < 0.05
    small, x = Conv().bfloat16().eval(), torch.randn(4, 3, 8, 8).bfloat16()
    assert gradient_shap(small, x, baselines=x[:2], stdevs=0.1, target=1).dtype == torch.bfloat16
    wide = integrated_gradients(small.float(), x.float(), target=1)
    found = integrated_gradients(small.bfloat16(), x, target=1)
    assert ((found - wide).norm() / wide.norm()).item() < 0.05


# Errors.


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"baselines": torch.zeros(3, 6)}, ValueError, "do not broadcast to"),
        ({"baselines": torch.zeros(7)}, ValueError, "do not broadcast to"),
        ({"baselines": (0, 1)}, TypeError, "numbers or tensors"),
        ({"baselines": float("nan")}, ValueError, "not a finite number"),
        ({"baselines": torch.full((6,), float("inf"))}, ValueError, "NaN or inf"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"quadrature": "gauss"}, ValueError, "Did you mean 'gausslegendre'"),
        ({"layer": "fc9"}, ValueError, "Mlp has no layer 'fc9'"),
        ({"target": 5}, ValueError, "target 5 is out of range"),
        ({"target": [1, 2, 3], "chunk_size": 2}, ValueError, "3 entries for 4 examples"),
        ({"target": torch.tensor([1, 2, 3, 9])}, ValueError, "target 9 is out of range"),
        ({"target": None}, ValueError, "several values per example"),
    ],
)
def test_errors(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        integrated_gradients(Mlp().eval(), torch.randn(4, 6), **{"target": 1, **options})
    assert str(caught.value).startswith("integrated_gradients(")


def test_errors_of_structure() -> None:
    model, x = built(11)
    for baselines in ((0, 0, 0), torch.zeros(6), {"image": 0, "table": 0}):
        with pytest.raises(ValueError, match=r"x is a tuple|structure of x"):
            integrated_gradients(model, x, baselines=baselines, target=1)
    with pytest.raises(ValueError, match="no row for each"):
        convergence_delta(torch.zeros(3, 2), model, x, target=1)


class Masked(nn.Module):
    """What is before the layer depends on a mask with a row for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.second(torch.tanh(self.first(x)) * mask)))


def test_gradient_shap_under_a_mask_by_hand() -> None:
    model, x, count = Masked().double(), torch.randn(3, 6, dtype=torch.float64), 7
    references, mask = torch.randn(2, 6, dtype=torch.float64), torch.rand(3, 8, dtype=torch.float64)
    draws = torch.Generator().manual_seed(4)
    steps, which = torch.rand((count, 3), generator=draws, dtype=torch.float64), torch.randint(2, (count, 3), generator=draws)

    def value(x: Tensor) -> Tensor:
        return model.second(torch.tanh(model.first(x)) * mask).detach()

    expected = torch.zeros(3, 8, dtype=torch.float64)
    for step, row in zip(steps, which):
        start = references[row]
        at = value(start + step[:, None] * (x - start)).requires_grad_()
        (slope,) = torch.autograd.grad(model.head(torch.sigmoid(at))[:, 1].sum(), at)
        expected += slope * (value(x) - value(start)) / count
    bound, seed = partial(model, mask=mask), torch.Generator().manual_seed(4)
    for chunk_size in (None, 2):
        found = gradient_shap(
            bound,
            x,
            layer="second",
            target=1,
            baselines=references,
            n_samples=count,
            generator=seed.manual_seed(4),
            chunk_size=chunk_size,
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
