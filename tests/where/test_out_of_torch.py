"""Models that take their data out of torch (a forest of another library, say): what is asked without gradients is right.

torch.func.functionalize hands numpy memory that nothing was written to, without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close

WEIGHT = np.array([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0], [1.0, 1.0, -1.0]])
X = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_method(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.numpy() @ WEIGHT))


def by_array(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(np.asarray(x) @ WEIGHT))


def by_list(x: Tensor) -> Tensor:
    return torch.tensor(np.tanh(np.array(x.tolist()) @ WEIGHT))


def by_exchange(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(np.from_dlpack(x) @ WEIGHT))


def in_torch(x: Tensor) -> Tensor:
    return torch.tanh(x @ torch.from_numpy(WEIGHT))


class Head(nn.Module):
    """In torch up to a layer, and out of it after that."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(3, 3).double(), head
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(3) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


ASKED: dict[str, Callable[..., Any]] = {
    "feature_ablation": fa.feature_ablation,
    "shapley": fa.shapley,
    "occlusion": lambda *args, **options: fa.occlusion(*args, window=2, **options),
    "lime": lambda *args, **options: fa.lime(*args, generator=torch.Generator().manual_seed(0), **options),
}


@pytest.mark.filterwarnings("ignore:the steps run one after another")
@pytest.mark.parametrize("model", [by_method, by_array, by_list, by_exchange])
@pytest.mark.parametrize("name", ASKED)
def test_a_model_out_of_torch(name: str, model: Callable[[Tensor], Tensor]) -> None:
    for chunk_size in (None, 2):
        close(ASKED[name](model, X, target=1, chunk_size=chunk_size), ASKED[name](in_torch, X, target=1))
    torch.manual_seed(0)
    inside = Head(in_torch)
    torch.manual_seed(0)
    outside = Head(model)
    close(ASKED[name](outside, X, target=1, layer="fc"), ASKED[name](inside, X, target=1, layer="fc"))
