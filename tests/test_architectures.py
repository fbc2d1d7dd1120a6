"""Real architectures, from `transformers`, with random weights: values and gradients against plain autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import funattr as fa

from . import reference

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT: dict[str, Any] = SMALL | {"vocab_size": 50, "max_position_embeddings": 32, "num_labels": 5}
IMAGE: dict[str, Any] = SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 5}


def ids() -> Tensor:
    return torch.randint(3, 50, (3, 7))


def image() -> Tensor:
    return torch.randn(3, 3, 32, 32)


def bert(attention: str) -> Any:
    return tf.BertForSequenceClassification(tf.BertConfig(**TEXT, attn_implementation=attention))


def gpt2(attention: str) -> Any:
    config = tf.GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        num_labels=5,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return tf.GPT2ForSequenceClassification(config)


def llama(attention: str) -> Any:
    config = tf.LlamaConfig(**TEXT, num_key_value_heads=1, pad_token_id=0, attn_implementation=attention)
    return tf.LlamaForSequenceClassification(config)


def vit(attention: str) -> Any:
    return tf.ViTForImageClassification(tf.ViTConfig(**IMAGE, attn_implementation=attention))


def swin(attention: str) -> Any:
    config = tf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5
    )
    return tf.SwinForImageClassification(config)


def resnet(attention: str) -> Any:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    return tf.ResNetForImageClassification(config)


def convnext(attention: str) -> Any:
    return tf.ConvNextForImageClassification(tf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5))


MODELS: list[tuple[str, Callable[[str], Any], Callable[[], Tensor], list[Any]]] = [
    (
        "bert",
        bert,
        ids,
        ["bert.embeddings", "bert.encoder.layer.0.attention.self.query", fa.input_of("bert.encoder.layer.1.output")],
    ),
    ("gpt2", gpt2, ids, ["transformer.wte", "transformer.h.0.mlp", fa.input_of("transformer.h.1.ln_1")]),
    ("llama", llama, ids, ["model.embed_tokens", "model.layers.0.mlp.gate_proj", fa.input_of("model.layers.1.mlp")]),
    ("vit", vit, image, [None, "vit.embeddings", fa.input_of("classifier")]),
    ("swin", swin, image, [None, "swin.embeddings.patch_embeddings.projection", fa.input_of("swin.layernorm")]),
    ("resnet", resnet, image, [None, "resnet.embedder", "resnet.encoder.stages.0", fa.input_of("resnet.encoder.stages.1")]),
    ("convnext", convnext, image, [None, "convnext.encoder.stages.0", "convnext.embeddings"]),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("build", "inputs", "sites"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_value_and_gradient(build: Any, inputs: Any, sites: list[Any], attention: str) -> None:
    model, x = build(attention).double().eval(), inputs()
    x = x.double() if x.is_floating_point() else x
    target = torch.tensor([4, 0, 2])
    for site in sites:
        values, gradients = reference.value_and_gradient(model, x, site, reference.pick(target))
        found = fa.value_and_gradient(model, x, layer=site, target=target)
        for part, expected in zip(found, (values, gradients)):
            flat = reference.leaves(part)
            assert len(flat) == len(expected)
            for a, b in zip(flat, expected):
                torch.testing.assert_close(a, b.detach(), rtol=1e-10, atol=1e-12)
        assert any(g.any() for g in gradients)


def test_masks_are_bound_and_never_expanded() -> None:
    model, x = bert("sdpa").double().eval(), ids()
    mask = torch.ones_like(x)
    mask[:, -2:] = 0
    bound = functools.partial(model, attention_mask=mask)
    found = fa.input_x_gradient(bound, x, layer="bert.embeddings.word_embeddings", target=1)
    assert not torch.allclose(found, fa.input_x_gradient(model, x, layer="bert.embeddings.word_embeddings", target=1))
    assert not found[:, -2:].any()
    by_name = {"input_ids": x, "attention_mask": mask}
    torch.testing.assert_close(found, fa.input_x_gradient(model, by_name, layer="bert.embeddings.word_embeddings", target=1))
    in_batch = tf.BatchEncoding(by_name)
    torch.testing.assert_close(found, fa.input_x_gradient(model, in_batch, layer="bert.embeddings.word_embeddings", target=1))


def test_a_token_of_a_causal_language_model() -> None:
    config = tf.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    model, x = tf.GPT2LMHeadModel(config).double().eval(), ids()
    found = fa.input_x_gradient(model, x, layer="transformer.wte", target=(3, 11))
    expected = fa.input_x_gradient(model, x, layer="transformer.wte", target=lambda out: out.logits[:, 3, 11])
    torch.testing.assert_close(found, expected)
    assert found[:, :4].any()
    assert not found[:, 4:].any()  # later tokens cannot matter


def test_vision_tokens_and_a_bound_method() -> None:
    model, x = vit("sdpa").double().eval(), image().double()
    assert fa.grad_cam(model, x, layer="vit.embeddings", target=1, channel_dim=-1).shape == (3, 17, 1)
    clip = tf.CLIPModel(
        tf.CLIPConfig(
            text_config=SMALL | {"vocab_size": 50},
            vision_config=SMALL | {"image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).eval()
    found = fa.grad_cam(
        clip.get_image_features,
        image(),
        layer="vision_model.encoder.layers.1.layer_norm1",
        target=lambda out: (out if isinstance(out, Tensor) else out.pooler_output)[:, 3],
        channel_dim=-1,
    )
    assert found.any()


@pytest.mark.parametrize("name", ["bert", "vit", "resnet"])
def test_compiled(name: str) -> None:
    build, inputs, sites = next(row[1:] for row in MODELS if row[0] == name)
    model, x = build("sdpa").eval(), inputs()
    compiled = torch.compile(fa.input_x_gradient, fullgraph=True, backend="aot_eager")
    target = torch.tensor([4, 0, 2])
    found = compiled(model, x, layer=sites[1], target=target)
    torch.testing.assert_close(found, fa.input_x_gradient(model, x, layer=sites[1], target=target))
