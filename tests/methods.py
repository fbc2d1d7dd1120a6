"""THE table of methods. A new method is a new row, and all generic tests run on it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import funattr as fa
from funattr._torch import tracing

from .models import Case


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
    batch_first: bool = False  # needs values whose tensors all have the batch first, as an LSTM's state has not
    constant: bool = False  # takes no create_graph
    draws: bool = False  # from torch's global generator, other numbers for other shapes: see `drawn_alike`
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)


# The formulas of the papers, place by place and channel by channel: slow, and unlike the code.


def cam_by(weight: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A map ``sum_c w_c v_c``, with ``w_c`` from the values and the gradients of channel c of one example, each ``[S]``."""

    def cam(value: Tensor, gradient: Tensor) -> Tensor:
        maps = torch.zeros_like(value[:, 0])
        for n in range(value.shape[0]):
            for c in range(value.shape[1]):
                v, g = value[n, c].reshape(-1), gradient[n, c].reshape(-1)
                maps[n] += (weight(v, g) * v).reshape(maps[n].shape)
        return maps.unsqueeze(1)

    return cam


def plus_plus(v: Tensor, g: Tensor) -> Tensor:
    below = 2 * g**2 + g**3 * v.sum()
    alpha = torch.where(g != 0, g**2 / torch.where(g != 0, below, 1), 0)
    return (alpha * g.clamp(min=0)).sum()


def axiomatic(v: Tensor, g: Tensor) -> Tensor:
    return (g * v / v.sum()).sum() if v.sum() != 0 else v.sum()


def principal(value: Tensor, gradient: Tensor) -> Tensor:
    """Of all unit vectors of channels, the one whose projection is largest, found by an eigendecomposition in float64."""
    maps = []
    for v in value:
        rows = v.reshape(v.shape[0], -1).t().double()
        projected = rows @ torch.linalg.eigh(rows.t() @ rows).eigenvectors[:, -1]
        maps.append((projected * (-1 if projected.sum() < 0 else 1)).reshape(v[:1].shape).to(value.dtype))
    return torch.stack(maps)


# Methods that take many baselines, and draw.


def spread(x: Any) -> Any:
    """Two baselines, of which no entry is an entry of the other; for ids, two ids."""

    def two(t: Tensor) -> Tensor:
        values = (0.3, -0.4) if t.is_floating_point() else (3, 5)
        return torch.stack([torch.full_like(t[0], value) for value in values])

    return tree_map(two, x)


def seed() -> None:
    torch.manual_seed(3)


def seeded(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, drawing the same in every call; a compiled one takes no seed in its graph: call `seed` before it."""

    @functools.wraps(method)
    def with_seed(model: Any, x: Any, **options: Any) -> Any:
        if not tracing():
            seed()
        return method(model, x, **options)

    return with_seed


@contextlib.contextmanager
def drawn_alike() -> Iterator[None]:
    """What is drawn is the same for each example of a batch, and in each dtype: what each example, alone, would be given."""
    rand, randint = torch.rand, torch.randint

    def alike(size: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
        return rand(size[:1], dtype=torch.float64)[:, None].expand(size).to(dtype)

    def whole(high: int, size: Any, **options: Any) -> Tensor:
        return randint(high, size[:1])[:, None].expand(size)

    with mock.patch.object(torch, "rand", alike), mock.patch.object(torch, "randint", whole):
        yield


# Methods of coalitions, and of windows: of few players, so that a loop over all coalitions is no long one.


def halves(like: Any) -> Any:
    """A mask with two groups for each tensor: the left half of the last dimension, and the right."""
    count = 0

    def two(t: Any) -> Any:
        nonlocal count
        if not isinstance(t, Tensor) or not t.is_floating_point():
            return None
        at = torch.arange(t.shape[-1] if t.dim() > 1 else 1, device="cpu")
        ids = count + (2 * at >= t.shape[-1]).long() if t.dim() > 1 else at[0] + count
        count += 2
        return ids

    return tree_map(two, like)


def windows(like: Any) -> Any:
    """A window over half of the last dimension of each tensor."""
    return tree_map(one_window, like)


def one_window(t: Any) -> Any:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        return None
    return [*t.shape[1:-1], -(-t.shape[-1] // 2)] if t.dim() > 1 else []


def in_halves(method: Callable[..., Any], name: str, make: Callable[[Any], Any]) -> Callable[..., Any]:
    """The method, given what `make` makes of the value at the site, drawing the same in every call."""

    signature = inspect.signature(method)

    @functools.wraps(method)
    def halved(model: Any, x: Any, *, layer: Any = None, **options: Any) -> Any:
        with torch.no_grad():
            like = fa.activation(model, x, layer=layer) if layer is not None else x
        if not tracing():
            seed()
        return method(model, x, layer=layer, **{name: make(like)}, **options)

    told: Any = halved
    told.__signature__ = signature.replace(parameters=[p for p in signature.parameters.values() if p.name != name])
    told.about = told.about._replace(accepts=tuple(own for own in told.about.accepts if own != name))
    return halved


def own_gradient(op: Any, gradient: Tensor) -> Tensor:
    """A rule of one's own that changes nothing: then relevance is value times gradient, on any net."""
    return torch.func.vjp(lambda x: op.function(x, *op.inputs[1:]), op.inputs[0])[1](gradient)[0]


#: Rules that change nothing, and compile.
NO_CHANGE = dict.fromkeys(("linear", "convolution"), fa.rules.epsilon(0.0)["linear"])

METHODS = [
    Row("activation", fa.activation, lambda v, g: v, at_input=True, targeted=False),
    Row("gradient", fa.gradient, lambda v, g: g),
    Row("saliency", fa.saliency, lambda v, g: g.abs()),
    Row("input_x_gradient", fa.input_x_gradient, lambda v, g: v * g),
    Row("local input_x_gradient", fa.input_x_gradient, lambda v, g: g, options={"multiply_by_inputs": False}),
    Row("grad_cam", fa.grad_cam, cam_by(lambda v, g: g.mean()), at_input=False),
    Row("grad_cam_plus_plus", fa.grad_cam_plus_plus, cam_by(plus_plus), at_input=False),
    Row("xgrad_cam", fa.xgrad_cam, cam_by(axiomatic), at_input=False),
    Row("hires_cam", fa.hires_cam, cam_by(lambda v, g: g), at_input=False),
    Row("layer_cam", fa.layer_cam, cam_by(lambda v, g: g.clamp(min=0)), at_input=False),
    Row("eigen_cam", fa.eigen_cam, principal, at_input=False, targeted=False),
    Row("score_cam", fa.score_cam, None, at_input=False, convolutional=True, integers=False),
    Row("ablation_cam", fa.ablation_cam, None, at_input=False, batch_first=True),
    Row("guided_backprop", fa.guided_backprop, None, relu=True),
    Row("deconvnet", fa.deconvnet, None, relu=True),
    Row(
        "lrp",
        fa.lrp,
        lambda v, g: v * g,
        options={"rules": NO_CHANGE},
    ),
    Row("guided_grad_cam", fa.guided_grad_cam, None, at_input=False, convolutional=True, relu=True),
    Row("integrated_gradients", fa.integrated_gradients, None, options={"n_steps": 3}),
    Row("internal_influence", fa.internal_influence, None, integers=False, options={"n_steps": 3, "baselines": 0.5}),
    Row("conductance", fa.conductance, None, integers=False, options={"n_steps": 3}),
    Row("deep_lift", fa.deep_lift, None, integers=False, options={"baselines": 0.3}),  # 0.3 is no id
    Row("deep_lift_shap", fa.deep_lift_shap, None, options={"baselines": spread}),
    Row("gradient_shap", seeded(fa.gradient_shap), None, draws=True, options={"baselines": spread, "n_samples": 3}),
    Row("feature_ablation", fa.feature_ablation, None, options={"chunk_size": 64}),
    Row("shapley", in_halves(fa.shapley, "feature_mask", halves), None, options={"sampling": "exact"}),
    Row("lime", in_halves(fa.lime, "feature_mask", halves), None, constant=True, draws=True, options={"n_samples": 40}),
    Row("occlusion", in_halves(fa.occlusion, "window", windows), None, batch_first=True, options={"chunk_size": 64}),
    Row("noise_tunnel(gradient)", fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0), lambda v, g: g),
    Row("relu(gradient)", fa.relu(fa.gradient), lambda v, g: torch.relu(g)),
    Row("absolute(gradient)", fa.absolute(fa.gradient), lambda v, g: torch.where(g < 0, -g, g)),
    Row("normalize(gradient)", fa.normalize(fa.gradient), None, batch_first=True),
    Row("sum_channels(gradient)", fa.sum_channels(fa.gradient), lambda v, g: torch.einsum("nc...->n...", g)[:, None]),
    Row("multiply(gradient, saliency)", fa.multiply(fa.gradient, fa.saliency), lambda v, g: g * g.abs()),
]


def row_id(row: Row) -> str:
    return row.name


def fits(row: Row, case: Case) -> bool:
    """Whether the method is for this net."""
    if (case.name == "text" and not row.integers) or (case.name == "recurrent" and row.batch_first):
        return False
    return (case.convolutional or not row.convolutional) and (case.relu or not row.relu)
