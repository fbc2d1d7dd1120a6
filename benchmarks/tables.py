"""What was measured, as rows of text: the same for the terminal and for the documentation."""

from __future__ import annotations

from typing import Any

Entry = dict[str, Any]

#: Names of columns that share a place in the table.
OTHERS = ("grad-cam", "zennit", "tangermeme")


def ratio(entry: Entry, over: str, under: str = "funattr", of: str = "seconds") -> float | None:
    """A figure of one column over that of another; None where there is none."""
    a, b = (entry["columns"].get(name, {}).get(of) for name in (over, under))
    return a / b if a is not None and b else None


def times(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def spread(column: dict[str, Any]) -> str:
    """Half of the middle half, in per cent of the median."""
    return f"{100 * (column['high'] - column['low']) / 2 / column['seconds']:.0f}%" if "seconds" in column else ""


HEAD = [
    "method",
    "layer",
    "ours",
    "+-",
    "Captum",
    "by hand",
    "other",
    "over the floor",
    "FLOPs: Captum",
    "FLOPs: over the floor",
    "memory: Captum",
]


def row(entry: Entry) -> list[str]:
    """Times of competitors over ours (more than 1x: we are faster), and ours over the floor (1x is the least)."""
    own = entry["columns"]["funattr"]
    others = [f"{name} {times(found)}" for name in OTHERS if (found := ratio(entry, name)) is not None]
    captum = entry["columns"].get("Captum", {})
    return [
        f"`{entry['method']}`",
        f"`{entry['site']}`" if entry["site"] != "input" else "input",
        duration(own.get("seconds")),
        spread(own),
        "fails" if "fails" in captum else times(ratio(entry, "Captum")),
        times(ratio(entry, "by hand")),
        ", ".join(others),
        times(ratio(entry, "funattr", "floor")),
        times(ratio(entry, "Captum", of="flops")),
        times(ratio(entry, "funattr", "floor", of="flops")),
        times(ratio(entry, "Captum", of="bytes")),
    ]


COMPILED_HEAD = [
    "method",
    "layer",
    "eager",
    "compiled",
    "speed-up",
    "over the compiled floor",
    "first call",
    "calls to amortise",
]


def compiled_row(entry: Entry) -> list[str]:
    own, fast = entry["columns"]["funattr"], entry["columns"]["compiled"]
    start = [f"{entry['model']}: `{entry['method']}`", f"`{entry['site']}`"]
    if "fails" in fast:
        return [*start, duration(own["seconds"]), fast["fails"], "", "", "", ""]
    return [
        *start,
        duration(own["seconds"]),
        duration(fast["seconds"]),
        times(ratio(entry, "funattr", "compiled")),
        times(ratio(entry, "compiled", "compiled floor")),
        f"{fast['first']:.0f} s",
        amortised(entry),
    ]


def amortised(entry: Entry) -> str:
    """How many calls make up for compiling."""
    own, fast = entry["columns"]["funattr"], entry["columns"]["compiled"]
    gain = own["seconds"] - fast["seconds"]
    return f"{fast['first'] / gain:,.0f}" if gain > 0 else "never"


def by_model(entries: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry["model"], []).append(entry)
    return found


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table, without columns that are empty."""
    kept = [i for i, name in enumerate(head) if i == 0 or any(row[i] for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(head: list[str], rows: list[list[str]]) -> str:
    """The same for a terminal."""
    lines = [head, *([cell.replace("`", "") for cell in row] for row in rows)]
    kept = [i for i in range(len(head)) if any(line[i] for line in lines[1:])]
    wide = [max(len(line[i]) for line in lines) for i in range(len(head))]
    cells = [[line[i].ljust(wide[i]) if i < 2 else line[i].rjust(wide[i]) for i in kept] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)
