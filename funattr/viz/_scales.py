"""How values become colours. Nothing here needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._arrays import Array, check_between

_MEANINGS = {"grid": "one for all", "method": "one per method", "example": "one per example"}


class Scale(NamedTuple):
    """How values become colours: from -limit (0 where no value is negative) to limit."""

    limit: float
    signed: bool
    below: bool  # values beyond the limits get the outermost colours
    above: bool
    caption: str

    @property
    def bottom(self) -> float:
        return -self.limit if self.signed else 0.0


def scale_of(maps: Sequence[Array] | Array, percentile: float) -> Scale:
    """One scale for all of `maps`."""
    check_percentile(percentile)
    sizes = _pooled(maps)
    low = min(float(values.min()) for values in maps)
    high = max(float(values.max()) for values in maps)
    peak = max(-low, high)
    limit = float(np.percentile(sizes, percentile))
    signed = low < 0
    if peak == 0:
        return Scale(1.0, False, False, False, "0 everywhere")
    if limit == 0:
        limit = peak  # so few values differ from 0 that the percentile is 0 too: no scale would be left
    if limit == peak:
        return Scale(limit, signed, False, False, "full range")
    return Scale(limit, signed, low < -limit, high > limit, f"clipped at percentile {percentile:g}")


def scales_of(columns: Sequence[Sequence[Array] | Array], scale: str, percentile: float) -> list[list[Scale]]:
    """The scale of every map of a grid, one list per column: shared by all, by a column (a method) or by a row (an example)."""
    rows = range(len(columns[0]))
    if scale == "grid":
        shared = scale_of([values for column in columns for values in column], percentile)
        return [[shared for _ in rows] for _ in columns]
    if scale == "method":
        return [[of_column for _ in rows] for of_column in [scale_of(column, percentile) for column in columns]]
    of_rows = [scale_of([column[row] for column in columns], percentile) for row in rows]
    return [of_rows for _ in columns]


def check_scale(scale: str, allowed: Sequence[str]) -> None:
    if not isinstance(scale, str) or scale not in allowed:
        choices = [f"{name!r} ({_MEANINGS[name]})" for name in allowed]
        raise ValueError(f"scale must be {', '.join(choices[:-1])} or {choices[-1]}, got {scale!r}.")


def check_percentile(percentile: float) -> None:
    # A fraction, 0.99, would draw all that is not 0 alike.
    more = ": 99.0 clips the largest 1 % of values"
    check_between(percentile, "percentile", lambda p: 1 < p <= 100, "above 1 and at most 100", more)


def _pooled(maps: Sequence[Array] | Array) -> Array:
    """The absolute values of all maps. Tokens count one each; of maps, a small one is drawn as large as the others and counts
    as much: it gets as many values, at its ranks."""
    sizes = [np.abs(values) for values in maps]
    most = max(values.size for values in sizes)
    ranks = np.linspace(0, 1, most)
    alike = [values.ndim == 1 or values.size == most for values in sizes]
    return np.concatenate([v.ravel() if as_is else np.quantile(v, ranks) for v, as_is in zip(sizes, alike)])
