"""Value and gradient at a site: the only place of the gradient recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._torch import (
    grad_level,
    is_mapped,
    mapped_without,
    only_vmap_runs,
    tracing,
    transforms_active,
    unwrap_for_grad,
    without_modes,
)
from .._types import Layer, Model, Target, Tree, attributable, copied, map_floats, map_tensors, tensors
from .._words import complaint
from .door import method
from .kernels import PlainAttention, folding
from .leaves import Below, leaves_of
from .model import Bound, bind, hooks_backward
from .place import Sites, check_reached, observe, read, resolve
from .real import check_attributable
from .watch import Watch, stopping


@method
def value_and_gradient(
    model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False
) -> tuple[Tree, Tree]:
    """The value at a site and the gradient of the score there, from one forward pass and a backward pass to the site.

    ``(v, df/dv)`` for the score ``f`` of each example. With several layers, each gets its total gradient, also where one
    feeds the other.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``(value, gradient)``, each with the structure of the value at the site. The gradient's unit is score per unit of
        the value. An integer tensor has the gradient None.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> value, gradient = fa.value_and_gradient(model, torch.randn(5, 3), layer="1", target=0)
        >>> torch.equal(gradient, model[2].weight[0].expand(5, 4))
        True
    """
    value, gradient = at_site(model, x, layer, target, create_graph)
    # A leaf made of the input, or of what a layer returned, may still be somebody else's memory.
    return (map_tensors(torch.clone, value), gradient)


def at_site(
    model: Model | Bound, x: Tree, layer: Layer, target: Target, create_graph: bool, *, own_level: bool = False
) -> tuple[Tree, Tree]:
    """`value_and_gradient` without the door, and without a copy of the value: not to be written to.

    `own_level` takes the gradient in a grad level of its own, for a rule that must not reach further derivatives.
    """
    bound = bind(model)
    sites = resolve(bound, layer)
    attempt = _recorded_in_level if own_level else None
    with PlainAttention() if create_graph else _as_it_is:  # fused attention has no second derivative
        if tracing():
            values, gradients = _two_passes(bound, x, sites, target, create_graph)
        elif torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                # Tensors made in inference mode cannot be saved for a backward pass; copies of them can.
                bound = bound._replace(call=with_normal_tensors(bound.call))
                target = copied(target) if isinstance(target, Tensor) else target
                values, gradients = _one_pass(bound, copied(x), sites, target, create_graph, attempt)
        elif not (create_graph or own_level) and only_vmap_runs() and (anchor := _may_be_below(bound, x)) is not None:
            values, gradients = _one_pass(folding(bound), x, sites, target, False, partial(_recorded_below, anchor))
        else:
            values, gradients = _one_pass(bound, x, sites, target, create_graph, attempt)
    return sites.build(values), sites.build(gradients)


_as_it_is = contextlib.nullcontext()


# Eager: one pass. The leaf is made inside the model, from the value just seen.

#: ``attempt(bound, x, sites, watch, create_graph, whole)``: values and gradients at the sites; None where part of the pass, and
#: not the `whole`, has been recorded, and too little.
Attempt: TypeAlias = Callable[..., "tuple[list[Tree], list[Tree]] | None"]


def _one_pass(
    bound: Bound, x: Tree, sites: Sites, target: Target, create_graph: bool, attempt: Attempt | None = None
) -> tuple[list[Tree], list[Tree]]:
    watch = Watch(bound, x, sites.sites, target)
    attempt = attempt or (_recorded_in_level if transforms_active() else _recorded)
    result = attempt(bound, x, sites, watch, create_graph, not watch.where)
    if result is None:  # a no_grad block around the layer has closed since: record all of the pass
        result = attempt(bound, x, sites, watch, create_graph, True)
    assert result is not None
    return result


def _recorded_in_level(
    bound: Bound, x: Tree, sites: Sites, watch: Watch, create_graph: bool, whole: bool
) -> tuple[list[Tree], list[Tree]]:
    """Under vmap or another torch.func transform: the same inside a grad level of its own."""
    with torch.set_grad_enabled(create_graph), grad_level() as level, torch.enable_grad():
        # Nothing before the leaf is recorded at this level: nothing there requires grad. Outer levels record if asked to.
        try:
            values, gradients = _forward_backward(bound, x, sites, watch, create_graph, True) or ([], [])
        except RuntimeError as error:
            if "mutate a captured Tensor" not in str(error):
                raise
            text = "the model writes to its own buffers (batch norm in train mode?), which torch.func does not allow here"
            raise complaint(ValueError, f"{text}: call model.eval() first.") from error

        def unwrap(value: Tensor) -> Tensor:
            return unwrap_for_grad(value, level)

        return [map_tensors(unwrap, value) for value in values], [map_tensors(unwrap, value) for value in gradients]


def _recorded(
    bound: Bound, x: Tree, sites: Sites, watch: Watch, create_graph: bool, whole: bool
) -> tuple[list[Tree], list[Tree]] | None:
    with torch.set_grad_enabled(create_graph or whole or None in sites.sites):
        return _forward_backward(bound, x, sites, watch, create_graph, whole)


def _recorded_below(
    anchor: Tensor, bound: Bound, x: Tree, sites: Sites, watch: Watch, create_graph: bool, whole: bool
) -> tuple[list[Tree], list[Tree]] | None:
    """Under a vmap that maps over x, and nothing else."""
    with torch.set_grad_enabled(whole or None in sites.sites):
        return _forward_backward(bound, x, sites, watch, False, whole, Below(anchor, len(sites.sites)))


def _may_be_below(bound: Bound, x: Tree) -> Tensor | None:
    """A tensor of x that vmap maps over, where that does."""
    return None if hooks_backward(bound.root) else next((t for t in tensors(x) if is_mapped(t)), None)


def _forward_backward(
    bound: Bound, x: Tree, sites: Sites, watch: Watch, create_graph: bool, whole: bool, below: Below | None = None
) -> tuple[list[Tree], list[Tree]] | None:
    values: list[Tree] = [None] * len(sites.sites)
    scores: list[Tensor] = []
    recorded = torch.is_grad_enabled()  # from the start
    recording = True

    def leaves(i: int, value: Tree, shared: bool, label: str, connected: bool = True) -> Tree:
        if below is None:
            return leaves_of(value, shared, label, connected)
        check_attributable(value, label)
        return map_tensors(lambda t: below.leaf(t, i) if t.is_floating_point() else t, value)

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        nonlocal recording
        if watch.is_neuron(i):
            recording = torch.is_grad_enabled()
            scores[:] = [stopping(watch.neuron_score, value)]
            if not create_graph:
                torch.set_grad_enabled(False)  # the rest only shows how often layers run
            return value
        with without_modes() if type(value) is Tensor else _as_it_is:  # a rule's mode has nothing to do with this
            if not recorded:  # else it is on already, or the model itself has turned it off
                torch.set_grad_enabled(True)
            values[watch.where[i]] = value = stopping(leaves, watch.where[i], value, shared, watch.sites[i].label)
            return copied(value)

    for i, site in enumerate(sites.sites):
        if site is None:  # named twice, the second leaf is made of the first
            values[i] = x = leaves(i, x, False, "x", connected=create_graph or None in sites.sites[:i])
    output, run = observe(bound, x, watch.sites, visit, early=watch.neuron is not None)
    check_reached(bound, run)
    if watch.neuron is None:
        recording = torch.is_grad_enabled()
        scores = [watch.score(output)]
        del output
    if watch.where and not recording and not whole:
        return None
    made = [leaf for value in values for leaf in tensors(value) if attributable(leaf)]
    if below is None:
        found = iter(gradients_of(scores.pop(), made, sites, create_graph))
    else:
        found = iter(below.gradients(scores.pop(), partial(gradients_of, sites=sites, create_graph=False)))
    gradients = [map_floats(lambda leaf: next(found), value) for value in values]
    return (values if create_graph else [map_tensors(torch.detach, value) for value in values]), gradients


def gradients_of(scores: Tensor, leaves: Sequence[Tensor], sites: Sites, create_graph: bool) -> list[Tensor]:
    """The gradient of the sum of the scores; each example's score depends on its own row alone."""
    found: Sequence[Tensor | None] = [None]
    if scores.requires_grad:
        # Its batching rule gives all targets the first one's.
        if transforms_active() and mapped_without(scores, leaves) and _goes_through(scores, "CdistBackward0"):
            text = "torch.func.vmap is wrong in the backward pass of torch.cdist: ask for one target at a time."
            raise complaint(ValueError, text)
        try:
            ones = None if scores.numel() == 1 else torch.ones_like(scores)
            found = torch.autograd.grad(scores, leaves, ones, create_graph=create_graph, allow_unused=True)
        except RuntimeError as error:
            if "heckpoint" not in str(error) or ".grad()" not in str(error):
                raise
            text = "the model runs a part of itself again in the backward pass with torch.utils.checkpoint(use_reentrant=True)"
            raise complaint(ValueError, f"{text}, which gives no gradients of values: pass use_reentrant=False.") from error
    if all(gradient is None for gradient in found):
        where = ", ".join("the input" if site is None else f"layer {site.label}" for site in sites.sites)
        raise complaint(
            ValueError,
            f"the score has no gradient with respect to {where}: the target does not depend on it, or the model cuts the "
            f"graph in between (torch.no_grad, detach, an integer or numpy step). Remove the cut, or choose a later layer.",
        )
    return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in zip(leaves, found)]


def _goes_through(scores: Tensor, name: str) -> bool:
    """Whether a backward pass of that name is in the graph."""
    todo, met = [scores.grad_fn], {scores.grad_fn}
    for node in todo:  # which grows
        if node is not None:
            if node.name() == name:
                return True
            new = {other for other, _ in node.next_functions} - met
            met |= new
            todo += new
    return False


# Compiled: the public form. It needs the value's shape first; the compiler drops the second prefix.


def _two_passes(bound: Bound, x: Tree, sites: Sites, target: Target, create_graph: bool) -> tuple[list[Tree], list[Tree]]:
    watch = Watch(bound, x, sites.sites, target)
    with torch.set_grad_enabled(create_graph):
        shapes = read(bound, x, sites.sites)
        for site, value in zip(sites.sites, shapes):
            check_attributable(value, "x" if site is None else site.label)
        # torch.zeros, not zeros_like: that would depend on the first pass and keep it in the graph.
        zeros = [
            [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in tensors(value) if t.is_floating_point()]
            for value in shapes
        ]

        def scored(zeros: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
            values: list[Tree] = [None] * len(sites.sites)
            scores: list[Tensor] = []

            def moved(i: int, value: Tree) -> Tree:
                shift = iter(zeros[i])
                return map_tensors(lambda t: t + next(shift) if t.is_floating_point() else t, value)

            def visit(i: int, value: Tree, shared: bool) -> Tree:
                if watch.is_neuron(i):
                    scores.append(watch.neuron_score(value))
                    return value
                values[watch.where[i]] = value = moved(watch.where[i], value)
                return copied(value)

            inputs = x
            for i, site in enumerate(sites.sites):
                if site is None:
                    values[i] = inputs = moved(i, x)
            output, run = observe(bound, inputs, watch.sites, visit)
            check_reached(bound, run)
            # Of the values, tensors only: torch.func takes nothing else back, and a layer may give (output, None).
            return (watch.score(output) if watch.neuron is None else scores[0]).sum(), [tensors(value) for value in values]

        found, kept = torch.func.grad(scored, has_aux=True)(zeros)
    leaf = iter([t for part in kept for t in part])
    values = [map_tensors(lambda t: next(leaf), value) for value in shapes]
    gradients = []
    for value, parts in zip(values, found):
        part = iter(parts)
        gradients.append(map_floats(lambda leaf, part=part: next(part), value))
    if create_graph:
        return values, gradients
    return [map_tensors(torch.detach, value) for value in values], [map_tensors(torch.detach, part) for part in gradients]


def with_normal_tensors(call: Callable[..., Any]) -> Callable[..., Any]:
    return partial(call.func, *copied(call.args), **copied(call.keywords)) if isinstance(call, partial) else call
