"""What a run found, as text for the documentation: each part goes between markers of its name."""

from __future__ import annotations

import datetime
import os
import platform
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import growth
from .summary import geometric_mean, summary
from .tables import COMPILED_HEAD, HEAD, by_model, compiled_row, duration, markdown, row, times


def machine(threads: int, device: str, dtype: str) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "dtype": dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def sections(found: dict[str, Any]) -> dict[str, str]:
    """Every part of the page that a run writes."""
    parts: dict[str, str] = {}
    if found.get("cases"):
        parts |= {
            "machine": machine_line(found),
            "summary": "\n".join(f"- {line}" for line in summary(found)),
            "tables": tables(found),
        }
        if any("compiled" in entry["columns"] for entry in found["cases"]):
            parts["compiled"] = compiled(found)
    if found.get("growth"):
        parts["growth"] = growth_table(found)
    return parts


def machine_line(found: dict[str, Any]) -> str:
    m = found["machine"]
    where = f"{m['gpu']}, {m['dtype']}" if "gpu" in m else f"{m['processor']}, {m['cores']} cores, {_threads(m['threads'])}"
    absent = [f" {name} {why}." for name, why in found.get("missing", {}).items()]
    beside = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    beside = f" Beside {beside}." if beside else ""
    if found.get("torchvision without its meta registrations"):
        beside += " (torchvision is of another build than torch, and runs without its _meta_registrations.)"
    return f"Measured on {m['date']}: {where}, torch {m['torch']}, Python {m['python']}.{beside}{''.join(absent)}"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def tables(found: dict[str, Any]) -> str:
    blocks = []
    for model, entries in by_model(found["cases"]).items():
        mean = geometric_mean(entries)
        title = f"### {model}, input {entries[0]['input']}"
        line = "" if mean is None else f"\n\nGeometric mean of the speed-up over Captum: {times(mean)}."
        blocks.append(f"{title}\n\n{markdown(HEAD, [row(entry) for entry in entries])}{line}")
    return "\n\n".join(blocks)


def compiled(found: dict[str, Any]) -> str:
    chosen = [entry for entry in found["cases"] if "compiled" in entry["columns"]]
    text = markdown(COMPILED_HEAD, [compiled_row(entry) for entry in chosen])
    forwards = [
        f"{name} {duration(forward['eager'])} and {duration(forward['compiled'])}"
        for name, forward in found.get("forward", {}).items()
    ]
    return text + (f"\n\nThe bare forward pass, eager and compiled: {'; '.join(forwards)}." if forwards else "")


def growth_table(found: dict[str, Any]) -> str:
    entries = found["growth"]
    return f"{markdown(growth.HEAD, [growth.row(entry) for entry in entries])}\n\n{growth.verdict(entries)}"


def _between(part: str, match: re.Match[str]) -> str:
    return f"{match[1]}\n{part}\n\n{match[2]}"


def write(found: dict[str, Any], page: Path) -> list[str]:
    """Put each part between its markers, and return their names.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text(encoding="utf-8")
    parts = sections(found)
    for name, part in parts.items():
        marked = re.compile(rf"(<!-- benchmarks: {name} -->\n).*?(<!-- end of {name} -->)", re.S)
        text, count = marked.subn(partial(_between, part), text)
        if count != 1:
            raise ValueError(
                f"{page} has {count} places for '<!-- benchmarks: {name} -->' ... '<!-- end of {name} -->', not one."
            )
    page.write_text(text, encoding="utf-8")
    return list(parts)
