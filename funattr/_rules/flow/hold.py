"""A value whose gradient goes other ways in the attribution's backward pass, and its own ways in all others.

A rule holds at one grad level only, that of the attribution; the value, and every derivative that is taken of the result, are
the operation's own. So the derivative of a relevance is that of the relevance, and not the rules applied twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._torch import autograd_function, current_grad_level

Back = Callable[..., "list[Tensor | None]"]


@autograd_function
class _Held(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(back: Back, kept: int, level: int, value: Tensor, *tensors: Tensor) -> Tensor:
        return value.clone() if level else value.detach()  # the model may write to it

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.back, kept, level, _, *tensors = inputs
        ctx.set_materialize_grads(False)  # where nothing flows, nothing is to be computed
        ctx.ruled, ctx.count = current_grad_level() == level, len(tensors)
        ctx.save_for_backward(*tensors[:kept])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if gradient is None or not ctx.ruled:
            return (None, None, None, gradient, *[None] * ctx.count)
        return (None, None, None, None, *ctx.back(gradient, *ctx.saved_tensors))


def handed(back: Back, kept: int, value: Tensor, *tensors: Tensor) -> Tensor:
    """`value`; in the attribution's backward pass ``back(gradient, *tensors[:kept])`` gives the gradients of the tensors."""
    level = current_grad_level()
    return _Held.apply(back, kept, level, value if level else value.detach(), *tensors)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types for apply


def _times(gradient: Tensor, *factors: Tensor) -> list[Tensor | None]:
    return [*[None] * len(factors), *(gradient if factor is None else gradient * factor for factor in factors)]


def flowing(value: Tensor, factors: list[Tensor | None], sources: list[Tensor]) -> Tensor:
    """`value`, whose gradient goes on to each of the sources, times its factor, in the attribution's backward pass."""
    return handed(_times, len(factors), value, *factors, *sources)  # type: ignore[arg-type]  # no factor is as good as 1


def hold(t: Tensor) -> Tensor:
    """`t`, a constant to the attribution's gradient."""
    return flowing(t, [], []) if current_grad_level() else t.detach()
