"""The rows of `tests/cure_rows.py` for the command: a line that is answered with a cure, and one that does what that says."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from funattr.__main__ import main

from .cures import Cure
from .test_cli_inputs import NETS, TEXTS

MORE = """

class Twice(Net):
    def forward(self, x):
        return self.head(self.features(self.features(x)[:, :3]).mean((2, 3)))


class One(Net):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Flat(Net):
    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Flatten(), nn.Linear(240, 2)

    def forward(self, x):
        return self.head(self.features(x))


class Pairs(Net):
    def forward(self, x):
        return x, x


class Same(Net):
    classes = ["dog", "dog"]


def seeded(kind):
    torch.manual_seed(0)
    return kind()


def twice():
    return seeded(Twice)


def one():
    return seeded(One)


def flat():
    return seeded(Flat)


def same():
    return seeded(Same)


class First(Pairs):
    def forward(self, x):
        return Net.forward(self, x)


def first():
    return seeded(First)


def no_model():
    return 3
"""


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """A folder with models, three pictures and a text, as the current one."""
    before, path, known = os.getcwd(), [*sys.path], set(sys.modules)
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        sys.path.insert(0, here)
        Path("nets.py").write_text(NETS + MORE)
        Path("unnamed.py").write_text(NETS.replace("classes =", "kinds ="))
        Path("texts.py").write_text(TEXTS)
        Path("names.txt").write_text("round\nangular\n")
        torch.save(runpy.run_path("nets.py")["build"]().state_dict(), "weights.pt")
        Path("pictures").mkdir()
        for i, name in enumerate(("a.png", "pictures/b.png", "pictures/c.png")):
            pixels = np.random.RandomState(i).randint(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(name)
        try:
            yield
        finally:
            os.chdir(before)
            sys.path[:] = path
            for name in {"nets", "texts", "unnamed"} - known:
                sys.modules.pop(name, None)


def told(line: str) -> tuple[int, str]:
    """The exit status of a command, and what it says besides its answer."""
    with folder(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        torch.manual_seed(0)
        status = main(shlex.split(line))
    return int(status or 0), said.getvalue()


def says(line: str) -> None:
    raise ValueError(told(line)[1])


def does(*lines: str) -> None:
    for line in lines:
        status, said = told(line)
        assert (status, said) == (0, ""), f"{line}: {said}"


def row(file: str, words: str, wrong: str, *cured: str) -> Cure:
    return Cure(f"_cli/{file}", words, lambda: says(wrong), lambda: does(*cured))


PICTURE = "explain a.png --model nets:build --out o.json"
TEXT = "explain 'a good film' --model texts:build --out o.json"
COMMAND = [
    row("checkpoint.py", "give one, or a .safetensors", f"{PICTURE} --checkpoint a.png", f"{PICTURE} --checkpoint weights.pt"),
    row(
        "explain.py",
        "name a picture, a folder of them",
        "explain --model nets:build --out o.json",
        PICTURE,
        PICTURE.replace("a.png", "pictures"),
        TEXT,
    ),
    row(
        "explain.py",
        "write what is to be explained before --method",
        "explain --model nets:build --method ig lost.png",
        "explain a.png --model nets:build --method ig --out o.json",
    ),
    row(
        "explainer.py",
        "write texts to a .html, .json or .csv",
        "explain 'a good film' --model texts:build --out maps/",
        "explain 'a good film' --model texts:build --out o.csv",
        TEXT,
    ),
    row("inputs.py", "write it after the options, in quotes", "explain '' --model texts:build", TEXT),
    row(
        "keep.py",
        "make it first, or choose another",
        "explain a.png --model nets:build --out nowhere/o.json",
        "explain a.png --model nets:build --out pictures/o.json",
    ),
    row("own.py", "write {}:{}", "explain a.png --model nets.py:build --out o.json", PICTURE),
    row("own.py", "give the function that returns the model", "explain a.png --model nets:no_model --out o.json", PICTURE),
    row("own.py", "give the file of yours with --checkpoint", f"{PICTURE} --weights mine", PICTURE),
    row(
        "pictures.py",
        "give one, or one per channel",
        f"{PICTURE} --mean 0.5,0.5",
        f"{PICTURE} --mean 0.5",
        f"{PICTURE} --mean 0.5,0.5,0.5",
    ),
    row(
        "sites.py",
        ": choose one of ",
        f"{PICTURE} --layer head --method grad_cam",
        f"{PICTURE} --layer features --method grad_cam",
    ),
    row(
        "groups.py",
        "add --layer",
        f"{PICTURE} --method ablation --groups channels",
        f"{PICTURE} --method ablation --groups channels --layer features",
    ),
    row(
        "evaluate.py", "name a picture, a text", "evaluate --model nets:build", "evaluate a.png --model nets:build --out o.json"
    ),
    row("language.py", "leave {} out", f"{PICTURE} --generate 3", PICTURE),
    row(
        "sites.py",
        "say which, --layer {}@0",
        "explain a.png --model nets:twice --layer features --out o.json",
        "explain a.png --model nets:twice --layer features@1 --out o.json",
    ),
    row(
        "sites.py",
        "choose another --method, such as integrated_gradients",
        "explain a.png --model nets:flat --method grad_cam --out o.json",
        "explain a.png --model nets:flat --method integrated_gradients --out o.json",
    ),
    row(
        "targets.py",
        "to choose: leave --target out",
        "explain a.png --model nets:one --target 1 --out o.json",
        "explain a.png --model nets:one --out o.json",
    ),
    row(
        "targets.py",
        "give their names with --labels, or a number",
        "explain a.png --model unnamed:build --target round --out o.json",
        "explain a.png --model unnamed:build --target round --labels names.txt --out o.json",
        "explain a.png --model unnamed:build --target 0 --out o.json",
    ),
    row(
        "targets.py",
        "choose by number",
        "explain a.png --model nets:same --target dog --out o.json",
        "explain a.png --model nets:same --target 0 --out o.json",
    ),
    row(
        "targets.py",
        "wrap the model in a factory of yours",
        "explain a.png --model nets:Pairs --out o.json",
        "explain a.png --model nets:first --out o.json",
    ),
    row("libraries.py", "name your own as package.module:factory", "explain a.png --model nett --out o.json", PICTURE),
    row(
        "inputs.py",
        "or the size of its images with --size",
        "layers --model texts:build",
        "layers 'a good film' --model texts:build",
        "layers --model nets:build --size 8",
    ),
    row(
        "write.py",
        "make it first, or choose another",
        "explain a.png --model nets:build --out nowhere/o.png",
        "explain a.png --model nets:build --out pictures/o.png",
    ),
    row(
        "evaluate.py",
        "sensitivity_max is measured on pictures only: leave it out",
        "evaluate 'a good film' --model texts:build --metrics sensitivity_max --out o.json",
        "evaluate 'a good film' --model texts:build --out o.json",
    ),
    row("texts.py", "write it after the options, in quotes", "explain ' ' --model texts:build", TEXT),
]
