"""More of real architectures, from `transformers`, than the model matrix asks: maps of tokens, bound methods, compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa

from .matrix import bert, clip, ids, image, prepared, resnet, vit


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
    [
        (bert, ids, "bert.encoder.layer.0.attention.self.query"),
        (vit, image(), "vit.embeddings"),
        (resnet, image(), "resnet.embedder"),
    ],
)
def test_compiled(build: Any, make: Any, layer: str) -> None:
    model, x = prepared(build("sdpa")), make()
    compiled = torch.compile(fa.input_x_gradient, fullgraph=True, backend="aot_eager")
    target = torch.tensor([4, 2])
    found = compiled(model, x, layer=layer, target=target)
    torch.testing.assert_close(found, fa.input_x_gradient(model, x, layer=layer, target=target))
