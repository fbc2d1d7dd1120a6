"""The model matrix: every method at places inside the architectures that people use, against loops of plain autograd.

`scripts/model_matrix.py` runs more of it, and writes the table in docs/models.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import funattr as fa

from ..breadth import breadth
from ..matrix import GAMES, ROWS, SEQUENTIAL, Question, relative, tolerance
from ..matrix_nets import NETS, Net
from ..methods import Row
from ..reference import leaves


def cases() -> list[tuple[Net, str, str]]:
    """Everything with the first kind of attention; with the others, what depends on it."""
    return [
        (net, attention, kind)
        for net in NETS
        for attention in net.attention
        for kind in net.sites
        if attention == net.attention[0] or kind in ("attention", "inside")
    ]


#: The last token is found by comparing ids, and is another one at the baseline.
MASKS = "DeepLIFT: masks or indices of"


def first(case: tuple[Net, str, str]) -> bool:
    """Of each net, its first place."""
    net, attention, kind = case
    return attention == net.attention[0] and kind == next(iter(net.sites))


@pytest.mark.parametrize(
    ("net", "attention", "kind"), breadth(cases(), first, several=True), ids=[f"{n.name}-{a}-{k}" for n, a, k in cases()]
)
def test_every_method(net: Net, attention: str, kind: str) -> None:
    check(net, attention, kind, [row for row in ROWS if row.name not in GAMES])


@pytest.mark.full
@pytest.mark.parametrize("net", NETS, ids=[net.name for net in NETS])
def test_coalitions_windows_and_relevance(net: Net) -> None:
    for kind in net.sites:
        check(net, net.attention[0], kind, [row for row in ROWS if row.name in GAMES])


#: One of each kind.
RULES: dict[str, Any] = {
    "attn_lrp": fa.rules.attn_lrp(),
    "cp_lrp": fa.rules.cp_lrp(),
    "epsilon_plus_flat": fa.rules.epsilon_plus_flat(),
    "alpha_beta": fa.rules.alpha_beta(),
    "gamma": fa.rules.gamma(),
}


@pytest.mark.full
@pytest.mark.parametrize("net", NETS, ids=[net.name for net in NETS])
def test_relevance_and_what_is_absorbed_are_the_score(net: Net) -> None:
    """Under every kind of set at two places, and under one at all. No operation is without a rule: a warning fails."""
    for i, kind in enumerate(net.sites):
        question = Question(net, net.attention[0], kind)
        if question.integers and question.place is None:
            continue
        for name, rules in RULES.items() if i < 2 else [("attn_lrp", RULES["attn_lrp"])]:
            relevance = fa.lrp(question.called, question.x, layer=question.site.layer, target=question.target, rules=rules)
            total, score = question.conserved(leaves(relevance), rules)
            assert relative(total, score, float(score.abs().max())) < 1e-9, (kind, name)


def check(net: Net, attention: str, kind: str, rows: Sequence[Row]) -> None:
    """Every method at one place; `lrp` meets no operation without a rule."""
    question = Question(net, attention, kind)
    wrong = []
    for row in rows:
        if not question.applies(row):
            continue
        try:
            found = question.ask(row)
        except Exception as error:
            wrong.append((row.name, f"{type(error).__name__}: {error}"))
            continue
        if found.reason is None and not found.compared:
            wrong.append((row.name, "is compared with nothing"))
        if not found.error < tolerance(row, net, attention):
            wrong.append((row.name, f"is off by {found.error:.1e}"))
        expected = (SEQUENTIAL, MASKS) if row.name.startswith("deep_lift") else (SEQUENTIAL,)
        if any(not told.startswith(expected) for told in found.warnings):
            wrong.append((row.name, f"warns {found.warnings}"))
    assert not wrong


def test_the_table_in_the_docs_has_every_model_and_every_method() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    lines = text.partition("## How a language model was loaded")[0].splitlines()  # the rest is of another script
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    heads = {name.strip("`") for row in cells if row[0] == "model" for name in row[1:]}
    assert heads == {row.name for row in ROWS}
    models = {row[0] for row in cells} - {"model", "---"}
    assert models == {net.name for net in NETS}
