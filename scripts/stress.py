"""The stress suite at length: python scripts/stress.py [size, 1 by default]. Prints figures; fails where one is wrong.

Everything must be 0 but the counts, and what Python and torch themselves lose of exceptions from outside (see tests/stress.py).
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import stress

COUNTS = {
    "calls",
    "faults",
    "draws",
    "tried again",
    "never came",
    "mode left in the thread",
    "objects grown",
    "peak RSS grown (bytes)",
}


def main(size: int) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {len(stress.jobs())} calls of every method and site")
    wrong = False
    for name, run in {
        "threads": lambda: stress.threaded(4000 * size),
        "the model raises, at every operation": lambda: stress.faults("model"),
        "the model is interrupted, at every operation": lambda: stress.faults("interrupted"),
        "any operation raises": lambda: stress.faults("operation", 3 if size == 1 else 1),
        "exceptions from outside": lambda: stress.faults("outside", 31 if size == 1 else 7),
        "leaks": lambda: stress.growth(1000 * size),
        "seeds": lambda: stress.repeated(20 * size),
    }.items():
        start = time.perf_counter()
        figures = run()  # type: ignore[no-untyped-call]  # a table of lambdas
        print(f"{name}: {figures} ({time.perf_counter() - start:.0f} s)", flush=True)
        wrong |= any(value for figure, value in figures.items() if figure not in COUNTS)
        wrong |= figures.get("objects grown", 0) > 5
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
