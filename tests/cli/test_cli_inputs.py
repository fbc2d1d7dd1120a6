"""What `funattr explain` takes: pictures, folders, standard input, lines; in any order of arguments; and what it warns of."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import funattr as fa
from funattr.__main__ import main
from funattr._cli.targets import choose

NETS = """
import torch
from torch import nn

classes = ["circle", "square"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()


def half():
    net = build()
    net.head = nn.Linear(4, 2)
    torch.manual_seed(torch.seed())
    nn.init.normal_(net.head.weight)
    return net
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
        self.head = nn.Linear(4, 2)

    def forward(self, ids, attention_mask=None):
        return self.head(torch.tanh(self.embedding(ids)).mean(1))


def build():
    torch.manual_seed(0)
    return Words()


def preprocess(given):
    tokens = given.lower().split()
    return torch.tensor([[words.index(token) for token in tokens]]), tokens
"""
BOTH = """
from nets import build
import texts


def preprocess(given):
    if isinstance(given, str):
        raise ValueError("taken for a text")
    import torch
    return torch.full((3, 4, 4), given.width / 100)
"""
NET = "--model nets:build"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with models, four pictures and two texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, code in {"nets": NETS, "texts": TEXTS, "both": BOTH}.items():
        Path(f"{name}.py").write_text(code)
    rng = np.random.RandomState(0)
    Path("pictures/more").mkdir(parents=True)
    for name in ("a.png", "pictures/b.png", "pictures/c.png", "pictures/more/d.png"):
        Image.fromarray(rng.randint(0, 256, (8, 10, 3), dtype=np.uint8)).save(name)
    Path("pictures/readme.txt").write_text("no picture")
    Path("reviews.txt").write_text("a good film\n\n  a bad film\n")
    yield tmp_path
    for name in ("nets", "texts", "both"):
        sys.modules.pop(name, None)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts bytes on standard input."""

    def pipe(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return pipe


def facts(capsys: pytest.CaptureFixture[str], line: str, status: int = 0) -> list[dict[str, Any]]:
    """What a command that writes JSON found, input by input."""
    assert main([*shlex.split(line), "--out", "out.json"]) == status, capsys.readouterr().err
    found: list[dict[str, Any]] = json.loads(Path("out.json").read_text())["explained"]
    return found


def picture(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(name))).permute(2, 0, 1)[None].float() / 255


def check_cams(found: list[dict[str, Any]], files: list[str]) -> None:
    import nets  # type: ignore[import-not-found]  # the test wrote it

    model = nets.build().eval()
    for each, file in zip(found, files, strict=True):
        cam = fa.grad_cam(model, picture(file), layer="features", target="argmax")[0, 0]
        torch.testing.assert_close(torch.tensor(each["methods"]["grad_cam"]["map"]), cam, rtol=1e-5, atol=1e-7)


def test_a_class_that_is_not_the_predicted_one_is_told_as_such(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of several inputs there is one line each: it named the class asked for alone, as if that were what the model says."""
    assert main(shlex.split(f"explain a.png pictures/b.png {NET} --target 0 --no-check --out one.json")) == 0
    assert main(shlex.split(f"explain a.png pictures/b.png {NET} --target 1 --no-check --out two.json")) == 0
    said = capsys.readouterr().out.splitlines()
    for name in ("a.png", "b.png"):
        lines = [line for line in said if line.startswith(f"{name}: ")]
        assert len(lines) == 2
        assert sum("; explained: " in line for line in lines) == 1  # one of the two classes is the predicted one
        assert len({line.split(": ", 1)[1].split(";")[0] for line in lines}) == 1  # which comes first


FILES = ["pictures/b.png", "pictures/c.png", "pictures/more/d.png"]


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("explain a.png pictures/b.png", ["a.png", "pictures/b.png"]),
        ("explain pictures", FILES),
        ("explain pictures/ a.png", [*FILES, "a.png"]),
        ("explain list.txt --lines", ["pictures/c.png", "a.png"]),
    ],
)
def test_several_pictures(line: str, files: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("pictures/c.png\n\na.png\n")
    found = facts(capsys, f"{line} {NET}")
    check_cams(found, files)
    assert all("/work" not in each["input"] and not Path(each["input"]).is_absolute() for each in found)


@pytest.mark.parametrize(
    "line",
    [
        f"explain {NET} --method gradcam a.png",
        f"explain {NET} --method gradcam saliency a.png",
        f"explain a.png {NET} --method gradcam",
        f"explain {NET} a.png --method gradcam",
        f"explain --method gradcam {NET} a.png",
        f"explain --method gradcam,saliency a.png {NET}",
    ],
)
def test_arguments_in_any_order(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--method takes all the words that follow it; those that are files are inputs."""
    check_cams(facts(capsys, line), ["a.png"])


def test_inputs_between_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_cams(facts(capsys, f"explain a.png --target argmax pictures/b.png {NET} pictures/c.png"), ["a.png", *FILES[:2]])
    assert main(shlex.split(f"explain a.png {NET} --colour red")) == 2
    assert capsys.readouterr().err == "funattr: there is no option --colour: funattr explain --help lists all.\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"explain {NET} --method ig grad_cam lost.png", "'lost.png' is no method, and no file: write what is to be explained"),
        (f"explain {NET} --method ig gradcan", "there is no method 'gradcan': did you mean 'gradcam'"),
        (f"explain {NET}", "there is nothing to explain: name a picture"),
        (f"explain {NET} ''", "the text is empty"),
        (f"explain empty {NET}", "there are no pictures in the folder 'empty'"),
        ("explain empty --model texts:build --lines", "there are no pictures and no .txt files in the folder 'empty'"),
        (f"explain lost.txt --lines {NET}", "there is no file 'lost.txt' of lines"),
        (f"explain blank.txt --lines {NET}", "there are no lines in 'blank.txt'"),
        ("explain 'caf\udce9' --model texts:build", r"the text is not UTF-8, as all text must be: 'caf\udce9'"),
        (f"explain a.png pictures/b.png {NET} --target 9", "a.png: --target must be from 0 to 1"),
    ],
)
def test_mistakes(line: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("blank.txt").write_text(" \n")
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"funattr: {words}")
    assert err.count("\n") == 1


def test_a_picture_from_standard_input(here: Path, piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    piped(Path("a.png").read_bytes())
    check_cams(facts(capsys, f"explain - {NET}"), ["a.png"])
    piped(Path("a.png").read_bytes())
    check_cams(facts(capsys, f"explain {NET} --method grad_cam -"), ["a.png"])
    piped(b"no picture")
    assert main(shlex.split(f"explain - {NET}")) == 2
    assert capsys.readouterr().err == "funattr: 'standard input' is not an image that pillow can read.\n"


@pytest.mark.parametrize("name", ["moving.gif", "pages.tif"])
def test_of_several_frames_the_first_is_told(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open("a.png") as first, Image.open("pictures/b.png") as second:
        first.save(name, save_all=True, append_images=[second])
    (found,) = facts(capsys, f"explain {name} {NET}")
    assert found["made_ready"].startswith(f"{name}, 10 x 8, the first of 2 frames, ")


def test_a_model_of_both_gets_what_is_there(here: Path, piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    piped(Path("a.png").read_bytes())
    (found,) = facts(capsys, "explain - --model both:build --method saliency")
    assert "10 x 8, by both's preprocess" in found["made_ready"]
    piped(b"a text")
    assert main(shlex.split("explain - --model both:build")) == 2
    assert "taken for a text" in capsys.readouterr().err


def test_a_text_from_standard_input(here: Path, piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is piped in is explained, and not the hyphen: `-` was a text of three tokens, with exit status 0."""
    piped(b"a good film\n")
    (found,) = facts(capsys, "explain - --model texts:build")
    assert found["tokens"] == ["a", "good", "film"]
    for data, words in {b"": "standard input is empty", b"\xff\xfe\x00": "cannot read 'standard input' as UTF-8"}.items():
        piped(data)
        assert main(shlex.split("explain - --model texts:build")) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_a_file_of_lines(through: str, here: Path, piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    marked = b"\xef\xbb\xbf" + Path("reviews.txt").read_bytes()  # as Windows writes it: it was a part of the first line
    Path("reviews.txt").write_bytes(marked)
    piped(marked)
    found = facts(capsys, f"explain {'reviews.txt' if through == 'file' else '-'} --lines --model texts:build")
    assert [each["input"] for each in found] == ["line 1", "line 3"]
    assert [each["tokens"] for each in found] == [["a", "good", "film"], ["a", "bad", "film"]]
    import texts  # type: ignore[import-not-found]  # the test wrote it

    model = texts.build().eval()
    for each, ids in zip(found, ([[1, 2, 4]], [[1, 3, 4]])):
        expected = fa.integrated_gradients(model, torch.tensor(ids), layer="embedding", target="argmax").sum(2)[0]
        torch.testing.assert_close(
            torch.tensor(each["methods"]["integrated_gradients"]["sums"]), expected, rtol=1e-5, atol=1e-7
        )


def test_lines_of_several_files(here: Path) -> None:
    """Each has a first line: in a file of numbers the last one's was the only one."""
    Path("more.txt").write_text("a film\n")
    line = "explain reviews.txt more.txt --lines --model texts:build --method saliency --layer embedding --out a.npz"
    assert main(shlex.split(line)) == 0
    with np.load("a.npz") as stored:
        names = {name.removesuffix("/tokens") for name in stored if name.endswith("/tokens")}
        assert names == {"reviews.txt, line 1", "reviews.txt, line 3", "more.txt, line 1"}
        assert list(stored["more.txt, line 1/tokens"]) == ["a", "film"]


def test_a_file_without_lines_is_one_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = facts(capsys, "explain reviews.txt --model texts:build")
    assert found["tokens"] == ["a", "good", "film", "a", "bad", "film"]
    Path("all").mkdir()
    for name in ("x.txt", "y.txt"):
        Path("all", name).write_text("a film")
    assert [each["input"] for each in facts(capsys, "explain all --model texts:build")] == ["x.txt", "y.txt"]


def test_one_that_fails_does_not_end_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named at the end, with the reason, and the exit status is 1."""
    Path("pictures/b.png").write_bytes(Path("a.png").read_bytes()[:100])
    found = facts(capsys, f"explain pictures {NET}", status=1)
    check_cams(found, FILES[1:])
    assert re.fullmatch(r"funattr: not explained: b\.png: cannot read the image '.*b\.png': .*\n", capsys.readouterr().err)
    assert json.loads(Path("out.json").read_text())["failed"][0]["name"] == "b.png"


# Warnings


@pytest.mark.parametrize(
    ("factory", "options", "random"),
    [
        ("Net", "", "features.0.weight, features.0.bias, head.weight and 1 more"),
        ("half", "", "head.weight"),
        ("build", "", ""),
        ("Net", "--checkpoint net.pt", ""),
    ],
)
def test_random_weights(factory: str, options: str, random: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen by making the model again with another seed; a model that loads its own weights is not suspected."""
    import nets

    torch.save(nets.build().state_dict(), "net.pt")
    torch.manual_seed(5)  # as in a fresh process, where the first model is the first thing that draws
    assert main(shlex.split(f"explain a.png --model nets:{factory} {options} --out a.npz")) == 0
    out, err = capsys.readouterr()
    told = f"the weights are random ({random}): nets:{factory} makes others each time, and no --checkpoint was given.\n"
    assert err == (f"funattr: warning: {told}" if random else "")
    assert ("random weights" in out) == bool(random)


def test_values_that_are_not_normalised_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in {"": "not normalised", "--mean 0.5": "less 0.5", "--std 0.5": "over 0.5"}.items():
        (found,) = facts(capsys, f"explain a.png {NET} {options}")
        assert found["made_ready"] == f"a.png, 10 x 8, values in [0, 1], {words}: [1, 3, 8, 10]"


def test_a_cam_that_speaks_for_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nets

    model = nets.build()
    with torch.no_grad():
        model.head.weight[0] = -model.head.weight[0].abs()
    torch.save(model.state_dict(), "net.pt")
    main(shlex.split(f"explain a.png {NET} --checkpoint net.pt --target 0 --out a.npz"))
    assert "grad_cam is nowhere positive: nothing speaks for the class" in capsys.readouterr().out
    main(shlex.split(f"explain a.png {NET} --checkpoint net.pt --target 0 --out a.npz --raw"))
    assert "nowhere positive" not in capsys.readouterr().out


SIGMOIDS = [0.9, 0.8, 0.1]


@pytest.mark.parametrize(
    ("scores", "several", "told"),
    [
        ([2.0, 0.0, -1.0], False, "class 0, score 2 (84.4%)"),
        ([0.7, 0.2, 0.1], False, "class 0, score 0.7 (70.0%)"),
        ([0.9, 0.8, 0.1], False, "class 0, score 0.9 (42.5%)"),
        (SIGMOIDS, False, "class 0, score 0.9"),
        ([2.0, 0.0, -1.0], True, "class 0, score 2 (88.1%)"),
    ],
)
def test_a_probability_is_told_where_there_is_one(scores: list[float], several: bool, told: str) -> None:
    class Model(nn.Module):
        config = SimpleNamespace(problem_type="multi_label_classification" if several else None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = torch.tensor([scores]) + 0 * x
            return given.logit().sigmoid()[:, :] if scores is SIGMOIDS else given

    source: Any = SimpleNamespace(model=Model(), classes=None)
    assert choose(source, torch.zeros(1, 3), "argmax").told() == told
