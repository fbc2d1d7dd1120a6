"""Models to measure on, built here: nothing is downloaded, and weights are random.

Each can be cut without hooks: `stages` is its forward pass in parts, in order, named by the layer whose value a part returns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stages = list[tuple[str, Callable[[Tensor], Tensor]]]


def stages(model: nn.Module, mask: Tensor | None = None) -> Stages:
    """The parts of a model that run one after another; their composition is its forward pass."""
    if isinstance(model, nn.Sequential):
        return list(model.named_children())
    if isinstance(model, BertSmall):
        return model.stages(mask)
    assert isinstance(model, (ResNet18, VitTiny))
    return model.stages()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)).eval()


def cnn() -> nn.Module:
    conv = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*conv, nn.Flatten(), nn.Linear(8 * 16, 10)).eval()


def sequence_cnn() -> nn.Module:
    """For one-hot DNA: two convolutions, as the first layers of the nets of genomics."""
    conv = [nn.Conv1d(4, 32, 11), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(32, 32, 5), nn.ReLU()]
    return nn.Sequential(*conv, nn.Flatten(), nn.Linear(32 * 41, 8)).eval()


class BasicBlock(nn.Module):
    """A residual block with separate ReLUs: Captum's DeepLift cannot take a reused one."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu2 = nn.ReLU()
        self.downsample = nn.Sequential()
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.downsample(x))


class ResNet18(nn.Module):
    """The architecture of He et al. 2015, 18 layers, for images of any size."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        for i in range(1, 5):
            stride = 1 if i == 1 else 2
            stage = nn.Sequential(BasicBlock(widths[i - 1], widths[i], stride), BasicBlock(widths[i], widths[i], 1))
            self.add_module(f"layer{i}", stage)
        self.fc = nn.Linear(512, classes)

    def stages(self) -> Stages:
        start: Stages = [("conv1", self.conv1), ("maxpool", lambda v: self.maxpool(self.relu(self.bn1(v))))]
        middle: Stages = [(name, self.get_submodule(name)) for name in ("layer1", "layer2", "layer3", "layer4")]
        return [*start, *middle, ("fc", lambda v: self.fc(v.mean((2, 3))))]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm2(x))))


class VitTiny(nn.Module):
    """A vision transformer: 12 blocks of width 192, patches of 16."""

    def __init__(self, size: int = 112, depth: int = 12, width: int = 192, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // 16) ** 2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, 3) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def stages(self) -> Stages:
        start: Stages = [("patches", self.patches)]
        blocks: Stages = [(f"blocks.{i}", block) for i, block in enumerate(self.blocks)]
        blocks[0] = ("blocks.0", lambda v: self.blocks[0](v.flatten(2).transpose(1, 2) + self.positions))
        return [*start, *blocks, ("head", lambda v: self.head(self.norm(v).mean(1)))]

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class WordEmbeddings(nn.Module):
    """Words and positions, normed; vectors in place of ids are taken as the words' embeddings."""

    def __init__(self, words: int, length: int, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        words = ids if ids.is_floating_point() else self.word(ids)
        return self.norm(words + self.position[: ids.shape[1]])


class EncoderBlock(nn.Module):
    """A block of BERT: norms after the residual sums, and a mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = self.norm1(x + self.proj(heads.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(self.act(self.up(x))))


class BertSmall(nn.Module):
    """The encoder of Devlin et al. 2018 in its small size, 4 blocks of width 512, with a classifier of the first token."""

    def __init__(self, words: int = 4000, length: int = 128, depth: int = 4, width: int = 512, classes: int = 10) -> None:
        super().__init__()
        self.embeddings = WordEmbeddings(words, length, width)
        self.blocks = nn.ModuleList(EncoderBlock(width, 8) for _ in range(depth))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def stages(self, mask: Tensor | None) -> Stages:
        def through(block: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda v: block(v, None if mask is None else rows(mask, v.shape[0]))

        blocks: Stages = [(f"blocks.{i}", through(block)) for i, block in enumerate(self.blocks)]
        return [("embeddings", self.embeddings), *blocks, ("classifier", self.classify)]

    def classify(self, value: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.pooler(value[:, 0])))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.classify(x)


def rows(t: Tensor, count: int) -> Tensor:
    """As many examples as asked for: the same again and again."""
    times = -(-count // t.shape[0])
    return t if t.shape[0] == count else t.repeat(times, *[1] * (t.dim() - 1))[:count]
