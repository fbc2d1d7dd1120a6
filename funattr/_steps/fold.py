"""Other rows than those of the batch, many points of the input in one or some rows by themselves: exact where the model treats
rows alone, which is known or shown, never guessed."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .._core.checks import same
from .._core.here import here
from .._core.kept import drawn
from .._core.passes import Question, each_score, forward, kept
from .._core.score import Every, each_of, one_for_each
from .._core.tap import touched
from .._core.where import Bound
from .._torch import (
    must_rise,
    transforms_active,
    tree_flatten,
    tree_unflatten,
)
from .._types import Neuron, Target, Tree, attributable, filled, map_tensors, tensors
from .._words import complaint
from .branches import Branch, NoBranches

T = TypeVar("T")
#: What to compute at a point of the input: ``f(q, x)`` gives tensors, in any structure.
Inner: TypeAlias = Callable[[Question, Tree], Tree]


def floats_in(x: Tree) -> list[int]:
    """Which of x's leaves are floating-point tensors."""
    return [i for i, leaf in enumerate(tree_flatten(x)[0]) if attributable(leaf)]


def with_leaves(x: Tree, at: list[int], new: list[Tensor]) -> Tree:
    """x with other tensors for some of its leaves."""
    leaves, spec = tree_flatten(x)
    for i, leaf in zip(at, new):
        leaves[i] = leaf
    return tree_unflatten(leaves, spec)


def folded(
    q: Question, f: Inner, points: list[Tensor], at: list[int], dims: Iterable[int] | None
) -> tuple[Tree, list[int]] | None:
    """`f` at points of some leaves of the input ``[c, N, ...]``, all in one batch, and where the batch is in each tensor.

    Where these `dims` are not known, they are shown: a batch of blocks is exact where each block gives what it gives by itself,
    and its scores, too: slopes of a net of ReLUs do not change with a little that its rows do to each other.
    Two of four or more are run to see it, for one may hold the largest of all: what rows before or after it, their number, or
    row numbers that the model holds do to it would show there. One of them is the last, for what the model holds may end
    before it; and none the one in the middle, which may be the mean of all. None where something does.
    """
    whole = attempted(lambda: stacked(q, points, at))
    both = None if whole is None else attempted(lambda: with_scores(whole[0], lambda: f(*whole), dims is None))
    if both is None or drawn():
        return None
    (found, scores), count = both, points[0].shape[0]
    shown = [] if dims is None else list(itertools.islice(dims, len(tensors(found))))
    if dims is None:
        for one in {count // 3, count - 1}:
            own = q._replace(x=with_leaves(q.x, at, [t[one] for t in points]))
            alone, own_scores = with_scores(own, partial(f, own, own.x))
            shown = [_shown(q, a, t, one, count) for a, t in zip(tensors(alone), tensors(found))]
            if -1 in shown or not all(map(same, (_blocks(t, 0, count)[one] for t in scores), own_scores)):
                return None
    return filled(found, [_blocks(t, dim, count) for t, dim in zip(tensors(found), shown)]), shown


def with_scores(q: Question, ask: Callable[[], T], wanted: bool = True) -> tuple[T, list[Tensor]]:
    """What `ask` gives, and the scores of its last pass, which are kept anyway; where none are, of one of their own, at x."""
    since = len(here.scores or ())
    found = ask()
    if here.scores is not None:
        return found, [value for value, _ in here.scores[since:][-len(each_of(q.target)) :]]
    values = q.at()._replace(bound=q.bound.for_values(False))
    return found, each_score(values, forward(values, kept)) if wanted else []


def attempted(run: Callable[[], T]) -> T | None:
    """What `run` gives with other rows than those of the batch; None where the model looks at data, or wants just its batch."""
    try:
        return run()
    except Branch:
        return None
    except Exception as error:
        if must_rise(error):
            raise
        return None


def _blocks(t: Tensor, dim: int, count: int) -> Tensor:
    return t.reshape(*t.shape[:dim], count, t.shape[dim] // count, *t.shape[dim + 1 :]).movedim(dim, 0)


def _shown(q: Question, own: Tensor, t: Tensor, at: int, count: int) -> int:
    """Where the batch is, if the block in the batch is what it is by itself; else -1."""
    dim = batch_dim(own.shape, q.size, t.shape, count * q.size)
    return dim if dim is not None and same(_blocks(t, dim, count)[at], own) else -1


def stacked(q: Question, points: list[Tensor], at: list[int]) -> tuple[Question, Tree]:
    """The question for all points in one batch, and its input."""
    count = points[0].shape[0]
    flat = [t.flatten(0, 1) for t in points]
    if not (q.create_graph or transforms_active()):
        flat = [t.data for t in flat]  # not a view: of a view, which others may write to, a leaf is a copy
    leaves, spec = tree_flatten(q.x)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and i not in at:
            leaves[i] = _copies(leaf, count)
    x = with_leaves(tree_unflatten(leaves, spec), at, flat)
    return _for_copies(q, count)._replace(x=x), x


def _copies(t: Tensor, count: int) -> Tensor:
    return t.expand(count, *t.shape).flatten(0, 1)


def _for_copies(q: Question, count: int) -> Question:
    """The question for `count` copies of a batch, of which there is no input yet."""
    return q._replace(bound=unbranched(q), target=repeated(q.target, count, q.size), size=count * q.size)


def unbranched(q: Question) -> Bound:
    """The model where it is given other rows, and must not look at what is in them to say what runs."""
    return q.bound if rows_alone(q) else q.bound.under(NoBranches())


class _Taken(threading.local):
    alone = False


taken = _Taken()


@contextlib.contextmanager
def rows_taken_alone() -> Iterator[None]:
    """What runs inside takes it that the model treats rows alone: for a trace for batches of any size, in which nothing can be
    shown, by somebody who shows it afterwards of what was traced."""
    before, taken.alone = taken.alone, True
    try:
        yield
    finally:
        taken.alone = before


def all_at_site(q: Question, count: int, ask: Callable[[Question], Tree]) -> Tree | None:
    """`ask` of a question whose values at the sites become ``[count * N, ...]`` there, by what it puts: what lies before them
    runs for N rows or, where something else meets what lies after them, for all. The results have a leading dimension. None
    where neither goes."""
    whole = _for_copies(q, count)
    for x in (q.x, map_tensors(lambda t: _copies(t, count), q.x)):
        found = attempted(partial(ask, whole._replace(x=x)))
        if found is not None:
            return map_tensors(lambda t: _blocks(t, 0, count), found)
    return None


def batch_dim(own: torch.Size, size: int, shape: torch.Size, rows: int) -> int | None:
    """The dimension that has a row for each example, of a value met for `size` of them and for `rows`; None: it is not told."""
    found = [d for d, count in enumerate(own) if count == size and (*own[:d], rows, *own[d + 1 :]) == shape]
    return found[0] if len(found) == 1 else None


def repeated(target: Any, count: int, size: int) -> Any:
    """The target for `count` copies of a batch."""
    if isinstance(target, Every):
        return Every(tuple(repeated(each, count, size) for each in target.targets))
    if isinstance(target, Neuron):
        return Neuron(target.layer, partial(_per_copy, target.index, count, size)) if callable(target.index) else target
    if callable(target):
        return partial(_per_copy, target, count, size)
    if isinstance(target, Tensor):
        return target if target.numel() == 1 else target.repeat(count)
    return target * count if isinstance(target, list) else target


def _per_copy(target: Callable[[Any], Tensor], count: int, size: int, output: Any) -> Tensor:
    """A callable may know the batch it is made for: it sees one copy at a time."""
    found = tensors(output)
    if not found or any(t.dim() == 0 or t.shape[0] != count * size for t in found):
        raise complaint(ValueError, "the output has no row for each example.")
    copies = (map_tensors(itemgetter(slice(k * size, (k + 1) * size)), output) for k in range(count))
    return torch.cat([one_for_each(target(copy), "the target") for copy in copies])


# Some rows by themselves.


def of_rows(q: Question, rows: Sequence[int]) -> Question | None:
    """The question for some examples; None where it is not told what of it belongs to these."""
    x, told = rows_of(q.x, rows, q.size), _target_of(q.target, rows, q.size)
    if x is None or told is None:
        return None
    return q._replace(bound=unbranched(q), x=x, target=told[0], size=len(rows))


def rows_of(value: Tree, rows: Sequence[int], size: int, *, one_for_all: bool = False) -> Tree | None:
    """Some rows of every tensor; None where one has other rows than the batch. With `one_for_all`, it may have one."""
    if not all(t.dim() and (t.shape[0] == size or (one_for_all and t.shape[0] == 1)) for t in tensors(value)):
        return None
    return map_tensors(lambda t: t[torch.tensor(rows, device=t.device)] if t.shape[0] == size else t, value)


def _target_of(target: Target, rows: Sequence[int], size: int) -> tuple[Target] | None:
    """The target of some examples, in a tuple, for None is one; None for a callable, which may know its batch."""
    if callable(target) or (isinstance(target, Neuron) and callable(target.index)):
        return None
    if isinstance(target, Tensor) and target.numel() != 1:
        return (target[torch.tensor(rows, device=target.device)],)
    if isinstance(target, list) and len(target) == size:
        return ([target[i] for i in rows],)
    return (target,)


# Where it is known.


def rows_alone(q: Question) -> bool:
    """Whether nothing runs but layers of torch that are known to treat rows alone."""
    root = q.bound.root
    if not isinstance(root, nn.Sequential) or q.bound.call is not root or not isinstance(q.x, Tensor):
        return False
    return _dims(root, q.x.dim()) > 1


#: Layers of torch that treat each element alone.
_ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanhshrink, nn.Identity),
)
#: Layers that treat the rows of a batch alone where the value has as many dimensions, batch and channels included.
_SPATIAL: dict[type, int] = {
    **dict.fromkeys((nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d), 3),
    **dict.fromkeys((nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), 4),
    **dict.fromkeys((nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d), 5),
}


def _dims(module: nn.Module, dims: int) -> int:
    """How many dimensions come out of a layer that treats rows alone for a value of `dims`; 0 for any other layer."""
    if touched(module):
        return 0
    kind = type(module)
    if isinstance(module, nn.Sequential) and kind is nn.Sequential:
        for child in module:
            dims = _dims(child, dims) if child is not None and dims > 1 else 0
        return dims
    if kind in _ELEMENTWISE or (kind is nn.Linear and dims > 1):
        return dims
    if kind in _SPATIAL:
        return dims if dims == _SPATIAL[kind] else 0
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return module.start_dim + 1 if 0 < module.start_dim < dims and module.end_dim == -1 else 0
    return 0
