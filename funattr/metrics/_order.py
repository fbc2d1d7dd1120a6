"""The order in which attributions say that units count, and the score with some of the first replaced, or kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._steps.coalitions import opened, scores_of
from .._steps.plan import Opened, one_each
from .._torch import tree_flatten
from .._types import Layer, Model, Target, Tree, tensors
from .._words import complaint
from ._agreement import largest_first
from ._judged import attributions, check_place, check_shape, fitted, flat_rows, resolved

#: What is done with the first units of the order: they are replaced, or they alone are kept.
KINDS = ("deletion", "insertion")


class Ordered(NamedTuple):
    """A game whose players are the units, and the place of each in each example's order, ``[N, M]``."""

    game: Opened
    places: Tensor

    def scores(self, counts: list[int], kind: str) -> Tensor:
        """The score of each example with its first units replaced, or they alone kept: ``[len(counts), N]``."""
        first = torch.tensor(counts, device=self.places.device)

        def kept(numbers: Tensor) -> Tensor:
            n = first[numbers.to(first.device)][:, None, None]
            return self.places >= n if kind == "deletion" else self.places < n

        return scores_of(self.game, len(counts), kept, each=True)


def ordered(
    explained: Any, model: Model, x: Tree, layer: Layer, target: Target, baselines: Any, feature_mask: Any, *how: Any
) -> Ordered:
    """The units, which are the entries of the attributions or the groups of a mask, in their order: largest first. The game of
    theirs is `opened` with the rest of its arguments."""
    target = resolved(model, x, target)
    found = attributions(explained, model, x, layer, target)
    game = opened(model, x, layer, target, baselines, feature_mask, *how)
    each = fitted(game.q, found, game.values)
    for i, (entries, value) in enumerate(zip(each, game.values)):
        for t, leaf in zip(entries, tree_flatten(value)[0]):
            if t is not None:
                check_shape(t, leaf, game.q.where(i), shared=True)
    check_place(explained, layer)
    if feature_mask is None:
        game, sizes = _entries(game, each)
    else:
        sizes = _means(game, each)
    if not game.players:
        raise complaint(ValueError, "the attributions hold no number, so there is nothing to replace.")
    order = largest_first(sizes.detach())
    return Ordered(
        game, torch.empty_like(order).scatter_(1, order, torch.arange(game.players, device=order.device).expand_as(order))
    )


def _entries(game: Opened, each: list[list[Tensor | None]]) -> tuple[Opened, Tensor]:
    """Every entry of the attributions a player, and their sizes ``[N, M]``."""
    ids, players = one_each(each, game.q.size)
    flat = [flat_rows(t) for t in tensors(each)]
    return game._replace(ids=ids, players=players), torch.cat([t.to(flat[0].device) for t in flat], 1)


def _means(game: Opened, each: list[list[Tensor | None]]) -> Tensor:
    """The mean of each group's entries, ``[N, M]``; of a group that an example lacks, less than any."""
    parts = []
    for entries, ids, value in zip(each, game.ids, game.values):
        for t, one, leaf in zip(entries, ids, tree_flatten(value)[0]):
            if t is not None and one is not None:
                one = one.reshape((1,) * (leaf.dim() - one.dim()) + one.shape).to(t.device)
                parts.append((t.expand(leaf.shape).flatten(1).double(), one.expand(leaf.shape).flatten(1)))
    if not parts:
        raise complaint(ValueError, "feature_mask and the attributions have no tensor in common: give groups to what has some.")
    sizes, players = (torch.cat([part[i].to(parts[0][0].device) for part in parts], 1) for i in range(2))
    none = sizes.new_zeros(game.q.size, game.players)
    least = torch.full_like(none, torch.inf).scatter_reduce(1, players, sizes, "amin")
    most = torch.full_like(none, -torch.inf).scatter_reduce(1, players, sizes, "amax")
    total, count = none.scatter_add(1, players, sizes), none.scatter_add(1, players, torch.ones_like(sizes))
    # The mean of equal entries is what they are, which their sum need not give: what ties in exact numbers ties here.
    means = torch.where(least == most, least, total / count.clamp(min=1))
    return torch.where(count > 0, means, -torch.inf)
