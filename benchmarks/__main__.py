"""``python -m benchmarks``: what methods cost, beside Captum 0.9.0, other packages, plain PyTorch and the floor, in one run.

Time is the median of interleaved calls: a slow moment of the machine hits all of them. FLOPs and peak live bytes are counted,
and the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import growth, parts, plot, report
from .cases import Case, cases
from .measure import Options, bare_forward, measure
from .rivals import beside_another_torch, missing, versions
from .settings import settings
from .summary import summary
from .tables import COMPILED_HEAD, HEAD, by_model, compiled_row, plain, row

#: Compiled unless asked otherwise: the small models, and these at the last site of the large ones.
SOME = ("input_x_gradient", "grad_cam", "integrated_gradients")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    found.add_argument(
        "command",
        nargs="?",
        default="run",
        choices=["run", "growth", "report"],
        help="run (the default): every case; growth: cost over steps, batch, groups and targets; report: text from JSON files",
    )
    found.add_argument("files", nargs="*", type=Path, help="for report: what --json wrote")
    found.add_argument("--quick", action="store_true", help="few rounds, small settings: shows that it runs, not how fast")
    found.add_argument("--filter", default="", metavar="WORDS", help="only cases whose name has all of these, in any order")
    found.add_argument("--compile", choices=["none", "some", "all"], help="which cases to compile: up to minutes each")
    found.add_argument("--device", default="cpu", help="cpu, or cuda (compiled with CUDA graphs)")
    found.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"])
    found.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    found.add_argument("--seconds", type=float, default=4.0, metavar="S", help="for the rounds of a case (4)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write what was found; for run: go on where the file ends")
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
    found.add_argument("--write", type=Path, metavar="PAGE.md", help="for report: put the text between the page's markers")
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: torch {torch.__version__} finds no GPU here")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    {"run": run, "growth": run_growth, "report": run_report}[options.command](options)


def start(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in ("quick", "filter", "compile", "device", "dtype", "threads", "seconds")}
    found: dict[str, Any] = {
        "machine": report.machine(options.threads, options.device, options.dtype),
        "options": chosen,
        "missing": missing(),
    }
    found = found | {"versions": versions(), "code": parts.code()}
    return found | {"torchvision without its meta registrations": beside_another_torch()}


def run(options: argparse.Namespace) -> None:
    found = parts.go_on(start(options), options.json)
    print(report.machine_line(found))
    found_settings = settings(options.quick, options.device, getattr(torch, options.dtype))
    table = [case for setting in found_settings for case in cases(setting, options.filter)]
    if not table:
        raise SystemExit(f"no case has all of: {options.filter}")
    had = {entry["case"] for entry in found["cases"]}
    left = [case for case in table if case.name not in had]
    if had:
        print(f"{options.json} has {len(had)} cases, which are kept: {len(left)} of {len(table)} are left")
    for case in progress(left, len(left)):
        compile_it = wanted(case, options)
        if compile_it and case.setting.name not in found["forward"]:
            found["forward"][case.setting.name] = bare_forward(case.setting, settled_options(options))
        found["cases"].append(measure(case, found["missing"], settled_options(options)._replace(compile=compile_it)))
        save(found, options)
    for model, entries in by_model(found["cases"]).items():
        print(f"\n{model}, input {entries[0]['input']}: times of others over ours, and ours over the floor")
        print(plain(HEAD, [row(entry) for entry in entries]))
    fast = [entry for entry in found["cases"] if "compiled" in entry["columns"]]
    if fast:
        print("\nCompiled")
        print(plain(COMPILED_HEAD, [compiled_row(entry) for entry in fast]))
    print()
    print("\n".join(summary(found)))
    if options.plot:
        plot.draw(found, options.plot)


def settled_options(options: argparse.Namespace) -> Options:
    return Options(quick=options.quick, device=options.device, seconds=options.seconds)


def wanted(case: Case, options: argparse.Namespace) -> bool:
    """Whether to compile a case: it takes ten seconds for a small model, and up to minutes for a large one."""
    choice = options.compile or ("some" if not options.quick else "one")
    if choice == "one":
        return case.name == "two-layer MLP: input_x_gradient, 1"
    small = case.setting.name.startswith("two-layer")
    return choice == "all" or (
        choice == "some" and (small or (case.method.name in SOME and case.site == case.setting.sites[-1]))
    )


def run_growth(options: argparse.Namespace) -> None:
    found = start(options) | {"growth": []}
    print(report.machine_line(found))
    for entry in progress(growth.measure(settled_options(options)), len(growth.CURVES)):
        found["growth"].append(entry)
        save(found, options)
    print("\nSlopes of the logarithms: 1 is proportional, 0 does not grow")
    print(plain(growth.HEAD, [growth.row(entry) for entry in found["growth"]]))
    print()
    verdict = growth.verdict(found["growth"])
    print(verdict)
    if options.plot:
        growth.draw(found["growth"], options.plot)
    if verdict.startswith("Not"):
        raise SystemExit(1)


def run_report(options: argparse.Namespace) -> None:
    if not options.files:
        raise SystemExit("report: name the files that --json wrote")
    found, twice = parts.join(options.files)
    for line in twice:
        print(line, file=sys.stderr)
    if options.write:
        print(f"{options.write}: wrote {', '.join(report.write(found, options.write))}")
    else:
        print("\n\n".join(report.sections(found).values()))
    if options.plot and "cases" in found:
        plot.draw(found, options.plot)
    elif options.plot:
        growth.draw(found["growth"], options.plot)


def save(found: dict[str, Any], options: argparse.Namespace) -> None:
    """After each case: an interrupted run keeps what it has."""
    if options.json:
        parts.write(found, options.json)


def progress(items: Iterable[Any], count: int) -> Iterator[Any]:
    """A bar on stderr, where tqdm is installed; else a line every now and then."""
    try:
        from tqdm import tqdm
    except ImportError:
        begun = shown = time.monotonic()
        for i, item in enumerate(items):
            yield item
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                print(f"{i + 1} of {count}, {shown - begun:.0f} s", file=sys.stderr, flush=True)
    else:
        yield from tqdm(items, total=count, disable=None, smoothing=0.05)


if __name__ == "__main__":
    main()
