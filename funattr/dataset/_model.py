"""Models and methods by name, by factory, or as they are."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

import funattr as fa


def is_model(value: Any) -> bool:
    """Whether it is a model already, with arguments bound or not, and not what makes one."""
    while isinstance(value, partial):
        value = value.func
    return isinstance(value, nn.Module)


def built(model: Any, device: Any) -> Any:
    """The model: made by its factory, in eval mode, on the device; or as the caller gave it.

    Raises:
        TypeError: the factory makes no model.
    """
    if is_model(model):
        return model
    factory = imported(model, "model") if isinstance(model, str) else model
    if is_model(factory):
        return factory
    _check_factory(factory)
    found = factory()
    if not callable(found):
        raise TypeError(f"run(): the factory {_name(factory)} must return a model, got {type(found).__name__}.")
    if isinstance(found, nn.Module):
        found.eval()
        if device is not None:
            found.to(device)
    return found


def _check_factory(factory: Any) -> None:
    if not callable(factory):
        raise TypeError(
            f"run(): model must be a function that makes the model, or 'module:function', got {type(factory).__name__}."
        )
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        text = (
            f"run(): model must be a function without arguments that makes the model, and {_name(factory)} needs some ({error})"
        )
        raise TypeError(f"{text}: give lambda: the_model, or functools.partial of its maker.") from error
    except ValueError:  # a builtin that says nothing about itself
        return


def device_of(model: Any, device: Any) -> Any:
    """Where inputs go: the device asked for, or that of the model's first weight."""
    if device is not None:
        return device
    while isinstance(model, partial):
        model = model.func
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return "cpu" if weight is None else weight.device


def imported(name: str, what: str) -> Any:
    """What 'module:attribute' names; of methods, a name of this library, too.

    Raises:
        ValueError: there is no such thing; the message says which part is wrong.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon and what == "method":
        found = getattr(fa, name, None)
        if name in fa.__all__ and callable(found):
            return found
        close = difflib.get_close_matches(name, fa.__all__, n=1)
        raise ValueError(f"run(): there is no method {name!r}{f': did you mean {close[0]!r}?' if close else '.'}")
    if not colon or not attribute:
        raise ValueError(f"run(): {what} must be 'module:name', got {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise ValueError(f"run(): there is no module {module_name!r}, which {what} names.") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f": did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"run(): {what} {name!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def bound(method: Callable[..., Any], arguments: dict[str, Any], target: Any, own_target: bool) -> Callable[[Any], Any]:
    """A method as a call of (x, target) on a model that comes later, checked: all that it needs is given, and nothing else.

    Raises:
        TypeError: something is missing, or unknown.
    """
    name = getattr(method, "__name__", None) or _name(method)
    parameters = inspect.signature(method).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in arguments:
        if key not in parameters and not anything:
            close = difflib.get_close_matches(key, [*parameters, *inspect.signature(fa.dataset.run).parameters], n=1)
            hint = f": did you mean {close[0]!r}?" if close else "."
            raise TypeError(f"run(): there is no argument {key!r} of run() or of {name}{hint}")
    takes_target = "target" in parameters or anything
    fixed = "target" in getattr(method, "keywords", {})
    if not own_target and target is not None and (fixed or not takes_target):
        why = "has a target bound to it" if fixed else "takes no target"
        raise TypeError(f"run(): {name} {why}: leave out target={target!r}.")
    _check_needed(name, parameters, arguments)

    def on(model: Any) -> Callable[[Any, Any], Any]:
        def call(x: Any, target: Any) -> Any:
            if takes_target and not fixed:
                return method(model, x, target=target, **arguments)
            return method(model, x, **arguments)

        return call

    return on


def _check_needed(name: str, parameters: Mapping[str, inspect.Parameter], arguments: dict[str, Any]) -> None:
    missing = [
        p.name
        for p in list(parameters.values())[2:]
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in (*arguments, "target")
    ]
    if missing:
        raise TypeError(f"run(): {name} needs {', '.join(missing)}: give run(..., {missing[0]}=...).")


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__
