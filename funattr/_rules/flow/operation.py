"""What a rule is given, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import autograd_function, current_grad_level, tracing, transforms_active
from ..._words import complaint


class Operation(NamedTuple):
    """One run of an operation, as a rule sees it.

    Args:
        name: torch's name for it.
        function: runs it again, on tensors like `inputs`, with its other arguments as they were.
        inputs: its tensors in torch's order (x, weight, bias); the first varies with the model's x.
        output: its value, before anything overwrote it.

    Returns:
        What rules are given: ``rule(operation, gradient)``, where `gradient` is that of `output`.

    Example:
        >>> import torch, funattr as fa
        >>> seen = []
        >>> def look(op, gradient):
        ...     seen.append(op.name)
        ...     return torch.autograd.functional.vjp(op.function, op.inputs, gradient)[1]
        >>> _ = fa.under({"linear": look})(fa.gradient)(torch.nn.Linear(3, 2), torch.randn(1, 3), target=0)
        >>> seen
        ['linear']
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    output: Tensor


class Flow:
    """A rule of ours: what flows in the place of an operation, an expression whose gradient is the rule's.

    `flow` is a function of the operation in terms of tensors that carry a graph. As a rule, it is called as any other.
    """

    def __init__(
        self,
        flow: Callable[[Operation], Tensor],
        name: str,
        *,
        plain: bool = False,
        both: bool = False,
        shares: bool = False,
        remakes: bool = False,
        through: bool = True,
    ):
        self.flow = flow
        self.name = name
        self.plain = plain  # the operation's own gradient
        self.both = both  # inputs may vary
        self.remakes = remakes  # runs the operation again with other weights, which takes as long as it does
        self.through = through  # its gradient goes through the operation as it is, too
        self.shares = shares  # relevance is shared whatever x is, at its zeros too

    def __call__(self, op: Operation, gradient: Tensor) -> Any:
        count = 2 if self.both and len(op.inputs) > 1 else 1

        def flowing(*live: Tensor) -> Tensor:
            inputs = (*live, *op.inputs[count:])
            return self.flow(op._replace(inputs=inputs, output=op.function(*inputs) if self.through else op.output))

        if transforms_active() or torch.is_grad_enabled():
            found = torch.func.vjp(flowing, *op.inputs[:count])[1](gradient)
        else:  # by autograd, where what flows may look at the data
            with torch.enable_grad():
                live = [t.detach().requires_grad_() for t in op.inputs[:count]]
                found = torch.autograd.grad(flowing(*live), live, gradient)
        return found[0] if count == 1 else (*found, *[None] * (len(op.inputs) - count))

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


@autograd_function
class _Own(torch.autograd.Function):
    """An operation with a rule of somebody's own for its backward pass, at one grad level only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Any, level: int, value: Tensor, *inputs: Tensor) -> Tensor:
        return value.clone()  # the model may write to it

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, level, value, *rest = inputs
        ctx.set_materialize_grads(False)
        ctx.ruled = current_grad_level() == level
        ctx.save_for_backward(value, *rest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, *inputs = ctx.saved_tensors
        if not ctx.ruled or gradient is None:
            return (None, None, gradient, *[None] * len(inputs))
        return (None, None, None, *ctx.call(tuple(inputs), value, gradient))


def own(rule: Callable[[Operation, Tensor], Any], op: Operation) -> Tensor:
    """The operation's value, with the gradient that `rule` says."""
    name, function = op.name, op.function

    def call(inputs: tuple[Tensor, ...], value: Tensor, gradient: Tensor) -> list[Tensor | None]:
        found = rule(Operation(name, function, inputs, value), gradient)
        return checked(name, found, inputs)

    if tracing():
        text = "a rule of one's own runs in the backward pass, where torch.compile cannot look at it: use a set of fa.rules"
        raise complaint(ValueError, f"{text}, or call the method uncompiled.")
    level = current_grad_level()
    return _Own.apply(call, level, op.output if level else op.output.detach(), *op.inputs)  # type: ignore[no-any-return, no-untyped-call]


def checked(name: str, found: Any, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """What a rule returned, one gradient for each input."""
    parts = list(found) if isinstance(found, (tuple, list)) else [found, *[None] * (len(inputs) - 1)]
    shapes = [list(t.shape) for t in inputs]
    if len(parts) != len(inputs):
        text = f"the rule for {name} returned {len(parts)} gradients, and the operation has {len(inputs)} inputs {shapes}"
        raise complaint(
            ValueError, f"{text}: return one for the first, or a tuple with one for each, None where nothing flows."
        )
    for part, t in zip(parts, inputs):
        if part is not None and (not isinstance(part, Tensor) or part.shape != t.shape):
            got = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            text = f"the rule for {name} returned {got} for an input {list(t.shape)}"
            raise complaint(ValueError, f"{text}: a gradient has the shape of its input.")
    return parts
