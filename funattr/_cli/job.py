"""What a run needs of a model that the command names: in this process, and in those that compute."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..dataset._pictures import names_in
from . import methods
from .how import OPTIONS, options_of, where_of
from .inputs import Item, read
from .load import load, warn_of
from .options import numbers, size
from .pictures import ready as made_ready
from .sites import Layers
from .source import Source
from .targets import number_of, scores_of
from .words import mistake

#: The options of a command that say how a model and its inputs are made ready.
READY = ("checkpoint", "weights", "labels", "size", "mean", "std", "channels")
_LIKE_A_MODEL = ("checkpoint", "weights")


class Ready(NamedTuple):
    """The options that say which model it is, and how its inputs are made ready: as JSON holds them."""

    options: dict[str, Any]

    def source(self) -> Source:
        return source_of(json.dumps(self.options, sort_keys=True))

    def model(self) -> Any:
        """A function that makes the model, for each process that computes."""
        given = {key: self.options[key] for key in _LIKE_A_MODEL if self.options[key] is not None}
        return Made(self.options["model"], given, self.options)

    def target(self, wanted: Any) -> Any:
        """A class by name or by number as `run` takes it."""
        if not isinstance(wanted, str) or wanted in ("argmax", "data"):
            return wanted
        if wanted.isdecimal():
            return int(wanted)
        classes = self.source().classes
        return number_of(wanted, len(classes or ()), classes)

    def complete(self, root: Path, target: Any, options: dict[str, dict[str, Any]]) -> dict[str, str | None]:
        """Give each method what the command gives it for one picture: a layer, baselines, squares to take away.

        The first picture that can be read stands for all. Returned is where each method looks.
        """
        source, arguments = self.source(), namespace(self.options)
        warn_of(source, arguments)
        print(f"{'model':13s}{source.title}", flush=True)
        names = names_in(root)
        given = _first(source, root, names, arguments)
        wanted = int(scores_of(source, given.x).argmax()) if target in ("argmax", "data") else target
        print(f"{'data':13s}{len(names)} pictures in {root}; {given.told}", flush=True)
        layers, found = Layers(source, given.x), dict[str, str | None]()
        for name, own in options.items():
            if not methods.is_name(name):
                found[name] = None
                continue
            where = where_of(name, given, wanted, layers, own.pop("layer", None))
            for_one = argparse.Namespace(**dict.fromkeys(OPTIONS), device="cpu", seed=0)
            taken = options_of(name, source, given, where, for_one)
            if "feature_mask" in taken:
                taken["feature_mask"] = taken["feature_mask"].mask
            taken.pop("generator", None)  # what is drawn depends on the run's seed and on the id
            own |= {**taken, **{key: value for key, value in own.items() if key in methods.parameters(name)}}
            for key in [key for key in own if key not in methods.parameters(name)]:
                del own[key]
            found[name] = None if where is None else where.name
            place = "at the input" if where is None else f"at {where.name}" + (f" ({where.chosen})" if where.chosen else "")
            print(f"{'method':13s}{name} {place}", flush=True)
        return found


def _first(source: Source, root: Path, names: Sequence[str], options: argparse.Namespace) -> Any:
    error: argparse.ArgumentError | None = None
    for name in names:
        try:
            return read(source, Item(name, file=root / name), options)
        except argparse.ArgumentError as found:
            error = error or found
    assert error is not None
    raise error


class Made:
    """A factory: of the model alone, whatever else is known of it. A run is known by what this says of itself."""

    def __init__(self, name: str, given: Mapping[str, Any], options: dict[str, Any]) -> None:
        self.options = options
        told = ", ".join(f"{key}={value!r}" for key, value in given.items())
        self.about = f"{name}({told})" if told else name

    def __call__(self) -> Any:
        return source_of(json.dumps(self.options, sort_keys=True)).model


class Prepared:
    """A transform: a picture to the model's input. `about` belongs to what a run is: other inputs give other results."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.about = {key: options[key] for key in ("size", "mean", "std", "channels")}

    def __call__(self, image: Any) -> Any:
        source, options = source_of(json.dumps(self.options, sort_keys=True)), namespace(self.options)
        return made_ready(source, image, "the picture", options).x[0]


def ready_for(model: Any, given: Mapping[str, Any], job: Mapping[str, Any]) -> Ready:
    """The options of a job, as the options of a command are spelled or as TOML has them."""
    if not isinstance(model, str):
        raise mistake(f"model must be text, such as my_net:build, got {model!r}.")
    for key in ("checkpoint", "weights", "labels"):
        if not isinstance(given.get(key, ""), str):
            raise mistake(f"{key} must be text, got {given[key]!r}.")
    if given.get("channels", 3) not in (1, 3):
        raise mistake(f"channels must be 1 or 3, got {given['channels']!r}.")
    options: dict[str, Any] = {"model": model, **dict.fromkeys(READY), **given}
    for key, parse in (("size", size), ("mean", numbers), ("std", numbers)):
        value = options[key]
        if isinstance(value, (int, float)):
            value = str(value)
        if isinstance(value, str):
            try:
                value = parse(value)
            except argparse.ArgumentTypeError as error:
                raise mistake(f"{key} {error}") from None
        options[key] = None if value is None else list(value)
    return Ready(options)


@functools.lru_cache(maxsize=1)
def source_of(options: str) -> Source:
    """The model of these options, once in a process."""
    return load(namespace(json.loads(options)))


def namespace(options: Mapping[str, Any]) -> argparse.Namespace:
    """The options as a command has them."""
    return argparse.Namespace(**{**options, "device": "cpu", "lines": False})
