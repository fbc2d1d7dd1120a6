"""Class activation maps made of a value and its gradient, once: the channels of a layer, weighted and summed.

The papers end with a ReLU and with a picture of the size of the input. Both are the caller's:
``fa.interpolate(fa.relu(fa.grad_cam))``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._core.checks import channel_of, check_rows, may_read
from .._core.door import method
from .._core.gradient import at_site
from .._core.passes import question, read
from .._core.sites import resolve
from .._core.where import Bound, bind
from .._types import Layer, Model, Target, Tree, batch_size, map_floats, map_tensors, says, tensors
from .._words import complaint

#: ``w(v, g, c)``: the weights of a value at the site, with its gradient, whose channels are in dimension c.
Weights: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]


def over_space(value: Tensor, channel: int, take: Callable[..., Tensor] = torch.sum) -> Tensor:
    """The sum over all dimensions but the batch and the channels, kept with size 1."""
    space = [d for d in range(1, value.dim()) if d != channel]
    return take(value, space, keepdim=True) if space else value  # a sum over no dimension would be over all of them


def mean_over_space(value: Tensor, channel: int) -> Tensor:
    """The mean over the same dimensions."""
    return over_space(value, channel, torch.mean)


def _mapped(w: Weights, channel_dim: int, *asked: Any) -> Tree:
    """The map of each value at the site: its channels, weighted and summed."""

    def cam(v: Tensor, g: Tensor) -> Tensor:
        c = channel_of(v, channel_dim)
        return (w(v, g, c) * v).sum(c, keepdim=True)

    values, slopes = at_site(*asked)
    check_batch_first(values, *asked[:3])
    return each_with_rows(map_floats(cam, values, slopes), *asked[:3])


def each_with_rows(found: Tree, model: Model | Bound, x: Tree, layer: Layer) -> Tree:
    """What was found, each layer of which has the batch first."""
    several = isinstance(layer, (list, tuple, dict))
    for part in resolve(bind(model), layer).flat(found) if several else [found]:
        check_rows(part, batch_size(x))
    return found


def check_batch_first(values: Tree, model: Model | Bound, x: Tree, layer: Layer) -> None:
    """Refuse values with steps in time first, as many as examples or some times as many, which their sizes do not show: another
    first example changes them at all steps, in one place of the batch."""
    if not may_read():
        return
    size = batch_size(x)
    doubtful = [v for v in tensors(values) if v.dim() > 2 and v.shape[1] == size > 1 and v.shape[0] % size == 0]
    if not doubtful:
        return
    with torch.no_grad():
        other = map_tensors(lambda t: torch.cat([t[1:2], t[1:]]) if t.shape[:1] == (size,) else t, x)
        again = tensors(read(question(model, other, layer, None)))
    for v, w in zip(tensors(values), again):
        if any(v is t for t in doubtful) and v.shape == w.shape:
            moved = (v != w).flatten(2).any(-1)
            if bool(moved[1:, 0].any()) and not bool(moved[:, 1:].any()):
                text = f"the layer gives a tensor {list(v.shape)} with steps in time first, and the {size} examples second"
                raise complaint(ValueError, f"{text}: choose a layer whose value has the batch first.")


def mean_over_places(model: Model, layer: Layer, found: Tree) -> Tree:
    """What is linear in a mean over the places of a layer, for examples that have not as many of these as each other."""
    bound = bind(model)
    if bound.grouped is None:
        return found
    sites = resolve(bound, layer)
    return sites.build([bound.grouped.mean(site, part) for site, part in zip(sites.sites, sites.flat(found))])


@method
def grad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    """Grad-CAM: the channels of a layer, each weighted by its mean gradient, summed.

    ``sum_c w_c v_c`` with ``w_c = mean_s df/dv_cs``, for the value ``v`` ``[N, C, *S]`` at the layer. The paper's ReLU is the
    caller's: ``fa.relu(fa.grad_cam)``, or ``.relu()`` of the result.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in units of the score. It obeys no sum rule.
        `interpolate` brings it to the size of the input.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.grad_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Selvaraju et al., "Grad-CAM", 2016, https://arxiv.org/abs/1610.02391
    """
    found = _mapped(lambda v, g, c: mean_over_space(g, c), channel_dim, model, x, layer, target, create_graph)
    return mean_over_places(model, layer, found)


@method
def grad_cam_plus_plus(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    """Grad-CAM++: the channels of a layer, each weighted by its positive gradients, summed.

    ``sum_c w_c v_c`` with ``w_c = sum_s a_cs max(g_cs, 0)`` and ``a_cs = g_cs^2 / (2 g_cs^2 + g_cs^3 sum_t v_ct)``, for the
    value ``v`` ``[N, C, *S]`` at the layer and the gradient ``g`` there. The ``a`` are made so that several instances of a
    class count alike, whatever their size. (The paper's score is an exponential, which multiplies all of the map by
    ``exp(f)``: left out, as in other implementations.)

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in units of the score. It obeys no sum rule.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.grad_cam_plus_plus(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Chattopadhyay et al., "Grad-CAM++", 2017, https://arxiv.org/abs/1710.11063
    """

    def w(v: Tensor, g: Tensor, c: int) -> Tensor:
        below = 2 + g * over_space(v, c)  # a = 1 / below: the formula less g^2, which is 0 in half precision
        return over_space(g.relu() / torch.where(below == 0, 1, below), c)

    return _mapped(w, channel_dim, model, x, layer, target, create_graph)


@method
def xgrad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    """XGrad-CAM: the channels of a layer, each weighted by its gradients where it is active, summed.

    ``sum_c w_c v_c`` with ``w_c = sum_s g_cs v_cs / sum_s v_cs``, for the value ``v`` ``[N, C, *S]`` at the layer and the
    gradient ``g`` there. A channel whose values sum to 0, to rounding, has the weight 0.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in units of the score. The law: it sums to what
        `input_x_gradient` does (so to the score, where that is linear in the value), but for channels that sum to 0.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.xgrad_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Fu et al., "Axiom-based Grad-CAM", 2020, https://arxiv.org/abs/2008.02312
    """

    def w(v: Tensor, g: Tensor, c: int) -> Tensor:
        total = over_space(v, c)
        none = total.abs() <= 4 * torch.finfo(total.dtype).eps * over_space(v.abs(), c)
        return torch.where(none, 0, over_space(g * v, c) / torch.where(none, 1, total))

    return _mapped(w, channel_dim, model, x, layer, target, create_graph)


@method
def hires_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    """HiResCAM: the channels of a layer, each place weighted by its own gradient, summed.

    ``sum_c g_c v_c``, for the value ``v`` ``[N, C, *S]`` at the layer and the gradient ``g`` there: `grad_cam` without the
    mean over places, which may show evidence where there is none. It is ``sum_channels(input_x_gradient)``.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in units of the score. The law: where the score is
        linear in the value (and has no bias) it sums to the score.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.hires_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020, https://arxiv.org/abs/2011.08891
    """
    return _mapped(lambda v, g, c: g, channel_dim, model, x, layer, target, create_graph)


@method
def layer_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    """LayerCAM: the channels of a layer, each place weighted by its own positive gradient, summed.

    ``sum_c max(g_c, 0) v_c``, for the value ``v`` ``[N, C, *S]`` at the layer and the gradient ``g`` there. Made for early
    layers, whose maps are finer.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N, 1, *S]``: signed, the channel dimension kept with size 1, in units of the score. It obeys no sum rule.
        Of a value ``[N, C]``, which has no places, it is ``[N, 1]``: one number for each example, and no map.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.layer_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 1, 6, 6])

    References:
        Jiang et al., "LayerCAM", 2021, https://doi.org/10.1109/TIP.2021.3089943
    """
    return _mapped(lambda v, g, c: g.relu(), channel_dim, model, x, layer, target, create_graph)


for _cam in (grad_cam, grad_cam_plus_plus, xgrad_cam, hires_cam, layer_cam):
    says(_cam, pictured=True)
