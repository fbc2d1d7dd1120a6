"""Programs that torch has decomposed (`run_decompositions`): rules and DeepLIFT are those of the model they were made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..close import close


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixed, self.fc = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in self.mixed(self.norm(x)).chunk(3, -1))
        x = x + F.gelu(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        found: Tensor = self.fc((x * torch.log_softmax(x, -1)).mean(1))
        return found


def normed() -> nn.Module:
    first = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2)]
    net = nn.Sequential(
        *first, nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(72, 4)
    )
    for values in (net[1].running_mean, net[1].running_var):
        assert isinstance(values, Tensor)
        values.uniform_(0.5, 2.0)
    return net


def sequences() -> nn.Module:
    first = [nn.Conv1d(7, 6, 3, padding="same", dilation=2), nn.ELU(), nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1)]
    return nn.Sequential(*first, nn.MaxPool1d(2), nn.Flatten(), nn.Linear(28, 4))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attends, (7, 6)),
    "images": (normed, (3, 6, 6)),
    "sequences": (sequences, (7, 6)),
}
ASKED: dict[str, Callable[..., Any]] = {
    "epsilon": fa.lrp,
    "gamma": functools.partial(fa.lrp, rules=fa.rules.gamma()),
    "attn_lrp": functools.partial(fa.lrp, rules=fa.rules.attn_lrp()),
    "deep_lift": fa.deep_lift,
}


@pytest.mark.skipif(not hasattr(torch, "export"), reason="torch.export came with 2.1")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's of its own
@pytest.mark.parametrize("name", NETS)
def test_a_decomposed_program_is_its_model(name: str) -> None:
    """Its convolutions and batch norms kept their own gradient, in silence; others were told to have no rule."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    model, x = make().double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    program = torch.export.export(model, (x,)).run_decompositions().module()
    for ask in ASKED.values():
        close(ask(program, x, target=1), ask(model, x, target=1), 1e-9)
    close(sum(fa.absorbed(program, x, target=1).values()), sum(fa.absorbed(model, x, target=1).values()), 1e-9)
