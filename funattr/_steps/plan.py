"""What an ablation takes away: groups of features, how many runs of the model there are, and how many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._core.checks import check_dense, closed
from .._core.passes import Question
from .._torch import any_batch, beside_traces, is_plain, tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import Tree, as_it_is, is_number, map_tensors, tensors
from .._words import as_number, complaint, is_int, kind_of, warn
from .chunks import fitting, keeps, widened
from .matching import Ranges, by_site, check_compares, matched, ranges, rows_in

#: Above this many passes, a warning. A table has fewer columns, and the smallest of pictures (3 x 32 x 32) fewer numbers; at a
#: millisecond for each, which few models take less than, it is the point from where the answer does not come at once.
MANY = 10_000


#: Examples that run at once on a CPU in any case, without gradients: half as many take as long for each, or longer.
ROWS = 512


def hollow(value: Tree, what: str = "x") -> Tree:
    """A value without its data: shapes, dtypes and devices."""
    for t in tensors(value):
        check_dense(t, what)
    return map_tensors(lambda t: torch.zeros((), dtype=t.dtype, device=t.device).expand(t.shape), value)


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
    """How many runs there are of a game, and how many at once; and what each step takes away.

    A step runs with each row of a distribution of baselines: runs are steps times rows, those of a step side by side.
    """

    game: Opened  # for values as they were met, which it has without their data
    runs: int
    rows: int | None  # in a distribution of baselines; None: there is none
    at_once: int
    which: Callable[[Tensor], Tensor]  # what tells the steps of these numbers, up front
    gone: Gone

    def part(self, start: int, stop: int, device: torch.device) -> list[Tensor]:
        """What is mapped over for some of the runs: what tells each step, and the number of its baseline."""
        numbers = torch.arange(start, stop, device=device)
        if self.rows is None:
            return [self.which(numbers)]
        return [self.which(torch.div(numbers, self.rows, rounding_mode="floor")), numbers % self.rows]


#: What makes the plan for the values at the sites, once these are met.
Makes: TypeAlias = Callable[[list[Tree]], Plan]


class Opened(NamedTuple):
    """A game that is ready to be played: a question, its features, the player of each, and how many there are. To an ablation,
    each group of features is a player.

    It keeps no value at the sites: each play runs what lies before them, once per chunk.
    """

    q: Question
    features: Features
    values: list[Tree]  # at the sites: their shapes are looked at
    ids: list[list[Tensor | None]]  # the player of each feature, for each leaf of each value
    players: int
    chunk: int | None

    def plan(self, steps: int, which: Callable[[Tensor], Tensor], gone: Gone) -> Plan:
        """The plan for `steps` steps, each with every row of the baselines."""
        q, values = self.q, self.values
        each = [part for i, value in enumerate(values) for part in self.leaves(i, value)]
        rows = rows_in([base for _, _, base in each], [None if ids is None else leaf for leaf, ids, _ in each])
        runs = steps if rows is None else steps * rows
        at_once = self.chunk or _at_once(q, tensors(values), runs)
        shapes = [hollow(value, q.where(i)) for i, value in enumerate(values)]
        return Plan(self._replace(values=shapes), runs, rows, at_once, which, gone)

    def leaves(self, i: int, value: Tree) -> list[tuple[Any, Tensor | None, Any]]:
        """The leaves of the value at the i-th site, each with the player of its features, None where it is held, and with what
        stands in for them."""
        bases = matched(self.features.baselines[i], value, "baselines", self.q.where(i))
        parts = zip(tree_flatten(value)[0], self.ids[i], bases)
        return [(leaf, ids if isinstance(leaf, Tensor) else None, base) for leaf, ids, base in parts]


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
    tell_of_many(features, groups)
    game = Opened(q, features, values, ids, groups, chunk)
    return game.plan(groups + 1 if q.size else 1, as_numbers, _its_group)


def tell_of_many(features: Features, groups: int) -> None:
    """Warn of a call that may take hours, before it does anything for them."""
    if features.masks is None and groups > MANY and not tracing():
        text = f"{groups:,} features are ablated one by one, with a forward pass for each: group them with feature_mask"
        warn(f"{text} (squares of a picture, spans of a text), or take a method that uses gradients.")


def as_numbers(numbers: Tensor) -> Tensor:
    """Steps that are told by their number."""
    return numbers


def _its_group(step: Tensor, ids: Tensor, leaf: Tensor) -> Tensor:
    return ids == step.reshape(step.shape + (1,) * leaf.dim()) - 1


def identified(q: Question, features: Features, values: list[Tree]) -> tuple[list[list[Tensor | None]], int]:
    """The group of each feature of these values, and how many groups there are."""
    for i, value in enumerate(values):
        for t in tensors(value):
            check_dense(t, q.where(i))
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
            raise complaint(TypeError, f"{q.where(i)} {closed(value) or 'holds no tensor to ablate'}.")
    return ids, groups


def _at_once(q: Question, found: list[Tensor], steps: int) -> int:
    """How many steps at once: bounded memory, and on a CPU no more than its caches like.

    Where there is a part of the model to share, each chunk runs it again: larger ones, of small values any number.
    """
    elements = widened(q, found)
    if not q.inner:
        on_cpu = all(t.device.type == "cpu" for t in found)
        most = min(50, keeps(q.bound.root, found))
        if most < 50:  # not so where sizes are symbolic
            most = max(most, min(50, ROWS // max(1, q.size)))
        return fitting(steps, most, elements, 1 << (19 if on_cpu else 21))
    size = fitting(steps, 50, elements, 1 << 23)
    while 50 <= size < steps and 2 * size * elements <= 1 << 20:
        size *= 2
    return size


# Groups: which features go together, and each group's value back in its place.


def one_each(values: Sequence[Tree], size: int) -> tuple[list[list[Tensor | None]], int]:
    """Every scalar feature a group of its own: the ids for each leaf of each value, and the number of groups.

    Integers beside numbers are held. A leaf whose first dimension is not the batch has no examples that could share an id.
    """
    numbers = any(map(is_number, tensors(values)))
    count = 0
    ids: list[list[Tensor | None]] = []
    for value in values:
        ids.append([])
        for leaf in tree_flatten(value)[0]:
            if not isinstance(leaf, Tensor) or (numbers and not is_number(leaf)):
                ids[-1].append(None)
                continue
            shape = (1, *leaf.shape[1:]) if leaf.shape[:1] == (size,) else leaf.shape
            first, count = count, count + math.prod(shape)
            ids[-1].append(torch.arange(first, count, device=leaf.device).reshape(shape))
    return ids, count


def numbered(masks: Sequence[Tree]) -> tuple[list[Tree], int]:
    """The same groups, numbered 0, 1, ... over all masks together, and their number."""
    known = not tracing() and all(map(is_plain, tensors(list(masks))))
    with beside_traces() if known else as_it_is:
        leaves, spec = tree_flatten(list(masks))
        found = [_as_ids(leaf) for leaf in leaves]
        given = [mask for mask in found if mask is not None]
        if not given:
            raise complaint(ValueError, "feature_mask names no group: leave it out to ablate every feature on its own.")
        count, ids = _compact(torch.cat([mask.reshape(-1).to(given[0].device) for mask in given]))
        parts = iter(torch.split(ids, [mask.numel() for mask in given]))
        return tree_unflatten([None if mask is None else next(parts).reshape(mask.shape) for mask in found], spec), count


def _compact(ids: Tensor) -> tuple[int, Tensor]:
    if not (tracing() or ids.is_meta or any_batch()):
        try:
            unique, inverse = torch.unique(ids, return_inverse=True)
            return unique.numel(), inverse
        except RuntimeError:  # vmap over masks
            if not transforms_active():
                raise
    # How many ids differ is in the data, which cannot be seen here: no more than there are, and some groups are empty.
    ordered, order = ids.sort()
    rank = torch.cat([torch.zeros_like(ids[:1]), (ordered[1:] != ordered[:-1]).long().cumsum(0)])
    return ids.numel(), torch.zeros_like(ids).scatter(0, order, rank)


def _as_ids(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    if is_int(mask):
        return torch.tensor(as_number(mask), device="cpu")
    if not isinstance(mask, Tensor):
        cure = ": pass torch.from_numpy(feature_mask)" if isinstance(mask, np.ndarray) else ""
        raise complaint(TypeError, f"feature_mask must hold integer tensors, one id per feature, got {kind_of(mask)}{cure}.")
    if is_number(mask) or mask.dtype == torch.bool:
        text = f"feature_mask is a tensor of {mask.dtype}, expected integers, one id per group: pass feature_mask.long()."
        raise complaint(TypeError, text)
    check_dense(mask, "feature_mask")
    return mask.detach().long()


def spread(differences: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[groups, N]`` to the features: each example's, or where there is no batch up front, that of all examples together."""
    size = differences.shape[1]
    if not size:
        return differences.new_zeros(shape)
    if shape[:1] != (size,):
        return differences.sum(1)[ids].expand(shape).contiguous()
    ids = ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape)
    flat = ids.reshape(ids.shape[0], math.prod(ids.shape[1:]))
    found = differences.t().index_select(1, flat[0]) if flat.shape[0] == 1 else differences.t().gather(1, flat)
    return found.reshape(size, *ids.shape[1:]).expand(shape).contiguous()
