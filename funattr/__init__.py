"""Attributions for PyTorch models as stateless pure functions: *how* (the method), *where* (`layer`), *what* (`target`)."""

from . import dataset as dataset
from ._ablation import feature_ablation
from ._alias import guided_grad_cam
from ._backprop import deconvnet, guided_backprop
from ._backward import value_and_gradient
from ._cam import grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam
from ._cam_forward import ablation_cam, eigen_cam, score_cam
from ._combine import absolute, at_input, multiply, normalize, relu
from ._deeplift import deep_lift
from ._deeplift_shap import deep_lift_shap, mean_over_baselines
from ._gradient import activation, gradient, input_x_gradient, saliency
from ._layers import layers
from ._noise import noise_tunnel
from ._path import conductance, convergence_delta, integrated_gradients, internal_influence
from ._progress import progress
from ._score import neuron, score
from ._shap import gradient_shap
from ._shapes import interpolate, sum_channels
from ._site import Split, input_of, output_of, split
from ._targets import each_target

__version__ = "0.1.0.dev0"

__all__ = [
    "Split",
    "ablation_cam",
    "absolute",
    "activation",
    "at_input",
    "conductance",
    "convergence_delta",
    "deconvnet",
    "deep_lift",
    "deep_lift_shap",
    "each_target",
    "eigen_cam",
    "feature_ablation",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_shap",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_of",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "interpolate",
    "layer_cam",
    "layers",
    "mean_over_baselines",
    "multiply",
    "neuron",
    "noise_tunnel",
    "normalize",
    "output_of",
    "progress",
    "relu",
    "saliency",
    "score",
    "score_cam",
    "split",
    "sum_channels",
    "value_and_gradient",
    "xgrad_cam",
]
