"""The law: every cure that a message gives is run by a test. What tells one to do something is found in code: `cures.py`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .breadth import breadth
from .cure_exemptions import NOT_RUN
from .cure_rows import CORE
from .cure_rows_command import COMMAND
from .cure_rows_dataset import DATASET
from .cure_rows_methods import METHODS
from .cure_rows_more import MORE
from .cure_rows_steps import STEPS
from .cure_rows_viz import VIZ
from .cures import Cure, Text, message_of, texts_with_cures

ROWS = [*CORE, *METHODS, *STEPS, *MORE, *VIZ, *DATASET, *COMMAND]
TEXTS = texts_with_cures()
HELD = {text for text in TEXTS for row in ROWS if text.file == row.file and row.words in text.text}
EXEMPT = [(file, words) for pairs in NOT_RUN.values() for file, words in pairs]


def test_every_cure_is_run_or_says_why_not() -> None:
    """In place of a new exemption, write a row."""
    loose = [text for text in TEXTS if text not in HELD and not any(_is(text, *one) for one in EXEMPT)]
    assert loose == [], "cures that nothing runs: give each a row in cure_rows*.py"


def test_exemptions_are_of_texts_that_nothing_runs() -> None:
    """What has a row, or is gone, is taken off the list; and it does not grow."""
    stale = [one for one in EXEMPT if not any(_is(text, *one) for text in TEXTS if text not in HELD)]
    assert stale == []
    assert len(EXEMPT) <= MOST


#: How many texts may be exempt: lower it with each row.
MOST = 113


def test_exemptions_that_name_a_test_name_one_that_there_is() -> None:
    for why in NOT_RUN:
        if why.startswith("run by "):
            file, _, name = why.removeprefix("run by ").partition("::")
            tree = ast.parse((Path(__file__).parents[1] / file).read_text())
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _is(text: Text, file: str, words: str) -> bool:
    return text.file == file and words in text.text


def _is_quick(row: Cure) -> bool:
    """No program is made, nothing compiled or drawn, and no command runs; of pictures and commands, the first."""
    slow = row.file.startswith(("viz/", "_export/", "_rules/flow/operation", "_cli/"))
    return not slow or row in (VIZ[0], COMMAND[0])


@pytest.mark.parametrize("row", breadth(ROWS, _is_quick), ids=lambda row: f"{row.file}: {row.words}")
def test_the_cure_cures(row: Cure) -> None:
    texts = [text for text in TEXTS if _is(text, row.file, row.words)]
    message = message_of(row.wrong)
    assert texts, "no text of the file has these words"
    assert any(text.matches(message) for text in texts), message
    row.cured()


def test_what_a_cure_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documentation, help of the command and sentences without an order are none."""
    (tmp_path / "some.py").write_text(
        '"""Write nothing."""\n\n\ndef f(x, add):\n    """Pass all."""\n    add("x", help="pass a number")\n'
        '    if x == "y: pass it":\n        return None\n    cure = "a layer before it"\n'
        '    raise ValueError(f"x {x} is flat: pass x[None].")\n    raise ValueError(f"the pass of {x} failed")\n'
    )
    monkeypatch.setattr("tests.cures.ROOT", tmp_path)
    assert [text.text for text in texts_with_cures()] == ["a layer before it", "x {} is flat: pass x[None]."]
    flat = texts_with_cures()[1]
    assert flat.matches("saliency(): x [3] is flat: pass x[None].")
    assert not flat.matches("x [3] is flat: pass x[0].")
