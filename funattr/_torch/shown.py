"""What Dynamo is to show to function modes, as eager calls do, and what it is asked while it traces. Imports it when called."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .traces import WhileInside, constant
from .transforms import depth


@constant
def depth_traced() -> str:
    """`depth` where Dynamo traces, which enters transforms as it meets them. (A number might become a symbol there.)"""
    return str(depth())


def shadowing(others: Sequence[tuple[nn.Module, str, Any]], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`call(*args, **kwargs)`, in which attributes of modules have other values."""
    found = [(module, name, module.__dict__.get(name)) for module, name, _ in others]
    try:
        for module, name, value in others:
            module.__dict__[name] = value
        return call(*args, **kwargs)
    finally:
        for module, name, before in found:
            if before is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before


def show_to_modes(functions: Iterable[Any]) -> None:
    """Have Dynamo hand `functions` to function modes, as eager calls do. It asks torch.overrides which ones those are, and
    that list leaves out some that are: torch.relu_, F.hardswish. Imports Dynamo."""
    import torch._dynamo.variables.torch as dynamo

    if hasattr(dynamo, "get_overridable_functions"):
        dynamo.get_overridable_functions().update(functions)


@constant
def kept_whole(function: Any) -> bool:
    """Whether somebody has Dynamo, which traces, put a function into the graph as it is."""
    from torch._dynamo.trace_rules import is_callable_allowed

    return bool(is_callable_allowed(function))


@constant
def can_defer() -> bool:
    """Whether there is what `deferred` needs. (Seen to work with torch 2.13 and 2.14.)"""
    return hasattr(torch._higher_order_ops, "dynamo_bypassing_wrapper")


def deferred(make: Any, function: Callable[..., Any], *given: torch.Tensor) -> Any:
    """``make(function)(*given)`` in the graph, of which Dynamo traces `function` alone: what `make` gives runs where the graph
    is traced further down. It is given `given`, in the order in which `function` uses them, then what else that takes."""
    return torch._higher_order_ops.dynamo_bypassing_wrapper(make, function, *given)  # private


def fixed(value: Any) -> Any:
    """`value`. Of a number, which Dynamo may hold as a symbol, the graph is made anew for another one (torch 2.13, 2.14)."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(value) if isinstance(value, (int, float)) else value


def _known(wrapper: Any, plain: Any) -> Any:
    """`wrapper`, which is known for what it wraps: so that it is wrapped once."""
    wrapper.plain = plain
    return wrapper


def show_assignment_to_modes() -> None:
    """Have Dynamo hand `t[index] = value` to function modes, as eager calls do, and torch 2.13. Torch 2.14 does so where
    `t.__setitem__` is called by its name, and for reading, `t[index]`. Imports Dynamo."""
    from torch._dynamo.variables.tensor import TensorVariable

    kind: Any = TensorVariable
    plain: Any = vars(kind).get("mp_ass_subscript_impl")
    if plain is None or hasattr(plain, "plain"):
        return

    def assigned(self: Any, tx: Any, key: Any, value: Any) -> Any:
        return plain(self, tx, key, value) if value is None else self.call_method(tx, "__setitem__", [key, value], {})

    kind.mp_ass_subscript_impl = _known(assigned, plain)


def show_parts_to_modes() -> None:
    """Have Dynamo hand to function modes, as eager calls do, what takes a tensor apart (`a, b = t`, a loop over its rows), its
    attributes (`t.T`, `t.imag`), some of which torch 2.14 shows by itself, and the builtins `abs` and `pow`. Imports Dynamo."""
    from torch._dynamo.variables.tensor import TensorVariable
    from torch._dynamo.variables.torch_function import can_dispatch_torch_function

    kind: Any = TensorVariable
    getter = "var_getattr" if "var_getattr" in vars(kind) else "tp_getattro_impl"  # torch 2.13, 2.14
    rows, plain = kind.unpack_var_sequence, getattr(kind, getter)
    if hasattr(rows, "plain"):
        return

    def unpacked(self: Any, tx: Any, idxes: Any = None) -> Any:
        if idxes is not None or not self.ndim or not can_dispatch_torch_function(tx, (self,), {}):
            return rows(self, tx, idxes)
        return self.call_method(tx, "unbind", [], {}).unpack_var_sequence(tx)

    def attribute(self: Any, tx: Any, name: str) -> Any:
        if name not in _ATTRIBUTES or not can_dispatch_torch_function(tx, (self,), {}):
            return plain(self, tx, name)
        return kind.build(tx, _ATTRIBUTES[name]).call_function(tx, [self], {})

    def absolute(self: Any, tx: Any) -> Any:
        return kind.build(tx, torch.abs).call_function(tx, [self], {})

    def power(self: Any, tx: Any, other: Any, modulus: Any = None, reverse: bool = False) -> Any:
        if modulus is not None:  # which tensors do not take
            return powers(self, tx, other, modulus, reverse)
        return kind.build(tx, operator.pow).call_function(tx, [other, self] if reverse else [self, other], {})

    kind.unpack_var_sequence, kind.nb_absolute_impl = _known(unpacked, rows), absolute
    setattr(kind, getter, attribute)
    powers = vars(kind).get("nb_power_impl")
    if powers is not None:  # torch 2.14; before, `pow` is not traced
        kind.nb_power_impl = power


def show_allowed_to_modes() -> None:
    """Have Dynamo hand to function modes what somebody has it keep whole (`torch.compiler.allow_in_graph`). Imports Dynamo."""
    from torch._dynamo.trace_rules import is_callable_allowed
    from torch._dynamo.variables.torch import TorchInGraphFunctionVariable
    from torch._dynamo.variables.torch_function import can_dispatch_torch_function

    kind: Any = TorchInGraphFunctionVariable
    plain = kind.torch_function_override_enabled
    if hasattr(plain, "plain"):
        return

    def enabled(self: Any, tx: Any, args: Any, kwargs: Any) -> bool:
        shown = plain(self, tx, args, kwargs)
        return shown or (is_callable_allowed(self.value) and can_dispatch_torch_function(tx, args, kwargs))

    kind.torch_function_override_enabled = _known(enabled, plain)


def keep_checks_whole() -> None:
    """Have Dynamo put into the graph what attention of torch, opened, checks of a padding mask, which it cannot trace: its
    message names the mask (torch 2.13, 2.14)."""
    check = getattr(torch.nn.functional, "_check_key_padding_mask", None)
    if check is not None:
        torch.compiler.allow_in_graph(check)


#: Functions that give the attributes of a tensor which are tensors.
_ATTRIBUTES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "data": lambda t: t.detach(),
    "T": lambda t: t.permute(*reversed(range(t.ndim))),
    "mT": lambda t: t.transpose(-2, -1),
    "H": torch.adjoint,
    "mH": torch.adjoint,
    "real": torch.real,
    "imag": torch.imag,
}


# And what torch 2.0 does not show them.


class _Met(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.met: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met.add(func)
        return func(*args, **(kwargs or {}))


_INDEXING: dict[str, Any] = {name: getattr(Tensor, name) for name in ("__getitem__", "__setitem__")}


def _hidden() -> bool:
    """Whether function modes see nothing of ``t[i]`` and ``t[i] = value``, as on torch 2.0."""
    t = torch.zeros(1, device="cpu")
    with _Met() as mode:
        t[0] = t[0]
    return not mode.met.issuperset(_INDEXING.values())


class _Shown:
    """An operator of tensors. Asked of the class, it is what it was, by which modes and subclasses know it."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __get__(self, t: Tensor | None, kind: Any = None) -> Any:
        return self.plain if t is None else partial(self, t)

    def __call__(self, *args: Any) -> Any:
        return handle_torch_function(self.plain, args, *args) if has_torch_function(args) else self.plain(*args)


def _show() -> None:
    for name, plain in _INDEXING.items():
        setattr(Tensor, name, _Shown(plain))


def _hide() -> None:
    for name in _INDEXING:  # which Tensor inherits
        delattr(Tensor, name)


#: Function modes see indexing, also where torch does not show it.
indexing_shown: AbstractContextManager[None] = WhileInside(_show, _hide) if _hidden() else contextlib.nullcontext()
