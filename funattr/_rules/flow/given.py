"""The rules that a caller gives, made ready: keys that are known, values that can be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._habits import did_you_mean
from ..._torch import tracing
from ..._types import Tree, map_tensors
from ..._words import complaint
from ..lift.table import ENTRIES, LINEAR, OPENED
from ..relu import deconv_relu, guided_relu
from .facts import Rules
from .flows import nothing
from .operation import Operation

#: The kinds that keys of a dict of rules name.
KINDS = ("relu", "activation", "linear", "convolution", "first", "product", "softmax", "normalization")


class Rectified:
    """A rule for ReLU of its own backward pass, which is no function of values alone."""

    def __init__(self, relu: Any, name: str):
        self.relu = relu  # ReLU with that backward pass
        self.name = name

    def __call__(self, op: Operation, gradient: Tensor) -> Tensor:
        positive = torch.relu(gradient)
        return positive * (op.output > 0) if self.name == "guided" else positive

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


def guided() -> dict[Any, Any]:
    """Guided backpropagation: only positive gradients flow back through active ReLUs, in whatever spelling.

    ``relu(g) * (z > 0)`` at ``y = relu(z)``; all else keeps its gradient.

    Returns:
        A dict with the key ``"relu"``.

    Example:
        >>> import funattr as fa
        >>> fa.rules.guided()
        {'relu': <rule guided>}

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity", 2014, https://arxiv.org/abs/1412.6806
    """
    return {"relu": Rectified(guided_relu, "guided")}


def deconv() -> dict[Any, Any]:
    """The deconvolutional network: only positive gradients flow back through every ReLU, in whatever spelling.

    ``relu(g)`` at ``y = relu(z)``; all else keeps its gradient.

    Returns:
        A dict with the key ``"relu"``.

    Example:
        >>> import funattr as fa
        >>> fa.rules.deconv()
        {'relu': <rule deconv>}

    References:
        Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", 2013, https://arxiv.org/abs/1311.2901
    """
    return {"relu": Rectified(deconv_relu, "deconv")}


def prepared(rules: Any) -> Rules:
    """The caller's rules by kind and by torch's names for operations."""
    if tracing():  # Dynamo sees what has been called before, or fails in its own words
        return _by_name(rules)
    if callable(rules) and not isinstance(rules, Mapping):
        name = getattr(rules, "__name__", type(rules).__name__)
        raise complaint(TypeError, f"rules must be a dict, got the function {name}: call it, fa.rules.{name}().")
    if not isinstance(rules, Mapping):
        text = f"rules must be a dict of an operation and its rule, got {type(rules).__name__}"
        raise complaint(TypeError, f"{text}: such as fa.rules.epsilon(), or {{'linear': rule}}.")
    for key, rule in rules.items():
        if not callable(rule):
            text = f"the rule for {key!r} must be callable, got {type(rule).__name__}"
            raise complaint(TypeError, f"{text}: a function of the operation and the gradient of its output.")
        if isinstance(key, str) and key not in KINDS:
            raise complaint(ValueError, f"there is no kind of operation {key!r}. {did_you_mean(key, KINDS)}")
        if not isinstance(key, str) and key not in ENTRIES and key not in LINEAR and key not in OPENED:
            text = f"{getattr(key, '__name__', repr(key))} is no operation of torch that a rule can be for"
            raise complaint(ValueError, f"{text}: use a function such as torch.tanh, or one of {', '.join(map(repr, KINDS))}.")
    return _by_name(rules)


def _by_name(rules: Any) -> Rules:
    kinds, named = {}, {}
    for key, rule in rules.items():
        if isinstance(key, str):
            kinds[key] = rule
        else:
            named[ENTRIES[key].name if key in ENTRIES else key.__name__] = rule
    return Rules(kinds, named)


def apart_from_zero(x: Tree) -> Tree:
    """x with its exact zeros a little off: what has a share of the relevance there could not be a multiple of 0."""
    return map_tensors(lambda t: torch.where(t == 0, nothing(t.dtype), t).to(t.dtype) if t.is_floating_point() else t, x)
