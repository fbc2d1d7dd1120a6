"""Where everything goes on a table of pictures, in inches: what stands beside or above a picture never takes its room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ._draw import LARGE, NORMAL, new_figure
from ._labels import Label, fitted, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGIN, GAP, BAR = 0.12, 0.07, 0.1
_CELLS = [2.4, 2.0, 1.6, 1.4, 1.2, 1.0]  # the widths of a cell, the first that fits the page is taken
_PAGE = 11.0, 14.0
_BESIDE, _APART = 1.7, 0.3  # the most that labels take beside the cells, and what is between two rows of cells side by side


class Box(NamedTuple):
    left: float
    top: float
    width: float
    height: float


class Sheet(NamedTuple):
    """A table, one row of cells per example, where several examples may stand side by side."""

    width: float
    height: float
    cells: list[list[Box]]
    heads: list[list[Label | None]]
    labels: list[Label | None]
    bars: list[list[Box]]
    """What a bar stands for (all, each column, or each row), and the boxes of its copies."""
    title: tuple[Box, Label] | None
    caption: tuple[Box, Label] | None


class Wanted(NamedTuple):
    """What is to be on it."""

    labels: Sequence[str] | None
    heads: Sequence[Sequence[str]]
    """The titles of the cells: one row for all examples, or a row for each."""
    rows: int
    aspect: float
    bars: str
    """"grid", "method" (one below each column) or "example" (one below each row)."""
    first: int
    """The first column that a bar is for."""
    bar_width: float
    bar_height: float
    """What a bar with its numbers and its caption takes at least."""
    title: str | None
    caption: str | None
    columns: int | None


def arranged(wanted: Wanted) -> Sheet:
    """The sheet with the largest cells that fits a page, or with the smallest, which then is as long as it must be."""
    narrowest = 0.0
    if wanted.bars == "method":
        narrowest = wanted.bar_width
    elif wanted.bars == "example":
        narrowest = wanted.bar_width / (len(wanted.heads[0]) - wanted.first)
    widths = [max(width, narrowest) for width in _CELLS]
    sides = [min(wanted.columns, wanted.rows)] if wanted.columns else list(range(1, math.ceil(wanted.rows / 2) + 1)) or [1]
    for width in widths:
        sheet = min((_sheet(wanted, width, side) for side in sides), key=_excess)
        if _excess(sheet) <= 1:
            break
    return sheet


def _excess(sheet: Sheet) -> float:
    """How much larger than a page it is: at most 1 fits."""
    return max(sheet.width / _PAGE[0], sheet.height / _PAGE[1])


def _sheet(wanted: Wanted, cell: float, side: int) -> Sheet:
    columns = len(wanted.heads[0])
    labels = [None if wanted.labels is None else fitted(text, _BESIDE, NORMAL) for text in wanted.labels or [""] * wanted.rows]
    beside = max((label.width + 0.1 for label in labels if label), default=0.0)
    block = beside + columns * (cell + GAP) - GAP
    width = 2 * MARGIN + max(side * (block + _APART) - _APART, wanted.bar_width)
    title, caption = [
        None if text is None else fitted(text, width - 2 * MARGIN, points)
        for text, points in ((wanted.title, LARGE), (wanted.caption, NORMAL))
    ]
    measured = [[fitted(text, cell, NORMAL) for text in row] for row in wanted.heads]
    # The titles of all examples stand above those of the first line.
    heads: list[list[Label | None]] = [
        [*measured[i]] if len(measured) > 1 else [*measured[0]] if i < side else [None] * columns for i in range(wanted.rows)
    ]
    top = MARGIN + (title.height + 0.08 if title else 0.0)
    cells, bars, top = _rows(wanted, cell, side, labels, heads, (MARGIN + beside, block + _APART, top))
    if wanted.bars == "grid":
        bars = [[_bar_of_all(cells[0], wanted, top, width)]]
    elif wanted.bars == "method":
        bars = [[_below(row[j : j + 1], 0, top) for row in cells[:side]] for j in range(wanted.first, columns)]
    if wanted.bars != "example":
        top += wanted.bar_height
    above = None if title is None else (Box(MARGIN, MARGIN, width - 2 * MARGIN, title.height), title)
    under = None if caption is None else (Box(MARGIN, top + 0.05, width - 2 * MARGIN, caption.height), caption)
    height = top + MARGIN + (0.05 + caption.height if caption else 0.0)
    return Sheet(width, height, cells, heads, labels, bars, above, under)


def _rows(
    wanted: Wanted,
    cell: float,
    side: int,
    labels: Sequence[Label | None],
    heads: Sequence[Sequence[Label | None]],
    start: tuple[float, float, float],
) -> tuple[list[list[Box]], list[list[Box]], float]:
    """The cells of each example, the bar below each where it has one, and how far down they reach.

    Args:
        start: the left of the first cell, from there to the first cell of the next example, and the top.
    """
    (first, apart, top), high = start, cell * wanted.aspect
    cells: list[list[Box]] = []
    bars: list[list[Box]] = []
    for line in range(0, wanted.rows, side):
        examples = range(line, min(line + side, wanted.rows))
        top += max((head.height + 0.05 for i in examples for head in heads[i] if head), default=0.0)
        content = max([high, *(label.height for i in examples if (label := labels[i]))])
        for column, _ in enumerate(examples):
            left, middle = first + column * apart, top + (content - high) / 2
            cells.append([Box(left + j * (cell + GAP), middle, cell, high) for j in range(len(heads[0]))])
            if wanted.bars == "example":
                bars.append([_below(cells[-1], wanted.first, top + content)])
        top += content + GAP + (wanted.bar_height if wanted.bars == "example" else 0.0)
    return cells, bars, top


def _below(row: Sequence[Box], first: int, top: float) -> Box:
    return Box(row[first].left, top + 0.06, row[-1].left + row[-1].width - row[first].left, BAR)


def _bar_of_all(row: Sequence[Box], wanted: Wanted, top: float, width: float) -> Box:
    """Below the maps of the first example, or as wide as its words need."""
    below = _below(row, wanted.first, top)
    wide = max(below.width, wanted.bar_width)
    return below._replace(width=wide, left=min(below.left, width - MARGIN - wide))


def figure_of(sheet: Sheet, dpi: float) -> tuple[Figure, list[list[Axes]]]:
    """The figure with its empty cells and all words."""
    figure = new_figure((sheet.width, sheet.height), dpi)
    cells = []
    for boxes, heads, label in zip(sheet.cells, sheet.heads, sheet.labels):
        axes = [axes_at(figure, box) for box in boxes]
        for ax, head in zip(axes, heads):
            if head is not None:
                ax.set_title(head.text, **words(NORMAL, pad=3, loc="center", y=1.0))
        if label is not None:
            axes[0].set_ylabel(label.text, **words(NORMAL, rotation=0, ha="right", va="center", labelpad=3))
        cells.append(axes)
    for given, write, points in ((sheet.title, figure.suptitle, LARGE), (sheet.caption, figure.supxlabel, NORMAL)):
        if given is not None:
            box, label = given
            x, y = (box.left + box.width / 2) / sheet.width, 1 - (box.top + box.height / 2) / sheet.height
            write(label.text, x=x, y=y, **words(points, ha="center", va="center"))
    return figure, cells


def axes_at(figure: Figure, box: Box) -> Any:
    width, height = figure.get_size_inches()
    at = (box.left / width, 1 - (box.top + box.height) / height, box.width / width, box.height / height)
    return figure.add_axes(at)
