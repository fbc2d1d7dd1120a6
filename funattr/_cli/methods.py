"""``funattr methods``: which methods there are; and how the command calls each."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import funattr as fa

from ..dataset._names import COMPOSED, SHORT, NoSuchName, meant, method_named
from .options import add_command
from .words import mistake

#: Those whose attributions sum to F(x) - F(baseline).
COMPLETE = ("integrated_gradients", "conductance", "deep_lift", "deep_lift_shap")

#: What explains nothing by itself.
_OTHERS = ("value_and_gradient", "activation", "game", "convergence_delta", "absorbed")

_EXAMPLES = """\
  funattr methods
  funattr explain cat.png --model resnet50 --method ig,grad_cam     the names go to --method
"""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    add_command(commands, "methods", "List the attribution methods and the combinators.", _EXAMPLES, run)


def run(arguments: argparse.Namespace) -> None:
    """Print a table: name, where it works, one line of description."""
    combinators = [name for name in fa.__all__ if "method" in _parameters(getattr(fa, name)) and name != "export"] + ["under"]
    width = max(map(len, [*names(), *combinators]))
    print("Methods, for --method and from Python. They work at the input and at any layer, those with a * at a layer only.")
    for name in names():
        print(f"  {name + ' *' * is_cam(name):{width}}  {_first_line(method_named(name))}")
    print(f"\nShort: {', '.join(f'{alias} for {name}' for alias, name in SHORT.items())}.")
    print("\nCombinators, from Python: take a method, return a method with the same arguments.")
    for name in combinators:
        print(f"  {name:{width}}  {_first_line(getattr(fa, name))}")


def names() -> list[str]:
    """The methods: public functions of a model and an input that give an attribution."""
    takes = {name: set(_parameters(getattr(fa, name))) for name in fa.__all__}
    found = [name for name, taken in takes.items() if {"model", "x"} <= taken and taken & {"create_graph", "target"}]
    return sorted([name for name in found if name not in _OTHERS] + list(COMPOSED))


def checked(name: str) -> str:
    """The full name of a method."""
    full = SHORT.get(name, name)
    if full not in names():
        known = [*names(), *SHORT]
        raise mistake(f"there is no method {name!r}{meant(name, known, len(known))}")
    return full


def is_name(name: str) -> bool:
    """Whether a word names a method."""
    try:
        method_named(name)
    except NoSuchName:
        return False
    return ":" not in name


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """What a method takes."""
    return _parameters(method_named(name))


def missing(name: str) -> list[str]:
    """What the method cannot do without, and the command has no way to give."""
    needed = [
        key for key, value in parameters(name).items() if value.default is value.empty and value.kind is value.KEYWORD_ONLY
    ]
    return [key for key in needed if key not in ("layer", "baselines", "feature_mask", "window", "generator")]


def is_cam(name: str) -> bool:
    """Whether it makes a map of a layer, and so cannot do without one."""
    layer = parameters(name).get("layer")
    return layer is not None and layer.default is inspect.Parameter.empty


def call(name: str, model: Any, x: Any, options: dict[str, Any]) -> Any:
    """The attribution, with the options that the method takes."""
    method = method_named(name)
    taken = _parameters(method)  # eigen_cam explains no class
    return method(model, x, **{key: value for key, value in options.items() if key in taken})


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]
