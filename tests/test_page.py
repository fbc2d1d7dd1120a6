"""The page: the file holds the numbers and loads nothing; in a browser it shows them, to the mouse and to the keyboard."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from funattr import viz

from .chromium import Tab, browser, find

IMAGES = torch.linspace(0, 1, 2 * 8 * 10).reshape(2, 1, 8, 10)
SIGNED = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(3))
SMALL = torch.linspace(0, 7, 2 * 4 * 5).reshape(2, 1, 4, 5)
HOSTILE = "</script><script>window.hacked = 1; alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
MAPS = {"signed": {3: SIGNED, 5: -0.5 * SIGNED}, "small": SMALL}
SENTENCES = [["not", "a", HOSTILE, "film\n"], ["short"]]
VALUES = [torch.tensor([0.123456789, -2.0, 1.5, 0.0]), torch.tensor([0.25])]


def data_of(page: viz.Page) -> Any:
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.html, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def maps_of(page: viz.Page) -> dict[tuple[str, str], list[np.ndarray[Any, Any]]]:
    data, found = data_of(page), {}
    for method in data["methods"]:
        for target in method["targets"]:
            found[method["name"], target["name"]] = [
                np.frombuffer(base64.b64decode(entry["values"]), f"<f{data['bytes']}").reshape(entry["shape"])
                for entry in target["maps"]
            ]
    return found


def limits_of(page: viz.Page) -> list[list[float]]:
    methods = data_of(page)["methods"]
    return [[entry["scale"]["limit"] for entry in target["maps"]] for method in methods for target in method["targets"]]


# The file.


def test_the_numbers_are_the_tensors() -> None:
    page = viz.page(IMAGES, MAPS)
    found = maps_of(page)
    assert list(found) == [("signed", "3"), ("signed", "5"), ("small", "")]
    for name, expected in zip(found, (SIGNED.sum(1), -0.5 * SIGNED.sum(1), SMALL[:, 0])):
        np.testing.assert_allclose(np.stack(found[name]), expected, rtol=1e-5, atol=1e-6)
    pixels = [np.frombuffer(base64.b64decode(image), np.uint8) for image in data_of(page)["images"]["values"]]
    np.testing.assert_array_equal(np.stack(pixels), (255 * IMAGES.double()).round().reshape(2, -1))


def test_numbers_beyond_float32_are_kept() -> None:
    for size in (1e-200, 1e200):
        values = SIGNED[:1].double() * size
        np.testing.assert_array_equal(maps_of(viz.page(IMAGES[:1], {"a": values}))["a", ""][0], values[0].sum(0))


SAME: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": lambda t: t.double(),
    "bfloat16": lambda t: t.bfloat16(),
    "float16": lambda t: t.half(),
    "requires_grad": lambda t: t.clone().requires_grad_(),
    "array": lambda t: t.numpy(),
    "[N, H, W]": lambda t: t.sum(1),
}


@pytest.mark.parametrize("kind", SAME)
def test_all_kinds_of_numbers_make_the_same_page(kind: str) -> None:
    values = torch.arange(-10, 14).reshape(1, 2, 3, 4).float()  # exact in every dtype
    images = torch.arange(12).reshape(1, 1, 3, 4).float() / 16
    page = viz.page(SAME[kind](images), {"a": SAME[kind](values)})
    assert page == viz.page(images, {"a": values})
    assert page == viz.page(images.movedim(1, -1), {"a": values.movedim(1, -1)}, channel_dim=-1)


def test_scales() -> None:
    both = torch.stack([SIGNED.sum(1), -0.5 * SIGNED.sum(1)])
    of_method = float(np.percentile(both.abs().double(), 90))
    for_each = limits_of(viz.page(IMAGES, MAPS, percentile=90))
    assert for_each[0] == for_each[1] == pytest.approx([of_method] * 2, rel=1e-4)
    assert for_each[2] == pytest.approx([float(np.percentile(SMALL, 90))] * 2)
    whole = limits_of(viz.page(IMAGES, MAPS, percentile=100, scale="grid"))
    assert whole == [[pytest.approx(max(float(both.abs().max()), 7))] * 2] * 3
    rows = limits_of(viz.page(IMAGES, MAPS, percentile=100, scale="example"))
    assert rows == [[pytest.approx(max(float(both[:, i].abs().max()), float(SMALL[i].max()))) for i in range(2)]] * 3
    assert limits_of(viz.page(SENTENCES, {"a": VALUES})) == [[2.0, 2.0]]  # unasked, no token is clipped


def test_the_colours_are_those_of_the_figures() -> None:
    palette = np.frombuffer(base64.b64decode(data_of(viz.page(IMAGES, MAPS))["palette"]), np.uint8).reshape(256, 3)
    np.testing.assert_allclose(palette, 255 * colormaps["RdBu_r"](range(256))[:, :3], atol=1)


def test_the_file_loads_nothing_and_no_string_leaves_its_place() -> None:
    page = viz.page(SENTENCES, {HOSTILE: {HOSTILE: VALUES}}, titles=[HOSTILE, "x"], title=HOSTILE)
    assert len(re.findall(r"<script", page.html)) == len(re.findall(r"</script>", page.html)) == 2
    assert "<img" not in page.html
    data = data_of(page)
    assert data["tokens"][0][2] == data["titles"][0] == data["methods"][0]["name"] == data["methods"][0]["targets"][0]["name"]
    assert data["titles"][0] == HOSTILE
    harmless = viz.page(IMAGES, MAPS).html
    assert not re.search(r"https?:|[\"'(]//|@import|@font-face|src=|url\(|fetch|XMLHttp|WebSocket|import\(", harmless)


def test_the_size_is_as_the_documentation_says() -> None:
    small, large = [len(viz.page(torch.rand(1, 3, n, n), {"a": torch.randn(1, n, n)}).html) for n in (10, 210)]
    assert (large - small) / (210**2 - 10**2) == pytest.approx(5.33 + 4, abs=0.05)


def test_saving(tmp_path: Path) -> None:
    page = viz.page(SENTENCES, {"méthode": VALUES}, title="café", out=tmp_path / "a.html")
    page.save(str(tmp_path / "b.HTM"))
    written = (tmp_path / "a.html").read_bytes()
    assert written == (tmp_path / "b.HTM").read_bytes() == page.html.encode()
    assert len(repr(page)) < 100
    viz.text(SENTENCES, VALUES, titles=["x", "y"], out=tmp_path / "text.html")
    assert (tmp_path / "text.html").read_text() == viz.page(
        SENTENCES, {"attribution": VALUES}, titles=["x", "y"], scale="grid"
    ).html


def test_no_matplotlib_is_needed() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['PIL'] = None\n"
        "import torch; from funattr import viz\n"
        "print(len(viz.page(torch.ones(1, 4, 4), {'a': torch.ones(1, 4, 4)}).html) > 1000, viz.page(['a'], {'b': [1.0]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True Page()\n"


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no dict": (lambda: viz.page(IMAGES, SIGNED), TypeError, "must be a dict of method name -> attribution, got Tensor: pass"),  # type: ignore[arg-type]
    "no method": (lambda: viz.page(IMAGES, {}), ValueError, "attributions is empty"),
    "no target": (lambda: viz.page(IMAGES, {"a": {}}), ValueError, "has a method without targets"),
    "examples": (
        lambda: viz.page(IMAGES, {"a": {"b": SIGNED[:1]}}),
        ValueError,
        r"attributions\['a'\]\['b'\] has 1 examples and inputs has 2",
    ),
    "tokens": (lambda: viz.page(["a", "b"], {"m": torch.ones(3)}), ValueError, r"attributions\['m'\] \[3\] has 3 values for 2"),
    "a string": (lambda: viz.page("a film", {"m": [1.0, 2.0]}), TypeError, r"inputs is one string.*inputs\.split\(\)"),
    "ids": (lambda: viz.page(["a", 5], {"m": [1.0, 2.0]}), TypeError, "inputs holds"),
    "image": (lambda: viz.page(torch.ones(1, 2, 4, 4), MAPS), ValueError, r"inputs \[1, 2, 4, 4\] has 2 channels"),
    "titles": (lambda: viz.page(IMAGES, MAPS, titles=["a"]), ValueError, "1 entries for 2 examples"),
    "scale": (lambda: viz.page(IMAGES, MAPS, scale="tab"), ValueError, "scale must be 'grid'.*got 'tab'"),
    "alpha": (lambda: viz.page(IMAGES, MAPS, alpha=70), ValueError, "alpha must be from 0 to 1, got 70"),
    "percentile": (lambda: viz.page(IMAGES, MAPS, percentile=0), ValueError, "above 0 and at most 100"),
    "NaN": (lambda: viz.page(IMAGES, {"a": SIGNED / 0 * 0}), ValueError, r"attributions\['a'\] .*NaN or inf"),
    "a picture": (lambda: viz.page(IMAGES, MAPS, out="a.png"), ValueError, "'a.png' does not name a page"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


# In a browser.


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    if find() is None and not os.environ.get("FUNATTR_NEEDS_CHROMIUM"):
        pytest.skip("no chromium here: the page was not tried in a browser (apt-get install chromium)")
    with browser() as found:
        yield found


@pytest.fixture
def opened(tab: Tab, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Opens a page. Afterwards, nothing was complained about and nothing asked for but the file."""
    file = tmp_path / "page.html"

    def open_page(page: viz.Page, **how: Any) -> Tab:
        page.save(file)
        tab.open(file.as_uri(), **how)
        return tab

    yield open_page
    assert tab.complaints == []
    assert [address for address in tab.requests if not address.startswith("data:")] == [file.as_uri()]


def cells(tab: Tab, height: int, width: int, selector: str = "#map") -> Any:
    """The colours in the middle of each pixel of a map, ``[height, width, 3]``."""
    left, top, wide, high = tab.box(selector)
    shot = tab.screenshot()
    rows = [int(top + (i + 0.5) * high / height) for i in range(height)]
    columns = [int(left + (j + 0.5) * wide / width) for j in range(width)]
    return shot[np.ix_(rows, columns)]


def colors(values: torch.Tensor, limit: float, low: float | None = None) -> Any:
    low = -limit if low is None else low
    t = (values.double().numpy() - low) / (limit - low)
    return 255 * colormaps["RdBu_r"](np.clip(t, 0, 1) if low else 0.5 + 0.5 * np.clip(t, 0, 1))[..., :3]


def test_the_slider_changes_the_pixels(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=100))
    values = SIGNED[0].sum(0)
    full = colors(values, float(SIGNED.sum(1).abs().max()))
    faint = 127.5 + 127.5 * np.repeat(IMAGES[0, 0].numpy()[..., None], 3, -1)
    np.testing.assert_allclose(cells(tab, 8, 10), 0.7 * full + 0.3 * faint, atol=4)
    tab.run("document.querySelector('#opacity').focus()")
    tab.press("End")
    np.testing.assert_allclose(cells(tab, 8, 10), full, atol=4)
    assert tab.run("document.querySelector('#percent').textContent") == "100 %"
    tab.press("Home")
    np.testing.assert_allclose(cells(tab, 8, 10), faint, atol=2)
    np.testing.assert_allclose(cells(tab, 8, 10, "#input"), 255 * np.repeat(IMAGES[0, 0].numpy()[..., None], 3, -1), atol=2)


def test_colour_images_are_shown_in_colour(opened: Callable[..., Tab]) -> None:
    image = torch.rand(1, 3, 4, 6)
    tab = opened(viz.page(image, {"a": torch.zeros(1, 4, 6)}, alpha=0))
    np.testing.assert_allclose(cells(tab, 4, 6, "#input"), 255 * image[0].permute(1, 2, 0), atol=2)
    assert tab.run("document.querySelector('#examples').checkVisibility()") is False  # one example: nothing to choose


def selected(tab: Tab) -> list[str]:
    return tab.run("[...document.querySelectorAll('[aria-selected=true]')].map(tab => tab.textContent)")


def test_tabs_and_the_picker_change_the_map(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=100, alpha=1, titles=["one", "two"]))
    limit = float(SIGNED.sum(1).abs().max())
    assert selected(tab) == ["signed", "3"]
    tab.click("#targets button:nth-child(2)")
    assert selected(tab) == ["signed", "5"]
    np.testing.assert_allclose(cells(tab, 8, 10), colors(-0.5 * SIGNED[0].sum(0), limit), atol=4)
    tab.press("ArrowLeft")  # the focus is still on the tabs
    assert selected(tab) == ["signed", "3"]
    tab.run("document.querySelector('#example').focus()")
    tab.press("ArrowDown")
    np.testing.assert_allclose(cells(tab, 8, 10), colors(SIGNED[1].sum(0), limit), atol=4)
    tab.run("document.querySelector('#methods [aria-selected=true]').focus()")
    tab.press("ArrowRight")
    assert selected(tab) == ["small", ""]
    np.testing.assert_allclose(cells(tab, 4, 5), colors(SMALL[1, 0], 7, 0), atol=4)
    assert tab.run("document.querySelector('#targets').checkVisibility()") is False
    assert tab.run("document.querySelector('#view').getAttribute('aria-label')") == "small, two"


def reading(tab: Tab) -> tuple[str, float]:
    where, value = tab.run("['#where', '#value'].map(id => document.querySelector(id).textContent)")
    return where, float(value)


def test_the_value_under_the_cursor_is_the_number(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=50))  # half the pixels have a clipped colour, and their own number
    left, top, width, height = tab.box("#map")
    for row, column in [(0, 0), (7, 9), (3, 4), (5, 1)]:
        tab.move(left + (column + 0.4) * width / 10, top + (row + 0.6) * height / 8)
        where, value = reading(tab)
        assert where == f"row {row}, column {column}:"
        assert value == pytest.approx(float(SIGNED[0].sum(0)[row, column]), rel=1e-5)
    tab.click("#methods button:nth-child(2)")
    left, top, width, height = tab.box("#map")
    for row, column in [(0, 4), (3, 0)]:
        tab.move(left + (column + 0.4) * width / 5, top + (row + 0.6) * height / 4)
        where, value = reading(tab)
        assert where == f"row {row}, column {column}:"
        assert value == pytest.approx(float(SMALL[0, 0, row, column]), rel=1e-6)
    tab.move(1, 1)
    assert tab.run("document.querySelector('#value').textContent") == "\N{EN DASH}"


def test_the_keyboard_reads_values(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS))
    reached = []
    for _ in range(5):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["example", "signed", "3", "opacity", "map"]
    for key in ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"] + ["ArrowRight"] * 12:
        tab.press(key)
    where, value = reading(tab)
    assert where == "row 1, column 9:"
    assert value == pytest.approx(float(SIGNED[0].sum(0)[1, 9]), rel=1e-5)
    controls = "[...document.querySelectorAll('button, select, input, [tabindex]')]"
    named = f"{controls}.every(e => e.labels?.length || e.ariaLabel || e.textContent)"
    assert tab.run(named) is True


def test_the_scale_is_on_the_bar(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=90))
    both = torch.stack([SIGNED.sum(1), -0.5 * SIGNED.sum(1)]).double()
    limit = f"{float(np.percentile(both.abs(), 90)):.3g}"
    ticks = "[...document.querySelectorAll('#ticks span')].map(tick => tick.textContent)"
    assert tab.run(ticks) == [f"≤ -{limit}", "0", f"≥ {limit}"]
    assert tab.run("document.querySelector('#caption').textContent") == "clipped at percentile 90"
    total = tab.run("document.querySelector('#sums').textContent")
    assert float(total.split()[1].rstrip(",")) == pytest.approx(float(SIGNED[0].double().sum()), rel=1e-4)
    tab.click("#methods button:nth-child(2)")
    assert tab.run(ticks)[0] == "0"


def test_text_is_harmless_and_has_its_values(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(SENTENCES, {HOSTILE: {HOSTILE: VALUES, "b": VALUES}}, titles=[HOSTILE, "x"], title=HOSTILE))
    assert tab.run("window.hacked") is None
    assert tab.run("document.querySelectorAll('img, iframe, script').length") == 2  # the data and the script
    assert tab.run("document.querySelector('h1').textContent") == HOSTILE
    assert selected(tab) == [HOSTILE, HOSTILE]
    tokens = "[...document.querySelectorAll('.token')]"
    assert tab.run(f"{tokens}.map(token => token.firstChild.textContent)") == ["not", "a", HOSTILE, "film\\n"]
    assert tab.run(f"{tokens}.map(token => token.querySelector('small').textContent)") == ["0.123", "-2", "1.5", "0"]
    found = tab.run(f"{tokens}.map(token => getComputedStyle(token).backgroundColor.match(/[0-9]+/g).map(Number))")
    np.testing.assert_allclose(found, colors(VALUES[0], 2), atol=4)
    left, top, width, height = tab.box(".token")
    tab.move(left + width / 2, top + height / 2)
    where, value = reading(tab)
    assert where == "token 0 “not”:"
    assert value == pytest.approx(0.123456789, rel=1e-6)
    tab.run("document.querySelector('#example').focus()")
    tab.press("ArrowDown")
    assert tab.run(f"{tokens}.map(token => token.textContent)") == ["short0.25"]


def test_numbers_of_any_size_can_be_read(opened: Callable[..., Tab]) -> None:
    values = torch.tensor([1.25e-7, -3e8, 1e-3, 120.0, 99999.0, 0.0])
    tab = opened(viz.page(list("abcdef"), {"m": values}))
    found = tab.run("[...document.querySelectorAll('small')].map(number => number.textContent)")
    assert found == ["1.25e-7", "-3e+8", "0.001", "120", "100000", "0"]
    titles = tab.run("[...document.querySelectorAll('.token')].map(token => token.title)")
    np.testing.assert_allclose([float(title) for title in titles], values, rtol=1e-6)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(dark: bool, opened: Callable[..., Tab]) -> None:
    """WCAG AA, 4.5 to 1, of all words on the page, in light and in dark."""
    tab = opened(viz.page(IMAGES, MAPS), dark=dark, height=1000)
    ground = tab.screenshot()[-1, -1]
    assert (ground.max() < 60) if dark else (ground.min() > 240)
    selectors = ["h1", "label", "#sums", "#caption", "#keys", "[aria-selected=true]", "[aria-selected=false]", "#ticks"]
    for selector in selectors:
        script = f"getComputedStyle(document.querySelector({selector!r})).color.match(/[0-9.]+/g).slice(0, 3).map(Number)"
        left, top, _, height = tab.box(selector)
        behind = tab.screenshot()[int(top + height / 2), int(left + 3)] if "aria" in selector else ground
        assert contrast(tab.run(script), behind) >= 4.5, selector


def contrast(a: Any, b: Any) -> float:
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (np.array(a) / 255, np.array(b) / 255)]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (high + 0.05) / (low + 0.05)


def test_two_cells_of_a_notebook_do_not_meet(tab: Tab, tmp_path: Path) -> None:
    style = "<style>#map, #heat, canvas { display: none } .token, h1 { color: red }</style>"  # of some other cell
    pages = [viz.page(IMAGES[:1], {"a": torch.full((1, 1, 1), value)}, alpha=1) for value in (1.0, -1.0)]
    cells = "".join(f"<div>{page._repr_html_()}</div>" for page in pages)
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><link rel=icon href='data:,'>{style}<h1 id=map>Notebook</h1>{cells}")
    tab.open(file.as_uri(), height=1500)
    end = time.monotonic() + 30
    reds: Any = ()
    blues: Any = ()
    while min(len(reds), len(blues)) < 10_000 and time.monotonic() < end:  # frames are painted after the page is loaded
        shot = tab.screenshot()
        reds, blues = [np.argwhere((shot == color).all(-1)) for color in ([103, 0, 31], [5, 48, 97])]
    assert min(len(reds), len(blues)) > 10_000
    assert np.median(reds[:, 0]) < 680 < np.median(blues[:, 0])
    assert tab.complaints == []
