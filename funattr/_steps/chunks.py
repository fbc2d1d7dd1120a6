"""How many steps run at once, the memory knob: by what they hold, and by what a pass is seen to make of it."""

from __future__ import annotations

import itertools
import math
import weakref
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._core.code import Words
from .._core.passes import Question
from .._core.where import all_modules, own_numbers, weights_before
from .._torch import any_batch, is_view, operation_spaces, tracing, transforms_active, vmapped_over
from .._types import ChunkSize, Tree, tensors
from .._words import check_count, complaint
from .fold import rows_alone, taken

#: Bytes that the steps of one chunk may hold, at the input or at the site; where they share what lies before the site, and
#: every further chunk runs it again, more. What a network makes of its input takes up to 200 times as much (a ResNet-50
#: 150 times, a ViT-B 170 times), what it makes of the value at a site up to 25 times.
APART, SHARING = 1 << 23, 1 << 25
#: Bytes of the widest value that layers make in the steps of one chunk on a CPU. What lies free beyond 64 MiB, and each value
#: larger than 32 MiB, glibc gives back to the system, and each page of the next one costs a fault: 100 digits and three
#: convolutions took twice as long in chunks of 12 as of 2, and no longer where malloc was told to keep what it has.
KEPT = 1 << 23
#: Layers that make more than so many times the widest value fill what is kept anyway: there, as many times as many steps at
#: once, whose values are still below 32 MiB, are faster (a ResNet-18 by a tenth).
DEEP, MORE = 7, 3


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
    fits = fitting(count, most, size, room)
    return fits if shares else min(fits, keeps(root, found, around))


def fitting(count: int, most: int, size: int, room: int) -> int:
    """How many of `count` things of a size there is room for: `most`, or fewer, and always one.

    By comparisons: compiled for a symbolic batch, each is a guard that holds for many sizes, and a quotient is not. More
    things are taken in chunks of the same size, so that memory does not grow with them.
    """
    while most > 1 and (_fewer(most) >= count or most * size > room):
        most = _fewer(most)
    return min(most, count)


def keeps(root: nn.Module | None, like: list[torch.Tensor], times: int = 1) -> int:
    """How many inputs like this the layers of `root` take at once in memory that a CPU keeps; at least four examples."""
    floats = [t for t in like if t.is_floating_point() and t.dim()]
    if root is None or not floats or tracing() or any(t.device.type != "cpu" for t in like):
        return 1 << 30
    widest, made = _made(root, sum(t.numel() for t in floats))
    room = KEPT if made <= DEEP * widest else MORE * KEPT
    return max(room // max(times * widest * floats[0].element_size(), 1), -(-4 // max(times * floats[0].shape[0], 1)))


def _made(root: nn.Module, numbers: int) -> tuple[int, int]:
    """About how many numbers the widest value holds that layers make of so many, and all of them hold: as if they ran in the
    order of their names.

    Those that take a part of what there is, as of the queries, keys and values that one layer has made, leave the number of
    places as it is; those that take more, after a `flatten`, leave fewer.
    """
    most = places = numbers
    made = 0
    for module in dict.fromkeys(all_modules(root)):
        into, out, dims = _LAYERS.get(type(module), ("", "", 0))
        stride: Any = module.stride if dims else 1
        step = stride**dims if isinstance(stride, int) else math.prod(stride)
        if out:
            places = min(places, numbers // max(getattr(module, into), 1))  # a lazy layer has 0 until it runs
            numbers = places // step * getattr(module, out)
        else:
            numbers //= step
        places //= step
        most = max(most, numbers)
        made += 0 if type(module) in _HOLDERS else numbers  # a block's own code makes a sum, say
    return most, made


#: Of layers: what says how many numbers they take and make at each place, and how many dimensions their stride has.
_LAYERS: dict[type, tuple[str, str, int]] = {
    nn.Linear: ("in_features", "out_features", 0),
    **{kind: ("in_channels", "out_channels", d) for d, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)},
    **{kind: ("", "", d) for d, kind in enumerate((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 1)},
    **{kind: ("", "", d) for d, kind in enumerate((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), 1)},
}


_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


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


# What a pass is seen to make, which the size of its input does not say.

#: Bytes that the passes of one chunk may make; on a GPU, what an eighth of its free memory holds, if that is more.
ROOM = 1 << 28
#: Bytes of a step of which layers, which make some hundred times as much, cannot fill the room; nor can other code, unless it
#: names what makes much of little.
SMALL = 1 << 16
#: The part of a model before a site, by its weights, that runs once more at no cost worth naming.
LITTLE = 1 / 20
_EXPANDS = Words(
    *("interpolate", "repeat_interleave", "cdist", "outer", "einsum", "kron", "meshgrid", "one_hot", "unfold", "stft"),
    *("grid_sample", "broadcast_to"),
    also=(nn.Upsample, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
#: Without one of these a model hardly relates each place to all others, or to words: matrices are transposed to be multiplied.
_RELATES = Words(
    *("attention", "softmax", "matmul", "bmm", "einsum", "transpose", "permute", "swapaxes", "mT", "tensordot"),
    also=(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Embedding),
)


def shows_room(q: Question, like: Tree, shares: bool, own: bool = True) -> bool | None:
    """Whether a step like this, alone, is to show how many there is room for; None: the first chunk may, which may be too much.

    Where steps share the part of the model before a site, one alone costs that part once more; where their passes are not
    their `own`, a pass.
    """
    if tracing() or any_batch() or (taken.alone and not transforms_active()):
        return False
    found = tensors(like)
    small = 4 * widened(q, found) <= SMALL
    if rows_alone(q) or (small and _makes_little(q, found)):
        return not small
    if own and (not shares or not q.inner):
        return True
    root = q.bound.root
    early = own and root is not None and min(weights_before(root, site.layer) for site in q.inner) <= LITTLE
    if _relates_places(q, found) > ROOM and (early or not own or _names(_RELATES, q)):
        return True
    return True if early and (_names(_EXPANDS, q) or _meets_own(q, found)) else None


def _relates_places(q: Question, found: list[Tensor]) -> int:
    """Bytes that one operation may make of a few steps: of attention over so many places, of words of so large a vocabulary."""
    places = [(t.shape[0], math.prod(t.shape[1:-1] if t.is_floating_point() else t.shape[1:])) for t in found if t.dim()]
    words = max([0, *(m.num_embeddings for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])
    return max([0, *(32 * n * many * max(8 * many, words) for n, many in places)])


def _names(words: Words, q: Question) -> bool:
    root = q.bound.root
    return words.in_function(q.bound.call) if root is None else words.in_modules(all_modules(root))


def _makes_little(q: Question, found: list[Tensor]) -> bool:
    return _relates_places(q, found) <= ROOM >> 4 and not (_meets_own(q, found) or _names(_EXPANDS, q))


def _meets_own(q: Question, found: list[Tensor]) -> bool:
    """Whether a table of the model's own may meet each row in one operation, as centres do in distances."""
    rows = max([1, *(math.prod(t.shape[:-1]) for t in found)])
    return rows * own_numbers(q.bound.root) > ROOM >> 10


class TooMuch(BaseException):
    """A chunk makes more than there is room for. A BaseException: models catch Exception."""

    def __init__(self, made: Made) -> None:
        self.made = made


class Made(TorchFunctionMode):
    """Counts the bytes that a pass makes: with a graph, all of it, since that may keep it, and else what is held at a time."""

    def __init__(self, limit: float = math.inf) -> None:
        self.begin(limit)

    def begin(self, limit: float, counts: bool = True) -> None:
        """From here on, unless nobody will ask."""
        self.counts, self.limit, self.kept, self.loose, self.largest, self.peak = counts, limit, 0, 0, 0, 0
        self.held: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.counts or (makes := _makes(func)) == "nothing":
            return out
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor) and not (makes == "views" and (is_view(t) or t is args[0])):
                self.count(t, _INSIDE.get(func, 1))
        if self.peak > self.limit:
            raise TooMuch(self)
        return out

    def count(self, t: Tensor, times: int) -> None:
        size = t.numel() * t.element_size() * times * (vmapped_over() if transforms_active() else 1)
        if t.requires_grad:
            self.kept += size
            self.largest = max(self.largest, size)  # on the way back there is a gradient of each, one or two at a time
        elif size > _TINY:
            self.loose += size
            self.held[id(t)] = weakref.ref(t, partial(self.forget, id(t))), size
        self.peak = max(self.peak, self.kept + self.loose + 2 * self.largest)

    def forget(self, key: int, gone: weakref.ref[Tensor]) -> None:
        self.loose -= self.held.pop(key, (gone, 0))[1]


_TINY = 1 << 10
#: What makes nothing, and what may not.
_VIEWS = frozenset(
    (
        *("view", "view_as", "transpose", "permute", "expand", "expand_as", "unsqueeze", "squeeze", "__get__", "t", "chunk"),
        *("split", "unbind", "unflatten", "narrow", "select", "movedim", "swapaxes", "detach", "requires_grad_", "diagonal"),
    )
)
_MAY_VIEW = frozenset(["__getitem__", "reshape", "flatten", "contiguous", "to", "type", "float", "double", "real", "imag"])


@lru_cache(1024)
def _makes(func: Any) -> str:
    """Whether an operation makes "nothing", "views" where it can, or what it returns."""
    name = getattr(func, "__name__", "")
    if name in _VIEWS or (name.endswith("_") and not name.endswith("__")):
        return "nothing"
    return "views" if name in _MAY_VIEW else "all"


#: How many times what they return operations make that modes do not see inside of.
_INSIDE: dict[Any, int] = {F.multi_head_attention_forward: 16} | {
    getattr(space, name): times
    for space in operation_spaces
    for name, times in (("lstm", 12), ("gru", 10), ("rnn_tanh", 4), ("rnn_relu", 4))
    if hasattr(space, name)
}


def room_on(like: list[Tensor]) -> int:
    """Bytes that passes may make there."""
    return max(ROOM, free(like[0].device) // 8) if like and like[0].is_cuda else ROOM


def widened(q: Question, found: list[Tensor]) -> int:
    """How many numbers are in values, or in what a model makes of ids: the vectors that they become."""
    if all(t.is_floating_point() for t in found) or tracing():
        return sum(math.prod(t.shape) for t in found)
    width = max([1, *(m.embedding_dim for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])
    return sum(math.prod(t.shape) * (1 if t.is_floating_point() else width) for t in found)
