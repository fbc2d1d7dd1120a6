"""Which operation is of which kind, and what a rule of that kind is given: elementwise ones, products, norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch import tracing, transforms_active
from ..lift.compound import COMPOUND, sloped
from ..lift.dispatch import bent
from ..lift.lengths import LENGTHS
from ..lift.origins import among
from ..lift.table import NAMES
from .flows import CUT, HALF, NORMALIZATION, PLAIN
from .linear import addmm, bilinear, bilinear_layer, convolution, einsum, linear, product_of
from .mode import Ruled, Table, other
from .norms import Held, batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .operation import Flow, Operation, Pairs


def activation(mode: Ruled, func: Any, x: Any, *rest: Any, **kwargs: Any) -> Any:
    """Elementwise, of one tensor that varies."""
    if not mode.varies(x) or any(map(mode.varies, (*rest, *kwargs.values()))):
        return func(x, *rest, **kwargs)
    return _elementwise(mode, mode.name, lambda t: func(t, *rest, **kwargs), x, func(x, *rest, **kwargs), (x,))


def _elementwise(mode: Ruled, name: str, function: Callable[..., Tensor], x: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
    found = mode.ruled(mode.rules.of(name, "activation"), Operation(name, function, (x,), y))
    mode.know(found, x, activated=True)
    mode.facts[found] = mode.elementwise(found, function, args, mode.facts[found])
    return found


def binary(mode: Ruled, func: Any, x: Any, y: Any = None, *rest: Any, **kwargs: Any) -> Any:
    """Elementwise, of two: an activation where one of them varies."""
    if mode.varies(x) and mode.varies(y):
        return unmet(mode, func, x, y, *rest, **kwargs)
    if mode.varies(y):
        return activation(mode, lambda t, *_: func(x, t, *rest, **kwargs), y)
    return activation(mode, func, x, y, *rest, **kwargs)


def larger(mode: Ruled, func: Any, x: Any, y: Any = None, *rest: Any, **kwargs: Any) -> Any:
    """A maximum: of two that vary, the winner takes all."""
    both = mode.varies(x) and mode.varies(y)
    return (other if both else binary)(mode, func, x, y, *rest, **kwargs)


def largest(mode: Ruled, func: Any, x: Any, *rest: Any, **kwargs: Any) -> Any:
    """Of two, as `maximum`; of one, and over a dimension, the winner takes all."""
    return (larger if rest and isinstance(rest[0], Tensor) else other)(mode, func, x, *rest, **kwargs)


def prelu(mode: Ruled, func: Any, x: Tensor, weight: Tensor) -> Any:
    """An activation; with slopes that vary, a product with what is below 0."""
    return (_sloped if mode.varies(weight) else activation)(mode, func, x, weight)


def power(mode: Ruled, func: Any, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, (int, float)) and exponent < 0:
        return statistic(mode, func, x, exponent)
    return binary(mode, func, x, exponent)


def product(mode: Ruled, func: Any, x: Any, y: Any) -> Any:
    """Of two that vary: a product; where both are functions of one tensor, an activation of that."""
    z = func(x, y)
    if not (mode.varies(x) and mode.varies(y)):
        return _multiple(mode, func, z, x, y)
    shared = mode.shared(x, y)
    if shared is not None and z.shape == shared[0].shape:
        return _of_one(mode, "mul", func, z, *shared)
    return product_of(mode, "mul", func, x, y, z)


def _of_one(mode: Ruled, name: str, func: Any, z: Tensor, root: Tensor, *made: Callable[[Tensor], Tensor]) -> Tensor:
    """An activation of the root, which both of two are made of."""
    first, second = made
    return _elementwise(mode, name, lambda t: func(first(t), second(t)), mode.source(root), z, (root,))


def _multiple(mode: Ruled, func: Any, z: Tensor, x: Any, y: Any) -> Tensor:
    """A multiple of what varies, if anything does."""
    if mode.rules.of(mode.name) is not None:
        found: Tensor = other(mode, func, x, y)
        return found
    live = next((t for t in (x, y) if mode.varies(t)), None)
    if live is not None:
        mode.know(z, live, activated=mode.facts[live].activated)
        mode.facts[z] = mode.elementwise(z, func, (x, y), mode.facts[z])
    return z


def _divided(op: Operation, at: Operation) -> Pairs:
    x, y = torch.broadcast_tensors(op.inputs[0], at.inputs[1])
    return [(torch.reciprocal(y), x)]


def quotient(mode: Ruled, func: Any, x: Any, y: Any, **rounding: Any) -> Any:
    if rounding.get("rounding_mode") is not None:
        return unmet(mode, func, x, y, **rounding)
    if not mode.varies(y):
        return _multiple(mode, func, func(x, y), x, y)
    if not mode.varies(x):
        return statistic(mode, lambda t: func(x, t), y)
    shared, z = mode.shared(x, y), func(x, y)
    if shared is not None and z.shape == shared[0].shape:
        return _of_one(mode, "div", func, z, *shared)
    return mode.know(mode.ruled(mode.rules.of("div", "normalization"), Operation("div", Held(func, _divided), (x, y), z)), x, y)


def swapped(mode: Ruled, func: Any, x: Any, y: Any) -> Any:
    """``y / x``, called as a method of x."""
    return quotient(mode, lambda a, b: func(b, a), y, x)


def ending(kind: str, rule: Flow) -> Any:
    """Of one tensor, of a kind; under a rule that makes constants of them, what these are made of no longer counts."""

    def handler(mode: Ruled, func: Any, x: Any, *rest: Any, **kwargs: Any) -> Any:
        y = func(x, *rest, **kwargs)
        met = mode.rules.of(mode.name, kind) if mode.varies(x) else None
        if met is None:
            return y
        found = mode.ruled(met, Operation(mode.name, lambda t: func(t, *rest, **kwargs), (x,), y))
        return mode.know(found) if met[1] is rule else mode.know(found, x)

    return handler


statistic = ending("normalization", NORMALIZATION)  # what a normalisation divides by
softmax = ending("softmax", CUT)


def statistic_and_mean(take: Any) -> Any:
    def handler(mode: Ruled, func: Any, x: Tensor, dim: Any = None, *rest: Any, **kwargs: Any) -> Any:
        mean = func(x, dim, *rest, **kwargs)[1]
        return statistic(mode, take, x, dim, *rest, **kwargs), mode.know(mean, x)

    return handler


def unmet(mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation that is not linear, and of a kind that no rule is for; it may have one by its name."""
    if mode.rules.of(mode.name) is None and bent(func, args, kwargs, mode.varies):
        mode.unmet.append(mode.name)
    return other(mode, func, *args, **kwargs)


def apart(body: Any) -> Any:
    """A handler that runs `body` in the operation's place, with the mode watching."""

    def handler(mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
        if mode.rules.of(mode.name) is not None or not any(map(mode.varies, among((*args, *kwargs.values())))):
            return other(mode, func, *args, **kwargs)
        with mode:
            return body(*args, **kwargs)

    return handler


_taken_apart, _roots = apart(COMPOUND["scaled_dot_product_attention"]), apart(COMPOUND["cdist"])
_sloped = apart(sloped)


def distances(mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Taken apart where there is a rule for roots: else torch's own gradient, which is none where the distance is 0."""
    return (_roots if "activation" in mode.rules.kinds else unmet)(mode, func, *args, **kwargs)


def attention(mode: Ruled, func: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **kwargs: Any) -> Any:
    """Taken apart; as it is where its products are halved and its softmax has its own gradient: then what flows is that of the
    whole, half to the value, and a quarter to query and key."""
    met, soft = mode.rules.of("matmul", "product"), mode.rules.of("softmax", "softmax")
    halves = met is not None and met[1] is HALF and (soft is None or soft[1] is PLAIN) and not mode.rules.named
    once = mode.events is None and not (tracing() or transforms_active())
    if not (halves and once and all(map(mode.varies, (q, k, v))) and not any(map(mode.varies, (*rest, *kwargs.values())))):
        return _taken_apart(mode, func, q, k, v, *rest, **kwargs)
    given = [t.view_as(t) if t.requires_grad else t for t in (q, k)]
    for t in given:
        if t.requires_grad:
            t.register_hook(lambda gradient: gradient * 0.5)
    y = func(*given, v, *rest, **kwargs)
    mode.fired += [kind for kind, _ in filter(None, (soft,))]
    return mode.know(mode.ruled(met, Operation(mode.name, func, (*given, v), y)), q, k, v)


_GROUPS = {
    **dict.fromkeys(("exact", "smooth", "relative", "clamp", "exponential"), activation),
    "reciprocal": statistic,
    "power": power,
    "product": product,
    "quotient": quotient,
    "swapped quotient": swapped,
    "extreme": larger,
    **dict.fromkeys(("step", "curved", "curved, relative"), binary),
    **dict.fromkeys(("matrix product", "bilinear", "grouped product"), bilinear),
    "convolution": convolution,
    **dict.fromkeys(("solve", "inverse"), unmet),
}
#: name -> what becomes of it; what is not here keeps its gradient: it is linear, or the winner takes all.
TABLE: Table = {
    **{name: handler for group, handler in _GROUPS.items() for name in NAMES[group]},
    **{name: apart(body) for name, body in COMPOUND.items()},
    "scaled_dot_product_attention": attention,
    "prelu": prelu,
    **dict.fromkeys(("max", "min"), largest),
    **dict.fromkeys((*(name for name in LENGTHS if name.endswith("norm")), "var", "std"), statistic),
    "var_mean": statistic_and_mean(torch.var),
    "std_mean": statistic_and_mean(torch.std),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    "linear": linear,
    "einsum": einsum,
    "cdist": distances,
    "softmax": softmax,
    "log_softmax": softmax,
    "logsumexp": unmet,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
    "bilinear": apart(bilinear_layer),
}
