"""How the command answers mistakes: in one sentence; and what happens to warnings, Ctrl-C, pipes and missing extras."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import funattr as fa
from funattr.__main__ import main

from .. import command
from ..command import NET

here = command.here


MISTAKES: dict[str, str] = {
    # the input
    "explain dog.png --model my_net:build": "there is no file 'dog.png'",
    "explain my_net.py --model my_net:build": "'my_net.py' is not an image that pillow can read",
    "explain folder.png --model my_net:build": "there are no pictures in the folder 'folder.png'",
    "explain cut.png --model my_net:build": "cannot read the image 'cut.png': ",
    "explain deep.png --model my_net:build": "'deep.png' has more than 8 bits per value (mode I;16)",
    "explain 'a text' --model my_net:build": "there is no file 'a text': the model takes images",
    # the model
    "explain cat.png --model my_nett:build": "there is no module 'my_nett': did you mean 'my_net'?",
    "explain cat.png --model a.b.c:build": "there is no module 'a.b.c'",
    "explain cat.png --model broken_net:build": "cannot be imported: ModuleNotFoundError: No module named 'nothing_of",
    "explain cat.png --model my_net:buildd": "my_net has no 'buildd': did you mean 'build'?",
    "explain cat.png --model my_net:": "--model my_net: names no factory in my_net: choose one of",
    "explain cat.png --model my_net.py:build": "--model names a module, not a file: write my_net:build",
    "explain cat.png --model my_net.py": "--model my_net.py is a file of code: write my_net:NAME, where NAME is what makes",
    "explain cat.png --model ./my_net.py": "write my_net:NAME",
    "explain cat.png --model my_net": "write my_net:NAME",
    "explain cat.png --model my_net.build": "my_net is a file of code, of which --model my_net:build takes a name",
    "explain cat.png --model whole.pt": "--model whole.pt is a file, and no model: name one, as my_net:build does; weights",
    "explain my_net:build --model cat.png": "--model cat.png is a file, and no model",
    "explain cat.png --model my_net:zzz": "my_net has no 'zzz': choose one of ",
    "explain cat.png --model my_net:LEVEL": "my_net:LEVEL is neither a model nor something that makes one",
    "explain cat.png --model my_net:table": "my_net:table made no torch.nn.Module, but dict",
    "explain cat.png --model my_net:fails": "my_net:fails did not make a model: RuntimeError: no such weights here",
    "explain cat.png --model my_net:needs": "did not make a model: TypeError: needs() missing 1 required",
    "explain cat.png --model nothere": "there is no model 'nothere' in torchvision or timm (neither is installed): ",
    "explain cat.png --model torchvision/resnet18": "models of torchvision need it: pip install torchvision",
    "explain cat.png --model ./nowhere": "there is no folder './nowhere'",
    "explain cat.png --model folder.png": "the folder 'folder.png' has no config.json",
    "explain cat.png": "the following arguments are required: --model",
    f"{NET} --weights DEFAULT": "give the file of yours with --checkpoint",
    f"{NET} --device cuda:7": "there is no device 'cuda:7' here: torch finds cpu",
    f"{NET} --device gpu": "there is no device 'gpu' here: torch finds cpu",
    f"{NET} --device meta": "there is no device 'meta' here: torch finds cpu",
    # the score
    "explain cat.png --model my_net:cut": "no gradient at the layers that suit a CAM, conv1, conv2, blocks.0 (the score has no "
    "gradient with respect to layer 'blocks.0': the target does not depend on it, or the model cuts the graph in between",
    # the checkpoint
    f"{NET} --checkpoint lost.pt": "there is no checkpoint 'lost.pt'",
    f"{NET} --checkpoint whole.pt": "holds more than tensors, and loading it could run code: save the weights alone",
    f"{NET} --checkpoint other.pt": "does not fit Net: it lacks conv2.weight, conv2.bias, fc.weight, fc.bias; "
    "the model has no head.weight; conv1.weight is [4, 1, 3, 3] in the file and [4, 3, 3, 3] in the model.",
    f"{NET} --checkpoint number.pt": "holds no state_dict (names with tensors), but int",
    f"{NET} --checkpoint bad.safetensors": "cannot read the checkpoint 'bad.safetensors': SafetensorError",
    **{
        f"{NET} --checkpoint {name}": f"the checkpoint '{name}' is no file that torch.save wrote, or not all of it"
        for name in ("my_net.py", "cat.png", "empty.pt", "other_ending.pt", "half.pt")
    },
    # what is explained, and how
    f"{NET} --target 3": "--target must be from 0 to 2, the classes of the model, got 3",
    f"{NET} --target ''": "--target '' is a name, and the model's classes have none",
    f"{NET} --target=--5": "--target '--5' is a name, and the model's classes have none: give their names with --labels",
    f"{NET} --target cat": "--target 'cat' is a name, and the model's classes have none: give their names with --labels",
    f"{NET} --target sqare --labels names.txt": "there is no class 'sqare': did you mean 'square'?",
    f"{NET} --target twice --labels names.txt": "the name 'twice' stands for several classes: choose by number, 1, 2",
    f"{NET} --labels few.txt": "there are names of 2 classes, and the model has 3: name each",
    f"{NET} --labels gap.txt": "there are names of 4 classes (1 of them empty lines), and the model has 3: name each",
    f"{NET} --labels cat.png": "cannot read the labels 'cat.png': it is no text in UTF-8",
    f"{NET} --labels lost.txt": "there is no file 'lost.txt' of labels",
    f"{NET} --labels bad.json": "cannot read the labels 'bad.json': JSONDecodeError",
    f"{NET} --layer conv9": "--layer conv9: Net has no layer 'conv9'. Did you mean 'conv2'?",
    f"{NET} --layer relu": "the layer 'relu' runs 2 times: say which, --layer relu@0 to relu@1",
    f"{NET} --layer relu@2": "the layer 'relu' runs 2 times, so there is no relu@2",
    f"{NET} --layer relu@--1": "--layer relu@--1: after the @ comes the number of a run",
    f"{NET} --layer relu@last": "--layer relu@last: after the @ comes the number of a run",
    f"{NET} --layer blocks": "the layer 'blocks' cannot be used, a container, never called: name a layer inside",
    f"{NET} --layer fc": "the layer 'fc' does not suit a CAM: choose one of blocks.0, conv2, conv1",
    f"{NET} --layer fc --method saliency": "is of the shape [1, 3], without a height and a width to draw",
    f"{NET} --method gradcan": "there is no method 'gradcan': did you mean 'gradcam'?",
    f"{NET} --method x": "there is no method 'x': choose one of",
    f"{NET} --n-steps 3 --method grad_cam": "--n-steps is no option of grad_cam, only of conductance, integrated_gradients",
    f"{NET} --n-steps 0": "argument --n-steps: must be a positive integer, got '0'",
    f"{NET} --method ''": "there is no method '': choose one of",
    f"{NET} --method shapley --seed {10**20}": "argument --seed: must be an integer of at most 64 bits, got '1000",
    f"evaluate cat.png --model my_net:build --seed {10**20}": "argument --seed: must be an integer of at most 64 bits",
    f"{NET} --size 1000000": "--size 1000000x1000000 is more than a picture may have (178,956,970 pixels)",
    f"{NET} --quadrature simpson": "argument --quadrature: invalid choice: 'simpson'",
    f"{NET} --size 3x4x5": "argument --size: must be a size such as 224 or 224x320, got '3x4x5'",
    f"{NET} --mean a": "argument --mean: must be a number, or several with commas, got 'a'",
    f"{NET} --mean nan": "argument --mean: must be a number, or several with commas, got 'nan'",
    f"{NET} --std 1,inf": "argument --std: must be a number, or several with commas, got '1,inf'",
    "explain cat.png --model my_net:nothing": "the model puts out NaN for this input, [1, 3, 12, 16]: look at its weights",
    f"{NET} --out cut.png/": "cannot write 'cut.png/cat.png': File exists",
    f"{NET} --mean 0.5,0.5": "--mean has 2 values for 3 channels",
    f"{NET} --std 0": "--std must be positive",
    "explain cat.png --model my_net:build --channels 1": "the model failed on this input, [1, 1, 12, 16]: RuntimeError",
    "explain cat.png --model my_net:Flat": "the model failed on this input, [1, 3, 12, 16]: RuntimeError: mat1 and mat2 shapes",
    "explain cat.png --model my_net:Pairs": "the model's output is of type tuple with 2 tensors",
    "explain cat.png --model my_net:Flat --size 8 --method grad_cam": "Flat has no layer that suits a CAM",
    "explain cat.png --model my_net:one --target 2": "the model puts out one number, so there is no class '2' to choose",
    "explain cat.png --model own_way:picture --size 8": "--size would change what the model brings",
    "explain cat.png --model own_way:build": "the model failed on this input, [1, 3, 5, 6]",
    "explain 'a great film' --model own_way:build": "making the text ready by own_way's preprocess failed: ValueError",
    "explain 'a good film' --model own_way:Flat": "must have the batch first, [1, T], got [3], which [None] brings.",
    # the file
    f"{NET} --method saliency --layer fc --out a.csv": "saliency has no number for each place, for a line of .csv",
    f"{NET} --out a.gif": "--out must end with .png, .jpg, .jpeg, .pdf, .svg, .html, .json, .csv, .npz or .safetensors, or",
    f"{NET} --out nowhere/a.png": "the folder 'nowhere' of --out does not exist",
    # data sets
    "run my_net:data --model my_net:build --out o": 'no folder of that name: in a TOML file, data = "my_net:data" names',
    "run cat.png --model my_net:build --out o": "neither a folder nor a TOML file that says what to do: it is no text in UTF-8",
    "run arguments.toml": "arguments.toml: arguments must be a table, [arguments] with a line for each, got 3",
    "run number.toml": "method must be a name, such as 'grad_cam', or a list of names, got 3",
    "run labels.toml": "labels must be text, got 3",
    "run channels.toml": "channels must be 1 or 3, got '3'",
    "run device.toml": "device.toml: there is no device 'cuda:7' here: this torch is built without CUDA|Found no NVIDIA driver",
    # layers and others
    "layers --model my_net:build": "say what goes into the model: an image file or a text after the options, or the size",
    "layers dog.png --model my_net:build": "there is no file 'dog.png'",
    "explan cat.png": "there is no command 'explan': did you mean 'explain'?",
    f"{NET} --colour red": "there is no option --colour: funattr explain --help lists all",
    f"{NET} --taget 3": "there is no option --taget: did you mean --target?",
    f"{NET} --awnser=b": "there is no option --awnser=b: did you mean --answer?",
}


JOBS = {"arguments": "arguments = 3", "labels": "labels = 3", "channels": 'channels = "3"', "device": 'device = "cuda:7"'}


@pytest.fixture
def mistaken(here: Path) -> None:
    sys.path.insert(0, str(here))
    import my_net  # type: ignore[import-not-found]  # made by the fixture

    Path("folder.png").mkdir()
    Path("cut.png").write_bytes(Path("cat.png").read_bytes()[:200])
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save("deep.png")
    torch.save(my_net.build(), "whole.pt")
    torch.save(
        {"conv1.weight": torch.zeros(4, 1, 3, 3), "conv1.bias": torch.zeros(4), "head.weight": torch.zeros(1)}, "other.pt"
    )
    torch.save(3, "number.pt")
    Path("empty.pt").touch()
    Path("half.pt").write_bytes(Path("whole.pt").read_bytes()[:900])
    save_file({"fc.bias": torch.zeros(3)}, "other_ending.safetensors")
    Path("other_ending.safetensors").rename("other_ending.pt")
    Path("bad.safetensors").write_bytes(b"nothing of the kind")
    Path("names.txt").write_text("square\ntwice\ntwice\n")
    Path("few.txt").write_text("square\ntwice\n")
    Path("gap.txt").write_text("square\n\ntwice\ncircle\n")
    Path("bad.json").write_text("{")
    for name, line in JOBS.items():
        Path(f"{name}.toml").write_text(
            'method = "saliency"\nmodel = "my_net:build"\ndata = "my_net:CLASSES"\nout = "o"\n' + line
        )
    Path("number.toml").write_text('method = 3\nmodel = "my_net:build"\ndata = "my_net:CLASSES"\nout = "o"\n')


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(line: str, mistaken: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in Path().iterdir()}
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert any(words in err for words in MISTAKES[line].split("|")), err
    assert err.startswith("funattr: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert {path.name for path in Path().iterdir()} - {"__pycache__"} == before - {"__pycache__"}


@pytest.mark.parametrize(
    ("missing", "line", "sentence"),
    [
        ("PIL", NET, 'images need pillow: pip install "funattr[cli]".'),
        ("matplotlib.figure", NET, 'pictures need matplotlib: pip install "funattr[viz]".'),
        ("safetensors.torch", f"{NET} --out a.safetensors", '.safetensors files need safetensors: pip install "funattr[cli]".'),
        ("safetensors.torch", f"{NET} --checkpoint a.safetensors", ".safetensors files need safetensors"),
        (
            "transformers",
            "explain cat.png --model transformers/a/b",
            "models of transformers need it: pip install transformers",
        ),
    ],
)
def test_a_missing_extra(
    missing: str, line: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "checkpoint" in line:
        Path("a.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_traceback_on_demand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("explain cat.png --model my_net:fails --traceback")) == 2
    err = capsys.readouterr().err
    assert 'my_net.py", line' in err
    assert err.endswith("funattr: my_net:fails did not make a model: RuntimeError: no such weights here\n")


def test_a_file_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "savez", refuse)
    assert main(shlex.split(f"{NET} --out a.npz")) == 2
    assert capsys.readouterr().err == "funattr: cannot write 'a.npz': Permission denied.\n"


def test_warnings_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def load(options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("funattr._cli.explain.load", load)
    assert main(shlex.split(NET)) == 130
    assert capsys.readouterr().err == "funattr: warning: two lines\n"


def test_ctrl_c_in_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("explain cat.png --model my_net:Stops")) == 130
    assert capsys.readouterr().err == "funattr: 0 of 1 inputs were explained; nothing was written.\n"


def as_a_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = {"PYTHONPATH": str(Path(fa.__file__).parents[1])}
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **root, **environment})


COMMAND = [sys.executable, "-m", "funattr"]


def test_as_a_process(here: Path) -> None:
    done = as_a_process(*COMMAND, *shlex.split(NET))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2] == "wrote        explained.png"
    wrong = as_a_process(*COMMAND, *shlex.split(f"{NET} --layer conv9"))
    assert wrong.returncode == 2
    assert wrong.stderr == "funattr: --layer conv9: Net has no layer 'conv9'. Did you mean 'conv2'?\n"


@pytest.mark.full
def test_as_a_process_in_other_surroundings(here: Path) -> None:
    Path("cat.png").rename("chat é.png")
    ascii_log = [*COMMAND, "explain", "chat é.png", *shlex.split(NET)[2:]]  # a log in ASCII, or in a code page of Windows
    done = as_a_process(*ascii_log, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"chat \xe9.png" in done.stdout
    assert as_a_process("bash", "-c", f"{shlex.join(COMMAND)} methods | head -c 1").stderr == ""


def test_the_command_is_light() -> None:
    code = (  # torch imports tqdm itself, where it is installed
        "import sys, torch; before = set(sys.modules); import funattr.__main__; heavy = "
        "'PIL', 'matplotlib', 'tqdm', 'transformers', 'safetensors', 'funattr.viz'; "
        "print([name for name in heavy if name in set(sys.modules) - before])"
    )
    root = Path(fa.__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout == "[]\n"
