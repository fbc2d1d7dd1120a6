"""Ablation: what the score loses without some features, in groups or in windows that slide."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import channel_of, check_attributable
from .._core.door import method
from .._core.passes import Question, question
from .._core.plain import in_plain_forms
from .._core.score import once
from .._steps.chunks import given_chunk
from .._steps.plan import Features, Opened, Plan, features_of, planned
from .._steps.windows import Slides, inside, mean_over, slides_of, table_of
from .._steps.without import lost, restored, scored
from .._types import ChunkSize, Layer, Model, Target, Tree, attributable, copied, in_floats, map_leaves, says
from .._words import complaint


@method
def feature_ablation(
    model: Model,
    x: Tree,
    *,
    baselines: Any = 0.0,
    layer: Layer = None,
    target: Target = None,
    feature_mask: Any = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """What the score loses when a group of features is replaced by its baseline.

    ``F(x) - F(x with group k at the baseline)``, for every feature of group k. What lies before the layer runs once per chunk.
    Several layers are one joint site, and must not depend on each other. Integers are features too, unless there are
    floating-point tensors beside them, and no mask for them. Under torch.compile, which cannot see how many ids there are, a
    mask costs as many passes as it has entries.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value. With a dimension in front, ``[B, 1, ...]`` or ``[B, N, ...]``, a tensor is a
            distribution, over which the score is averaged: of references ``[B, ...]``, pass ``references[:, None]``.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        feature_mask: which features go together: an integer tensor of group ids that broadcasts to the value (batch 1, or
            one mask per example), or the structure of the value; an id means the same group in all of its tensors, and None
            in place of a tensor leaves that tensor out. None: every scalar feature on its own. Groups are in the order of
            their ids.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shapes of the value at the site, in the dtype of the score; the unit is that of the score. A tensor
        that is left out has None. The law: a feature that the score ignores gets 0, and a linear score ``w x`` gives
        ``w * (x - baseline)``. Where a tensor's first dimension is not the batch, a group's value is the sum over all
        examples.

    Raises:
        ValueError: there is no such layer, it does not run, the target, the mask or the baselines do not fit, a baseline
            cannot be held by the value's dtype, or layers of a joint site depend on each other.
        TypeError: an argument is of the wrong type, or the mask does not hold integers.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> fa.feature_ablation(lambda x: x[:, 0] * x[:, 1], x)
        tensor([[2., 2., 0.]])
        >>> fa.feature_ablation(lambda x: x.sum(1), x, feature_mask=torch.tensor([7, 7, -1]))
        tensor([[3., 3., 3.]])

    References:
        Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014, https://arxiv.org/abs/1311.2901
    """
    chunk = given_chunk(chunk_size)
    with torch.set_grad_enabled(create_graph):
        q = question(model, x, layer, target, create_graph)
        q = q._replace(bound=in_plain_forms(q.bound))
        features = features_of(q, baselines, feature_mask)
        return restored(*lost(q, partial(planned, q, features, chunk)))


says(feature_ablation, baselines="site")


@method
def occlusion(
    model: Model,
    x: Tree,
    *,
    window: Any,
    strides: Any = None,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """What the score loses under a window that slides over x: the mean over the windows that cover a feature.

    ``mean over windows w that cover i of F(x) - F(x with w at the baseline)``. What lies before the layer runs once per chunk.
    Of several tensors, one window at a time, in one tensor. Integers are features too, unless there are floating-point tensors
    beside them, and no window of their own for them.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        window: its size in each dimension after the batch, channels too: ``(3, 4, 4)`` for images ``[N, 3, H, W]``, an int
            where there is one dimension; of several tensors, the structure of the value with these, and None for one to hold.
        strides: how far it moves in each dimension, at most its size: like `window`, an int for all dimensions, or None: 1. The
            last window is cut at the edge.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value. With a dimension in front, ``[B, 1, ...]`` or ``[B, N, ...]``, a tensor is a
            distribution, over which the score is averaged: of references ``[B, ...]``, pass ``references[:, None]``.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shapes of the value at the site, in the unit and dtype of the score; a tensor that is held has None.
        The law: windows that tile are `feature_ablation` of these groups, and windows of ones that of every feature.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, a window is larger than the
            value, a stride than its window, or layers of a joint site depend on each other.
        TypeError: an argument is of the wrong type, or `window` is missing.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> fa.occlusion(lambda x: x.sum(1), x, window=2)
        tensor([[3., 4., 5.]])

    References:
        Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014, https://arxiv.org/abs/1311.2901
    """
    chunk = given_chunk(chunk_size)
    with torch.set_grad_enabled(create_graph):
        q = question(model, x, layer, target, create_graph)
        q = q._replace(bound=in_plain_forms(q.bound))
        features = features_of(q, baselines, None)
        slides: list[list[Slides | None]] = []

        def make(values: list[Tree]) -> Plan:
            slides[:] = slides_of(q, window, strides, values)
            return _plan(q, features, values, slides, chunk)

        game, losses = lost(q, make)
        return _restored(game, slides, losses)


says(occlusion, baselines="site", spare="yes")


def _plan(q: Question, features: Features, values: list[Tree], slides: list[list[Slides | None]], chunk: int | None) -> Plan:
    numbers = iter(range(sum(map(len, slides))))
    ids = [[None if one is None else torch.tensor(next(numbers), device="cpu") for one in each] for each in slides]
    table = table_of(slides)

    def which(steps: Tensor) -> Tensor:
        return table.to(steps.device).index_select(0, steps)

    game = Opened(q, features, values, ids, len(table) - 1, chunk)
    return game.plan(len(table) if q.size else 1, which, inside)


def _restored(game: Opened, slides: list[list[Slides | None]], losses: Tensor) -> Tree:
    """Each window's loss ``[windows, N]``, over the features that it covers, in the structure of the value."""
    windows = [one.windows for each in slides for one in each if one is not None]
    parts = iter(losses.split(windows) if game.q.size else [losses.new_zeros(count, 0) for count in windows])

    def spread(leaf: Any, one: Slides | None) -> Any:
        if one is None:
            return None if isinstance(leaf, Tensor) else leaf
        return mean_over(one, next(parts))

    return game.q.sites.build([map_leaves(spread, value, each) for value, each in zip(game.values, slides)])


def without_channels(q: Question, channel_dim: int, chunk: int | None) -> tuple[Tree, Tensor, Tree]:
    """The value at a layer, the scores ``[N]``, and what each channel's loss is at its features: all from the same passes."""
    met: list[Tree] = once(q.target, list)  # which the first of several targets sees

    def make(values: list[Tree]) -> Plan:
        if not met:
            met.append(copied(values[0]))
        check_attributable(values[0], q.label(0))
        return planned(q, features_of(q, 0.0, _channel_numbers(values[0], channel_dim, q.size)), chunk, values)

    q = q._replace(bound=in_plain_forms(q.bound))
    game, scores = scored(q, make)
    return met[0], scores[0], restored(game, in_floats(scores[:1] - scores[1:]))


def _channel_numbers(value: Tree, channel_dim: int, size: int) -> Tree:
    """A feature mask with a group for each channel of each tensor."""
    count = 0

    def numbers(v: Tensor) -> Tensor:
        nonlocal count
        channel = channel_of(v, channel_dim)
        check_one_row_each(v, size)
        count += v.shape[channel]
        ids = torch.arange(count - v.shape[channel], count, device=v.device)
        return ids.reshape([-1 if d == channel else 1 for d in range(v.dim())])

    return map_leaves(lambda leaf: numbers(leaf) if attributable(leaf) else None, value)


def check_one_row_each(value: Tensor, size: int) -> None:
    if value.shape[0] != size:
        text = f"the layer gives a tensor {list(value.shape)} without a row for each of the {size} examples: choose another."
        raise complaint(ValueError, text)
