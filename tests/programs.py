"""Models at random: programs of operations of torch, of tensors ``[N, 4]``, with writes in place, views, gates and choices."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D = 4
PERMUTED, SOME = torch.tensor([2, 0, 3, 1]), torch.tensor([True, False, True, True])


def pairs(t: Tensor) -> Tensor:
    return t.reshape(-1, 2, 2)


def attention(p: Tensor, q: Tensor) -> Tensor:
    return ((pairs(p) @ pairs(q).mT).softmax(-1) @ pairs(p)).reshape(-1, D)


def fused(p: Tensor, q: Tensor) -> Tensor:
    k, v = pairs(q)[:, None], pairs(p)[:, None]
    return F.scaled_dot_product_attention(v, k, v).reshape(-1, D)


def alone(f: Callable[[Tensor], Tensor]) -> Operation:
    return lambda p, q, w, b: f(p)


#: Of the value before, of an earlier one, and of a weight ``[4, 4]`` and a bias ``[4]``.
Operation = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LINEAR: dict[str, Operation] = {
    "linear": lambda p, q, w, b: F.linear(p, w, b),
    "addmm": lambda p, q, w, b: torch.addmm(b, p, w),
    "einsum": lambda p, q, w, b: torch.einsum("nd,de->ne", p, w),
    "baddbmm": lambda p, q, w, b: torch.baddbmm(b.expand(len(p), 1, D), p[:, None], w.expand(len(p), D, D))[:, 0],
    "conv1d": lambda p, q, w, b: F.conv1d(p[:, None], w[None, :1, :3], b[:1], padding=1)[:, 0],
    "sum": lambda p, q, w, b: p + q,
    "difference": lambda p, q, w, b: torch.sub(p, q, alpha=0.5),
    "bias": lambda p, q, w, b: p + b,
    "bias, expanded": lambda p, q, w, b: b.expand_as(p) + p,
    "bias, cast": lambda p, q, w, b: p + b.type_as(p),
    "constant": lambda p, q, w, b: 1 - 0.7 * p,
    "scale": lambda p, q, w, b: p * b / (2 + b),
    "views": lambda p, q, w, b: pairs(p).transpose(1, 2).flatten(1).flip(1),
    "parts": lambda p, q, w, b: torch.cat([p.chunk(2, 1)[1], q[:, :2]], 1),
    "unbound": lambda p, q, w, b: torch.stack(p.unbind(1)[::-1], 1),
    "indexed": lambda p, q, w, b: p[:, PERMUTED] + p[:, 1:2],
    "gather": lambda p, q, w, b: p.gather(1, PERMUTED.expand(len(p), D)),
    "cumsum": lambda p, q, w, b: p.cumsum(1) * 0.5,
    "centred": lambda p, q, w, b: p - p.mean(1, keepdim=True),
    "padded": lambda p, q, w, b: F.pad(p, (1, 0), value=0.2)[:, :D],
    "where": lambda p, q, w, b: torch.where(SOME, p, 0.5 * q),
    "lerp": lambda p, q, w, b: torch.lerp(p, q, 0.3),
    "made like": lambda p, q, w, b: p + torch.full_like(p, 0.1) + p.new_ones(D) * 0.2,
}
BENT: dict[str, Operation] = {
    **{f.__name__: alone(f) for f in (torch.relu, torch.tanh, F.gelu, F.silu, F.softplus, torch.sin, torch.abs)},
    "clamp": lambda p, q, w, b: p.clamp(-1, 1),
    "swish": lambda p, q, w, b: p * p.sigmoid(),
    "leaky": lambda p, q, w, b: torch.where(p > 0, p, 0.1 * p),
    "square": lambda p, q, w, b: p**2 * 0.3,
    "gate": lambda p, q, w, b: p * q.sigmoid(),
    "softmax": lambda p, q, w, b: p.softmax(1) * 2,
    "log_softmax": lambda p, q, w, b: p.log_softmax(1) * 0.5,
    "attention": lambda p, q, w, b: attention(p, q),
    "fused attention": lambda p, q, w, b: fused(p, q),
    "layer_norm": lambda p, q, w, b: F.layer_norm(p, (D,), w[0], b),
    "group_norm": lambda p, q, w, b: F.group_norm(p, 2),
    "rms": lambda p, q, w, b: p * torch.rsqrt(p.pow(2).mean(1, keepdim=True) + 0.1),
    "quotient": lambda p, q, w, b: p / (1.5 + q.abs()),
    "deviation": lambda p, q, w, b: p / (p.std(1, keepdim=True) + 0.5),
    "maximum": lambda p, q, w, b: torch.maximum(p, q),
    "max pooling": lambda p, q, w, b: F.max_pool1d(p[:, None], 2).repeat_interleave(2, -1)[:, 0],
    "sort": lambda p, q, w, b: p.sort(1)[0],
    "cosine": lambda p, q, w, b: p + F.cosine_similarity(p, q, dim=1, eps=0.1)[:, None],
    "distance": lambda p, q, w, b: p + torch.cdist(p[:, None], q[:, None])[:, 0] * 0.1,
    "glu": lambda p, q, w, b: torch.cat([F.glu(p, 1), q[:, :2]], 1),
    "addcmul": lambda p, q, w, b: torch.addcmul(p, q, q.tanh(), value=0.3),
    "cut": lambda p, q, w, b: p * q.detach().sigmoid(),
    "mask": lambda p, q, w, b: p * (q > 0),
}


def updated(update: Callable[[Tensor, Tensor, Tensor, Tensor], Any], copies: bool) -> Operation:
    def operation(p: Tensor, q: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = p.clone() if copies else p
        update(y, q.clone() if q is p else q, w, b)
        return y

    return operation


UPDATES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Any]] = {
    "a column": lambda y, q, w, b: y.__setitem__((slice(None), 1), q[:, 2]),
    "some columns": lambda y, q, w, b: y[:, 1:3].add_(q[:, :2]),
    "zeros": lambda y, q, w, b: y.__setitem__((slice(None), 0), 0),
    "part of a view": lambda y, q, w, b: y.view(-1, 2, 2)[:, 1].add_(pairs(q)[:, 0]),
    "a view": lambda y, q, w, b: y.view(-1, 2, 2)[:, 0].mul_(0.5),
    "index_add_": lambda y, q, w, b: y.index_add_(1, PERMUTED[:2], q[:, 2:]),
    "scatter_": lambda y, q, w, b: y.scatter_(1, PERMUTED[:2].expand(len(y), 2), q[:, :2]),
    "relu_": lambda y, q, w, b: y.relu_(),
    "mul_": lambda y, q, w, b: y.mul_(b),
    "gated": lambda y, q, w, b: y.mul_(q.sigmoid()),
    "masked_fill_": lambda y, q, w, b: y.masked_fill_(SOME, 0.1),
    "copy_": lambda y, q, w, b: y[:, :2].copy_(q[:, 2:]),
    "clamp_": lambda y, q, w, b: y.clamp_(-0.5, 1.0),
}
OPERATIONS = {
    **LINEAR,
    **BENT,
    **{f"{name}, written": updated(update, True) for name, update in UPDATES.items()},
    **{f"{name}, written to the value itself": updated(update, False) for name, update in UPDATES.items()},
}


class Program(nn.Module):
    """Six operations and a head; the value of one of the first goes through `site`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        chance = random.Random(number)
        torch.manual_seed(number)
        self.names = [chance.choice(list(OPERATIONS)) for _ in range(6)]
        self.choices = [(chance.random() < 0.7, chance.random()) for _ in self.names]
        self.weights = nn.ParameterList([0.7 * torch.randn(D, D) for _ in self.names])
        self.biases = nn.ParameterList([0.5 * torch.randn(D) for _ in self.names])
        self.at, self.site, self.head = chance.randrange(3), nn.Identity(), nn.Linear(D, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        values = [x * 1.0]
        for i, (name, (last, part)) in enumerate(zip(self.names, self.choices)):
            other = values[int(part * len(values))]
            found = OPERATIONS[name](values[-1] if last else other, other, self.weights[i], self.biases[i])
            values.append(self.site(found.clone()) if i == self.at else found)  # what is put at it is a copy, too
        out: Tensor = self.head(values[-1] + 0.3 * values[3])
        return out
