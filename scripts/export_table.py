"""Export every method of three small nets, in every format, run it at other batches, and write the tables of docs/export.md.

    python scripts/export_table.py [--only CNN] [--methods lrp] [--formats any onnx aoti] [--write docs/export.md]

Programs are compared in float64, to 1e-6; ONNX files are run by ONNX Runtime in float32, to 1e-5 (pip install onnxscript
onnxruntime). AOTInductor packages (aoti) take half a minute each. What was found is kept in a file of JSON, and `--write` makes
the tables of all that is in there; what was not tried is a dash.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import funattr as fa  # noqa: E402  after the path
from tests.exported import NETS, Cell, cells  # noqa: E402  after the path

FORMATS = {
    "any": "program",
    "fixed": "program, one size",
    "onnx": "ONNX",
    "onnx fixed": "ONNX, one size",
    "aoti": "AOTInductor",
}
#: With a layer and without: where that makes another program.
BOTH = ("integrated_gradients", "internal_influence", "conductance", "deep_lift", "feature_ablation")
BATCHES = (1, 5, 7)


def wanted() -> Iterator[Cell]:
    seen = set()
    for cell in cells(refused=True):
        name = cell.name.removesuffix(", at a layer")
        if name.startswith("local") or (name, cell.net) in seen:
            continue
        if name not in BOTH:
            seen.add((name, cell.net))
        yield cell


def distance(cell: Cell, run: Callable[[Tensor], Any], dtype: torch.dtype, sizes: tuple[int, ...]) -> float:
    """How far from eager, of the largest value; differences of scores carry the rounding of scores, which are about 1."""
    net, model, worst = NETS[cell.net], NETS[cell.net].model().to(dtype), 0.0
    for size in sizes:
        x = net.x(size).to(dtype)
        expected = cell.method(model, x, **_as(cell.options, dtype))
        worst = max(worst, float((run(x) - expected).abs().max() / expected.abs().max().clamp(min=1)))
    return worst


def _as(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}


def exported(cell: Cell, dtype: torch.dtype, dynamic: bool) -> torch.export.ExportedProgram:
    net = NETS[cell.net]
    x = net.x(2 if dynamic else 5).to(dtype)
    return fa.export(cell.method, net.model().to(dtype), x, dynamic_batch=dynamic, **_as(cell.options, dtype))


def as_program(cell: Cell, folder: Path, dynamic: bool) -> tuple[float, int]:
    program, file = exported(cell, torch.float64, dynamic), folder / "program.pt2"
    torch.export.save(exported(cell, torch.float32, dynamic), file)
    return distance(cell, program.module(), torch.float64, BATCHES if dynamic else (5,)), file.stat().st_size


def as_onnx(cell: Cell, folder: Path, dynamic: bool) -> tuple[float, int]:
    import onnxruntime

    file = folder / "program.onnx"
    made: Any = torch.onnx.export(exported(cell, torch.float32, dynamic), dynamo=True, verbose=False)
    made.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    far = distance(
        cell, lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), torch.float32, BATCHES if dynamic else (5,)
    )
    return far, file.stat().st_size


def as_package(cell: Cell, folder: Path) -> tuple[float, int]:
    from torch import _inductor

    file = folder / "program.pt2"
    _inductor.aoti_compile_and_package(exported(cell, torch.float32, True), package_path=str(file))
    return distance(cell, _inductor.aoti_load_package(str(file)), torch.float32, BATCHES), file.stat().st_size


def tried(cell: Cell, formats: Sequence[str]) -> dict[str, Any]:
    makers: dict[str, Callable[[Path], tuple[float, int]]] = {
        "any": lambda folder: as_program(cell, folder, True),
        "fixed": lambda folder: as_program(cell, folder, False),
        "onnx": lambda folder: as_onnx(cell, folder, True),
        "onnx fixed": lambda folder: as_onnx(cell, folder, False),
        "aoti": lambda folder: as_package(cell, folder),
    }
    found: dict[str, Any] = {}
    for name, make in ((name, makers[name]) for name in formats):
        with tempfile.TemporaryDirectory() as folder:
            try:
                far, size = make(Path(folder))
                right = far <= (1e-6 if name in ("any", "fixed") else 1e-5)
                found[name] = {"size": size, "far": far} if right else {"why": f"differs by {far:.0e} of the largest value"}
            except Exception as error:
                found[name] = {"why": _why(error)}
        print(f"{cell!r}: {name}: {found[name]}", flush=True)
    return found


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if operation := re.search(r"torch\.ops\.(aten\.\w+)", text):
        return f"torch.onnx does not know `{operation[1]}`"
    return re.sub(r"^(.*cannot be a program[^:]*|export\(.*?\)): ", "", text)


# The tables.

KINDS = {"program": ("any", "fixed"), "ONNX": ("onnx", "onnx fixed"), "AOTInductor": ("aoti",)}


class Reasons:
    """Why not, each numbered once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, cell: dict[str, Any] | None, kind: str) -> str:
        told = [] if cell is None else [cell[name] for name in KINDS[kind] if name in cell]
        if not told:
            return "-"
        if "why" not in told[0]:
            return "any"
        if told[0]["why"] not in self.texts:
            self.texts.append(told[0]["why"])
        number = self.texts.index(told[0]["why"]) + 1
        return f"one size ({number})" if "why" not in told[-1] else f"no ({number})"


def tables(found: dict[str, Any]) -> str:
    """For each method and net whether it is a program for any batch, for one size, or why not; and how large."""
    reasons, columns = Reasons(), [(kind, net) for kind in KINDS for net in NETS]
    rows = [f"| method | {' | '.join(f'{kind}: {net}' for kind, net in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in dict.fromkeys(key.rpartition(" of ")[0] for key in found):
        marks = [reasons.mark(found.get(f"{method} of {net}"), kind) for kind, net in columns]
        rows.append(f"| {method} | {' | '.join(marks)} |")
    notes = [f"{i}. {text}" for i, text in enumerate(reasons.texts, 1)]
    sizes = ["| of the CNN, any batch | program | ONNX | AOTInductor |", "|---|---|---|---|"]
    for key, cell in found.items():
        method, _, net = key.rpartition(" of ")
        if net == "CNN" and "size" in cell.get("aoti", {}):
            sizes.append(f"| {method} | {' | '.join(_size(cell, name) for name in ('any', 'onnx', 'aoti'))} |")
    return "\n".join([_counted(found), "", *rows, "", *notes, "", *sizes])


def _size(cell: dict[str, Any], name: str) -> str:
    return f"{cell[name]['size'] / 1000:,.0f} kB" if "size" in cell.get(name, {}) else ""


def _counted(found: dict[str, Any]) -> str:
    told = []
    for name, label in FORMATS.items():
        tried = [cell[name] for cell in found.values() if name in cell]
        if tried:
            told.append(f"{label} {sum('why' not in cell for cell in tried)} of {len(tried)}")
    return f"Right at batches of 1, 5 and 7, those of one size at 5: {', '.join(told)}. A dash: not tried."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETS)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[name for name in FORMATS if name != "aoti"])
    parser.add_argument("--found", type=Path, default=Path("found.json"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, Any] = json.loads(options.found.read_text()) if options.found.exists() else {}
    if options.write is None:
        for cell in wanted():
            named = options.methods is None or cell.name.removesuffix(", at a layer") in options.methods
            if named and options.only in (None, cell.net):
                found.setdefault(repr(cell), {}).update(tried(cell, options.formats))
                options.found.write_text(json.dumps(found, indent=1))
        return
    text = options.write.read_text()
    start, end = (text.index(f"<!-- tables: {where} -->") for where in ("begin", "end"))
    start = text.index("\n", start) + 1
    options.write.write_text(f"{text[:start]}\n{tables(found)}\n\n{text[end:]}")


if __name__ == "__main__":
    main()
