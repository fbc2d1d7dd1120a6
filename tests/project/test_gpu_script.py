"""scripts/gpu.sh: every part of it runs on a CPU, what it finds is written, and a wrong result is called one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import funattr as fa

from ..breadth import full

ROOT = Path(fa.__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "scripts" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_every_method_in_every_regime_on_a_small_net(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = script.settings
    monkeypatch.setattr(script, "settings", lambda *args: (s for s in small(*args) if s.name.startswith("two-layer")))
    found = list(script.correctness("cpu", False, float("inf")))
    assert {entry["regime"] for entry in found} == {"float32", "bfloat16", "autocast", "channels_last"}
    assert {entry["method"] for entry in found} == set(script.PAIRS) - {"integrated_gradients, input"}  # which needs a path
    assert [entry for entry in found if not entry["ok"]] == []
    assert any(entry["ours"] > 1e-4 for entry in found if entry["regime"] == "bfloat16")  # it did run in that


def test_a_wrong_result_and_an_error_are_findings(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = script.settings
    monkeypatch.setattr(script, "settings", lambda *args: (s for s in small(*args) if s.name == "two-layer MLP"))
    ours, theirs = script.PAIRS["input_x_gradient"][1]

    def fails(s: Any, site: str) -> Any:
        raise RuntimeError("no kernel")

    doctored = {"wrong": ("layer", (lambda s, site: 2 * ours(s, site), theirs)), "failing": ("layer", (fails, theirs))}
    monkeypatch.setattr(script, "PAIRS", doctored)
    wrong, failing = list(script.correctness("cpu", False, float("inf")))[:2]
    assert not wrong["ok"]
    assert wrong["ours"] == pytest.approx(1.0, abs=1e-3)
    assert failing["fails"] == "RuntimeError: no kernel"


def test_the_page_and_the_file(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = {"regime": "float32", "model": "M", "method": "m", "within": 1e-3, "ours": 2e-7, "by hand": 1e-7, "ok": True}
    graph = {"case": "a case", "ok": False, "fails": "Unsupported: so"}
    peaks = {"model": "M", "method": "integrated_gradients", "site": "s", "steps": 4, "bytes": {"by hand": 2_000_000}}
    for name, entry in {"correctness": right, "compiled": graph, "memory": peaks}.items():
        monkeypatch.setattr(script, name, lambda *args, entry=entry: iter([entry]))
    cases = [case for case in script.cases(next(script.settings(True))) if case.method.name == "activation"]
    monkeypatch.setattr(script, "cases", lambda s: cases if s.name == "two-layer MLP" else [])
    assert script.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "new")]) == 1  # a check fails
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert (found["correctness"], found["compiled"], found["memory"]) == ([right], [graph], [peaks])
    (speed, *_) = found["speed"]
    assert "columns" in speed, speed
    assert speed["columns"]["funattr"]["seconds"] > 0
    page = (tmp_path / "new" / "gpu.md").read_text()
    assert "1 of 2 checks hold" in page
    assert "| float32 | M | `m` | 2.0e-07 | 1.0e-07 |  |" in page
    assert "| a case |  |  |  | Unsupported: so |" in page
    assert "| M | `s` | `integrated_gradients`, 4 steps, by hand | 2.0 |" in page
    assert "### two-layer MLP, input [1, 10]" in page


def test_wheels_beside_it_are_found(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "beside_gpu-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("beside_gpu.py", "answer = 42\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert script.unpacked_wheels(tmp_path, tmp_path / "unpacked") == ["beside_gpu-1.0-py3-none-any.whl"]
    assert importlib.import_module("beside_gpu").answer == 42
    del sys.modules["beside_gpu"]


def test_no_gpu_is_said(script: Any) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="finds no GPU here: --device cpu shows that the script runs"):
            script.main([])


@full
def test_the_whole_of_it(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [str(ROOT / "scripts" / "gpu.sh"), "--device", "cpu", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert all(found[part] for part in ("correctness", "compiled", "memory", "speed"))
