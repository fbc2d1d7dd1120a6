"""Value and gradient at the sites while Dynamo traces: the public form, torch.func.grad.

It needs the value's shape before it has seen the value: a second prefix, which the compiler drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._types import Tree, copied, floats_of, map_floats, map_tensors, tensors
from .passes import Found, Point, Question, forward, read, scores
from .real import check_attributable


def traced_gradients(q: Question, point: Point | None) -> Found:
    with torch.set_grad_enabled(q.create_graph):
        shapes = read(q, once=False)
        for i, value in enumerate(shapes):
            check_attributable(value, q.label(i))
        # torch.zeros, not zeros_like: that would depend on the first pass and keep it in the graph.
        zeros = [[torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in floats_of(value)] for value in shapes]

        def scored(zeros: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
            values: list[Tree] = [None] * len(shapes)

            def put(i: int, value: Tree, shared: bool) -> Tree:
                at = iter(floats_of(value) if point is None else point(i, floats_of(value)))
                shift = iter(zeros[i])
                moved = map_tensors(lambda t: next(at) + next(shift) if t.is_floating_point() else t, value)
                values[i] = moved if point is None else value
                # A copy: a custom backward applied to the leaf itself is lost under compile (pytorch#193279).
                return copied(moved)

            found = scores(q, forward(q, put))
            # Of the values, tensors only: torch.func takes nothing else back, and a layer may give (output, None).
            return found.sum(), [tensors(value) for value in values]

        slopes, kept = torch.func.grad(scored, has_aux=True)(zeros)
    leaf = iter([t for part in kept for t in part])
    values = [map_tensors(lambda t: next(leaf), value) for value in shapes]
    found = [_filled(value, iter(part)) for value, part in zip(values, slopes)]
    return (values, found) if q.create_graph else (map_tensors(torch.detach, values), map_tensors(torch.detach, found))


def _filled(value: Tree, parts: Iterator[Any]) -> Tree:
    return map_floats(lambda leaf: next(parts), value)
