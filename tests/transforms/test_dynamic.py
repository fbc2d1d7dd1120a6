"""One graph for every batch size: torch.compile(dynamic=True), with a tensor of targets, each batch with its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters

import funattr as fa

from ..breadth import breadth

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "saliency": (fa.saliency, {}),
    "grad_cam": (fa.grad_cam, {"layer": "3"}),
    "integrated_gradients": (fa.integrated_gradients, {"layer": "3", "n_steps": 3}),
    "deep_lift": (fa.deep_lift, {"layer": "3"}),
    "feature_ablation": (fa.feature_ablation, {"layer": "3", "feature_mask": torch.arange(8)[None, :, None, None]}),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    front = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*front, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval().double()


@pytest.mark.parametrize("name", breadth(CASES, lambda name: name == "grad_cam"))
def test_batches_of_other_sizes_share_a_graph(name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    method, options = CASES[name]
    model, compiled = net(), torch.compile(method, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (4, 3, 6, 7, 2):
        x, target = torch.randn(size, 3, 8, 8).double(), torch.arange(size) % 5
        found, expected = (f(model, x, target=target, **options) for f in (compiled, method))
        torch.testing.assert_close(found, expected)
    assert counters["stats"]["unique_graphs"] == 1


OF_STEPS: dict[str, Any] = {
    "feature_ablation": fa.feature_ablation,
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=torch.linspace(-1, 1, 24).double().reshape(2, 3, 4)),
    "deep_lift_shap, layer": partial(
        fa.deep_lift_shap, baselines=torch.linspace(-1, 1, 24).double().reshape(2, 3, 4), layer="1"
    ),
    "shapley": partial(fa.shapley, feature_mask=torch.arange(3)[:, None] // 2, sampling="exact"),
    "under": partial(fa.under(fa.rules.epsilon(0.1))(fa.integrated_gradients), n_steps=3),  # a rule for a bias, too
}


@pytest.mark.full
@pytest.mark.parametrize("name", OF_STEPS)
def test_sequences(name: str) -> None:
    """Under vmap, nn.Linear of sequences read the size of the batch, and failed in torch."""
    torch._dynamo.reset()
    model, method = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3), nn.Flatten()).double(), OF_STEPS[name]
    compiled: Any = torch.compile(method, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (4, 3):
        x = torch.randn(size, 3, 4).double()
        torch.testing.assert_close(compiled(model, x, target=1), method(model, x, target=1))


def test_a_class_out_of_range_is_not_passed_over() -> None:
    """Compiled, nobody looks at the data of a target before; the operation that picks the class must complain."""
    torch._dynamo.reset()
    model, compiled = net(), torch.compile(fa.saliency, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 3, 8, 8).double()
    compiled(model, x, target=torch.tensor([0, 4, 2]))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        compiled(model, x, target=torch.tensor([0, 5, 2]))


@pytest.mark.full
@pytest.mark.skipif(not hasattr(getattr(torch, "compiler", None), "skip_guard_on_globals_unsafe"), reason="since torch 2.8")
def test_without_a_check_of_globals_arguments_are_still_checked() -> None:
    torch._dynamo.reset()
    model, x = net(), torch.randn(3, 3, 8, 8).double()
    options = {"guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe}
    compiled = torch.compile(fa.integrated_gradients, fullgraph=True, backend="aot_eager", options=options)  # type: ignore[arg-type]  # torch types options without functions
    for batch, target, n_steps in ((x, 1, 4), (x[:2], 1, 4), (x, 3, 4), (x, 3, 6)):
        expected = fa.integrated_gradients(model, batch, target=target, n_steps=n_steps)
        torch.testing.assert_close(compiled(model, batch, target=target, n_steps=n_steps), expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(compiled(model, x, target=3, n_steps=6), fa.integrated_gradients(model, x, target=3, n_steps=6))
