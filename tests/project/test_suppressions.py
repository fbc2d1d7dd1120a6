"""A rule that is not kept somewhere says why, beside the place: in the code, and in the settings of the tools."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("funattr", "tests", "scripts", "benchmarks", "examples", "docs")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if "_build" not in file.parts)
#: What turns a tool off for a line or a file, and what stands after it.
TURNED_OFF = re.compile(
    r"(?:type: ignore(?:\[[^\]]*\])?|(?:ruff: )?noqa(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*)?|pragma: no cover)(.*)"
)


def without_reason(source: str) -> list[tuple[int, str]]:
    """The lines and the comments that turn a tool off and do not say why."""
    comments = [
        (t.start[0], t.string) for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
    ]
    found = ((line, comment, TURNED_OFF.search(comment)) for line, comment in comments)
    return [(line, comment) for line, comment, off in found if off and not re.search("[a-zA-Z]{3}", off[1])]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_suppression_has_a_reason_beside_it(folder: str) -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / folder)]
    assert files
    missing = {f"{file.relative_to(ROOT)}:{line}": said for file in files for line, said in without_reason(file.read_text())}
    assert missing == {}


def test_what_is_a_reason() -> None:
    mark = "# type" + ": ignore"  # in one piece, mypy would read it here
    for line in (mark, f"{mark}[misc]", f"{mark}[misc]  # ?", "import a  # noqa", "a()  # noqa: B023", "# noqa: B023, E731"):
        assert len(without_reason(line + "\n")) == 1, line
    for line in (f"{mark}[misc]  # a lambda", "a()  # noqa: B023  called at once", f'text = "{mark}"', "# no matter"):
        assert without_reason(line + "\n") == [], line


def test_settings_have_their_reasons_too() -> None:
    """Rules that the tools do not apply to some files, or to any."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    begin = lines.index("ignore = [") + 1
    rules = [line for line in lines[begin : lines.index("]", begin)] if line.strip()]
    rules += [line for line in lines if re.match(r'disable_error_code|ignore_missing_imports|"[^"]+" = \["[A-Z]\d', line)]
    assert len(rules) > 8
    above = dict(zip(lines[1:], lines))
    assert [line for line in rules if "#" not in line and not above[line].startswith("#")] == []
