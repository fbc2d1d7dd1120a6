"""How many steps run at once: the memory knob."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn

from .._core.where import all_modules
from .._torch import tracing, vmapped_over
from .._types import ChunkSize, Tree, tensors
from .._words import check_count, complaint

#: Bytes that the steps of one chunk may hold, at the input or at the site; where they share what lies before the site, and
#: every further chunk runs it again, more. What a network makes of its input takes up to 200 times as much (a ResNet-50
#: 150 times, a ViT-B 170 times), what it makes of the value at a site up to 25 times.
APART, SHARING = 1 << 23, 1 << 25
#: Bytes of the widest value that layers make in the steps of one chunk on a CPU: what is larger is fetched from memory again
#: for each operation. Measured: of 100 digits and three convolutions 24 steps at once take twice as long as 5, narrow
#: networks and one image of a wide one are as fast with what is left here, and small ones lose where a chunk holds less.
CACHED = 1 << 23


def chunks(size: int, chunk: int | None) -> list[tuple[int, int]]:
    """`size` steps in chunks of at most `chunk`, of about the same size."""
    count = 1 if chunk is None else -(-size // chunk)
    each_one, longer = (size // count, size % count) if count else (0, 0)  # divmod does not trace with a symbolic number
    bounds = [0]
    for i in range(count):
        bounds.append(bounds[-1] + each_one + (1 if i < longer else 0))
    return list(itertools.pairwise(bounds))


def chunk_for(
    count: int, chunk_size: ChunkSize, like: Tree, *, shares: bool, times: int = 1, root: nn.Module | None = None
) -> int:
    """How many of `count` steps to run at once: what the caller says, else what a budget of memory allows.

    `like`, `times` over, is what one step holds. `shares`: the steps share what lies before a site; otherwise they are inputs
    of `root`.
    """
    given = given_chunk(chunk_size)
    if given is not None:
        return given
    found = tensors(like)
    around = 1 if tracing() else vmapped_over()  # as many of each step
    size = around * times * sum(t.numel() * t.element_size() for t in found)
    most = 50 if shares or (count > 25 and 50 * size <= 1 << 18) else 25
    room = SHARING if shares else APART
    if most * size > room and not tracing() and found[0].is_cuda:
        room = max(room, free(found[0].device) // (64 if shares else 256))
    if not shares:
        most = min(most, cached(root, found, around))
    return fitting(count, most, size, room)


def fitting(count: int, most: int, size: int, room: int) -> int:
    """How many of `count` things of a size there is room for: `most`, or fewer, and always one.

    By comparisons: compiled for a symbolic batch, each is a guard that holds for many sizes, and a quotient is not. More
    things are taken in chunks of the same size, so that memory does not grow with them.
    """
    while most > 1 and _fewer(most) >= count:
        most = _fewer(most)
    while most > 1 and most * size > room:
        most = _fewer(most)
    return min(most, count)


def cached(root: nn.Module | None, like: list[torch.Tensor], times: int = 1) -> int:
    """How many inputs like this a CPU's caches like to have in the layers of `root` at once; at least four examples."""
    floats = [t for t in like if t.is_floating_point() and t.dim()]
    if root is None or not floats or tracing() or any(t.device.type != "cpu" for t in like):
        return 1 << 30
    size = times * _widest(root, sum(t.numel() for t in floats)) * floats[0].element_size()
    return max(CACHED // max(size, 1), -(-4 // max(times * floats[0].shape[0], 1)))


def _widest(root: nn.Module, numbers: int) -> int:
    """About how many numbers the widest value holds that layers make of so many: as if they ran in the order of their names."""
    most = numbers
    for module in dict.fromkeys(all_modules(root)):
        into, out, dims = _LAYERS.get(type(module), ("", "", 0))
        if out:
            numbers = numbers // max(getattr(module, into), 1) * getattr(module, out)  # a lazy layer has 0 until it runs
        if dims:
            stride: Any = module.stride
            numbers //= stride**dims if isinstance(stride, int) else math.prod(stride)
        most = max(most, numbers)
    return most


#: Of layers: what says how many numbers they take and make at each place, and how many dimensions their stride has.
_LAYERS: dict[type, tuple[str, str, int]] = {
    nn.Linear: ("in_features", "out_features", 0),
    **{kind: ("in_channels", "out_channels", d) for d, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)},
    **{kind: ("", "", d) for d, kind in enumerate((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 1)},
    **{kind: ("", "", d) for d, kind in enumerate((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), 1)},
}


def _fewer(most: int) -> int:
    return most - -(-most // 4)


def free(device: torch.device) -> int:
    """Bytes of a GPU that nobody holds, and those that torch holds for later."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def given_chunk(chunk_size: ChunkSize) -> int | None:
    """What the caller says; None where the library is to choose."""
    if chunk_size is None or isinstance(chunk_size, str):
        if chunk_size not in (None, "auto"):
            raise complaint(ValueError, f"chunk_size must be an int, 'auto' or None, got {chunk_size!r}.")
        return None
    check_count(chunk_size, "chunk_size")
    return len(range(chunk_size))  # Dynamo may have made a symbol of it: a number again
