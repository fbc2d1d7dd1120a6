"""Heat maps: one over its image, or a table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._arrays import Array, Brightness, check_flag, check_titles, heat_maps, pictures, smoothed
from ._colors import check_alpha, palette
from ._draw import (
    DPI,
    NORMAL,
    aspect,
    bar_beside,
    bar_needs,
    draw_bar,
    draw_heat,
    draw_image,
    new_figure,
    sharpness,
    write,
)
from ._labels import fitted, words
from ._patches import with_tokens
from ._scales import Scale, check_scale, scale_of, scales_of
from ._sheet import BAR, MARGIN, Box, Sheet, Wanted, arranged, axes_at, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 4.5  # inches: the longer side of a picture that stands alone


def overlay(
    attribution: Any,
    image: Any = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    percentile: float = 99.0,
    channel_dim: int = -3,
    alpha: float = 0.7,
    cmap: Any = None,
    smooth: bool = True,
    special: int | str | None = None,
    brightness: tuple[float, float] | None = None,
    colorbar: bool = True,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """One attribution as a heat map, over the image it explains, which keeps its colours and its size.

    Yellow to red is positive, light to dark blue is negative; the larger a value, the more opaque it is, and at zero the image
    is as it was. Without an image, white is zero. A map with no negative value gets the positive half alone. The colours end
    at the percentile of the absolute values, so that a few extreme pixels do not hide the rest; the colour bar says where
    that is, and has an arrow where values lie beyond. It shows the colours as they are on white.

    A file has the image at its own size, or at a multiple of it where it is small: with ``alpha=0``, its pixels. `blend` gives
    the same picture as an array, without words.

    Args:
        attribution: ``[H, W]``, ``[C, H, W]`` or ``[1, C, H, W]``: a tensor of any device and dtype, or an array. Channels
            are summed, which keeps the total: the map shows each pixel's share of it.
        image: a grey or RGB image, of the same kinds of shape, or pillow's. See `brightness`, if it leaves [0, 1].
        ax: the matplotlib axes to draw on; None makes a figure.
        title: the title, of any length: it is wrapped.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        channel_dim: where the channels of both are: -3 (``[C, H, W]``) or -1 (``[H, W, C]``).
        alpha: the opacity of the largest values over the image, from 0 to 1.
        cmap: a colour map of matplotlib or its name, such as ``"turbo"``, from one end of the colour bar to the other; None is
            the colours above.
        smooth: whether a map smaller than the image is interpolated, linear between the middles of its pixels; False draws
            these as squares.
        special: for a map of tokens, ``[T, C]`` or ``[1, T, C]``: how many of the first are no patches, or "auto", as in
            `tokens_to_map`; the image is then the model's input. None: it is a map of pixels.
        brightness: the values of black and white, ``(0, 1)``. None: an image inside [0, 1] is as it is, of bytes white is 255,
            and others go from their smallest to their largest value.
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
    check_flag(smooth, "smooth")
    check_flag(colorbar, "colorbar")
    check_alpha(alpha)
    heat, under, scale = one_map(attribution, image, percentile, channel_dim, smooth, special, brightness)
    colors = palette(cmap, scale.signed, None if under is None else alpha)
    cax = None
    if ax is None:
        ax, cax = _alone(heat if under is None else under, title, scale if colorbar else None)
    elif title is not None:
        ax.set_title(title, parse_math=False)
    draw_heat(ax, heat, under, scale, colors)
    if under is not None:
        ax.spines[:].set_visible(False)  # a frame would lie on pixels
    if cax is not None:
        draw_bar(cax, scale, colors)
    elif colorbar:
        bar_beside(ax, scale, colors)
    return write(ax.figure.figure, out)  # of a subfigure, the whole


def one_map(
    attribution: Any,
    image: Any,
    percentile: float,
    channel_dim: int,
    smooth: bool,
    special: int | str | None,
    brightness: Brightness | None,
) -> tuple[Array, Array | None, Scale]:
    """The map ``[H, W]``, the image under it ``[H, W, 1 or 3]``, and the scale."""
    if image is None:
        heat = heat_maps(with_tokens(attribution, special, None, True), "attribution", channel_dim, lone=True)
        return heat[0], None, scale_of(heat, percentile)
    under = pictures(image, "image", channel_dim, "grid" if brightness is None else brightness, lone=True)
    laid = with_tokens(attribution, special, under.shape[1:3], True)
    heat = heat_maps(laid, "attribution", channel_dim, lone=True, over=under)
    return smoothed(heat, under, smooth)[0], under[0], scale_of(heat, percentile)


def _alone(drawn: Array, title: str | None, scale: Scale | None) -> tuple[Axes, Axes | None]:
    """Axes in a figure of their own, of whole pixels per pixel of what is drawn, and those of a colour bar."""
    height, width = drawn.shape[:2]
    times = math.ceil(_SIDE * DPI / max(height, width))
    dpi = max(height, width) * times / _SIDE
    room, high = bar_needs([scale]) if scale else (0.0, 0.0)
    across = max(width * times / dpi, room, 2.0 if title is not None else 0.0)
    label = None if title is None else fitted(title, across, NORMAL + 1)
    above = label.height + 0.06 if label else 0.0
    # In pixels, so that the image has its own: the sides first, then what is around it.
    left, top = round((MARGIN + across / 2) * dpi - width * times / 2), round((MARGIN + above) * dpi)
    sides = [math.ceil((across + 2 * MARGIN) * dpi), top + height * times + math.ceil((MARGIN + high) * dpi)]
    figure = new_figure((sides[0] / dpi, sides[1] / dpi), dpi)
    ax = axes_at(figure, Box(left / dpi, top / dpi, width * times / dpi, height * times / dpi))
    if label is not None:
        figure_title = words(NORMAL + 1, pad=3, loc="center", y=1.0)
        ax.set_title(label.text, **figure_title)
    if scale is None:
        return ax, None
    wide = max(room, min(width * times / dpi, across))
    below = Box(MARGIN + (across - wide) / 2, (top + height * times) / dpi + 0.06, wide, BAR)
    return ax, axes_at(figure, below)


def show(
    images: Any,
    attributions: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
    percentile: float = 99.0,
    scale: str = "grid",
    brightness: str | tuple[float, float] = "grid",
    channel_dim: int = -3,
    alpha: float = 0.7,
    cmap: Any = None,
    smooth: bool = True,
    special: int | str | None = None,
    columns: int | None = None,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """A table of heat maps: a row per example, a column for the input and one per method.

    Many examples stand side by side, several in a line, so that the table has the shape of a page. Names are wrapped to the
    room that they have, whatever their length: none is cut, and none takes room from the pictures.

    All maps share one scale, on the colour bar below them: from -limit to limit, or from 0 where no map has a negative value,
    with the limit at the percentile of the absolute values of *all* maps (each map counts the same, whatever its size). So
    strong and weak can be compared anywhere in the table. Where methods have different units, there is nothing to compare and
    the smaller one would look like nothing: ``scale="method"`` gives each its own scale, on a colour bar below its column.
    The colours are those of `overlay`. The images share one range of brightness too, so that a dark one is seen to be dark.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W]``, grey or RGB: a tensor of any device and dtype, or an array.
        attributions: method name -> attribution ``[N, C, H, W]`` (channels are summed) or ``[N, H, W]``, which may be smaller
            than the images. The names are the columns' titles; long ones are wrapped.
        titles: one per example, of any length; a line break is kept.
        title: what stands above all.
        caption: what stands below all. (The layout is the table's own: it leaves no room for matplotlib's ``suptitle``.)
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        scale: ``"grid"``, one for all maps, ``"method"``, one per column, or ``"example"``, one per row.
        brightness: where images leave [0, 1]: ``"grid"``, one range for all, from the smallest value to the largest (of bytes,
            from 0 to 255), ``"example"``, each its own, or the values of black and white, ``(-1, 1)``.
        channel_dim: where the channels are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        alpha: the opacity of the largest values over the images, from 0 to 1.
        cmap: a colour map of matplotlib or its name, as in `overlay`.
        smooth: whether maps smaller than the images are interpolated, as in `overlay`.
        special: for maps of tokens, ``[N, T, C]`` or ``[N, T]``: how many of the first are no patches, or "auto", as in
            `tokens_to_map`; the images are then the model's input. None: all maps are of pixels.
        columns: how many examples stand side by side; None: as many as fit.
        out: a file to write the figure to, such as ``"maps.png"``; None writes none.

    Returns:
        The matplotlib figure. Its first axes are the cells of the first example, of the second, and so on; then come the
        colour bars.

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
    check_flag(smooth, "smooth")
    check_alpha(alpha)
    shown = pictures(images, "images", channel_dim, brightness)
    maps = _columns(attributions, shown, channel_dim, special)
    check_titles(titles, len(shown), "image")
    check_scale(scale, ("grid", "method", "example"))
    _check_columns(columns)
    scales = scales_of(list(maps.values()), scale, percentile)

    bar_width, bar_height = bar_needs([of for column in scales for of in column])
    heads = [["input", *maps]]
    wanted = Wanted(
        titles, heads, len(shown), aspect(shown), scale, 1, bar_width, bar_height, title=title, caption=caption, columns=columns
    )
    sheet = arranged(wanted)
    figure, cells = figure_of(sheet, sharpness(shown.shape[2], sheet.cells[0][0].width))
    drawn = [smoothed(heat, shown, smooth) for heat in maps.values()]
    for row, axes in enumerate(cells):
        draw_image(axes[0], shown[row])
        for ax, heat, of_column in zip(axes[1:], drawn, scales):
            draw_heat(ax, heat[row], shown[row], of_column[row], palette(cmap, of_column[row].signed, alpha))
    bars = {"grid": scales[0][:1], "method": [column[0] for column in scales], "example": scales[0]}[scale]
    draw_bars(figure, sheet, bars, cmap, alpha)
    return write(figure, out)


def draw_bars(figure: Figure, sheet: Sheet, scales: Sequence[Scale], cmap: Any, alpha: float) -> None:
    for boxes, scale in zip(sheet.bars, scales):
        for box in boxes:
            draw_bar(axes_at(figure, box), scale, palette(cmap, scale.signed, alpha))


def _check_columns(columns: int | None) -> None:
    if columns is not None and (isinstance(columns, bool) or not isinstance(columns, int) or columns < 1):
        raise ValueError(f"columns must be how many examples stand side by side, at least 1, or None, got {columns!r}.")


def _columns(attributions: Mapping[str, Any], images: Array, channel_dim: int, special: int | str | None) -> dict[str, Array]:
    if not isinstance(attributions, Mapping):
        raise TypeError(
            f"attributions must be a dict of method name -> maps, got {type(attributions).__name__}: "
            f"pass {{'saliency': attribution}}."
        )
    if not attributions:
        raise ValueError("attributions is empty, expected at least one method: pass {'saliency': attribution}.")
    columns = {}
    for name, value in attributions.items():
        laid = with_tokens(value, special, images.shape[1:3], False)
        columns[str(name)] = heat = heat_maps(laid, f"attributions[{name!r}]", channel_dim, over=images)
        if len(heat) != len(images):
            raise ValueError(
                f"attributions[{name!r}] has {len(heat)} maps for {len(images)} images: pass one map per image, in their "
                f"order, and a single image with its batch dimension, image[None]."
            )
    return columns
