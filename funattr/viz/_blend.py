"""A heat map over its picture, as data."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import check_flag
from ._colors import blended, check_alpha, palette, shades
from ._figure import one_map


def blend(
    attribution: Any,
    image: Any,
    *,
    percentile: float = 99.0,
    channel_dim: int = -3,
    alpha: float = 0.7,
    cmap: Any = None,
    smooth: bool = True,
    special: int | str | None = None,
    brightness: tuple[float, float] | None = None,
    out: str | PathLike[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """The heat map over its image as an array, pixel for pixel of the image: what `overlay` draws, without words.

    Each pixel is ``(1 - a) * image + a * color(v)``, and its opacity ``a = alpha * min(1, |v| / limit)`` grows with the size of
    its value ``v``, up to the percentile of all sizes, the limit. The colours are those of `overlay`.

    Args:
        attribution: ``[H, W]``, ``[C, H, W]`` or ``[1, C, H, W]``: a tensor of any device and dtype, or an array. Channels
            are summed. A map that is smaller than the image is made as large.
        image: a grey or RGB image, of the same kinds of shape, or pillow's.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        channel_dim: where the channels of both are: -3 (``[C, H, W]``) or -1 (``[H, W, C]``).
        alpha: the opacity of the largest values over the image, from 0 to 1.
        cmap: a colour map of matplotlib or its name, as in `overlay` (the default needs no matplotlib).
        smooth: whether a map of another size is interpolated, linear between the middles of its pixels; False draws these as
            squares.
        special: for a map of tokens, ``[T, C]`` or ``[1, T, C]``: how many of the first are no patches, or "auto", as in
            `tokens_to_map`; the image is then the model's input. None: it is a map of pixels.
        brightness: the values of black and white, as in `overlay`.
        out: a file to write to, of the image's own size, such as ``"map.png"`` (for which Pillow is needed); None writes none.

    Returns:
        An array of bytes ``[H, W, 3]``, in RGB.

    Raises:
        ImportError: Pillow is not installed and `out` is given, or matplotlib is not and `cmap` is.
        ValueError: a shape or an argument does not fit, or a value is NaN or inf.
        TypeError: `attribution` or `image` does not hold real numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> picture = viz.blend(torch.randn(7, 7), torch.rand(3, 224, 224))
        >>> picture.shape, picture.dtype
        ((224, 224, 3), dtype('uint8'))
    """
    check_flag(smooth, "smooth")
    check_alpha(alpha)
    if image is None:
        raise TypeError("blend needs the image under the map: pass it, or call overlay(attribution) for a map alone.")
    heat, under, scale = one_map(attribution, image, percentile, channel_dim, smooth, special, brightness)
    assert under is not None
    height, width = under.shape[:2]
    if heat.shape != (height, width):  # squares, or a map larger than the image
        rows, columns = [
            ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in ((height, heat.shape[0]), (width, heat.shape[1]))
        ]
        heat = heat[np.ix_(rows, columns)]
    colors = shades(heat, scale, palette(cmap, scale.signed, alpha))
    found: npt.NDArray[np.uint8] = np.rint(255 * np.clip(blended(under, colors), 0, 1)).astype(np.uint8)
    if out is not None:
        _write(found, out)
    return found


def _write(picture: npt.NDArray[np.uint8], out: str | PathLike[str]) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError('writing pictures needs Pillow: pip install "funattr[viz]".') from error
    kinds = Image.registered_extensions()
    if PurePath(out).suffix.lower() not in kinds:
        raise ValueError(f"out={fspath(out)!r} does not name a picture: choose a name that ends in .png or .jpg.")
    Image.fromarray(picture).save(out)
