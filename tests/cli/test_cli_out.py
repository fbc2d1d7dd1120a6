"""What `funattr explain` leaves behind: the same facts in every kind of file, and pictures that are where they should be."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import Tensor, nn

import funattr as fa
from funattr import viz
from funattr.__main__ import main
from funattr._cli.seen import as_seen
from funattr._cli.source import Source

NET = """
import torch
from torch import nn

classes = ["left", "right"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, x):
        x = self.conv(x)
        first, second = x.mean((2, 3)).unbind(1)
        return torch.stack([first, second - 0.1 * first], 1)


def build():
    net = Net()
    net.load_state_dict({"conv.weight": torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])[..., None, None]})
    return net
"""
LINE = "explain a.png --model net:build --method grad_cam,ig --target right --out"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("net.py").write_text(NET)
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(np.random.RandomState(seed).randint(0, 256, (4, 6, 3), dtype=np.uint8)).save(name)
    yield tmp_path
    sys.modules.pop("net", None)


def expected(name: str = "a.png") -> tuple[Any, Tensor, dict[str, Tensor]]:
    import net  # type: ignore[import-not-found]  # the test wrote it

    x = torch.from_numpy(np.array(Image.open(name))).permute(2, 0, 1)[None].float() / 255
    model = net.build()
    maps = {
        "grad_cam": fa.grad_cam(model, x, layer="conv", target=1),
        "integrated_gradients": fa.integrated_gradients(model, x, target=1),
    }
    return model(x)[0].detach(), x, maps


def check_facts(facts: dict[str, Any], maps: bool) -> None:
    (one,) = facts["explained"]
    scores, _, values = expected()
    shares = scores.softmax(0)
    best = int(scores.argmax())
    for found, number in ((one["predicted"], best), (one["target"], 1)):
        assert (found["class"], found["name"]) == (number, ["left", "right"][number])
        assert found["score"] == pytest.approx(scores[number].item(), rel=1e-5)
        assert found["probability"] == pytest.approx(shares[number].item(), rel=1e-5)
    assert facts["model"] == "net:build (Net)"
    assert facts["versions"]["funattr"] == fa.__version__
    assert facts["versions"]["torch"] == torch.__version__
    for name, value in values.items():
        method = one["methods"][name]
        assert method["sum"] == pytest.approx(float(value.sum()), rel=1e-5)
        assert method["shapes"] == {"attribution": list(value.shape)}
        if maps:
            torch.testing.assert_close(torch.tensor(method["map"]), value.sum(1)[0], rtol=1e-5, atol=1e-7)
    assert one["methods"]["grad_cam"]["layer"] == "conv"
    assert one["methods"]["integrated_gradients"]["layer"] is None
    assert abs(one["methods"]["integrated_gradients"]["completeness"]["gap"]) < 1e-6


def test_json(here: Path) -> None:
    assert main([*shlex.split(LINE), "a.json"]) == 0
    text = Path("a.json").read_text()
    check_facts(json.loads(text), maps=True)
    assert len(text.splitlines()) < 80  # numbers stand beside each other


def test_numbers_carry_the_facts(here: Path) -> None:
    for out in ("a.npz", "a.safetensors"):
        assert main([*shlex.split(LINE), out]) == 0
    with np.load("a.npz") as stored:
        check_facts(json.loads(str(stored["facts"])), maps=False)
        _, x, values = expected()
        np.testing.assert_array_equal(stored["input"], x.numpy())
        for name, value in values.items():
            np.testing.assert_allclose(stored[name], value.numpy(), rtol=1e-6)
    with safe_open("a.safetensors", "np") as file:
        check_facts(json.loads(file.metadata()["facts"]), maps=False)


def test_csv(here: Path) -> None:
    assert main(shlex.split("explain a.png b.png --model net:build --method grad_cam,ig --target right --out a.csv")) == 0
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 24
    for name in ("a.png", "b.png"):
        scores, _, values = expected(name)
        for method, value in values.items():
            own = [row for row in rows if row["input"] == name and row["method"] == method]
            found = torch.zeros(4, 6)
            for row in own:
                found[int(row["row"]), int(row["column"])] = float(row["value"])
            torch.testing.assert_close(found, value.sum(1)[0], rtol=1e-5, atol=1e-7)
            assert {row["target"] for row in own} == {"1"}
            assert {row["class"] for row in own} == {"right"}
            assert float(own[0]["probability"]) == pytest.approx(scores.softmax(0)[1].item(), rel=1e-5)
            assert {row["torch"] for row in own} == {torch.__version__}


def test_numbers_of_several(here: Path) -> None:
    main(shlex.split("explain a.png b.png --model net:build --method saliency --out a.npz"))
    with np.load("a.npz") as stored:
        assert set(stored) == {"facts", "a.png/input", "a.png/saliency", "b.png/input", "b.png/saliency"}
        np.testing.assert_array_equal(stored["b.png/input"], expected("b.png")[1].numpy())


def test_a_folder_of_heat_maps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in the size of its picture, whatever the model's input is: by the function that Python has."""
    Image.new("RGB", (90, 50), "red").save("big.png")
    assert main(shlex.split("explain a.png big.png --model net:build --size 4 --method gradcam --out maps/")) == 0
    assert "wrote        2 pictures in maps/\n" in capsys.readouterr().out
    assert {path.name for path in Path("maps").iterdir()} == {"a.png", "big.png"}
    with Image.open("maps/big.png") as found:
        assert found.size == (90, 50)
    with Image.open("maps/a.png") as found:
        pixels = torch.from_numpy(np.array(found))
    import net

    image = Image.open("a.png")
    x = torch.from_numpy(np.array(image.resize((4, 4), Image.Resampling.BILINEAR))).permute(2, 0, 1)[None].float() / 255
    cam = fa.grad_cam(net.build(), x, layer="conv", target="argmax").clamp(min=0)
    shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    np.testing.assert_array_equal(pixels.numpy(), viz.blend(cam, shown))
    assert main(shlex.split("explain a.png --model net:build --method ig,saliency --out maps/")) == 0
    assert {path.name for path in Path("maps").iterdir()} >= {"a.integrated_gradients.png", "a.saliency.png"}


def test_files_of_one_name_are_told_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their folders, and by what the file's name ends with; what is named twice is explained once."""
    for folder, name in (("one", "a.png"), ("two", "a.png"), ("two", "a.bmp")):
        Path(folder).mkdir(exist_ok=True)
        Image.open("b.png" if folder == "two" else "a.png").save(f"{folder}/{name}")
    line = "explain one/a.png two/a.png two/a.bmp one/a.png --model net:build --method saliency"
    assert main(shlex.split(f"{line} --out a.npz")) == 0
    with np.load("a.npz") as stored:
        assert {name.removesuffix("/input") for name in stored if name.endswith("input")} == {"one/a.png", "two/a.png", "a.bmp"}
        np.testing.assert_array_equal(stored["two/a.png/input"], expected("b.png")[1].numpy())
    assert main(shlex.split(f"{line} --out maps/")) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "wrote        3 pictures in maps/"
    assert main(shlex.split("explain two --model net:build --out maps/")) == 0
    files = {path.relative_to("maps").as_posix() for path in Path("maps").rglob("*.png")}
    assert files == {"one/a.png", "two/a.png", "a.png", "a.png.png"}


def test_what_is_explained_is_not_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture that was named by two paths had a name that led out of the folder, to itself; and in the folder of the pictures
    the map of a.bmp took the place of a.png, which was explained then."""
    Path("in/below").mkdir(parents=True)
    for name in ("in/a.bmp", "in/a.png", "in/below/a.png"):
        Image.open("b.png").save(name)
    before = {path: path.read_bytes() for path in here.rglob("*.[bp][mn][pg]")}
    line = "explain --model net:build --method saliency --no-check"
    assert main([*shlex.split(line), "a.png", str(here / "a.png"), "in/../a.png", "--out", "maps/"]) == 0
    assert main(shlex.split(f"{line} in --out in")) == 0
    assert main(shlex.split(f"{line} in/a.png --out in/a.png")) == 2
    assert "--out in/a.png is what is explained, and would be written over" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in Path("maps").iterdir()] == ["a.png"]
    made = {path.relative_to("in").as_posix() for path in Path("in").rglob("*.*")}
    assert made == {"a.bmp", "a.png", "below/a.png", "a.bmp.png", "a.png.png", "below/a.png.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file has such a name")
@pytest.mark.parametrize("out", ["c.json", "c.csv", "c.npz", "c.safetensors", "c.html"])
def test_names_that_no_text_can_hold_are_escaped(out: str, here: Path) -> None:
    """After all the work no file could be written: UnicodeEncodeError, surrogates not allowed."""
    odd = os.fsdecode(b"caf\xe9.png")
    Image.open("a.png").save(odd)
    assert main(["explain", odd, "b.png", *shlex.split(f"--model net:build --method saliency --no-check --out {out}")]) == 0
    assert rb"caf\udce9.png" in Path(out).read_bytes().replace(rb"\\", b"\\")


def test_lists_of_numbers_in_a_name_are_no_lists(here: Path) -> None:
    """Blanks between them were taken away, as between the numbers of a map."""
    Image.open("a.png").save("scan [ 1,  2 ].png")
    assert main(["explain", "scan [ 1,  2 ].png", *shlex.split("--model net:build --method saliency --out c.json")]) == 0
    assert json.loads(Path("c.json").read_text())["explained"][0]["input"] == "scan [ 1,  2 ].png"


@pytest.mark.parametrize("out", ["a.jpg", "a.jpeg", "a.pdf", "a.svg", "a.png", "a.html"])
def test_kinds_of_pictures(out: str, here: Path) -> None:
    assert main([*shlex.split("explain a.png b.png --model net:build --out"), f"drawn.{out}"]) == 0
    head = {"a.pdf": b"%PDF", "a.svg": b"<?xml", "a.png": b"\x89PNG", "a.html": b"<!"}.get(out, b"\xff\xd8")
    assert Path(f"drawn.{out}").read_bytes().startswith(head)


def test_several_default_to_a_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("explain a.png b.png --model net:build")) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "wrote        explained.html"
    page = Path("explained.html").read_text()
    assert "b.png" in page


def of_several_sizes() -> None:
    Image.new("RGB", (9, 30), (255, 0, 0)).save("tall.png")
    Image.new("L", (30, 10), 204).save("wide.png")


def test_pictures_of_several_sizes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as large as it goes into a box, and its map over it, nowhere else."""
    of_several_sizes()
    drawn: list[Any] = []
    monkeypatch.setattr(viz, "show", lambda *args, **options: drawn.append(args))
    assert main(shlex.split("explain tall.png wide.png --model net:build --raw --target 1 --out all.png")) == 0
    ((pictures, maps),) = drawn
    assert pictures.shape == (2, 3, 30, 30)
    (cams,) = maps.values()
    assert cams.shape == (2, 1, 30, 30)
    red, grey = torch.tensor([1.0, 0, 0])[:, None, None], torch.full((3, 1, 1), 0.8)
    boxes = [(slice(None), slice(None), slice(10, 19)), (slice(None), slice(10, 20), slice(None))]
    for picture, cam, box, colour in zip(pictures, cams, boxes, [red, grey]):
        torch.testing.assert_close(picture[box], colour.expand_as(picture[box]))
        assert bool((cam[box] != 0).any())
        for t, nothing in ((picture, 1.0), (cam, 0.0)):
            t[box] = nothing
            assert bool((t == nothing).all())


def test_a_page_of_several_sizes(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the model sees them, so that the maps, whose numbers the page tells, are what the method gave."""
    of_several_sizes()
    drawn: list[Any] = []
    monkeypatch.setattr(viz, "page", lambda *args, **options: drawn.append(args))
    line = "explain tall.png wide.png --model net:build --target 1 --method ig"
    assert main(shlex.split(f"{line} --size 6x12")) == 0
    assert main(shlex.split(f"{line} --size 6x12 --out all.npz")) == 0
    ((pictures, maps),) = drawn
    assert pictures.shape == (2, 3, 15, 30)
    (found,) = maps.values()
    with np.load("all.npz") as stored:
        for i, name in enumerate(("tall", "wide")):
            np.testing.assert_allclose(found[i], stored[f"{name}.png/integrated_gradients"][0].sum(0, keepdims=True), rtol=1e-5)
    capsys.readouterr()
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert "the model sees pictures of several sizes, 10 x 30 and 30 x 9" in err
    for cure in ("--size 8", "--out all.png", "--out maps/"):
        assert cure.rpartition(" ")[0] in err
        assert main(shlex.split(f"{line} {cure}")) == 0


@pytest.mark.parametrize("raw", [False, True])
def test_a_cam_is_positive_unless_raw(raw: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(viz, "show", lambda *args, **options: calls.append((args, options)))
    assert main(shlex.split(f"explain a.png --model net:build --target 1 {'--raw' if raw else ''}")) == 0
    ((_, maps), options) = calls[0]
    cam = expected()[2]["grad_cam"]
    assert bool((cam < 0).any())
    torch.testing.assert_close(maps["grad_cam at conv"], cam if raw else cam.clamp(min=0))
    assert options["smooth"] == (not raw)


# Where the model looks


def ramps(size: tuple[int, int]) -> Image.Image:
    """A picture whose pixels say where they are."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for i in range(size[0]):
        for j in range(size[1]):
            draw.point((i, j), (i * 2, j * 2, 0))
    return image


def crop(box: tuple[int, int, int, int], size: int) -> Any:
    """As torchvision's and timm's: cut out, then resized, then normalised."""

    def ready(image: Image.Image) -> Tensor:
        small = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return (x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / 0.25

    return ready


@pytest.mark.parametrize("box", [(0, 0, 100, 80), (20, 10, 80, 70), (0, 30, 100, 50)])
def test_which_part_of_a_picture_is_seen(box: tuple[int, int, int, int]) -> None:
    image = ramps((100, 80))
    seen = as_seen(Source(nn.Identity(), "", crop(box, 14), channels=3, how="cropped"), image, None)  # type: ignore[arg-type]  # without options nothing is asked of them
    assert seen is not None
    rows, columns = seen[0, 1, :, 0] * 255 / 2, seen[0, 0, 0] * 255 / 2
    edges = [float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1]
    assert edges == pytest.approx(box, abs=1.5)
    assert seen.shape[1] == 3


OTHERS: dict[str, Any] = {
    "mirrored": lambda image: torch.from_numpy(np.array(image)[:, ::-1].copy()).permute(2, 0, 1).float(),
    "turned": lambda image: torch.from_numpy(np.array(image).copy()).permute(2, 1, 0).float(),
    "constant": lambda image: torch.ones(3, 4, 4),
    "of several sizes": lambda image: torch.ones(3, 4 + int(np.array(image)[0, 0, 0]) // 200, 4),
    "not to the side": lambda image: (torch.linspace(0, 1, 40) ** 3).expand(3, 40, 40) * float(np.array(image).mean() > 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_moves_otherwise_is_not_guessed(name: str) -> None:
    source = Source(nn.Identity(), "", OTHERS[name], channels=3, how="otherwise")
    assert as_seen(source, ramps((40, 30)), None) is None  # type: ignore[arg-type]  # likewise
