"""Linear operations and convolutions under a rule, and batch norms merged into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._types import by_channel
from ..lift import compound
from ..lift.linear import of_two, operands_of
from .flows import GATE, PLAIN
from .mode import Ruled
from .operation import Operation, Scale, flowing, hold


class Linear(NamedTuple):
    """A linear operation that has run under a rule: a batch norm right after it is merged into it."""

    op: Operation  # its output carries the operation's own gradient
    kinds: tuple[str, ...]
    output: Tensor  # under the rule
    widened: Callable[[Tensor, Tensor], Tensor]  # the weight, with each channel of the output scaled
    scale: Scale | None  # the rule, where that is a hook

    def merged(self, mode: Ruled, x: Tensor, norm: Any, scale: Tensor, mean: Tensor, shift: Tensor | None) -> Tensor:
        """The batch norm of this operation's output x, by the rule for both as one operation."""
        plain = self.op.output
        if self.scale is not None and self.scale.used:  # what else uses it does so under its own rule: the norm gets another
            plain = self.op.function(*self.op.inputs)
        elif self.scale is not None:
            self.scale.handle.remove()
            self.scale.gone = True
        met = mode.rules.of(self.op.name, *self.kinds)
        source, weight, *rest = self.op.inputs
        y = norm(plain)  # its gradient goes past the rule that was
        bias = ((rest[0] - mean) if rest else -mean) * scale
        inputs = source, self.widened(weight, scale), bias if shift is None else bias + shift
        found = mode.ruled(met, self.op._replace(inputs=inputs, output=y))
        if x is not self.output:  # a site in between: it gets the norm's own gradient, which must not go on from there
            found = flowing(norm(x), [None, None], [found, norm(x) - norm(self.output)])
        return mode.know(found, source, first=False)


def of_one(
    mode: Ruled, name: str, kind: str, function: Callable[..., Tensor], x: Tensor, y: Tensor, bias: Any, widened: Any = None
) -> Tensor:
    """``function(x, y[, bias])`` under its rule, where x alone varies, and y is its weight, or the other way round."""
    inputs = (x, y) if bias is None else (x, y, bias)
    if not mode.varies(x):
        if not mode.varies(y):
            return function(*inputs)
        return of_one(mode, name, kind, lambda y, x, *bias: function(x, y, *bias), y, x, bias)
    mode.unseen.linear |= torch.is_grad_enabled()  # in the forward of an autograd.Function nothing is, and rules are lost
    kinds = ("first", kind) if mode.facts[x].first else (kind,)
    met = mode.rules.of(name, *kinds)
    if y.layout is not torch.strided and met is not None and not getattr(met[1], "scales", True):
        inputs = (x, y.to_dense(), *inputs[2:])  # such a rule looks at signs
    op = Operation(name, function, inputs, function(*inputs))
    mode.scale = None
    found = mode.ruled(met, op, widened)
    merges = None if met is None or met[1] is PLAIN or widened is None else Linear(op, kinds, found, widened, mode.scale)
    return mode.know(found, x, first=False, linear=merges)


def product_of(mode: Ruled, name: str, func: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """`z`, the product of two that vary."""
    met = mode.rules.of(name, "product")
    if met is not None and met[1] is GATE and mode.facts[x].activated != mode.facts[y].activated:
        mode.fired.append(met[0])
        gated = func(hold(x), y) if mode.facts[x].activated else func(x, hold(y))
        return mode.know(flowing(z, [None], [gated]), x, y)
    return mode.know(mode.ruled(met, Operation(name, func, (x, y), z)), x, y)


def linear(mode: Ruled, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if mode.varies(bias) or (mode.varies(x) and mode.varies(weight)):
        with mode:
            y = torch.matmul(x, weight.mT if weight.dim() > 1 else weight)
            return y if bias is None else y + bias
    return of_one(mode, "linear", "linear", func, x, weight, bias, _rows if x.dim() == weight.dim() == 2 else None)


def _rows(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.unsqueeze(-1)


def convolution(
    mode: Ruled, func: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Any = None, *rest: Any, **kwargs: Any
) -> Tensor:
    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return func(x, w, b, *rest, **kwargs)

    transposed = "transpose" in mode.name
    both = mode.varies(x) and mode.varies(weight)
    if bias is not None and (both or mode.varies(bias)):
        with mode:
            y: Tensor = function(x, weight) + by_channel(bias, weight.dim())
            return y
    if both:
        return product_of(mode, mode.name, function, x, weight, function(x, weight))
    groups = kwargs.get("groups", rest[3] if len(rest) > 3 else 1)

    def widened(w: Tensor, scale: Tensor) -> Tensor:
        if not transposed:
            return w * scale.reshape(-1, *[1] * (w.dim() - 1))
        parts: Tensor = w.unflatten(0, (groups, -1)) * scale.reshape(groups, 1, -1, *[1] * (w.dim() - 2))
        return parts.flatten(0, 1)

    return of_one(mode, mode.name, "convolution", function, x, weight, bias, widened if x.dim() == weight.dim() else None)


def bilinear(mode: Ruled, func: Any, x: Tensor, y: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """A product of matrices, or of anything else that is linear in each of two."""

    def function(x: Tensor, y: Tensor, b: Tensor | None = None) -> Tensor:
        found: Tensor = func(x, y, *rest, **kwargs)
        return found if b is None else found + b

    if rest and isinstance(rest[0], str):  # torch.sparse.mm(x, y, "mean")
        mode.unmet.append(mode.name)
        return function(x, y)
    if mode.varies(x) and mode.varies(y):
        return product_of(mode, mode.name, function, x, y, function(x, y))
    flat = x.dim() == y.dim() == 2 and mode.name == "matmul"
    return of_one(mode, mode.name, "linear", function, x, y, None, torch.mul if flat else None)


def bilinear_layer(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """nn.Bilinear as what it is: a product of two that vary; of one, linear with a weight that the other is a part of."""
    z = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return z if bias is None else z + bias


def addmm(
    mode: Ruled, func: Callable[..., Tensor], bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        if b is None:
            return alpha * torch.matmul(x, w)
        return func(b, x, w, beta=beta, alpha=alpha)

    # What baddbmm adds, as attention does a mask, is no bias, as where it is added by hand: it may be infinite.
    own = beta == 1 and mode.name != "baddbmm" and not mode.varies(bias)
    if own and mode.varies(x) != mode.varies(y):
        return of_one(mode, "addmm", "linear", function, x, y, bias, torch.mul if x.dim() == 2 and bias.dim() == 1 else None)
    if not any(map(mode.varies, (bias, x, y))):
        return func(bias, x, y, beta=beta, alpha=alpha)
    with mode:
        return compound.addmm(bias, x, y, beta=beta, alpha=alpha)


def einsum(mode: Ruled, func: Any, equation: str, *operands: Any) -> Any:
    func = torch.einsum  # that of an exported graph takes them in a list
    operands, vary = operands_of(operands, mode.varies)
    if len(vary) > 2:
        mode.unmet.append("einsum")
    if len(vary) not in (1, 2) or len(operands) < 2:
        return func(equation, *operands)
    if len(vary) == 1 and len(operands) > 2 and isinstance(equation, str):
        equation, operands = _of_one_weight(func, equation, operands, vary[0])
        vary = [0]
    first, second, *_ = dict.fromkeys([*vary, *range(len(operands))])
    return bilinear(mode, of_two(func, equation, operands, first, second), operands[first], operands[second])


def _of_one_weight(func: Any, equation: str, operands: tuple[Any, ...], live: int) -> tuple[str, tuple[Tensor, Tensor]]:
    """Einsum of one that varies, with the others made one weight: contributions have the signs of that."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow:
        out = "..." * ("..." in given) + "".join(sorted(c for c in set(given) if c.isalpha() and given.count(c) == 1))
    rest, others = (",".join(terms[:live] + terms[live + 1 :]), operands[:live] + operands[live + 1 :])
    kept = "..." * ("..." in rest) + "".join(sorted(c for c in set(rest) if c.isalpha() and c in terms[live] + out))
    return f"{terms[live]},{kept}->{out}", (operands[live], func(f"{rest}->{kept}", *others))
