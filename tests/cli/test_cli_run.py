"""`funattr run` over pictures, several methods, what it says and returns; `funattr show`, which draws what is stored."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import funattr as fa
from funattr import viz
from funattr.__main__ import main

NET = """
import time

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


def slow(model, x, target=None):
    time.sleep(0.5)
    return x


def data():
    return torch.utils.data.TensorDataset(torch.ones(5, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0]))
"""
SIZE = (6, 8)  # rows and columns of what the model gets


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model and nine pictures, one of them cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("net.py").write_text(NET)
    Path("png").mkdir()
    for i in range(9):
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (12, 16, 3), dtype=np.uint8)).save(f"png/{i}.png")
    Path("png/4.png").write_bytes(Path("png/4.png").read_bytes()[:100])
    yield tmp_path
    sys.modules.pop("net", None)
    from funattr._cli.job import source_of

    source_of.cache_clear()


GOOD = [f"{i}.png" for i in range(9) if i != 4]
LINE = "run png --model net:build --size 6x8 --mean 0.5 --out maps --quiet"


def ready(name: str) -> Tensor:
    small = Image.open(f"png/{name}").resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255 - 0.5


def model() -> Any:
    import net  # type: ignore[import-not-found]  # the test wrote it

    return net.build().eval()


def run(line: str) -> int:
    return main(shlex.split(line))


def test_a_folder_of_pictures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File names are ids; the layer is chosen as `explain` does; what failed is named, with exit status 1."""
    assert run(LINE) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "model        net:build (Net)"
    assert out.splitlines()[1].startswith("data         9 pictures in png; 0.png, 16 x 12, values in [0, 1], resized to 6 x 8")
    assert out.splitlines()[2].startswith("method       grad_cam at features (the last that suits")
    assert out.splitlines()[3] == "explained 8, failed 1, skipped 0; results in maps"
    assert re.fullmatch(
        r"funattr: not explained: 4\.png: cannot read the image 'png/4\.png': .*truncated\n"
        r"funattr: --retry explains them again, where the cause is gone\n",
        err,
    )
    results = fa.dataset.load("maps")
    assert [name for name, _ in results] == GOOD
    for name, found in results:
        torch.testing.assert_close(found, fa.grad_cam(model(), ready(str(name)), layer="features", target="argmax")[0])
    Image.new("RGB", (16, 12)).save("png/4.png")
    assert run(LINE) == 1  # it is known as bad
    assert "explained 0, failed 0, skipped 9" in capsys.readouterr().out
    assert run(f"{LINE} --retry") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "explained 1, failed 0, skipped 0; results in maps"
    assert run(LINE) == 0


def test_results_among_the_pictures(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with results below it was one of Parquet files: what had begun there could not go on."""
    monkeypatch.chdir("png")
    line = LINE.replace("run png", "run .")
    assert main(shlex.split(line)) == 1
    Image.open("0.png").save("9.png")
    assert main(shlex.split(line)) == 1
    assert "explained 1, failed 0, skipped 9" in capsys.readouterr().out
    ran = fa.dataset.run(fa.saliency, lambda: lambda x: x.mean((1, 2, 3)), ".", ".", progress=False)
    assert ran == fa.dataset.run(fa.saliency, lambda: lambda x: x.mean((1, 2, 3)), ".", "more", progress=False)
    with pytest.raises(ValueError, match="the table has no column 'x'"):
        fa.dataset.run(fa.saliency, lambda: lambda x: x.mean((1, 2, 3)), "maps", "most", progress=False)


@pytest.mark.parametrize("workers", ["", "--workers 2 --part-size 4"])
def test_several_methods_and_a_class_by_name(workers: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(model().state_dict(), "net.pt")
    line = f"{LINE} --checkpoint net.pt --method gradcam ig,ablation --target square --n-steps 3 {workers}"
    assert run(line) == 1
    assert "method       feature_ablation at the input" in capsys.readouterr().out
    results = fa.dataset.load("maps")
    assert len(results) == 8
    side = torch.arange(SIZE[0] * SIZE[1]).reshape(1, *SIZE)
    for name, found in results:
        x = ready(str(name))
        expected = {
            "grad_cam": fa.grad_cam(model(), x, layer="features", target=1),
            "integrated_gradients": fa.integrated_gradients(model(), x, target=1, n_steps=3),
            "feature_ablation": fa.feature_ablation(model(), x, target=1, feature_mask=side),
        }
        assert list(found) == list(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value[0])


def test_other_inputs_are_another_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LINE)
    for changed, words in {
        LINE.replace("--mean 0.5", "--mean 0.4"): r"transform\.mean\S* was \[0\.5\], and is \[0\.4\]",
        f"{LINE} --layer features.0": "arguments.layer was 'features', and is 'features.0'",
        f"{LINE} --target 1": "target was 'argmax', and is 1",
        f"{LINE} --method ig": "method was 'grad_cam', and is 'integrated_gradients'",
    }.items():
        capsys.readouterr()
        assert run(changed) == 2
        assert re.search(words, capsys.readouterr().err)
    capsys.readouterr()
    assert run(LINE.replace("net:build", "net:bild")) == 2
    assert capsys.readouterr().err == "funattr: net has no 'bild': did you mean 'build'?\n"  # and no other configuration


JOB = """
method = METHOD
model = "net:build"
data = DATA
out = "maps"
progress = false
MORE
"""


def job(here: Path, method: str, data: str = '"png"', more: str = "") -> str:
    Path("job.toml").write_text(JOB.replace("METHOD", method).replace("DATA", data).replace("MORE", more))
    return "run job.toml"


@pytest.mark.parametrize("method", ['"ig"', '["ig", "saliency"]', '"smoothgrad"', '"net:slow"'])
def test_jobs(method: str, here: Path) -> None:
    """Short names work wherever methods are named."""
    more = "" if "slow" in method else f"size = [6, 8]\nmean = 0.5\n[arguments]\n{'n_steps = 3' if 'ig' in method else ''}"
    more = more.replace("[arguments]", "[arguments]\nn_samples = 2" if "smooth" in method else "[arguments]")
    assert run(job(here, method, more=more if "slow" not in method else "size = 6")) == 1
    names = [name for name, _ in fa.dataset.load("maps")]
    assert names == GOOD
    if method == '"ig"':
        for name, found in fa.dataset.load("maps"):
            x = ready(str(name))
            torch.testing.assert_close(found, fa.integrated_gradients(model(), x, target="argmax", n_steps=3)[0])


def test_arguments_of_one_of_several(here: Path) -> None:
    more = '[arguments]\nn_steps = 2\n[arguments.grad_cam]\nlayer = "features.0"\n'
    more += '[arguments.ig]\nquadrature = "riemann_left"\n'  # by the name that is short, as in method
    assert run(job(here, '["grad_cam", "ig"]', '"net:data"', more)) == 0
    for _, found in fa.dataset.load("maps"):
        assert found["grad_cam"].shape == (1, 4, 4)
        assert found["integrated_gradients"].shape == (3, 4, 4)


MY_DATA = """
import torch


def dataset():
    return torch.utils.data.TensorDataset(torch.ones(2, 3, 4, 4))
"""


@pytest.mark.parametrize("data", ["as in the help", "a folder of pictures", "a folder of Parquet files"])
def test_the_example_of_the_help_runs(data: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With each kind of data that its line names: a folder of pictures crashed there, as a Parquet file without a footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(SystemExit):
        run("run --help")
    (example,) = re.findall(r"^job\.toml:\n((?:  .+\n)+)", capsys.readouterr().out, re.M)
    lines = [re.split(r" {3,}", line.strip()) for line in example.splitlines()]
    (told,) = [line[1] for line in lines if line[0].startswith("data = ")]
    assert "a folder of Parquet files or of pictures" in told
    Path("my_net.py").write_text(NET)
    Path("my_data.py").write_text(MY_DATA)
    Path("rows").mkdir()
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(96, np.float32)), 48)
    pq.write_table(pa.table({"id": ["a", "b"], "x": pixels}), "rows/part.parquet")
    folder, more = {
        "as in the help": ("my_data:dataset", ""),
        "a folder of pictures": ("png/", ""),
        "a folder of Parquet files": ("rows/", 'transform = "net:to_picture"\n'),
    }[data]
    Path("net.py").write_text(NET + "\n\ndef to_picture(row):\n    return torch.as_tensor(row['x']).reshape(3, 4, 4)\n")
    text = "\n".join(line[0] for line in lines).replace("my_data:dataset", folder).replace('"layer4"', '"features"')
    Path("job.toml").write_text(text.replace("[arguments]", f"progress = false\n{more}[arguments]"))
    status = run("run job.toml")
    assert status == (1 if "pictures" in data else 0), capsys.readouterr()  # one of the pictures is cut short
    assert [name for name, _ in fa.dataset.load("attributions")] == {
        "as in the help": [0, 1], "a folder of pictures": GOOD, "a folder of Parquet files": ["a", "b"],
    }[data]  # fmt: skip
    for name in ("my_net", "my_data"):
        sys.modules.pop(name, None)


WRONG = {
    ('"ig"', '"nowhere/"', ""): "job.toml: there is no folder or file 'nowhere/', which data names.",
    ('"ig"', '"png"', 'dtype = "half"'): "dtype must be one of float16, bfloat16, float32, float64, got 'half'.",
    ('"igg"', '"png"', ""): "there is no method 'igg': did you mean 'ig'?",
    ('"ig"', '"png"', 'size = "3x"'): "size must be a size such as 224 or 224x320, got '3x'.",
    ('"ig"', '"png"', 'target = "sqare"'): "there is no class 'sqare': did you mean 'square'?",
    ('"ig"', '"png"', "[arguments]\nn_step = 3"): "n_step is no argument of integrated_gradients: did you mean 'n_steps'?",
    (
        '"ig"',
        '"net:data"',
        "[arguments.grad_cam]\nlayer = 'a'",
    ): "[arguments.grad_cam] is for none of the methods: choose one of integrated_gradients.",
    ('"ig"', '"net:dat"', ""): "net has no 'dat': did you mean 'data'?",
}


@pytest.mark.parametrize("given", WRONG)
def test_mistakes_in_a_job(given: tuple[str, str, str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, without the names of Python's classes."""
    assert run(job(here, *given)) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"{WRONG[given]}\n")
    assert not re.search(r"[A-Z]\w+(Error|Exception)|run\(\)|Traceback", err)
    assert err.count("\n") == 1


def test_many_failures_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(20):
        Path(f"png/bad{i:02d}.png").write_bytes(b"nothing")
    assert run(LINE) == 1
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if line.startswith("funattr: not explained: ")]) == 10
    assert err[-2] == "funattr: and 11 more: fa.dataset.failed('maps') in Python has all of them"


def test_what_says_little_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message of a KeyError is the key alone, and that of an assertion is empty."""
    lost = "\n\ndef lost(item):\n    assert int(item[0].sum()) % 2\n    return {}['pixels']\n"
    data = "\n\ndata = torch.utils.data.TensorDataset(torch.arange(4.)[:, None], torch.arange(4))\n"
    Path("net.py").write_text(NET + data + lost)
    Path("job.toml").write_text(
        'method = "saliency"\nmodel = "net:build"\ndata = "net:data"\nout = "maps"\ntransform = "net:lost"\n'
    )
    assert run("run job.toml --quiet") == 1
    err = capsys.readouterr().err.splitlines()
    assert err[:2] == ["funattr: not explained: 0: AssertionError", "funattr: not explained: 1: KeyError: 'pixels'"]


def test_a_damaged_part_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LINE)
    (part,) = Path("maps").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:200])
    for line in (LINE, "show maps --id 0.png"):
        capsys.readouterr()
        assert run(line) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"funattr: the file '{part}' is damaged (")
        assert "delete it and run it again" in err or "delete it and run again" in err


def test_ctrl_c_in_a_process(here: Path) -> None:
    """A word on how far it came; the rest is done when it is run again."""
    Path("job.toml").write_text(
        JOB.replace("METHOD", '"net:slow"').replace("DATA", '"net:data"').replace("MORE", "batch_size = 1")
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fa.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "funattr", "run", "job.toml"], stderr=subprocess.PIPE, text=True, env=environment
    )
    notes = here / ".maps.funattr" / "model.json"
    while not notes.exists():
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = re.fullmatch(r"funattr: (\d) of 5 examples are done; run it again to go on\.\n", err)
    assert told, err
    assert 1 <= int(told[1]) < 5
    assert len(fa.dataset.load("maps")) == int(told[1])
    assert run("run job.toml") == 0
    assert len(fa.dataset.load("maps")) == 5


# show


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(viz, "show", lambda *args, **options: calls.append((*args, options)))
    return calls


def test_show_draws_what_is_stored(here: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Over the picture, with what the model says of it."""
    run(f"{LINE} --method gradcam ig")
    capsys.readouterr()
    assert run("show maps --id 3.png") == 0
    (picture, maps, options) = drawn[0]
    scores = model()(ready("3.png"))[0].softmax(0)
    best = int(scores.argmax())
    assert options["titles"] == [f"3.png\n{['circle', 'square'][best]}, {scores[best]:.1%}"]
    np.testing.assert_allclose(picture.numpy()[0].transpose(1, 2, 0) * 255, np.array(Image.open("png/3.png")), atol=1e-3)
    cam = fa.grad_cam(model(), ready("3.png"), layer="features", target=best)
    torch.testing.assert_close(maps["grad_cam at features"], cam.clamp(min=0))
    path = fa.integrated_gradients(model(), ready("3.png"), target=best).sum(1, keepdim=True)
    torch.testing.assert_close(maps["integrated_gradients"], path)
    assert capsys.readouterr().out.endswith("wrote shown.png\n")


def test_show_what_each_channel_has_once(here: Path) -> None:
    """A square's number, which its three channels have: it was drawn, and written, three times as large."""
    run(f"{LINE} --method ablation occlusion saliency")
    assert run("show maps --id 3.png --out a.json") == 0
    maps = json.loads(Path("a.json").read_text())["explained"][0]["methods"]
    stored = fa.dataset.load("maps")["3.png"]
    for name in ("feature_ablation", "occlusion"):
        torch.testing.assert_close(torch.tensor(maps[name]["map"]), stored[name][0])
    torch.testing.assert_close(torch.tensor(maps["saliency"]["map"]), stored["saliency"].sum(0))
    for method, number in (("ablation", 1), ("saliency", 3)):
        run(f"{LINE} --method {method} --out {method}")
        assert run(f"show {method} --id 3.png --out a.json") == 0
        (found,) = json.loads(Path("a.json").read_text())["explained"][0]["methods"].values()
        ((_, one),) = [each for each in fa.dataset.load(method) if each[0] == "3.png"]
        torch.testing.assert_close(torch.tensor(found["map"]), one.sum(0) * number / 3)


def test_show_without_an_id_says_which_there_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the line it ends with draws the first."""
    run(LINE)
    capsys.readouterr()
    assert run("show maps") == 0
    first, *ids, line = capsys.readouterr().out.splitlines()
    names = [f"{i}.png" for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert first == "grad_cam of net:build: 8 results, 1 failed"  # the fifth cannot be read
    assert [each.strip() for each in ids] == names
    assert line == f"draw one: funattr show maps --id {names[0]}"
    assert run(line.removeprefix("draw one: funattr ") + " --out first.json") == 0


def test_show_as_data(here: Path) -> None:
    run(LINE)
    assert run("show maps --id 3.png 5.png --out two.json") == 0
    found = json.loads(Path("two.json").read_text())["explained"]
    for name, each in zip(("3.png", "5.png"), found, strict=True):
        cam = fa.grad_cam(model(), ready(name), layer="features", target="argmax")[0, 0]
        torch.testing.assert_close(torch.tensor(each["methods"]["grad_cam"]["map"]), cam, rtol=1e-5, atol=1e-7)


def test_pictures_that_were_moved(here: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(LINE)
    Path("png").rename("moved")
    capsys.readouterr()
    assert run("show maps --id 3.png") == 2
    assert capsys.readouterr().err == "funattr: there is no picture 'png/3.png': say with --pictures where they are.\n"
    assert run("show maps --id 3.png --pictures moved") == 0
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show maps --id 33.png", "'maps' has no result '33.png': did you mean '3.png'?"),
        ("show maps --id 4.png", "'4.png' has no result: cannot read the image 'png/4.png': "),
        ("show nowhere --id 4.png", "there are no results in 'nowhere'."),
        ("show maps --id 3.png --out a.gif", "--out must end with"),
        ("show maps --id 3.png --out png/3.png", "--out png/3.png is what is explained, and would be written over"),
    ],
)
def test_mistakes_of_show(line: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LINE)
    capsys.readouterr()
    assert run(line) == 2
    assert capsys.readouterr().err.startswith(f"funattr: {words}")


@pytest.mark.parametrize("options", ["", 'pool = "place"', "top_k = 3", 'dtype = "float16"'])
def test_show_of_other_data_is_the_map_alone(options: str, here: Path, drawn: list[Any]) -> None:
    """Ids are numbers, there are no pictures."""
    run(job(here, '"saliency"', '"net:data"', options))
    assert run("show maps --id 2") == 0
    (picture, maps, told) = drawn[0]
    assert told["titles"][0].startswith("2\n")
    whole = fa.saliency(model(), torch.ones(1, 3, 4, 4), target=0)
    kept = whole
    if "top_k" in options:
        order = whole.reshape(-1).abs().argsort(descending=True, stable=True)[:3]
        kept = torch.zeros(48).scatter(0, order, whole.reshape(-1)[order]).reshape(whole.shape)
    torch.testing.assert_close(maps["saliency"], kept.sum(1, keepdim=True), rtol=1e-2, atol=1e-4)
    assert bool((picture == 1).all())


def test_what_has_no_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(job(here, '"saliency"', '"net:data"', 'pool = "channel"'))
    capsys.readouterr()
    assert run("show maps --id 2") == 2
    assert "saliency has stored the shape [3], without a height and a width" in capsys.readouterr().err
