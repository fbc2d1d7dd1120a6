"""What becomes of the score while units are replaced in the order of their attributions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import ChunkSize, Layer, Model, Target, Tree, in_floats, in_single
from .._words import check_choice, check_count
from ._judged import metric
from ._order import KINDS, Ordered, ordered


class Curve(NamedTuple):
    """What `curve` gives.

    ``fractions`` ``[K + 1]``: how many of the units are replaced (deletion), or at x (insertion), from 0 to 1. ``scores``
    ``[K + 1, N]``: the score of each example there, in its unit.
    """

    fractions: Tensor
    scores: Tensor


@metric
def curve(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    steps: int = 32,
    kind: str = "deletion",
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Curve:
    """The score of each example while its units are replaced, in the order of their attributions.

    Point j has ``n_j = floor(j M / K + 1/2)`` of the M units replaced, ``K = min(steps, M)``: those of the largest
    attributions. Units are the entries of the attributions, which broadcast to the value: sizes of 1 go together. So
    ``[N, 1, H, W]`` replaces whole pixels (`sum_channels`), and ``[N, C, H, W]`` single numbers. The order is signed, and of
    equal entries the first comes first; for sizes pass `absolute` of the method.

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
        steps: how many steps, at most one for each unit.
        kind: ``"deletion"``: the first units are replaced; ``"insertion"``: the first units are at x, and the others replaced.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``Curve(fractions, scores)``: ``fractions`` ``[K + 1]`` from 0 to 1, and ``scores`` ``[K + 1, N]``, in the unit of the
        score. Deletion goes from F(x) to F(baselines), insertion the other way. The law: insertion is deletion by ``-a``
        backwards, where K divides M and nothing ties.

    Raises:
        ValueError: attributions, mask or baselines do not fit the value, there are NaN or inf, there is no such `kind`, or
            `steps` is below 1.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> fractions, scores = fa.metrics.curve(fa.input_x_gradient, lambda x: x.sum(1), torch.tensor([[1.0, 5.0, 2.0]]))
        >>> scores.T
        tensor([[8., 3., 1., 0.]])

    References:
        Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned, 2017,
        https://arxiv.org/abs/1509.06321
    """
    check_count(steps, "steps")
    check_choice(kind, "kind", KINDS)
    how = ordered(explained, model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
    return _curve(how, steps, kind)


def _curve(how: Ordered, steps: int, kind: str) -> Curve:
    units = how.game.players
    count = min(steps, units)
    counts = [(2 * j * units + count) // (2 * count) for j in range(count + 1)]
    scores = in_floats(how.scores(counts, kind))
    return Curve(torch.tensor(counts, dtype=torch.float64, device="cpu").div(units).to(scores), scores)


def _area(found: Curve) -> Tensor:
    """Under the curve, by trapezoids."""
    return torch.trapezoid(in_single(found.scores), in_single(found.fractions), dim=0).to(found.scores.dtype)


@metric
def deletion(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    steps: int = 32,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor:
    """The area under the curve of the score while units are replaced, those of the largest attributions first.

    Trapezoids over the fractions of `curve` with ``kind="deletion"``. Lower is better: where what is taken first counts most,
    the score falls at once.

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
        steps: how many steps, at most one for each unit.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N]``, in the unit of the score. The law: for a linear score no order has less than the score's own terms have.

    Raises:
        ValueError: attributions, mask or baselines do not fit the value, there are NaN or inf, or `steps` is below 1.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 5.0, 2.0]])
        >>> fa.metrics.deletion(fa.input_x_gradient, lambda x: x.sum(1), x)  # falls from 8 over 3 and 1 to 0
        tensor([2.6667])

    References:
        Petsiuk, Das & Saenko, RISE, 2018, https://arxiv.org/abs/1806.07421
    """
    check_count(steps, "steps")
    how = ordered(explained, model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
    return _area(_curve(how, steps, "deletion"))


@metric
def insertion(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    steps: int = 32,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor:
    """The area under the curve of the score while units are put in, those of the largest attributions first.

    Trapezoids over the fractions of `curve` with ``kind="insertion"``. Higher is better: where what is put in first counts
    most, the score rises at once. A blurred image is a baseline: ``baselines=blurred``.

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
        steps: how many steps, at most one for each unit.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N]``, in the unit of the score. The law: for a linear score no order has more than the score's own terms have.

    Raises:
        ValueError: attributions, mask or baselines do not fit the value, there are NaN or inf, or `steps` is below 1.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 5.0, 2.0]])
        >>> fa.metrics.insertion(fa.input_x_gradient, lambda x: x.sum(1), x)  # rises from 0 over 5 and 7 to 8
        tensor([5.3333])

    References:
        Petsiuk, Das & Saenko, RISE, 2018, https://arxiv.org/abs/1806.07421
    """
    check_count(steps, "steps")
    how = ordered(explained, model, x, layer, target, baselines, feature_mask, chunk_size, create_graph)
    return _area(_curve(how, steps, "insertion"))
