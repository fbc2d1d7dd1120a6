"""What goes to another process, as bytes: functions made of functions, too, which pickle does not take."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import threading
import types
from typing import Any

import torch


def shipped(value: Any) -> bytes:
    """The bytes of a value, to be read by `pickle.loads`.

    Raises:
        TypeError: something in it cannot leave the process; the message says what, and what to do.
    """
    try:
        import cloudpickle
    except ModuleNotFoundError:
        cloudpickle = None
    try:
        if cloudpickle is None:
            return pickle.dumps(value)
        buffer = io.BytesIO()
        _pickler(cloudpickle)(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
        return buffer.getvalue()
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        cure = "give them by name ('module:function'), or work in one process: workers=1, engine='local'"
        missing = "" if cloudpickle is not None else " pip install cloudpickle would send functions made of functions."
        raise TypeError(f"run(): method, model and data go to other processes, and {error}: {cure}.{missing}") from error


def _pickler(cloudpickle: Any) -> Any:
    """cloudpickle's, which takes a function apart; what this package holds once per process goes by name."""
    ours = {
        id(value): (module, name)
        for module, loaded in list(sys.modules.items())
        if module.split(".")[0] == "funattr"
        for name, value in list(vars(loaded).items())
        if isinstance(value, threading.local)
        or (type(value).__module__.startswith("funattr") and not isinstance(value, (type, types.ModuleType)))
    }

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        def reducer_override(self, value: Any) -> Any:
            if id(value) in ours:
                return _named, ours[id(value)]
            if isinstance(value, torch.Generator):  # drawn from by (seed, id): the state does not matter
                return torch.Generator, (value.device,)
            return super().reducer_override(value)

    return Pickler


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)
