"""Modules as torch.export writes them: DeepLIFT, its warnings, and relevance are those of the net that was exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close_and_not_zero as close
from ..exported import operations_of

pytestmark = [
    pytest.mark.skipif(not hasattr(getattr(torch, "export", None), "unflatten"), reason="torch 2.0 to 2.2 cannot"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # torch's own, of what it copies
]


class Net(nn.Module):
    """A layer, and what is made of its value and of the input beside it."""

    def __init__(self, beside: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.beside = nn.Linear(4, 5), nn.Linear(5, 3), beside
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.b(torch.sigmoid(self.beside(torch.tanh(self.a(x)), x[:, :1])))


def added_in_place(h: Tensor, g: Tensor) -> Tensor:
    h = h * 2
    h += (g > 0.1).to(h.dtype)
    return h


#: Masks, gates and scales, some of what goes around the layer.
BESIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda h, g: h + (g > 0.1).to(h.dtype),
    "taken away": lambda h, g: h - 2 * (g > 0.1).to(h.dtype),
    "less it": lambda h, g: (g > 0.1).to(h.dtype) - h,
    "added in place": added_in_place,
    "times, like": lambda h, g: h * torch.where(g > 0.1, torch.ones_like(h), torch.zeros_like(h)),
    "times, as its type": lambda h, g: h * (g > 0.1).type_as(h),
    "by a count": lambda h, g: h / (1 + (g > 0.1).sum(1, keepdim=True)),
    "filled": lambda h, g: h.masked_fill(g > 0.1, 0.5),
    "bounded by it": lambda h, g: h.clamp_max(g),
    "gathered": lambda h, g: h + h.gather(1, (g > 0.1).long()),
    "a scale in another shape": lambda h, g: h * ((h * h).sum(1) + 1e-12).rsqrt().reshape(-1, 1).expand(-1, 5),
    "a gate of its own": lambda h, g: g + h * (h > 0.1).to(h.dtype) + (h.detach() > 0).to(h.dtype),
}
FEW = ("added", "bounded by it", "times, like", "times, as its type", "a scale in another shape")


@pytest.mark.parametrize("name", breadth(list(BESIDE), lambda name: name in FEW))
def test_what_goes_around_a_layer(name: str) -> None:
    """The same attributions, and the same words."""
    net, x = Net(BESIDE[name]), torch.randn(3, 4, dtype=torch.float64)
    program = torch.export.export(net, (x,))
    for layer, other in ((None, program.module()), ("a", torch.export.unflatten(program))):
        for method in (fa.deep_lift, fa.lrp):
            said: list[list[str]] = []
            found = []
            for model in (net, other):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found.append(method(model, x, layer=layer, target=1))
                said.append([str(one.message) for one in caught])
            close(found[1], found[0])
            assert said[0] == said[1]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.first(x))
        h2 = self.norm(self.second(h))
        h2 += h
        return self.last(F.max_pool2d(torch.relu_(h2), 2).mean((2, 3)))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.last = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        h = (q @ k.mT / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v
        h = h + F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.last(torch.relu(F.gelu(x + h)).mean(1))


class Gates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.one(x) * torch.sigmoid(self.two(x))
        h = (2 - torch.where(h > 0, h, 0.1 * h)).add(h, alpha=0.5)
        h.mul_(0.5)
        h -= self.two(x)
        return self.last(F.relu(h.clamp(min=-1).tanh()) / (1 + h.pow(2)))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm, self.last = nn.GRUCell(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.last(self.norm(h).relu())


NETS: dict[type[nn.Module], tuple[int, ...]] = {Convolutions: (2, 2, 6, 6), Attends: (2, 3, 8), Gates: (3, 5), Steps: (2, 3, 3)}


@pytest.mark.parametrize("net", breadth(list(NETS), lambda net: net is Convolutions))
def test_nets(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = net().double().eval(), torch.randn(*NETS[net], dtype=torch.float64)
    other = operations_of(model, x)
    for method in (fa.deep_lift, fa.guided_backprop, fa.deconvnet, fa.lrp):
        close(method(other, x, target=1), method(model, x, target=1))


def swished_in_place(h: Tensor) -> Tensor:
    y = h.sin()
    y += h
    y[:, 1:] += h[:, 1:]
    return F.dropout(y.softmax(1), 0.5, False, inplace=True)


#: What export writes down in other words than Python does.
SPELLED: dict[str, Callable[[Tensor], Tensor]] = {
    "hard swish by hand": lambda h: h * F.relu6(h + 3) / 6,
    "a gate of what is moved": lambda h: h * torch.sigmoid(1 - h),
    "in place": swished_in_place,
    "einsum of one": lambda h: torch.einsum("ni,oi->no", h, torch.linspace(-1, 1, 25).double().view(5, 5)),
    "einsum of two": lambda h: torch.einsum("ni,nj->nij", h, h.sin()).mean(2),
    "a number where a mask is": lambda h: h.index_put((h > 0,), torch.tensor(0.3).double()).sin(),
    "adaptive maximum": lambda h: F.adaptive_max_pool1d(h[:, None], 3).flatten(1).repeat(1, 2)[:, :5],
}


@pytest.mark.parametrize("name", SPELLED)
def test_what_export_spells_in_another_way(name: str) -> None:
    """Sums were not known to be functions of the same tensor (a hard swish by hand: 41 % off), `absorbed` counted twice what is
    added in place, and einsum and adaptive maxima raised errors."""
    form = SPELLED[name]
    net, x = Net(lambda h, g: form(h)), torch.randn(3, 4, dtype=torch.float64)
    program, score = operations_of(net, x), net(x)[:, 1].detach()
    for rules in (fa.rules.epsilon(), fa.rules.gamma(), fa.rules.attn_lrp()):
        found, kept = fa.lrp(program, x, target=1, rules=rules), fa.absorbed(program, x, target=1, rules=rules)
        close(found, fa.lrp(net, x, target=1, rules=rules))
        close(found.sum(1) + sum(kept.values()), score)
    close(fa.deep_lift(program, x, target=1), fa.deep_lift(net, x, target=1))
