"""DeepLIFT at a layer, where a gate or an index from it meets numbers from around it: they are numbers from around still,
whatever requires a gradient, whichever ran first, and however the call runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close


def written(v: Tensor, w: Tensor) -> Tensor:
    y = torch.zeros_like(v)
    y[:, 1:] = v[:, 1:] * w[:, :1].detach()
    return y


#: What the layer's value w makes of v, by ways that no gradient goes.
MEETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nothing": lambda v, w: v,
    "gather": lambda v, w: v.gather(1, w.argmax(1, keepdim=True)),
    "indices": lambda v, w: v[torch.arange(len(v)), w.argmax(1)][:, None],
    "a mask": lambda v, w: v * (w > 0.2),
    "a mask in numbers": lambda v, w: v * torch.zeros_like(w).scatter(1, w.argmax(1, keepdim=True), 1.0),
    "where": lambda v, w: torch.where(w > 0.2, v, torch.zeros_like(v)),
    "masked_fill": lambda v, w: v.masked_fill(w < 0.2, 0.0),
    "topk": lambda v, w: v.gather(1, w.topk(2)[1]).sum(1, keepdim=True),
    "a sum": lambda v, w: v + w.detach(),
    "a quotient": lambda v, w: v / (w.detach() + 1),
    "a part": lambda v, w: torch.cat([v[:, :2], w.detach()[:, 2:] * v[:, 2:]], 1),
    "written": written,
}


class Gated(nn.Module):
    def __init__(self, meets: Callable[[Tensor, Tensor], Tensor], order: str) -> None:
        super().__init__()
        self.router, self.expert = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.meets, self.order = meets, order

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self.expert(x) if self.order == "before" else x
        w = self.router(x).softmax(1)
        return (self.expert(x) if self.order == "after" else v), w

    def forward(self, x: Tensor) -> Tensor:
        v, w = self.parts(x)
        return (self.meets(v, w) * w).sum(1)


def by_hand(model: Gated, x: Tensor, x0: Tensor) -> Tensor:
    """The rules in their letters: half of each other's for the product, the logarithmic mean for the softmax."""
    (v, w), (v0, w0) = model.parts(x), model.parts(x0)
    m = ((model.meets(v, w) + model.meets(v0, w0)) / 2).expand_as(w)
    z, z0 = model.router(x), model.router(x0)
    mean = (w - w0) / (w.log() - w0.log())
    slope = mean * (m - (m * mean).sum(1, keepdim=True) / mean.sum(1, keepdim=True))
    return (slope * (z - z0)).detach()


def ways(model: Gated, x: Tensor, x0: Tensor) -> dict[str, Any]:
    def frozen() -> Tensor:
        model.requires_grad_(False)
        found = fa.deep_lift(model, x, baselines=x0, layer="router")
        model.requires_grad_(True)
        return found

    def mapped(x: Tensor, x0: Tensor) -> Tensor:
        return fa.deep_lift(model, x[None], baselines=x0[None], layer="router")[0]

    def of_each() -> Tensor:
        every = fa.each_target(fa.deep_lift, [0])
        return every(lambda x: model(x)[:, None], x, baselines=x0, layer=model.router)[0]

    def with_graph() -> Tensor:
        return fa.deep_lift(model, x.clone().requires_grad_(), baselines=x0, layer="router", create_graph=True)

    return {
        "plain": lambda: fa.deep_lift(model, x, baselines=x0, layer="router"),
        "frozen": frozen,
        "create_graph": with_graph,
        "mapped": lambda: torch.func.vmap(mapped)(x, x0),
        "each_target": of_each,
        "shap": lambda: torch.cat(
            [fa.deep_lift_shap(model, x[i : i + 1], baselines=x0[[i, i]], layer="router") for i in range(len(x))]
        ),
    }


@pytest.mark.parametrize("order", ["before", "after", "the input"])
@pytest.mark.parametrize("name", MEETS)
def test_numbers_from_around_keep_their_share(name: str, order: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    model, x0 = Gated(MEETS[name], order), x * 0.97  # where no gate is another one
    expected = by_hand(model, x, x0)
    for run in ways(model, x, x0).values():
        close(run(), expected)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gather", "a mask", "where", "masked_fill", "a sum"])
def test_and_compiled(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    for order, learned in (("before", True), ("the input", True), ("the input", False)):
        torch._dynamo.reset()
        model, x0 = Gated(MEETS[name], order).requires_grad_(learned), x * 0.97
        run = torch.compile(
            lambda x, x0, model=model: fa.deep_lift(model, x, baselines=x0, layer="router"), backend="aot_eager", fullgraph=True
        )
        close(run(x, x0), by_hand(model, x, x0))


class Held(Gated):
    """What the model holds is the same at the baseline, and has no share: the layer bears all that changes."""

    def __init__(self, meets: Callable[[Tensor, Tensor], Tensor], order: str) -> None:
        super().__init__(meets, order)
        self.table = torch.randn(3, 4).double()

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.table[: len(x)] + 0, self.router(x).softmax(1)


@pytest.mark.parametrize("name", ["gather", "where", "a mask", "a sum"])
def test_what_the_model_holds_has_none(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    model, x0 = Held(MEETS[name], ""), x * 0.97
    rise = (model(x) - model(x0)).detach()
    for run in ways(model, x[:1], x0[:1]).values():
        close(run().sum(1), rise[:1])


@pytest.mark.parametrize("of_input", [False, True])
def test_masks_from_around_are_those_at_x_with_create_graph_too(of_input: bool) -> None:
    """As without it: what was made of an x that requires a gradient does not come from the layer."""
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    model = Gated(lambda v, w: (v > 0).double(), "the input" if of_input else "before")
    with pytest.warns(UserWarning, match="do not come from the layer"):
        expected = fa.deep_lift(model, x, baselines=-x, layer="router")
    with pytest.warns(UserWarning, match="do not come from the layer"):
        found = fa.deep_lift(model, x.clone().requires_grad_(), baselines=-x, layer="router", create_graph=True)
    close(found, expected)


def _centred(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1) / ((a * a).sum(1).sqrt() * (b * b).sum(1).sqrt())


def _crossed(a: Tensor, b: Tensor) -> Tensor:
    """Sums over a mesh of two rows."""
    return torch.stack([(p * q.tanh()).sum() for p, q in (torch.meshgrid(r, s, indexing="ij") for r, s in zip(a, b))])


#: What makes something of each of two tensors by itself, and the same by hand.
EACH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "broadcast_tensors": (lambda a, b: _centred(*torch.broadcast_tensors(a, b)), _centred),
    "atleast_2d": (lambda a, b: _centred(*torch.atleast_2d(a, b)), _centred),
    "atleast_3d": (lambda a, b: _centred(*torch.atleast_3d([a, b]))[:, 0], _centred),
    "meshgrid": (_crossed, lambda a, b: (a[:, :, None] * b[:, None, :].tanh()).sum((1, 2))),
    "cosine_similarity": (lambda a, b: torch.cosine_similarity(a, b, eps=0.0), _centred),
}


@pytest.mark.parametrize("name", EACH)
def test_what_is_made_of_each_by_itself(name: str) -> None:
    """What is made of the one, around the layer, or of a parameter, is not made of the other."""
    torch.manual_seed(0)
    inner, last, weight = nn.Linear(4, 4).double(), nn.Linear(4, 4).double(), nn.Parameter(torch.randn(3, 4).double())
    x, x0 = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    calls: dict[str, Callable[[Any], Any]] = {
        "at a layer": lambda m: fa.deep_lift(m, x, baselines=x0, layer=inner),
        "differentiated": lambda m: fa.deep_lift(m, x, baselines=x0, layer=inner, create_graph=True),
        "at the input": lambda m: fa.deep_lift(m, x, baselines=x0),
        "rules": lambda m: fa.lrp(m, x, rules=fa.rules.epsilon(0.1)),
        "absorbed": lambda m: sum(fa.absorbed(m, x, rules=fa.rules.epsilon(0.1)).values()),
    }

    def model(f: Callable[[Tensor, Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda t: f(last(inner(t)), other(t))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of masks around
        for call, other in [(call, other) for call in calls for other in ("x", "a parameter")]:
            of = (lambda t: t.sin()) if other == "x" else (lambda t: weight + 0)
            found, expected = (calls[call](model(f, of)) for f in EACH[name])
            close(found, expected, 1e-9)
        if name == "cosine_similarity":
            torch._dynamo.reset()
            compiled: Any = torch.compile(calls["at a layer"], backend="aot_eager", fullgraph=True)
            close(compiled(model(EACH[name][0], torch.sin)), calls["at a layer"](model(_centred, torch.sin)), 1e-9)
