"""Losses that rules take apart: the value that torch gives, whatever they are given, and all of it divided."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr._rules.lift.losses import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from ..breadth import breadth
from ..close import close

torch.manual_seed(0)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0]).double()
#: What losses were given in the place of `reduction` once.
OLDER = list(itertools.product((None, False, True), repeat=2))
REDUCTIONS = ("none", "mean", "sum")
LOGITS = torch.randn(5, 4, 2, dtype=torch.float64)


def classes() -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and classes, of which one is ignored: a row alone, rows, and rows with places; and shares of the classes."""
    y = torch.tensor([[0, 1], [3, 1], [1, 2], [2, 0], [1, 1]])
    yield from ((LOGITS, y), (LOGITS[..., 0], y[:, 0]), (LOGITS[1, :, 0], y[1, 0]))
    shares = LOGITS.roll(1, 0).softmax(1)
    yield from ((LOGITS, shares), (LOGITS[..., 0], shares[..., 0]), (LOGITS[1, :, 0], shares[1, :, 0]))


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weighed"])
@pytest.mark.parametrize("ignored", [-100, 1])
def test_cross_entropy_is_torchs(smoothing: float, weight: Tensor | None, ignored: int) -> None:
    same: dict[str, Any] = {"weight": weight, "label_smoothing": smoothing, "ignore_index": ignored}
    for (x, y), reduction, (average, reduce) in itertools.product(classes(), REDUCTIONS, OLDER):
        if y.is_floating_point() and ignored == 1:  # torch refuses it
            continue
        given: dict[str, Any] = {**same, "size_average": average, "reduce": reduce, "reduction": reduction}
        close(cross_entropy(x, y, **given), F.cross_entropy(x, y, **given), 1e-13)


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_squares_and_binary_cross_entropy_are_torchs() -> None:
    x, y, weight = torch.randn(3, 5, 4, dtype=torch.float64).unbind()
    weighed: list[dict[str, Any]] = [{}]
    if "weight" in F.mse_loss.__code__.co_varnames:  # torch 2.6
        weighed.append({"weight": weight.abs()})
    for reduction, (average, reduce), more in itertools.product(REDUCTIONS, OLDER, weighed):
        given = {"size_average": average, "reduce": reduce, "reduction": reduction, **more}
        close(mse_loss(x, y, **given), F.mse_loss(x, y, **given), 1e-13)
    for number, reduction in enumerate(REDUCTIONS):
        close(mse_loss(x, y, number), F.mse_loss(x, y, reduction=reduction), 1e-13)
        for weight_of, positive in itertools.product((None, WEIGHT), (None, WEIGHT)):
            found = binary_cross_entropy_with_logits(x, y.sigmoid(), weight_of, positive, number)
            given = {"weight": weight_of, "pos_weight": positive, "reduction": reduction}
            close(found, F.binary_cross_entropy_with_logits(x, y.sigmoid(), **given), 1e-13)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["alike", "weighed"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_smoothed_labels_of_which_one_is_ignored(weight: Tensor | None, reduction: str) -> None:
    net, y = nn.Linear(3, 8).double(), torch.tensor([[0, 1, 3, 2]])
    options: dict[str, Any] = {"weight": weight, "label_smoothing": 0.2, "ignore_index": 1, "reduction": reduction}

    def model(x: Tensor) -> Tensor:
        h = net(x).unflatten(1, (4, 2)).repeat(1, 1, 2)
        return F.cross_entropy(h, y.expand(len(x), 4), **options).reshape(1, -1).expand(len(x), -1)

    x = torch.randn(1, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        divided = fa.deep_lift(model, x, target=0)
        relevance = fa.lrp(model, x, target=0, rules=fa.rules.epsilon())
        kept = fa.absorbed(model, x, target=0, rules=fa.rules.epsilon())
    close(divided.sum(1), (model(x) - model(torch.zeros_like(x)))[:, 0], 1e-12)
    close(relevance.sum(1) + sum(kept.values()), model(x)[:, 0], 1e-9)


def test_a_squared_error_is_a_square() -> None:
    """An activation of the difference, and not, of two differences alike, one of what they were made of."""
    net = nn.Linear(3, 4).double()
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    found, expected = (
        fa.lrp(lambda x, loss=loss: loss(net(x)), x, target=1, rules=fa.rules.epsilon())
        for loss in (lambda h: F.mse_loss(h, y, reduction="none"), lambda h: (h - y).square())
    )
    close(found, expected, 1e-12)


@pytest.mark.parametrize(
    "method", breadth([fa.deep_lift, partial(fa.lrp, rules=fa.rules.epsilon())], lambda m: m is fa.deep_lift)
)
def test_compiled_by_keyword(method: Any) -> None:
    net = nn.Linear(3, 4).double()

    def model(x: Tensor) -> Tensor:
        loss = F.cross_entropy(
            target=torch.ones(len(x)).long(), input=net(x), weight=WEIGHT, label_smoothing=0.1, reduction="none"
        )
        return loss + F.mse_loss(target=x.square(), input=x, reduction="none").sum(1)

    x = torch.randn(2, 3, dtype=torch.float64)
    torch._dynamo.reset()
    found = torch.compile(lambda x: method(model, x), fullgraph=True, backend="aot_eager")(x)
    close(found, method(model, x), 1e-12)
