"""Which operation is of which kind, and what a rule of that kind is given: elementwise ones, products, norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._torch import saved_as, tracing, transforms_active
from ..._types import in_single
from ..lift.compound import COMPOUND
from ..lift.dispatch import bent
from ..lift.lengths import LENGTHS
from ..lift.norms import least
from ..lift.origins import among
from ..lift.table import NAMES
from .flows import CUT, HALF, NORMALIZATION, PLAIN
from .linear import addmm, bilinear, bilinear_layer, convolution, einsum, linear, product_of
from .mode import Ruled, Table, other
from .operation import Flow, Led, Operation, Pairs, standing


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


def power(mode: Ruled, func: Any, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, (int, float)) and exponent < 0:
        return statistic(mode, func, x, exponent)
    return binary(mode, func, x, exponent)


def product(mode: Ruled, func: Any, x: Any, y: Any) -> Any:
    """Of two that vary: a product; where both are functions of one tensor, an activation of that."""
    z = func(x, y)
    if not (mode.varies(x) and mode.varies(y)):
        return _multiple(mode, func, z, x, y)
    (a, made_a), (b, made_b) = mode.rooted(x), mode.rooted(y)
    if a is b and z.shape == a.shape:
        return _elementwise(mode, "mul", lambda t: func(made_a(t), made_b(t)), mode.source(a), z, (a,))
    return product_of(mode, "mul", func, x, y, z)


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


class Held:
    """An operation that is made with statistics, and what flows where these are constant."""

    def __init__(self, run: Callable[..., Tensor], pairs: Callable[[Operation, Operation], Pairs | Led]):
        self.run, self.pairs = run, pairs

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.run(*inputs)


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
    (a, made_a), (b, made_b) = mode.rooted(x), mode.rooted(y)
    z = func(x, y)
    if a is b and z.shape == a.shape:
        return _elementwise(mode, "div", lambda t: func(made_a(t), made_b(t)), mode.source(a), z, (a,))
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


def _norm(
    mode: Ruled,
    run: Callable[..., Tensor],
    x: Tensor,
    weight: Any,
    bias: Any,
    shape: Any,
    dims: Any,
    eps: float,
    centred: bool = True,
) -> Tensor:
    """A normalisation over `dims` of x in `shape`, less its mean where it is centred; its deviation is constant."""
    last = mode.name in ("layer_norm", "rms_norm")  # the weight is along the last dimensions, else along the channels

    def led(op: Operation, at: Operation) -> Pairs | Led:
        scale = _inverse_deviation(op.output)
        if scale is None:
            c = in_single(at.inputs[0].reshape(shape))
            c = c - c.mean(dims, True) if centred else c
            scale = torch.rsqrt((c * c).mean(dims, True) + eps).to(x.dtype)
        w = None if weight is None else at.inputs[1] if last else at.inputs[1].reshape(-1, *[1] * (x.dim() - 2))
        if not centred:
            return [(scale if w is None else scale * w, op.inputs[0])]
        return partial(standing, scale=scale, weight=w, x=op.inputs[0], shape=shape, dims=dims)

    def function(x: Tensor, *given: Tensor) -> Tensor:
        return run(x, None if weight is None else given[0], None if bias is None else given[-1])

    inputs, held = (x, *(part for part in (weight, bias) if part is not None)), Held(function, led)
    y = held(*inputs)
    if not mode.varies(x):
        return y
    return mode.know(mode.ruled(mode.rules.of(mode.name, "normalization"), Operation(mode.name, held, inputs, y)), x)


def _inverse_deviation(y: Tensor) -> Tensor | None:
    """What a layer norm has computed for its own gradient, as far as torch shows it (since 2.13): a constant."""
    node = None if tracing() or transforms_active() else y.grad_fn
    return None if node is None or node.name() != "NativeLayerNormBackward0" else saved_as("result2", node)


def layer_norm(mode: Ruled, func: Any, x: Tensor, shape: Any, w: Any = None, b: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    return _norm(mode, lambda x, w, b: func(x, shape, w, b, eps), x, w, b, x.shape, [*range(-len(shape), 0)], eps)


def rms_norm(mode: Ruled, func: Any, x: Tensor, shape: Any, w: Any = None, eps: float | None = None) -> Any:
    across = [*range(-len(shape), 0)]
    return _norm(mode, lambda x, w, b: func(x, shape, w, eps), x, w, None, x.shape, across, least(x, eps), False)


def group_norm(mode: Ruled, func: Any, x: Tensor, groups: int, w: Any = None, b: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    shape = (x.shape[0], groups, x.shape[1:].numel() // groups)
    return _norm(mode, lambda x, w, b: func(x, groups, w, b, eps, *_), x, w, b, shape, [2], eps)


def instance_norm(mode: Ruled, func: Any, x: Tensor, w: Any, b: Any, mean: Any, var: Any, own: bool, *rest: Any) -> Any:
    if not own:
        return batch_norm(mode, torch.batch_norm, x, w, b, mean, var, False, *rest)
    return _norm(mode, lambda x, w, b: func(x, w, b, mean, var, own, *rest), x, w, b, x.shape, [*range(2, x.dim())], rest[1])


def batch_norm(
    mode: Ruled, func: Callable[..., Tensor], x: Tensor, w: Any, b: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> Any:
    """With running statistics merged into the linear operation or convolution that x came out of, if it did; else linear."""

    def run(x: Tensor, w: Any = w, b: Any = b) -> Tensor:
        return func(x, w, b, mean, var, training, *rest)

    if training:
        return _norm(mode, run, x, w, b, x.shape, [0, *range(2, x.dim())], rest[1])
    before = mode.facts[x].linear
    if before is None:
        return run(x)
    scale = torch.rsqrt(var + rest[1])
    return before.merged(mode, x, run, scale if w is None else w * scale, mean, b)


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
