"""The model matrix: architectures that people use, places in them, and what every method must give there.

The hard cases, named first; each is in the matrix or in `test_text`:

- T5: one embedding matrix in three modules, encoder and decoder ids, attention biases that only the first block makes.
- Swin: windows are cut out of the batch (a value with more rows than examples), shifted by `roll`; masks made from shapes.
- Wav2Vec2: a weight made by a parametrization, masks made from an attention mask of another length, layer drop.
- Llama: RMSNorm and rotary embeddings in float32 inside a float64 model, grouped heads, a cache made in every pass.
- GPT-2: a causal mask made inside; the classifier looks at the data to find the last token that is no padding.
- Masks: models that branch on the data of a mask, which `vmap` forbids; masks in a dict `x`, and masks bound by `partial`,
  which no path may expand.
- CLIP: the two-tower output ``[N, N]`` mixes examples; the text tower finds its last token by comparing ids.
- Segformer: one score per example out of a map of logits; batch norm in the head.
- LSTM, GRU: no batching rule, nested values, states whose batch is not first; a graph's adjacency matrix that has no batch.
- Layers whose value, for all examples, is one tensor without a batch (rotary angles); values that hold None.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

import funattr as fa
from funattr._types import Place

from .methods import METHODS, Row
from .reference import Leaves, leaves, logits
from .reference.alone import Alone
from .reference.passes import called, row


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


N = 2
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT: dict[str, Any] = SMALL | {"vocab_size": 50, "max_position_embeddings": 32, "num_labels": 5}
IMAGE: dict[str, Any] = SMALL | {"image_size": 16, "patch_size": 8, "num_labels": 5}


def prepared(model: nn.Module) -> nn.Module:
    """In float64 and eval mode, with weights of a size that makes everything count."""
    model = model.double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms start as constants
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    return model


# Inputs.


def ids(length: int = 5, high: int = 50) -> Tensor:
    return torch.randint(4, high, (N, length))


def captions() -> Tensor:
    """Ids with the token that ends a text, where the text tower of CLIP looks."""
    tokens = ids()
    tokens[0, -1] = tokens[1, -2] = 3
    return tokens


def padded(length: int = 5) -> Tensor:
    """A mask of which the second example is one shorter."""
    mask = torch.ones(N, length, dtype=torch.long)
    mask[1, -1] = 0
    return mask


def tokenized(**more: Callable[[], Tensor]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_ids": ids(), "attention_mask": padded()} | {name: make() for name, make in more.items()}


def embedded(name: str = "inputs_embeds") -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: torch.randn(N, 5, 16, dtype=torch.float64), "attention_mask": padded()}


def image(size: int = 16) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, 3, size, size, dtype=torch.float64)


def halves() -> Tensor:
    return torch.arange(5).gt(2).long().expand(N, 5).clone()


# transformers.


def bert(attention: str) -> nn.Module:
    return tf.BertForSequenceClassification(tf.BertConfig(**TEXT, attn_implementation=attention))


def distilbert(attention: str) -> nn.Module:
    config = tf.DistilBertConfig(
        vocab_size=50,
        max_position_embeddings=32,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=24,
        num_labels=5,
        activation="relu",
        attn_implementation=attention,
    )
    return tf.DistilBertForSequenceClassification(config)


def roberta(attention: str) -> nn.Module:
    return tf.RobertaForSequenceClassification(tf.RobertaConfig(**TEXT, hidden_act="relu", attn_implementation=attention))


def gpt2(attention: str, head: Any = tf.GPT2ForSequenceClassification) -> nn.Module:
    config = tf.GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        num_labels=5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attention,
    )
    return head(config)


def llama(attention: str, head: Any = tf.LlamaForCausalLM) -> nn.Module:
    return head(tf.LlamaConfig(**TEXT, num_key_value_heads=1, pad_token_id=0, attn_implementation=attention))


def t5(attention: str) -> nn.Module:
    config = tf.T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    return tf.T5ForConditionalGeneration(config)


def vit(attention: str) -> nn.Module:
    return tf.ViTForImageClassification(tf.ViTConfig(**IMAGE, attn_implementation=attention))


def deit(attention: str) -> nn.Module:
    return tf.DeiTForImageClassification(tf.DeiTConfig(**IMAGE, attn_implementation=attention))


def swin(attention: str) -> nn.Module:
    config = tf.SwinConfig(
        image_size=16,
        patch_size=2,
        embed_dim=8,
        depths=[2, 1],
        num_heads=[2, 2],
        window_size=4,
        num_labels=5,
        attn_implementation=attention,
    )
    return tf.SwinForImageClassification(config)


def convnext(attention: str) -> nn.Module:
    return tf.ConvNextForImageClassification(tf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5))


def resnet(attention: str) -> nn.Module:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    return tf.ResNetForImageClassification(config)


CLIP_TEXT: dict[str, Any] = SMALL | {"vocab_size": 50, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 3}
CLIP_VISION: dict[str, Any] = SMALL | {"image_size": 16, "patch_size": 8}


def clip_text(attention: str) -> nn.Module:
    return tf.CLIPTextModelWithProjection(tf.CLIPTextConfig(**CLIP_TEXT, projection_dim=8, attn_implementation=attention))


def clip_vision(attention: str) -> nn.Module:
    config = tf.CLIPVisionConfig(**CLIP_VISION, projection_dim=8, attn_implementation=attention)
    return tf.CLIPVisionModelWithProjection(config)


def clip(attention: str) -> nn.Module:
    config = tf.CLIPConfig(text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=8, attn_implementation=attention)
    return tf.CLIPModel(config)


def wav2vec2(attention: str) -> nn.Module:
    config = tf.Wav2Vec2Config(
        **SMALL,
        vocab_size=32,
        conv_dim=(8, 8),
        conv_stride=(4, 2),
        conv_kernel=(8, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_labels=5,
        classifier_proj_size=8,
        attn_implementation=attention,
    )
    return tf.Wav2Vec2ForSequenceClassification(config)


def segformer(attention: str) -> nn.Module:
    config = tf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
        attn_implementation=attention,
    )
    return tf.SegformerForSemanticSegmentation(config)


# Nets of our own.


class Words(nn.Module):
    """A recurrent classifier of token ids."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6)
        self.rnn = cell(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(self.embedding(ids))[0][:, -1]))


class Graph(nn.Module):
    """Two rounds of messages over a dense adjacency matrix, which all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        h = torch.relu(self.first(adjacency @ nodes))
        h = h + torch.relu(self.second(adjacency @ h))
        return self.head(h.amax(1))


class Tabular(nn.Module):
    """Numbers and categories: floats beside ids in one input."""

    def __init__(self) -> None:
        super().__init__()
        self.city = nn.Embedding(10, 4)
        self.kind = nn.Embedding(6, 3)
        self.numbers = nn.BatchNorm1d(5)
        self.body = nn.Linear(12, 8)
        self.skip = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, numbers: Tensor, categories: Tensor) -> dict[str, Tensor]:
        h = torch.cat([self.numbers(numbers), self.city(categories[:, 0]), self.kind(categories[:, 1])], 1)
        return {"logits": self.head(F.silu(self.body(h)) + self.skip(h))}


class Video(nn.Module):
    """A residual block over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, 4, 3, padding=1)
        self.conv = nn.Conv3d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool3d(2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.tanh(self.stem(x)))
        x = self.relu(self.conv(x)) + x
        return self.head(x.mean((2, 3, 4)))


class Signal(nn.Module):
    """A 1-d residual net with a shortcut of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 3)
        self.conv = nn.Conv1d(4, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.down = nn.Conv1d(4, 8, 1, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.norm(self.conv(x))
        out += self.down(x)
        return self.head(F.relu(out, inplace=True).mean(-1))


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
            lambda _, cell=cell: Words(cell),  # type: ignore[misc]
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

STEPS, START, SEED, GROUPS = 3, 0.25, 5, 4
TOKEN = 5  # what stands in for a token


def more_targets(net: Net) -> list[Any]:
    """For the larger version: one class for all, and a function of the output that is not linear."""
    if callable(net.target) or isinstance(net.target[0], tuple):
        return []
    return [2, lambda output: logits(output)[:, 1] ** 2 - logits(output)[:, 0]]


def more_sites(net: Net, attention: str) -> dict[str, Site]:
    """For the larger version: every other layer that runs once and gives something to attribute."""
    torch.manual_seed(0)
    model, x = prepared(net.build(attention)), net.inputs()
    ran: dict[str, list[bool]] = {}
    asked = {site.layer for site in net.sites.values() if isinstance(site.layer, str)}
    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: ran.setdefault(name, []).append(bool(leaves(output))))  # type: ignore[misc]
        for name, module in model.named_modules()
        if name and name not in asked
    ]
    with torch.no_grad():
        output = called(model, x, net.bound() | net.fixed())
    for handle in handles:
        handle.remove()
    del output
    once = [name for name, runs in ran.items() if runs == [True]]
    found: dict[str, Site] = {}
    for name in once:
        found.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), Site(name))
    return {site.layer: site for site in found.values()}


# Every row of the table of methods, and one that is not in it.

ROWS = [*METHODS, Row("each_target(gradient)", fa.gradient, None)]


class Found(NamedTuple):
    """What became of one combination: the worst relative error of how many tensors, or why it cannot be; and the warnings."""

    error: float = 0.0
    compared: int = 0
    reason: str | None = None
    warnings: tuple[str, ...] = ()


#: Why a combination cannot be, and what the error says.
REASONS = {
    "ids": (TypeError, r"x holds no floating-point tensor|x holds only integers"),
    "relu": (ValueError, "the model has no ReLU"),
    "space": (ValueError, "spatial dimensions"),
    "rows": (ValueError, r"without a row for each|has no row for each|the score has \d+ values for the \d+ examples of x"),
}

#: The only thing that a right answer may be accompanied by.
SEQUENTIAL = "the steps run one after another, which is slower: torch.func.vmap cannot run this model"


def tolerance(row: Row, net: Net, attention: str) -> float:
    """Some models compute the softmax of eager attention, or norms, in float32; so exact is DeepLIFT's sum there."""
    single = net.single or (attention == "eager" and len(net.attention) > 1)
    return 1e-5 if single and row.name.startswith("deep_lift") else 1e-9


class Question:
    """A net at a site: the reference's work, shared by all methods."""

    def __init__(self, net: Net, attention: str, kind: str, target: Any = None):
        torch.manual_seed(0)
        self.net, self.site = net, net.sites[kind]
        self.model = prepared(net.build(attention))
        self.x: Any = net.inputs()
        self.bound, self.fixed = net.bound(), net.fixed()
        self.channel = net.channel if self.site.channel is None else self.site.channel
        self.called = functools.partial(self.model, **self.bound, **self.fixed) if self.bound or self.fixed else self.model
        layer = self.site.layer
        self.place = layer if isinstance(layer, Place) or layer is None else Place(layer, False, None)
        target = net.target if target is None else target
        self.target = list(target) if isinstance(target, tuple) else target
        pick = self.picker(self.target)
        self.loops = Alone(self.model, self.x, self.bound, self.fixed, self.place, pick, self.start(), STEPS)
        self.integers = not leaves(self.x)

    def picker(self, target: Any) -> Callable[[Any, int], Tensor]:
        if callable(target):
            return lambda output, i: target(output)[0]
        return lambda output, i: logits(output)[0][target if isinstance(target, int) else target[i]]

    # Where paths start, as the methods take it and as the loops do.

    def baselines(self, make: Callable[[Tensor], Any], other: Callable[[Tensor], Any]) -> Any:
        if isinstance(self.x, dict):
            return {name: make(t) if name in self.net.ids else other(t) for name, t in self.x.items()}
        if isinstance(self.x, tuple):
            return tuple(make(t) if t.is_floating_point() else other(t) for t in self.x)
        return make(self.x)

    def start(self) -> Any:
        return self.baselines(lambda t: torch.full_like(t, START if t.is_floating_point() else TOKEN), lambda t: t)

    def given_start(self) -> Any:
        return self.baselines(lambda t: START if t.is_floating_point() else TOKEN, lambda t: None)

    def references(self) -> Any:
        """Two, for the methods that take many."""
        generator = torch.Generator().manual_seed(SEED)

        def two(t: Tensor) -> Tensor:
            if t.is_floating_point():
                return torch.randn((2, *t.shape[1:]), generator=generator, dtype=t.dtype)
            return torch.randint(4, 6, (2, *t.shape[1:]), generator=generator)

        return self.baselines(two, lambda t: None)

    def reference(self, k: int) -> Any:
        """One of them for every example; what has none is held."""
        leaf = iter(tree_flatten(self.references())[0])
        return tree_map(lambda t: t if (r := next(leaf)) is None else r[k : k + 1].expand(t.shape), self.x)

    # What cannot be.

    def reason(self, row: Row) -> str | None:
        values, floats = self.loops.whole, leaves(self.x)
        rows = [v.dim() > 0 and v.shape[0] == self.loops.size for v in values]
        if row.name == "score_cam" and not (rows[0] if self.integers else all(rows)):
            return "rows"
        if self.integers and row.name in ("internal_influence", "conductance", "score_cam", "guided_grad_cam"):
            return "ids"
        if self.integers and self.place is None and row.name != "feature_ablation":
            return "ids"
        if row.relu and not self.net.relu:
            return "relu"
        if row.name == "guided_grad_cam" and len(values) > len(floats):
            return "space"
        if row.convolutional and any(v.dim() < 3 or v.dim() != t.dim() for v in values for t in floats):
            return "space"
        # Of integers, random points and noise are at the place.
        needs = row.batch_first or (row.name in ("gradient_shap", "noise_tunnel(gradient)") and self.integers)
        if needs and row.name == "noise_tunnel(gradient)":
            needs = not rows[0]
        return "rows" if needs and not all(rows) else None

    def applies(self, row: Row) -> bool:
        return row.at_input or self.place is not None

    # A combination.

    def ask(self, row: Row) -> Found:
        reason = self.reason(row)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if reason is not None:
                kind, text = REASONS[reason]
                with pytest.raises(kind, match=text):
                    self.answer(row)
                return Found(reason=reason)
            pairs = self.compare(row, self.answer(row))
        told = tuple(sorted({str(w.message) for w in caught}))
        floors = self.floors(row, len(pairs))
        error = max(relative(a, b, floor) for (a, b), floor in zip(pairs, floors))
        return Found(error, len(pairs), None, told)

    def floors(self, row: Row, count: int) -> list[float]:
        """What is summed may cancel to 0, but for rounding: gradients over channels before a layer norm, over keys."""
        if row.name == "sum_channels(gradient)":
            return [float(g.abs().max()) for g in self.loops.gradient]
        if row.formula is not None and row.name.endswith("cam"):
            return [float(g.abs().max() * v.abs().max()) for v, g in zip(self.loops.value, self.loops.gradient)]
        return [0.0] * count

    def answer(self, row: Row, **more: Any) -> Any:
        options: dict[str, Any] = dict(row.options)
        if row.targeted:
            options["target"] = self.target
        if row.name in ("integrated_gradients", "internal_influence", "conductance", "deep_lift"):
            options["baselines"] = self.given_start()
        if row.name in ("gradient_shap", "deep_lift_shap"):
            options["baselines"] = self.references()
        if row.name == "gradient_shap":
            options |= {"n_samples": 2, "generator": torch.Generator().manual_seed(SEED)}
        if row.name == "feature_ablation":
            options |= {"baselines": TOKEN if self.integers and self.place is None else START, "feature_mask": self.mask()}
        if row.name.endswith("_cam") and row.name != "guided_grad_cam":
            options["channel_dim"] = self.channel
        method = row.method
        if row.name == "noise_tunnel(gradient)":
            method = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.1, generator=torch.Generator().manual_seed(SEED))
        if row.name == "sum_channels(gradient)":
            method = fa.sum_channels(fa.gradient, channel_dim=self.channel)
        if row.name == "each_target(gradient)":
            del options["target"]
            method = fa.each_target(fa.gradient, self.targets())
        return method(self.called, self.x, layer=self.site.layer, **options, **more)

    def targets(self) -> list[Any]:
        """The target, and one that is another for the same examples."""
        target = self.target
        if callable(target):
            return [target, lambda output: 2 * target(output)]
        if isinstance(target, int):
            return [target, target - 1]
        if isinstance(target[0], tuple):
            return [target, [(t[0], t[1] + 1) for t in target]]
        return [torch.tensor(target), torch.tensor(target).flip(0)]

    def mask(self) -> Any:
        """A few groups of features, over all tensors at the site that are attributed."""
        generator = torch.Generator().manual_seed(SEED)
        like = self.x if self.place is None else fa.activation(self.called, self.x, layer=self.site.layer)
        floats = bool(leaves(like))
        self.ids: Leaves = []

        def groups(t: Any) -> Any:
            if not isinstance(t, Tensor) or (floats and not t.is_floating_point()):
                return None
            shape = list(t.shape)
            shape[0] = 1
            if floats:
                d = self.loops.dims[len(self.ids)]
                shape = [1 if k == d else size for k, size in enumerate(t.shape)]
            self.ids.append(torch.randint(0, GROUPS, shape, generator=generator))
            return self.ids[-1]

        return tree_map(groups, like)

    def compare(self, row: Row, found: Any) -> list[tuple[Tensor, Tensor]]:
        flat = leaves(found)
        assert not any(t.requires_grad for t in flat)
        expected = self.expected(row)
        assert len(flat) == len(expected), f"{len(flat)} attributions, expected {len(expected)}"
        pairs = list(zip(flat, expected))
        if row.name in ("deep_lift", "deep_lift_shap") and self.site.cuts:
            pairs.append((self.loops.sums(flat), self.gains(row)))
        return pairs

    def expected(self, row: Row) -> Leaves:
        loops = self.loops
        if row.name == "noise_tunnel(gradient)":
            return loops.noisy(2, 0.1, SEED)
        if row.formula is not None:
            moves = row.name.endswith("_cam") or row.name == "sum_channels(gradient)"
            return [self.by_formula(row.formula, v, g, moves) for v, g in zip(loops.value, loops.gradient)]
        if row.name == "normalize(gradient)":
            peak = torch.stack([g.flatten(1).abs().amax(1) for g in loops.gradient]).amax(0)
            return [g / peak.reshape(-1, *[1] * (g.dim() - 1)) for g in loops.gradient]
        if row.name in ("guided_backprop", "deconvnet"):
            return loops.under(row.name == "guided_backprop")
        if row.name == "guided_grad_cam":
            return self.guided_grad_cam()
        if row.name in ("deep_lift", "deep_lift_shap"):
            return loops.deep_lift(self.starts(row))
        if row.name == "gradient_shap":
            return loops.gradient_shap([self.reference(k) for k in range(2)], 2, SEED)
        if row.name == "each_target(gradient)":
            each = []
            for target in self.targets():
                pick = self.picker(target.tolist() if isinstance(target, Tensor) else target)
                each.append(loops.joined([loops.slope(i, pick) for i in loops.rows()]))
            return [torch.stack(same) for same in zip(*each)]
        if row.name == "feature_ablation":
            self.mask()
            return self.tokens_ablated() if self.place is None and self.integers else loops.ablated(self.ids, GROUPS, START)
        if row.name in ("ablation_cam", "score_cam"):
            cam: Callable[[int], Leaves] = getattr(loops, row.name)
            return cam(self.channel)
        made: Callable[[], Leaves] = getattr(loops, row.name)
        return made()

    def by_formula(self, formula: Callable[[Tensor, Tensor], Tensor], v: Tensor, g: Tensor, moves: bool) -> Tensor:
        if not moves:
            return formula(v, g)
        c = self.channel % v.dim()
        return formula(v.movedim(c, 1), g.movedim(c, 1)).movedim(1, c)

    def guided_grad_cam(self) -> Leaves:
        grad_cam = next(r for r in METHODS if r.name == "grad_cam")
        at_input = Alone(self.model, self.x, self.bound, self.fixed, None, self.loops.pick, self.start(), STEPS).under(True)
        assert grad_cam.formula is not None
        maps = grad_cam.formula(self.loops.value[0], self.loops.gradient[0]).clamp(min=0)
        return [g * F.interpolate(maps, g.shape[2:], mode="nearest") for g in at_input]

    def tokens_ablated(self) -> Leaves:
        """At the input of ids: groups of all integers there."""
        parts = self.x if isinstance(self.x, dict) else {"": self.x}
        losses = []
        for k in range(GROUPS):
            each = []
            for i in self.loops.rows():
                without = {
                    name: torch.where(ids == k, torch.full_like(t[i : i + 1], TOKEN), t[i : i + 1])
                    for ids, (name, t) in zip(self.ids, parts.items())
                }
                x = without if isinstance(self.x, dict) else without[""]
                each.append(self.loops.plain_scores[i] - self.loops.score(i, x))
            losses.append(torch.stack(each))
        table = torch.stack(losses)
        return [torch.cat([table[:, i][ids] for i in self.loops.rows()]) for ids in self.ids]

    def starts(self, row: Row) -> list[Any]:
        return [self.reference(k) for k in range(2)] if row.name == "deep_lift_shap" else [self.start()]

    def gains(self, asked: Row) -> Tensor:
        """How the scores differ from those of the baselines."""
        starts = self.starts(asked)
        each = [[self.loops.score(i, row(start, i)) for start in starts] for i in self.loops.rows()]
        return torch.stack([score - torch.stack(before).mean() for score, before in zip(self.loops.plain_scores, each)])


def relative(found: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """The largest error, relative to the largest value."""
    assert found.shape == expected.shape, f"{list(found.shape)}, expected {list(expected.shape)}"
    assert found.dtype == expected.dtype, f"{found.dtype}, expected {expected.dtype}"
    if not expected.numel():
        return 0.0
    scale = max(float(expected.detach().abs().max()), floor)
    error = float((found.detach() - expected.detach()).abs().max())
    return error / scale if scale > 0 else error
