"""What features are worth to the score, from coalitions of them: Shapley values, and the weights of a linear model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.door import method
from .._steps.coalitions import opened, scores_of, spread_over
from .._steps.draws import check_generator, uniform_from
from .._steps.plan import Opened, tell_of_many
from .._steps.shares import Found, draw_pairs, lasso, of_all, of_nobody, of_orders, of_pairs
from .._torch import tracing, transforms_active
from .._types import ChunkSize, Layer, Model, Target, Tree, floats_for, in_double, in_floats, says, tensors
from .._words import check_choice, check_count, check_size, complaint

_SAMPLINGS = ("leverage", "kernel", "permutation", "exact")
#: The most players of whom all coalitions are asked, a million.
_FEW = 20
#: The most players of a fit: its matrix has 3 GB.
_MANY = 20_000


@method
def shapley(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    sampling: str = "leverage",
    standard_errors: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """Shapley values: what each player adds to the score, on average over all orders in which they could come in.

    ``phi_i = sum over S without i of |S|! (M - |S| - 1)! / M! * (v(S + i) - v(S))`` for the M groups of features, the players,
    where ``v(S)`` is the score with the players of S at x and the others at the baseline: see `game`. All coalitions are asked
    where `n_samples` allows it, else some, the same for all examples.

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
        n_samples: how many coalitions are evaluated in all, the empty and the full one among them; at most so many are. None:
            ``20 M + 2``. Where there are no more than that, all are, and the values are exact.
        sampling: which: ``"leverage"`` (default) and ``"kernel"`` fit a linear score to pairs of a coalition and its
            complement, with as many pairs of each size, or mostly small and large ones; ``"permutation"`` follows orders and
            their reverses; ``"exact"`` takes all ``2**M``.
        standard_errors: True for ``(values, errors)``: beside each value its standard error, 0 where it is exact.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shapes of the value at the site, in the unit and dtype of the score; each feature has its player's
        number, and a tensor that is left out None. The law, at every budget: the sum over *players* is F(x) - F(baselines).
        With `standard_errors`, a pair of these.

    Raises:
        ValueError: there is no such layer, it does not run, the target, the mask or the baselines do not fit, `sampling` is not
            known, or `n_samples` is too small for it.
        TypeError: an argument is of the wrong type, or the mask does not hold integers.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[2.0, 3.0, 5.0]])
        >>> fa.shapley(lambda x: x[:, 0] * x[:, 1] + x[:, 2], x)
        tensor([[3., 3., 5.]])

    References:
        Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, 2017, https://arxiv.org/abs/1705.07874
        Musco & Witter, Provably Accurate Shapley Value Estimation via Leverage Score Sampling, 2025,
        https://arxiv.org/abs/2410.01917
        Mitchell et al., Sampling Permutations for Shapley Value Estimation, 2022, https://arxiv.org/abs/2104.12199
    """
    check_generator(generator)
    check_choice(sampling, "sampling", _SAMPLINGS)
    if n_samples is not None:
        check_count(n_samples, "n_samples")
    with torch.set_grad_enabled(create_graph):
        game = opened(model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
        budget = _budget(game, n_samples, sampling, standard_errors)
        tell_of_many(game.features, game.players)
        found = _found(game, budget, sampling, generator)
        values = spread_over(game, found.values)
        return (values, spread_over(game, found.errors)) if standard_errors else values


says(shapley, baselines="site")


def _found(game: Opened, budget: int | None, sampling: str, generator: torch.Generator | None) -> Found:
    if not game.q.size:
        return of_nobody(game)
    if budget is None:
        return of_all(game)
    m, uniform = game.players, uniform_from(generator, tensors(game.q.x)[0].device, "take sampling='exact', or ")
    if sampling == "permutation":
        return of_orders(game, uniform((budget - 2) // (2 * (m - 1)), m).argsort(1))
    return of_pairs(game, draw_pairs(m, (budget - 2) // 2, sampling, uniform))


def _budget(game: Opened, n_samples: int | None, sampling: str, errors: bool) -> int | None:
    """How many coalitions to ask at most; None: all."""
    m = game.players
    if sampling == "exact":
        if n_samples is not None:
            raise complaint(
                ValueError, "sampling='exact' asks all coalitions: leave n_samples out, or choose another sampling."
            )
        if m > _FEW:
            text = f"sampling='exact' asks all 2**{m} coalitions of the {m} players, and is for {_FEW} or fewer"
            if game.features.masks is not None and (tracing() or transforms_active()):
                text = f"{text} (where the call is compiled, or maps over masks, each number of a mask counts as a player)"
                raise complaint(ValueError, f"{text}: call it uncompiled, of a compiled model, or map over x alone.")
            raise complaint(ValueError, f"{text}: put features together with feature_mask, or choose another sampling.")
        return None
    budget = 20 * m + 2 if n_samples is None else n_samples
    if m <= _FEW and budget >= 2**m:
        return None
    least = {"permutation": 4 * (m - 1) + 2 if errors else 2 * m}.get(sampling, 4 * m + 2 if errors else 4)
    if budget < least:
        why = "standard errors from " if errors else ""
        text = f"n_samples={budget} coalitions are too few for {why}sampling={sampling!r} of {m} players"
        raise complaint(ValueError, f"{text}: n_samples must be at least {min(least, 2**m)}.")
    if sampling != "permutation" and m > _MANY:
        text = f"sampling={sampling!r} solves for {m:,} players at once, in a matrix of {m:,} x {m:,} numbers"
        raise complaint(ValueError, f"{text}: put features together with feature_mask, or take sampling='permutation'.")
    return budget


@method
def lime(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    alpha: float = 0.0,
    kernel_width: float = 0.25,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
) -> Tree:
    """LIME: the slopes of a linear score of which features are there, fitted to random coalitions of them.

    ``b`` of ``min over c, b of sum_s w_s (v(z_s) - c - z_s b)^2 / (2 sum_s w_s) + alpha |b|_1``, where ``v(z)`` is the score
    with the groups in z at x and the others at the baseline (see `game`), and
    ``w_s = exp(-(1 - sqrt(|z_s| / M))^2 / kernel_width^2)``. The first coalition is the full one; in the others each of the M
    groups is in with probability 1/2, the same for all examples.

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
        n_samples: how many coalitions are drawn, the full one among them. None: ``20 M + 2``.
        alpha: the weight of ``|b|_1``, which makes small slopes 0; in units of the score. 0: least squares, of least norm where
            several are.
        kernel_width: how fast coalitions count less the more of the groups they lack. Below some 0.04 too few count at all, and
            slopes are of least norm; where none does, it is refused.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.

    Returns:
        The structure and shapes of the value at the site, in the unit and dtype of the score; each feature has its group's
        number, and a tensor that is left out None. The law, with ``alpha=0``: a linear score ``w x`` gives
        ``w * (x - baseline)``. It obeys no sum rule.

    Raises:
        ValueError: there is no such layer, it does not run, the target, the mask or the baselines do not fit, or `n_samples`,
            `alpha` or `kernel_width` is too small.
        TypeError: an argument is of the wrong type, or the mask does not hold integers.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> fa.lime(lambda x: 2 * x.sum(1), x, n_samples=50).round(decimals=3)
        tensor([[2., 4., 6.]])

    References:
        Ribeiro et al., "Why Should I Trust You?": Explaining the Predictions of Any Classifier, 2016,
        https://arxiv.org/abs/1602.04938
    """
    check_generator(generator)
    check_size(alpha, "alpha")
    check_size(kernel_width, "kernel_width", zero=False)
    if n_samples is not None:
        check_count(n_samples, "n_samples")
        if n_samples < 2:
            raise complaint(ValueError, "n_samples=1 is the full coalition alone: n_samples must be at least 2.")
    with torch.no_grad():
        game = opened(model, x, layer, target, baselines, feature_mask, chunk_size, False)
        tell_of_many(game.features, game.players)
        count = 20 * game.players + 2 if n_samples is None else n_samples
        return spread_over(game, _slopes(game, count, float(alpha), float(kernel_width), generator))


says(lime, baselines="site", spare="no mask")


def _slopes(game: Opened, count: int, alpha: float, width: float, generator: torch.Generator | None) -> Tensor:
    uniform = uniform_from(generator, tensors(game.q.x)[0].device)
    kept = torch.cat([torch.ones(1, game.players, dtype=torch.bool, device="cpu"), uniform(count - 1, game.players) < 0.5])
    there = kept.double().mean(1).sqrt() if game.players else kept.new_ones(count, dtype=torch.float64)
    weights = torch.exp(-(((1 - there) / width) ** 2))
    if game.players and not bool(weights[there < 1].any()):
        text = f"of the {count} coalitions none but the full one has any weight at kernel_width={width}, and all slopes are 0"
        raise complaint(ValueError, f"{text}: pass a larger kernel_width, or more n_samples.")
    scores = scores_of(game, count if game.q.size else 1, lambda numbers: kept.to(numbers.device).index_select(0, numbers))
    if not game.q.size:
        return in_floats(scores).new_zeros(game.players, 0)
    return lasso(kept, in_double(scores), weights, alpha).to(floats_for(scores))
