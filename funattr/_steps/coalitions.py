"""Coalitions: the score with only some of the features there, and the others at a baseline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.plain import in_plain_forms
from .._torch import tracing
from .._types import ChunkSize, Layer, Model, Target, Tree, floats_of, tensors
from .._words import complaint, kind_of
from .chunks import given_chunk
from .path import ready
from .plan import Opened, as_numbers, features_of, hollow, identified
from .without import check_features, look, restored, scored


def opened(
    model: Model,
    x: Tree,
    layer: Layer,
    target: Target,
    baselines: Any,
    feature_mask: Any,
    chunk_size: ChunkSize,
    create_graph: bool,
) -> Opened:
    """Open a game: at most one look at the value at the site, and a pass for "argmax"."""
    chunk = given_chunk(chunk_size)
    with torch.set_grad_enabled(create_graph):
        q = ready(model, x, layer, target, create_graph)
        features = features_of(q, baselines, feature_mask)
        values = look(q) if q.inner else [hollow(q.x) for _ in q.sites.sites]
        ids, players = identified(q, features, values)
        game = Opened(q, features, values, ids, players, chunk)
        check_features(game.plan(1, as_numbers, _absent))
        return game


def coalition_scores(game: Opened, coalitions: Tensor) -> Tensor:
    """The score of each example in each of S coalitions, ``[S, N]``: not shifted, the mean over a distribution of baselines.

    `coalitions` is bool: ``[S, M]``, the same for all examples, or ``[S, N, M]``, each example's own (an order of features
    that differs from example to example). Features of the players in it are at x, the others at the baseline. It costs
    ``S B N`` examples through what lies after the site, and N per chunk before it; nothing is kept between calls.
    """
    each = coalitions.dim() == 3
    kept = coalitions.to(tensors(game.q.x)[0].device)
    return scores_of(game, coalitions.shape[0], lambda numbers: kept.index_select(0, numbers), each=each)


def scores_of(game: Opened, steps: int, which: Callable[[Tensor], Tensor], *, each: bool = False) -> Tensor:
    """`coalition_scores` of coalitions that are made as they are needed: ``which(numbers)`` gives those of these numbers.

    Of hundreds of thousands, each of thousands of players, there need never be more than a chunk.
    """
    if not steps:
        found = floats_of(game.q.x) or [torch.zeros(0, device=tensors(game.q.x)[0].device)]
        return found[0].new_zeros(0, game.q.size)
    q = game.q._replace(bound=in_plain_forms(game.q.bound))
    gone = partial(_absent_each, q.size) if each else _absent
    with torch.set_grad_enabled(q.create_graph):
        return scored(q, game.plan(steps, which, gone))[1]


def spread_over(game: Opened, per_player: Tensor) -> Tree:
    """``[M, N]`` to the structure of the value: each feature its player's number."""
    return restored(game, per_player)


def _absent(kept: Tensor, ids: Tensor, leaf: Tensor) -> Tensor:
    """The features whose player is not in a coalition ``[M]``, or in several, up front."""
    found = kept.index_select(-1, ids.reshape(-1))
    return ~found.reshape(*kept.shape[:-1], *(1,) * (leaf.dim() - ids.dim()), *ids.shape)


def _absent_each(size: int, kept: Tensor, ids: Tensor, leaf: Tensor) -> Tensor:
    """The same where each example has a coalition of its own, ``[N, M]``."""
    if leaf.shape[:1] != (size,):
        text = f"a tensor {list(leaf.shape)} at the site has no row for each of the {size} examples, and each has an order of"
        raise complaint(ValueError, f"{text} its own: choose a layer with the batch first.")
    ids = ids.reshape((1,) * (leaf.dim() - ids.dim()) + ids.shape)
    flat = ids.reshape(ids.shape[0], -1)
    if len(flat) == 1:
        found = kept.index_select(-1, flat[0])
    else:
        found = kept.gather(-1, flat.expand(*kept.shape[:-1], -1))
    return ~found.reshape(*kept.shape[:-1], *ids.shape[1:])


def check_coalitions(coalitions: Any, players: int) -> None:
    """Refuse what is no coalition of these players."""
    if not isinstance(coalitions, Tensor) or coalitions.dtype != torch.bool:
        got = f"a tensor of {coalitions.dtype}" if isinstance(coalitions, Tensor) else kind_of(coalitions)
        text = f"coalitions must be a bool tensor [..., {players}], got {got}"
        raise complaint(TypeError, f"{text}: pass torch.as_tensor(coalitions).bool().")
    if not coalitions.dim() or (coalitions.shape[-1] != players and not tracing()):
        text = f"coalitions have the shape {list(coalitions.shape)}, expected [..., {players}]: True for each of the {players}"
        raise complaint(ValueError, f"{text} players that is in, in the order of their ids.")


def check_per_player(per_player: Any, game: Opened) -> None:
    """Refuse what has not a number for each player and example."""
    shape = [game.players, game.q.size]
    if not isinstance(per_player, Tensor):
        raise complaint(TypeError, f"per_player must be a tensor {shape}, got {kind_of(per_player)}.")
    if per_player.dim() != 2 or per_player.shape[1] != game.q.size or (per_player.shape[0] != game.players and not tracing()):
        text = f"per_player has the shape {list(per_player.shape)}, expected {shape}: one number for each player and example"
        raise complaint(ValueError, f"{text}.")
