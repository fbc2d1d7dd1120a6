"""The nets of the model matrix, and the places in them that every method is asked about."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as tf
from torch import Tensor, nn

import funattr as fa
from funattr._types import Place

from .architectures import (
    Graph,
    N,
    Signal,
    Tabular,
    Video,
    Words,
    bert,
    captions,
    clip,
    clip_text,
    clip_vision,
    convnext,
    deit,
    distilbert,
    embedded,
    gpt2,
    halves,
    ids,
    image,
    llama,
    padded,
    resnet,
    roberta,
    segformer,
    swin,
    t5,
    tokenized,
    vit,
    wav2vec2,
)


class Site(NamedTuple):
    """A place to ask about, and what is known of it."""

    layer: Any  # as given to `layer=`
    cuts: bool = False  # all of the score goes through it: deep_lift is complete here
    channel: int | None = None  # the channel dimension, where it is not the net's


class Net(NamedTuple):
    """A model, its input, and places inside."""

    name: str
    build: Callable[[str], nn.Module]  # of the kind of attention
    inputs: Callable[[], Any]
    sites: dict[str, Site]
    target: Any = (3, 1)  # for the first example, the second, ...
    bound: Callable[[], dict[str, Tensor]] = dict  # bound by `partial`, a row for each example
    fixed: Callable[[], dict[str, Tensor]] = dict  # bound by `partial`, no batch
    attention: tuple[str, ...] = ("sdpa", "eager")
    channel: int = -1
    relu: bool = False
    single: bool = False  # parts of it run in float32, whatever its dtype
    ids: tuple[str, ...] = ()  # the keys of x that hold tokens, which baselines replace; () where x is a tensor


def pairs(output: Any) -> Tensor:
    """Of ``[N, N]`` images and texts: each image with its own text."""
    return output.logits_per_image.diagonal()


def projected(key: str, index: int) -> Callable[[Any], Tensor]:
    return lambda output: getattr(output, key)[:, index]


def centre(output: Any) -> Tensor:
    """The logit of one class at one place of a segmentation."""
    return output.logits[:, 2, 1, 2]


BERT = {
    "embeddings": Site("bert.embeddings", cuts=True),
    "branch": Site("bert.encoder.layer.0.output.dense"),
    "shortcut": Site("bert.encoder.layer.0", cuts=True),
    "attention": Site("bert.encoder.layer.0.attention"),
    "inside": Site("bert.encoder.layer.1.attention.self.key"),
    "late": Site(fa.input_of("classifier"), cuts=True),
}
ROBERTA = {
    "embeddings": Site("roberta.embeddings", cuts=True),
    "branch": Site("roberta.encoder.layer.0.output.dense"),
    "shortcut": Site("roberta.encoder.layer.0", cuts=True),
    "attention": Site("roberta.encoder.layer.0.attention.self"),
    "inside": Site("roberta.encoder.layer.1.attention.self.value"),
    "late": Site(fa.input_of("classifier.out_proj"), cuts=True),
}
DISTILBERT = {
    "embeddings": Site("distilbert.embeddings", cuts=True),
    "branch": Site("distilbert.transformer.layer.0.ffn"),
    "shortcut": Site("distilbert.transformer.layer.0", cuts=True),
    "attention": Site("distilbert.transformer.layer.0.attention"),
    "inside": Site("distilbert.transformer.layer.1.attention.q_lin"),
    "late": Site(fa.input_of("classifier"), cuts=True),
}
GPT2 = {
    "embeddings": Site("transformer.wte"),
    "branch": Site("transformer.h.0.mlp"),
    "shortcut": Site(fa.input_of("transformer.h.1.ln_1")),
    "attention": Site("transformer.h.1.attn"),
    "inside": Site("transformer.h.0.attn.c_attn"),
    "late": Site("transformer.ln_f", cuts=True),
}
LLAMA = {
    "embeddings": Site("model.embed_tokens", cuts=True),
    "branch": Site("model.layers.0.mlp"),
    "shortcut": Site("model.layers.0", cuts=True),
    "attention": Site("model.layers.1.self_attn"),
    "inside": Site("model.layers.0.self_attn.k_proj"),
    "late": Site(fa.input_of("lm_head"), cuts=True),
}
T5 = {
    "embeddings": Site("encoder.embed_tokens"),
    "decoder embeddings": Site("decoder.embed_tokens"),
    "branch": Site("encoder.block.0.layer.1.DenseReluDense"),
    "shortcut": Site("decoder.block.0"),
    "attention": Site("decoder.block.1.layer.1.EncDecAttention"),
    "inside": Site("encoder.block.1.layer.0.SelfAttention.v"),
    "late": Site(fa.input_of("lm_head"), cuts=True),
}
VIT = {
    "input": Site(None, cuts=True, channel=1),
    "embeddings": Site("{0}.embeddings", cuts=True),
    "branch": Site("{0}.layers.0.mlp"),
    "shortcut": Site(fa.input_of("{0}.layers.1"), cuts=True),
    "attention": Site("{0}.layers.1.attention"),
    "inside": Site("{0}.layers.0.attention.q_proj"),
    "late": Site(fa.input_of("classifier"), cuts=True),
}
CLIP_TOWER = {
    "branch": Site("{0}.encoder.layers.0.mlp"),
    "shortcut": Site("{0}.encoder.layers.0"),
    "attention": Site("{0}.encoder.layers.1.self_attn"),
    "inside": Site("{0}.encoder.layers.0.self_attn.v_proj"),
}


def under(sites: dict[str, Site], prefix: str) -> dict[str, Site]:
    """The same sites, with the prefix in the names of layers."""

    def named(layer: Any) -> Any:
        if isinstance(layer, Place):
            return layer.__class__(named(layer.layer), layer.inputs, layer.call)
        return layer.format(prefix) if isinstance(layer, str) else layer

    return {kind: site._replace(layer=named(site.layer)) for kind, site in sites.items()}


NETS = [
    Net("BERT, ids and masks in a dict", bert, tokenized(token_type_ids=halves), BERT, ids=("input_ids",)),
    Net("BERT, embeddings as input", bert, embedded(), BERT | {"input": Site(None)}, ids=("inputs_embeds",)),
    Net("DistilBERT, mask bound", distilbert, ids, DISTILBERT, bound=lambda: {"attention_mask": padded()}, relu=True),
    Net("RoBERTa, ids and mask in a dict", roberta, tokenized(), ROBERTA, relu=True, ids=("input_ids",)),
    Net("GPT-2, classifier", gpt2, ids, GPT2),
    Net(
        "GPT-2, language model",
        functools.partial(gpt2, head=tf.GPT2LMHeadModel),
        ids,
        GPT2,
        target=((2, 7), (3, 9)),
    ),
    Net("Llama, language model", llama, tokenized(), LLAMA, target=((3, 11), (2, 4)), single=True, ids=("input_ids",)),
    Net(
        "Llama, embeddings as input",
        llama,
        embedded(),
        {kind: site for kind, site in LLAMA.items() if kind != "embeddings"} | {"input": Site(None, cuts=True)},
        target=((3, 11), (2, 4)),
        single=True,
        ids=("inputs_embeds",),
    ),
    Net(
        "T5, encoder and decoder ids",
        t5,
        tokenized(decoder_input_ids=functools.partial(ids, 3)),
        T5,
        target=((2, 11), (1, 4)),
        relu=True,
        single=True,
        ids=("input_ids", "decoder_input_ids"),
    ),
    Net("ViT", vit, image(), under(VIT, "vit")),
    Net("DeiT", deit, image(), under(VIT, "deit")),
    Net(
        "Swin",
        swin,
        image(),
        {
            "input": Site(None, cuts=True, channel=1),
            "embeddings": Site("swin.embeddings.patch_embeddings.projection", cuts=True, channel=1),
            "branch": Site("swin.encoder.layers.0.blocks.1.mlp"),
            "shortcut": Site("swin.encoder.layers.0.downsample", cuts=True),
            "attention": Site("swin.encoder.layers.0.blocks.1.attention"),
            "inside": Site("swin.encoder.layers.0.blocks.0.attention.v_proj"),
            "late": Site(fa.input_of("classifier"), cuts=True),
        },
    ),
    Net(
        "ConvNeXt",
        convnext,
        image(),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("convnext.embeddings", cuts=True),
            "branch": Site("convnext.encoder.stages.0.layers.0.dwconv"),
            "shortcut": Site(fa.input_of("convnext.encoder.stages.1.layers.0"), cuts=True),
            "late": Site(fa.input_of("classifier"), cuts=True),
        },
        attention=("eager",),
        channel=1,
    ),
    Net(
        "ResNet",
        resnet,
        image(),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("resnet.embedder", cuts=True),
            "branch": Site("resnet.encoder.stages.1.layers.0.layer.0.normalization"),
            "shortcut": Site("resnet.encoder.stages.1.layers.0.shortcut"),
            "late": Site(fa.input_of("classifier"), cuts=True),
        },
        attention=("eager",),
        channel=1,
        relu=True,
    ),
    Net(
        "CLIP, text tower",
        clip_text,
        lambda: {"input_ids": captions(), "attention_mask": padded()},
        # The ids also say where the last token is: not all goes through the embeddings.
        under({"embeddings": Site("{0}.embeddings")} | CLIP_TOWER, "text_model")
        | {"late": Site(fa.input_of("text_projection"), cuts=True)},
        target=projected("text_embeds", 3),
        ids=("input_ids",),
    ),
    Net(
        "CLIP, vision tower",
        clip_vision,
        image(),
        under(
            {"input": Site(None, True, channel=1), "embeddings": Site("{0}.embeddings", cuts=True)} | CLIP_TOWER, "vision_model"
        )
        | {"late": Site(fa.input_of("visual_projection"), cuts=True)},
        target=projected("image_embeds", 3),
    ),
    Net(
        "CLIP, image and its own text",
        clip,
        lambda: {"pixel_values": image()(), "input_ids": captions(), "attention_mask": padded()},
        under(CLIP_TOWER, "vision_model")
        | {"text attention": Site("text_model.encoder.layers.0.self_attn"), "late": Site("text_projection")},
        target=pairs,
        ids=("pixel_values",),
    ),
    Net(
        "Wav2Vec2",
        wav2vec2,
        lambda: torch.randn(N, 80, dtype=torch.float64),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("wav2vec2.feature_projection.projection", cuts=True),
            "branch": Site("wav2vec2.encoder.layers.0.feed_forward"),
            "shortcut": Site("wav2vec2.encoder.layers.0"),
            "attention": Site("wav2vec2.encoder.layers.1.attention"),
            "inside": Site("wav2vec2.encoder.layers.0.attention.k_proj"),
            "late": Site(fa.input_of("classifier"), cuts=True),
        },
        bound=lambda: {"attention_mask": torch.tensor([[1] * 80, [1] * 60 + [0] * 20])},
    ),
    Net(
        "Segformer, segmentation",
        segformer,
        image(32),
        {
            "input": Site(None, cuts=True, channel=1),
            "embeddings": Site("segformer.stages.0.patch_embeddings"),
            "branch": Site("segformer.stages.1.blocks.0.mlp"),
            "shortcut": Site(fa.input_of("segformer.stages.1"), channel=1),
            "attention": Site("segformer.stages.0.blocks.0.attention"),
            "inside": Site("segformer.stages.0.blocks.0.attention.k_proj"),
            "late": Site(fa.input_of("decode_head.classifier"), cuts=True, channel=1),
        },
        target=centre,
        relu=True,
    ),
    *(
        Net(
            f"{name} on ids",
            lambda _, cell=cell: Words(cell),  # type: ignore[misc]  # a lambda with a default has no type for mypy
            ids,
            {
                "embeddings": Site("embedding", cuts=True),
                "recurrent": Site("rnn"),
                "late": Site("norm", cuts=True),
            },
            attention=("eager",),
        )
        for name, cell in (("LSTM", nn.LSTM), ("GRU", nn.GRU))
    ),
    Net(
        "GNN, adjacency bound",
        lambda _: Graph(),
        lambda: torch.randn(N, 6, 4, dtype=torch.float64),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("first", cuts=True),
            "branch": Site("second"),
            "shortcut": Site(fa.input_of("second")),
            "late": Site(fa.input_of("head"), cuts=True),
        },
        fixed=lambda: {"adjacency": torch.rand(6, 6, dtype=torch.float64)},
        attention=("eager",),
        relu=True,
    ),
    Net(
        "tabular, numbers and categories",
        lambda _: Tabular(),
        lambda: (torch.randn(N, 5, dtype=torch.float64), torch.randint(0, 6, (N, 2))),
        {
            "input": Site(None),
            "embeddings": Site("city"),
            "branch": Site("body"),
            "shortcut": Site("skip"),
            "late": Site(fa.input_of("head"), cuts=True),
        },
        attention=("eager",),
    ),
    Net(
        "video",
        lambda _: Video(),
        lambda: torch.randn(N, 2, 4, 4, 4, dtype=torch.float64),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("stem", cuts=True),
            "branch": Site("relu"),
            "shortcut": Site("pool", cuts=True),
            "late": Site(fa.input_of("head"), cuts=True),
        },
        attention=("eager",),
        channel=1,
        relu=True,
    ),
    Net(
        "1-d convolutions",
        lambda _: Signal(),
        lambda: torch.randn(N, 2, 12, dtype=torch.float64),
        {
            "input": Site(None, cuts=True),
            "embeddings": Site("stem", cuts=True),
            "branch": Site("norm"),
            "shortcut": Site("down"),
            "late": Site(fa.input_of("head"), cuts=True),
        },
        attention=("eager",),
        channel=1,
        relu=True,
    ),
]
