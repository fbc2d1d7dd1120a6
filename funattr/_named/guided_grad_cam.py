"""Named compositions: methods that are made of methods, and nothing else."""

from __future__ import annotations

from .._combine.elementwise import at_input, multiply, relu
from .._combine.shapes import MODES, interpolate
from .._core.door import method
from .._methods.cam import grad_cam
from .._types import Layer, Method, Model, Target, Tree, says
from .relevance import guided_backprop


def _guided_grad_cam(mode: str) -> Method:
    return multiply(at_input(guided_backprop), interpolate(relu(grad_cam), mode=mode))


_READY = {mode: _guided_grad_cam(mode) for mode in MODES}  # made once, not per call


@method
def guided_grad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, mode: str = "nearest", create_graph: bool = False
) -> Tree:
    """Guided Grad-CAM: guided backpropagation at the input, times the positive part of Grad-CAM at a layer.

    ``guided_backprop * interpolate(relu(grad_cam))``: it is written as that composition, and costs its two passes.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        mode: how the map is brought to the size of the input, as in `interpolate`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of `x`, in squared units of the score per unit of the input. It obeys no sum rule.

    Raises:
        ValueError: `mode` is not one of `interpolate`'s, the value at the layer is not ``[N, C, *spatial]`` like the input, or
            the model has no ReLU; and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at a site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.guided_grad_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 3, 8, 8])

    References:
        Selvaraju et al., "Grad-CAM", 2016, https://arxiv.org/abs/1610.02391
    """
    explain = _READY[mode] if isinstance(mode, str) and mode in _READY else _guided_grad_cam(mode)
    return explain(model, x, layer=layer, target=target, create_graph=create_graph)


says(guided_grad_cam, front=True)
