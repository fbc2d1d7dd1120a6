"""`funattr evaluate`, and the line with which `funattr explain` ends: what is printed and written is what metrics find."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import funattr as fa
from funattr.__main__ import main

NET = """
import torch
from torch import nn

classes = ["circle", "square"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()
"""


TEXTS = """
import torch
from torch import nn

classes = ["good", "bad"]
words = ["<pad>", "a", "good", "bad", "film", "very"]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embedding(ids))).mean(1))


def build():
    torch.manual_seed(0)
    return Words()


def preprocess(given):
    tokens = given.lower().split()
    return torch.tensor([[words.index(token) for token in tokens]]), tokens
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two models and three pictures, one of them cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("net.py").write_text(NET)
    Path("reader.py").write_text(TEXTS)
    Path("png").mkdir()
    for i in range(3):
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"png/{i}.png")
    Path("png/2.png").write_bytes(Path("png/2.png").read_bytes()[:100])
    yield tmp_path
    sys.modules.pop("net", None)
    sys.modules.pop("reader", None)


def run(line: str) -> int:
    return main(shlex.split(line))


def model() -> Any:
    import net  # type: ignore[import-not-found]  # the test wrote it

    return net.build().eval()


def ready(name: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(f"png/{name}"))).permute(2, 0, 1)[None].float() / 255


#: 16 x 16 in squares of 2 x 2.
SQUARES = torch.arange(64).reshape(8, 8).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
LINE = "evaluate png --model net:build --size 16 --methods grad_cam,saliency --metrics deletion,sufficiency,randomisation"


def test_a_folder_by_several_metrics(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{LINE} --out table.json") == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:3] == [
        "model        net:build (Net)",
        "method       grad_cam at features",
        "method       saliency at the input",
    ]
    assert lines[4].split() == ["deletion", "(-)", "sufficiency", "(-)", "randomisation", "(-)"]
    assert [line.split()[0] for line in lines[5:7]] == ["grad_cam", "saliency"]
    assert lines[-1] == "wrote        table.json"
    assert err.startswith("funattr: not evaluated: 2.png: cannot read the image")
    written = json.loads(Path("table.json").read_text())
    assert written["inputs"] == ["0.png", "1.png"]
    assert [each["name"] for each in written["failed"]] == ["2.png"]

    def cam(model: Any, x: Tensor, target: Any) -> Tensor:
        return fa.interpolate(fa.grad_cam(model, x, layer="features", target=target), size=(16, 16), mode="bilinear")

    methods: Any = {"grad_cam": cam, "saliency": fa.sum_channels(fa.saliency)}
    for name, method in methods.items():
        for i, picture in enumerate(written["inputs"]):
            by_hand = partial(method)
            asked: dict[str, Any] = {"target": "argmax", "feature_mask": SQUARES}
            found = fa.metrics.deletion(by_hand, model(), ready(picture), steps=16, **asked)
            assert written["methods"][name]["deletion"][i] == pytest.approx(float(found), abs=1e-5)
            found = fa.metrics.sufficiency(by_hand, model(), ready(picture), **asked)
            assert written["methods"][name]["sufficiency"][i] == pytest.approx(float(found), abs=1e-5)
            shuffled = fa.metrics.randomisation(
                by_hand,
                model(),
                ready(picture),
                target="argmax",
                layers=["head", "features"],
                generator=torch.Generator().manual_seed(0),
            )
            for layer, value in shuffled.items():
                assert written["methods"][name]["randomisation"][layer][i] == pytest.approx(float(value), abs=1e-5)
    means = [np.mean(written["methods"][name]["deletion"]) for name in methods]
    assert [re.split(r"\s{2,}", line)[1].split(" ")[0] for line in lines[5:7]] == [f"{mean:.3g}" for mean in means]


def test_one_picture_and_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "evaluate png/0.png --model net:build --size 16"
    assert run(f"{line} --metrics deletion,sensitivity --n-samples 2 --out table.html") == 0
    out = capsys.readouterr().out
    assert [row.split()[0] for row in out.splitlines()[6:9]] == ["grad_cam", "integrated_gradients", "saliency"]
    page = Path("table.html").read_text()
    assert "<th scope=col>0.png</th>" in page
    assert "sensitivity_max" in page
    assert run(f"{line} --methods gradient,ig,internal_influence --metrics infidelity --n-samples 3 --out table.png") == 0
    with Image.open("table.png") as picture:
        assert picture.size[0] > 200
    printed = capsys.readouterr().out.splitlines()
    x = ready("0.png")
    methods = ((fa.gradient, False), (fa.integrated_gradients, True), (fa.internal_influence, False))
    for row, (method, shares) in enumerate(methods, -6):
        generator = torch.Generator().manual_seed(0)
        found = fa.metrics.infidelity(
            method, model(), x, target="argmax", n_samples=3, generator=generator, multiply_by_inputs=shares
        )
        assert printed[row].split()[1] == f"{float(found):.3g}"


def test_texts_by_their_tokens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("reviews.txt").write_text("a very good film\na bad film\n")
    line = "evaluate reviews.txt --lines --model reader:build --methods gradient,ig"
    assert run(f"{line} --out table.json --steps 3") == 0
    written = json.loads(Path("table.json").read_text())
    assert written["inputs"] == ["line 1", "line 2"]
    import reader  # type: ignore[import-not-found]  # the test wrote it

    net, M = reader.build().eval(), fa.metrics
    by_name: dict[str, Any] = {"gradient": fa.gradient, "integrated_gradients": fa.integrated_gradients}
    for name, method in by_name.items():
        assert list(written["methods"][name]) == ["deletion", "insertion", "randomisation"]
        for i, text in enumerate(("a very good film", "a bad film")):
            ids = reader.preprocess(text)[0]
            sums = method(net, ids, layer="embedding", target="argmax").sum(2, keepdim=True)
            assert sums.shape == (1, ids.shape[1], 1)
            found = M.deletion(sums, net, ids, layer="embedding", target="argmax", steps=3)
            assert written["methods"][name]["deletion"][i] == pytest.approx(float(found), abs=1e-5)
    capsys.readouterr()
    assert run(f"{line} --metrics infidelity,sufficiency") == 0
    assert run(f"{line} --metrics deletion,sensitivity_max") == 2
    assert "on pictures only" in capsys.readouterr().err
    assert run("evaluate 'a bad film' --model reader:build --methods grad_cam") == 2
    assert "grad_cam is compared on pictures only" in capsys.readouterr().err


MISTAKES = {
    "no picture": ("evaluate --model net:build", "nothing to evaluate on"),
    "metric": ("evaluate png --model net:build --metrics deltion", "no metric 'deltion': did you mean 'deletion'"),
    "more than pictures": ("evaluate png --model net:build --metrics pointing_game", "pointing_game needs more than pictures"),
    "method": ("evaluate png --model net:build --methods grad_cma", "'grad_cma': did you mean 'grad_cam'"),
    "file": ("evaluate png --model net:build --out table.csv", "must end with .json, .html or .png"),
    "a map of places": (
        "evaluate png --model net:build --methods grad_cam --metrics infidelity",
        "leave one of them out",
    ),
    "a map of groups": ("evaluate png --model net:build --methods ig,shapley --metrics infidelity", "for each group"),
    "an option": ("evaluate png --model net:build --steps 0", "positive integer"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_answered_in_one_sentence(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, words = MISTAKES[name]
    assert run(line) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_explain_ends_with_deletion_against_a_random_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain png/0.png --model net:build --size 16 --method grad_cam,saliency --out a.json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    x, target = ready("0.png"), model()(ready("0.png")).argmax(1)
    cam = fa.interpolate(fa.grad_cam(model(), x, layer="features", target=target), size=(16, 16), mode="bilinear")
    maps = {"grad_cam": cam, "saliency": fa.saliency(model(), x, target=target).sum(1, keepdim=True)}
    told = []
    for name, found in maps.items():
        area = fa.metrics.deletion(found, model(), x, target=target, feature_mask=SQUARES, steps=8)
        told.append(f"{name} {float(area):.3g}")
    pattern = rf"deletion     {re.escape(', '.join(told))}; a random order -?\d\S*: the lower, the better the map"
    assert re.fullmatch(pattern, last), (last, pattern)
    assert run("explain png/0.png png/1.png --model net:build --size 16 --out a.json") == 0
    assert " (mean of 2): " in capsys.readouterr().out.splitlines()[-1]
    assert run("explain png/0.png --model net:build --size 16 --out a.json --no-check") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote        a.json"
