"""Tokens: each in the colour of its value, in its order, on a scale that says what it is."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps, pyplot
from matplotlib.figure import Figure

from funattr import viz

TOKENS = ["[CLS]", "not", "a", "$bad$", "film", "[SEP]"]
VALUES = torch.tensor([0.0, 0.75, -0.125, -1.0, 0.25, 0.5])  # exact in every dtype


def colors(axes: Any) -> np.ndarray[Any, Any]:
    return np.array([patch.get_facecolor()[:3] for patch in axes.patches])


def drawn(axes: Any) -> list[str]:
    return [token.get_text() for token in axes.texts]


def bar(figure: Figure, i: int = -1) -> tuple[list[str], str]:
    figure.draw_without_rendering()
    axes = figure.axes[i]
    return [label.get_text() for label in axes.get_xticklabels()], axes.get_xlabel()


def test_every_token_is_drawn_in_its_order_and_place() -> None:
    axes: Any = viz.text(TOKENS, VALUES).axes[0]
    assert drawn(axes) == TOKENS
    for token, patch in zip(axes.texts, axes.patches):
        (x, y), (left, bottom) = token.get_position(), patch.get_xy()
        assert left < x < left + patch.get_width()
        assert bottom < y < bottom + patch.get_height()
    lefts = [patch.get_x() for patch in axes.patches]
    assert lefts == sorted(set(lefts))


def test_colours_are_those_of_the_values() -> None:
    """0 is white; red rises and falls with the value; x and -x are as far from white."""
    values = torch.linspace(-2, 2, 9)
    found = colors(viz.text(list("abcdefghi"), values).axes[0])
    np.testing.assert_allclose(found, colormaps["RdBu_r"]((values.numpy() + 2) / 4)[:, :3], atol=0.01)
    warmth = found[:, 0] - found[:, 2]
    middle = abs(warmth[4])
    assert middle < 0.02
    assert (warmth[:4] < -0.1).all()
    assert (warmth[5:] > 0.1).all()
    lightness = [colorsys.rgb_to_hls(*color)[1] for color in found]
    assert all(np.diff(lightness[:5]) > 0)
    assert all(np.diff(lightness[4:]) < 0)
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.1)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 100.0])
def test_the_scale_is_the_percentile_of_all_tokens(percentile: float) -> None:
    tokens, values = [["a", "b", "c"], ["d", "e"]], [torch.tensor([1.0, -2, 3]), torch.tensor([-7.0, 4])]
    limit = float(np.percentile([1, 2, 3, 7, 4], percentile))
    figure = viz.text(tokens, values, percentile=percentile)
    assert len(figure.axes) == 2 + 1
    labels, caption = bar(figure)
    assert labels == [f"{-limit:.3g}", "0", f"{limit:.3g}"]
    assert caption == ("full range" if percentile == 100 else f"clipped at percentile {percentile:g}")
    all_colors = np.concatenate([colors(axes) for axes in figure.axes[:2]])
    expected = colormaps["RdBu_r"](np.clip((np.array([1, -2, 3, -7, 4]) + limit) / (2 * limit), 0, 1))[:, :3]
    np.testing.assert_allclose(all_colors, expected, atol=0.01)


def test_nothing_is_clipped_unasked() -> None:
    labels, caption = bar(viz.text(TOKENS, 1000 * VALUES))
    assert (labels, caption) == (["-1e+03", "0", "1e+03"], "full range")


def test_a_scale_for_each_sentence() -> None:
    figure = viz.text([["a", "b"], ["c", "d"]], torch.tensor([[1.0, -2], [10, -20]]), scale="example")
    assert [bar(figure, i)[0] for i in (2, 3)] == [["-2", "0", "2"], ["-20", "0", "20"]]
    np.testing.assert_allclose(colors(figure.axes[0]), colors(figure.axes[1]))
    shared = viz.text([["a", "b"], ["c", "d"]], torch.tensor([[1.0, -2], [10, -20]]))
    np.testing.assert_allclose(colors(shared.axes[1]), colors(figure.axes[1]))
    assert colors(shared.axes[0]).min() > colors(shared.axes[1]).min() + 0.3


def test_positive_tokens_start_at_zero() -> None:
    figure = viz.text(TOKENS, VALUES.abs())
    assert bar(figure)[0] == ["0", "1"]
    assert colors(figure.axes[0])[0].min() > 0.95


SAME: dict[str, Callable[[], Any]] = {
    "float64": lambda: VALUES.double(),
    "bfloat16": lambda: VALUES.bfloat16(),
    "float16": lambda: VALUES.half(),
    "requires_grad": lambda: VALUES.clone().requires_grad_(),
    "array": lambda: VALUES.numpy(),
    "list": lambda: VALUES.tolist(),
    "[1, L]": lambda: VALUES[None],
    "[L, D]": lambda: torch.stack([2 * VALUES, -VALUES], 1),
    "[1, L, D]": lambda: torch.stack([2 * VALUES, -VALUES], 1)[None],
}


@pytest.mark.parametrize("kind", SAME)
def test_all_kinds_of_numbers_draw_the_same(kind: str) -> None:
    np.testing.assert_array_equal(colors(viz.text(TOKENS, SAME[kind]()).axes[0]), colors(viz.text(TOKENS, VALUES).axes[0]))


def test_several_sentences_in_all_forms() -> None:
    expected = [colors(axes) for axes in viz.text([TOKENS, TOKENS], torch.stack([VALUES, -VALUES])).axes[:2]]
    embedded = torch.stack([VALUES, -VALUES])[:, :, None] * torch.tensor([3.0, -2])
    for same in (embedded, [VALUES, -VALUES], [embedded[0].requires_grad_(), (-VALUES).numpy()]):
        found = viz.text((tuple(TOKENS), TOKENS), same)
        for axes, wanted in zip(found.axes, expected):
            np.testing.assert_allclose(colors(axes), wanted)
    one = viz.text([TOKENS], VALUES[None])
    np.testing.assert_array_equal(colors(one.axes[0]), colors(viz.text(TOKENS, VALUES).axes[0]))
    assert [axes.get_title("left") for axes in viz.text([["a"], ["b"]], [[1.0], [2.0]], titles=["x", "y"]).axes[:2]] == [
        "x",
        "y",
    ]


def test_long_sentences_wrap_and_tokens_do_not_overlap() -> None:
    tokens = ["supercalifragilistic"] * 20 + ["x" * 200, "", "tail\n"]
    figure = viz.text([tokens, ["short"]], [torch.arange(23.0), torch.ones(1)], titles=["long", "short"])
    figure.draw_without_rendering()
    axes: Any = figure.axes[0]
    assert drawn(axes)[-1] == "tail\\n"  # what cannot be seen is drawn as an escape sequence
    boxes = [patch.get_window_extent() for patch in axes.patches]
    for text, box in zip(axes.texts, boxes):
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 + 0.5
        assert extent.x1 <= box.x1 + 0.5
    for a, b in itertools.combinations(boxes, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    titles: Any = figure.axes[1]
    assert figure.bbox.y0 < titles.patches[0].get_window_extent().y0 < axes.patches[-1].get_window_extent().y0
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_ink_can_be_read_on_every_colour() -> None:
    axes: Any = viz.text([str(i) for i in range(41)], torch.linspace(-1, 1, 41)).axes[0]

    def luminance(rgb: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for text, color in zip(axes.texts, colors(axes)):
        light, dark = sorted([luminance(color), 1.0 if text.get_color() == "white" else 0.0], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"text.{suffix}"
    viz.text(TOKENS, VALUES, out=out)
    assert out.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert pyplot.get_fignums() == []


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a string": (lambda: viz.text("a film", [1.0, 2.0]), TypeError, r"tokens is one string.*or tokens\.split\(\)"),
    "ids": (lambda: viz.text([101, 102], [1.0, 2.0]), TypeError, r"holds 101, a int.*convert_ids_to_tokens"),  # type: ignore[list-item]  # wrong on purpose
    "nested ids": (lambda: viz.text([[101]], [[1.0]]), TypeError, r"holds 101, a int, in a sentence"),  # type: ignore[list-item]  # wrong on purpose
    "a tensor": (lambda: viz.text(torch.ones(3), [1.0]), TypeError, r"must be a list of tokens.*got Tensor"),  # type: ignore[arg-type]  # wrong on purpose
    "mixed": (lambda: viz.text([["a"], "b"], [[1.0], [1.0]]), TypeError, "holds 'b', a str"),
    "no tokens": (lambda: viz.text([], []), ValueError, "tokens is empty"),
    "an empty sentence": (lambda: viz.text([["a"], []], [[1.0], []]), ValueError, "has a sentence without tokens"),
    "too few": (lambda: viz.text(TOKENS, VALUES[:4]), ValueError, r"attributions \[4\] has 4 values for 6 tokens: pass one"),
    "padded": (
        lambda: viz.text([["a", "b"], ["c"]], torch.ones(2, 2)),
        ValueError,
        r"\[2, 2\] has 2 values for 1 tokens in sentence 1: pass a list with the unpadded",
    ),
    "rows": (lambda: viz.text([["a"], ["b"]], torch.ones(3, 1)), ValueError, r"\[3, 1\], expected \[N, L\].* for 2 sentences"),
    "4-d": (lambda: viz.text(["a"], torch.ones(1, 1, 1, 1)), ValueError, r"shape \[1, 1, 1, 1\], expected \[L\]"),
    "a number": (lambda: viz.text(["a"], 1.0), ValueError, r"shape \[\], expected"),
    "NaN": (lambda: viz.text(["a"], [float("nan")]), ValueError, "NaN or inf"),
    "complex": (lambda: viz.text(["a"], torch.ones(1) * 1j), TypeError, "real numbers, got Tensor of complex64"),
    "titles": (
        lambda: viz.text([["a"]], [[1.0]], titles=["x", "y"]),
        ValueError,
        "2 entries for 1 sentences: pass one title per",
    ),
    "a title": (lambda: viz.text(["a"], [1.0], titles="x"), TypeError, r"titles is one string.*\['x'\]"),
    "percentile": (lambda: viz.text(["a"], [1.0], percentile=0), ValueError, "above 1 and at most 100"),
    "scale": (lambda: viz.text(["a"], [1.0], scale="method"), ValueError, r"'grid' \(one for all\) or 'example'.*got 'method'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
