"""Draw the figure of ``docs/relevance.md``: one operation, and what three rules make of the relevance of its output.

    python scripts/draw_rule.py

Writes ``docs/pictures/rule.png``. The numbers are what `fa.lrp` returns. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

import funattr as fa

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "rule.png"
X, W = [2.0, 1.0, 3.0], [1.5, -1.0, 0.5]
PLUS, MINUS, GREY = "#b4371f", "#1f6fb4", "#555555"
RULES = {
    "epsilon: by all contributions": fa.rules.epsilon(),
    "z+: by the positive ones": fa.rules.alpha_beta(1.0, 0.0),
    "flat: by none, evenly": fa.rules.flat(),
}
HEIGHTS, LEFT, RIGHT, RADIUS = [3.3, 2.0, 0.7], 0.9, 3.1, 0.36


def relevance(rules: dict[Any, Any]) -> list[float]:
    """What the output's relevance, its own value, becomes at each input."""
    weight = torch.tensor([W], dtype=torch.float64)
    found = fa.lrp(lambda x: torch.nn.functional.linear(x, weight), torch.tensor([X], dtype=torch.float64), rules=rules)
    shares: list[float] = found[0].tolist()
    return shares


def main(out: Path = OUT) -> None:
    """Draw the operation, then each rule, side by side."""
    figure = Figure(figsize=(11, 3.6))
    panels = {"one operation: z = w x": None, **{name: relevance(rules) for name, rules in RULES.items()}}
    score = sum(w * x for w, x in zip(W, X))
    for number, (name, shares) in enumerate(panels.items()):
        ax = figure.add_axes((number / 4, 0, 1 / 4, 1))
        ax.set_xlim(0, 4)
        ax.set_ylim(-0.3, 4.94)  # as high for its width as the panel: circles are round
        ax.axis("off")
        ax.text(2, 4.55, name, ha="center", va="center", fontsize=11, weight="bold")
        nodes = X if shares is None else shares
        most = max(map(abs, nodes))
        for y, value, x, w in zip(HEIGHTS, nodes, X, W):
            color = GREY if shares is None else PLUS if value > 0 else MINUS if value < 0 else GREY
            strength = 1.0 if shares is None else 0.6 + 4 * abs(value) / most
            ends = ((LEFT + RADIUS + 0.04, y + (2 - y) * 0.05), (RIGHT - RADIUS - 0.04, 2.0 + (y - 2) * 0.12))
            look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "color": color, "shrinkA": 0, "shrinkB": 0}
            ax.add_patch(FancyArrowPatch(*(ends if shares is None else ends[::-1]), lw=strength, **look))
            ax.add_patch(Circle((LEFT, y), RADIUS, ec=color, fc="white", lw=1.6))
            ax.text(LEFT, y, f"{value:.3g}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center", fontsize=10, color=color)
            if shares is None:
                words = f"{w:g} · {x:g} = {w * x:g}".replace("-", "\N{MINUS SIGN}")
                back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                ax.text(1.85, 2 + (y - 2) * 0.6, words, ha="center", va="center", fontsize=9, color=GREY, bbox=back)
        ax.add_patch(Circle((RIGHT, 2.0), RADIUS, ec="black", fc="#f4f4f4", lw=1.6))
        ax.text(RIGHT, 2.0, f"{score:.3g}", ha="center", va="center", fontsize=10)
        ax.text(LEFT, -0.05, "x" if shares is None else "relevance", ha="center", fontsize=10, color=GREY)
        ax.text(RIGHT, -0.05, "z" if shares is None else f"sums to {sum(shares):.3g}", ha="center", fontsize=10, color=GREY)
    figure.savefig(out, dpi=150, facecolor="white")


if __name__ == "__main__":
    main()
