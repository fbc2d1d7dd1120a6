"""Run the model matrix at its full size, and write the table in docs/models.md.

    python scripts/model_matrix.py [--quick] [--only NAME] [--out docs/models.md]

The tests run a part of it (`tests/test_matrix.py`). Here: every kind of attention at every place, every other layer that runs
once (one of each kind), and more targets. `--quick` leaves that out. Ten to twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.matrix import REASONS, ROWS, Question, more_sites, more_targets, tolerance  # noqa: E402
from tests.matrix_nets import NETS, Net  # noqa: E402

FAMILIES = {
    "Value and gradient": 0,
    "Class activation maps": 0,
    "Rules for the backward pass": 0,
    "Along a path": 0,
    "Without a feature": 0,
    "Combinators": 0,
}
NOTES = {
    "ids": "The input holds token ids only: there is no gradient and no path in the input (a `TypeError` says so). Methods "
    "that need one run on embeddings as the input, in the rows so named.",
    "relu": "The model has no ReLU: the rule would change nothing (a `ValueError`).",
    "space": "The value at the place has no spatial dimensions like the input's, or is several tensors (a `ValueError`).",
    "rows": "The value at the place has no row for each example: windows cut out of the batch, the state of an LSTM (a "
    "`ValueError`).",
}

#: What another script writes below.
LOADED = "\n## How a language model was loaded\n"
#: Found by a sweep that is not part of the tests, once: with torch 2.13 and transformers 5.24.
ALSO = """
## Also tried

A sweep, not part of the tests, over 120 small configurations of further architectures of transformers (ALBERT to YOSO, Mamba,
mixtures of experts, DETR, Perceiver, speech, video, time series) and 93 nets written by hand in the styles of torchvision, timm
and papers, at up to eight places each, with the same references: 31,000 results were right, 4,800 refused in words. What it
found is put right and has tests. What stays:

- `deep_lift` warns that it is not complete where it has no rule (`topk` and `sort`, `scatter_reduce`, `grid_sample` with a grid
  that varies, `abs` of complex numbers, unpooling elsewhere) and at a model's own `autograd.Function` (Bloom, YOSO, SEW-D)
  or scripted code. It refuses mixtures of experts that loop over the experts chosen (Mixtral and Qwen2-MoE with
  `experts_implementation="eager"`).
- What a model detaches, `deep_lift` and gradients do not follow: a straight-through estimator, the codebook of a VQ-VAE.
  `deep_lift` warns of it, with what its sum misses.
- RWKV with its state, and the early layers of Reformer in eval mode, have no gradient in plain autograd either: pass
  `use_cache=False` to RWKV.
- In torch 2.13 on a CPU, the backward pass of batch norm in eval mode is wrong for a single example whose gradient comes from
  `flatten(2).transpose(1, 2)`, as in LeViT: plain autograd as well. Two examples are right.
- What a model keeps of a pass (in attributes, buffers, or arguments bound with `functools.partial`) is put back after each pass
  of a call; what it keeps elsewhere (a global, a closure, a file) is not seen. A model that counts its own passes counts none
  of a call's: count in a hook, or outside. Objects are followed six deep, but for those of torch and the standard library.
  Of parameters, those that `max_norm` rewrites are put back. Compiled, nothing is.
- Compiled, `integrated_gradients` and `feature_ablation` at a layer do not trace where the model updates a tensor from before
  the layer in place by what comes from it (`out += shortcut(x)`, at the shortcut). In eager they run.
"""


def family(name: str) -> str:
    if "(" in name:
        return "Combinators"
    if name.endswith(("_cam", "plus_plus")):
        return "Class activation maps"
    if name in ("guided_backprop", "deconvnet", "deep_lift", "deep_lift_shap"):
        return "Rules for the backward pass"
    if name in ("integrated_gradients", "internal_influence", "conductance", "gradient_shap"):
        return "Along a path"
    return "Without a feature" if name == "feature_ablation" else "Value and gradient"


class Result(NamedTuple):
    row: str
    error: float
    reason: str | None
    sequential: bool


def questions(net: Net, quick: bool) -> Iterator[tuple[str, str, Question]]:
    for attention in net.attention:
        for kind in net.sites:
            yield attention, kind, Question(net, attention, kind)
            for target in [] if quick or attention != net.attention[0] else more_targets(net):
                yield attention, kind, Question(net, attention, kind, target)
        others = {} if quick or attention != net.attention[0] else more_sites(net, attention)
        for name in others:
            yield attention, name, Question(net._replace(sites=others), attention, name)


def results(net: Net, quick: bool, wrong: list[str]) -> list[Result]:
    found = []
    for attention, kind, question in questions(net, quick):
        for row in ROWS:
            if not question.applies(row):
                continue
            where = f"{net.name}, {attention} attention, {kind}, {row.name}"
            try:
                answer = question.ask(row)
            except Exception as error:
                wrong.append(f"{where}: {type(error).__name__}: {error}")
                continue
            if answer.reason is None and not answer.compared:
                wrong.append(f"{where}: compared with nothing")
                continue
            if not answer.error < tolerance(row, net, attention):
                wrong.append(f"{where}: off by {answer.error:.1e}")
                continue
            found.append(Result(row.name, answer.error, answer.reason, bool(answer.warnings)))
    return found


def cell(found: Sequence[Result], notes: list[str]) -> str:
    """ "ok", "n/a" or "ok" at some places, with the numbers of the notes that say why."""
    reasons = sorted({r.reason for r in found if r.reason is not None})
    marks = " ".join(f"[{notes.index(reason) + 1}]" for reason in reasons)
    text = "ok" if any(r.reason is None for r in found) else "n/a"
    return f"{text} {marks}".strip()


def page(found: dict[str, list[Result]], quick: bool) -> str:
    every = [r for results in found.values() for r in results]
    right = [r for r in every if r.reason is None]
    lifted = [r.error for r in right if r.row.startswith("deep_lift")]
    others = [r.error for r in right if not r.row.startswith("deep_lift")]
    notes = [name for name in NOTES if any(r.reason == name for r in every)]
    assert set(notes) <= set(REASONS)
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
        f"- {len(every):,} combinations of model, place, target and method: {len(right):,} right, compared number by number;",
        f"  {sum(r.reason is not None for r in every):,} impossible, with a `ValueError` or `TypeError` that says why.",
        f"- The largest error, relative to the largest value: {max(others, default=0):.0e}; for DeepLIFT",
        f"  {max(lifted, default=0):.0e}, where eager attention and some norms compute in float32, whatever the dtype.",
        f"- torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}.",
        "",
        "*ok*: right at every place. *ok [n]*: right where it is possible; note n says where it is not. *n/a [n]*: impossible.",
    ]
    for name in FAMILIES:
        rows = [row.name for row in ROWS if family(row.name) == name]
        lines += [
            "",
            f"## {name}",
            "",
            "| model | " + " | ".join(f"`{row}`" for row in rows) + " |",
            "|---" * (len(rows) + 1) + "|",
        ]
        for model, results in found.items():
            cells = [cell([r for r in results if r.row == row], notes) for row in rows]
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines += ["", "## Notes", ""] + [f"{i + 1}. {NOTES[name]}" for i, name in enumerate(notes)]
    slow = [model for model, results in found.items() if any(r.sequential for r in results)]
    lines += [
        "",
        "`torch.func.vmap` cannot run these, and the steps of path and ablation methods run one after another there, with a",
    ]
    lines += [f"warning that says so: {', '.join(slow)}."] if slow else ["warning: none."]
    return "\n".join(lines) + "\n" + ALSO


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the places and the target that the tests use")
    parser.add_argument("--only", default="", help="models whose name holds this; writes nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, list[Result]] = {}
    every: list[str] = []
    for net in NETS:
        if options.only in net.name:
            wrong: list[str] = []
            found[net.name] = results(net, options.quick, wrong)
            print(*wrong, sep="\n", end="\n" if wrong else "")
            every += wrong
            print(
                f"{net.name}: {len(found[net.name])} combinations, worst {max(r.error for r in found[net.name]):.1e}",
                flush=True,
            )
    if every:
        sys.exit(f"{len(every)} combinations are wrong.")
    if not options.only:
        before = options.out.read_text() if options.out.exists() else ""
        loaded = before[before.index(LOADED) :] if LOADED in before else ""  # which scripts/loaded_matrix.py writes
        options.out.write_text(page(found, options.quick) + loaded)


if __name__ == "__main__":
    main()
