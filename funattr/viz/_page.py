"""A page to look into: one HTML file, which loads nothing. Nothing here needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Array, check_count, check_flag, check_listed, check_text, check_titles, heat_maps, pictures
from ._colors import as_text, check_alpha, on_paper, over_pictures
from ._file import Page, Parts, filled, written
from ._pack import packed_image, packed_map
from ._patches import with_tokens
from ._scales import Scale, check_scale, scale_of, scales_of
from ._tokens import printable, sentences_of, token_values

_PARTS = Parts("page.html", ("page.css",), ("page_base.js", "page_data.js", "page.js"))

_MUCH = 500_000  # values of maps: more than these are rounded, so that the file can be mailed
_ROUNDED = "Values are rounded to about 1 % of the end of their scale, and sums are not; exact=True keeps all digits."


def page(
    inputs: Any,
    attributions: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    predictions: Sequence[str | tuple[Any, float]] | None = None,
    title: str = "Attributions",
    percentile: float | None = None,
    scale: str = "method",
    brightness: str | tuple[float, float] = "grid",
    channel_dim: int = -3,
    alpha: float = 0.7,
    smooth: bool = True,
    special: int | str | None = None,
    exact: bool | None = None,
    out: str | PathLike[str] | None = None,
) -> Page:
    """A page to look into: images with heat maps, or text, the methods side by side, and their values wherever you point.

    One HTML file that holds everything and loads nothing: it can be mailed, opened offline, or shown in a notebook. It has a
    choice of examples and targets, the class and its probability, a slider for the opacity of the maps, and a colour bar below
    each; the keyboard does what the mouse does; it follows the light or dark of the system. The colours are those of `overlay`,
    and the value under the cursor is the attribution's number, not a colour's.

    Each method has its own scale, for all its examples and targets, unless `scale` says otherwise. Images are stored once,
    whatever the number of maps. With more than half a million values of maps, these are rounded to multiples of 1, 2 or 5
    times a power of ten, between 1/40 and 1/100 of the end of their scale (the page says so, and the number under the cursor
    is that multiple), and images keep the colours of 2 x 2 pixels, as JPEG does: 40 images of 224 x 224 with three maps
    each are under 10 MB. `exact` keeps all: float32, or float64 where float32 has no such numbers.

    Args:
        inputs: images ``[N, C, H, W]`` or ``[N, H, W]`` as in `show`, or tokens as in `text`.
        attributions: method name -> attribution as in `show` or `text`, or method name -> {target -> attribution}.
        titles: one per example.
        predictions: one per example: the class, or (class, probability) with a probability from 0 to 1.
        title: the title of the page.
        percentile: where the colours end, as a percentile of the absolute values; 100 is the largest. None is 99 for images,
            100 for text, as in `show` and `text`.
        scale: ``"method"``, one for all maps of a method, ``"grid"``, one for all of the page, or ``"example"``, one for all
            of an example.
        brightness: where images leave [0, 1]: ``"grid"``, ``"example"`` or (black, white), as in `show`.
        channel_dim: where the channels of images and their maps are: -3 (``[N, C, H, W]``) or -1 (``[N, H, W, C]``).
        alpha: the opacity of the largest values that the slider starts with, from 0 to 1.
        smooth: whether maps smaller than the images are interpolated, unless the page's switch says otherwise.
        special: for maps of tokens, ``[N, T, C]`` or ``[N, T]``, how many of the first are no patches, or "auto", as in
            `tokens_to_map`; the images are then the model's input. None: all maps are of pixels.
        exact: whether all digits are kept; None: where there are no more than half a million values.
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
        >>> maps = {"input x gradient": by_class, "saliency": fa.saliency(model, x, target="argmax")}
        >>> page = viz.page(x, maps, predictions=[("three", 0.93), ("five", 0.51)])
        >>> "three" in page.html
        True
    """
    check_text(title, "title")
    check_flag(smooth, "smooth")
    check_flag(False if exact is None else exact, "exact")
    check_listed(predictions, "predictions")
    check_alpha(alpha)
    check_scale(scale, ("grid", "method", "example"))
    texts = _is_text(inputs)
    images = np.zeros((0, 1, 1, 1)) if texts else pictures(inputs, "inputs", channel_dim, brightness)
    tokens, maps = _texts(inputs, attributions) if texts else ([], _heats(images, attributions, channel_dim, special))
    count = len(maps[0].values)
    check_titles(titles, count, "example")
    if percentile is None:
        percentile = 100.0 if texts else 99.0
    if exact is None:
        exact = sum(values.size for found in maps for values in found.values) <= _MUCH
    shown = {"tokens": tokens} if texts else {"images": _images(images, exact)}
    facts = {
        "titles": [f"example {i}" for i in range(count)] if titles is None else [str(name) for name in titles],
        "predictions": _predictions(predictions, count),
        "methods": _methods(maps, _scales(maps, scale, percentile), exact),
        "palette": as_text(on_paper() if texts else over_pictures()),
        "note": "" if exact else _ROUNDED,
    }
    controls = {"opacity": round(100 * alpha), "smooth": "checked" if smooth else ""}
    return written(filled(_PARTS, title, {**shown, **facts}, **controls), out)


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


def _texts(inputs: Any, attributions: Any) -> tuple[list[list[str]], list[_Maps]]:
    sentences, lone = sentences_of(inputs, "inputs")
    maps = [_Maps(*tab, token_values(value, name, sentences, lone)) for tab, name, value in _each(attributions)]
    return [[printable(token) for token in sentence] for sentence in sentences], maps


def _heats(images: Array, attributions: Any, channel_dim: int, special: int | str | None) -> list[_Maps]:
    maps = []
    for tab, name, value in _each(attributions):
        laid = with_tokens(value, special, images.shape[1:3], False)
        maps.append(_Maps(*tab, list(heat_maps(laid, name, channel_dim, over=images))))
        check_count(len(maps[-1].values), name, len(images), "inputs")
    return maps


def _images(images: Array, exact: bool) -> dict[str, Any]:
    height, width, channels = images.shape[1:]
    values = [packed_image(image, exact) for image in images]
    return {"height": height, "width": width, "channels": channels, "values": values}


def _predictions(given: Any, count: int) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    if isinstance(given, str) or len(given) != count:
        raise ValueError(f"predictions must be one per example, {count}: a class each, or (class, probability).")
    found = []
    for each in given:
        name, probability = each if isinstance(each, (tuple, list)) and len(each) == 2 else (each, None)
        if probability is not None and not 0 <= float(probability) <= 1:
            raise ValueError(f"predictions has ({name!r}, {float(probability):g}): a probability is from 0 to 1.")
        found.append({"name": str(name), "probability": None if probability is None else float(probability)})
    return found


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


def _methods(maps: Sequence[_Maps], scales: Sequence[Sequence[Scale]], exact: bool) -> list[dict[str, Any]]:
    methods: dict[str, list[Any]] = {}
    for found, of_maps in zip(maps, scales):
        entries = [packed_map(values, scale, exact) for values, scale in zip(found.values, of_maps)]
        methods.setdefault(found.method, []).append({"name": found.target, "maps": entries})
    return [{"name": name, "targets": targets} for name, targets in methods.items()]
