"""Class activation maps without gradients: the channels of a layer weighted by what the score makes of each, or by none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .._combine.shapes import resized
from .._core.checks import channel_of, check_attributable, may_read
from .._core.door import method
from .._core.gradient import with_places
from .._core.passes import Question, question, read
from .._core.where import Bound
from .._methods.ablation import check_one_row_each, without_channels
from .._methods.cam import check_batch_first, each_with_rows
from .._methods.gradient import activation
from .._steps.chunks import given_chunk
from .._steps.path import asked
from .._steps.points import along, input_floats, score_at
from .._steps.progress import reported
from .._steps.ways import Steps
from .._torch import is_plain
from .._types import ChunkSize, Layer, Model, Target, Tree, in_single, map_floats, map_leaves, says
from .._words import complaint

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@method
def score_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """Score-CAM: the channels of a layer, each weighted by the score of the input seen through it, summed.

    ``sum_c w_c v_c`` with ``w = softmax_c F(x * m_c)``, for the value ``v`` ``[N, C, *S]`` at the layer and the masks ``m_c``:
    ``v_c`` brought to the size of x (linearly) and to the range from 0 to 1 (a channel of one value: to 0).
    Of several inputs, one without as many spatial dimensions, or of which the layer sees nothing (in eager mode, for a compiler
    cannot look), is seen whole: compiled, bind another picture to the model with `functools.partial`.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in the unit of the value: a mean of the channels. It
        obeys no sum rule. The cost is a forward pass for each channel.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the value is not ``[N, C, *spatial]``
            like the input.
        TypeError: an argument is of the wrong type, or x holds only integers.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.score_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Wang et al., "Score-CAM", 2019, https://arxiv.org/abs/1910.01279
    """

    def cams(q: Question) -> Tree:
        values = read(q, once=False)
        _check(values, q.bound, q.x, layer)
        at = [partial(_score_cam, q.at(site), channel_dim, chunk_size) for site in q.sites.sites]
        return q.sites.build(list(map(map_floats, at, values)))

    return asked(cams, model, x, layer, target, create_graph)


says(score_cam, front=True, pictured=True)


def _score_cam(q: Question, channel_dim: int, chunk_size: ChunkSize, value: Tensor) -> Tensor:
    check_one_row_each(value, q.size)
    maps, inputs = value.movedim(channel_of(value, channel_dim), 1), input_floats(q)
    # An input without such places, as a table beside an image, or that the layer does not see, is seen whole.
    fits = with_places(q.x, maps.dim(), lambda: q)
    scores: list[Tensor] = []
    steps = Steps(q.at(), inputs)
    run = steps.runner(chunk_size)
    for a, b in reported(steps.parts(maps.shape[1], chunk_size)):
        seen = [_masked(maps[:, a:b], t) if fit else t.expand(b - a, *t.shape) for t, fit in zip(inputs, fits)]
        scores += along(run, q, score_at, seen)
    wide = in_single(maps)
    weights = torch.cat(scores).to(wide.dtype).softmax(0).t()
    mean = (weights.reshape(weights.shape + (1,) * (maps.dim() - 2)) * wide).sum(1, keepdim=True)
    return mean.to(value.dtype).movedim(1, channel_dim)


def _masked(maps: Tensor, leaf: Tensor) -> Tensor:
    """``[c, N, ...]``: the input under each map, which is brought to its size and to the range from 0 to 1."""
    small, maps = maps, resized(maps, leaf.shape[2:], _MODES.get(leaf.dim() - 2, "nearest"))
    flat = maps.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    masks = (flat - low) / torch.where(high > low, high - low, 1)
    varies = small.flatten(2).amax(2, keepdim=True) > small.flatten(2).amin(2, keepdim=True)
    masks = torch.where(varies, masks, 0)  # of one value, interpolation makes several, by rounding
    return (masks.reshape(maps.shape).unsqueeze(2).to(leaf.dtype) * leaf.unsqueeze(1)).movedim(1, 0)


@method
def ablation_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """Ablation-CAM: the channels of a layer, each weighted by the share of the score that is lost without it, summed.

    ``sum_c w_c v_c`` with ``w_c = (F - F_c) / F``, for the value ``v`` ``[N, C, *S]`` at the layer, the score ``F``, and the
    score ``F_c`` with channel c at zero: `feature_ablation` of whole channels. A negative score turns the map's sign: explain
    a probability where that may happen.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in the unit of the value. It obeys no sum rule. The cost
        is a forward pass through what lies after the layer for each channel. Of a value ``[N, C]`` it is ``[N, 1]``, no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or a score is 0.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.ablation_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Desai and Ramaswamy, "Ablation-CAM", 2020, https://doi.org/10.1109/WACV45572.2020.9093360
    """

    chunk = given_chunk(chunk_size)

    def cam(score: Tensor, v: Tensor, lost: Tensor) -> Tensor:
        part = lost / score.reshape(-1, *[1] * (v.dim() - 1))
        return (part * v).sum(channel_of(v, channel_dim), keepdim=True).to(v.dtype)

    def at(layer: Layer) -> Tree:
        with torch.set_grad_enabled(create_graph):
            value, scores, losses = without_channels(question(model, x, layer, target, create_graph), channel_dim, chunk)
            if may_read() and is_plain(scores) and bool((scores == 0).any()):
                text = "the score of an example is 0, and no channel has a share in it: explain a probability."
                raise complaint(ValueError, text)
            check_batch_first(value, model, x, layer)
            return map_floats(partial(cam, scores), value, losses)

    return _each(at, layer)


def _each(at: Callable[[Layer], Tree], layer: Layer) -> Tree:
    """Each layer on its own, in the structure that they are selected in."""
    if not isinstance(layer, (list, tuple, dict)) or not layer:  # an empty one is refused there
        return at(layer)
    return map_leaves(at, layer)


def _check(value: Tree, model: Model | Bound, x: Tree, layer: Layer) -> None:
    check_attributable(value, f"<{type(layer).__name__}>" if isinstance(layer, nn.Module) else repr(layer))
    check_batch_first(value, model, x, layer)


@method
def eigen_cam(model: Model, x: Tree, *, layer: Layer, channel_dim: int = 1, create_graph: bool = False) -> Tree:
    """Eigen-CAM: the channels of a layer, projected on their first principal direction. It explains no class.

    ``sum_c w_c v_c`` with ``w`` the first right singular vector of ``O`` ``[S, C]``, the value at the layer with a row for each
    place. As in the paper, the channels' means are not subtracted. A singular vector has no sign of its own: it is the one
    with which the map's sum is not negative.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``, the channel dimension kept with size 1, in the unit of the value. The law: no other direction has a
        projection with a larger sum of squares. What has several such directions has no derivative.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, or the value has no channels.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.eigen_cam(model, torch.randn(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 6, 6])

    References:
        Muhammad and Yeasin, "Eigen-CAM", 2020, https://arxiv.org/abs/2008.00299
    """

    def cam(v: Tensor) -> Tensor:
        channel = channel_of(v, channel_dim)
        moved = v.movedim(channel, -1)
        places = moved.flatten(1, -2) if v.dim() > 2 else moved.unsqueeze(1)
        projected = _projected(in_single(places), create_graph)
        return projected.reshape(*moved.shape[:-1], 1).movedim(-1, channel).to(v.dtype)

    value = activation(model, x, layer=layer, create_graph=create_graph)
    _check(value, model, x, layer)
    return each_with_rows(map_floats(cam, value), model, x, layer)


def _projected(rows: Tensor, create_graph: bool) -> Tensor:
    """``[N, S, C]`` on its first principal direction: ``[N, S]``."""
    finite = torch.nan_to_num(rows.detach(), 0.0, 0.0, 0.0)  # NaN has no decomposition; the projection shows it
    direction = torch.linalg.svd(finite, full_matrices=False).Vh[:, 0].unsqueeze(-1)
    direction = direction * torch.where((rows @ direction).sum(1, keepdim=True) < 0, -1, 1).to(rows.dtype)
    return (rows @ (_with_derivatives(direction, rows) if create_graph else direction)).squeeze(-1)


def _with_derivatives(direction: Tensor, rows: Tensor) -> Tensor:
    """A known eigenvector of ``rows^T rows``, with derivatives: steps of Newton's method, which move it nowhere.

    Two steps have the first three derivatives right. The singular value decomposition's own derivative is NaN where *any* two
    singular values are equal, as those of dead channels are.
    """
    gram = rows.mT @ rows
    top = (direction.mT @ gram @ direction).detach()
    alive = top > 0
    gram = gram / torch.where(alive, top, 1)
    value = torch.ones_like(top)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    for _ in range(2):
        above = torch.cat([gram - value * eye, -direction], -1)
        below = torch.cat([direction.mT, torch.zeros_like(value)], -1)
        miss = torch.cat([gram @ direction - value * direction, (direction.mT @ direction - 1) / 2], -2)
        step = torch.linalg.solve(torch.cat([above, below], -2), miss) * alive
        direction, value = direction - step[..., :-1, :], value - step[..., -1:, :]
    return direction


for _cam in (ablation_cam, eigen_cam):
    says(_cam, pictured=True)
