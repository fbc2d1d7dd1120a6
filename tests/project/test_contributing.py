"""The worked examples of docs/contributing.md are held to what the page says that their kind is held to."""

from __future__ import annotations

import doctest
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr._rules.lift.table import ENTRIES
from funattr._rules.spelled import by_function

from ..combine import (
    test_by_examples,
    test_combine,
)
from ..laws import (
    test_laws,
    test_references,
)
from ..methods import Row, cam_by, fits
from ..models import CASES, double
from ..transforms import (
    test_compiled,
    test_differentiated,
    test_vmapped,
)
from ..where import (
    test_precision,
)
from . import (
    test_docs,
    test_package,
)

PAGE = test_docs.ROOT / "docs" / "contributing.md"


@functools.cache
def page() -> dict[str, Any]:
    """What the page defines, as a module, in which Dynamo looks for it."""
    module = sys.modules[PAGE.stem] = types.ModuleType(PAGE.stem)
    vars(module).update(test_docs.run(PAGE))
    return vars(module)


def written(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = page()[name]
    return found


# The method.


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    """The row of the page, with its method exported."""
    monkeypatch.setattr(fa, "grad_cam_plus", written("grad_cam_plus"), raising=False)
    (line,) = re.findall(r"^```py\n(.*?)\n```$", PAGE.read_text(), re.M | re.S)
    found: Row = eval(line, {"Row": Row, "fa": fa, "cam_by": cam_by})
    return found


def test_the_method_has_its_formula(row: Row) -> None:
    for case in CASES:
        if fits(row, case):
            test_references.test_formula(case, row)


def test_the_method_keeps_the_laws(row: Row) -> None:
    test_laws.test_each_example_is_explained_alone(row=row)
    test_laws.test_targets_are_one_idea_in_many_spellings(row=row)
    test_laws.test_every_spelling_of_the_same_model_gives_the_same(row)
    for case in test_docs.named("conv", "writes"):
        test_laws.test_the_model_is_left_as_found(case, row)


def test_the_method_looks_at_values_as_its_neighbours_do(row: Row) -> None:
    """A mean is over the places that an example has, and of values with steps in time first there is no map."""
    test_by_examples.test_maps_of_nodes(row.method)
    lstm = nn.LSTM(3, 4)
    with pytest.raises(ValueError, match="with steps in time first"):
        row.method(lambda x: lstm(x.transpose(0, 1))[0].mean(0), torch.randn(2, 4, 3), layer=lstm, target=1, channel_dim=-1)


def test_the_method_is_transformed(row: Row) -> None:
    for case in test_docs.named("conv"):
        test_compiled.test_compiled_equals_eager(case, row)
        test_vmapped.test_vmapped_equals_looped(case, row)
        test_differentiated.test_differentiable(case, row)
    test_precision.test_half_precision(row, torch.float16)
    test_precision.test_inference_mode(row)


def test_the_method_is_documented_as_all_are(row: Row) -> None:
    """It has the sentences of its neighbours, every section, and an example that runs."""
    test_package.test_documentation("grad_cam_plus")
    assert test_package.told("grad_cam_plus") == test_package.told("grad_cam")
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    runner.run(parser.get_doctest(inspect.getdoc(row.method) or "", {}, "grad_cam_plus", None, None))
    assert (runner.failures, runner.tries) == (0, 3)


# The rule.


def f(x: Tensor, y: Tensor) -> Tensor:
    return torch.special.xlog1py(x, y)


class Weighed(nn.Module):
    """One operand is a parameter, or a number: the rule is then that of a function of one tensor."""

    def __init__(self, first: bool, number: bool) -> None:
        super().__init__()
        self.weight: Any = 0.7 if number else nn.Parameter(torch.rand(3, dtype=torch.float64))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return f(x, self.weight) if self.first else f(self.weight, x)


@pytest.fixture
def two() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A point and a baseline, for two operands."""
    generator = torch.Generator().manual_seed(0)
    x, y, x0, y0 = torch.rand(4, 5, 3, generator=generator, dtype=torch.float64)
    y[0], x[1] = y0[0], x0[1]  # where one is as it was
    return (x, y), (x0, y0)


@pytest.mark.parametrize("name", ["xlog1py", "apart"])
def test_the_rule_gives_each_operand_its_share(name: str, two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Shapley values of two players, by hand: what each adds, alone and after the other."""
    rule = page()[name] if name == "xlog1py" else page()["taken_apart"](lambda x, y: x * torch.log1p(y))
    for entry, found in by_function({"xlog1py": rule}).items():
        monkeypatch.setitem(ENTRIES, entry, found)
    (x, y), (x0, y0) = two
    mine, others = fa.deep_lift(lambda x, y: f(x, y).sum(1), (x, y), baselines=(x0, y0))
    torch.testing.assert_close(mine, (f(x, y) - f(x0, y) + f(x, y0) - f(x0, y0)) / 2)
    torch.testing.assert_close(others, (f(x, y) - f(x, y0) + f(x0, y) - f(x0, y0)) / 2)


@pytest.fixture
def ruled(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry, found in by_function({"xlog1py": page()["xlog1py"]}).items():
        monkeypatch.setitem(ENTRIES, entry, found)


@pytest.mark.usefixtures("ruled")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("number", [True, False])
def test_the_rule_with_one_tensor(number: bool, first: bool, two: Any) -> None:
    (x, _), (x0, _) = two
    model = Weighed(first, number)
    with torch.no_grad():
        gain = model(x) - model(x0)
    found = fa.deep_lift(lambda x: model(x).sum(1), x, baselines=x0)
    torch.testing.assert_close(found, gain)


@pytest.mark.usefixtures("ruled")
def test_the_rule_under_other_passes(two: Any) -> None:
    """Differentiated further, over many baselines, and inside a net, where slopes meet other slopes."""
    (x, y), (x0, y0) = two

    def model(x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(f(torch.exp(x), y * x)).sum(1)

    found = fa.deep_lift(model, (x, y), baselines=(x0, y0))
    torch.testing.assert_close(sum(t.sum(1) for t in found), model(x, y) - model(x0, y0))
    many = fa.deep_lift_shap(model, (x, y), baselines=(x0, y0))
    one = [fa.deep_lift(model, (x, y), baselines=(x0[k : k + 1], y0[k : k + 1])) for k in range(5)]
    for a, b in zip(many, zip(*one)):
        torch.testing.assert_close(a, torch.stack(b).mean(0))

    def attribution(y: Tensor) -> Tensor:
        explained: Tensor = fa.deep_lift(model, (x, y), baselines=(x0, y0), create_graph=True)[0]
        return explained.sum()

    (slope,) = torch.autograd.grad(attribution(y.requires_grad_()), y)
    for k in (3, 7):
        step = torch.zeros(15, dtype=torch.float64).index_fill(0, torch.tensor(k), 1e-6).reshape(5, 3)
        risen = (attribution(y.detach() + step) - attribution(y.detach() - step)) / 2e-6
        torch.testing.assert_close(slope.flatten()[k], risen.detach(), rtol=1e-5, atol=1e-8)


# The combinator.

PAIR = test_combine.Pair(
    "signed_root",
    lambda method: written("signed_root")(method),
    test_combine.per_map(lambda t: torch.where(t < 0, -((-t).clamp(min=0) ** 0.5), t.clamp(min=0) ** 0.5)),
)


@pytest.mark.parametrize("other", test_combine.PAIRS, ids=lambda pair: pair.name)
def test_the_combinator_composes_with_every_other(other: Any) -> None:
    test_combine.test_each_composes_with_every_other(PAIR, other)
    test_combine.test_each_composes_with_every_other(other, PAIR)


def test_the_combinator_has_its_law() -> None:
    for case in test_docs.named("mlp", "conv"):
        net, x = double(case)
        for method in (fa.gradient, fa.saliency, fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0)):
            root = written("signed_root")(method)
            again = fa.multiply(root, fa.absolute(root))(net, x, target=1)
            torch.testing.assert_close(again, method(net, x, target=1))
    with pytest.raises(TypeError, match=r"signed_root\(\): expected a method"):
        written("signed_root")(3)


# What the page says of the house.


def test_the_layout_has_every_wing() -> None:
    """Each folder and what it imports, as test_package holds it to."""
    rows = re.findall(r"^\| (`funattr/.*?) \| .*? \| (.*?) \|$", PAGE.read_text(), re.M)
    listed = {
        name.rstrip("/"): imports
        for names, imports in rows
        for name in re.findall(r"`funattr/(\w+(?:/\w+)*)(?:\.py)?/?`", names)
    }
    wings = {wing for wing in test_package.MAY_IMPORT if wing != "."}
    ground = {name for name, file in test_package.FILES.items() if file.wing == "."} - test_package.DOORS
    assert wings | ground == {name for name in listed if "/" not in name}
    for wing in wings - {"_named", *test_package.FIGURES.BESIDE}:
        told = {"." if "ground" in listed[wing] else "", *re.findall(r"`(\w+)`", listed[wing])} - {""}
        assert told == {name.split("/")[0] for name in test_package.MAY_IMPORT[wing]}, wing
