"""Guided backpropagation and the deconvolutional network: what is a ReLU is one, in whatever words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa


def filled(h: Tensor) -> Tensor:
    h = h.clone()
    return h.masked_fill_(h < 0, 0.0)


def put(h: Tensor) -> Tensor:
    y = h.clone()
    y[h < 0] = 0
    return y


def put_tensor(h: Tensor) -> Tensor:
    h = h + 0
    h[~(h > 0)] = torch.zeros(()).to(h)
    return h


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "maximum of zeros": lambda h: torch.maximum(torch.zeros(()).to(h), h),
    "max": lambda h: torch.max(h, torch.zeros(()).to(h)),
    "fmax": lambda h: h.fmax(torch.zeros(6).to(h)),
    "threshold": lambda h: F.threshold(h, 0, 0),
    "threshold in place": lambda h: F.threshold(h + 0, 0.0, 0.0, True),
    "where": lambda h: torch.where(h > 0, h, 0.0),
    "where not": lambda h: torch.where(h <= 0, torch.zeros_like(h), h),
    "method": lambda h: h.where(h >= 0, torch.zeros(()).to(h)),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0),
    "masked_fill_": filled,
    "a mask": lambda h: h * (h > 0),
    "a mask of floats": lambda h: (h > 0).to(h.dtype) * h,
    "leaky": lambda h: F.leaky_relu(h, 0.0),
    "leaky in place": lambda h: F.leaky_relu(h + 0, negative_slope=0.0, inplace=True),
    "hardtanh": lambda h: F.hardtanh(h, 0.0, math.inf),
    "clamp": lambda h: h.clamp(0.0, math.inf),
    "module": nn.Hardtanh(0.0, math.inf),
    "hardtanh of all numbers": lambda h: F.hardtanh(h, 0.0, torch.finfo(h.dtype).max),
    "clamp by a tensor": lambda h: h.clamp(min=torch.zeros(6).to(h)),
    "prelu": lambda h: F.prelu(h, torch.zeros(1).to(h)),
    "module with a slope": nn.PReLU(init=0.0).double(),
    "rrelu": lambda h: F.rrelu(h, 0.0, 0.0),
    "elu": lambda h: F.elu(h, alpha=0.0),
    "y[h < 0] = 0": put,
    "h[~(h > 0)] = 0, not mapped": put_tensor,
    "index_put, not mapped": lambda h: h.index_put((h < 0,), torch.zeros(()).to(h)),
    "a mask of another's": lambda h: h * (h.detach() > 0),
    "where, of another's": lambda h: torch.where(h.detach() < 0, 0.0, h),
    "a mask that is turned round": lambda h: h * ~(h <= 0),
    "compared with a tensor": lambda h: h * (torch.zeros(()).to(h) < h),
    "aten": lambda h: torch.ops.aten.relu.default(h),
    "aten in place": lambda h: torch.ops.aten.relu_.default(h + 0),
}
#: Near to one, and none.
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky": lambda h: F.leaky_relu(h, 0.1),
    "relu6": lambda h: F.hardtanh(h, 0.0, 6.0),
    "threshold": lambda h: F.threshold(h, 0, -1.0),
    "maximum of ones": lambda h: torch.maximum(h, torch.ones_like(h)),
    "another's mask": lambda h: torch.where(h.flip(0) > 0, h, 0.0),
    "an old mask": lambda h: (lambda h, m: h.add_(1.0) * m)(h + 0, h > 0),
    "where it is not": lambda h: torch.where(h < 0, h, 0.0),
    "a mask that is turned round": lambda h: h * ~(h > 0),
    "a copy that was written to": lambda h: (lambda y: y.add_(1.0) * (h > 0))(h.clone()),
    "elu": lambda h: F.elu(h),
    "prelu": lambda h: F.prelu(h, torch.full((1,), 0.2).to(h)),
    "clamp by a tensor": lambda h: h.clamp(min=torch.full((), -0.2).to(h)),
}


def net(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(6, 6).double() for _ in range(3))
    return lambda v: c(act(b(torch.relu(a(v)))))


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("method", [fa.guided_backprop, fa.deconvnet])
def test_every_spelling_is_met(name: str, method: Callable[..., Tensor]) -> None:
    x = torch.randn(4, 6).double()
    wanted = method(net(torch.relu), x, target=1)
    torch.testing.assert_close(method(net(SPELLINGS[name]), x, target=1), wanted)
    model = net(SPELLINGS[name])
    mapped = torch.func.vmap(lambda row: method(model, row[None], target=1)[0])
    if not any(word in name for word in ("in place", "module", "not mapped")):
        torch.testing.assert_close(mapped(x), wanted)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_none_keeps_its_gradient(name: str) -> None:
    x, act = torch.randn(4, 6).double(), OTHERS[name]
    torch.manual_seed(0)
    a, c = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
    found = fa.guided_backprop(lambda v: c(torch.relu(act(a(v)))), x, target=1)
    v = x.clone().requires_grad_()
    y = act(a(v))
    g = (c.weight[1].relu() * (y > 0)).detach()  # the rule at the one ReLU, and plain autograd before it
    torch.testing.assert_close(found, torch.autograd.grad(y, v, g)[0])


def test_an_exported_model_is_the_model() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.GELU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 5), nn.Softmax(-1)).double().eval()
    x = torch.randn(2, 3, 6, 6).double()
    exported = pytest.importorskip("torch.export").export(model, (x,)).module()
    for method in (fa.guided_backprop, fa.deep_lift):
        torch.testing.assert_close(method(exported, x, target=1), method(model, x, target=1))
