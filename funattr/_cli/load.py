"""The model that the options name, wherever it comes from, on its device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .checkpoint import load_checkpoint
from .libraries import by_name, from_transformers
from .own import from_code
from .source import Source
from .words import answered, listed, mistake, warn


def load(options: argparse.Namespace) -> Source:
    """The model that the options name, on its device, in eval mode.

    Raises:
        argparse.ArgumentError: there is none, or something does not fit.
        ImportError: a library is missing.
    """
    device = device_of(options.device)
    name = options.model
    if Path(name).is_dir():
        source = from_transformers(name, options)
    elif is_code(name):
        source = from_code(name, options)
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


def warn_of(source: Source, options: argparse.Namespace) -> None:
    """Say what makes attributions worth little: weights that nobody trained, values unlike those of the training."""
    if source.random:
        warn(
            f"the weights are random ({listed(source.random, 3)}): {options.model} makes others each time, and no --checkpoint "
            "was given.",
        )
    if source.image is None and options.mean is not None and max(options.mean) > 1:
        warn(
            f"--mean {','.join(f'{value:g}' for value in options.mean)} is subtracted from values in [0, 1]: divide a mean of "
            "values up to 255, and its --std, by 255.",
        )
    if source.trained_with and options.mean is None and options.std is None:
        warn(
            f"values are not normalised, and the library's own weights were trained with {source.trained_with}: if yours were, "
            "give these options.",
        )


def is_code(name: str) -> bool:
    """Whether a model is named as ``module:name``."""
    return ":" in name and not name.startswith(("hf-hub:", "hf_hub:", "timm/hf-hub:"))


def device_of(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # on "meta" there is no number
    except Exception as error:  # each backend has errors of its own, some of many lines
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *["mps"] * torch.backends.mps.is_available()]
        why = " ".join(str(error).split()).partition(". ")[0]
        raise mistake(f"there is no device {name!r} here: torch finds {listed(found)} ({why}).") from error
    return device


def _labels(path: Path) -> list[str]:
    if not path.is_file():
        raise mistake(f"there is no file {str(path)!r} of labels.")
    with answered(f"cannot read the labels {str(path)!r}"):
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            found = json.loads(text)
            if isinstance(found, dict):  # {"0": "cat", ...}
                by_number = {int(key): str(name) for key, name in found.items()}
                return [by_number.get(i, f"class {i}") for i in range(max(by_number) + 1)]
            return [str(name) for name in found]
    return text.splitlines()
