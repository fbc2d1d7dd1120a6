"""Gradients and values along a path: the path runs at the site, or in the input with the site further on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._core.gradient import at_site, with_normal_tensors
from .._core.kernels import PlainAttention, folding
from .._core.model import Bound, all_modules, bind
from .._core.place import Place, Sites, check_reached, observe, read, resolve, settle
from .._core.real import check_attributable
from .._core.score import predicted, score
from .._core.watch import Watch, stopping
from .._torch import tracing, tree_flatten, tree_unflatten
from .._types import (
    Layer,
    Model,
    Target,
    Tree,
    as_it_is,
    attributable,
    batch_size,
    copied,
    map_floats,
    map_tensors,
    tensors,
)
from .._words import complaint
from .baselines import full_batch, holds_batch, one_batch
from .ways import Runner, raised_by_model

_HOLE = object()


class Mould:
    """The structure of the value at the sites, met in the first pass, to give results in."""

    def __init__(self) -> None:
        self.values: list[Tree] = []

    def keep(self, values: Sequence[Tree]) -> None:
        if not self.values:
            self.values.extend(map_floats(lambda t: _HOLE, value) for value in values)

    def fill(self, floats: Sequence[Tensor], sites: Sites) -> Tree:
        rest = iter(floats)
        filled = []
        for value in self.values:
            leaves, spec = tree_flatten(value)
            filled.append(tree_unflatten([next(rest) if leaf is _HOLE else leaf for leaf in leaves], spec))
        return sites.build(filled)


class Job:
    """What is asked, made ready: the model, its input, the sites, the score."""

    def __init__(self, model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool):
        self.model: Model | Bound = model
        self.x = x if create_graph else map_tensors(torch.detach, x)
        # Fused attention has no second derivative; what is folded in a compiled function is not fused.
        self.bound = bind(model) if create_graph and not tracing() else folding(bind(model))
        self.sites = resolve(self.bound, layer)
        inner = [site for site in self.sites.sites if site is not None]
        if any(site.call is not None and site.call < 0 for site in inner):  # counting takes a pass: once, not at every step
            counted = iter(settle(self.bound, self.x, inner))
            self.sites = self.sites._replace(sites=tuple(None if s is None else next(counted) for s in self.sites.sites))
            layer = self.sites.build([s and Place(s.layer, s.inputs, s.call) for s in self.sites.sites])
        #: To read values only: stop at the first run. The pass for the gradient sees how often the layers run.
        self.first = [site if site is None or site.call is not None else site._replace(call=0) for site in self.sites.sites]
        self.layer = layer
        self.create_graph = create_graph
        self.size = batch_size(x)
        self.target = self._settled(target)
        self.mould = Mould()
        self.run = Runner()
        self.folds: bool | None = None
        self.strict: Job | None = None
        self.shapes: list[tuple[int, ...]] | None = None
        self.known: set[int] | None = None

    def _settled(self, target: Target) -> Target:
        """ "argmax" is the class predicted at x, all along the path."""
        if not isinstance(target, str):
            return target
        with torch.no_grad():
            output, _ = observe(self.bound, self.x, [], lambda i, value, shared: value)
        score(output, target)  # its checks
        return predicted(output)

    def under(self, mode: AbstractContextManager[Any]) -> Job:
        """The same job, with a function mode on while the model runs."""
        job = copy.copy(self)
        job.bound, job.model = self.bound.under(mode), bind(self.model).under(mode)
        return job

    def scores(self, x: Tree) -> Tensor:
        """The score of each example, from a forward pass."""
        return score_at(self, x, self.target)[0]

    def value_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the value at the sites, for x itself: a pass, where nothing else tells them."""
        if self.shapes is None:
            with torch.no_grad():
                self.shapes = [tuple(t.shape) for t in floats_at(read(self.bound, self.x, self.first))]
        return self.shapes

    def sizes(self) -> set[int]:
        """The sizes that a tensor may have without a batch."""
        if self.known is None:
            self.known = sizes_beside_batch(self.bound, self.x)
        return self.known

    def result(self, floats: Sequence[Tensor]) -> Tree:
        """The attribution in the structure of the site's value."""
        return self.mould.fill(floats, self.sites)

    def at_input(self) -> bool:
        """Whether the site is the input."""
        return self.sites.sites == (None,)

    def path_at_input(self) -> bool:
        """Whether a path that runs at the sites runs in the input."""
        if None in self.sites.sites and len(self.sites.sites) > 1:
            raise dependent()
        return self.at_input()

    def input_floats(self) -> list[Tensor]:
        check_attributable(self.x, "x")
        return floats_of(self.x)

    def with_floats(self, floats: Sequence[Tensor], others: Tree | None = None) -> Tree:
        """x with other floating-point tensors."""
        rest = iter(floats)
        leaves, spec = tree_flatten(self.x if others is None else others)
        return tree_unflatten([next(rest) if attributable(leaf) else leaf for leaf in leaves], spec)


def sizes_beside_batch(bound: Bound, x: Tree) -> set[int]:
    """The sizes of x's dimensions but the first, and of the model's parameters and buffers."""
    found = {size for t in tensors(x) for size in t.shape[1:]}
    for module in all_modules(bound.root):
        found.update(
            size for t in (*module._parameters.values(), *module._buffers.values()) if t is not None for size in t.shape
        )
    return found


def asked(
    body: Callable[..., Tree], model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool, *others: Any
) -> Tree:
    """``body(job, *others)``, with gradients recorded where `create_graph` asks for them."""
    if not tracing() and torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            # Tensors made in inference mode cannot be saved for a backward pass; copies can.
            x, target, others = copied(x), copied(target) if isinstance(target, Tensor) else target, copied(others)
            return asked(body, with_normal_tensors(model), x, layer, target, create_graph, *others)
    with torch.set_grad_enabled(create_graph), PlainAttention() if create_graph else as_it_is:
        return body(Job(model, x, layer, target, create_graph), *others)


def floats_of(tree: Tree) -> list[Tensor]:
    return [leaf for leaf in tensors(tree) if leaf.is_floating_point()]


def towards(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """``start + step (end - start)``; half precision would be too coarse for the step."""
    wide = end if end.element_size() >= 4 else end.float()
    return (start + step.to(wide.dtype) * (wide - start)).to(end.dtype)


# At the baselines.


def baseline_values(job: Job, reference: Tree) -> list[list[Tensor]]:
    """The floating-point tensors of the value at each site, for the baselines: from one row where one serves all."""
    one = one_batch(job.x, job.size) and all(t.shape[0] == 1 for t in tensors(reference)) and job.size > 1
    if all(site is None for site in job.sites.sites):
        return [floats_of(reference) for _ in job.sites.sites]
    if one and not holds_batch(job.model, job.size):
        try:
            found = [floats_of(value) for value in read(job.bound, reference, job.first)]
            if _serves_all(job, found):
                return found
        except RuntimeError as error:
            if tracing() or raised_by_model(error):
                raise
            # An operation wants all of the batch (a graph's adjacency matrix, say).
    return [floats_of(value) for value in read(job.bound, full_batch(reference, job.x), job.first)]


def _serves_all(job: Job, found: list[list[Tensor]]) -> bool:
    """Whether values for one row broadcast to those for x. Several rows per example (windows of an image) do not."""
    floats = [t for part in found for t in part]
    if all(t.dim() and t.shape[0] == 1 for t in floats):
        return True
    return all(
        len(shape) == t.dim() and all(p in (1, q) for p, q in zip(t.shape, shape))
        for t, shape in zip(floats, job.value_shapes())
    )


def floats_at(values: list[Tree]) -> list[Tensor]:
    return [leaf for value in values for leaf in floats_of(value)]


def dependent() -> Exception:
    return complaint(
        ValueError,
        "the layers depend on each other: a path runs at all of them jointly, and one that feeds another leaves it "
        "nothing to vary. Choose layers side by side, or call the method once for each.",
    )


# At a point of the input.

#: What to compute at a point of the input: ``f(job, x, target)`` gives tensors with the batch first.
Inner: TypeAlias = Callable[["Job", Tree, Target], list[Tensor]]


def slope_at(job: Job, x: Tree, target: Target) -> list[Tensor]:
    """The score's gradient at the sites, for the input x."""
    values, slopes = at_site(job.model, x, job.layer, target, job.create_graph)
    job.mould.keep(job.sites.flat(values))
    return [leaf for slope in job.sites.flat(slopes) for leaf in floats_of(slope)]


def value_at(job: Job, x: Tree, target: Target = None) -> list[Tensor]:
    """The value at the sites, for the input x."""
    values = read(job.bound, x, job.first)
    job.mould.keep(values)
    return floats_at(values)


def score_at(job: Job, x: Tree, target: Target) -> list[Tensor]:
    """The score of each example, for the input x."""
    watch = Watch(job.bound, x, [], target)
    found: list[Tensor] = []

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        found[:] = [stopping(watch.neuron_score, value)]
        return value

    output, run = observe(job.bound, x, watch.sites, visit)
    check_reached(job.bound, run)
    return found if watch.neuron is not None else [watch.score(output)]
