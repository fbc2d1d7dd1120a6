"""Gradients and values along a path: at the sites, or in the input with the sites further on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.gradient import gradients, hooks_backward
from .._core.kernels import in_plain_forms
from .._core.passes import Point, Question, each_score, forward, kept, question, read
from .._core.real import check_attributable
from .._core.rows import alone, each_of
from .._core.score import predicted, score_of
from .._core.several import for_each
from .._torch import tracing, transforms_active
from .._types import ChunkSize, Layer, Model, Target, Tree, floats_of, map_floats, map_tensors, tensors
from .._words import complaint
from .baselines import full_batch, references
from .fold import Inner, all_at_site, floats_in, folded, rows_alone, taken, with_leaves
from .mean import Sum, check_rows
from .outputs import Outputs, reporting
from .quadrature import Rule
from .twins import OneRow, same_rows
from .ways import Runner, slices


def asked(
    body: Callable[..., Tree], model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool, *others: Any
) -> Tree:
    """``body(q, *others)`` for a question about many points, with gradients recorded where `create_graph` asks for them."""
    with torch.set_grad_enabled(create_graph):
        return body(ready(model, x, layer, alone(target), create_graph), *others)


def explained(
    body: Callable[..., list[Tree]], model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool, *others: Any
) -> Tree:
    """The same of a body that gives a tree for each site, and for each target where these share its passes."""
    with torch.set_grad_enabled(create_graph):
        q = ready(model, x, layer, target, create_graph)
        return for_each(q, lambda q: body(q, *others))


def ready(model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool) -> Question:
    """A question about many points: "argmax" is settled, and nothing is recorded that need not be."""
    q = question(model, x if create_graph else map_tensors(torch.detach, x), layer, target, create_graph)
    if tracing():
        q = q._replace(bound=q.bound._replace(call=in_plain_forms(q.bound.call)))
    return q._replace(target=_settled(q))


def _settled(q: Question) -> Target:
    """ "argmax" is the class predicted at x, at all points."""
    if not isinstance(q.target, str):
        target: Target = q.target
        return target
    with torch.no_grad():
        output = forward(q._replace(sites=q.sites._replace(sites=())), kept).output
    score_of(output, q.target, q.size)  # its checks
    return predicted(output, q.size)


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
    check_attributable(q.x, "x")
    return floats_of(q.x)


def towards(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """``start + step (end - start)``; half precision would be too coarse for the step."""
    wide = end if end.element_size() >= 4 else end.float()
    return (start + step.to(wide.dtype) * (wide - start)).to(end.dtype)


# What to compute at a point of the input: a tree per site, or the scores.


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
    return scores_at(q, x)[0]


def scores_at(q: Question, x: Tree) -> list[Tensor]:
    """The same, for each target."""
    q = q._replace(x=x, sites=q.sites._replace(sites=()))
    return each_score(q, forward(q, kept))


def along(run: Runner, q: Question, f: Inner, points: list[Tensor], at: list[int] | None = None) -> Iterator[Tree]:
    """`f` at points of the input: results with a leading dimension, in order, whose sizes sum to c.

    Points are ``[c, N, ...]`` for each leaf of x that `at` names, the floating-point tensors without it.
    """
    where = floats_in(q.x) if at is None else at
    count = points[0].shape[0]
    if count > 1 and not tracing() and not transforms_active() and (taken.alone or rows_alone(q)):
        found = folded(q, f, points, where, itertools.repeat(0))
        if found is not None:
            yield found[0]
            return

    def in_one_batch() -> Tree | None:
        if run.folds is None:
            return None
        found = folded(q, f, points, where, run.folds.get(f))
        if found is None:
            run.folds = None
            return None
        run.folds[f] = found[1]
        return found[0]

    few = count < 3 and run.folds is not None  # too few to show anything
    asked = None if few and f not in (run.folds or ()) else in_one_batch
    yield from run(lambda part, x: f(q, with_leaves(x, where, part)), points, q.x, folded=asked, few=few)


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
    rest = iter([f(list(same)) for same in zip(*map(tensors, found))])
    return map_tensors(lambda t: next(rest), found[0])


def at_points(run: Runner, q: Question, steps: Tree, point: Callable[[Tree], Point]) -> Iterator[tuple[list[Tree], list[Tree]]]:
    """Values at the sites and the score's gradients at the points ``point(step)``, with a leading dimension, in order."""
    if run.ways and hooks_backward(q):
        run.give_up("it has hooks on its backward pass")
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


# The straight path from the baselines to x.


def input_ends(q: Question, baselines: Tree) -> tuple[list[Tensor], list[Tensor]]:
    end = input_floats(q)
    return floats_of(references(q.x, baselines, ids=False)), end


def points(start: list[Tensor], end: list[Tensor], nodes: Tensor) -> list[Tensor]:
    """``[c, N, ...]``: the path at c nodes."""
    return [towards(a, b, nodes.to(b.device).reshape(-1, *[1] * b.dim())) for a, b in zip(start, end)]


class Path(NamedTuple):
    """A straight path of the input, or of the value at the sites, and what the score does along it."""

    start: list[Tree]  # where it begins: for each site, or for x
    slopes: Callable[[Runner, Tensor], Iterator[tuple[list[Tree], list[Tree]]]]  # at nodes: where each ends; the gradients
    parts: Callable[[int, ChunkSize], Iterable[tuple[int, int]]]  # of so many nodes, those that run at once
    kind: Callable[[Question, list[Tree]], Path]  # the same of another question, from another start


def in_input(q: Question, start: list[Tree]) -> Path:
    """The path of the input, from a baseline in its structure."""
    ends, outputs = (floats_of(start), input_floats(q)), Outputs(q)
    q = outputs.q

    def slopes(run: Runner, nodes: Tensor) -> Iterator[tuple[list[Tree], list[Tree]]]:
        for found in along(run, q, slope_at, points(*ends, nodes)):
            yield [q.x], found

    parts = partial(outputs.parts, like=ends[1], shares=False, times=width(q))
    return Path(start, slopes, parts, in_input)


def input_path(q: Question, baselines: Tree) -> Path:
    """The path of the input from the baselines to x."""
    return in_input(q, [with_floats(q.x, input_ends(q, baselines)[0])])


def mean_slope(path: Path, rule: Rule, chunk_size: ChunkSize) -> tuple[list[Tree], list[Tree], list[Tree]]:
    """Start and end of a path, and the mean over it of the gradient at the sites."""
    run, total, end = Runner(), Sum(), path.start
    for a, b in reporting(path.parts(len(rule.nodes), chunk_size), len(rule.nodes)):
        weights = rule.weights[a:b]
        for ends, slopes in path.slopes(run, rule.nodes[a:b]):
            end, weights = ends, _added(total, slopes, weights)
    return path.start, end, total.total()


def _added(total: Sum, slopes: list[Tree], weights: Tensor) -> Tensor:
    """The weights that are left for the steps to come."""
    count = tensors(slopes)[0].shape[0]
    total.add(slopes, weights[:count])
    return weights[count:]


def at_baseline(q: Question, reference: Tree) -> list[Tree]:
    """The values at the sites for a baseline: one row where all are the same."""

    def read_there(one_row: OneRow) -> list[Tree]:
        found: list[Tree] = map_tensors(lambda t: t if (row := one_row(t)) is None else row.clone(), read(q, reference))
        return found

    return same_rows(q.size, read_there)


def broadcasts(small: Tensor, large: Tensor) -> bool:
    return small.dim() == large.dim() and all(p in (1, q) for p, q in zip(small.shape, large.shape))


def site_path(q: Question, baselines: Tree) -> Path:
    """The path at the sites, from the value for the baselines to the value for x."""
    return at_sites(q, at_baseline(q, full_batch(references(q.x, baselines, ids=True), q.x)))


def at_sites(q: Question, start: list[Tree]) -> Path:
    """The path at the sites from a value there, which may be one row for all."""
    starts, outputs = [floats_of(value) for value in start], Outputs(q)
    q = outputs.q

    def point(step: Tensor) -> Point:
        def at(i: int, values: list[Tensor]) -> list[Tensor]:
            if not all(map(broadcasts, starts[i], values)):
                shapes = f"{[list(t.shape) for t in starts[i]]} for the baselines and {[list(t.shape) for t in values]} for x"
                raise complaint(ValueError, f"the value at the site has the shapes {shapes}: they do not broadcast.")
            return [towards(a, v, step) for a, v in zip(starts[i], values)]

        return at

    def slopes(run: Runner, nodes: Tensor) -> Iterator[tuple[list[Tree], list[Tree]]]:
        for values, found in at_points(run, q, nodes.to(starts[0][0].device if starts[0] else "cpu"), point):
            yield map_tensors(lambda t: t[0], values), found

    rows = q.size if all(t.shape[:1] == (1,) for part in starts for t in part) else 1  # of each of which there is one
    parts = partial(outputs.parts, like=starts, shares=True, times=rows * width(q))
    return Path(start, slopes, parts, at_sites)
