"""What a name stands for: a method, by its own name or a short one; anything else as ``module:name``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

import funattr as fa

from ._trees import mapped

#: Short names, for the hand.
SHORT = {
    "gradcam": "grad_cam",
    "guided_gradcam": "guided_grad_cam",
    "ig": "integrated_gradients",
    "deeplift": "deep_lift",
    "ablation": "feature_ablation",
    "smooth_grad": "smoothgrad",
}
_NOISE = 0.15  # of the range of an example: in the paper's 10% to 20%


class NoSuchName(ValueError):
    """A name that stands for nothing; the message says what was meant."""


def smoothgrad(
    model: Any,
    x: Any,
    *,
    layer: Any = None,
    target: Any = None,
    n_samples: int = 25,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Any:
    """The mean saliency over noisy inputs, noise_tunnel(saliency); the noise is 15% of the range of each example."""
    shown = x if layer is None or isinstance(x, torch.Tensor) else fa.activation(model, x, layer=layer)
    where = {} if layer is None else {"layer": layer}

    def alone(row: int) -> Any:
        spread = [_NOISE * float(t[row].max() - t[row].min()) for t in _leaves(shown) if t.is_floating_point()]
        noise = fa.noise_tunnel(
            fa.saliency,
            n_samples=n_samples,
            stdevs=spread[0] if len(spread) == 1 else spread,
            generator=generator,
            chunk_size=chunk_size,
        )
        own = target[row : row + 1] if isinstance(target, (list, torch.Tensor)) else target
        return noise(model, mapped(lambda t: t[row : row + 1], x), target=own, **where)

    rows = [alone(row) for row in range(len(_leaves(x)[0]))]
    return rows[0] if len(rows) == 1 else mapped(lambda *leaves: torch.cat(leaves), *rows)


def _leaves(tree: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    mapped(found.append, tree)
    return found


#: Compositions that have a name here, where names are given as text.
COMPOSED: dict[str, Callable[..., Any]] = {"smoothgrad": smoothgrad}


def method_named(name: str) -> Callable[..., Any]:
    """The method of a name: of this library, a short name for one, or ``module:name``.

    Raises:
        NoSuchName: there is none.
    """
    if ":" in name:
        found = at(name)
    else:
        full = SHORT.get(name, name)
        found = COMPOSED.get(full) or (getattr(fa, full, None) if full in _methods() else None)
    if not callable(found):
        raise NoSuchName(f"there is no method {name!r}{meant(name, [*_methods(), *COMPOSED, *SHORT], 50)}")
    method: Callable[..., Any] = found
    return method


def _methods() -> list[str]:
    """Public functions of a model and an input, but for those that give no tensors."""
    found = [name for name in fa.__all__ if callable(f := getattr(fa, name)) and _leading(f) == ["model", "x"]]
    return [name for name in found if name not in ("layers", "game")]


def _leading(f: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(f).parameters)[:2]


def at(name: str) -> Any:
    """What ``module:attribute`` names; the current folder is looked in.

    Raises:
        NoSuchName: there is no such module, or nothing of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    found: Any = imported(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if not (key.startswith("_") or isinstance(value, ModuleType))]
            raise NoSuchName(f"{module_name} has no {part!r}{meant(part, known)}")
        found = getattr(found, part)
    return found


def imported(name: str) -> ModuleType:
    """A module; what it raises itself when it is imported passes.

    Raises:
        NoSuchName: there is none of that name.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        here = sorted(file.removesuffix(".py") for file in os.listdir() if file.endswith(".py"))
        hint = meant(name, here) if here else ": it is neither installed nor in the current folder."
        raise NoSuchName(f"there is no module {name!r}{hint}") from error


def meant(name: str, known: Sequence[str], most: int = 12) -> str:
    """The end of a sentence about a wrong name: the one that was meant, or those there are."""
    same = [each for each in known if each.lower() == name.lower()]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or same
    if close:
        return f": did you mean {close[0]!r}?"
    return f": choose one of {listed(known, most)}." if known else "."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def legible(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8, and that no text can hold, as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
