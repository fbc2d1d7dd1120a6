"""Heat maps: one over its image, or a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._arrays import Array, check_titles, grey, heat_maps, pictures
from ._draw import add_colorbar, aspect, draw_heat, draw_image, new_figure, wrapped, write
from ._scales import Scale, check_scale, scale_of, scales_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _LINE = 1.6, 0.15  # inches: the width of a cell, the height of a line of its title


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
    out: str | PathLike[str] | None = None,
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
        out: a file to write the figure to, such as ``"map.png"``; None writes none.

    Returns:
        The matplotlib figure, that of `ax` where it was given. A notebook displays it; `to_image` makes a PIL image of it.

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
        inches = 3.4 + 0.8 * colorbar, 3.4 * aspect(heat if context is None else context[None]) + 0.3 * (title is not None)
        ax = new_figure(inches).add_subplot()
    drawn = draw_heat(ax, heat[0], context, scale, alpha)
    if title is not None:
        ax.set_title(title)
    if colorbar:
        add_colorbar(drawn, ax, scale, "right")
    return write(ax.figure.figure, out)  # of a subfigure, the whole


def show(
    images: Any,
    attributions: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    percentile: float = 99.0,
    scale: str = "grid",
    channel_dim: int = -3,
    alpha: float = 0.7,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """A table of heat maps: a row per example, a column for the input and one per method.

    All maps share one scale, on the colour bar below them: from -limit to limit, or from 0 where no map has a negative value,
    with the limit at the percentile of the absolute values of *all* maps (each map counts the same, whatever its size). So
    strong and weak can be compared anywhere in the table. Where methods have different units, there is nothing to compare and
    the smaller one would look like nothing: ``scale="method"`` gives each its own scale, on a colour bar below its column.
    The colours are those of `overlay`.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W]``, grey or RGB: a tensor of any device and dtype, or an array. One that
            leaves [0, 1] is scaled by its own minimum and maximum.
        attributions: method name -> attribution ``[N, C, H, W]`` (channels are summed) or ``[N, H, W]``, which may be smaller
            than the images. The names are the columns' titles; long ones are wrapped.
        titles: one per row.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        scale: ``"grid"``, one for all maps, ``"method"``, one per column, or ``"example"``, one per row.
        channel_dim: where the channels are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        alpha: the opacity of the heat maps over the images, from 0 to 1.
        out: a file to write the figure to, such as ``"maps.png"``; None writes none.

    Returns:
        The matplotlib figure. Its first axes are the table's cells in reading order, then come the colour bars.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a shape, `titles`, `percentile`, `scale` or `channel_dim` does not fit, or a value is NaN or inf.
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
    check_titles(titles, len(shown), "image")
    check_scale(scale, ("grid", "method", "example"))
    scales = scales_of(list(columns.values()), scale, percentile)

    rows, width = len(shown), 1 + len(columns)
    headers = {name: wrapped(name) for name in columns}
    lines = max(header.count("\n") + 1 for header in headers.values())
    inches = _CELL * width + 1.2 * (titles is not None), 0.93 * _CELL * rows * aspect(shown) + 0.7 + _LINE * lines
    figure = new_figure(inches)
    cells = figure.subplots(rows, width, squeeze=False)
    for row in range(rows):
        draw_image(cells[row][0], shown[row])
        if titles is not None:
            cells[row][0].set_ylabel(titles[row], rotation=0, ha="right", va="center", fontsize=9)
    cells[0][0].set_title("input", fontsize=9)
    faint = grey(shown)
    drawn = []
    for column, (name, heat) in enumerate(columns.items()):
        below = cells[:, column + 1]
        drawn.append([draw_heat(*each, alpha) for each in zip(below, heat, faint, scales[column])])
        below[0].set_title(headers[name], fontsize=9)
    _add_colorbars(cells, drawn, scales, scale)
    return write(figure, out)


def _add_colorbars(cells: Any, drawn: list[list[Any]], scales: list[list[Scale]], scale: str) -> None:
    if scale == "grid":
        add_colorbar(drawn[-1][-1], list(cells[:, 1:].flat), scales[0][0], "bottom")
    elif scale == "method":
        for column, maps in enumerate(drawn):
            add_colorbar(maps[-1], list(cells[:, column + 1]), scales[column][0], "bottom")
    else:
        for row, of_example in enumerate(scales[0]):
            add_colorbar(drawn[-1][row], list(cells[row]), of_example, "right")


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
