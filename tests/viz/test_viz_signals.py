"""Signals and volumes: every value in its place, the right slices, and a scale that says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from funattr import viz

SIGNALS = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BANDS = torch.linspace(-4, 2, 2 * 3 * 40, dtype=torch.float64).reshape(2, 3, 40)
VOLUMES = torch.linspace(0, 1, 2 * 8 * 6 * 4, dtype=torch.float64).reshape(2, 1, 8, 6, 4)
HEAT = torch.linspace(-3, 2, 2 * 2 * 8 * 6 * 4, dtype=torch.float64).reshape(2, 2, 8, 6, 4)


def heat(axes: Any) -> Any:
    return np.asarray(axes.get_images()[-1].get_array())


def lines(axes: Any) -> Any:
    return np.array([line.get_ydata() for line in axes.get_lines()])


def limits(axes: Any) -> tuple[float, float]:
    low, high = axes.get_images()[-1].get_clim()
    return float(low), float(high)


def bar(figure: Figure, i: int = -1) -> tuple[list[str], str]:
    figure.draw_without_rendering()
    axes = figure.axes[i]
    return [label.get_text() for label in axes.get_xticklabels()], axes.get_xlabel()


# Signals.


def test_each_channel_has_a_panel_where_its_attribution_has_one() -> None:
    figure = viz.series(SIGNALS, BANDS, titles=["first", "second"])
    assert len(figure.axes) == 6 + 1
    for i, ax in enumerate(figure.axes[:6]):
        np.testing.assert_array_equal(lines(ax), SIGNALS.flatten(0, 1)[i : i + 1])
        np.testing.assert_array_equal(heat(ax), BANDS.flatten(0, 1)[i : i + 1])
        assert tuple(ax.get_images()[0].get_extent())[:2] == (-0.5, 39.5)  # a step has the stripe around its point
    assert [ax.get_title("left") for ax in figure.axes[:6]] == ["first", "", "", "second", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes[:3]] == ["channel 0", "channel 1", "channel 2"]


def test_other_channels_are_summed_behind_all_lines() -> None:
    for bands, expected in ((BANDS[:, :2], BANDS[:, :2].sum(1)), (BANDS[:, :1], BANDS[:, 0]), (BANDS[:, 0], BANDS[:, 0])):
        figure = viz.series(SIGNALS, bands)
        for i, ax in enumerate(figure.axes[:2]):
            np.testing.assert_array_equal(lines(ax), SIGNALS[i])
            np.testing.assert_allclose(heat(ax)[0], expected[i])


def test_lines_lie_inside_and_a_shorter_attribution_spans_them() -> None:
    figure = viz.series(SIGNALS[:, 0], BANDS[:, 0, ::8])
    for ax in figure.axes[:2]:
        drawn: Any = ax.get_images()[0]
        left, right, low, high = drawn.get_extent()
        assert (left, right) == (-0.5, 39.5)
        assert heat(ax).shape == (1, 5)
        assert low < lines(ax).min() <= lines(ax).max() < high
    constant: Any = viz.series(torch.full((1, 5), 3.0), torch.ones(1, 5)).axes[0].get_images()[0]
    assert constant.get_extent()[2:] == [2.5, 3.5]


@pytest.mark.parametrize("percentile", [50.0, 99.0, 100.0])
def test_the_scale_of_signals_is_the_percentile(percentile: float) -> None:
    limit = float(np.percentile(BANDS.abs().numpy(), percentile))
    figure = viz.series(SIGNALS, BANDS, percentile=percentile)
    assert {limits(ax) for ax in figure.axes[:6]} == {(-limit, limit)}
    caption = "full range" if percentile == 100 else f"clipped at percentile {percentile:g}"
    assert bar(figure) == ([f"{-limit:.3g}", "0", f"{limit:.3g}"], caption)


def test_one_step_is_seen() -> None:
    """A line of one point has no length."""
    (line,) = viz.series(SIGNALS[:1, :1, :1], BANDS[:1, :1, :1]).axes[0].get_lines()
    assert line.get_marker() == "o"


def test_a_scale_for_each_signal() -> None:
    figure = viz.series(SIGNALS, BANDS, percentile=100, scale="example")
    peaks = BANDS.abs().amax((1, 2)).tolist()
    assert [limits(ax)[1] for ax in figure.axes[:6]] == [peaks[0]] * 3 + [peaks[1]] * 3
    assert [bar(figure, 6 + i)[0][-1] for i in range(2)] == [f"{peak:.3g}" for peak in peaks]


# Volumes.


@pytest.mark.parametrize(("axis", "name", "even"), [(0, "D", [1, 4, 6]), (1, "H", [1, 3, 5]), (2, "W", [0, 2, 3])])
def test_slices_are_cut_where_they_say(axis: int, name: str, even: list[int]) -> None:
    figure = viz.volume(VOLUMES, HEAT, axis=axis, slices=3, titles=["first", "second"])
    cells = np.array(figure.axes[:6], dtype=object).reshape(2, 3)
    for row in range(2):
        assert [cell.get_title() for cell in cells[row]] == [f"{name} = {i}" for i in even]
        for cell, i in zip(cells[row], even):
            np.testing.assert_allclose(heat(cell), HEAT[row].sum(0).select(axis, i))
            np.testing.assert_allclose(cell.get_images()[0].get_array(), VOLUMES[row, 0].select(axis, i))
    assert [cell.get_ylabel() for cell in cells[:, 0]] == ["first", "second"]


def titles(figure: Figure, count: int) -> list[str]:
    return [cell.get_title() for cell in figure.axes[:count]]


def test_the_largest_slices_of_each_example_in_order() -> None:
    sizes = torch.zeros(2, 8, 6, 4)
    sizes[0, 6], sizes[0, 1], sizes[0, 3], sizes[0, 4] = -9, 5, 1, 4
    sizes[1, 0, 0, 0] = 1
    sizes[1, 7], sizes[1, 2] = torch.tensor([3.0, -3, 3, -3]), 1  # whose sum is 0, and its absolute sum not
    figure = viz.volume(VOLUMES, sizes, choose="largest", slices=3)
    assert titles(figure, 6) == [f"D = {i}" for i in [1, 4, 6, 0, 2, 7]]


def test_chosen_slices() -> None:
    assert titles(viz.volume(VOLUMES[:1], HEAT[:1], slices=[5, -1, 0]), 3) == ["D = 5", "D = 7", "D = 0"]
    assert titles(viz.volume(VOLUMES[:1], HEAT[:1], slices=range(2, 4)), 2) == ["D = 2", "D = 3"]
    assert titles(viz.volume(VOLUMES[:1], HEAT[:1], slices=99, axis=2), 4) == [f"W = {i}" for i in range(4)]
    assert len(viz.volume(VOLUMES[:1], HEAT[:1], slices=99, axis=2).axes) == 4 + 1


def test_a_smaller_attribution_lies_over_the_slices_it_belongs_to() -> None:
    small = torch.arange(3.0).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    figure = viz.volume(VOLUMES[:1], small, slices=range(8))
    assert [float(heat(cell)[0, 0]) for cell in figure.axes[:8]] == [0, 0, 0, 1, 1, 2, 2, 2]
    drawn: Any = figure.axes[0].get_images()[1]
    assert tuple(drawn.get_extent()) == (-0.5, 3.5, 5.5, -0.5)
    assert titles(viz.volume(VOLUMES[:1], small, choose="largest", slices=2), 2) == ["D = 5", "D = 6"]


@pytest.mark.parametrize("slices", [1, [0], 8])
def test_the_scale_is_that_of_the_whole_volume(slices: Any) -> None:
    limit = float(np.percentile(HEAT.sum(1).abs().numpy(), 90))
    figure = viz.volume(VOLUMES, HEAT, slices=slices, percentile=90)
    assert limits(figure.axes[0]) == pytest.approx((-limit, limit))
    assert bar(figure) == ([f"{-limit:.3g}", "0", f"{limit:.3g}"], "clipped at percentile 90")


def test_a_scale_for_each_volume() -> None:
    figure = viz.volume(VOLUMES, HEAT, slices=2, percentile=100, scale="example")
    peaks = HEAT.sum(1).abs().amax((1, 2, 3)).tolist()
    assert [limits(cell)[1] for cell in figure.axes[:4]] == pytest.approx([peaks[0]] * 2 + [peaks[1]] * 2)


def test_a_video_keeps_its_colours_under_its_map() -> None:
    video = torch.rand(1, 3, 2, 4, 5, dtype=torch.float64)
    cell: Any = viz.volume(video, torch.ones(1, 2, 4, 5), slices=[1]).axes[0]
    np.testing.assert_allclose(cell.get_images()[0].get_array(), video[0, :, 1].permute(1, 2, 0))


# What is accepted.

SAME: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": lambda t: t.double(),
    "bfloat16": lambda t: t.bfloat16(),
    "float16": lambda t: t.half(),
    "requires_grad": lambda t: t.clone().requires_grad_(),
    "array": lambda t: t.numpy(),
}


@pytest.mark.parametrize("kind", SAME)
def test_all_kinds_of_numbers_draw_the_same(kind: str) -> None:
    same = SAME[kind]
    values = torch.arange(-12, 12).float()  # exact in every dtype
    ax = viz.series(same(values.reshape(1, 1, 24)), same(-values.reshape(1, 1, 24))).axes[0]
    np.testing.assert_array_equal(lines(ax)[0], values.numpy())
    np.testing.assert_array_equal(heat(ax)[0], -values.numpy())
    cell = viz.volume(same(values.reshape(1, 1, 2, 3, 4)), same(values.reshape(1, 1, 2, 3, 4)), slices=[1]).axes[0]
    np.testing.assert_array_equal(heat(cell), values[12:].reshape(3, 4).numpy())


def test_batch_and_channels_may_be_missing() -> None:
    for signal in (SIGNALS[:1, :1], SIGNALS[:1, 0], SIGNALS[0, 0]):
        ax = viz.series(signal, BANDS[0, 0]).axes[0]
        np.testing.assert_array_equal(lines(ax)[0], SIGNALS[0, 0])
        np.testing.assert_array_equal(heat(ax)[0], BANDS[0, 0])
    for volume in (VOLUMES[:1], VOLUMES[:1, 0], VOLUMES[0, 0]):
        np.testing.assert_array_equal(heat(viz.volume(volume, HEAT[0, 0], slices=[3]).axes[0]), HEAT[0, 0, 3])


def test_channels_last() -> None:
    figure = viz.series(SIGNALS.transpose(1, 2), BANDS.transpose(1, 2), channel_dim=-1)
    for i, ax in enumerate(figure.axes[:6]):
        np.testing.assert_array_equal(lines(ax)[0], SIGNALS.flatten(0, 1)[i])
        np.testing.assert_array_equal(heat(ax)[0], BANDS.flatten(0, 1)[i])
    last = viz.volume(VOLUMES.movedim(1, -1), HEAT.movedim(1, -1), slices=[5], channel_dim=-1)
    np.testing.assert_allclose(heat(last.axes[1]), HEAT[1].sum(0)[5])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files(suffix: str, tmp_path: Path) -> None:
    viz.series(SIGNALS, BANDS, out=tmp_path / f"series.{suffix}")
    viz.volume(VOLUMES, HEAT, out=str(tmp_path / f"volume.{suffix}"))
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert all((tmp_path / f"{name}.{suffix}").read_bytes().startswith(start) for name in ("series", "volume"))


# Bad input.

ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "signals 4-d": (
        lambda: viz.series(torch.ones(1, 1, 2, 3), BANDS),
        ValueError,
        r"signals has the shape \[1, 1, 2, 3\], expected \[N, C, L\], \[N, L\] or \[L\]: choose",
    ),
    "signals 0-d": (lambda: viz.series(torch.ones(()), BANDS), ValueError, r"signals has the shape \[\]"),
    "empty": (lambda: viz.series(SIGNALS[..., :0], BANDS), ValueError, "there is nothing to draw"),
    "examples": (lambda: viz.series(SIGNALS, BANDS[:1]), ValueError, "attributions has 1 examples and signals has 2: pass one"),
    "channel_dim": (lambda: viz.series(SIGNALS, BANDS, channel_dim=1), ValueError, r"must be -2 .* or -1 .*, got 1"),
    "scale": (lambda: viz.series(SIGNALS, BANDS, scale="method"), ValueError, "scale must be 'grid'"),
    "titles": (lambda: viz.series(SIGNALS, BANDS, titles=["a"]), ValueError, "1 entries for 2 examples"),
    "NaN": (lambda: viz.series(SIGNALS, BANDS / 0 * 0), ValueError, r"attributions \[2, 3, 40\] holds NaN or inf"),
    "complex": (lambda: viz.series(SIGNALS * 1j, BANDS), TypeError, "signals must be a tensor or an array of real numbers"),
    "a page": (lambda: viz.series(SIGNALS, BANDS, out="a.html"), ValueError, "names a page"),
    "volumes 2-d": (
        lambda: viz.volume(torch.ones(3, 3), HEAT),
        ValueError,
        r"\[3, 3\], expected \[N, C, D, H, W\].*\[D, H, W\]",
    ),
    "two channels": (lambda: viz.volume(HEAT, HEAT), ValueError, r"has 2 channels in dimension -4.*channel_dim=-1 if"),
    "volumes": (lambda: viz.volume(VOLUMES, HEAT[:1]), ValueError, "attributions has 1 examples and volumes has 2"),
    "axis": (lambda: viz.volume(VOLUMES, HEAT, axis=3), ValueError, r"axis must be 0 \(D\), 1 \(H\) or 2 \(W\), got 3"),
    "choose": (lambda: viz.volume(VOLUMES, HEAT, choose="best"), ValueError, "must be 'even' or 'largest', got 'best'"),
    "no slices": (lambda: viz.volume(VOLUMES, HEAT, slices=0), ValueError, "slices must be at least 1.*got 0"),
    "which": (lambda: viz.volume(VOLUMES, HEAT, slices=[8]), ValueError, r"slices=\[8\]: there is no slice 8, the axis has 8"),
    "a word": (lambda: viz.volume(VOLUMES, HEAT, slices="all"), TypeError, "how many to show.*got 'all'"),  # type: ignore[arg-type]  # wrong on purpose
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
