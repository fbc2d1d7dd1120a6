"""The eager suite on other versions of torch, and what compiles to one graph: python scripts/torch_versions.py [versions].

For each version, one after another: a fresh virtual environment in a temporary folder (a few GB where only a CUDA build is to
be had; deleted afterwards, or kept and used again with --keep FOLDER), `pytest --eager` there, and every method of the table
under `torch.compile(fullgraph=True)`. Prints a table, and puts it into docs/versions.md with --write.

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
import venv
import xml.etree.ElementTree as xml
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
#: Warnings of torch's own that are no failures of ours.
WARNINGS = ["TypedStorage is deprecated", "There is a performance drop because"]
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


def requirements(version: str) -> list[list[str]]:
    """What to install beside a torch, call by call of pip."""
    release = tuple(map(int, version.split(".")[:2]))
    numpy = ["numpy<2", "pyarrow>=15,<20", "pandas<3"] if release < (2, 3) else ["numpy", "pyarrow>=15", "pandas"]
    calls = [[f"torch=={version}", *numpy, *TOOLS]]
    calls.append(["--no-deps", "captum==0.9.0"])  # it asks for torch 2.3, and runs on less
    if release >= (2, 6):
        calls.append(["transformers>=4.50"])
    return calls


def environment(folder: Path, version: str) -> Path:
    """A Python with that torch."""
    python = folder / version / "bin" / "python"
    if not python.exists():
        venv.create(folder / version, with_pip=True)
        for call in requirements(version):
            subprocess.run([python, "-m", "pip", "install", "-q", *call], check=True)
    return python


def suite(python: Path, report: Path, workers: int) -> dict[str, int]:
    """The eager suite: how many passed, failed, were skipped."""
    left_out = ["funattr/_rules/traced.py"]
    if subprocess.run([python, "-c", "import transformers"], capture_output=True).returncode:
        files = (ROOT / "tests").glob("*.py")
        left_out += [
            str(f.relative_to(ROOT)) for f in files if re.search(r"^(import transformers|from \.matrix)", f.read_text(), re.M)
        ]
    ignored = [f"--ignore={path}" for path in left_out] + [part for text in WARNINGS for part in ("-W", f"ignore:{text}")]
    options = ["--eager", "-n", str(workers), "-p", "no:cacheprovider", f"--junitxml={report}", *ignored]
    subprocess.run([python, "-m", "pytest", "tests", "funattr", "-m", "", *options], cwd=ROOT, env=with_path())
    found = xml.parse(report).getroot()[0].attrib
    failed = int(found["failures"]) + int(found["errors"])
    return {
        "passed": int(found["tests"]) - failed - int(found["skipped"]),
        "failed": failed,
        "skipped": int(found["skipped"]),
    }


def with_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": f"ignore:{WARNINGS[0]}"}


def fullgraph() -> dict[str, str]:
    """Run inside: which methods of a family compile to one graph, at a layer and at the input, and give what eager gives."""
    import torch
    import torch._dynamo

    from tests.methods import METHODS
    from tests.models import CASES, double
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
            options = row.options | ({"target": 1} if row.targeted else {})
            try:
                for layer in ("layer1", *([None] if row.at_input else [])):
                    torch._dynamo.reset()
                    compiled = torch.compile(row.method, fullgraph=True, backend="aot_eager")
                    pairs = zip(
                        leaves(compiled(model, x, layer=layer, **options)), leaves(row.method(model, x, layer=layer, **options))
                    )
                    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in pairs)
                good += 1
            except Exception as error:  # any: the table says how many compile
                reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
        found[family] = f"{good} of {len(names)}"
        print(*reasons, sep="\n", file=sys.stderr)
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    columns = ["passed", "failed", "skipped", *FAMILIES, "combinators"]
    lines = ["| torch | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for version, found in results.items():
        lines.append(f"| {version} | " + " | ".join(str(found.get(column, "none")) for column in columns) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--keep", type=Path, help="a folder for environments that are to stay, and to be used again")
    parser.add_argument("--workers", type=int, default=2, help="how many processes run the tests of a version")
    parser.add_argument("--write", action="store_true", help="put the table into docs/versions.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(fullgraph()))
        return 0
    results: dict[str, dict[str, Any]] = {}
    for version in given.versions:
        with tempfile.TemporaryDirectory() as temporary:
            python = environment(given.keep or Path(temporary), version)
            results[version] = dict(suite(python, Path(temporary) / "report.xml", given.workers))
            done = subprocess.run([python, __file__, "--inside"], cwd=ROOT, env=with_path(), stdout=subprocess.PIPE, text=True)
            results[version] |= json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        print(table(results), flush=True)
    if given.write:
        path = ROOT / "docs" / "versions.md"
        before, _, after = path.read_text().partition("<!-- table -->")
        path.write_text(f"{before}<!-- table -->\n{table(results)}\n<!-- end -->{after.partition('<!-- end -->')[2]}")
    return int(any(found["failed"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
