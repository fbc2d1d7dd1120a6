"""What an ablation takes away: groups of features, how many runs of the model there are, and how many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .._core.passes import Question
from .._torch import tracing, tree_flatten
from .._types import Tree, tensors
from .._words import complaint, warn
from .chunks import cached, fitting
from .groups import numbered, one_each
from .matching import Ranges, by_site, check_compares, matched, ranges, rows_in
from .room import widened

#: Above this many passes, a warning. A table has fewer columns, and the smallest of pictures (3 x 32 x 32) fewer numbers; at a
#: millisecond for each, which few models take less than, it is the point from where the answer does not come at once.
MANY = 10_000


#: Examples that run at once on a CPU in any case, without gradients: half as many take as long for each, or longer.
ROWS = 512


class Features(NamedTuple):
    """Which features go together, and what stands in for them, at each site."""

    masks: list[Tree] | None  # the group of each feature, numbered from 0 over all sites; None: each on its own
    groups: int  # how many, where masks say so
    baselines: list[Any]
    known: Ranges


#: ``gone(which, ids, leaf)``: the features, of a leaf with these ids, that are at the baseline at a step, or at several, up
#: front. `which` tells the step: its number, or what it keeps.
Gone: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class Plan(NamedTuple):
    """How many runs there are, and how many at once; the groups, for values as they were met; and what each step takes away.

    A step runs with each row of a distribution of baselines: runs are steps times rows, those of a step side by side.
    """

    runs: int
    rows: int | None  # in a distribution of baselines; None: there is none
    at_once: int
    told: bool  # by the caller, how many at once
    ids: list[list[Tensor | None]]  # for each leaf of the value at each site
    values: list[Tree]  # without their data
    which: Callable[[Tensor], Tensor]  # what tells the steps of these numbers, up front
    gone: Gone

    def part(self, start: int, stop: int, device: torch.device) -> list[Tensor]:
        """What is mapped over for some of the runs: what tells each step, and the number of its baseline."""
        numbers = torch.arange(start, stop, device=device)
        if self.rows is None:
            return [self.which(numbers)]
        return [self.which(torch.div(numbers, self.rows, rounding_mode="floor")), numbers % self.rows]


def features_of(q: Question, baselines: Any, feature_mask: Any) -> Features:
    """What the caller says of the features, matched to the sites."""
    masks, groups = None, 0
    if feature_mask is not None:
        masks, groups = numbered(by_site(feature_mask, q.sites, "feature_mask"))
    check_compares(tree_flatten(baselines)[0], "everything at its")
    return Features(masks, groups, by_site(baselines, q.sites, "baselines"), ranges(baselines))


def planned(q: Question, features: Features, chunk: int | None, values: list[Tree]) -> Plan:
    """The plan for values of these shapes: nothing replaced, then each group on its own."""
    ids, groups = identified(q, features, values)
    if features.masks is None and groups > MANY and not tracing():
        text = f"{groups:,} features are ablated one by one, with a forward pass for each: group them with feature_mask"
        warn(f"{text} (squares of a picture, spans of a text), or take a method that uses gradients.")
    return plan_for(q, features, values, ids, groups + 1 if q.size else 1, chunk, as_numbers, _its_group)


def as_numbers(numbers: Tensor) -> Tensor:
    """Steps that are told by their number."""
    return numbers


def _its_group(step: Tensor, ids: Tensor, leaf: Tensor) -> Tensor:
    return ids == step.reshape(step.shape + (1,) * leaf.dim()) - 1


def identified(q: Question, features: Features, values: list[Tree]) -> tuple[list[list[Tensor | None]], int]:
    """The group of each feature of these values, and how many groups there are."""
    if features.masks is None:
        ids, groups = one_each(values, q.size)
    else:
        groups, masks = features.groups, enumerate(features.masks)
        ids = [matched(mask, values[i], "feature_mask", q.where(i)) for i, mask in masks]
    for i, (each, value) in enumerate(zip(ids, values)):
        held = features.masks is not None and features.masks[i] is None and bool(tensors(value))
        if not held and not any(
            one is not None and isinstance(leaf, Tensor) for one, leaf in zip(each, tree_flatten(value)[0])
        ):
            raise complaint(TypeError, f"{q.where(i)} holds no tensor to ablate.")
    return ids, groups


def plan_for(
    q: Question,
    features: Features,
    values: list[Tree],
    ids: list[list[Tensor | None]],
    steps: int,
    chunk: int | None,
    which: Callable[[Tensor], Tensor],
    gone: Gone,
) -> Plan:
    """The plan for `steps` steps, each with every row of the baselines."""
    given = [matched(base, value, "baselines", q.where(i)) for i, (base, value) in enumerate(zip(features.baselines, values))]
    leaves = [leaf if one is not None else None for one, leaf in _flat(ids, values)]
    rows = rows_in([base for each in given for base in each], leaves)
    runs = steps if rows is None else steps * rows
    return Plan(runs, rows, chunk or _at_once(q, tensors(values), runs), chunk is not None, ids, values, which, gone)


def _flat(ids: list[list[Tensor | None]], values: list[Tree]) -> list[tuple[Tensor | None, Any]]:
    return [pair for each, value in zip(ids, values) for pair in zip(each, tree_flatten(value)[0])]


def _at_once(q: Question, found: list[Tensor], steps: int) -> int:
    """How many steps at once: bounded memory, and on a CPU no more than its caches like.

    Where there is a part of the model to share, each chunk runs it again: larger ones, of small values any number.
    """
    elements = widened(q, found)
    if not q.inner:
        on_cpu = all(t.device.type == "cpu" for t in found)
        most = min(50, cached(q.bound.root, found))
        if most < 50:  # not so where sizes are symbolic
            most = max(most, min(50, ROWS // max(1, q.size)))
        return fitting(steps, most, elements, 1 << (19 if on_cpu else 21))
    size = fitting(steps, 50, elements, 1 << 23)
    while 50 <= size < steps and 2 * size * elements <= 1 << 20:
        size *= 2
    return size
