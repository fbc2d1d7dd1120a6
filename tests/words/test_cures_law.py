"""The law: every cure that a message gives is run by a test. What tells one to do something is found in code: `cures.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..breadth import breadth
from .cure_rows import CORE
from .cure_rows_command import COMMAND
from .cure_rows_dataset import DATASET
from .cure_rows_installed import INSTALLED
from .cure_rows_language import LANGUAGE
from .cure_rows_methods import METHODS
from .cure_rows_more import MORE
from .cure_rows_others import OTHERS
from .cure_rows_steps import STEPS
from .cure_rows_viz import VIZ
from .cure_rows_writes import WRITES
from .cures import Cure, message_of, texts_of, texts_with_cures

ROWS = [*CORE, *METHODS, *STEPS, *MORE, *VIZ, *DATASET, *OTHERS, *COMMAND, *LANGUAGE, *INSTALLED, *WRITES]
TEXTS = texts_with_cures()


def test_every_cure_is_run() -> None:
    held = {text for row in ROWS for text in texts_of(TEXTS, row.file, row.words)}
    assert [text for text in TEXTS if text not in held] == [], "cures that nothing runs: give each a row in cure_rows*.py"


def test_each_row_is_of_one_text() -> None:
    """Words that several texts have would hold all of them to be run, where one is."""
    named = [(row.file, row.words) for row in ROWS]
    assert [one for one in named if len({text.text for text in texts_of(TEXTS, *one)}) != 1] == []


def _is_quick(row: Cure) -> bool:
    """No program is made, nothing compiled or drawn, no library imported and no process started; of pictures, the first."""
    slow = row.file.startswith(
        ("viz/", "_export/", "_rules/flow/operation", "_cli/boxes", "_cli/draw", "_cli/export", "_cli/show", "_demo/")
    )
    return row == VIZ[0] or not (row.slow or slow)


@pytest.mark.parametrize("row", breadth(ROWS, _is_quick), ids=lambda row: f"{row.file}: {row.words}")
def test_the_cure_cures(row: Cure) -> None:
    if row.file == "_cli/bench.py" and torch.__version__ < "2.1":
        pytest.skip("counting FLOPs needs torch 2.1")
    texts, message = texts_of(TEXTS, row.file, row.words), message_of(row.wrong)
    assert any(text.matches(message) for text in texts), message
    row.cured()


SOME = '''"""Write nothing."""

_TEXT = "call it twice"


def f(x, add_command):
    """Pass all."""
    add_command("x", "pass a number")
    text = "write a file"
    add_command("y", text, f"{_TEXT}")
    if x == "y: pass it":
        return None
    print(f"{x}: take a method, and call it")
    cure = "a layer before it"
    raise ValueError(f"x {x} is flat: pass x[None].")
    raise ValueError(f"the pass of {x} failed")
    raise ValueError("the sum of x is 0; sum of x: 0")
    raise ValueError(f"call must be a number, got {x}")


def __repr__(self):
    return f"f({self.x}, call={self.call} or none)"


def g(x):
    text = "or leave it out"
    print("take another", file=x)
'''


CURES = ["a layer before it", "x {} is flat: pass x[None].", "or leave it out", "take another"]


def test_what_a_cure_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documentation, help and answers of the command, what a value looks like and sentences without an order are none."""
    (tmp_path / "some.py").write_text(SOME)
    monkeypatch.setattr("tests.words.cures.ROOT", tmp_path)
    assert [text.text for text in texts_with_cures()] == CURES
    flat = texts_with_cures()[1]
    assert flat.matches("saliency(): x [3] is flat: pass x[None].")
    assert not flat.matches("x [3] is flat: pass x[0].")
