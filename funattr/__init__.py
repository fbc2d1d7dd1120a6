"""Attributions for PyTorch models as stateless pure functions: *how* (the method), *where* (`layer`), *what* (`target`).

    >>> import torch, funattr as fa
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.randn(2, 4)
    >>> fa.integrated_gradients(model, x, target=1).shape  # at the input
    torch.Size([2, 4])
    >>> fa.integrated_gradients(model, x, layer="1", target=1).shape  # at a layer
    torch.Size([2, 8])

A method takes a model and its input. A combinator takes methods and returns one, with the same arguments:

    >>> smooth = fa.noise_tunnel(fa.absolute(fa.gradient), n_samples=3, stdevs=0.1)
    >>> smooth(model, x, target="argmax").shape
    torch.Size([2, 4])

`layers` lists what `layer` may name. `viz` draws what methods return, and `dataset` runs them over whole data sets; both are
loaded when first used. ``help(fa.grad_cam)`` tells of one function, ``dir(fa)`` names them all.
"""

from typing import TYPE_CHECKING

from ._combine.baselines import mean_over_baselines
from ._combine.elementwise import absolute, at_input, multiply, normalize, relu
from ._combine.grouped import by_examples, sum_groups
from ._combine.noise import noise_tunnel
from ._combine.shapes import interpolate, sum_channels
from ._combine.targets import each_target
from ._core.answers import contrast, log_likelihood, tokens
from ._core.gradient import value_and_gradient
from ._core.score import neuron, score
from ._core.sites import input_of, output_of
from ._core.split import Split, split
from ._export.program import export as export
from ._inspect.layers import layers
from ._methods.ablation import feature_ablation, occlusion
from ._methods.cam import grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam
from ._methods.deep_lift import deep_lift
from ._methods.game import Game, game
from ._methods.gradient import activation, gradient, input_x_gradient, saliency
from ._methods.gradient_shap import gradient_shap
from ._methods.path import conductance, convergence_delta, integrated_gradients, internal_influence
from ._methods.shapley import lime, shapley
from ._named.absorbed import absorbed
from ._named.cams import ablation_cam, eigen_cam, score_cam
from ._named.deep_lift_shap import deep_lift_shap
from ._named.relevance import deconvnet, guided_backprop, guided_grad_cam, lrp, under
from ._steps.progress import progress

__version__ = "0.1.0.dev0"

__all__ = [
    "Game",
    "Split",
    "ablation_cam",
    "absolute",
    "absorbed",
    "activation",
    "at_input",
    "by_examples",
    "conductance",
    "contrast",
    "convergence_delta",
    "deconvnet",
    "deep_lift",
    "deep_lift_shap",
    "each_target",
    "eigen_cam",
    "export",
    "feature_ablation",
    "game",
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
    "lime",
    "log_likelihood",
    "lrp",
    "mean_over_baselines",
    "multiply",
    "neuron",
    "noise_tunnel",
    "normalize",
    "occlusion",
    "output_of",
    "progress",
    "relu",
    "saliency",
    "score",
    "score_cam",
    "shapley",
    "split",
    "sum_channels",
    "sum_groups",
    "tokens",
    "under",
    "value_and_gradient",
    "xgrad_cam",
]

_LOADED_WHEN_USED = ("dataset", "masks", "metrics", "rules", "viz")

if TYPE_CHECKING:
    from . import dataset as dataset
    from . import masks as masks
    from . import metrics as metrics
    from . import rules as rules
    from . import viz as viz
else:  # unseen by type checkers, which would take any name for a module

    def __getattr__(name):
        if name not in _LOADED_WHEN_USED:
            from ._habits import no_such_name

            raise AttributeError(no_such_name(name, {public: globals()[public] for public in __all__}))
        from importlib import import_module

        return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted([*__all__, *_LOADED_WHEN_USED, "__version__"])
