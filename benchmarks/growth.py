"""How cost grows with steps, batch, groups and targets: counted and measured, beside the model of cost that DESIGN gives.

The model: so many examples through the prefix, the suffix and back (the table of floors), times what one example costs there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .cost import cost
from .floor import Passes, bare
from .measure import Options, rounds, settled, steps_at_once
from .methods import TABLE, Method
from .models import ResNet18
from .settings import CONVOLUTIONAL, Setting

WITHIN = 0.05  # how far counted operations may be from the model


class Curve(NamedTuple):
    """A method at a site, while one number grows."""

    method: str
    site: str
    field: str  # of `Setting`, or "batch"
    values: tuple[int, ...]


CURVES = [
    Curve("integrated_gradients", "layer3", "steps", (5, 10, 20, 40, 80)),
    Curve("conductance", "layer3", "steps", (5, 10, 20, 40)),
    Curve("integrated_gradients", "layer3", "batch", (1, 2, 4, 8, 16)),
    Curve("grad_cam", "layer3", "batch", (1, 2, 4, 8, 16)),
    Curve("feature_ablation", "layer3", "groups", (4, 8, 16, 32, 64)),
    Curve("each_target(grad_cam)", "layer3", "targets", (1, 2, 5, 10, 20, 50)),
]


def setting(curve: Curve, value: int, quick: bool) -> Setting:
    size, batch = (32, 2) if quick else (64, 4)
    torch.manual_seed(0)
    count = value if curve.field == "batch" else batch
    found = Setting("ResNet-18", ResNet18().eval(), torch.randn(count, 3, size, size), [curve.site], CONVOLUTIONAL)
    more: dict[str, Any] = {} if curve.field == "batch" else {curve.field: value}
    return found._replace(**more)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Each curve as an entry of the JSON file: a list of points."""
    for curve in CURVES:
        (method,) = (m for m in TABLE if m.name == curve.method and not m.at_input)
        values = curve.values[:3] if options.quick else curve.values
        points = [point(method, setting(curve, value, options.quick), curve.site, value, options) for value in values]
        yield {**curve._asdict(), "values": list(values), "points": points, "slopes": slopes(values, points)}


def point(method: Method, s: Setting, site: str, value: int, options: Options) -> dict[str, Any]:
    own, captum = method.own(s, site), method.captum(s, site) if method.captum else None
    calls: list[tuple[str, Callable[[], Any]]] = [("own", own)]
    if captum is not None:
        calls.append(("captum", captum))
    found: dict[str, Any] = {"value": value, "model flops": modelled(method, s, site)}
    steps = steps_at_once(own)
    calls.append(("floor", bare(s, method.floor(s, site), None if steps is None else steps * len(s.x))))
    with settled():
        for name, call in calls:
            counted = cost(call)
            found[name] = {"flops": counted.flops, "bytes": counted.peak}
        for name, times in rounds(calls, options._replace(seconds=options.seconds / 2)).items():
            found[name]["seconds"] = statistics.median(times)
    return found | {"steps at once": steps}


def per_example(s: Setting, site: str | None) -> tuple[float, float, float]:
    """FLOPs of one example through the prefix, the suffix, and back through it."""
    counts = (Passes(1, 0), Passes(0, 1), Passes(0, 1, 1))
    prefix, suffix, both = (float(cost(bare(s, [(site, passes)])).flops) for passes in counts)
    return prefix, suffix, both - suffix


def modelled(method: Method, s: Setting, site: str) -> float:
    prefix, suffix, back = per_example(s, site)
    ((_, passes),) = method.floor(s, site)
    return passes.prefix * prefix + passes.suffix * suffix + passes.backward * back


def slopes(values: tuple[int, ...] | list[int], points: list[dict[str, Any]]) -> dict[str, float]:
    """Of the logarithms, over all points: 1 is proportional, 0 does not grow."""
    series = {
        "model": [p["model flops"] for p in points],
        "flops": [p["own"]["flops"] for p in points],
        "seconds": [p["own"]["seconds"] for p in points],
        "bytes": [p["own"]["bytes"] for p in points],
        "the passes' bytes": [p["floor"]["bytes"] for p in points],
    }
    if all("captum" in p for p in points):
        series["Captum's bytes"] = [p["captum"]["bytes"] for p in points]
        series["Captum's seconds"] = [p["captum"]["seconds"] for p in points]
    return {name: slope(list(values), found) for name, found in series.items()}


def slope(at: list[int], found: list[float]) -> float:
    x, y = [math.log(v) for v in at], [math.log(v) for v in found]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def off(entry: dict[str, Any]) -> float:
    """How far the counted operations are from the model, at most, as a fraction."""
    return max(abs(p["own"]["flops"] / p["model flops"] - 1) for p in entry["points"])


HEAD = [
    "grows",
    "method",
    "from, to",
    "FLOPs",
    "the model's",
    "off",
    "time",
    "memory",
    "the passes' memory",
    "Captum: time",
    "Captum: memory",
]


def row(entry: dict[str, Any]) -> list[str]:
    found = entry["slopes"]
    return [
        entry["field"],
        f"`{entry['method']}`, `{entry['site']}`",
        f"{entry['values'][0]}, {entry['values'][-1]}",
        f"{found['flops']:.2f}",
        f"{found['model']:.2f}",
        f"{100 * off(entry):.1f}%",
        f"{found['seconds']:.2f}",
        f"{found['bytes']:.2f}",
        *(
            f"{found[name]:.2f}" if name in found else ""
            for name in ("the passes' bytes", "Captum's seconds", "Captum's bytes")
        ),
    ]


def verdict(entries: list[dict[str, Any]]) -> str:
    wrong = [f"{e['method']} over {e['field']} ({100 * off(e):.1f}%)" for e in entries if off(e) > WITHIN]
    if wrong:
        return f"Not met: counted operations follow the model within {100 * WITHIN:.0f}%: {'; '.join(wrong)}."
    most = 100 * max(map(off, entries))
    return f"Met: counted operations follow the model within {100 * WITHIN:.0f}% (at most {most:.1f}% off)."


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG of small multiples: operations, time and memory against what grows, measured and by the model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(2.7 * len(entries), 7.6), layout="constrained")
    axes = figure.subplots(3, len(entries), squeeze=False)
    for column, entry in enumerate(entries):
        at, points = entry["values"], entry["points"]
        model = [p["model flops"] for p in points]
        captum = all("captum" in p for p in points)
        for line, (name, unit, size) in enumerate((("flops", "GFLOP", 1e9), ("seconds", "ms", 1e-3), ("bytes", "MB", 1e6))):
            axis = axes[line][column]
            axis.plot(at, [p["own"][name] / size for p in points], "o", color="tab:red", label="funattr")
            if captum:
                axis.plot(at, [p["captum"][name] / size for p in points], "x", color="tab:blue", label="Captum")
            if name == "flops":
                axis.plot(at, [m / size for m in model], "k-", linewidth=1, label="model of cost")
            if name == "seconds":  # the model's operations at the speed of the bare passes of the largest point
                speed = points[-1]["floor"]["seconds"] / model[-1]
                axis.plot(at, [m * speed / size for m in model], "k-", linewidth=1, label="model of cost")
            if name == "bytes":  # the bare passes, in the same batches
                axis.plot(at, [p["floor"]["bytes"] / size for p in points], "k-", linewidth=1, label="model of cost")
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(at, [str(v) for v in at])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.minorticks_off()
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(unit)
            if line == 0:
                axis.set_title(f"{entry['method']}\n{entry['site']}", fontsize=9)
            if line == 2:
                axis.set_xlabel(entry["field"])
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
