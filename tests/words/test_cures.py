"""Every cure that a message gives is run here: the line after "Write", or what else the message says to pass."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> Tensor:
        out: Tensor = self.fc(self.relu(self.conv(x)).mean((2, 3))) * scale + shift
        return out


model = Net().double().eval()
x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
x0, references, scale = torch.zeros_like(x), torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.rand(3, 1).double()
mask = torch.arange(6) // 3
#: What the lines may name: an argument whose value says nothing as text stands for itself.
NAMES: dict[str, Any] = {
    "fa": fa, "functools": functools, "torch": torch, "model": model, "x": x, "layer": "conv", "target": 1, "baselines": x0,
    "index": (1, slice(None), slice(None)), "feature_mask": mask, "stdevs": torch.ones(3), "window": (3, 2, 2),
}  # fmt: skip


def told(call: Callable[[], Any]) -> str:
    with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
        call()
    return str(caught.value)


def line_of(message: str) -> str:
    (line,) = re.findall(r"(?:Write|the closest is) (.*)$", message)
    return str(line)


def run(line: str, **more: Any) -> Any:
    """What a line of Python gives; of several, the last."""
    *before, last = line.split("; ")
    names = NAMES | more
    for statement in before:
        exec(statement, names)
    return eval(last.split(" = ")[-1] if re.match(r"\w+ = ", last) else last, names)


any_method: Any = fa
ig, conv = fa.integrated_gradients, {"layer": "conv"}

#: A wrong call, what its line must give, and what else the line names.
CALLS: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "baselines and target by position": (
        lambda: any_method.integrated_gradients(model, x, x0, 1),
        lambda: ig(model, x, baselines=x0, target=1),
        {},
    ),
    "a target by position": (lambda: any_method.saliency(model, x, 1), lambda: fa.saliency(model, x, target=1), {}),
    "a target and a layer": (
        lambda: any_method.grad_cam(model, x, 1, "conv"),
        lambda: fa.grad_cam(model, x, layer="conv", target=1),
        {},
    ),
    "a place by position": (
        lambda: any_method.activation(model, x, fa.input_of("fc")),
        lambda: fa.activation(model, x, layer=fa.input_of("fc")),
        {"layer": fa.input_of("fc")},
    ),
    "a module by position": (
        lambda: any_method.grad_cam(model, x, model.conv, target=2),
        lambda: fa.grad_cam(model, x, layer=model.conv, target=2),
        {"layer": model.conv},
    ),
    "internal_batch_size": (
        lambda: ig(model, x, target=1, internal_batch_size=16),  # type: ignore[call-overload]  # wrong on purpose
        lambda: ig(model, x, target=1, chunk_size=16),
        {},
    ),
    "perturbations_per_eval": (
        lambda: any_method.feature_ablation(model, x, target=1, feature_mask=mask, perturbations_per_eval=2),
        lambda: fa.feature_ablation(model, x, target=1, feature_mask=mask, chunk_size=2),
        {},
    ),
    "method": (
        lambda: any_method.integrated_gradients(model, x, target=1, n_steps=8, method="riemann_left"),
        lambda: ig(model, x, target=1, n_steps=8, quadrature="riemann_left"),
        {},
    ),
    "abs=False": (
        lambda: any_method.saliency(model, x, target=1, abs=False),
        lambda: fa.gradient(model, x, target=1),
        {},
    ),
    "abs=True": (lambda: any_method.saliency(model, x, target=1, abs=True), lambda: fa.saliency(model, x, target=1), {}),
    "what is the method's of a metric": (
        lambda: any_method.metrics.deletion(ig, model, x, target=1, quadrature="riemann_left"),
        lambda: fa.metrics.deletion(functools.partial(ig, quadrature="riemann_left"), model, x, target=1),
        {},
    ),
    "of a mask": (
        lambda: any_method.masks.grid(x, sides=2),
        lambda: fa.masks.grid(x, side=2),
        {"like": x},
    ),
    "all by name": (
        lambda: any_method.score(output=model(x), targets=1),
        lambda: fa.score(model(x), target=1),
        {"output": model(x)},
    ),
    "return_convergence_delta": (
        lambda: any_method.integrated_gradients(model, x, target=1, return_convergence_delta=True),
        lambda: fa.convergence_delta(ig(model, x, target=1), model, x, target=1),
        {},
    ),
    "return_convergence_delta=False": (
        lambda: any_method.deep_lift(model, x, target=1, return_convergence_delta=False),
        lambda: fa.deep_lift(model, x, target=1),
        {},
    ),
    "attribute_to_layer_input": (
        lambda: any_method.activation(model, x, layer="fc", attribute_to_layer_input=True),
        lambda: fa.activation(model, x, layer=fa.input_of("fc")),
        {},
    ),
    "attribute_to_layer_input of a module": (
        lambda: any_method.activation(model, x, layer=model.fc, attribute_to_layer_input=True),
        lambda: fa.activation(model, x, layer=fa.input_of("fc")),
        {"layer": model.fc},
    ),
    "attribute_to_layer_input=False": (
        lambda: any_method.grad_cam(model, x, target=1, attribute_to_layer_input=False, **conv),
        lambda: fa.grad_cam(model, x, target=1, layer="conv"),
        {},
    ),
    "relu_attributions": (
        lambda: any_method.grad_cam(model, x, target=1, relu_attributions=True, **conv),
        lambda: fa.relu(fa.grad_cam)(model, x, target=1, layer="conv"),
        {},
    ),
    "relu_attributions=False": (
        lambda: any_method.grad_cam(model, x, target=1, relu_attributions=False, **conv),
        lambda: fa.grad_cam(model, x, target=1, layer="conv"),
        {},
    ),
    "interpolate_mode": (
        lambda: any_method.guided_grad_cam(model, x, target=1, interpolate_mode="bilinear", **conv),
        lambda: fa.guided_grad_cam(model, x, target=1, layer="conv", mode="bilinear"),
        {},
    ),
    "a further argument": (
        lambda: any_method.gradient(model, x, target=1, layer="conv", additional_forward_args=scale),
        lambda: fa.gradient(functools.partial(model, scale=scale), x, target=1, layer="conv"),
        {"additional_forward_args": scale},
    ),
    "two further arguments, and the gap": (
        lambda: any_method.deep_lift(
            model, x, target=1, additional_forward_args=(scale, 2.0), return_convergence_delta=True, baselines=x0
        ),
        lambda: fa.convergence_delta(
            fa.deep_lift(functools.partial(model, scale=scale, shift=2.0), x, target=1),
            functools.partial(model, scale=scale, shift=2.0),
            x,
            target=1,
        ),
        {"additional_forward_args": (scale, 2.0)},
    ),
    "a further argument of a function": (
        lambda: any_method.gradient(lambda *inputs: model(*inputs), x, target=1, additional_forward_args=scale),
        lambda: fa.gradient(functools.partial(model, scale=scale), x, target=1),
        {"additional_forward_args": scale},
    ),
    "a neuron": (
        lambda: any_method.gradient(model, x, layer="fc", neuron_selector=2),
        lambda: fa.gradient(model, x, target=fa.neuron("fc", 2)),
        {},
    ),
    "noise": (
        lambda: any_method.saliency(model, x, target=1, nt_samples=3, stdevs=0.0, nt_type="smoothgrad_sq"),
        lambda: fa.saliency(model, x, target=1) ** 2,
        {},
    ),
    "inputs": (lambda: any_method.saliency(model, inputs=x, target=1), lambda: fa.saliency(model, x, target=1), {}),
    "forward_func": (
        lambda: any_method.saliency(forward_func=model, inputs=x, target=1),
        lambda: fa.saliency(model, x, target=1),
        {},
    ),
    "no x": (lambda: any_method.saliency(model, target=1), lambda: fa.saliency(model, x, target=1), {}),
    "no layer": (
        lambda: any_method.grad_cam(model, x, target=1),
        lambda: fa.grad_cam(model, x, target=1, layer="conv"),
        {},
    ),
    "no layer for what a combinator made": (
        lambda: fa.relu(fa.grad_cam)(model, x, target=1),
        lambda: fa.relu(fa.grad_cam)(model, x, target=1, layer="conv"),
        {"method": fa.relu(fa.grad_cam)},
    ),
    "no baselines": (
        lambda: any_method.deep_lift_shap(model, x, target=1),
        lambda: fa.deep_lift_shap(model, x, target=1, baselines=references),
        {"baselines": references},
    ),
    "no x for a function": (
        lambda: any_method.convergence_delta(x0, model, target=1),
        lambda: fa.convergence_delta(x0, model, x, target=1),
        {"attributions": x0},
    ),
    "a slip": (lambda: any_method.saliency(model, x, traget=1), lambda: fa.saliency(model, x, target=1), {}),
    "a slip in what a combinator made": (
        lambda: fa.relu(ig)(model, x, target=1, nsteps=3),
        lambda: fa.relu(ig)(model, x, target=1, n_steps=3),
        {"method": fa.relu(ig)},
    ),
    "a slip for two methods": (
        lambda: fa.multiply(fa.gradient, fa.saliency)(model, x, tagret=1),
        lambda: fa.multiply(fa.gradient, fa.saliency)(model, x, target=1),
        {"method": fa.multiply(fa.gradient, fa.saliency)},
    ),
    "a target too many": (
        lambda: fa.each_target(fa.gradient, [1])(model, x, target=1),
        lambda: fa.each_target(fa.gradient, [1])(model, x),
        {"method": fa.each_target(fa.gradient, [1])},
    ),
    "a function that is no method": (
        lambda: any_method.convergence_delta(x0, model, x, traget=1),
        lambda: fa.convergence_delta(x0, model, x, target=1),
        {"attributions": x0},
    ),
    "a score": (
        lambda: any_method.score(model(x), traget=1),
        lambda: model(x)[:, 1],
        {"output": model(x)},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_line_gives_what_was_meant(name: str) -> None:
    call, expected, more = CALLS[name]
    message = told(call)
    torch.testing.assert_close(run(line_of(message), **more), expected(), msg=lambda text: f"{message}\n{text}")


def test_a_combinator_is_called_with_what_it_takes() -> None:
    anything: Any = fa
    line = line_of(told(lambda: anything.noise_tunnel(fa.saliency, nt_samples=3, stdev=0.0)))
    assert line == "fa.noise_tunnel(fa.saliency, n_samples=3, stdevs=0.0)"
    torch.testing.assert_close(run(line)(model, x, target=1), fa.saliency(model, x, target=1))


def test_a_combinators_arguments_by_position() -> None:
    anything: Any = fa
    line = line_of(told(lambda: anything.noise_tunnel(fa.saliency, 3, 0.0)))
    assert line == "fa.noise_tunnel(fa.saliency, n_samples=3, stdevs=0.0)"
    torch.testing.assert_close(run(line)(model, x, target=1), fa.saliency(model, x, target=1))


def test_a_combinator_without_a_method() -> None:
    anything: Any = fa
    line = line_of(told(lambda: anything.noise_tunnel(stdevs=0.0)))
    assert line == "fa.noise_tunnel(method, stdevs=0.0)"
    torch.testing.assert_close(run(line, method=fa.saliency)(model, x, target=1), fa.saliency(model, x, target=1))


def test_what_is_neither_known_nor_near_is_told_with_all_that_there_is() -> None:
    anything: Any = fa
    message = told(lambda: anything.saliency(model, x, target=1, zzz=0))
    assert "there is no argument 'zzz'. It takes layer, target, create_graph." in message
    torch.testing.assert_close(run(line_of(message)), fa.saliency(model, x, target=1))


def test_a_combinator_that_takes_nothing_else_says_so() -> None:
    anything: Any = fa
    message = told(lambda: anything.relu(fa.grad_cam, mode="conv"))
    assert "there is no argument 'mode'. It takes nothing else. Write fa.relu(fa.grad_cam)" in message


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: any_method.contrast(yes=5, no=6, positions=-1), "fa.contrast(yes=5, no=6, position=-1)"),
        (
            lambda: any_method.sum_groups(method=fa.gradient, groups=[0], axis=1),
            "fa.sum_groups(method=fa.gradient, groups=[0])",
        ),
        (lambda: any_method.multiply(method=fa.gradient), "fa.multiply(method=fa.gradient, other=other)"),
        (lambda: any_method.rules.zbox(lo=-1.0, high=2.0), "fa.rules.zbox(high=2.0, low=-1.0)"),
    ],
)
def test_the_line_of_a_call_by_name(call: Any, line: str) -> None:
    assert line_of(told(call)) == line
    run(line, other=fa.saliency)


def test_what_is_the_methods_is_bound_to_it() -> None:
    line = line_of(told(lambda: any_method.relu(fa.feature_ablation, feature_mask=mask)))
    assert line == "fa.relu(functools.partial(fa.feature_ablation, feature_mask=feature_mask))"
    found, expected = run(line)(model, x, target=1), fa.feature_ablation(model, x, feature_mask=mask, target=1).relu()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("made", "others", "line"),
    [
        (fa.noise_tunnel, (), "fa.noise_tunnel(fa.grad_cam, n_samples=2)(model, x, target=1, layer='conv')"),
        (fa.each_target, ([0, 1],), "fa.each_target(fa.grad_cam, [0, 1])(model, x, layer='conv')"),
        (fa.multiply, (fa.saliency,), "fa.multiply(fa.grad_cam, fa.saliency)(model, x, target=1, layer='conv')"),
    ],
)
def test_a_combinator_that_is_called_as_its_method_gets_both_calls(made: Any, others: Any, line: str) -> None:
    own = {"n_samples": 2} if "n_samples" in line else {}
    options = {"target": 1, "layer": "conv"} if "target=1" in line else {"layer": "conv"}
    assert line_of(told(lambda: made(fa.grad_cam, *others, model, x, **own, **options))) == line
    assert line_of(told(lambda: made(fa.grad_cam, *others, **own, **options))) == line
    assert run(line).isfinite().all()


def test_arguments_of_a_combinator_are_not_those_of_what_it_made() -> None:
    made: Any = fa.noise_tunnel(fa.saliency)
    line = line_of(told(lambda: made(model, x, target=1, n_samples=3)))
    assert line == "fa.noise_tunnel(method, n_samples=3)(model, x, target=1)"
    assert run(line, method=fa.saliency).shape == x.shape
    enlarged: Any = fa.interpolate(fa.grad_cam)
    message = told(lambda: enlarged(model, x, target=1, layer="conv", mode="bilinear"))
    assert "It takes layer, target, channel_dim, create_graph, and interpolate(...) what is its own." in message


def test_of_compiled_methods_too() -> None:
    compiled: Any = torch.compile(fa.relu(fa.gradient), backend="eager")
    with pytest.raises(Exception, match="traget"):
        compiled(model, x, traget=1)


#: Names of Captum, and how the line must begin.
ATTRIBUTES = {
    "IntegratedGradients": "fa.integrated_gradients(model, x, target=target)",
    "LayerIntegratedGradients": "fa.integrated_gradients(model, x, layer=layer, target=target)",
    "NeuronIntegratedGradients": "fa.integrated_gradients(model, x, target=fa.neuron(layer, index))",
    "Saliency": "fa.saliency(model, x, target=target)",
    "InputXGradient": "fa.input_x_gradient(model, x, target=target)",
    "LayerGradientXActivation": "fa.input_x_gradient(model, x, layer=layer, target=target)",
    "GuidedBackprop": "fa.guided_backprop(model, x, target=target)",
    "NeuronDeconvolution": "fa.deconvnet(model, x, target=fa.neuron(layer, index))",
    "GuidedGradCam": "fa.guided_grad_cam(model, x, layer=layer, target=target)",
    "LayerGradCam": "fa.grad_cam(model, x, layer=layer, target=target)",
    "GradCAM": "fa.grad_cam(model, x, layer=layer, target=target)",
    "LayerConductance": "fa.conductance(model, x, layer=layer, target=target)",
    "InternalInfluence": "fa.internal_influence(model, x, target=target)",
    "LayerActivation": "fa.activation(model, x, layer=layer)",
    "DeepLift": "fa.deep_lift(model, x, target=target)",
    "LayerDeepLiftShap": "fa.deep_lift_shap(model, x, baselines=baselines, layer=layer, target=target)",
    "GradientShap": "fa.gradient_shap(model, x, baselines=baselines, target=target)",
    "FeatureAblation": "fa.feature_ablation(model, x, target=target)",
    "Occlusion": "fa.occlusion(model, x, window=window, target=target)",
    "ShapleyValueSampling": "fa.shapley(model, x, target=target)",
    "KernelShap": "fa.shapley(model, x, target=target)",
    "Lime": "fa.lime(model, x, target=target)",
    "NoiseTunnel": "fa.noise_tunnel(method)",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_of_captums(name: str) -> None:
    message = told(lambda: getattr(fa, name))
    assert line_of(message) == ATTRIBUTES[name]
    run(line_of(message), method=fa.saliency)


language = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)).eval()
attributions = fa.saliency(model, x, target=1)
#: Names of Captum for what is a line of several functions, and what else the line names.
COMPOSED: dict[str, dict[str, Any]] = {
    "LLMAttribution": {"model": language, "x": torch.tensor([[1, 2, 3, 4]]), "answer": torch.tensor([[3, 4]])},
    "LLMGradientAttribution": {
        "model": language,
        "x": torch.tensor([[1, 2, 3, 4]]),
        "answer": torch.tensor([[3, 4]]),
        "layer": "0",
    },
    "ImageMaskInput": {},
    "TextTokenInput": {"tokens": ["a", "##b", "c", "d", "e", "##f"]},
    "TokenReferenceBase": {},
    "infidelity": {"attributions": attributions},
    "sensitivity_max": {},
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_name_of_captums_for_several_functions(name: str) -> None:
    assert isinstance(run(line_of(told(lambda: getattr(fa, name))), **COMPOSED[name]), Tensor)


def test_names_of_captums_pictures() -> None:
    pytest.importorskip("matplotlib")
    for name in ("visualization", "visualize_image_attr", "visualize_image_attr_multiple"):
        line = line_of(told(lambda name=name: getattr(fa, name)))  # type: ignore[misc]  # a lambda with a default has no type for mypy
        given = attributions[0].sum(0) if "overlay" in line else attributions.sum(1)
        assert run(line, attributions=given, x=x[0].sigmoid() if "overlay" in line else x.sigmoid()) is not None
    line = line_of(told(lambda: fa.visualize_text))  # type: ignore[attr-defined]  # not there, on purpose
    assert run(line, words=["a", "b"], attributions=torch.tensor([0.5, -1.0])) is not None


NOT_HERE = {
    "show_progress": True, "dataloader": None, "feature_mask": mask, "attr_dim_summation": True, "n_samples": 3,
    "attribute_to_neuron_input": False, "layer_mask": mask, "return_input_shape": True, "strides": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_HERE)
def test_an_argument_that_there_is_for_something_else(name: str) -> None:
    """The line goes without it, and does not put it where it means something else."""
    line = line_of(told(lambda: any_method.integrated_gradients(model, x, target=1, **{name: NOT_HERE[name]})))
    assert line == "fa.integrated_gradients(model, x, target=1)"
    torch.testing.assert_close(run(line), ig(model, x, target=1))


def test_a_name_that_has_no_like() -> None:
    assert run(line_of(told(lambda: fa.FeaturePermutation))).shape == x.shape  # type: ignore[attr-defined]  # not there, on purpose


def test_other_names() -> None:
    assert "Did you mean 'saliency'?" in told(lambda: fa.saliancy)  # type: ignore[attr-defined]  # not there, on purpose
    assert "dir(funattr)" in told(lambda: fa.xyzzy)  # type: ignore[attr-defined]  # not there, on purpose
    assert not hasattr(fa, "__wrapped__")
    assert getattr(fa, "Lime", None) is None
