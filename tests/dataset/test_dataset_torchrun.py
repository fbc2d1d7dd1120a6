"""The recipe for torchrun, as it stands in the guide, with two ranks on gloo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

import funattr as fa
from funattr._demo.model import load_digits, load_model

from ..breadth import full

ROOT = Path(fa.__file__).parents[1]


def recipe() -> str:
    found = re.search(r"^```py\n# recipe.py\n(.*?)^```$", (ROOT / "docs" / "dataset.md").read_text(), re.M | re.S)
    assert found is not None
    return found[1]


@full
def test_two_ranks(tmp_path: Path) -> None:
    lines = [line for line in recipe().splitlines() if line.strip()]
    assert len(lines) <= 10
    (tmp_path / "recipe.py").write_text(recipe())
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_PORT": str(20_000 + os.getpid() % 10_000)}
    ranks = [
        subprocess.Popen([sys.executable, "recipe.py"], cwd=tmp_path, env={**shared, "RANK": str(rank), "LOCAL_RANK": "0"})
        for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    images, _classes = load_digits()[1]
    found = list(fa.dataset.load(tmp_path / "maps"))
    assert [i for i, _ in found] == list(range(len(images)))
    torch.testing.assert_close(
        torch.stack([a for _, a in found]),
        fa.grad_cam(load_model(), images, layer="relu3", target="argmax"),
        rtol=1e-4,
        atol=1e-5,
    )
    assert {path.name for path in (tmp_path / "maps").glob("shard-*")} == {"shard-00000", "shard-00001"}
