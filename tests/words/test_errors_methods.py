"""Bad arguments of methods and combinators: (call, exception, words that the message must contain)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

import funattr as fa

from ..models import Thrice, Tokens
from .wrong import (
    Checkpointed,
    PartScripted,
    Row,
    conv,
    ids,
    image,
    mlp,
    refuses,
    scripted,
    text,
    tried,
    x,
)

TABLE: list[Row] = [
    # grad_cam
    (
        "channel_dim too large",
        lambda: fa.grad_cam(conv, image, layer="conv1", target=1, channel_dim=4),
        ValueError,
        ["channel_dim=4", "[4, 6, 8, 8]"],
    ),
    (
        "channel_dim is the batch",
        lambda: fa.grad_cam(conv, image, layer="conv1", target=1, channel_dim=0),
        ValueError,
        ["channel_dim=0", "batch"],
    ),
    (
        "channel_dim is the batch, from the end",
        lambda: fa.grad_cam(conv, image, layer="conv1", target=1, channel_dim=-4),
        ValueError,
        ["batch"],
    ),
    (
        "channel_dim of a wrong type",
        lambda: fa.grad_cam(conv, image, layer="conv1", target=1, channel_dim="last"),
        TypeError,
        ["str 'last'"],
    ),
    (
        "1-d value",
        lambda: fa.grad_cam(nn.Sequential(nn.Flatten(0)), torch.randn(4, 1), layer="0"),
        ValueError,
        ["[4]", "channel"],
    ),
    # the CAM family
    ("no channels", lambda: fa.eigen_cam(lambda v: v[:, 0], x, layer=None, channel_dim=2), ValueError, ["channel_dim=2"]),
    (
        "no space",
        lambda: fa.score_cam(mlp, x, layer="fc1", target=1),
        ValueError,
        ["score_cam(layer='fc1', target=1)", "0 spatial"],
    ),
    (
        "no score to share",
        lambda: fa.ablation_cam(conv, image, layer="conv1", target=lambda out: out[:, 0] * 0),
        ValueError,
        ["ablation_cam(layer='conv1', target=", "score of an example is 0"],
    ),
    *[
        (
            f"{cam.__name__} of no layer",
            lambda cam=cam: cam(conv, image, layer="conv9", target=1),
            ValueError,
            ["no layer 'conv9'"],
        )
        for cam in (fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam, fa.score_cam, fa.ablation_cam)
    ],
    # rules
    (
        "no relu",
        lambda: fa.guided_backprop(Tokens().eval(), torch.randn(2, 7, 4), target=1),
        ValueError,
        ["guided_backprop(target=1)", "no ReLU", "saliency"],
    ),
    ("no relu, deconv", lambda: fa.deconvnet(Thrice(), x, target=1), ValueError, ["deconvnet(target=1)", "no ReLU"]),
    (
        "checkpointed",  # the values saved for GELU's gradient would be taken for slopes, without a word
        lambda: fa.deep_lift(Checkpointed(False), x, target=1),
        ValueError,
        ["deep_lift(target=1)", "torch.utils.checkpoint", "use_checkpoint=False"],
    ),
    (
        "checkpointed, many baselines",
        lambda: fa.deep_lift_shap(Checkpointed(False), x, baselines=torch.randn(3, 6), layer="first", target=1),
        ValueError,
        ["deep_lift_shap(baselines=<tensor [3, 6]>, layer='first', target=1)", "torch.utils.checkpoint"],
    ),
    (
        "checkpointed by the old way",
        lambda: fa.gradient(Checkpointed(True), x, target=1),
        ValueError,
        ["torch.utils.checkpoint(use_reentrant=True)", "use_reentrant=False"],
    ),
    ("scripted", lambda: fa.guided_backprop(PartScripted(), x, target=1), ValueError, ["scripted or compiled"]),
    ("scripted whole", lambda: fa.deconvnet(scripted, x, target=1), ValueError, ["scripted or compiled"]),
    (
        "relu in an rnn",
        lambda: fa.guided_backprop(
            nn.Sequential(nn.RNN(4, 6, nonlinearity="relu")), torch.randn(2, 3, 4), target=lambda o: o[0][:, -1, 0]
        ),
        ValueError,
        ["nn.RNN", "fused"],
    ),
    # combinators
    (
        "misspelt mode",
        lambda: fa.guided_grad_cam(conv, image, layer="conv1", target=1, mode="bilinaer"),
        ValueError,
        ["mode='bilinaer'", "Did you mean 'bilinear'"],
    ),
    ("unknown mode", lambda: fa.interpolate(fa.grad_cam, mode="zzz"), ValueError, ["interpolate(mode='zzz')", "'nearest'"]),
    ("mode of a wrong type", lambda: fa.interpolate(fa.grad_cam, mode=["nearest"]), ValueError, ["['nearest']"]),
    (
        "mode for other dimensions",
        lambda: fa.guided_grad_cam(conv, image, layer="conv1", target=1, mode="linear"),
        ValueError,
        ["'linear'", "2 spatial", "'bilinear'"],
    ),
    (
        "no spatial dimensions",
        lambda: fa.guided_grad_cam(conv, image, layer="fc", target=1),
        ValueError,
        ["guided_grad_cam(layer='fc', target=1)", "0 spatial", "[N, C, *spatial]"],
    ),
    ("no size", lambda: fa.interpolate(torch.ones(1, 1, 2, 2)), ValueError, ["size=("]),
    ("not a method", lambda: fa.relu(3), TypeError, ["relu()", "int"]),
    ("not a method, second", lambda: fa.multiply(fa.gradient, "saliency"), TypeError, ["multiply()", "str"]),
    (
        "structures differ",
        lambda: fa.multiply(fa.gradient, fa.at_input(fa.gradient))(mlp, x, layer=["fc1"], target=1),
        ValueError,
        ["cannot be multiplied"],
    ),
    (
        "shapes differ",
        lambda: fa.multiply(fa.gradient, fa.at_input(fa.gradient))(mlp, x, layer="fc1", target=1),
        ValueError,
        ["[4, 8]", "[4, 6]"],
    ),
    ("not a method, noise", lambda: fa.noise_tunnel("saliency"), TypeError, ["noise_tunnel()", "str"]),
    ("not a method, targets", lambda: fa.each_target(None, [0, 1]), TypeError, ["each_target()", "NoneType"]),
    ("not a method, absolute", lambda: fa.absolute((fa.gradient,)), TypeError, ["absolute()", "tuple"]),
    ("not a method, normalize", lambda: fa.normalize([fa.gradient]), TypeError, ["normalize()", "list"]),
    ("not a method, sum", lambda: fa.sum_channels(1), TypeError, ["sum_channels()", "int"]),
    ("not a method, at_input", lambda: fa.at_input({}), TypeError, ["at_input()", "dict"]),
    ("neither a method nor a tensor", lambda: fa.interpolate("grad_cam"), TypeError, ["interpolate()", "str"]),
    ("no baselines to take", lambda: fa.mean_over_baselines(fa.gradient), TypeError, ["mean_over_baselines()", "gradient"]),
    ("no targets", lambda: fa.each_target(fa.gradient, []), ValueError, ["each_target()", "empty"]),
    ("one target", lambda: fa.each_target(fa.gradient, 3), TypeError, ["each_target()", "int 3"]),
    ("a name for targets", lambda: fa.each_target(fa.gradient, "argmax"), TypeError, ["each_target()", "'argmax'"]),
    (
        "a target among them",
        lambda: fa.each_target(fa.gradient, [0, 9])(mlp, x),
        ValueError,
        ["each_target(gradient)()", "9 is out of range"],
    ),
    (
        "targets and a target",
        lambda: fa.each_target(fa.gradient, [0, 1])(mlp, x, target=1),
        TypeError,
        ["each_target(gradient)(target=1)", "leave target out"],
    ),
    ("no samples", lambda: fa.noise_tunnel(fa.gradient, n_samples=0), ValueError, ["noise_tunnel(n_samples=0)", "at least 1"]),
    ("half a sample", lambda: fa.noise_tunnel(fa.gradient, n_samples=1.5), TypeError, ["float 1.5"]),
    ("no such moment", lambda: fa.noise_tunnel(fa.gradient, nt_type="smothgrad"), ValueError, ["Did you mean 'smoothgrad'"]),
    (
        "negative noise",
        lambda: fa.noise_tunnel(fa.gradient, stdevs=-1.0)(mlp, x, target=1),
        ValueError,
        ["noise_tunnel(gradient)(target=1)", "-1.0"],
    ),
    (
        "noise for two inputs",
        lambda: fa.noise_tunnel(fa.gradient, stdevs=(1.0, 1.0))(mlp, x, target=1),
        ValueError,
        ["2 entries for 1"],
    ),
    ("unknown argument", lambda: fa.multiply(fa.gradient, fa.saliency)(mlp, x, target=1, n_steps=3), TypeError, ["n_steps"]),
    # results
    ("nan result", lambda: fa.saliency(lambda v: (v - v).sqrt().sum(1), x), ValueError, ["saliency()", "attribution", "NaN"]),
    (
        "overflow",
        lambda: fa.input_x_gradient(lambda v: (v * 1e4 * v * 1e4).sum(1), x.half() + 3),
        ValueError,
        ["torch.float16"],
    ),
    # paths, baselines, steps
    (
        "no steps",
        lambda: fa.integrated_gradients(mlp, x, target=1, n_steps=0),
        ValueError,
        ["n_steps must be at least 1, got 0"],
    ),
    ("a step and a half", lambda: fa.conductance(mlp, x, target=1, n_steps=1.5), TypeError, ["n_steps", "float 1.5"]),
    (
        "misspelt rule",
        lambda: fa.internal_influence(mlp, x, layer="fc1", target=1, quadrature="gauss_legendre"),
        ValueError,
        ["internal_influence(layer='fc1', target=1, quadrature='gauss_legendre')", "Did you mean 'gausslegendre'"],
    ),
    (
        "a rule of names",
        lambda: fa.integrated_gradients(mlp, x, target=1, quadrature=lambda n: (["a"] * n, [1 / n] * n)),
        TypeError,
        ["integrated_gradients(target=1, quadrature=", "numbers", "list ['a'"],
    ),
    (
        "a rule that does not sum to 1",
        lambda: fa.integrated_gradients(mlp, x, target=1, quadrature=lambda n: ([0.5], [2.0])),
        ValueError,
        ["sum to 2"],
    ),
    ("chunks in words", lambda: fa.conductance(mlp, x, target=1, chunk_size="big"), ValueError, ["an int, 'auto' or None"]),
    ("no chunks", lambda: fa.feature_ablation(mlp, x, target=1, chunk_size=0), ValueError, ["chunk_size must be at least 1"]),
    (
        "baselines of another shape",
        lambda: fa.integrated_gradients(mlp, x, target=1, baselines=torch.zeros(3, 6)),
        ValueError,
        ["baselines=<tensor [3, 6]>", "do not broadcast to [4, 6]"],
    ),
    (
        "references without a dimension, by their own shape",
        lambda: fa.mean_over_baselines(fa.deep_lift)(conv, image, target=1, baselines=torch.zeros(5, 8, 8)),
        ValueError,
        ["baselines [5, 8, 8] do not broadcast to [5, 3, 8, 8]"],
    ),
    (
        "another class in each sample",
        lambda: fa.noise_tunnel(fa.absolute(fa.each_target(fa.gradient, [1, "argmax"]))),
        ValueError,
        ['the "argmax" in absolute(each_target(gradient))', "or a tunnel to each_target"],
    ),
    (
        "another class in each sample, of a part",
        lambda: fa.noise_tunnel(fa.multiply(functools.partial(fa.saliency, target="argmax"), fa.gradient)),
        ValueError,
        ['the "argmax" in multiply(saliency, gradient)', "pass target='argmax' to the tunnel"],
    ),
    (
        "another class in each call of a metric",
        lambda: fa.metrics.randomisation(fa.multiply(functools.partial(fa.saliency, target="argmax"), fa.gradient), mlp, x),
        ValueError,
        ['the "argmax" in multiply(saliency, gradient)', "pass target='argmax' to the metric"],
    ),
    ("a group for each id", lambda: fa.sum_groups(fa.gradient, [0, 10**15]), ValueError, [f"holds {10**15}", "torch.unique("]),
    (
        "baselines as nested lists",
        lambda: fa.deep_lift_shap(lambda a, b: (a * b).sum(1), (x, x), baselines=([[0.0] * 6], [[1.0] * 6])),
        ValueError,
        ["(a tuple of 2)", "got a tuple of 2 that holds list [[0.0"],
    ),
    (
        "baselines in a tuple",
        lambda: fa.deep_lift(mlp, x, target=1, baselines=(torch.zeros(40, 6),)),
        TypeError,
        ["numbers or tensors, got tuple (tensor([[0., 0.", "..."],
    ),
    ("nan baselines", lambda: fa.deep_lift(mlp, x, target=1, baselines=x * float("nan")), ValueError, ["baselines hold NaN"]),
    (
        "complex baselines",
        lambda: fa.integrated_gradients(mlp, x, target=1, baselines=x[:1] * 1j),
        ValueError,
        ["torch.complex64", "torch.float32", "real"],
    ),
    (
        "complex baselines at a layer",
        lambda: fa.feature_ablation(mlp, x, layer="fc1", target=1, baselines=torch.zeros(1, 8) * 1j),
        ValueError,
        ["torch.complex64", "'fc1'", "torch.float32"],
    ),
    (
        "baselines without their dimension",
        lambda: fa.deep_lift_shap(mlp, x, target=1, baselines=x[0]),
        ValueError,
        ["baselines[None]"],
    ),
    (
        "a baseline of None for ids",
        lambda: fa.integrated_gradients(text, ids, layer="embedding", target=1, baselines=None),
        ValueError,
        ["integrated_gradients(layer='embedding', target=1, baselines=None)", "nothing to compare"],
    ),
    (
        "no baseline for any ids",
        lambda: fa.convergence_delta(torch.ones(4, 7, 5), text, ids, target=1, baselines=None),
        ValueError,
        ["nothing to compare"],
    ),
    ("no baselines", lambda: fa.gradient_shap(mlp, x, target=1, baselines=x[:0]), ValueError, ["empty distribution"]),
    ("endless noise", lambda: fa.gradient_shap(mlp, x, target=1, baselines=x, stdevs=float("inf")), ValueError, ["inf"]),
    (
        "noise for an input of another name",
        lambda: fa.gradient_shap(lambda a, b: (a * b).sum(1), {"a": x, "b": x}, baselines=0.0, stdevs={"a": 0.1, "c": 0.1}),
        ValueError,
        ["stdevs has the names 'a', 'c', and x 'a', 'b'"],
    ),
    (
        "a seed for a generator",
        lambda: fa.gradient_shap(mlp, x, target=1, baselines=x, generator=3),
        TypeError,
        ["gradient_shap(target=1, baselines=<tensor [4, 6]>, generator=3)", "torch.Generator", "int 3"],
    ),
    (
        "an attribution_func that is none",
        lambda: fa.deep_lift(mlp, x, target=1, attribution_func="abs"),
        TypeError,
        ["deep_lift(target=1, attribution_func='abs')", "str 'abs'"],
    ),
    (
        "an attribution_func that returns nothing",
        lambda: fa.deep_lift_shap(mlp, x, target=1, baselines=x, attribution_func=lambda m, v, v0: None),
        TypeError,
        ["attribution_func returned NoneType"],
    ),
    (
        "an attribution_func that loses the rows",
        lambda: fa.deep_lift(mlp, x, target=1, attribution_func=lambda m, v, v0: m.sum(0)),
        ValueError,
        ["attribution_func returned a tensor [6]", "[4, 6]"],
    ),
    ("no attributions", lambda: fa.convergence_delta(0.0, mlp, x, target=1), TypeError, ["convergence_delta(", "float 0.0"]),
    (
        "attributions of others",
        lambda: fa.convergence_delta(x[:3], mlp, x, target=1),
        ValueError,
        ["[3, 6]", "4 examples"],
    ),
    ("a mask of floats", lambda: fa.feature_ablation(mlp, x, target=1, feature_mask=x), TypeError, ["feature_mask.long()"]),
    (
        "a mask of another shape",
        lambda: fa.feature_ablation(mlp, x, target=1, feature_mask=torch.arange(5)),
        ValueError,
        ["feature_mask has the shape [5]", "[4, 6]"],
    ),
]


@tried(TABLE)
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    refuses(call, kind, words)
