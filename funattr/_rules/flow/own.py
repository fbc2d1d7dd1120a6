"""A rule of one's own, in the place of an operation's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..._core.attention import casts_on
from ..._torch import can_defer, current_grad_level, deferred, fixed, tracing
from ..._types import as_it_is
from ..._words import complaint
from .operation import Operation, handed


def own(rule: Callable[[Operation, Tensor], Any], op: Operation) -> Tensor:
    """The operation's value, with the gradient that `rule` says."""
    if tracing():
        return _own_traced(rule, op)
    name, function, device = op.name, op.function, op.output.device.type
    casts = casts_on(device)

    def back(gradient: Tensor, value: Tensor, *inputs: Tensor) -> list[Tensor | None]:
        with as_it_is if casts == casts_on(device) else torch.autocast(device, casts[1], casts[0]):
            found = checked(name, rule(Operation(name, function, inputs, value), gradient), inputs)
            return [*[None] * (1 + len(inputs)), *found]

    level, kept = current_grad_level(), [op.output, *op.inputs]  # the model may write to what it gets, and to what it gave
    kept = [t if isinstance(t, Parameter) else (t if level else t.detach()).clone() for t in kept]
    return handed(back, len(kept), op.output, *kept, *op.inputs)


def _own_traced(rule: Callable[[Operation, Tensor], Any], op: Operation) -> Tensor:
    """The same where Dynamo traces: the operation goes into the graph, and the rule where that is traced further down."""
    if not (can_defer() and isinstance(rule, (FunctionType, partial))):
        text = "a rule of one's own compiles where it is a function, and torch has what that takes (2.13 does)"
        raise complaint(ValueError, f"{text}: write it so, use a set of fa.rules, or call the method uncompiled.")
    if isinstance(rule, partial):
        rule = partial(rule.func, *map(fixed, rule.args), **{name: fixed(value) for name, value in rule.keywords.items()})
    # For what it reads: the graph is made anew where that is another.
    checked(op.name, rule(op, torch.zeros_like(op.output)), op.inputs)
    function = op.function

    def again(*inputs: Tensor) -> Tensor:
        return function(*(t.view_as(t) for t in inputs))  # used in this order, each another: so they are given in it

    given = [t.view_as(t) for t in op.inputs]
    found: Tensor = deferred(partial(_put, rule, op.name, len(given)), again, *given)
    return found


def _put(rule: Callable[[Operation, Tensor], Any], name: str, count: int, traced: Callable[..., Any]) -> Callable[..., Any]:
    """What runs in the operation's place: `traced` takes its inputs, then what else it needs, and gives a tuple."""

    def ruled(op: Operation, gradient: Tensor) -> Any:
        try:
            return rule(op, gradient)
        except AssertionError as error:
            if "FakeTensor" not in str(error):
                raise
            text = f"the rule for {name} holds a tensor, which the compiled graph would keep as it is now"
            raise complaint(ValueError, f"{text}: have it use numbers, or the operation's inputs.") from error

    def run(*given: Any) -> tuple[Tensor]:
        places = [i for i, part in enumerate(given) if isinstance(part, Tensor)][:count]  # sizes may come before

        def again(*inputs: Tensor) -> Tensor:
            filled = dict(zip(places, inputs))
            found: Tensor = traced(*(filled.get(i, part) for i, part in enumerate(given)))[0]
            return found

        inputs = tuple(given[i] for i in places)
        return (own(ruled, Operation(name, again, inputs, again(*inputs))),)

    return run


def checked(name: str, found: Any, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """What a rule returned, one gradient for each input."""
    if found is None:
        raise complaint(ValueError, f"the rule for {name} returned None: return the gradient of its first input.")
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
