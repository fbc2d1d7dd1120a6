"""Every method at every site of every net equals its formula on a plain-autograd reference, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funattr as fa

from .. import reference
from ..close import close
from ..methods import METHODS, Row, fits, row_id
from ..models import CASES, MIXING, Case, case_id, double
from ..pairs import sites_of
from ..reference import Asked
from ..reference.table import expected

TARGET = torch.tensor([1, 4, 0, 2])


@pytest.mark.parametrize("row", [r for r in METHODS if r.formula is not None], ids=row_id)
@pytest.mark.parametrize("case", CASES + MIXING, ids=case_id)
def test_formula(case: Case, row: Row) -> None:
    model, x = double(case)
    sites = list(case.layers) if row.at_layer else []
    if row.at_input and case.name != "text":
        sites.append(None)
    for site in sites:
        values, gradients = reference.value_and_gradient(model, x, site, reference.pick(TARGET))
        assert row.formula is not None
        expected = [row.formula(v, g) for v, g in zip(values, gradients)]
        assert any(bool(g.abs().max() > 0) for g in gradients), "a reference of zeros proves nothing"
        options = row.options | ({"target": TARGET} if row.targeted else {})
        close(row.method(model, x, layer=site, **options), expected)


@pytest.mark.parametrize("row", [r for r in METHODS if r.formula is None], ids=row_id)
@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_loop(case: Case, row: Row) -> None:
    """Methods that no formula of value and gradient says: a plain loop each."""
    if not fits(row, case):
        pytest.skip("the method is not for this model")
    model, x = double(case)
    options = row.options | ({"target": TARGET} if row.targeted else {})
    for site in sites_of(row, case):
        wanted = expected(Asked(model, x, site, reference.pick(TARGET)), row)
        assert any(bool(t.abs().max() > 0) for t in wanted), "a reference of zeros proves nothing"
        close(row.method(model, x, layer=site, **options), wanted, 1e-9)


@pytest.mark.parametrize("case", CASES + MIXING, ids=case_id)
def test_value_and_gradient_agree_with_split(case: Case) -> None:
    model, x = double(case)
    for site in case.layers:
        value_at, rest = fa.split(model, site)
        close(reference.logits(rest(value_at(x), x)), reference.logits(model(*_copies(x))))
        value, gradient = fa.value_and_gradient(model, x, layer=site, target=TARGET)
        close(value, reference.leaves(value_at(x)))
        # The gradient is that of `rest` alone: nothing of it flows around the site.
        flat = reference.leaves(value)
        for leaf in flat:
            leaf.requires_grad_()
        out = reference.pick(TARGET)(rest(value, x)).sum()
        close(
            gradient,
            [torch.zeros_like(v) if g is None else g for v, g in zip(flat, torch.autograd.grad(out, flat, allow_unused=True))],
        )


def _copies(x: Any) -> tuple[Any, ...]:
    return tuple(part.clone() for part in (x if isinstance(x, tuple) else (x,)))


def test_several_layers_get_total_gradients_in_one_pass() -> None:
    model, x = double(CASES[2])
    sites = {"in": None, "stem": "stem", "blocks": ["layer1", "layer2"], "pair": ("layer1.bn1", fa.input_of("fc"))}
    found = fa.gradient(model, x, layer=sites, target=TARGET)
    assert list(found) == list(sites)
    assert isinstance(found["blocks"], list)
    assert isinstance(found["pair"], tuple)
    for key, layer in [("in", None), ("stem", "stem")]:
        close(found[key], [fa.gradient(model, x, layer=layer, target=TARGET)])
    alone: Any
    for got, alone in zip([*found["blocks"], *found["pair"]], ["layer1", "layer2", "layer1.bn1", fa.input_of("fc")]):
        close(got, [fa.gradient(model, x, layer=alone, target=TARGET)])


@pytest.mark.parametrize("index", [3, (3,), (slice(2, 4),), lambda value: value[:, 3].square()])
def test_a_neuron_whose_value_is_overwritten_later(index: Any) -> None:
    model, x = double(next(case for case in CASES if case.name == "writes"))

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        value = model.fc1((x * 0.5).relu())
        picked = (
            index(value)
            if callable(index)
            else value[:, 2:4]
            if isinstance(index, tuple) and isinstance(index[0], slice)
            else value[:, 3]
        )
        return picked.reshape(len(x), -1).sum(1)

    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(by_hand(leaf).sum(), leaf)[0]
    target = fa.neuron("fc1", index)
    close(fa.gradient(model, x, target=target), [expected])
    ablated = x.clone()
    ablated[:, 0] = 0
    lost = fa.feature_ablation(model, x, target=target)[:, 0]
    torch.testing.assert_close(lost, (by_hand(x) - by_hand(ablated)).detach())
    delta = fa.convergence_delta(fa.integrated_gradients(model, x, target=target), model, x, target=target)
    assert delta.abs().max() < 1e-2


class Relus(nn.Module):
    """Two inputs to one product of ReLUs, for guided rules by hand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x) * torch.tensor([-1.0, 2.0, 3.0, -4.0])).sum(1)


def test_guided_rules_by_hand() -> None:
    x = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert fa.gradient(Relus(), x).tolist() == [[-1.0, 2.0, 0.0, 0.0]]
    assert fa.guided_backprop(Relus(), x).tolist() == [[0.0, 2.0, 0.0, 0.0]]
    assert fa.deconvnet(Relus(), x).tolist() == [[0.0, 2.0, 3.0, 0.0]]


@pytest.mark.parametrize(
    "target",
    [1, [0, 3, 2], torch.tensor([0, 3, 2]), "argmax", fa.neuron("1", 2), lambda out: out[:, 1] * out[:, 2]],
    ids=["class", "list", "tensor", "argmax", "neuron", "callable"],
)
def test_all_baselines_of_a_small_model_in_one_batch(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over 4 x 3 rows in place of vmap's 3, with the result of a loop over the baselines."""
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)).double()
    x, baselines = torch.randn(3, 6).double(), torch.randn(4, 6).double()
    rows: list[int] = []
    linear = F.linear

    def counted(x: torch.Tensor, *parameters: Any) -> torch.Tensor:
        rows.append(len(x))
        return linear(x, *parameters)

    monkeypatch.setattr(F, "linear", counted)
    expected = sum(fa.deep_lift(model, x, baselines=one[None], target=target) for one in baselines) / 4
    for small in (True, False):
        if not small:
            monkeypatch.setattr("funattr._named.deep_lift_shap.SMALL", 0)
        rows.clear()
        found = fa.deep_lift_shap(model, x, baselines=baselines, target=target)
        assert (max(rows) == 12) == small
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_model_that_wants_its_batch_gets_its_batch() -> None:
    class Net(nn.Sequential):
        def forward(self, x: Any) -> Any:
            for layer in self:
                x = layer(x)
            return x * torch.tensor([1.0, 0.0, 2.0])[:, None]

    model = Net(nn.Linear(6, 5), nn.Tanh()).double()
    x, baselines = torch.randn(3, 6).double(), torch.randn(4, 6).double()
    found = fa.deep_lift_shap(model, x, baselines=baselines, target=1)
    whole = [fa.deep_lift(model, x, baselines=one.expand(3, 6), target=1) for one in baselines]
    torch.testing.assert_close(found, sum(whole) / 4)


@pytest.mark.filterwarnings("ignore:the steps run one after another")  # vmap has no rule for a GRU
def test_a_sequence_as_long_as_the_folded_batch() -> None:
    """The value ``[T, N, H]`` of a recurrent layer, where T is the number of rows that run at once."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 5), nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:  # [N, T, F]
            return self.head(self.rnn(x.transpose(0, 1))[0][-1])

    model = Net().double().eval()
    for steps, length in ((4, 8), (2, 4), (3, 8)):
        x = torch.randn(2, length, 3).double()
        options: dict[str, Any] = {"layer": "rnn", "target": 1}
        for method in (fa.internal_influence, fa.conductance):
            whole = method(model, x, n_steps=steps, **options)[0]
            alone = [method(model, one[None], n_steps=steps, **options)[0] for one in x]
            torch.testing.assert_close(whole, torch.cat(alone, 1))
        baselines = torch.randn(steps, length, 3).double()
        whole = fa.deep_lift_shap(model, x, baselines=baselines, **options)[0]
        alone = [fa.deep_lift(model, x, baselines=one[None], **options)[0] for one in baselines]
        torch.testing.assert_close(whole, sum(alone) / steps)
