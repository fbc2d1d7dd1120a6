"""feature_ablation without a mask says so where it is about to run the model tens of thousands of times, and only there."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa


class Enough(Exception):
    """Ends the call: the passes themselves are of no interest here."""


def counted(limit: int) -> Any:
    """A model that has enough after some passes, whatever is mapped over it."""
    calls = [0]

    def model(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > limit:
            raise Enough
        return x.flatten(1)[:, :7].sum(1)

    return model


def told(x: Any, **options: Any) -> list[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(Enough):
            fa.feature_ablation(counted(3), x, chunk_size=2, **options)
    return [w for w in caught if "forward pass" in str(w.message)]


def test_a_picture_says_so_with_the_cure() -> None:
    found = told(torch.zeros(1, 3, 224, 224))
    assert len(found) == 1
    assert "150,528 features" in str(found[0].message)
    assert "feature_mask" in str(found[0].message)
    assert found[0].filename == __file__


@pytest.mark.parametrize("method", [fa.shapley, fa.lime])
def test_games_say_so_before_they_draw(method: Any) -> None:
    """The default draws 245,762 coalitions of 12,288 players, which takes minutes before the first pass."""
    options = {"sampling": "permutation", "n_samples": 24_576} if method is fa.shapley else {"n_samples": 8}
    with pytest.raises(Enough), pytest.warns(UserWarning, match=r"12,288 features .* feature_mask") as caught:
        method(counted(0), torch.zeros(1, 3, 64, 64), **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_two_inputs_count_together() -> None:
    x = torch.zeros(1, 6_000)
    assert told(x) == []
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(Enough):
            fa.feature_ablation(lambda a, b: counted(0)(a + b), (x, x), chunk_size=2)
        found = [w for w in caught if "12,000 features" in str(w.message)]
    assert len(found) == 1


def test_what_is_cheap_says_nothing() -> None:
    table, rows = torch.randn(1_000, 30), torch.randn(1, 3, 32, 32)
    assert told(table) == told(rows) == []
    squares = torch.arange(49).reshape(7, 1, 7, 1).expand(7, 32, 7, 32).reshape(224, 224)
    assert told(torch.zeros(1, 3, 224, 224), feature_mask=squares) == []  # the cure


def test_it_says_so_at_a_layer_too() -> None:
    model = torch.nn.Sequential(torch.nn.Upsample(scale_factor=16), torch.nn.Flatten(), torch.nn.Linear(12_288, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="12,288 features"):
            fa.feature_ablation(model, torch.zeros(1, 3, 4, 4), layer="0")
    assert not caught
