"""Methods made of a value and its gradient, once."""

from __future__ import annotations

import torch

from .._core.door import method
from .._core.gradient import at_site
from .._core.passes import question, read
from .._types import Layer, Model, Target, Tree, map_floats, map_tensors


@method
def activation(model: Model, x: Tree, *, layer: Layer, create_graph: bool = False) -> Tree:
    """The value at a site.

    ``v = value_at(x)``

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The value, with its structure and shape, in its own unit. Where the `call` of every layer is given, only the part of
        the model before the last of them is run; otherwise all of it, to see that no layer runs twice.

    Raises:
        ValueError: there is no such layer, it does not run, or it runs several times and no `call` says which.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
        >>> fa.activation(model, torch.tensor([[-1.0, 2.0]]), layer="0")
        tensor([[0., 2.]])
    """
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        q = question(model, x, layer, None, create_graph)
        values = read(q, once=False)
    return q.sites.build(values if create_graph else map_tensors(torch.detach, values))


@method
def gradient(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """The gradient of the score at a site.

    ``df/dv``, for the score ``f`` of each example and the value ``v`` at the site.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in score per unit of the value. It obeys no sum rule. An integer
        tensor has the gradient None.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> fa.gradient(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[ 2., -4.]])

    References:
        Baehrens et al., "How to Explain Individual Classification Decisions", 2010, https://jmlr.org/papers/v11/baehrens10a.html
    """
    return at_site(model, x, layer, target, create_graph)[1]


@method
def saliency(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """The size of the gradient of the score at a site.

    ``|df/dv|``, for the score ``f`` of each example and the value ``v`` at the site.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, non-negative, in score per unit of the value. It obeys no sum rule.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> fa.saliency(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[2., 4.]])

    References:
        Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", 2013, https://arxiv.org/abs/1312.6034
    """
    return map_floats(torch.abs, at_site(model, x, layer, target, create_graph)[1])


@method
def input_x_gradient(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    create_graph: bool = False,
) -> Tree:
    """Value times gradient at a site: input x gradient, or layer gradient x activation.

    ``v * df/dv``, for the score ``f`` of each example and the value ``v`` at the site.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        multiply_by_inputs: True for the attribution, False for the multipliers alone.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in units of the score. Where the score is linear in the value (and
        has no bias) the entries sum to it; otherwise they obey no sum rule.

    Raises:
        ValueError: there is no such layer, it does not run, the target does not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> fa.input_x_gradient(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[2., 8.]])

    References:
        Shrikumar, Greenside, Shcherbina, Kundaje, "Not Just a Black Box", 2016, https://arxiv.org/abs/1605.01713
    """
    value, slope = at_site(model, x, layer, target, create_graph)
    return map_floats(torch.mul, value, slope) if multiply_by_inputs else slope
