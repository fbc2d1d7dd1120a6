"""Several methods by several metrics: the table as a picture and as a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._arrays import check_listed, check_text, numbers
from ._draw import LARGE, NORMAL, SMALL, new_figure, write
from ._file import Page, written
from ._labels import fitted, words
from ._sheet import MARGIN, Box, axes_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Which way is better, for the metrics of `fa.metrics` under their own names.
BETTER = {
    "deletion": "low",
    "insertion": "high",
    "comprehensiveness": "high",
    "sufficiency": "low",
    "infidelity": "low",
    "sensitivity_max": "low",
    "randomisation": "low",
    "pointing_game": "high",
    "relevance_mass": "high",
}
#: A check that is passed or not: no method is the best of it.
_CHECKS = {"randomisation"}
_SIGNS = {"low": "↓", "high": "↑", None: ""}
#: What the caption says of what a table shows.
_MEANINGS = {"↓": "↓ lower is better", "↑": "↑ higher is better"}
_ROW, _PAD, _NAME = 0.28, 0.28, 2.6  # inches


class _Cell(NamedTuple):
    text: str
    mean: float | None


def table(
    found: Mapping[str, Mapping[str, Any]],
    *,
    better: Mapping[str, str] | None = None,
    title: str | None = None,
    out: str | PathLike[str] | None = None,
) -> Figure:
    """A table of methods by metrics, as `fa.metrics.compare` returns it: in each cell the mean over the examples.

    The mean, and its standard error where there are several examples; of a dict, as `fa.metrics.randomisation` returns it, the
    mean over its layers. The best of each column is bold, where it is known which way is better.

    Args:
        found: method name -> metric name -> ``[N]``, or a dict of these, or a number.
        better: metric name -> ``"low"`` or ``"high"``; metrics under their own names (``"deletion"``) need none.
        title: what stands above; None is nothing.
        out: a file to write the figure to, such as ``"table.png"``; None writes none. For a page see `table_page`.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the table is empty, its rows have different metrics, `better` is neither, or a value is NaN or inf.
        TypeError: `found` is not a dict of dicts, or a cell holds no numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> found = {"a": {"deletion": torch.tensor([1.0, 3.0])}, "b": {"deletion": torch.tensor([4.0, 4.0])}}
        >>> [text.get_text() for text in viz.table(found).axes[0].texts][:4]
        ['deletion ↓', 'a', '2 ± 1', 'b']
    """
    names, cells, best, heads = _read(found, better)
    labels = [fitted(name, _NAME, NORMAL) for name in found]
    columns = [
        [fitted(head, 1.5, NORMAL)] + [fitted(row[i].text, 9.0, NORMAL) for row in cells] for i, head in enumerate(heads)
    ]
    widths = [max(label.width for label in column) * 1.08 + _PAD for column in columns]
    left = max(label.width for label in labels) + _PAD
    tall = [max(column[0].height for column in columns) + 0.14, *(max(_ROW, label.height + 0.1) for label in labels)]
    whole = max(left + sum(widths), 3.0)
    told, note = None if title is None else fitted(title, whole, LARGE), fitted(_meaning(cells, best, heads), whole, SMALL)
    above = MARGIN + (told.height + 0.1 if told else 0.0)
    figure = new_figure((whole + 2 * MARGIN, above + sum(tall) + note.height + 0.1 + MARGIN))
    ax = axes_at(figure, Box(MARGIN, above, whole, sum(tall)))
    ax.set(xlim=(0, whole), ylim=(sum(tall), 0))
    ax.set_axis_off()
    rights = [left + sum(widths[: i + 1]) - 0.06 for i in range(len(widths))]
    for right, head in zip(rights, columns):
        ax.text(right, tall[0] - 0.1, head[0].text, ha="right", va="baseline", **words(NORMAL))
    ax.axhline(tall[0], color="0.2", linewidth=0.8)
    for i, (label, row) in enumerate(zip(labels, cells)):
        middle = sum(tall[: i + 1]) + tall[i + 1] / 2
        ax.text(0.02, middle, label.text, ha="left", va="center_baseline", **words(NORMAL))
        for right, name, cell in zip(rights, names, row):
            weight = "bold" if (i, name) in best else "normal"
            ax.text(right, middle, cell.text, ha="right", va="center_baseline", **(words(NORMAL) | {"fontweight": weight}))
        ax.axhline(sum(tall[: i + 2]), color="0.85", linewidth=0.5)
    if told is not None:
        ax.set_title(told.text, **words(LARGE, loc="left", pad=5, y=1.0))
    figure.text(
        MARGIN / (whole + 2 * MARGIN), MARGIN / figure.get_figheight(), note.text, va="bottom", **words(SMALL, color="0.35")
    )
    return write(figure, out)


def table_page(
    found: Mapping[str, Mapping[str, Any]],
    *,
    better: Mapping[str, str] | None = None,
    title: str = "Methods by metrics",
    examples: Sequence[str] | None = None,
    out: str | PathLike[str] | None = None,
) -> Page:
    """The table of `table` as a page, with the numbers of each example below it.

    Args:
        found: method name -> metric name -> ``[N]``, or a dict of these, or a number.
        better: metric name -> ``"low"`` or ``"high"``; metrics under their own names (``"deletion"``) need none.
        title: the title of the page.
        examples: one name per example; None numbers them.
        out: a file to write the page to, such as ``"table.html"``; None writes none.

    Returns:
        A `Page`: a notebook displays it, ``.html`` is the text of the file, ``.save(path)`` writes it.

    Raises:
        ValueError: as `table`, or there are not as many `examples` as numbers in a cell.
        TypeError: as `table`.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> page = viz.table_page({"a": {"deletion": torch.tensor([1.0, 3.0])}})
        >>> "2 ± 1" in page.html
        True
    """
    check_text(title, "title")
    check_listed(examples, "examples")
    names, cells, best, heads = _read(found, better)
    rows = [
        _line(name, [(cell.text, (i, key) in best) for key, cell in zip(names, row)])
        for i, (name, row) in enumerate(zip(found, cells))
    ]
    parts = [_tabled("method", heads, rows), f"<p class=note>{html.escape(_meaning(cells, best, heads))}</p>"]
    for key, head in zip(names, heads):
        parts += _each_example(key, head, found, examples)
    body = "\n".join(parts)
    template = Template((Path(__file__).parent / "table.html").read_text(encoding="utf-8"))
    return written(Page(template.substitute(title=html.escape(title), body=body)), out)


def _each_example(key: str, head: str, found: Mapping[str, Mapping[str, Any]], examples: Sequence[str] | None) -> list[str]:
    """A table of a metric's numbers, one row for each method and one column for each example."""
    values = {name: _values(name, key, {str(k): v for k, v in row.items()}[key]) for name, row in found.items()}
    counts = {len(each) for each in values.values()}
    if counts == {1} and examples is None:
        return []
    count = max(counts)
    if examples is not None and counts != {len(examples)}:
        raise ValueError(f"examples has {len(examples)} names for {count} examples: give one for each.")
    rows = [_line(name, [(f"{value:.4g}", False) for value in each]) for name, each in values.items()]
    names = [str(i) for i in range(count)] if examples is None else list(map(str, examples))
    return [f"<details><summary>{html.escape(head)}: each example</summary>{_tabled('method', names, rows)}</details>"]


def _line(name: str, cells: Sequence[tuple[str, bool]]) -> str:
    marked = (f"<td>{'<b>' * bold}{html.escape(text)}{'</b>' * bold}</td>" for text, bold in cells)
    return f"<tr><th scope=row>{html.escape(str(name))}</th>{''.join(marked)}</tr>"


def _tabled(corner: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    named = "".join(f"<th scope=col>{html.escape(head)}</th>" for head in heads)
    head = f"<thead><tr><th scope=col>{corner}</th>{named}</tr></thead>"
    return f"<div class=wide><table>{head}<tbody>{''.join(rows)}</tbody></table></div>"


def _read(found: Any, better: Mapping[str, str] | None) -> tuple[list[str], list[list[_Cell]], set[tuple[int, str]], list[str]]:
    """The metrics, the cells, which of these are the best of their column, and the heads of the columns."""
    if not isinstance(found, Mapping) or not all(isinstance(row, Mapping) for row in found.values()):
        got = type(found).__name__
        raise TypeError(
            f"found must be a dict of dicts, method -> metric -> numbers, as fa.metrics.compare returns, got {got}."
        )
    if not found or not all(found.values()):
        raise ValueError("the table is empty, expected at least one method and one metric.")
    names = [str(name) for name in next(iter(found.values()))]
    for method, row in found.items():
        if [str(name) for name in row] != names:
            raise ValueError(
                f"{method!r} has the metrics {', '.join(map(str, row))}, expected {', '.join(names)} as the first."
            )
    ways = _ways(names, better)
    cells = [[_cell(_values(method, name, value)) for name, value in row.items()] for method, row in found.items()]
    best: set[tuple[int, str]] = set()
    for i, name in enumerate(names):
        way, means = ways.get(name), [row[i].mean for row in cells]
        known = [mean for mean in means if mean is not None]
        if way is not None and name not in _CHECKS and len(known) > 1:
            top = min(known) if way == "low" else max(known)
            best |= {(j, name) for j, mean in enumerate(means) if mean == top}
    return names, cells, best, [f"{name} {_SIGNS[ways.get(name)]}".strip() for name in names]


def _meaning(cells: Sequence[Sequence[_Cell]], best: set[tuple[int, str]], heads: Sequence[str]) -> str:
    """The caption: of the signs that there are."""
    errors = any("±" in cell.text for row in cells for cell in row)
    signs = [told for sign, told in _MEANINGS.items() if any(head.endswith(sign) for head in heads)]
    marked = "bold: the best of a column" * bool(best)
    parts = ["mean over the examples" + " ± its standard error" * errors, ", ".join(signs), marked]
    return "; ".join(filter(None, parts))


def _ways(names: Sequence[str], better: Mapping[str, str] | None) -> dict[str, str]:
    if better is not None and not isinstance(better, Mapping):
        raise TypeError(f"better must be a dict of metrics, {{'mine': 'low'}}, got {type(better).__name__}.")
    for name, way in (better or {}).items():
        if way not in ("low", "high"):
            raise ValueError(f"better[{name!r}] must be 'low' or 'high', got {way!r}.")
        if name not in names:
            raise ValueError(f"better names {name!r}, and the metrics are {', '.join(map(repr, names))}.")
    return {name: way for name, way in {**BETTER, **(better or {})}.items() if name in names}


def _values(method: Any, name: Any, value: Any) -> list[float]:
    """One number for each example; of a dict the mean over its entries."""
    if isinstance(value, Mapping):
        each = [numbers(part, f"found[{method!r}][{name!r}][{key!r}]") for key, part in value.items()]
        if len(counts := {part.size for part in each} - {1}) > 1:
            raise ValueError(f"found[{method!r}][{name!r}] holds {sorted(counts)} numbers, expected one for each example.")
        value = np.mean(np.broadcast_arrays(*each), 0) if each else []
    if isinstance(value, tuple):
        text = f"found[{method!r}][{name!r}] is a {type(value).__name__}, expected numbers [N]"
        raise TypeError(f"{text}: a curve is drawn by viz.curves.")
    found = numbers(value, f"found[{method!r}][{name!r}]").reshape(-1)
    if not found.size:
        raise ValueError(f"found[{method!r}][{name!r}] holds no number.")
    return [float(number) for number in found]


def _cell(values: Sequence[float]) -> _Cell:
    mean = float(np.mean(values))
    if len(values) == 1:
        return _Cell(f"{mean:.3g}", mean)
    return _Cell(f"{mean:.3g} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}", mean)
