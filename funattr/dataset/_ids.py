"""Sets of ids that stay small: integers take 8 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ._names import legible

#: What names an example: an integer of 64 bits, or text. All ids of a run are of one kind.
Id: TypeAlias = int | str

_MANY = 1 << 16


def as_id(value: Any) -> Id:
    """An id as Python's own int or str.

    Raises:
        TypeError: it is neither.
        ValueError: it is text that no file can hold: a file's name that is no UTF-8.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # of numpy, or a tensor
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        what = f" {value!r}" if value is None or isinstance(value, (bool, float, bytes)) else ""  # and not all of a picture
        raise TypeError(f"an id must be an integer or text, got {type(value).__name__}{what}.")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise TypeError(f"an id must fit 64 bits, got {value}: give it as text.")
    if isinstance(value, str) and legible(value) != value:
        text = f"the id '{legible(value)}' is not UTF-8, and no file of results can hold it"
        raise ValueError(f"{text}: rename the file that it names.")
    return value


def seed_of(seed: int, identity: Id, stream: int | str = 0) -> int:
    """A seed of 63 bits that depends on the run's seed, the example's id and the stream, and on nothing else."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{identity!r}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def state_of(generator: torch.Generator) -> bytes:
    """Where a generator is: as bytes, which compare faster than tensors."""
    return generator.get_state().numpy().tobytes()


class Ids:
    """A set of ids. Integers lie in a sorted array, those that came last in a set; text is in a set."""

    def __init__(self, ids: Iterable[Id] = ()) -> None:
        self.sorted = np.empty(0, np.int64)
        self.fresh: set[Id] = set()
        self.add(ids)

    def add(self, ids: Iterable[Id]) -> None:
        self.fresh.update(ids)
        if len(self.fresh) > _MANY and all(isinstance(i, int) for i in self.fresh):
            self.sorted = np.union1d(self.sorted, np.fromiter(self.fresh, np.int64, len(self.fresh)))
            self.fresh = set()

    def __contains__(self, identity: Id) -> bool:
        if identity in self.fresh:
            return True
        if not len(self.sorted) or not isinstance(identity, int):
            return False
        place = int(np.searchsorted(self.sorted, identity))
        return place < len(self.sorted) and int(self.sorted[place]) == identity

    def common(self, ids: Sequence[Id]) -> list[Id]:
        """Those of `ids` that are in the set."""
        if not len(self.sorted):
            return [] if self.fresh.isdisjoint(ids) else [i for i in ids if i in self.fresh]
        return [i for i in ids if i in self]

    def __or__(self, other: Ids) -> Ids:
        both = Ids(self.fresh | other.fresh)
        both.sorted = np.union1d(self.sorted, other.sorted)
        return both

    def __len__(self) -> int:
        return len(self.fresh) + len(self.sorted)
