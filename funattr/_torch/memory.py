"""The memory of a tensor: who shares it, how long it lives, how often it was written to."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch

# The memory of a tensor by a reference that does not hold it.
from torch.multiprocessing.reductions import StorageWeakRef

from .tensors import is_plain
from .traces import observed_by_dispatch_mode, tracing
from .transforms import is_wrapped, plain_data, transforms_active, without_transforms


def alone_in_memory(value: torch.Tensor) -> bool:
    """Whether no other tensor, no view and no graph holds the memory of `value`; False where torch does not tell."""
    if _owners is None or is_wrapped(value) or not is_plain(value) or value.layout is not torch.strided:
        return False
    return _owners_of(value) <= _ALONE


_owners: Any = getattr(torch._C, "_storage_Use_Count", None)


def _owners_of(value: torch.Tensor) -> int:
    return int(_owners(value.untyped_storage()._cdata))


#: Of one tensor; in some torch versions, not in 2.4, the storage as Python has it counts besides.
_ALONE = 0 if _owners is None else _owners_of(torch.empty(1, device="cpu"))


def times_written(value: torch.Tensor) -> int:
    """How often the memory of `value` was written to, as torch counts it; 0 where it does not."""
    # What a vmap shows of a tensor does not count.
    return 0 if tracing() or value.is_inference() else plain_data(value)._version


@functools.lru_cache(64)
def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=device)


_SMALL = 1 << 14  # numbers, which cost less to hold than to let go


class Writes:
    """How often the memory of a tensor was written to, also later. What is large is not held."""

    def __init__(self, value: torch.Tensor) -> None:
        value = plain_data(value)
        self._counter = value
        # Not where taking its data away would be seen.
        if value.numel() > _SMALL and type(value) is torch.Tensor and not (value.is_inference() or observed_by_dispatch_mode()):
            with without_transforms() if transforms_active() else contextlib.nullcontext():
                self._counter = value.detach()
                self._counter.data = _nothing(value.dtype, value.device)  # which counts on with the others
        self.noted = times_written(value)

    @property
    def as_noted(self) -> bool:
        return times_written(self._counter) == self.noted


class Memory(Writes):
    """The memory of a tensor, known for as long as it lives."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__(value)
        self._lives = StorageWeakRef(value.untyped_storage())

    @property
    def gone(self) -> bool:
        return bool(self._lives.expired())
