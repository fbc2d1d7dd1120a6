"""Gradients under a rule for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.door import method
from .._core.gradient import gradients
from .._core.passes import forward, kept, question
from .._core.rows import Row
from .._core.score import score_of
from .._core.where import refuse_opaque
from .._rules.relu import ReluRule, deconv, guided
from .._torch import tracing
from .._types import Layer, Model, Target, Tree, as_it_is
from .._words import complaint


@method
def guided_backprop(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """Guided backpropagation: the gradient, with only positive gradients flowing back through active ReLUs.

    At every ReLU ``y = relu(z)``, in whatever spelling, the gradient ``g`` of ``y`` becomes ``relu(g) * (z > 0)``.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in score per unit of the value. It obeys no sum rule.

    Raises:
        ValueError: the model has no ReLU, or one that the rule cannot reach (scripted, compiled, nn.RNN); and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = lambda x: torch.relu(x) @ torch.tensor([-1.0, 2.0, 3.0])
        >>> fa.guided_backprop(model, torch.tensor([[1.0, 1.0, -1.0]]))
        tensor([[0., 2., 0.]])

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity", 2014, https://arxiv.org/abs/1412.6806
    """
    return _under(guided, model, x, layer, target, create_graph)


@method
def deconvnet(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """The deconvolutional network: the gradient, with only positive gradients flowing back through every ReLU.

    At every ReLU ``y = relu(z)``, in whatever spelling, the gradient ``g`` of ``y`` becomes ``relu(g)``.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in score per unit of the value. It obeys no sum rule.

    Raises:
        ValueError: the model has no ReLU, or one that the rule cannot reach (scripted, compiled, nn.RNN); and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = lambda x: torch.relu(x) @ torch.tensor([-1.0, 2.0, 3.0])
        >>> fa.deconvnet(model, torch.tensor([[1.0, 1.0, -1.0]]))
        tensor([[0., 2., 3.]])

    References:
        Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", 2013, https://arxiv.org/abs/1311.2901
    """
    return _under(deconv, model, x, layer, target, create_graph)


def _under(
    rule: Callable[[list[bool]], ReluRule], model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool
) -> Tree:
    if tracing():
        from .._rules import traced  # noqa: F401  (loaded for what it tells Dynamo)
    q = question(model, x, layer, target, create_graph)
    refuse_opaque(q.bound)
    fired: list[bool] = target.take(list) if isinstance(target, Row) else []
    mode = rule(fired)
    q = q._replace(bound=q.bound.under(mode))
    if callable(target) and q.neuron is None:  # what computes the score may have ReLUs too

        def scored(target: Any, output: Any) -> Tensor:
            with mode if callable(target) else as_it_is:
                found: Tensor = score_of(output, target, q.size)
            return found

        q = q._replace(target=target.through(scored) if isinstance(target, Row) else partial(scored, target))
    _, slopes = gradients(q, own_level=create_graph)
    if not fired and q.neuron is not None:  # the pass may have ended at the neuron
        with torch.no_grad():
            forward(q._replace(sites=q.sites._replace(sites=()), neuron=None), kept)
    if not fired:
        raise complaint(
            ValueError,
            "the model has no ReLU, so this rule would change nothing: use gradient or saliency for such a model.",
        )
    return q.sites.build(slopes)
