"""What the score is when only some of the features are there: the game that Shapley values, occlusion and LIME play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from .._core.checks import each_alone
from .._core.door import method, opening
from .._steps.coalitions import check_coalitions, check_per_player, coalition_scores, opened, spread_over
from .._steps.plan import Opened
from .._torch import tracing
from .._types import ChunkSize, Layer, Model, Target, Tree, as_it_is, in_floats
from .._words import door


class Game(NamedTuple):
    """What `game` gives.

    ``players``: how many there are, M. ``value(coalitions)``: bool ``[..., M]``, on any device, to each example's score
    ``[..., N]`` with the coalition's players at x and the others at the baseline, in the score's dtype; the empty coalition
    gives F(baselines), the full one F(x). ``spread(per_player)``: ``[M, N]`` to the structure of the value at the site, each
    feature its player's number.
    """

    players: int
    value: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tree]


@opening
def game(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Game:
    """What the score is when only some of the features are there: features are players, and any coalition can be asked for.

    ``value(S) = F(x with the players of S, and the others at the baseline)``; over a distribution of baselines, the mean.
    Each group of features is a player. A game is made once, and asked as often as wanted, also by the approximators of
    another library. Integers are features too, unless there are floating-point tensors beside them, and no mask for them.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value. With a dimension in front, ``[B, 1, ...]`` or ``[B, N, ...]``, a tensor is a
            distribution, over which the score is averaged: of references ``[B, ...]``, pass ``references[:, None]``.
        feature_mask: which features go together: an integer tensor of group ids that broadcasts to the value (batch 1, or
            one mask per example), or the structure of the value; an id means the same group in all of its tensors, and None
            in place of a tensor leaves that tensor out. None: every scalar feature on its own. Groups are in the order of
            their ids.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        A `Game`: `players`, `value` and `spread`. Each call of `value` runs what lies before the layer once per chunk, and what
        lies after it for each coalition, each baseline and each example; making a game with a layer takes one look at the
        value there.

    Raises:
        ValueError: there is no such layer, it does not run, the target, the mask or the baselines do not fit, a baseline
            cannot be held by the value's dtype, or layers of a joint site depend on each other; from `value`, coalitions that
            are not of these players.
        TypeError: an argument is of the wrong type, the mask does not hold integers, or coalitions are not bool.

    Example:
        >>> import torch, funattr as fa
        >>> play = fa.game(lambda x: x[:, 0] * x[:, 1] + x[:, 2], torch.tensor([[2.0, 3.0, 5.0]]))
        >>> play.value(torch.tensor([[False, False, True], [True, True, False]]))
        tensor([[5.],
                [6.]])
        >>> play.spread(torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[1., 2., 3.]])

    References:
        Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, 2017, https://arxiv.org/abs/1705.07874
    """
    play = opened(model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)

    @door
    def value(coalitions: Tensor) -> Tensor:
        check_coalitions(coalitions, play.players)
        found: Tensor = _played(model, play.q.x, play=play, coalitions=coalitions.reshape(-1, coalitions.shape[-1]))
        return found.reshape(*coalitions.shape[:-1], play.q.size)

    @door
    def spread(per_player: Tensor) -> Tree:
        check_per_player(per_player, play)
        return spread_over(play, per_player)

    return Game(play.players, value, spread)


@method
def _played(model: Model, x: Tree, *, play: Opened, coalitions: Tensor) -> Tensor:
    with as_it_is if tracing() else each_alone():
        return in_floats(coalition_scores(play._replace(q=play.q._replace(x=x)), coalitions))
