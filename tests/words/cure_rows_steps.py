"""The same of what runs a model at many points, and of metrics. See `cures.py`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Mlp
from .cure_rows import F, M, both, conv, ids, image, inside, mlp, phi, side, steps, text, times, two, x
from .cures import Cure
from .wrong import scripted


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp() if bool(x.sum() > 0) else x.tanh()


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x.exp(), x.tanh())


class Counts(nn.Module):
    def __init__(self, by_shape: bool) -> None:
        super().__init__()
        self.by_shape = by_shape

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() / (x.shape[0] if self.by_shape else len(x))


# the methods' own arguments
table, score = torch.randn(2, 5), functools.partial(torch.sum, dim=1)


def ablated(**options: Any) -> Any:
    return F.feature_ablation(mlp, x, target=1, **options)


def path(**options: Any) -> Any:
    return F.integrated_gradients(mlp, x, target=1, **options)


STEPS = [
    Cure(
        "_steps/coalitions.py",
        "pass torch.as_tensor(coalitions).bool()",
        lambda: F.game(mlp, x, target=1).value(np.ones((2, 6))),
        lambda: [
            F.game(mlp, x, target=1).value(torch.as_tensor(coalitions).bool())
            for coalitions in (np.ones((2, 6)), torch.ones(2, 6), [[True] * 6])
        ],
    ),
    Cure(
        "_steps/windows.py",
        "give each from 1 to the window's",
        lambda: F.occlusion(mlp, x, window=2, strides=3, target=1),
        lambda: F.occlusion(mlp, x, window=2, strides=2, target=1),
    ),
    Cure(
        "_steps/windows.py",
        "give one for each, channels too",
        lambda: F.occlusion(conv, image, window=(2, 2), target=1),
        lambda: F.occlusion(conv, image, window=(3, 4, 4), strides=(3, 4, 4), target=1),
    ),
    Cure(
        "_steps/windows.py",
        "choose a layer with the batch first",
        lambda: F.occlusion(steps, times, layer=fa.input_of("rnn"), window=(1, 2), target=1),
        lambda: F.occlusion(steps, times, layer="before", window=(1, 2), target=1),
    ),
    Cure(
        "_steps/windows.py",
        "so there is nothing to compare: give one",
        lambda: F.occlusion(two, (x, x), window=(None, None)),
        lambda: F.occlusion(two, (x, x), window=(2, None)),
    ),
    Cure(
        "_steps/draws.py",
        "pass torch.Generator().manual_seed(0)",
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=3),
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=torch.Generator().manual_seed(0)),
    ),
    Cure(
        "_steps/draws.py",
        "draw coalitions outside and ask fa.game for their values",
        lambda: torch.func.vmap(lambda v: F.shapley(mlp, v[None], target=1, n_samples=20, sampling="permutation"))(x),
        lambda: F.game(mlp, x, target=1).value(torch.rand(5, 6) < 0.5),
    ),
    Cure("_steps/plan.py", "leave it out to ablate every feature", lambda: ablated(feature_mask=(None,)), lambda: ablated()),
    Cure(
        "_steps/plan.py",
        "torch.from_numpy(feature_mask)",
        lambda: ablated(feature_mask=side.numpy()),
        lambda: ablated(feature_mask=torch.from_numpy(side.numpy())),
    ),
    Cure(
        "_steps/plan.py",
        "pass feature_mask.long()",
        lambda: ablated(feature_mask=side.float()),
        lambda: ablated(feature_mask=side.float().long()),
    ),
    Cure(
        "_methods/shapley.py",
        "pass a larger kernel_width, or more n_samples",
        lambda: F.lime(mlp, x, target=1, kernel_width=1e-3),
        lambda: [F.lime(mlp, x, target=1, kernel_width=0.1), F.lime(mlp, x, target=1, n_samples=300)],
    ),
    Cure(
        "_steps/matching.py",
        "pass {}[...{}]",
        lambda: F.feature_ablation(text, ids, layer="embedding", feature_mask=torch.arange(7), target=1),
        lambda: F.feature_ablation(text, ids, layer="embedding", feature_mask=torch.arange(7)[..., None], target=1),
    ),
    Cure(
        "_methods/gradient_shap.py",
        "bind it to the model, with functools.partial",
        lambda: F.gradient_shap(two, (x, torch.tensor(0.5)), baselines=0.0),
        lambda: F.gradient_shap(functools.partial(two, b=torch.tensor(0.5)), x, baselines=0.0),
    ),
    Cure(
        "_steps/without.py",
        "choose layers side by side, or ask for each on its own",
        lambda: F.feature_ablation(mlp, x, layer=["fc1", "fc2"], target=1),
        lambda: [F.feature_ablation(mlp, x, layer=name, target=1) for name in ("fc1", "fc2")],
    ),
    Cure(
        "_steps/quadrature.py",
        "pass rtol too, rtol=1e-2",
        lambda: path(return_error=True),
        lambda: F.integrated_gradients(both, x, target=1, return_error=True, rtol=1e-2),
    ),
    Cure(
        "_steps/quadrature.py",
        "leave quadrature={} out",
        lambda: path(rtol=1e-2, quadrature="riemann_left"),
        lambda: path(rtol=1e-2, n_steps=500),
    ),
    Cure(
        "_steps/quadrature.py",
        "pass n_steps={} or more",
        lambda: path(rtol=1e-2, n_steps=3),
        lambda: F.integrated_gradients(both, x, target=1, rtol=1e-2, n_steps=15),
    ),
    Cure(
        "_steps/adaptive.py",
        "Allow more with n_steps, or pass return_error=True",
        lambda: path(rtol=1e-9, n_steps=15),
        lambda: [path(rtol=1e-2, n_steps=2000), path(rtol=1e-2, n_steps=2000, return_error=True)],
    ),
    Cure(
        "_steps/quadrature.py",
        "call it outside, or say how many nodes to take",
        lambda: torch.func.vmap(lambda v: F.integrated_gradients(mlp, v[None], target=1, rtol=1e-2))(x),
        lambda: [
            path(rtol=1e-2, n_steps=2000),
            torch.func.vmap(lambda v: F.integrated_gradients(mlp, v[None], target=1, n_steps=4))(x),
        ],
    ),
    Cure(
        "_steps/adaptive.py",
        "choose a layer with the batch first, or one example at a time",
        lambda: F.integrated_gradients(steps, times, layer=fa.input_of("rnn"), target=1, rtol=1e-2),
        lambda: [
            F.integrated_gradients(steps, times, layer="before", target=1, rtol=1e-2, n_steps=500),
            F.integrated_gradients(steps, times[:1], target=1, rtol=1e-2, n_steps=500),
        ],
    ),
    Cure(
        "_steps/baselines.py",
        "pass at least one reference",
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x[:0]),
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x[:1]),
    ),
    Cure(
        "_steps/baselines.py",
        "pass baselines[None]",
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=x[0]),
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=x[0][None]),
    ),
    Cure(
        "_steps/matching.py",
        "has the names {}, and {} {}: give one for each",
        lambda: F.gradient_shap(lambda a, b: two(a, b), {"a": x, "b": x}, baselines=0.0, stdevs={"a": 0.1, "c": 0.1}),
        lambda: F.gradient_shap(lambda a, b: two(a, b), {"a": x, "b": x}, baselines=0.0, stdevs={"a": 0.1, "b": 0.1}),
    ),
    Cure(
        "_steps/matching.py",
        "entries for {} floating-point tensors",
        lambda: F.noise_tunnel(fa.gradient, n_samples=2, stdevs=(1.0, 1.0))(mlp, x, target=1),
        lambda: F.noise_tunnel(fa.gradient, n_samples=2, stdevs=(1.0,))(mlp, x, target=1),
    ),
    Cure(
        "_steps/matching.py",
        "give {} the same structure",
        lambda: ablated(baselines=(0.0, 1.0)),
        lambda: ablated(baselines=0.0),
    ),
    Cure(
        "_steps/matching.py",
        "give one (for ids, a token's)",
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=None),
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=3, n_steps=2),
    ),
    Cure(
        "_steps/matching.py",
        "torch.from_numpy(baselines)",
        lambda: path(baselines=x.numpy()),
        lambda: path(baselines=torch.from_numpy(x.numpy())),
    ),
    Cure("_steps/matching.py", "give real ones", lambda: path(baselines=x[:1] * 1j), lambda: path(baselines=(x[:1] * 1j).real)),
    Cure("_steps/matching.py", "give finite numbers", lambda: path(baselines=x / 0), lambda: path(baselines=torch.zeros(4, 6))),
    Cure(
        "_steps/matching.py",
        "give whole numbers that it can hold",
        lambda: F.feature_ablation(text, ids, target=1, baselines=0.5),
        lambda: F.feature_ablation(text, ids, target=1, baselines=3),
    ),
    Cure(
        "_steps/matching.py",
        "give each reference x's own shape",
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=torch.zeros(3, 5)),
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=torch.zeros(3, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "several to fa.mean_over_baselines(method)",
        lambda: path(baselines=torch.zeros(3, 6)),
        lambda: F.mean_over_baselines(F.integrated_gradients)(mlp, x, target=1, baselines=torch.zeros(3, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "give each dimension that size or 1",
        lambda: ablated(feature_mask=torch.arange(5)),
        lambda: ablated(feature_mask=torch.arange(6)),
    ),
    Cure(
        "_steps/matching.py",
        "pass at least one row, [1, 1, ...]",
        lambda: ablated(baselines=torch.zeros(0, 1, 6)),
        lambda: ablated(baselines=torch.zeros(1, 1, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "baselines has the shape {}, which does not broadcast to {} {}: give ",
        lambda: ablated(baselines=torch.zeros(3, 6)),
        lambda: ablated(baselines=torch.zeros(1, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "pass baselines[:, None]",
        lambda: ablated(baselines=torch.zeros(3, 6)),
        lambda: ablated(baselines=torch.zeros(3, 6)[:, None]),
    ),
    Cure(
        "_export/program.py",
        "pass n_steps= in its place",
        lambda: F.export(fa.integrated_gradients, mlp, x, target=1, rtol=1e-2),
        lambda: F.export(fa.integrated_gradients, mlp, x, target=1, n_steps=2),
    ),
    Cure(
        "_export/trace.py",
        "export the method inside it, and draw outside",
        lambda: F.export(fa.noise_tunnel(fa.gradient), mlp, x, target=1),
        lambda: F.export(fa.gradient, mlp, x, target=1),
    ),
    Cure(
        "_export/trace.py",
        "write it with torch.where or a mask",
        lambda: F.export(fa.gradient, Branches(), x, target=1),
        lambda: F.export(fa.gradient, Chooses(), x, target=1),
    ),
    Cure(
        "_export/trace.py",
        "write x.shape[0], or pass dynamic_batch=False",
        lambda: F.export(fa.gradient, Counts(False), x, target=1),
        lambda: [
            F.export(fa.gradient, Counts(True), x, target=1),
            F.export(fa.gradient, Counts(False), x, target=1, dynamic_batch=False),
        ],
    ),
    Cure(
        "_inspect/layers.py",
        "pass the nn.Module, or bind",
        lambda: F.layers(lambda v: mlp(v), x),
        lambda: [F.layers(mlp, x), F.layers(functools.partial(mlp), x)],
    ),
    Cure(
        "_inspect/layers.py",
        "pass one tuple",
        lambda: F.layers(mlp, {"x": x}, x),
        lambda: F.layers(nn.Bilinear(6, 6, 2), (x, x)),
    ),
    Cure(
        "masks/_groups.py",
        "pass [N, C, *spatial], or sizes",
        lambda: F.masks.grid(x, 2),
        lambda: [F.masks.grid(image, 2), F.masks.grid((8, 8), 2)],
    ),
    Cure(
        "masks/_groups.py",
        "give one number of at least 1",
        lambda: F.masks.grid((8, 8), (2, 2, 2)),
        lambda: F.masks.grid((8, 8), (2, 2)),
    ),
    Cure(
        "metrics/_agreement.py",
        "leave it out for {}",
        lambda: M.agreement(phi, phi, kind="spearman", k=3),
        lambda: M.agreement(phi, phi, kind="spearman"),
    ),
    Cure(
        "metrics/_agreement.py",
        "a map is brought to another size by fa.interpolate",
        lambda: M.agreement(phi, phi[..., :4, :4]),
        lambda: M.agreement(phi, F.interpolate(phi[..., :4, :4], phi)),
    ),
    Cure(
        "metrics/_compare.py",
        "name at least one",
        lambda: M.compare({}, {"d": M.deletion}, conv, image),
        lambda: M.compare({"g": fa.gradient}, {"d": M.deletion}, conv, image, target=1),
    ),
    Cure(
        "metrics/_infidelity.py",
        "leave it out, which puts features at their baselines",
        lambda: M.infidelity(torch.randn(4, 7), text, ids, target=1, perturb=0.1),
        lambda: M.infidelity(torch.randn(4, 7), text, ids, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass torch.from_numpy of it",
        lambda: M.deletion(phi.numpy(), conv, image, target=1),
        lambda: M.deletion(torch.from_numpy(phi.numpy()), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass the function, such as fa.gradient",
        lambda: M.deletion("gradient", conv, image, target=1),
        lambda: M.deletion(fa.gradient, conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "take their .abs()",
        lambda: M.deletion(phi + 0j, conv, image, target=1),
        lambda: M.deletion((phi + 0j).abs(), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "look at the method's result",
        lambda: M.deletion(phi / 0, conv, image, target=1),
        lambda: M.deletion((phi / 0).nan_to_num(), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass the method itself, with its options bound",
        lambda: M.sensitivity_max(phi, conv, image, target=1),
        lambda: M.sensitivity_max(functools.partial(fa.gradient), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "give each dimension that size or 1",
        lambda: M.deletion(phi[..., :7], conv, image, target=1),
        lambda: M.deletion(phi[..., :1], conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "give one number for each feature",
        lambda: M.infidelity(phi[:, :1], conv, image, target=1),
        lambda: M.infidelity(phi, conv, image, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "put what a function does besides into a module",
        lambda: M.randomisation(fa.gradient, lambda v: 2 * mlp(v), x, target=1),
        lambda: M.randomisation(fa.gradient, nn.Sequential(mlp, nn.Tanh()), x, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "pass the model before it was",
        lambda: M.randomisation(fa.gradient, scripted, x, target=1),
        lambda: M.randomisation(fa.gradient, Mlp().eval(), x, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "pass its name, {}",
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=[conv.conv1]),
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=["conv1"]),
    ),
    Cure(
        "metrics/_regions.py",
        "pass that one",
        lambda: M.pointing_game((phi, phi), regions=inside),
        lambda: M.pointing_game(phi, regions=inside),
    ),
    Cure(
        "metrics/_regions.py",
        "regions > 0",
        lambda: M.pointing_game(phi, regions=inside.float()),
        lambda: M.pointing_game(phi, regions=inside.float() > 0),
    ),
    Cure(
        "metrics/_regions.py",
        "torch.as_tensor(regions, dtype=torch.bool)",
        lambda: M.relevance_mass(phi, regions=inside.numpy()),
        lambda: M.relevance_mass(phi, regions=torch.as_tensor(inside.numpy(), dtype=torch.bool)),
    ),
    Cure(
        "metrics/_regions.py",
        "regions must be a bool tensor",
        lambda: M.pointing_game(phi, regions=inside.float()),
        lambda: M.pointing_game(phi, regions=inside),
    ),
    Cure(
        "metrics/_regions.py",
        "pass regions[:, None]",
        lambda: M.relevance_mass(phi[:2], regions=inside.expand(2, 8, 8)),
        lambda: M.relevance_mass(phi[:2], regions=inside.expand(2, 8, 8)[:, None]),
    ),
    Cure(
        "metrics/_regions.py",
        "give each dimension that size or 1",
        lambda: M.relevance_mass(phi, regions=inside[:, :4]),
        lambda: [M.relevance_mass(phi, regions=inside), M.relevance_mass(phi, regions=inside[:, :1])],
    ),
    Cure(
        "metrics/_sensitivity.py",
        "name a layer after the embedding",
        lambda: M.sensitivity_max(fa.gradient, text, ids, target=1),
        lambda: M.sensitivity_max(fa.gradient, text, ids, layer="embedding", target=1),
    ),
    Cure(
        "metrics/_shares.py",
        "pass fractions.tolist()",
        lambda: M.sufficiency(phi, conv, image, target=1, fractions=np.ones(2)),
        lambda: M.sufficiency(phi, conv, image, target=1, fractions=np.ones(2).tolist()),
    ),
    Cure(
        "metrics/_shares.py",
        "name at least one, above 0",
        lambda: M.sufficiency(table, score, table, fractions=()),
        lambda: M.sufficiency(table, score, table, fractions=(0.5,)),
    ),
]
