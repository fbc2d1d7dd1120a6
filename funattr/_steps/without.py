"""A model without some of its features: one forward pass for each group of them, in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.backward import connected, leaf_of
from .._core.kept import before_transform, drawn
from .._core.kernels import Folded
from .._core.passes import Question, Seen, Unfused, each_score, forward, kept, read, runs_fused, scores
from .._core.score import Every, alone, predicted, score_of, shares, the_tensor
from .._core.written import with_own_mapped
from .._torch import (
    Late,
    any_batch,
    grad_level,
    quiet,
    tracing,
    transforms_active,
    tree_flatten,
    tree_unflatten,
    unwrap_for_grad,
    without_modes,
)
from .._types import Tree, as_it_is, copied, floats_of, in_floats, in_single, map_leaves, map_tensors, tensors
from .._words import complaint, is_index
from .chunks import Made, TooMuch, chunks
from .fold import all_at_site, taken
from .matching import check_fits, fit_rows, picked
from .plan import Makes, Opened, Plan, hollow, spread
from .points import along, with_floats
from .progress import report
from .ways import Runner, refused


def look(q: Question) -> list[Tree]:
    """The values at the sites, hollow; the model runs no further than the last. Joint sites must be independent."""
    if len(q.sites.sites) == 1 or tracing() or not transforms_active():
        return _looked(q)
    with grad_level() as level:  # where a graph can be seen below a transform
        return [map_tensors(lambda t: unwrap_for_grad(t, level), value) for value in _looked(q)]


def _looked(q: Question) -> list[Tree]:
    values: list[Tree] = [None] * len(q.sites.sites)
    leaves: list[Tensor] = []
    joint = len(values) > 1 and not tracing()

    def put(i: int, value: Tree, shared: bool) -> Tree:
        values[i] = hollow(value, q.where(i))
        if joint and leaves and connected(value, leaves):
            text = f"layer {q.label(i)} depends on another of the layers, and they cannot be replaced together"
            raise complaint(ValueError, f"{text}: choose layers side by side, or ask for each on its own.")
        if not joint:
            return value
        floats = [leaf_of(t, True, transforms_active(), False) for t in floats_of(value)]
        leaves.extend(floats)
        return copied(with_floats(value, floats))

    with torch.enable_grad() if joint else as_it_is:
        forward(q._replace(sites=q.sites.first(), neuron=None), put, early=True)
    return values


def without(plan: Plan, step: list[Tensor], i: int, value: Tree) -> Tree:
    """The value at the i-th site without the features that a step takes away; for several steps, each, up front."""
    game, replaced = plan.game, []
    label = game.q.where(i)
    for leaf, ids, base in game.leaves(i, value):
        if ids is not None:
            check_fits(ids, leaf.shape, "feature_mask", label)
            base, several = fit_rows(leaf, base, game.features.known, label)
            which, *row = [t.to(leaf.device) for t in step]
            base = picked(base, row[0]) if several else base
            replaced.append(torch.where(plan.gone(which, ids.to(leaf.device), leaf), base, leaf))
        else:
            replaced.append(copied(leaf))
    return tree_unflatten(replaced, tree_flatten(value)[1])


def check_features(plan: Plan) -> None:
    """Refuse masks and baselines that do not fit, before anything runs."""
    game = plan.game
    for i, value in enumerate(game.values):
        for leaf, ids, base in game.leaves(i, value):
            if ids is not None:
                check_fits(ids, leaf.shape, "feature_mask", game.q.where(i))
                fit_rows(leaf, base, game.features.known, game.q.where(i))


def restored(game: Opened, losses: Tensor) -> Tree:
    """Each group's loss ``[groups, N]`` at each of its features, in the structure of the value."""
    each = zip(game.values, game.ids)
    return game.q.sites.build([map_leaves(partial(_spread, losses), value, ids) for value, ids in each])


def _spread(losses: Tensor, leaf: Any, ids: Tensor | None) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return None if ids is None else spread(losses, ids.to(leaf.device), tuple(leaf.shape))


def lost(q: Question, make: Makes) -> tuple[Opened, Tensor]:
    """The game, and what the score loses at each step after the first, at which nothing is replaced: ``[steps - 1, N]``."""
    game, found = scored(q, make)
    return game, in_floats(found[:1] - found[1:])


def scored(q: Question, make: Makes | Plan) -> tuple[Opened, Tensor]:
    """The game, and the score of each example at each of its steps, ``[steps, N]``: the mean over the rows of baselines.

    The plan is made from the values at the sites, which the first pass sees, or made before. "argmax" is what is predicted
    at the first step.
    """
    if shares(q.target):
        return _of_row(q, make)
    plan, (found,) = _scored(q._replace(target=alone(q.target)), make)
    return plan.game, found


class Played(NamedTuple):
    """What the call for the first of several targets left for the others: the steps that ran, and all scores there."""

    plan: Plan
    some: Tensor  # of what tells the steps
    scores: list[Tensor]


def _of_row(q: Question, make: Makes | Plan) -> tuple[Opened, Tensor]:
    """`scored` for one of several targets: the passes run for the first, and their scores are kept, which are small."""
    row = q.target

    def played() -> Played:
        plan, every = _scored(q._replace(target=row.every), make)
        return Played(plan, _some(q, plan), every)

    found: Played = row.take(played)
    plan = make if isinstance(make, Plan) else make(found.plan.game.values)  # which may note what it makes
    if plan.runs != found.plan.runs or not torch.equal(_some(q, plan), found.some):  # steps of this target's own
        return scored(q._replace(target=row.plain), make)
    return plan.game, found.scores[row.index]


def _some(q: Question, plan: Plan) -> Tensor:
    """What tells the first step, and the last."""
    return plan.which(torch.tensor([0, plan.runs // (plan.rows or 1) - 1], device=tensors(q.x)[0].device))


def _scored(q: Question, make: Makes | Plan) -> tuple[Plan, list[Tensor]]:
    """The plan, and the same for the target, or for each of several."""
    q = q._replace(bound=q.bound.for_values(q.create_graph))
    if runs_fused(q.bound.root) and not tracing():
        q = q._replace(bound=q.bound.under(Unfused()))  # one form for all steps: alone, a step might run fused
    parts: list[list[Tensor]] = []
    plan, done = None, 0
    for plan, found in _outputs(q, make):
        if q.neuron is None and not (callable(q.target) or isinstance(q.target, Every)):
            if not parts:  # outside vmap the target's data can be checked
                scores(q, Seen(found[0][0], None, True))
                q = q._replace(target=predicted(found[0][0])) if isinstance(q.target, str) else q
            found = [_each_score(q, found[0])]
        # A view holds all classes; of large integers differences are taken before they are rounded.
        parts.append([t.clone() if t.is_floating_point() else t.long() for t in found])
        done += found[0].shape[0]
        del found  # nobody holds outputs while the next are made
        report(done, plan.runs)
    assert plan is not None
    together = [same[0] if len(same) == 1 else torch.cat(same) for same in zip(*parts)]
    together = together if q.create_graph else [t.detach() for t in together]  # forward mode takes no heed of no_grad
    return plan, together if plan.rows is None else [_mean_over(plan.rows, in_floats(t)) for t in together]


def _each_score(q: Question, outputs: Tensor) -> Tensor:
    """The scores of steps ``[c, N]``; one entry of each row is taken of all rows at once, which takes less than a vmap."""
    if outputs.dim() > 1 and (q.target is None or is_index(q.target)):
        return score_of(outputs.flatten(0, 1), q.target).reshape(outputs.shape[:2])
    found: Tensor = torch.func.vmap(partial(score_of, target=q.target))(outputs)
    return found


def _mean_over(rows: int, scores: Tensor) -> Tensor:
    """Of runs side by side."""
    runs: Tensor = in_single(scores).unflatten(0, (-1, rows))  # whose sizes can be told of no examples, too
    return runs.mean(1).to(scores.dtype)


def _outputs(q: Question, make: Makes | Plan) -> Iterator[tuple[Plan, list[Tensor]]]:
    """The plan, and what the model gives at its runs, in order, some with each: scores where the target is computed, else
    outputs."""
    run, start, device = Runner(), 0, tensors(q.x)[0].device
    if isinstance(make, Plan):
        plan = make
        report(0, plan.runs)
    elif len(q.sites.sites) == 1 and q.inner and run.ways and not (tracing() or transforms_active() or any_batch()):
        plan, late = _first(run, q, make)
        if late is not None:
            start = late[0].shape[0]
            yield plan, late
            del late
    else:
        plan = make(_values(q))
        report(0, plan.runs)
    if not (start or plan.game.chunk is not None or run.unsure):
        run.within(q, plan.game.values, True)
    for a, b in ((start + a, start + b) for a, b in chunks(plan.runs - start, plan.at_once)):
        part = plan.part(a, b, device)
        if q.inner or len(q.sites.sites) > 1:
            whole = _all_at_sites(q, plan, part) if taken.alone and not transforms_active() else None
            found = run(partial(_at_sites, q, plan), part, q.x) if whole is None else iter([whole])
        else:
            found = _at_input(run, q, plan, part)
        for each in found:
            yield plan, each
            del each


def _values(q: Question) -> list[Tree]:
    """What the plan is made from where no pass of the steps shows it: of joint sites, without the data."""
    if not q.inner:
        return [q.x for _ in q.sites.sites]
    return read(q) if len(q.sites.sites) == 1 else look(q)


def _output(q: Question, seen: Seen) -> list[Tensor]:
    if q.neuron is not None or callable(q.target) or isinstance(q.target, Every):
        return each_score(q, seen)
    return [the_tensor(seen.output, q.size)]


def _at_sites(q: Question, plan: Plan, step: list[Tensor], x: Tree) -> list[Tensor]:
    return _output(q, forward(q, lambda i, value, shared: without(plan, step, i, value), x))


def _all_at_sites(q: Question, plan: Plan, steps: list[Tensor]) -> list[Tensor] | None:
    """`_at_sites` in one batch that begins at the sites."""

    def put(i: int, value: Tree, shared: bool) -> Tree:
        own = map_tensors(lambda t: t[: q.size], value)
        return map_tensors(lambda t: t.flatten(0, 1), without(plan, steps, i, own))

    if any(ids is None for each in plan.game.ids for ids in each):
        return None  # what is held there has one row for each example
    return all_at_site(q, steps[0].shape[0], lambda whole: _output(whole, forward(whole, put)))


def _at_input(run: Runner, q: Question, plan: Plan, steps: list[Tensor]) -> Iterator[list[Tensor]]:
    made = tree_flatten(without(plan, steps, 0, q.x))[0]
    at = [k for k, (leaf, ids) in enumerate(zip(made, plan.game.ids[0])) if isinstance(leaf, Tensor) and ids is not None]
    return along(run, q, _output_at, [made[k] for k in at], at)


def _output_at(q: Question, x: Tree) -> list[Tensor]:
    return _output(q, forward(q, kept, x))


def _first_part(run: Runner, q: Question, plan: Plan, made: Made) -> list[Tensor]:
    """What tells the runs of the first chunk."""
    report(0, plan.runs)
    if plan.game.chunk is None:
        run.within(q, plan.game.values, True)
    first = chunks(plan.runs, min(plan.at_once, run.most))[0][1]
    made.begin(run.limit(first), counts=run.unsure)
    return plan.part(0, first, tensors(q.x)[0].device)


def _first(run: Runner, q: Question, make: Makes) -> tuple[Plan, list[Tensor] | None]:
    """The plan, and the first chunk from the pass that sees the value at the site; None where vmap cannot run the model."""
    plans: list[Plan] = []
    late, made = Late(), Made()
    made.begin(math.inf, counts=False)  # until the site is met

    def put(i: int, value: Tree, shared: bool) -> Tree:
        with without_modes():  # which have nothing to do with this
            plans[:] = [make([value])]
            before_transform()
            step = late.enter(_first_part(run, q, plans[0], made))
            return without(plans[0], step, 0, value)

    def once() -> list[Tensor]:
        late.level = None
        with quiet, Folded(q.create_graph, made):
            return late.run(lambda: _output(q, forward(q, put)))

    try:
        found = with_own_mapped(once, run.places, lambda: late.level is None)
        run.shown_by(made, late.size)
        return plans[0], None if drawn() else found  # the runner looks whether all steps drew the same
    except TooMuch as error:
        run.stopped(error, made)
    except (RuntimeError, ValueError) as error:
        if late.level is None or not refused(error):
            raise
        run.refuse(error)
    return plans[0], None
