"""The package itself: what it imports, what it exports, what its documentation says."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

import funattr as fa

ROOT = pathlib.Path(fa.__file__).parent
CORE = sorted(ROOT.glob("*.py"))

#: Which module of the core may import which: only those before it in this list.
ORDER = [
    "_torch",
    "_types",
    "_door",
    "_bind",
    "_rules",
    "_tap",
    "_site",
    "_check",
    "_layers",
    "_at_once",
    "_score",
    "_folded",
    "_leaves",
    "_watch",
    "_backward",
    # running a model at many points
    "_chunks",
    "_progress",
    "_draw",
    "_map",
    "_baselines",
    "_along",
    "_fold",
    "_at_points",
    "_quadrature",
    "_paths",
    "_groups",
    "_joint",
    "_ablated",
    # DeepLIFT's rules and passes
    "_lift_names",
    "_lift_hidden",
    "_lift_slopes",
    "_lift",
    "_lift_rules",
    "_lift_rows",
    "_lift_norms",
    "_lift_compound",
    "_lift_rnn",
    "_lift_table",
    "_lift_passes",
    # methods
    "_channels",
    "_gradient",
    "_cam",
    "_backprop",
    "_path",
    "_shap",
    "_ablation",
    "_deeplift",
    # combinators
    "_combined",
    "_combine",
    "_shapes",
    "_repeat",
    "_noise",
    "_targets",
    # compositions
    "_deeplift_shap",
    "_cam_forward",
    "_alias",
]
METHODS = ["_gradient", "_cam", "_backprop", "_path", "_shap", "_ablation", "_deeplift", "_combined", "_combine", "_shapes"]


def imports(path: pathlib.Path) -> list[str]:
    """Imports of one file at run time, those for type checkers left out; relative ones with their dot."""
    found = []
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", [p for p in CORE if p.stem in ORDER], ids=lambda p: p.stem)
def test_imports_run_one_way(path: pathlib.Path) -> None:
    allowed = ORDER[: ORDER.index(path.stem)]
    if path.stem in METHODS:
        allowed = [name for name in allowed if name not in METHODS or name == "_combined"]  # methods do not import each other
    for name in imports(path):
        if name == ".":
            assert path.stem in ("_rules", "_lift_passes")  # what Dynamo must be told, imported while it traces
        elif name.startswith("."):
            assert name[1:] in allowed
        else:
            extra = {"tqdm"} if path.stem == "_progress" else set()  # where it is installed, when a bar is shown
            assert name.split(".")[0] in {*sys.stdlib_module_names, "torch", "numpy", *extra}


def test_private_torch_names_live_in_one_place() -> None:
    private = re.compile(r"torch\._(C|functorch|dynamo|subclasses)|torch\.utils\._|from torch\._")
    for path in CORE:
        if path.stem != "_torch":
            assert not private.search(path.read_text()), path.stem


def test_importing_is_light() -> None:
    """Beyond torch and numpy nothing is loaded, nor the parts of torch that take a second to load."""
    code = "import sys, torch, numpy; before = set(sys.modules); import funattr; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    loaded = {name for name in found.stdout.split() if name.split(".")[0] not in {"funattr", *sys.stdlib_module_names}}
    assert not {name for name in loaded if name.split(".")[0] != "torch"}
    assert not {name for name in loaded if name.startswith(("torch._dynamo", "torch._inductor", "torch.fx.experimental"))}


def test_all_is_sorted_and_complete() -> None:
    assert list(fa.__all__) == sorted(fa.__all__)
    public = {name for name, value in vars(fa).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(fa.__all__)


SHARED: dict[str, set[str]] = {}


@pytest.mark.parametrize("name", [n for n in fa.__all__ if n != "Split"])
def test_documentation(name: str) -> None:
    """Every public function says what it takes, returns and raises, with an example, in the same words as its neighbours."""
    function = getattr(fa, name)
    doc = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:\n    >>> "):
        assert section in doc or (section == "Returns:" and name in ("input_of", "output_of", "neuron")), section
    told = dict(re.findall(r"^    (\w+): (.+)$", doc.split("Args:")[1].split("\n\n")[0], re.M))
    expected = list(inspect.signature(function).parameters)
    assert list(told) == expected or sorted(told) == sorted(expected)
    if "model" in told and "x" in told:
        for argument in ("model", "x", "layer", "target", "create_graph"):
            if argument in told:
                SHARED.setdefault(argument, set()).add(told[argument])
                assert len(SHARED[argument]) == 1, SHARED[argument]


def test_methods_read_well() -> None:
    guided = fa.multiply(fa.at_input(fa.guided_backprop), fa.interpolate(fa.relu(fa.grad_cam)))
    assert guided.__name__ == "multiply(at_input(guided_backprop), interpolate(relu(grad_cam)))"
    parameters = inspect.signature(guided).parameters
    assert list(parameters) == ["model", "x", "layer", "target", "create_graph", "channel_dim"]
    assert parameters["layer"].default is inspect.Parameter.empty  # grad_cam needs it
    assert parameters["target"].default is None
    assert guided.__doc__


def test_each_method_has_its_own_compile_cache() -> None:
    methods = [fa.gradient, fa.saliency, fa.grad_cam, fa.relu(fa.gradient), fa.relu(fa.saliency)]
    codes: list[Any] = [method.__code__ for method in methods]  # type: ignore[attr-defined]
    assert len({id(code) for code in codes}) == len(codes)


def test_version_is_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", fa.__version__)
    assert importlib.import_module("funattr").__version__ == fa.__version__
    assert torch.__version__ >= "2.0"
