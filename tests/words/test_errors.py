"""Bad input: (call, exception, words that the message must contain). The call as written comes first, the cure last.

Here what x, the model and the layers may be, and what every call does; targets and methods have files of their own.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import funattr as fa

from ..models import Conv, Keywords, Mlp, Recurrent, Residual, Thrice, Two, Writes
from .wrong import (
    Detached,
    Frozen,
    PartScripted,
    Row,
    Unused,
    attention,
    conv,
    frozen_script,
    ids,
    image,
    mlp,
    net,
    refuses,
    scripted,
    text,
    tried,
    x,
)

TABLE: list[Row] = [
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
        ["layer <Linear> did not run", "part of this model", "with baselines runs it there, too"],
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
    ("call of a wrong type", lambda: fa.output_of("inner", call="last"), TypeError, ["output_of(call='last')", "integer"]),
    ("selector of a wrong type", lambda: fa.input_of(3), TypeError, ["input_of()", "got int 3"]),
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
    # split
    (
        "rest with one value for two layers",
        lambda: fa.split(mlp, ["fc1", "fc2"]).rest([x], x),
        ValueError,
        ["rest()", "a list of 2 layers has a list of as many values"],
    ),
    (
        "rest with values by name",
        lambda: fa.split(mlp, {"a": "fc1", "b": "fc2"}).rest([x, x], x),
        ValueError,
        ["rest()", "a dict of 2 layers ['a', 'b']"],
    ),
    ("value_at of a list", lambda: fa.split(mlp, "fc1").value_at([x]), TypeError, ["value_at()", "got list"]),
    # combinators
    ("a model for a method", lambda: fa.noise_tunnel(mlp), TypeError, ["noise_tunnel()", "got Mlp", "method(model, x, ...)"]),
    ("a function of one thing", lambda: fa.relu(lambda model: 3), TypeError, ["relu()", "method(model, x, ...)"]),
    ("a model for what is judged", lambda: fa.metrics.deletion(mlp, fa.gradient, x), TypeError, ["deletion()", "got Mlp"]),
    (
        "targets in one number",
        lambda: fa.each_target(fa.gradient, torch.tensor(3)),
        TypeError,
        ["each_target()", "[3] or range"],
    ),
    ("targets for none", lambda: fa.each_target(fa.activation, [1]), TypeError, ["that takes a target", "activation"]),
    ("a size that is none", lambda: fa.interpolate(fa.grad_cam, 4.5), TypeError, ["interpolate()", "whole numbers"]),
    ("no size at all", lambda: fa.interpolate(fa.grad_cam, (0, 4)), ValueError, ["interpolate()", "at least 1 in each"]),
    ("split of no layer", lambda: fa.split(mlp, "fc9"), ValueError, ["split()", "no layer 'fc9'"]),
    (
        "wrong structure",
        lambda: fa.split(Recurrent(), "lstm").rest(x, torch.randn(4, 2, 4)),
        ValueError,
        ["rest()", "structure", "'lstm'"],
    ),
]


@tried(TABLE)
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    refuses(call, kind, words)


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
    pixels = nn.Sequential(nn.Conv2d(3, 5, 1))  # of which a target names an index, and of none nothing
    assert fa.saliency(pixels, image[:0], target=[]).shape == (0, 3, 8, 8)
    for shap in (fa.gradient_shap, fa.deep_lift_shap):
        noisy = fa.noise_tunnel(shap, n_samples=2)
        assert noisy(text, ids[:0], layer="embedding", baselines=ids, target=1).shape[0] == 0
    assert fa.guided_grad_cam(net, image[:0], layer="layer2", target=1).shape == (0, 3, 8, 8)
    assert fa.activation(net, image[:0], layer="stem").shape == (0, 6, 6, 6)
    assert fa.convergence_delta(image[:0], net, image[:0], target=1).shape == (0,)
    grouped = nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(192, 3))
    assert fa.deep_lift(grouped, torch.zeros(0, 3, 8, 8), target=1).shape == (0, 3, 8, 8)


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
