"""Curves, tables and strips: the numbers that were given, in their places."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from funattr import viz

FRACTIONS = torch.tensor([0.0, 0.25, 1.0])
SCORES = torch.tensor([[4.0, 8.0, 6.0], [2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
LAYERS = {"fc": torch.tensor([1.0, 0.0]), "conv": [0.0, 1.0]}
SAME = {"fc": torch.ones(2), "conv": [1.0, 1.0]}
TABLE: dict[str, dict[str, Any]] = {
    "a": {"deletion": torch.tensor([1.0, 3.0]), "mine": 2, "randomisation": LAYERS},
    "<b>": {"deletion": torch.tensor([4.0, 4.0]), "mine": 1.5, "randomisation": SAME},
}


def test_curves_are_means_with_the_middle_half(tmp_path: Path) -> None:
    figure = viz.curves({"one": (FRACTIONS, SCORES), "two $x$": (FRACTIONS, -SCORES)}, title="deletion", out=tmp_path / "c.png")
    axes = figure.axes[0]
    first, second = axes.get_lines()
    np.testing.assert_allclose(np.asarray(first.get_xdata()), FRACTIONS)
    np.testing.assert_allclose(np.asarray(first.get_ydata()), SCORES.mean(1))
    np.testing.assert_allclose(np.asarray(second.get_ydata()), -SCORES.mean(1))
    assert to_rgb(first.get_color()) != to_rgb(second.get_color())
    assert first.get_linestyle() != second.get_linestyle()
    legend = axes.get_legend()
    assert legend is not None
    area = 0.25 * (6 + 1) / 2 + 0.75 * 1
    assert [text.get_text() for text in legend.get_texts()] == [f"one\narea {area:.4g}", f"two $x$\narea {-area:.4g}"]
    low, high = np.percentile(SCORES.numpy(), [25, 75], axis=1)
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert corners[:, 1].min() == pytest.approx(low.min())
    assert corners[:, 1].max() == pytest.approx(high.max())
    assert axes.get_title("left") == "deletion"
    assert (tmp_path / "c.png").stat().st_size > 5000
    assert not viz.curves({"one": (FRACTIONS, SCORES[:, :1])}).axes[0].collections  # of one example there is no half
    assert not viz.curves({"one": (FRACTIONS, SCORES)}, band=False).axes[0].collections


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_table_holds_means_and_errors_and_marks_the_best(tmp_path: Path) -> None:
    figure = viz.table(TABLE, title="all", out=tmp_path / "t.png")
    assert texts(figure) == [
        "deletion ↓",
        "mine",
        "randomisation ↓",
        "a",
        "2 ± 1",
        "2",
        "0.5 ± 0",
        "<b>",
        "4 ± 0",
        "1.5",
        "1 ± 0",
    ]
    bold = {text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"}
    assert bold == {"2 ± 1"}  # of a check no method is the best, and of `mine` nobody said
    told = viz.table(TABLE, better={"mine": "high", "deletion": "high"})
    assert texts(told)[:2] == ["deletion ↑", "mine ↑"]
    assert {text.get_text() for text in told.axes[0].texts if text.get_fontweight() == "bold"} == {"4 ± 0", "2"}
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in [*figure.axes[0].texts, *figure.texts]]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_page_of_a_table(tmp_path: Path) -> None:
    page = viz.table_page(TABLE, title="<all>", examples=None, out=tmp_path / "t.html")
    text = (tmp_path / "t.html").read_text()
    assert text == page.html
    assert "<title>&lt;all&gt;</title>" in text
    assert "<th scope=row>&lt;b&gt;</th>" in text
    assert re.findall(r"<td>(.*?)</td>", text)[:6] == ["<b>2 ± 1</b>", "2", "0.5 ± 0", "4 ± 0", "1.5", "1 ± 0"]
    assert text.count("<details>") == 2  # `mine` is one number
    assert "<td>1</td><td>3</td>" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    named = viz.table_page({"a": {"deletion": [1.0, 3.0]}}, examples=["cat.png", "dog.png"]).html
    assert "<th scope=col>cat.png</th><th scope=col>dog.png</th>" in named


def test_a_strip_shows_each_map_on_its_scale() -> None:
    images, maps = torch.rand(2, 1, 6, 6), torch.randn(2, 1, 6, 6)
    figure = viz.strip(images, maps, {"fc": 100 * maps, "": -maps}, similarities={"fc": [1.0, 1.0], "": [-1.0, 0.0]})
    assert [axes.get_title() for axes in figure.axes[:4]] == ["input", "as given", "fc\n1.00", "the model\n-0.50"]
    given, same, opposite = (np.asarray(axes.get_images()[-1].get_array()) for axes in figure.axes[1:4])
    np.testing.assert_allclose(given, same, atol=1e-6)
    np.testing.assert_allclose(given, -opposite, atol=1e-6)
    assert np.abs(given).max() == pytest.approx(1)
    zero = viz.strip(images, maps, {"fc": 0 * maps})
    assert np.abs(np.asarray(zero.axes[2].get_images()[-1].get_array())).max() == 0


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no dict": (lambda: viz.curves([(FRACTIONS, SCORES)]), TypeError, "dict of method name"),  # type: ignore[arg-type]  # wrong on purpose
    "no curves": (lambda: viz.curves({}), ValueError, "empty"),
    "an area": (lambda: viz.curves({"a": SCORES}), TypeError, r"fa\.metrics\.curve"),
    "sizes": (lambda: viz.curves({"a": (FRACTIONS[:2], SCORES)}), ValueError, r"\[2\] and scores \[3, 3\]"),
    "nan": (lambda: viz.curves({"a": (FRACTIONS, SCORES / 0)}), ValueError, "NaN or inf"),
    "a flat table": (lambda: viz.table({"a": torch.ones(3)}), TypeError, "dict of dicts"),  # type: ignore[dict-item]  # wrong on purpose
    "an empty table": (lambda: viz.table({}), ValueError, "empty"),
    "other metrics": (lambda: viz.table({"a": {"x": 1}, "b": {"y": 1}}), ValueError, "'b' has the metrics y, expected x"),
    "a curve in it": (lambda: viz.table({"a": {"x": (FRACTIONS, SCORES)}}), TypeError, r"viz\.curves"),
    "layers": (lambda: viz.table({"a": {"x": {"l": [1.0, 2.0], "k": [1.0] * 3}}}), ValueError, r"holds \[2, 3\] numbers"),
    "which way": (lambda: viz.table(TABLE, better={"mine": "up"}), ValueError, "'low' or 'high'"),
    "another metric": (lambda: viz.table(TABLE, better={"yours": "low"}), ValueError, "yours"),
    "a page": (lambda: viz.table(TABLE, out="t.html"), ValueError, "names a page"),
    "no page": (lambda: viz.table_page(TABLE, out="t.png"), ValueError, "ends in .html"),
    "examples": (lambda: viz.table_page({"a": {"x": [1.0, 2.0]}}, examples=["one"]), ValueError, "1 names for 2"),
    "no strip": (lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), []), TypeError, "dict of layer"),  # type: ignore[arg-type]  # wrong on purpose
    "no similarity": (
        lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), {"fc": torch.rand(1, 4, 4)}, similarities={}),
        ValueError,
        "'fc'",
    ),
}


def test_metrics_by_number() -> None:
    assert "1.5 ± 0.5" in viz.table_page({"a": {1: torch.tensor([1.0, 2.0])}}).html  # type: ignore[dict-item]  # as it may be


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call()


def test_the_caption_is_of_what_is_there() -> None:
    """It told of arrows, of errors and of bold numbers where there were none."""

    def caption(found: Any) -> str:
        return viz.table(found).texts[-1].get_text().replace("\n", " ")

    assert caption({"a": {"mine": [1.0]}}) == "mean over the examples"
    assert caption({"a": {"mine": [1.0, 2.0], "insertion": [1.0, 2.0]}}).endswith("± its standard error; ↑ higher is better")
    two = {"a": {"deletion": [1.0]}, "b": {"deletion": [2.0]}}
    assert caption(two) == "mean over the examples; ↓ lower is better; bold: the best of a column"
