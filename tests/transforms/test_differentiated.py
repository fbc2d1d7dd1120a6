"""Every method differentiated again: equal to central differences, and to plain double backward."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import funattr as fa

from .. import reference
from ..breadth import breadth
from ..close import close
from ..methods import METHODS, Row, fits
from ..models import CASES, MIXING, Case, double
from ..pairs import PAIRS, TARGET, options_of, sites_of
from ..reference.lifted import plain_attention

ALL = [*PAIRS, *((case, row) for case in MIXING for row in METHODS if fits(row, case))]
DIFFERENTIABLE = [(case, row) for case, row in ALL if not row.constant]
PLACES = {(case.name, row.name): i for i, (case, row) in enumerate(DIFFERENTIABLE)}


@pytest.mark.parametrize(("case", "row"), DIFFERENTIABLE, ids=[f"{case.name}-{row.name}" for case, row in DIFFERENTIABLE])
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM, nested tensors: vmap cannot
def test_differentiable(case: Case, row: Row) -> None:
    """With create_graph, by backward() and by torch.func.grad, against second derivatives of the plain reference."""
    if case.name == "text":
        pytest.skip("integers in: there is nothing to differentiate by")
    model, x = double(case)
    inputs = x if isinstance(x, tuple) else (x,)
    sites = sites_of(row, case)
    site = sites[PLACES.get((case.name, row.name), 0) % 2 - 1]  # of the first and the last, each with half of all

    def total(*inputs: Any) -> Any:
        given = inputs if isinstance(x, tuple) else inputs[0]
        found = row.method(model, given, layer=site, create_graph=True, **options_of(row, TARGET))
        return sum(leaf.square().sum() for leaf in reference.leaves(found))

    leaves = tuple(part.clone().requires_grad_() for part in inputs)
    by_backward = gradients(total(*leaves), leaves)
    by_func = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*inputs)
    close(by_backward, by_func)
    # A directional derivative by central differences knows nothing of autograd.
    direction = [torch.randn_like(part) for part in inputs]
    step = 1e-5
    ahead = total(*(part + step * d for part, d in zip(inputs, direction)))
    behind = total(*(part - step * d for part, d in zip(inputs, direction)))
    slope = sum((g * d).sum() for g, d in zip(by_func, direction))
    torch.testing.assert_close(slope, ((ahead - behind) / (2 * step)).detach(), rtol=1e-4, atol=1e-6)


def gradients(total: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Plain autograd, with zeros for what is not used."""
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in zip(leaves, found)]


def test_differentiable_in_the_parameters() -> None:
    """functional_call with create_graph: an attribution prior's gradient, against plain double backward."""
    model, x = double(CASES[4])
    parameters = dict(model.named_parameters())

    def prior(parameters: dict[str, Any]) -> Any:
        called = functools.partial(torch.func.functional_call, model, parameters)
        return fa.gradient(called, x, layer="embed", target=TARGET, create_graph=True).square().sum()

    found = torch.func.grad(prior)(parameters)
    with plain_attention():
        value = model.embed(x)
        rest = fa.split(model, "embed").rest
        slope = torch.autograd.grad(reference.pick(TARGET)(rest(value, x)).sum(), value, create_graph=True)[0]
        expected = gradients(slope.square().sum(), list(parameters.values()))
    close(found, expected)
    assert any(bool(g.abs().max() > 0) for g in expected)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("way", ["gradient", "integrated_gradients", "deep_lift", "lrp"])
def test_hardsigmoid(way: str, inplace: bool) -> None:
    """Of whose derivative torch has none: MobileNetV3's gates. Against central differences."""
    torch.manual_seed(0)
    weight = torch.randn(4, 4, dtype=torch.float64)
    x, direction = (2 * torch.randn(2, 3, 4, dtype=torch.float64)).unbind()
    x[0, 0] = 20.0  # where it is flat
    options: dict[str, dict[str, Any]] = {"integrated_gradients": {"n_steps": 3}, "lrp": {"rules": fa.rules.epsilon()}}

    def prior(x: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
        def model(x: torch.Tensor) -> torch.Tensor:
            return (x * F.hardsigmoid(x @ weight, inplace)).square().sum(1)

        found = getattr(fa, way)(model, x, create_graph=create_graph, **options.get(way, {}))
        return torch.as_tensor(found.square().sum())

    leaf = x.clone().requires_grad_()
    found = prior(leaf, create_graph=True)
    close(found, prior(x), 1e-7)  # in float64 the derivative of torch is one of float32
    step = 1e-6 * direction
    slope = (prior(x + step) - prior(x - step)) / 2e-6
    torch.testing.assert_close((gradients(found, [leaf])[0] * direction).sum(), slope, rtol=1e-6, atol=1e-6)
    if way == "gradient" and not inplace:
        torch._dynamo.reset()
        again = torch.compile(prior, fullgraph=True, backend="aot_eager")(leaf, create_graph=True)
        close(gradients(again, [leaf]), gradients(prior(leaf, create_graph=True), [leaf]))


def test_constant_results_pin_no_graph() -> None:
    model, x = double(CASES[2])
    x.requires_grad_()
    for row in METHODS:
        found = row.method(model, x, layer="layer1", **options_of(row, TARGET))
        assert all(not leaf.requires_grad and leaf.grad_fn is None for leaf in reference.leaves(found)), row.name
    # A constant for torch.func.grad as well.
    slope = torch.func.grad(lambda x: fa.gradient(model, x, layer="layer1", target=1).square().sum())(x.detach())
    assert not slope.any()


class Again(torch.nn.Module):
    """A part that is run again in the backward pass, or scripted; or plain, with the same weights."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(5, 6).double(), torch.nn.Linear(6, 3).double()
        inner = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()).double()
        self.inner = torch.jit.script(inner) if how == "scripted" else inner
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        h = checkpoint(self.inner, h, use_reentrant=False) if self.how == "checkpointed" else self.inner(h)
        return self.last(h) + 0


RUN_AGAIN: dict[str, Any] = {
    "integrated_gradients": fa.integrated_gradients,
    "internal_influence": fa.internal_influence,
    "conductance": fa.conductance,
    "gradient_shap": lambda *args, **how: fa.gradient_shap(
        *args, baselines=torch.zeros(1, 5).double(), generator=torch.Generator().manual_seed(0), **how
    ),
    "feature_ablation": fa.feature_ablation,
    "shapley": lambda *args, **how: fa.shapley(*args, generator=torch.Generator().manual_seed(0), **how),
    "noise_tunnel": fa.noise_tunnel(fa.integrated_gradients, n_samples=3, stdevs=0.0),
    "each_target": lambda *args, target, **how: fa.each_target(fa.integrated_gradients, [0, target])(*args, **how),
}


@pytest.mark.parametrize("layer", breadth([None, "first", "last"], lambda layer: layer == "first"))
@pytest.mark.parametrize("how", ["checkpointed", "scripted"])
@pytest.mark.parametrize("name", RUN_AGAIN)
@pytest.mark.filterwarnings("ignore:the steps run one after another", "ignore:.*torch.jit:DeprecationWarning")
def test_further_derivatives_of_what_runs_again_or_is_scripted(name: str, how: str, layer: Any) -> None:
    """By x and by the parameters, as of the same model run plainly: at once, torch takes a part of these for constant."""
    if name == "internal_influence" and layer == "last":
        pytest.skip("it is a constant")
    torch.manual_seed(1)
    x, found = torch.randn(3, 5).double(), {}
    for kind in ("plain", how):
        model, leaf = Again(kind), x.clone().requires_grad_()
        for _ in range(3):  # scripted code is another one from the third run on
            model(x)
        asked = {"n_steps": 5} if name in ("integrated_gradients", "internal_influence", "conductance", "each_target") else {}
        result = RUN_AGAIN[name](model, leaf, layer=layer, target=1, create_graph=True, **asked)
        found[kind] = gradients(result.square().sum(), [leaf, *model.parameters()])
    close(found[how], found["plain"])


class Once(torch.autograd.Function):
    """A gate whose author has thought of no second derivative, as of deformable convolutions and fused scans."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(h)
        return h * h * h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (h,) = ctx.saved_tensors
        return 3 * h * h * slope


@pytest.mark.parametrize("method", [fa.gradient, fa.integrated_gradients, fa.each_target(fa.gradient, [0, 1])])
def test_what_has_no_second_derivative_is_told(method: Any) -> None:
    """Torch goes where a derivative is asked for, and past what would say so: what was left was up to 70 % off."""
    first = torch.nn.Linear(5, 4).double()
    classes = 1 if method in (fa.gradient, fa.integrated_gradients) else 4

    def model(x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = Once.apply(first(x).tanh())  # type: ignore[no-untyped-call]  # torch's own
        return (made * first(x).square())[:, :classes].squeeze(1)

    x = torch.randn(3, 5).double().requires_grad_()
    with pytest.warns(UserWarning, match="the model runs Once, whose second derivative torch may lose or get wrong"):
        method(model, x, create_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(model, x)


def test_tensors_in_shards_are_told_of(tmp_path: Path) -> None:
    """The gradient of what is parallel by columns is a constant to torch, by way of its collective, and nothing said so."""
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    if not (hasattr(parallel, "ColwiseParallel") and hasattr(torch.distributed, "device_mesh")):
        pytest.skip("no tensors in shards here")
    dist: Any = torch.distributed  # whose stub leaves some of it out
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        plain = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        shards = parallel.parallelize_module(copy.deepcopy(plain), mesh, {"0": parallel.ColwiseParallel()})
        x = torch.randn(3, 5).double().requires_grad_()
        close(fa.gradient(shards, x, target=1), fa.gradient(plain, x, target=1))
        with pytest.warns(UserWarning, match="the model runs .*ToTorchTensor.*, whose second derivative torch may lose"):
            fa.gradient(shards, x, target=1, create_graph=True)
    finally:
        dist.destroy_process_group()
