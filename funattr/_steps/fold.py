"""Many points of the input at once: folded into the batch where that is exact, else vmapped or one after another."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.door import noisy_modules
from .._core.model import Bound, all_modules
from .._core.place import observe
from .._core.score import Neuron, one_for_each, score_of
from .._torch import tracing, transforms_active, tree_flatten, tree_unflatten, without_modes
from .._types import Target, Tree, as_it_is, attributable, batch_size, map_tensors, tensors
from .._words import complaint
from .along import Inner, Job, score_at
from .baselines import holds_batch, one_batch
from .ways import raised_by_model


def along(job: Job, f: Inner, points: list[Tensor]) -> Iterator[list[Tensor]]:
    """`f` at points of the input, ``[c, N, ...]`` each: results ``[c', N, ...]`` in order, where the c' sum to c.

    Points are folded into the batch where that is exact; else vmapped, or run one after another.
    """
    if job.folds is None:
        job.folds = _may_fold(job)
    count = points[0].shape[0]
    inside = job.folds and not job.at_input() and f is not score_at
    first = _told_apart(job, count) if inside and not tracing() else count
    if first < count:
        yield from along(job, f, [t[:first] for t in points])
        yield from along(job, f, [t[first:] for t in points])
        return
    if job.folds or count == 1:
        folded = _folded(job, f, points, count)
        if folded is not None:
            yield folded
            return
        job.folds = False
    yield from job.run(lambda part, x: f(job, job.with_floats(part, x), job.target), points, job.x)


def _told_apart(job: Job, count: int) -> int:
    """How many of `count` points to fold, so that no dimension of the model's own has as many rows: see `_batch_dim`."""
    return next((k for k in range(count, 1, -1) if k * job.size not in job.sizes()), count)


def _may_fold(job: Job) -> bool:
    """Whether points may share the batch: each example alone, and nobody else has a row for each."""
    if job.bound.root is None or not one_batch(job.x, job.size) or holds_batch(job.model, job.size):
        return False
    return tracing() or not noisy_modules(job.model)


#: Multiplications, about, that take no longer than entering vmap.
SMALL = 1 << 18


def small(bound: Bound, x: Tree, count: int) -> bool:
    """Whether all that the model does with `count` copies of the batch is less than what vmap costs."""
    if tracing() or transforms_active() or bound.root is None:
        return False
    uses = 0  # of each weight, at most
    for t in tensors(x):
        uses += count * (t.shape[0] if t.dim() == 2 and t.is_floating_point() else t.numel())
    room = SMALL // max(1, uses)
    for module in all_modules(bound.root):
        room -= sum(weight.numel() for weight in module._parameters.values() if weight is not None)
        if room < 0:
            return False
    return True


def _folded(job: Job, f: Inner, points: list[Tensor], count: int) -> list[Tensor] | None:
    if count == 1:  # as it is, whatever the model does with its batch
        return [t[None] for t in f(job, job.with_floats([t[0] for t in points]), job.target)]
    size = job.size

    def repeated(leaf: Any) -> Any:
        return leaf.expand(count, *leaf.shape).flatten(0, 1) if isinstance(leaf, Tensor) and not attributable(leaf) else leaf

    folded = [t.flatten(0, 1) for t in points]
    if not (job.create_graph or tracing() or transforms_active()):
        folded = [t.data for t in folded]  # not a view: of a view, which others may write to, a leaf is a copy
    inputs = job.with_floats(folded, map_tensors(repeated, job.x))
    mixed: list[bool] = []
    aside = contextlib.nullcontext if tracing() else without_modes  # a neuron's index may look at the data: it sees its own
    if job.strict is None and not tracing():
        job.strict = job.under(NoBranches())
    try:
        found = f(job.strict or job, inputs, repeated_target(job.bound, job.x, job.target, count, mixed, aside))
    except Branch:  # vmap tells whether it depends on the points
        return None
    except (RuntimeError, ValueError) as error:
        # The model may want just its batch, and the vmapped run tells; its own errors are for the caller.
        if tracing() or raised_by_model(error):
            raise
        return None
    if any(mixed):
        return None
    # Scores have been counted already.
    dims = [0 if f is score_at else _batch_dim(job, i, t, count) for i, t in enumerate(found)]
    if None in dims:
        return None
    return [_unfolded(t, dim, count, size) for t, dim in zip(found, dims)]


def _batch_dim(job: Job, i: int, t: Tensor, count: int) -> int | None:
    """Where the batch is in the i-th tensor of the value at the sites: first, or (an LSTM's state) where its size shows."""
    rows = count * job.size
    # As many steps of a sequence, which comes first, as rows? Or places, or channels, of what all examples share? A pass for x
    # itself tells.
    if t.dim() and t.shape[0] == rows and not (t.dim() == 3 and t.shape[1] == rows) and rows not in job.sizes():
        return 0
    plain = job.value_shapes()[i]
    grown = [d for d in range(len(plain)) if t.dim() == len(plain) and t.shape[d] != plain[d]]
    return grown[0] if len(grown) == 1 and plain[grown[0]] == job.size and t.shape[grown[0]] == rows else None


def _unfolded(t: Tensor, dim: int | None, count: int, size: int) -> Tensor:
    assert dim is not None
    return t.reshape(*t.shape[:dim], count, size, *t.shape[dim + 1 :]).movedim(dim, 0)


class Branch(BaseException):
    """Control flow that looks at data. A BaseException: models catch Exception."""


class NoBranches(TorchFunctionMode):
    """A branch on the data of many points at once is not the branch that each would take."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS and isinstance(args[0], Tensor):
            raise Branch
        return func(*args, **(kwargs or {}))


_READS = {
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    torch.is_nonzero,
    torch.equal,
    torch.allclose,
}


def repeated_target(
    bound: Bound, x: Tree, target: Target, count: int, mixed: list[bool], inside: Callable[[], Any] = contextlib.nullcontext
) -> Target:
    """The target for `count` copies of the batch `x`; it notes in `mixed` whether the copies meet.

    A neuron's index runs in the middle of the model, `inside` a context.
    """
    size = batch_size(x)
    if isinstance(target, Neuron):
        if not callable(target.index):
            return target
        return Neuron(target.layer, partial(_per_copy, target.index, count, size, inside))
    of_output = callable(target)
    if callable(target):
        target = partial(_per_copy, target, count, size, contextlib.nullcontext)
    elif isinstance(target, Tensor):
        target = target if target.numel() == 1 else target.repeat(count)
    elif isinstance(target, list):
        target = target * count

    def scored(output: Any) -> Tensor:
        # Rules have nothing to do with looking at shapes, nor with picking an entry: each time they would be asked.
        plain = type(output) is Tensor and not tracing()
        with without_modes() if plain else as_it_is:
            mixed.append(mixes(bound, x, output, count * size))
            if plain and not of_output:
                return score_of(output, target)
        return score_of(output, target)

    scored.own = of_output  # type: ignore[attr-defined]  # whether the caller computes something of the output
    return scored


def mixes(bound: Bound, x: Tree, output: Any, rows: int) -> bool:
    """Whether every example meets the others in the output for `rows` of them, such as ``[N, N]`` of images and texts."""
    found = _held(output)
    if not any(rows in t.shape[1:] for t in found):
        return False
    # By chance, as many classes? The output for x itself tells.
    with torch.no_grad():
        plain = _held(observe(bound, x, [], lambda i, value, shared: value)[0])
    return any(a.shape[1:] != b.shape[1:] for a, b in zip(found, plain))


def _held(output: Any) -> list[Tensor]:
    plain = dataclasses.is_dataclass(output) and not isinstance(output, Mapping)
    return tensors(vars(output) if plain else output)


def _per_copy(target: Callable[[Any], Tensor], count: int, size: int, conditions: Callable[[], Any], output: Any) -> Tensor:
    """A callable may know the batch it is made for: it sees one copy at a time."""
    leaves, spec = tree_flatten(output)
    if any(t.dim() == 0 or t.shape[0] != count * size for t in leaves if isinstance(t, Tensor)) or not tensors(output):
        raise complaint(ValueError, "the output has no row for each example.")
    copies = []
    with conditions():
        for k in range(count):
            part = [t[k * size : (k + 1) * size] if isinstance(t, Tensor) else t for t in leaves]
            copies.append(one_for_each(target(tree_unflatten(part, spec)), "the target"))
    if any(copy.shape[0] != size for copy in copies):
        raise complaint(ValueError, "the target does not give one value for each example.")
    return torch.cat(copies)
