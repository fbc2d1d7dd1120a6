"""What holds the state of a model, as mappings, slots and what a class holds for all its objects too; and putting it back."""

from __future__ import annotations

import operator
import sys
import types
from collections import deque
from collections.abc import Iterator, MutableMapping, MutableSet
from typing import Any

import numpy as np
from torch import Tensor

#: What a pass can change in a class; all else there is code, or says what the class is.
_DATA = (int, float, complex, list, dict, set, deque, tuple, np.ndarray, Tensor)
_NAMES: dict[type, tuple[str, ...]] = {}
LIBRARIES = {"torch", *sys.stdlib_module_names}
_KINDS: dict[type, bool] = {}
#: Elements of an array that is copied in each call: a table of counts, and no data set.
LARGEST = 1 << 20


class Attributes(MutableMapping[str, Any]):
    """Some attributes of an object, as a mapping."""

    def __init__(self, owner: Any, names: tuple[str, ...]) -> None:
        self.owner, self.names = owner, names

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self.names if hasattr(self.owner, name)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.owner, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self.owner, name)


def slots_of(value: Any) -> Attributes | None:
    """The slots of an object; None where it has none."""
    listed = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = tuple(name for slots in listed for name in ((slots,) if isinstance(slots, str) else slots))
    names = tuple(name for name in names if not name.startswith("__"))
    return Attributes(value, names) if names else None


def shared_by(kind: type) -> Attributes | None:
    """What a class itself holds that a pass can change; None if nothing."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(
            name
            for name, value in vars(kind).items()
            if isinstance(value, _DATA) and not isinstance(value, bool) and not name.startswith("__")
        )
    return Attributes(kind, _NAMES[kind]) if _NAMES[kind] else None


def rebind(holder: Any, before: Any) -> None:
    """Make `holder` hold what it held `before`, and write nothing where it does."""
    if isinstance(holder, MutableMapping):
        if len(holder) != len(before) or not all(map(operator.is_, holder.values(), before.values())):
            for name in [name for name in holder if name not in before]:
                del holder[name]
            for name, value in before.items():
                if name not in holder or holder[name] is not value:
                    holder[name] = value
    elif isinstance(holder, MutableSet):
        holder &= before
        holder |= before
    elif len(holder) != len(before) or not all(map(operator.is_, holder, before)):
        holder.clear()
        holder.extend(before)


def of_library(kind: type) -> bool:
    """Whether a kind of object is made by torch and the standard library alone."""
    if kind not in _KINDS:
        known = all(base.__module__.partition(".")[0] in LIBRARIES for base in kind.__mro__)
        _KINDS[kind] = known and kind is not types.SimpleNamespace
    return _KINDS[kind]
