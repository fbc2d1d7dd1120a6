"""The ratios as bars: a panel for each model, a bar for each case, the operations as a mark beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tables import Entry, by_model, ratio

SERIES = {"Captum": "tab:blue", "by hand": "tab:gray", "grad-cam": "tab:olive", "zennit": "tab:purple"}


def draw(found: dict[str, Any], path: Path) -> None:
    """Write a PNG: how many times our time each competitor takes. Right of the line, we are faster."""
    from matplotlib.figure import Figure

    panels = by_model([entry for entry in found["cases"] if any(ratio(entry, series) for series in SERIES)])
    if not panels:
        raise SystemExit("--plot: no case has a competitor to compare with")
    # Two columns of panels, the longer ones first.
    order = sorted(panels, key=lambda name: -len(panels[name]))
    sides: tuple[list[str], list[str]] = ([], [])
    for name in order:
        min(sides, key=lambda side: sum(len(panels[n]) + 3 for n in side)).append(name)
    sides = (sides[0], sides[1] or [])
    rows = max(sum(len(panels[name]) + 3 for name in side) for side in sides)
    columns = 1 + bool(sides[1])
    figure = Figure(figsize=(7.5 * columns, 0.24 * rows + 1.2), layout=None)
    high = 0.24 * rows + 1.2
    axes = []
    for column, side in enumerate(sides[:columns]):
        top = 1 - 0.75 / high
        for name in side:
            tall = 0.24 * len(panels[name]) / high
            box = (column / columns + 0.26 / columns, top - tall, 0.71 / columns, tall)
            axes.append(panel(figure.add_axes(box), name, panels[name]))
            top -= tall + 0.72 / high
    low = min(axis.get_xlim()[0] for axis in axes)
    most = max(axis.get_xlim()[1] for axis in axes)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= tick <= most]
    for axis in axes:
        axis.set_xlim(low, most)
        axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.minorticks_off()
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    labels = list(handles)
    figure.legend(
        [handles[label] for label in labels], labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def panel(axis: Any, name: str, entries: list[Entry]) -> Any:
    """A model: its cases from the top."""
    shown = [series for series in SERIES if any(ratio(entry, series) for entry in entries)]
    thick = 0.8 / max(1, len(shown))
    for i, series in enumerate(shown):
        found = [(y, value) for y, entry in enumerate(entries) if (value := ratio(entry, series)) is not None]
        at, values = [y - 0.4 + (i + 0.5) * thick for y, _ in found], [value for _, value in found]
        # Bars start at 1x: their length is the gain or the loss.
        axis.barh(at, [value - 1 for value in values], thick, left=1, color=SERIES[series], label=f"time: {series} / funattr")
    marks = [(value, y) for y, entry in enumerate(entries) if (value := ratio(entry, "Captum", of="flops"))]
    if marks:
        axis.plot(*zip(*marks), "k|", markersize=7, label="FLOPs: Captum / funattr")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yticks(range(len(entries)), [f"{entry['method']}, {entry['site']}" for entry in entries], fontsize=7)
    axis.set_ylim(len(entries) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(name, loc="left", fontsize=10)
    return axis
