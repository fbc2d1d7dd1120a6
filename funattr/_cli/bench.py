"""``funattr bench``: the benchmark of the repository, where this is a clone of it."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import funattr as fa

from .options import add_command
from .words import mistake

_EXAMPLES = """\
  funattr bench
  funattr bench --quick
  funattr bench --filter grad_cam
"""


def add(commands: Any) -> None:
    """Declare the subcommand; what follows it goes to the benchmark."""
    parser = add_command(commands, "bench", "Measure speed and memory, as ratios to Captum.", _EXAMPLES, run)
    parser.add_argument("--quick", action="store_true", help="few repeats, small settings: shows that it runs, not how fast")
    parser.add_argument("--filter", metavar="WORDS", help="only cases whose name contains this")


def run(arguments: argparse.Namespace) -> int:
    """Run ``python -m benchmarks`` and return its exit status.

    Raises:
        argparse.ArgumentError: the benchmark is not here.
        ImportError: the extra ``bench`` is not installed.
    """
    root = Path(fa.__file__).parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise mistake(
            'the benchmark is in the repository of funattr, not in the package: clone it, pip install -e ".[bench]" there, and '
            "run funattr bench again."
        )
    if importlib.util.find_spec("captum") is None:
        raise ImportError('the benchmark compares with Captum: pip install -e ".[bench]" in the clone.')
    more = ["--quick"] * arguments.quick + (["--filter", arguments.filter] if arguments.filter is not None else [])
    return subprocess.run([sys.executable, "-m", "benchmarks", *more], cwd=root, check=False).returncode
