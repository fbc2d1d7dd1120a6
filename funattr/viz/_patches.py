"""From the tokens of a picture to a map: which of them are patches, and how these lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ._arrays import Array, check_pair, heat_maps, is_whole, numbers, resized, shape_of

_MOST = 9  # special tokens that are looked for: a class token and the eight registers that models have at most


def tokens_to_map(
    attribution: Any,
    *,
    image: Sequence[int] | None = None,
    grid: Sequence[int] | None = None,
    special: int | None = None,
    size: Sequence[int] | None = None,
) -> Array:
    """The map that the tokens of a picture are: special tokens dropped, patches laid out in their rows, features summed.

    A vision transformer cuts a picture into square patches, row by row, and puts special tokens before them: one for the class
    (ViT, DINO), one more (DeiT), or registers (DINOv2). Neither how many these are nor how the patches lie is in an
    attribution: 295 tokens are a class token and 14 x 21 patches, and 17 x 17 after six. It follows from the size of the
    model's input, `image`, where for one number of special tokens up to 9 alone the others are square patches that fill it; or
    it is told, by `grid`. Where several answers are possible, none is guessed.

    The values are not changed: what a map sums to is the sum over its patches, without what the special tokens have. Layers
    whose value has rows and columns of its own (Swin, ``[N, h, w, C]``) are taken as they are. `overlay`, `blend`, `show` and
    `page` do all this for ``special="auto"``.

    Args:
        attribution: ``[N, T, C]``, ``[N, T]`` or ``[N, h, w, C]``: a tensor of any device and dtype, or an array. The features
            ``C`` are summed, which keeps the total.
        image: (height, width) of the model's input, ``x.shape[-2:]``.
        grid: (rows, columns) of the patches, where it is not to be found: all tokens before them are special.
        special: how many of the first tokens are no patches; None finds out.
        size: (height, width) to interpolate to, linear between the middles of patches; None: a pixel per patch.

    Returns:
        ``[N, rows, columns]``, or of the `size`: an array of float64, for `overlay`, `blend`, `show` or `page`.

    Raises:
        ValueError: a shape does not fit, no or several numbers of special tokens are possible, or a value is NaN or inf.
        TypeError: `attribution` does not hold real numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> viz.tokens_to_map(torch.randn(2, 197, 192), image=(224, 224)).shape
        (2, 14, 14)
        >>> viz.tokens_to_map(torch.randn(2, 1 + 4 + 8 * 12, 192), grid=(8, 12), size=(112, 168)).shape
        (2, 112, 168)
    """
    array = numbers(attribution, "attribution")
    if array.ndim == 4:
        maps = heat_maps(attribution, "attribution", -1)
    else:
        tokens = _features_summed(array, attribution)
        rows, columns = _checked_grid(tokens.shape[1], special, grid, image, attribution)
        maps = tokens[:, -rows * columns :].reshape(len(tokens), rows, columns)
    return maps if size is None else resized(maps, *check_pair(size, "size", "(height, width)"))


def with_tokens(value: Any, special: int | str | None, image: Sequence[int] | None, lone: bool) -> Any:
    """What a caller draws, where it may be of tokens: a map of them, or the value itself."""
    if special is None:
        return value
    if not (is_whole(special) or (isinstance(special, str) and special == "auto")):
        raise TypeError(f"special must be a number of tokens, 'auto' or None, got {special!r}.")
    if image is None:
        raise ValueError("special says that the map is one of tokens, and where these lie, the image says: pass it too.")
    array = numbers(value, "attribution")
    if lone and (array.ndim == 1 or (array.ndim == 2 and len(array) != 1)):
        array = array[None]
    if array.ndim == 4:
        return value
    return tokens_to_map(array, special=None if special == "auto" else int(special), image=image)


def _features_summed(array: Array, attribution: Any) -> Array:
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"attribution has the shape {shape_of(attribution)}, expected [N, T, C] or [N, T] of tokens, or [N, h, w, C]: "
            f"choose a layer whose value has a row per token."
        )
    summed: Array = array.sum(-1) if array.ndim == 3 else array
    return summed


def _checked_grid(
    tokens: int, special: int | None, grid: Sequence[int] | None, image: Sequence[int] | None, attribution: Any
) -> tuple[int, int]:
    what = f"attribution {shape_of(attribution)} has {tokens} tokens"
    if special is not None and not is_whole(special):
        raise TypeError(f"special must be a number of tokens or None, got {type(special).__name__}.")
    if special is not None and not 0 <= special < tokens:
        raise ValueError(f"{what}: special must be from 0 to {tokens - 1}, got {special}.")
    if grid is not None:
        rows, columns = check_pair(grid, "grid", "(rows, columns)")
        first = tokens - rows * columns if special is None else special
        if first < 0 or rows * columns + first != tokens:
            raise ValueError(f"{what}: a grid of {rows} x {columns} after {max(first, 0)} special ones has {rows * columns}.")
        return rows, columns
    if image is None:
        raise ValueError(f"{what}, and how they lie is not in it: pass image=x.shape[-2:], or grid=(rows, columns).")
    height, width = check_pair(image, "image", "(height, width)")
    counts = range(min(_MOST + 1, tokens)) if special is None else [special]
    found = [(k, *way) for k in counts for way in _grids(tokens - k, height, width)]
    if len(found) == 1:
        return found[0][1:]
    if not found:
        which = f"0 to {_MOST}" if special is None else str(special)
        raise ValueError(
            f"{what}, and without the first {which} they are no square patches that fill {height} x {width}: choose a layer of "
            f"patches, or pass grid=(rows, columns)."
        )
    ways = ", or ".join(f"special={k} ({rows} x {columns})" for k, rows, columns in found)
    raise ValueError(f"{what}, which fill {height} x {width} as square patches in several ways: pass {ways}.")


def _grids(patches: int, height: int, width: int) -> list[tuple[int, int]]:
    """The rows and columns that so many square patches can have which fill an image."""
    sides = [side for side in range(1, math.gcd(height, width) + 1) if height % side == 0 and width % side == 0]
    return [(height // side, width // side) for side in sides if (height // side) * (width // side) == patches]
