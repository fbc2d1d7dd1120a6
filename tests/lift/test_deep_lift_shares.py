"""How deep_lift shares out what an operation brings: a rule that gives all to one operand is complete, too."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from funattr import deep_lift
from funattr._rules.lift.secants import derivative

from ..operations import OPS
from ..reference import Asked, loops
from ..words.cure_rows import WithContext

#: Compositions, in which an operand is met several times, or a norm, a row or a choice: not the shares of one game.
COMPOSED = {
    *("masked softmax", "lowest-masked softmax", "attention", "causal attention", "masked attention", "attention by name"),
    *("cosine_similarity", "similarity by name", "pairwise_distance", "cdist"),
    *("where of two", "choice by name", "clamp(y, 1)", "einsum of three"),
}
#: For which the reference has no kernel: rows in which one place takes all, products of many, norms, choices, `out=`.
NO_KERNEL = {
    *("F.relu6 in place", "F.selu in place", "Tensor.square_", "torch.exp(out=)", "torch.mul(out=)"),
    *("nn.PReLU(num_parameters=1)", "nn.PReLU(num_parameters=4)", "nn.LogSoftmax(dim=-1)", "nn.GLU(dim=-1)"),
    *("2 ** x", "x ** y", "torch.pow(2, x)", "powers by name", "addcdiv", "prod", "prod of all", "hypot", "atan2"),
    *("log_softmax", "logsumexp", "logsumexp of two", "logaddexp", "entropy", "loss"),
    *("vector_norm", "norm p=3", "torch.norm", "std", "cosine_similarity", "similarity by name", "pairwise_distance", "cdist"),
    *("linalg.norm of matrices", "linalg.norm of the other side", "linalg.norm of a matrix", "matrix_norm", "norm p=0"),
    *("max", "max of all", "min", "amax", "amin", "maximum", "minimum", "torch.max of two", "h.min(other)"),
    *("nn.AdaptiveMaxPool1d(output_size=4)", "adaptive_max_pool2d", "adaptive_max_pool2d with indices", "fake quantization"),
    *("einsum of three", "einsum of three, two held"),
    *("max(axis=, keepdims=)", "logsumexp(axis=)", "moments(axis=)", "prod(axis=)", "two by numpy's names", "softmax(axis=)"),
    *("where", "where of two", "h.where", "choice by name", "clamp(min=y)", "clamp(y, 1)", "clamp_max(y)", "clamp_(max=y)"),
}
#: These mix the examples.
ALONE = ("matmul 2d", "addmm", "linear of varying", "conv of varying")


class Weighed(nn.Module):
    """The operation, and a sum in which every place of its result counts otherwise."""

    def __init__(self, op: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.op = op

    def forward(self, h: Tensor, g: Tensor) -> Tensor:
        y = self.op(h, g).reshape(h.shape[0], -1)
        return (y * torch.arange(1, y.shape[1] + 1)).sum(1)


def asked(name: str) -> tuple[Weighed, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    n = 1 if name in ALONE else 3
    h, g, h0, g0 = (torch.randn(n, 4, 6, dtype=torch.float64) for _ in range(4))
    return Weighed(OPS[name]).double().eval(), (h, g), (h0, g0)


@pytest.mark.parametrize("name", [name for name in OPS if name not in COMPOSED])
@pytest.mark.filterwarnings("ignore:The operator 'aten::")
def test_two_operands_share_as_two_players(name: str) -> None:
    """The Shapley value of a game in which h comes, g comes, or both: what each brings, in the mean over who comes first."""
    model, (h, g), (h0, g0) = asked(name)
    of_h, of_g = (part.flatten(1).sum(1) for part in deep_lift(model, (h, g), baselines=(h0, g0)))
    with torch.no_grad():
        pairs = (h0, g0), (h, g0), (h0, g), (h, g)
        none, only_h, only_g, both = (model(*(t.clone() for t in pair)) for pair in pairs)
    size = float((both - none).abs().max() + (only_h - none).abs().max() + (only_g - none).abs().max())
    assert (of_h - (only_h - none + both - only_g) / 2).abs().max() <= 1e-9 * size
    assert (of_g - (only_g - none + both - only_h) / 2).abs().max() <= 1e-9 * size


@pytest.mark.parametrize("name", [name for name in OPS if name not in NO_KERNEL])
@pytest.mark.filterwarnings("ignore:The operator 'aten::")
def test_every_place_gets_its_share(name: str) -> None:
    """Place by place, against rules for the kernels below."""
    model, x, x0 = asked(name)
    wanted = loops.deep_lift(Asked(model, x, None, lambda score: score), [x0])
    size = max(float(t.abs().max()) for t in wanted)
    for ours, theirs in zip(deep_lift(model, x, baselines=x0), wanted):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-9 * size)


def test_three_operands_of_einsum_share_as_three_players() -> None:
    torch.manual_seed(0)
    x, x0 = ([torch.randn(2, *shape).double() for shape in ((3, 4), (5, 4), (3, 5))] for _ in range(2))

    def model(*operands: Tensor) -> Tensor:
        return torch.einsum("nij,nkj,nik->n", *operands)

    wanted = [torch.zeros(2).double() for _ in x]
    for order in permutations(range(3)):
        now = list(x0)
        for i in order:
            before, now[i] = model(*now), x[i]
            wanted[i] += (model(*now) - before) / 6
    for found, share in zip(deep_lift(model, tuple(x), baselines=tuple(x0)), wanted):
        torch.testing.assert_close(found.sum((1, 2)), share)


#: Where x is the baseline a slope is a derivative: of one operation, of several, of both its inputs, of nothing, by no graph.
STEPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "one": (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2),
    "one by a number": (lambda x: x * 3, lambda x: torch.full_like(x, 3)),
    "two": (lambda x: torch.tanh(torch.sin(x)), lambda x: (1 - torch.tanh(torch.sin(x)) ** 2) * torch.cos(x)),
    "a product with itself": (lambda x: x * x, lambda x: 2 * x),
    "beside itself": (lambda x: x.sin() + x, lambda x: x.cos() + 1),
    "itself": (lambda x: x, torch.ones_like),
    "a constant": (torch.zeros_like, torch.zeros_like),
    "detached": (lambda x: x.detach().exp(), torch.zeros_like),
    "a step": (torch.sign, torch.zeros_like),
    "a Function": (WithContext.apply, torch.exp),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_derivative_where_there_is_no_step(name: str) -> None:
    f, slope = STEPS[name]
    for x in (torch.randn(5, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64, requires_grad=True)):
        torch.testing.assert_close(derivative(f, x), slope(x), rtol=0.0, atol=1e-14)


def test_the_lists_name_operations() -> None:
    assert set(OPS) >= COMPOSED | NO_KERNEL
