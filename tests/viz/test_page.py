"""The page in a browser: it shows the numbers, to the mouse and to the keyboard, on every screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from funattr import viz

from ..chromium import Tab, settle

IMAGES = torch.linspace(0, 1, 2 * 8 * 10).reshape(2, 1, 8, 10)
SIGNED = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(3))
SMALL = torch.linspace(0, 7, 2 * 4 * 5).reshape(2, 1, 4, 5)
HOSTILE = "</script><script>window.hacked = 1; alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
MAPS = {"signed": {3: SIGNED, 5: -0.5 * SIGNED}, "small": SMALL}
SENTENCES = [["not", "a", HOSTILE, "film\n"], ["short"]]
VALUES = [torch.tensor([0.123456789, -2.0, 1.5, 0.0]), torch.tensor([0.25])]


def on(card: int, what: str = ".map") -> str:
    """The selector of something on a card: 0 is the input, then come the methods."""
    return f".card:nth-child({card + 1}) {what}"


def cells(tab: Tab, height: int, width: int, card: int) -> Any:
    """The colours in the middle of each pixel of a map, ``[height, width, 3]``."""
    left, top, wide, high = tab.box(on(card))
    shot = tab.screenshot()
    rows = [int(top + (i + 0.5) * high / height) for i in range(height)]
    columns = [int(left + (j + 0.5) * wide / width) for j in range(width)]
    return shot[np.ix_(rows, columns)]


def blends(values: torch.Tensor, image: torch.Tensor, limit: float, alpha: float = 1.0) -> Any:
    """By `blend`, which is tested on its own, with a line below that sets the scale."""
    ends = [-limit if values.min() < 0 else 0.0] + [limit] * (values.shape[-1] - 1)
    whole = torch.cat([values.double(), torch.tensor([ends], dtype=torch.float64)])
    under = torch.cat([image, torch.zeros(len(image), 1, image.shape[-1])], 1)
    return viz.blend(whole, under, percentile=100, alpha=alpha)[:-1].astype(int)


def rgb(image: torch.Tensor) -> Any:
    return 255 * image.expand(3, -1, -1).permute(1, 2, 0).numpy()


LIMIT = float(SIGNED.sum(1).abs().max())


def test_the_slider_changes_the_pixels(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=100))
    values = SIGNED[0].sum(0)
    np.testing.assert_allclose(cells(tab, 8, 10, 1), blends(values, IMAGES[0], LIMIT, 0.7), atol=6)
    tab.run("document.querySelector('#opacity').focus()")
    tab.press("End")
    np.testing.assert_allclose(cells(tab, 8, 10, 1), blends(values, IMAGES[0], LIMIT), atol=6)
    assert tab.run("document.querySelector('#percent').textContent") == "100 %"
    tab.press("Home")
    for card in (0, 1, 2):
        np.testing.assert_allclose(cells(tab, 8, 10, card), rgb(IMAGES[0]), atol=2)


@pytest.mark.parametrize("exact", [True, False])
def test_colour_images_are_shown_in_colour(exact: bool, opened: Callable[..., Tab]) -> None:
    image = (
        torch.rand(1, 3, 5, 7) if exact else torch.rand(1, 3, 3, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :5, :7]
    )
    tab = opened(viz.page(image, {"a": torch.zeros(1, 5, 7)}, exact=exact))
    for card in (0, 1):
        np.testing.assert_allclose(cells(tab, 5, 7, card), rgb(image[0]), atol=2 if exact else 5)
    assert tab.run("document.querySelector('#examples').checkVisibility()") is False  # one example: nothing to choose


def test_small_maps_are_interpolated_or_not(opened: Callable[..., Tab]) -> None:
    large = torch.nn.functional.interpolate(SMALL, (8, 10), mode="bilinear")
    tab = opened(viz.page(IMAGES, MAPS, percentile=100, alpha=1))
    np.testing.assert_allclose(cells(tab, 8, 10, 2), blends(large[0, 0], IMAGES[0], 7), atol=6)
    tab.click("#smooth")
    settle(tab)
    squares = SMALL.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_allclose(cells(tab, 8, 10, 2), blends(squares[0, 0], IMAGES[0], 7), atol=6)


def selected(tab: Tab) -> list[str]:
    return tab.run("[...document.querySelectorAll('[aria-selected=true]')].map(tab => tab.textContent)")


def test_methods_are_side_by_side_and_tabs_and_the_picker_change_the_maps(opened: Callable[..., Tab]) -> None:
    predictions = [("a class", 0.931), ("another", 0.5)]
    tab = opened(viz.page(IMAGES, MAPS, percentile=100, alpha=1, titles=["one", "two"], smooth=False, predictions=predictions))
    assert tab.run("[...document.querySelectorAll('figcaption')].map(name => name.textContent)") == ["input", "signed", "small"]
    tops = [tab.box(on(card))[1] for card in range(3)]
    assert tops == [tops[0]] * 3
    assert selected(tab) == ["3"]
    tab.click("#targets button:nth-child(2)")
    settle(tab)
    assert selected(tab) == ["5"]
    squares = SMALL.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_allclose(cells(tab, 8, 10, 1), blends(-0.5 * SIGNED[0].sum(0), IMAGES[0], LIMIT), atol=6)
    np.testing.assert_allclose(cells(tab, 8, 10, 2), blends(squares[0, 0], IMAGES[0], 7), atol=6)
    tab.press("ArrowLeft")  # the focus is still on the tabs
    settle(tab)
    assert selected(tab) == ["3"]
    words = "['#name', '#class', '#probability'].map(id => document.querySelector(id).textContent)"
    assert tab.run(words) == ["one", "a class", "93.1 %"]
    tab.click("#next")
    settle(tab)
    np.testing.assert_allclose(cells(tab, 8, 10, 1), blends(SIGNED[1].sum(0), IMAGES[1], LIMIT), atol=6)
    np.testing.assert_allclose(cells(tab, 8, 10, 2), blends(squares[1, 0], IMAGES[1], 7), atol=6)
    np.testing.assert_allclose(cells(tab, 8, 10, 0), rgb(IMAGES[1]), atol=2)
    assert tab.run(words) == ["two", "another", "50.0 %"]
    assert tab.run(f"document.querySelector('{on(1)}').getAttribute('aria-label')") == "signed, 3, two"
    tab.run("document.querySelector('#example').focus()")
    tab.press("ArrowUp")
    settle(tab)
    assert tab.run(words)[0] == "one"


def test_a_method_without_a_map_for_the_target_says_so(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, {"a": {3: SIGNED, 5: SIGNED}, "b": {5: SIGNED}}))
    missing = f"document.querySelector({on(2, '.missing')!r}).checkVisibility()"
    assert tab.run(missing) is True
    assert tab.run(f"document.querySelector({on(2, '.missing')!r}).textContent") == "no map for 3"
    tab.click("#targets button:nth-child(2)")
    settle(tab)
    assert tab.run(missing) is False


def reading(tab: Tab, card: int) -> tuple[str, float]:
    where, value = tab.run(f"['.where', '.value'].map(part => document.querySelector(`{on(card, '')} ${{part}}`).textContent)")
    return where, float(value)


def test_the_values_under_the_cursor_are_the_numbers(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=50))  # half the pixels have a clipped colour, and their own number
    for card, height, width in ((1, 8, 10), (2, 4, 5)):
        left, top, wide, high = tab.box(on(card))
        for row, column in [(0, 0), (3, 4), (height - 1, width - 1), (2, 1)]:
            tab.move(left + (column + 0.4) * wide / width, top + (row + 0.6) * high / height)
            y, x = (row + 0.6) / height, (column + 0.4) / width
            for other, values in ((1, SIGNED[0].sum(0)), (2, SMALL[0, 0])):  # all maps tell of the place
                at = int(y * values.shape[0]), int(x * values.shape[1])
                where, value = reading(tab, other)
                assert where == f"row {at[0]}, column {at[1]}"
                assert value == pytest.approx(float(values[at]), rel=1e-5)
    tab.move(1, 1)
    assert tab.run(f"document.querySelector({on(1, '.value')!r}).textContent") == ""


def test_rounded_values_are_right_to_the_digits_they_have(opened: Callable[..., Tab]) -> None:
    values = torch.linspace(-0.0123, 0.0077, 80, dtype=torch.float64).reshape(1, 8, 10)
    values[0, 0, 1] = 40.0  # far beyond the scale
    tab = opened(viz.page(IMAGES[:1], {"a": values}, percentile=90, exact=False))
    assert "Values are rounded" in tab.run("document.querySelector('#note').textContent")
    left, top, wide, high = tab.box(on(1))
    limit = float(np.percentile(values.abs(), 90))
    unit = max(u for e in range(-9, 0) for m in (1, 2, 5) if (u := float(f"{m}e{e}")) <= limit / 40)
    for row, column in [(0, 0), (0, 1), (4, 5), (7, 9), (6, 2)]:
        tab.move(left + (column + 0.5) * wide / 10, top + (row + 0.5) * high / 8)
        value = reading(tab, 1)[1]
        assert abs(value - float(values[0, row, column])) <= 0.5001 * unit
        assert value / unit == pytest.approx(round(value / unit), abs=1e-9)  # no digit that is not known


def test_the_keyboard_does_what_the_mouse_does(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS))
    reached = []
    for _ in range(7):
        tab.press("Tab")
        reached.append(
            tab.run("document.activeElement.id || document.activeElement.textContent || document.activeElement.className")
        )
    assert reached[:5] == ["example", "next", "3", "opacity", "smooth"]
    assert tab.run(f"document.activeElement === document.querySelector({on(2)!r})") is True
    tab.run(f"document.querySelector({on(1)!r}).focus()")
    for key in ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"] + ["ArrowRight"] * 12:
        tab.press(key)
    where, value = reading(tab, 1)
    assert where == "row 1, column 9"
    assert value == pytest.approx(float(SIGNED[0].sum(0)[1, 9]), rel=1e-5)
    where, value = reading(tab, 2)
    assert where == "row 0, column 4"
    assert value == pytest.approx(float(SMALL[0, 0, 0, 4]), rel=1e-5)
    tab.press("n")
    settle(tab)
    assert reading(tab, 1)[1] == pytest.approx(float(SIGNED[1].sum(0)[1, 9]), rel=1e-5)
    tab.press("n")  # there is no third
    tab.press("p")
    settle(tab)
    assert tab.run("document.querySelector('#name').textContent") == "example 0"
    controls = "[...document.querySelectorAll('button, select, input, [tabindex]')]"
    named = f"{controls}.every(e => e.labels?.length || e.ariaLabel || e.textContent)"
    assert tab.run(named) is True


def test_the_scale_is_on_the_bar(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(IMAGES, MAPS, percentile=90))
    both = torch.stack([SIGNED.sum(1), -0.5 * SIGNED.sum(1)]).double()
    limit = f"{float(np.percentile(both.abs(), 90)):.3g}"
    ticks = "[...document.querySelectorAll({!r})].map(tick => tick.textContent)"
    assert tab.run(ticks.format(on(1, ".ticks span"))) == [f"≤ -{limit}", "0", f"≥ {limit}"]
    assert tab.run(f"document.querySelector({on(1, '.caption')!r}).textContent") == "clipped at percentile 90"
    total = tab.run(f"document.querySelector({on(1, '.sums')!r}).textContent")
    assert float(total.split()[1].rstrip(",")) == pytest.approx(float(SIGNED[0].double().sum()), rel=1e-4)
    assert tab.run(ticks.format(on(2, ".ticks span")))[0] == "0"
    left, top, wide, high = tab.box(on(1, ".bar"))
    row = tab.screenshot()[int(top + high / 2), int(left) : int(left + wide)]
    assert row[2][2] > row[2][0] + 60  # blue, white and red
    assert row[len(row) // 2].min() > 245
    assert row[-2][0] > row[-2][2] + 60


@pytest.mark.parametrize(("width", "methods"), [(1280, 1), (1280, 3), (1280, 7), (390, 3)])
def test_the_screen_is_used_and_nothing_lies_outside(width: int, methods: int, opened: Callable[..., Tab]) -> None:
    images = torch.rand(2, 3, 24, 24)
    maps = {f"a_method_with_a_name_that_is_long_{'x' * 60}_{i}": torch.randn(2, 24, 24) for i in range(methods)}
    titles = ["a_file_name_of_quite_some_length_" + "x" * 80, "b"]
    tab = opened(viz.page(images, maps, titles=titles, predictions=titles), width=width, height=800)
    assert tab.run("document.documentElement.scrollWidth") == width
    boxes = [tab.box(f"figure:nth-child({i + 1})") for i in range(methods + 1)]
    right = max(left + wide for left, _, wide, _ in boxes)
    assert min(left for left, *_ in boxes) < 0.05 * width
    assert right > 0.95 * width
    for left, top, wide, high in boxes:
        others = [box for box in boxes if box != (left, top, wide, high)]
        assert all(x + w <= left or left + wide <= x or y + h <= top or top + high <= y for x, y, w, h in others)
    # A select cuts what it says at its own box; in Chromium 150, its scrollWidth is that of all it says.
    inside = """[...document.querySelectorAll('figcaption, .sums, .ticks, select, h2')].every(e =>
        e.matches('select') ? e.getBoundingClientRect().right <= e.parentNode.getBoundingClientRect().right + 1
                            : e.scrollWidth <= e.clientWidth + 1)"""
    assert tab.run(inside) is True


def test_text_is_harmless_and_has_its_values(opened: Callable[..., Tab]) -> None:
    tab = opened(viz.page(SENTENCES, {HOSTILE: {HOSTILE: VALUES, "b": VALUES}}, titles=[HOSTILE, "x"], title=HOSTILE))
    assert tab.run("window.hacked") is None
    assert tab.run("document.querySelectorAll('img, iframe, script').length") == 2  # the data and the script
    assert tab.run("document.querySelector('h1').textContent") == HOSTILE
    assert selected(tab) == [HOSTILE]
    assert tab.run("document.querySelector('figcaption').textContent") == HOSTILE
    tokens = "[...document.querySelectorAll('.token')]"
    assert tab.run(f"{tokens}.map(token => token.firstChild.textContent)") == ["not", "a", HOSTILE, "film\\n"]
    assert tab.run(f"{tokens}.map(token => token.querySelector('small').textContent)") == ["0.123", "-2", "1.5", "0"]
    found = tab.run(f"{tokens}.map(token => getComputedStyle(token).backgroundColor.match(/[0-9]+/g).map(Number))")
    np.testing.assert_allclose(found, 255 * colormaps["RdBu_r"]((VALUES[0].numpy() + 2) / 4)[:, :3], atol=4)
    left, top, width, height = tab.box(".token")
    tab.move(left + width / 2, top + height / 2)
    where, value = reading(tab, 0)
    assert where == "token 0 “not”"
    assert value == pytest.approx(0.123456789, rel=1e-6)
    tab.run("document.querySelector('#example').focus()")
    tab.press("ArrowDown")
    settle(tab)
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
    selectors = [
        "h1",
        "h2",
        "label",
        ".sums",
        ".caption",
        ".where",
        "#keys",
        "[aria-selected=true]",
        "[aria-selected=false]",
        ".ticks",
    ]
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
    style = "<style>.map, .heat, canvas { display: none } .token, h1 { color: red }</style>"  # of some other cell
    pages = [viz.page(IMAGES[:1], {"a": torch.full((1, 1, 1), value)}, alpha=1) for value in (1.0, -1.0)]
    cells = "".join(f"<div>{page._repr_html_()}</div>" for page in pages)
    file = tmp_path / "notebook.html"
    file.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><link rel=icon href='data:,'>{style}<h1 class=map>Notebook</h1>{cells}"
    )
    tab.open(file.as_uri(), height=1500)
    end = time.monotonic() + 30
    reds: Any = ()
    blues: Any = ()
    while min(len(reds), len(blues)) < 10_000 and time.monotonic() < end:  # frames are painted after the page is loaded
        shot = tab.screenshot()
        reds, blues = [np.argwhere((shot == color).all(-1)) for color in ([230, 20, 45], [20, 55, 220])]
    assert min(len(reds), len(blues)) > 10_000
    assert np.median(reds[:, 0]) < 680 < np.median(blues[:, 0])
    assert tab.complaints == []
