"""Weights from a file, into a model that they fit: tensors only, never code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .words import listed, mistake, one_line

if TYPE_CHECKING:
    from torch import nn

#: What trainers call the weights among other things that they save.
_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
#: What wrappers put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_checkpoint(model: nn.Module, file: str) -> None:
    """Load the weights in `file`; nothing is loaded if they do not fit.

    Raises:
        argparse.ArgumentError: there is no such file, it holds more than tensors, or other weights than the model's.
    """
    found = _inside(_read(Path(file)), file)
    own = model.state_dict()
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found) and not any(name.startswith(prefix) for name in own):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    wrong = []
    if missing := [name for name in own if name not in found]:
        wrong.append(f"it lacks {listed(missing, 4)}")
    if unexpected := [name for name in found if name not in own]:
        wrong.append(f"the model has no {listed(unexpected, 4)}")
    other = [
        f"{name} is {list(value.shape)} in the file and {list(own[name].shape)} in the model"
        for name, value in found.items()
        if name in own and value.shape != own[name].shape
    ]
    if other:
        wrong.append(listed(other, 2))
    if wrong:
        raise mistake(f"the checkpoint {file!r} does not fit {type(model).__name__}: {'; '.join(wrong)}.")
    model.load_state_dict(found)


def _read(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise mistake(f"there is no checkpoint {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ModuleNotFoundError as error:
                raise ImportError('.safetensors files need safetensors: pip install "funattr[cli]".') from error
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # each format has errors of its own
        if path.suffix == ".safetensors":
            raise mistake(f"cannot read the checkpoint {str(path)!r}: {one_line(error)}") from error
        if not _of_torch(path):
            raise mistake(
                f"the checkpoint {str(path)!r} is no file that torch.save wrote, or not all of it: give one, or a "
                f".safetensors by that ending."
            ) from error
        if not isinstance(error, pickle.UnpicklingError):
            raise mistake(f"cannot read the checkpoint {str(path)!r}: {one_line(error)}") from error
        raise mistake(
            f"the checkpoint {str(path)!r} holds more than tensors, and loading it could run code: save the weights alone, "
            f"torch.save(model.state_dict(), {path.name!r})."
        ) from error


def _of_torch(path: Path) -> bool:
    """Whether torch.save can have written it: an archive, or a pickle as older versions did."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def _inside(found: Any, file: str) -> dict[str, Any]:
    import torch

    for key in _KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise mistake(f"the checkpoint {file!r} holds no state_dict (names with tensors), but {type(found).__name__}.")
    return dict(found)
