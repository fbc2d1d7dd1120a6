"""From what the caller has to what is drawn: shapes and channels. Nothing here needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

Array: TypeAlias = npt.NDArray[np.float64]
Brightness: TypeAlias = str | tuple[float, float]


def heat_maps(value: Any, name: str, channel_dim: int, *, lone: bool = False, over: Array | None = None) -> Array:
    """One map per example, ``[N, H, W]``: the sum over the channels. `over` are the images under them."""
    last = _channels_last(value, name, channel_dim, lone)
    if over is not None:
        _check_alike(last, over, f"{name} {shape_of(value)}", channel_dim)
    maps: Array = last.sum(-1)
    return maps


def _check_alike(last: Array, images: Array, name: str, channel_dim: int) -> None:
    """Refuse what has the places of the images where its channels should be: those of the two are not in one dimension."""
    _, height, width, channels = last.shape
    places, others = (height, width), (width, channels) if channel_dim == -1 else (channels, height)
    if channels > 1 and places != images.shape[1:3] == others:
        other, size = -4 - channel_dim, f"{others[0]} x {others[1]}"
        text = f"{name} has the places of the image, {size}, with its channels in dimension {other}"
        raise ValueError(f"{text}, and channel_dim={channel_dim} is for both: turn it, {_moved(other, channel_dim)}.")


def _moved(channels: int, channel_dim: int) -> str:
    return f"movedim({channels}, {channel_dim}) of a tensor, np.moveaxis of an array"


def pictures(value: Any, name: str, channel_dim: int, range_of: Brightness, *, lone: bool = False) -> Array:
    """Images ``[N, H, W, 1 or 3]`` in [0, 1], on the range that `brightness` says."""
    return brightness(_channels_last(value, name, channel_dim, lone), value, name, channel_dim, range_of)


def brightness(images: Array, value: Any, name: str, channel_dim: int, range_of: Brightness) -> Array:
    """Images, or volumes, ``[N, *S, 1 or 3]`` brought to [0, 1].

    What is inside [0, 1] is left as it is. Otherwise black and white are 0 and 255 for bytes, and for other numbers the
    smallest and the largest: of all images ("grid"), so that they can be compared, or of each ("example").
    """
    space = tuple(range(1, images.ndim))
    if images.shape[-1] not in (1, 3):
        other = -images.ndim - channel_dim
        raise ValueError(
            f"{name} {shape_of(value)} has {images.shape[-1]} channels in dimension {channel_dim}, expected 1 (grey) or 3 "
            f"(RGB): pass the channels to show, or channel_dim={other} if the channels are there, and those of the attribution "
            f"too; else turn it, {_moved(other, channel_dim)}."
        )
    if not isinstance(range_of, str):
        black, white = _black_and_white(range_of)
        return np.clip((images - black) / (white - black), 0, 1)
    if range_of not in ("grid", "example"):
        raise ValueError(
            f"brightness must be 'grid' (one range for all), 'example' (one for each) or (black, white), got {range_of!r}."
        )
    of = space if range_of == "example" else (0, *space)
    low, high = images.min(of, keepdims=True), images.max(of, keepdims=True)
    outside = (low < 0) | (high > 1)
    if _is_bytes(value):
        low, high = np.zeros_like(low), np.full_like(high, 255)
    span = np.where(high > low, high - low, 1.0)
    return np.where(outside, (images - low) / span, images)


def _black_and_white(given: Any) -> tuple[float, float]:
    try:
        black, white = map(float, given)
    except (TypeError, ValueError):
        raise TypeError(f"brightness must be 'grid', 'example' or a pair of numbers (black, white), got {given!r}.") from None
    if not black < white:
        raise ValueError(f"brightness=({black:g}, {white:g}): black must be the smaller of the two.")
    return black, white


def _is_bytes(value: Any) -> bool:
    return (value.dtype == torch.uint8) if isinstance(value, Tensor) else np.asarray(for_numpy(value)).dtype == np.uint8


def resized(maps: Array, height: int, width: int) -> Array:
    """``[N, h, w]`` -> ``[N, height, width]``, linear between the middles of pixels; made smaller, each pixel is a mean."""
    if maps.shape[1:] == (height, width):
        return maps
    how: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    found: Array = interpolate(torch.from_numpy(np.ascontiguousarray(maps))[:, None], (height, width), **how)[:, 0].numpy()
    return found


def smoothed(maps: Array, images: Array, smooth: bool) -> Array:
    """Maps that have fewer pixels than the images under them, made as large."""
    height, width = images.shape[1:3]
    smaller = maps.shape[1] <= height and maps.shape[2] <= width
    return resized(maps, height, width) if smooth and smaller else maps


def with_channels(value: Any, name: str, channel_dim: int, space: Sequence[str]) -> Array:
    """``[N, *space, C]`` of what may lack its channels, or these and its batch, whatever the dimensions of its space are."""
    size = len(space)
    if not is_whole(channel_dim) or channel_dim not in (-size - 1, -1):
        first, last = ", ".join(["C", *space]), ", ".join([*space, "C"])
        raise ValueError(f"channel_dim must be {-size - 1} ([N, {first}]) or -1 ([N, {last}]), got {channel_dim!r}.")
    array = numbers(value, name)
    whole = ["N", "C", *space] if channel_dim == -size - 1 else ["N", *space, "C"]
    if not size <= array.ndim <= size + 2 or array.size == 0:
        shapes = [f"[{', '.join(dims)}]" for dims in (whole, ["N", *space], list(space))]
        cure = "there is nothing to draw" if array.size == 0 else "choose what has these dimensions, and drop the others"
        raise ValueError(f"{name} has the shape {shape_of(value)}, expected {', '.join(shapes[:2])} or {shapes[2]}: {cure}.")
    if array.ndim == size:
        array = array[None]
    if array.ndim == size + 1:
        return array[..., None]
    return array if channel_dim == -1 else np.moveaxis(array, 1, -1)


def check_count(found: int, name: str, expected: int, of: str) -> None:
    if found != expected:
        raise ValueError(f"{name} has {found} examples and {of} has {expected}: pass one for each, in their order.")


def check_titles(titles: Sequence[str] | None, count: int, what: str) -> None:
    if isinstance(titles, str):
        raise TypeError(f"titles is one string, expected one per {what}: pass [{titles!r}].")
    check_listed(titles, "titles")
    if titles is not None and len(titles) != count:
        raise ValueError(f"titles has {len(titles)} entries for {count} {what}s: pass one title per {what}.")


def check_listed(value: Any, name: str) -> None:
    if not (value is None or isinstance(value, (Sequence, np.ndarray))):
        raise TypeError(f"{name} must be a list, or None, got {type(value).__name__}.")


def check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {type(value).__name__}.")


def check_flag(value: Any, name: str) -> None:
    """Refuse what is neither True nor False: "no" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}.")


def is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_pair(value: Any, name: str, what: str) -> tuple[int, int]:
    """Two whole numbers, above 0."""
    pair = tuple(value) if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim) else ()
    if len(pair) != 2 or not all(map(is_whole, pair)):
        raise TypeError(f"{name} must be two whole numbers, {what}, got {type(value).__name__}.")
    if min(pair) < 1:
        raise ValueError(f"{name} must be at least 1 in each dimension, got {pair}.")
    return int(pair[0]), int(pair[1])


def check_between(value: Any, name: str, fits: Callable[[Any], Any], text: str, more: str = "") -> None:
    """Refuse what is no number, or one that does not fit."""
    try:
        good = bool(fits(value))
    except (TypeError, ValueError, RuntimeError):  # of what cannot be compared, or is many
        raise TypeError(f"{name} must be a number {text}, got {type(value).__name__}.") from None
    if not good:
        raise ValueError(f"{name} must be {text}, got {value}{more}.")


def _channels_last(value: Any, name: str, channel_dim: int, lone: bool) -> Array:
    """``[N, H, W, C]``. A `lone` value may come without its batch dimension."""
    if not is_whole(channel_dim) or channel_dim not in (-3, -1):
        raise ValueError(f"channel_dim must be -3 ([..., C, H, W]) or -1 ([..., H, W, C]), got {channel_dim!r}.")
    array = numbers(_pillows(value, channel_dim), name)
    wanted = "C, H, W" if channel_dim == -3 else "H, W, C"
    if lone and array.ndim == 4 and len(array) != 1:
        raise ValueError(
            f"{name} {shape_of(value)} holds {len(array)} examples, expected one: pass {name}[0], or use show() for several."
        )
    dims = (2, 3, 4) if lone else (3, 4)
    if array.ndim not in dims or array.size == 0:
        shapes = ["[H, W]", f"[{wanted}]", f"[1, {wanted}]"] if lone else ["[N, H, W]", f"[N, {wanted}]"]
        cure = "choose a layer whose value has a height and a width" if array.ndim < 3 else "drop the other dimensions"
        if array.size == 0:
            cure = "there is nothing to draw"
        elif not lone and array.ndim == 2:
            cure = f"a single map needs its batch dimension, {name}[None]"
            if array.shape[1] == 1:
                cure += "; one number for each example is no map: choose a layer whose value has a height and a width"
        raise ValueError(f"{name} has the shape {shape_of(value)}, expected {', '.join(shapes[:-1])} or {shapes[-1]}: {cure}.")
    without_channels = array.ndim == (2 if lone else 3)
    if without_channels:
        array = array[..., None]
    elif channel_dim == -3:
        array = np.moveaxis(array, -3, -1)
    return array if array.ndim == 4 else array[None]


def _pillows(value: Any, channel_dim: int) -> Any:
    """Images of pillow, also those in a list, as arrays with their channels, which come last there, where they should be."""
    if isinstance(value, (list, tuple)):
        return [_pillows(part, channel_dim) for part in value]
    if not hasattr(value, "getbands"):
        return value
    grey = len(value.getbands()) < 3 and value.mode not in ("P", "PA")
    array = np.asarray(value.convert("L") if value.mode in ("1", "LA", "La") else value if grey else value.convert("RGB"))
    return array if array.ndim == 2 or channel_dim == -1 else np.moveaxis(array, -1, -3)


def numbers(value: Any, name: str) -> Array:
    """A float64 array. It may share memory with `value`: it is only read."""
    if isinstance(value, Tensor) and (value.is_nested or value.is_meta):
        kind = "nested tensor" if value.is_nested else "tensor on the meta device"
        raise TypeError(f"{name} is a {kind}, expected a tensor or an array of real numbers.")
    try:
        found = np.asarray(for_numpy(value))
    except ValueError:  # numpy's, of parts that are not alike
        shapes = " and ".join(list(dict.fromkeys(map(shape_of, value)))[:2])
        cure = "bring them to one size, or draw them one at a time"
        raise ValueError(f"{name} holds parts of different shapes, such as {shapes}: {cure}.") from None
    if found.dtype.kind not in "fiub":  # floats, integers, bools
        raise TypeError(f"{name} must be a tensor or an array of real numbers, got {type(value).__name__} of {found.dtype}.")
    found = found.astype(np.float64, copy=False)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} {shape_of(value)} holds NaN or inf, which have no colour: replace them first.")
    return found


def for_numpy(value: Any) -> Any:
    """Tensors, also those in a list, as arrays."""
    if isinstance(value, (list, tuple)):
        return [for_numpy(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().to_dense().cpu()
    return value.to(torch.float64).numpy() if value.is_floating_point() else value.numpy()  # numpy has no bfloat16


def shape_of(value: Any) -> str:
    """Its shape; of parts that are not alike, how many there are."""
    try:
        return str(list(np.shape(value if isinstance(value, Tensor) else for_numpy(value))))
    except ValueError:
        return f"[{len(value)}]"
