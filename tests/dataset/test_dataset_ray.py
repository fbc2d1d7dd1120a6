"""The engine "ray": the same results, the same folder, and an actor that is killed costs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import funattr as fa

from ..breadth import full
from .test_dataset import BAD, GOOD, IMAGES, Broken, N, check, flat_table, images, loop, nested_table, net, parts

ray = pytest.importorskip("ray", reason="the engine 'ray' needs Ray: pip install ray[data]")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of several kinds


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster for this file, on this machine."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield
    ray.shutdown()


def run(out: Path, data: Any, method: Any = fa.grad_cam, **options: Any) -> Any:
    given: dict[str, Any] = {"layer": "1"} if method is fa.grad_cam else {}
    return fa.dataset.run(method, net, data, out, engine="ray", part_size=8, batch_size=4, **given, **options)


def killed_once(model: Any, x: Tensor, target: Any = None) -> Any:
    """Grad-CAM in an actor that is killed once, in the middle."""
    mark = Path(os.environ.get("TMPDIR", "/tmp")) / f"funattr-killed-{os.getppid()}"
    if bool((x == IMAGES[17]).flatten(1).all(1).any()) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark.unlink(missing_ok=True)
    return fa.grad_cam(model, x, layer="1", target=target)


@full
def test_a_data_set_goes_on_with_the_other_engine(tmp_path: Path) -> None:
    """Begun here, on some; done by Ray, on the rest; and found done here."""
    fa.dataset.run(fa.grad_cam, net, images(), tmp_path, layer="1", shard=(0, 2))
    assert run(tmp_path, Broken(), workers=2) == (N - 12 - 3, 3, 12)  # of the bad ones, 8 is in the first half
    assert run(tmp_path, images(), retry=True) == (3, 0, 0)
    assert fa.dataset.run(fa.grad_cam, net, images(), tmp_path, layer="1") == (0, 0, N)
    check(tmp_path, loop(fa.grad_cam, layer="1"))
    assert set(BAD) | set(GOOD) == set(range(N))


@full
def test_rays_own_data(tmp_path: Path) -> None:
    table = nested_table()
    run(tmp_path / "from ray", ray.data.from_arrow(table))
    check(tmp_path / "from ray", loop(fa.grad_cam, layer="1"))
    fa.dataset.run(fa.grad_cam, net, ray.data.from_arrow(table), tmp_path / "read here", layer="1")
    check(tmp_path / "read here", loop(fa.grad_cam, layer="1"))


@pytest.mark.full
def test_tables_and_streams(tmp_path: Path) -> None:
    pq.write_table(flat_table(), tmp_path / "in.parquet")
    fa.dataset.run(fa.grad_cam, net, flat_table().slice(0, 9), tmp_path / "files", layer="1", batch_size=4)
    assert run(tmp_path / "files", tmp_path / "in.parquet") == (N - 9, 0, 9)
    check(tmp_path / "files", loop(fa.grad_cam, layer="1"))
    run(tmp_path / "stream", zip(range(N), IMAGES, [i % 4 for i in range(N)]), fa.noise_tunnel(fa.saliency, n_samples=2))
    fa.dataset.run(
        fa.noise_tunnel(fa.saliency, n_samples=2),
        net,
        [(i, IMAGES[i], i % 4) for i in range(N)],
        tmp_path / "here",
        batch_size=7,
    )
    check(tmp_path / "stream", [a for _, a in fa.dataset.load(tmp_path / "here")])


@full
def test_an_actor_that_is_killed(tmp_path: Path) -> None:
    run(tmp_path, images(), killed_once, workers=2)
    check(tmp_path, loop(fa.grad_cam, layer="1"))
    assert sum(pq.ParquetFile(part).metadata.num_rows for part in parts(tmp_path)) == N


@pytest.mark.full
def test_ray_reads_it(tmp_path: Path) -> None:
    fa.dataset.run(fa.grad_cam, net, images(), tmp_path, layer="1", part_size=8, batch_size=8)
    rows = sorted(ray.data.read_parquet(str(tmp_path)).take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(N))
    found = torch.stack([torch.tensor(row["attribution"]) for row in rows])
    torch.testing.assert_close(found, torch.stack(loop(fa.grad_cam, layer="1")).flatten(1))


@full
def test_errors_of_the_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no layer '9'"):
        run(tmp_path / "layer", images(), fa.saliency, target=1, layer="9")
    with pytest.raises(ValueError, match="Ray has 3 CPUs, and 3 workers and a reader need 4"):
        run(tmp_path / "cpus", images(), workers=3)
    with pytest.raises(ValueError, match="leave out shard"):
        run(tmp_path / "shard", images(), shard=(0, 2))
