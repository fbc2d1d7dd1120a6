"""What flows through a site while the input moves: gradients times rates of change, along the straight path in the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from .._core.passes import Question
from .._types import ChunkSize, Tree, map_floats, tensors
from .path import input_ends, points
from .points import along, at_steps, for_all, gathered, input_floats, steps_of, together, value_and_slope_at, value_at, width
from .progress import Sum, reported
from .quadrature import NODES, Interval, Rates, kronrod_rates, nodes_on
from .ways import Runner, Steps


def flow(q: Question, rates: Rates, baselines: Tree, chunk_size: ChunkSize) -> list[Tree]:
    """``sum_i w_i g_i V'_i``: gradients at the nodes, times the rates of change of the value there.

    What the rates miss, where the path crosses a kink of the model, is added at the mean gradient; it is nothing where the
    model is smooth.
    """
    start, end = input_ends(q, baselines)
    run, nodes = Runner(), torch.tensor(rates.nodes, dtype=torch.float64)
    ends = gathered(run, q, value_at, points(start, end, nodes.new_tensor([0.0, 1.0])))
    steps = Steps(q, end, width(q))
    run = steps.runner(chunk_size, run)
    met = (
        found
        for a, b in reported(steps.parts(len(nodes), chunk_size))
        for found in along(run, q, value_and_slope_at, points(start, end, nodes[a:b]))
    )
    total, gained, mean = Sum(), Sum(), Sum()
    for at, slopes, speeds in _rated(rates, ends, met):
        weights = nodes.new_tensor(rates.weights[at])
        total.add(map_floats(torch.mul, slopes, for_all(slopes, speeds)), weights)
        gained.add(speeds, weights)
        mean.add(slopes, weights)
    missed = map_floats(lambda ends, rated: ends[1] - ends[0] - rated, ends, gained.total())
    slopes = mean.total()
    missed = for_all(slopes, missed)
    flowing = map_floats(lambda flowing, missed, g: flowing + missed * g, total.total(), missed, slopes)
    found: list[Tree] = map_floats(lambda flowing, value: flowing.to(value.dtype), flowing, for_all(flowing, ends))
    return found


def flow_on(run: Runner, q: Question, start: list[Tensor], on: Interval, chunk_size: ChunkSize) -> Iterator[Tree]:
    """``g_i (V'_i + m)`` at the nodes of an interval, where ``m`` is what the rates miss there: its integral is the flow."""
    end, rates, nodes = input_floats(q), kronrod_rates(), nodes_on(on)
    ends = gathered(run, q, value_at, points(start, end, nodes.new_tensor([on.left, on.left + on.width])))
    met = (
        found
        for a, b in Steps(q, end).parts(NODES, chunk_size)
        for found in along(run, q, value_and_slope_at, points(start, end, nodes[a:b]))
    )
    rated, gained = list(_rated(rates, ends, met)), Sum()
    for at, _, speeds in rated:
        gained.add(speeds, nodes.new_tensor(rates.weights[at]))
    missed = map_floats(lambda ends, rated: ends[1] - ends[0] - rated, ends, gained.total())
    for _, slopes, speeds in rated:
        yield map_floats(lambda g, v, m: g * (v + m) / on.width, slopes, speeds, missed)


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
    rows = torch.tensor(rates.rows[at], dtype=torch.float64)[:, low:high]
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
