"""Constants that a model writes, adds and is given: what biases and the like absorb makes up for what relevance lacks of the
score, and under rules a model gives what it gives without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R
from funattr._torch import edge_of, slopes_at

from ..close import close

D = 6
BIAS, WEIGHT = torch.linspace(-0.5, 0.7, D, dtype=torch.float64), torch.linspace(0.2, 1.4, D, dtype=torch.float64)
ONES = torch.ones(4, D, dtype=torch.float64)


def full(h: Tensor) -> Tensor:
    """A constant, which knows nothing of h."""
    return torch.full((len(h), D), 0.3, dtype=torch.float64)


def written(write: Callable[[Tensor, Tensor], Any], start: Callable[[Tensor], Tensor] = full) -> Callable[[Tensor], Tensor]:
    def net(h: Tensor) -> Tensor:
        y = start(h)
        write(y, h)
        return y

    return net


def put(index: Any, value: Any = 0.5) -> Callable[[Tensor, Tensor], Any]:
    return lambda y, h: y.__setitem__(index, value)


def some(y: Tensor, h: Tensor) -> None:
    y[h > 0] = h[h > 0]


def several(y: Tensor, h: Tensor) -> None:
    y[0] = 0.5
    y[:, 2] += 1
    y[1, 1:3] *= 2


#: What comes from h, written to a part of a constant: the rest of that is a part of what varies from then on.
PARTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "added to a part": lambda y, h: y[:, :3].add_(h[:, :3]),
    "copied to a part": lambda y, h: y[:, :3].copy_(h[:, :3]),
    "copied to a row of a part": lambda y, h: y[:, :3][0].copy_(h[0, :3]),
    "a product with a part": lambda y, h: y.narrow(1, 0, 3).mul_(h[:, :3]),
    "put into a part": lambda y, h: y.__setitem__((slice(None), slice(1, 3)), h[:, :2]),
    "two parts": lambda y, h: (y[:, :2].add_(h[:, :2]), y[:, 4:].sub_(h[:, 4:])),
    "a part twice": lambda y, h: (y[:, :3].add_(h[:, :3]), y[:, 1:4].mul_(h[:, 1:4]), y[:, :2].relu_()),
}
TRAINED = nn.Parameter(BIAS.clone())
STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "": full,
    ", of parameters": lambda h: TRAINED.expand(len(h), D).clone(),
    ", a norm of what is cut off": lambda h: F.layer_norm(h.detach(), (D,), TRAINED, BIAS),
    ", cut off": lambda h: h.detach().tanh(),
}
#: What is written to: constants to what comes from h, and that to constants.
WRITES = {
    "a slice": written(put((slice(None), slice(3))), torch.clone),
    "a row": written(put(0), torch.clone),
    "columns": written(put((slice(None), [0, 1])), torch.clone),
    "a mask": written(lambda y, h: y.__setitem__(y > 0.1, 0.1), torch.clone),
    "a tensor": written(lambda y, h: y.__setitem__(y > 0.1, torch.tensor(0.1, dtype=torch.float64)), torch.clone),
    "of another shape": written(lambda y, h: y.view(-1)[:4].fill_(0.7), torch.clone),
    "a transpose": written(lambda y, h: y.T.__setitem__(0, 0.7), torch.clone),
    "a diagonal": written(lambda y, h: y.diagonal().__setitem__(slice(None), 0.5), torch.clone),
    "several": written(several, torch.clone),
    "into a constant": written(lambda y, h: y.__setitem__((slice(None), slice(None, None, 2)), h[:, ::2])),
    "into a constant, by a mask": written(some),
    "into a constant like h": written(lambda y, h: y[:, 1:].copy_(h[:, :-1]), lambda h: torch.full_like(h, 0.3)),
    "added to a constant": written(lambda y, h: y.add_(h)),
    "added to what a rule holds": written(lambda y, h: y.add_(h), lambda h: 1 / (1 + h * h)),
    "put into what a rule holds": written(lambda y, h: y.__setitem__((slice(None), 1), h[:, 1]), lambda h: 1 / (1 + h * h)),
    **{f"{what}{of}": written(write, start) for of, start in STARTS.items() for what, write in PARTS.items()},
}
#: What is left out, or given by name.
OPTIONS: dict[str, Callable[[Tensor], Any]] = {
    "layer norm, a bias alone": lambda h: F.layer_norm(h, (D,), None, BIAS),
    "layer norm by name": lambda h: F.layer_norm(input=h, normalized_shape=(D,), bias=BIAS),
    "group norm, a bias alone": lambda h: F.group_norm(h, 2, bias=BIAS, eps=0.1),
    "instance norm, a bias alone": lambda h: F.instance_norm(h[None], bias=BIAS[:3])[0],
    "batch norm, a bias alone": lambda h: F.batch_norm(h, BIAS, WEIGHT, None, BIAS),
    "batch norm of the batch, a bias alone": lambda h: F.batch_norm(h, None, None, None, BIAS, True),
    "a buffer that counts for nothing": lambda h: torch.addmm(torch.full((4,), torch.nan).double(), h, ONES.T, beta=0),
    "of a batch": lambda h: torch.baddbmm(torch.full((1,), torch.nan).double(), h[None], ONES.T[None], beta=0, alpha=2)[0],
    "a bias by half": lambda h: torch.addmm(BIAS[:4], h, ONES.T, beta=0.5, alpha=2),
    "similarity to one": lambda h: F.cosine_similarity(h, BIAS, dim=1, eps=0.1),
    "a bilinear bias": lambda h: F.bilinear(h, BIAS.expand(3, D), torch.ones(2, D, D).double(), BIAS[:2]),
    "attention to constants": lambda h: F.scaled_dot_product_attention(h[None], h[None], ONES[None, :3])[0],
    "padded by a number": lambda h: F.pad(h[:, :4], (1, 1), value=0.3),
    "joined": lambda h: torch.cat([h[:, :3], full(h)[:, 3:]], 1),
    "filled": lambda h: h.index_fill(1, torch.arange(2), 0.3),
    "placed": lambda h: full(h).scatter(1, torch.arange(3).expand(3, 3), h[:, :3]),
    "chosen": lambda h: torch.where(h > 0, h, 0.3),
}
NETS = WRITES | OPTIONS


def unused(h: Tensor) -> Tensor:
    """What it makes of a part is let go: its graph is gone, and a rule has met it."""
    _ = (h * h.sigmoid()).softmax(-1) * torch.nn.functional.softplus(h)
    return h


class Net(nn.Module):
    def __init__(self, does: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = does(torch.zeros(3, D, dtype=torch.float64)).reshape(3, -1).shape[1]
        self.first, self.does, self.last = nn.Linear(D, D), does, nn.Linear(width, 2)
        self.double()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.does(torch.tanh(self.first(x)))
        self.seen.append(y.detach().clone())
        found: Tensor = self.last(torch.relu(y.reshape(len(x), -1)))
        return found


@pytest.mark.parametrize("rules", [R.epsilon(1e-9), R.gamma(0.25), R.attn_lrp()], ids=["epsilon", "gamma", "attn_lrp"])
@pytest.mark.parametrize("name", NETS)
def test_the_sum_and_the_value(name: str, rules: Any) -> None:
    model, x = Net(NETS[name]), torch.randn(3, D, dtype=torch.float64)
    score = model(x)[:, 1].detach()
    for layer in (None, "first"):
        model.seen.clear()
        found = fa.lrp(model, x, target=1, layer=layer, rules=rules)
        kept = fa.absorbed(model, x, target=1, layer=layer, rules=rules)
        close(found.sum() + sum(part.sum() for part in kept.values()), score.sum(), 1e-6)
        plain = model.does(torch.tanh(model.first(x))).detach()
        for seen in model.seen:
            close(seen, plain, 1e-12)


@pytest.mark.parametrize("name", ["a mask", "added to a part", "layer norm, a bias alone", "joined", "unused"])
def test_without_edges_of_the_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which torch has since 2.2: before, places in a graph are its nodes and a number."""
    model, x = Net({**NETS, "unused": unused}[name]), torch.randn(3, D, dtype=torch.float64)

    def found() -> list[Tensor]:
        kept = [fa.absorbed(model, x, target=1, layer=layer) for layer in (None, "first")]
        return [
            *(part for parts in kept for part in parts.values()),
            fa.lrp(model, x, target=1),
            fa.guided_backprop(model, x, target=1),
        ]

    wanted = found()
    monkeypatch.delattr(torch.autograd.graph, "get_gradient_edge", raising=False)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            for first, second in zip(found(), wanted):
                close(first, second, 1e-12)


def test_slopes_at_leaves_and_at_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, beside = x * 2, w * 3  # which comes from no leaf that is asked for
    a, b = y.unbind()
    score = (a.exp() * b * beside).sum()
    places = [x, y, a, b, beside]
    wanted = torch.autograd.grad(score, places, retain_graph=True)
    for _ in range(2):
        found = list(slopes_at(score, [edge_of(t) for t in places], [x]))
        for first, second in zip(found, wanted):
            assert first is not None
            close(first, second, 1e-12)
        monkeypatch.delattr(torch.autograd.graph, "get_gradient_edge", raising=False)


@pytest.mark.parametrize("rules", [R.flat(), R.wsquare(), R.zbox(-1.0, 1.0)], ids=["flat", "wsquare", "box"])
def test_a_shift_that_ends_at_exactly_0(rules: dict[Any, Any]) -> None:
    """A grey pixel less its mean: what is no multiple of 0 ends at the first layer. An exact 0 in x itself has its share."""
    w, x = torch.randn(D, D, dtype=torch.float64), torch.rand(2, D, dtype=torch.float64)
    x[0, 1], x[1, 2] = 0.5, 0.0

    def model(t: Tensor) -> Tensor:
        return ((t - 0.5) / 0.5) @ w

    every = {**R.epsilon(), **rules}
    moved = torch.full_like(x, 0.0).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(1e-9, dtype=torch.float64))
    found, near = fa.lrp(model, x, target=1, rules=every), fa.lrp(model, x + moved, target=1, rules=every)
    score, kept = model(x)[:, 1], fa.absorbed(model, x, target=1, rules=every)
    close(found.sum(1) + torch.stack([*kept.values()]).sum(0), score, 1e-12)
    assert found[0, 1] == 0 < near[0, 1].abs()
    others = moved == 0
    close(found[others], near[others], 1e-6)
    share = fa.lrp(lambda t: t @ w, 2 * (x - 0.5), target=1, rules=every)  # of the first layer's own input: its zero has one
    assert share[0, 1] != 0
    close(found[1, :2], share[1, :2] * x[1, :2] / (x[1, :2] - 0.5), 1e-9)


FACTOR = torch.rand(D, dtype=torch.float64) + 0.5
LIKE: dict[str, Callable[[Tensor], Tensor]] = {  # constants, made with a look at h
    "ones_like": lambda h: torch.ones_like(h) * FACTOR,
    "full_like": lambda h: torch.full_like(h, 1.0) * FACTOR,
    "rand_like": lambda h: torch.rand_like(h) * 0 + FACTOR,
    "new_ones": lambda h: h.new_ones(D) * FACTOR,
    "new_tensor": lambda h: h.new_tensor([1.0] * D) * FACTOR,
    "to": lambda h: FACTOR.float().double().to(h) * 0 + FACTOR.to(h),
    "type_as": lambda h: FACTOR.type_as(h),
    "expand_as": lambda h: FACTOR.expand_as(h),
    "broadcast_tensors": lambda h: torch.broadcast_tensors(h, FACTOR)[1],
    "broadcast_tensors, first": lambda h: torch.broadcast_tensors(FACTOR, h)[0],
    "mask": lambda h: (h.abs() > -1).to(h) * FACTOR,
    "places": lambda h: torch.arange(D).type_as(h) * 0 + FACTOR,
}


@pytest.mark.filterwarnings("ignore:the model draws")
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("rules", [R.epsilon(0.2), R.gamma(), R.attn_lrp(), R.cp_lrp()], ids=["epsilon", "gamma", "attn", "cp"])
@pytest.mark.parametrize("name", LIKE)
def test_what_is_made_like_a_value_is_a_constant(name: str, rules: dict[Any, Any], trained: bool) -> None:
    """A factor of it takes no share of the relevance: only its shape and its type come from x."""
    torch.manual_seed(0)
    FACTOR.requires_grad_(trained)
    first, last, x = nn.Linear(D, D).double(), nn.Linear(D, 2).double(), torch.randn(3, D).double()

    def model(factor: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        h = first(x)
        return last(torch.tanh(h * factor(h)))  # type: ignore[no-any-return]  # a module returns any

    made, given = partial(model, LIKE[name]), partial(model, lambda h: FACTOR)
    close(fa.lrp(made, x, target=1, rules=rules), fa.lrp(given, x, target=1, rules=rules))
    for layer in (None, last):
        found, wanted = (fa.absorbed(f, x, target=1, layer=layer, rules=rules) for f in (made, given))
        assert found.keys() == wanted.keys()
        for key, amount in found.items():
            close(amount, wanted[key])
