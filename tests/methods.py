"""THE table of methods. A new method is a new row, and all generic tests run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import funattr as fa


class Row(NamedTuple):
    """A method, what it takes, and its formula made of value and gradient (None where a rule changes the gradient)."""

    name: str
    method: Callable[..., Any]
    formula: Callable[[Tensor, Tensor], Tensor] | None
    at_input: bool = True  # works without a layer
    at_layer: bool = True
    convolutional: bool = False  # needs spatial dimensions at the layer, and at the input
    relu: bool = False  # needs a ReLU in the model
    targeted: bool = True
    integers: bool = True  # takes integer inputs, with a layer
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)


def cam(value: Tensor, gradient: Tensor) -> Tensor:
    space = tuple(range(2, value.dim()))
    weights = gradient.mean(space, keepdim=True) if space else gradient
    return (weights * value).sum(1, keepdim=True)


METHODS = [
    Row("activation", fa.activation, lambda v, g: v, at_input=True, targeted=False),
    Row("gradient", fa.gradient, lambda v, g: g),
    Row("saliency", fa.saliency, lambda v, g: g.abs()),
    Row("input_x_gradient", fa.input_x_gradient, lambda v, g: v * g),
    Row("local input_x_gradient", fa.input_x_gradient, lambda v, g: g, options={"multiply_by_inputs": False}),
    Row("grad_cam", fa.grad_cam, cam, at_input=False),
    Row("guided_backprop", fa.guided_backprop, None, relu=True),
    Row("deconvnet", fa.deconvnet, None, relu=True),
    Row("guided_grad_cam", fa.guided_grad_cam, None, at_input=False, convolutional=True, relu=True),
    Row("integrated_gradients", fa.integrated_gradients, None, options={"n_steps": 3}),
    Row("internal_influence", fa.internal_influence, None, integers=False, options={"n_steps": 3, "baselines": 0.5}),
    Row("conductance", fa.conductance, None, integers=False, options={"n_steps": 3}),
    Row("deep_lift", fa.deep_lift, None, integers=False, options={"baselines": 0.3}),  # 0.3 is no id
    Row("feature_ablation", fa.feature_ablation, None, options={"chunk_size": 64}),
    Row("noise_tunnel(gradient)", fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0), lambda v, g: g),
    Row("relu(gradient)", fa.relu(fa.gradient), lambda v, g: torch.relu(g)),
    Row("multiply(gradient, saliency)", fa.multiply(fa.gradient, fa.saliency), lambda v, g: g * g.abs()),
]


def row_id(row: Row) -> str:
    return row.name
