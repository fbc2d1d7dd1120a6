"""What the score loses without the first units, and with them alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._types import ChunkSize, Layer, Model, Target, Tree, floats_for, in_double, in_single
from .._words import check_real, complaint, kind_of
from ._judged import metric
from ._order import Ordered, ordered


@metric
def comprehensiveness(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor:
    """What the score loses without the units of the largest attributions.

    The mean over the fractions q of ``F(x) - F(x without its first n units)``, with ``n = ceil(q M)`` of the M units. Units and
    their order are those of `curve`.

    Args:
        explained: a method, called once, ``explained(model, x, target=target)``, with `layer` where one is named; or what it
            returned. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value. With a dimension in front, ``[B, 1, ...]`` or ``[B, N, ...]``, a tensor is a
            distribution, over which the score is averaged: of references ``[B, ...]``, pass ``references[:, None]``.
        feature_mask: which features go together, as in `feature_ablation`: its groups are the units, in the order of the mean
            of their attributions; a group that an example lacks comes last. None: the entries of the attributions.
        fractions: how many of the units, each above 0 and at most 1.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N]``, in the unit of the score; higher is better.

    Raises:
        ValueError: a fraction is out of range, attributions, mask or baselines do not fit the value, or there are NaN or inf.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 5.0, 2.0]])
        >>> fa.metrics.comprehensiveness(fa.input_x_gradient, lambda x: x.sum(1), x, fractions=(0.3, 0.6))  # 5 and 5 + 2
        tensor([6.])

    References:
        DeYoung et al., ERASER: A Benchmark to Evaluate Rationalized NLP Models, 2020, https://arxiv.org/abs/1911.03429
    """
    _check_fractions(fractions)
    how = ordered(explained, model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
    return _lost(how, "deletion", fractions)


@metric
def sufficiency(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor:
    """What the score loses with the units of the largest attributions alone.

    The mean over the fractions q of ``F(x) - F(only the first n units)``, with ``n = ceil(q M)`` of the M units. Units and
    their order are those of `curve`.

    Args:
        explained: a method, called once, ``explained(model, x, target=target)``, with `layer` where one is named; or what it
            returned. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value. With a dimension in front, ``[B, 1, ...]`` or ``[B, N, ...]``, a tensor is a
            distribution, over which the score is averaged: of references ``[B, ...]``, pass ``references[:, None]``.
        feature_mask: which features go together, as in `feature_ablation`: its groups are the units, in the order of the mean
            of their attributions; a group that an example lacks comes last. None: the entries of the attributions.
        fractions: how many of the units, each above 0 and at most 1.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N]``, in the unit of the score; lower is better.

    Raises:
        ValueError: a fraction is out of range, attributions, mask or baselines do not fit the value, or there are NaN or inf.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 5.0, 2.0]])
        >>> fa.metrics.sufficiency(fa.input_x_gradient, lambda x: x.sum(1), x, fractions=(0.3, 0.6))  # 8 - 5 and 8 - 7
        tensor([2.])

    References:
        DeYoung et al., ERASER: A Benchmark to Evaluate Rationalized NLP Models, 2020, https://arxiv.org/abs/1911.03429
    """
    _check_fractions(fractions)
    how = ordered(explained, model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
    return _lost(how, "insertion", fractions)


def _lost(how: Ordered, kind: str, fractions: Sequence[float]) -> Tensor:
    units = how.game.players
    # Of the exact product: 0.07 of 100 is 7, and 7.000000000000001 to a computer.
    counts = [math.ceil(q * units - 1e-9) for q in fractions]
    with torch.set_grad_enabled(how.game.q.create_graph):
        found = how.scores([0 if kind == "deletion" else units, *counts], kind)
        wide = in_single(found) if found.is_floating_point() else in_double(found)
        return (wide[0] - wide[1:]).mean(0).to(floats_for(found))


def _check_fractions(fractions: Any) -> None:
    if isinstance(fractions, str) or not isinstance(fractions, Sequence):
        cure = ": pass fractions.tolist()" if hasattr(fractions, "tolist") else ""
        raise complaint(TypeError, f"fractions must be a list of numbers, such as (0.1, 0.5), got {kind_of(fractions)}{cure}.")
    if not fractions:
        raise complaint(ValueError, "fractions is empty: name at least one, above 0 and at most 1.")
    for q in fractions:
        check_real(q, "fractions", "numbers")
        if not 0 < q <= 1:
            raise complaint(ValueError, f"fractions must be above 0 and at most 1, got {q}.")
