"""Masks that need shapes alone: squares, and channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._words import complaint, door, is_int, kind_of


@door
def grid(like: Tensor | Sequence[int], side: int | Sequence[int]) -> Tensor:
    """Squares of a picture, stretches of a signal, blocks of a volume: a grid over the dimensions after batch and channels.

    Args:
        like: a picture ``[N, C, H, W]``, a signal ``[N, C, T]``, a volume ``[N, C, D, H, W]``, or just the sizes ``(H, W)``.
        side: of a cell, in each dimension: an int for all of them. The last ones are cut at the edge.

    Returns:
        Ids ``[H, W]`` (``[T]``, ``[D, H, W]``), row by row from 0, which broadcast over examples and channels.

    Raises:
        TypeError: `like` is neither a tensor nor sizes, or `side` is no int.
        ValueError: `like` has no dimensions after the channels, or a side is below 1.

    Example:
        >>> import torch, funattr as fa
        >>> fa.masks.grid((4, 6), (2, 3))
        tensor([[0, 0, 0, 1, 1, 1],
                [0, 0, 0, 1, 1, 1],
                [2, 2, 2, 3, 3, 3],
                [2, 2, 2, 3, 3, 3]])
        >>> pictures = torch.rand(2, 3, 32, 32)
        >>> fa.shapley(lambda x: x.mean((1, 2, 3)), pictures, feature_mask=fa.masks.grid(pictures, 16)).shape
        torch.Size([2, 3, 32, 32])
    """
    sizes, device = (like.shape[2:], like.device) if isinstance(like, Tensor) else (like, torch.device("cpu"))
    if not isinstance(sizes, (tuple, list, torch.Size)) or not all(is_int(size) for size in sizes):
        raise complaint(TypeError, f"like must be a tensor [N, C, *spatial] or its spatial sizes, got {kind_of(like)}.")
    if not sizes:
        got = list(like.shape) if isinstance(like, Tensor) else like
        raise complaint(ValueError, f"like {got} has no dimensions after batch and channels: pass [N, C, *spatial], or sizes.")
    sides: list[Any] = list(side) if isinstance(side, (tuple, list)) else [side] * len(sizes)
    if not all(is_int(one) for one in sides):
        raise complaint(TypeError, f"side must be an int, or one for each dimension, got {kind_of(side)}.")
    if len(sides) != len(sizes) or any(one < 1 for one in sides):
        text = f"side={side} for the sizes {list(sizes)}: give one number of at least 1, or one for each dimension."
        raise complaint(ValueError, text)
    found = torch.zeros((), dtype=torch.long, device=device)
    for size, one in zip(sizes, sides):
        found = found[..., None] * -(-size // one) + torch.arange(size, device=device) // one
    return found


@door
def channels(like: Tensor, dim: int = 1) -> Tensor:
    """Each channel of a value, with all of its places.

    Args:
        like: a value ``[N, C, *S]``, or ``[N, *S, C]`` with ``dim=-1``, such as `activation` gives of a layer.
        dim: which dimension holds the channels.

    Returns:
        Ids from 0 to C - 1 that broadcast to the value: ``[C, 1, 1]`` for ``[N, C, H, W]``.

    Raises:
        TypeError: `like` is no tensor.
        ValueError: it has no such dimension, or `dim` is that of the batch.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> mask = fa.masks.channels(fa.activation(model, x, layer="1"))
        >>> fa.shapley(model, x, layer="1", feature_mask=mask, target=3).shape
        torch.Size([2, 8, 6, 6])
    """
    if not isinstance(like, Tensor):
        raise complaint(TypeError, f"like must be a tensor, got {kind_of(like)}: of several, one mask for each.")
    if not is_int(dim) or not -like.dim() <= dim < like.dim() or dim % like.dim() == 0:
        raise complaint(
            ValueError, f"dim={dim} is no dimension of channels of {list(like.shape)}: 1, or -1 for tokens [N, T, C]."
        )
    at = dim % like.dim()
    return torch.arange(like.shape[at], device=like.device).reshape([-1] + [1] * (like.dim() - 1 - at))
