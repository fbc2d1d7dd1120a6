"""The names that torch gives its operations: every spelling of one (function, method, operator, in place, exported), what
its arguments are called, and the Python functions of torch that are made of operations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import constant, operation_spaces, tracing


class Entry(NamedTuple):
    """What is known of one spelling of an operation."""

    rule: Any
    plain: Callable[..., Any]  # what computes the same out of place
    in_place: bool
    order: list[str]  # the names of its arguments, in order
    name: str  # torch's for the operation, without what says how it is called


@constant
def told(func: Any) -> str:
    """What a function is called, also where Dynamo traces; a library's operation with the library's name."""
    if isinstance(func, EXPORTED) and not _of_torch(func):
        return str(func)
    return str(getattr(func, "__name__", repr(func)))


def named(func: Any, args: Any) -> str:
    """What to call an operation; what torch.func runs an autograd.Function by, as that."""
    name = told(func)
    return f"the autograd.Function {args[0].__name__}" if name == "custom_function_call" else name


#: How torch names the arguments of its operations, where they are not just `input`: callers may use the names.
_ORDERS = {
    "input other": """
        mul multiply div divide true_divide maximum minimum fmax fmin atan2 arctan2 hypot logaddexp logaddexp2 xlogy
        remainder fmod floor_divide matmul inner vdot kron cross max min
    """,
    "input exponent": "pow float_power",
    "input mat2": "mm bmm spmm dsmm",
    "input vec": "mv",
    "input tensor": "dot",
    "input vec2": "outer ger",
    "a b dims": "tensordot",
    "x y": "vecdot",
    "input mat1 mat2": "addmm",
    "input batch1 batch2": "baddbmm addbmm",
    "input mat vec": "addmv",
    "input vec1 vec2": "addr",
    "input tensor1 tensor2": "addcmul addcdiv",
    "input end weight": "lerp",
    "input min max": "clamp clip",
    "input weight": "prelu",
    "input1 input2 weight bias": "bilinear",
    "x1 x2": "cosine_similarity pairwise_distance cdist",
    "condition input other": "where",
    "query key value": "scaled_dot_product_attention",
    "input target": "mse_loss cross_entropy binary_cross_entropy_with_logits",
    "input normalized_shape weight bias eps": "layer_norm native_layer_norm",
    "input weight bias N C HxW group eps": "native_group_norm",
    "input weight bias running_mean running_var training momentum eps cudnn_enabled": "batch_norm",
    "input weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled": "instance_norm",
    "input normalized_shape weight": "rms_norm",
    "input num_groups weight bias": "group_norm",
    "input mask value": "masked_fill",
    "A B": "solve solve_triangular linalg_solve linalg_solve_triangular",
    "input threshold value": "threshold",
    "input negative_slope": "leaky_relu",
    "input min_val max_val": "hardtanh",
    "input scale zero_point axis": "fake_quantize_per_channel_affine",
}
_ORDER = {name: order.split() for order, names in _ORDERS.items() for name in names.split()}
_ALONE = ["input"]
#: In-place operators, by what they are the in-place version of.
_OPERATORS = {**{name: [f"__i{name}__"] for name in ("add", "sub", "mul", "pow")}, "div": ["__itruediv__", "__idiv__"]}
#: Names of one operation: the first is what rules call it.
_SAME = """
    mul multiply __mul__ __rmul__; div divide true_divide __truediv__ __div__ __rdiv__ __rtruediv__; pow __pow__ __rpow__;
    matmul mm bmm spmm dsmm __matmul__; abs absolute; add __add__ __radd__ __iadd__; sub subtract __sub__ __isub__;
    neg negative __neg__;
    clamp clip; sigmoid expit; trunc fix; asin arcsin; acos arccos; atan arctan; asinh arcsinh; acosh arccosh; atanh arctanh;
    where Tensor.where; atan2 arctan2; outer ger; remainder __mod__; floor_divide __floordiv__; logsigmoid log_sigmoid;
    cat concat concatenate; rsub __rsub__; grouped_mm _grouped_mm;
    lgamma gammaln; digamma psi
"""
_CALLED = {other: names.split()[0] for names in _SAME.split(";") for other in names.split()}
_SPACES = (torch, Tensor, F, torch.special, torch.linalg, torch.fft, *operation_spaces, operator)


def by_function(rules: Mapping[str, Any]) -> dict[Any, Entry]:
    """A table by torch's names as one by function, in which every spelling of a name is a key."""
    return {
        func: Entry(rule, plain, in_place, _ORDER.get(name, _ALONE), name)
        for name, rule in rules.items()
        for func, plain, in_place in spelled(name)
    }


def spelled(name: str) -> list[tuple[Any, Any, bool]]:
    """Every function of that name in torch, what computes the same out of place, and whether it works in place itself."""
    found = []
    for space in _SPACES:
        plain = getattr(space, name, None)
        if _is_function(plain):
            found.append((plain, plain, False))
        spellings = [name + "_"] + ["i" + name] * (space is operator) + _OPERATORS.get(name, []) * (space is Tensor)
        for spelling in spellings:
            in_place = getattr(space, spelling, None)
            if _is_function(in_place):
                twin = plain if _is_function(plain) else next(getattr(other, name) for other in _SPACES if hasattr(other, name))
                found.append((in_place, twin, True))
    return found


def called(name: str) -> str:
    """The one name of an operation that has several."""
    return _CALLED.get(name, name)


def functions(names: str) -> set[Any]:
    """Every spelling of these names."""
    return {func for name in names.split() for func, _, _ in spelled(name)}


def exported(rules: Mapping[str, Any], func: Any) -> Entry | None:
    """The entry of an operation as torch.export writes it, `torch.ops.aten.relu.default` for one; none of somebody's own."""
    if not _of_torch(func):
        return None
    spelling = func.__name__.split(".")[0]
    name = spelling if spelling in rules else spelling.removesuffix("_")
    if name not in rules:
        return None
    in_place = name != spelling
    return Entry(rules[name], getattr(torch.ops.aten, name) if in_place else func, in_place, _ORDER.get(name, _ALONE), name)


def by_export(rules: Mapping[str, Any]) -> dict[Any, Entry]:
    """The same as a table by function. Dynamo, which knows no names of functions, can look there."""
    packets = [getattr(torch.ops.aten, name + end, None) for name in rules for end in ("", "_")]
    known = [packet for packet in packets if isinstance(packet, EXPORTED[0])]
    functions = [func for packet in known for func in (packet, *(getattr(packet, name) for name in packet.overloads()))]
    return {func: entry for func in functions if (entry := exported(rules, func)) is not None}


#: What the operations of exported graphs are to Python.
EXPORTED = (type(torch.ops.aten.relu), type(torch.ops.aten.relu.default))


def _of_torch(func: Any) -> bool:
    """Whether an operation of a graph is torch's, and not a library's, which may be called the same."""
    return bool(func.namespace == "aten" if isinstance(func, EXPORTED[1]) else str(func).startswith("aten."))


def name_in_torch(func: Any) -> str:
    """What torch calls an operation; of a library's, which may be called the same, nothing."""
    if not tracing() and isinstance(func, EXPORTED) and not _of_torch(func):
        return ""
    return str(getattr(func, "__name__", ""))


def counterpart(func: Any) -> Any:
    """The function of torch that an operation of an exported graph is; any other as it is."""
    # Of Dynamo's functions one kind can be asked about: it knows no name of an attribute such as x.mT.
    if not isinstance(func, EXPORTED[1] if tracing() else EXPORTED) or not _of_torch(func):
        return func
    name = func.__name__.split(".")[0]
    name = "to" if name == "_to_copy" else name
    return getattr(Tensor, name, None) or getattr(torch, name, func)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, ModuleType))


#: Names of numpy's that torch takes for its own: ``h.softmax(axis=1)``.
_NUMPYS = {"axis": "dim", "keepdims": "keepdim", "x2": "other"}


def placed(names: list[str], args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The call with its leading arguments by position, also those that it gives by name."""
    found, rest = list(args), {name if name in names else _NUMPYS.get(name, name): value for name, value in kwargs.items()}
    if not found and names[0] not in rest:  # the others' names for what comes first
        names = [next(name for name in ("input", "self", "x", "A", "a", "x1") if name in rest), *names[1:]]
    for name in names[len(found) :]:
        if name not in rest:
            break
        found.append(rest.pop(name))
    return tuple(found), rest


_OPEN = {name: (lambda *_: False) for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")}


def opened(space: Any, keep: set[Any]) -> dict[Any, FunctionType]:
    """The Python functions of torch, made not to hand themselves to the mode again: what they call is seen."""
    scope = {**vars(space), **_OPEN}
    found = {}
    for func in vars(space).values():
        if isinstance(func, FunctionType) and any(name in func.__code__.co_names for name in _OPEN) and func not in keep:
            found[func] = body = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
            body.__kwdefaults__ = func.__kwdefaults__
    return found


def _switch(func: FunctionType) -> int | None:
    """The position of the argument `inplace`."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    return names.index("inplace") if "inplace" in names else None


#: Functions with an argument `inplace`, and its position. Out of place they are all alike, and torch.relu_, which F.relu may
#: call, is never shown to a mode by Dynamo.
SWITCHED = {f: at for f in vars(F).values() if isinstance(f, FunctionType) for at in [_switch(f)] if at is not None}


def _training(func: FunctionType) -> tuple[int, bool]:
    """The position of the argument `training`, and what it is by default."""
    at, code = func.__code__.co_varnames.index("training"), func.__code__
    return at, (func.__defaults__ or ())[at - code.co_argcount]


_DROPOUTS: dict[Any, tuple[int, bool]] = {
    **{f: _training(f) for f in SWITCHED if "dropout" in f.__name__},
    **dict.fromkeys((torch.dropout_, torch.alpha_dropout_, torch.feature_dropout_, torch.feature_alpha_dropout_), (2, True)),
}


def dropout_off(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether it is a dropout out of training, which gives its input as it is: in place, it writes nothing."""
    func = counterpart(func)
    if func not in _DROPOUTS:
        return False
    at, default = _DROPOUTS[func]
    return not kwargs.get("training", kwargs.get("train", args[at] if len(args) > at else default))
