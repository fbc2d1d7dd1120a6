"""The score while a picture, or anything else, is taken away: the curves of several methods."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array, check_flag, numbers, shape_of
from ._draw import NORMAL, SMALL, new_figure, write
from ._labels import fitted, inches, words
from ._sheet import MARGIN, Box, axes_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _LEGEND = 5.0, 3.2, 2.4
#: Told apart by the colour-blind (Okabe and Ito), and by their dashes where there are more or no colour.
_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
_DASHES: list[Any] = ["-", "--", "-.", ":"]


def curves(
    found: Mapping[str, Any],
    *,
    title: str | None = None,
    xlabel: str = "units replaced, largest attributions first",
    ylabel: str = "score",
    band: bool = True,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """The curves of several methods: the mean score over the examples, and where the middle half of them lies.

    In the legend stand the methods with the mean area under their curves, in their order.

    Args:
        found: method name -> curve, the pair ``(fractions [K + 1], scores [K + 1, N])`` that `fa.metrics.curve` returns.
        title: what stands above; None is nothing.
        xlabel: what the fractions are of.
        ylabel: what the scores are.
        band: whether to draw, behind each line, from where to where the middle half of the examples goes.
        out: a file to write the figure to, such as ``"curves.png"``; None writes none.

    Returns:
        The matplotlib figure, with one axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no curve, a shape does not fit, or a value is NaN or inf.
        TypeError: `found` is not a dict of pairs.

    Example:
        >>> import torch, funattr as fa
        >>> from funattr import viz
        >>> x = torch.randn(5, 8)
        >>> found = {name: fa.metrics.curve(method, lambda x: x.tanh().sum(1), x) for name, method in
        ...          {"gradient": fa.gradient, "input x gradient": fa.input_x_gradient}.items()}
        >>> viz.curves(found).axes[0].get_ylabel()
        'score'
    """
    check_flag(band, "band")
    read = _read(found)
    label = None if title is None else fitted(title, _WIDTH, NORMAL + 1)
    above = MARGIN + (label.height + 0.06 if label else 0.0)
    names = [f"{name}\narea {_area(*pair):.4g}" for name, pair in read.items()]
    lines = [fitted(name, _LEGEND - 0.5, SMALL) for name in names]
    tall = max(_HEIGHT, sum(line.height + 0.08 for line in lines) + 0.2)
    left = MARGIN + 0.3 + max(inches(f"{value:.4g}", SMALL) for value in _extremes(read)) + 0.2
    figure = new_figure((left + _WIDTH + _LEGEND + MARGIN, above + tall + 0.55))
    ax = axes_at(figure, Box(left, above, _WIDTH, tall))
    for i, ((fractions, scores), line) in enumerate(zip(read.values(), lines)):
        color = _COLORS[i % len(_COLORS)]
        dashes = _DASHES[(i // len(_COLORS) + i) % len(_DASHES)]
        ax.plot(fractions, scores.mean(1), color=color, linestyle=dashes, linewidth=1.6, label=line.text)
        if band and scores.shape[1] > 1:
            ax.fill_between(fractions, *np.percentile(scores, [25, 75], axis=1), color=color, alpha=0.07, linewidth=0)
    ax.set_xlim(0, 1)
    ax.set_xlabel(xlabel, **words(SMALL))
    ax.set_ylabel(ylabel, **words(SMALL))
    ax.tick_params(labelsize=SMALL)
    ax.grid(color="0.9", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=SMALL, handlelength=2.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if label is not None:
        ax.set_title(label.text, **words(NORMAL + 1, pad=4, loc="left", y=1.0))
    return write(figure, out)


def _read(found: Any) -> dict[str, tuple[Array, Array]]:
    if not isinstance(found, Mapping):
        text = f"found must be a dict of method name -> curve, got {type(found).__name__}"
        raise TypeError(f"{text}: pass {{'gradient': fa.metrics.curve(fa.gradient, model, x)}}.")
    if not found:
        raise ValueError("found is empty, expected at least one curve: pass {'gradient': fa.metrics.curve(...)}.")
    return {str(name): _pair(name, curve) for name, curve in found.items()}


def _pair(name: Any, curve: Any) -> tuple[Array, Array]:
    if not isinstance(curve, (tuple, list)) or len(curve) != 2:
        text = f"found[{name!r}] must be (fractions, scores), as fa.metrics.curve returns it, got {type(curve).__name__}"
        raise TypeError(f"{text}.")
    fractions, scores = numbers(curve[0], f"the fractions of {name!r}"), numbers(curve[1], f"the scores of {name!r}")
    scores = scores[:, None] if scores.ndim == 1 else scores
    if fractions.ndim != 1 or scores.ndim != 2 or len(fractions) != len(scores) or not scores.size:
        text = f"the curve of {name!r} has fractions {shape_of(curve[0])} and scores {shape_of(curve[1])}"
        raise ValueError(f"{text}, expected [K + 1] and [K + 1, N].")
    return fractions, scores


def _area(fractions: Array, scores: Array) -> float:
    mean = scores.mean(1)
    return float(((mean[1:] + mean[:-1]) / 2 * np.diff(fractions)).sum())


def _extremes(read: Mapping[str, tuple[Array, Array]]) -> list[float]:
    return [float(f(scores)) for _, scores in read.values() for f in (np.min, np.max)]
