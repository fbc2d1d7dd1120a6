"""Attributions for PyTorch models as stateless pure functions: *how* (the method), *where* (`layer`), *what* (`target`)."""

from ._ablation import feature_ablation
from ._alias import guided_grad_cam
from ._backprop import deconvnet, guided_backprop
from ._backward import value_and_gradient
from ._combine import at_input, interpolate, multiply, relu
from ._deeplift import deep_lift
from ._deeplift_shap import deep_lift_shap, mean_over_baselines
from ._gradient import activation, grad_cam, gradient, input_x_gradient, saliency
from ._layers import layers
from ._path import conductance, convergence_delta, integrated_gradients, internal_influence
from ._progress import progress
from ._repeat import each_target, noise_tunnel
from ._score import neuron, score
from ._shap import gradient_shap
from ._site import Split, input_of, output_of, split

__version__ = "0.1.0.dev0"

__all__ = [
    "Split",
    "activation",
    "at_input",
    "conductance",
    "convergence_delta",
    "deconvnet",
    "deep_lift",
    "deep_lift_shap",
    "each_target",
    "feature_ablation",
    "grad_cam",
    "gradient",
    "gradient_shap",
    "guided_backprop",
    "guided_grad_cam",
    "input_of",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "interpolate",
    "layers",
    "mean_over_baselines",
    "multiply",
    "neuron",
    "noise_tunnel",
    "output_of",
    "progress",
    "relu",
    "saliency",
    "score",
    "split",
    "value_and_gradient",
]
