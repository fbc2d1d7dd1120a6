"""What runs along a path to a tolerance: which integrand, of which examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .._core.passes import Question
from .._types import ChunkSize, Tree
from .adaptive import Integrand, Tolerance, refined
from .fewer import of_rows, rows_of
from .flow import flow_on
from .kronrod import NODES, Interval, nodes_on
from .path import Path, input_ends, points
from .points import at_steps, input_floats, times_way, value_and_slope_at, with_floats
from .ways import Runner, Steps


def told(q: Question, found: tuple[list[Tree], Tensor], return_error: bool) -> Tree:
    """What the caller is told: the result, with its error where he asks for it."""
    result, error = found
    return (q.sites.build(result), error) if return_error else q.sites.build(result)


_MIDDLE = torch.full((1,), 0.5, dtype=torch.float64)


def slope_within(
    q: Question, path: Path, asked: Tolerance, chunk_size: ChunkSize, *, whole_way: bool
) -> tuple[list[Tree], Tensor]:
    """The mean over a path of the gradient at the sites, times the way or not, to a tolerance; and its error."""
    run = path.steps.runner(chunk_size)

    def integrand(rows: Sequence[int] | None) -> Integrand | None:
        if rows is None:
            return _of_slopes(path, run, chunk_size, whole_way)
        some, start = of_rows(q, rows), rows_of(path.start, rows, q.size, one_for_all=True)
        return None if some is None or start is None else _of_slopes(path.kind(some, start), run, chunk_size, whole_way)

    return refined(integrand, q.size, asked)


def _of_slopes(path: Path, run: Runner, chunk_size: ChunkSize, whole_way: bool) -> Integrand:
    def steps(on: Interval) -> Iterator[list[Tree]]:
        nodes = nodes_on(on)
        for a, b in path.steps.parts(NODES, chunk_size):
            for end, slopes in path.slopes(run, nodes[a:b]):
                yield times_way(slopes, end, path.start) if whole_way else slopes

    def probe() -> Tree:
        return [at_steps(slopes, 0) for _, slopes in path.slopes(Runner(), _MIDDLE)]

    return Integrand(steps, probe)


def flow_within(q: Question, baselines: Tree, asked: Tolerance, chunk_size: ChunkSize) -> tuple[list[Tree], Tensor]:
    """What flows through the sites while the input moves, to a tolerance, and its error."""
    run, start = Steps(q, input_floats(q)).runner(chunk_size), input_ends(q, baselines)[0]

    def integrand(rows: Sequence[int] | None) -> Integrand | None:
        if rows is None:
            return _of_flow(q, start, run, chunk_size)
        some, starts = of_rows(q, rows), rows_of(start, rows, q.size, one_for_all=True)
        return None if some is None or starts is None else _of_flow(some, starts, run, chunk_size)

    return refined(integrand, q.size, asked)


def _of_flow(q: Question, start: list[Tensor], run: Runner, chunk_size: ChunkSize) -> Integrand:
    def probe() -> Tree:
        middle = points(start, input_floats(q), _MIDDLE)
        return value_and_slope_at(q, with_floats(q.x, [t[0] for t in middle]))

    return Integrand(lambda on: flow_on(run, q, start, on, chunk_size), probe)
