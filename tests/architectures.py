"""Small architectures of the kinds that people use, in float64, with inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor, nn

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
