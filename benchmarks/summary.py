"""Where we lose, in words: each bar of the project held against what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .tables import Entry, ratio, times

TINY = "two-layer"


class Bar(NamedTuple):
    """`figure` of each case that it is about (None: not measured), which must be at least or at most `bound`."""

    text: str
    applies: Callable[[Entry], bool]
    figure: Callable[[Entry], float | None]
    bound: float
    at_least: bool

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _large(entry: Entry) -> bool:
    return bool(entry["asked"]) and not entry["model"].startswith(TINY)


def _worth(entry: Entry) -> float | None:
    """How much of what is saved in operations is saved in time."""
    speed, flops = ratio(entry, "Captum"), ratio(entry, "Captum", of="flops")
    return speed / flops if speed is not None and flops else None


BARS = [
    Bar(
        "FLOPs are within 1.05x of the floor",
        lambda e: bool(e["asked"]),
        lambda e: ratio(e, "funattr", "floor", of="flops"),
        1.05,
        at_least=False,
    ),
    Bar(
        "peak live memory is not above Captum's",
        _large,
        lambda e: ratio(e, "funattr", "Captum", of="bytes"),
        1.0,
        at_least=False,
    ),
    Bar("no slower than 0.95x Captum in eager", _large, lambda e: ratio(e, "Captum"), 0.95, at_least=True),
    Bar("the eager speed-up is at least 0.7 of the FLOP ratio", _large, _worth, 0.7, at_least=True),
    Bar(
        "at least as fast as Captum where only Python counts (two layers, batch 1)",
        lambda e: e["model"].startswith(TINY),
        lambda e: ratio(e, "Captum"),
        1.0,
        at_least=True,
    ),
    Bar("eager time within 1.1x of the bare passes", _large, lambda e: ratio(e, "funattr", "floor"), 1.1, at_least=False),
    Bar(
        "compiled within 1.15x of the compiled bare passes",
        lambda e: "compiled" in e["columns"],
        lambda e: ratio(e, "compiled", "compiled floor"),
        1.15,
        at_least=False,
    ),
]


def summary(found: dict[str, Any]) -> list[str]:
    """A sentence or a list for each bar that the run says something about."""
    entries = found["cases"]
    lines = [line for bar in BARS if (line := judged(bar, entries))]
    lines += _graphs(entries) + _against_eager(found) + _cuda(found) + _failures(entries)
    return lines


def judged(bar: Bar, entries: Iterable[Entry]) -> str:
    figures = {entry["case"]: value for entry in entries if bar.applies(entry) and (value := bar.figure(entry)) is not None}
    if not figures:
        return ""
    missed = {name: value for name, value in figures.items() if not bar.holds(value)}
    worst = (min if bar.at_least else max)(figures.values())
    if not missed:
        return f"Met: {bar.text}, in all {len(figures)} cases ({'least' if bar.at_least else 'most'} {times(worst)})."
    listed = "; ".join(f"{name} {_exact(value)}" for name, value in sorted(missed.items(), key=lambda pair: pair[1]))
    return f"Not met: {bar.text}, in {len(missed)} of {len(figures)} cases: {listed}."


def _exact(value: float) -> str:
    """With as many digits as tell it from 1."""
    return f"{value:.4f}x" if abs(value - 1) < 0.005 else times(value)


def _graphs(entries: list[Entry]) -> list[str]:
    tried = [entry for entry in entries if "compiled" in entry["columns"]]
    failed = [f"{e['case']} ({e['columns']['compiled']['fails']})" for e in tried if "fails" in e["columns"]["compiled"]]
    if not tried:
        return []
    if failed:
        return [f"Not met: one graph with fullgraph=True, in {len(failed)} of {len(tried)} cases: {'; '.join(failed)}."]
    return [f"Met: one graph with fullgraph=True, in all {len(tried)} cases."]


def _against_eager(found: dict[str, Any]) -> list[str]:
    """Compiled against eager, on the models whose bare forward pass is faster compiled."""
    wins = {name for name, forward in found.get("forward", {}).items() if forward["compiled"] < forward["eager"]}
    bar = Bar(
        "compiled is faster than eager where the bare forward pass is",
        lambda e: e["model"] in wins and "compiled" in e["columns"],
        lambda e: ratio(e, "funattr", "compiled"),
        1.0,
        at_least=True,
    )
    lines = [judged(bar, found["cases"])] if wins else []
    loses = [name for name in found.get("forward", {}) if name not in wins]
    if loses:
        figures = (f"{name} ({times(found['forward'][name]['compiled'] / found['forward'][name]['eager'])})" for name in loses)
        lines.append(f"The bare forward pass takes longer compiled than eager on: {', '.join(figures)}.")
    return [line for line in lines if line]


def _cuda(found: dict[str, Any]) -> list[str]:
    if found["options"]["device"] == "cpu":
        return []
    speed = [value for entry in found["cases"] if (value := ratio(entry, "Captum", "compiled")) is not None]
    if not speed:
        return []
    mean = math.exp(statistics.fmean(map(math.log, speed)))
    verdict = "Met" if mean >= 2 else "Not met"
    return [f"{verdict}: on the GPU, compiled at least 2x eager Captum in the geometric mean ({times(mean)})."]


def _failures(entries: list[Entry]) -> list[str]:
    failed = [
        f"{column} in {entry['case']} ({values['fails']})"
        for entry in entries
        for column, values in entry["columns"].items()
        if "fails" in values and not column.startswith("compiled")
    ]
    return [f"Competitors that fail: {'; '.join(failed)}."] if failed else []


def geometric_mean(entries: list[Entry], over: str = "Captum") -> float | None:
    speed = [value for entry in entries if (value := ratio(entry, over)) is not None]
    return math.exp(statistics.fmean(map(math.log, speed))) if speed else None
