# Written by scripts/make_stub.py, from the signatures in the source.
# ruff: noqa
# fmt: off
import torch
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload
from torch import Tensor
from ._methods.deep_lift import Attribution
from ._steps.quadrature import Quadrature
from ._types import ChunkSize, Explains, Layer, Method, Model, OnePlace, Target, Tree
from . import dataset as dataset
from . import masks as masks
from . import metrics as metrics
from . import rules as rules
from . import viz as viz
from ._methods.game import Game as Game
from ._core.split import Split as Split
from ._named.absorbed import absorbed as absorbed
from ._combine.elementwise import at_input as at_input
from ._combine.grouped import by_examples as by_examples
from ._core.answers import contrast as contrast
from ._methods.path import convergence_delta as convergence_delta
from ._combine.targets import each_target as each_target
from ._export.program import export as export
from ._methods.game import game as game
from ._core.sites import input_of as input_of
from ._inspect.layers import layers as layers
from ._core.answers import log_likelihood as log_likelihood
from ._combine.baselines import mean_over_baselines as mean_over_baselines
from ._combine.elementwise import multiply as multiply
from ._core.score import neuron as neuron
from ._combine.noise import noise_tunnel as noise_tunnel
from ._core.sites import output_of as output_of
from ._steps.progress import progress as progress
from ._core.score import score as score
from ._core.split import split as split
from ._combine.grouped import sum_groups as sum_groups
from ._core.answers import tokens as tokens
from ._named.relevance import under as under

__version__: str
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
@overload
def ablation_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def ablation_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def absolute(method: Tensor) -> Tensor: ...
@overload
def absolute(method: Explains) -> Method: ...
@overload
def activation(model: Model, x: Tensor, *, layer: OnePlace, create_graph: bool = False) -> Tensor: ...
@overload
def activation(model: Model, x: Tree, *, layer: Layer, create_graph: bool = False) -> Any: ...
@overload
def conductance(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: Literal[False] = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def conductance(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def deconvnet(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def deconvnet(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Any: ...
@overload
def deep_lift(
    model: Model,
    x: Tensor,
    *,
    baselines: Tree = 0.0,
    layer: OnePlace = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def deep_lift(
    model: Model,
    x: Tree,
    *,
    baselines: Tree = 0.0,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def deep_lift_shap(
    model: Model,
    x: Tensor,
    *,
    baselines: Tree,
    layer: OnePlace = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def deep_lift_shap(
    model: Model,
    x: Tree,
    *,
    baselines: Tree,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def eigen_cam(model: Model, x: Tensor, *, layer: OnePlace, channel_dim: int = 1, create_graph: bool = False) -> Tensor: ...
@overload
def eigen_cam(model: Model, x: Tree, *, layer: Layer, channel_dim: int = 1, create_graph: bool = False) -> Any: ...
@overload
def feature_ablation(
    model: Model,
    x: Tensor,
    *,
    baselines: Any = 0.0,
    layer: OnePlace = None,
    target: Target = None,
    feature_mask: Any = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def feature_ablation(
    model: Model,
    x: Tree,
    *,
    baselines: Any = 0.0,
    layer: Layer = None,
    target: Target = None,
    feature_mask: Any = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def grad_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def grad_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Any: ...
@overload
def grad_cam_plus_plus(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def grad_cam_plus_plus(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Any: ...
@overload
def gradient(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def gradient(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Any: ...
@overload
def gradient_shap(
    model: Model,
    x: Tensor,
    *,
    baselines: Tree | Callable[[Tree], Tree],
    layer: OnePlace = None,
    target: Target = None,
    n_samples: int = 5,
    stdevs: Any = 0.0,
    generator: torch.Generator | None = None,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def gradient_shap(
    model: Model,
    x: Tree,
    *,
    baselines: Tree | Callable[[Tree], Tree],
    layer: Layer = None,
    target: Target = None,
    n_samples: int = 5,
    stdevs: Any = 0.0,
    generator: torch.Generator | None = None,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def guided_backprop(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def guided_backprop(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def guided_grad_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    mode: str = "nearest",
    create_graph: bool = False,
) -> Tensor: ...
@overload
def guided_grad_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    mode: str = "nearest",
    create_graph: bool = False,
) -> Any: ...
@overload
def hires_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def hires_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Any: ...
@overload
def input_x_gradient(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def input_x_gradient(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    create_graph: bool = False,
) -> Any: ...
@overload
def integrated_gradients(
    model: Model,
    x: Tensor,
    *,
    baselines: Tree = 0.0,
    layer: OnePlace = None,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: Literal[False] = False,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def integrated_gradients(
    model: Model,
    x: Tree,
    *,
    baselines: Tree = 0.0,
    layer: Layer = None,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def internal_influence(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: Literal[False] = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def internal_influence(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def interpolate(method: Tensor, size: Any = None, mode: str = "nearest") -> Tensor: ...
@overload
def interpolate(method: Explains, size: Any = None, mode: str = "nearest") -> Method: ...
@overload
def layer_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def layer_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Any: ...
@overload
def lime(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    alpha: float = 0.0,
    kernel_width: float = 0.25,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
) -> Tensor: ...
@overload
def lime(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    alpha: float = 0.0,
    kernel_width: float = 0.25,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
) -> Any: ...
@overload
def lrp(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    rules: Mapping[Any, Callable[..., Any]] | None = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def lrp(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    rules: Mapping[Any, Callable[..., Any]] | None = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def normalize(method: Tensor) -> Tensor: ...
@overload
def normalize(method: Explains) -> Method: ...
@overload
def occlusion(
    model: Model,
    x: Tensor,
    *,
    window: Any,
    strides: Any = None,
    layer: OnePlace = None,
    target: Target = None,
    baselines: Any = 0.0,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def occlusion(
    model: Model,
    x: Tree,
    *,
    window: Any,
    strides: Any = None,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def relu(method: Tensor) -> Tensor: ...
@overload
def relu(method: Explains) -> Method: ...
@overload
def saliency(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def saliency(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Any: ...
@overload
def score_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def score_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def shapley(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    sampling: str = "leverage",
    standard_errors: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def shapley(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    feature_mask: Any = None,
    n_samples: int | None = None,
    sampling: str = "leverage",
    standard_errors: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Any: ...
@overload
def sum_channels(method: Tensor, channel_dim: int = 1) -> Tensor: ...
@overload
def sum_channels(method: Explains, channel_dim: int = 1) -> Method: ...
@overload
def value_and_gradient(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace = None,
    target: Target = None,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]: ...
@overload
def value_and_gradient(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    create_graph: bool = False,
) -> tuple[Any, Any]: ...
@overload
def xgrad_cam(
    model: Model,
    x: Tensor,
    *,
    layer: OnePlace,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Tensor: ...
@overload
def xgrad_cam(
    model: Model,
    x: Tree,
    *,
    layer: Layer,
    target: Target = None,
    channel_dim: int = 1,
    create_graph: bool = False,
) -> Any: ...
