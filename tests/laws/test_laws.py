"""Laws, on models and inputs that Hypothesis makes up. In float64, so that a law holds to rounding or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close
from ..methods import METHODS, Row, drawn_alike, fits, row_id
from ..models import CASES, MIXING, SPELLINGS, Case, Residual, case_id, double

seeds = st.integers(0, 2**31)
TARGETED = [row for row in METHODS if row.targeted]


class Made(nn.Module):
    """A net of random width, depth and activations."""

    def __init__(self, seed: int, width: int, kinds: list[str]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv1d(width if i else 3, width, 3, padding=1) for i in range(len(kinds)))
        self.kinds = kinds
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer, kind in zip(self.layers, self.kinds):
            before, x = x, layer(x)
            if x.shape == before.shape:
                x += before
            x = getattr(torch, kind)(x)
        return self.head(x.mean(2))


nets = st.builds(
    lambda seed, width, kinds: Made(seed, width, ["relu", *kinds]).double().eval(),
    seeds,
    st.integers(1, 5),
    st.lists(st.sampled_from(["relu", "tanh", "sigmoid", "sin"]), min_size=1, max_size=3),
)
batches = st.builds(
    lambda seed, n, length: torch.randn(n, 3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
    seeds,
    st.integers(1, 4),
    st.integers(1, 6),
)


def sites(net: Made) -> list[Any]:
    last = len(net.layers) - 1
    return [None, "layers.0", f"layers.{last}", fa.input_of(f"layers.{last}"), fa.input_of("head")]


def usable(row: Row, site: Any) -> bool:
    if site is None:
        return row.at_input
    return not (row.convolutional and site == fa.input_of("head"))  # [N, C]: nothing to interpolate


@given(nets, batches, st.data())
def test_rest_of_value_at_is_the_model(net: Made, x: Tensor, data: st.DataObject) -> None:
    site = data.draw(st.sampled_from([*sites(net), ["layers.0", fa.input_of("head")]]))
    value_at, rest = fa.split(net, site)
    close(rest(value_at(x), x), net(x))


@pytest.mark.parametrize("row", METHODS, ids=row_id)
@given(net=nets, x=batches, data=st.data())
def test_each_example_is_explained_alone(row: Row, net: Made, x: Tensor, data: st.DataObject) -> None:
    site = data.draw(st.sampled_from([s for s in sites(net) if usable(row, s)]))
    target = torch.tensor(data.draw(st.lists(st.integers(-4, 3), min_size=len(x), max_size=len(x))))
    with drawn_alike():
        together = row.method(net, x, layer=site, **row.options, **({"target": target} if row.targeted else {}))
        alone = [
            row.method(net, x[i : i + 1], layer=site, **row.options, **({"target": target[i : i + 1]} if row.targeted else {}))
            for i in range(len(x))
        ]
    close(together, torch.cat(alone))


@given(net=nets, x=batches, data=st.data())
def test_gradients_are_linear_in_the_score(net: Made, x: Tensor, data: st.DataObject) -> None:
    site = data.draw(st.sampled_from(sites(net)))
    a, b = data.draw(st.floats(-3, 3)), data.draw(st.floats(-3, 3))
    for method in (fa.gradient, fa.input_x_gradient):
        mixed = method(net, x, layer=site, target=lambda out: a * out[:, 0] + b * out[:, 3])
        close(mixed, a * method(net, x, layer=site, target=0) + b * method(net, x, layer=site, target=3))


@pytest.mark.parametrize(
    "row", [r for r in TARGETED if r.at_input and r.at_layer and r.name != "sum_channels(gradient)"], ids=row_id
)
@given(net=nets, x=batches)
def test_what_the_score_ignores_gets_nothing(row: Row, net: Made, x: Tensor) -> None:
    class Ignores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(torch.cat([x[:, :2], torch.zeros_like(x[:, 2:])], 1))

    if row.name in ("shapley", "lime", "occlusion"):
        pytest.skip("in the table, what the score ignores is in a group with what it does not: test_shapley.py")
    ignored = row.method(Ignores(), x, target=1, **row.options)[:, 2]
    assert ignored.abs().max() <= (1e-12 if row.name == "feature_ablation" else 0)  # a difference of two rounded scores


#: Of each kind of method, one.
FEW = ("gradient", "grad_cam", "guided_backprop", "integrated_gradients", "deep_lift", "gradient_shap", "feature_ablation")


@pytest.mark.parametrize("row", breadth(TARGETED, lambda row: row.name in FEW), ids=row_id)
@given(net=nets, x=batches, data=st.data())
def test_targets_are_one_idea_in_many_spellings(row: Row, net: Made, x: Tensor, data: st.DataObject) -> None:
    site = data.draw(st.sampled_from([s for s in sites(net) if usable(row, s)]))
    k = data.draw(st.integers(0, 3))
    n = len(x)
    expected = row.method(net, x, layer=site, target=k, **row.options)
    for target in (
        k - 4,
        (k,),
        torch.tensor(k),
        torch.tensor([k]),
        torch.full((n,), k),
        torch.full((n,), k - 4, dtype=torch.int32),
        [k] * n,
        [(k,)] * n,
        lambda out: out[:, k],
        lambda out: fa.score(out, k),
        fa.neuron("head", k),
        fa.neuron(fa.output_of("head", call=0), (k,)),
        fa.neuron("head", lambda value: value[:, k]),
        fa.neuron("head", (slice(k, k + 1),)),
    ):
        close(row.method(net, x, layer=site, target=target, **row.options), expected)
    best = net(x).argmax(1)
    close(
        row.method(net, x, layer=site, target="argmax", **row.options),
        row.method(net, x, layer=site, target=best, **row.options),
    )


@pytest.mark.parametrize("row", METHODS, ids=row_id)
def test_every_spelling_of_the_same_model_gives_the_same(row: Row) -> None:
    """In place or not, functional or a module, an activation used once or twice."""
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    nets = [Residual(spelling).double().eval() for spelling in SPELLINGS]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    sites: list[Any] = ["stem", "layer1", "layer1.bn2", "layer2.conv1", *([None] if row.at_input else [])]
    for site in sites:
        options = row.options | ({"target": 3} if row.targeted else {})
        found = [row.method(net, x, layer=site, **options) for net in nets]
        assert found[0].any()
        for other in found[1:]:
            close(other, found[0])


#: The hardest, and two whose rows meet.
HARD = [c for c in CASES + MIXING if c.name in ("residual", "tokens", "recurrent", "writes", "batch statistics", "nodes")]


@pytest.mark.parametrize("row", METHODS, ids=row_id)
@pytest.mark.parametrize("case", HARD, ids=case_id)
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM
def test_the_model_is_left_as_found(case: Case, row: Row) -> None:
    from ..pairs import state

    if not fits(row, case):
        pytest.skip("the method is not for this model")
    model, x = double(case)
    next(model.parameters()).requires_grad_(False)
    before, kept = state(model), x.clone()
    for site in case.layers:
        options = row.options | ({"target": 1} if row.targeted else {})
        if not (row.convolutional and site == fa.input_of("fc")):
            row.method(model, x, layer=site, **options)
        bad = row.options | ({"target": 99} if row.targeted else {})
        if row.targeted:
            with pytest.raises(ValueError, match="99"):
                row.method(model, x, layer=site, **bad)
    assert state(model) == before
    assert torch.equal(x, kept)
    assert not x.requires_grad
