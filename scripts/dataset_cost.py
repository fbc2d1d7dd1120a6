"""What attributing a data set costs: python scripts/dataset_cost.py [--write], which writes the tables into docs/dataset.md.

Takes about four minutes on two cores, which should have nothing else to do. Times are medians of rounds in which what is
compared takes turns.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import funattr as fa
from benchmarks.models import ResNet18
from funattr._demo.model import load_model
from funattr.dataset._folder import Part
from tests.crash import digits

PAGE = Path(__file__).parents[1] / "docs" / "dataset.md"


def resnet() -> ResNet18:
    torch.manual_seed(0)
    return ResNet18().eval()


def photos(count: int, size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % 1000)


def bare(method: Callable[..., Tensor], factory: Callable[[], Any], data: TensorDataset, layer: str) -> list[Tensor]:
    """What one writes without the runner; nothing is stored."""
    model = factory()
    return [method(model, x, layer=layer, target=target) for x, target in DataLoader(data, batch_size=32)]


def overhead(factory: Callable[[], Any], data: TensorDataset, layer: str, rounds: int) -> tuple[float, float, float]:
    """Seconds of the bare loop, and what the runner takes beyond it: shares of the time, and of the work of all threads."""

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    loops, times, works = [], [], []
    for _ in range(rounds + 1):
        start = now()
        bare(fa.grad_cam, factory, data, layer)
        between = now()
        with tempfile.TemporaryDirectory() as out:
            fa.dataset.run(fa.grad_cam, factory, data, out, layer=layer)
            end = now()
        loops.append(between[0] - start[0])
        times.append((end[0] - between[0]) / loops[-1] - 1)
        works.append((end[1] - between[1]) / (between[1] - start[1]) - 1)
    return statistics.median(loops[1:]), statistics.median(times[1:]), statistics.median(works[1:])  # the first loads libraries


def noted(log: str, model: Any, x: Tensor, target: Any = None) -> Tensor:
    """Grad-CAM that writes down who has explained a batch, and when."""
    found: Tensor = fa.grad_cam(model, x, layer="layer4", target=target)
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")
    return found


def rate(workers: int, data: TensorDataset) -> float:
    """Examples per second while all workers are at work: from when the last one has begun until the first one has ended."""
    with tempfile.TemporaryDirectory() as out:
        log = str(Path(out) / "log")
        fa.dataset.run(
            partial(noted, log), resnet, data, Path(out) / "out", workers=workers, threads=1, batch_size=8, part_size=32
        )
        lines = [line.split() for line in Path(log).read_text().splitlines()]
    times = {pid: sorted(float(at) for own, at in lines if own == pid) for pid, _ in lines}
    assert len(times) == workers, "a worker came too late: take more images"
    first, last = max(own[0] for own in times.values()), min(own[-1] for own in times.values())
    return 8 * sum(first < float(at) <= last for _, at in lines) / (last - first)


METHODS: dict[str, tuple[Callable[..., Any], str, list[dict[str, Any]]]] = {
    "`grad_cam`, `layer4`, 7 x 7": (partial(fa.grad_cam, layer="layer4"), "[1, 7, 7]", [{}, {"dtype": "float16"}]),
    "`input_x_gradient`, pixels": (
        fa.input_x_gradient,
        "[3, 224, 224]",
        [
            {},
            {"dtype": "float16"},
            {"dtype": "bfloat16"},
            {"pool": "place"},
            {"top_k": 100},
            {"top_k": 100, "dtype": "float16"},
        ],
    ),
    "`input_x_gradient`, `layer4`": (
        partial(fa.input_x_gradient, layer="layer4"),
        "[512, 7, 7]",
        [{}, {"dtype": "float16"}, {"pool": "channel"}, {"pool": "channel", "dtype": "float16"}, {"pool": "place"}],
    ),
}


def stored(rows: list[tuple[str, str, str, float, float]], data: TensorDataset) -> None:
    """Bytes per example on the disk, and examples per second of one core."""
    for name, (method, shape, storages) in METHODS.items():
        for storage in storages:
            with tempfile.TemporaryDirectory() as out:
                start = time.process_time()
                fa.dataset.run(method, resnet, data, out, batch_size=8, part_size=len(data), **storage)
                seconds = time.process_time() - start
                size = sum(part.stat().st_size for part in Path(out).glob("part-*.parquet"))
            words = ", ".join(f"`{key}={value!r}`" for key, value in storage.items()) or "as it is, float32"
            rows.append((name, shape, words, size / len(data), len(data) / seconds))


def moved() -> float:
    """Bytes per example between the driver and a worker that reads by itself: its number, and what the part says of it."""
    numbers: list[int | str] = list(range(512))
    part = Part(Path("/out/.funattr/tmp/0123456789abcdef0123456789abcdef.parquet"), numbers, [], "attribution: float")
    return (len(pickle.dumps((0, numbers))) + len(pickle.dumps(("part", part)))) / len(numbers)


def amount(count: float, units: tuple[str, ...] = ("B", "KB", "MB", "GB", "TB", "PB")) -> str:
    for unit in units:
        if count < 1000 or unit == units[-1]:
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def report() -> str:
    small, time_small, work_small = overhead(load_model, digits(50_000), "relu3", 4)
    large, time_large, work_large = overhead(resnet, photos(1024, 96), "layer4", 3)
    data = photos(768, 96)
    rates = [(rate(1, data), rate(2, data)) for _ in range(2)]
    one, two = (max(column) for column in zip(*rates))
    rows: list[tuple[str, str, str, float, float]] = []
    stored(rows, photos(16, 224))
    text = [
        f"One thread, torch {torch.__version__}. Beyond a bare loop over a `DataLoader` that stores nothing, the runner takes:",
        "",
        "| model, `grad_cam` | bare loop | time | work of all threads |",
        "|---|---|---|---|",
        f"| the digits net, 50,000 images of 8 x 8 | {small * 20:.0f} µs per image | {time_small:+.1%} | {work_small:+.1%} |",
        f"| ResNet-18, 1,024 images of 96 x 96 | {large / 1.024:.1f} ms per image | {time_large:+.1%} | {work_large:+.1%} |",
        "",
        f"Two workers on two cores, ResNet-18, one thread each: {one:.1f} and {two:.1f} images per second, {two / one:.2f}x.",
        "",
        f"Between the driver and a worker that reads by itself {moved():.0f} bytes move per example; of a stream, its x too.",
        "What is stored, ResNet-18 with images of 224 x 224, in a file of 16 (some 100 bytes of each are the file's own):",
        "",
        "| attribution | shape | stored | bytes per example | examples per second and core |",
        "|---|---|---|---|---|",
        *(f"| {name} | `{shape}` | {words} | {size:,.0f} | {speed:.1f} |" for name, shape, words, size, speed in rows),
        "",
        "From these, worked out for images of 224 x 224 on such cores:",
        "",
        "| attribution, stored | images | core hours | with 64 cores | storage | files of 4,096 |",
        "|---|---|---|---|---|---|",
    ]
    for index in (1, 2, 7, 11):
        name, _, words, size, speed = rows[index]
        for power in (6, 9):
            hours = 10**power / speed / 3600
            wall = f"{hours / 64:.3g} h" if hours / 64 < 200 else f"{hours / 64 / 24:.3g} days"
            text.append(
                f"| {name}, {words} | 10^{power} | {hours:,.0f} | {wall} | {amount(10**power * size)} | {10**power // 4096:,} |"
            )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/dataset.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = report()
    print(found)
    if options.write:
        page = PAGE.read_text()
        page = re.sub(r"(<!-- cost -->\n).*(<!-- /cost -->)", lambda m: f"{m[1]}{found}\n{m[2]}", page, flags=re.S)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
