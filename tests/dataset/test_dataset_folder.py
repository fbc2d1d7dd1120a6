"""What lies in a folder of results and beside it: for other readers, older runs, after a move, and where a file is damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr.dataset._folder import notes_of

from .test_dataset import IMAGES, net

N = 12
X = torch.arange(4.0 * N).reshape(N, 4)
WEIGHT = torch.tensor([[1.0, -2.0, 3.0, 0.5]])


def model() -> nn.Module:
    net = nn.Linear(4, 1, bias=False)
    net.load_state_dict({"weight": WEIGHT})
    return net


class Data(torch.utils.data.Dataset[Any]):
    """Twelve rows; some cannot be explained."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        return X[i] * torch.nan if i in self.bad else X[i]


def run(out: Path, data: Any = None, method: Any = fa.input_x_gradient, **options: Any) -> Any:
    return fa.dataset.run(method, model, Data() if data is None else data, out, part_size=4, batch_size=4, **options)


def check(out: Path, ids: list[int]) -> None:
    found = dict(fa.dataset.load(out))
    assert list(found) == ids
    for i in ids:
        torch.testing.assert_close(found[i], X[i] * WEIGHT[0])


def as_older_runs_left_it(out: Path) -> None:
    """The notes inside, bad examples in Parquet, no sums to check pages by."""
    notes = notes_of(out)
    for path in notes.rglob("failed/*.json"):
        pq.write_table(pa.Table.from_pylist(json.loads(path.read_text())), path.with_suffix(".parquet"))
        path.unlink()
    for part in out.rglob("part-*.parquet"):
        pq.write_table(pq.read_table(part), part, write_page_checksum=False)
    for rank in notes.glob("shard-*"):
        shutil.move(rank, out / rank.name / ".funattr")
    shutil.move(notes, out / ".funattr")


@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_the_folder_has_results_and_nothing_else(shard: Any, tmp_path: Path) -> None:
    """polars takes every file below a folder, duckdb every *.parquet: neither may meet anything else."""
    out = tmp_path / "maps"
    run(out, Data(3), shard=shard)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == (2 if shard else 3)
    assert all("attribution" in pq.read_schema(path).names for path in files)
    assert [row["id"] for row in fa.dataset.failed(out)] == [3]
    assert {path.name for path in tmp_path.iterdir()} == {"maps", ".maps.funattr"}
    assert not list(tmp_path.glob(".maps.funattr/**/*.parquet"))


@pytest.mark.parametrize("shard", [None, (0, 1)])
def test_a_folder_of_an_older_run_goes_on(shard: Any, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    run(out, Data(3, 5), shard=shard)
    as_older_runs_left_it(out)
    assert [row["id"] for row in fa.dataset.failed(out)] == [3, 5]
    check(out, [i for i in range(N) if i not in (3, 5)])
    assert run(out, Data(3)) == (0, 0, N)
    with pytest.raises(ValueError, match="method was 'input_x_gradient', and is 'gradient'"):
        run(out, method=fa.gradient)
    assert run(out, Data(3), retry=True) == (1, 1, 0)
    assert [row["id"] for row in fa.dataset.failed(out)] == [3]
    assert not list(tmp_path.glob(".maps.funattr"))


def test_a_folder_that_was_removed_is_forgotten(tmp_path: Path) -> None:
    out = tmp_path / "maps"
    run(out, Data(3))
    shutil.rmtree(out)
    assert run(out, method=fa.gradient) == (N, 0, 0)
    assert fa.dataset.failed(out) == []


def test_a_folder_that_never_held_a_result_takes_another_configuration(tmp_path: Path) -> None:
    """What a mistaken call left was refused to the call that was meant: "holds results of another configuration"."""
    out = tmp_path / "maps"
    with pytest.raises(ValueError, match="target 7 is out of range"):
        run(out, target=7)
    assert run(out) == (N, 0, 0)
    with pytest.raises(ValueError, match="holds results of another configuration"):
        run(out, target=7)


def test_a_folder_that_was_moved_knows_what_made_it(tmp_path: Path) -> None:
    run(tmp_path / "maps")
    shutil.move(tmp_path / "maps", tmp_path / "moved")
    with pytest.raises(ValueError, match="method was 'input_x_gradient', and is 'gradient'"):
        run(tmp_path / "moved", method=fa.gradient)
    assert run(tmp_path / "moved") == (0, 0, N)


def test_two_names_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "maps")

    def nested(model: Any, x: Tensor, target: Any = None) -> Tensor:
        with pytest.raises(RuntimeError, match=r"another run of this process writes into '.*maps'"):
            run(tmp_path / "maps")
        return x

    run(tmp_path / "link", method=nested)
    check_ids = [i for i, _ in fa.dataset.load(tmp_path / "maps")]
    assert check_ids == list(range(N))


def test_where_nothing_can_be_put_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose parent may not be written to (or lies on another disk) keeps its notes inside."""
    out = tmp_path / "maps"
    out.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    run(out, Data(3))
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    assert [row["id"] for row in fa.dataset.failed(out)] == [3]
    assert run(out, Data(3)) == (0, 0, N)


DAMAGES: dict[str, Any] = {
    "cut": lambda data: data[:100],
    "empty": lambda data: b"",
    "no footer": lambda data: data[:-4] + b"PAR2",
    "bytes": lambda data: data[:40] + bytes(b ^ 255 for b in data[40:60]) + data[60:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_with_the_cure(damage: str, tmp_path: Path) -> None:
    """And the cure cures: the file is deleted, and a run explains what was in it."""
    out = tmp_path / "maps"
    run(out)
    part = sorted(out.glob("part-*"))[1]
    part.write_bytes(DAMAGES[damage](part.read_bytes()))
    words = rf"the file '{part}' is damaged \(.*\): delete it and run again"
    for reads in (lambda: run(out), lambda: list(fa.dataset.load(out)), lambda: fa.dataset.failed(out)):
        with pytest.raises(ValueError, match=words):
            reads()
    part.unlink()
    assert run(out) == (4, 0, 8)
    check(out, list(range(N)))


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    """Noise is stored as it is: a byte that a disk turned over would be another number, and nobody would know."""
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    fa.dataset.run(lambda model, x, target=None: x, model, x, tmp_path / "maps")
    (part,) = (tmp_path / "maps").glob("part-*")
    whole = part.read_bytes()
    for place in range(500, 9000, 211):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged"):
            list(fa.dataset.load(tmp_path / "maps"))
    part.write_bytes(whole)
    assert all(torch.equal(found, x[int(i)]) for i, found in fa.dataset.load(tmp_path / "maps"))


def test_damaged_notes_are_named_with_the_cure(tmp_path: Path) -> None:
    run(tmp_path / "maps", Data(3))
    for name in ("failed/*.json", "run.json"):
        (path,) = notes_of(tmp_path / "maps").glob(name)
        path.write_text("[{")
        with pytest.raises(ValueError, match=rf"the file '{path}' is damaged \(.*\): delete it and run again"):
            run(tmp_path / "maps", Data(3))
        path.unlink()
        assert run(tmp_path / "maps", Data(3))[1:] in ((1, 11), (0, 12))  # what is known as bad was in the first


def test_a_part_that_is_gone_is_no_damage(tmp_path: Path) -> None:
    run(tmp_path / "maps")
    results = fa.dataset.load(tmp_path / "maps")
    sorted((tmp_path / "maps").glob("part-*"))[0].unlink()
    with pytest.raises(FileNotFoundError):
        list(results)


def test_other_readers(tmp_path: Path) -> None:
    """polars and duckdb, where they are installed, in a process of their own: they start threads."""
    run(tmp_path / "maps", Data(3), shard=(0, 2))
    run(tmp_path / "maps", Data(3), shard=(1, 2))
    for library, code in {
        "polars": "polars.read_parquet(folder)",
        "duckdb": "duckdb.sql(f\"select * from read_parquet('{folder}/**/*.parquet')\").df()",
    }.items():
        probe = f"import {library}; folder = {str(tmp_path / 'maps')!r}; print(sorted({code}['id']))"
        found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
        if "ModuleNotFoundError" in found.stderr:
            continue
        assert found.stdout == f"{[i for i in range(N) if i != 3]}\n", found.stderr


def test_a_run_of_a_few_that_all_fail_says_so(tmp_path: Path) -> None:
    """Fewer than are taken for a mistake in the call: a summary alone passes for done."""
    with pytest.warns(UserWarning, match="none of 3 examples was explained. The first: .*no layer 'conv'"):
        assert fa.dataset.run(fa.grad_cam, net, IMAGES[:3], tmp_path / "maps", target=1, layer="conv") == (0, 3, 0)
    fa.dataset.run(fa.saliency, net, IMAGES[:3], tmp_path / "well", target=1)
    some = fa.dataset.run(fa.saliency, net, torch.cat([IMAGES[:3], IMAGES[:1] / 0]), tmp_path / "well", target=1)
    assert some == (0, 1, 3)
    with pytest.raises(KeyError, match="there is no result of the id 7"):
        fa.dataset.load(tmp_path / "well")[7]
