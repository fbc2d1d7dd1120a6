"""pyarrow, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any


def needs_pyarrow(name: str = "pyarrow") -> Any:
    """The module, imported when it is first needed.

    Raises:
        ImportError: pyarrow is not installed; the message says how to.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError('data sets need pyarrow: pip install "funattr[dataset]".') from error
