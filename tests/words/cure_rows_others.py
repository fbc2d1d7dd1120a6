"""The rows of `cure_rows.py` for what is told beside a cure, for locks, other processes, and what is interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import funattr as fa
from funattr.dataset._folder import notes_of

from ..models import Recurrent
from .cure_rows import F, answer, embedded, keep, language, likely, mlp, prompt, said, text, two, x
from .cure_rows_more import Nodes, uneven
from .cures import Cure
from .wrong import Checkpointed

ids, viz = torch.randint(0, 20, (4, 7)), F.viz
picture = torch.zeros(0, 3, 16, 16, dtype=torch.uint8)  # of none: superpixels() is asked, and needs no scikit-image
checkpointed = Checkpointed(False).eval()
by_batch = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval()
weights = torch.rand(6)
plain = nn.Sequential(checkpointed.first, checkpointed.act, checkpointed.head)
HOLDS = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
now: dict[str, Any] = {"into": "", "left": 0}  # not in a method: what made a folder is known by what its method holds


class Holds(nn.Module):
    """Does something else where the batch is one of four."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.arange(4.0)[:, None] * x if x.shape[0] == 4 else x).sum(1)


def exported(model: Any = mlp, **options: Any) -> Any:
    return F.export(fa.gradient, model, x, **options)


def many(**options: Any) -> Any:
    with mock.patch("funattr._steps.progress.MANY", 5):
        return F.feature_ablation(mlp, x, target=1, **options)


def watched() -> Any:
    with fa.progress(lambda done, total: None):
        return many()


def folder(call: Callable[[str], Any]) -> Any:
    with tempfile.TemporaryDirectory() as place:  # the folder's notes lie beside it
        os.mkdir(out := os.path.join(place, "maps"))
        return call(out)


def run(out: str, method: Any = fa.saliency, model: Any = mlp, data: Any = x, **options: Any) -> Any:
    options = {"target": 1, "progress": False, "strict": True} | options
    return fa.dataset.run(method, model, data, out, **options)


def beginning_another(model: Any, x: Tensor, target: Any = None) -> Tensor:
    """A method that begins a run into the folder into which it is run."""
    if now["into"]:
        out, now["into"] = now["into"], ""
        with pytest.raises(RuntimeError) as told:
            run(out, beginning_another)
        now["error"] = told.value
    return x


def while_running(out: str) -> None:
    now["into"] = out
    run(out, beginning_another)
    raise now["error"]


def held(out: str) -> None:
    """A run into a folder into which another process writes."""
    run(out, data=x[:2])
    lock = [sys.executable, "-c", HOLDS, str(notes_of(Path(out)) / "lock")]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            run(out, data=x[:2])
        finally:
            other.communicate(b"\n")


def after(first: Callable[[str], Any], method: Any = fa.saliency) -> Callable[[str], Any]:
    """A run into a folder, once what came before has ended."""

    def call(out: str) -> None:
        with pytest.raises(RuntimeError):
            first(out)
        assert sum(run(out, method)) == len(x)

    return call


def ruled(rule: Any) -> Any:
    return F.under({torch.multiply: rule})(fa.gradient)(lambda v: v * weights, x, target=1)


def one_by_one(**options: Any) -> Any:
    with mock.patch("funattr._steps.plan.MANY", 3):
        return F.feature_ablation(mlp, x, target=1, **options)


def drawn(*rows: int) -> Any:
    """With a distribution of so many rows for each input."""
    return F.feature_ablation(two, (x, x), baselines=tuple(torch.zeros(count, 1, 6) for count in rows))


def by_order(layer: Any, found: Any, mask: Any) -> Any:
    """Units of each example in its own order: of an LSTM's values, the states have the layers first."""
    model = Recurrent().eval()
    return F.metrics.deletion(found, model, torch.randn(2, 3, 4), layer=layer, target=1, feature_mask=mask, chunk_size=1)


def of_two_lengths(out: str, **options: Any) -> None:
    """Two runs into a folder, the second of which has an example more, of another length."""
    rows = [(number, torch.ones(number + 2), None) for number in range(2)]
    for count in (1, 2):
        run(out, model=lambda: lambda v: v.square().sum(1), data=rows[:count], target=None, **options)
    assert len(fa.dataset.load(out)) == 2


def damaged(out: str) -> Any:
    run(out)
    part = next(Path(out).glob("part-*"))
    part.write_bytes(part.read_bytes()[:50])
    return run(out)


def mended(out: str) -> None:
    try:
        damaged(out)
    except ValueError:
        next(Path(out).glob("part-*")).unlink()
    assert run(out).explained == len(x)
    assert len(fa.dataset.load(out)) == len(x)


def ending(model: Any, x: Tensor, target: Any = None) -> Tensor:
    """A method that is interrupted once, at its second call."""
    now["left"] -= 1
    if now["left"] == 0:
        raise KeyboardInterrupt
    return x


def interrupted(out: str, calls: int = 2) -> Any:
    now["left"] = calls
    try:
        return run(out, ending, batch_size=1, part_size=1)
    except KeyboardInterrupt as error:
        raise RuntimeError(str(error)) from error


def gone_on(out: str) -> None:
    with pytest.raises(RuntimeError):
        interrupted(out)
    assert tuple(interrupted(out, -1)) == (3, 0, 1)


class Written(Dataset[str]):
    """Examples as text."""

    def __len__(self) -> int:
        return len(x)

    def __getitem__(self, place: int) -> str:
        return json.dumps(x[place].tolist())


def of_texts(**options: Any) -> Any:
    return folder(lambda out: run(out, data=Written(), **options))


def locked(model: Any, x: Tensor, target: Any = None, lock: Any = None) -> Tensor:
    return x


def shipped(method: Any = locked, **options: Any) -> Any:
    return folder(lambda out: run(out, method, lambda: mlp, **options))


class Holder:
    """An output that shows nothing of what it holds."""

    __slots__ = ("held",)

    def __init__(self, held: Tensor) -> None:
        self.held = held


class Picture:
    """As a library of pictures has them."""

    __array_interface__ = np.zeros((4, 6), np.uint8).__array_interface__


plain_layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU())


@dataclasses.dataclass
class Boxed:
    held: Tensor


@dataclasses.dataclass
class Known:
    held: Tensor


class Boxes(nn.Module):
    """A layer whose value torch does not look into."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first, self.box, self.last = nn.Linear(6, 5), Wraps(kind), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.box(self.first(x)).held)


class Wraps(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.inside = kind, nn.Tanh()

    def forward(self, h: Tensor) -> Any:
        return self.kind(self.inside(h))


def boxed(kind: Any, layer: str = "box", method: Any = F.gradient) -> Any:
    return method(Boxes(kind), x, layer=layer, target=1)


def registered() -> None:
    if Known not in getattr(torch.utils._pytree, "SUPPORTED_NODES", {}):
        torch.export.register_dataclass(Known)
    for method in (F.gradient, F.feature_ablation, F.integrated_gradients):
        assert boxed(Known, method=method).held.shape == (4, 5)


OTHERS = [
    Cure(
        "_core/checks.py",
        "and torch looks for no tensors in there",
        lambda: boxed(Boxed),
        registered,
    ),
    Cure(
        "_core/checks.py",
        "a layer inside it",
        lambda: boxed(Holder, method=F.feature_ablation),
        lambda: boxed(Holder, layer="box.inside", method=F.feature_ablation),
    ),
    Cure(
        "_steps/matching.py",
        ": pass {}(baselines)",
        lambda: F.integrated_gradients(mlp, x, target=1, baselines=[0.0] * x.shape[1]),
        lambda: [F.integrated_gradients(mlp, x, target=1, baselines=b) for b in (torch.tensor([0.0] * 6), torch.stack([*x]))],
    ),
    Cure(
        "_core/sites.py",
        ": write layer={}",
        lambda: F.gradient(plain_layers, x, target=1, layer=1),
        lambda: F.gradient(plain_layers, x, target=1, layer="1"),
    ),
    Cure(
        "_core/cures.py",
        "bind the rest, such as lambda output",
        lambda: said(target=nn.CrossEntropyLoss(reduction="none")),
        lambda: said(target=lambda output: nn.CrossEntropyLoss(reduction="none")(output, torch.zeros(4).long())),
    ),
    Cure(
        "_core/checks.py",
        "pass torch.from_numpy(numpy.array(x))",
        lambda: said(x=Picture()),
        lambda: said(x=torch.from_numpy(np.array(Picture())).float(), target=1),
    ),
    Cure(
        "_core/picking.py",
        "return the tensor that it was made of",
        lambda: said(lambda v: mlp(v).detach().numpy(), target=1),
        lambda: said(lambda v: (mlp(v), mlp(v).detach().numpy()), target=1),
    ),
    Cure(
        "_core/picking.py",
        "return a tensor, or pass a callable target",
        lambda: said(lambda v: Holder(mlp(v)), target=1),
        lambda: [
            said(lambda v: Holder(mlp(v)), target=lambda out: out.held[:, 1]),
            said(lambda v: Holder(mlp(v)).held, target=1),
        ],
    ),
    Cure(
        "_core/score.py",
        "leave out what sums or averages over the batch",
        lambda: said(lambda v: mlp(v)[:, 1].mean()),
        lambda: said(lambda v: mlp(v)[:, 1]),
    ),
    Cure(
        "_core/examples.py",
        "count channels from the end",
        lambda: F.by_examples(fa.grad_cam, uneven)(Nodes(), x, layer="act", target=1),
        lambda: F.by_examples(fa.grad_cam, uneven)(Nodes(), x, layer="act", target=1, channel_dim=-1),
    ),
    Cure(
        "_core/labels.py",
        "let the answer end the input",
        lambda: F.gradient(partial(language, logits_to_keep=2), prompt, target=likely(answer), **embedded),
        lambda: F.gradient(partial(language, logits_to_keep=3), prompt, target=likely(answer), **embedded),
    ),
    Cure(
        "_rules/flow/own.py",
        "return one for the first, or a tuple with one for each",
        lambda: ruled(lambda operation, gradient: (gradient,) * 3),
        lambda: [ruled(keep), ruled(lambda operation, gradient: (gradient, None))],
    ),
    Cure(
        "_steps/matching.py",
        "row b of each goes together, so give",
        lambda: drawn(2, 3),
        lambda: drawn(2, 2),
    ),
    Cure("_steps/plan.py", "group them with feature_mask", one_by_one, lambda: one_by_one(feature_mask=torch.arange(6) // 3)),
    Cure(
        "dataset/_parts.py",
        "and return a tensor with the same N",
        lambda: folder(lambda out: run(out, pool=lambda a: a[0])),
        lambda: folder(lambda out: run(out, pool=lambda a: a[:, :1])),
    ),
    Cure(
        "metrics/_agreement.py",
        "so give 1 to {}",
        lambda: F.metrics.agreement(x, x, kind="topk", k=7),
        lambda: [F.metrics.agreement(x, x, kind="topk", k=k) for k in (1, 6)],
    ),
    Cure(
        "_steps/coalitions.py",
        "choose a layer with the batch first",
        lambda: by_order("lstm", (torch.rand(2, 3, 6), (None, None)), (torch.arange(6), (0, 0))),
        lambda: by_order(fa.input_of("lstm"), torch.rand(2, 3, 4), torch.arange(4)),
    ),
    Cure(
        "dataset/_folder.py",
        "run with varying=True, into another folder",
        lambda: folder(of_two_lengths),
        lambda: folder(partial(of_two_lengths, varying=True)),
    ),
    Cure(
        "_core/checks.py", ", and {}", lambda: said(text, ids, target=1), lambda: said(text, ids, layer="embedding", target=1)
    ),
    Cure("_habits.py", "It takes {}", lambda: said(target=1, zzz=0), lambda: said(target=1, layer="fc1", create_graph=True)),
    Cure(
        "_core/score.py",
        "holds a tensor and a {}: pass a callable target that",
        lambda: said(lambda v: (v, object()), target=1),
        lambda: said(lambda v: (v, object()), target=lambda out: out[0][:, 1]),
    ),
    Cure(
        "_steps/draws.py",
        " of numpy",
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=np.random.default_rng(0)),
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=torch.Generator().manual_seed(0)),
    ),
    Cure(
        "_steps/matching.py",
        "must be a scalar or have the structure of x",
        lambda: F.integrated_gradients(two, (x, x), baselines=(x,), n_steps=2),
        lambda: [F.integrated_gradients(two, (x, x), baselines=one, n_steps=2) for one in (0.0, (0 * x, 0 * x))],
    ),
    Cure(
        "viz/_arrays.py",
        "there is nothing to draw",
        lambda: viz.overlay(torch.ones(0, 4)),
        lambda: viz.overlay(torch.ones(1, 4)),
    ),
    Cure(
        "viz/_arrays.py",
        "there is nothing to draw",
        lambda: viz.volume(torch.rand(1, 0, 6, 6), torch.rand(1, 0, 6, 6)),
        lambda: viz.volume(torch.rand(1, 2, 6, 6), torch.rand(1, 2, 6, 6)),
    ),
    Cure(
        "_core/gradient.py",
        "or whatever turned it on)",
        lambda: F.integrated_gradients(checkpointed, x, layer="act", target=1, n_steps=2, create_graph=True),
        lambda: F.integrated_gradients(plain, x, layer="1", target=1, n_steps=2, create_graph=True),
    ),
    Cure(
        "_export/program.py",
        "the model does not take a batch of {} ({}): pass dynamic_batch=False",
        lambda: exported(by_batch, target=1),
        lambda: exported(by_batch, target=1, dynamic_batch=False),
    ),
    Cure(
        "_export/program.py",
        "(its size, or rows of its own). Pass dynamic_batch=False",
        lambda: exported(Holds()),
        lambda: exported(Holds(), dynamic_batch=False),
    ),
    Cure(
        "masks/_groups.py",
        "pass pictures.float()",
        lambda: fa.masks.superpixels(picture, 3),
        lambda: fa.masks.superpixels(picture.float(), 3),
    ),
    Cure(
        "masks/_groups.py",
        "give four dimensions",
        lambda: fa.masks.superpixels(torch.zeros(16, 16), 3),
        lambda: fa.masks.superpixels(torch.zeros(0, 1, 16, 16), 3),
    ),
    Cure("_steps/progress.py", "watch them with fa.progress()", many, watched),
    Cure("_steps/progress.py", "or ask for fewer", many, lambda: many(feature_mask=torch.tensor([0, 0, 0, 1, 1, 1]))),
    Cure(
        "dataset/_trees.py",
        "or with transform=",
        of_texts,
        lambda: of_texts(transform=lambda text: torch.tensor(json.loads(text))),
    ),
    Cure(
        "dataset/_folder.py",
        "another run of this process",
        lambda: folder(while_running),
        lambda: folder(after(while_running, beginning_another)),
    ),
    Cure("dataset/_folder.py", "run(): another run writes into", lambda: folder(held), lambda: folder(after(held))),
    Cure("dataset/_files.py", "which explains again what was in it", lambda: folder(damaged), lambda: folder(mended)),
    Cure("dataset/_run.py", "examples are done; run it again", lambda: folder(interrupted), lambda: folder(gone_on)),
    Cure(
        "dataset/_checks.py",
        "give the function that makes it, not the {}",
        lambda: folder(lambda out: run(out, workers=2)),
        lambda: folder(lambda out: run(out, model=lambda: mlp, workers=2)),
        slow=True,
    ),
    Cure(
        "dataset/_ship.py",
        "give them by name",
        lambda: shipped(partial(locked, lock=threading.Lock()), workers=2),
        lambda: [shipped(partial(locked, lock=threading.Lock()), workers=1, engine="local")],
    ),
    Cure(
        "_core/labels.py",
        "{} is on the meta device, where tensors hold no numbers",
        lambda: F.sum_groups(fa.gradient, torch.zeros(6, dtype=torch.long, device="meta")),
        lambda: F.sum_groups(fa.gradient, torch.zeros(6, dtype=torch.long, device="cpu"))(mlp, x, target=1),
    ),
    Cure(
        "_core/entries.py",
        "target is on the meta device, where tensors hold no numbers",
        lambda: fa.each_target(fa.gradient, [torch.tensor(1, device="meta")])(mlp, x),
        lambda: fa.each_target(fa.gradient, [torch.tensor(1, device="cpu")])(mlp, x),
    ),
    Cure(
        "metrics/_judged.py",
        "leave create_graph out, or pass what the method returned",
        lambda: F.metrics.infidelity(fa.lime, mlp, x, target=1, create_graph=True),
        lambda: [
            F.metrics.infidelity(fa.lime, mlp, x, target=1),
            F.metrics.infidelity(fa.lime(mlp, x, target=1), mlp, x, target=1, create_graph=True),
        ],
    ),
    Cure(
        "_rules/flow/flows.py",
        "give each dimension that size or 1",
        lambda: F.lrp(mlp, x, target=1, rules={**F.rules.epsilon(), **F.rules.zbox(-torch.ones(3), 1.0)}),
        lambda: F.lrp(mlp, x, target=1, rules={**F.rules.epsilon(), **F.rules.zbox(-torch.ones(1), 1.0)}),
    ),
    Cure(
        "_combine/shapes.py",
        "take its .abs(), .real or .imag",
        lambda: F.interpolate(torch.ones(1, 1, 4, dtype=torch.complex64), size=8),
        lambda: F.interpolate(torch.ones(1, 1, 4, dtype=torch.complex64).abs(), size=8),
    ),
]
