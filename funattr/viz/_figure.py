"""Drawing. Figures are made without pyplot: none is registered, shown or left open, and no backend is needed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array, Scale, grey, heat_maps, pictures, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = "RdBu_r"  # safe for the colour-blind, and white in the middle
_CELL, _LINE = 1.6, 0.15  # inches: the width of a cell, the height of a line of its title
_TITLE = 20  # the characters of a title that fit above a cell


def overlay(
    attribution: Any,
    image: Any = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    percentile: float = 99.0,
    channel_dim: int = -3,
    alpha: float = 0.7,
    colorbar: bool = True,
) -> Figure:
    """One attribution as a heat map, over the image it explains.

    Red is positive, blue is negative, white is zero. A map with no negative value gets the red half alone. The colours end
    at the percentile of the absolute values, so that a few extreme pixels do not hide the rest; the colour bar says where
    that is, and has an arrow where values lie beyond. The map is drawn as it is, pixel by pixel: a map smaller than the
    image is only drawn larger, over the whole image.

    Args:
        attribution: ``[H, W]``, ``[C, H, W]`` or ``[1, C, H, W]``: a tensor of any device and dtype, or an array. Channels
            are summed, which keeps the total: the map shows each pixel's share of it.
        image: a grey or RGB image, of the same kinds of shape. It is drawn faint, in grey, so that colour always means
            attribution; scaled by its own minimum and maximum if it leaves [0, 1].
        ax: the matplotlib axes to draw on; None makes a figure.
        title: the title.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        channel_dim: where the channels are: -3 (``[C, H, W]``) or -1 (``[H, W, C]``).
        alpha: the opacity of the heat map over the image, from 0 to 1.
        colorbar: whether to draw the colour bar.

    Returns:
        The matplotlib figure: ``figure.savefig("map.png")`` writes it, a notebook displays it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape, `percentile` or `channel_dim` does not fit, or a value is NaN or inf.
        TypeError: `attribution` or `image` does not hold real numbers.

    Example:
        >>> import torch, funattr as fa
        >>> from funattr import viz
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> figure = viz.overlay(fa.input_x_gradient(model, x, target=3), x, title="class 3")
        >>> figure.axes[0].get_title()
        'class 3'
    """
    heat = heat_maps(attribution, "attribution", channel_dim, lone=True)
    scale = scale_of(heat, percentile)
    context = None if image is None else grey(pictures(image, "image", channel_dim, lone=True))[0]
    if ax is None:
        inches = 3.4 + 0.8 * colorbar, 3.4 * _aspect(heat if context is None else context[None]) + 0.3 * (title is not None)
        ax = _new_figure(inches).add_subplot()
    drawn = _draw(ax, heat[0], context, scale, alpha)
    if title is not None:
        ax.set_title(title)
    if colorbar:
        _add_colorbar(drawn, ax, scale, "right")
    return ax.figure.figure  # of a subfigure, the whole


def show(
    images: Any,
    attributions: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    percentile: float = 99.0,
    channel_dim: int = -3,
    alpha: float = 0.7,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """A table of heat maps: a row per example, a column for the input and one per method.

    Each column has one scale, on the colour bar below it: from -limit to limit, or from 0 where the column has no negative
    value, with the limit at the percentile of the absolute values of *all* its maps. So strong and weak can be compared down
    a column. Across columns only patterns can: methods have different units. The colours are those of `overlay`.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W]``, grey or RGB: a tensor of any device and dtype, or an array. One that
            leaves [0, 1] is scaled by its own minimum and maximum.
        attributions: method name -> attribution ``[N, C, H, W]`` (channels are summed) or ``[N, H, W]``, which may be smaller
            than the images. The names are the columns' titles; long ones are wrapped.
        titles: one per row.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        channel_dim: where the channels are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        alpha: the opacity of the heat maps over the images, from 0 to 1.
        out: a file to write the figure to, such as ``"maps.png"``; None writes none.

    Returns:
        The matplotlib figure. Its first axes are the table's cells in reading order, then come the colour bars.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape, the number of titles, `percentile` or `channel_dim` does not fit, or a value is NaN or inf.
        TypeError: `attributions` is not a dict, or something does not hold real numbers.

    Example:
        >>> import torch, funattr as fa
        >>> from funattr import viz
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> maps = {
        ...     "saliency": fa.saliency(model, x, target="argmax"),
        ...     "Grad-CAM": fa.grad_cam(model, x, layer="1", target="argmax"),
        ... }
        >>> [cell.get_title() for cell in viz.show(x, maps).axes[:3]]
        ['input', 'saliency', 'Grad-CAM']
    """
    shown = pictures(images, "images", channel_dim)
    columns = _columns(attributions, len(shown), channel_dim)
    scales = [scale_of(heat, percentile) for heat in columns.values()]
    if titles is not None and len(titles) != len(shown):
        raise ValueError(f"titles has {len(titles)} entries for {len(shown)} images: pass one title per image.")

    rows, width = len(shown), 1 + len(columns)
    headers = {name: _wrapped(name) for name in columns}
    lines = max(header.count("\n") + 1 for header in headers.values())
    inches = _CELL * width + 1.2 * (titles is not None), 0.93 * _CELL * rows * _aspect(shown) + 0.7 + _LINE * lines
    figure = _new_figure(inches)
    cells = figure.subplots(rows, width, squeeze=False)
    for row in range(rows):
        _draw_image(cells[row][0], shown[row])
        if titles is not None:
            cells[row][0].set_ylabel(titles[row], rotation=0, ha="right", va="center", fontsize=9)
    cells[0][0].set_title("input", fontsize=9)
    faint = grey(shown)
    for column, (name, heat), scale in zip(range(1, width), columns.items(), scales):
        for row in range(rows):
            drawn = _draw(cells[row][column], heat[row], faint[row], scale, alpha)
        cells[0][column].set_title(headers[name], fontsize=9)
        _add_colorbar(drawn, list(cells[:, column]), scale, "bottom")
    if out is not None:
        figure.savefig(out, dpi=150)
    return figure


def _columns(attributions: Mapping[str, Any], n_images: int, channel_dim: int) -> dict[str, Array]:
    if not isinstance(attributions, Mapping):
        raise TypeError(
            f"attributions must be a dict of method name -> maps, got {type(attributions).__name__}: "
            f"pass {{'saliency': attribution}}."
        )
    if not attributions:
        raise ValueError("attributions is empty, expected at least one method: pass {'saliency': attribution}.")
    columns = {}
    for name, value in attributions.items():
        columns[str(name)] = heat = heat_maps(value, f"attributions[{name!r}]", channel_dim)
        if len(heat) != n_images:
            raise ValueError(
                f"attributions[{name!r}] has {len(heat)} maps for {n_images} images: pass one map per image, in their order, "
                f"and a single image with its batch dimension, image[None]."
            )
    return columns


def _aspect(images: Array) -> float:
    """Height over width, within what fits on a page."""
    return float(np.clip(images.shape[1] / images.shape[2], 0.25, 4))


def _wrapped(title: str) -> str:
    """A title that does not run into the next column's."""
    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, _TITLE) or [""])


def _new_figure(inches: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "funattr[viz]".') from error
    return Figure(figsize=inches, layout="compressed")  # which keeps the cells of one shape together


def _draw_image(ax: Axes, image: Array) -> None:
    # squeeze: matplotlib takes grey images without channels.
    ax.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _no_ticks(ax)


def _draw(ax: Axes, heat: Array, context: Array | None, scale: Scale, alpha: float) -> Any:
    """The heat map, in the frame of the image under it, where there is one."""
    height, width = heat.shape if context is None else context.shape
    if context is not None:
        # From -1: black becomes mid-grey, so that the colours above stay those of the colour bar.
        ax.imshow(context, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    drawn = ax.imshow(
        heat,
        cmap=_colors(scale.signed),
        vmin=scale.bottom,
        vmax=scale.limit,
        alpha=None if context is None else alpha,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    _no_ticks(ax)
    return drawn


def _colors(signed: bool) -> Any:
    """The colour map, or only its half from white to red: zero and positive look the same in both."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    both = matplotlib.colormaps[_COLORS]
    return both if signed else ListedColormap(both(np.linspace(0.5, 1, 256)), name=f"{_COLORS}, positive half")


def _add_colorbar(drawn: Any, ax: Any, scale: Scale, location: str) -> None:
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    figure = drawn.axes.figure
    extend = beyond[scale.below, scale.above]
    bar = figure.colorbar(drawn, ax=ax, location=location, extend=extend, fraction=0.08, pad=0.03, panchor=False)
    ticks = [scale.bottom, 0.0, scale.limit] if scale.signed else [0.0, scale.limit]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()
    if location == "bottom":  # labels that end where the bar ends do not push the columns apart
        bar.ax.get_xticklabels()[0].set_ha("left")
        bar.ax.get_xticklabels()[-1].set_ha("right")
    bar.ax.tick_params(labelsize=8)
    bar.set_label(scale.caption, fontsize=8)


def _no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
