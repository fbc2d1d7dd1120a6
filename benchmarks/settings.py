"""The models that are measured, each with an input, sites from early to late, and what the methods are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .models import BertSmall, ResNet18, VitTiny, cnn, mlp, sequence_cnn


class Setting(NamedTuple):
    """A model to compare on: a row of methods is applied to it at each of its sites."""

    name: str
    model: nn.Module
    x: Tensor
    sites: list[str]
    kinds: frozenset[str]  # which methods it takes: see `methods`
    mask: Tensor | None = None
    words: Tensor | None = None  # for integers in x: what stands in for it where a path runs in the input
    steps: int = 20
    samples: int = 8
    references: int = 4
    groups: int = 16
    targets: int = 10
    channel_dim: int = 1

    @property
    def bound(self) -> Any:
        """The model as funattr takes it: extra arguments are bound."""
        return self.model if self.mask is None else partial(self.model, mask=self.mask)

    @property
    def more(self) -> Any:
        """The extra arguments as Captum takes them."""
        return None if self.mask is None else (self.mask,)

    @property
    def floats(self) -> Tensor:
        return self.x if self.words is None else self.words

    def baselines(self) -> Tensor:
        """References to compare with, the same in each call."""
        generator = torch.Generator().manual_seed(1)
        if "sequence" in self.kinds:  # sequences too
            bases = torch.randint(4, (self.references, self.x.shape[-1]), generator=generator)
            return nn.functional.one_hot(bases, 4).movedim(-1, 1).to(self.x)
        return torch.randn(self.references, *self.floats.shape[1:], generator=generator).to(self.floats)

    def layer(self, site: str) -> nn.Module:
        return self.model.get_submodule(site)


MLP = frozenset({"layer", "path", "lift", "relu", "tiny"})
CNN = frozenset({"image", "cam", "relu", "tiny"})
CONVOLUTIONAL = frozenset({"image", "layer", "cam", "path", "lift", "relu"})
SEQUENCE = frozenset({"sequence"})
TOKENS = frozenset({"layer", "cam", "path", "lift"})


def settings(quick: bool, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[Setting]:
    """Every model, built when its turn comes."""
    for build in (_mlp, _cnn, _sequence, _resnet, _vit, _bert):
        torch.manual_seed(0)
        setting = build(quick)
        if quick:
            setting = setting._replace(steps=4, samples=3, references=2, groups=4, targets=3, sites=setting.sites[-1:])
        yield _moved(setting, device, dtype)


def _moved(setting: Setting, device: str, dtype: torch.dtype) -> Setting:
    def place(t: Tensor) -> Tensor:
        return t.to(device, dtype) if t.is_floating_point() else t.to(device)

    moved: dict[str, Any] = {name: place(t) for name in ("x", "mask", "words") if (t := getattr(setting, name)) is not None}
    return setting._replace(model=setting.model.to(device, dtype), **moved)


def _mlp(quick: bool) -> Setting:
    return Setting("two-layer MLP", mlp(), torch.randn(1, 10), ["1"], MLP, groups=4)


def _cnn(quick: bool) -> Setting:
    return Setting("two-layer CNN", cnn(), torch.randn(1, 1, 8, 8), ["3"], CNN)


def _sequence(quick: bool) -> Setting:
    x = nn.functional.one_hot(torch.randint(4, (2 if quick else 8, 190)), 4).movedim(-1, 1).float()
    return Setting("sequence CNN", sequence_cnn(), x, ["4"], SEQUENCE, references=20)


def _resnet(quick: bool) -> Setting:
    size, batch = (32, 2) if quick else (64, 8)
    return Setting(
        "ResNet-18", ResNet18().eval(), torch.randn(batch, 3, size, size), ["layer1", "layer3", "layer4"], CONVOLUTIONAL
    )


def _vit(quick: bool) -> Setting:
    size, depth = (64, 2) if quick else (112, 12)
    sites = [f"blocks.{i}" for i in sorted({0, depth // 2, depth - 1})]
    model = VitTiny(size=size, depth=depth).eval()
    return Setting("ViT-tiny", model, torch.randn(2, 3, size, size), sites, TOKENS, channel_dim=-1)


def _bert(quick: bool) -> Setting:
    depth, length = (2, 16) if quick else (4, 64)
    model = BertSmall(depth=depth).eval()
    ids = torch.randint(1, 4000, (2, length))
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, length // 2 :] = False  # the second text is shorter
    sites = ["embeddings", f"blocks.{depth // 2 - 1}", f"blocks.{depth - 1}"]
    words = model.embeddings.word(ids).detach()
    return Setting("BERT-small", model, ids, sites, TOKENS, mask=mask, words=words, channel_dim=-1)
