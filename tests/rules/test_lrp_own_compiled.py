"""Rules of one's own, compiled: what they make of a gradient, and of which operation, is what it is uncompiled."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close
from ..models import CASES, Case, case_id, double

DEFERS = hasattr(getattr(torch, "_higher_order_ops", None), "dynamo_bypassing_wrapper")
pytestmark = pytest.mark.skipif(not DEFERS, reason="this torch cannot compile them")


def positive(op: R.Operation, gradient: Tensor) -> Any:
    """z+ as one would write it, by what the operation does to other inputs."""
    x, *rest = op.inputs
    positives = [t.clamp(min=0) for t in rest]
    z, back = torch.func.vjp(lambda t: op.function(t, *positives), x.clamp(min=0))  # type: ignore[misc]  # torch has no types for it
    return back(gradient * op.output / (z + 1e-3))[0]


def doubled(op: R.Operation, gradient: Tensor) -> Any:
    return torch.func.vjp(op.function, *op.inputs)[1](2 * gradient)  # type: ignore[no-untyped-call]  # torch has no types for it


def weighed(op: R.Operation, gradient: Tensor) -> Tensor:
    return gradient * (op.output.abs() + 1)


RULES: dict[str, dict[Any, Any]] = {
    "layers": {"linear": positive, "convolution": positive},
    "all": dict.fromkeys(("linear", "convolution", "activation", "product", "softmax", "normalization"), doubled),
    "activations": {**R.epsilon(), "activation": weighed},
    "first": {**R.epsilon(), "first": positive},
    "relu": {"relu": weighed},
}
NOT_TRACED = ("recurrent", "frames")  # Dynamo does not trace recurrent layers


def net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    layers = [nn.Conv2d(2, 4, 3), norm, nn.Tanh(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.GELU()]
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return nn.Sequential(*layers, nn.Linear(8, 3)).double().eval(), torch.randn(2, 2, 8, 8, dtype=torch.float64)


def compiled(method: Callable[[Tensor], Any]) -> Any:
    torch._dynamo.reset()
    return torch.compile(method, fullgraph=True, backend="aot_eager")


def agree(method: Callable[[Tensor], Any], *batches: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has no rule
        fast = compiled(method)
        for x in batches:
            close(fast(x), method(x), 1e-10)


#: One of them for each net, in turn.
ROWS = [
    (case, name if name != "relu" or case.relu else "activations")
    for case, name in zip([case for case in CASES if case_id(case) not in NOT_TRACED], itertools.cycle(RULES))
]


@pytest.mark.parametrize(("case", "name"), breadth(ROWS, lambda row: row == ROWS[1], several=True))
def test_models(case: Case, name: str) -> None:
    model, x = double(case)
    layer = case.layers[0] if case_id(case) == "text" else None  # its input is integers
    agree(lambda x: fa.lrp(model, x, layer=layer, target=1, rules=RULES[name]), x)


WAYS: dict[str, Callable[[nn.Module, Any], Callable[[Tensor], Any]]] = {
    "sites": lambda m, r: lambda x: fa.lrp(m, x, layer=["0", "2", "6"], target=1, rules=r),
    "targets": lambda m, r: lambda x: fa.each_target(fa.lrp, [0, 1, 2])(m, x, rules=r),
    "mapped": lambda m, r: lambda x: torch.vmap(lambda t: fa.lrp(m, t[None], target=1, rules=r)[0])(x),
    "a path": lambda m, r: lambda x: fa.under(r)(fa.integrated_gradients)(m, x, target=1, n_steps=5),
    "a map": lambda m, r: lambda x: fa.interpolate(fa.relu(fa.lrp))(m, x, layer="2", target=1, rules=r),
    "a derivative": lambda m, r: (
        lambda x: torch.func.grad(lambda x: fa.lrp(m, x, target=1, rules=r, create_graph=True).square().sum())(x)
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_ways(way: str) -> None:
    model, x = net()
    agree(WAYS[way](model, RULES["layers"]), x)


class Products(nn.Module):
    """One tensor as both operands, and a weight before what it weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.head = nn.Linear(5, 9), nn.Parameter(torch.randn(2, 3)), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(1, (3, 3))
        out: Tensor = self.head(torch.cat([torch.bmm(h, h), self.weight @ h], 1).flatten(1))
        return out


@pytest.mark.full
def test_operands_in_any_order() -> None:
    model, rules = Products().double().eval(), {"linear": positive, "product": lambda op, gradient: doubled(op, gradient)[0]}
    agree(lambda x: fa.lrp(model, x, target=1, rules=rules), torch.randn(2, 5, dtype=torch.float64))


@pytest.mark.full
def test_batches_of_other_sizes() -> None:
    model, x = net()
    agree(lambda x: fa.lrp(model, x, target=1, rules=RULES["layers"]), x, torch.cat([x, 2 * x, -x]), x[:1])


@pytest.mark.full
def test_derivatives_from_outside() -> None:
    model, x = net()
    method = partial(fa.lrp, model, target=1, rules=RULES["all"], create_graph=True)
    found = []
    for f in (method, compiled(lambda x: method(x))):
        leaf = x.clone().requires_grad_()
        found.append(torch.autograd.grad(f(leaf).square().sum(), leaf)[0])
    close(found[1], found[0], 1e-10)


def times(op: R.Operation, gradient: Tensor, k: float = 1.0) -> Tensor:
    return gradient * k


class Object:
    def __call__(self, op: R.Operation, gradient: Tensor) -> Tensor:
        return gradient


held = [1.0]


@pytest.mark.full
def test_what_a_rule_reads_is_followed() -> None:
    """The graph is made anew where it is another. A tensor's values are not looked at: a rule that holds one is refused."""
    model, x = net()

    def scaled(op: R.Operation, gradient: Tensor) -> Tensor:
        return gradient * held[0]

    fast = compiled(lambda x: fa.under({torch.tanh: scaled})(fa.gradient)(model, x, target=1))
    first, held[0] = fast(x), 2.0
    close(fast(x), 2 * first, 1e-10)
    rules: dict[Any, Any] = {}
    fast = compiled(lambda x: fa.under(rules)(fa.gradient)(model, x, target=1))
    for k in (1.0, 3.0, 5.0, 3.0):  # of a number that changes, Dynamo makes a symbol
        rules[torch.tanh] = partial(times, k=k)
        close(fast(x), k * first, 1e-10)
    agree(lambda x: fa.under({torch.tanh: lambda op, gradient: gradient * 4})(fa.gradient)(model, x, target=1), x)
    number = torch.tensor(2.0, dtype=torch.float64)

    def holds(op: R.Operation, gradient: Tensor) -> Tensor:
        return gradient * number

    with pytest.raises(Exception, match="the rule for tanh holds a tensor, which the compiled graph would keep as it is now"):
        compiled(lambda x: fa.under({torch.tanh: holds})(fa.gradient)(model, x, target=1))(x)
    with pytest.raises(Exception, match="compiles where it is a function"):
        compiled(lambda x: fa.under({torch.tanh: Object()})(fa.gradient)(model, x, target=1))(x)
    with pytest.raises(Exception, match=r"the rule for tanh returned \[2, 4, 6\] for an input"):
        compiled(lambda x: fa.under({torch.tanh: lambda op, gradient: gradient[..., 0]})(fa.gradient)(model, x, target=1))(x)
