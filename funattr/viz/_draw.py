"""What every picture is made of. No pyplot: no figure is registered, shown or left open, and no backend is needed."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._arrays import Array
from ._scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLORS = "RdBu_r"  # safe for the colour-blind, and white in the middle
_TITLE = 20  # the characters of a title that fit above a cell


def aspect(images: Array) -> float:
    """Height over width, within what fits on a page."""
    return float(np.clip(images.shape[1] / images.shape[2], 0.25, 4))


def wrapped(title: str) -> str:
    """A title that does not run into the next column's."""
    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, _TITLE) or [""])


def new_figure(inches: tuple[float, float], layout: Literal["compressed"] | None = "compressed") -> Figure:
    """An empty figure; the compressed layout keeps the cells of one shape together."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "funattr[viz]".') from error
    return Figure(figsize=inches, layout=layout)


def write(figure: Figure, out: str | PathLike[str] | None) -> Figure:
    if out is not None:
        if fspath(out).lower().endswith((".html", ".htm")):
            raise ValueError(f"out={fspath(out)!r} names a page, and this is a picture: call page(), or choose .png or .svg.")
        figure.savefig(out, dpi=150)
    return figure


def to_image(figure: Figure, *, dpi: float = 150.0) -> Image:
    """A figure as a PIL image.

    Args:
        figure: what `overlay`, `show`, `text`, `series` or `volume` returned, or any other matplotlib figure.
        dpi: pixels per inch.

    Returns:
        The PIL image, in RGB. The figure is left as it was.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> viz.to_image(viz.overlay(torch.eye(3)), dpi=100).mode
        'RGB'
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "funattr[viz]".') from error
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return Image.open(file).convert("RGB")


def mappable(scale: Scale) -> Any:
    """From numbers to colours, for what is not drawn by ``imshow``: ``mappable(scale).to_rgba(values)``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(scale.bottom, scale.limit), colors(scale.signed))


def draw_image(ax: Axes, image: Array) -> None:
    # squeeze: matplotlib takes grey images without channels.
    ax.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    no_ticks(ax)


def draw_heat(ax: Axes, heat: Array, context: Array | None, scale: Scale, alpha: float) -> Any:
    """The heat map, in the frame of the image under it, where there is one."""
    height, width = heat.shape if context is None else context.shape
    if context is not None:
        # From -1: black becomes mid-grey, so that the colours above stay those of the colour bar.
        ax.imshow(context, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    drawn = ax.imshow(
        heat,
        cmap=colors(scale.signed),
        vmin=scale.bottom,
        vmax=scale.limit,
        alpha=None if context is None else alpha,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    no_ticks(ax)
    return drawn


def colors(signed: bool) -> Any:
    """The colour map, or only its half from white to red: zero and positive look the same in both."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    both = matplotlib.colormaps[COLORS]
    return both if signed else ListedColormap(both(np.linspace(0.5, 1, 256)), name=f"{COLORS}, positive half")


def add_colorbar(drawn: Any, axes: Axes | Sequence[Axes], scale: Scale, location: str) -> None:
    """A colour bar at one side of some axes, which make room for it."""
    figure: Any = (axes[0] if isinstance(axes, Sequence) else axes).figure
    where = {"ax": axes, "location": location, "fraction": 0.08, "pad": 0.03, "panchor": False}
    _label(figure.colorbar(drawn, extend=_arrows(scale), **where), scale, location)


def fill_colorbar(drawn: Any, cax: Axes, scale: Scale) -> None:
    """A horizontal colour bar in axes of its own."""
    figure: Any = cax.figure
    _label(figure.colorbar(drawn, cax=cax, orientation="horizontal", extend=_arrows(scale)), scale, "bottom")


def _arrows(scale: Scale) -> str:
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    return beyond[scale.below, scale.above]


def _label(bar: Any, scale: Scale, location: str) -> None:
    ticks = [scale.bottom, 0.0, scale.limit] if scale.signed else [0.0, scale.limit]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()
    if location == "bottom":  # labels that end where the bar ends do not push the columns apart
        bar.ax.get_xticklabels()[0].set_ha("left")
        bar.ax.get_xticklabels()[-1].set_ha("right")
    bar.ax.tick_params(labelsize=8)
    bar.set_label(scale.caption, fontsize=8)


def readable_on(color: Any) -> str:
    """Black or white ink, whichever is clearer on a colour."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2: contrast (a + 0.05) / (b + 0.05)
    return "black" if luminance > 0.179 else "white"


def no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
