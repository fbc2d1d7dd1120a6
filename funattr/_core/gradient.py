"""Value and gradient at the sites, or at points put there: the only place of the gradient recipe. Eager it is one pass; while
Dynamo traces, torch.func.vjp, which needs the value's shape before it has seen the value: a second prefix, which the compiler
drops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._torch import (
    depth,
    grad_level,
    is_mapped,
    only_vmap_runs,
    saved_tensors_hooked,
    tracing,
    transforms_active,
    tree_flatten,
    tree_unflatten,
    unwrap_for_grad,
    without_modes,
)
from .._types import Layer, Model, Target, Tree, as_it_is, attributable, copied, floats_of, map_floats, map_tensors, tensors
from .._words import complaint
from .backward import (
    Recorded,
    check_scripted,
    dependent,
    depends,
    found_by,
    leaf_below,
    leaf_of,
    look,
    misses_gradients,
    reached,
    slopes_of,
    together,
)
from .checks import UNRECORDED, check_attributable, check_dense, check_outside
from .cures import check_level
from .door import method
from .kept import times_put_back
from .norms import mended_traced
from .passes import Found, Point, Question, each_score, forward, question, read
from .score import Row, alone, same_input, shares


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
    q = question(model, x, layer, target, create_graph)
    values, slopes = gradients(q)
    # A leaf made of the input, or of what a layer returned, may still be somebody else's memory.
    return q.sites.build(map_tensors(torch.clone, values)), q.sites.build(slopes)


def at_site(model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool) -> tuple[Tree, Tree]:
    """`value_and_gradient` without the door, and without a copy of the value: not to be written to."""
    q = question(model, x, layer, target, create_graph)
    values, slopes = gradients(q)
    return q.sites.build(values), q.sites.build(slopes)


def gradients(q: Question, point: Point | None = None, *, anchor: Tensor | None = None, own_level: bool = False) -> Found:
    """The values at the sites, and the score's gradients there; with `point`, at the points that it makes of the values.

    Without `point`, each site gets its total gradient, also where one feeds the other. `anchor` is a tensor that the vmap
    around maps over, if it is not in the input. `own_level` takes the gradient in a grad level of its own, for a rule that
    must not reach further derivatives.
    """
    own_level = own_level or (q.create_graph and q.bound.rules is not None)
    if isinstance(q.target, Row):
        if shares(q.target) and not own_level:
            return _of_row(q, point)
        if tracing() and q.bound.rules is None and point is None:
            return _traced_row(q._replace(bound=mended_traced(q.bound)), q.target)
        q = q._replace(target=alone(q.target))
    if tracing():
        return _traced(q._replace(bound=mended_traced(q.bound)), point)
    if own_level or transforms_active():
        # What mapped over the anchor may have given up: then another vmap runs here, or none.
        anchor = None if own_level or not only_vmap_runs() else anchor if is_mapped(anchor) else _anchor(q)
        if anchor is None:
            return _in_level(q, point)
    else:
        anchor = None
    return found_by(q, _complete(q, point, anchor))


def _complete(q: Question, point: Point | None, anchor: Tensor | None) -> Recorded:
    """The pass, with all of it recorded that is needed."""
    whole = None in q.sites.sites
    try:
        found = _recorded(q, point, whole, anchor)
    except RuntimeError as error:
        if whole or not any(text in str(error) for text in UNRECORDED):
            raise
        found = None
    if found is None:  # or a no_grad block around the layer has closed since: record all of the pass
        found = _recorded(q, point, True, anchor)
    assert found is not None
    look(q, found)
    return found


def with_places(x: Tree, dims: int, asked: Callable[[], Question]) -> list[bool]:
    """Which floating-point tensors of x a map with so many dimensions is of: those with as many, and of several of them those
    that a gradient leads to from the sites of what is `asked`; all, where nothing tells."""
    leaves, spec = tree_flatten(x)
    floats = [i for i, leaf in enumerate(leaves) if attributable(leaf)]
    fits = [leaves[i].dim() == dims for i in floats]
    if sum(fits) > 1 and not tracing():
        in_level = transforms_active()
        with torch.no_grad(), grad_level() if in_level else as_it_is, torch.enable_grad():
            for i in floats:
                leaves[i] = leaf_of(leaves[i], True, in_level, False)
            found = reached(read(asked(), tree_unflatten(leaves, spec)), [leaves[i] for i in floats])
        seen = [fit and there for fit, there in zip(fits, found)]
        fits = seen if any(seen) else fits
    return fits if any(fits) else [True] * len(floats)


class Met(NamedTuple):
    """What the call for the first of several targets left for the others: the question, the pass, and slopes made ahead."""

    q: Question
    recorded: Recorded
    written: int  # how often what a pass wrote had been put back
    ahead: dict[int, Found]


def _of_row(q: Question, point: Point | None) -> Found:
    """The values, and the gradients of one of several scores: the pass runs for the first, and leaves the others its graph."""
    row = q.target
    assert isinstance(row, Row)
    met: Met = row.take(lambda: Met(q, _complete(q._replace(target=row.every), point, None), times_put_back(), {}))
    fits = met.q.sites == q.sites and met.q.create_graph == q.create_graph and same_input(met.q.x, q.x)
    if not fits or met.written != times_put_back():  # what the graph needs has been written to since
        return gradients(q._replace(target=row.plain), point)
    if row.index not in met.ahead:
        rows = range(row.index, min(row.index + row.shared.together, len(row.shared.targets)))
        found = together(q, met.recorded, rows) or slopes_of(q, met.recorded, rows)
        met.ahead.update(zip(rows, found))
    return met.ahead.pop(row.index)


def _anchor(q: Question) -> Tensor | None:
    """A tensor of x that vmap maps over, unless below vmap a part of the model goes without its gradient."""
    return None if misses_gradients(q) else next((t for t in tensors(q.x) if is_mapped(t)), None)


def _in_level(q: Question, point: Point | None) -> Found:
    """Under vmap or another torch.func transform: the same inside a grad level of its own."""
    with torch.set_grad_enabled(q.create_graph), grad_level() as level, torch.enable_grad():
        # Nothing before the leaf is recorded at this level: nothing there requires grad. Outer levels record if asked to.
        try:
            recorded = _recorded(q, point, True, None)
        except RuntimeError as error:
            check_level(error, q.bound)
            raise
        assert recorded is not None
        look(q, recorded)
        check_scripted(q, recorded)
        values, slopes = map_tensors(lambda t: unwrap_for_grad(t, level), found_by(q, recorded))
    return values, slopes


# Eager: one pass. The leaf is made inside the model, from the value just seen.

_AGAIN = (
    "layer {} is in a part that the model runs again in the backward pass (torch.utils.checkpoint), where the path's points "
    "cannot be: turn that off (use_checkpoint=False, model.gradient_checkpointing_disable(), or whatever turned it on)."
)


def _recorded(q: Question, point: Point | None, whole: bool, anchor: Tensor | None) -> Recorded | None:
    """None where part of the pass, and not the `whole`, has been recorded, and too little."""
    values: list[Tree] = [None] * len(q.sites.sites)
    leaves: list[list[Tensor]] = [[] for _ in values]
    in_level, outer = transforms_active() and anchor is None, depth()
    with torch.set_grad_enabled(q.create_graph or whole) if not in_level else as_it_is:
        recorded, hooked = torch.is_grad_enabled(), point is not None and saved_tensors_hooked()

        def placed(i: int, t: Tensor, shared: bool) -> Tensor:
            if anchor is not None:
                mapped, leaf = leaf_below(t, anchor)
            else:
                mapped = leaf = leaf_of(t, shared, in_level, q.create_graph or recorded or any(leaves))
            leaves[i].append(leaf)
            return mapped

        def put(i: int, value: Tree, shared: bool) -> Tree:
            check_outside(q.label(i), depth() > outer)
            alone = type(value) is Tensor
            if not (alone and value.is_floating_point()):
                check_attributable(value, q.label(i))
            with without_modes():  # a rule's mode has nothing to do with this
                if not recorded:  # else it is on already, or the model itself has turned it off
                    torch.set_grad_enabled(True)
                if point is None and alone:
                    values[i] = value = placed(i, value, shared)
                    return value.clone()
                if point is None:
                    values[i] = value = map_tensors(lambda t: placed(i, t, shared) if t.is_floating_point() else t, value)
                    return copied(value)
                if recorded and not hooked and saved_tensors_hooked():
                    raise complaint(ValueError, _AGAIN.format(q.label(i)))
                if any(leaves) and depends(value, [leaf for part in leaves for leaf in part], anchor):
                    raise dependent()
                values[i] = value = copied(value)
                for t in floats_of(value):
                    check_dense(t, q.where(i))
                moved = iter(point(i, floats_of(value)))
                value = map_tensors(lambda t: placed(i, next(moved), False) if t.is_floating_point() else t, value)
                return copied(value) if anchor is None else value  # below vmap it is a sum, fresh already

        seen = forward(q, put, fresh=point is None or anchor is None)
        if not whole and not seen.recording and q.inner:
            return None
        flat = leaves[0] if len(leaves) == 1 else [leaf for part in leaves for leaf in part]
        return Recorded(values, flat, each_score(q, seen), anchor, set())


# While Dynamo traces.


def _traced(q: Question, point: Point | None) -> Found:
    with torch.set_grad_enabled(q.create_graph):
        shapes = read(q, once=False)
        for i, value in enumerate(shapes):
            check_attributable(value, q.label(i))
        # torch.zeros, not zeros_like: that would depend on the first pass and keep it in the graph.
        zeros = [[torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in floats_of(value)] for value in shapes]

        def scored(zeros: list[list[Tensor]]) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
            values: list[Tree] = [None] * len(shapes)

            def put(i: int, value: Tree, shared: bool) -> Tree:
                with as_it_is if q.bound.rules is None else without_modes():  # no rule has anything to do with this
                    at, shift = iter(floats_of(value) if point is None else point(i, floats_of(value))), iter(zeros[i])
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
    parts = iter([t for slopes in each for part in slopes for t in part])
    found = [map_floats(lambda leaf: next(parts), value) for _ in each for value in values]
    return (values, found) if q.create_graph else (map_tensors(torch.detach, values), map_tensors(torch.detach, found))


def _traced_row(q: Question, row: Row) -> Found:
    """The values and the gradients for one of several targets: the pass runs for the first, and goes back once for each."""
    values, slopes = row.take(lambda: _traced(q._replace(target=row.every), None))
    count = len(values)
    return values, slopes[row.index * count : (row.index + 1) * count]
