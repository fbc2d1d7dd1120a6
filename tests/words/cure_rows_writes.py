"""The same of writes that do not get through, of rows that are parts, and of programs of torch.export. See `cures.py`."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor, nn

from .cure_rows import F, M, mlp, x
from .cures import Cure

rows = torch.ones(3, 6, dtype=x.dtype)


class Named(nn.Module):
    """Its dropout returns its input, which is written to; or a layer in place, whose input is read."""

    def __init__(self, writes: bool, reads: bool) -> None:
        super().__init__()
        self.first, self.act, self.drop = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Dropout()
        self.middle, self.head, self.writes, self.reads = nn.Linear(6, 6), nn.Linear(6, 3), writes, reads

    def forward(self, v: Tensor) -> Tensor:
        h = self.first(v)
        y = self.middle(self.act(h))
        y = y + h if self.reads else y
        out = self.drop(y)
        if self.writes:
            y.mul_(3.0)
        return self.head(out)  # type: ignore[no-any-return]  # a module returns any


writing, reading = (Named(writes, not writes).to(x.dtype).eval() for writes in (True, False))


def exported(layers: bool) -> nn.Module:
    """The model as a program, with its layers or without; on torch that has no such program, what there is of either."""
    if not hasattr(getattr(torch, "export", None), "unflatten"):
        return mlp if layers else Boxed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will change
        program = torch.export.export(mlp, (x,))
        return torch.export.unflatten(program) if layers else program.module()


class Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Module()

    def forward(self, v: Tensor) -> Tensor:
        return v * 1


class Chooses(nn.Module):
    """torch.cond compiles what it holds, wherever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, v: Tensor) -> Tensor:
        h: Tensor = torch.cond(self.first.bias.sum() > -9, torch.tanh, torch.relu, (self.first(v),))
        found: Tensor = self.last(h)
        return found


def stepwise() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dynamo's own
        return F.integrated_gradients(chooses, x, target=1), F.feature_ablation(chooses, x, target=1)


chooses = Chooses().to(x.dtype).eval()
WRITES = [
    Cure(
        "_core/cures.py",
        "use gradients, integrated_gradients or feature_ablation",
        lambda: F.lrp(chooses, x, target=1),
        stepwise,
        slow=True,
    ),
    Cure(
        "_core/sites.py",
        "pass torch.export.unflatten(program)",
        lambda: F.gradient(exported(layers=False), x, layer="fc1", target=1),
        lambda: F.gradient(exported(layers=True), x, layer="fc1", target=1),
    ),
    Cure(
        "_core/again.py",
        "Choose a layer after it",
        lambda: F.saliency(writing, x, layer="drop", target=1),
        lambda: F.saliency(writing, x, layer="head", target=1),
    ),
    Cure(
        "_core/again.py",
        "let the model go on with what the layer returns",
        lambda: F.gradient(reading, x, layer="act", target=1, create_graph=True),
        lambda: F.gradient(writing, x, layer="act", target=1, create_graph=True),
    ),
    Cure(
        "_combine/grouped.py",
        "ask each example alone, and call",
        lambda: F.by_examples(partial(M.deletion, F.gradient), [0, 0, 1]),
        lambda: M.deletion(F.gradient, lambda v: v.square().sum(1), rows),
    ),
]
