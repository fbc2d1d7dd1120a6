"""Numbers and pictures as text in a page: in few bytes, and what is rounded says by how much."""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._arrays import Array
from ._scales import Scale

Bytes: TypeAlias = npt.NDArray[np.uint8]

_FINE = 40  # a scale has at least so many steps on a side, and at most 2.5 times as many


def packed_map(values: Array, scale: Scale, exact: bool) -> dict[str, Any]:
    """A map and its scale. Not exact, its values are whole multiples of a round number, the unit, that is given with them."""
    unit = None if exact else _unit(scale.limit)
    steps = None if unit is None else np.rint(values / unit)
    if steps is None or np.abs(steps).max() > 2**50:  # the numbers of the page are exact up to 2**53
        unit, planes = None, _float_planes(values)
    else:
        planes = _planes(np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u8"))
    facts = {"sum": float(values.sum()), "least": float(values.min()), "most": float(values.max())}
    return {
        "shape": values.shape,
        "unit": unit,
        "bytes": len(planes),
        "values": text(planes),
        "scale": scale._asdict(),
        **facts,
    }


def packed_image(image: Array, exact: bool) -> dict[str, Any]:
    """An image ``[H, W, 1 or 3]`` in [0, 1]. Not exact, colour has half the resolution of brightness, as in JPEG."""
    levels = np.rint(255 * image).astype(np.uint8)
    halved = not exact and levels.shape[-1] == 3
    planes = _brightness_and_colour(levels) if halved else [levels[..., channel] for channel in range(levels.shape[-1])]
    # The difference to the pixel on the left is small in pictures, and small numbers take few bytes.
    differences = [np.diff(plane, axis=1, prepend=np.uint8(0)) for plane in planes]
    return {"halved": halved, "values": text(np.concatenate([plane.ravel() for plane in differences]))}


def text(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode("ascii")


def fits_float32(values: Array) -> bool:
    peak = float(np.abs(values).max())
    return peak == 0 or 1e-30 < peak < 1e38


def _unit(limit: float) -> float | None:
    """The largest of 1, 2 and 5 times a power of ten of which the limit has enough; None where no such number is."""
    exponent = math.floor(math.log10(limit / _FINE))
    fitting = [unit for m in ("1", "2", "5") if 0 < (unit := float(f"{m}e{exponent}")) <= limit / _FINE]
    return max(fitting, default=None)


def _float_planes(values: Array) -> Bytes:
    kind = "<f4" if fits_float32(values) else "<f8"
    return _split(values.astype(kind))


def _planes(numbers: npt.NDArray[Any]) -> Bytes:
    """The bytes of whole numbers, all lowest ones first: as many planes as the largest needs."""
    count = max(1, (int(numbers.max()).bit_length() + 7) // 8)
    return _split(numbers)[:count]


def _split(numbers: npt.NDArray[Any]) -> Bytes:
    planes: Bytes = np.ascontiguousarray(numbers).reshape(-1, 1).view(np.uint8).T
    return planes


def _brightness_and_colour(levels: Bytes) -> list[Bytes]:
    red, green, blue = np.moveaxis(levels.astype(float), -1, 0)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [bright, _halved(0.564 * (blue - bright) + 128), _halved(0.713 * (red - bright) + 128)]
    return [np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes]


def _halved(plane: Array) -> Array:
    even = np.pad(plane, [(0, side % 2) for side in plane.shape], mode="edge")
    means: Array = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3))
    return means
