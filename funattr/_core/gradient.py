"""Value and gradient at the sites, or at points put there: the only place of the gradient recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._torch import (
    below_vmap,
    grad_level,
    is_mapped,
    is_view,
    make_leaf,
    mapped_without,
    only_vmap_runs,
    saved_tensors_hooked,
    tracing,
    transforms_active,
    unwrap_for_grad,
    without_modes,
)
from .._types import Layer, Model, Target, Tree, as_it_is, copied, floats_of, map_floats, map_tensors, tensors
from .._words import complaint
from .door import check_dense, method
from .norms import mend, mended_traced
from .passes import Found, Point, Question, forward, question, scores
from .real import check_attributable
from .traced import traced_gradients
from .where import all_modules


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
    if tracing():
        return traced_gradients(q._replace(bound=mended_traced(q.bound)), point)
    if own_level or transforms_active():
        # What mapped over the anchor may have given up: then another vmap runs here, or none.
        anchor = None if own_level or not only_vmap_runs() else anchor if is_mapped(anchor) else _anchor(q)
        if anchor is None:
            return _in_level(q, point)
    else:
        anchor = None
    whole = None in q.sites.sites
    try:
        found = _recorded(q, point, whole, anchor)
    except RuntimeError as error:
        if whole or "created in no_grad mode" not in str(error):
            raise
        found = None  # the model writes to a part of what came before the layer
    if found is None:  # or a no_grad block around the layer has closed since: record all of the pass
        found = _recorded(q, point, True, anchor)
    assert found is not None
    return found


def _anchor(q: Question) -> Tensor | None:
    """A tensor of x that vmap maps over, unless a module has a hook on its backward pass, which below vmap never runs."""
    return None if hooks_backward(q) else next((t for t in tensors(q.x) if is_mapped(t)), None)


def hooks_backward(q: Question) -> bool:
    """Whether a module has a hook on its backward pass: where vmap hides that a gradient will be asked for, it never runs."""
    hooks = ("_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, None) for module in all_modules(q.bound.root) for name in hooks)


def _in_level(q: Question, point: Point | None) -> Found:
    """Under vmap or another torch.func transform: the same inside a grad level of its own."""
    with torch.set_grad_enabled(q.create_graph), grad_level() as level, torch.enable_grad():
        # Nothing before the leaf is recorded at this level: nothing there requires grad. Outer levels record if asked to.
        try:
            found = _recorded(q, point, True, None)
        except RuntimeError as error:
            if "mutate a captured Tensor" not in str(error):
                raise
            text = "the model writes to its own buffers (batch norm in train mode?), which torch.func does not allow here"
            raise complaint(ValueError, f"{text}: call model.eval() first.") from error
        assert found is not None
        values, slopes = map_tensors(lambda t: unwrap_for_grad(t, level), found)
    return values, slopes


# Eager: one pass. The leaf is made inside the model, from the value just seen.

_AGAIN = (
    "layer {} is in a part that the model runs again in the backward pass (torch.utils.checkpoint), where the path's points "
    "cannot be: turn that off (use_checkpoint=False, model.gradient_checkpointing_disable(), or whatever turned it on)."
)


def _recorded(q: Question, point: Point | None, whole: bool, anchor: Tensor | None) -> Found | None:
    """None where part of the pass, and not the `whole`, has been recorded, and too little."""
    values: list[Tree] = [None] * len(q.sites.sites)
    leaves: list[list[Tensor]] = [[] for _ in values]
    in_level = transforms_active() and anchor is None
    with torch.set_grad_enabled(q.create_graph or whole) if not in_level else as_it_is:
        recorded, hooked = torch.is_grad_enabled(), point is not None and saved_tensors_hooked()

        def leaf_of(i: int, t: Tensor, shared: bool) -> Tensor:
            if anchor is not None:
                mapped, leaf = _leaf_below(t, anchor)
            else:
                mapped = leaf = _leaf(t, shared, in_level, q.create_graph or recorded or any(leaves))
            leaves[i].append(leaf)
            return mapped

        def put(i: int, value: Tree, shared: bool) -> Tree:
            check_attributable(value, q.label(i))
            with without_modes() if type(value) is Tensor else as_it_is:  # a rule's mode has nothing to do with this
                if not recorded:  # else it is on already, or the model itself has turned it off
                    torch.set_grad_enabled(True)
                if point is None:
                    values[i] = value = map_tensors(lambda t: leaf_of(i, t, shared) if t.is_floating_point() else t, value)
                    return copied(value)
                if recorded and not hooked and saved_tensors_hooked():
                    raise complaint(ValueError, _AGAIN.format(q.label(i)))
                if any(leaves) and _depends(value, leaves, anchor):
                    raise dependent()
                values[i] = value = copied(value)
                for t in floats_of(value):
                    check_dense(t, f"the value at layer {q.label(i)}")
                moved = iter(point(i, floats_of(value)))
                value = map_tensors(lambda t: leaf_of(i, next(moved), False) if t.is_floating_point() else t, value)
                return copied(value) if anchor is None else value  # below vmap it is a sum, fresh already

        seen = forward(q, put, fresh=point is None or anchor is None)
        if q.inner and not seen.recording and not whole:
            return None
        return _slopes(q, values, leaves, scores(q, seen), anchor)


def _slopes(q: Question, values: list[Tree], leaves: list[list[Tensor]], found: Tensor, anchor: Tensor | None) -> Found:
    flat = [leaf for part in leaves for leaf in part]
    if anchor is None:
        slopes = iter(_backward(q, found, flat))
    else:
        slopes = iter(below_vmap(lambda found: _backward(q, found, flat), found))
    return (
        values if q.create_graph else [map_tensors(torch.detach, value) for value in values],
        [map_floats(lambda leaf: next(slopes), value) for value in values],
    )


def _leaf(t: Tensor, shared: bool, in_level: bool, connected: bool) -> Tensor:
    """`t` as a leaf of the graph to come, `connected` to what came before (a site, an outer transform, the caller's graph)."""
    if in_level or (connected and t.requires_grad):
        leaf = t.clone()
    else:
        leaf = t.detach()
        if shared or is_view(t):  # written to later through another name, the value would change after the fact
            leaf = leaf.clone()
    if leaf.requires_grad:
        return leaf
    return make_leaf(leaf) if in_level else leaf.requires_grad_()


def _leaf_below(t: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf below vmap, for all that is mapped at once, and the value as its sum with that leaf of zeros: fresh memory.

    The backward pass then runs without vmap: fused kernels have no batching rule, and the graph is torch's plain one.
    """
    made: list[Tensor] = []
    mapped = is_mapped(t)

    def below(t: Tensor, anchor: Tensor) -> list[Tensor]:
        whole = t if mapped else t.expand(anchor.shape[0], *t.shape)
        # Zeros in the memory of one: the model gets the sum, to write to as it likes, and nobody keeps the points.
        made.append(torch.zeros((), dtype=t.dtype, device=t.device).expand(whole.shape).requires_grad_())
        return [whole + made[0]]

    return below_vmap(below, t, anchor)[0], made[0]


def _depends(value: Tree, leaves: list[list[Tensor]], anchor: Tensor | None) -> bool:
    """Whether a value met after a leaf was placed depends on it."""
    if anchor is not None:  # then it is mapped, for nothing else is
        return any(is_mapped(t) for t in tensors(value))
    return connected(value, [leaf for part in leaves for leaf in part])


def connected(value: Tree, leaves: Sequence[Tensor]) -> bool:
    """Whether a graph leads from `value` back to one of the leaves."""
    with without_modes():  # a rule's mode has nothing to do with this
        ends = [t.sum() for t in tensors(value) if t.requires_grad]
        return bool(ends) and any(
            g is not None for g in torch.autograd.grad(ends, leaves, allow_unused=True, retain_graph=True)
        )


def dependent() -> Exception:
    return complaint(
        ValueError,
        "the layers depend on each other: a path runs at all of them jointly, and one that feeds another leaves it "
        "nothing to vary. Choose layers side by side, or call the method once for each.",
    )


def _backward(q: Question, found: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the sum of the scores; each example's score is of the function of this batch."""
    slopes: Sequence[Tensor | None] = [None]
    if found.requires_grad:
        # Its batching rule gives all targets the first one's.
        if transforms_active() and mapped_without(found, leaves) and _goes_through(found, "CdistBackward0"):
            text = "torch.func.vmap is wrong in the backward pass of torch.cdist: ask for one target at a time."
            raise complaint(ValueError, text)
        mend(q.bound, found, leaves)
        try:
            ones = None if found.numel() == 1 else torch.ones_like(found)
            slopes = torch.autograd.grad(found, leaves, ones, create_graph=q.create_graph, allow_unused=True)
        except RuntimeError as error:
            if "heckpoint" not in str(error) or ".grad()" not in str(error):
                raise
            text = "the model runs a part of itself again in the backward pass with torch.utils.checkpoint(use_reentrant=True)"
            raise complaint(ValueError, f"{text}, which gives no gradients of values: pass use_reentrant=False.") from error
    if all(slope is None for slope in slopes):
        where = ", ".join("the input" if site is None else f"layer {site.label}" for site in q.sites.sites)
        raise complaint(
            ValueError,
            f"the score has no gradient with respect to {where}: the target does not depend on it, or the model cuts the "
            f"graph in between (torch.no_grad, detach, an integer or numpy step). Remove the cut, or choose a later layer.",
        )
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes)]


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
