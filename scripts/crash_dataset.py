"""The crash test at length: python scripts/crash_dataset.py [examples] [kills] [seed]. Fails where a figure is wrong.

Every kill is a SIGKILL of a worker or of the driver, at a random point. Nothing may be lost or double, and everything must be
as a plain loop makes it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import crash


def main(examples: int = 20_000, kills: int = 40, seed: int = 0) -> int:
    with tempfile.TemporaryDirectory() as out:
        figures = crash.crash(Path(out) / "out", examples, kills, seed)
    print(figures)
    wrong = any(figures[name] for name in ("lost", "double", "strangers", "left over")) or figures["largest difference"] > 1e-5
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
