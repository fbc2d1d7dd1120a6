"""For each row of the table of methods, what it must give: its formula, or its loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .. import methods
from . import loops
from .loops import Asked, gauss
from .passes import Leaves, leaves, with_leaves


def start(x: Any, number: float) -> Any:
    """The number in place of floating-point tensors; of ids, where there is nothing else."""
    ids = not leaves(x)
    return with_leaves(x, [torch.full_like(t, number) for t in leaves(x, ids)], ids)


def starts(x: Any, baselines: Any) -> list[Any]:
    """Each of the baselines, a number or a function of x as the table has them, for every row."""
    if not callable(baselines):
        return [start(x, baselines)]
    many = [(t, own.shape) for t, own in zip(leaves(baselines(x), True), leaves(x, True))]
    return [with_leaves(x, [t[k].expand(shape) for t, shape in many], True) for k in range(len(many[0][0]))]


def along(method: Callable[..., Leaves], q: Asked, row: methods.Row) -> Leaves:
    return method(q, *starts(q.x, row.options.get("baselines", 0.0)), gauss(row.options["n_steps"]))


def gradient_shap(q: Asked, row: methods.Row) -> Leaves:
    methods.seed()
    (first, *_), each = leaves(q.x, True), starts(q.x, row.options["baselines"])
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    steps = torch.rand((row.options["n_samples"], len(first)), dtype=wide)
    return loops.gradient_shap(q, each, steps.double(), torch.randint(len(each), steps.shape))


def guided_grad_cam(q: Asked, row: methods.Row) -> Leaves:
    grad_cam = next(row.formula for row in methods.METHODS if row.name == "grad_cam")
    assert grad_cam is not None
    cam = grad_cam(loops.value(q)[0], loops.slope(q)[0]).relu()
    fine = loops.rectified(q._replace(site=None), True)
    return [g * F.interpolate(cam, g.shape[2:], mode="nearest") for g in fine]


def feature_ablation(q: Asked, row: methods.Row) -> Leaves:
    base = row.options.get("baselines", 0.0)
    return loops.feature_ablation(q, [torch.full_like(t, base) for t in loops.value(q, integers=True)], integers=True)


def zeros(q: Asked) -> Leaves:
    return [torch.zeros((), dtype=t.dtype) for t in loops.value(q)]


def lime(q: Asked, row: methods.Row) -> Leaves:
    masks = methods.halves(loops.value(q))
    methods.seed()
    players = len({int(i) for mask in masks for i in mask.unique()})
    drawn = torch.rand(row.options["n_samples"] - 1, players, dtype=torch.float64) < 0.5
    return loops.lime(q, zeros(q), masks, torch.cat([torch.ones(1, players, dtype=torch.bool), drawn]))


def occlusion(q: Asked, row: methods.Row) -> Leaves:
    windows = [methods.one_window(t) for t in loops.value(q)]
    return loops.occlusion(q, zeros(q), windows, [[1] * len(window) for window in windows])


def normalized(q: Asked, row: methods.Row) -> Leaves:
    each = loops.slope(q)
    peak = torch.stack([g.flatten(1).abs().amax(1) for g in each]).amax(0)
    return [g / peak.reshape(-1, *[1] * (g.dim() - 1)) for g in each]


#: The methods without a formula in value and gradient.
LOOPS: dict[str, Callable[[Asked, methods.Row], Leaves]] = {
    "integrated_gradients": lambda q, row: along(loops.integrated_gradients, q, row),
    "internal_influence": lambda q, row: along(loops.internal_influence, q, row),
    "conductance": lambda q, row: along(loops.conductance, q, row),
    "deep_lift": lambda q, row: loops.deep_lift(q, starts(q.x, row.options["baselines"])),
    "deep_lift_shap": lambda q, row: loops.deep_lift(q, starts(q.x, row.options["baselines"])),
    "gradient_shap": gradient_shap,
    "feature_ablation": feature_ablation,
    "shapley": lambda q, row: loops.shapley(q, zeros(q), methods.halves(loops.value(q))),
    "lime": lime,
    "occlusion": occlusion,
    "guided_backprop": lambda q, row: loops.rectified(q, True),
    "deconvnet": lambda q, row: loops.rectified(q, False),
    "guided_grad_cam": guided_grad_cam,
    "score_cam": lambda q, row: loops.score_cam(q, 1),
    "ablation_cam": lambda q, row: loops.ablation_cam(q, 1),
    "normalize(gradient)": normalized,
}


def expected(q: Asked, row: methods.Row) -> Leaves:
    if row.formula is not None:
        return [row.formula(v, g) for v, g in zip(loops.value(q), loops.slope(q))]
    return LOOPS[row.name](q, row)
