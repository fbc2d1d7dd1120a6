"""From values to colours. Nothing here needs matplotlib, but for the colour maps that it knows by name."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ._arrays import Array, check_between
from ._scales import Scale

_COUNT = 257  # of colours in a palette: odd, so that 0 has one to itself, and nothing of it is seen over a picture
#: On paper: ColorBrewer's RdBu from blue to red, safe for the colour-blind, and white in the middle. Linear between these.
_ON_PAPER = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"
_ON_SLATE = "a8d4ff 5ba3ea 2a6cb0 1d4370 182b40 161616 40201d 70291f b03a2c ea6a58 ffb9a8"
#: Over a picture: no colour is dark or pale, so that it is seen on black and on white; what fades towards 0 is the opacity.
_NEGATIVE, _POSITIVE = "1437dc 1e78ff 3cbeff", "ffc828 ff7d14 e6142d"


def on_paper() -> Array:
    """``[256, 3]`` in [0, 1], from -limit to limit, of a map that has no picture under it."""
    return _between(_ON_PAPER, 256)


def on_slate() -> Array:
    """The same on a dark screen, black in the middle."""
    return _between(_ON_SLATE, 256)


def over_pictures() -> Array:
    """``[256, 3]`` in [0, 1], from -limit to limit, of a map over a picture."""
    return np.concatenate([_between(_NEGATIVE, 128), _between(_POSITIVE, 128)])


def as_text(colors: Array) -> str:
    """Colours ``[256, 3]``, as a page holds them."""
    return base64.b64encode(np.rint(255 * colors).astype(np.uint8).tobytes()).decode("ascii")


def palette(cmap: Any, signed: bool, alpha: float | None) -> Array:
    """``[257, 4]`` in [0, 1]: the colours from the scale's bottom to its limit, and their opacity.

    Args:
        cmap: a colour map of matplotlib, or its name; None is the default one.
        signed: whether the bottom is -limit, or 0.
        alpha: the opacity at the limit, from where it falls in proportion to the value; None: all is opaque, on paper.
    """
    at = np.linspace(-1, 1, _COUNT) if signed else np.linspace(0, 1, _COUNT)
    if cmap is not None:
        colors = _named(cmap)(np.linspace(0, 1, _COUNT))[:, :3]
    else:
        whole = on_paper() if alpha is None else over_pictures()
        known = np.linspace(-1, 1, 256) if alpha is None else _halves()
        colors = np.stack([np.interp(at, known, part) for part in whole.T], 1)
    opacity = np.ones(_COUNT) if alpha is None else alpha * np.abs(at)
    return np.concatenate([colors, opacity[:, None]], 1)


def shades(values: Array, scale: Scale, colors: Array) -> Array:
    """The row of the palette of each value: what is beyond an end has the colour of the end."""
    t = (values - scale.bottom) / (scale.limit - scale.bottom)
    found: Array = colors[np.clip(t * len(colors), 0, len(colors) - 1).astype(int)]
    return found


def blended(image: Array, colors: Array) -> Array:
    """``[H, W, 3]``: the colours ``[H, W, 4]`` over an image ``[H, W, 1 or 3]``."""
    opacity = colors[..., 3:]
    return (1 - opacity) * image + opacity * colors[..., :3]


def check_alpha(alpha: float) -> None:
    check_between(alpha, "alpha", lambda a: 0 <= a <= 1, "from 0 to 1")


def _named(cmap: Any) -> Any:
    try:
        from matplotlib import colormaps
    except ModuleNotFoundError as error:
        raise ImportError('colour maps by name need matplotlib: pip install "funattr[viz]".') from error
    if callable(cmap):
        return cmap
    if not isinstance(cmap, str) or cmap not in colormaps:
        shown = repr(cmap) if isinstance(cmap, str) else type(cmap).__name__
        raise ValueError(
            f"cmap={shown}: matplotlib has no colour map of this name; 'turbo', 'inferno' and 'coolwarm' are some."
        )
    return colormaps[cmap]


def _halves() -> Array:
    """Where the colours over pictures are: the two halves do not meet at 0, where nothing is seen."""
    return np.concatenate([np.linspace(-1, -1e-9, 128), np.linspace(1e-9, 1, 128)])


def _between(colors: str, count: int) -> Array:
    anchors = np.array([list(bytes.fromhex(color)) for color in colors.split()]) / 255
    at = np.linspace(0, len(anchors) - 1, count)
    return np.stack([np.interp(at, range(len(anchors)), part) for part in anchors.T], 1)
