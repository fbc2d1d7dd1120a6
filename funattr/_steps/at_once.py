"""A method mapped over targets, or over noisy inputs: what the code inside must know of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from .._core.door import may_read
from .._torch import is_plain, tracing, vmap_runs


class _Mapped(threading.local):
    extremes: tuple[int, ...] = ()
    count = 0  # of targets (or noisy inputs) at once, where it may be fewer


_mapped = _Mapped()


@contextlib.contextmanager
def mapping_over(classes: Tensor | None, count: int) -> Iterator[None]:
    """While a method is mapped over `count` things, fewer if it says so (see `few_targets`); and while vmap hides the data
    of a target: the smallest and the largest of the classes, for the check of its range."""
    before = _mapped.extremes, _mapped.count
    try:  # from here on: an exception from outside (Ctrl-C, a timeout) may come at any point
        _mapped.count = count
        if classes is not None and may_read() and is_plain(classes):
            _mapped.extremes = tuple(int(extreme) for extreme in torch.aminmax(classes))
        yield
    finally:
        _mapped.extremes, _mapped.count = before


def maps_targets() -> bool:
    """Whether `each_target` runs several of them at once."""
    return bool(_mapped.extremes) and not tracing() and vmap_runs()


class TooManyTargets(BaseException):
    """Asks for fewer targets at once: no more than `at_most`, or as many as the library takes steps at once."""

    def __init__(self, at_most: int | None):
        self.at_most = at_most


#: How many elements the gradients for all targets may have: in float32, and with what is made of them, 0.2 GB.
ROOM = 1 << 24


def few_targets(elements: int | None = None) -> None:
    """Targets are mapped all at once, so that they share one forward pass, until somebody who knows better says here how
    many elements there will be for each; None, where there are many points for each."""
    if _mapped.count > 1 and (elements is None or _mapped.count * elements > ROOM):
        raise TooManyTargets(None if elements is None else max(1, ROOM // elements))


def mapped_extremes() -> tuple[int, ...]:
    """The smallest and the largest of the classes that are mapped over, where they could be read."""
    return _mapped.extremes
