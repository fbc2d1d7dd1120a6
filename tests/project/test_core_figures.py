"""The script that counts the core, on a package so small that it can be counted by eye."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import funattr as fa

from ..breadth import full

SCRIPT = pathlib.Path(fa.__file__).parents[1] / "scripts" / "core_figures.py"

TREE = {
    "__init__": "from .a.one import first",
    "ground": '"""Words."""\n\n# a comment\nimport math\n\nHALF = (\n    math.pi\n    / 2\n)\n',
    "a/__init__": "",
    "a/one": '''
"""A file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import ground
from . import two

if TYPE_CHECKING:
    from tiny.b.three import Third


class Pair(NamedTuple):
    """Two."""

    left: int
    """The one."""
    right: int

    def both(self) -> int:
        """Their sum."""
        import math

        # the sum

        return math.floor(
            self.left + self.right
        )


def first(n: int) -> int:
    @staticmethod
    def inner() -> int:
        return ground.HALF
    return sum(two.second(i) for i in range(n)) + inner()
''',
    "a/two": """
def second(n):
    from tiny.b import three

    return three.third(n) if n else 0
""",
    "b/__init__": "",
    "b/three": """
from ..a import two
from ..ground import HALF

third = lambda n: n
class Third: ...
""",
    "viz/__init__": "from .. import a, ground\nimport tiny\n",
}


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("core_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    for name, text in TREE.items():
        path = tmp_path / "tiny" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path / "tiny"
    for module in [module for module in sys.modules if module.split(".")[0] == "tiny"]:
        del sys.modules[module]


def test_what_is_counted(figures: ModuleType, tiny: pathlib.Path) -> None:
    files = {file.name: file for file in figures.files_of(tiny)}
    assert {name: file.code for name, file in files.items()} == {
        "__init__": 0,
        "ground": 4,
        "a/__init__": 0,
        "a/one": 13,
        "a/two": 2,
        "b/__init__": 0,
        "b/three": 2,
        "viz/__init__": 0,
    }
    assert files["ground"].lines == 9
    assert files["a/one"].functions == (("Pair.both", 3), ("first", 4), ("first.inner", 1))
    assert {file.wing for file in figures.core_of(files.values())} == {".", "a", "b"}


def test_who_imports_whom(figures: ModuleType, tiny: pathlib.Path) -> None:
    files = {file.name: file for file in figures.files_of(tiny)}
    assert files["__init__"].imports == {"a/one"}
    assert files["a/one"].imports == {"ground", "a/two"}
    assert files["a/one"].typing == {"b/three"}
    assert files["a/one"].outside == {"__future__", "typing", "math"}
    assert files["a/two"].imports == files["a/two"].late == {"b/three"}
    assert files["b/three"].imports == {"a/two", "ground"}
    assert files["viz/__init__"].imports == {"a/__init__", "ground"}
    assert {name for name, file in files.items() if file.door} == {"viz/__init__"}
    every = list(files.values())
    assert figures.circles(every) == [["a/two", "b/three"]]
    assert figures.circles(every, typing=True) == [["a/two", "b/three"]]
    arrows = [(".", "a"), ("a", "."), ("a", "b"), ("b", "."), ("b", "a")]
    assert figures.between_wings(figures.core_of(every)) == dict.fromkeys(arrows, 1)
    files["a/two"] = files["a/two"]._replace(imports=frozenset(), typing=frozenset({"a/one"}))
    assert figures.circles(list(files.values())) == []
    assert figures.circles(list(files.values()), typing=True) == [["a/one", "a/two", "b/three"]]


def test_a_name_that_no_file_holds_is_the_doors(figures: ModuleType, tiny: pathlib.Path) -> None:
    (tiny / "a" / "two.py").write_text("import tiny.nowhere.at_all\nfrom tiny.ground import HALF\n")
    found = {file.name: file.imports for file in figures.files_of(tiny)}
    assert found["a/two"] == {"ground"}


def test_the_way_of_a_call(figures: ModuleType, tiny: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tiny.parent)
    first: Callable[[int], float] = importlib.import_module("tiny.a.one").first
    # first, inner, second twice and the lambda; the generator is entered three times
    assert figures.way(lambda: first(2), tiny) == (3, 3, 8)
    before = sys.getprofile()
    with pytest.raises(TypeError):
        figures.way(lambda: first("2"), tiny)  # type: ignore[arg-type]  # wrong on purpose
    assert sys.getprofile() is before


@full
def test_the_report(figures: ModuleType) -> None:
    tree = SCRIPT.parents[1]
    text = figures.report(tree)
    core = figures.core_of(figures.files_of(tree / "funattr"))
    assert f"{sum(file.code for file in core):,} of code" in text
    ways = figures.ways(tree)
    assert list(ways) == list(figures.calls(fa))
    assert all(1 < w.files <= w.functions <= w.calls for w in ways.values())
    # What a newcomer has to read: a longer way wants a reason.
    assert ways["grad_cam, layer"].files <= 18
    assert ways["integrated_gradients, layer"].files <= 30
    assert f"{ways['saliency'].files:>2} {ways['saliency'].functions:>9} {ways['saliency'].calls:>5}" in text


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_is_taken_out_of_git(figures: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed, whatever lies in the working tree since."""
    (tmp_path / "kept" / "funattr").mkdir(parents=True)
    (tmp_path / "kept" / "funattr" / "one.py").write_text("x = 1\n")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "One"]):
        subprocess.run(["git", *command], cwd=tmp_path / "kept", check=True)
    (tmp_path / "kept" / "funattr" / "one.py").write_text("x = 2\ny = 3\n")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(figures, "ROOT", tmp_path / "kept")
    tree = figures.taken_out("HEAD", tmp_path / "out")
    assert (tree / "funattr" / "one.py").read_text() == "x = 1\n"
    with pytest.raises(subprocess.CalledProcessError):
        figures.taken_out("no-such-commit", tmp_path / "out")
