"""Combinators: take a method, return a method with the same arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._check import method
from ._door import complaint, door
from ._torch import tracing, tree_flatten, tree_unflatten
from ._types import Method, Model, Tree, map_floats

#: F.interpolate's modes, and the numbers of spatial dimensions they are for.
MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


def accepts(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of the arguments that `function` takes; None where it takes any."""
    known = getattr(function, "accepts", None)
    if known is not None:
        return tuple(known)
    parameters = inspect.signature(function).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else tuple(p.name for p in parameters)


def chosen(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments that `function` takes."""
    known = accepts(function)
    return {name: value for name, value in options.items() if known is None or name in known}


def combined(
    function: Callable[..., Tree],
    name: str,
    *parts: Callable[..., Any],
    extra: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Method:
    """`function`, dressed as a method that takes what `parts` take: readable in ``help()`` and in a traceback."""
    known = [accepts(part) for part in parts]
    if tracing():
        names = [*extra, *(n for part in known for n in part or () if n not in without)]
        function.accepts = None if None in known else names  # type: ignore[attr-defined]
        return function
    parameters: dict[str, inspect.Parameter] = {}
    for part in parts:
        for parameter in inspect.signature(part).parameters.values():
            # Needed by one part is needed by the whole.
            if parameter.name not in parameters or parameter.default is parameter.empty:
                parameters[parameter.name] = parameter
    for added in extra:
        if added not in parameters:
            parameters[added] = inspect.Parameter(added, inspect.Parameter.KEYWORD_ONLY, default=None)
    ordered = sorted((p for p in parameters.values() if p.name not in without), key=lambda p: p.kind)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{name}``, with the arguments of {' and '.join(name_of(part) for part in parts)}."
    function.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    return method(function)


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def check_method(function: Any) -> None:
    if not callable(function):
        raise complaint(TypeError, f"expected a method such as fa.gradient, got {type(function).__name__}.")


@door
def multiply(method: Method, other: Method) -> Method:
    """The product of two methods' attributions.

    ``multiply(a, b)(model, x, ...) = a(model, x, ...) * b(model, x, ...)``. Each method is given those of the arguments that it
    takes; sizes of 1 broadcast.

    Args:
        method: a method.
        other: another, whose result has the same structure.

    Returns:
        A method with the arguments of both.

    Raises:
        TypeError: not a method; when called, an argument that neither takes.
        ValueError: when called, results that do not fit each other.

    Example:
        >>> import torch, funattr as fa
        >>> signed_square = fa.multiply(fa.gradient, fa.saliency)
        >>> signed_square(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[  4., -16.]])
    """
    check_method(method)
    check_method(other)

    def product(model: Model, x: Tree, **options: Any) -> Tree:
        mine, others = chosen(method, options), chosen(other, options)
        for name in options:
            if name not in mine and name not in others:
                raise complaint(TypeError, f"neither {name_of(method)} nor {name_of(other)} takes an argument {name!r}.")
        a, b = method(model, x, **mine), other(model, x, **others)
        (left, spec), (right, spec_of_right) = tree_flatten(a), tree_flatten(b)
        if spec != spec_of_right:
            text = f"{name_of(method)} gives {spec}, {name_of(other)} gives {spec_of_right}: they cannot be multiplied."
            raise complaint(ValueError, text)
        return tree_unflatten([_product(p, q, name_of(method), name_of(other)) for p, q in zip(left, right)], spec)

    return combined(product, f"multiply({name_of(method)}, {name_of(other)})", method, other)


def _product(a: Any, b: Any, name: str, other: str) -> Any:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return None  # an integer input has no attribution
    if a.dim() != b.dim() or any(p != q and 1 not in (p, q) for p, q in zip(a.shape, b.shape)):
        raise complaint(ValueError, f"{name} gives {list(a.shape)}, {other} gives {list(b.shape)}: they cannot be multiplied.")
    return a * b


@door
def relu(method: Method) -> Method:
    """The positive part of a method's attributions.

    ``relu(a)(model, x, ...) = max(a(model, x, ...), 0)``

    Args:
        method: a method.

    Returns:
        A method with the same arguments.

    Raises:
        TypeError: not a method.

    Example:
        >>> import torch, funattr as fa
        >>> fa.relu(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[2., 0.]])
    """
    check_method(method)

    def positive(model: Model, x: Tree, **options: Any) -> Tree:
        return map_floats(torch.relu, method(model, x, **options))

    return combined(positive, f"relu({name_of(method)})", method)


@door
def at_input(method: Method) -> Method:
    """A method at the input, whatever `layer` it is called with: for compositions of a layer's map and the input's.

    ``at_input(a)(model, x, layer=..., ...) = a(model, x, ...)``

    Args:
        method: a method that works without a layer.

    Returns:
        A method with the same arguments, and `layer`, which it drops.

    Raises:
        TypeError: not a method.

    Example:
        >>> import torch, funattr as fa
        >>> fa.at_input(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]), layer="any")
        tensor([[ 2., -4.]])
    """
    check_method(method)

    def there(model: Model, x: Tree, *, layer: Any = None, **options: Any) -> Tree:
        return method(model, x, **options)

    return combined(there, f"at_input({name_of(method)})", method, extra=["layer"])


@door
def interpolate(method: Any, size: Any = None, mode: str = "nearest") -> Any:
    """A method's maps at the spatial size of the input; or one tensor of maps at a given size.

    ``interpolate(a)(model, x, ...)`` is ``a(model, x, ...)`` ``[N, C, *s]`` at the size ``[N, C, *S]`` of `x`; for several
    inputs, one map for each.

    Args:
        method: a method, or a tensor of attributions ``[N, C, *s]``.
        size: the spatial size, or a tensor ``[N, C, *S]`` that has it; None for that of the input.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"area"``, ``"linear"`` (one spatial dimension), ``"bilinear"``,
            ``"bicubic"`` (two) or ``"trilinear"`` (three), as in `torch.nn.functional.interpolate`.

    Returns:
        A method with the same arguments; or a tensor ``[N, C, *S]``, in the unit of what was given.

    Raises:
        ValueError: there is no such mode, it does not fit the dimensions, or there are no spatial dimensions.
        TypeError: neither a method nor a tensor.

    Example:
        >>> import torch, funattr as fa
        >>> fa.interpolate(torch.tensor([[[1.0, 2.0]]]), size=4)
        tensor([[[1., 1., 2., 2.]]])
    """
    if not isinstance(mode, str) or mode not in MODES:
        close = difflib.get_close_matches(str(mode), MODES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Use one of {', '.join(map(repr, MODES))}."
        raise complaint(ValueError, f"there is no interpolation mode {mode!r}. {hint}")
    if isinstance(method, Tensor):
        if size is None:
            text = "give the size to interpolate the tensor to: size=(height, width), or a tensor of that size."
            raise complaint(ValueError, text)
        return _resized(method, _spatial(size), mode)
    check_method(method)

    def upsampled(model: Model, x: Tree, **options: Any) -> Tree:
        attribution = method(model, x, **options)

        def for_input(leaf: Tensor, found: Tensor) -> Tensor:
            return _resized(found, _spatial(leaf if size is None else size), mode)

        if isinstance(attribution, Tensor):  # one map: for every input
            return map_floats(lambda leaf: for_input(leaf, attribution), x)
        return map_floats(for_input, x, attribution)

    return combined(upsampled, f"interpolate({name_of(method)})", method)


def _spatial(size: Any) -> tuple[int, ...]:
    if isinstance(size, Tensor):
        return tuple(size.shape[2:])
    return (size,) if isinstance(size, int) else tuple(size)


def _resized(attribution: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    if attribution.dim() < 3 or attribution.dim() - 2 != len(size):
        raise complaint(
            ValueError,
            f"an attribution {list(attribution.shape)} has {max(attribution.dim() - 2, 0)} spatial dimensions and the size "
            f"{list(size)} has {len(size)}: choose a layer whose value is [N, C, *spatial] like the input.",
        )
    if len(size) not in MODES[mode]:
        fitting = ", ".join(repr(name) for name, dims in MODES.items() if len(size) in dims)
        raise complaint(ValueError, f"mode {mode!r} is not for {len(size)} spatial dimensions: use one of {fitting}.")
    return F.interpolate(attribution, size, mode=mode)
