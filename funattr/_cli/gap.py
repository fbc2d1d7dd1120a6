"""Completeness: whether attributions sum to what they explain, and what to do where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import funattr as fa

from .sites import flat

LARGE = 0.01  # of the difference that is explained
_LEAST, _MOST = 4, 2000  # times as many steps


class Gap(NamedTuple):
    """What a complete method's attributions sum to, and what they should."""

    total: float
    difference: float

    @property
    def relative(self) -> float:
        size = abs(self.difference)
        return abs(self.total - self.difference) / size if size > 0 else float("inf") if self.total else 0.0

    def line(self) -> str:
        gap = self.total - self.difference
        share = f" ({self.relative:.2%})" if self.difference else ""
        return f"sum of attributions {self.total:.5g}, F(x) - F(baseline) {self.difference:.5g}, gap {gap:.2g}{share}"


def measure(attribution: Any, model: Any, x: Any, baselines: Any, target: int | None, *, several: bool) -> Gap:
    """The gap of an attribution; over `several` baselines, to the mean of their scores."""
    deltas = [fa.convergence_delta(attribution, model, x, baselines=one, target=target) for one in each(baselines, several)]
    total = sum(float(t.double().sum()) for _, t in flat("", attribution))
    return Gap(total, total - sum(float(delta) for delta in deltas) / len(deltas))


def each(baselines: Any, several: bool) -> list[Any]:
    """The single baselines of a distribution."""
    if not several:
        return [baselines]
    if isinstance(baselines, Mapping):
        size = len(next(iter(baselines.values())))
        return [{name: value[i : i + 1] for name, value in baselines.items()} for i in range(size)]
    return [baselines[i : i + 1] for i in range(len(baselines))]


def little(measured: Gap, score: float) -> str:
    """A word where the baseline has nearly the same score: there is nothing to explain, and attributions are noise."""
    if abs(measured.difference) > LARGE * abs(score):
        return ""
    return (
        f"little to explain: the baseline alone has the score {score - measured.difference:.4g}, the input {score:.4g}; the "
        "attributions share out the difference"
    )


def advice(name: str, n_steps: int, quadrature: str, relative: float, at_layer: bool) -> str:
    """What to do about a gap that is large, `relative` to what is explained.

    With kinks on the path it falls as one over the number of steps, whatever the rule. The number said is twice what this one
    gap asks for, which may be small by chance. Rules that leave out an end of the path have a gap for that, too.
    """
    passed = "what passes the layer by (a skip connection, an input used again) is not in the sum: choose the end of a block"
    if name in ("deep_lift", "deep_lift_shap"):
        what = "an operation of the model has no rule (a warning names it), so compare with --method integrated_gradients"
    else:
        times = max(_LEAST, math.ceil(min(2 * relative / LARGE, _MOST)))
        fewer = ", or fewer with --quadrature gausslegendre" if quadrature in ("riemann_left", "riemann_right") else ""
        what = f"take more steps, --n-steps {times * n_steps}{fewer}"
    return f"large: {what}" + (f"; or {passed}" if at_layer else "")
