"""Value and gradient at the sites while Dynamo traces: the public form, torch.func.vjp.

It needs the value's shape before it has seen the value: a second prefix, which the compiler drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._types import Tree, copied, floats_of, map_floats, map_tensors, tensors
from .passes import Found, Point, Question, each_score, forward, read
from .real import check_attributable
from .rows import Row


def traced_gradients(q: Question, point: Point | None) -> Found:
    with torch.set_grad_enabled(q.create_graph):
        shapes = read(q, once=False)
        for i, value in enumerate(shapes):
            check_attributable(value, q.label(i))
        # torch.zeros, not zeros_like: that would depend on the first pass and keep it in the graph.
        zeros = [[torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in floats_of(value)] for value in shapes]

        def scored(zeros: list[list[Tensor]]) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
            values: list[Tree] = [None] * len(shapes)

            def put(i: int, value: Tree, shared: bool) -> Tree:
                at = iter(floats_of(value) if point is None else point(i, floats_of(value)))
                shift = iter(zeros[i])
                moved = map_tensors(lambda t: next(at) + next(shift) if t.is_floating_point() else t, value)
                values[i] = moved if point is None else value
                # A copy: a custom backward applied to the leaf itself is lost under compile (pytorch#193279).
                return copied(moved)

            found = each_score(q, forward(q, put))
            # Of the values, tensors only: torch.func takes nothing else back, and a layer may give (output, None).
            return tuple(score.sum() for score in found), [tensors(value) for value in values]

        totals, back, *kept = torch.func.vjp(scored, zeros, has_aux=True)
        each = [back(tuple(torch.full_like(t, float(i == k)) for i, t in enumerate(totals)))[0] for k in range(len(totals))]
    leaf = iter([t for part in kept[0] for t in part])
    values = [map_tensors(lambda t: next(leaf), value) for value in shapes]
    found = [_filled(value, iter(part)) for slopes in each for value, part in zip(values, slopes)]
    return (values, found) if q.create_graph else (map_tensors(torch.detach, values), map_tensors(torch.detach, found))


def traced_row(q: Question, row: Row) -> Found:
    """The same for one of several targets: the pass runs for the first, and goes back once for each."""
    values, slopes = row.take(lambda: traced_gradients(q._replace(target=row.every), None))
    count = len(values)
    return values, slopes[row.index * count : (row.index + 1) * count]


def _filled(value: Tree, parts: Iterator[Any]) -> Tree:
    return map_floats(lambda leaf: next(parts), value)
