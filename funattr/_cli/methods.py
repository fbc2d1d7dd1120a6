"""``funattr methods``: which methods there are; and how the command calls each."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import funattr as fa

from .options import add_command
from .words import choices, mistake

#: Short names, for the hand.
ALIASES = {
    "gradcam": "grad_cam",
    "guided_gradcam": "guided_grad_cam",
    "ig": "integrated_gradients",
    "deeplift": "deep_lift",
    "ablation": "feature_ablation",
    "smooth_grad": "smoothgrad",
}
#: Compositions with a name, and what they are.
COMPOSED = {"smoothgrad": "noise_tunnel(saliency): the mean saliency over noisy inputs."}
#: Those whose attributions sum to F(x) - F(baseline).
COMPLETE = ("integrated_gradients", "conductance", "deep_lift", "deep_lift_shap")

_EXAMPLES = """\
  funattr methods
  funattr explain cat.png --model resnet50 --method ig,grad_cam     the names go to --method
"""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    add_command(commands, "methods", "List the attribution methods and the combinators.", _EXAMPLES, run)


def run(arguments: argparse.Namespace) -> None:
    """Print a table: name, where it works, one line of description."""
    combinators = [name for name in fa.__all__ if "method" in _parameters(getattr(fa, name))]
    width = max(map(len, [*names(), *combinators]))
    print("Methods, for --method and from Python. They work at the input and at any layer, those with a * at a layer only.")
    for name in names():
        print(f"  {name + ' *' * is_cam(name):{width}}  {describe(name)}")
    print(f"\nShort: {', '.join(f'{alias} for {name}' for alias, name in ALIASES.items())}.")
    print("\nCombinators, from Python: take a method, return a method with the same arguments.")
    for name in combinators:
        print(f"  {name:{width}}  {_first_line(getattr(fa, name))}")


def names() -> list[str]:
    """The methods: public functions of a model and an input that give an attribution."""
    found = [name for name in fa.__all__ if {"model", "x", "create_graph"} <= set(_parameters(getattr(fa, name)))]
    return sorted([name for name in found if name not in ("value_and_gradient", "activation")] + list(COMPOSED))


def checked(name: str) -> str:
    """The full name of a method."""
    full = ALIASES.get(name, name)
    if full not in names():
        known = [*names(), *ALIASES]
        raise mistake(f"there is no method {name!r}{choices(name, known, len(known))}")
    return full


def describe(name: str) -> str:
    return COMPOSED.get(name) or _first_line(getattr(fa, name))


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """What a method takes."""
    if name == "smoothgrad":
        taken = _parameters(fa.saliency)
        return {**taken, **{key: value for key, value in _parameters(fa.noise_tunnel).items() if key in _NOISE}}
    return _parameters(getattr(fa, name))


_NOISE = ("n_samples", "generator", "chunk_size")


def missing(name: str) -> list[str]:
    """What the method cannot do without, and the command has no way to give."""
    needed = [
        key for key, value in parameters(name).items() if value.default is value.empty and value.kind is value.KEYWORD_ONLY
    ]
    return [key for key in needed if key not in ("layer", "baselines", "feature_mask", "generator")]


def is_cam(name: str) -> bool:
    """Whether it makes a map of a layer, and so cannot do without one."""
    layer = parameters(name).get("layer")
    return layer is not None and layer.default is inspect.Parameter.empty


def call(name: str, model: Any, x: Any, options: dict[str, Any]) -> Any:
    """The attribution, with the options that the method takes."""
    if name != "smoothgrad":
        function = getattr(fa, name)
        taken = _parameters(function)  # eigen_cam explains no class
        return function(model, x, **{key: value for key, value in options.items() if key in taken})
    noise = {key: options.pop(key) for key in _NOISE if key in options}
    value = x if not isinstance(x, dict) else fa.activation(model, x, layer=options["layer"])
    spread = 0.15 * float(value.max() - value.min())  # the paper's 10% to 20% of the range
    return fa.noise_tunnel(fa.saliency, **{"n_samples": 25, "stdevs": spread, **noise})(model, x, **options)


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]
