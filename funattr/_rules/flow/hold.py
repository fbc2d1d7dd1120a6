"""Two operations that tell the gradient of an attribution from all other derivatives.

A rule is written as what flows: an expression in torch's own operations, whose gradient is the rule's. It stands in for the
operation at one grad level only, that of the attribution; the value, and every derivative that is taken of the result, are the
operation's own. So the derivative of a relevance is that of the relevance, and not the rules applied twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._torch import autograd_function, current_grad_level


@autograd_function
class _Hold(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor, level: int) -> Tensor:
        return t.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)  # where nothing flows, nothing is to be computed
        ctx.ruled = current_grad_level() == inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None if ctx.ruled else gradient, None


@autograd_function
class _Switch(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, flow: Tensor, level: int) -> Tensor:
        return value.clone()  # the model may write to it, and to a view that a Function returns it could not

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.ruled = current_grad_level() == inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, gradient, None) if ctx.ruled else (gradient, None, None)


def hold(t: Tensor) -> Tensor:
    """`t`, a constant to the attribution's gradient."""
    level = current_grad_level()
    return _Hold.apply(t, level) if level else t.detach()  # type: ignore[no-untyped-call]  # torch has no types for apply


def switch(value: Tensor, flow: Tensor) -> Tensor:
    """`value`, with the gradient of `flow` in the attribution's backward pass, and its own in all others."""
    level = current_grad_level()
    return _Switch.apply(value if level else value.detach(), flow, level)  # type: ignore[no-any-return, no-untyped-call]  # likewise
