"""Pictures and pages of what was explained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .boxes import as_seen, stacked, together
from .facts import Explained, Found, as_map, per_token
from .words import mistake, writing

if TYPE_CHECKING:
    from torch import Tensor

_PAGE = 800  # pixels of a side in a page


def draw(out: Path, model: str, every: Sequence[Explained], options: Any) -> None:
    """A picture or a page of all that was explained, by the name of the file.

    Raises:
        argparse.ArgumentError: there is nothing to draw in an attribution, or maps of several sizes do not go together.
        ImportError: matplotlib is not installed.
    """
    from funattr import viz

    page = out.suffix.lower() == ".html"
    names = [each.given.name for each in every]
    both = [f"{each.given.name}\n{each.chosen.title}" for each in every]
    if every[0].given.tokens is not None:
        words, values = _words(every)
        if page:
            viz.page(words, values, titles=names, predictions=_predictions(every), title=_heading(every), out=out)
            return
        # A scale for each: methods have different units.
        rows = [(i, name) for i in range(len(every)) for name in values]
        flat_titles = [f"{name}   {both[i].replace(chr(10), ': ')}" for i, name in rows]
        viz.text(
            [words[i] for i, _ in rows], [values[name][i] for i, name in rows], titles=flat_titles, scale="example", out=out
        )
        return
    smooth = not options.raw
    parts = [shown_of(each, _PAGE if page else None) for each in every]
    found = {_title(_of(every[0], name)): [as_drawn(each, name, options.raw) for each in every] for name in _names(every)}
    if page:
        shown = as_seen(parts, [each.given.picture for each in every if each.given.picture is not None])
        maps = {name: stacked(values) for name, values in found.items()}
        heading = _heading(every)
        viz.page(shown, maps, titles=names, predictions=_predictions(every), title=heading, smooth=smooth, out=out)
    else:
        shown, maps = together(parts, found, smooth)
        viz.show(shown, maps, titles=both, scale="method", smooth=smooth, out=out)


def heat_maps(folder: Path, each: Explained, raw: bool, taken: set[Path]) -> int:
    """One picture for each method, and how many: the heat map over the picture, in the picture's own size. No path is `taken`
    twice, and none of those that are: the pictures themselves may lie in the folder."""
    from funattr import viz

    shown = shown_of(each, None)
    name, several = Path(each.given.name), len(each.found) > 1
    for found in each.found:
        end = f".{found.name}.png" if several else ".png"
        stems = itertools.chain([name.stem, name.name], (f"{name.name}.{number}" for number in itertools.count(2)))
        files = (folder / name.with_name(stem + end) for stem in stems)  # a.png and a.jpg want one name
        file = next(file for file in files if file.resolve() not in taken)
        taken.add(file.resolve())
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            viz.blend(as_drawn(each, found.name, raw), shown, smooth=not raw, out=file)
    return len(each.found)


def shown_of(each: Explained, most: int | None) -> Tensor:
    """What the model sees of the picture: in the picture's own size where that is known, or `most` pixels of a side."""
    import torch

    assert each.given.picture is not None
    seen = each.given.seen() if each.given.seen is not None else None
    if seen is None:
        return each.given.picture
    side = max(seen.shape[-2:])
    if most is None or side <= most:
        return seen
    size = [max(1, round(part * most / side)) for part in seen.shape[-2:]]
    return torch.nn.functional.interpolate(seen, size, mode="bilinear", antialias=True)


def as_drawn(each: Explained, name: str, raw: bool) -> Tensor:
    """The map ``[1, 1, h, w]`` of a method; of a CAM what speaks for the class, unless it is wanted as it is."""
    found = _of(each, name)
    value = as_map(found, each.given)
    if value is None:
        raise _cannot_draw(found, "a height and a width")
    return value.clamp(min=0) if found.is_map and not raw else value


def _words(every: Sequence[Explained]) -> tuple[list[list[str]], dict[str, list[Tensor]]]:
    """The words of each text, without padding, and of each method the sum of what each word holds."""
    import torch

    words, places = [], []
    for each in every:
        tokens = each.given.tokens or ()
        parts = each.given.words if each.given.words is not None else [(token, [i]) for i, token in enumerate(tokens)]
        words.append([word for word, _ in parts])
        places.append([list(where) for _, where in parts])
    values: dict[str, list[Tensor]] = {}
    for name in _names(every):
        values[name] = []
        for each, parts_of in zip(every, places):
            sums = per_token(_of(each, name), len(each.given.tokens or ()))
            if sums is None:
                raise _cannot_draw(_of(each, name), f"a value per token, [1, {len(each.given.tokens or ())}, C]")
            values[name].append(torch.stack([sums[where].sum() for where in parts_of]).cpu())
    return words, values


def _names(every: Sequence[Explained]) -> list[str]:
    return [found.name for found in every[0].found]


def _of(each: Explained, name: str) -> Found:
    return next(found for found in each.found if found.name == name)


def _title(found: Found) -> str:
    return found.name if found.layer is None else f"{found.name} at {found.layer}"


def _heading(every: Sequence[Explained]) -> str:
    first = every[0].given.name
    return first if len(every) == 1 else f"{first} and {len(every) - 1} more"


def _predictions(every: Sequence[Explained]) -> list[Any]:
    """As a page takes them: a class and its probability, or a sentence."""
    return [
        (each.chosen.predicted.label, each.chosen.predicted.probability)
        if each.chosen.explained == each.chosen.predicted and each.chosen.predicted.probability is not None
        else each.chosen.title.replace("\n", "; ")
        for each in every
    ]


def _cannot_draw(found: Found, wanted: str) -> Exception:
    import torch

    where = "the input" if found.layer is None else f"layer {found.layer!r}"
    value = found.attribution
    got = f"of the shape {list(value.shape)}" if isinstance(value, torch.Tensor) else f"of type {type(value).__name__}"
    return mistake(f"{found.name} at {where} is {got}, without {wanted} to draw: choose another --layer, or --out with .npz.")
