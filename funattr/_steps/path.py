"""The straight path from the baselines to x, in the input or at the sites, and the mean of the gradient along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.kernels import in_plain_forms
from .._core.passes import Point, Question, forward, kept, question, read
from .._core.score import Every, alone, own_row, predicted, score_of, shares
from .._types import ChunkSize, Layer, Model, Target, Tree, broadcasts, floats_of, map_tensors
from .._words import complaint
from .baselines import full_batch, references
from .points import along, at_points, input_floats, slope_at, steps_of, times_way, towards, width, with_floats
from .progress import Sum, reported
from .quadrature import Rule
from .twins import OneRow, same_rows
from .ways import Runner, Steps


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


def for_each(q: Question, f: Callable[[Question], list[Tree]]) -> Tree:
    """``f(q)``, a tree for each site, in the caller's structure; for one of several targets, its own of what all find."""
    if not shares(q.target):
        return q.sites.build(f(q._replace(target=alone(q.target))))
    count = len(q.sites.sites)

    def every(targets: Every) -> list[list[Tree]]:
        flat = f(q._replace(target=targets))
        return [flat[k : k + count] for k in range(0, len(flat), count)]

    return q.sites.build(own_row(q.target, every))


def ready(model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool) -> Question:
    """A question about many points: "argmax" is settled, and nothing is recorded that need not be."""
    q = question(model, x if create_graph else map_tensors(torch.detach, x), layer, target, create_graph)
    q = q._replace(bound=in_plain_forms(q.bound))
    return q._replace(target=_settled(q))


def _settled(q: Question) -> Target:
    """ "argmax" is the class predicted at x, at all points."""
    if not isinstance(q.target, str):
        target: Target = q.target
        return target
    with torch.no_grad():
        output = forward(q.at(), kept).output
    score_of(output, q.target, q.size)  # its checks
    return predicted(output, q.size)


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
    steps: Steps
    kind: Callable[[Question, list[Tree]], Path]  # the same of another question, from another start


def in_input(q: Question, start: list[Tree]) -> Path:
    """The path of the input, from a baseline in its structure."""
    ends = floats_of(start), input_floats(q)

    def slopes(run: Runner, nodes: Tensor) -> Iterator[tuple[list[Tree], list[Tree]]]:
        for found in along(run, q, slope_at, points(*ends, nodes)):
            yield [q.x], found

    return Path(start, slopes, Steps(q, ends[1], width(q), shares=False), in_input)


def input_path(q: Question, baselines: Tree) -> Path:
    """The path of the input from the baselines to x."""
    return in_input(q, [with_floats(q.x, input_ends(q, baselines)[0])])


def slope_along(path: Path, rule: Rule, chunk_size: ChunkSize, *, whole_way: bool) -> list[Tree]:
    """The mean over a path of the gradient at the sites, times the way or not."""
    run, total, end = path.steps.runner(chunk_size), Sum(), path.start
    for a, b in reported(path.steps.parts(len(rule.nodes), chunk_size)):
        weights = rule.weights[a:b]
        for ends, slopes in path.slopes(run, rule.nodes[a:b]):
            count = steps_of(slopes)
            total.add(slopes, weights[:count])
            end, weights = ends, weights[count:]
    slope: list[Tree] = total.total()
    return times_way(slope, end, path.start) if whole_way else slope


def at_baseline(q: Question, reference: Tree) -> list[Tree]:
    """The values at the sites for a baseline: one row where all are the same."""

    def read_there(one_row: OneRow) -> list[Tree]:
        found: list[Tree] = map_tensors(lambda t: t if (row := one_row(t)) is None else row.clone(), read(q, reference))
        return found

    return same_rows(q.size, read_there)


def site_path(q: Question, baselines: Tree) -> Path:
    """The path at the sites, from the value for the baselines to the value for x."""
    return at_sites(q, at_baseline(q, full_batch(references(q.x, baselines, ids=True), q.x)))


def at_sites(q: Question, start: list[Tree]) -> Path:
    """The path at the sites from a value there, which may be one row for all."""
    starts = [floats_of(value) for value in start]

    def point(step: Tensor) -> Point:
        def at(i: int, values: list[Tensor]) -> list[Tensor]:
            if not all(a.dim() == v.dim() and broadcasts(a.shape, v.shape) for a, v in zip(starts[i], values)):
                shapes = f"{[list(t.shape) for t in starts[i]]} for the baselines and {[list(t.shape) for t in values]} for x"
                raise complaint(ValueError, f"the value at the site has the shapes {shapes}: they do not broadcast.")
            return [towards(a, v, step) for a, v in zip(starts[i], values)]

        return at

    def slopes(run: Runner, nodes: Tensor) -> Iterator[tuple[list[Tree], list[Tree]]]:
        for values, found in at_points(run, q, nodes.to(starts[0][0].device if starts[0] else "cpu"), point):
            yield map_tensors(lambda t: t[0], values), found

    rows = q.size if all(t.shape[:1] == (1,) for part in starts for t in part) else 1  # of each of which there is one
    return Path(start, slopes, Steps(q, starts, rows * width(q), shares=True), at_sites)
