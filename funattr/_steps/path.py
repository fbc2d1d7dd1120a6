"""The straight path from the baselines to x, in the input or at the sites: the mean of the gradient along it, and what flows
through a site while the input moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.passes import Point, Question, forward, kept, question, read
from .._core.plain import in_plain_forms
from .._core.score import Every, alone, own_row, predicted, score_of, shares
from .._torch import tracing
from .._types import ChunkSize, Layer, Model, Target, Tree, broadcasts, floats_of, map_floats, map_tensors, tensors
from .._words import complaint
from .baselines import full_batch, references
from .points import (
    along,
    at_points,
    at_steps,
    for_all,
    gathered,
    input_floats,
    slope_at,
    steps_of,
    times_way,
    together,
    towards,
    value_and_slope_at,
    value_at,
    width,
    with_floats,
)
from .progress import Sum, check_rows, reported
from .quadrature import NODES, Interval, Rates, Rule, kronrod_rates, nodes_on
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
    q = q._replace(bound=in_plain_forms(q.bound)) if tracing() else q
    return q._replace(target=settled(q))


def settled(q: Question) -> Target:
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


def _numbers(values: list[float]) -> Tensor:
    """No `new_tensor`, which inside torch.func.grad torch 2.0 does not have."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


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


# What flows through a site while the input moves: gradients times rates of change, along the straight path in the input.


def flow(q: Question, rates: Rates, baselines: Tree, chunk_size: ChunkSize) -> list[Tree]:
    """``sum_i w_i g_i V'_i``: gradients at the nodes, times the rates of change of the value there.

    What the rates miss, where the path crosses a kink of the model, is added at the mean gradient; it is nothing where the
    model is smooth.
    """
    start, end = input_ends(q, baselines)
    ends, nodes = _values_at_ends(q, start), _numbers(rates.nodes)
    steps = Steps(q, end, width(q))
    run = steps.runner(chunk_size)
    met = _met(run, q, (start, end), nodes, reported(steps.parts(len(nodes), chunk_size)))
    total, gained, mean = Sum(), Sum(), Sum()
    for at, slopes, speeds in _rated(rates, ends, met):
        weights = _numbers(rates.weights[at])
        total.add(map_floats(torch.mul, slopes, for_all(slopes, speeds)), weights)
        gained.add(speeds, weights)
        mean.add(slopes, weights)
    missed = map_floats(lambda ends, rated: ends[1] - ends[0] - rated, ends, gained.total())
    slopes = mean.total()
    missed = for_all(slopes, missed)
    flowing = map_floats(lambda flowing, missed, g: flowing + missed * g, total.total(), missed, slopes)
    found: list[Tree] = map_floats(lambda flowing, value: flowing.to(value.dtype), flowing, for_all(flowing, ends))
    return found


def _values_at_ends(q: Question, start: list[Tensor]) -> Tree:
    """``[2, ...]``: the values at the sites for the baseline, of which one row is read where all are the same, and for x."""
    first = at_baseline(q, full_batch(with_floats(q.x, start), q.x))
    last = value_at(q, q.x)
    return map_floats(lambda b, a: torch.stack([_for_rows(a, b), b]), last, first)


def _for_rows(a: Tensor, b: Tensor) -> Tensor:
    """`a`, which may be one row for all, with the rows of `b`."""
    a = a.expand(b.shape) if a.shape[:1] == (1,) and a.shape[1:] == b.shape[1:] else a
    check_rows([a], [b])
    return a


def flow_on(run: Runner, q: Question, start: list[Tensor], on: Interval, chunk_size: ChunkSize) -> Iterator[Tree]:
    """``g_i (V'_i + m)`` at the nodes of an interval, where ``m`` is what the rates miss there: its integral is the flow."""
    end, rates, nodes = input_floats(q), kronrod_rates(), nodes_on(on)
    ends = gathered(run, q, value_at, points(start, end, _numbers([on.left, on.left + on.width])))
    met = _met(run, q, (start, end), nodes, Steps(q, end).parts(NODES, chunk_size))
    rated, gained = list(_rated(rates, ends, met)), Sum()
    for at, _, speeds in rated:
        gained.add(speeds, _numbers(rates.weights[at]))
    missed = map_floats(lambda ends, rated: ends[1] - ends[0] - rated, ends, gained.total())
    for _, slopes, speeds in rated:
        yield map_floats(lambda g, v, m: g * (v + m) / on.width, slopes, speeds, missed)


def _met(
    run: Runner, q: Question, ends: tuple[list[Tensor], list[Tensor]], nodes: Tensor, bounds: Iterable[tuple[int, int]]
) -> Iterator[tuple[Tree, Tree]]:
    """Values and slopes at the nodes of a path of the input, in order, chunk by chunk."""
    for a, b in bounds:
        yield from along(run, q, value_and_slope_at, points(*ends, nodes[a:b]))


def _rated(rates: Rates, ends: Tree, met: Iterable[tuple[Tree, Tree]]) -> Iterator[tuple[slice, Tree, Tree]]:
    """Nodes, with their slopes and rates of change, a few at a time, from values and slopes as they are met in order.

    Only the values that rates to come will look at are held, and the slopes that wait for theirs.
    """
    held = [(0, at_steps(ends, slice(0, 1)))]
    waiting: list[tuple[int, Tree]] = []
    seen, top = 0, 1
    for values, slopes in met:
        inside = [0.0 < node < 1.0 for node in rates.nodes[seen : seen + steps_of(slopes)]]  # the ends' values are known
        held.append((top, values if all(inside) else at_steps(values, inside)))
        waiting.append((seen, slopes))
        seen, top = seen + len(inside), top + sum(inside)
        if seen == len(rates.nodes):
            held, top = [*held, (top, at_steps(ends, slice(1, 2)))], top + 1
        while waiting and rates.highs[waiting[0][0] + steps_of(waiting[0][1]) - 1] < top:
            first, ready = waiting.pop(0)
            held = [(place, value) for place, value in held if place + steps_of(value) > rates.lows[first]]
            size = _at_once(ready, ends)
            for i in range(0, steps_of(ready), size):
                few = at_steps(ready, slice(i, i + size))
                at = slice(first + i, first + i + steps_of(few))
                yield at, few, _speeds(rates, at, held)


def _at_once(slopes: Tree, ends: Tree) -> int:
    """Of how many nodes the rates are taken together: of few, whose windows are little more than one, unless all is small."""
    size = steps_of(slopes)
    return size if (size + 8) * sum(t.numel() for t in tensors(ends)) <= _SMALL else 4


#: Numbers, about, that take no longer to add up than a call of an operation.
_SMALL = 1 << 12


def _speeds(rates: Rates, at: slice, held: list[tuple[int, Tree]]) -> Tree:
    """The rates at some nodes, from values that are held in parts, each from some place on."""
    low, high = rates.lows[at.start], rates.highs[at.stop - 1] + 1
    rows = torch.tensor(rates.rows[at], dtype=torch.float64, device="cpu")[:, low:high]
    window = [at_steps(value, slice(max(low - place, 0), max(high - place, 0))) for place, value in held]
    return together(partial(_weighted, rows), window)


def _weighted(rows: Tensor, parts: list[Tensor]) -> Tensor:
    """``rows @ values``, term by term: a product of matrices would take all values in one piece of memory."""
    wide = parts[0].dtype if parts[0].element_size() >= 4 else torch.float32
    rows = rows.to(parts[0].device, wide)
    if sum(part.numel() for part in parts) <= _SMALL:
        return (rows.reshape(*rows.shape, *[1] * (parts[0].dim() - 1)) * torch.cat(parts).to(wide)).sum(1)
    total = rows.new_zeros(())
    for column, value in zip(rows.unbind(1), (value for part in parts for value in part.unbind(0))):
        total = torch.addcmul(total, column.reshape(-1, *[1] * value.dim()), value.to(wide))
    return total
