"""Gradients at points of a path that runs at the sites, from one pass through what lies before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from .._core.gradient import gradients_of
from .._core.leaves import Below, leaves_of
from .._core.model import hooks_backward
from .._core.place import check_reached, observe, read
from .._core.real import check_attributable
from .._core.watch import Watch, stopping
from .._torch import grad_level, is_mapped, saved_tensors_hooked, tracing, transforms_active, unwrap_for_grad
from .._types import Tree, copied, map_tensors, tensors
from .._words import complaint
from .along import Job, dependent, floats_at, floats_of
from .ways import mapped, mapped_functional, refused, slices

#: ``point(step, values, i)``: where to evaluate, from the floating-point tensors of the value at site `i`.
Point: TypeAlias = Callable[[Tree, list[Tensor], int], list[Tensor]]
#: The floating-point tensors of the values at the sites, and the gradients at the points, for c steps: ``[c, ...]`` each.
Found: TypeAlias = tuple[list[Tensor], list[Tensor]]


_AGAIN = (
    "layer {} is in a part that the model runs again in the backward pass (torch.utils.checkpoint), where the path's points "
    "cannot be: turn that off (model.eval(), or model.gradient_checkpointing_disable(), for models of transformers)."
)


def at_points(job: Job, steps: Tree, point: Point) -> Iterator[Found]:
    """Values at the sites and the score's gradients at the points that `steps` name, several steps per result, in order."""
    if tracing():
        yield mapped(lambda step, x: _traced(job, step, x, point), steps, (job.x,))
        return
    watch = Watch(job.bound, job.x, job.sites.sites, job.target)
    if job.run.ways and hooks_backward(job.bound.root):
        job.run.give_up("it has hooks on its backward pass")
    attempts = {mapped: _mapped, mapped_functional: _functional}
    while job.run.ways:
        try:
            found = attempts[job.run.ways[0]](job, steps, point, watch)
        except (RuntimeError, ValueError) as error:
            if not refused(error):
                raise
            job.run.refuse(error)
        else:
            yield found
            return
    for step in slices(steps):
        values, slopes = _twice(partial(_one, job, step, point, watch), job.create_graph)
        job.run.warn()
        yield [t[None] for t in values], [t[None] for t in slopes]


def _twice(attempt: Callable[[bool], Found | None], create_graph: bool) -> Found:
    """`attempt`, inside a grad level where a transform runs; and again where a no_grad block of the model cut the graph."""
    if transforms_active():
        with torch.set_grad_enabled(create_graph), grad_level() as level, torch.enable_grad():
            found = attempt(True)
            assert found is not None
            return [unwrap_for_grad(t, level) for t in found[0]], [unwrap_for_grad(t, level) for t in found[1]]
    for whole in (False, True):
        with torch.set_grad_enabled(create_graph or whole):
            found = attempt(whole)
        if found is not None:
            break
    assert found is not None
    return found if create_graph else ([t.detach() for t in found[0]], found[1])


class _Pass:
    """One run of the model that puts the point of a step at each site; `make` turns a tensor at site `i` into a leaf.

    `keeps` says that the leaf must stay as it is, so that the model, which may write to what it is handed, gets a copy.
    """

    keeps = True

    def __init__(
        self, job: Job, watch: Watch, point: Point, make: Callable[[Tensor, int], Tensor], dependence: Callable[..., bool]
    ):
        self.job, self.watch, self.point = job, watch, point
        self.make, self.dependence = make, dependence
        self.recording, self.recorded, self.hooked = True, False, False
        self.values: list[Tree] = []
        self.leaves: list[Tree] = []

    def put(self, step: Tree, i: int, value: Tree, label: str) -> Tree:
        earlier = floats_at(self.leaves)
        if earlier and self.dependence(floats_of(value), earlier):
            raise dependent()
        if not self.recorded:  # else it is on already, or the model itself has turned it off
            torch.set_grad_enabled(True)
        elif saved_tensors_hooked() and not self.hooked:
            raise complaint(ValueError, _AGAIN.format(label))
        check_attributable(value, label)
        self.values[i] = value = copied(value)
        moved = iter(self.point(step, floats_of(value), i))
        self.leaves[i] = map_tensors(lambda t: self.make(next(moved), i) if t.is_floating_point() else t, value)
        return copied(self.leaves[i]) if self.keeps else self.leaves[i]

    def scores(self, step: Tree, x: Tree) -> Tensor:
        job, watch = self.job, self.watch
        self.recorded, self.hooked = torch.is_grad_enabled(), saved_tensors_hooked()  # from the start
        self.values, self.leaves = [None] * len(job.sites.sites), [None] * len(job.sites.sites)
        scores: list[Tensor] = []

        def visit(i: int, value: Tree, shared: bool) -> Tree:
            if not watch.is_neuron(i):
                return stopping(self.put, step, watch.where[i], value, watch.sites[i].label)
            self.recording = torch.is_grad_enabled()
            scores[:] = [stopping(watch.neuron_score, value)]
            if not job.create_graph:
                torch.set_grad_enabled(False)  # the rest only shows how often layers run
            return value

        output, run = observe(job.bound, x, watch.sites, visit, early=watch.neuron is not None)
        check_reached(job.bound, run)
        if watch.neuron is None:
            self.recording = torch.is_grad_enabled()
            scores = [watch.score(output)]
        job.mould.keep(self.values)
        return scores.pop()


def _one(job: Job, step: Tree, point: Point, watch: Watch, whole: bool) -> Found | None:
    """A single step."""
    one = _Pass(job, watch, point, lambda t, _: leaves_of(t, False, ""), _connected)
    scores = one.scores(step, job.x)
    if not one.recording and not whole:
        return None
    return floats_at(one.values), gradients_of(scores, floats_at(one.leaves), job.sites, job.create_graph)


def _connected(values: Sequence[Tensor], earlier: Sequence[Tensor]) -> bool:
    values = [t.sum() for t in values if t.requires_grad]
    if not values:
        return False
    found = torch.autograd.grad(values, earlier, allow_unused=True, retain_graph=True)
    return any(t is not None for t in found)


# All steps of a chunk at once.


def _mapped(job: Job, steps: Tree, point: Point, watch: Watch) -> Found:
    anchor = tensors(steps)[0]

    def attempt(whole: bool) -> Found | None:
        below = Below(anchor, 0)
        recording: list[bool] = []

        def scored(part: tuple[Tree, Tensor], x: Tree) -> tuple[Tensor, list[Tensor]]:
            nonlocal below
            below = Below(part[1], len(job.sites.sites))
            one = _Pass(job, watch, point, below.leaf, _varies)
            one.keeps = False
            scores = one.scores(part[0], x)
            recording[:] = [one.recording]
            return scores, floats_at(one.values)

        scores, values = mapped(scored, (steps, anchor), (job.x,))
        if not recording[0] and not whole:
            return None
        return values, gradients_of(scores, below.leaves(), job.sites, job.create_graph)

    return _twice(attempt, job.create_graph)


def _varies(values: Sequence[Tensor], earlier: Sequence[Tensor]) -> bool:
    """Whether a value met after a leaf was placed is mapped: then it depends on the leaf, for nothing else is."""
    return any(is_mapped(t) for t in values)


def _functional(job: Job, steps: Tree, point: Point, watch: Watch) -> Found:
    """The same, for models that write a mapped tensor into a shared one in place: it takes a pass more."""

    def attempt(whole: bool) -> Found:
        with torch.set_grad_enabled(job.create_graph):
            values = read(job.bound, job.x, job.sites.sites)
        job.mould.keep(values)
        points = [
            torch.func.vmap(lambda step, i=i, value=value: point(step, floats_of(value), i))(steps)
            for i, value in enumerate(values)
        ]
        leaves = [[leaves_of(t, False, "") for t in part] for part in points]
        with torch.enable_grad():
            scores = mapped_functional(lambda part, x: score_with(job, watch, part, x), leaves, (job.x,))
        slopes = gradients_of(scores, [t for part in leaves for t in part], job.sites, job.create_graph)
        found = floats_at(values)
        return [t.expand(slope.shape[0], *t.shape) for t, slope in zip(found, slopes)], slopes

    return _twice(attempt, job.create_graph)


def score_with(job: Job, watch: Watch, points: list[list[Tensor]], x: Tree) -> Tensor:
    """The scores with `points` as the floating-point tensors at the sites."""
    scores: list[Tensor] = []

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        if watch.is_neuron(i):
            scores.append(watch.neuron_score(value))
            return value
        parts = iter(points[watch.where[i]])
        # A clone: a custom backward applied to the leaf itself is lost under compile (pytorch#193279).
        return map_tensors(lambda t: next(parts).clone() if t.is_floating_point() else t, value)

    output, run = observe(job.bound, x, watch.sites, visit)
    check_reached(job.bound, run)
    return watch.score(output) if watch.neuron is None else scores[0]


def _traced(job: Job, step: Tree, x: Tree, point: Point) -> Found:
    """Compiled, the compiler drops the second run of what lies before the sites."""
    watch = Watch(job.bound, x, job.sites.sites, job.target)
    values = read(job.bound, x, job.sites.sites)
    job.mould.keep(values)
    for site, value in zip(job.sites.sites, values):
        check_attributable(value, "x" if site is None else site.label)
    points = [point(step, floats_of(value), i) for i, value in enumerate(values)]
    slopes = torch.func.grad(lambda points: score_with(job, watch, points, x).sum())(points)
    return floats_at(values), [t for part in slopes for t in part]
