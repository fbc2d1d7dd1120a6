"""Where a model comes from: code of the user's, or a library; what is known of it, and of the inputs it wants."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoint import load_checkpoint
from .words import answered, choices, mistake, one_line

if TYPE_CHECKING:
    from torch import nn


class Source(NamedTuple):
    """A model, and what is known of it."""

    model: nn.Module
    title: str
    """The name, and where the weights are from."""
    image: Callable[[Any], Any] | None = None
    """Makes an image of pillow ready: a tensor ``[C, H, W]``, or with a batch. None: by --size, --mean and --std."""
    text: Callable[[str], Any] | None = None
    """Makes a text ready: a pair of the input and its tokens."""
    how: str = ""
    """Whose preprocessing that is."""
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channels: int | None = None
    classes: Sequence[str] | None = None
    tokenizer: Any = None


def load(options: argparse.Namespace) -> Source:
    """The model that the options name, on its device, in eval mode.

    Raises:
        argparse.ArgumentError: there is none, or something does not fit.
        ImportError: a library is missing.
    """
    from .libraries import by_name, from_transformers

    device = _device(options.device)
    name = options.model
    if Path(name).is_dir():
        source = from_transformers(name, options)
    elif ":" in name and not name.startswith(("hf-hub:", "hf_hub:", "timm/hf-hub:")):
        source = _from_code(name, options)
    else:
        source = by_name(name, options)
    if options.checkpoint is not None:
        load_checkpoint(source.model, options.checkpoint)
        source = source._replace(title=f"{source.title}, weights of {options.checkpoint}")
    if options.labels is not None:
        source = source._replace(classes=_labels(Path(options.labels)))
    with answered(f"cannot move the model to {options.device}"):
        source.model.to(device).eval()
    return source


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # each backend has errors of its own
        raise mistake(f"there is no device {name!r} here: {one_line(error)}") from error
    return device


# Code of the user's.


def _from_code(name: str, options: argparse.Namespace) -> Source:
    from torch import nn

    module_name, _, attribute = name.partition(":")
    if options.weights is not None:
        raise mistake("--weights chooses among those of torchvision and timm: give the file of yours with --checkpoint.")
    if module_name.endswith(".py"):
        suggestion = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise mistake(f"--model names a module, not a file: write {suggestion}:{attribute}")
    module = imported(module_name)
    factory: Any = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            known = [key for key, value in vars(factory).items() if callable(value) and not key.startswith("_")]
            what = f"{module_name} has no {part!r}" if part else f"--model {name} names no factory in {module_name}"
            raise mistake(what + (choices(part, known) if known else ", and nothing else that makes a model."))
        factory = getattr(factory, part)
    model = factory
    if isinstance(factory, type) or not isinstance(factory, nn.Module):
        if not callable(factory):
            raise mistake(f"{name} is neither a model nor something that makes one: it is of type {type(factory).__name__}.")
        with answered(f"{name} did not make a model"):
            model = factory()
    if not isinstance(model, nn.Module):
        raise mistake(f"{name} made no torch.nn.Module, but {type(model).__name__}: give the function that returns the model.")
    preprocess, classes = (
        next((found for place in (model, factory, module) if (found := getattr(place, what, None)) is not None), None)
        for what in ("preprocess", "classes")
    )
    how = f"by {module_name}'s preprocess" if preprocess is not None else ""
    return Source(model, f"{name} ({type(model).__name__})", preprocess, preprocess, how, classes=classes)


def imported(name: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            here = [path.stem for path in Path.cwd().glob("*.py")]
            hint = choices(name, here) if here else ": it is neither installed nor in the current folder."
            raise mistake(f"there is no module {name!r}{hint}") from error
        raise mistake(f"the module {name!r} cannot be imported: {one_line(error)}") from error
    except Exception as error:
        raise mistake(f"the module {name!r} cannot be imported: {one_line(error)}") from error


def _labels(path: Path) -> list[str]:
    if not path.is_file():
        raise mistake(f"there is no file {str(path)!r} of labels.")
    with answered(f"cannot read the labels {str(path)!r}"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text)
            if isinstance(found, dict):  # {"0": "cat", ...}
                return [str(found[key]) for key in sorted(found, key=int)]
            return [str(name) for name in found]
    return text.splitlines()
