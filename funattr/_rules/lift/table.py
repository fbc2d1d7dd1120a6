"""THE table: operation -> DeepLIFT rule, by the names that torch gives its operations, in every spelling."""

from __future__ import annotations

import operator
from types import FunctionType, MethodWrapperType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core.door import may_read
from ..._torch import operation_spaces, tracing, tree_flatten, tree_unflatten
from .compound import COMPOUND, cross_entropy, taken_apart
from .hidden import RULED, flat
from .names import ALONE, NAMED, placed
from .norms import NORMS
from .recurrent import RECURRENT
from .rows import extremum, logsumexp, max_pool, softmax, where
from .secants import (
    EXACT,
    RELATIVE,
    SMOOTH,
    Rule,
    bilinear,
    bilinear_layer,
    binary,
    clamp,
    convolution,
    einsum,
    linear,
    matrix_product,
    product,
    quotient,
    swapped_quotient,
    unary,
)
from .tape import Lift

_EXACT = """
    relu relu6 leaky_relu hardtanh hardsigmoid abs absolute threshold rrelu hardshrink softshrink prelu sign sgn round
    floor ceil trunc fix frac nan_to_num deg2rad fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
"""
_SMOOTH = """
    sigmoid expit tanh gelu silu mish hardswish elu celu selu softplus softsign logsigmoid log_sigmoid exp expm1 exp2
    erf erfc sin cos tan arcsin arccos arctan asin acos atan sinh cosh asinh arcsinh acosh arccosh atanh arctanh
    tanhshrink sinc
"""
_RELATIVE = "log log2 log10 log1p sqrt rsqrt reciprocal square logit erfinv lgamma digamma"
_CLAMPS = "clamp clamp_min clamp_max clip"

#: name -> rule. A name stands for the function, the method, the operator and their in-place versions.
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_EXACT.split(), unary(EXACT)),
    **dict.fromkeys(_SMOOTH.split(), unary(SMOOTH)),
    **dict.fromkeys(_RELATIVE.split(), unary(RELATIVE)),
    **dict.fromkeys(_CLAMPS.split(), clamp),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), product),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__div__"), quotient),
    **dict.fromkeys(("__rdiv__", "__rtruediv__"), swapped_quotient),
    **dict.fromkeys(("pow", "__pow__"), binary(RELATIVE)),
    "__rpow__": binary(SMOOTH),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), binary(EXACT)),
    **dict.fromkeys(("atan2", "arctan2", "hypot", "logaddexp", "logaddexp2"), binary(SMOOTH)),
    **dict.fromkeys(("xlogy",), binary(RELATIVE)),
    **dict.fromkeys(("remainder", "fmod", "__mod__", "floor_divide", "__floordiv__"), binary(EXACT)),
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), matrix_product),
    **dict.fromkeys(("mv", "dot", "vdot", "inner", "outer", "ger", "kron", "tensordot", "vecdot", "cross"), bilinear),
    **dict.fromkeys((f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), convolution),
    "linear": linear,
    "bilinear": bilinear_layer,
    "einsum": einsum,
    "softmax": softmax(False),
    "log_softmax": softmax(True),
    "logsumexp": logsumexp,
    "where": where,
    "max": extremum(1, False),
    "min": extremum(-1, False),
    "amax": extremum(1, True),
    "amin": extremum(-1, True),
    **NORMS,
    **{name: taken_apart(body) for name, body in [*COMPOUND.items(), *RECURRENT.items()]},
    **{f"max_pool{n}d": max_pool(n, False) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": max_pool(n, True) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": max_pool(n, False, True) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d_with_indices": max_pool(n, True, True) for n in (1, 2, 3)},
}

RULED.update(flat(name) for name in f"{_EXACT} {_SMOOTH} {_RELATIVE} softmax log_softmax".split())

#: Linear in what varies, or without a floating-point result: left alone, and never tested.
_LINEAR = """
    add add_ sub subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ neg negative positive __neg__ sum
    mean nansum cumsum diff view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze expand expand_as
    permute transpose t swapaxes swapdims movedim moveaxis adjoint contiguous clone detach requires_grad_ to type
    type_as float double half bfloat16 cpu cuda cat concat concatenate stack hstack vstack dstack split split_with_sizes
    chunk tensor_split unbind unfold fold narrow select index_select gather take take_along_dim scatter scatter_add
    index_add index_put index_copy index_fill masked_select masked_fill masked_scatter __getitem__ __setitem__ copy_
    fill_ zero_ roll flip fliplr flipud rot90 repeat repeat_interleave tile broadcast_to broadcast_tensors meshgrid tril
    triu diag diagonal diag_embed trace pad dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    feature_alpha_dropout avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle embedding embedding_bag one_hot nll_loss
    zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor size
    dim stride numel item tolist shape is_floating_point is_complex eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__
    __ge__ isnan isinf isfinite argmax argmin argsort any all equal allclose data_ptr get_device is_contiguous
    storage_offset nonzero bool long int byte short logical_not logical_and logical_or bitwise_not __and__ __or__
    __invert__ __len__ __iter__ __bool__ __float__ __int__ __index__ __hash__ __repr__ __format__ ndimension nelement
    untyped_storage element_size is_same_size fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn real imag view_as_real
    view_as_complex conj resolve_conj numpy empty zeros ones full arange linspace tensor as_tensor scalar_tensor randn
    rand randint bernoulli normal is_tensor result_type promote_types finfo can_cast squeeze_ unsqueeze_ is_pinned
    pin_memory share_memory_ is_shared is_inference unsafe_chunk unsafe_split constant_pad_nd count_nonzero isin
    bincount searchsorted bucketize unique unique_consecutive backward register_hook retain_grad
"""

#: In-place operators, and what they are the in-place version of.
_IN_PLACE = {"__imul__": "mul", "__itruediv__": "div", "__idiv__": "div", "__ipow__": "pow"}
_SPACES = (torch, Tensor, F, torch.special, torch.linalg, torch.fft, *operation_spaces, operator)


def _spelled(name: str) -> list[tuple[Any, Any, bool]]:
    """Every function of that name in torch, what computes the same out of place, and whether it works in place itself."""
    found = []
    for space in _SPACES:
        plain = getattr(space, name, None)
        if _is_function(plain):
            found.append((plain, plain, False))
        for spelling in (name + "_", "i" + name if space is operator else ""):
            in_place = getattr(space, spelling, None)
            if _is_function(in_place):
                twin = plain if _is_function(plain) else next(getattr(other, name) for other in _SPACES if hasattr(other, name))
                found.append((in_place, twin, True))
    return found


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, ModuleType))


#: function -> its rule, the function out of place, and whether the call works in place.
RULES: dict[Any, tuple[Rule, Any, bool]] = {
    func: (rule, twin, in_place) for name, rule in _RULES.items() for func, twin, in_place in _spelled(name)
}
RULES[Tensor.where] = (lambda lift, _, x, condition, y: where(lift, torch.where, condition, x, y), Tensor.where, False)
#: function -> the names of its arguments, in order.
NAMES = {func: order for name, order in NAMED.items() for func, _, _ in _spelled(name) if func in RULES}
NAMES[Tensor.where] = ["input", "condition", "other"]
RULES.update({getattr(Tensor, i): (RULES[getattr(Tensor, n)][0], getattr(Tensor, n), True) for i, n in _IN_PLACE.items()})
LINEAR = {func for name in _LINEAR.split() for func, _, _ in _spelled(name)} - set(RULES)

# Python functions that torch wraps: Dynamo finds them by identity only, and takes them for missing in a dictionary.
_WRAPPED = [(f, RULES.pop(f)) for f in list(RULES) if getattr(f, "__module__", "") == "torch._tensor"]

RULES[F.cross_entropy] = (taken_apart(cross_entropy), F.cross_entropy, False)

# And one that Dynamo cannot call from inside a mode.
_WRAPPED.append(
    (Tensor.unflatten, (lambda lift, _, x, *args, **kwargs: torch.unflatten(x, *args, **kwargs), Tensor.unflatten, False))
)

_OPEN = {name: (lambda *_: False) for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")}
_RULED = {"glu", "softsign", "tanhshrink", "mse_loss", "cross_entropy", *_EXACT.split(), *_SMOOTH.split()}
#: Python functions that have a rule as a whole; into the others the mode looks. (Not into these, because Dynamo shows a
#: mode F.silu, and not the function of the same name that it calls.)
_WHOLE = {
    F.interpolate,
    *(getattr(F, f"adaptive_avg_pool{n}d") for n in (1, 2, 3)),  # with a symbolic size Dynamo cannot trace their bodies
    *(f for f in RULES if "max_pool" in getattr(f, "__name__", "")),
    *(getattr(F, n, None) for n in _RULED),
}


def _switch(func: FunctionType) -> int | None:
    """The position of the argument `inplace`."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    return names.index("inplace") if "inplace" in names else None


def _opened(space: Any, keep: set[Any]) -> dict[Any, FunctionType]:
    """The Python functions of torch, made not to hand themselves to the mode again: what they call is seen."""
    scope = {**vars(space), **_OPEN}
    found = {}
    for func in vars(space).values():
        if isinstance(func, FunctionType) and any(name in func.__code__.co_names for name in _OPEN) and func not in keep:
            found[func] = body = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
            body.__kwdefaults__ = func.__kwdefaults__
    return found


#: F.relu calls torch.relu or torch.relu_, F.multi_head_attention_forward much more.
OPENED = {**_opened(torch.functional, set(RULES) | LINEAR), **_opened(F, _WHOLE)}
#: Functions with an argument `inplace`, and its position. Out of place they are all alike, and torch.relu_, which F.relu may
#: call, is never shown to a mode by Dynamo.
SWITCHED = {f: at for f in vars(F).values() if isinstance(f, FunctionType) for at in [_switch(f)] if at is not None}
for _func in OPENED:
    RULES.pop(_func, None)
    LINEAR.discard(_func)
_ALL = {**RULES, **dict(_WRAPPED)}
_PLAIN = LINEAR - set(SWITCHED) - set(_ALL)


def apply(lift: Lift, func: Any, args: Any, kwargs: Any) -> Any:
    """The operation `func`, as its rule has it."""
    if not tracing() and func in _PLAIN:
        return func(*args, **kwargs)
    if func in SWITCHED:
        at = SWITCHED[func]
        in_place = kwargs.get("inplace") or (len(args) > at and args[at])
        args, kwargs = args[:at], {name: value for name, value in kwargs.items() if name != "inplace"}
        x = args[0] if args else kwargs.pop("input")
        y = seen(lift, func, (_kept(lift, x) if in_place else x, *args[1:]), kwargs)
        return x.copy_(y) if in_place else y
    return seen(lift, func, args, kwargs)


def _kept(lift: Lift, x: Tensor, others: Any = ()) -> Tensor:
    """`x`, about to be overwritten; a copy where the graph of the plain function keeps its input: for the gradient of one of
    the `others`, such as the parameter in ``x.mul_(scale)``, also with the rules."""
    learned = any(isinstance(t, Tensor) and t.requires_grad for t in others)
    return x.clone() if (lift.baseline is None or learned) and torch.is_grad_enabled() else x


def seen(lift: Lift, func: Any, args: Any, kwargs: Any) -> Any:
    found = None
    if not tracing():
        found = _ALL.get(func)
    else:
        for known, entry in _WRAPPED:
            if func is known:
                found = entry
        if found is None and func in RULES:
            found = RULES[func]
    if found is not None and (tracing() or not any(isinstance(t, Tensor) and t.is_complex() for t in args)):
        rule, plain, in_place = found
        args, kwargs = placed(NAMES.get(func, ALONE), args, kwargs) if kwargs else (args, kwargs)
        out = kwargs.get("out")
        if "out" in kwargs:
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        x = args[0]
        y = rule(lift, plain, _kept(lift, x, (*args[1:], *kwargs.values())) if in_place else x, *args[1:], **kwargs)
        if out is not None:
            return (out if out.shape == y.shape else out.resize_(y.shape)).copy_(y)
        return x.copy_(y) if in_place else y
    if func in OPENED:
        with lift:
            return OPENED[func](*args, **kwargs)
    if tracing() or isinstance(func, MethodWrapperType) or func in LINEAR:  # a method wrapper gets an attribute
        return func(*args, **kwargs)
    return unknown(lift, func, args, kwargs)


def unknown(lift: Lift, func: Any, args: Any, kwargs: Any) -> Any:
    """An operation without a rule keeps its gradient. Where it is not linear between x and the baseline, that is noted."""
    leaves, spec = tree_flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if _varies(leaf)]
    if not where:
        return func(*args, **kwargs)
    places = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not _varies(leaf)]  # indices, say
    found = lift.meet(*(leaves[i] for i in where), *places)
    name = getattr(func, "__name__", repr(func))
    if found is None or not may_read():
        lift.suspects.extend([name] if found is not None else [])
        return func(*args, **kwargs)
    met, elsewhere = found[: len(where)], found[len(where) :]
    if any(bool((own != base).any()) for own, base in elsewhere):
        lift.unknown.append(name)
        return func(*args, **kwargs)

    def at(values: list[Tensor]) -> list[Tensor]:
        filled = list(leaves)
        for i, value in zip(where, values):
            filled[i] = value.clone()
        again, named = tree_unflatten(filled, spec)
        return [t for t in tree_flatten(func(*again, **named))[0] if _varies(t)]

    with torch.no_grad():
        ends = at([own for own, _ in met]), at([base for _, base in met])
        middle = at([(own + base) / 2 for own, base in met])
    for y, y0, half in zip(*ends, middle):
        scale = (y - y0).abs().max() if y.numel() else y.new_zeros(())
        if not ((y + y0) / 2 - half).abs().max() <= 1e-3 * scale:
            lift.unknown.append(name)
            break
    return func(*args, **kwargs)


def _varies(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
