"""What a call holds in its thread."""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor


class _Here(threading.local):
    inside = False  # a method called by another method or a combinator is not checked, or warned about, again
    state: Any = None  # what the model keeps of a pass
    chance: Any = None  # the draws of its passes
    scores: list[tuple[Tensor, str]] | None = None  # of its passes, and where; None: nobody will look at them
    looked: frozenset[Any] = frozenset()  # sites that were looked at by again.py


here = _Here()
