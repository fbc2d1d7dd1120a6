"""Pictures of several sizes together: each as large as it goes into a box, with its maps, and nothing around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .words import mistake

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 800  # pixels of the longer side of a box
_MAP = 224  # that of a map's, which is drawn over a picture, and need not be as sharp


def together(shown: Sequence[Tensor], maps: Mapping[str, Sequence[Tensor]], smooth: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures ``[1, C, H, W]`` and the maps of each method ``[1, 1, h, w]``, stacked: of several sizes, in boxes."""
    shapes = [(part.shape[-2], part.shape[-1]) for part in shown]
    every = [*maps.values()]
    if len(set(shapes)) > 1 or any(len({value.shape for value in values}) > 1 for values in every):
        side = min(_MOST, max(max(shape) for shape in shapes))
        shown = _boxed(shown, shapes, side, 1.0, "bilinear")
        how = "bilinear" if smooth else "nearest"
        every = [_boxed(values, shapes, min(side, _MAP), 0.0, how) for values in every]
    return stacked(shown), {name: stacked(values) for name, values in zip(maps, every)}


def as_seen(shown: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """Pictures ``[1, C, H, W]``, stacked: those of several sizes in the proportions of what the model sees, so that maps
    stay as they are, number by number.

    Raises:
        argparse.ArgumentError: the model sees several sizes, too.
    """
    if len({part.shape[-2:] for part in shown}) == 1 and len({part.shape[-2:] for part in seen}) == 1:
        return stacked(shown)
    sizes = sorted({(part.shape[-2], part.shape[-1]) for part in seen})
    if len(sizes) > 1:
        told = " and ".join(f"{height} x {width}" for height, width in sizes[:2])
        raise mistake(
            f"the model sees pictures of several sizes, {told}, whose maps do not go together on one page: give --size, or "
            "--out with .png, or FOLDER/, which writes a picture for each."
        )
    side = min(_MOST, max(max(part.shape[-2:]) for part in shown))
    size = [max(1, round(length * side / max(sizes[0]))) for length in sizes[0]]
    return stacked([_resized(part, size, "bilinear") for part in shown])


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """One batch; of grey pictures among those in colour, three channels."""
    import torch

    channels = max(part.shape[1] for part in parts)
    return torch.cat([part.expand(-1, channels, -1, -1) for part in parts]).cpu()


def _boxed(parts: Sequence[Tensor], shapes: Sequence[tuple[int, int]], side: int, nothing: float, how: str) -> list[Tensor]:
    """Each resized to its shape's proportions, its longer side to `side`, in the middle of a box that all of them fill."""
    import torch

    sizes = [[max(1, round(length * side / max(shape))) for length in shape] for shape in shapes]
    box = [max(size[d] for size in sizes) for d in (0, 1)]
    boxed = []
    for part, size in zip(parts, sizes):
        down, right = ((whole - length) // 2 for whole, length in zip(box, size))
        made = torch.full((*part.shape[:2], *box), nothing, dtype=part.dtype, device=part.device)
        made[..., down : down + size[0], right : right + size[1]] = _resized(part, size, how)
        boxed.append(made)
    return boxed


def _resized(part: Tensor, size: Sequence[int], how: str) -> Tensor:
    import torch

    return torch.nn.functional.interpolate(part, list(size), mode=how, antialias=how == "bilinear")
