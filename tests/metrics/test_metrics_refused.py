"""What metrics refuse: (call, exception, words that the message must contain), and what is warned of, once."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Conv, Recurrent, Text

M: Any = fa.metrics  # wrong on purpose
conv, image, ids = Conv().eval(), torch.randn(3, 3, 8, 8), torch.randint(0, 20, (3, 7))
phi, nan = torch.randn(3, 3, 8, 8), torch.full((3, 3, 8, 8), math.nan)
inside = torch.rand(8, 8) < 0.5
table, score = torch.randn(2, 5), partial(torch.sum, dim=1)
cam, every = partial(fa.grad_cam, layer="conv2"), fa.each_target(fa.gradient, [1, 2])
same = nn.Sequential(OrderedDict(same=nn.Conv2d(3, 3, 3, padding=1), net=conv))

TABLE: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("no x", lambda: M.deletion(fa.gradient, conv), TypeError, ["x is missing", "fa.metrics.deletion(fa.gradient, model, x)"]),
    ("misspelt", lambda: M.deletion(fa.gradient, conv, image, layr="conv1"), TypeError, ["'layr'", "'layer'"]),
    ("by place", lambda: M.deletion(fa.gradient, conv, image, 3), TypeError, ["by name", "fa.metrics.deletion", "target=3"]),
    (
        "steps",
        lambda: M.deletion(phi, conv, image, target=1, steps=0),
        ValueError,
        ["deletion(target=1, steps=0)", "at least 1"],
    ),
    ("steps half", lambda: M.curve(phi, conv, image, target=1, steps=1.5), TypeError, ["steps", "1.5"]),
    ("kind", lambda: M.curve(phi, conv, image, target=1, kind="deletoin"), ValueError, ["'deletoin'", "'deletion'"]),
    ("nan", lambda: M.deletion(nan, conv, image, target=1), ValueError, ["[3, 3, 8, 8]", "NaN"]),
    ("nan of a method", lambda: M.sufficiency(lambda *_, **__: nan, conv, image, target=1), ValueError, ["NaN"]),
    ("inf in agreement", lambda: M.agreement(phi / 0, phi), ValueError, ["NaN or inf"]),
    ("rows", lambda: M.deletion(phi[:2], conv, image, target=1), ValueError, ["[2, 3, 8, 8]", "3 examples"]),
    ("one row", lambda: M.deletion(phi[:1], conv, image, target=1), ValueError, ["[1, 3, 8, 8]", "3 examples"]),
    ("sizes", lambda: M.deletion(phi[..., :7], conv, image, target=1), ValueError, ["[3, 3, 8, 7]", "x [3, 3, 8, 8]"]),
    ("dimensions", lambda: M.deletion(phi.flatten(2), conv, image, target=1), ValueError, ["[3, 3, 64]", "[3, 3, 8, 8]"]),
    ("a layer's map", lambda: M.deletion(cam, conv, image, target=1), ValueError, ["[3, 1, 4, 4]", "fa.interpolate"]),
    (
        "of a bound layer, as large as x",
        lambda: M.deletion(partial(fa.gradient, layer="same"), same, image, target=1),
        ValueError,
        ["gradient finds is of layer 'same'", "give the metric the layer"],
    ),
    (
        "the same, of infidelity and inside of others",
        lambda: M.infidelity(fa.relu(partial(fa.gradient, layer="same")), same, image, target=1),
        ValueError,
        ["relu(gradient) finds is of layer 'same'"],
    ),
    ("of each target", lambda: M.sensitivity_max(every, conv, image), ValueError, ["each of several targets", "inside it"]),
    ("where, of each", lambda: M.relevance_mass(every, conv, image, regions=inside), ValueError, ["several targets"]),
    ("random, of each", lambda: M.randomisation(every, conv, image), ValueError, ["several targets"]),
    (
        "at a layer",
        lambda: M.deletion(phi, conv, image, layer="conv2", target=1),
        ValueError,
        ["the value at layer 'conv2' [3, 8, 4, 4]", "[3, 3, 8, 8]"],
    ),
    ("structure", lambda: M.deletion((phi, phi), conv, image, target=1), ValueError, ["tuple of 2", "same structure"]),
    ("array", lambda: M.deletion(phi.numpy(), conv, image, target=1), TypeError, ["ndarray", "torch.from_numpy"]),
    ("a name", lambda: M.deletion("gradient", conv, image, target=1), TypeError, ["'gradient'", "fa.gradient"]),
    ("other keys", lambda: M.agreement({"a": phi}, {"b": phi}), ValueError, ["dict of ['a']", "dict of ['b']"]),
    ("fractions of an array", lambda: M.sufficiency(phi, conv, image, fractions=np.ones(2)), TypeError, [".tolist()"]),
    ("no channels", lambda: M.relevance_mass(phi[:2], regions=inside.expand(2, 8, 8)), ValueError, ["regions[:, None]"]),
    (
        "a similarity of all",
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=["fc"], similarity=lambda a, b: (a - b).mean()),
        ValueError,
        ["tensor [3]", "got []"],
    ),
    (
        "a module in layers",
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=[conv.conv1]),
        TypeError,
        ["list of names", "pass its name, 'conv1'"],
    ),
    ("nothing", lambda: M.deletion(None, conv, image, target=1), TypeError, ["expected a method", "None"]),
    ("complex", lambda: M.deletion(phi + 0j, conv, image, target=1), TypeError, ["complex", ".abs()"]),
    ("no dimension", lambda: M.agreement(phi.sum(), phi.sum()), ValueError, ["0-d"]),
    ("no class", lambda: M.deletion(phi, conv, image), ValueError, ["target"]),
    ("a class too far", lambda: M.infidelity(phi, conv, image, target=9), ValueError, ["target 9", "0 to 4"]),
    ("no layer", lambda: M.deletion(phi, conv, image, layer="conv9", target=1), ValueError, ["'conv9'"]),
    (
        "not by example",
        lambda: M.deletion(fa.gradient, Recurrent().eval(), torch.randn(3, 7, 4), layer="lstm", target=1),
        ValueError,
        ["[1, 3, 6]", "3 examples"],
    ),
    ("baselines", lambda: M.deletion(phi, conv, image, target=1, baselines=phi[:2]), ValueError, ["baselines[:, None]"]),
    ("mask", lambda: M.deletion(phi, conv, image, target=1, feature_mask=phi), TypeError, ["feature_mask", "integers"]),
    ("chunk", lambda: M.deletion(phi, conv, image, target=1, chunk_size=0), ValueError, ["chunk_size"]),
    ("graph", lambda: M.deletion(phi, conv, image, target=1, create_graph="no"), TypeError, ["create_graph"]),
    ("empty", lambda: M.deletion(table[:, :0], score, table[:, :0]), ValueError, ["no"]),
    # shares
    ("zero", lambda: M.sufficiency(table, score, table, fractions=(0.0, 0.5)), ValueError, ["above 0", "0.0"]),
    ("more", lambda: M.comprehensiveness(table, score, table, fractions=[1.5]), ValueError, ["at most 1", "1.5"]),
    ("none", lambda: M.comprehensiveness(table, score, table, fractions=()), ValueError, ["empty"]),
    ("a number", lambda: M.comprehensiveness(table, score, table, fractions=0.5), TypeError, ["fractions", "list"]),
    ("words", lambda: M.comprehensiveness(table, score, table, fractions=["a"]), TypeError, ["numbers"]),
    # infidelity
    ("samples", lambda: M.infidelity(phi, conv, image, target=1, n_samples=0), ValueError, ["n_samples", "at least 1"]),
    ("negative", lambda: M.infidelity(phi, conv, image, target=1, perturb=-1.0), ValueError, ["perturb", "-1.0"]),
    ("a word", lambda: M.infidelity(phi, conv, image, target=1, perturb="noise"), TypeError, ["perturb", "'noise'"]),
    ("broadcast", lambda: M.infidelity(phi[:, :1], conv, image, target=1), ValueError, ["[3, 1, 8, 8]", "each feature"]),
    (
        "a distribution",
        lambda: M.infidelity(phi, conv, image, target=1, baselines=phi[:2, None]),
        ValueError,
        ["[2, 1, 3, 8, 8]", "broadcast"],
    ),
    (
        "another shape",
        lambda: M.infidelity(phi, conv, image, target=1, perturb=lambda v, g: v[..., :4]),
        ValueError,
        ["[3, 3, 8, 4]", "[3, 3, 8, 8]"],
    ),
    ("no tensor", lambda: M.infidelity(phi, conv, image, target=1, perturb=lambda v, g: None), ValueError, ["perturb"]),
    (
        "noise on ids",
        lambda: M.infidelity(torch.randn(3, 7), Text().eval(), ids, target=1, perturb=0.1),
        TypeError,
        ["integers", "leave it out"],
    ),
    ("generator", lambda: M.infidelity(phi, conv, image, target=1, generator=3), TypeError, ["torch.Generator"]),
    # sensitivity
    ("result", lambda: M.sensitivity_max(phi, conv, image, target=1), TypeError, ["method", "fa.gradient"]),
    ("radius", lambda: M.sensitivity_max(fa.gradient, conv, image, target=1, radius=-0.1), ValueError, ["radius", "-0.1"]),
    ("norm", lambda: M.sensitivity_max(fa.gradient, conv, image, target=1, norm=3), ValueError, ["norm", "3"]),
    ("ids", lambda: M.sensitivity_max(fa.gradient, Text().eval(), ids, target=1), TypeError, ["layer"]),
    ("calls", lambda: M.sensitivity_max(fa.gradient, conv, image, target=1, n_samples=-2), ValueError, ["n_samples"]),
    # regions
    ("float regions", lambda: M.pointing_game(phi, regions=inside.float()), TypeError, ["torch.float32", "regions > 0"]),
    ("array regions", lambda: M.relevance_mass(phi, regions=inside.numpy()), TypeError, ["bool tensor", "torch.as_tensor"]),
    ("small regions", lambda: M.relevance_mass(phi, regions=inside[:, :4]), ValueError, ["[8, 4]", "[3, 3, 8, 8]"]),
    ("tolerance", lambda: M.pointing_game(phi, regions=inside, tolerance=-1), ValueError, ["tolerance", "-1"]),
    ("no model", lambda: M.pointing_game(fa.gradient, regions=inside), TypeError, ["model is missing"]),
    ("no input", lambda: M.pointing_game(fa.gradient, conv, regions=inside), TypeError, ["x is missing"]),
    ("no regions", lambda: M.pointing_game(phi), TypeError, ["regions is missing"]),
    ("two maps", lambda: M.pointing_game((phi, phi), regions=inside), TypeError, ["2 tensors"]),
    # agreement
    ("shapes", lambda: M.agreement(phi, phi[:, :1]), ValueError, ["[3, 3, 8, 8]", "[3, 1, 8, 8]"]),
    ("structures", lambda: M.agreement(phi, (phi, phi)), ValueError, ["structure"]),
    ("similarity", lambda: M.agreement(phi, phi, kind="spearmen"), ValueError, ["'spearmen'", "'spearman'"]),
    ("k", lambda: M.agreement(phi, phi, kind="topk", k=193), ValueError, ["193", "1 to 192"]),
    ("k of nothing", lambda: M.agreement(phi, phi, kind="topk", k=0), ValueError, ["k=0", "1 to 192"]),
    ("half a k", lambda: M.agreement(phi, phi, kind="topk", k=0.5), TypeError, ["0.5"]),
    # randomisation
    ("order", lambda: M.randomisation(fa.gradient, conv, image, target=1, order="cascade"), ValueError, ["'cascading'"]),
    (
        "no parameters",
        lambda: M.randomisation(cam, conv, image, target=1, layers=["relu1"]),
        ValueError,
        ["'relu1'", "'conv1'"],
    ),
    ("unknown", lambda: M.randomisation(cam, conv, image, target=1, layers=["conv3"]), ValueError, ["'conv3'", "Did you mean"]),
    ("a string", lambda: M.randomisation(cam, conv, image, target=1, layers="conv1"), TypeError, ["list", "'conv1'"]),
    ("modules", lambda: M.randomisation(cam, conv, image, target=1, layers=[conv.conv1]), TypeError, ["names"]),
    ("no layer", lambda: M.randomisation(cam, conv, image, target=1, layers=[]), ValueError, ["layers is empty"]),
    ("no parameter", lambda: M.randomisation(fa.gradient, torch.nn.Flatten(), table[:, :1]), ValueError, ["has no parameters"]),
    ("measure", lambda: M.randomisation(cam, conv, image, target=1, similarity="cos"), ValueError, ["'cosine'"]),
    ("a function", lambda: M.randomisation(fa.gradient, lambda x: x.sum(1), table), TypeError, ["nn.Module", "parameters"]),
    (
        "traced",
        lambda: M.randomisation(fa.gradient, torch.jit.trace(conv, image), image, target=1),
        TypeError,
        ["traced", "before it was"],
    ),
    ("a map", lambda: M.randomisation(phi, conv, image, target=1), TypeError, ["method"]),
    # compare
    ("list of methods", lambda: M.compare([fa.gradient], {"d": M.deletion}, conv, image), TypeError, ["methods", "dict"]),
    ("no methods", lambda: M.compare({}, {"d": M.deletion}, conv, image), ValueError, ["methods is empty"]),
    ("no metrics", lambda: M.compare({"g": fa.gradient}, {}, conv, image), ValueError, ["metrics is empty"]),
    ("a name", lambda: M.compare({"g": fa.gradient}, {"d": "deletion"}, conv, image), TypeError, ["metrics['d']"]),
]


@pytest.mark.parametrize(("call", "kind", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_refused(call: Any, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert text.partition("(")[0] in M.__all__, text
    assert type(caught.value) is kind
    assert not text.endswith(".."), text


def test_errors_of_models_and_methods_pass() -> None:
    class Odd(Exception):
        pass

    def broken(*_: Any, **__: Any) -> Tensor:
        raise Odd("mine")

    with pytest.raises(Odd, match=r"^mine$"):
        M.deletion(broken, conv, image, target=1)
    with pytest.raises(Odd, match=r"^mine$"):
        M.deletion(phi, broken, image, target=1)


def test_train_mode_is_warned_of_once() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    for metric in (M.deletion, M.infidelity, M.sensitivity_max, M.randomisation):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            metric(fa.gradient, net, table, target=1)
        assert ["train mode" in str(one.message) for one in told].count(True) == 1
        assert net.training


def test_scores_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"NaN or inf.*baselines"):
        M.deletion(table, lambda x: x.abs().sum(1).log(), table)


def test_what_comes_back_is_plain_and_in_its_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = table.to(dtype)
        found = M.compare({"g": fa.input_x_gradient}, {
            "deletion": M.deletion, "insertion": M.insertion, "comprehensiveness": M.comprehensiveness,
            "sufficiency": M.sufficiency, "infidelity": M.infidelity, "sensitivity": M.sensitivity_max,
            "mass": partial(M.relevance_mass, regions=torch.ones(5, dtype=torch.bool)),
            "pointing": partial(M.pointing_game, regions=torch.ones(5, dtype=torch.bool)),
        }, lambda x: x.sin().sum(1), x)["g"]  # fmt: skip
        for name, value in found.items():
            assert value.dtype == dtype, name
            assert value.shape == (2,)
            assert not value.requires_grad
            assert np.isfinite(value.double().numpy()).all()
    assert isinstance(M.curve(table, score, table), tuple)


@pytest.mark.parametrize("metric", [fa.metrics.deletion, fa.metrics.infidelity, fa.metrics.comprehensiveness])
def test_a_metric_is_no_method_of_rows_that_are_parts(metric: Any) -> None:
    """Of uneven examples it would count places that they do not have."""
    with pytest.raises(TypeError, match=r"a metric counts the places of whole examples.*: ask each example alone"):
        fa.by_examples(partial(metric, fa.gradient), [0, 0, 1])


def test_shuffled_parameters_are_gone_when_checkpoints_run_again() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            again = torch.utils.checkpoint.checkpoint(lambda h: self.first(h).relu(), x, use_reentrant=False)
            return self.head(again)  # type: ignore[no-any-return]  # a module returns any

    with pytest.raises(ValueError, match=r"with its own parameters: turn that off \(use_checkpoint=False"):
        fa.metrics.randomisation(fa.gradient, Again(), torch.randn(2, 4), target=1)
