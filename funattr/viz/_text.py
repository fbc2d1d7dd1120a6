"""Tokens on a background that is their attribution."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

from ._arrays import check_titles
from ._colors import palette
from ._draw import NORMAL, bar_needs, draw_bar, mappable, new_figure, readable_on, write
from ._labels import fitted, words
from ._page import page
from ._scales import Scale, check_scale, scales_of
from ._tokens import printable, sentences_of, token_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._arrays import Array

_WIDTH, _BAR_COLUMNS = 72, 24  # characters: a line, the colour bar
_CHAR, _LINE, _BAR, _MARGIN = 0.088, 0.27, 0.56, 0.12  # inches
_FONT: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 10}  # matplotlib's own; a letter is narrower than _CHAR


def text(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    attributions: Any,
    *,
    titles: Sequence[str] | None = None,
    percentile: float = 100.0,
    scale: str = "grid",
    out: str | PathLike[str] | None = None,
) -> Figure:
    """Tokens, each on a background in the colour of its attribution.

    Red is positive, blue is negative, white is zero. All sentences share one scale, which the colour bar
    tells, so that strong and weak can be compared across them. Few values make a sentence, and the largest is what it is
    about: none is clipped unless `percentile` says so.

    Args:
        tokens: the tokens of a sentence, or a list of them per sentence. They are drawn as they are; what cannot be seen, such
            as a line break, as an escape sequence. Signs that matplotlib's font lacks are drawn as boxes: `page` has all.
        attributions: for one sentence ``[L]`` or ``[L, D]``, for several ``[N, L]`` or ``[N, L, D]``, or a list of one per
            sentence where their lengths differ: tensors of any device and dtype, or arrays. The features ``D`` of an
            embedding are summed, which keeps the total.
        titles: one per sentence.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest.
        scale: ``"grid"``, one for all sentences, or ``"example"``, one for each.
        out: a file to write to, such as ``"text.png"``; ``.html`` writes a `page` of it instead. None writes none.

    Returns:
        The matplotlib figure. Its first axes are the sentences, with a patch and a text per token, then come the colour bars.

    Raises:
        ImportError: matplotlib is not installed (`page` does not need it).
        ValueError: the tokens and their values do not fit, or `titles`, `percentile` or `scale`, or a value is NaN or inf.
        TypeError: `tokens` are not strings, or `attributions` does not hold real numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> figure = viz.text(["not", "a", "bad", "film"], torch.tensor([0.9, 0.0, -0.4, 0.1]))
        >>> [token.get_text() for token in figure.axes[0].texts]
        ['not', 'a', 'bad', 'film']
    """
    sentences, lone = sentences_of(tokens, "tokens")
    values = token_values(attributions, "attributions", sentences, lone)
    check_titles(titles, len(sentences), "sentence")
    check_scale(scale, ("grid", "example"))
    scales = scales_of([values], scale, percentile)[0]
    if out is not None and fspath(out).lower().endswith((".html", ".htm")):
        page(tokens, {"attribution": attributions}, titles=titles, percentile=percentile, scale=scale, out=out)
        out = None
    return write(_draw(sentences, values, titles, scales, scale == "example"), out)


class _Place(NamedTuple):
    line: int
    column: int
    width: int


def _draw(
    sentences: Sequence[Sequence[str]],
    values: Sequence[Array],
    titles: Sequence[str] | None,
    scales: Sequence[Scale],
    each: bool,
) -> Figure:
    """Blocks from the top down, in inches: a title, the lines, and a colour bar where each sentence has its own."""
    places = [_places([printable(token) for token in sentence]) for sentence in sentences]
    columns = max(_BAR_COLUMNS + 4, *(place.column + place.width for row in places for place in row))
    lines = [row[-1].line + 1 for row in places]
    heads = [
        None if titles is None else fitted(title, columns * _CHAR, NORMAL)
        for title in ([""] * len(lines) if titles is None else titles)
    ]
    bars = len(sentences) if each else 1
    width = columns * _CHAR + 2 * _MARGIN
    height = sum(lines) * _LINE + len(lines) * _MARGIN + sum(h.height + 0.1 for h in heads if h) + bars * _BAR + _MARGIN
    figure = new_figure((width, height))

    def look(scale: Scale) -> Any:
        return mappable(scale, palette(None, scale.signed, None))

    def axes(top: float, inches_wide: float, inches_high: float) -> Any:
        box = (_MARGIN / width, 1 - (top + inches_high) / height, inches_wide / width, inches_high / height)
        return figure.add_axes(box)

    top, tops_of_bars = _MARGIN, []
    for i, sentence in enumerate(sentences):
        head = heads[i]
        top += head.height + 0.1 if head else 0.0
        ax = axes(top, columns * _CHAR, lines[i] * _LINE)
        _draw_sentence(ax, sentence, places[i], look(scales[i]).to_rgba(values[i]))
        ax.set(xlim=(0, columns), ylim=(lines[i], 0))
        if head is not None:
            ax.set_title(head.text, **words(NORMAL, loc="left", pad=3, y=1.0))
        top += lines[i] * _LINE + _MARGIN
        if each or i == len(sentences) - 1:
            tops_of_bars.append(top)
            top += _BAR
    for at, scale in zip(tops_of_bars, scales):
        draw_bar(axes(at, max(_BAR_COLUMNS * _CHAR, bar_needs([scale])[0]), 0.1), scale, palette(None, scale.signed, None))
    return figure


def _draw_sentence(ax: Any, sentence: Sequence[str], places: Sequence[_Place], colors: Array) -> None:
    from matplotlib.patches import Rectangle

    ax.set_axis_off()
    for token, place, color in zip(sentence, places, colors):
        corner, wide = (place.column, place.line + 0.06), place.width - 0.15
        ax.add_patch(Rectangle(corner, wide, 0.88, facecolor=color, edgecolor="0.85", linewidth=0.5))
        middle = place.column + wide / 2, place.line + 0.5
        ax.text(*middle, printable(token), color=readable_on(color), ha="center", va="center", parse_math=False, **_FONT)


def _places(tokens: Sequence[str]) -> list[_Place]:
    """Where each token goes: left to right, on a new line where the last is full."""
    line = column = 0
    places = []
    for token in tokens:
        width = _columns(token) + 1  # half a letter on both sides
        if column and column + width > _WIDTH:
            line, column = line + 1, 0
        places.append(_Place(line, column, width))
        column += width
    return places


def _columns(token: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in token)
