"""Masks of pictures that follow edges: superpixels, by scikit-image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._words import check_count, complaint, door, kind_of


@door
def superpixels(pictures: Tensor, count: int = 50, *, compactness: float = 10.0) -> Tensor:
    """Parts of a picture of about one colour: SLIC, by scikit-image (``pip install "funattr[superpixels]"``).

    Args:
        pictures: ``[N, C, H, W]``, with any scale of values: each is brought to the range from 0 to 1.
        count: about how many for each picture.
        compactness: how much nearness counts against colour: more makes them squares.

    Returns:
        Ids ``[N, 1, H, W]`` from 0, a mask for each picture, which broadcast over channels. Pictures with fewer superpixels
        than others lack the last ids: players of no effect there.

    Raises:
        TypeError: `pictures` is no tensor of floating-point numbers, or `count` no int.
        ValueError: it is not ``[N, C, H, W]``, or `count` is below 1.
        ImportError: scikit-image is not installed.

    Example:
        >>> import torch, funattr as fa
        >>> picture = torch.zeros(1, 3, 16, 16)
        >>> picture[..., 8:] = 1
        >>> mask = fa.masks.superpixels(picture, 2)  # doctest: +SKIP
        >>> mask.shape  # doctest: +SKIP
        torch.Size([1, 1, 16, 16])

    References:
        Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, 2012,
        https://doi.org/10.1109/TPAMI.2012.120
    """
    if not isinstance(pictures, Tensor) or not pictures.is_floating_point():
        got = f"a tensor of {pictures.dtype}: pass pictures.float()" if isinstance(pictures, Tensor) else kind_of(pictures)
        raise complaint(TypeError, f"pictures must be a tensor of floating-point numbers [N, C, H, W], got {got}.")
    if pictures.dim() != 4:
        cure = "pass pictures[None]" if pictures.dim() == 3 else "give four dimensions"
        raise complaint(ValueError, f"pictures have the shape {list(pictures.shape)}, expected [N, C, H, W]: {cure}.")
    check_count(count, "count")
    found = [_slic(picture, count, compactness) for picture in pictures.detach().cpu().double()]
    return torch.stack(found)[:, None].to(pictures.device) if found else pictures.new_zeros(0, 1, *pictures.shape[2:]).long()


def _slic(picture: Tensor, count: int, compactness: float) -> Tensor:
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError('superpixels() needs scikit-image: pip install "funattr[superpixels]".') from error
    low, high = picture.min(), picture.max()
    scaled = ((picture - low) / (high - low if high > low else 1)).permute(1, 2, 0).numpy()
    colors = scaled if scaled.shape[2] == 3 else scaled.mean(2)
    last = -1 if scaled.shape[2] == 3 else None
    labels: Any = slic(colors, n_segments=count, compactness=compactness, channel_axis=last, start_label=0)
    return torch.from_numpy(labels).long()
