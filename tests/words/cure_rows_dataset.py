"""The rows of `cure_rows.py` for data sets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import funattr as fa

from .cures import Cure

torch.manual_seed(0)
x, labels = torch.randn(4, 6), torch.tensor([0, 1, 0, 1])
net, wide = nn.Linear(6, 3).eval(), nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
rows = pa.array([[1.0] * 6, [2.0] * 6], pa.list_(pa.float32()))
plain = pa.table({"id": [1, 2], "value": rows})
named = pa.table({"id": [1, 2], "x": rows, "target": [0, 1]})


def make(size: int) -> nn.Module:
    return nn.Linear(size, 3)


def of_the_last(model: Any, v: Any, target: Any = None) -> Any:
    return fa.saliency(model, v, target=target) * (2 if len(v) == 2 else 1)


def to_pair(row: Any) -> Any:
    return torch.as_tensor(row["value"], dtype=torch.float32), 1


def run(method: Any = fa.saliency, model: Any = net, data: Any = x, target: Any = 1, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as place:
        return fa.dataset.run(method, model, data, Path(place, "maps"), target=target, progress=False, strict=True, **options)


def twice(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[], Any]:
    """Two runs into one folder."""

    def call() -> Any:
        with tempfile.TemporaryDirectory() as place:
            first(out := Path(place, "maps"))
            return second(out)

    return call


def into(out: Any, target: int = 1, **options: Any) -> Any:
    return fa.dataset.run(fa.saliency, net, x, out, target=target, progress=False, **options)


def of_shapes(out: Any = None, **options: Any) -> Any:
    several = [(i, torch.randn(i + 2), None) for i in range(3)]
    return run(model=lambda: lambda v: v.square().sum(1), data=several, target=None, batch_size=1, **options)


signs = torch.tensor([[1.0], [-1.0], [1.0], [1.0]]).expand(4, 6)


def by_sign(model: Any, x: Any, target: Any = None) -> Any:
    return x if bool(x[0, 0] > 0) else x.bfloat16()


def both_of(ids: Any) -> Any:
    """What two folders hold, of which the second has these ids."""
    with tempfile.TemporaryDirectory() as place:
        into(one := Path(place, "one"))
        into(other := Path(place, "other"), ids=ids)
        return dict(iter(fa.dataset.load([one, other])))


DATASET = [
    Cure(
        "dataset/_data.py",
        "name it, ids='id'",
        lambda: run(data=named, ids=[1, 2], target="data"),
        lambda: run(data=named, ids="id", target="data"),
    ),
    Cure("dataset/_data.py", "give one id for each example", lambda: run(ids="name"), lambda: run(ids=list("abcd"))),
    Cure(
        "dataset/_loader.py",
        "make it a transform= of one example",
        lambda: run(data=DataLoader(TensorDataset(x), collate_fn=list)),
        lambda: run(data=TensorDataset(x), transform=lambda example: example),
    ),
    Cure("dataset/_data.py", "ids for {} examples: give one for each", lambda: run(ids=[1, 2]), lambda: run(ids=[1, 2, 3, 4])),
    Cure(
        "dataset/_data.py",
        "give the ids as ids=",
        lambda: run(data=[(x[0], 1), (x[1], 0)], target="data"),
        lambda: [
            run(data=[(x[0], 1), (x[1], 0)], target="data", ids=[7, 8]),
            run(data=TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), target="data"),
        ],
    ),
    Cure("dataset/_data.py", "or give ids=", lambda: run(data=iter([x[0]])), lambda: run(data=iter([x[0]]), ids=[7])),
    Cure(
        "dataset/_folder.py",
        "Choose another folder, or run it as it was",
        twice(into, lambda out: into(out, target=2)),
        lambda: [twice(into, into)(), run(target=2)],
    ),
    Cure("dataset/_parts.py", "run with varying=True, into another folder", of_shapes, lambda: of_shapes(varying=True)),
    Cure(
        "dataset/_parts.py",
        "run with dtype={}, or another",
        lambda: run(by_sign, data=signs, batch_size=1),
        lambda: [run(by_sign, data=signs, batch_size=1, dtype=dtype) for dtype in ("bfloat16", "float64")],
    ),
    Cure(
        "dataset/_parts.py",
        "make others of them by pool=",
        lambda: run(lambda model, x, target: x + 1j),
        lambda: run(lambda model, x, target: x + 1j, pool=torch.view_as_real),
    ),
    Cure(
        "dataset/_trees.py",
        "give their dict other keys",
        lambda: run(lambda model, x, target: {0: x, "0": x}),
        lambda: run(lambda model, x, target: {0: x, "1": x}),
    ),
    Cure("dataset/_ids.py", "give it as text", lambda: run(ids=[2**70, 1, 2, 3]), lambda: run(ids=[str(2**70), "1", "2", "3"])),
    Cure(
        "dataset/_methods.py",
        "give a dict of them, name -> method",
        lambda: run([fa.saliency, partial(fa.saliency)]),
        lambda: run({"a": fa.saliency, "b": partial(fa.saliency)}),
    ),
    Cure("dataset/_methods.py", "give one at least", lambda: run([]), lambda: run([fa.saliency])),
    Cure(
        "dataset/_methods.py",
        "leave out target={}",
        lambda: run(partial(fa.saliency, target=1), target=2),
        lambda: run(partial(fa.saliency, target=1), target=None),
    ),
    Cure("dataset/_methods.py", "run(..., {}=...)", lambda: run(fa.grad_cam), lambda: run(fa.grad_cam, wide, layer="0")),
    Cure(
        "dataset/_model.py",
        "give lambda: the_model, or functools.partial of its maker",
        lambda: run(model=make),
        lambda: [run(model=lambda: net), run(model=partial(make, 6))],
    ),
    Cure("dataset/_parts.py", "give pool a function of them", lambda: run(pool="token"), lambda: run(pool=lambda a: a)),
    Cure("dataset/_checks.py", "use 'local' or 'ray'", lambda: run(engine="spark"), lambda: run(engine="local")),
    Cure(
        "dataset/_checks.py",
        "give each its own in the data",
        lambda: run(target=[1] * 4),
        lambda: run(data=TensorDataset(x, labels), target="data"),
    ),
    Cure(
        "dataset/_tables.py",
        "name the column of ids with ids=, and have columns",
        lambda: run(data=plain, target="data"),
        lambda: [run(data=named, ids="id", target="data"), run(data=plain, transform=to_pair, target="data")],
    ),
    Cure("dataset/_load.py", "load folders with different ids", lambda: both_of(None), lambda: both_of(list("abcd"))),
    Cure(
        "dataset/_writer.py",
        "use dtype='bfloat16', or none",
        lambda: run(data=1e6 * x, method=fa.input_x_gradient, dtype="float16"),
        lambda: [run(data=1e6 * x, method=fa.input_x_gradient, dtype=dtype) for dtype in ("bfloat16", None)],
    ),
    Cure(
        "dataset/_methods.py",
        "run them apart",
        lambda: run([fa.saliency, fa.each_target(fa.saliency, [0, 1])], target=None),
        lambda: [run(fa.saliency), run(fa.each_target(fa.saliency, [0, 1]), target=None)],
    ),
    Cure(
        "dataset/_draws.py",
        "explain them again into another folder",
        lambda: run(of_the_last, batch_size=3, data=torch.randn(5, 6)),
        lambda: run(of_the_last, batch_size=1, data=torch.randn(5, 6)),
    ),
]
