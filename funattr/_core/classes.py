"""Classes by name, where the model knows the names: in `config.id2label`, or in a list or dictionary `classes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .._habits import did_you_mean
from .._types import Model, Target
from .._words import complaint
from .where import bind, held_by


def named(arguments: dict[str, Any], model: Model) -> dict[str, Any]:
    """The arguments of a call, with the numbers of the classes that the target names."""
    target = arguments.get("target")
    if not isinstance(target, (str, list)):
        return arguments
    return {**arguments, "target": numbered(target, model)}


def numbered(target: Target, model: Model) -> Target:
    """The target with numbers in place of the names of classes, alone or in a list, one per example."""
    if isinstance(target, str) and target != "argmax":
        return _number(target, _names(model))
    if isinstance(target, list) and any(isinstance(each, str) for each in target):
        names = _names(model)
        return [_number(each, names) if isinstance(each, str) else each for each in target]
    return target


def _names(model: Model) -> dict[int, str]:
    """What the model calls its classes; nothing where it does not say."""
    module: nn.Module | None = bind(model).root
    while module is not None:
        config = getattr(module, "config", None)
        of_either: list[Any] = [getattr(config, "id2label", None), getattr(module, "classes", None)]
        for found in of_either:
            pairs: Any = (
                found.items() if isinstance(found, Mapping) else enumerate(found if isinstance(found, (list, tuple)) else ())
            )
            names = {int(number): name for number, name in pairs if isinstance(name, str)}
            if names:
                return names
        module = held_by(module)
    return {}


def _number(wanted: str, names: dict[int, str]) -> int:
    """The class of that name: as it is written, else in any case, else one of synonyms with commas between them."""
    if not names:
        text = (
            f"target={wanted!r} is a name, and the model does not say those of its classes (config.id2label, or a list classes)"
        )
        number = f"give the number, such as labels.index({wanted!r}), or 'argmax', the predicted one."
        raise complaint(ValueError, f"{text}: {did_you_mean(wanted, ['argmax'], number, 0.7)}")
    low = wanted.casefold()
    for same in (wanted.__eq__, lambda name: name.casefold() == low, lambda name: low in _synonyms(name)):
        found = [number for number, name in names.items() if same(name)]
        if len(found) > 1:
            listed = ", ".join(map(str, found[:8])) + ", ..." * (len(found) > 8)
            raise complaint(ValueError, f"target={wanted!r} is the name of several classes: choose by number, {listed}.")
        if found:
            return found[0]
    if wanted.lstrip("-").isdecimal():
        raise complaint(ValueError, f"target={wanted!r} is a text, and no class is called so: pass target={int(wanted)}.")
    known = ["argmax", *names.values(), *(part for name in names.values() for part in name.split(", "))]
    every = ", ".join(map(repr, [*names.values()][:8])) + ", ..." * (len(names) > 8)
    raise complaint(ValueError, f"the model has no class {wanted!r}. {did_you_mean(wanted, known, f'It has {every}.')}")


def _synonyms(name: str) -> list[str]:
    return [part.strip().casefold() for part in name.split(",")]
