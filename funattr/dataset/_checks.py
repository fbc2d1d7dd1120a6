"""What `run` looks at before it begins: numbers, flags and names."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._config import Storage
from ._model import is_model

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_POOLS = ("channel", "place", "token")


def check(model: Any, target: Any, storage: Storage, how: Any) -> None:
    if not isinstance(how.engine, str) or how.engine not in ("local", "ray"):
        raise ValueError(f"run(): there is no engine {how.engine!r}: use 'local' or 'ray'.")
    if is_model(model) and (how.workers > 1 or how.engine == "ray"):
        needs = f"engine={how.engine!r}" if how.engine == "ray" else f"workers={how.workers}"
        made = f"give the function that makes it, not the {type(_inner(model)).__name__}"
        raise TypeError(f"run(): {needs} needs a model that workers can make: {made}.")
    if how.shard is not None and how.engine == "ray":
        raise ValueError("run(): Ray shares the examples out by itself: leave out shard.")
    if storage.dtype is not None and not (isinstance(storage.dtype, str) and storage.dtype in _DTYPES):
        raise ValueError(f"run(): dtype must be one of {', '.join(_DTYPES)}, got {storage.dtype!r}.")
    if storage.pool is not None and not (callable(storage.pool) or (isinstance(storage.pool, str) and storage.pool in _POOLS)):
        raise ValueError(f"run(): pool must be one of {', '.join(_POOLS)} or a function, got {storage.pool!r}.")
    if isinstance(target, (list, dict)) or (isinstance(target, Tensor) and target.numel() > 1):
        raise TypeError(
            "run(): target holds for all examples: give each its own in the data, as (x, target), and target='data'."
        )
    if how.shard is not None and not _is_shard(how.shard):
        raise ValueError(f"run(): shard must be (rank, of how many) with a rank from 0, got {how.shard!r}.")


def check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"run(): seed must be an integer, got {seed!r}.")
    return int(seed)


def check_device(device: Any, here: bool) -> None:
    """That there is such a device, on this machine where workers compute `here`."""
    try:
        kind = torch.device("cpu" if device is None else device).type
    except (RuntimeError, TypeError, ValueError) as error:  # torch has no device of so large a number
        raise ValueError(f"run(): device must be such as 'cpu', 'cuda', 'cuda:1' or 'mps', got {device!r}.") from error
    # No driver is asked, which nobody may do before processes fork; and a cluster's workers may have what is not here.
    if here and kind in ("cuda", "mps") and not getattr(torch.backends, kind).is_built():
        raise ValueError(f"run(): there is no device {str(device)!r} here: this torch is built without {kind.upper()}.")


def check_folder(out: Any) -> None:
    if not isinstance(out, (str, PathLike)):
        raise TypeError(f"run(): out must be the name of a folder, got {type(out).__name__}.")
    if any(path.is_file() for path in (Path(out), *Path(out).parents)):
        raise ValueError(f"run(): out {str(out)!r} is a file, or in one, and must be a folder.")


def count(name: str, value: Any, *, least: int = 1, needed: bool = False) -> Any:
    """A number of things, which numpy may have counted; None where it is not said."""
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= sys.maxsize:
        kind = "a positive integer" if least else "an integer from 0 on"
        raise ValueError(f"run(): {name} must be {kind}, got {value!r}.")
    return int(value)


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False: "no" would count as True."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)) and not (value is None and name == "progress"):
            raise TypeError(f"run(): {name} must be True or False, got {value!r}.")


def check_notes(notes: Any) -> None:
    if notes is not None and not isinstance(notes, Mapping):
        raise TypeError(f"run(): notes must be a dict, got {type(notes).__name__}.")
    try:
        json.dumps(notes)
    except TypeError as error:
        raise TypeError(f"run(): notes must be what JSON holds: {error}.") from error


def _is_shard(given: Any) -> bool:
    pair = list(given) if isinstance(given, (tuple, list)) else []
    return len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair) and 0 <= pair[0] < pair[1]


def _inner(value: Any) -> Any:
    return _inner(value.func) if isinstance(value, partial) else value
