"""Signals on a background that is their attribution."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import check_count, check_titles, with_channels
from ._colors import check_alpha, palette
from ._draw import NORMAL, SMALL, bar_needs, draw_bar, mappable, new_figure, write
from ._labels import Label, fitted, inches, words
from ._scales import Scale, check_scale, scales_of
from ._sheet import BAR, MARGIN, Box, axes_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ._arrays import Array

_WIDTH, _HEIGHT, _GAP = 6.5, 1.0, 0.12  # inches of a panel, and between two
_TICKS = 0.22  # inches below the last panel of an example
_LINES = ["-", "--", ":", "-."]  # not colours: these mean attribution


def series(
    signals: Any,
    attributions: Any,
    *,
    titles: Sequence[str] | None = None,
    percentile: float = 99.0,
    scale: str = "grid",
    channel_dim: int = -2,
    alpha: float = 0.7,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """Signals as black lines, on a band in the colours of their attribution.

    Red is positive, blue is negative, white is zero; a time step has its own stripe. Where the attribution has
    a value for every channel of the signal, each channel has a panel of its own; otherwise an example has one panel with all
    its channels, over the sum of the attribution's. An attribution of fewer steps (a layer's) is drawn over the whole length.

    Args:
        signals: ``[N, C, L]``, ``[N, L]`` or ``[L]``: a tensor of any device and dtype, or an array.
        attributions: of the same kinds of shape: with all channels of the signals, or with one or others, which are summed.
        titles: one per example, of any length: they are wrapped.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        scale: ``"grid"``, one for all panels, or ``"example"``, one for each example.
        channel_dim: where the channels are: -2 (``[N, C, L]``) or -1 (``[N, L, C]``).
        alpha: the opacity of the band behind the line, from 0 to 1.
        out: a file to write the figure to, such as ``"series.png"``; None writes none.

    Returns:
        The matplotlib figure. Its first axes are the panels from the top down, then come the colour bars.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape, `titles`, `percentile`, `scale` or `channel_dim` does not fit, or a value is NaN or inf.
        TypeError: `signals` or `attributions` does not hold real numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> signal = torch.linspace(0, 12, 100).sin()[None]
        >>> figure = viz.series(signal, signal * torch.linspace(-1, 1, 100), titles=["sine"])
        >>> figure.axes[0].get_title("left")
        'sine'
    """
    lines = with_channels(signals, "signals", channel_dim, "L")
    bands = with_channels(attributions, "attributions", channel_dim, "L")
    check_count(len(bands), "attributions", len(lines), "signals")
    check_titles(titles, len(lines), "example")
    check_scale(scale, ("grid", "example"))
    check_alpha(alpha)
    apart = bands.shape[-1] == lines.shape[-1]
    if not apart:
        bands = bands.sum(-1, keepdims=True)
    scales = scales_of([bands], scale, percentile)[0]

    heads = [None if titles is None else fitted(title, _WIDTH, NORMAL) for title in titles or [""] * len(lines)]
    shown = [[lines[i, :, c : c + 1] if apart else lines[i] for c in range(bands.shape[-1])] for i in range(len(lines))]
    figure, grid, bars = _laid_out(shown, heads, bar_needs(scales)[1], scale == "example")
    for i, axes in enumerate(grid):
        for channel, ax in enumerate(axes):
            _draw(ax, shown[i][channel], bands[i, :, channel], scales[i], alpha)
            ax.tick_params(labelbottom=ax is axes[-1])
            if len(axes) > 1:
                ax.set_ylabel(f"channel {channel}", **words(SMALL))
        head = heads[i]
        if head is not None:
            axes[0].set_title(head.text, **words(NORMAL, loc="left", pad=3, y=1.0))
    for cax, of_scale in zip(bars, scales):
        draw_bar(cax, of_scale, palette(None, of_scale.signed, None))
    return write(figure, out)


def _laid_out(
    shown: Sequence[Sequence[Array]], heads: Sequence[Label | None], bar: float, each: bool
) -> tuple[Figure, list[list[Any]], list[Any]]:
    """The figure, the panels of each example from the top down, and the axes of the bars, all where they do not meet."""
    numbers = max(inches(name, SMALL) for of in shown for lines in of for _, name in _ticks(lines))
    left = MARGIN + numbers + 0.1 + (0.25 if len(shown[0]) > 1 else 0.0)
    boxes: list[list[Box]] = []
    bars: list[Box] = []
    top = MARGIN
    for i, (of, head) in enumerate(zip(shown, heads)):
        top += head.height + 0.06 if head else 0.0
        boxes.append([Box(left, top + c * (_HEIGHT + _GAP), _WIDTH, _HEIGHT) for c in range(len(of))])
        top += len(of) * (_HEIGHT + _GAP) + _TICKS
        if each or i == len(shown) - 1:
            bars.append(Box(left, top + 0.06, _WIDTH, BAR))
            top += bar
    figure = new_figure((left + _WIDTH + 2 * MARGIN, top + MARGIN))
    return figure, [[axes_at(figure, box) for box in of] for of in boxes], [axes_at(figure, box) for box in bars]


def _ticks(lines: Array) -> list[tuple[float, str]]:
    """Where the numbers beside a panel are, and how they are written, each whole: a factor above would meet the title."""
    from matplotlib.ticker import MaxNLocator

    low, high = _room(lines)
    inside = [float(at) for at in MaxNLocator(4).tick_values(low, high) if low <= at <= high]
    return [(at, f"{at:.6g}") for at in inside or [(low + high) / 2]]  # matplotlib finds none between numbers like 1e-300


def _room(lines: Array) -> tuple[float, float]:
    low, high = float(lines.min()), float(lines.max())
    room = 0.08 * (high - low) or 0.5  # of a constant signal, some
    return low - room, high + room


def _draw(ax: Axes, lines: Array, band: Array, scale: Scale, alpha: float) -> None:
    length = len(lines)
    low, high = _room(lines)
    look = mappable(scale, palette(None, scale.signed, None))
    frame = (-0.5, length - 0.5, low, high)
    how: Any = {"alpha": alpha, "extent": frame, "aspect": "auto", "interpolation": "nearest"}
    ax.imshow(band[None], cmap=look.cmap, norm=look.norm, **how)
    drawn: Any = {"color": "black", "linewidth": 1, "marker": "o" if length == 1 else None}  # one step makes no line
    for channel in range(lines.shape[1]):
        ax.plot(np.arange(length), lines[:, channel], linestyle=_LINES[channel % len(_LINES)], **drawn)
    places, names = zip(*_ticks(lines))
    ax.set_yticks(places, labels=names)
    ax.tick_params(labelsize=SMALL)
