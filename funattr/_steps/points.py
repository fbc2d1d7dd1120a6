"""Values and gradients at many points: of the input, with the sites further on, or at the sites."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.backward import misses_gradients
from .._core.checks import check_attributable
from .._core.gradient import gradients
from .._core.kept import laid_as
from .._core.passes import Point, Question, forward, kept, read, scores
from .._core.score import each_of
from .._torch import tracing, transforms_active, tree_flatten
from .._types import Tree, filled, floats_of, in_single, map_floats, map_tensors, tensors
from .fold import Inner, all_at_site, floats_in, folded, rows_alone, taken, with_leaves
from .progress import check_rows
from .ways import Runner, slices


def at_input(q: Question) -> bool:
    """Whether the only site is the input."""
    return q.sites.sites == (None,)


def with_floats(x: Tree, floats: list[Tensor]) -> Tree:
    """x with other floating-point tensors."""
    return with_leaves(x, floats_in(x), floats)


def times_way(slope: list[Tree], end: list[Tree], start: list[Tree]) -> list[Tree]:
    """``g (v - v0)``."""
    ways = zip(slope, for_all(slope, end), for_all(slope, start))
    return [map_floats(lambda g, v, v0: g * (v - v0), *same) for same in ways]


def for_all(slopes: Sequence[Tree], values: Sequence[Tree]) -> list[Tree]:
    """A value for each slope, of which there are some for each target."""
    return list(values) * (len(slopes) // max(len(values), 1))


def width(q: Question) -> int:
    """How much more a step holds for several targets: gradients at the sites are a small part of what a pass does."""
    return 1 + len(each_of(q.target)) // 16


def input_floats(q: Question) -> list[Tensor]:
    check_attributable(q.x, "x", moves=bool(q.inner))
    return floats_of(q.x)


def towards(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """``start + step (end - start)``; half precision would be too coarse for the step."""
    wide = in_single(end)
    return (start + step.to(wide.dtype) * (wide - start)).to(end.dtype)


def slope_at(q: Question, x: Tree) -> list[Tree]:
    """The score's gradient at the sites, for the input x."""
    return gradients(q._replace(x=x))[1]


def value_at(q: Question, x: Tree) -> list[Tree]:
    """The value at the sites, for the input x."""
    return [map_floats(lambda t: t, value) for value in read(q, x)]


def value_and_slope_at(q: Question, x: Tree) -> tuple[list[Tree], list[Tree]]:
    values, slopes = gradients(q._replace(x=x))
    return [map_floats(lambda t: t, value) for value in values], slopes


def score_at(q: Question, x: Tree) -> Tensor:
    """The score of each example, for the input x."""
    q = q.at()._replace(x=x, bound=q.bound.for_values(q.create_graph))
    return scores(q, forward(q, kept))


def along(run: Runner, q: Question, f: Inner, points: list[Tensor], at: list[int] | None = None) -> Iterator[Tree]:
    """`f` at points of the input: results with a leading dimension, in order, whose sizes sum to c.

    Points are ``[c, N, ...]`` for each leaf of x that `at` names, the floating-point tensors without it.
    """
    where = floats_in(q.x) if at is None else at
    if tracing():
        return run(lambda part, x: f(q, with_leaves(x, where, part)), points, q.x)
    leaves = tree_flatten(q.x)[0]
    points = laid_as(points, [leaves[i] for i in where])
    return run.bounded(points[0].shape[0], lambda a, b: _along(run, q, f, [t[a:b] for t in points], where))


def _along(run: Runner, q: Question, f: Inner, points: list[Tensor], where: list[int]) -> Iterator[Tree]:
    count = points[0].shape[0]
    if count > 1 and not transforms_active() and (taken.alone or rows_alone(q)):
        found = folded(q, f, points, where, itertools.repeat(0))
        if found is not None:
            yield found[0]
            return

    def in_one_batch() -> Tree | None:
        if run.folds is None:
            return None
        found = folded(q, f, points, where, run.folds.get((f, count)))
        if found is None:
            run.folds = None
            return None
        run.folds[f, count] = found[1]  # of so many: a model may count its rows
        return found[0]

    few = count < 4 and run.folds is not None  # too few to show anything
    asked = None if few and (f, count) not in (run.folds or ()) else in_one_batch
    yield from run.chunk(lambda part, x: f(q, with_leaves(x, where, part)), points, q.x, folded=asked, few=few, asks=f)


def gathered(run: Runner, q: Question, f: Inner, points: list[Tensor], at: list[int] | None = None) -> Tree:
    """`f` at all points of a chunk, with a leading dimension."""
    found = list(along(run, q, f, points, at))
    for part in found[1:]:
        check_rows([t[0] for t in tensors(found[0])], [t[0] for t in tensors(part)])
    return found[0] if len(found) == 1 else together(lambda same: torch.cat(same), found)


def steps_of(found: Tree) -> int:
    """How many steps a result is of."""
    return tensors(found)[0].shape[0]


def at_steps(found: Tree, steps: Any) -> Tree:
    """The results of some steps."""
    return map_tensors(lambda t: t[steps], found)


def together(f: Callable[[list[Tensor]], Any], found: Sequence[Tree]) -> Tree:
    """`f` of the tensors that stand in the same place."""
    return filled(found[0], [f(list(same)) for same in zip(*map(tensors, found))])


def at_points(run: Runner, q: Question, steps: Tree, point: Callable[[Tree], Point]) -> Iterator[tuple[list[Tree], list[Tree]]]:
    """Values at the sites and the score's gradients at the points ``point(step)``, with a leading dimension, in order."""
    if run.ways and (cause := misses_gradients(q)) is not None:
        run.give_up(cause)
    found = _all_points(q, slices(steps), point) if taken.alone and not transforms_active() else None
    if found is not None:
        return iter([found])
    return run(lambda step, x: gradients(q._replace(x=x), point(step), anchor=tensors(step)[0]), steps, q.x)


def _all_points(q: Question, steps: Iterator[Tree], point: Callable[[Tree], Point]) -> tuple[list[Tree], list[Tree]] | None:
    """`at_points` in one batch that begins at the sites."""
    each = [point(step) for step in steps]

    def together(i: int, values: list[Tensor]) -> list[Tensor]:
        own = [t[: q.size] for t in values]
        return [torch.cat(same) for same in zip(*(at(i, own) for at in each))]

    def ask(q: Question) -> list[Tree]:
        values[:], slopes = gradients(q, together)
        return slopes

    values: list[Tree] = []
    found = all_at_site(q, len(each), ask)
    return None if found is None else (map_tensors(lambda t: t[None, : q.size], values), found)
