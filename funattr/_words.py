"""Errors in the caller's own words: the call as written, what was expected, what was got, the cure."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from torch import Tensor, nn

from ._habits import did_you_mean, refusal
from ._torch import constant, told_already, tracing

P = ParamSpec("P")
R = TypeVar("R")


def complaint(kind: type[Exception], text: str, **facts: Any) -> Exception:
    """An error whose message the door completes with the call as the caller wrote it; with facts for those who catch it."""
    error = kind(text)
    if not tracing():
        vars(error).update(complaint=text, **facts)
    return error


def door(function: Callable[P, R]) -> Callable[P, R]:
    """Prefix complaints with the call: ``grad_cam(layer='conv9'): Net has no layer 'conv9'.``"""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if tracing():  # Dynamo reports the error its own way, and cannot look at it here
            return function(*args, **kwargs)
        try:
            given: Any = ([as_number(value) for value in args], {name: as_number(value) for name, value in kwargs.items()})
            return function(*given[0], **given[1])
        except (ValueError, TypeError, IndexError) as error:  # an id that an embedding has not is an IndexError
            told = complete(_misnamed(error, function, args, kwargs), function, kwargs)
            if told is not error:
                raise told from None
            raise

    return call


def as_number(given: Any) -> Any:
    """An argument: what numpy has for a number as Python has it, and no integer that torch has not."""
    if isinstance(given, (np.number, np.bool_)):
        return given.item()
    if isinstance(given, int) and not -(1 << 63) <= given < 1 << 63:
        raise complaint(
            ValueError, f"{_cut(given)} is out of range: it has {given.bit_length()} bits, and torch's integers have 63."
        )
    return given


def _misnamed(error: Exception, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
    """`error`, or our own words for it where the call itself did not fit the function."""
    trace = error.__traceback__
    if not isinstance(error, TypeError) or trace is None or trace.tb_next is not None:
        return error
    text = refusal(function, args, kwargs)
    return error if text is None else complaint(TypeError, text)


def complete(error: Exception, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Exception:
    """Prefix a complaint with the call; the outermost door has the last word. Other errors are left as they are."""
    text = getattr(error, "complaint", None)
    if text is not None:
        error.args = (f"{spelled(function, kwargs)}: {text}",)
    return error


@constant
def warn(text: str) -> None:
    """A warning that points at the caller's line: the nearest one outside this package and what it runs through. Of a compiled
    function, it is given when that is compiled, once for each graph: what its passes repeat is unrolled there."""
    if told_already(text):
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


_OURS = (__name__.partition(".")[0], "torch", "contextlib", "functools")


def spelled(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> str:
    """The call as written, with the model and the input left out."""
    return f"{function.__name__}({', '.join(f'{name}={in_short(value)}' for name, value in kwargs.items())})"


def in_short(value: Any) -> str:
    """A value as it is written in a call, in a few letters."""
    parts = list(value.values()) if type(value) is dict else value
    if type(value) in (tuple, list, dict) and any(isinstance(part, (Tensor, np.ndarray)) for part in parts) and len(parts) < 5:
        if type(value) is dict:
            return f"{{{', '.join(f'{key!r}: {in_short(part)}' for key, part in value.items())}}}"
        first, last = "()" if type(value) is tuple else "[]"
        return f"{first}{', '.join(map(in_short, parts))}{last}"
    if isinstance(value, (Tensor, np.ndarray)):
        nested = isinstance(value, Tensor) and value.is_nested  # of which torch tells no shape
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"<nested {kind}>" if nested else f"<{kind} {list(value.shape)}>"
    if isinstance(value, nn.Module):
        return f"<{type(value).__name__}>"
    if callable(value):
        return f"<{getattr(value, '__name__', type(value).__name__)}>"
    return _cut(value)


def _cut(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python does not write all of them
        return "an integer"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """What `value` is, for a message."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance"
    return f"{type(value).__name__} {list(value.shape) if isinstance(value, np.ndarray) else _cut(value)}"


# Arguments.


def is_int(value: object) -> bool:
    """Whether it is a whole number: True and False, which Python takes for some, are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_index(value: object) -> bool:
    """The same, where numpy's will do."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_range(index: int, size: int, what: str = "target") -> None:
    """Refuse an index that so many things have not."""
    if not -size <= index < size:
        none = "; leave out what has no label: x[target >= 0]" if index == -100 else ""  # losses of torch ignore it
        raise complaint(ValueError, f"{what} {index} is out of range: there are {size} (0 to {size - 1}){none}.")


def check_int(value: Any, name: str, what: str = "an int") -> None:
    """Refuse what is no whole number."""
    if not is_int(value):
        raise complaint(TypeError, f"{name} must be {what}, got {kind_of(value)}.")


def check_count(value: Any, name: str) -> None:
    """Refuse what is no number of things of which there must be one."""
    check_int(value, name)
    if value < 1:
        raise complaint(ValueError, f"{name} must be at least 1, got {value}.")


def check_real(value: Any, name: str, what: str = "a number") -> None:
    """Refuse what is no real number."""
    if not (is_int(value) or isinstance(value, float)):
        raise complaint(TypeError, f"{name} must be {what}, got {kind_of(value)}.")


def check_size(value: Any, name: str, what: str = "a number", *, zero: bool = True) -> None:
    """Refuse what is no finite real number that is not negative, or, where `zero` is none, above 0."""
    check_real(value, name, what)
    if not 0 <= value < math.inf or not (zero or value):
        raise complaint(ValueError, f"{name} must be finite and {'not negative' if zero else 'above 0'}, got {value}.")


def check_choice(value: Any, what: str, known: Iterable[str]) -> None:
    """Refuse what is none of these names."""
    if not isinstance(value, str) or value not in known:
        shown, name = (repr(value), value) if isinstance(value, str) else (kind_of(value), "")
        raise complaint(ValueError, f"there is no {what} {shown}. {did_you_mean(name, known)}")
