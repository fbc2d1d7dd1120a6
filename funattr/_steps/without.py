"""A model without some of its features: one forward pass for each group of them, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.kernels import Folded
from .._core.leaves import connected
from .._core.passes import Question, Seen, Unfused, forward, kept, runs_fused, scores
from .._core.rows import Every, each_of
from .._core.score import predicted, score_of, the_tensor
from .._torch import quiet, tracing, transforms_active, tree_flatten, tree_unflatten, without_modes
from .._types import Tree, as_it_is, copied, map_tensors, tensors
from .._words import complaint, warn
from .chunks import chunks, fitting
from .groups import numbered, one_each, spread
from .late import Late
from .matching import Ranges, by_site, check_compares, check_fits, fit, matched, ranges
from .outputs import Outputs, suspect, widened, words
from .path import along
from .progress import report
from .ways import Runner, refused

#: Above this many passes, a warning. A table has fewer columns, and the smallest of pictures (3 x 32 x 32) fewer numbers; at a
#: millisecond for each, which few models take less than, it is the point from where the answer does not come at once.
MANY = 10_000


class Features(NamedTuple):
    """Which features go together, and what stands in for them, at each site."""

    masks: list[Tree] | None  # the group of each feature, numbered from 0 over all sites; None: each on its own
    groups: int  # how many, where masks say so
    baselines: list[Any]
    known: Ranges


class Plan(NamedTuple):
    """How many steps there are, the first with nothing replaced; how many at once, and in the first chunk; the groups, for
    values as they were met."""

    steps: int
    at_once: int
    first: int
    ids: list[list[Tensor | None]]  # for each leaf of the value at each site
    values: list[Tree]  # without their data


def features_of(q: Question, baselines: Any, feature_mask: Any) -> Features:
    """What the caller says of the features, matched to the sites."""
    masks, groups = None, 0
    if feature_mask is not None:
        masks, groups = numbered(by_site(feature_mask, q.sites, "feature_mask"))
    check_compares(tree_flatten(baselines)[0], "everything at its")
    return Features(masks, groups, by_site(baselines, q.sites, "baselines"), ranges(baselines))


def planned(q: Question, features: Features, values: list[Tree], chunk: int | None) -> Plan:
    """The plan for values of these shapes."""
    if features.masks is None:
        ids, groups = one_each(values, q.size)
    else:
        groups, masks = features.groups, enumerate(features.masks)
        ids = [matched(mask, values[i], "feature_mask", _label(q, i)) for i, mask in masks]
    for i, (each, value) in enumerate(zip(ids, values)):
        if not any(one is not None and isinstance(leaf, Tensor) for one, leaf in zip(each, tree_flatten(value)[0])):
            raise complaint(TypeError, f"{_label(q, i)} holds no tensor to ablate.")
    steps = groups + 1 if q.size else 1
    if features.masks is None and groups > MANY and not tracing():
        text = f"{groups:,} features are ablated one by one, with a forward pass for each: group them with feature_mask"
        warn(f"{text} (squares of a picture, spans of a text), or take a method that uses gradients.")
    size = chunk or _at_once(q, tensors(values), steps)
    return Plan(steps, size, 1 if chunk is None and suspect(q, values, size) else size, ids, values)


def _label(q: Question, i: int) -> str:
    return "x" if q.sites.sites[i] is None else f"the value at layer {q.label(i)}"


def _at_once(q: Question, found: list[Tensor], steps: int) -> int:
    """How many steps at once: bounded memory, and on a CPU no more than its caches like.

    Where there is a part of the model to share, each chunk runs it again: larger ones, of small values any number.
    """
    elements = widened(q, found)
    if not q.inner:
        return fitting(steps, 50, elements, 1 << (19 if all(t.device.type == "cpu" for t in found) else 21))
    size = fitting(steps, 50, elements, 1 << 23)
    while 50 <= size < steps and 2 * size * elements <= 1 << 20:
        size *= 2
    return size


def hollow(value: Tree) -> Tree:
    """A value without its data: shapes, dtypes and devices."""
    return map_tensors(lambda t: torch.zeros((), dtype=t.dtype, device=t.device).expand(t.shape), value)


def look(q: Question) -> list[Tree]:
    """The values at the sites, hollow; the model runs no further than the last. Joint sites must be independent."""
    values: list[Tree] = [None] * len(q.sites.sites)
    leaves: list[Tensor] = []
    joint = len(values) > 1 and not tracing() and not transforms_active()

    def leaf_of(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        leaves.append(t.detach().clone().requires_grad_())
        return leaves[-1].clone()

    def put(i: int, value: Tree, shared: bool) -> Tree:
        values[i] = hollow(value)
        if joint and leaves and connected(value, leaves):
            text = f"layer {q.label(i)} depends on another of the layers, and they cannot be replaced together"
            raise complaint(ValueError, f"{text}: choose layers side by side, or ask for each on its own.")
        return map_tensors(leaf_of, value) if joint else value

    with torch.enable_grad() if joint else as_it_is:
        forward(q._replace(sites=q.sites.first(), neuron=None), put, early=True)
    return values


def without(q: Question, features: Features, plan: Plan, step: Tensor, i: int, value: Tree) -> Tree:
    """The value at the i-th site with the features of group ``step - 1`` at the baseline; for several steps, each, up front."""
    leaves, spec = tree_flatten(value)
    label, replaced = _label(q, i), []
    for leaf, ids, base in zip(leaves, plan.ids[i], matched(features.baselines[i], value, "baselines", label)):
        if isinstance(leaf, Tensor) and ids is not None:
            check_fits(ids, leaf.shape, "feature_mask", label)
            base = fit(leaf, base, features.known, label)
            group = step.reshape(step.shape + (1,) * leaf.dim()).to(leaf.device) - 1
            replaced.append(torch.where(ids.to(leaf.device) == group, base, leaf))
        else:
            replaced.append(copied(leaf))
    return tree_unflatten(replaced, spec)


def restored(plan: Plan, losses: Tensor) -> list[Tree]:
    """Each group's loss ``[groups, N]`` at each of its features, in the structure of the value at each site."""
    found = []
    for ids, value in zip(plan.ids, plan.values):
        leaves, spec = tree_flatten(value)
        found.append(tree_unflatten([_spread(losses, one, leaf) for one, leaf in zip(ids, leaves)], spec))
    return found


def _spread(losses: Tensor, ids: Tensor | None, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return None if ids is None else spread(losses, ids.to(leaf.device), tuple(leaf.shape))


def lost(q: Question, features: Features, chunk: int | None) -> list[Tree]:
    """What the score, or each of several, loses without each group: with nothing replaced less without it, at each of its
    features; a tree for each site."""
    if runs_fused(q.bound.root) and not tracing():
        q = q._replace(bound=q.bound.under(Unfused()))  # one form for all steps: alone, a step might run fused
    whole: list[Tensor] | None = None
    losses: list[list[Tensor]] = [[] for _ in each_of(q.target)]
    plan, done = None, 0
    for plan, outputs in _outputs(q, features, chunk):
        if q.neuron is None and not (callable(q.target) or isinstance(q.target, Every)):
            if whole is None:  # outside vmap the target's data can be checked
                scores(q, Seen(outputs[0][0], None, True))
                q = q._replace(target=predicted(outputs[0][0])) if isinstance(q.target, str) else q
            outputs = [torch.func.vmap(partial(score_of, target=q.target))(outputs[0])]
        found = [t if t.is_floating_point() else t.to(torch.get_default_dtype()) for t in outputs]
        if whole is None:
            whole, found = [t[:1] for t in found], [t[1:] for t in found]
        for k, without_it in enumerate(found):
            losses[k].append(whole[k] - without_it)
        done += found[0].shape[0]
        report(done + 1, plan.steps)
    assert plan is not None
    return [tree for each in losses for tree in restored(plan, torch.cat(each))]


def _outputs(q: Question, features: Features, chunk: int | None) -> Iterator[tuple[Plan, list[Tensor]]]:
    """The plan, and what the model gives at its steps, in order, some with each: scores where the target is computed, else
    outputs."""
    run, late = Runner(), None
    outputs = None if tracing() or not words(q) else Outputs(q)
    q = q if outputs is None else outputs.q
    if len(q.sites.sites) == 1 and q.inner and not tracing() and not transforms_active():
        plan, late = _first(run, q, features, chunk)
        if late is not None:
            yield plan, late
    else:
        plan = planned(q, features, look(q) if q.inner else [q.x for _ in q.sites.sites], chunk)
        report(0, plan.steps)
    steps = torch.arange(plan.steps, device=tensors(q.x)[0].device)
    for a, b in _parts(plan, outputs, 0 if late is None else late[0].shape[0]):
        part = steps[a:b]
        if q.inner or len(q.sites.sites) > 1:
            found = run(partial(_at_sites, q, features, plan), part, q.x)
        else:
            found = _at_input(run, q, features, plan, part)
        for each in found:
            yield plan, each


def _parts(plan: Plan, outputs: Outputs | None, start: int) -> Iterator[tuple[int, int]]:
    """The chunks of steps from `start` on: the first as planned, the others as many as their outputs allow."""
    if outputs is None or plan.first == plan.at_once:
        yield from ((start + a, start + b) for a, b in chunks(plan.steps - start, plan.at_once))
        return
    if start == 0:
        yield 0, plan.first
        start = plan.first
    size = outputs.limited(plan.at_once, plan.values)
    yield from ((start + a, start + b) for a, b in chunks(plan.steps - start, size))


def _output(q: Question, seen: Seen) -> list[Tensor]:
    if isinstance(q.target, Every):
        found: list[Tensor] = scores(q, seen)
        return found
    return [scores(q, seen) if q.neuron is not None or callable(q.target) else the_tensor(seen.output, q.size)]


def _at_sites(q: Question, features: Features, plan: Plan, step: Tensor, x: Tree) -> list[Tensor]:
    return _output(q, forward(q, lambda i, value, shared: without(q, features, plan, step, i, value), x))


def _at_input(run: Runner, q: Question, features: Features, plan: Plan, steps: Tensor) -> Iterator[list[Tensor]]:
    made = tree_flatten(without(q, features, plan, steps, 0, q.x))[0]
    at = [k for k, (leaf, ids) in enumerate(zip(made, plan.ids[0])) if isinstance(leaf, Tensor) and ids is not None]
    return along(run, q, _output_at, [made[k] for k in at], at)


def _output_at(q: Question, x: Tree) -> list[Tensor]:
    return _output(q, forward(q, kept, x))


def _first(run: Runner, q: Question, features: Features, chunk: int | None) -> tuple[Plan, list[Tensor] | None]:
    """The plan, and the first chunk from the pass that sees the value at the site; None where vmap cannot run the model."""
    plans: list[Plan] = []
    late = Late(tensors(q.x)[0].device)

    def put(i: int, value: Tree, shared: bool) -> Tree:
        plans[:] = [planned(q, features, [hollow(value)], chunk)]
        steps = plans[0].steps
        report(0, steps)
        step = late.enter(-(-steps // -(-steps // plans[0].first)))
        with without_modes():  # which have nothing to do with this
            return without(q, features, plans[0], step, 0, value)

    try:
        with quiet, as_it_is if q.create_graph else Folded():
            found = late.run(lambda: _output(q, forward(q, put)))
    except RuntimeError as error:
        if late.level is None or not refused(error):
            raise
        run.refuse(error)
        found = None
    return plans[0], found
