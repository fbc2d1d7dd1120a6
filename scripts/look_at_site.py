"""Look at the built site in Chromium, at the widths that people have.

    python -m sphinx -n -b html docs docs/_build/html
    python scripts/look_at_site.py [--shots DIR]

Of every page at every width: nothing but code and wide tables, which scroll by themselves, reaches beyond the screen; the
contents on the right are whole where they are shown; no cell of a table is lost; the page asks for nothing over the network and
complains of nothing. ``--shots`` writes the first screen of the site and of what `viz.page` makes, for a person to look at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the driver of the tests, where this is run as a script

import funattr as fa  # noqa: E402  after the path
from tests.chromium import Tab, browser, find  # noqa: E402  after the path

WIDTHS = (390, 1280, 1366, 1440)
BUILT = ROOT / "docs" / "_build" / "html"

#: What reaches beyond the right edge of the screen, or of what scrolls: its tag and its text.
OUTSIDE = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const scrolls = node => node.closest('pre, .highlight, .table-wrapper, .sidebar-drawer');
  for (const node of document.querySelectorAll('article *, .toc-drawer a')) {
    const box = node.getBoundingClientRect();
    if (node.checkVisibility() && box.width && box.left < width && box.right > width + 1 && !scrolls(node))
      found.push(`${node.tagName}: ${node.textContent.trim().slice(0, 40)}`);
  }
  if (width >= 1280) for (const table of document.querySelectorAll('.table-wrapper'))
    if (table.scrollWidth > table.clientWidth + 1) found.push(`a table of ${table.scrollWidth} in ${table.clientWidth}`);
  return found;
})()"""


def faults(tab: Tab, page: Path, width: int) -> list[str]:
    """What is wrong with a page at a width."""
    tab.open(page.as_uri(), width=width)
    away = [address for address in tab.requests if not address.startswith(("file:", "data:"))]
    return [*tab.run(OUTSIDE), *tab.complaints, *(f"asks for {address}" for address in away)]


def page_of_digits(to: Path) -> Path:
    """The page that `viz.page` makes of the demo's digits."""
    from funattr._demo.model import load_digits, load_model

    digits, model = load_digits()[1].images[:6], load_model()
    maps = {
        "grad_cam": fa.grad_cam(model, digits, layer="relu3", target="argmax"),
        "saliency": fa.saliency(model, digits, target="argmax"),
    }
    probability, best = model(digits).detach().softmax(1).max(1)
    predictions = [(str(name), value) for name, value in zip(best.tolist(), probability.tolist())]
    fa.viz.page(1 - 0.6 * digits, maps, predictions=predictions, title="Six digits", out=to)
    return to


def shoot(tab: Tab, page: Path, width: int, to: Path) -> None:
    tab.open(page.as_uri(), width=width)
    Image.fromarray(tab.screenshot().astype(np.uint8)).save(to)
    print(f"wrote {to}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shots", type=Path, metavar="DIR", help="where to write pictures of the first screens")
    shots = parser.parse_args().shots
    pages = sorted(BUILT.glob("*.html"))
    if find() is None or not pages:
        print("no chromium" if pages else f"no site in {BUILT.relative_to(ROOT)}: build it first", file=sys.stderr)
        return 2
    bad = 0
    with browser() as tab:
        for page in pages:
            for width in WIDTHS:
                found = faults(tab, page, width)
                bad += bool(found)
                for fault in found:
                    print(f"{page.name} at {width} px: {fault}")
        print(f"looked at {len(pages)} pages at {len(WIDTHS)} widths: {bad} with faults")
        if shots:
            shots.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(0)
            made = {"site": BUILT / "index.html", "page": page_of_digits((shots / "digits.html").resolve())}
            for name, page in made.items():
                for width in (390, 1280):
                    shoot(tab, page, width, shots / f"{name}-{width}.png")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
