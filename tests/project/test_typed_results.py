"""What a user's type checker knows of the results: tensors where x is one, and slips in arguments."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import funattr as fa

ROOT = pathlib.Path(fa.__file__).parents[1]

USER = """
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa

model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
x = torch.randn(5, 3)


def own(x: Tensor, layer: str | None) -> Tensor:
    value, gradient = fa.value_and_gradient(model, x, layer=layer, target=1)
    return (value * gradient).sum(1)


def shipped(x: Tensor) -> list[Tensor]:
    return [
        fa.saliency(model, x, target=1),
        fa.grad_cam(model, x, layer="1", target=1),
        fa.grad_cam(model, x, layer=model[1], target=[0, 1, 0, 1, 0]),
        fa.integrated_gradients(model, x, baselines=0.0, layer="1", target=fa.neuron("2", 1), n_steps=5),
        fa.deep_lift_shap(model, x, baselines=x, target=1),
        fa.relu(fa.saliency(model, x, target=1)),
        fa.interpolate(fa.grad_cam(model, x, layer="1"), size=8),
        fa.noise_tunnel(fa.saliency, n_samples=3)(model, x, target=1),
        fa.relu(fa.grad_cam)(model, x, layer="1", target=1),
        fa.each_target(own_method, [0, 1])(model, x),
    ]


def own_method(model: nn.Module, x: Tensor, *, target: Any = None) -> Tensor:
    return fa.gradient(model, x, target=target) ** 2


def composed(x: Tensor) -> Tensor:
    return fa.score(model(x), 1)


several = fa.gradient(model, x, layer={"a": "0", "b": "1"}, target=1)
reveal_type(several)
reveal_type(fa.gradient(model, (x, x), target=1))
reveal_type(fa.gradient(model, x, layer=fa.input_of("1")))
reveal_type(fa.gradient(model, x, target=1))
reveal_type(fa.relu(fa.gradient))
fa.gradient(model, x, lazer="1")
fa.integrated_gradients(model, x, x, 1)
"""


def test_the_stub_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_stub", ROOT / "scripts" / "make_stub.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.STUB.read_text() == module.text(), "run scripts/make_stub.py"


def test_mypy_in_strict_mode(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run([*command, str(tmp_path / "user.py")], cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line.split("user.py:")[1].split(": ", 1)[1] for line in done.stdout.splitlines() if "user.py:" in line]
    told = [line for line in said if "Possible overload" not in line and "    def " not in line]
    assert told[:5] == [
        'note: Revealed type is "Any"',
        'note: Revealed type is "Any"',
        'note: Revealed type is "Any"',
        'note: Revealed type is "torch._tensor.Tensor"',
        'note: Revealed type is "funattr._types.Method"',
    ], done.stdout + done.stderr
    wrong = [line for line in told[5:] if line.startswith("error")]
    assert 'keyword argument "lazer" for overloaded function "gradient"; did you mean "layer"?' in wrong[0]
    assert 'No overload variant of "integrated_gradients"' in wrong[-1]
    assert not [line for line in wrong if "overload" not in line]
