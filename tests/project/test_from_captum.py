"""docs/from-captum.md is run: each row of its tables against Captum, and every class of Captum is named in it."""

from __future__ import annotations

import pathlib
import re
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

import captum.attr
import numpy as np
import pytest
import torch

import funattr as fa

from .. import reference

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-captum.md").read_text()


class Entry(NamedTuple):
    """A row of a table "Captum | funattr"."""

    captum: str
    funattr: str
    tolerance: float


def tables(header: str) -> Iterator[list[str]]:
    """The cells of the rows of every table that begins with `header`."""
    inside = False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            inside = False
        elif inside:
            if not re.fullmatch(r"[|-]+", line):
                yield [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        else:
            inside = line.startswith(header)


def entry(cells: list[str]) -> Entry:
    """The two expressions, each in backticks and alone in its cell, and how closely they agree."""
    captum, funattr, note = cells
    expressions = [re.fullmatch(r"`([^`]+)`", cell) for cell in (captum, funattr)]
    assert all(expressions), f"not an expression in backticks: {cells}"
    told = re.search(r"\bto (\de-\d+)\b", note)
    left, right = (found[1] for found in expressions if found)
    return Entry(left, right, float(told[1]) if told else 1e-9)


ROWS = [entry(cells) for cells in tables("| Captum | funattr |")]


def defined() -> dict[str, Any]:
    """What the code blocks of the page define. They also set the default dtype, which is put back."""
    found: dict[str, Any] = {}
    dtype = torch.get_default_dtype()
    try:
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
            exec(block, found)
        found["dtype"] = torch.get_default_dtype()
    finally:
        torch.set_default_dtype(dtype)
    return found


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    found, dtype = defined(), torch.get_default_dtype()
    torch.set_default_dtype(found["dtype"])
    yield found
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", "Setting forward, backward hooks")
        warnings.filterwarnings("ignore", "Input Tensor")
        yield


def run(expression: str, names: dict[str, Any]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    np.random.seed(0)  # where Captum draws baselines
    code: CodeType = compile(expression, "from-captum.md", "eval")
    return [leaf.detach() for leaf in reference.leaves(eval(code, dict(names)))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.captum)
def test_row(row: Entry, names: dict[str, Any]) -> None:
    assert "fa." not in row.captum
    theirs, ours = run(row.captum, names), run(row.funattr, names)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        assert a.dtype == torch.float64
        assert b.abs().max() > 0, "zeros prove nothing"
        assert (a - b).abs().max() <= row.tolerance * b.abs().max()


def test_the_page_keeps_its_word(names: dict[str, Any]) -> None:
    """Recipes are short, tables are plain, and the tests that it names are there."""
    assert len(ROWS) > 50
    for name in ("alike", "through"):
        body = re.search(rf"^def {name}\(.*?(?=^\S|^```)", PAGE, re.M | re.S)
        assert body is not None
        code = [line for line in body[0].splitlines()[1:] if line.strip() and '"""' not in line]
        assert len(code) <= 10, name
    assert "<" not in re.sub(r"```.*?```|`[^`]*`", "", PAGE, flags=re.S)  # no HTML
    differences = list(tables("| what | Captum 0.9.0 | funattr | shown in |"))
    assert len(differences) > 20
    for cells in differences:
        assert len(cells) == 4
        shown = re.findall(r"`(tests/[\w/]+\.py)`", cells[3])
        assert shown, cells
        assert all((ROOT / path).is_file() for path in shown), cells


def test_every_class_of_captum_is_named(names: dict[str, Any]) -> None:
    """In a row, or among those that are not covered; a new one turns this red."""
    classes = {
        name
        for name, value in vars(captum.attr).items()
        if isinstance(value, type) and issubclass(value, captum.attr.Attribution) and not name.startswith("_")
    }
    assert len(classes) > 45
    rows = {name for row in ROWS for name in re.findall(r"\w+", row.captum)}
    section = PAGE.split("## Not covered")[1].split("\n## ")[0]
    reasons = [re.sub(r"\s+", " ", item) for item in re.findall(r"^- (.*?)(?=^- |\Z)", section, re.M | re.S)]
    excluded: set[str] = set()
    for item in reasons:
        listed, reason = item.split(": ", 1)
        assert reason.strip()
        excluded |= set(re.findall(r"`(\w+)`", listed))
    assert classes - rows == excluded


# Deliberate differences that are shown here.


def test_layer_feature_permutation_with_a_target(names: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="Cannot choose target column"):
        run("LayerFeaturePermutation(net, net.conv2).attribute(x[:2], 1)", names)


def test_noise_for_float64() -> None:
    """Whether the inputs that the model saw are all float32 numbers."""
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return (x**2).sum(1)

    def only_float32() -> bool:
        found = torch.cat(seen)
        seen.clear()
        assert found.any()
        return torch.equal(found.float().double(), found)

    x, dtype = torch.zeros(2, 3, dtype=torch.float64), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        captum.attr.NoiseTunnel(captum.attr.Saliency(model)).attribute(x)
        assert only_float32()
        fa.noise_tunnel(fa.saliency, chunk_size=1)(model, x)  # one by one: what vmap shows the model is gone afterwards
        assert not only_float32()
    finally:
        torch.set_default_dtype(dtype)


def test_conductance_at_relus(names: dict[str, Any]) -> None:
    theirs = run("LayerConductance(net, net.conv2).attribute(x, x0, t, n_steps=50)", names)[0]
    ours = run('fa.conductance(net, x, layer="conv2", baselines=x0, target=t, n_steps=50)', names)[0]
    limit = run(
        'fa.conductance(net, x, layer="conv2", baselines=x0, target=t, n_steps=1000, quadrature="riemann_middle")', names
    )[0]
    for found in (theirs, ours):
        assert 1.5e-2 < (found - limit).abs().max() / limit.abs().max() < 2.5e-2
