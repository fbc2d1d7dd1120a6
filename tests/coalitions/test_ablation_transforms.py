"""feature_ablation compiled, vmapped, differentiated, and in threads."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import funattr as fa
from funattr import feature_ablation

from ..breadth import breadth
from ..close import close
from ..models import CASES, Case, case_id, double
from ..pairs import state
from .test_ablation import TARGET, Shortcut, tensors


def test_differentiable_in_the_parameters() -> None:
    model, x = Shortcut().double(), torch.randn(4, 6, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def total(parameters: dict[str, Any]) -> Tensor:
        called = functools.partial(torch.func.functional_call, model, parameters)
        found = feature_ablation(called, x, layer="a", target=TARGET, create_graph=True)
        return found.square().sum()

    found = torch.func.grad(total)(parameters)
    by_backward = torch.autograd.grad(total(parameters), list(parameters.values()))
    close(found, list(by_backward))
    assert found["head.weight"].any()


COMPILED = [case for case in CASES if case.name in ("mlp", "residual", "tokens", "keywords", "writes", "two", "text")]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", breadth(COMPILED, lambda case: case.name == "text"), ids=case_id)
def test_compiled_equals_eager(case: Case) -> None:
    model, x = double(case)
    more = tuple(part.flip(0) for part in x) if isinstance(x, tuple) else x.flip(0)
    before = state(model)
    for site in (None, case.layers[0], case.layers[-1]):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled: Any = torch.compile(feature_ablation, fullgraph=True, backend=counter)
        for data, target in ((x, TARGET), (more, TARGET.flip(0))):
            eager = feature_ablation(model, data, layer=site, target=target, chunk_size=200)
            close(compiled(model, data, layer=site, target=target, chunk_size=200), eager)
        assert counter.frame_count == 1
    assert state(model) == before


@pytest.mark.full
@pytest.mark.parametrize("target", [3, "argmax", [3, 0, 0, 1], fa.neuron("act2", 2), lambda y: y[:, 0]])
def test_compiled_targets_and_chunks(target: Any) -> None:
    model, x = double(CASES[0])
    compiled = torch.compile(feature_ablation, fullgraph=True, backend="aot_eager")
    for chunk_size in (3, 1):
        eager = feature_ablation(model, x, layer="fc1", target=target, baselines=0.5)
        close(compiled(model, x, layer="fc1", target=target, baselines=0.5, chunk_size=chunk_size), eager)


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ("recurrent", "masked", "conv")], ids=case_id)
def test_vmapped_equals_looped(case: Case) -> None:
    model, x = double(case)
    several = isinstance(x, tuple)
    for site in (None, case.layers[0]):

        def alone(*parts: Any, site: Any = site) -> Any:
            *inputs, target = (part.unsqueeze(0) for part in parts)
            found = feature_ablation(model, tuple(inputs) if several else inputs[0], layer=site, target=target, chunk_size=99)
            return [leaf[0] for leaf in tensors(found)]

        parts = (*(x if several else (x,)), TARGET)
        in_one = torch.func.vmap(alone, randomness="same")(*parts)
        close(in_one, [torch.stack(leaves) for leaves in zip(*[alone(*example) for example in zip(*parts)])])


@pytest.mark.parametrize("site", breadth([None, "fc1"], lambda site: site is None))
def test_compiled_with_a_mask(site: Any) -> None:
    model, x = double(CASES[0])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(feature_ablation, fullgraph=True, backend=counter)
    size = 6 if site is None else 8
    for _ in range(3):  # other groups, and another number of them: the same graph
        mask = torch.randint(-9, 3, (size,))
        eager = feature_ablation(model, x, layer=site, target=TARGET, feature_mask=mask)
        close(compiled(model, x, layer=site, target=TARGET, feature_mask=mask), eager)
    assert counter.frame_count == 1


def test_vmapped_over_masks() -> None:
    model, x = double(CASES[0])
    masks = torch.tensor([[3, 3, -1, 0, 0, 3], [0, 1, 0, 1, 0, 1], [5, 4, 3, 2, 1, 0]])
    in_one = torch.func.vmap(lambda mask: feature_ablation(model, x, target=2, feature_mask=mask))(masks)
    close(in_one, torch.stack([feature_ablation(model, x, target=2, feature_mask=mask) for mask in masks]))


def test_vmapped_with_a_shared_mask() -> None:
    model, x = double(CASES[0])
    mask = torch.tensor([3, 3, -1, 0, 0, 3])
    in_one = torch.func.vmap(lambda x: feature_ablation(model, x[None], target=2, feature_mask=mask)[0])(x)
    close(in_one, feature_ablation(model, x, target=2, feature_mask=mask))


@pytest.mark.parametrize("name", ["residual", "tokens", "mlp"])
def test_differentiable(name: str) -> None:
    model, x = double(next(case for case in CASES if case.name == name))
    site = {"residual": "layer1", "tokens": "embed", "mlp": "act1"}[name]
    for layer in (None, site):
        channels = x.shape[1] if layer is None else fa.activation(model, x, layer=layer).shape[1]
        mask = torch.arange(channels).reshape(channels, *(1,) * (x.dim() - 2))

        def total(x: Tensor, layer: Any = layer, mask: Any = mask) -> Tensor:
            found = feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask, create_graph=True, chunk_size=4)
            return found.square().sum()

        leaf = x.clone().requires_grad_()
        (by_backward,) = torch.autograd.grad(total(leaf), leaf)
        close(torch.func.grad(total)(x), by_backward)
        direction, step = torch.randn_like(x), 1e-6
        slope = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
        torch.testing.assert_close((by_backward * direction).sum(), slope.detach(), rtol=1e-4, atol=1e-7)
    constant = feature_ablation(model, leaf, target=1, feature_mask=torch.tensor(0))
    assert not constant.requires_grad
    with torch.no_grad():
        close(
            feature_ablation(model, x, target=1, layer=site, chunk_size=99),
            inside := feature_ablation(model, x, target=1, layer=site),
        )
    with torch.inference_mode():
        close(feature_ablation(model, x.clone(), target=1, layer=site), inside)


def test_threads() -> None:
    model, x = double(CASES[2])
    mask = torch.arange(6).reshape(6, 1, 1)
    layers = ["stem", "layer1", "layer2", "layer1.bn1"]
    expected = {layer: feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask) for layer in layers}
    wrong: list[Any] = []

    def work(layer: str) -> None:
        try:
            for chunk_size in (1, 3, None) * 3:
                found = feature_ablation(model, x, layer=layer, target=TARGET, feature_mask=mask, chunk_size=chunk_size)
                close(found, expected[layer])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
