"""Models that look at data: other rows than those of the batch tell them something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Branch(BaseException):
    """Control flow that looks at data. A BaseException: models catch Exception."""


class NoBranches(TorchFunctionMode):
    """A branch on the data of many points at once is not the branch that each would take. And how many rows there are after
    a mask, or of one kind, is another number at each point: what a row meets of others at one shows nothing of the next."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looks = _LOOKS.get(func)
        if looks is not None and looks(*args, **(kwargs or {})):
            raise Branch
        return func(*args, **(kwargs or {}))


def _masks(index: Any) -> bool:
    parts = index if isinstance(index, (tuple, list)) else [index]
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


def _puts(t: Any, index: Any = None, value: Any = None, *args: Any, **kwargs: Any) -> bool:
    """One number is put wherever the mask says, row by row."""
    return _masks(kwargs.get("indices", index)) and getattr(kwargs.get("values", value), "numel", int)() > 1


def _given(*args: Any, **kwargs: Any) -> bool:
    return any(isinstance(arg, Tensor) for arg in (*args, *kwargs.values()))


def _both(names: str, looks: Callable[..., bool]) -> dict[Any, Callable[..., bool]]:
    return {getattr(space, name): looks for name in names.split() for space in (torch, Tensor) if hasattr(space, name)}


#: What reads data, where it does. Not `in`: transformers asks whether ids hold the one for padding, for a warning, in each
#: call without a mask.
_LOOKS: dict[Any, Callable[..., bool]] = {
    **_both("__bool__ __float__ __int__ __index__ __complex__ __array__ __dlpack__ item tolist numpy", _given),
    **_both("is_nonzero equal allclose nonzero argwhere unique unique_consecutive bincount arange", _given),
    **_both("masked_select masked_scatter masked_scatter_", _given),
    **_both("where", lambda *args, **kwargs: len(args) + len(kwargs) == 1),
    **_both("repeat_interleave", lambda t, *args, **kwargs: not (args or kwargs) or _given(*args, **kwargs)),
    Tensor.__getitem__: lambda t, index: _masks(index),
    **_both("__setitem__ index_put index_put_", _puts),
}
