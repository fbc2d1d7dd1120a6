"""The documentation: its examples run, its links lead somewhere, and it leaves nothing out."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
import funattr.masks
import funattr.metrics
import funattr.rules
import funattr.viz

from ..breadth import breadth
from ..laws import test_laws, test_references
from ..methods import Row, row_id
from ..models import CASES, Case
from ..transforms import test_compiled, test_differentiated, test_vmapped
from ..where import test_precision

ROOT = pathlib.Path(fa.__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
GUIDE = ROOT / "docs" / "own-methods.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def page_id(page: pathlib.Path) -> str:
    return page.stem


def run(page: pathlib.Path, **given: Any) -> dict[str, Any]:
    """Run the Python blocks of a page in order, in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": page.stem, **given}
    text, dtype = page.read_text(), torch.get_default_dtype()
    try:
        for block in BLOCK.finditer(text):
            before = text.count("\n", 0, block.start(1))  # so that a traceback has the line of the page
            source = "\n" * before + block[1]
            for statement in ast.parse(source).body:
                check_shape(done(statement, names, page), source.splitlines()[(statement.end_lineno or 1) - 1])
    finally:
        torch.set_default_dtype(dtype)
    return names


def done(statement: ast.stmt, names: dict[str, Any], page: pathlib.Path) -> Any:
    """Run a statement: what it gives, or assigns to one name."""
    if isinstance(statement, ast.Expr):
        return eval(compile(ast.Expression(statement.value), str(page), "eval"), names)
    exec(compile(ast.Module([statement], []), str(page), "exec"), names)
    return names.get(ast.unparse(statement.targets[0])) if isinstance(statement, ast.Assign) else None


def check_shape(value: Any, line: str) -> None:
    """What a comment says of the shape is so."""
    told = re.search(r"  # \[(\d[\d, ]*)\]", line)
    if told is not None and isinstance(value, Tensor):
        assert list(value.shape) == [int(size) for size in told[1].split(",")], line


# Examples


@pytest.mark.parametrize("page", breadth(PAGES, lambda page: page.stem != "pictures"), ids=page_id)
def test_examples_run(page: pathlib.Path) -> None:
    run(page)


class Anything(nn.Module):
    """A model for the README, which names the layers of several: it takes images, and it takes words."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Embedding(20, 6)
        self.conv1 = nn.Conv2d(3, 6, 3)
        for i in range(1, 5):
            self.add_module(f"layer{i}", nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.GELU()) for _ in range(4))
        self.fc1 = nn.Linear(6, 8)
        self.fc2 = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = self.conv1(x)
            for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = layer(x)
            x = x.mean((2, 3))
        else:
            x = self.bert.embeddings(x).mean(1)
        for block in self.blocks:
            x = block(x)
        return self.fc2(F.relu(self.fc1(x)))


def test_examples_of_the_readme_run() -> None:
    names = run(
        ROOT / "README.md",
        torch=torch,
        model=Anything().eval(),
        x=torch.randn(2, 3, 8, 8),
        ids=torch.randint(0, 20, (2, 7)),
    )
    assert names["explain"](names["model"], names["x"], layer="layer4", target=3).shape == (2, 3, 8, 8)


# The guide keeps its promises: at most ten lines, and the laws that shipped methods are held to.


def functions_of(page: pathlib.Path) -> Iterator[ast.FunctionDef]:
    for block in BLOCK.finditer(page.read_text()):
        yield from (node for node in ast.parse(block[1]).body if isinstance(node, ast.FunctionDef))


def test_ten_lines() -> None:
    functions = list(functions_of(GUIDE))
    assert {"evidence_cam", "path_gradient", "channel_alone", "own_grad_cam"} <= {function.name for function in functions}
    for function in functions:
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        assert function.end_lineno is not None
        assert function.end_lineno - first + 1 <= 10, function.name


def from_guide(name: str) -> Callable[..., Any]:
    """A method as it stands on the page, alone: without the page's examples."""
    names: dict[str, Any] = {"torch": torch, "fa": fa}
    found = {
        target: node
        for block in BLOCK.finditer(GUIDE.read_text())
        for node in ast.parse(block[1]).body
        for target in defines(node)
    }
    exec(compile(ast.Module([found[name]], []), str(GUIDE), "exec"), names)
    method: Callable[..., Any] = names[name]
    return method


def defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef) else []


def evidence(value: Tensor, gradient: Tensor) -> Tensor:
    """The formula of the guide's map, channel by channel."""
    total = torch.zeros_like(value[:, :1])
    for c in range(value.shape[1]):
        product = value[:, c : c + 1] * gradient[:, c : c + 1]
        total = total + torch.where(product > 0, product, 0)
    return total


GUIDED = [
    Row(name, from_guide(name), evidence, at_input=False, integers=False, batch_first=True)
    for name in ("evidence_cam", "composed")
]
REST = [
    Row(name, from_guide(name), None, at_input=False, integers=False, batch_first=True)
    for name in ("path_gradient", "channel_alone")
]


def named(*names: str) -> list[Case]:
    return [case for case in CASES if case.name in names]


@pytest.mark.parametrize("row", GUIDED + REST, ids=row_id)
def test_each_example_is_explained_alone(row: Row) -> None:
    test_laws.test_each_example_is_explained_alone(row=row)


@pytest.mark.parametrize("row", GUIDED, ids=row_id)
def test_targets_are_one_idea_in_many_spellings(row: Row) -> None:
    test_laws.test_targets_are_one_idea_in_many_spellings(row=row)


@pytest.mark.parametrize("row", GUIDED + REST, ids=row_id)
def test_every_spelling_of_the_same_model_gives_the_same(row: Row) -> None:
    test_laws.test_every_spelling_of_the_same_model_gives_the_same(row)


@pytest.mark.parametrize("row", GUIDED, ids=row_id)
@pytest.mark.parametrize("case", named("mlp", "residual", "tokens", "encoder", "writes"), ids=lambda case: case.name)
def test_the_model_is_left_as_found_and_the_formula_holds(case: Case, row: Row) -> None:
    test_laws.test_the_model_is_left_as_found(case, row)
    test_references.test_formula(case, row)


@pytest.mark.full
@pytest.mark.parametrize("row", GUIDED + REST, ids=row_id)
def test_compiled_and_mapped(row: Row) -> None:
    for case in named("conv", "residual") if row in GUIDED else named("conv"):
        test_compiled.test_compiled_equals_eager(case, row)
        test_vmapped.test_vmapped_equals_looped(case, row)


@pytest.mark.parametrize("row", GUIDED, ids=row_id)
def test_differentiated_and_in_half_precision(row: Row) -> None:
    for case in named("residual", "tokens"):
        test_differentiated.test_differentiable(case, row)
    for dtype in (torch.float16, torch.bfloat16):
        test_precision.test_half_precision(row, dtype)
    test_precision.test_inference_mode(row)


# Nothing is left out, and links lead somewhere.

LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES], ids=page_id)
def test_links_lead_to_files(page: pathlib.Path) -> None:
    """Sphinx checks those between pages, and to headings; GitHub shows the README and every page on its own."""
    links = [link[1] for link in LINK.finditer(page.read_text()) if not re.match(r"\w+:", link[1])]
    missing = [link for link in links if not (page.parent / link).is_file()]
    assert not missing
    assert links or page.stem in ("CHANGELOG", "api", "changelog", "from-captum", "models", "versions")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=page_id)
def test_files_that_are_named_exist(page: pathlib.Path) -> None:
    for name in re.findall(r"`((?:funattr|tests|docs|scripts|examples|benchmarks|\.ci)/[^`\s]*)`", page.read_text()):
        assert list(ROOT.glob(name.rstrip("/"))), name


def documented() -> list[str]:
    """The names in the reference, each with its module."""
    names, module = [], ""
    for directive, argument in re.findall(r"^\s*\.\. (\w+):: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M):
        if directive == "currentmodule":
            module = argument
        elif directive in ("autofunction", "autoclass"):
            names.append(f"{module}.{argument.removesuffix('()')}")
    return names


def test_the_reference_is_complete() -> None:
    modules = (fa, funattr.masks, funattr.metrics, funattr.rules, funattr.viz, fa.dataset)
    public = [f"{module.__name__}.{name}" for module in modules for name in module.__all__]
    assert sorted(documented()) == sorted(public)


def headings(page: str) -> str:
    return "\n".join(re.findall(r"^(?:#+|\|) .*$", (ROOT / "docs" / page).read_text(), re.M))


def test_every_method_and_every_combinator_has_its_place() -> None:
    """Methods take a model and an input; combinators take a method, and have a heading on their page."""
    methods, combinators = headings("methods.md"), headings("combinators.md")
    for name in fa.__all__:
        parameters = list(inspect.signature(getattr(fa, name)).parameters)
        if parameters[:1] == ["method"] and name != "export":
            assert f"### {name}\n" in combinators + "\n", name
        elif parameters[:2] == ["model", "x"] and name != "value_and_gradient":
            assert re.search(rf"\b{name}\b", methods), name


def test_commands_are_those_of_the_readme() -> None:
    readme = re.findall(r"<!-- \w+ -->\n```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    start = re.findall(r"^```sh\n(.*?)\n```", (ROOT / "docs" / "index.md").read_text(), re.M | re.S)
    assert len(readme) == 2
    assert start[1:] == readme


@pytest.mark.parametrize("figure", ["idea", "rule"])
def test_a_figure_is_what_its_script_draws(figure: str, tmp_path: pathlib.Path) -> None:
    spec = importlib.util.spec_from_file_location(f"draw_{figure}", ROOT / "scripts" / f"draw_{figure}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path / f"{figure}.png")
    drawn, kept = (
        matplotlib.image.imread(path) for path in (tmp_path / f"{figure}.png", ROOT / "docs" / "pictures" / f"{figure}.png")
    )
    assert drawn.shape == kept.shape
    assert drawn.std() > 0.05
    # Versions of matplotlib differ in the edges of letters, which does not show in the mean of a square.
    rows, columns = (size // 10 for size in drawn.shape[:2])
    squares = [p[: rows * 10, : columns * 10].reshape(rows, 10, columns, 10, -1).mean((1, 3)) for p in (drawn, kept)]
    assert np.abs(squares[0] - squares[1]).max() < 0.1


def test_pages_are_listed_for_people_and_for_programs() -> None:
    """Each page is in a group of the links on the left, and in ``llms.txt``, under the same group and its own title."""
    start = (ROOT / "docs" / "index.md").read_text()
    groups = {
        caption: ["index" if name == "Start <self>" else name for name in names.split("\n")]
        for caption, names in re.findall(r"```\{toctree\}\n:hidden:\n:caption: (\w+)\n\n(.*?)\n```", start, re.S)
    }
    assert sorted(name for names in groups.values() for name in names) == [page.stem for page in PAGES]
    told: dict[str, list[tuple[str, str]]] = {}
    for line in (ROOT / "docs" / "llms.txt").read_text().splitlines():
        if line.startswith("## "):
            told[line[3:]] = []
        elif line.startswith("- "):
            entry = re.fullmatch(r"- \[(.+)\]\((.+)\.md\): .+", line)
            assert entry, line
            list(told.values())[-1].append((entry[2], entry[1]))
    assert {group: [name for name, _ in entries] for group, entries in told.items()} == groups
    for name, title in (entry for entries in told.values() for entry in entries):
        heading = (ROOT / "docs" / f"{name}.md").read_text().split("\n")[0]
        assert heading in (f"# {title}", "# funattr") or name == "changelog", name
