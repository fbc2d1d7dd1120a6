"""DeepLIFT at a layer of a model whose parameters are handed in as tensors, by torch.func.functional_call or by the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

import funattr as fa

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
MEETS: dict[str, Callable[..., Tensor]] = {
    "product": lambda a, b, scale: a * b,
    "mask": lambda a, b, scale: a * (b > 0),
    "mask of its own": lambda a, b, scale: a * (a > 0) * b,
    "where": lambda a, b, scale: torch.where(b > 0, a, -a),
    "integers": lambda a, b, scale: a * b.round().long(),
    "detached": lambda a, b, scale: a * b.detach() + b,
    "parameters": lambda a, b, scale: a * (scale > 0) * scale.exp(),
    "maximum": lambda a, b, scale: torch.maximum(a, b),
    "size": lambda a, b, scale: a / b.norm(),
}

METHODS: dict[str, Any] = {
    "deep_lift": fa.deep_lift,
    "deep_lift_shap": fa.deep_lift_shap,
    "noise_tunnel": fa.noise_tunnel(fa.deep_lift, n_samples=2, stdevs=0.0),
}


class Beside(nn.Module):
    """A layer, and a branch that goes around it."""

    def __init__(self, meet: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.branch, self.last = nn.Linear(6, 8).double(), nn.Linear(6, 8).double(), nn.Linear(8, 3).double()
        self.scale = nn.Parameter(torch.randn(8).double())
        self.meet = meet

    def forward(self, x: Tensor) -> Any:
        return self.last(self.meet(self.layer(x), self.branch(x), self.scale))


@pytest.mark.skipif(torch.__version__ < "2.1", reason="nodes have no numbers there, as docs/versions.md says")
@pytest.mark.parametrize("name", MEETS)
@pytest.mark.parametrize("how", METHODS)
@pytest.mark.filterwarnings("ignore:DeepLIFT. masks or indices", "ignore:DeepLIFT's attributions miss")
def test_parameters_that_are_handed_in(name: str, how: str) -> None:
    model, start = Beside(MEETS[name]), X.flip(0) * 1.3
    method: Any = partial(METHODS[how], baselines=start, layer="layer", target=1)
    expected = method(model, X)
    plain = {name: p.detach() for name, p in model.named_parameters()}
    leaves = {name: p.clone().requires_grad_() for name, p in plain.items()}
    fast = {name: 1 * p for name, p in leaves.items()}

    def of(given: dict[str, Tensor]) -> Any:
        return method(partial(functional_call, model, given), X)

    for given in (plain, leaves, fast):
        torch.testing.assert_close(of(given), expected)
        torch.testing.assert_close(method(partial(functional_call, model, given), X, create_graph=True).detach(), expected)
    called = fa.deep_lift(lambda x: functional_call(model, leaves, x), X, baselines=start, layer=model.layer, target=1)
    torch.testing.assert_close(called, fa.deep_lift(model, X, baselines=start, layer="layer", target=1))
    torch.testing.assert_close(vjp(of, plain)[0], expected)
    torch.testing.assert_close(vjp(lambda p: of({name: 1 * t for name, t in p.items()}), plain)[0], expected)
    if how != "noise_tunnel":  # which draws
        stacked = {name: p[None] for name, p in plain.items()}
        torch.testing.assert_close(vmap(lambda p: vjp(of, p)[0])(stacked)[0], expected)


@pytest.mark.parametrize("write", ["copy_", "add_", "[:, 0] ="])
def test_a_parameter_made_like_a_value_that_is_mapped_over(write: str) -> None:
    """Vmap makes another tensor of it, of which there is none at the baseline: once something was written to, whatever it was,
    the model passed for one that takes other paths there."""
    bias, scale = (torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    bias, scale = nn.Parameter(bias), nn.Parameter(scale)

    def model(x: Tensor) -> Tensor:
        h = x.tanh() + bias.type_as(x)
        if write == "[:, 0] =":
            h[:, 0] = 0
        else:
            getattr(h[:, :2], write)(2 * x[:, 4:])
        return (h * scale / (2 + scale)).sum(1)

    method = partial(fa.deep_lift, model, baselines=0.5 * X[:1])
    torch.testing.assert_close(vmap(lambda t: method(t[None])[0])(X), method(X))
    torch.testing.assert_close(fa.each_target(fa.deep_lift, [None, None])(model, X, baselines=0.5 * X[:1])[1], method(X))


class Frames(nn.Module):
    """Makes a constant that has a gradient where a value has one, as frames of proteins are made, and writes to another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = nn.Linear(6, 4).double(), nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        frame, other = torch.full((4,), 0.5, dtype=h.dtype, requires_grad=h.requires_grad), h.new_ones(4)
        other[1] = 2
        return self.out((h * (frame * other)).tanh() * frame)  # type: ignore[no-any-return]  # a module's result


def test_a_constant_that_the_model_makes_with_a_gradient_is_no_parameter() -> None:
    model = Frames()
    found = fa.deep_lift(model, X, layer="layer", target=1)
    torch.testing.assert_close(found.sum(1), (model(X) - model(0 * X))[:, 1].detach())


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:DeepLIFT. masks or indices", "ignore:DeepLIFT's attributions miss")
@pytest.mark.parametrize("name", list(MEETS))
def test_compiled(name: str) -> None:
    model = Beside(MEETS[name])
    method = partial(fa.deep_lift, baselines=X.flip(0), layer="layer", target=1)
    given = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    compiled = torch.compile(lambda p: method(partial(functional_call, model, p), X), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(given), method(model, X))
