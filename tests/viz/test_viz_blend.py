"""Heat maps over pictures: the picture's own pixels and colours, and a map that is as opaque as its values are large."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from funattr import viz

from ..breadth import breadth

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (3, 20, 32), dtype=np.uint8)
SMALL = torch.tensor([[-2.0, -1.0, 0.0, 0.5], [1.0, 2.0, 0.0, -0.5]], dtype=torch.float64)


def whole(array: Any) -> Any:
    return np.asarray(array).astype(int)


# The array.


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1"])
def test_a_picture_of_pillow_is_its_pixels(mode: str) -> None:
    picture = Image.fromarray(PHOTO.transpose(1, 2, 0)).convert(mode)
    pixels = np.asarray(picture.convert("L" if mode in ("L", "LA", "1") else "RGB"))
    wanted = viz.blend(SMALL, pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(viz.blend(SMALL, picture), wanted)
    np.testing.assert_array_equal(viz.blend(SMALL, picture, channel_dim=-1), wanted)
    assert len(viz.show([picture, picture], {"saliency": torch.ones(2, 1, 20, 32)}).axes) == 5


def test_a_map_and_its_picture_have_their_channels_in_one_dimension() -> None:
    """The map was of other places, in silence, where the message on the picture had been followed."""
    heat, photo = torch.randn(1, 20, 32), PHOTO.transpose(1, 2, 0)
    with pytest.raises(ValueError, match=r"channel_dim=-1 if the channels are there, and those of the attribution too"):
        viz.blend(heat, photo)
    for draw in (viz.blend, viz.overlay):
        with pytest.raises(
            ValueError, match=r"attribution \[1, 20, 32\] has the places of the image, 20 x 32, with its channels"
        ):
            draw(heat, photo, channel_dim=-1)
    for all_of in (viz.show, viz.page):
        with pytest.raises(ValueError, match=r"has the places of the image, 20 x 32, with its channels in dimension -3, and"):
            all_of(photo[None], {"saliency": heat[None]}, channel_dim=-1)
    with pytest.raises(
        ValueError, match=r"channels in dimension -1, and channel_dim=-3 is for both: turn it, movedim\(-1, -3\)"
    ):
        viz.blend(heat.movedim(0, -1), PHOTO)
    np.testing.assert_array_equal(viz.blend(heat.movedim(0, -1), photo, channel_dim=-1), viz.blend(heat, PHOTO))


def test_where_the_map_is_zero_the_picture_is_as_it_was() -> None:
    np.testing.assert_array_equal(viz.blend(np.zeros((20, 32)), PHOTO), PHOTO.transpose(1, 2, 0))
    np.testing.assert_array_equal(viz.blend(RNG.normal(size=(20, 32)), PHOTO, alpha=0), PHOTO.transpose(1, 2, 0))
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(viz.blend(np.zeros((2, 2)), grey), np.repeat(grey[..., None], 3, -1))


def test_the_opacity_grows_in_proportion_to_the_value() -> None:
    """On black and on white, the difference between the two blends is what is seen of the picture, 1 - a."""
    values = np.linspace(-3, 3, 601)[None]
    black, white = [whole(viz.blend(values, np.full((1, 601), level), percentile=100, alpha=0.8)) for level in (0.0, 1.0)]
    seen = (white - black) / 255
    np.testing.assert_allclose(seen, np.repeat((1 - 0.8 * np.abs(values) / 3)[..., None], 3, -1), atol=0.012)


def test_what_is_beyond_the_limit_is_as_opaque_as_the_limit() -> None:
    values = np.concatenate([np.linspace(-1, 1, 199), [50.0]])[None]
    found = viz.blend(values, np.ones((1, 200)), percentile=50)
    limit = np.percentile(np.abs(values), 50)
    ends = found[0][np.abs(values[0]) >= limit]
    assert len(np.unique(ends, axis=0)) == 2  # one for each side


def test_positive_is_warm_and_negative_is_cold_on_every_picture() -> None:
    for level in (0.0, 0.5, 1.0):
        found = whole(viz.blend(SMALL, np.full((2, 4), level), percentile=100))
        for value, (red, _, blue) in zip(SMALL.flatten().tolist(), found.reshape(-1, 3)):
            assert np.sign(red - blue) == np.sign(value)


def test_a_positive_map_has_the_colours_of_a_signed_one() -> None:
    values = np.linspace(0, 1, 50)[None]
    positive = whole(viz.blend(values, np.ones((1, 50)), percentile=100))
    signed = whole(viz.blend(np.concatenate([values, -values], 1), np.ones((1, 100)), percentile=100))[:, :50]
    np.testing.assert_allclose(positive, signed, atol=4)


@pytest.mark.parametrize("cmap", ["turbo", colormaps["inferno"]])
def test_other_colour_maps_run_over_the_colour_bar(cmap: Any) -> None:
    values = np.linspace(0, 1, 256)[None]
    found = viz.blend(values, np.zeros((1, 256)), cmap=cmap, alpha=1, percentile=100)[0]
    wanted = colormaps["turbo" if cmap == "turbo" else "inferno"](values[0])[:, :3] * values[0][:, None]
    np.testing.assert_allclose(found / 255, wanted, atol=0.02)
    signed = viz.blend(np.linspace(-1, 1, 255)[None], np.zeros((1, 255)), cmap="coolwarm", alpha=1, percentile=100)[0]
    np.testing.assert_allclose(signed[0] / 255, colormaps["coolwarm"](0.0)[:3], atol=0.01)


def test_a_smaller_map_is_interpolated_between_the_middles_of_its_pixels() -> None:
    by_torch = torch.nn.functional.interpolate(SMALL[None, None], (20, 32), mode="bilinear", align_corners=False)[0, 0]
    # The scale is that of the map as it was given, so the limit is given with it.
    full = by_torch.numpy()
    expected = viz.blend(np.concatenate([full, [[2.0] * 32]]), np.pad(PHOTO, ((0, 0), (0, 1), (0, 0))), percentile=100)[:20]
    np.testing.assert_allclose(whole(viz.blend(SMALL, PHOTO, percentile=100)), whole(expected), atol=1)


def test_squares_where_they_are_asked_for() -> None:
    squares = np.kron(SMALL.numpy(), np.ones((10, 8)))
    found = viz.blend(SMALL, PHOTO, smooth=False, percentile=100)
    np.testing.assert_array_equal(found, viz.blend(squares, PHOTO, percentile=100))
    axes: Any = viz.overlay(SMALL, PHOTO, smooth=False).axes[0]
    np.testing.assert_array_equal(axes.get_images()[-1].get_array(), SMALL)


@pytest.mark.parametrize("shape", [(40, 64), (60, 64), (21, 31)])
def test_a_larger_map_has_the_size_of_the_picture(shape: tuple[int, int]) -> None:
    constant = np.ones(shape)
    found = viz.blend(constant, PHOTO)
    assert found.shape == (20, 32, 3)
    np.testing.assert_array_equal(found, viz.blend(np.ones((20, 32)), PHOTO))


@pytest.mark.parametrize(
    ("image", "brightness"),
    [(PHOTO, None), (PHOTO / 255, None), (torch.from_numpy(PHOTO), None), (2 * (PHOTO / 255) - 1, (-1, 1))],
)
def test_the_picture_may_be_bytes_or_numbers(image: Any, brightness: Any) -> None:
    heat = np.linspace(-1, 1, 640).reshape(20, 32)
    expected = viz.blend(heat, PHOTO)
    np.testing.assert_allclose(whole(viz.blend(heat, image, brightness=brightness)), whole(expected), atol=1)


# Files.


def test_a_file_is_of_the_pictures_own_size(tmp_path: Path) -> None:
    found = viz.blend(SMALL, PHOTO, out=tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        np.testing.assert_array_equal(np.asarray(written), found)
    viz.blend(SMALL, PHOTO, out=str(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.size == (32, 20)


def cell_of(figure: Figure, path: Path, shape: tuple[int, int], cell: int = 0) -> Any:
    """A cell's pixels in the file, one for each of the picture's."""
    figure.savefig(path)
    with Image.open(path) as file:
        page = np.asarray(file.convert("RGB"))
    box = figure.axes[cell].get_window_extent()
    left, top = round(box.x0), len(page) - round(box.y1)
    times = box.width / shape[1]
    assert times == pytest.approx(box.height / shape[0])
    assert times == pytest.approx(round(times), abs=1e-6)  # whole pixels
    middle = [top + int((i + 0.5) * times) for i in range(shape[0])], [left + int((j + 0.5) * times) for j in range(shape[1])]
    return whole(page[np.ix_(*middle)])


@pytest.mark.parametrize(
    "shape", breadth([(20, 32), (7, 5), (224, 224), (900, 1500), (333, 1000), (1, 9)], lambda s: max(s) < 100)
)
@pytest.mark.parametrize("title", [None, "a title that is quite long, and has to be wrapped where the picture is a narrow one"])
def test_an_overlay_has_the_pixels_of_the_picture(shape: tuple[int, int], title: str | None, tmp_path: Path) -> None:
    photo = RNG.integers(0, 256, (3, *shape), dtype=np.uint8)
    figure = viz.overlay(SMALL, photo, alpha=0, title=title, out=tmp_path / "written.png")
    found = cell_of(figure, tmp_path / "a.png", shape)
    np.testing.assert_allclose(found, photo.transpose(1, 2, 0), atol=1)
    with Image.open(tmp_path / "written.png") as by_out, Image.open(tmp_path / "a.png") as again:
        np.testing.assert_array_equal(np.asarray(by_out), np.asarray(again))


def test_an_overlay_is_the_blend(tmp_path: Path) -> None:
    for more in ({}, {"smooth": False}, {"cmap": "turbo", "alpha": 0.5}, {"percentile": 60.0}):
        figure = viz.overlay(SMALL, PHOTO, **more)
        found = cell_of(figure, tmp_path / "a.png", (20, 32))
        np.testing.assert_allclose(found, whole(viz.blend(SMALL, PHOTO, **more)), atol=4)


def test_the_colour_bar_has_the_colours_on_white(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 256)[None]
    figure = viz.overlay(values, np.ones((1, 256)), percentile=100, out=tmp_path / "a.png")
    box = figure.axes[-1].get_window_extent()
    with Image.open(tmp_path / "a.png") as file:
        page = whole(file.convert("RGB"))
    row = page[len(page) - round((box.y0 + box.y1) / 2)]
    at = [round(box.x0 + (i + 0.5) / 256 * box.width) for i in range(3, 253)]
    np.testing.assert_allclose(row[at], whole(viz.blend(values, np.ones((1, 256)), percentile=100))[0, 3:253], atol=8)


def test_the_array_needs_no_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['PIL'] = None\n"
        "import torch; from funattr import viz\n"
        "print(viz.blend(torch.ones(2, 2), torch.ones(4, 4)).shape)\n"
        "for more in ({'cmap': 'turbo'}, {'out': 'a.png'}):\n"
        "    try: viz.blend(torch.ones(2, 2), torch.ones(4, 4), **more)\n"
        "    except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cure = 'pip install "funattr[viz]".'
    assert done.stdout.splitlines() == [
        "(4, 4, 3)",
        f"colour maps by name need matplotlib: {cure}",
        f"writing pictures needs Pillow: {cure}",
    ]


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no image": (lambda: viz.blend(SMALL, None), TypeError, "needs the image under the map"),
    "alpha": (lambda: viz.blend(SMALL, PHOTO, alpha=70), ValueError, "alpha must be from 0 to 1, got 70"),
    "alpha of show": (lambda: viz.show(PHOTO[:1], {"a": SMALL[None]}, alpha=-1), ValueError, "alpha must be from 0 to 1"),
    "cmap": (lambda: viz.blend(SMALL, PHOTO, cmap="jett"), ValueError, "cmap='jett': matplotlib has no colour map"),
    "a name": (lambda: viz.blend(SMALL, PHOTO, out="map.txt"), ValueError, "'map.txt' does not name a picture"),
    "no name": (lambda: viz.blend(SMALL, PHOTO, out="map"), ValueError, "'map' does not name a picture"),
    "brightness": (lambda: viz.blend(SMALL, PHOTO, brightness=(1, 0)), ValueError, r"brightness=\(1, 0\): black must be"),
    "three": (lambda: viz.blend(SMALL, PHOTO, brightness=(1, 0, 2)), TypeError, "a pair of numbers"),  # type: ignore[arg-type]  # wrong on purpose
    "a word": (lambda: viz.show(PHOTO[:1], {"a": SMALL[None]}, brightness="row"), ValueError, "must be 'grid'.*got 'row'"),
    "columns": (lambda: viz.show(PHOTO[:1], {"a": SMALL[None]}, columns=0), ValueError, "columns must be how many.*got 0"),
    "two maps": (lambda: viz.blend(np.ones((2, 3, 4, 4)), PHOTO), ValueError, r"holds 2 examples, expected one"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


MAP, IMAGE, SEVERAL = torch.randn(1, 8, 8), torch.rand(3, 8, 8), torch.zeros(2, 3)
TABLE = {"a": {"deletion": torch.rand(3)}}
OF_ANOTHER_KIND: dict[str, Callable[[], Any]] = {
    "percentile": lambda: viz.overlay(MAP, IMAGE, percentile=None),  # type: ignore[arg-type]  # on purpose, as all here
    "percentile ": lambda: viz.blend(MAP, IMAGE, percentile=SEVERAL),  # type: ignore[arg-type]  # on purpose
    "alpha": lambda: viz.overlay(MAP, IMAGE, alpha="half"),  # type: ignore[arg-type]  # on purpose
    "smooth": lambda: viz.overlay(MAP, IMAGE, smooth="no"),  # type: ignore[arg-type]  # on purpose
    "colorbar": lambda: viz.overlay(MAP, IMAGE, colorbar=SEVERAL),  # type: ignore[arg-type]  # on purpose
    "exact": lambda: viz.page(IMAGE[None], {"m": MAP[None]}, exact="no"),  # type: ignore[arg-type]  # on purpose
    "title": lambda: viz.page(IMAGE[None], {"m": MAP[None]}, title=None),  # type: ignore[arg-type]  # on purpose
    "titles": lambda: viz.text(["a"], [1.0], titles=3),  # type: ignore[arg-type]  # on purpose
    "predictions": lambda: viz.page(IMAGE[None], {"m": MAP[None]}, predictions=3),  # type: ignore[arg-type]  # on purpose
    "better": lambda: viz.table(TABLE, better=["deletion"]),  # type: ignore[arg-type]  # on purpose
    "examples": lambda: viz.table_page(TABLE, examples=3),  # type: ignore[arg-type]  # on purpose
    "title ": lambda: viz.table_page(TABLE, title=None),  # type: ignore[arg-type]  # on purpose
    "band": lambda: viz.curves({"a": (torch.rand(3), torch.rand(3, 2))}, band="no"),  # type: ignore[arg-type]  # on purpose
    "grid": lambda: viz.tokens_to_map(torch.rand(1, 17), grid=4),  # type: ignore[arg-type]  # on purpose
    "size": lambda: viz.tokens_to_map(torch.rand(1, 17), grid=(4, 4), size=8),  # type: ignore[arg-type]  # on purpose
    "special": lambda: viz.tokens_to_map(torch.rand(1, 17), special="auto", image=(8, 8)),  # type: ignore[arg-type]  # on purpose
    "attribution": lambda: viz.overlay(MAP.to("meta"), IMAGE),
    "image": lambda: viz.overlay(MAP, torch.nested.nested_tensor([IMAGE])),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", OF_ANOTHER_KIND)
def test_arguments_of_another_kind_are_told(name: str) -> None:
    """Python's, numpy's or torch's words came ("'<' not supported between ..."), or "no" counted as True."""
    with pytest.raises(TypeError, match=rf"^{name.strip()} (must be|is a)"):
        OF_ANOTHER_KIND[name]()


def test_numbers_that_require_gradients_are_numbers() -> None:
    some = [torch.tensor(-0.5, requires_grad=True), torch.tensor(-0.25)]
    assert '"log_probs": [-0.5, -0.25]' in viz.answer(["a"], ["b", "c"], torch.rand(2, 1), log_probs=some).html  # type: ignore[arg-type]  # they are numbers
    titles = np.array(["a", "b"])
    viz.text([["a"], ["b"]], [[1.0], [2.0]], titles=titles)  # type: ignore[arg-type]  # as a list is
