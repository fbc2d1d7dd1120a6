"""A page of an answer: which words of the prompt made a language model write each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, check_text, for_numpy, numbers, shape_of
from ._colors import as_text, on_paper, on_slate
from ._file import Page, Parts, filled, written

_PARTS = Parts("answer.html", ("page.css", "answer.css"), ("page_base.js", "answer.js", "answer_matrix.js"))
_ALONE = "attribution"


def answer(
    columns: Sequence[str],
    answer: Sequence[str],
    attributions: Any,
    *,
    log_probs: Sequence[float] | Tensor | None = None,
    title: str = "Attributions",
    out: str | PathLike[str] | None = None,
) -> Page:
    """A page of an answer: point at one of its tokens, and the words that made the model write it are coloured.

    One HTML file that holds everything and loads nothing: it can be mailed, opened offline, or shown in a notebook. Each token
    of the answer can be pointed at, or reached with the keyboard: then every column has the colour of ``attributions[t][i]``,
    red for positive and blue for negative values, the stronger the larger, on one scale for the page; exactly 0, as of
    everything that comes later, has none. Otherwise the colours are of the sum over the answer. Pointed at, a column colours
    the answer by what it did to each token. The matrix of all values is below. Several methods have tabs.

    Args:
        columns: the tokens or words that the attributions are of, C strings: those of the prompt, and behind them those of the
            answer where these have attributions too.
        answer: the tokens of the answer, T strings.
        attributions: ``[T, C]``, or ``[T, 1, C, D]`` as from `each_target`, whose features are summed; or a dict of method
            name -> one of these.
        log_probs: the log-probability of each token of the answer in nats, T numbers; None shows none.
        title: the title of the page.
        out: a file to write the page to, such as ``"answer.html"``; None writes none.

    Returns:
        A `Page`: a notebook displays it, ``.html`` is the text of the file, ``.save(path)`` writes it.

    Raises:
        ValueError: the attributions, the columns, the answer and its log-probabilities do not fit each other, there is nothing
            to show, or a value is NaN or inf.
        TypeError: something holds no strings, or no real numbers.

    Example:
        >>> import torch
        >>> from funattr import viz
        >>> values = torch.tensor([[0.1, 0.2, 1.6, 0.0, 0.0], [0.0, 0.1, 0.4, 0.9, 0.0]])
        >>> columns = ["The", " capital", " of France is", " Par", "is"]
        >>> page = viz.answer(columns, [" Par", "is"], values, log_probs=[-0.2, -0.01])
        >>> '"answer": [" Par", "is"]' in page.html
        True
    """
    columns, answer = _strings(columns, "columns"), _strings(answer, "answer")
    found = _methods(attributions, len(answer), len(columns))
    data = {
        "columns": columns,
        "answer": answer,
        "log_probs": None if log_probs is None else _log_probs(log_probs, len(answer)),
        "attributions": found,
    }
    check_text(title, "title")
    return written(filled(_PARTS, title, data, light=as_text(on_paper()), dark=as_text(on_slate())), out)


def _strings(given: Any, name: str) -> list[str]:
    if isinstance(given, str):
        raise TypeError(f"{name} is one string, expected a list of tokens: pass [{given!r}], or the tokenizer's tokens.")
    if not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a list of strings, got {type(given).__name__}.")
    for each in given:
        if not isinstance(each, str):
            raise TypeError(
                f"{name} holds {each!r}, a {type(each).__name__}, expected strings: for ids, pass "
                f"[tokenizer.decode(id) for id in ids]."
            )
    if not given:
        raise ValueError(f"{name} is empty: there is nothing to show.")
    return list(given)


def _methods(given: Any, rows: int, columns: int) -> dict[str, list[list[float]]]:
    if not isinstance(given, Mapping):
        return {_ALONE: _matrix(given, "attributions", rows, columns)}
    if not given:
        raise ValueError("attributions is empty: pass {'input_x_gradient': attribution}.")
    return {str(name): _matrix(value, f"attributions[{name!r}]", rows, columns) for name, value in given.items()}


def _matrix(value: Any, name: str, rows: int, columns: int) -> list[list[float]]:
    """``[T][C]``, with the digits that the numbers have."""
    array = numbers(value, name)
    joined = array[:, 0].sum(-1) if array.ndim == 4 and array.shape[1] == 1 else array
    if joined.shape != (rows, columns):
        raise ValueError(
            f"{name} has the shape {shape_of(value)}, expected [{rows}, {columns}] or [{rows}, 1, {columns}, D] for {rows} "
            f"token{'s' * (rows != 1)} of the answer and {columns} column{'s' * (columns != 1)}: {_cure(array, rows, columns)}."
        )
    double = (value.dtype if isinstance(value, Tensor) else np.asarray(value).dtype) in (torch.float64, np.dtype("float64"))
    return [[_short(one, double) for one in row] for row in joined.tolist()]


def _cure(array: Array, rows: int, columns: int) -> str:
    shape = array.shape
    if shape in ((columns,), (1, columns)) or (array.ndim == 3 and shape[:2] == (1, columns)):
        return "that is of the whole answer: pass each_target(method, tokens(ids)), or the answer's text as its one token"
    if array.ndim == 3 and shape[:2] == (rows, columns):
        return "sum the features, attributions.sum(-1)"
    if array.ndim == 4 and shape[0] == rows and shape[1] > 1:
        return "choose one example of the batch, attributions[:, [0]]"
    if shape == (columns, rows):
        return "turn it, attributions.T"
    return "pass one row per token of the answer and one column per token that it was made from"


def _short(value: float, double: bool) -> float:
    """A float32 has nine digits at most, and zeros take one sign."""
    number = value if double else float(f"{value:.9g}")
    return 0 if number == 0 else number


def _log_probs(given: Any, count: int) -> list[float]:
    found = np.asarray(for_numpy(given))
    if found.dtype.kind not in "fiu":
        raise TypeError(f"log_probs must be numbers, one per token of the answer, got {type(given).__name__} of {found.dtype}.")
    found = found.astype(float)
    if found.shape != (count,):
        raise ValueError(
            f"log_probs has the shape {list(found.shape)}, expected [{count}]: pass one number per token of the answer."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            "log_probs holds NaN or inf: a token of probability 0 has no number; leave log_probs out, or replace it."
        )
    return [float(f"{value:.9g}") for value in found.tolist()]
