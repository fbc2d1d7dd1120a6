"""Which part of a picture the model sees, so that a heat map can lie over the picture itself, in its own size."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..dataset._pictures import pillow, values_of
from .pictures import transformed
from .source import Source

if TYPE_CHECKING:
    from torch import Tensor

_BEND = 0.03  # of the picture's side: how far a preprocessing may be from moving and scaling alone

_ALL = 0.01  # of the side: what is nearer to its end is the end


def as_seen(source: Source, image: Any, options: argparse.Namespace) -> Tensor | None:
    """The part of an image that the model sees, ``[1, C, h, w]`` in the image's own size.

    None where that cannot be told. Nothing is assumed of the preprocessing: it is given ramps from black to white, and they
    say where each of its pixels comes from.
    """
    box = _box(source, image.size, options)
    if box is None:
        return None
    left, top, right, bottom = box
    return values_of(image)[None, :, top:bottom, left:right]


def _box(source: Source, size: tuple[int, int], options: argparse.Namespace) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom), in pixels of the image."""
    import torch

    def made(values: Any) -> Any:
        image = pillow().fromarray((255 * values).round().clamp(0, 255).byte().numpy()).convert("RGB")
        return transformed(source, image, options)[0]

    width, height = size
    if min(width, height) < 2:
        return None
    across = ((torch.arange(width) + 0.5) / width).expand(height, width)
    down = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    dark, light, *ramps = (made(values) for values in (torch.zeros(height, width), torch.ones(height, width), across, down))
    if any(not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape != dark.shape for x in (dark, light, *ramps)):
        return None
    # What normalises each channel is undone by what black and white become.
    places = [((ramp - dark) / (light - dark)).mean(1)[0] for ramp in ramps]
    ends = [_ends(places[0]), _ends(places[1].mT)]
    if ends[0] is None or ends[1] is None:
        return None
    (left, right), (top, bottom) = ends[0], ends[1]
    box = round(left * width), round(top * height), round(right * width), round(bottom * height)
    return (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))


def _ends(ramp: Tensor) -> tuple[float, float] | None:
    """Where the first pixel of rows begins and the last ends, in parts of the side; None where rows are no straight line."""
    import torch

    count = ramp.shape[1]
    if count < 4 or not bool(ramp.isfinite().all()):
        return None
    at = (torch.arange(count) + 0.5) / count
    row = ramp.mean(0)
    inner = slice(1, -1)  # at the edges resizing sees less
    slope = ((at - at.mean()) * (row - row.mean()))[inner].sum() / ((at - at.mean()) ** 2)[inner].sum()
    start = (row - slope * at)[inner].mean()
    straight = bool(((ramp - (start + slope * at)).abs()[:, inner] < _BEND).all())
    if not straight or slope <= 0 or start < -_BEND or start + slope > 1 + _BEND:
        return None
    first, last = float(start), float(start + slope)
    return (0.0 if abs(first) < _ALL else first), (1.0 if abs(last - 1) < _ALL else last)
