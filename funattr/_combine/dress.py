"""What every combinator is made with: which arguments its parts take, and dressing the result as a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from .._core.door import method
from .._torch import tracing
from .._types import Method, Tree
from .._words import complaint


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
    needs: Sequence[str] = (),
    more: int = 0,
    generators: Sequence[torch.Generator] = (),
    draws: bool = False,
    of_layers: bool | None = None,
) -> Method:
    """`function`, dressed as a method that takes what `parts` take: readable in ``help()`` and in a traceback.

    `more` is the number of dimensions that its results have before the batch, beside those of its parts; `generators` are
    what it draws from itself, and `draws` says whether it draws at all; `of_layers` says whether its results have the
    structure in which layers are named, where its parts do not.
    """
    known = [accepts(part) for part in parts]
    made: Any = function  # to mypy a callable has no attributes
    made.leading = more + max(leading(part) for part in parts)
    made.layered = any(map(layered, parts)) if of_layers is None else of_layers
    made.draws = draws or any(map(draws_numbers, parts))
    made.generators = [*generators, *(g for part in parts for g in generators_of(part))]
    if tracing():
        names = [*extra, *(n for part in known for n in part or () if n not in without)]
        made.accepts = None if None in known else names
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
    for needed in needs:
        parameters[needed] = parameters[needed].replace(default=inspect.Parameter.empty)
    ordered = sorted((p for p in parameters.values() if p.name not in without), key=lambda p: p.kind)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{name}``, with the arguments of {' and '.join(name_of(part) for part in parts)}."
    made.__signature__ = inspect.Signature(ordered)
    return method(function)


def name_of(function: Callable[..., Any]) -> str:
    """How a method is called in messages and in the names of what is made of it."""
    return getattr(_inner(function), "__name__", type(function).__name__)


def leading(function: Callable[..., Any]) -> int:
    """How many dimensions a method's results have before the batch: one for each `each_target` in it."""
    found: int = getattr(_inner(function), "leading", 0)
    return found


def layered(function: Callable[..., Any]) -> bool:
    """Whether a method's results are those of layers, in the structure in which these are named."""
    known: bool | None = getattr(_inner(function), "layered", None)
    if known is None:
        names = accepts(function)
        return names is None or "layer" in names
    return known


def per_layer(f: Callable[[Any], Tree], layer: Any, found: Any = None) -> Tree:
    """`f` of what was found at each layer, in the structure in which the layers are named."""
    if isinstance(layer, dict):
        return {name: per_layer(f, part, None if found is None else found[name]) for name, part in layer.items()}
    if isinstance(layer, (list, tuple)):
        return type(layer)([per_layer(f, part, None if found is None else found[i]) for i, part in enumerate(layer)])
    return f(found)


def generators_of(function: Callable[..., Any]) -> list[torch.Generator]:
    """The generators that a method draws from, beside torch's global ones and those in its arguments."""
    bound = [g for g in getattr(function, "keywords", {}).values() if isinstance(g, torch.Generator)]
    return [*bound, *getattr(_inner(function), "generators", ())]


def draws_numbers(function: Callable[..., Any]) -> bool:
    """Whether a method of ours draws random numbers; one of somebody else's has not said."""
    found: bool = getattr(_inner(function), "draws", False)
    return found


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):  # a method with some of its arguments bound
        function = function.func
    return function


def check_method(function: Any) -> None:
    if not callable(function):
        raise complaint(TypeError, f"expected a method such as fa.gradient, got {type(function).__name__}.")
