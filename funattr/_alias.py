"""Named compositions: methods that are made of methods, and nothing else."""

from __future__ import annotations

from ._backprop import guided_backprop
from ._check import method
from ._combine import MODES, at_input, interpolate, multiply, relu
from ._gradient import grad_cam
from ._types import Layer, Method, Model, Target, Tree


def _guided_grad_cam(mode: str) -> Method:
    return multiply(at_input(guided_backprop), interpolate(relu(grad_cam), mode=mode))


_READY = {mode: _guided_grad_cam(mode) for mode in MODES}  # made once, not per call


@method
def guided_grad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, mode: str = "nearest", create_graph: bool = False
) -> Tree:
    explain = _READY[mode] if isinstance(mode, str) and mode in _READY else _guided_grad_cam(mode)
    return explain(model, x, layer=layer, target=target, create_graph=create_graph)
