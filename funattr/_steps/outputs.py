"""How much an output takes: where a vocabulary may make it far larger than what a step holds, one step runs first, to see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .._core.passes import Question
from .._core.where import all_modules
from .._torch import tracing, transforms_active
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
        self.q = q._replace(bound=q.bound._replace(call=self._seen))
        self._call = q.bound.call

    def _seen(self, *args: Any, **kwargs: Any) -> Any:
        output = self._call(*args, **kwargs)
        self.bytes = max(self.bytes, sum(t.numel() * t.element_size() for t in tensors(output)))
        return output

    def limited(self, most: int, like: Tree) -> int:
        """How many steps to run at once, now that one has shown what it returns."""
        room = ROOM
        if any(t.is_cuda for t in tensors(like)):
            room = max(room, free(tensors(like)[0].device) // 16)
        return max(1, min(most, room // max(self.bytes, 1)))

    def parts(self, count: int, size: int, like: Tree) -> Iterator[tuple[int, int]]:
        """`count` steps: one, then chunks of at most `size`, or fewer where outputs are so large, with a report after each."""
        report(0, count)
        yield 0, 1
        report(1, count)
        for a, b in chunks(count - 1, self.limited(size, like)):
            yield 1 + a, 1 + b
            report(1 + b, count)


def suspect(q: Question, like: Tree, most: int) -> bool:
    """Whether outputs of so many steps could take more than there is room for."""
    return most > 1 and not (tracing() or transforms_active() or rows_alone(q)) and most * _largest(q, like) > ROOM


def parts_of(
    q: Question, count: int, chunk_size: ChunkSize, like: Tree, *, shares: bool, times: int = 1
) -> tuple[Question, Iterable[tuple[int, int]]]:
    """`count` steps in chunks, and the question to ask for them. See `parts`."""
    size = chunk_for(count, chunk_size, like, shares=shares, times=times)
    if given_chunk(chunk_size) is not None or not suspect(q, like, size):
        return q, reported(chunks(count, size))
    outputs = Outputs(q)
    return outputs.q, outputs.parts(count, size, like)


def words(q: Question) -> int:
    """The largest vocabulary in the model; 0 without one."""
    return max([0, *(m.num_embeddings for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])


def _largest(q: Question, like: Tree) -> int:
    """Bytes of an output with a number for each word at each place."""
    return 4 * words(q) * sum(_places(t) for t in tensors(like))


def _places(t: Tensor) -> int:
    return math.prod(t.shape[:-1]) if t.is_floating_point() and t.dim() > 2 else t.numel()


def widened(q: Question, found: list[Tensor]) -> int:
    """How many numbers are in values, or in what a model makes of ids: the vectors that they become."""
    if all(t.is_floating_point() for t in found) or tracing():
        return sum(math.prod(t.shape) for t in found)
    width = max([1, *(m.embedding_dim for m in all_modules(q.bound.root) if isinstance(m, nn.Embedding))])
    return sum(math.prod(t.shape) * (1 if t.is_floating_point() else width) for t in found)
