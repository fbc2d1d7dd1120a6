"""Signals on a background that is their attribution."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import check_count, check_titles, with_channels
from ._draw import add_colorbar, colors, new_figure, write
from ._scales import Scale, check_scale, scales_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ._arrays import Array

_WIDTH, _HEIGHT = 7.5, 1.1  # inches of a panel
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

    Red is positive, blue is negative, white is zero, as in `overlay`; a time step has its own stripe. Where the attribution has
    a value for every channel of the signal, each channel has a panel of its own; otherwise an example has one panel with all
    its channels, over the sum of the attribution's. An attribution of fewer steps (a layer's) is drawn over the whole length.

    Args:
        signals: ``[N, C, L]``, ``[N, L]`` or ``[L]``: a tensor of any device and dtype, or an array.
        attributions: of the same kinds of shape: with all channels of the signals, or with one or others, which are summed.
        titles: one per example.
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
    apart = bands.shape[-1] == lines.shape[-1]
    if not apart:
        bands = bands.sum(-1, keepdims=True)
    scales = scales_of([bands], scale, percentile)[0]

    panels = bands.shape[-1]
    figure = new_figure((_WIDTH, _HEIGHT * len(lines) * panels + 0.9))
    grid = figure.subplots(len(lines) * panels, 1, squeeze=False, sharex=True)[:, 0]
    for i, of_scale in enumerate(scales):
        axes = list(grid[i * panels : (i + 1) * panels])
        for channel, ax in enumerate(axes):
            shown = lines[i, :, channel : channel + 1] if apart else lines[i]
            drawn = _draw(ax, shown, bands[i, :, channel], of_scale, alpha)
            if apart and panels > 1:
                ax.set_ylabel(f"channel {channel}", fontsize=8)
        if titles is not None:
            axes[0].set_title(titles[i], loc="left", fontsize=9)
        if scale == "example":
            add_colorbar(drawn, axes, of_scale, "right")
    if scale == "grid":
        add_colorbar(drawn, list(grid), scales[0], "right")
    return write(figure, out)


def _draw(ax: Axes, lines: Array, band: Array, scale: Scale, alpha: float) -> Any:
    length = len(lines)
    low, high = float(lines.min()), float(lines.max())
    room = 0.08 * (high - low) or 0.5  # of a constant signal, some
    drawn = ax.imshow(
        band[None],
        cmap=colors(scale.signed),
        vmin=scale.bottom,
        vmax=scale.limit,
        alpha=alpha,
        extent=(-0.5, length - 0.5, low - room, high + room),
        aspect="auto",
        interpolation="nearest",
    )
    for channel in range(lines.shape[1]):
        ax.plot(np.arange(length), lines[:, channel], color="black", linewidth=1, linestyle=_LINES[channel % len(_LINES)])
    ax.tick_params(labelsize=8)
    return drawn
