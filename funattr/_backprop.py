"""Gradients under a rule for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ._backward import at_site
from ._bind import bind, sees_nothing_inside
from ._check import method
from ._door import complaint
from ._rules import ReluRule, deconv, guided
from ._score import Neuron
from ._site import observe
from ._torch import tracing
from ._types import Layer, Model, Target, Tree


@method
def guided_backprop(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    return _under(guided, model, x, layer, target, create_graph)


@method
def deconvnet(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    return _under(deconv, model, x, layer, target, create_graph)


def _under(
    rule: Callable[[list[bool]], ReluRule], model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool
) -> Tree:
    bound = bind(model)
    if not tracing() and bound.root is not None:
        for module in bound.root.modules():
            if sees_nothing_inside(module):
                raise complaint(
                    ValueError,
                    f"the model holds a {type(module).__name__}, and a backward rule cannot reach the operations inside a "
                    f"scripted or compiled module: pass the model before it was.",
                )
    fired: list[bool] = []
    with rule(fired):
        _, gradient = at_site(model, x, layer, target, create_graph, own_level=create_graph)
        if not fired and isinstance(target, Neuron):  # the pass may have ended at the neuron
            with torch.no_grad():
                observe(bound, x, [], lambda i, value, shared: value)
    if not fired:
        raise complaint(
            ValueError,
            "the model has no ReLU, so this rule would change nothing: use gradient or saliency for such a model.",
        )
    return gradient
