"""What becomes of an operation under DeepLIFT: its rule, its gradient where it is linear, or a note that it has none."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodWrapperType
from typing import Any

import torch
from torch import Tensor

from ..._core.checks import anywhere
from ..._torch import (
    dual_made,
    gradient_inside,
    interruption,
    tracing,
    transforms_active,
    tree_flatten,
    tree_unflatten,
    without_modes,
)
from ..._types import is_number
from ..._words import complaint
from ..spelled import EXPORTED, SWITCHED, Entry, counterpart, dropout_off, exported, named, placed
from .origins import among, constant
from .table import BARE, ENTRIES, NAMED, NAMES, OPENED, PLAIN, SPARSE, SPREAD, WEIGHED
from .tape import Lift, Met

# Python functions that torch wraps: Dynamo finds them by identity only, and takes them for missing in a dictionary.
_WRAPPED = [(func, entry) for func, entry in (BARE | ENTRIES).items() if getattr(func, "__module__", "") == "torch._tensor"]


#: What takes derivatives. (The last but one is all that Dynamo knows of torch.func.grad.)
GRADIENTS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward, gradient_inside, dual_made}

_PRODUCTS = ("product", "matrix product", "bilinear", "grouped product", "convolution", "solve", "indexed")
#: What is linear where but one of its tensors varies.
_ONCE = {"linear", "einsum", "where", "masked_fill", *(name for group in _PRODUCTS for name in NAMES[group])}


def apply(lift: Any, func: Any, args: Any, kwargs: Any, own: Entry | None = None) -> Any:
    """The operation `func`, as its rule has it; `own` is its entry where that is not the table's."""
    if own is None and not tracing():
        if func in PLAIN:
            return _linear(lift, func, args, kwargs)
        if func in WEIGHED and type(lift) is Lift and len(args) > 1 and constant(args[1]):
            return _linear(lift, func, args, kwargs)
    if func in GRADIENTS:  # under the rules it would give multipliers, and other values
        raise complaint(
            ValueError,
            "the model differentiates itself (torch.autograd), and rules would change what it finds: use "
            "integrated_gradients for such a model.",
        )
    if func in SWITCHED:
        at = SWITCHED[func]
        in_place = kwargs.get("inplace") or (len(args) > at and args[at])
        if in_place and own is None and dropout_off(func, args, kwargs):
            return args[0] if args else kwargs["input"]
        args, kwargs = args[:at], {name: value for name, value in kwargs.items() if name != "inplace"}
        x = args[0] if args else kwargs.pop("input")
        y = _seen(lift, func, (_kept(lift, x) if in_place else x, *args[1:]), kwargs, own)
        return lift.written(x, y) if in_place else y
    return _seen(lift, func, args, kwargs, own)


def _kept(lift: Any, x: Tensor, others: Any = ()) -> Tensor:
    """`x`, about to be overwritten; a copy where the graph of the plain function keeps its input: for the gradient of one of
    the `others`, such as the parameter in ``x.mul_(scale)``, also with the rules."""
    learned = any(isinstance(t, Tensor) and t.requires_grad for t in others)
    return lift.copied(x) if (lift.baseline is None or learned) and torch.is_grad_enabled() else x


def known(func: Any) -> Entry | None:
    """What the table knows of a function; its rule is None where it keeps its gradient."""
    if tracing():
        for other, entry in _WRAPPED:
            if func is other:
                return entry
    found = ENTRIES.get(func)
    if found is not None or tracing():
        return found or BARE.get(func)
    if isinstance(func, EXPORTED):
        return exported(NAMED, func)
    return SPARSE.get(func) or BARE.get(func)


def _seen(lift: Any, func: Any, args: Any, kwargs: Any, own: Entry | None) -> Any:
    entry = known(func) if own is None else own
    if entry is not None and (own or entry.rule is not None) and not _complex(args):
        return _ruled(lift, entry, args, kwargs)
    if func in OPENED:
        with lift:
            return OPENED[func](*args, **kwargs)
    if isinstance(func, MethodWrapperType) or (entry is not None and entry.rule is None):  # a wrapper: attributes
        return _linear(lift, func, args, kwargs)
    if not isinstance(lift, Lift):
        return lift.unknown(func, args, kwargs)
    return (_traced if tracing() else _unknown)(lift, func, args, kwargs)


def _traced(lift: Lift, func: Any, args: Any, kwargs: Any) -> Any:
    """The same where torch.compile traces, and nobody looks at what is linear; of complex numbers, that has no rule either."""
    found = _linear(lift, func, args, kwargs)
    live = [t for t in among((*args, *kwargs.values())) if is_number(t) and t.requires_grad and not lift.constant(t)]
    entry = known(func)
    name = "" if entry is None else entry.name
    once = name in _ONCE or (name in NAMES["quotient"] and any(t is args[0] for t in live))
    if len(live) > once and lift.baseline is not None and any(map(is_number, among((found,)))):
        lift.unknown.append(named(func, args))
    return found


def _complex(args: Any) -> bool:
    if tracing():
        return any(isinstance(t, Tensor) and t.dtype.is_complex for t in args)
    with without_modes():  # another may be on while a baseline is recorded
        for t in args:
            if isinstance(t, Tensor) and t.is_complex():
                return True
    return False


#: What is another number than it was, by these: no reciprocal any more, but what is copied may be one.
_WRITES = {Tensor.add_, Tensor.__iadd__, Tensor.sub_, Tensor.__isub__, Tensor.copy_, Tensor.fill_, Tensor.zero_, Tensor.neg_}


def _linear(lift: Any, func: Any, args: Any, kwargs: Any) -> Any:
    if lift.events is not None:
        return lift.probed(func, args, kwargs)
    found = func(*args, **kwargs)
    if not lift.scales:
        return found
    if func in _WRITES:
        lift.scales = [t for t in lift.scales if t is not found]
        return lift.scale(found, *args[1:]) if func is Tensor.copy_ else found
    return lift.scale(found, args[0]) if counterpart(func) in SPREAD else found


def _ruled(lift: Any, entry: Entry, args: Any, kwargs: Any) -> Any:
    args, kwargs = placed(entry.order, args, kwargs) if kwargs else (args, kwargs)
    out = kwargs.pop("out", None)  # of a copy, where there is any
    x = args[0]
    if not tracing():
        lift.entry = entry
    kept = _kept(lift, x, (*args[1:], *kwargs.values())) if entry.in_place else x
    y = lift.rule_of(entry)(lift, entry.plain, kept, *args[1:], **kwargs)
    if out is not None:
        return lift.written(out if out.shape == y.shape else out.resize_(y.shape), y)
    return lift.written(x, y) if entry.in_place else y


def _unknown(lift: Lift, func: Any, args: Any, kwargs: Any) -> Any:
    """An operation without a rule keeps its gradient. Where it is not linear between x and the baseline, that is noted."""
    leaves, spec = tree_flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if is_number(leaf)]
    places = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not is_number(leaf)]  # indices, say
    name = named(func, args)
    found = lift.meet(*(leaves[i] for i in where), *places, apart=name) if where else None
    if found is not None and any(lift.origins.is_live(leaves[i]) for i in where):
        others = any(anywhere(own != base) for own, base in found[len(where) :])
        if others or not _straight(func, leaves, spec, dict(zip(where, found))):
            return _noted(lift, name, func(*args, **kwargs))
    return func(*args, **kwargs)


def _noted(lift: Lift, name: str, made: Any) -> Any:
    """What an operation without a rule made, and its name noted; of values beside indices, once a gradient comes back."""
    values = [t for t in among((made,)) if t.requires_grad]
    if transforms_active() or len(values) == len(among((made,))):
        lift.unknown.append(name)
    else:
        for t in values:
            t.register_hook(lambda _: lift.unknown.append(name))
    return made


def bent(func: Any, args: Any, kwargs: Any, varies: Callable[[Any], bool]) -> bool:
    """Whether an operation is not linear in what varies, on the way to other numbers of that size; compiled, nobody looks."""
    leaves, spec = tree_flatten((args, kwargs))
    live = {i: t for i, t in enumerate(leaves) if varies(t)}
    if tracing() or not live:
        return bool(live)
    turned = {i: t * torch.arange(t.numel(), device=t.device).add_(i).cos().view(t.shape).to(t.dtype) for i, t in live.items()}
    return not _straight(func, leaves, spec, {i: Met(t, turned[i]) for i, t in live.items()})


def _straight(func: Any, leaves: list[Any], spec: Any, met: dict[int, Met]) -> bool:
    """Whether the operation is half way between its two values where its inputs are half way."""

    def at(values: list[Tensor]) -> list[Tensor]:
        copies = [value.clone() for value in values]
        if transforms_active():  # what is written to is mapped over, where what is written is
            copies[0] = copies[0] + sum(torch.zeros_like(t).abs().sum() for t in copies[1:])
        live = dict(zip(met, copies))  # what does not vary is copied, too: the operation may write to it, and runs again
        filled = [live[i] if i in live else t.clone() if isinstance(t, Tensor) else t for i, t in enumerate(leaves)]
        again, named = tree_unflatten(filled, spec)
        with torch.random.fork_rng(devices):  # what draws, draws the same at each, and again when it runs
            found = [t for t in tree_flatten(func(*again, **named))[0] if is_number(t)]
        return [t if t.layout is torch.strided else t.to_dense() for t in found]

    devices = {leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda}
    try:
        with torch.no_grad():
            ends = at([own for own, _ in met.values()]), at([base.expand_as(own) for own, base in met.values()])
            middle = at([(own + base) / 2 for own, base in met.values()])
    except Exception as error:  # it does not run on copies, or half way: nothing is known of it then
        if interruption(error) is not None:
            raise
        return False

    def bent(y: Tensor, y0: Tensor, half: Tensor) -> bool:
        if not y.numel():
            return False
        scale, digits = (y - y0).abs().max(), min(1e-3, torch.finfo(y.dtype).eps ** 0.4)
        return anywhere(~((((y + y0) / 2 - half).abs().max() <= digits * scale) & scale.isfinite()))

    return not any(bent(*values) for values in zip(*ends, middle))
