"""What a rule is, what it is given, and how it takes the place of an operation's gradient.

It does so in the attribution's backward pass alone: a rule holds at one grad level only, and the value, and every derivative
that is taken of the result, are the operation's own. So the derivative of a relevance is that of the relevance, and not the
rules applied twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..._torch import autograd_function, base_of, current_grad_level, tracing, transforms_active, tree_flatten, tree_unflatten
from ..._words import complaint

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

    @staticmethod
    def jvp(ctx: Any, back: None, kept: None, level: None, value: Tensor, *tensors: Tensor) -> Tensor:
        return value.clone()


def handed(back: Back, kept: int, value: Tensor, *tensors: Tensor | None) -> Tensor:
    """`value`; in the attribution's backward pass ``back(gradient, *tensors[:kept])`` gives the gradients of the tensors."""
    level, kind = current_grad_level(), cast("Any", _Held)  # torch has no types for apply
    found: Tensor = kind.apply(back, kept, level, value if level else value.detach(), *tensors)
    return found


def _times(gradient: Tensor, *factors: Tensor | None) -> list[Tensor | None]:
    return [*[None] * len(factors), *(gradient if factor is None else gradient * factor for factor in factors)]


def flowing(value: Tensor, factors: list[Tensor | None], sources: list[Tensor]) -> Tensor:
    """`value`, whose gradient goes on to each of the sources, times its factor, in the attribution's backward pass."""
    return handed(_times, len(factors), value, *factors, *sources)  # no factor is as good as 1


def standing(value: Tensor, scale: Tensor, weight: Tensor | None, x: Tensor, shape: Sequence[int], dims: list[int]) -> Tensor:
    """`value`, whose gradient goes on to x in the attribution's backward pass: times the weight, less its mean over the `dims`
    of x in `shape`, times the scale, as that of a normalisation with a deviation that stands still."""
    return handed(partial(_standing, shape, dims), 2, value, scale, weight, x)


def _standing(shape: Sequence[int], dims: list[int], gradient: Tensor, scale: Tensor, weight: Any) -> list[Tensor | None]:
    g = (gradient if weight is None else gradient * weight).reshape(shape)
    return [None, None, ((g - g.mean(dims, keepdim=True)) * scale).reshape(gradient.shape)]


def same(t: Tensor) -> Tensor:
    return t


def hold(t: Tensor) -> Tensor:
    """`t`, a constant to the attribution's gradient."""
    return flowing(t, [], []) if current_grad_level() else t.detach()


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

    def mapped(self, f: Callable[[Tensor], Tensor]) -> Operation:
        return self._replace(inputs=tuple(map(f, self.inputs)), output=f(self.output))


#: ``f(z) / z`` is the derivative, also at 0.
_PROPORTIONAL = {"relu", "leaky_relu", "prelu", "abs", "absolute"}
Pairs = list[tuple["Tensor | None", Tensor]]
#: What a value becomes, whose gradient goes another way than by factors.
Led = Callable[[Tensor], Tensor]


class Flow:
    """A rule of ours: what flows in the place of an operation, as `flows` says. As a rule, it is called as any other."""

    def __init__(
        self,
        pairs: Callable[[Operation, Operation], Pairs | Led],
        name: str,
        *,
        both: bool = False,
        scales: bool = False,
        shares: bool = False,
        remakes: bool = False,
    ):
        self.pairs = pairs
        self.name = name
        self.both = both  # inputs may vary
        self.scales = scales  # the gradient of the output, by something made of its value
        self.remakes = remakes  # runs the operation again with other weights, which takes as long as it does
        self.shares = shares  # relevance is shared whatever x is, at its zeros too

    def keeps(self, name: str) -> bool:
        """Whether it is the gradient of the operation of that name."""
        return self.name == "gradient" or (self.name == "activation" and name in _PROPORTIONAL)

    def put(self, op: Operation) -> Tensor:
        """The operation's value, with what flows."""
        if not (op.output.requires_grad or tracing() or transforms_active()):  # before the site
            return op.output
        pairs = self.pairs(op, op.mapped(hold))
        if callable(pairs):
            return pairs(op.output)
        return flowing(op.output, [factor for factor, _ in pairs], [source for _, source in pairs])

    def hook(self, op: Operation) -> Scale | None:
        """The same as a hook on the output, where that can be: it takes less than a node of the graph."""
        if not (self.scales and op.output.requires_grad) or tracing() or transforms_active():
            return None
        base = base_of(op.output)
        if base is None:
            return Scale(self, op, op.output)
        own = all(base is not t and base is not base_of(t) for t in op.inputs) and base.numel() == op.output.numel()
        return Scale(self, op, base) if own and base.is_contiguous() and op.output.is_contiguous() else None

    def __call__(self, op: Operation, gradient: Tensor) -> Any:
        count = 2 if self.both and len(op.inputs) > 1 else 1

        def sources(*live: Tensor) -> Any:
            inputs = (*live, *op.inputs[count:])
            output = op.output if self.remakes else op.function(*inputs)
            pairs = self.pairs(op._replace(inputs=inputs, output=output), op) or [(None, output * 0)]
            pairs = [(None, pairs(output))] if callable(pairs) else pairs
            return tuple(source for _, source in pairs), [gradient if f is None else gradient * f for f, _ in pairs]

        if transforms_active() or torch.is_grad_enabled():
            made: Any = torch.func.vjp(sources, *op.inputs[:count], has_aux=True)  # its types leave out what comes beside
            found = made[1](tuple(made[2]))
        else:  # by autograd, where what flows may look at the data
            with torch.enable_grad():
                live = [t.detach().requires_grad_() for t in op.inputs[:count]]
                ends, gradients = sources(*live)
                found = torch.autograd.grad(ends, live, gradients, allow_unused=True)
        return found[0] if count == 1 else (*found, *[None] * (len(op.inputs) - count))

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


class Scale:
    """A hook on an operation's output, or on the tensor that this is another shape of: writing to a view leaves its place in
    the graph, and a hook there, behind. The factor is made when something uses the output, or in the backward pass."""

    def __init__(self, rule: Flow, op: Operation, place: Tensor):
        self.rule, self.at = rule, Operation(op.name, op.function, (), place.detach())
        self.factor: Tensor | None = None
        self.handle = place.register_hook(self)
        self.used = False  # by something else than a batch norm that is merged
        self.gone = False  # taken away by one, before anything else used the output
        self.stand: tuple[Tensor, Tensor] | None = None  # the output, and what stands for it then

    def use(self, t: Tensor) -> Tensor | None:
        """Something else than a batch norm that is merged uses the output `t`: what stands for it, where a norm came first."""
        self.used = True
        if not self.gone:
            self.settled()
            return None
        if self.stand is None or self.stand[0] is not t:
            self.stand = (t, self.rule.put(self.at._replace(output=t)))
        return self.stand[1]

    def settled(self) -> Tensor:
        if self.factor is None:
            pairs: Any = self.rule.pairs(self.at, self.at)  # of one that scales, a factor
            self.factor = pairs[0][0]
        assert self.factor is not None
        return self.factor

    def __call__(self, gradient: Tensor | None) -> Tensor | None:
        # None, where what uses the output says that nothing flows back to it (an autograd.Function of the model's)
        return None if gradient is None else gradient * self.settled()


def whole(name: str, func: Any, args: Any, kwargs: Any, y: Any, varies: Callable[[Any], bool]) -> Operation:
    """An operation as one of all its tensors, those that vary first."""
    if not isinstance(y, Tensor):
        text = f"a rule for {name} cannot be: it returns {type(y).__name__}, and a rule is given the gradient of one tensor"
        raise complaint(ValueError, f"{text}. Give one to an operation that uses what it returns.")
    leaves, spec = tree_flatten((args, kwargs))
    floats = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.is_floating_point()]
    places = sorted(floats, key=lambda i: not varies(leaves[i]))

    def again(*inputs: Tensor) -> Any:
        filled = list(leaves)
        for i, t in zip(places, inputs):
            filled[i] = t
        args, kwargs = tree_unflatten(filled, spec)
        return func(*args, **kwargs)

    return Operation(name, again, tuple(leaves[i] for i in places), y)
