"""Attributions for PyTorch models as stateless pure functions: *how* (the method), *where* (`layer`), *what* (`target`)."""

from . import dataset as dataset
from ._combine.elementwise import absolute, at_input, multiply, normalize, relu
from ._combine.noise import noise_tunnel
from ._combine.shapes import interpolate, sum_channels
from ._combine.targets import each_target
from ._core.gradient import value_and_gradient
from ._core.score import neuron, score
from ._core.split import Split, split
from ._core.where import input_of, output_of
from ._inspect.layers import layers
from ._methods.ablation import feature_ablation
from ._methods.backprop import deconvnet, guided_backprop
from ._methods.cam import grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam
from ._methods.deep_lift import deep_lift
from ._methods.gradient import activation, gradient, input_x_gradient, saliency
from ._methods.gradient_shap import gradient_shap
from ._methods.path import conductance, convergence_delta, integrated_gradients, internal_influence
from ._named.cams import ablation_cam, eigen_cam, score_cam
from ._named.deep_lift_shap import deep_lift_shap, mean_over_baselines
from ._named.guided_grad_cam import guided_grad_cam
from ._steps.progress import progress

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
