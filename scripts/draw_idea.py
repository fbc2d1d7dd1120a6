"""Draw the figure of ``docs/idea.md``: a model cut at a site, a score at its end, and a method between the two.

    python scripts/draw_idea.py

Writes ``docs/pictures/idea.png``. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "idea.png"
WHERE, WHAT, HOW, GREY = "#1f6fb4", "#b4371f", "#3d7d3a", "#555555"
Y, HALF = 3.0, 0.42  # the height at which the model lies, and half of a block's


def main(out: Path = OUT) -> None:
    """Draw it, from left to right, into a file."""
    figure = Figure(figsize=(9.6, 4.0))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 12)
    ax.set_ylim(0.35, 5.35)
    ax.axis("off")

    def text(x: float, y: float, words: str, color: str = "black", size: float = 11, **style: Any) -> None:
        ax.text(x, y, words, color=color, fontsize=size, ha="center", va="center", **style)

    def box(x: float, y: float, width: float, height: float, edge: str, fill: str) -> None:
        shape = "round,pad=0,rounding_size=0.12"
        ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, shape, ec=edge, fc=fill, lw=1.6))

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str = GREY, **style: Any) -> None:
        look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.6, "shrinkA": 0, "shrinkB": 0} | style
        ax.add_patch(FancyArrowPatch(start, end, color=color, **look))

    def span(left: float, right: float, words: str) -> None:
        ax.plot([left, left, right, right], [4.2, 4.32, 4.32, 4.2], color=GREY, lw=1.3)
        text((left + right) / 2, 4.6, words, GREY, 12, family="monospace")

    # The model, block by block, with the site between the second and the third.
    stops = [0.5, 1.9, 3.5, 5.2, 6.9, 8.5, 9.9, 11.3]
    x, one, two, site, three, four, output, score = stops
    for centre, name in ((one, "conv1"), (two, "layer1"), (three, "layer2"), (four, "fc")):
        box(centre, Y, 1.15, 2 * HALF, "#888888", "#efefef")
        text(centre, Y, name, family="monospace")
    text(x, Y, "$x$", size=16)
    text(output, Y, "output", size=11)
    box(score, Y, 0.8, 2 * HALF, WHAT, "#fbeae6")
    text(score, Y, "$f$", WHAT, 15)
    ends = [(x + 0.25, one - 0.62), (one + 0.62, two - 0.62), (two + 0.62, site - 0.3), (site + 0.3, three - 0.62)]
    ends += [(three + 0.62, four - 0.62), (four + 0.62, output - 0.42), (output + 0.42, score - 0.45)]
    for left, right in ends:
        arrow((left, Y), (right, Y))

    # Where: the cut.
    ax.plot([site, site], [Y + 0.3, 4.75], color=WHERE, lw=1.8, ls=(0, (4, 3)), zorder=0)
    ax.add_patch(FancyBboxPatch((site - 0.26, Y - 0.26), 0.52, 0.52, "circle,pad=0", ec=WHERE, fc="white", lw=1.8))
    text(site, Y, "$v$", WHERE, 15)
    text(site, 5.1, 'where: layer="layer1"', WHERE, 12, weight="bold")
    span(x - 0.3, site - 0.2, "value_at(x)")
    span(site + 0.2, output + 0.5, "rest(v, x)")
    text(score, 4.6, "what:\ntarget=3", WHAT, 12, weight="bold")

    # How: the method, fed by the value and by what comes back from the score.
    box(site, 1.05, 4.3, 1.1, HOW, "#eaf4e9")
    text(site, 1.32, "how: fa.grad_cam", HOW, 12, weight="bold")
    text(site, 0.8, r"$\Sigma_c\,$ mean($df/dv_c$)$\;\cdot\;v_c$", HOW, 12)
    arrow((site, Y - 0.3), (site, 1.64), WHERE)
    arrow((score, Y - HALF - 0.06), (site + 2.2, 1.05), WHAT, connectionstyle="angle,angleA=90,angleB=0,rad=12")
    text(9.3, 1.32, "$df/dv$: back to the site, no further", WHAT, 10.5)
    arrow((site - 2.2, 1.05), (1.55, 1.05), HOW)
    text(0.8, 1.05, "attribution\nof $v$", HOW, 11)

    figure.savefig(out, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
