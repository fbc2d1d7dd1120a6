"""The two programs on the page about export, run where there is no Python, or no torch; and ONNX files beside eager."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..exported import NETS, Cell, cells
from ..project.test_docs import ROOT

PAGE = (ROOT / "docs" / "export.md").read_text()
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(torch.__version__ < "2.6", reason="programs for other runtimes need torch 2.6"),
]


def block(language: str) -> str:
    return next(re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S))[1]


def model() -> nn.Module:
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def waves(batch: int) -> Tensor:
    """What both programs on the page explain."""
    return torch.arange(batch * 3 * 32 * 32, dtype=torch.float32).div(1000).sin().reshape(batch, 3, 32, 32)


def cam() -> Any:
    return fa.export(fa.grad_cam, model(), torch.randn(2, 3, 32, 32), layer="3", target=1)


def to_onnx(program: Any, file: Path) -> None:
    pytest.importorskip("onnxscript")
    made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    made.save(file)


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_a_program_in_cpp(tmp_path: Path) -> None:
    from torch import _inductor

    _inductor.aoti_compile_and_package(cam(), package_path=str(tmp_path / "cam.pt2"))
    (tmp_path / "explain.cpp").write_text(block("cpp"))
    assert len(block("cpp").splitlines()) <= 30
    build = next(found for found in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) if "g++" in found)
    (tmp_path / "python").symlink_to(sys.executable)
    script = "set -e\n" + build.replace("$(python", f"$({sys.executable}")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sums = [float(line) for line in done.stdout.split()]
    expected = fa.grad_cam(model(), waves(5), layer="3", target=1).sum((1, 2, 3))
    np.testing.assert_allclose(sums, expected, atol=2e-5)


@pytest.mark.filterwarnings("default")
def test_a_program_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    to_onnx(cam(), tmp_path / "cam.onnx")
    code = block("py") + "import sys\nassert 'torch' not in sys.modules\nnp.save('maps.npy', maps)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = fa.grad_cam(model(), waves(5), layer="3", target=1)
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, atol=1e-5)


BY_ONNX = ("grad_cam, at a layer", "input_x_gradient", "integrated_gradients", "guided_backprop")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("cell", [c for c in cells() if c.net == "CNN" and c.name in BY_ONNX], ids=repr)
def test_onnx_runtime_gives_what_eager_gives(cell: Cell, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    net = NETS[cell.net]
    small = net.model().float()
    to_onnx(fa.export(cell.method, small, net.x(2).float(), **cell.options), tmp_path / "program.onnx")
    session = runtime.InferenceSession(tmp_path / "program.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 4):
        x = net.x(size).float()
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, cell.method(small, x, **cell.options), atol=1e-5)
