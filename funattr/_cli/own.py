"""Models from code of the user's: ``module:name``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..dataset._names import NoSuchName, at, imported
from .source import Source
from .words import answered, choices, mistake, one_line


def from_code(name: str, options: argparse.Namespace) -> Source:
    """The model that ``module:name`` is or makes, with the `preprocess` and the `classes` beside it.

    Raises:
        argparse.ArgumentError: there is none, or it is no model.
    """
    from torch import nn

    module_name, _, attribute = name.partition(":")
    if options.weights is not None:
        raise mistake("--weights chooses among those of torchvision and timm: give the file of yours with --checkpoint.")
    if module_name.endswith(".py"):
        suggestion = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise mistake(f"--model names a module, not a file: write {suggestion}:{attribute}")
    module, factory = _found(name, module_name, attribute)
    model, random = factory, list[str]()
    if isinstance(factory, type) or not isinstance(factory, nn.Module):
        if not callable(factory):
            raise mistake(f"{name} is neither a model nor something that makes one: it is of type {type(factory).__name__}.")
        with answered(f"{name} did not make a model"):
            model = factory()
            if options.checkpoint is None and isinstance(model, nn.Module):
                random = _random(model, factory)
    if not isinstance(model, nn.Module):
        raise mistake(f"{name} made no torch.nn.Module, but {type(model).__name__}: give the function that returns the model.")
    preprocess, classes = (
        next((found for place in (model, factory, module) if (found := getattr(place, what, None)) is not None), None)
        for what in ("preprocess", "classes")
    )
    title = f"{name} ({type(model).__name__})" + ", random weights" * bool(random)
    how = f"by {module_name}'s preprocess" if preprocess is not None else ""
    return Source(model, title, preprocess, preprocess, how, classes=classes or _configured(model), random=random)


def _found(name: str, module_name: str, attribute: str) -> tuple[Any, Any]:
    """A module, and what is named in it."""
    try:
        module = imported(module_name)
    except NoSuchName as error:
        raise mistake(str(error)) from error
    except Exception as error:
        raise mistake(f"the module {module_name!r} cannot be imported: {one_line(error)}") from error
    if not attribute:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        end = choices("", known) if known else ", and nothing else that makes a model."
        raise mistake(f"--model {name} names no factory in {module_name}{end}")
    with answered():
        return module, at(name)


def _random(model: Any, factory: Callable[[], Any]) -> list[str]:
    """The weights that the factory makes otherwise with another seed: nobody has trained these."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        other = factory()
    pairs = zip(model.named_parameters(), other.parameters())
    return [name for (name, a), b in pairs if a.shape == b.shape and not torch.equal(a.cpu(), b.cpu())]


def _configured(model: Any) -> Sequence[str] | None:
    """The names of classes that a model of transformers has in its configuration."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, dict) or not names or all(str(name) == f"LABEL_{i}" for i, name in names.items()):
        return None
    return [str(names.get(i, i)) for i in range(len(names))]
