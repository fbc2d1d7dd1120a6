"""Every file in ``examples/``: it runs, draws, stays short, and what it prints is what it claims to show."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot

from ..breadth import breadth

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def the(pattern: str, printed: str) -> str:
    """What the one line that fits the pattern has in its group."""
    found = re.findall(f"^{pattern}$", printed, re.MULTILINE)
    assert len(found) == 1, printed
    return str(found[0])


def attribution_prior(printed: str) -> None:
    accuracy, share = percents(the("plain: (.*)", printed))
    accuracy_with_prior, share_with_prior = percents(the("with prior: (.*)", printed))
    assert accuracy < 55
    assert accuracy_with_prior > 90
    assert share > 30
    assert share_with_prior < 3


def cams(printed: str) -> None:
    area = percents(the("its area, in the place of (.*)", printed))
    assert len(area) == 3
    # Where the weights are the gradients themselves, most of a map is in the place of what it is for.
    for name in ("grad_cam", "xgrad_cam", "hires_cam", "ablation_cam"):
        assert all(found > 1.5 * a for found, a in zip(percents(the(f"{name}, in the place of (.*)", printed)), area)), name
    for name in ("grad_cam_plus_plus", "layer_cam", "score_cam"):
        assert all(found > 1.2 * a for found, a in zip(percents(the(f"{name}, in the place of (.*)", printed)), area)), name


def every_class(printed: str) -> None:
    assert the("10 classes, 10 digits, forward passes: (.*)", printed) == "1"
    assert float(the("the maps miss the scores by at most (.*)", printed)) < 1e-4
    assert int(the("digits with the most evidence for their own class: (.*) of 10", printed)) >= 9


def language_model(printed: str) -> None:
    assert percents(the("integrated gradients: most is where it comes from for (.*) of the characters", printed))[0] > 90
    assert percents(the("value times gradient: most is where it comes from for (.*) of the characters", printed))[0] > 50


def own_method(printed: str) -> None:
    assert float(the("the map of the margin differs from the difference of the maps by (.*)", printed)) < 1e-5
    assert float(the("the map of relu3 sums to (.*)", printed)) < 1e-4


def text(printed: str) -> None:
    words = re.findall(r"^(\w+): most for it is '(\w+)' in '(.*)'$", printed, re.MULTILINE)
    speaking = {
        "flowers": {"length", "width", "sepal", "petal", "iris"},
        "wines": {"alcohol", "malic", "acid", "wine", "wines"},
        "tumours": {"image", "mass", "radius"},
    }
    assert [topic for topic, _, _ in words] == 2 * list(speaking)
    assert all(word in speaking[topic] and word in sentence.split() for topic, word, sentence in words), words
    assert float(the("sums miss the gain by at most (.*)", printed)) < 1e-2


CLAIMS: dict[str, Callable[[str], None]] = {
    check.__name__: check for check in (attribution_prior, cams, every_class, language_model, own_method, text)
}


def run(name: str, folder: Path, *arguments: str) -> list[str]:
    """The lines that an example prints, run in a folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60


@pytest.mark.parametrize("example", breadth(EXAMPLES, lambda path: path.stem == "text"), ids=lambda path: path.stem)
def test_an_example_runs_draws_and_shows_what_it_claims(example: Path, tmp_path: Path) -> None:
    *printed, last = run(example.stem, tmp_path)
    assert last == f"wrote {example.stem}.png"
    assert [file.name for file in tmp_path.iterdir()] == [f"{example.stem}.png"]
    picture = pyplot.imread(tmp_path / f"{example.stem}.png")[..., :3]
    assert picture.shape[1] > 400
    assert ((picture.max(-1) - picture.min(-1)) > 0.3).mean() > 0.005  # colour: there are attributions on it
    if example.stem in CLAIMS:
        CLAIMS[example.stem]("\n".join(printed))


def test_every_claim_is_that_of_an_example() -> None:
    assert CLAIMS.keys() <= {example.stem for example in EXAMPLES}


def test_out_says_where_the_picture_goes(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    assert run("own_method", tmp_path, "--out", str(out))[-1] == f"wrote {out}"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


# The pictures of the documentation.


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "scripts" / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_are_there_and_small(script: Any) -> None:
    for name in {example.stem for example in EXAMPLES} | {"methods", "methods-input", "methods-layer"}:
        picture = ROOT / "docs" / "pictures" / f"{name}.{'jpg' if name in script.PHOTOGRAPHS else 'png'}"
        assert picture.is_file(), "run scripts/make_pictures.py"
        assert picture.stat().st_size < 120_000


def test_the_tables_have_every_method(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.the_rest() == []
    whole = {name: [list(row) for row in rows] for name, rows in script.tables().items()}
    assert sum(map(len, whole["methods-input"] + whole["methods-layer"])) == 34
    monkeypatch.setattr(script, "AT_LAYER", script.AT_LAYER[:2])  # as if the CAMs of the last row were new
    monkeypatch.setattr(script, "AT_INPUT", script.AT_INPUT[::2])
    new = script.tables()
    cams = ["ablation_cam", "eigen_cam", "guided_grad_cam", "hires_cam", "layer_cam", "score_cam", "xgrad_cam"]
    assert [list(row) for row in new["methods-layer"]] == [*whole["methods-layer"][:2], cams[:6], cams[6:]]
    assert [list(row) for row in new["methods-input"]] == whole["methods-input"][::2]  # those work at a layer only
    monkeypatch.setattr(script, "AT_LAYER", [row[1:] for row in script.AT_LAYER])
    monkeypatch.setattr(script, "AT_INPUT", [["gradient"], script.AT_INPUT[-1]])
    assert [list(row) for row in script.tables()["methods-input"]] == [
        ["gradient"],
        ["lrp", "occlusion", "shapley", "lime"],
        ["conductance", "deconvnet", "guided_backprop"],
    ]


def test_a_table_is_drawn_row_by_row(script: Any, tmp_path: Path) -> None:
    sizes = []
    for rows in ([{"grad_cam": "relu2"}], [{"saliency": None, "activation": "relu1"}], [{"grad_cam": "relu2"}] * 2):
        script.table(rows, tmp_path / "a.png")
        sizes.append(pyplot.imread(tmp_path / "a.png").shape[:2])
    assert sizes[1][1] > 1.3 * sizes[0][1]
    assert sizes[2] == (2 * sizes[0][0], sizes[0][1])


def test_a_large_picture_is_reduced(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = torch.randint(256, (300, 300, 3), dtype=torch.uint8).numpy()
    noise[:100] = 255
    pyplot.imsave(out := tmp_path / "a.png", noise)
    before = out.stat().st_size
    assert before > script.LARGE
    script.reduce(out)
    assert out.stat().st_size < 0.7 * before
    assert (pyplot.imread(out)[:100, :, :3] == 1).all()  # paper is white
    assert capsys.readouterr().out == f"a.png: {out.stat().st_size / 1000:.0f} kB\n"


def test_the_notebook_runs() -> None:
    """Every code cell in order, as a notebook would run them; figures are made, and not shown."""
    book = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in book["cells"]), "kept without outputs: they say nothing of today's code"
    names: dict[str, Any] = {"__name__": "first_steps"}
    for i, cell in enumerate(cells):
        exec(compile(cell, f"first_steps.ipynb, code cell {i}", "exec"), names)
    pyplot.close("all")
    assert names["gap"].abs().max() < 0.05 * names["found"].abs().sum((1, 2, 3)).max()
    assert names["every"].shape == (10, 6, 1, 8, 8)
