"""``funattr export``: a method of a model as a file, for torch and for ONNX Runtime."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import funattr as fa
from funattr.__main__ import main

pytestmark = pytest.mark.skipif(torch.__version__ < "2.4", reason="programs need torch 2.4")

MY_NET = """
import torch
from torch import nn

classes = ["circle", "square", "star"]


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("export_net.py").write_text(MY_NET)
    yield
    sys.modules.pop("export_net", None)


def run(line: str) -> int:
    return main(shlex.split(f"export --model export_net:build --size 8 {line}"))


def test_the_layer_is_found_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--method grad_cam --to cam.pt2") == 0
    assert "grad_cam at 1" in capsys.readouterr().out


def test_a_program_for_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--method ig --n-steps 4 --target each --to ig.pt2") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "method       integrated_gradients at the input"
    assert told[2] == "takes        [1, 3, 8, 8] and target, a class for each, in batches of any size"
    assert told[3].startswith("wrote        ig.pt2 (")
    import export_net  # type: ignore[import-not-found]  # written above

    x, target = torch.randn(4, 3, 8, 8), torch.tensor([0, 2, 1, 1])
    found = torch.export.load("ig.pt2").module()(x, target)
    expected = fa.integrated_gradients(export_net.build(), x, target=target, n_steps=4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.full
@pytest.mark.filterwarnings("default")
def test_a_file_for_onnx() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert run("--method grad_cam --layer 1 --target star --batch 2 --to cam.onnx") == 0
    import export_net

    x = torch.randn(2, 3, 8, 8)
    session = runtime.InferenceSession("cam.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, fa.grad_cam(export_net.build(), x, layer="1", target=2), atol=1e-5)


WRONG = {
    "--method grad_cam --to cam.pb": "--to must end with .pt2 or .onnx, got 'cam.pb'.",
    "--method grad_cam --to no/cam.pt2": "the folder 'no' of --to does not exist: make it first, or choose another.",
    "--method grad_cam --n-steps 3 --to cam.pt2": "--n-steps is no option of grad_cam.",
    "--method grad_cma --to cam.pt2": "there is no method 'grad_cma': did you mean 'grad_cam'?",
    "--method gradient --target disc --to g.pt2": "there is no class 'disc'",
    "--method gradient_shap --to g.pt2": "the method draws random numbers",
    "--method gradient --to g.pt2 --model export_net:Branches": "in forward, the values of a tensor decide what runs",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 2
    told = capsys.readouterr().err
    assert WRONG[line] in told
    assert told.startswith("funattr: ")
    assert told.count("\n") == 1 + told.count("warning")
    assert not list(Path().glob("*.pt2"))


def test_onnx_needs_a_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("--method grad_cam --to cam.onnx") == 2
    assert "ONNX files need onnxscript: pip install onnxscript" in capsys.readouterr().err
