"""What every picture is made of. No pyplot: no figure is registered, shown or left open, and no backend is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array
from ._colors import blended
from ._labels import inches, words
from ._scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 150
SMALL, NORMAL, LARGE = 8.0, 9.0, 12.0  # points
_ARROW = 0.04  # the length of a colour bar's arrow, in the bar's


def aspect(images: Array) -> float:
    """Height over width, within what fits on a page."""
    return float(np.clip(images.shape[1] / images.shape[2], 0.25, 4))


def new_figure(inches: tuple[float, float], dpi: float = DPI) -> Figure:
    """An empty figure, on which everything has a place of its own: no layout moves it."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "funattr[viz]".') from error
    no_layout: Any = "none"  # not None, for which a setting of the caller's stands in
    return Figure(figsize=inches, dpi=dpi, layout=no_layout)


def sharpness(pixels: int, inches: float) -> float:
    """The dpi at which a cell has as many pixels as its picture, within what a file may hold of a whole table."""
    return float(np.clip(pixels / inches, DPI, 2 * DPI))


def write(figure: Figure, out: str | PathLike[str] | None) -> Figure:
    if out is not None:
        if fspath(out).lower().endswith((".html", ".htm")):
            raise ValueError(f"out={fspath(out)!r} names a page, and this is a picture: call page(), or choose .png or .svg.")
        figure.savefig(out, dpi=max(figure.dpi, DPI))
    return figure


def to_image(figure: Figure, *, dpi: float | None = None) -> Image:
    """A figure as a PIL image.

    Args:
        figure: what `overlay`, `show`, `text`, `series` or `volume` returned, or any other matplotlib figure.
        dpi: pixels per inch; None: as many as `out` would have, 150 at least.

    Returns:
        The PIL image, in RGB. The figure is left as it was.

    Raises:
        ImportError: Pillow is not installed, which comes with matplotlib.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> viz.to_image(viz.overlay(torch.eye(3)), dpi=100).mode
        'RGB'
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError('images need Pillow: pip install "funattr[viz]".') from error
    file = io.BytesIO()
    figure.savefig(file, dpi=max(figure.dpi, DPI) if dpi is None else dpi, format="png")
    return Image.open(file).convert("RGB")


def mappable(scale: Scale, colors: Array) -> Any:
    """From numbers to colours: ``mappable(scale, colors).to_rgba(values)``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    return ScalarMappable(Normalize(scale.bottom, scale.limit), ListedColormap(colors))


def draw_image(ax: Axes, image: Array) -> None:
    # squeeze: matplotlib takes grey images without channels.
    ax.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    no_ticks(ax)


def draw_heat(ax: Axes, heat: Array, image: Array | None, scale: Scale, colors: Array) -> Any:
    """The heat map, in the frame of the image under it, where there is one."""
    height, width = heat.shape if image is None else image.shape[:2]
    if image is not None:
        draw_image(ax, image)
    look = mappable(scale, colors)
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = ax.imshow(heat, cmap=look.cmap, norm=look.norm, extent=frame, interpolation="nearest")
    no_ticks(ax)
    return drawn


def bar_needs(scales: Sequence[Scale]) -> tuple[float, float]:
    """The inches that a colour bar needs, in width and in height, for its numbers and its caption."""
    # The ends of the bar are those of its numbers, of which the arrows take a little; 0 is in the middle of a signed one.
    numbers = max(2 * max(inches(tick, SMALL) for tick in _ticks(scale)) + 0.3 for scale in scales) / (1 - 2 * _ARROW)
    caption = max(inches(scale.caption, SMALL) for scale in scales)
    return max(numbers, caption), 0.56


def draw_bar(cax: Axes, scale: Scale, colors: Array) -> None:
    """A horizontal colour bar in axes of its own."""
    bar = _bar(scale, colors, cax=cax, orientation="horizontal", extendfrac=_ARROW)
    ends = bar.ax.get_xticklabels()  # which end where the bar ends
    ends[0].set_ha("left")
    ends[-1].set_ha("right")


def bar_beside(ax: Axes, scale: Scale, colors: Array) -> None:
    """A colour bar beside axes of the caller's, which make room for it."""
    _bar(scale, colors, ax=ax, location="right", fraction=0.08, pad=0.03)


def _bar(scale: Scale, colors: Array, **where: Any) -> Any:
    """The colours are as they look on white paper, whatever their opacity."""
    opaque = np.concatenate([blended(np.ones(3), colors), np.ones((len(colors), 1))], 1)
    figure: Any = (where.get("cax") or where["ax"]).figure
    # From -1 to 1, and the numbers beside it: matplotlib's axes widen limits that are as small as attributions can be.
    unit = mappable(scale._replace(limit=1.0), opaque)
    bar = figure.colorbar(unit, extend=_arrows(scale), **where)
    names = _ticks(scale)
    bar.set_ticks([-1.0, 0.0, 1.0][-len(names) :], labels=names, **words(SMALL))
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=2)
    bar.set_label(scale.caption, **words(SMALL))
    return bar


def _ticks(scale: Scale) -> list[str]:
    return [f"{place:.3g}" for place in ([scale.bottom, 0.0, scale.limit] if scale.signed else [0.0, scale.limit])]


def _arrows(scale: Scale) -> str:
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    return beyond[scale.below, scale.above]


def readable_on(color: Any) -> str:
    """Black or white ink, whichever is clearer on a colour."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2: contrast (a + 0.05) / (b + 0.05)
    return "black" if luminance > 0.179 else "white"


def no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
