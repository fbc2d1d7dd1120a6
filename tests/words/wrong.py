"""What the tables of bad input share: models and inputs, most of them wrong for something, and how a row is tried."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..models import Conv, Mlp, Residual, Text

#: A name, a call, what it raises, and words that the message must contain.
Row = tuple[str, Any, type[Exception], list[str]]

x = torch.randn(4, 6)
image = torch.randn(4, 3, 8, 8)
ids = torch.randint(0, 20, (4, 7))
mlp, conv, net, text = Mlp().eval(), Conv().eval(), Residual().eval(), Text().eval()
scripted = torch.jit.trace(Mlp().eval(), x)
frozen_script = torch.jit.freeze(scripted)


class PartScripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = scripted
        self.head = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(self.body(x)))


class Frozen(nn.Module):
    """Runs without gradients, whatever the caller wants."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp()

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).detach())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 5), nn.Linear(6, 5)
        self.many = nn.ModuleList([nn.Linear(6, 5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 2 * x


class Checkpointed(nn.Module):
    """Runs its activation again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.act, self.first(x), use_reentrant=self.reentrant)
        return self.head(h)


attention = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)).eval()


def tried(table: list[Row]) -> pytest.MarkDecorator:
    """The mark that makes a test of each row."""
    return pytest.mark.parametrize(("call", "kind", "words"), [row[1:] for row in table], ids=[row[0] for row in table])


def refuses(call: Any, kind: type[Exception], words: list[str]) -> None:
    """The call raises this, of this very type, in these words."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
