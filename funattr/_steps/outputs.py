"""How much an output takes: where a vocabulary may make it far larger than what a step holds, one step runs first, to see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .._core.passes import Question
from .._core.where import all_modules
from .._torch import any_batch, tracing, transforms_active
from .._types import ChunkSize, Tree, tensors
from .chunks import chunk_for, chunks, free, given_chunk
from .fold import rows_alone
from .progress import report, reported

#: Bytes that the outputs of one chunk may hold: with gradients, two or three times as much is live at once.
ROOM = 1 << 27


class Outputs:
    """A question whose model is seen to return, and the bytes of what it returned for one step."""

    def __init__(self, q: Question) -> None:
        self.bytes = 0
        self._call = q.bound.call
        watched = not (tracing() or transforms_active() or any_batch() or rows_alone(q)) and words(q) > 0
        self.q = q._replace(bound=q.bound._replace(call=self._seen)) if watched else q
        self.watched = watched

    def _seen(self, *args: Any, **kwargs: Any) -> Any:
        output = self._call(*args, **kwargs)
        self.bytes = self.bytes or sum(t.numel() * t.element_size() for t in tensors(output))
        return output

    def suspect(self, like: Tree, most: int) -> bool:
        """Whether outputs of so many steps could take more than there is room for: a number for each word at each place."""
        return self.watched and most > 1 and most * 4 * words(self.q) * sum(map(_places, tensors(like))) > ROOM

    def limited(self, most: int, like: Tree) -> int:
        """How many steps to run at once, now that one has shown what it returns."""
        room = ROOM
        if any(t.is_cuda for t in tensors(like)):
            room = max(room, free(tensors(like)[0].device) // 16)
        return max(1, min(most, room // max(self.bytes, 1)))

    def parts(
        self, count: int, chunk_size: ChunkSize, like: Tree, *, shares: bool, times: int = 1
    ) -> Iterable[tuple[int, int]]:
        """`count` steps in chunks; where it may matter, one first, and then as many as their outputs allow."""
        size = chunk_for(count, chunk_size, like, shares=shares, times=times, root=self.q.bound.root)
        if given_chunk(chunk_size) is not None or not self.suspect(like, size):
            return chunks(count, size)
        return self.limited_parts(0, count, size, like)

    def limited_parts(self, start: int, stop: int, size: int, like: Tree) -> Iterator[tuple[int, int]]:
        """The steps from `start` on: one, if no output has been seen, then chunks of as many as fit."""
        if not self.bytes and start < stop:
            yield start, start + 1
            start += 1
        for a, b in chunks(stop - start, self.limited(size, like)):
            yield start + a, start + b


def reporting(parts: Iterable[tuple[int, int]], count: int) -> Iterable[tuple[int, int]]:
    """The chunks of `count` steps, with a report after each."""
    return reported(parts) if isinstance(parts, list) else _reporting(parts, count)


def _reporting(parts: Iterable[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    report(0, count)
    for a, b in parts:
        yield a, b
        report(b, count)


def words(q: Question) -> int:
    """The largest vocabulary in the model; 0 without one."""
    return max([0, *(m.num_embeddings for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])


def _places(t: Tensor) -> int:
    return math.prod(t.shape[:-1]) if t.is_floating_point() and t.dim() > 2 else t.numel()


def widened(q: Question, found: list[Tensor]) -> int:
    """How many numbers are in values, or in what a model makes of ids: the vectors that they become."""
    if all(t.is_floating_point() for t in found) or tracing():
        return sum(math.prod(t.shape) for t in found)
    width = max([1, *(m.embedding_dim for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])
    return sum(math.prod(t.shape) * (1 if t.is_floating_point() else width) for t in found)
