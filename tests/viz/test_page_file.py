"""The file of a page: it holds the numbers, or says by how much they are rounded, and loads nothing."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps

import funattr as fa
from funattr import viz

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


def inflated(text: str) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def values_of(entry: Any) -> Any:
    """What the page's script makes of a map."""
    planes = inflated(entry["values"]).reshape(entry["bytes"], -1)
    if entry["unit"] is None:
        return np.ascontiguousarray(planes.T).view(f"<f{entry['bytes']}").reshape(entry["shape"])
    codes = sum(plane.astype(np.int64) << (8 * i) for i, plane in enumerate(planes))
    return (np.where(codes % 2, -(codes + 1) // 2, codes // 2) * entry["unit"]).reshape(entry["shape"])


def pixels_of(image: Any, shape: tuple[int, int, int]) -> Any:
    """What it makes of an image that is whole."""
    assert not image["halved"]
    differences = inflated(image["values"]).reshape(shape[2], *shape[:2])
    return np.cumsum(differences, -1, dtype=np.uint8).transpose(1, 2, 0)


def entries_of(page: viz.Page) -> dict[tuple[str, str], list[Any]]:
    methods = data_of(page)["methods"]
    return {(method["name"], target["name"]): target["maps"] for method in methods for target in method["targets"]}


def maps_of(page: viz.Page) -> dict[tuple[str, str], list[Any]]:
    return {name: [values_of(entry) for entry in entries] for name, entries in entries_of(page).items()}


def limits_of(page: viz.Page) -> list[list[float]]:
    return [[entry["scale"]["limit"] for entry in entries] for entries in entries_of(page).values()]


def test_the_numbers_are_the_tensors() -> None:
    page = viz.page(IMAGES, MAPS)
    found = maps_of(page)
    assert list(found) == [("signed", "3"), ("signed", "5"), ("small", "")]
    for name, expected in zip(found, (SIGNED.sum(1), -0.5 * SIGNED.sum(1), SMALL[:, 0])):
        np.testing.assert_allclose(np.stack(found[name]), expected, rtol=1e-5, atol=1e-6)
    pixels = [pixels_of(image, (8, 10, 1)) for image in data_of(page)["images"]["values"]]
    np.testing.assert_array_equal(np.stack(pixels), (255 * IMAGES.double()).round().permute(0, 2, 3, 1))
    sums = [entry["sum"] for entry in entries_of(page)["signed", "3"]]
    assert sums == pytest.approx(SIGNED.double().sum((1, 2, 3)).tolist())


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
    palette = np.frombuffer(base64.b64decode(data_of(viz.page(SENTENCES, {"a": VALUES}))["palette"]), np.uint8).reshape(256, 3)
    np.testing.assert_allclose(palette, 255 * colormaps["RdBu_r"](range(256))[:, :3], atol=1)
    palette = np.frombuffer(base64.b64decode(data_of(viz.page(IMAGES, MAPS))["palette"]), np.uint8).reshape(256, 3)
    values = np.linspace(-1, 1, 256)[None]
    on_black, on_white = [viz.blend(values, np.full((1, 256), level), percentile=100, alpha=1) for level in (0.0, 1.0)]
    strength = np.abs(values[0])[:, None]
    for level, found in ((0, on_black), (255, on_white)):
        np.testing.assert_allclose(strength * palette + (1 - strength) * level, found[0], atol=6)


def test_the_file_loads_nothing_and_no_string_leaves_its_place() -> None:
    page = viz.page(SENTENCES, {HOSTILE: {HOSTILE: VALUES}}, titles=[HOSTILE, "x"], title=HOSTILE)
    assert len(re.findall(r"<script", page.html)) == len(re.findall(r"</script>", page.html)) == 2
    assert "<img" not in page.html
    data = data_of(page)
    assert data["tokens"][0][2] == data["titles"][0] == data["methods"][0]["name"] == data["methods"][0]["targets"][0]["name"]
    assert data["titles"][0] == HOSTILE
    harmless = viz.page(IMAGES, MAPS).html
    assert not re.search(r"https?:|[\"'(]//|@import|@font-face|src=|url\(|fetch|XMLHttp|WebSocket|import\(", harmless)


# What is rounded.


def photographs(count: int, side: int = 224) -> torch.Tensor:
    from sklearn.datasets import load_sample_images

    whole = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    at = torch.randint(0, 427 - side, (count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.stack([whole[i % 2][:, y : y + side, x : x + side] for i, (y, x) in enumerate(at)])


def test_forty_images_with_three_maps_of_every_pixel_can_be_mailed(tmp_path: Path) -> None:
    """Photographs, and maps that are as noisy as any: those of a net with random weights, and noise itself."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 7, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(1)
    )
    images = photographs(40)
    x = images.float() / 255
    maps = {
        "gradient": fa.gradient(model, x, target=lambda output: output[:, ::7].sum(1)),
        "input_x_gradient": fa.input_x_gradient(model, x, target=lambda output: output[:, ::5].sum(1)),
        "noise": 1.9 * torch.randn(40, 224, 224),  # whose scale has as many steps as one can have
    }
    page = viz.page(images, maps)
    assert len(page.html) < 10_000_000
    for name, entries in entries_of(page).items():
        expected = maps[name[0]].double()
        expected = expected.sum(1) if expected.ndim == 4 else expected
        for i in (0, 39):
            unit, limit = entries[i]["unit"], entries[i]["scale"]["limit"]
            assert limit / 100 < unit <= limit / 40
            assert f"{unit:.0e}"[0] in "125"
            assert unit == float(f"{unit:.0e}")
            np.testing.assert_allclose(values_of(entries[i]), expected[i], rtol=0, atol=0.5001 * unit)
            assert entries[i]["sum"] == pytest.approx(float(expected[i].sum()))
    assert "Values are rounded" in data_of(page)["note"]


@pytest.mark.parametrize("size", [1.0, 1e-200, 3e12])
def test_what_lies_far_beyond_the_scale_is_kept(size: float) -> None:
    values = size * torch.randn(1, 20, 20, dtype=torch.float64)
    values[0, 3, 4], values[0, 5, 6] = 1e7 * size, -1e5 * size
    entry = entries_of(viz.page(torch.rand(1, 20, 20), {"a": values}, exact=False))["a", ""][0]
    np.testing.assert_allclose(values_of(entry), values[0], rtol=1e-12, atol=0.5001 * entry["unit"])
    values[0, 3, 4] = 1e60 * size  # of which no such multiple is
    entry = entries_of(viz.page(torch.rand(1, 20, 20), {"a": values}, exact=False))["a", ""][0]
    np.testing.assert_allclose(values_of(entry), values[0], rtol=1e-6)


def test_nothing_is_rounded_where_there_is_little_or_the_caller_says_so() -> None:
    for images, maps, exact in ((IMAGES, SIGNED, None), (IMAGES, SIGNED, True)):
        data = data_of(viz.page(images, {"a": maps}, exact=exact))
        assert data["note"] == ""
        assert all(entry["unit"] is None for entry in data["methods"][0]["targets"][0]["maps"])
    large = torch.zeros(2, 501, 500)
    assert data_of(viz.page(large, {"a": large}))["note"]
    assert not data_of(viz.page(large, {"a": large}, exact=True))["note"]


def test_images_are_there_once_whatever_the_number_of_maps() -> None:
    images = photographs(2, 100)
    one, three = [len(viz.page(images, {str(i): torch.zeros(2, 4, 4) for i in range(count)}).html) for count in (1, 3)]
    assert three - one < 2_000


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
    "no dict": (lambda: viz.page(IMAGES, SIGNED), TypeError, "must be a dict of method name -> attribution, got Tensor: pass"),  # type: ignore[arg-type]  # wrong on purpose
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
    "predictions": (lambda: viz.page(IMAGES, MAPS, predictions=["a"]), ValueError, "must be one per example, 2: a class each"),
    "a prediction": (lambda: viz.page(IMAGES, MAPS, predictions="ab"), ValueError, "must be one per example"),
    "per cent": (
        lambda: viz.page(IMAGES, MAPS, predictions=["a", ("b", 93)]),
        ValueError,
        r"predictions has \('b', 93\): a probability is from 0 to 1",
    ),
    "special": (lambda: viz.page(IMAGES, {"a": torch.ones(2, 7, 3)}, special="auto"), ValueError, "7 tokens"),
    "alpha": (lambda: viz.page(IMAGES, MAPS, alpha=70), ValueError, "alpha must be from 0 to 1, got 70"),
    "percentile": (lambda: viz.page(IMAGES, MAPS, percentile=0), ValueError, "above 1 and at most 100"),
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
