"""A page to look into: one HTML file, which loads nothing. Nothing here needs matplotlib."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import Array, check_count, check_titles, heat_maps, pictures
from ._scales import Scale, check_scale, scale_of, scales_of
from ._tokens import printable, sentences_of, token_values

_HERE = Path(__file__).parent
_HEIGHT = 680  # pixels of a notebook cell

#: The eleven colours between which the figures' colour map is linear (ColorBrewer's RdBu, from blue to red).
_COLORS = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"


@dataclass(frozen=True)
class Page:
    """A page of attributions. A notebook displays it; `save` writes it.

    Example:
        >>> from funattr import viz
        >>> viz.page(["good", "film"], {"saliency": [0.5, 0.25]}).html[:15]
        '<!DOCTYPE html>'
    """

    html: str = field(repr=False)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file.

        Args:
            path: where, such as ``"maps.html"``.

        Raises:
            ValueError: the name does not end in ``.html`` or ``.htm``.
        """
        if not fspath(path).lower().endswith((".html", ".htm")):
            raise ValueError(f"{fspath(path)!r} does not name a page: choose a name that ends in .html.")
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.html)

    def _repr_html_(self) -> str:
        """In a frame of its own: its names and styles meet those of no other cell, and it cannot touch the notebook."""
        style = f"width: 100%; height: {_HEIGHT}px; border: 0; resize: vertical; overflow: auto"
        return (
            f'<iframe title="attributions" sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def page(
    inputs: Any,
    attributions: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    title: str = "Attributions",
    percentile: float | None = None,
    scale: str = "method",
    channel_dim: int = -3,
    alpha: float = 0.7,
    out: str | PathLike[str] | None = None,
) -> Page:
    """A page to look into: images with heat maps, or text, with tabs for methods and targets, and a value wherever you point.

    One HTML file that holds everything and loads nothing: it can be mailed, opened offline, or shown in a notebook. It has a
    choice of examples, a slider for the opacity of the map, and a colour bar; the keyboard does what the mouse does. The
    colours are those of `overlay`, and the value under the cursor is the attribution's number, not a colour's.

    One map is seen at a time, beside its scale; so each method has its own, for all its examples and targets, unless `scale`
    says otherwise. The file has 5.3 bytes per pixel of a map (float32, in base64; float64 is taken where float32 has no such
    numbers) and 1.3 per pixel of a grey image, 4 of an RGB image.

    Args:
        inputs: images ``[N, C, H, W]`` or ``[N, H, W]`` as in `show`, or tokens as in `text`.
        attributions: method name -> attribution as in `show` or `text`, or method name -> {target -> attribution}.
        titles: one per example.
        title: the title of the page.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest. None is 99 for images,
            100 for text, as in `show` and `text`.
        scale: ``"method"``, one for all maps of a method, ``"grid"``, one for all of the page, or ``"example"``, one for all
            of an example.
        channel_dim: where the channels of images and their maps are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        alpha: the opacity of the heat map that the slider starts with, from 0 to 1.
        out: a file to write the page to, such as ``"maps.html"``; None writes none.

    Returns:
        A `Page`: a notebook displays it, ``.html`` is the text of the file, ``.save(path)`` writes it.

    Raises:
        ValueError: shapes, tokens and attributions do not fit each other, an argument does not fit, or a value is NaN or inf.
        TypeError: `attributions` is not a dict, or something holds neither real numbers nor tokens.

    Example:
        >>> import torch, funattr as fa
        >>> from funattr import viz
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> by_class = {c: fa.input_x_gradient(model, x, target=c) for c in (3, 5)}
        >>> page = viz.page(x, {"input x gradient": by_class, "saliency": fa.saliency(model, x, target="argmax")})
        >>> page.html.count("<canvas")
        3
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}.")
    check_scale(scale, ("grid", "method", "example"))
    shown, maps = _texts(inputs, attributions) if _is_text(inputs) else _heats(inputs, attributions, channel_dim)
    count = len(maps[0].values)
    check_titles(titles, count, "example")
    named = [f"example {i}" for i in range(count)] if titles is None else [str(name) for name in titles]
    if percentile is None:
        percentile = 100.0 if "tokens" in shown else 99.0
    methods = _methods(maps, _scales(maps, scale, percentile))
    made = Page(_filled(title, {**shown, **methods, "titles": named, "palette": _base64(_palette())}, alpha))
    if out is not None:
        made.save(out)
    return made


class _Maps(NamedTuple):
    method: str
    target: str
    values: Sequence[Array]  # one per example: [H, W], or [L] for tokens


def _is_text(inputs: Any) -> bool:
    """Strings, or lists of strings; also where something else is mixed in, which is then complained about."""
    if isinstance(inputs, (str, bytes)):
        return True
    rows = [row for row in inputs if isinstance(row, Sequence)] if isinstance(inputs, Sequence) else []
    return any(isinstance(row, str) or any(isinstance(token, str) for token in row) for row in rows)


def _texts(inputs: Any, attributions: Any) -> tuple[dict[str, Any], list[_Maps]]:
    sentences, lone = sentences_of(inputs, "inputs")
    maps = [_Maps(*tab, token_values(value, name, sentences, lone)) for tab, name, value in _each(attributions)]
    return {"tokens": [[printable(token) for token in sentence] for sentence in sentences]}, maps


def _heats(inputs: Any, attributions: Any, channel_dim: int) -> tuple[dict[str, Any], list[_Maps]]:
    images, maps = pictures(inputs, "inputs", channel_dim, "grid"), []
    for tab, name, value in _each(attributions):
        maps.append(_Maps(*tab, list(heat_maps(value, name, channel_dim))))
        check_count(len(maps[-1].values), name, len(images), "inputs")
    height, width, channels = images.shape[1:]
    pixels = [_base64(np.rint(255 * image).astype(np.uint8)) for image in images]
    return {"images": {"height": height, "width": width, "channels": channels, "values": pixels}}, maps


def _each(attributions: Any) -> Iterator[tuple[tuple[str, str], str, Any]]:
    """The names on the tabs, the caller's name for it, and the attribution, of every method and target."""
    if not isinstance(attributions, Mapping):
        raise TypeError(
            f"attributions must be a dict of method name -> attribution, got {type(attributions).__name__}: "
            f"pass {{'saliency': attribution}}."
        )
    if not attributions or any(isinstance(found, Mapping) and not found for found in attributions.values()):
        raise ValueError("attributions is empty, or has a method without targets: pass {'saliency': attribution}.")
    for method, found in attributions.items():
        if not isinstance(found, Mapping):
            yield (str(method), ""), f"attributions[{method!r}]", found
            continue
        for target, value in found.items():
            yield (str(method), str(target)), f"attributions[{method!r}][{target!r}]", value


def _scales(maps: Sequence[_Maps], scale: str, percentile: float) -> list[list[Scale]]:
    if scale != "method":
        return scales_of([found.values for found in maps], scale, percentile)
    methods: dict[str, list[Array]] = {}
    for found in maps:
        methods.setdefault(found.method, []).extend(found.values)
    shared = {method: scale_of(values, percentile) for method, values in methods.items()}
    return [[shared[found.method]] * len(found.values) for found in maps]


def _methods(maps: Sequence[_Maps], scales: Sequence[Sequence[Scale]]) -> dict[str, Any]:
    kind = "<f4" if all(_fits_float32(values) for found in maps for values in found.values) else "<f8"
    methods: dict[str, list[Any]] = {}
    for found, of_maps in zip(maps, scales):
        entries = [
            {"shape": values.shape, "values": _base64(values.astype(kind)), "scale": scale._asdict()}
            for values, scale in zip(found.values, of_maps)
        ]
        methods.setdefault(found.method, []).append({"name": found.target, "maps": entries})
    return {"bytes": int(kind[-1]), "methods": [{"name": name, "targets": targets} for name, targets in methods.items()]}


def _fits_float32(values: Array) -> bool:
    peak = float(np.abs(values).max())
    return peak == 0 or 1e-30 < peak < 1e38


def _base64(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _palette() -> npt.NDArray[np.uint8]:
    """``[256, 3]``: the colour map of the figures."""
    anchors = np.array([list(bytes.fromhex(color)) for color in _COLORS.split()])
    at = np.linspace(0, len(anchors) - 1, 256)
    parts = [np.interp(at, range(len(anchors)), part) for part in anchors.T]
    palette: npt.NDArray[np.uint8] = np.rint(np.stack(parts, 1)).astype(np.uint8)
    return palette


def _filled(title: str, data: dict[str, Any], alpha: float) -> str:
    css, script = [(_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")]
    # In JSON, <, > and & are only within strings: escaped, no string can end the script element.
    escaped = json.dumps(data).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        css=css,
        script=script,
        hash=f"sha256-{digest}",  # no other script runs, whatever is in the page
        data=escaped,
        opacity=round(100 * alpha),
    )
