"""The page of an answer: the file, and in a browser what a token of the answer, a column or a cell colours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from funattr import viz

from ..chromium import Tab, settle

HOSTILE = "</script><script>window.hacked = 1; alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
COLUMNS = ["<s>", "The", " capital", " of", " France", ",", " in", " a", " word", "\n\n", "is", "", "\t", HOSTILE, " Par", "is"]
COLUMNS += [".", "\u202e", " so", "."]
ANSWER = [" Par", "is", ".", HOSTILE]


def values(rows: int, columns: int) -> torch.Tensor:
    """Rows of which the last `rows` columns are the answer: 0 from a token's own on."""
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    for t in range(rows):
        found[t, columns - rows + t :] = 0
    return found


VALUES = values(4, 20)
LOGS = [-0.25, -3.5, -0.001, -12.0]


def data_of(page: viz.Page) -> Any:
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.html, re.S)
    assert len(found) == 1
    return json.loads(found[0])


# The file.


def test_the_data_are_the_numbers(tmp_path: Path) -> None:
    rows = torch.randn(4, 1, 20, 3, dtype=torch.float64)
    page = viz.answer(COLUMNS, ANSWER, {"a": VALUES, "b": rows}, log_probs=torch.tensor(LOGS), out=tmp_path / "a.html")
    data = data_of(page)
    assert set(data) == {"columns", "answer", "log_probs", "attributions"}
    assert data["columns"] == COLUMNS
    assert data["answer"] == ANSWER
    np.testing.assert_allclose(data["log_probs"], LOGS, rtol=1e-7)
    np.testing.assert_array_equal(np.float32(data["attributions"]["a"]), VALUES.numpy())
    np.testing.assert_array_equal(data["attributions"]["b"], rows[:, 0].sum(-1))
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page.html
    alone = data_of(viz.answer(COLUMNS, ANSWER, VALUES.numpy()))
    assert list(alone["attributions"]) == ["attribution"]
    assert alone["log_probs"] is None
    for half in (torch.bfloat16, torch.float16):
        np.testing.assert_array_equal(
            data_of(viz.answer(["a"], ["b"], torch.tensor([[0.5]], dtype=half)))["attributions"]["attribution"], [[0.5]]
        )


def test_the_file_loads_nothing_and_no_string_leaves_its_place() -> None:
    page = viz.answer([HOSTILE] * 20, ANSWER, {HOSTILE: VALUES}, title=HOSTILE)
    assert len(re.findall(r"<script", page.html)) == len(re.findall(r"</script>", page.html)) == 2
    assert "<img" not in page.html
    assert "default-src 'none'" in page.html
    harmless = viz.answer(["a"], ["b"], [[1.0]]).html
    assert not re.search(r"https?:|[\"'(]//|@import|@font-face|src=|url\(|fetch|XMLHttp|WebSocket|import\(", harmless)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one string": (lambda: viz.answer("abc", ["b"], [[1.0]]), TypeError, r"columns is one string, .*pass \['abc'\]"),
    "no list": (lambda: viz.answer(["a"], 3, [[1.0]]), TypeError, "answer must be a list of strings, got int"),  # type: ignore[arg-type]  # wrong on purpose
    "ids": (lambda: viz.answer(["a"], [3], [[1.0]]), TypeError, "answer holds 3, a int, .*tokenizer.decode"),  # type: ignore[list-item]  # wrong on purpose
    "no columns": (lambda: viz.answer([], ["b"], [[1.0]]), ValueError, "columns is empty"),
    "no answer": (lambda: viz.answer(["a"], [], [[1.0]]), ValueError, "answer is empty"),
    "no method": (lambda: viz.answer(["a"], ["b"], {}), ValueError, "attributions is empty"),
    "strings": (lambda: viz.answer(["a"], ["b"], [["x"]]), TypeError, "attributions must be a tensor or an array of real"),
    "nan": (lambda: viz.answer(["a"], ["b"], [[float("nan")]]), ValueError, "NaN or inf"),
    "one row": (
        lambda: viz.answer(COLUMNS, ANSWER, {"m": torch.ones(20)}),
        ValueError,
        r"attributions\['m'\] has the shape \[20\], expected \[4, 20\] or \[4, 1, 20, D\] for 4 tokens .*each_target",
    ),
    "the whole answer": (
        lambda: viz.answer(COLUMNS, ANSWER, torch.ones(1, 20, 8)),
        ValueError,
        "of the whole answer: pass each",
    ),
    "features": (lambda: viz.answer(COLUMNS, ANSWER, torch.ones(4, 20, 8)), ValueError, r"attributions.sum\(-1\)"),
    "a batch": (lambda: viz.answer(COLUMNS, ANSWER, torch.ones(4, 2, 20, 8)), ValueError, r"attributions\[:, \[0\]\]"),
    "turned": (lambda: viz.answer(COLUMNS, ANSWER, torch.ones(20, 4)), ValueError, r"attributions.T"),
    "too many": (lambda: viz.answer(COLUMNS, ANSWER, torch.ones(5, 20)), ValueError, "one row per token of the answer"),
    "log_probs": (
        lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=[1, 2]),
        ValueError,
        r"log_probs has the shape \[2\], expected \[1\]",
    ),
    "log_probs of words": (lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=["x"]), TypeError, "log_probs must be numbers"),  # type: ignore[list-item]  # wrong on purpose
    "probability 0": (lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=[-np.inf]), ValueError, "a token of probability 0"),
    "a name": (lambda: viz.answer(["a"], ["b"], [[1.0]], out="a.txt"), ValueError, "choose a name that ends in .html"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes(case: str) -> None:
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        call()


def test_the_cures_cure() -> None:
    features, batch = torch.ones(4, 20, 8), torch.ones(4, 2, 20, 8)
    for cured in (features.sum(-1), batch[:, [0]], torch.ones(20, 4).T):
        viz.answer(COLUMNS, ANSWER, cured)


# In a browser.


def colours(tab: Tab, what: str = "column") -> list[Any]:
    """The computed background of each, None where there is none."""
    script = f"[...document.querySelectorAll('[data-{what}]')].map(e => getComputedStyle(e).backgroundColor)"
    found = [list(map(float, re.findall(r"[\d.]+", text))) for text in tab.run(script)]
    return [None if len(color) == 4 and color[3] == 0 else color[:3] for color in found]


def check(tab: Tab, expected: Any, what: str = "column", dark: bool = False) -> None:
    """Red is positive, blue negative; of two on the page the larger is as far from the paper, or farther."""
    found = colours(tab, what)
    assert len(found) == len(expected)
    paper = np.array([22, 22, 22] if dark else [247, 247, 247])
    far = []
    for value, color in zip(expected, found):
        assert (color is None) == (float(value) == 0)
        if color is None:
            continue
        if abs(float(value)) > 0.02:
            assert (color[0] > color[2]) == (float(value) > 0)
        far.append((abs(float(value)), float(np.abs(np.array(color) - paper).sum())))
    for sign in (1, -1):
        sizes = [size for (size, _), value in zip(far, [v for v in expected if v]) if value * sign > 0]
        aways = [away for (_, away), value in zip(far, [v for v in expected if v]) if value * sign > 0]
        assert np.all(np.diff(np.array(aways)[np.argsort(sizes)]) >= 0)


def at(tab: Tab, selector: str) -> None:
    left, top, width, height = tab.box(selector)
    tab.move(left + width / 2, top + height / 2)


def total() -> torch.Tensor:
    return VALUES.double().sum(0)


def told(tab: Tab) -> tuple[str, float]:
    what, value = tab.run("['#what', '#value'].map(id => document.querySelector(id).textContent)")
    return what, float(value)


def test_a_token_that_is_pointed_at_colours_the_columns(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer(COLUMNS, ANSWER, VALUES, log_probs=LOGS, title=HOSTILE))
    check(tab, total())
    what, value = told(tab)
    assert what.startswith("the whole answer, log p -15.75")
    assert value == pytest.approx(float(total().sum()), rel=1e-3)
    for t in range(4):
        at(tab, f"[data-row='{t}']")
        check(tab, VALUES[t])
        assert told(tab)[1] == pytest.approx(float(VALUES[t].sum()), rel=1e-3)
        numbers = tab.run("[...document.querySelectorAll('[data-column]')].map(e => e.title.split(': ').at(-1))")
        np.testing.assert_allclose([float(number) for number in numbers], VALUES[t], rtol=1e-6)
    tab.move(1, 1)
    check(tab, total())
    texts = tab.run("[...document.querySelectorAll('[data-row]')].map(e => e.textContent)")
    assert texts == [f"{text}{log:g}" for text, log in zip(ANSWER, LOGS)]
    assert tab.run("document.querySelector('[data-column=\"4\"]').textContent") == " France"
    assert tab.run("document.querySelector('[data-column=\"4\"]').title").startswith('column 4, " France": ')


def test_the_keyboard_does_the_same(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer(COLUMNS, ANSWER, {"a": VALUES, "b": -VALUES}, log_probs=LOGS))
    tab.press("Tab")  # the tabs
    tab.press("Tab")
    assert tab.run("document.activeElement.dataset.row") == "0"
    check(tab, VALUES[0])
    tab.press("ArrowRight")
    tab.press("Tab")
    assert tab.run("document.activeElement.dataset.row") == "2"
    check(tab, VALUES[2])
    at(tab, "[data-row='3']")  # the mouse goes first, and gives it back
    check(tab, VALUES[3])
    tab.move(1, 1)
    check(tab, VALUES[2])
    tab.press("Escape")
    check(tab, total())
    assert tab.run("[...document.querySelectorAll('[data-row]')].every(e => e.tabIndex === 0)") is True


def test_tabs_change_the_method(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer(COLUMNS, ANSWER, {"first": VALUES, "second": -2 * VALUES}))
    assert tab.run("[...document.querySelectorAll('[role=tab]')].map(e => e.textContent)") == ["first", "second"]
    weak = colours(tab)
    tab.click("[role=tab]:nth-child(2)")
    check(tab, -2 * total())
    tab.press("ArrowLeft")
    assert colours(tab) == weak
    assert tab.run("document.querySelectorAll('[aria-selected=true]').length") == 1
    alone = opened(viz.answer(COLUMNS, ANSWER, {"first": VALUES}))
    assert alone.run("document.querySelector('#methods').checkVisibility()") is False
    away = [np.abs(np.array(c) - 247).sum() for c in colours(alone) if c]
    assert sum(away) > 1.2 * sum(np.abs(np.array(c) - 247).sum() for c in weak if c)  # one scale for the page


def test_a_column_colours_the_answer(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer(COLUMNS, ANSWER, VALUES, log_probs=LOGS))
    assert colours(tab, "row") == [[255, 255, 255]] * 4
    at(tab, "[data-column='2']")
    found = colours(tab, "row")
    assert [color[0] > color[2] for color in found] == [bool(value > 0) for value in VALUES[:, 2]]
    what, value = told(tab)
    assert what == 'column 2 " capital" for the whole answer'
    assert value == pytest.approx(float(total()[2]), rel=1e-6)
    tab.move(1, 1)
    assert colours(tab, "row") == [[255, 255, 255]] * 4


def check_cell(tab: Tab) -> None:
    what, value = told(tab)
    assert what == 'column 3 " of" for token 1 "is"'
    assert value == pytest.approx(float(VALUES[1, 3]), rel=1e-6)


def test_the_matrix_is_the_values_and_its_cells_do_the_same(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer(COLUMNS, ANSWER, VALUES), height=1200)
    left, top, wide, high = tab.box("#canvas")
    shot = tab.screenshot()
    every = torch.cat([VALUES.double(), total()[None]])
    for t in range(5):
        for i in range(20):
            red, _, blue = shot[int(top + (t + 0.5) * high / 5), int(left + (i + 0.5) * wide / 20)]
            value = float(every[t, i])
            assert (red > blue) == (value > 0) or abs(value) < 0.02
    tab.move(left + 3.5 * wide / 20, top + 1.5 * high / 5)
    check(tab, VALUES[1])
    check_cell(tab)
    tab.move(left + 3.5 * wide / 20, top + 4.5 * high / 5)
    check(tab, total())
    tab.move(1, 1)
    for _ in range(5):
        tab.press("Tab")
    assert tab.run("document.activeElement.id") == "matrix"
    check(tab, VALUES[0])
    for key in ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowRight", "ArrowRight"]:
        tab.press(key)
    check(tab, VALUES[1])
    check_cell(tab)
    tab.press("End")
    assert told(tab)[0].startswith("column 19")
    tab.press("Tab")
    check(tab, total())


def test_text_is_harmless(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.answer([HOSTILE] * 20, ANSWER, {HOSTILE: VALUES, "b": VALUES}, title=HOSTILE))
    at(tab, "[data-row='3']")
    assert tab.run("window.hacked") is None
    assert tab.run("document.querySelectorAll('img, iframe').length") == 0
    assert tab.run("document.querySelector('h1').textContent") == HOSTILE
    assert tab.run("document.querySelector('[data-column]').textContent") == HOSTILE


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
@pytest.mark.parametrize("count", [20, 2000])
def test_every_screen_and_every_length(count: int, width: int, dark: bool, opened: Callable[..., Tab]) -> None:
    """Nothing lies outside, words can be read, and what is pointed at does not move away."""
    columns = ["<s>", *(f" word{i}" + "\n" * (i % 50 == 49) for i in range(count - 5)), *ANSWER]
    found = values(4, count)
    tab = opened(viz.answer(columns, ANSWER, found, log_probs=LOGS), width=width, height=900, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") == width
    assert len(colours(tab)) == count
    assert tab.run("document.querySelector('#said').getBoundingClientRect().height") < 400
    for selector, row in (("[data-row='1']", found[1]), ("[data-column='7']", found.sum(0)), ("[data-row='2']", found[2])):
        before = tab.box(selector)
        at(tab, selector)
        assert tab.box(selector) == before
        check(tab, row.double(), dark=dark)
    look = "getComputedStyle(e)"
    for color, ground in tab.run(
        f"[...document.querySelectorAll('[data-column]')].map(e => [{look}.color, {look}.backgroundColor])"
    ):
        if ground != "rgba(0, 0, 0, 0)":
            assert contrast(numbers_in(color), numbers_in(ground)) >= 4.5
    tab.run("window.scrollTo(0, 1e6)")
    settle(tab)
    top = tab.box("[data-row='0']")[1]
    assert 0 <= top < 300  # the answer stays in sight
    assert tab.run("document.querySelector('#matrix').getBoundingClientRect().right") <= width


def numbers_in(color: str) -> Any:
    return np.array([float(part) for part in re.findall(r"[\d.]+", color)[:3]])


def contrast(a: Any, b: Any) -> float:
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (a / 255, b / 255)]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (high + 0.05) / (low + 0.05)
