"""Path methods compiled, vmapped and differentiated, and what they cost."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import funattr as fa
from funattr import conductance, gradient_shap, integrated_gradients, internal_influence

from ..breadth import breadth
from ..close import close
from ..cost import cost
from ..models import Residual, Tokens
from .test_path import PATHS, built

# Transforms.

NETS = [(2, "layer1"), (4, "proj"), (0, "act1")]


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize(("index", "layer"), NETS)
def test_vmap_over_examples(index: int, layer: str, method: Any) -> None:
    model, x = built(index)
    target = torch.tensor([0, 1, 2, 3])
    for where in (None, layer):
        options: dict[str, Any] = {"layer": where, "n_steps": 3, "chunk_size": 2}
        mapped = torch.func.vmap(lambda x, t, options=options: method(model, x[None], target=t[None], **options)[0])(x, target)
        close(mapped, method(model, x, target=target, **options), 1e-12)


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize(("index", "layer"), NETS)
def test_create_graph(index: int, layer: str, method: Any) -> None:
    model, x = built(index)
    way, step = torch.randn_like(x), 1e-6
    for where in (None, layer):
        options: dict[str, Any] = {"layer": where, "target": 1, "n_steps": 3, "chunk_size": 2}

        def total(x: Tensor, create_graph: bool = True, options: dict[str, Any] = options) -> Any:
            return method(model, x, create_graph=create_graph, **options).square().sum()

        leaf = x.clone().requires_grad_()
        (backward,) = torch.autograd.grad(total(leaf), leaf)
        close(torch.func.grad(total)(x), backward, 1e-10)
        slope = (total(x + step * way, False) - total(x - step * way, False)) / (2 * step)
        assert abs(slope - (backward * way).sum()) < 1e-5 * max(1.0, slope.abs().item())
        assert torch.autograd.grad(total(x), list(model.parameters()), allow_unused=True)[0] is not None


@pytest.mark.full
@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize(("index", "layer"), [(2, "layer1"), (4, "proj")])
def test_compiled(index: int, layer: str, method: Any) -> None:
    model, x = built(index)
    target = torch.tensor([0, 1, 2, 3])
    for where in (None, layer):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled: Any = torch.compile(method, fullgraph=True, backend=counter)
        options: dict[str, Any] = {"layer": where, "n_steps": 4, "chunk_size": 2}
        close(compiled(model, x, target=target, **options), method(model, x, target=target, **options), 1e-12)
        moved = method(model, x + 1, target=3 - target, **options)
        close(compiled(model, x + 1, target=3 - target, **options), moved, 1e-12)
        assert counter.frame_count == 1


@pytest.mark.parametrize("layer", breadth([None, "conv1"], lambda layer: layer is not None))
def test_compiled_gradient_shap(layer: str | None) -> None:
    model, x = built(1)
    torch._dynamo.reset()
    compiled: Any = torch.compile(gradient_shap, fullgraph=True, backend="aot_eager")
    found = []
    for call in (gradient_shap, compiled):
        torch.manual_seed(5)
        found.append(call(model, x, baselines=x[:2], layer=layer, target=1, stdevs=0.1, n_samples=3))
    close(found[1], found[0], 1e-12)


# Cost.


def passes(net: nn.Module, x: Tensor, layer: str) -> tuple[int, int, int]:
    """FLOPs of a forward pass up to the layer, of the rest of it, and of the backward pass to the layer."""
    with torch.no_grad():
        whole = cost(lambda: net(x)).flops
        prefix = cost(lambda: fa.activation(net, x, layer=fa.output_of(layer, call=0))).flops
    return prefix, whole - prefix, cost(lambda: fa.gradient(net, x, layer=layer, target=1)).flops - whole


@pytest.mark.parametrize("n", [6, 50])
@pytest.mark.parametrize(
    ("net", "shape", "layers"),
    [(Residual, (3, 16, 16), ("stem", "layer1", "layer1.conv2", "layer2")), (Tokens, (16, 4), ("embed", "proj", "down"))],
)
def test_the_floor(net: type[nn.Module], shape: tuple[int, ...], layers: tuple[str, ...], n: int) -> None:
    model, x = net().eval(), torch.randn(2, *shape)
    for layer in layers:
        prefix, rest, back = passes(model, x, layer)
        options: dict[str, Any] = {"layer": layer, "target": 1, "n_steps": n}
        floor = {
            integrated_gradients: prefix + prefix // 2 + n * (rest + back),
            internal_influence: n * (prefix + rest + back),
            conductance: (n + 1) * prefix + prefix // 2 + n * (rest + back),
        }
        for method, least in floor.items():
            assert cost(lambda method=method, options=options: method(model, x, **options)).flops <= 1.05 * least  # type: ignore[misc]  # a lambda with a default has no type for mypy
    with torch.no_grad():
        whole = cost(lambda: model(x)).flops
    both = cost(lambda: fa.gradient(model, x, target=1)).flops
    assert whole < both
    assert cost(lambda: integrated_gradients(model, x, target=1, n_steps=n)).flops <= 1.05 * n * both


@pytest.mark.parametrize("layer", breadth([None, "stem", "layer1", "layer2"], lambda layer: layer in (None, "layer1")))
def test_memory_is_flat_in_the_number_of_steps(layer: str | None) -> None:
    model, x = Residual().eval(), torch.randn(4, 3, 16, 16)
    options: dict[str, Any] = {"layer": layer, "target": 1, "chunk_size": 4}
    for method in PATHS:  # conductance holds the values of a window of eight nodes, and needs as many to hold them all
        few, many = (cost(lambda n=n, m=method: m(model, x, n_steps=n, **options)).peak for n in (16, 48))  # type: ignore[misc]  # a lambda with a default has no type for mypy
        assert many <= 1.01 * few
    shap = partial(gradient_shap, model, x, baselines=x[:2], stdevs=0.1, **options)
    few, many = (cost(lambda n=n: shap(n_samples=n)).peak for n in (8, 32))  # type: ignore[misc]  # a lambda with a default has no type for mypy
    assert many <= 1.01 * few
