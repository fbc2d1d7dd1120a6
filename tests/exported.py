"""What is exported in the tests and in the table of the documentation: three nets, and a cell for each method at each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from .methods import METHODS


class Block(nn.Module):
    """A block of a transformer, as people write it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(seen)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls, self.place = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


def cnn() -> nn.Module:
    front = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    back = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*front, *back)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))


def operations_of(model: nn.Module, x: Tensor) -> nn.Module:
    """The model as torch.export writes it down, in torch's own functions, where it does so."""
    export = pytest.importorskip("torch.export")  # since torch 2.1
    program: nn.Module = export.export(model, (x,)).module()
    if any("native_batch_norm" in str(node.target) for node in cast("Any", program).graph.nodes):
        pytest.skip("this torch takes norms apart as it exports, of which a warning tells")  # until torch 2.5
    return program


class Net(NamedTuple):
    """A net, the shape of one example, and a layer of it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layer: str

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval().double()

    def x(self, count: int) -> Tensor:
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(count)).double()


NETS = {
    "CNN": Net(cnn, (3, 8, 8), "5"),
    "MLP": Net(mlp, (6,), "3"),
    "ViT": Net(ViT, (3, 8, 8), "blocks.0"),
}
OTHERS: dict[str, tuple[Callable[..., Any], bool]] = {
    "each_target(grad_cam)": (fa.each_target(fa.grad_cam, range(3)), True),
    "each_target(integrated_gradients)": (fa.each_target(fa.integrated_gradients, range(3)), False),
    "feature_ablation, with a mask": (fa.feature_ablation, True),
}


GROUPED = ("shapley", "lime")


class Cell(NamedTuple):
    """A method of a net, with its arguments."""

    net: str
    name: str
    method: Callable[..., Any]
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name} of {self.net}"


def cells(refused: bool = False) -> list[Cell]:
    """A cell for each method at each net; `refused`: also for methods that refuse a net."""
    found = []
    for name, net in NETS.items():
        for row in METHODS:
            options = {**({"target": 1} if row.targeted else {}), **row.options}
            layers = [None] * (row.at_input and row.name != "activation") + [net.layer] * row.at_layer
            if row.name in GROUPED:  # there, the mask is made of the value in the call
                groups = {"target": 1, "feature_mask": (torch.arange(net.shape[-1]) * 2 >= net.shape[-1]).long()}
                found.append(_cell(name, row.name, getattr(fa, row.name), None, groups))
            elif refused or ((name == "CNN" or not row.convolutional) and (name != "ViT" or not row.relu)):
                found += [_cell(name, row.name, row.method, layer, options) for layer in layers]
        for other, (method, at_layer) in OTHERS.items():
            options = {} if other.startswith("each_target") else {"target": 1, "feature_mask": MASKS[name]}
            options |= {"n_steps": 3} if "integrated" in other else {}
            found.append(_cell(name, other, method, net.layer if at_layer else None, options))
    return found


#: Of the value at the layer: a group of several channels, or each token.
MASKS = {
    "CNN": (torch.arange(8) // 3)[:, None, None],
    "MLP": torch.tensor([7, 0, 3, 3]).repeat(4),
    "ViT": torch.arange(5)[:, None],
}


def _cell(net: str, name: str, method: Callable[..., Any], layer: str | None, options: dict[str, Any]) -> Cell:
    about: Any = getattr(method, "about", None)
    if about is not None and "channel_dim" in about.accepts and net == "ViT":
        options = {**options, "channel_dim": -1}
    place = "" if layer is None else ", at a layer"
    return Cell(net, f"{name}{place}", method, options if layer is None else {**options, "layer": layer})
