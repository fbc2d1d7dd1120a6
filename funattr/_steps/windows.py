"""Windows that slide over the dimensions after the batch: where they are, and the mean over those that cover a feature."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.passes import Question
from .._torch import tree_flatten
from .._types import Tree, in_double, is_number, tensors
from .._words import complaint, is_int, kind_of
from .matching import by_site, matched


class Slides(NamedTuple):
    """How a window slides over one tensor: for each dimension after the batch, where it starts and how long it is."""

    starts: list[list[int]]
    window: list[int]
    sizes: list[int]

    @property
    def windows(self) -> int:
        return math.prod([len(starts) for starts in self.starts])


def slides_of(q: Question, window: Any, strides: Any, values: list[Tree]) -> list[list[Slides | None]]:
    """For each leaf of the value at each site; None for what is held."""
    found: list[list[Slides | None]] = []
    numbers = any(map(is_number, tensors(values)))
    pairs = zip(values, by_site(window, q.sites, "window"), by_site(strides, q.sites, "strides"))
    for i, (value, windows, steps) in enumerate(pairs):
        label, leaves = q.where(i), tree_flatten(value)[0]
        each = matched(windows, value, "window", label, deep=True)
        steps = [steps] * len(leaves) if isinstance(steps, int) else matched(steps, value, "strides", label, deep=True)
        found.append([])
        for leaf, own, step in zip(leaves, each, steps):
            held = own is None or (numbers and isinstance(windows, int) and not is_number(leaf))
            takes = isinstance(leaf, Tensor) and not held
            found[-1].append(_slides(leaf, own, step, label, q.size) if takes else None)
    if not any(one is not None for each in found for one in each):
        raise complaint(ValueError, "window holds every tensor at its own value, so there is nothing to compare: give one.")
    return found


def _slides(leaf: Tensor, window: Any, stride: Any, label: str, size: int) -> Slides:
    if leaf.shape[:1] != (size,):
        text = f"{label} holds a tensor {list(leaf.shape)} without a row for each of the {size} examples, over which no window"
        raise complaint(ValueError, f"{text} slides: choose a layer with the batch first.")
    sizes = list(leaf.shape[1:])
    lengths = _numbers(window, len(sizes), "window", label, leaf)
    steps = _numbers(1 if stride is None else stride, len(sizes), "strides", label, leaf, everywhere=True)
    for length, total in zip(lengths, sizes):
        if not 1 <= length <= max(total, 1):
            raise complaint(ValueError, f"window={window} does not fit into {label} {list(leaf.shape)}: from 1 to the size.")
    for length, step in zip(lengths, steps):
        if not 1 <= step <= length:
            text = f"strides={stride} for window={window} leave features out, or stand still: give each from 1 to the window's"
            raise complaint(ValueError, f"{text} own size.")
    counts = [-(-(total - length) // step) + 1 for total, length, step in zip(sizes, lengths, steps)]
    return Slides([[k * step for k in range(count)] for count, step in zip(counts, steps)], lengths, sizes)


def _numbers(given: Any, dims: int, name: str, label: str, leaf: Tensor, everywhere: bool = False) -> list[int]:
    """One number for each dimension after the batch."""
    if is_int(given) and (everywhere or dims == 1):
        return [given] * dims
    many = list(given) if isinstance(given, (tuple, list, torch.Size)) else [given]
    for number in many:
        if not is_int(number):
            raise complaint(TypeError, f"{name} must hold ints, one for each dimension after the batch, got {kind_of(number)}.")
    if len(many) != dims:
        text = f"{name}={given} has {len(many)} numbers for the {dims} dimensions after the batch of {label} {list(leaf.shape)}"
        raise complaint(ValueError, f"{text}: give one for each, channels too.")
    return many


def table_of(slides: list[list[Slides | None]]) -> Tensor:
    """A row for each step: which tensor the window is in, numbered from 0, and where it starts and ends in each dimension.

    The first is in none. Dimensions that a tensor has not are 0.
    """
    flat = [one for each in slides for one in each if one is not None]
    width = max(len(one.sizes) for one in flat)
    rows = [torch.full((1, 1 + 2 * width), -1, device="cpu")]
    for k, one in enumerate(flat):
        lines = [torch.tensor(starts, device="cpu") for starts in one.starts]
        corners = torch.cartesian_prod(*lines) if lines else torch.zeros(1, 0, dtype=torch.long, device="cpu")
        corners = corners.reshape(one.windows, len(one.sizes))
        ends = corners + torch.tensor(one.window, dtype=torch.long, device="cpu")
        part = torch.zeros(one.windows, 1 + 2 * width, dtype=torch.long, device="cpu")
        part[:, 0] = k
        part[:, 1 : 1 + 2 * len(one.sizes)] = torch.stack([corners, ends], 2).flatten(1)
        rows.append(part)
    return torch.cat(rows)


def inside(window: Tensor, number: Tensor, leaf: Tensor) -> Tensor:
    """The features, of the tensor of this number, in a window, or in several, up front: a `Gone`."""
    found = (window[..., 0] == number).reshape(*window.shape[:-1], *(1,) * leaf.dim())
    for d in range(leaf.dim() - 1):
        start, end = (window[..., k].reshape(*window.shape[:-1], *(1,) * leaf.dim()) for k in (1 + 2 * d, 2 + 2 * d))
        shape = [-1 if k == d + 1 else 1 for k in range(leaf.dim())]
        at = torch.arange(leaf.shape[d + 1], device=window.device).reshape(shape)
        found = found & (at >= start) & (at < end)
    return found


def mean_over(slides: Slides, losses: Tensor) -> Tensor:
    """``[windows, N]`` to the features ``[N, ...]``: the mean over the windows that cover each."""
    wide = in_double(losses)  # which autocast leaves alone
    found = wide.t().reshape(losses.shape[1], *[len(starts) for starts in slides.starts])
    for starts, length, size in zip(slides.starts, slides.window, slides.sizes):
        at, first = torch.arange(size, device=wide.device)[:, None], torch.tensor(starts, device=wide.device)
        covers = ((at >= first) & (at < first + length)).to(wide.dtype)
        found = torch.tensordot(found, covers / covers.sum(1, keepdim=True), dims=([1], [1]))
    return found.to(losses.dtype)
