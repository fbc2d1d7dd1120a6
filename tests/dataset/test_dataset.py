"""`funattr.dataset`: equal to a plain loop, whatever the data are, however they are cut up, and wherever a run was ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import funattr as fa
from funattr.__main__ import main
from funattr.dataset import _folder

N = 23
DRAWN = torch.Generator().manual_seed(3)
IMAGES = torch.randn(N, 3, 6, 6, generator=DRAWN)
CLASSES = [int(i) % 4 for i in torch.randint(0, 4, (N,), generator=DRAWN)]
MODEL = f"{__name__}:net"


def net() -> nn.Module:
    """A small net, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(80, 4))


def loop(method: Callable[..., Any], **options: Any) -> list[Any]:
    """Each example alone."""
    model = net().eval()
    return [method(model, IMAGES[i : i + 1], target=CLASSES[i], **options)[0] for i in range(N)]


def run(out: Path, data: Any = None, method: Any = fa.grad_cam, model: Any = net, **options: Any) -> Any:
    given: dict[str, Any] = {"layer": "1"} if method is fa.grad_cam else {}
    return fa.dataset.run(method, model, images() if data is None else data, out, **given, **options)


def images() -> TensorDataset:
    return TensorDataset(IMAGES, torch.tensor(CLASSES))


def check(out: Path, expected: list[Any], ids: list[Any] | None = None) -> None:
    found = list(fa.dataset.load(out))
    assert [i for i, _ in found] == (list(range(N)) if ids is None else ids)
    for (_, own), reference in zip(found, expected):
        torch.testing.assert_close(own, reference)


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


# Data of all kinds


class Map(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return IMAGES[i].numpy(), np.int64(CLASSES[i])


class WithIds(Map):
    def __getitem__(self, i: int) -> Any:
        return i, IMAGES[i], CLASSES[i]


class OneByOne(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(range(N), IMAGES, CLASSES)


def flat_table() -> Any:
    x = pa.FixedSizeListArray.from_arrays(pa.array(IMAGES.numpy().reshape(-1)), 108)
    field = pa.field("x", x.type, metadata={"shape": "[3, 6, 6]"})
    return pa.table([list(range(N)), x, CLASSES], schema=pa.schema([("id", pa.int64()), field, ("target", pa.int64())]))


def nested_table() -> Any:
    kind = pa.list_(pa.list_(pa.list_(pa.float32())))
    return pa.table({"id": list(range(N)), "x": pa.array(IMAGES.tolist(), kind), "target": CLASSES})


def tensor_table() -> Any:
    x = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES.numpy())
    return pa.table({"id": list(range(N)), "x": x, "target": CLASSES})


def reversed_set() -> Any:
    return DataLoader(images(), batch_size=5, sampler=list(reversed(range(N))))


DATA: dict[str, Callable[[], Any]] = {
    "tensors": images,
    "arrays": Map,
    "items with ids": WithIds,
    "loader": lambda: DataLoader(Map(), batch_size=5, shuffle=True),
    "loader with a sampler": reversed_set,
    "loader of a stream": lambda: DataLoader(OneByOne()),
    "stream": OneByOne,
    "list": lambda: list(zip(range(N), IMAGES, CLASSES)),
    "generator": lambda: ((i, IMAGES[i], CLASSES[i]) for i in range(N)),
    "table": flat_table,
    "table of lists": nested_table,
    "table of tensors": tensor_table,
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_all_kinds(kind: str, tmp_path: Path) -> None:
    assert run(tmp_path, DATA[kind](), batch_size=4, part_size=8) == (N, 0, 0)
    check(tmp_path, loop(fa.grad_cam, layer="1"))


@pytest.mark.parametrize("table", [flat_table, nested_table])
def test_parquet_files(table: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table().slice(0, 9), tmp_path / "in" / "a.parquet")
    pq.write_table(table().slice(9), tmp_path / "in" / "b.parquet")
    for data in (str(tmp_path / "in"), tmp_path / "in" / "a.parquet", pa.dataset.dataset(tmp_path / "in")):
        out = tmp_path / type(data).__name__
        run(out, data)
        count = 9 if isinstance(data, Path) else N
        check(out, loop(fa.grad_cam, layer="1")[:count], list(range(count)))


def test_rows_and_a_transform(tmp_path: Path) -> None:
    table = pa.table({"name": [f"{i:03d}" for i in range(N)], "number": list(range(N))})
    run(tmp_path, table, ids="name", transform=lambda row: (IMAGES[row["number"]], CLASSES[row["number"]]))
    check(tmp_path, loop(fa.grad_cam, layer="1"), [f"{i:03d}" for i in range(N)])


def test_a_loaders_processes_read(tmp_path: Path) -> None:
    run(tmp_path, Map(), loaders=1, batch_size=6)
    check(tmp_path, loop(fa.grad_cam, layer="1"))


def test_ids_in_any_order(tmp_path: Path) -> None:
    order = torch.randperm(N).tolist()
    run(tmp_path, ids=[1000 - i for i in order], batch_size=3, part_size=3)
    reference = dict(zip([1000 - i for i in order], loop(fa.grad_cam, layer="1")))
    check(tmp_path, [reference[i] for i in sorted(reference)], sorted(reference))


# What a method may take and return


class Two(nn.Module):
    """Two inputs, by name or by place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(self.one(a) * self.two(b))


def two() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Two()


A, B = torch.randn(N, 4, generator=DRAWN), torch.randn(N, 3, generator=DRAWN)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("layer", [None, ["one", "two"], {"x": "one", "y": "two"}, ("two",)])
def test_inputs_and_results_with_structure(named: bool, layer: Any, tmp_path: Path) -> None:
    def inputs(rows: slice) -> Any:
        return {"a": A[rows], "b": B[rows]} if named else (A[rows], B[rows])

    each: list[Any] = [{"a": a, "b": b} if named else (a, b) for a, b in zip(A, B)]
    fa.dataset.run(fa.input_x_gradient, two, [(i, x, i % 6) for i, x in enumerate(each)], tmp_path, layer=layer, batch_size=5)
    for i, found in fa.dataset.load(tmp_path):
        alone = fa.input_x_gradient(two(), inputs(slice(int(i), int(i) + 1)), layer=layer, target=int(i) % 6)
        kind = dict if isinstance(alone, dict) else list if isinstance(alone, list) else tuple
        assert type(found) is kind
        pairs = [(found[k], alone[k]) for k in alone] if kind is dict else list(zip(found, alone))
        assert len(found) == len(alone)
        for own, reference in pairs:
            torch.testing.assert_close(own, reference[0])


def test_compositions_targets_and_names(tmp_path: Path) -> None:
    x, model = IMAGES, net().eval()
    cases: dict[str, tuple[Any, dict[str, Any], Tensor]] = {
        "composed": (fa.interpolate(fa.relu(fa.grad_cam)), {"layer": "1", "target": 2}, torch.empty(0)),
        "bound": (partial(fa.integrated_gradients, n_steps=3), {"target": "argmax"}, torch.empty(0)),
        "own": (own_method, {}, torch.empty(0)),
        "each": (fa.each_target(fa.saliency, [0, 3]), {}, torch.empty(0)),
    }
    for name, (method, options, _) in cases.items():
        fa.dataset.run(method, net, x, tmp_path / name, batch_size=4, **options)
        for i, found in fa.dataset.load(tmp_path / name):
            expected = method(model, x[int(i) : int(i) + 1], **options)
            torch.testing.assert_close(found, expected[:, 0] if name == "each" else expected[0])
    by_name: dict[str, Any] = {"method": "saliency", "model": MODEL, "target": (3,)}
    fa.dataset.run(**by_name, data=x, out=tmp_path / "names")
    check(tmp_path / "names", list(fa.saliency(model, x, target=3)))


def own_method(model: Any, x: Tensor, target: Any = None) -> Tensor:
    return model(x)[:, 1] * x.mean((1, 2, 3))


def test_examples_of_several_shapes(tmp_path: Path) -> None:
    sizes = [6 + i % 3 for i in range(N)]
    rows = [IMAGES[i].repeat(1, 2, 2)[:, : sizes[i], : sizes[i]] for i in range(N)]
    pooled = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ValueError, match=r"differ in shape.*varying=True"):
        fa.dataset.run(fa.grad_cam, pooled, zip(range(N), rows, CLASSES), tmp_path / "fixed", layer="1")
    for dtype in (None, "bfloat16"):
        out = tmp_path / f"varying {dtype}"
        data = zip(range(N), rows, CLASSES)
        fa.dataset.run(fa.grad_cam, pooled, data, out, layer="1", varying=True, dtype=dtype, batch_size=5, part_size=7)
        expected = [fa.grad_cam(pooled, x[None], layer="1", target=t)[0] for x, t in zip(rows, CLASSES)]
        check(out, [e if dtype is None else e.bfloat16() for e in expected])


# Storage


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_rounded(dtype: str, tmp_path: Path) -> None:
    run(tmp_path, dtype=dtype)
    whole = fa.grad_cam(net().eval(), IMAGES, layer="1", target=CLASSES).to(getattr(torch, dtype))
    found = torch.stack([a for _, a in fa.dataset.load(tmp_path)])
    assert found.dtype == whole.dtype
    assert torch.equal(found, whole)


def test_what_float16_cannot_hold_is_told(tmp_path: Path) -> None:
    def huge(model: Any, x: Tensor, target: Any = None) -> Tensor:
        return torch.where(x[:, :, 0, 0] > 1, 1e5, x[:, :, 0, 0])

    tall = [i for i in range(N) if bool((IMAGES[i, :, 0, 0] > 1).any())]
    assert 0 < len(tall) < N
    assert run(tmp_path, method=huge, dtype="float16") == (N - len(tall), len(tall), 0)
    assert sorted(row["id"] for row in fa.dataset.failed(tmp_path)) == tall
    assert all("bfloat16" in row["message"] for row in fa.dataset.failed(tmp_path))


def test_pooled(tmp_path: Path) -> None:
    whole = fa.gradient(net().eval(), IMAGES, layer="1", target=CLASSES)
    pools: dict[str, tuple[Any, Tensor]] = {
        "channel": ("channel", whole.sum((2, 3))),
        "place": ("place", whole.sum(1)),
        "own": (lambda a: a.abs().amax((2, 3)), whole.abs().amax((2, 3))),
    }
    for name, (pool, expected) in pools.items():
        run(tmp_path / name, method=partial(fa.gradient, layer="1"), pool=pool)
        check(tmp_path / name, list(expected))
    tokens = torch.randn(5, 7, 4)
    linear = nn.Linear(4, 2)
    fa.dataset.run(fa.gradient, nn.Sequential(linear, nn.Flatten()), tokens, tmp_path / "token", target=0, pool="token")
    found = torch.stack([a for _, a in fa.dataset.load(tmp_path / "token")])
    torch.testing.assert_close(found[:, 0], linear.weight[0].sum().expand(5))
    assert found.shape == (5, 7)
    assert (found[:, 1:] == 0).all()
    with pytest.raises(ValueError, match=r"pool='token' takes attributions \[N, T, C\], got \[1, 5, 4, 4\]"):
        run(tmp_path / "wrong", method=partial(fa.gradient, layer="1"), pool="token")


def test_top_k(tmp_path: Path) -> None:
    run(tmp_path, method=fa.saliency, top_k=5, batch_size=1)
    for (_, found), whole in zip(fa.dataset.load(tmp_path), loop(fa.saliency)):
        order = sorted(range(whole.numel()), key=lambda j: (-abs(float(whole.reshape(-1)[j])), j))[:5]
        assert found.indices.tolist() == order
        assert found.values.tolist() == [float(whole.reshape(-1)[j]) for j in order]
        dense = found.dense()
        assert dense.shape == whole.shape
        assert int((dense != 0).sum()) == 5
        assert torch.equal(dense[dense != 0], whole[dense != 0])
    with pytest.raises(ValueError, match="top_k=500 is more than the 108"):
        run(tmp_path / "more", method=fa.saliency, top_k=500)


# Read by others


def test_others_read_it(tmp_path: Path) -> None:
    run(tmp_path / "out", batch_size=4, part_size=8)
    expected = torch.stack(loop(fa.grad_cam, layer="1")).reshape(N, -1)
    table = pq.read_table(tmp_path / "out")
    frame = pandas.read_parquet(tmp_path / "out")
    hub = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    read = {
        "pyarrow": (table.column("id").to_pylist(), table.column("attribution").to_pylist()),
        "pandas": (frame["id"].tolist(), np.stack(frame["attribution"].tolist())),
        "datasets": (list(hub["id"]), list(hub["attribution"])),
    }
    for name, (ids, values) in read.items():
        assert ids == list(range(N)), name
        torch.testing.assert_close(torch.as_tensor(np.array(values, np.float32)), expected)
    about = json.loads(table.schema.metadata[b"funattr"])
    assert (about["method"], about["arguments"], about["target"], about["seed"]) == ("grad_cam", {"layer": "1"}, "data", 0)
    assert about["versions"]["torch"] == torch.__version__
    assert len(about["hash"]) == 16
    assert table.schema.field("attribution").metadata == {b"dtype": b"float32", b"shape": b"[1, 4, 4]"}
    hub.cleanup_cache_files()


def test_parts_are_opened_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: of parts whose ids do not overlap, one is held at a time."""
    run(tmp_path, batch_size=2, part_size=2)
    assert len(parts(tmp_path)) == 12
    results, opened = fa.dataset.load(tmp_path), []
    real = pq.ParquetFile

    def counted(path: Any, *more: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return real(path, *more, **options)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    for count, (_, _) in enumerate(results, 1):
        assert len(set(opened)) <= count // 2 + 2
    assert len(set(opened)) == 12
    assert len(results) == N


# Bad examples


class Broken(Map):
    def __getitem__(self, i: int) -> Any:
        if i == 3:
            raise OSError("cut short")
        x, target = IMAGES[i], CLASSES[i]
        return (torch.full_like(x, torch.nan) if i == 7 else x[:, :2] if i == 8 else x), (9 if i == 11 else target)


BAD = {3: ("read", "OSError"), 7: ("explain", "ValueError"), 8: ("explain", "RuntimeError"), 11: ("explain", "ValueError")}
GOOD = [i for i in range(N) if i not in BAD]


@pytest.mark.parametrize("options", [{"batch_size": 32}, {"batch_size": 4, "loaders": 1}, {"workers": 2, "part_size": 8}])
def test_bad_examples_are_set_aside(options: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, Broken(), **options) == (len(GOOD), len(BAD), 0)
    reference = loop(fa.grad_cam, layer="1")
    check(tmp_path, [reference[i] for i in GOOD], GOOD)
    told = {row["id"]: row for row in fa.dataset.failed(tmp_path)}
    assert {i: (row["stage"], row["error"]) for i, row in told.items()} == BAD
    assert told[3]["message"] == "cut short"
    assert "in __getitem__" in told[3]["traceback"]
    assert "NaN" in told[7]["message"]
    assert run(tmp_path, Broken()) == (0, 0, N)  # known as bad: not tried again
    assert run(tmp_path, Broken(), retry=True) == (0, len(BAD), 0)
    assert run(tmp_path, images(), retry=True) == (len(BAD), 0, 0)
    assert fa.dataset.failed(tmp_path) == []
    assert not list(_folder.notes_of(tmp_path).glob("failed/*"))
    check(tmp_path, reference)


def test_strict_stops(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"example 3 is bad: OSError: cut short"):
        run(tmp_path, Broken(), strict=True, batch_size=1)
    check(tmp_path, loop(fa.grad_cam, layer="1")[:3], [0, 1, 2])
    with pytest.raises(RuntimeError, match=r"example 7 is bad: ValueError: .* NaN"):
        run(tmp_path, [(i, *Broken()[i]) for i in range(N) if i != 3], strict=True)


def test_a_mistake_in_the_call_is_no_bad_example(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no layer '9'"):
        fa.dataset.run(fa.grad_cam, net, images(), tmp_path, layer="9")
    assert fa.dataset.failed(tmp_path) == []


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError, KeyboardInterrupt, SystemExit])
def test_what_belongs_to_no_example_ends_the_run(error: type[BaseException], tmp_path: Path) -> None:
    def method(model: Any, x: Tensor, target: Any = None) -> Tensor:
        if bool((x == IMAGES[9]).flatten(1).all(1).any()):
            raise error("no more")
        return x

    with pytest.raises(error):
        run(tmp_path, method=method, batch_size=4)
    assert [i for i, _ in fa.dataset.load(tmp_path)] == list(range(8))
    assert fa.dataset.failed(tmp_path) == []


# The command

JOB = f"""
method = "grad_cam"
model = "{MODEL}"
data = "{__name__}:images"
out = "OUT"
batch_size = 4
[arguments]
layer = "1"
"""


def test_a_job_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.toml"
    job.write_text(JOB.replace("OUT", str(tmp_path / "out")))
    assert main(["run", str(job), "--part-size", "8"]) == 0
    assert capsys.readouterr().out == f"explained {N}, failed 0, skipped 0; results in {tmp_path / 'out'}\n"
    check(tmp_path / "out", loop(fa.grad_cam, layer="1"))
    job.write_text(JOB.replace("OUT", str(tmp_path / "bad")).replace("images", "Broken"))
    assert main(["run", str(job), "--strict"]) == 2
    assert "example 3 is bad: OSError: cut short" in capsys.readouterr().err
    assert main(["run", str(job)]) == 1
    assert main(["run", str(job), "--retry"]) == 1
    assert "explained 0, failed 4, skipped 0" in capsys.readouterr().out


MISTAKES = {
    "batch_sise = 3": "there is no 'batch_sise': did you mean 'batch_size'?",
    'method = "grad_cams"': "there is no method 'grad_cams': did you mean 'grad_cam'?",
    'model = "tests.dataset.test_dataset:nett"': "has no 'nett': did you mean 'net'?",
    'layer = "9"': "has no layer '9'",
    'data = "tests.dataset.test_dataset:imges"': "has no 'imges': did you mean 'images'?",
    "out = ": "cannot read",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_in_a_job(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.toml"
    key = line.split(" =")[0]
    text = JOB.replace("OUT", str(tmp_path / "out"))
    job.write_text(re.sub(rf"^{key} = .*$", line, text, flags=re.M) if f"\n{key} =" in text else f"{line}\n{text}")
    assert main(["run", str(job)]) == 2
    assert MISTAKES[line] in capsys.readouterr().err
    assert main(["run", str(tmp_path / "no.toml")]) == 2


# Bad arguments, in the caller's words

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown": ({"bach_size": 3}, TypeError, "no argument 'bach_size'.*did you mean 'batch_size'"),
    "missing": ({"method": fa.grad_cam}, TypeError, r"grad_cam needs layer: give run\(\.\.\., layer=\.\.\.\)"),
    "engine": ({"engine": "spark"}, ValueError, "no engine 'spark': use 'local' or 'ray'"),
    "module": ({"model": net(), "workers": 2}, TypeError, "workers=2 needs a model that workers can make.*not the Sequential"),
    "ray": ({"model": net(), "engine": "ray"}, TypeError, "engine='ray' needs a model that workers can make"),
    "factory": ({"model": lambda size: net()}, TypeError, "a function without arguments"),
    "no model": ({"model": "net"}, ValueError, "model must be 'module:name', got 'net'"),
    "dtype": ({"dtype": "half"}, ValueError, "dtype must be one of float16"),
    "pool": ({"pool": "channels"}, ValueError, "pool must be one of channel, place, token"),
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
    "workers": ({"workers": "2"}, ValueError, "workers must be a positive integer, got '2'"),
    "seed": ({"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
    "device": ({"device": "cuda9"}, ValueError, "device must be such as 'cpu', 'cuda'.* got 'cuda9'"),
    "ids": ({"ids": [1, 2]}, ValueError, "there are 2 ids for 23 examples"),
    "same ids": ({"ids": [1] * N}, ValueError, "the id 1 is given to two examples"),
    "kinds": ({"ids": [1, *"abcdefghijklmnopqrstuv"]}, TypeError, "all integers or all text"),
    "kinds in a stream": ({"data": [(1, IMAGES[0], 1), ("a", IMAGES[1], 1)]}, TypeError, "all integers or all text"),
    "classes that are floats": ({"data": TensorDataset(IMAGES, torch.arange(N) / 1)}, TypeError, "must hold ints only"),
    "classes beyond the last": ({"data": TensorDataset(IMAGES, torch.arange(N) + 5)}, ValueError, "target .* is out of range"),
    "no UTF-8": ({"ids": ["\udce9"] * N}, ValueError, r"the id '\\udce9' is not UTF-8, and no file of results can hold it"),
    "float": ({"ids": [0.5] * N}, TypeError, "an id must be an integer or text, got float 0.5"),
    "column": ({"ids": "name"}, ValueError, "ids='name' names a column, and data is no table"),
    "targets": ({"target": [1] * N}, TypeError, "give each its own in the data"),
    "data": ({"data": 3}, TypeError, "data must be a torch Dataset or DataLoader"),
    "pairs": ({"data": [IMAGES[0]]}, TypeError, r"an iterable must give \(id, x, target\)"),
    "table": ({"data": pa.table({"id": [1]})}, ValueError, "the table has no column 'x', only id"),
    "collate": ({"data": DataLoader(images(), collate_fn=list)}, TypeError, "collate_fn is not called"),
    "double": ({"data": [(1, IMAGES[0], 1), (1, IMAGES[1], 1)], "batch_size": 1}, ValueError, "the id 1 comes twice"),
    "shard": ({"shard": (2, 2)}, ValueError, r"shard must be \(rank, of how many\)"),
    "shard of parts": ({"shard": (0.5, 2)}, ValueError, r"shard must be \(rank, of how many\)"),
    "no shard": ({"shard": 2}, ValueError, r"shard must be \(rank, of how many\)"),
    "no ids": ({"ids": 3}, TypeError, "ids must be a list, one for each example, got int"),
    "no workers": ({"workers": None}, ValueError, "workers must be a positive integer, got None"),
    "loaders": ({"loaders": 1.5}, ValueError, "loaders must be an integer from 0 on, got 1.5"),
    "huge": ({"batch_size": 10**40}, ValueError, "batch_size must be a positive integer, got 1000"),
    "flag": ({"strict": "no"}, TypeError, "strict must be True or False, got 'no'"),
    "notes": ({"notes": "mine"}, TypeError, "notes must be a dict, got str"),
    "bound": ({"method": partial(fa.saliency, target=1), "target": 2}, TypeError, "has a target bound to it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_arguments(name: str, tmp_path: Path) -> None:
    changed, kind, words = WRONG[name]
    given = {"method": fa.saliency, "model": net, "data": images(), **changed}
    with pytest.raises(kind, match=words):
        fa.dataset.run(out=tmp_path, **given)


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no results in"):
        fa.dataset.load(tmp_path)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "part-0.parquet")
    with pytest.raises(ValueError, match="were not written by run"):
        fa.dataset.load(tmp_path)
