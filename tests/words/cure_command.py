"""How rows of cures run for the command: a line that is answered with a cure, and lines that do what that says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from funattr.__main__ import main
from funattr._cli import job

from ..cli.test_cli_inputs import NETS, TEXTS
from .cures import Cure

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


class Skip(Net):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return super().forward(self.block(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.inner(x)


def skip():
    return seeded(Skip)


class Aside(Net):
    def __init__(self):
        super().__init__()
        self.direct = nn.Linear(3, 2)

    def forward(self, x):
        self.features(x)
        return self.direct(x.mean((2, 3)))


def aside():
    return seeded(Aside)


class Maps(Net):
    def forward(self, x):
        return self.features(x)


class Mean(Maps):
    def forward(self, x):
        return super().forward(x).mean((2, 3))


def maps():
    return seeded(Maps)


def means():
    return seeded(Mean)


class Halves(nn.Module):
    def forward(self, x):
        return x[:, :2], x[:, 2:]


class Split(Net):
    def __init__(self):
        super().__init__()
        self.split = Halves()

    def forward(self, x):
        return self.head(torch.cat(self.split(self.features(x)), 1).mean((2, 3)))


def split():
    return seeded(Split)


class Seven(Net):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.mix(self.features(x).flatten(2)[..., :7].mT).mean(1))


def seven():
    return seeded(Seven)


class Ruleless(Net):
    def forward(self, x):
        return self.head(torch.special.entr(5 * self.features(x) + 0.1).mean((2, 3)))


def ruleless():
    return seeded(Ruleless)


def data():
    return torch.utils.data.TensorDataset(torch.rand(2, 3, 8, 10))
"""
AGAIN = """
from texts import *


class Again(Words):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, ids):
        return self.head(self.mix(torch.tanh(self.embedding(ids) + self.embedding(ids + 0))).mean(1))


def build():
    torch.manual_seed(0)
    return Again()
"""


CODE = {"nets": NETS + MORE, "unnamed": (NETS + MORE).replace("classes =", "kinds ="), "texts": TEXTS, "again": AGAIN}


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """A folder with models, three pictures and a text, as the current one."""
    before, path, known = os.getcwd(), [*sys.path], set(sys.modules)
    job.source_of.cache_clear()  # of another folder
    with tempfile.TemporaryDirectory() as here:
        try:
            os.chdir(here)
            sys.path.insert(0, here)
            _filled()
            yield
        finally:
            os.chdir(before)
            sys.path[:] = path
            for name in {*CODE} - known:
                sys.modules.pop(name, None)


def _filled() -> None:
    for name, code in CODE.items():
        Path(f"{name}.py").write_text(code)
    Path("names.txt").write_text("round\nangular\n")
    Path("one.txt").write_text("round\n")
    torch.save(runpy.run_path("nets.py")["build"]().state_dict(), "weights.pt")
    Path("pictures").mkdir()
    for i, name in enumerate(("a.png", "pictures/b.png", "pictures/c.png")):
        pixels = np.random.RandomState(i).randint(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)


class Told(NamedTuple):
    status: int
    answer: str
    said: str
    """What goes to standard error."""


def told(line: str) -> Told:
    """What a command says, here."""
    with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.redirect_stderr(io.StringIO()) as said:
        torch.manual_seed(0)
        try:
            status = main(shlex.split(line))
        except SystemExit as end:  # --help
            status = int(end.code or 0)
    return Told(int(status or 0), answer.getvalue(), said.getvalue())


#: A line, or what is done before one. Several of them run in one folder.
Step = str | Callable[[], Any]
Within = Callable[[], contextlib.AbstractContextManager[Any]]


def says(steps: Sequence[Step], within: Within) -> None:
    """What the last line says."""
    with folder(), within():
        for step in steps[:-1]:
            assert told(step).status in (0, 1) if isinstance(step, str) else not step()
        assert isinstance(steps[-1], str)
        found = told(steps[-1])
    raise ValueError(found.answer + found.said)


def does(steps: Sequence[Step], within: Within) -> None:
    """Each line ends well, says nothing but its answer, and writes its file."""
    with folder(), within():
        for step in steps:
            if not isinstance(step, str):
                step()
                continue
            found = told(step)
            assert (found.status, found.said) == (0, ""), f"{step}: {found.said}"
            assert all(Path(out).exists() for out in re.findall(r"--(?:out|to) (\S+)", step)), step


def row(
    file: str,
    words: str,
    wrong: Step | list[Step],
    *cured: Step | list[Step],
    within: Within = contextlib.nullcontext,
    slow: bool = False,
) -> Cure:
    """A line that has the message, and lines that do what it says: each in a folder of its own, unless they are in a list."""

    def listed(steps: Step | list[Step]) -> list[Step]:
        return steps if isinstance(steps, list) else [steps]

    def every(cured: Sequence[Step | list[Step]]) -> None:
        for one in cured:
            does(listed(one), within)

    file = file if "/" in file or file.startswith("__") else f"_cli/{file}"
    return Cure(file, words, lambda: says(listed(wrong), within), lambda: every(cured), slow)


PICTURE = "explain a.png --model nets:build --out o.json"
TEXT = "explain 'a good film' --model texts:build --out o.json"
