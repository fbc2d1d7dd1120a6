"""A run that is killed again and again: workers and the driver, with SIGKILL, at seeded points of its progress."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import funattr as fa
from funattr._demo.model import load_digits, load_model

ROOT = Path(fa.__file__).parents[1]
PAUSE = 0.02  # for each batch, so that there is a run to kill: two cores explain 2,000 digits in less than a second


def digits(examples: int) -> TensorDataset:
    """The digits, again and again, each with its class."""
    train, test = load_digits()
    order = torch.arange(examples) % (len(train.images) + len(test.images))
    images, classes = torch.cat([train.images, test.images]), torch.cat([train.classes, test.classes])
    return TensorDataset(images[order], classes[order])


def slow_cam(model: Any, x: Tensor, target: Any = None) -> Any:
    time.sleep(PAUSE)
    return fa.grad_cam(model, x, layer="relu3", target=target)


def main(out: str, batch_size: int) -> None:
    """What is killed: one driver with two workers."""
    data = TensorDataset(*torch.load(data_of(Path(out)), weights_only=True))
    fa.dataset.run(slow_cam, load_model, data, out, batch_size=batch_size, part_size=20, workers=2, threads=1)


def data_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.pt")  # scikit-learn, which has the digits, takes a second to load


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def crash(out: Path, examples: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Run until everything is done, with so many kills on the way, every other one of the driver."""
    chance, start = random.Random(seed), time.monotonic()
    every = examples / 20 / (kills + 1)
    victims = ["worker" if k % 2 == 0 else "driver" for k in range(kills)]
    killed: Counter[str] = Counter()
    torch.save(digits(examples).tensors, data_of(out))
    driver = started(out, 10)
    for k, victim in enumerate(victims):
        point = every * (k + 0.2 + 0.6 * chance.random())
        while parts(out) < point:
            assert driver.poll() is None, f"the run ended after {parts(out)} parts, before kill {k}"
            time.sleep(0.002)
        time.sleep(0.03 * chance.random())
        if victim == "worker":
            subprocess.run(["kill", "-KILL", str(chance.choice(children(driver.pid)))], check=True)
        else:
            orphans = children(driver.pid)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = started(out, chance.choice([5, 10, 15]))
            assert orphans
        killed[victim] += 1
    assert driver.wait() == 0
    return {"killed": dict(killed), **compared(out, examples), "seconds": round(time.monotonic() - start, 1)}


def started(out: Path, batch_size: int) -> subprocess.Popen[bytes]:
    code = f"from tests.crash import main; main({str(out)!r}, {batch_size})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def compared(out: Path, examples: int) -> dict[str, Any]:
    """Against a plain loop in this process. Ids are counted in the files themselves."""
    ids = Counter(i for part in out.glob("part-*.parquet") for i in pq.ParquetFile(part).read(["id"]).column("id").to_pylist())
    images, classes = digits(examples).tensors
    explain = partial(fa.grad_cam, load_model(), layer="relu3")
    loop = torch.cat([explain(x, target=t) for x, t in zip(images.split(10), classes.split(10))])
    found = torch.stack([attribution for _, attribution in fa.dataset.load(out)])
    return {
        "lost": sum(ids[i] == 0 for i in range(examples)),
        "double": sum(count > 1 for count in ids.values()),
        "strangers": sum(i not in range(examples) for i in ids),
        "largest difference": float((found - loop).abs().max()) if found.shape == loop.shape else float("inf"),
        "not bit-equal": int((found != loop).flatten(1).any(1).sum()) if found.shape == loop.shape else examples,
        "left over": len(list(out.parent.glob("**/tmp/*"))),
    }
