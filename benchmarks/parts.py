"""Parts of one run, each a file that ``--json`` wrote: joined for a report, or gone on with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Found = dict[str, Any]

#: Lists of what was measured, and what names an entry of each.
LISTS = {"cases": ("case",), "growth": ("method", "site", "field")}
#: What says how it was measured: figures of files that differ there do not stand beside each other.
SAME = ("machine", "versions", "missing", "torchvision without its meta registrations", "options", "code")
#: But a run may go past midnight, and its parts are chosen by these.
FREE = {"machine": {"date"}, "options": {"filter", "compile"}}


def code() -> str:
    """A digest of the sources that are measured and that measure: a commit, or changes to one that are not committed."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for file in sorted(file for folder in ("funattr", "benchmarks") for file in (root / folder).rglob("*.py")):
        found.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def read(file: Path) -> Found:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file}: expected a file that --json wrote, got {type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or not LISTS.keys() & found.keys():
        raise SystemExit(f"{file}: expected a file that --json wrote, got one with neither 'cases' nor 'growth'")
    return found


def write(found: Found, file: Path) -> None:
    """Whole or not at all: a run that is stopped here leaves what it had."""
    beside = file.with_name(file.name + ".part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)


def differences(one: Found, other: Found, free: dict[str, set[str]]) -> list[str]:
    """In words, what was measured otherwise."""
    found = []
    for part in SAME:
        a, b = (_flat(part, each.get(part), free.get(part, set())) for each in (one, other))
        found += [f"{name} {_said(a, name)} and {_said(b, name)}" for name in a | b if _said(a, name) != _said(b, name)]
    return found


def _flat(part: str, value: Any, free: set[str]) -> Found:
    if isinstance(value, dict):
        return {f"{part}: {name}": each for name, each in value.items() if name not in free}
    return {} if value is None else {part: value}


def _said(flat: Found, name: str) -> str:
    return repr(flat[name]) if name in flat else "not said"


def join(files: list[Path]) -> tuple[Found, list[str]]:
    """All that the files have, and in words what was in more than one of them: the first is kept.

    Raises:
        SystemExit: they were measured on other machines, by other versions or with other settings.
    """
    found, twice = read(files[0]), []
    origin = files[0] if "machine" in found else None
    for file in files[1:]:
        more = read(file)
        if origin and "machine" in more:
            _same(found, origin, more, file)
        elif "machine" in more:
            origin = file
        twice += [f"{file}: {name} was in a file before it, whose figures are kept" for name in _add(found, more)]
    return found, twice


def _same(one: Found, file: Path, other: Found, second: Path) -> None:
    if differing := differences(one, other, FREE):
        raise SystemExit(
            f"report: expected parts of one run, got {file} and {second}, which differ in {'; '.join(differing)}. "
            "Measure one of them again, or report them one by one"
        )


def _add(found: Found, more: Found) -> list[str]:
    """Put more into what was found; the names of what was there already."""
    twice: list[str] = []
    for part, naming in LISTS.items():
        had = {_named(entry, naming) for entry in found.get(part, [])}
        new = more.get(part, [])
        twice += [_named(entry, naming) for entry in new if _named(entry, naming) in had]
        if new:
            found[part] = found.get(part, []) + [entry for entry in new if _named(entry, naming) not in had]
    forward = found.get("forward", {})
    twice += [f"the bare forward pass of {name}" for name in more.get("forward", {}) if name in forward]
    for name, value in more.items():
        found.setdefault(name, value)
    if "forward" in more:
        found["forward"] = forward | {name: each for name, each in more["forward"].items() if name not in forward}
    return twice


def _named(entry: Found, naming: tuple[str, ...]) -> str:
    return ", ".join(str(entry[name]) for name in naming)


def go_on(start: Found, file: Path | None) -> Found:
    """What the file has of this very run, or nothing yet.

    Raises:
        SystemExit: the file is of another run, which is not overwritten.
    """
    fresh = start | {"cases": [], "forward": {}}
    if file is None or not file.exists():
        return fresh
    had = read(file)
    differing = differences(had, start, FREE | {"options": {"filter"}})
    if "cases" not in had:
        differing.insert(0, "what is measured: growth and cases")
    if differing:
        raise SystemExit(
            f"--json {file}: expected a new file, or one of this run to go on with; it has and this run would have: "
            f"{'; '.join(differing)}. Name another file, or remove this one"
        )
    return fresh | had
