"""Bad input: (call, exception, words that the message must contain). The call as written comes first, the cure last."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import funattr as fa

from .models import Conv, Keywords, Mlp, Recurrent, Residual, Text, Thrice, Tokens, Two, Writes

x = torch.randn(4, 6)
image = torch.randn(4, 3, 8, 8)
ids = torch.randint(0, 20, (4, 7))
mlp, conv, net, text = Mlp().eval(), Conv().eval(), Residual().eval(), Text().eval()
scripted = torch.jit.trace(Mlp().eval(), x)
frozen_script = torch.jit.freeze(scripted)


class PartScripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = scripted
        self.head = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(self.body(x)))  # type: ignore[no-any-return]


class Frozen(nn.Module):
    """Runs without gradients, whatever the caller wants."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp()

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).detach())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 5), nn.Linear(6, 5)
        self.many = nn.ModuleList([nn.Linear(6, 5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 2 * x


class Checkpointed(nn.Module):
    """Runs its activation again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.act, self.first(x), use_reentrant=self.reentrant)
        return self.head(h)  # type: ignore[no-any-return]


attention = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)).eval()
in_place = Mlp().eval()
if hasattr(in_place, "compile"):  # since torch 2.2
    in_place.fc1.compile(backend="eager")

TABLE: list[tuple[str, Any, type[Exception], list[str]]] = [
    # x
    ("list", lambda: fa.saliency(mlp, x.tolist(), target=1), TypeError, ["saliency(target=1)", "got list", "tuple(x)"]),
    (
        "numpy",
        lambda: fa.saliency(mlp, x.numpy(), target=1),
        TypeError,
        ["saliency(target=1)", "got ndarray", "torch.from_numpy"],
    ),
    ("none", lambda: fa.saliency(mlp, None, target=1), TypeError, ["saliency(target=1)", "got NoneType"]),
    ("0-d x", lambda: fa.saliency(mlp, torch.tensor(1.0)), ValueError, ["saliency()", "0-d", "x[None]"]),
    ("empty tuple", lambda: fa.saliency(mlp, ()), TypeError, ["no tensor"]),
    ("tuple of strings", lambda: fa.saliency(mlp, ("a",)), TypeError, ["no tensor"]),
    ("nan", lambda: fa.saliency(mlp, x * float("nan"), target=1), ValueError, ["[4, 6]", "NaN"]),
    ("inf", lambda: fa.grad_cam(mlp, x / 0, layer="fc1", target=1), ValueError, ["grad_cam(layer='fc1', target=1)", "inf"]),
    ("nan in a tuple", lambda: fa.saliency(Two(), (image, x * float("nan")), target=1), ValueError, ["NaN"]),
    ("integers", lambda: fa.saliency(mlp, x.long(), target=1), TypeError, ["torch.int64", "layer="]),
    ("integer ids", lambda: fa.input_x_gradient(text, ids, target=1), TypeError, ["torch.int64", "embedding"]),
    ("bools", lambda: fa.gradient(mlp, x > 0, target=1), TypeError, ["torch.bool"]),
    # model
    (
        "no model",
        lambda: fa.saliency("resnet18", x, target=1),
        TypeError,
        ["saliency(target=1)", "str 'resnet18'", "nn.Module"],
    ),
    ("a number", lambda: fa.grad_cam(3, image, layer="conv1"), TypeError, ["int 3"]),
    ("a class", lambda: fa.grad_cam(Conv, image, layer="conv1"), TypeError, ["the class Conv, not an instance"]),
    # layers
    (
        "no layer",
        lambda: fa.grad_cam(conv, image, layer="conv9"),
        ValueError,
        ["grad_cam(layer='conv9'): Conv has no layer 'conv9'", "Did you mean 'conv"],
    ),
    (
        "no inner layer",
        lambda: fa.grad_cam(net, image, layer="layer1.conv9", target=1),
        ValueError,
        ["Residual has no layer 'layer1.conv9'", "'layer1.conv"],
    ),
    (
        "nothing like it",
        lambda: fa.activation(mlp, x, layer="zzz"),
        ValueError,
        ["activation(layer='zzz')", "It has 'fc1', 'act1'"],
    ),
    ("a parameter", lambda: fa.activation(mlp, x, layer="fc1.weight"), ValueError, ["no layer 'fc1.weight'"]),
    ("an int", lambda: fa.activation(mlp, x, layer=1), TypeError, ["got int 1", "input_of"]),
    ("a class", lambda: fa.activation(mlp, x, layer=nn.Linear), TypeError, ["the class Linear, not an instance"]),
    ("an empty list", lambda: fa.activation(mlp, x, layer=[]), ValueError, ["empty"]),
    ("one of several", lambda: fa.gradient(mlp, x, layer=["fc1", "fc9"], target=1), ValueError, ["no layer 'fc9'"]),
    (
        "a name in a lambda",
        lambda: fa.grad_cam(lambda v: conv(v), image, layer="conv1", target=1),
        ValueError,
        ["plain function", "module object", "functools.partial"],
    ),
    ("not run", lambda: fa.gradient(Unused(), x, layer="unused", target=1), ValueError, ["layer 'unused' did not run"]),
    (
        "not of this model",
        lambda: fa.gradient(mlp, x, layer=nn.Linear(2, 2), target=1),
        ValueError,
        ["layer <Linear> did not run", "part of this model"],
    ),
    (
        "a list of modules",
        lambda: fa.gradient(Unused(), x, layer="many", target=1),
        ValueError,
        ["did not run", "ModuleList is a container"],
    ),
    (
        "inside attention",
        lambda: fa.activation(attention, torch.randn(2, 3, 6), layer="0.self_attn.out_proj"),
        ValueError,
        ["did not run", "nn.MultiheadAttention"],
    ),
    (
        "inside a scripted part",
        lambda: fa.activation(PartScripted(), x, layer="body.fc1"),
        ValueError,
        ["did not run", "scripted"],
    ),
    (
        "inside a scripted whole",
        lambda: fa.gradient(scripted, x, layer=fa.input_of("fc1"), target=1),
        ValueError,
        ["gradient(layer=input_of('fc1'), target=1)", "did not run", "scripted"],
    ),
    (
        "no such layer in a scripted whole",
        lambda: fa.gradient(scripted, x, layer="fc9", target=1),
        ValueError,
        ["no layer 'fc9'", "Did you mean 'fc3'"],
    ),
    ("no layers", lambda: fa.ablation_cam(conv, image, layer=[], target=1), ValueError, ["ablation_cam(layer=[], target=1)"]),
    (
        "a neuron",
        lambda: fa.gradient(mlp, x, layer="fc3", target=fa.neuron("fc1", 7)),
        ValueError,
        ["gradient(layer='fc3', target=neuron('fc1', 7))"],
    ),
    (
        "inside a frozen script",
        lambda: fa.deep_lift(frozen_script, x, target=1),
        ValueError,
        ["scripted or compiled"],
    ),
    (
        "several runs",
        lambda: fa.gradient(Thrice(), x, layer="inner", target=1),
        ValueError,
        ["layer 'inner' ran 3 times", "output_of('inner', call=0)", "call=-1"],
    ),
    (
        "several runs, inputs",
        lambda: fa.activation(Thrice(), x, layer=fa.input_of("inner")),
        ValueError,
        ["ran 3 times", "input_of('inner', call=0)"],
    ),
    (
        "no such run",
        lambda: fa.gradient(Thrice(), x, layer=fa.output_of("inner", call=3), target=1),
        ValueError,
        ["ran 3 times", "call=3 does not exist", "0 to 2"],
    ),
    (
        "no such run from the end",
        lambda: fa.gradient(Thrice(), x, layer=fa.output_of("inner", call=-4), target=1),
        ValueError,
        ["ran 3 times", "call=-4"],
    ),
    ("call of a wrong type", lambda: fa.output_of("inner", call="last"), TypeError, ["output_of(call='last')", "integer"]),  # type: ignore[arg-type]
    ("selector of a wrong type", lambda: fa.input_of(3), TypeError, ["input_of()", "got int 3"]),  # type: ignore[arg-type]
    (
        "integers at the layer",
        lambda: fa.gradient(text, ids, layer=fa.input_of("embedding"), target=1),
        TypeError,
        ["layer 'embedding'", "torch.int64"],
    ),
    (
        "the score does not depend",
        lambda: fa.gradient(Keywords(), x, layer="last", target=lambda out: out["features"].sum(1)),
        ValueError,
        ["layer 'last'", "does not depend"],
    ),
    ("detached behind", lambda: fa.gradient(Detached(), x, layer="body", target=1), ValueError, ["layer 'body'", "detach"]),
    ("runs under no_grad", lambda: fa.saliency(Frozen(), x, target=1), ValueError, ["the input", "torch.no_grad"]),
    (
        "runs under no_grad, layer",
        lambda: fa.grad_cam(Frozen(), x, layer="inner.fc1", target=1),
        ValueError,
        ["layer 'inner.fc1'", "torch.no_grad"],
    ),
    # targets
    ("missing", lambda: fa.saliency(mlp, x), ValueError, ["saliency()", "[4, 5]", "target=3"]),
    ("out of range", lambda: fa.saliency(mlp, x, target=5), ValueError, ["target 5 is out of range", "0 to 4"]),
    ("out of range from the end", lambda: fa.saliency(mlp, x, target=-6), ValueError, ["target -6 is out of range"]),
    ("one of them", lambda: fa.saliency(mlp, x, target=torch.tensor([0, 1, 2, 5])), ValueError, ["target 5 is out of range"]),
    ("one of a list", lambda: fa.saliency(mlp, x, target=[0, 1, 2, 7]), ValueError, ["target 7 is out of range"]),
    ("too few", lambda: fa.saliency(mlp, x, target=[0, 1]), ValueError, ["2 entries for 4 examples"]),
    ("too few in a tensor", lambda: fa.saliency(mlp, x, target=torch.tensor([0, 1])), ValueError, ["[2]", "[4]"]),
    ("two dimensions", lambda: fa.saliency(mlp, x, target=torch.zeros(4, 1, dtype=torch.long)), ValueError, ["[4, 1]", "[4]"]),
    ("floats", lambda: fa.saliency(mlp, x, target=torch.zeros(4)), TypeError, ["torch.float32", "target.long()"]),
    ("bool", lambda: fa.saliency(mlp, x, target=True), TypeError, ["bool True"]),
    ("float", lambda: fa.saliency(mlp, x, target=1.0), TypeError, ["float 1.0"]),
    ("a name", lambda: fa.saliency(mlp, x, target="cat"), ValueError, ["'cat'", "'argmax'"]),
    ("mixed list", lambda: fa.saliency(mlp, x, target=[1, (1,), 2, 3]), TypeError, ["ints only"]),
    ("tuple too long", lambda: fa.saliency(mlp, x, target=(1, 2)), ValueError, ["(1, 2)", "[4, 5]"]),
    ("tuple of floats", lambda: fa.saliency(mlp, x, target=(1.0,)), TypeError, ["float 1.0"]),
    ("list of long tuples", lambda: fa.saliency(mlp, x, target=[(1, 2)] * 4), ValueError, ["(1, 2)"]),
    (
        "needless",
        lambda: fa.saliency(lambda v: v.sum(1), x, target=1),
        ValueError,
        ["one value per example", "leave the target out"],
    ),
    ("too little", lambda: fa.saliency(nn.Identity(), image, target=1), ValueError, ["[4, 3, 8, 8]", "tuple of 3"]),
    ("argmax of maps", lambda: fa.saliency(nn.Identity(), image, target="argmax"), ValueError, ["'argmax'", "tuple of 3"]),
    ("0-d output", lambda: fa.saliency(lambda v: v.sum(), x), ValueError, ["0-d", "per example"]),
    ("another batch", lambda: fa.saliency(lambda v: v[:2], x, target=1), ValueError, ["2 values for the 4 examples"]),
    ("callable gives a number", lambda: fa.saliency(mlp, x, target=lambda out: 1.0), TypeError, ["float 1.0", "tensor [N]"]),
    ("callable gives a matrix", lambda: fa.saliency(mlp, x, target=lambda out: out), ValueError, ["[4, 5]", "[N]"]),
    (
        "callable gives a constant",
        lambda: fa.saliency(mlp, x, target=lambda out: torch.ones(4)),
        ValueError,
        ["no gradient", "does not depend"],
    ),
    ("two outputs", lambda: fa.saliency(Pair(), x, target=1), ValueError, ["tuple with 2 tensors", "callable"]),
    ("no outputs", lambda: fa.saliency(lambda v: None, x, target=1), ValueError, ["NoneType with no tensors"]),
    # neurons
    ("neuron of no layer", lambda: fa.gradient(mlp, x, target=fa.neuron("fc9", 1)), ValueError, ["no layer 'fc9'"]),
    (
        "neuron out of range",
        lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", 8)),
        ValueError,
        ["index 8 is out of range", "0 to 7"],
    ),
    (
        "neuron in a map",
        lambda: fa.gradient(conv, image, target=fa.neuron("conv1", 1)),
        ValueError,
        ["index=1", "[4, 6, 8, 8]", "slices"],
    ),
    ("neuron with too many", lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", (1, slice(2)))), ValueError, ["more entries"]),
    (
        "neuron of nothing",
        lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", (slice(9, 12),))),
        ValueError,
        ["selects nothing"],
    ),
    (
        "neuron of the whole batch",
        lambda: fa.integrated_gradients(mlp, x, target=fa.neuron("fc1", lambda v: v[:, 1].sum())),
        ValueError,
        ["1 values for the 4 examples", "must be the batch"],
    ),
    ("neuron index", lambda: fa.neuron("fc1", 1.5), TypeError, ["neuron()", "float 1.5"]),  # type: ignore[arg-type]
    ("neuron layer", lambda: fa.neuron(3, 1), TypeError, ["neuron()", "int 3"]),  # type: ignore[arg-type]
    (
        "neuron of a nested value",
        lambda: fa.gradient(Recurrent(), torch.randn(2, 3, 4), target=fa.neuron("lstm", 1)),
        ValueError,
        ["3 tensors", "callable"],
    ),
    (
        "neuron before the layer",
        lambda: fa.gradient(mlp, x, layer="fc3", target=fa.neuron("fc1", 1)),
        ValueError,
        ["layer 'fc3'", "does not depend"],
    ),
    ("neuron in score", lambda: fa.score(x, fa.neuron("fc1", 1)), ValueError, ["score()", "inside the model"]),
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
    *[
        ("compiled in place", lambda: fa.guided_backprop(in_place, x, target=1), ValueError, ["scripted or compiled"])
        for _ in range(hasattr(in_place, "compile"))
    ],
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
    ("mode of a wrong type", lambda: fa.interpolate(fa.grad_cam, mode=["nearest"]), ValueError, ["['nearest']"]),  # type: ignore[arg-type]
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
    # switches
    (
        "yes",
        lambda: fa.saliency(mlp, x, target=1, create_graph="yes"),
        TypeError,
        ["create_graph must be True or False", "'yes'"],
    ),
    (
        "no",
        lambda: fa.input_x_gradient(mlp, x, target=1, multiply_by_inputs="no"),
        TypeError,
        ["input_x_gradient(target=1, multiply_by_inputs='no')", "str 'no'"],
    ),
    (
        "none",
        lambda: fa.relu(fa.integrated_gradients)(mlp, x, target=1, multiply_by_inputs=None),
        TypeError,
        ["relu(integrated_gradients)(target=1, multiply_by_inputs=None)"],
    ),
    # targets where something else is transformed
    (
        "out of range under a rule",
        lambda: fa.deconvnet(net, image, target=torch.tensor([0, 1, 2, 5]), create_graph=True),
        ValueError,
        ["deconvnet(target=<tensor [4]>, create_graph=True)", "target 5 is out of range"],
    ),
    (
        "out of range under vmap",
        lambda: torch.func.vmap(lambda part: fa.gradient(mlp, part[None], target=torch.tensor([5])))(x),
        ValueError,
        ["target 5 is out of range"],
    ),
    (
        "callable gives a list, several points at once",
        lambda: fa.score_cam(conv, image, layer="conv1", target=lambda out: out[:, 0].tolist()),
        TypeError,
        ["score_cam(layer='conv1', target=", "the target returned list"],
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
    # split
    ("split of no layer", lambda: fa.split(mlp, "fc9"), ValueError, ["split()", "no layer 'fc9'"]),
    (
        "wrong structure",
        lambda: fa.split(Recurrent(), "lstm").rest(x, torch.randn(4, 2, 4)),
        ValueError,
        ["rest()", "structure", "'lstm'"],
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)


def test_the_outermost_call_is_named() -> None:
    with pytest.raises(ValueError, match=r"^guided_grad_cam\(layer='conv9', target=1\): Conv has no layer"):
        fa.guided_grad_cam(conv, image, layer="conv9", target=1)
    with pytest.raises(ValueError, match=r"^relu\(gradient\)\(layer='conv9'\): Conv has no layer"):
        fa.relu(fa.gradient)(conv, image, layer="conv9")


def test_train_mode_warns_once_and_keeps_running_statistics() -> None:
    model = Residual().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.warns(UserWarning, match="train mode"), pytest.raises(ValueError, match=r"call model.eval\(\)"):
        fa.guided_backprop(model, image, target=1, create_graph=True)
    for method, options in [(fa.guided_grad_cam, {"layer": "layer1"}), (fa.saliency, {}), (fa.relu(fa.gradient), {})]:
        with pytest.warns(UserWarning, match=r"train mode with batch norm.*model.eval\(\)") as caught:
            found = method(model, image, target=1, **options)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        if method is not fa.guided_grad_cam:
            with pytest.warns(UserWarning, match="train mode"):
                found = method(model, image, target=1, create_graph=True, **options)
            found.sum().backward()  # the graph was not disturbed by putting the buffers back
            model.zero_grad()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.training
    with pytest.warns(UserWarning, match="dropout"):
        fa.saliency(nn.Sequential(nn.Linear(6, 5), nn.Dropout()).train(), x, target=1)


def test_train_mode_without_noise_is_silent() -> None:
    fa.saliency(nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.0)).train(), x, target=1)
    fa.saliency(Mlp().train(), x, target=1)


def test_an_empty_batch_gives_an_empty_result() -> None:
    for method, layer, shape in [
        (fa.saliency, None, (0, 3, 8, 8)),
        (fa.grad_cam, "layer2", (0, 1, 6, 6)),
        (fa.guided_backprop, None, (0, 3, 8, 8)),
    ]:
        for target in (1, "argmax", torch.zeros(0, dtype=torch.long), []):
            assert method(net, image[:0], layer=layer, target=target).shape == shape
    assert fa.guided_grad_cam(net, image[:0], layer="layer2", target=1).shape == (0, 3, 8, 8)
    assert fa.activation(net, image[:0], layer="stem").shape == (0, 6, 6, 6)


def test_no_layer_is_needed_twice() -> None:
    with pytest.raises(TypeError, match="layer"):
        fa.grad_cam(net, image, target=1)
    with pytest.raises(TypeError, match="lazer"):
        fa.saliency(net, image, target=1, lazer="stem")


def test_other_models_are_seen_through() -> None:
    """A partial, a functional_call, a compiled model, DataParallel, a bound method: names resolve, results agree."""
    expected = fa.grad_cam(net, image, layer="layer1", target=1)
    parameters = dict(net.named_parameters())
    for model in [
        functools.partial(net),
        functools.partial(functools.partial(net)),
        functools.partial(torch.func.functional_call, net, parameters),
        functools.partial(torch.func.functional_call, net, (parameters, dict(net.named_buffers())), kwargs={}),
        torch.compile(net, backend="eager"),
        functools.partial(torch.compile(net, backend="eager")),
        nn.DataParallel(net),
        net.forward,
    ]:
        torch.testing.assert_close(fa.grad_cam(model, image, layer="layer1", target=1), expected)
    outer = nn.Sequential()
    outer.add_module("module", nn.DataParallel(net))
    for layer in ("layer1", "module.layer1", "module.module.layer1", net.layer1):
        torch.testing.assert_close(fa.grad_cam(outer, image, layer=layer, target=1), expected)
    torch.testing.assert_close(fa.grad_cam(lambda v: net(v), image, layer=net.layer1, target=1), expected)
    text_expected = fa.gradient(text, (ids, torch.ones(4, 7)), layer="mix", target=2)
    bound = functools.partial(text, mask=torch.ones(4, 7))
    torch.testing.assert_close(fa.gradient(bound, ids, layer="mix", target=2), text_expected)
    torch.testing.assert_close(fa.gradient(text, {"ids": ids, "mask": torch.ones(4, 7)}, layer="mix", target=2), text_expected)


def test_mixed_inputs_attribute_the_floats() -> None:
    found = fa.gradient(lambda d, i, flag: (d * i).sum(1) if flag else d, {"d": x, "i": x.long(), "flag": True})
    assert torch.equal(found["d"], x.long().float())
    assert found["i"] is None
    assert found["flag"] is True


def test_inputs_are_left_alone() -> None:
    given = torch.randn(4, 6)
    kept = given.clone()
    for target in (1, np.int64(1), np.array([1, 1, 1, 1])):
        fa.input_x_gradient(Writes().eval(), given, target=target)
    assert torch.equal(given, kept)
    assert not given.requires_grad
    assert given.grad is None
