"""The rules that a caller gives, made ready: keys that are known, values that can be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..._habits import did_you_mean
from ..._torch import tracing
from ..._types import Tree, map_tensors
from ..._words import complaint
from ..lift.table import BARE, ENTRIES, NAMES
from ..spelled import called
from .flows import nothing
from .operation import Flow

#: The kinds that keys of a dict of rules name.
KINDS = ("relu", "activation", "linear", "convolution", "first", "product", "softmax", "normalization")
#: What operations are called that a rule can be for by their function.
BY_FUNCTION = {name for entry in (*ENTRIES.values(), *BARE.values()) for name in (entry.name, called(entry.name))}

_PRODUCTS = [
    name for kind in ("product", "matrix product", "bilinear", "grouped product", "convolution") for name in NAMES[kind]
]
#: What multiplies by a weight.
WEIGHTED = {*map(called, _PRODUCTS), "linear", "addmm", "baddbmm", "addmv", "einsum", "bilinear"}


def prepared(rules: Any) -> Chosen:
    """The caller's rules by kind and by torch's names for operations."""
    if tracing():  # Dynamo sees what has been called before, or fails in its own words
        return _by_name(rules)
    name = getattr(rules, "__qualname__", ".")
    if "." not in name and rules.__module__.startswith(__package__):  # a function of fa.rules
        raise complaint(TypeError, f"rules must be a dict, got the function {name}: call it, fa.rules.{name}().")
    if not isinstance(rules, Mapping):
        text = f"rules must be a dict of an operation and its rule, got {type(rules).__name__}"
        raise complaint(TypeError, f"{text}: such as fa.rules.epsilon(), or {{'linear': rule}}.")
    for key, rule in rules.items():
        if not callable(rule):
            named = repr(key) if isinstance(key, str) else getattr(key, "__name__", repr(key))
            text = f"the rule for {named} must be callable, got {type(rule).__name__}"
            raise complaint(TypeError, f"{text}: a function of the operation and the gradient of its output.")
        if isinstance(key, str) and key not in KINDS:
            raise complaint(ValueError, f"there is no kind of operation {key!r}. {did_you_mean(key, KINDS)}")
        if not isinstance(key, str) and key not in ENTRIES and key not in BARE:
            text = f"{getattr(key, '__name__', repr(key))} is no operation of torch that a rule can be for"
            raise complaint(ValueError, f"{text}: use a function such as torch.tanh, or one of {', '.join(map(repr, KINDS))}.")
    return _by_name(rules)


class Chosen:
    """The rules that a caller has chosen, by kind and by torch's names."""

    def __init__(self, kinds: Mapping[str, Any], named: Mapping[str, Any]):
        self.kinds = dict(kinds)
        self.named = dict(named)

    def of(self, name: str, *kinds: str) -> tuple[str, Any] | None:
        """The narrowest rule for an operation of that name and of these kinds, the narrowest of which comes first."""
        if name in self.named:
            return name, self.named[name]
        return next(((kind, self.kinds[kind]) for kind in kinds if kind in self.kinds), None)


def _by_name(rules: Any) -> Chosen:
    kinds, named = {}, {}
    for key, rule in rules.items():
        if isinstance(key, str):
            kinds[key] = rule
        else:
            named[called((ENTRIES.get(key) or BARE[key]).name)] = rule
    return Chosen(kinds, named)


def check_weighted(rule: Flow, name: str) -> None:
    """Refuse a rule that runs an operation with other weights for one that has none."""
    if rule.remakes and name not in WEIGHTED:
        text = f"the rule {rule.name} looks at the weights of an operation, and {name} has none: it is for 'linear', "
        raise complaint(ValueError, f"{text}'convolution' and 'first'. Sums and means take fa.rules.epsilon()['linear'].")


def apart_from_zero(x: Tree) -> Tree:
    """x with its exact zeros a little off: what has a share of the relevance there could not be a multiple of 0."""
    return map_tensors(lambda t: torch.where(t == 0, nothing(t.dtype), t).to(t.dtype) if t.is_floating_point() else t, x)
