"""Words on pictures: whatever the names, none is cut, none lies on another, and none lies on a picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from funattr import viz
from funattr.viz._labels import fitted

from ..breadth import breadth

NAMES = [
    "chest_study_0001_series_3_frontal_view.png",
    "x" * 120,
    "/data/imaging/2026-11/hospital-north/patient_00017/study.png\npneumothorax, not further specified 93.1 %",
    "$\\not_math$ and a_{1}",
    "a name of quite a lot of ordinary words, which goes on for some time, and then for some more time",
    "",
    "b",
]
METHODS = ["noise_tunnel(integrated_gradients) at model.vision_tower.encoder.layers.11.self_attn.out_proj", "M" * 60, "ig"]
SHAPES = {"square": (16, 16), "wide": (4, 60), "tall": (60, 4), "a line": (1, 200), "a column": (200, 1)}
SIZES = {"ordinary": 1.0, "tiny": 1.23456e-300, "huge": -9.87654e250}

RNG = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def overlay(shape: tuple[int, int], size: float) -> Figure:
    return viz.overlay(size * random(*shape), torch.rand(3, *shape), title=NAMES[0] + " " + NAMES[4])


def alone(shape: tuple[int, int], size: float) -> Figure:
    return viz.overlay(size * random(*shape), title=NAMES[1])


def show(count: int, scale: str, **more: Any) -> Callable[[tuple[int, int], float], Figure]:
    def draw(shape: tuple[int, int], size: float) -> Figure:
        maps = {name: size * random(count, *shape) for name in METHODS}
        return viz.show(torch.rand(count, *shape), maps, titles=(NAMES * 6)[:count], scale=scale, **more)

    return draw


def one_map(shape: tuple[int, int], size: float) -> Figure:
    return viz.show(torch.rand(1, *shape), {METHODS[0]: size * random(1, *shape)}, title=NAMES[4], caption=NAMES[1])


def volume(scale: str) -> Callable[[tuple[int, int], float], Figure]:
    def draw(shape: tuple[int, int], size: float) -> Figure:
        return viz.volume(torch.rand(2, 4, *shape), size * random(2, 4, *shape), slices=2, titles=NAMES[:2], scale=scale)

    return draw


def series(scale: str, channels: int) -> Callable[[tuple[int, int], float], Figure]:
    def draw(shape: tuple[int, int], size: float) -> Figure:
        signals = size * random(2, channels, shape[1] + 1)
        return viz.series(signals, size * random(2, channels, shape[1] + 1), titles=NAMES[:2], scale=scale)

    return draw


def text(scale: str) -> Callable[[tuple[int, int], float], Figure]:
    def draw(shape: tuple[int, int], size: float) -> Figure:
        return viz.text([["a", "film"], ["good"] * 40], [size * random(2), size * random(40)], titles=NAMES[1:3], scale=scale)

    return draw


PICTURES: Mapping[str, Callable[[tuple[int, int], float], Figure]] = {
    "overlay": overlay,
    "a map alone": alone,
    "show one": show(1, "grid"),
    "show one, each method": show(1, "method"),
    "show all, each method": show(7, "method", title="A title", caption=NAMES[4]),
    "show all, each example": show(7, "example", title=NAMES[1]),
    "show many, each method": show(40, "method"),
    "show many, each example": show(40, "example"),
    "show side by side": show(4, "example", columns=2),
    "show one map": one_map,
    "volume": volume("grid"),
    "volume, each": volume("example"),
    "series": series("grid", 1),
    "series of channels, each": series("example", 2),
    "text": text("grid"),
    "text, each": text("example"),
}


def drawn_words(figure: Figure, monkeypatch: pytest.MonkeyPatch, dpi: float) -> list[tuple[str, Any]]:
    """All words that reach the paper, with their boxes in pixels."""
    found, real = [], Text.draw

    def draw(self: Text, renderer: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            found.append((self.get_text(), self.get_window_extent(renderer)))
        real(self, renderer)

    figure.set_dpi(dpi)
    with monkeypatch.context() as patched:
        patched.setattr(Text, "draw", draw)
        FigureCanvasAgg(figure).draw()
    return found


def overlap(a: Any, b: Any) -> float:
    """The pixels by which two boxes lie on each other, in the direction where it is least; negative: their distance."""
    return float(min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)))


LOOKS = [*((shape, "ordinary") for shape in SHAPES), ("square", "tiny"), ("square", "huge")]
CASES = [
    (kind, *look) for kind in PICTURES for look in LOOKS if "many" not in kind or look == ("square", "tiny")
]  # many take long


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    breadth(
        CASES,
        lambda case: case[0] == CASES[0][0] or (case[1:] == ("square", "tiny") and case[0] != "show many, each method"),
        True,
    ),
)
def test_no_word_is_cut_or_lies_on_another(kind: str, shape: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = PICTURES[kind](SHAPES[shape], SIZES[size])
    words = drawn_words(figure, monkeypatch, 150)
    assert len(words) > 2
    canvas = figure.bbox
    for text, box in words:
        assert box.x0 >= -0.5, text
        assert box.y0 >= -0.5, text
        assert box.x1 <= canvas.x1 + 0.5, text
        assert box.y1 <= canvas.y1 + 0.5, text
    for (one, a), (other, b) in itertools.combinations(words, 2):
        assert overlap(a, b) < 1, (one, other)
    pictures = [ax.get_window_extent() for ax in figure.axes if ax.images]
    for text, box in words:
        assert all(overlap(box, picture) < 1 for picture in pictures), text
    for a, b in itertools.combinations([ax.get_window_extent() for ax in figure.axes], 2):
        assert overlap(a, b) < 1


SETTINGS = {"font.size": 24, "axes.titlesize": 30, "axes.titlepad": 40, "axes.titlelocation": "right", "font.family": "serif"}


@pytest.mark.parametrize("kind", ["overlay", "show all, each method", "series of channels, each", "text"])
def test_the_callers_settings_of_matplotlib_move_no_word(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with rc_context({**SETTINGS, "figure.constrained_layout.use": True, "figure.dpi": 40}):
        test_no_word_is_cut_or_lies_on_another(kind, "square", "ordinary", monkeypatch)


def test_no_letter_of_a_name_is_lost() -> None:
    figure = viz.show(torch.rand(7, 8, 8), {name: torch.rand(7, 8, 8) for name in METHODS}, titles=NAMES)
    found = ["".join(figure.axes[4 * i].get_ylabel().split()) for i in range(7)]
    assert found == ["".join(name.split()) for name in NAMES]
    assert ["".join(figure.axes[1 + i].get_title().split()) for i in range(3)] == ["".join(name.split()) for name in METHODS]


def test_a_number_stays_in_one_line() -> None:
    """Whatever the width: a share of 33.8 % is not 33 and then 8."""
    for width in (0.6, 0.8, 1.0, 1.2, 1.5):
        for number in ("33.8%", "-0.25", "1,024.5"):
            assert number in fitted(f"a class of some name, {number}", width, 10).text.split("\n")[-1]


def test_names_take_no_room_from_the_pictures() -> None:
    """Of a row with a long name, a map has the pixels of one without."""
    for titles in (["x"], NAMES[:1]):
        figure = viz.show(torch.rand(1, 64, 64), {"grad_cam at relu3": torch.rand(1, 7, 7)}, titles=titles)
        assert all(ax.get_window_extent().width > 300 for ax in figure.axes[:2])


@pytest.mark.parametrize("count", breadth([1, 5, 40, 60], lambda count: count < 60))
def test_many_images_keep_the_shape_of_a_page(count: int) -> None:
    maps = dict.fromkeys(["saliency", "grad_cam", "ig"], torch.rand(count, 4, 4))
    width, height = viz.show(torch.rand(count, 4, 4), maps, titles=["a.png"] * count).get_size_inches()
    assert height < 1.6 * width
    assert width < 5 * height
