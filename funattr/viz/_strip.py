"""What becomes of a map where the model is shuffled, layer by layer: the sanity check that papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array, heat_maps, numbers
from ._figure import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EACH = "Each map on a scale of its own: -1 and 1 are where its colours end."


def strip(
    images: Any,
    given: Any,
    shuffled: Mapping[str, Any],
    *,
    similarities: Mapping[str, Any] | None = None,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    percentile: float = 99.0,
    channel_dim: int = -3,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """A map on the model as given, and beside it what it becomes while the model's layers are shuffled one after another.

    A map that stays the same does not look at the model. Each map has a scale of its own, since shuffled models have other
    scores; below each layer's name stands how similar its maps are to the first, as `fa.metrics.randomisation` measured it.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W]``, grey or RGB.
        given: the maps on the model as given, ``[N, C, H, W]`` or ``[N, H, W]``.
        shuffled: layer name -> maps with it shuffled, in the order of the strip.
        similarities: layer name -> ``[N]``, what `fa.metrics.randomisation` returned; None writes none.
        titles: one per example, of any length: they are wrapped.
        title: what stands above all; None is nothing.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        channel_dim: where the channels are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        out: a file to write the figure to, such as ``"strip.png"``; None writes none.

    Returns:
        The matplotlib figure, made by `show`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape does not fit, a layer has no similarity, or a value is NaN or inf.
        TypeError: `shuffled` is not a dict, or something does not hold real numbers.

    Example:
        >>> import torch, funattr as fa
        >>> from funattr import viz
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
        >>> x, maps = torch.rand(1, 1, 8, 8), []
        >>> def kept(given, shuffled):
        ...     maps.append(shuffled)
        ...     return fa.metrics.agreement(given, shuffled)
        >>> found = fa.metrics.randomisation(fa.gradient, model, x, target="argmax", similarity=kept)
        >>> figure = viz.strip(x, fa.gradient(model, x, target="argmax"), dict(zip(found, maps)), similarities=found)
        >>> [cell.get_title().split()[0] for cell in figure.axes[:4]]
        ['input', 'as', '3', '0']
    """
    if not isinstance(shuffled, Mapping):
        raise TypeError(f"shuffled must be a dict of layer name -> maps, got {type(shuffled).__name__}: pass {{'fc': maps}}.")
    missing = [name for name in shuffled if similarities is not None and name not in similarities]
    if missing:
        raise ValueError(f"similarities has nothing for {', '.join(map(repr, missing))}: give one for each layer.")
    columns = {"as given": _alike(given, "given", percentile, channel_dim)}
    for name, maps in shuffled.items():
        known = "" if similarities is None else f"\n{numbers(similarities[name], f'similarities[{name!r}]').mean():.2f}"
        key = f"{name or 'the model'}{known}"
        columns[key] = _alike(maps, f"shuffled[{name!r}]", percentile, channel_dim)
    how: dict[str, Any] = {"titles": titles, "title": title, "percentile": 100.0, "alpha": 0.85, "channel_dim": channel_dim}
    return show(images, columns, caption=_EACH, out=out, **how)


def _alike(maps: Any, name: str, percentile: float, channel_dim: int) -> Array:
    """Each map divided by where its colours end, and cut there."""
    heat = heat_maps(maps, name, channel_dim)
    ends = np.percentile(np.abs(heat), percentile, axis=(1, 2), keepdims=True)
    ends = np.where(ends == 0, np.abs(heat).max(axis=(1, 2), keepdims=True), ends)
    found: Array = np.clip(heat / np.where(ends == 0, 1.0, ends), -1, 1)
    return found
