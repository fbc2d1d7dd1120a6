"""`scripts/set_address.py`, on a copy: the project's addresses, and links of the README that lead there from anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
HERE, THERE = "https://example.org/somebody/funattr", "https://example.net/group/other-name"
FILES = ("pyproject.toml", "README.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "scripts" / "set_address.py"), *arguments, "--root", str(copy)]
    return subprocess.run(line, capture_output=True, text=True)


def written(copy: Path, *arguments: str) -> tuple[str, str]:
    done = run(copy, *arguments)
    assert done.returncode == 0, done.stderr
    return (copy / "pyproject.toml").read_text(), (copy / "README.md").read_text()


def links(text: str) -> list[tuple[str, str]]:
    """Every link outside code, and whether it shows a picture."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", prose)


def test_the_projects_addresses(copy: Path) -> None:
    project, _ = written(copy, HERE)
    found: dict[str, Any] = tomllib.loads(project)
    urls = found["project"].pop("urls")
    assert urls["Repository"] == HERE
    assert urls["Documentation"] == f"{HERE}/blob/main/docs/index.md"
    was = tomllib.loads((ROOT / "pyproject.toml").read_text())
    was["project"].pop("urls", None)
    assert found == was
    assert all(url.startswith(HERE) for url in urls.values())


def test_every_link_of_the_readme_leads_to_its_file(copy: Path) -> None:
    before = links((ROOT / "README.md").read_text())
    _, readme = written(copy, HERE)
    after = links(readme)
    assert len(after) == len(before) > 10
    assert any(shown for shown, _ in after)
    for shown, link in after:
        if link.startswith(HERE):
            kind, path = re.fullmatch(rf"{HERE}/(\w+)/main/([^#]*)(?:#.*)?", link).groups()
            assert (ROOT / path).is_file()
            assert kind == ("raw" if shown or path.endswith((".png", ".jpg", ".svg")) else "blob")
        else:
            assert re.match("https://|#", link), link
    code = re.compile(r"^```.*?^```$", re.M | re.S)
    assert code.findall(readme) == code.findall((ROOT / "README.md").read_text())


def test_twice_is_once_and_another_address_takes_its_place(copy: Path) -> None:
    once = written(copy, HERE)
    assert written(copy, f"{HERE}.git") == once
    layout = ("--pages", "{address}/-/blob/v1/{path}", "--pictures", "{address}/-/raw/v1/{path}")
    project, readme = written(copy, THERE, *layout)
    assert HERE not in project + readme
    assert f"({THERE}/-/raw/v1/docs/pictures/viz-show.jpg)" in readme
    assert tomllib.loads(project)["project"]["urls"]["Changelog"] == f"{THERE}/-/blob/v1/CHANGELOG.md"
    assert written(copy, HERE) == once


@pytest.mark.parametrize("address", ["funattr", "http://example.org/a/b", 'https://example.org/a"b', "https://"])
def test_what_is_no_address_changes_nothing(address: str, copy: Path) -> None:
    done = run(copy, address)
    assert done.returncode == 2
    assert "write https://HOST/OWNER/NAME" in done.stderr
    assert [(copy / name).read_text() for name in FILES] == [(ROOT / name).read_text() for name in FILES]
