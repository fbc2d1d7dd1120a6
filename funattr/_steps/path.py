"""The straight path from the baselines to the input: what its mean gradients and value differences are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.kernels import PlainAttention
from .._types import ChunkSize, Target, Tree
from .._words import complaint
from .along import Inner, Job, baseline_values, floats_of, slope_at, towards, value_at
from .at_points import at_points
from .baselines import references
from .chunks import parts
from .fold import along
from .mean import Sum, check_rows
from .progress import reported
from .quadrature import Rule


def input_path(job: Job, rule: Rule, baselines: Tree, chunk_size: ChunkSize) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Start and end of the path in the input, and the mean over it of the gradient at the sites."""
    start, end = input_ends(job, baselines)
    total, like = Sum(), end
    for a, b in reported(parts(len(rule.nodes), chunk_size, end, shares=False)):
        weights = rule.weights[a:b]
        for part in along(job, slope_at, points(start, end, rule.nodes[a:b])):
            total.add(part, weights[: part[0].shape[0]])
            weights, like = weights[part[0].shape[0] :], part
    return start, end, total.total(like)


def input_ends(job: Job, baselines: Tree) -> tuple[list[Tensor], list[Tensor]]:
    end = job.input_floats()
    reference = references(job.x, baselines, ids=False)
    return floats_of(reference), end


def points(start: list[Tensor], end: list[Tensor], nodes: Tensor) -> list[Tensor]:
    """``[c, N, ...]``: the path at c nodes."""
    return [towards(a, b, nodes.to(b.device).reshape(-1, *[1] * b.dim())) for a, b in zip(start, end)]


def site_path(job: Job, rule: Rule, baselines: Tree, chunk_size: ChunkSize) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Start and end of the path at the sites, and the mean over it of the gradient there."""
    starts = baseline_values(job, references(job.x, baselines, ids=True))
    start = [t for part in starts for t in part]

    def point(step: Tensor, values: list[Tensor], i: int) -> list[Tensor]:
        if any(a.dim() != v.dim() or any(p not in (1, q) for p, q in zip(a.shape, v.shape)) for a, v in zip(starts[i], values)):
            shapes = f"{[list(t.shape) for t in starts[i]]} for the baselines and {[list(t.shape) for t in values]} for x"
            raise complaint(ValueError, f"the value at the site has the shapes {shapes}: they do not broadcast.")
        return [towards(a, v, step) for a, v in zip(starts[i], values)]

    total, end = Sum(), start
    nodes = rule.nodes.to(start[0].device if start else "cpu")
    for a, b in reported(parts(len(nodes), chunk_size, start, shares=True, times=job.size)):
        weights = rule.weights[a:b]
        for values, part in at_points(job, nodes[a:b], point):
            total.add(part, weights[: part[0].shape[0]])
            weights, end = weights[part[0].shape[0] :], [v[0] for v in values]
    return start, end, total.total(end)


def with_differences(job: Job, rule: Rule, baselines: Tree, chunk_size: ChunkSize) -> list[Tensor]:
    """``sum_k g_k (V_k - V_(k-1))``: gradients at the nodes, values at the edges of the cells around them."""
    start, end = input_ends(job, baselines)
    edges = rule.edges()
    before: list[Tensor] = []
    total, like = Sum(), end
    for a, b in reported(parts(len(rule.nodes), chunk_size, end, shares=False)):
        slopes = gathered(job, slope_at, points(start, end, rule.nodes[a:b]))
        values = gathered(job, value_at, points(start, end, edges[a + 1 if before else 0 : b + 1]))
        before = before or [v[:0] for v in values]
        check_rows([g[0] for g in slopes], [v[0] for v in values])
        total.add([g * v.diff(dim=0, prepend=v0) for g, v, v0 in zip(slopes, values, before)])
        before, like = [v[-1:].clone() for v in values], slopes
    return total.total(like)


def gathered(job: Job, f: Inner, at: list[Tensor]) -> list[Tensor]:
    """`f` at all points of a chunk, ``[c, N, ...]``."""
    parts = list(along(job, f, at))
    for part in parts[1:]:
        check_rows([t[0] for t in parts[0]], [t[0] for t in part])
    return parts[0] if len(parts) == 1 else [torch.cat(same) for same in zip(*parts)]


def with_rates(job: Job, rule: Rule, baselines: Tree, chunk_size: ChunkSize) -> list[Tensor]:
    """``sum_k w_k g_k V'_k``, with the rates of change at the nodes themselves.

    Where the path crosses a kink of the model the rates miss what the value does there: that is added at the mean gradient,
    and is nothing where the model is smooth.
    """
    start, end = input_ends(job, baselines)
    slope, rate, total, like = Sum(), Sum(), Sum(), end
    for a, b in reported(parts(len(rule.nodes), chunk_size, end, shares=False)):
        at = points(start, end, rule.nodes[a:b])
        slopes, rates = gathered(job, slope_at, at), gathered(job, _rate_along([v - v0 for v, v0 in zip(end, start)]), at)
        slope.add(slopes, rule.weights[a:b])
        rate.add(rates, rule.weights[a:b])
        total.add([g * r for g, r in zip(slopes, rates)], rule.weights[a:b])
        like = slopes
    last, first = (gathered(job, value_at, points(start, end, torch.tensor([e], dtype=torch.float64))) for e in (1.0, 0.0))
    missed = [v[0] - v0[0] - r for v, v0, r in zip(last, first, rate.total(like))]
    return [t + m * g for t, m, g in zip(total.total(like), missed, slope.total(like))]


def _rate_along(direction: list[Tensor]) -> Inner:
    def rate(job: Job, x: Tree, target: Target) -> list[Tensor]:
        """``J d``, from two pullbacks: it takes derivatives that every operation has, unlike forward mode."""
        floats = floats_of(x)
        ahead = [d.expand(t.shape[0] // max(1, d.shape[0]), *d.shape).reshape(t.shape) for d, t in zip(direction, floats)]

        def value(*floats: Tensor) -> list[Tensor]:
            with PlainAttention():  # the fused kernels have no second derivative
                return value_at(job, job.with_floats(floats, x))

        values, pull = torch.func.vjp(value, *floats)[:2]
        push = torch.func.vjp(lambda weights: list(pull(weights)), [torch.zeros_like(v) for v in values])[1]
        found: list[Tensor] = push(ahead)[0]
        return found

    return rate
