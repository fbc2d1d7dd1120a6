"""More of real architectures, from `transformers`, than the model matrix asks: maps of tokens, bound methods, compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..architectures import bert, clip, ids, image, prepared, resnet, vit
from ..breadth import breadth


def test_vision_tokens_and_a_bound_method() -> None:
    model, x = prepared(vit("sdpa")), image()()
    assert fa.grad_cam(model, x, layer="vit.embeddings", target=1, channel_dim=-1).shape == (2, 5, 1)
    towers: Any = prepared(clip("sdpa"))

    def feature(output: Any) -> Tensor:
        return (output if isinstance(output, Tensor) else output.pooler_output)[:, 3]

    layer = "vision_model.encoder.layers.1.layer_norm1"
    found = fa.grad_cam(towers.get_image_features, x, layer=layer, target=feature, channel_dim=-1)
    kept: list[Tensor] = []
    handle = towers.get_submodule(layer).register_forward_hook(lambda _, args, output: kept.append(output))
    score = feature(towers.get_image_features(x)).sum()
    handle.remove()
    gradient = torch.autograd.grad(score, kept)[0]
    torch.testing.assert_close(found, (gradient.mean(1, keepdim=True) * kept[0]).sum(-1, keepdim=True).detach())


@pytest.mark.parametrize(
    ("build", "make", "layer"),
    breadth(
        [
            (bert, ids, "bert.encoder.layer.0.attention.self.query"),
            (vit, image(), "vit.embeddings"),
            (resnet, image(), "resnet.embedder"),
        ],
        lambda case: case[0] is vit,
        several=True,
    ),
)
def test_compiled(build: Any, make: Any, layer: str) -> None:
    model, x = prepared(build("sdpa")), make()
    compiled = torch.compile(fa.input_x_gradient, fullgraph=True, backend="aot_eager")
    target = torch.tensor([4, 2])
    found = compiled(model, x, layer=layer, target=target)
    torch.testing.assert_close(found, fa.input_x_gradient(model, x, layer=layer, target=target))


@pytest.mark.full
@pytest.mark.parametrize("method", breadth([fa.grad_cam, fa.deep_lift], lambda method: method is fa.grad_cam))
def test_compiled_where_the_value_holds_none(method: Any) -> None:
    """Attention of transformers gives (output, None)."""
    model, x = prepared(bert("sdpa")), ids()
    options = {"channel_dim": -1} if method is fa.grad_cam else {"baselines": 0}
    layer = "bert.encoder.layer.0.attention"
    (wanted, nothing) = method(model, x, layer=layer, target=[3, 1], **options)
    compiled: Any = torch.compile(method, fullgraph=True, backend="aot_eager")
    found = compiled(model, x, layer=layer, target=[3, 1], **options)
    torch.testing.assert_close(found[0], wanted)
    assert nothing is None
    assert found[1] is None


class Heads(nn.Module):
    """Attention with unflatten, as in einops-free code: a method that torch writes in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Linear(8, 16)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qk(x).chunk(2, -1))
        return self.out(torch.relu((q @ k.mT).softmax(-1) @ q - 0.1).transpose(1, 2).flatten(2)).mean(1)


PYTHON = [fa.deep_lift, fa.guided_backprop, fa.integrated_gradients]


@pytest.mark.full
@pytest.mark.parametrize("layer", [None, fa.input_of("out")])
@pytest.mark.parametrize("method", breadth(PYTHON, lambda method: method is fa.deep_lift))
def test_compiled_methods_written_in_python(method: Any, layer: Any) -> None:
    model, x = Heads().double(), torch.randn(2, 3, 8, dtype=torch.float64)
    compiled: Any = torch.compile(method, fullgraph=True, backend="eager")
    found = compiled(model, x, layer=layer, target=1)
    torch.testing.assert_close(found, method(model, x, layer=layer, target=1))
