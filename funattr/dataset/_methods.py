"""The method of a run: one, or several whose results are stored together; bound to what all examples share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

import funattr as fa

from ._config import method_name
from ._names import meant, method_named
from ._trees import mapped


def method_of(given: Any) -> Callable[..., Any]:
    """The method that is meant: itself, by its name, or several in a list or a dict, as one that returns a dict.

    Raises:
        NoSuchName: there is no method of that name.
        TypeError: something else was given.
        ValueError: two have one name, or they cannot be stored together.
    """
    if isinstance(given, str):
        return method_named(given)
    if isinstance(given, Mapping):
        return _together({str(name): method_of(each) for name, each in given.items()})
    if isinstance(given, (list, tuple)):
        return _together(_by_name([method_of(each) for each in given]))
    if not callable(given):
        raise TypeError(
            "run(): method must be a method such as fa.grad_cam, its name, or a list or dict of these, got "
            f"{type(given).__name__}."
        )
    found: Callable[..., Any] = given
    return found


def _by_name(methods: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    named = {method_name(method): method for method in methods}
    if len(named) < len(methods):
        raise ValueError("run(): two methods have one name: give a dict of them, name -> method.")
    return named


def _together(methods: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Several methods as one: each gets those of the arguments that it takes and has not bound already."""
    if not methods:
        raise ValueError("run(): there are no methods in the list: give one at least.")
    before = {name: leading(method) for name, method in methods.items()}
    if len(set(before.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in before.items())
        raise ValueError(f"run(): methods differ in how many dimensions come before the batch ({told}): run them apart.")
    takes = {name: _taken(method) for name, method in methods.items()}

    def each(model: Any, x: Any, **arguments: Any) -> dict[str, Any]:
        return {
            name: method(model, _own(method, x), **{key: value for key, value in arguments.items() if takes[name](key)})
            for name, method in methods.items()
        }

    made: Any = each
    each.__name__ = each.__qualname__ = " and ".join(methods)
    made.__signature__ = _signature(methods.values())
    made.together = methods
    generators = [generator for method in methods.values() for generator in generators_in(method, {})]
    made.about = _About(next(iter(before.values())), tuple(generators))
    return each


def _own(method: Callable[..., Any], x: Any) -> Any:
    """The x of somebody else's method, which may write to it and have a grad in it: x may be a part of the caller's data."""
    return x if hasattr(getattr(_inner(method), "about", None), "leading") else mapped(lambda t: t.detach().clone(), x)


class _About(NamedTuple):
    """What a method says of itself, as the core's combinators do."""

    leading: int
    generators: tuple[torch.Generator, ...]


def leading(method: Callable[..., Any]) -> int:
    """How many dimensions a method's results have before the batch, as combinators say it."""
    found: int = getattr(getattr(_inner(method), "about", None), "leading", 0)
    return found


def generators_in(method: Callable[..., Any], arguments: Mapping[str, Any]) -> list[torch.Generator]:
    """The generators that a method draws from: bound in it, given in its arguments, or as combinators say it."""
    found = [value for value in arguments.values() if isinstance(value, torch.Generator)]
    while isinstance(method, partial):
        found += [value for value in method.keywords.values() if isinstance(value, torch.Generator)]
        method = method.func
    return list({id(g): g for g in [*found, *getattr(getattr(method, "about", None), "generators", ())]}.values())


def _inner(method: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(method, partial):
        method = method.func
    return method


def _taken(method: Callable[..., Any]) -> Callable[[str], bool]:
    parameters = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fixed = set(getattr(method, "keywords", {}))
    return lambda name: name not in fixed and (anything or name in parameters)


def _signature(methods: Any) -> inspect.Signature:
    """The arguments of all; what one of them needs is needed."""
    parameters: dict[str, inspect.Parameter] = {}
    for method in methods:
        fixed = set(getattr(method, "keywords", {}))
        for parameter in inspect.signature(method).parameters.values():
            new = parameter.name not in parameters and parameter.name not in fixed
            if new or (parameter.default is parameter.empty and parameter.name in parameters):
                parameters[parameter.name] = parameter
    return inspect.Signature(sorted(parameters.values(), key=lambda p: p.kind))


def bound(method: Callable[..., Any], arguments: dict[str, Any], target: Any, own_target: bool) -> Callable[[Any], Any]:
    """A method as a call of (x, target) on a model that comes later, checked: all that it needs is given, and nothing else.

    Raises:
        TypeError: something is missing, or unknown.
    """
    name = getattr(method, "__name__", None) or method_name(method)
    parameters = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in arguments:
        if key not in parameters and not anything:
            known = [*parameters, *inspect.signature(fa.dataset.run).parameters]
            raise TypeError(f"run(): there is no argument {key!r} of run() or of {name}{meant(key, known, 0)}")
    takes_target = "target" in parameters or anything
    fixed = "target" in getattr(method, "keywords", {})
    if not own_target and target is not None and (fixed or not takes_target):
        why = "has a target bound to it" if fixed else "takes no target"
        raise TypeError(f"run(): {name} {why}: leave out target={target!r}.")
    _check_needed(name, parameters, arguments)
    return partial(_on, method, arguments, takes_target and not fixed)


def _on(method: Callable[..., Any], arguments: dict[str, Any], targeted: bool, model: Any) -> Callable[[Any, Any], Any]:
    def call(x: Any, target: Any) -> Any:
        return method(model, _own(method, x), **({"target": target} if targeted else {}), **arguments)

    return call


def _check_needed(name: str, parameters: Mapping[str, inspect.Parameter], arguments: dict[str, Any]) -> None:
    missing = [
        p.name
        for p in list(parameters.values())[2:]
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in (*arguments, "target")
    ]
    if missing:
        raise TypeError(f"run(): {name} needs {', '.join(missing)}: give run(..., {missing[0]}=...).")
