"""DeepLIFT kernel by kernel, for the model matrix: two runs on two tapes, then back along both. Nothing of funattr.

The library sees a model's calls of torch's functions; this sees the kernels under them, made functional. Wherever an operation
is of second degree in what varies, its slopes are its gradient in the middle between the two runs, exactly. That is most of
them; the rest has the rules below. Each step back is checked: what the inputs' differences take is what the output's bring;
but where integers differ that choose places (the end of a text), which no slope follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

Leaves = list[Tensor]
aten = torch.ops.aten


class Step(NamedTuple):
    """One operation: the leaves of its arguments and of its result, as they were, and which values they are of the tape's."""

    func: Any
    inputs: list[Any]
    spec: Any
    outputs: Leaves
    taken: list[int | None]
    given: list[int]
    scale: int | None  # which factor is the reciprocal of a scale: one number for many of the other's


class Tape(TorchDispatchMode):
    """Notes, in order, the operations through which a result depends on `starts`: values 0, 1, ..."""

    def __init__(self, starts: Leaves) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # not typed there
        self.steps: list[Step] = []
        self.values = {id(t): i for i, t in enumerate(starts)}  # the tensor -> the value that it holds now
        self.count = len(starts)
        self.alive = list(starts)
        self.reciprocals: set[int | None] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        taken = [self.values.get(id(leaf)) for leaf in leaves]
        if all(value is None for value in taken):
            return func(*args, **kwargs)
        if func in TAKEN_APART:
            with self:
                return TAKEN_APART[func](*args, **kwargs)
        # Copies: inside a fused operation (nn.LSTM), functionalize leaves what is written in place.
        before = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        output = func(*args, **kwargs)
        found = [t for t in tree_flatten(output)[0] if is_float(t)]
        given = list(range(self.count, self.count + len(found)))
        scale = None
        if func is aten.mul.Tensor and None not in taken[:2]:
            scale = next((i for i in (0, 1) if taken[i] in self.reciprocals and _spreads(leaves[i], leaves[1 - i])), None)
        inverts = func in RECIPROCAL or (func is aten.pow.Tensor_Scalar and args[1] < 0)
        if inverts or (scale is None and self.reciprocals & set(taken) and func in SHAPES | {aten.mul.Tensor}):
            self.reciprocals.update(given)
        self.steps.append(Step(func, before, spec, [t.clone() for t in found], taken, given, scale))
        self.values.update((id(t), value) for t, value in zip(found, given))
        self.count += len(found)
        self.alive += found
        return output


def is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _spreads(y: Any, x: Tensor) -> bool:
    sizes = zip(reversed(y.shape), reversed(y.stride()), reversed(x.shape))
    return y.dim() < x.dim() or any(other > 1 and (size == 1 or step == 0) for size, step, other in sizes)


def _quotient(x: Tensor, y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        return x * (1 / y)
    for d in range(y.dim()):
        y = y.narrow(d, 0, 1) if y.stride(d) == 0 else y  # expanded
    return x * y.to(x.dtype).reciprocal()


def _nothing(x: Tensor) -> tuple[Tensor, Tensor]:
    """For the statistics, which only a backward pass takes."""
    return x.new_empty(0), x.new_empty(0)


def _normal(x: Tensor, dims: list[int], eps: float) -> Tensor:
    c = x - x.mean(dims, keepdim=True)
    return c * (c.square().mean(dims, keepdim=True) + eps).rsqrt()


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    y = _normal(x, list(range(-len(shape), 0)), eps)
    return (y if weight is None else y * weight) + (0 if bias is None else bias), *_nothing(x)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, size: int, groups: int, eps: float
) -> Any:
    y = _normal(x.reshape(n, groups, -1), [-1], eps).reshape(x.shape)
    shape = [1, c, *[1] * (x.dim() - 2)]
    return (y if weight is None else y * weight.reshape(shape)) + (0 if bias is None else bias.reshape(shape)), *_nothing(x)


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, own: bool, momentum: float, eps: float
) -> Any:
    shape = [1, -1, *[1] * (x.dim() - 2)]
    if own:
        y = _normal(x, [0, *range(2, x.dim())], eps)
    else:
        y = (x - mean.reshape(shape)) * (var.reshape(shape) + eps).rsqrt()
    return (y if weight is None else y * weight.reshape(shape)) + (0 if bias is None else bias.reshape(shape)), *_nothing(x)


def _norm(x: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    assert order == 2
    return x.square().sum(dims, keepdim=keepdim).sqrt()


#: What is of a higher degree, in operations that have a rule.
TAKEN_APART: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.linalg_vector_norm.default: _norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.div.Tensor: _quotient,
}


def _both(names: str) -> set[Any]:
    """Out of place, and in place, as far as this torch has them."""
    packets = [getattr(aten, name + end, None) for name in names.split() for end in ("", "_")]
    return {packet.default for packet in packets if packet is not None}


_SMOOTH = (
    "tanh sigmoid gelu silu mish exp exp2 expm1 log log2 log10 log1p erf erfc rsqrt sqrt reciprocal sin cos sinh cosh asinh"
)
_SMOOTH += " atan softplus elu celu log_sigmoid_forward lgamma digamma"
RECIPROCAL = _both("rsqrt reciprocal")
SHAPES = _both("view _unsafe_view unsqueeze expand clone alias _to_copy permute detach") | {aten.transpose.int}
SMOOTH = _both(_SMOOTH) | {aten.pow.Tensor_Scalar}
_KINKED = "relu leaky_relu hardtanh hardswish hardsigmoid clamp clamp_min clamp_max abs softshrink"
_KINKED += " hardshrink threshold round sign floor"
KINKED = _both(_KINKED)
SOFTMAX = _both("_softmax _safe_softmax")
POOLS = {aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default}


def rescale(func: Callable[[Tensor], Tensor], x: Tensor, x0: Tensor, near: float) -> Tensor:
    """``(y - y0) / (x - x0)``; where they are the same, or nearly, the derivative in the middle."""
    dx = x - x0
    close = dx.abs() <= near
    with torch.enable_grad():
        middle = ((x + x0) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(func(middle).sum(), middle)
    return torch.where(close, slope, (func(x) - func(x0)) / dx.masked_fill(close, 1.0))


def softmax(x: Tensor, x0: Tensor, dim: int, g: Tensor) -> Tensor:
    """The slopes of p in log p, ``L = (p - p0) / (log p - log p0)``, and log p gives all x the same, weighted by L."""
    log, log0 = x.log_softmax(dim), x0.log_softmax(dim)
    d = torch.nan_to_num(log - log0, 0.0, 0.0, 0.0)
    mean = log0.exp() * torch.where(d == 0, 1.0, torch.expm1(d) / d.masked_fill(d == 0, 1.0))
    pulled = g * mean
    return pulled - mean / mean.sum(dim, keepdim=True) * pulled.sum(dim, keepdim=True)


def largest(x: Tensor, x0: Tensor, i: Tensor, i0: Tensor, g: Tensor) -> Tensor:
    """Of maxima over places of the last dimension: all goes to the place of the larger one."""
    y, y0 = x.gather(-1, i), x0.gather(-1, i0)
    place = torch.where(y >= y0, i, i0)
    dx = (x - x0).gather(-1, place)
    return torch.zeros_like(x).scatter_add(-1, place, g * torch.where(dx == 0, 1.0, (y - y0) / dx.masked_fill(dx == 0, 1.0)))


def by_scale(step: Step, other: Step, g: Tensor) -> Leaves:
    """Of ``a r``: with s = 1 / r, that is ``z s = a``, and halves of that product's factors are each other's slopes."""
    assert step.scale is not None
    (a, r), (a0, r0) = ([s.inputs[1 - step.scale], s.inputs[step.scale]] for s in (step, other))
    s, s0 = 1 / r, 1 / r0
    middle = (s + s0) / 2
    in_a = g / middle
    in_s = -g / middle * (a * r + a0 * r0) / 2
    found = [in_a.sum_to_size(a.shape), (in_s * -s * s0).sum_to_size(r.shape)]  # ds = - s s0 dr
    return found if step.scale == 1 else found[::-1]


def pulled_back(step: Step, other: Step, where: list[int], gradients: Leaves) -> Leaves:
    """The slopes of ``sum(gradient * output)`` in the inputs at `where`."""
    func, x, x0 = step.func, step.inputs[0], other.inputs[0]

    def at(values: Sequence[Tensor]) -> Leaves:
        filled = list(step.inputs)
        for i, value in zip(where, values):
            filled[i] = value
        filled = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in filled]  # one may be written to
        args, kwargs = tree_unflatten(filled, step.spec)
        return [t for t in tree_flatten(func(*args, **kwargs))[0] if is_float(t)]

    if step.scale is not None and len(where) == 2:
        return by_scale(step, other, gradients[0])
    if func in SMOOTH | KINKED:
        return [gradients[0] * rescale(lambda t: at([t])[0], x, x0, 1e-6 if func in SMOOTH else 0.0)]
    if func in SOFTMAX:
        return [softmax(x, x0, step.inputs[1], gradients[0])]
    if func in POOLS:
        n = 2 if func is aten.max_pool2d_with_indices.default else 3
        i, i0 = (tree_flatten(func(*tree_unflatten(s.inputs, s.spec)[0]))[0][1].flatten(-n) for s in (step, other))
        return [largest(x.flatten(-n), x0.flatten(-n), i, i0, gradients[0].flatten(-n)).reshape(x.shape)]
    if func is aten.amax.default:
        (d,) = tree_unflatten(step.inputs, step.spec)[0][1]
        g = gradients[0].reshape(x.select(d, 0).shape)
        x, x0 = x.movedim(d, -1), x0.movedim(d, -1)
        i, i0 = (t.argmax(-1, keepdim=True) for t in (x, x0))
        return [largest(x, x0, i, i0, g.unsqueeze(-1)).movedim(-1, d)]
    with torch.enable_grad():
        middle = [((step.inputs[i] + other.inputs[i]) / 2).detach().requires_grad_() for i in where]
        pairs = [(y, g) for y, g in zip(at(middle), gradients) if y.requires_grad]  # not the statistics of a batch norm
        found = torch.autograd.grad([y for y, _ in pairs], middle, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(middle, found)]


def check(step: Step, other: Step, where: list[int], slopes: Leaves, gradients: Leaves, digits: float) -> None:
    """Nothing is lost: the inputs' differences sum to the outputs'."""

    def total(weights: Leaves, ends: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        parts = [w * torch.nan_to_num(a - b, 0.0, 0.0, 0.0) for w, (a, b) in zip(weights, ends)]
        return math.fsum(float(p.sum()) for p in parts), math.fsum(float(p.abs().sum()) for p in parts)

    taken, size = total(slopes, [(step.inputs[i], other.inputs[i]) for i in where])
    brought, _ = total(gradients, list(zip(step.outputs, other.outputs)))
    assert abs(taken - brought) <= digits * (size + abs(brought)), f"{step.func}: {taken}, expected {brought}"


class Recording(NamedTuple):
    """A run of a model from the values at a place on, and which value of the tape's is its score."""

    tape: Tape
    values: Leaves
    score: int


def plain_attention() -> Any:
    """Attention in operations that have second derivatives."""
    if hasattr(torch.nn, "attention"):  # since torch 2.3
        return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)  # for the CPU, too


def record(run: Callable[[Leaves, Any], Tensor], values: Leaves, x: Any) -> Recording:
    """``run(values, x)`` is the score."""
    with torch.no_grad(), plain_attention():
        given = [t.detach().clone() for t in values]
        with Tape(given) as tape:
            score = torch.func.functionalize(run)(given, x)
    return Recording(tape, values, tape.values[id(score)])


def multipliers(own: Recording, other: Recording) -> Leaves:
    """The slopes, between two runs of a model, of its score in the values that it goes on with."""
    tape, tape0 = own.tape, other.tape
    assert [s.func for s in tape.steps] == [s.func for s in tape0.steps], "the two runs differ in what they do"
    single = any(t.dtype == torch.float32 for step in tape.steps for t in step.outputs)  # some norms and softmaxes
    slopes = {own.score: torch.ones((), dtype=torch.float64)}
    for step, step0 in zip(reversed(tape.steps), reversed(tape0.steps)):
        known = [slopes.pop(value, None) for value in step.given]
        if all(g is None for g in known):
            continue
        gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(known, step.outputs)]
        pairs = list(zip(step.inputs, step0.inputs))
        where = [i for i, (a, b) in enumerate(pairs) if is_float(a) and (step.taken[i] is not None or not torch.equal(a, b))]
        found = pulled_back(step, step0, where, gradients)
        if all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and not is_float(a)):
            check(step, step0, where, found, gradients, 1e-5 if single else 1e-9)
        for i, m in zip(where, found):
            value = step.taken[i]
            if value is not None:
                slopes[value] = slopes[value] + m if value in slopes else m
    return [slopes.get(i, torch.zeros_like(t)) for i, t in enumerate(own.values)]
