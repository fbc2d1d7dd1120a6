"""Models by name, by factory, or as they are."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from ._names import at


def is_model(value: Any) -> bool:
    """Whether it is a model already, with arguments bound or not, and not what makes one."""
    while isinstance(value, partial):
        value = value.func
    return isinstance(value, nn.Module)


def check_name(model: str) -> None:
    """That a model's name stands for something, before it is compared with the one that a folder was made with.

    Raises:
        ValueError: it is no ``module:name``, or there is nothing of that name.
    """
    module, _, attribute = model.partition(":")
    if not module or not attribute:
        raise ValueError(f"run(): model must be 'module:name', got {model!r}.")
    at(model)


def built(model: Any, device: Any) -> Any:
    """The model: made by its factory, in eval mode, on the device; or as the caller gave it.

    Raises:
        NoSuchName: there is nothing of that name.
        TypeError: the factory makes no model.
    """
    if is_model(model):
        return model
    factory = at(model) if isinstance(model, str) else model
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


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__
