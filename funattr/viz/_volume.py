"""Slices of volumes, with their attribution over them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import brightness as in_range
from ._arrays import check_count, check_flag, check_titles, smoothed, with_channels
from ._colors import check_alpha, palette
from ._draw import aspect, bar_needs, draw_heat, sharpness, write
from ._figure import draw_bars
from ._scales import check_scale, scales_of
from ._sheet import Wanted, arranged, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._arrays import Array

_AXES = "DHW"


def volume(
    volumes: Any,
    attributions: Any,
    *,
    axis: int = 0,
    slices: int | Sequence[int] = 5,
    choose: str = "even",
    titles: Sequence[str] | None = None,
    percentile: float = 99.0,
    scale: str = "grid",
    brightness: str | tuple[float, float] = "grid",
    channel_dim: int = -4,
    alpha: float = 0.7,
    cmap: Any = None,
    smooth: bool = True,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """Slices of volumes, or frames of videos, with their attribution over them: a row per example, a column per slice.

    Slices are cut across `axis`, and the cells say which they are. The scale is that of the whole attribution, whatever slices
    are shown, so that a choice of slices does not change a colour. The colours are those of `overlay`.

    Args:
        volumes: ``[N, C, D, H, W]``, ``[N, D, H, W]`` or ``[D, H, W]``, grey or RGB: a tensor of any device and dtype, or an
            array.
        attributions: of the same kinds of shape. Channels are summed, which keeps the total. One that is smaller (a layer's)
            is drawn over the whole volume: a slice has the attribution of the place that it comes from.
        axis: what the slices are cut across: 0 (``D``), 1 (``H``) or 2 (``W``).
        slices: how many, or which.
        choose: ``"even"``, spread over the whole axis, or ``"largest"``, where the sum of the absolute attributions of a slice
            is largest, in the order of the axis. Not used where `slices` says which.
        titles: one per example, of any length: they are wrapped.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        scale: ``"grid"``, one for all cells, or ``"example"``, one per row.
        brightness: where volumes leave [0, 1]: ``"grid"``, one range for all, ``"example"``, each its own, or the values of
            black and white, ``(-1, 1)``.
        channel_dim: where the channels are: -4 (``[N, C, D, H, W]``) or -1 (``[N, D, H, W, C]``).
        alpha: the opacity of the largest values over the slices, from 0 to 1.
        cmap: a colour map of matplotlib or its name, as in `overlay`.
        smooth: whether a slice of fewer pixels than the volume's is interpolated, as in `overlay`.
        out: a file to write the figure to, such as ``"volume.png"``; None writes none.

    Returns:
        The matplotlib figure. Its first axes are the cells in reading order, then come the colour bars.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape or an argument does not fit, there is no such slice, or a value is NaN or inf.
        TypeError: `volumes` or `attributions` does not hold real numbers, or `slices` no integers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> figure = viz.volume(torch.rand(1, 1, 16, 8, 8), torch.randn(1, 1, 16, 8, 8), slices=3)
        >>> [cell.get_title() for cell in figure.axes[:3]]
        ['D = 2', 'D = 8', 'D = 13']
    """
    check_flag(smooth, "smooth")
    check_alpha(alpha)
    shown = in_range(with_channels(volumes, "volumes", channel_dim, "DHW"), volumes, "volumes", channel_dim, brightness)
    heat: Array = with_channels(attributions, "attributions", channel_dim, "DHW").sum(-1)
    check_count(len(heat), "attributions", len(shown), "volumes")
    check_titles(titles, len(shown), "volume")
    check_scale(scale, ("grid", "example"))
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0 (D), 1 (H) or 2 (W), got {axis!r}.")
    if choose not in ("even", "largest"):
        raise ValueError(f"choose must be 'even' or 'largest', got {choose!r}.")
    shown, heat = np.moveaxis(shown, axis + 1, 1), np.moveaxis(heat, axis + 1, 1)
    scales = scales_of([heat], scale, percentile)[0]
    chosen = [_chosen(slices, choose, shown.shape[1], of_volume) for of_volume in heat]

    heads = [[f"{_AXES[axis]} = {i}" for i in row] for row in chosen]
    wanted = Wanted(titles, heads, len(shown), aspect(shown[0]), scale, 0, *bar_needs(scales), None, None, 1)
    sheet = arranged(wanted)
    figure, cells = figure_of(sheet, sharpness(shown.shape[3], sheet.cells[0][0].width))
    for row, (axes, of_scale) in enumerate(zip(cells, scales)):
        colors = palette(cmap, of_scale.signed, alpha)
        for ax, i in zip(axes, chosen[row]):
            under = shown[row][i]
            of_slice = heat[row][_under(i, shown.shape[1], heat.shape[1])]
            draw_heat(ax, smoothed(of_slice[None], under[None], smooth)[0], under, of_scale, colors)
    draw_bars(figure, sheet, scales[:1] if scale == "grid" else scales, cmap, alpha)
    return write(figure, out)


def _under(i: int, depth: int, depth_of_heat: int) -> int:
    """The slice of the attribution that lies over the middle of slice `i`."""
    return int((i + 0.5) * depth_of_heat / depth)


def _chosen(slices: int | Sequence[int], choose: str, depth: int, heat: Array) -> list[int]:
    if isinstance(slices, int) and not isinstance(slices, bool):
        if slices < 1:
            raise ValueError(f"slices must be at least 1, or a list of which to show, got {slices}.")
        count = min(slices, depth)
        return _spread(count, depth) if choose == "even" else _largest(count, depth, heat)
    found = list(slices) if isinstance(slices, Sequence) else []
    if not found or not all(isinstance(i, int) for i in found):
        raise TypeError(f"slices must be how many to show, or a list of which, got {slices!r}.")
    for i in found:
        if not -depth <= i < depth:
            raise ValueError(f"slices={slices!r}: there is no slice {i}, the axis has {depth}.")
    return [i % depth for i in found]


def _spread(count: int, depth: int) -> list[int]:
    """The slices in the middle of `count` equal parts."""
    return [int((part + 0.5) * depth / count) for part in range(count)]


def _largest(count: int, depth: int, heat: Array) -> list[int]:
    sums = np.abs(heat).sum((1, 2))[[_under(i, depth, len(heat)) for i in range(depth)]]
    return sorted(np.argsort(-sums, kind="stable")[:count].tolist())
