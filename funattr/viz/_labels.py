"""Words that fit: measured, and wrapped to the room that there is."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

from ._tokens import printable

_DPI = 150
_SPARE = 1.03  # of the width that is measured: backends and resolutions round the letters differently
_LEADING = 1.25  # the height of a line, in its font's size

#: A name breaks after these, before it breaks anywhere; a number does not, at its point or after its sign.
_PARTS = re.compile(r"\(?(?:[^\s_\-./,:()]|(?<=\d)[.,](?=\d)|(?<!\S)-)*(?:[\s_./,:)]|(?<=\S)-)*")


class Label(NamedTuple):
    """Words as they will be drawn, and the inches that they take."""

    text: str
    width: float
    height: float


def fitted(text: str, width: float, points: float) -> Label:
    """The words in lines of at most `width` inches: none is cut, and a word that is too long breaks where it must."""
    lines = [line for part in str(text).split("\n") for line in _wrapped(printable(part) if part else "", width, points)]
    return Label("\n".join(lines), max(inches(line, points) for line in lines), len(lines) * points * _LEADING / 72)


def inches(line: str, points: float) -> float:
    return _SPARE * _measured(line, points, _fonts())


def words(points: float, **more: Any) -> dict[str, Any]:
    """How labels are drawn: a name is a name, whatever dollar signs are in it, and lines are as far apart as was measured."""
    return {"fontsize": points, "fontweight": "normal", "parse_math": False, "linespacing": 1.1, **more}


def _wrapped(line: str, width: float, points: float) -> list[str]:
    lines, rest = [], ""
    for part in _PARTS.findall(line):
        if inches((rest + part).rstrip(), points) <= width:
            rest += part
            continue
        if rest.strip():
            lines.append(rest.strip())
        rest = part.lstrip()
        while inches(rest.rstrip(), points) > width and len(rest) > 1:
            at = _most(rest, width, points)
            lines.append(rest[:at])
            rest = rest[at:]
    return [*lines, rest.strip()] if rest.strip() or not lines else lines


def _most(word: str, width: float, points: float) -> int:
    """How many of its letters fit, at least one."""
    at = 1
    while at < len(word) - 1 and inches(word[: at + 1], points) <= width:
        at += 1
    return at


@lru_cache(maxsize=4096)
def _measured(line: str, points: float, fonts: tuple[str, ...]) -> float:
    """In the caller's font, on whose names the answer depends."""
    from matplotlib.font_manager import FontProperties

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that the font lacks, matplotlib tells where they are drawn
        wide = _renderer().get_text_width_height_descent(line, FontProperties(size=points), False)[0]
    return float(wide) / _DPI


@lru_cache(maxsize=1)
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(8, 8, _DPI)


def _fonts() -> tuple[str, ...]:
    try:
        from matplotlib import rcParams
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "funattr[viz]".') from error
    return (*rcParams["font.family"], *rcParams["font.sans-serif"])
