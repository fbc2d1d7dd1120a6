"""Methods that read values or scores under rules, differentiated by the parameters: rules are for the score's gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth, full

X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
GROUP = torch.zeros(1, 1, 1, dtype=torch.long)
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "integrated_gradients": (fa.integrated_gradients, {"n_steps": 3}),
    "conductance": (fa.conductance, {"n_steps": 3}),
    "gradient_shap": (fa.gradient_shap, {"baselines": torch.zeros(2, 2, 4, 4).double(), "n_samples": 2}),
    "each_target": (fa.each_target(fa.integrated_gradients, [0, 1]), {"n_steps": 3}),
    "noise_tunnel": (fa.noise_tunnel(fa.integrated_gradients, n_samples=2, stdevs=0.0), {"n_steps": 3}),
    "activation": (fa.activation, {}),
    "feature_ablation": (fa.feature_ablation, {"feature_mask": GROUP}),
    "ablation_cam": (fa.ablation_cam, {}),
    "score_cam": (fa.score_cam, {}),
}
RULES = {"zplus": fa.rules.zplus(), "gamma": fa.rules.gamma(), "guided": fa.rules.guided()}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 3)).double()


def asked(name: str, rules: str, layer: str, compiled: bool = False) -> Any:
    method, options = METHODS[name]
    aims = {} if name in ("activation", "each_target") else {"target": 1}
    found = partial(fa.under(RULES[rules])(method), layer=layer, **aims, **options)
    return torch.compile(found, backend="aot_eager", fullgraph=True) if compiled else found


def total(method: Any, model: nn.Module, create_graph: bool) -> Tensor:
    drawn = {"generator": torch.Generator().manual_seed(0)} if "n_samples" in method.keywords else {}
    found: Tensor = method(model, X, create_graph=create_graph, **drawn)
    return (found * torch.linspace(1, 2, found.numel(), dtype=found.dtype).reshape(found.shape)).sum()


@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", METHODS)
def test_by_the_parameters(name: str, rules: str, layer: str) -> None:
    """Against central differences."""
    model, method = net(), asked(name, rules, layer)
    way = [torch.randn_like(p) for p in model.parameters()]
    total(method, model, True).backward()
    found = sum((p.grad * step).sum() for p, step in zip(model.parameters(), way) if p.grad is not None)
    ends = []
    for size in (1e-6, -2e-6):
        with torch.no_grad():
            for p, step in zip(model.parameters(), way):
                p.add_(step, alpha=size)
        ends.append(total(method, model, False))
    torch.testing.assert_close(torch.as_tensor(found), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", breadth(["integrated_gradients", "feature_ablation"], lambda name: name == "feature_ablation"))
def test_compiled(name: str) -> None:
    found = []
    for compiled in (False, True):
        model, method = net(), asked(name, "zplus", "2", compiled)
        result = method(model, X, create_graph=True)
        found.append([result, *torch.autograd.grad(result.square().sum(), list(model.parameters()), allow_unused=True)])
    for one, other in zip(*found):
        torch.testing.assert_close(other, one)


@full
def test_compiled_without_a_rule_for_sums_of_ours() -> None:
    """At the site, where a path's points are made."""
    rules = {**fa.rules.zplus(), torch.add: fa.rules.epsilon(1e-2)["linear"]}
    ask = partial(fa.under(rules)(fa.integrated_gradients), layer="2", target=1, n_steps=3)
    fast = torch.compile(ask, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fast(net(), X), ask(net(), X))
