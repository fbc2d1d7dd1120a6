"""Pictures: what is drawn is what was given, on a scale that says what it is."""

from __future__ import annotations

import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from funattr import viz

SIGNED = torch.linspace(-3, 2, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
GREY = torch.linspace(0, 1, 2 * 8 * 10).reshape(2, 1, 8, 10)


def drawn(axes: Any) -> list[np.ndarray[Any, Any]]:
    """The arrays drawn on some axes, from the bottom up."""
    return [np.asarray(image.get_array()) for image in axes.get_images()]


def limits(axes: Any) -> tuple[float, float]:
    """The values at the two ends of the colours of the heat map, which lies on top."""
    low, high = axes.get_images()[-1].get_clim()
    return float(low), float(high)


def color(axes: Any, value: float) -> tuple[float, ...]:
    heat = axes.get_images()[-1]
    return tuple(float(part) for part in heat.cmap(heat.norm(value))[:3])


def bar(figure: Figure, i: int) -> tuple[list[str], str]:
    """The labels on a colour bar's ticks, and its caption."""
    figure.draw_without_rendering()
    axes = figure.axes[i]
    sides = [(axes.get_yticklabels(), axes.get_ylabel()), (axes.get_xticklabels(), axes.get_xlabel())]
    (labels, caption) = next(side for side in sides if side[1])
    return [label.get_text() for label in labels], caption


@pytest.mark.parametrize("name", viz.__all__)
def test_documentation(name: str) -> None:
    """Every function says what it takes, returns and raises, with an example; what is shared, in the same words."""
    assert list(viz.__all__) == sorted(viz.__all__)
    function = getattr(viz, name)
    doc = inspect.getdoc(function) or ""
    assert "Example:\n    >>> " in doc
    if name == "Page":
        return
    assert all(f"\n{section}:\n" in doc for section in ("Args", "Returns", "Raises"))
    told = dict(re.findall(r"^    (\w+): (.+)$", doc.split("Args:")[1].split("\n\n")[0], re.M))
    assert list(told) == list(inspect.signature(function).parameters)
    if "percentile" in told:
        assert told["percentile"].startswith(
            "where the colours end, as a percentile of the absolute values; 100 is the largest."
        )


# The values.


def test_overlay_draws_the_sum_over_channels() -> None:
    figure = viz.overlay(SIGNED[0])
    np.testing.assert_allclose(drawn(figure.axes[0])[0], SIGNED[0].double().sum(0).numpy(), rtol=1e-6)


def test_a_smaller_map_is_drawn_larger_and_not_changed() -> None:
    axes = viz.overlay(SIGNED[0], GREY[0], smooth=False).axes[0]
    image, heat = axes.get_images()
    np.testing.assert_array_equal(heat.get_array(), SIGNED[0].double().sum(0).numpy())
    for layer in (image, heat):
        assert tuple(layer.get_extent()) == pytest.approx((-0.5, 9.5, 7.5, -0.5))
    assert heat.get_interpolation() == image.get_interpolation() == "nearest"


def test_show_draws_every_map_in_its_cell() -> None:
    maps = {"signed": SIGNED, "positive": SIGNED.abs()[:, 0]}
    figure = viz.show(GREY, maps, titles=["first", "second"], smooth=False)
    cells = np.array(figure.axes[:6], dtype=object).reshape(2, 3)
    for row in range(2):
        np.testing.assert_allclose(drawn(cells[row, 0])[0], GREY[row, 0])
        np.testing.assert_allclose(drawn(cells[row, 1])[1], SIGNED[row].double().sum(0))
        np.testing.assert_allclose(drawn(cells[row, 2])[1], SIGNED.abs()[row, 0])
        np.testing.assert_allclose(drawn(cells[row, 2])[0], GREY[row, 0])
    assert [cell.get_title() for cell in cells[0]] == ["input", "signed", "positive"]
    assert [cell.get_ylabel() for cell in cells[:, 0]] == ["first", "second"]


# The scale.


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 100.0])
def test_signed_limits_are_the_percentile_on_both_sides_of_zero(percentile: float) -> None:
    values = SIGNED[:, 0]
    limit = float(np.percentile(values.abs().double().numpy(), percentile))
    figure = viz.show(GREY, {"one": values}, percentile=percentile)
    for row in range(2):  # both rows: the scale is the column's
        assert limits(figure.axes[2 * row + 1]) == pytest.approx((-limit, limit))
    labels, caption = bar(figure, -1)
    assert labels == [f"{-limit:.3g}", "0", f"{limit:.3g}"]
    assert caption == ("full range" if percentile == 100 else f"clipped at percentile {percentile:g}")


def test_positive_maps_start_at_zero() -> None:
    figure = viz.overlay(SIGNED[0].abs() + 5, percentile=100)
    peak = float((SIGNED[0].abs() + 5).double().sum(0).max())
    assert limits(figure.axes[0]) == pytest.approx((0, peak))
    assert bar(figure, -1)[0] == ["0", f"{peak:.3g}"]


def test_each_column_has_its_own_scale() -> None:
    figure = viz.show(GREY, {"small": SIGNED[:, 0], "large": 100 * SIGNED[:, 0]}, scale="method")
    small, large = limits(figure.axes[1]), limits(figure.axes[2])
    assert large == pytest.approx((100 * small[0], 100 * small[1]))
    assert len(figure.axes) == 6 + 2


def test_the_table_has_one_scale_unasked() -> None:
    """That of all values, clipped at their percentile; the numbers drawn are as they were given."""
    maps = {"small": SIGNED[:, 0], "large": 100 * SIGNED[:, 1].abs()}
    figure = viz.show(GREY, maps, smooth=False)
    limit = float(np.percentile(torch.stack(list(maps.values())).abs().double().numpy(), 99))
    for cell in (1, 2, 4, 5):
        assert limits(figure.axes[cell]) == pytest.approx((-limit, limit))
    np.testing.assert_array_equal(drawn(figure.axes[1])[1], SIGNED[0, 0].double().numpy())
    assert len(figure.axes) == 6 + 1
    assert bar(figure, -1) == ([f"{-limit:.3g}", "0", f"{limit:.3g}"], "clipped at percentile 99")


def test_each_row_has_its_own_scale() -> None:
    values = SIGNED[:, 0] * torch.tensor([1.0, 50])[:, None, None]
    figure = viz.show(GREY, {"a": values, "b": -values}, scale="example", percentile=100)
    for row in range(2):
        peak = float(values[row].abs().max())
        assert limits(figure.axes[3 * row + 1]) == limits(figure.axes[3 * row + 2]) == pytest.approx((-peak, peak))
        assert bar(figure, 6 + row)[0] == [f"{-peak:.3g}", "0", f"{peak:.3g}"]


def test_a_map_of_few_pixels_counts_as_much_as_one_of_many() -> None:
    """Both are as large on paper: a 2 x 2 map of large values is not clipped away by a thousand small ones."""
    rng = np.random.default_rng(0)
    small, many = np.array([[[5.0, 6], [7, 8]]]), rng.uniform(-1, 1, (1, 32, 32))
    figure = viz.show(GREY[:1], {"many": many, "few": small}, percentile=90)
    assert 7 < limits(figure.axes[1])[1] < 8
    tiled = np.percentile(np.concatenate([np.abs(many).ravel(), np.linspace(5, 8, 1024)]), 90)
    assert limits(figure.axes[1])[1] == pytest.approx(tiled, rel=1e-3)


def test_zero_is_white_and_positive_is_the_same_red_on_both_scales() -> None:
    signed, positive = viz.overlay(SIGNED[0]).axes[0], viz.overlay(SIGNED[0].abs()).axes[0]
    for axes in (signed, positive):
        assert min(color(axes, 0.0)) > 0.95
        red, _, blue = color(axes, 0.7 * limits(axes)[1])
        assert red > blue + 0.3
    red, _, blue = color(signed, 0.7 * limits(signed)[0])
    assert blue > red + 0.3
    np.testing.assert_allclose(color(signed, limits(signed)[1]), color(positive, limits(positive)[1]), atol=0.01)


RAMP = torch.linspace(0.01, 1, 100).reshape(10, 10)


@pytest.mark.parametrize(
    ("values", "extend"),
    [
        (RAMP, "max"),
        (-RAMP, "min"),
        (RAMP * torch.tensor([1, -1] * 5), "both"),
        (torch.where(RAMP < 0.5, -RAMP, RAMP), "max"),
        (torch.where(RAMP < 0.5, RAMP, -RAMP), "min"),
        (RAMP.sign(), "neither"),
    ],
)
def test_the_bar_has_an_arrow_where_values_lie_beyond_it(values: torch.Tensor, extend: str) -> None:
    figure = viz.overlay(values, percentile=90)
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    arrows = [patch.get_path().vertices[:, 0] for patch in bar.patches if isinstance(patch, PathPatch)]
    sides = {"min" if arrow.min() < 0 else "max" for arrow in arrows if arrow.min() < 0 or arrow.max() > 1}
    assert sides == {"both": {"min", "max"}, "neither": set()}.get(extend, {extend})


def test_a_map_with_few_values_is_not_clipped_to_nothing() -> None:
    values = torch.zeros(20, 20)
    values[3, 4] = 0.25
    figure = viz.overlay(values)
    assert limits(figure.axes[0]) == (0, 0.25)
    assert bar(figure, -1)[1] == "full range"


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5, 1e-300])
def test_a_constant_map_has_a_scale(value: float, tmp_path: Path) -> None:
    values = torch.full((2, 4, 4), value, dtype=torch.float64)
    figure = viz.show(GREY, {"constant": values}, out=tmp_path / "constant.png")
    low, high = limits(figure.axes[1])
    assert (low, high) == ((-abs(value), abs(value)) if value < 0 else (0, value or 1.0))
    assert bar(figure, -1)[1] == ("full range" if value else "0 everywhere")


# The image.


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0.2, 0.4], [0.6, 0.5]]), np.array([[0.2, 0.4], [0.6, 0.5]])),  # inside [0, 1]: as it is
        (np.array([[-1.0, 1.0], [0.0, 3.0]]), np.array([[0.0, 0.5], [0.25, 1.0]])),
        (np.array([[0, 255], [51, 102]], dtype=np.uint8), np.array([[0.0, 1.0], [0.2, 0.4]])),
        (np.full((2, 2), 7.0), np.zeros((2, 2))),
        (np.array([[True, False], [False, True]]), np.eye(2)),
    ],
)
def test_images_are_scaled_only_where_they_must_be(image: Any, expected: Any) -> None:
    figure = viz.show(image[None], {"any": np.ones((1, 2, 2))})
    np.testing.assert_allclose(drawn(figure.axes[0])[0], expected)


@pytest.mark.parametrize(
    ("brightness", "expected"),
    [
        ("grid", [(0.5 + 9) / 16, 1.0, 1 / 16]),  # from -9 to 7
        ("example", [0.5, 1.0, 1.0]),  # the first is inside [0, 1]: as it is
        ((-1.0, 3.0), [1.5 / 4, 1.0, 0.0]),  # what is beyond is black, or white
    ],
)
def test_images_are_as_bright_as_the_caller_says(brightness: Any, expected: list[float]) -> None:
    """One range for all unasked: an image twice as dark as another is drawn so."""
    images = torch.stack([0.5 * torch.eye(2), 4 * torch.eye(2) + 3, torch.eye(2) - 9])
    figure = viz.show(images, {"any": torch.ones(3, 2, 2)}, brightness=brightness)
    assert [drawn(cells[0])[0].max() for cells in rows(figure, 2)] == pytest.approx(expected)
    if brightness == "grid":
        unasked = rows(viz.show(images, {"any": torch.ones(3, 2, 2)}), 2)
        assert [drawn(cells[0])[0].max() for cells in unasked] == pytest.approx(expected)


def rows(figure: Figure, columns: int) -> list[list[Any]]:
    """The cells of each example."""
    cells = [axes for axes in figure.axes if axes.images]
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def test_bytes_are_as_bright_as_they_are() -> None:
    dark = np.array([[[0, 51], [20, 102]]], dtype=np.uint8)
    for images in (dark, torch.from_numpy(dark)):
        figure = viz.show(images, {"any": np.ones((1, 2, 2))})
        np.testing.assert_allclose(drawn(figure.axes[0])[0], dark[0] / 255)


def test_images_keep_their_colours_under_the_map() -> None:
    image = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    for cell in viz.show(image, {"any": torch.ones(1, 4, 5)}).axes[:2]:
        np.testing.assert_allclose(drawn(cell)[0], image[0].permute(1, 2, 0))


# What is accepted.

SAME: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": lambda t: t.double(),
    "bfloat16": lambda t: t.bfloat16(),
    "float16": lambda t: t.half(),
    "requires_grad": lambda t: t.clone().requires_grad_(),
    "not a leaf": lambda t: t.clone().requires_grad_() * 1,
    "not contiguous": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "integers": lambda t: t.long(),
    "array": lambda t: t.numpy(),
    "float32 array": lambda t: t.numpy().astype(np.float32),
    "[1, C, H, W]": lambda t: t[None],
    "[H, W]": lambda t: t.sum(0),
    "nested lists": lambda t: t.tolist(),
}


@pytest.mark.parametrize("kind", SAME)
def test_all_kinds_of_numbers_draw_the_same(kind: str) -> None:
    values = torch.arange(-10, 14).reshape(2, 3, 4).float()  # exact in every dtype
    figure = viz.overlay(SAME[kind](values))
    np.testing.assert_array_equal(drawn(figure.axes[0])[0], values.sum(0).numpy())


def test_channels_last() -> None:
    last = {"maps": SIGNED.permute(0, 2, 3, 1)}
    figure = viz.show(GREY.permute(0, 2, 3, 1), last, channel_dim=-1, smooth=False)
    np.testing.assert_allclose(drawn(figure.axes[1])[1], SIGNED[0].double().sum(0))
    one = viz.overlay(SIGNED[0].permute(1, 2, 0), GREY[0].permute(1, 2, 0), channel_dim=-1, smooth=False)
    np.testing.assert_allclose(drawn(one.axes[0])[1], SIGNED[0].double().sum(0))
    np.testing.assert_allclose(drawn(one.axes[0])[0], GREY[0, 0])


def test_inputs_are_not_changed_and_not_aliased() -> None:
    image, values = GREY.double() * 9, SIGNED.double()
    before = image.clone(), values.clone()
    figure = viz.show(image, {"any": values[:, 0]}, smooth=False)
    assert torch.equal(image, before[0])
    assert torch.equal(values, before[1])
    values.zero_()
    np.testing.assert_array_equal(drawn(figure.axes[1])[1], before[1][0, 0])


# The figure.


def test_overlay_on_axes_of_the_callers() -> None:
    figure = Figure()
    parts: Any = figure.subfigures(1, 2)
    axes = [part.add_subplot() for part in parts]
    assert viz.overlay(SIGNED[0], ax=axes[1], title="right", colorbar=False) is figure
    assert (axes[0].get_title(), axes[1].get_title()) == ("", "right")
    assert drawn(axes[0]) == []
    assert len(figure.axes) == 2
    viz.overlay(SIGNED[0], ax=axes[0])
    assert len(figure.axes) == 3  # a colour bar


def test_long_titles_do_not_run_into_each_other() -> None:
    names = ["a method with quite a long name, twice", "noise_tunnel(integrated_gradients)"]
    figure = viz.show(GREY, dict.fromkeys(names, SIGNED))
    figure.draw_without_rendering()
    boxes = [cell.title.get_window_extent() for cell in figure.axes[:3]]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[2].x1 < figure.bbox.x1
    assert all(box.y1 < figure.bbox.y1 for box in boxes)


def test_nothing_is_left_open_and_no_file_is_written_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    viz.overlay(SIGNED[0])
    viz.show(GREY, {"any": SIGNED})
    assert pyplot.get_fignums() == []
    assert list(tmp_path.iterdir()) == []
    viz.show(GREY, {"any": SIGNED}, out="maps.png")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.png"]
    assert pyplot.imread("maps.png").std() > 0.1


def test_files_and_images(tmp_path: Path) -> None:
    figure = viz.overlay(SIGNED[0], out=tmp_path / "one.svg")
    viz.show(GREY, {"any": SIGNED}, out=str(tmp_path / "table.pdf"))
    assert (tmp_path / "one.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "table.pdf").read_bytes().startswith(b"%PDF")
    image = viz.to_image(figure, dpi=100)
    assert image.mode == "RGB"
    assert image.size == pytest.approx(100 * figure.get_size_inches(), abs=1)
    figure.savefig(tmp_path / "one.png", dpi=100)
    written = (255 * pyplot.imread(tmp_path / "one.png")[..., :3]).round()
    np.testing.assert_array_equal(np.asarray(image), written)


def test_what_is_on_the_paper() -> None:
    """The pixels themselves: blue left, white in the middle, red right."""
    figure = viz.overlay(torch.tensor([[-1.0, 0.0, 1.0]]), colorbar=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    found = []
    for column in range(3):
        x, y = axes.transData.transform((column, 0))
        found.append(pixels[len(pixels) - int(y), int(x)])
    (red, _, blue), white, (red2, _, blue2) = found
    assert blue > red + 50
    assert white.min() > 240
    assert red2 > blue2 + 50


# Bad input.

ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "1-d": (
        lambda: viz.overlay(torch.ones(3)),
        ValueError,
        r"shape \[3\], expected \[H, W\], \[C, H, W\] or \[1, C, H, W\]: cho",
    ),
    "5-d": (lambda: viz.overlay(torch.ones(1, 1, 2, 3, 4)), ValueError, r"expected .*: drop the other dimensions"),
    "a batch": (lambda: viz.overlay(SIGNED), ValueError, r"holds 2 examples, expected one: pass attribution\[0\], or use show"),
    "empty": (lambda: viz.overlay(torch.ones(1, 0, 3)), ValueError, "there is nothing to draw"),
    "empty batch": (lambda: viz.show(GREY[:0], {"a": SIGNED[:0]}), ValueError, "images has the shape .* nothing to draw"),
    "two channels": (lambda: viz.overlay(SIGNED[0], torch.ones(2, 4, 5)), ValueError, r"image \[2, 4, 5\] has 2 channels"),
    "channels last": (lambda: viz.overlay(SIGNED[0], torch.ones(4, 5, 3)), ValueError, "or channel_dim=-1 if the channels"),
    "channels first": (lambda: viz.overlay(SIGNED[0], torch.ones(3, 4, 5), channel_dim=-1), ValueError, "or channel_dim=-3 if"),
    "channel_dim": (lambda: viz.overlay(SIGNED[0], channel_dim=1), ValueError, r"must be -3 .* or -1 .*, got 1"),
    "NaN": (lambda: viz.overlay(SIGNED[0] / 0 * 0), ValueError, r"attribution \[3, 4, 5\] holds NaN or inf"),
    "inf image": (lambda: viz.show(GREY / 0, {"a": SIGNED}), ValueError, r"images \[2, 1, 8, 10\] holds NaN or inf"),
    "percentile 0": (lambda: viz.overlay(SIGNED[0], percentile=0), ValueError, "above 1 and at most 100, got 0"),
    "percentile of a fraction": (lambda: viz.overlay(SIGNED[0], percentile=0.99), ValueError, "99.0 clips the largest 1 %"),
    "percentile 101": (lambda: viz.show(GREY, {"a": SIGNED}, percentile=101), ValueError, "at most 100, got 101"),
    "no batch": (lambda: viz.show(GREY[0, 0], {"a": SIGNED}), ValueError, r"images has the shape \[8, 10\].*images\[None\]"),
    "lone image": (lambda: viz.show(torch.ones(3, 8, 8), {"a": SIGNED[:1]}), ValueError, r"1 maps for 3 images.*image\[None\]"),
    "tokens": (
        lambda: viz.show(GREY, {"fc": torch.ones(2)}),
        ValueError,
        r"attributions\['fc'\] .*choose a layer whose value has",
    ),
    "scale": (lambda: viz.show(GREY, {"a": SIGNED}, scale="row"), ValueError, r"'grid' \(one for all\), 'method'.*got 'row'"),
    "a page": (lambda: viz.show(GREY, {"a": SIGNED}, out="maps.html"), ValueError, r"'maps.html' names a page.*call page\(\)"),
    "titles": (lambda: viz.show(GREY, {"a": SIGNED}, titles=["x"]), ValueError, "1 entries for 2 images: pass one title per"),
    "no dict": (lambda: viz.show(GREY, SIGNED), TypeError, "must be a dict of method name -> maps, got Tensor: pass"),  # type: ignore[arg-type]  # wrong on purpose
    "no method": (lambda: viz.show(GREY, {}), ValueError, "attributions is empty, expected at least one method"),
    "complex": (lambda: viz.overlay(torch.ones(2, 2) * 1j), TypeError, "real numbers, got Tensor of complex64"),
    "None": (lambda: viz.overlay(None), TypeError, "attribution must be a tensor or an array of real numbers, got NoneType"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_without_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import torch; from funattr import viz\n"  # imports without it
        "assert 'numpy' in sys.modules\n"
        "try: viz.overlay(torch.ones(2, 2))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'pictures need matplotlib: pip install "funattr[viz]".\n'


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot() -> None:
    code = (
        "import sys, torch; from funattr import viz\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "viz.show(torch.ones(1, 4, 4), {'a': torch.ones(1, 4, 4)}, out=sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "/dev/null"], check=True)


def test_lists_of_tensors_of_any_kind() -> None:
    """They ended in errors of numpy and torch."""
    plain = viz.show(GREY, {"a": SIGNED})
    kinds: list[Callable[[torch.Tensor], Any]] = [
        lambda t: list(t.clone().requires_grad_()),
        lambda t: list(t.double()),
        lambda t: t.to_sparse(),
        lambda t: tuple(t.numpy()),
    ]
    for kind in kinds:
        figure = viz.show(kind(GREY), {"a": kind(SIGNED)})
        for i in range(4):
            for own, expected in zip(drawn(figure.axes[i]), drawn(plain.axes[i])):
                np.testing.assert_allclose(own, expected, rtol=1e-6)
    assert len(drawn(viz.show(list(GREY.bfloat16()), {"a": list(SIGNED.bfloat16())}).axes[1])) == 2
    byte = (GREY * 255).byte()
    whole, listed = (drawn(viz.show(given, {"a": SIGNED}).axes[0])[0] for given in (byte, list(byte)))
    np.testing.assert_array_equal(whole, listed)
