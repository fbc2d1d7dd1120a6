"""How much a pass makes, which the size of its input does not say, and how many steps there is room for at once."""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._core.code import Words
from .._core.passes import Question
from .._core.where import all_modules, own_numbers, weights_before
from .._torch import any_batch, is_view, operation_spaces, tracing, transforms_active, vmapped_over
from .._types import Tree, tensors
from .chunks import free
from .fold import rows_alone, taken

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
        if not self.counts:
            return out
        name = getattr(func, "__name__", "")
        if name not in _VIEWS and not (name.endswith("_") and not name.endswith("__")):
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, Tensor) and not (name in _MAY_VIEW and (is_view(t) or t is args[0])):
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
