"""Run the model matrix at its full size, and write the table in docs/models.md.

    python scripts/model_matrix.py [--quick] [--only NAME] [--family WORD ...] [--keep FILE] [--minutes M] [--out PAGE]

The tests run a part of it (`tests/laws/test_matrix.py`). Here: every kind of attention at every place, every other layer that
runs once (one of each kind), and more targets. `--quick` leaves that out. Half an hour to an hour on one core; `--family`
runs the methods of one table, and leaves the others on the page as they are. In pieces: `--keep FILE` notes what a model gave
and does not run it again, at the same commit; `--minutes M` begins with no further model after that time. The page is written
when all models have run. What stands below the tables, from "Also tried" on, is not of this script, and stays.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.matrix import REASONS, ROWS, SEQUENTIAL, UNMET, Question, more_sites, more_targets, tolerance  # noqa: E402  after the path
from tests.matrix_nets import NETS, Net  # noqa: E402  after the path

COALITIONS, RELEVANCE = "Coalitions and windows", "Relevance"
FAMILIES = {
    "Value and gradient": 0,
    "Class activation maps": 0,
    "Rules for the backward pass": 0,
    "Along a path": 0,
    "Without a feature": 0,
    "Combinators": 0,
    COALITIONS: 0,
    RELEVANCE: 0,
}
NOTES = {
    "ids": "The input holds token ids only: there is no gradient and no path in the input (a `TypeError` says so). Methods "
    "that need one run on embeddings as the input, in the rows so named.",
    "relu": "The model has no ReLU: the rule would change nothing (a `ValueError`).",
    "space": "The value at the place has no spatial dimensions like the input's, or is several tensors (a `ValueError`).",
    "rows": "The value at the place has no row for each example: windows cut out of the batch, the state of an LSTM, a table "
    "of position embeddings (a `ValueError`).",
}

ABOUT = {
    COALITIONS: """\
Of up to four players, against every coalition, one example and one coalition at a time; windows of half of the last dimension.

""",
    RELEVANCE: """\
Rules `epsilon`, for every model the same: what `lrp` gives, with what `absorbed` says is kept by operations, sums to the score
of each example (of all, where they share a tensor at the place).

""",
}

#: What is not of this script, below.
REST = "\n## Also tried\n"


def family(name: str) -> str:
    if "(" in name:
        return "Combinators"
    if name.endswith(("_cam", "plus_plus")):
        return "Class activation maps"
    if name in ("guided_backprop", "deconvnet", "deep_lift", "deep_lift_shap"):
        return "Rules for the backward pass"
    if name in ("integrated_gradients", "internal_influence", "conductance", "gradient_shap"):
        return "Along a path"
    if name in ("shapley", "lime", "occlusion"):
        return COALITIONS
    if name == "lrp":
        return RELEVANCE
    return "Without a feature" if name == "feature_ablation" else "Value and gradient"


class Result(NamedTuple):
    row: str
    error: float
    reason: str | None
    told: tuple[str, ...]


def questions(net: Net, quick: bool) -> Iterator[tuple[str, str, Question]]:
    for attention in net.attention:
        for kind in net.sites:
            yield attention, kind, Question(net, attention, kind)
            for target in [] if quick or attention != net.attention[0] else more_targets(net):
                yield attention, kind, Question(net, attention, kind, target)
        others = {} if quick or attention != net.attention[0] else more_sites(net, attention)
        for name in others:
            yield attention, name, Question(net._replace(sites=others), attention, name)


def results(net: Net, quick: bool, wrong: list[str], asked: Sequence[str] = ("",)) -> list[Result]:
    found = []
    for attention, kind, question in questions(net, quick):
        for row in ROWS:
            if not question.applies(row) or not any(word in family(row.name) for word in asked):
                continue
            where = f"{net.name}, {attention} attention, {kind}, {row.name}"
            try:
                answer = question.ask(row)
            except (Exception, pytest.fail.Exception) as error:  # the latter where nothing was refused
                wrong.append(f"{where}: {type(error).__name__}: {error}")
                continue
            if answer.reason is None and not answer.compared:
                wrong.append(f"{where}: compared with nothing")
                continue
            if not answer.error < tolerance(row, net, attention):
                wrong.append(f"{where}: off by {answer.error:.1e}")
                continue
            found.append(Result(row.name, answer.error, answer.reason, answer.warnings))
    return found


def cell(found: Sequence[Result]) -> str:
    """ "ok", "n/a" or "ok" at some places, with the numbers of the notes that say why."""
    notes = list(NOTES)
    reasons = sorted({r.reason for r in found if r.reason is not None})
    marks = " ".join(f"[{notes.index(reason) + 1}]" for reason in reasons)
    text = "ok" if any(r.reason is None for r in found) else "n/a"
    return f"{text} {marks}".strip()


def table(name: str, found: dict[str, list[Result]], quick: bool) -> list[str]:
    """The section of one family."""
    found = {model: [r for r in results if family(r.row) == name] for model, results in found.items()}
    rows = [row.name for row in ROWS if family(row.name) == name]
    lines = ["", f"## {name}", "", *textwrap.wrap(count_of(found, quick), 120), "", *ABOUT.get(name, "").splitlines()]
    if name == RELEVANCE:
        unmet = sorted({told for results in found.values() for r in results for told in r.told if told.startswith(UNMET)})
        lines += [*unmet, ""] if unmet else ["No operation was left without a rule.", ""]
    lines += ["| model | " + " | ".join(f"`{row}`" for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for model, results in found.items():
        lines.append(f"| {model} | " + " | ".join(cell([r for r in results if r.row == row]) for row in rows) + " |")
    return lines


def count_of(found: dict[str, list[Result]], quick: bool) -> str:
    """What a run of one family says of itself."""
    every = [r for results in found.values() for r in results]
    right, made = [r for r in every if r.reason is None], time.strftime("%d %B %Y").lstrip("0")
    where = " (the places with a name)" if quick else ""
    return (
        f"{len(every):,} combinations{where}, {len(right):,} of them right and the others impossible; the largest error "
        f"{max(r.error for r in right):.0e} (torch {torch.__version__.split('+')[0]}, {made})."
    )


def renewed(text: str, name: str, found: dict[str, list[Result]], quick: bool) -> str:
    """The page with another section of that name, at its place; at the end of the tables where there was none."""
    lines, head = table(name, found, quick), f"\n## {name}\n"
    start = text.index(head) if head in text else text.index("\n## Notes\n")
    stop = text.index("\n## ", start + 1) if head in text else start
    return text[:start] + "\n".join(lines) + "\n" + text[stop:]


def summed(text: str) -> str:
    """The page with what all its tables say together."""
    said = re.findall(r"^([\d,]+) combinations[^,]*, ([\d,]+) of them right", text, re.M)
    every, right = (sum(int(one.replace(",", "")) for one in column) for column in zip(*said))
    lines = (
        f"- {every:,} combinations of model, place, target and method: {right:,} right, compared number by number;",
        f"  {every - right:,} impossible, with a `ValueError` or `TypeError` that says why.",
        "- The largest error, relative to the largest value, is said of each table, with its day; for DeepLIFT it is that of",
        "  float32, in which eager attention and some norms compute, whatever the dtype.",
        f"- torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}.",
    )
    start, stop = text.index("\n- ") + 1, text.index("\n\n*ok*: right")
    return text[:start] + "\n".join(lines) + text[stop:]


def page(found: dict[str, list[Result]], quick: bool) -> str:
    assert set(NOTES) == set(REASONS)
    more = "" if quick else ", and one of every other kind of layer"
    lines = [
        "# Models",
        "",
        "Every method, at places inside the architectures that people use (random weights, small sizes, float64), against a",
        "reference that loops over examples, nodes of a path and groups of features, with plain hooks and nothing of funattr:",
        "`tests/reference`; DeepLIFT against one that goes back, kernel by kernel, along two recorded runs: `lifted.py` there.",
        "The places are the input, the embeddings, a residual branch, a shortcut, attention and inside it, a late",
        f"layer{more}; transformers run with sdpa and with eager attention. Models and places are",
        "in `tests/matrix_nets.py`, `scripts/model_matrix.py` writes this page, and a part of it runs with the tests.",
        "",
        "- ",  # see `summed`
        "",
        "*ok*: right at every place. *ok [n]*: right where it is possible; note n says where it is not. *n/a [n]*: impossible.",
    ]
    for name in FAMILIES:
        lines += table(name, found, quick)
    lines += ["", "## Notes", ""] + [f"{i + 1}. {text}" for i, text in enumerate(NOTES.values())]
    slow = [model for model, results in found.items() if any(told.startswith(SEQUENTIAL) for r in results for told in r.told)]
    lines += [
        "",
        "`torch.func.vmap` cannot run these, and the steps of path and ablation methods run one after another there, with a",
    ]
    lines += [f"warning that says so: {', '.join(slow)}."] if slow else ["warning: none."]
    return "\n".join(lines) + "\n"


class Kept:
    """What ran before, of the same commit and the same question, in a file."""

    def __init__(self, path: Path | None, asked: Sequence[str], quick: bool):
        self.path, self.key = path, json.dumps([commit(), list(asked), quick])
        self.all = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, model: str) -> list[Result] | None:
        found = self.all.get(self.key, {}).get(model)
        return None if found is None else [Result(row, error, reason, tuple(told)) for row, error, reason, told in found]

    def put(self, model: str, found: list[Result]) -> None:
        if self.path is not None:
            self.all.setdefault(self.key, {})[model] = found
            self.path.write_text(json.dumps(self.all))


def commit() -> str:
    """The last commit that touched the package or what asks it."""
    asked = ["git", "log", "-1", "--format=%h", "--", "funattr", "tests"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def asked_all(options: argparse.Namespace) -> dict[str, list[Result]]:
    """What every model gave; exits where something is wrong, or time is up."""
    found: dict[str, list[Result]] = {}
    every: list[str] = []
    kept, begun = Kept(options.keep, options.family, options.quick), time.monotonic()
    for net in NETS:
        if options.only not in net.name:
            continue
        before = kept.get(net.name)
        if before is not None:
            found[net.name] = before
            continue
        if options.minutes and time.monotonic() - begun > 60 * options.minutes:
            sys.exit(f"Time is up before {net.name}: run it again.")
        wrong: list[str] = []
        found[net.name] = results(net, options.quick, wrong, options.family or [""])
        print(*wrong, sep="\n", end="\n" if wrong else "")
        every += wrong
        if not wrong:
            kept.put(net.name, found[net.name])
        worst = max((r.error for r in found[net.name]), default=0.0)
        print(f"{net.name}: {len(found[net.name])} combinations, worst {worst:.1e}", flush=True)
    if every:
        sys.exit(f"{len(every)} combinations are wrong.")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the places and the target that the tests use")
    parser.add_argument("--only", default="", help="models whose name holds this; writes nothing")
    parser.add_argument("--family", nargs="*", default=[], help="only the tables whose headings hold one of these")
    parser.add_argument("--keep", type=Path, help="a file that notes what ran, which does not run again")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin with no further model after this time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = asked_all(options)
    if options.only:
        return
    text = options.out.read_text() if options.out.exists() else REST
    if options.family:
        for name in FAMILIES:
            if any(word in name for word in options.family):
                text = renewed(text, name, found, options.quick)
    else:
        text = page(found, options.quick) + text[text.index(REST) :]
    options.out.write_text(summed(text))


if __name__ == "__main__":
    main()
