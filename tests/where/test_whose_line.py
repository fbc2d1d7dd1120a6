"""Warnings point at the line of the caller, however deep below it they are made."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

X = torch.randn(3, 4)


class Branches(nn.Module):
    """A model that vmap cannot run: a decision on data."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x if float(x.detach().sum()) > 0 else x.tanh()).sum(1)


TRAINING = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1))


def one_after_another() -> int:
    fa.integrated_gradients(Branches(), X, chunk_size=4)
    return here() - 1


def through_a_combinator() -> int:
    fa.relu(fa.noise_tunnel(fa.gradient, chunk_size=2))(Branches(), X)
    return here() - 1


def in_train_mode() -> int:
    fa.relu(fa.gradient)(TRAINING, X, target=1)
    return here() - 1


def of_the_model_itself() -> int:
    fa.relu(fa.gradient)(TRAINING[0], X, layer="", target=1)
    return here() - 1


def here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (one_after_another, "the steps run one after another"),
        (through_a_combinator, "the steps run one after another"),
        (in_train_mode, "the model is in train mode"),
        (of_the_model_itself, "layer='' is the model itself"),
    ],
)
def test_warnings_point_at_the_call(call: Callable[[], int], text: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = call()
    found: list[Any] = [w for w in caught if text in str(w.message)]
    assert [(w.filename, w.lineno) for w in found] == [(__file__, line)]
