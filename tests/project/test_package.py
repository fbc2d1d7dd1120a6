"""The package itself: who imports whom, what it exports, what its documentation says."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import pydoc
import re
import subprocess
import sys
from collections import defaultdict
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

import funattr as fa

ROOT = pathlib.Path(fa.__file__).parent
SCRIPT = ROOT.parent / "scripts" / "core_figures.py"


def _figures() -> Any:
    spec = importlib.util.spec_from_file_location("core_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = _figures()
FILES: dict[str, Any] = {file.name: file for file in FIGURES.files_of(ROOT)}
#: The ways in: they import what people and the shell ask for.
DOORS = {"__init__", "__main__"}

# Who imports whom. Imports inside functions count.

#: What the files of a wing may import besides each other. ``.`` is the ground: `_habits`, `_types`, `_words`, and `_torch`,
#: which all may import by its door.
MAY_IMPORT: dict[str, set[str]] = {
    "_torch": set(),
    ".": set(),
    "_core": {"."},
    "_steps": {".", "_core"},
    "_rules": {".", "_core", "_steps/baselines", "_steps/twins"},
    "_methods": {".", "_core", "_steps", "_rules"},
    "_combine": {".", "_core", "_steps"},
    "_named": {".", "_core", "_steps", "_rules", "_methods", "_combine"},
    "_export": {".", "_core", "_steps", "_combine"},  # knows no method: it comes in as an argument
    "_inspect": {".", "_core"},
    "rules": {"_rules"},  # the public names of what is there
    "masks": {"."},
    "metrics": {".", "_core", "_steps", "_combine"},  # methods come in through the public door, and are known to no metric
    # on the public names only
    "viz": {"dataset/__init__"},
    "dataset": {"viz/__init__"},
    "_cli": {"viz/__init__", "dataset/__init__", "dataset/_names", "dataset/_pictures"},  # one reading of names and of files
    "_demo": {"viz/__init__", "dataset/__init__"},
}
#: The files of this wing do not import each other.
ALONE = {"_methods"}
#: What the core imports from elsewhere, and what one file may besides.
ELSEWHERE = {*sys.stdlib_module_names, "torch", "numpy"}
WHERE_INSTALLED = {"_steps/progress": {"tqdm"}, "masks/_groups": {"skimage"}}  # when a bar is shown; when asked for


def test_every_file_is_in_a_wing() -> None:
    assert {file.wing for file in FILES.values()} == set(MAY_IMPORT)
    assert {name for name in FILES if FILES[name].wing == "."} - DOORS == {"_habits", "_types", "_words"}


@pytest.mark.parametrize("name", sorted(set(FILES) - DOORS))
def test_imports_run_one_way(name: str) -> None:
    file = FILES[name]
    allowed = MAY_IMPORT[file.wing] | (set() if file.wing in ALONE else {file.wing})
    allowed |= {"_torch/__init__"}
    wrong = {other for other in file.imports if other not in allowed and FILES[other].wing not in allowed}
    assert not wrong
    if file.wing not in FIGURES.BESIDE:
        assert not file.door
        assert not file.outside - ELSEWHERE - WHERE_INSTALLED.get(name, set())


def test_no_circle_of_files() -> None:
    """Nor one that is only there for type checkers."""
    for typing in (False, True):
        assert FIGURES.circles(list(FILES.values()), typing=typing) == []


def test_what_stands_beside_the_core_uses_public_names() -> None:
    """As a user's code does: ``import funattr as fa``, and then names that `fa` shows."""
    public = {*fa.__all__, "viz", "dataset", "masks", "metrics", "rules"}
    used = 0
    for name, file in FILES.items():
        if file.wing not in FIGURES.BESIDE:
            continue
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        doors = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "funattr"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in doors:
                assert node.attr in public or node.attr.startswith("__"), (name, node.attr)
                used += 1
            elif isinstance(node, ast.ImportFrom) and node.module == "funattr":
                assert {alias.name for alias in node.names} <= public, name
    assert used > 20


CORE = sorted(name for name, file in FILES.items() if file.wing not in FIGURES.BESIDE)


def test_private_torch_names_live_in_one_place() -> None:
    private = re.compile(r"torch\._(C|functorch|dynamo|subclasses|library|ops|higher)|torch\.utils\._|from torch\._")
    for name in CORE:
        if FILES[name].wing != "_torch":
            assert not private.search((ROOT / f"{name}.py").read_text()), name


def insides(name: str, *kinds: Any) -> set[str]:
    """The private attributes of such objects that a file reads, by name or as strings."""
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    private = {name for kind in kinds for name in dir(kind) if re.match("_[a-zA-Z]", name)}
    return found & private


#: Modules of every kind that has attributes of its own.
MODULES = (nn.Module(), nn.RNN(1, 1), nn.BatchNorm1d(1), nn.modules.batchnorm, SimpleNamespace(_orig_mod=0, _is_replica=0))


def test_the_insides_of_modules_and_tensors_are_read_in_one_place_each() -> None:
    """Those of modules in the core alone."""
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for name in CORE:
        of_modules, of_others = insides(name, *MODULES), insides(name, torch.Tensor, BackwardCFunction)
        for inside in of_modules | of_others:
            readers[inside].add(name)
        assert FILES[name].wing == "_core" or not of_modules - of_others, name
    assert {inside: files for inside, files in readers.items() if len(files) > 1} == {}
    assert {"_modules", "_buffers", "_forward_hooks", "_is_view"} <= set(readers)


def test_files_and_functions_are_short() -> None:
    """No file of the core is over 300 lines, and few functions are over 25."""
    assert [name for name in CORE if FILES[name].lines > FIGURES.LONG_FILE] == []
    assert sum(function.code > FIGURES.LONG_FUNCTION for name in CORE for function in FILES[name].functions) <= 5


# What it exports.


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return done.stdout


def test_importing_is_light() -> None:
    """Beyond torch and numpy nothing is loaded, nor the parts of torch that take a second to load."""
    found = run(
        "import sys, torch, numpy; before = set(sys.modules); import funattr; print(*sorted(set(sys.modules) - before))"
    )
    loaded = {name for name in found.split() if name.split(".")[0] not in {"funattr", *sys.stdlib_module_names}}
    assert not {name for name in loaded if name.split(".")[0] != "torch"}
    assert not {name for name in loaded if name.startswith(("torch._dynamo", "torch._inductor", "torch.fx.experimental"))}
    assert "funattr._core.door" in found
    assert not [
        name
        for name in found.split()
        if name.startswith(("funattr.viz", "funattr.dataset", "funattr.masks", "funattr.metrics"))
    ]


def test_what_is_loaded_when_first_used() -> None:
    found = run(
        "import sys, funattr as fa\n"
        "print(fa.viz.page.__module__, 'funattr.dataset' in sys.modules)\n"
        "print(fa.dataset.run.__module__, 'matplotlib' in sys.modules)\n"
        "import funattr.viz, funattr.dataset\n"
        "print(fa.viz is funattr.viz is sys.modules['funattr.viz'], 'viz' in vars(fa))\n"
    )
    assert found.split("\n")[:3] == ["funattr.viz._page False", "funattr.dataset._run False", "True True"]


def test_a_name_that_is_not_there() -> None:
    wrong = "grad_cma"
    with pytest.raises(AttributeError, match=r"module 'funattr' has no attribute 'grad_cma'") as caught:
        getattr(fa, wrong)
    assert (caught.value.name, caught.value.obj) == (wrong, fa)  # from which Python finds "Did you mean: 'grad_cam'?"
    assert not hasattr(fa, "_dataset")


def test_all_is_sorted_and_complete() -> None:
    assert list(fa.__all__) == sorted(fa.__all__)
    public = {name for name, value in vars(fa).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public - {"TYPE_CHECKING"} == set(fa.__all__)


def test_what_dir_and_help_show() -> None:
    assert dir(fa) == sorted({*fa.__all__, "viz", "dataset", "masks", "metrics", "rules", "__version__"})
    assert all(hasattr(fa, name) for name in dir(fa))
    text = pydoc.plain(pydoc.render_doc(fa))
    before = text[: text.index("PACKAGE CONTENTS")]
    assert "fa.integrated_gradients(model, x, target=1)" in before
    assert not re.search(r"\b_[a-z]", before)


# What its documentation says.

#: Where an argument means something else than in all other functions: these share a sentence of their own.
OTHERWISE: dict[str, list[set[str]]] = {
    "baselines": [  # a distribution; a value at the site
        {"deep_lift_shap", "gradient_shap"},
        {"feature_ablation", "game", "shapley", "occlusion", "lime"},
    ],
    "rules": [{"under"}],  # where they are the first argument, what they are
    "n_samples": [{"shapley"}, {"lime"}],  # coalitions, in all
    "chunk_size": [{"each_target"}],  # backward passes
    "layer": [{"input_of", "output_of"}, {"neuron"}],  # one place
    "target": [{"score"}],  # where it is explained
    "mode": [{"interpolate"}],  # likewise
    "method": [{"at_input"}, {"interpolate"}, {"mean_over_baselines"}],  # not any method, or not only
}
FUNCTIONS = [name for name in fa.__all__ if name not in ("Game", "Split")]
METRICS = [f"metrics.{name}" for name in fa.metrics.__all__ if name != "Curve"]
#: Which sentences metrics have besides those of the functions above: where an argument is one of metrics alone, or another.
OF_METRICS = {"model", "x", "baselines", "method", "feature_mask", "n_samples", "multiply_by_inputs", "normalize", "chunk_size"}


def told(name: str) -> dict[str, str]:
    """What the documentation of a function says of each argument, whole, in its order."""
    doc = inspect.getdoc(attrgetter(name)(fa)) or ""
    arguments = doc.split("Args:\n")[1].split("\n\n")[0]
    return {found[1]: " ".join(found[2].split()) for found in re.finditer(r"^    (\w+): (.+(?:\n {5,}.+)*)", arguments, re.M)}


@pytest.mark.parametrize("name", [*FUNCTIONS, *METRICS])
def test_documentation(name: str) -> None:
    """Every public function says what it takes, in its order, what it returns and raises, with an example."""
    function = attrgetter(name)(fa)
    doc = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:\n    >>> "):
        assert section in doc or (section == "Returns:" and name in ("input_of", "output_of", "neuron")), section
    assert list(told(name)) == list(inspect.signature(function).parameters)


def test_shared_arguments_have_the_same_sentences() -> None:
    sentences: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in FUNCTIONS:
        for argument, sentence in told(name).items():
            sentences[argument][sentence].add(name)
    for argument, found in sentences.items():
        apart = OTHERWISE.get(argument, [])
        everybody = set().union(*found.values())
        expected = [*apart, everybody.difference(*apart)]
        assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected)), (argument, dict(found))
    assert set(OTHERWISE) <= set(sentences)
    of_metrics: defaultdict[str, set[str]] = defaultdict(set)
    for name in METRICS:
        for argument, sentence in told(name).items():
            if sentence not in sentences.get(argument, ()):
                of_metrics[argument].add(sentence)
    for argument in set(of_metrics) & set(sentences):
        assert argument in OF_METRICS, (argument, of_metrics[argument])
    assert {name for name, found in of_metrics.items() if len(found) > 1} <= {"kind", "method", "model", "x"}


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
    codes: list[Any] = [method.__code__ for method in methods]  # type: ignore[attr-defined]  # methods are plain functions, typed by a protocol
    assert len({id(code) for code in codes}) == len(codes)


def test_version_is_one_place() -> None:
    """In `funattr/__init__.py`, where the build finds it: nothing else spells it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", fa.__version__)
    project = (ROOT.parent / "pyproject.toml").read_text()
    assert re.search(r'^dynamic = \[.*"version".*\]$', project, re.M)
    assert '[tool.hatch.version]\npath = "funattr/__init__.py"' in project
    texts = [ROOT.parent / "pyproject.toml", ROOT.parent / "README.md", ROOT.parent / "docs" / "conf.py", *ROOT.rglob("*.py")]
    assert [path.relative_to(ROOT.parent).as_posix() for path in texts if fa.__version__ in path.read_text()] == [
        "funattr/__init__.py"
    ]
