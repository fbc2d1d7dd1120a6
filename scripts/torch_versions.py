"""The suite on other versions of torch, and what compiles to one graph: python scripts/torch_versions.py [versions].

For each version, one after another: a fresh virtual environment in a temporary folder (a few GB where only a CUDA build is to
be had; deleted afterwards, or kept and used again with --keep FOLDER), `pytest --eager` there, where torch is new enough the
tests which that skips because they compile, and every method of the table under `torch.compile(fullgraph=True)`. Prints a
table, and puts it into docs/versions.md with --write: the rows of these versions, the others stay.

It may run in several goes: some files of tests at a time; with --keep, what ran at this commit does not run again, and
--minutes M begins with nothing further after that time.

`--eager` skips every test that compiles, at the moment it asks torch.compile to. Left out besides: files whose imports do not
install beside that torch (transformers), and the doctests of what is imported only while torch.compile traces.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VERSIONS = ["2.0.1", "2.4.1", "2.13.0", "2.14.1"]
TOOLS = [
    "setuptools",
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "tqdm",
    "matplotlib>=3.7",
    "scikit-learn>=1.3",
    "safetensors",
    "cloudpickle>=3",
    "datasets",
    "ray[data]>=2.10",
]
#: From here on methods compile, and the tests that compile run.
COMPILES = (2, 13)
#: How many files of tests run in one piece.
PIECE = 12
#: Warnings of torch's own that are no failures of ours.
WARNINGS = [
    "TypedStorage is deprecated",
    "There is a performance drop because",
    "`torch.cpu.amp.autocast(args...)` is deprecated",  # in its own checkpoint
]
FAMILIES = {
    "value and gradient": ["activation", "gradient", "saliency", "input_x_gradient", "local input_x_gradient"],
    "class activation maps": [
        "grad_cam",
        "grad_cam_plus_plus",
        "xgrad_cam",
        "hires_cam",
        "layer_cam",
        "eigen_cam",
        "score_cam",
    ],
    "rules": ["guided_backprop", "deconvnet", "guided_grad_cam", "deep_lift", "deep_lift_shap", "lrp"],
    "paths": ["integrated_gradients", "internal_influence", "conductance", "gradient_shap"],
    "ablation": ["feature_ablation", "ablation_cam", "occlusion", "shapley", "lime"],
}


COLUMNS = ["passed", "failed", "skipped", "compiled passed", "compiled failed", *FAMILIES, "combinators", "of"]


def release_of(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def requirements(version: str) -> list[list[str]]:
    """What to install beside a torch, call by call of pip."""
    release = release_of(version)
    numpy = ["numpy<2", "pyarrow>=15,<20", "pandas<3"] if release < (2, 3) else ["numpy", "pyarrow>=15", "pandas"]
    calls = [[f"torch=={version}", *numpy, *TOOLS]]
    calls.append(["--no-deps", "captum==0.9.0"])  # it asks for torch 2.3, and runs on less
    if release >= (2, 6):
        calls.append(["transformers>=4.50"])
    return calls


def environment(folder: Path, version: str) -> Path:
    """A Python with that torch."""
    python, ready = folder / version / "bin" / "python", folder / version / "ready"
    if not ready.exists():  # or half made, where an earlier run was stopped
        venv.create(folder / version, with_pip=True, clear=True)
        for call in requirements(version):
            subprocess.run([python, "-m", "pip", "install", "-q", *call], check=True)
        ready.touch()
    return python


class Suite:
    """The tests in one environment, piece by piece: a report of each piece lies in a folder."""

    def __init__(self, python: Path, reports: Path, workers: int, until: float):
        self.python, self.reports, self.workers, self.until = python, reports, workers, until
        reports.mkdir(parents=True, exist_ok=True)

    def pytest(self, name: str, what: Sequence[str], options: Sequence[str]) -> list[xml.Element]:
        """The test cases of one piece, which runs where no report of it lies there."""
        report = self.reports / f"{name}.xml"
        if not report.exists():
            if time.monotonic() > self.until:
                raise SystemExit(f"Time is up before {name}: run it again.")
            warnings = [part for text in WARNINGS for part in ("-W", f"ignore:{text}")]
            more = ["-m", "", "-n", str(self.workers), "-p", "no:cacheprovider", f"--junitxml={report}", *warnings, *options]
            subprocess.run([self.python, "-m", "pytest", *what, *more], cwd=ROOT, env=with_path())
        return list(xml.parse(report).iter("testcase"))

    def eager(self) -> list[xml.Element]:
        left_out = ["funattr/_rules/traced.py"]
        files = sorted((ROOT / "tests").rglob("test_*.py"))
        if subprocess.run([self.python, "-c", "import transformers"], capture_output=True).returncode:
            needs = re.compile(r"^(import transformers|from \.\.(matrix|architectures|language_models))", re.M)
            files = [f for f in files if not needs.search(f.read_text())]
        names = [str(f.relative_to(ROOT)) for f in files]
        options = ["--eager", *(f"--ignore={path}" for path in left_out)]
        # Alone they do not load tests/conftest.py, which knows of --eager.
        cases = self.pytest("eager-doctests", ["funattr"], ["-p", "tests.conftest", *options])
        for start in range(0, len(names), PIECE):
            cases += self.pytest(f"eager-{start // PIECE}", names[start : start + PIECE], options)
        return cases

    def compiling(self, eager: Sequence[xml.Element]) -> list[xml.Element]:
        """The tests that the eager suite skipped because they compile."""
        asked = [case for case in eager if any("it compiles" in s.get("message", "") for s in case.iter("skipped"))]
        by_file: dict[str, set[str]] = {}
        for case in asked:
            path = case.get("classname", "").replace(".", "/") + ".py"
            by_file.setdefault(path, set()).add(f"{path}::{case.get('name', '').partition('[')[0]}")
        cases: list[xml.Element] = []
        paths = sorted(by_file)
        for start in range(0, len(paths), PIECE):
            tests = sorted(test for path in paths[start : start + PIECE] for test in by_file[path])
            cases += self.pytest(f"compiled-{start // PIECE}", tests, [])
        wanted = {(case.get("classname"), case.get("name")) for case in asked}
        return [case for case in cases if (case.get("classname"), case.get("name")) in wanted]


def counts(cases: Sequence[xml.Element]) -> tuple[int, int, int]:
    """How many passed, failed, were skipped."""
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped


def with_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": f"ignore:{WARNINGS[0]}"}


def fullgraph() -> dict[str, str]:
    """Run inside: which methods of a family compile to one graph, at a layer and at the input, and give what eager gives."""
    import torch
    import torch._dynamo

    from tests.methods import METHODS, seed
    from tests.models import CASES, double
    from tests.pairs import TARGET
    from tests.reference import leaves

    torch.manual_seed(0)
    model, x = double(CASES[2])
    found = {}
    rows = {row.name: row for row in METHODS}
    combinators = [name for name in rows if "(" in name]
    if left := set(rows) - set(combinators) - {name for names in FAMILIES.values() for name in names}:
        raise SystemExit(f"FAMILIES in scripts/torch_versions.py leaves out {sorted(left)}")
    for family, names in (FAMILIES | {"combinators": combinators}).items():
        good, reasons = 0, []
        for name in names:
            row = rows[name]
            try:
                for layer, target in [("layer1", 1), ("layer1", TARGET), *([(None, TARGET)] if row.at_input else [])]:
                    options = row.options | ({"target": target} if row.targeted else {})
                    torch._dynamo.reset()
                    compiled = torch.compile(row.method, fullgraph=True, backend="aot_eager")
                    seed()
                    eager = row.method(model, x, layer=layer, **options)
                    seed()
                    pairs = zip(leaves(compiled(model, x, layer=layer, **options)), leaves(eager))
                    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in pairs), "it gives other numbers"
                good += 1
            except Exception as error:  # any: the table says how many compile
                reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
        found[family] = f"{good} of {len(names)}"
        print(*reasons, sep="\n", file=sys.stderr)
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| torch | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for version, found in results.items():
        lines.append(f"| {version} | " + " | ".join(str(found.get(column, "none")) for column in COLUMNS) + " |")
    return "\n".join(lines)


def rows_of(text: str) -> dict[str, dict[str, Any]]:
    """The rows of a table, by version."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    heads, rows = lines[0][1:], lines[2:]
    return {row[0]: dict(zip(heads, row[1:])) for row in rows}


def written(results: dict[str, dict[str, Any]]) -> None:
    """The page with these rows new."""
    path = ROOT / "docs" / "versions.md"
    before, _, after = path.read_text().partition("<!-- table -->")
    old, _, after = after.partition("<!-- end -->")
    rows = rows_of(old) | results
    ordered = {version: rows[version] for version in sorted(rows, key=release_of)}
    path.write_text(f"{before}<!-- table -->\n{table(ordered)}\n<!-- end -->{after}")


def state() -> str:
    """The commit; with changes that are in none, a name of its own."""
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "status", "--porcelain", "funattr", "tests"], cwd=ROOT, capture_output=True, text=True)
    return name.stdout.strip() + (f"-{time.time():.0f}" if changed.stdout.strip() else "")


def tried(version: str, given: argparse.Namespace, temporary: Path, until: float) -> dict[str, Any]:
    """One row of the table."""
    folder = given.keep or temporary
    python = environment(folder, version)
    suite = Suite(python, folder / "reports" / version / state(), given.workers, until)
    eager = suite.eager()
    found: dict[str, Any] = dict(zip(COLUMNS, counts(eager)))
    if release_of(version) >= COMPILES:
        passed, failed, _ = counts(suite.compiling(eager))
        found |= {"compiled passed": passed, "compiled failed": failed}
    done = subprocess.run([python, __file__, "--inside"], cwd=ROOT, env=with_path(), stdout=subprocess.PIPE, text=True)
    made = time.strftime("%d %B %Y").lstrip("0")
    return found | (json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}) | {"of": f"{state()}, {made}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--keep", type=Path, help="a folder for environments that are to stay, and to be used again")
    parser.add_argument("--workers", type=int, default=2, help="how many processes run the tests of a version")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin with no further piece after this time")
    parser.add_argument("--write", action="store_true", help="put the table into docs/versions.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(fullgraph()))
        return 0
    results: dict[str, dict[str, Any]] = {}
    until = time.monotonic() + 60 * given.minutes
    for version in given.versions:
        with tempfile.TemporaryDirectory() as temporary:
            results[version] = tried(version, given, Path(temporary), until)
        print(table(results), flush=True)
        if given.write:
            written(results)
    return int(any(found["failed"] or found.get("compiled failed") for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
