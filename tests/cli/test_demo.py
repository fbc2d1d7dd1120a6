"""The demo: the network it ships, what it prints and draws, and how it answers mistakes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import funattr as fa
from funattr import viz
from funattr.__main__ import main
from funattr._demo.command import METHODS, _default_indices
from funattr._demo.model import WEIGHTS, Digits, DigitsNet, load_digits, load_model

from ..breadth import full

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_digits.py"
LINE = re.compile(r"digit (\d+): is (\d), predicted (\d), confidence ([\d.]+)%(  <- misclassified)?")


@pytest.fixture(scope="module")
def model() -> DigitsNet:
    return load_model()


@pytest.fixture(scope="module")
def test_set() -> Digits:
    return load_digits()[1]


# The network.


def test_the_weights_are_as_good_as_the_script_says(model: DigitsNet, test_set: Digits) -> None:
    claimed = re.search(r"test: (\d+) of (\d+) correct", SCRIPT.read_text())
    assert claimed is not None
    correct = int((model(test_set.images).argmax(1) == test_set.classes).sum())
    assert len(test_set.images) == int(claimed[2]) == 450
    assert abs(correct - int(claimed[1])) <= 1  # one digit may be within rounding of the border
    assert 0.97 < correct / 450 < 1
    assert WEIGHTS.stat().st_size < 100_000
    assert not model.training


def test_the_split_is_frozen_and_disjoint(test_set: Digits) -> None:
    train, test = load_digits()
    assert len(train.images) == 1347
    assert test.classes[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
    rows = {tuple(image.flatten().tolist()) for image in train.images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in test.images)
    assert (float(test.images.min()), float(test.images.max())) == (0, 1)


def test_training_repeats_itself(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    digits = load_digits()[0]
    for name in ("a.pt", "b.pt"):
        trained = script.train(digits, epochs=2)
        script.save(trained, tmp_path / name)
        torch.rand(3)  # whatever the generator's state
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    again = DigitsNet()
    again.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(again(digits.images), trained(digits.images))  # what the script measures is what it ships


@full
def test_the_script_makes_a_network_like_the_shipped_one(tmp_path: Path) -> None:
    out = tmp_path / "digits.pt"
    done = subprocess.run([sys.executable, str(SCRIPT), "--out", str(out)], capture_output=True, text=True, check=True)
    printed = re.search(r"test: (\d+) of 450 correct", done.stdout)
    assert printed is not None
    assert 436 <= int(printed[1]) <= 449  # other processors round otherwise, and training spreads that
    made, shipped = torch.load(out, weights_only=True), torch.load(WEIGHTS, weights_only=True)
    assert {name: value.shape for name, value in made.items()} == {name: value.shape for name, value in shipped.items()}


def test_the_default_cam_shows_shares_of_the_score(model: DigitsNet, test_set: Digits) -> None:
    x = test_set.images[:20]
    cam = fa.grad_cam(model, x, layer="relu3", target=3)
    assert cam.shape == (20, 1, 8, 8)
    torch.testing.assert_close(cam.sum((1, 2, 3)), model(x)[:, 3].detach() - model.fc.bias[3].detach())


# What it prints and writes.


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the demo hands to `viz.show`, call by call, with the figure."""
    calls: list[tuple[Any, ...]] = []
    real = viz.show

    def show(images: Any, attributions: Any, **options: Any) -> Any:
        figure = real(images, attributions, **options)
        calls.append((images, attributions, options["titles"], figure))
        return figure

    monkeypatch.setattr(viz, "show", show)
    return calls


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that a command prints, when all goes well."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_by_default(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: DigitsNet,
    test_set: Digits,
    shown: list[tuple[Any, ...]],
) -> None:
    monkeypatch.chdir(tmp_path)
    *lines, last = run(capsys, "demo")
    assert last == "wrote demo.png"
    assert len(lines) >= 4
    probabilities = model(test_set.images).detach().softmax(1)
    found = [LINE.fullmatch(line) for line in lines]
    for match in found:
        assert match is not None
        i, true, predicted = (int(match[k]) for k in (1, 2, 3))
        assert true == int(test_set.classes[i])
        assert predicted == int(probabilities[i].argmax())
        assert float(match[4]) == pytest.approx(100 * float(probabilities[i].max()), abs=0.051)
        assert (match[5] is not None) == (true != predicted)
    assert [match[5] is not None for match in found if match] == [False] * (len(lines) - 1) + [True]

    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]
    height, width = pyplot.imread("demo.png").shape[:2]
    assert 600 < width < 1400
    assert 800 < height < 1600
    assert (tmp_path / "demo.png").stat().st_size < 200_000
    assert pyplot.get_fignums() == []

    (images, maps, titles, figure) = shown[0]
    chosen = [int(match[1]) for match in found if match]
    torch.testing.assert_close(images, 1 - 0.6 * test_set.images[chosen])
    assert [name.split("\n")[0] for name in maps] == ["saliency", "grad_cam", "guided_grad_cam"]
    assert [f"digit {i}" for i in chosen] == [title.split("\n")[0] for title in titles]
    assert "mistaken for" in titles[-1]
    assert "mistaken" not in "".join(titles[:-1])
    labels = [cell.yaxis.label for cell in figure.axes[: 4 * len(lines) : 4]]
    assert [label.get_color() == "firebrick" for label in labels] == [False] * (len(lines) - 1) + [True]


def test_the_default_digits_are_right_but_for_the_surest_mistake() -> None:
    test = Digits(torch.zeros(9, 1, 8, 8), torch.tensor([0, 3, 0, 4, 7, 3, 5, 6, 1]))
    predicted = torch.tensor([8, 3, 0, 4, 7, 3, 6, 5, 1])  # the first 0 and the 5 and 6 are mistaken
    confidence = torch.tensor([0.6, 1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.5, 1.0])
    assert _default_indices(test, predicted, confidence) == [2, 1, 3, 4, 6]


@pytest.mark.parametrize("target", ["predicted", "5"])
def test_each_map_is_the_method_at_the_layer_for_the_target(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: DigitsNet,
    test_set: Digits,
    shown: list[tuple[Any, ...]],
    target: str,
) -> None:
    names = list(METHODS)
    options = ["--method", names[0], ",".join(names[1:3]), "--method", *names[3:], names[0]]  # a list in every spelling
    out = str(tmp_path / "maps.PNG")
    lines = run(capsys, "demo", *options, "--index", "181", "17,181", "--layer", "relu2", "--target", target, "--out", out)
    assert [line.split(":")[0] for line in lines] == ["digit 181", "digit 17", f"wrote {out}"]
    (_, maps, _, figure) = shown[0]
    assert [title.split("\n")[0] for title in maps] == names
    x = test_set.images[[181, 17]]
    score = model(x).argmax(1) if target == "predicted" else 5
    for name, found in zip(names, maps.values()):
        where = {"layer": "relu2"} if "cam" in name else {}
        torch.testing.assert_close(found, getattr(fa, name)(model, x, target=score, **where))
    asked = "the predicted class" if target == "predicted" else "class 5"
    assert figure.get_suptitle() == f"What speaks for {asked}?"
    assert "layer relu2" in figure.get_supxlabel()


def test_the_examples_of_the_help_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(r"^  funattr (.*?)(?:   .*)?$", text.split("examples:")[1], re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        run(capsys, *shlex.split(example))
    assert {path.name for path in tmp_path.iterdir()} == {"demo.png", "digits.png"}
    assert all(name in text for name in METHODS)


# Mistakes.

MISTAKES = {
    "demo --method gradcam": "there is no method 'gradcam': did you mean 'grad_cam'?",
    "demo --method saliency,x": f"there is no method 'x': choose one of {', '.join(METHODS)}.",
    "demo --index 450": "--index must be from 0 to 449, the digits of the test set, got '450'.",
    "demo --index 3 -1": "--index must be from 0 to 449, the digits of the test set, got '-1'.",
    "demo --index three": "--index must be from 0 to 449, the digits of the test set, got 'three'.",
    f"demo --index {','.join(map(str, range(25)))}": "--index names 25 digits, and one picture holds at most 24.",
    "demo --layer conv9": "the network has no layer 'conv9': did you mean 'conv3'?",
    "demo --layer fc": "layer 'fc' has no height and width to draw: choose one of "
    "conv1, relu1, conv2, relu2, conv3, relu3, pool.",
    "demo --target 10": "--target must be 'predicted' or a class from 0 to 9, got '10'.",
    "demo --target cat": "--target must be 'predicted' or a class from 0 to 9, got 'cat'.",
    "demo --out nowhere/demo.png": "the folder 'nowhere' of --out does not exist: make it first, or choose another.",
    "demo --out demo.jpg": "--out must name a .png file, got 'demo.jpg'.",
    "demo --out folder.png": "--out must name a file, and 'folder.png' is a folder.",
    "demo --colour red": "there is no option --colour: funattr demo --help lists all.",
    "demo --index": "argument --index: expected at least one argument",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(
    line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f"funattr: {MISTAKES[line]}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_picture_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Figure, "savefig", refuse)
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    out, err = capsys.readouterr()
    assert err == "funattr: cannot write 'demo.png': Permission denied.\n"
    assert "wrote" not in out


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("sklearn", 'the demo needs scikit-learn for its digits: pip install "funattr[demo]".'),
        ("matplotlib.figure", 'pictures need matplotlib: pip install "funattr[viz]".'),
    ],
)
def test_a_missing_extra(
    missing: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 2
    assert capsys.readouterr().err == f"funattr: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: funattr")
    assert "explain a few handwritten digits" in err


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmeo"]) == 2
    assert re.fullmatch(r"funattr: there is no command 'dmeo': did you mean 'demo'\?\n", capsys.readouterr().err)


def test_as_a_module_and_light() -> None:
    version = subprocess.run([sys.executable, "-m", "funattr", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"funattr {fa.__version__}\n"
    code = "import sys, funattr.__main__; print([m for m in ('sklearn', 'matplotlib', 'funattr.viz') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
