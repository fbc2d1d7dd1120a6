"""What was explained, as data: the same facts in every kind of file."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import funattr as fa

from .gap import Gap
from .inputs import Input
from .sites import flat
from .targets import Chosen, Class
from .words import mistake

if TYPE_CHECKING:
    from torch import Tensor


class Found(NamedTuple):
    """An attribution, and what is needed to draw it."""

    name: str
    attribution: Any
    layer: str | None
    """Where it is, None at the input."""
    channel_dim: int
    grouped: bool
    """Whether every channel holds the number of all of them, as groups and windows have one: a mean draws it, not a sum."""
    is_map: bool
    """Whether it is a CAM: what speaks for the class in a part of the picture, which is drawn smooth."""
    gap: Gap | None = None
    grid: tuple[int, int] | None = None
    """The rows and columns that its tokens lie in, where the model says so."""
    errors: Any = None
    """The standard error of each number, where the method tells it."""
    total: float | None = None
    """Of groups, what their numbers sum to, each once; None of windows, which overlap."""


def with_errors(found: Found) -> list[Found]:
    """The attribution, and its standard errors as one more, where there are any: drawn and written beside it."""
    if found.errors is None or not bool(found.errors.any()):
        return [found._replace(errors=None)]
    errors = Found(f"{found.name}_error", found.errors, found.layer, found.channel_dim, found.grouped, False, grid=found.grid)
    return [found._replace(errors=None), errors]


class Explained(NamedTuple):
    """One input, and all that was found about it."""

    given: Input
    chosen: Chosen
    found: Sequence[Found]


class Failed(NamedTuple):
    """An input that could not be explained, and why."""

    name: str
    why: str


def versions() -> dict[str, str]:
    """What computed it."""
    import torch

    found = {"funattr": fa.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for library in ("transformers", "torchvision", "timm"):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts_of(model: str, every: Sequence[Explained], failed: Sequence[Failed], maps: bool) -> dict[str, Any]:
    """What JSON holds; `maps`: with the values of pictures, which may be many."""
    return {
        "model": model,
        "versions": versions(),
        "explained": [_one(each, maps) for each in every],
        "failed": [each._asdict() for each in failed],
    }


def _one(each: Explained, maps: bool) -> dict[str, Any]:
    given, chosen = each.given, each.chosen
    facts: dict[str, Any] = {"input": given.name, "made_ready": given.told}
    facts |= {"predicted": _class(chosen.predicted), "target": _class(chosen.explained)}
    if given.tokens is not None:
        facts["tokens"] = list(given.tokens)
        facts["tokens_of_the_whole_text"] = given.whole or len(given.tokens)
        if given.words is not None:
            facts["words"] = [{"word": word, "tokens": list(places)} for word, places in given.words]
    facts["methods"] = {found.name: _method(found, given, maps) for found in each.found}
    return facts


def _class(of: Class) -> dict[str, Any]:
    return {"class": of.number, "name": of.name, "score": of.score, "probability": of.probability}


def _method(found: Found, given: Input, maps: bool) -> dict[str, Any]:
    leaves = flat("attribution", found.attribution)
    facts: dict[str, Any] = {"layer": found.layer, "shapes": {name: list(leaf.shape) for name, leaf in leaves}}
    facts["sum"] = found.total if found.grouped else sum(float(leaf.double().sum()) for _, leaf in leaves)
    if found.gap is not None:
        facts["completeness"] = {"difference": found.gap.difference, "gap": found.gap.total - found.gap.difference}
    if given.tokens is not None:
        sums = per_token(found, len(given.tokens))
        facts["sums"] = None if sums is None else _rounded(sums)
    elif maps:
        values = as_map(found, given)
        facts["map"] = None if values is None else [_rounded(row) for row in values[0, 0]]
    return facts


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.double().tolist()]


def json_text(facts: Mapping[str, Any]) -> str:
    """JSON, with the numbers of a list in one line. Within a text no line ends, so that none is taken for a list."""
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n\s*([-\d.,eE+\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


COLUMNS = (
    "input",
    "method",
    "layer",
    "predicted",
    "target",
    "class",
    "score",
    "probability",
    "row",
    "column",
    "token",
    "value",
)


def rows_of(model: str, every: Sequence[Explained]) -> Iterator[list[Any]]:
    """A row for each token, or for each place of a map; the model and the versions stand in every row."""
    made_by = [model, *(versions()[name] for name in ("funattr", "torch"))]
    yield [*COLUMNS, "model", "funattr", "torch"]
    for each in every:
        given, chosen = each.given, each.chosen
        target = chosen.explained
        told = [target.number, target.label, target.score, target.probability]
        for found in each.found:
            head = [given.name, found.name, found.layer, chosen.predicted.label, *told]
            for place in _places(found, given):
                yield [*head, *place, *made_by]


def _places(found: Found, given: Input) -> Iterator[tuple[int, int | None, str | None, float]]:
    tokens = given.tokens
    values = as_map(found, given) if tokens is None else per_token(found, len(tokens))
    if values is None:
        what = "place" if tokens is None else "token"
        raise mistake(
            f"{found.name} has no number for each {what}, for a line of .csv: choose another --layer, or --out with .npz."
        )
    if tokens is not None:
        yield from ((i, None, tokens[i], value) for i, value in enumerate(_rounded(values)))
        return
    for i, row in enumerate(values[0, 0]):
        yield from ((i, j, None, value) for j, value in enumerate(_rounded(row)))


def numbers_of(every: Sequence[Explained]) -> dict[str, Tensor]:
    """The inputs and the attributions as they are, nothing normalised, by name; of several inputs below the name of each."""
    values: dict[str, Tensor] = {}
    for each in every:
        below = f"{each.given.name}/" if len(every) > 1 else ""
        for name, value in [("input", each.given.x), *((found.name, found.attribution) for found in each.found)]:
            for key, tensor in flat(below + name, value):
                plain = tensor.detach().cpu()
                values[key] = (plain.float() if plain.is_floating_point() else plain).contiguous()
    return values


def per_token(found: Found, count: int) -> Tensor | None:
    """``[T]``: the sum of what each token holds; None where it is not by tokens."""
    import torch

    value = found.attribution
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[:2] != (1, count):
        return None
    return _joined(value.flatten(2) if value.dim() > 2 else value[..., None], -1, found.grouped)[0, :, 0]


def as_map(found: Found, given: Input) -> Tensor | None:
    """``[1, 1, h, w]``: channels summed, tokens laid out as they were in the image; None where it has no places."""
    import torch

    from funattr import viz

    value = found.attribution
    if not isinstance(value, torch.Tensor) or value.dim() not in (3, 4):
        return None
    joined = _joined(value, found.channel_dim, found.grouped)
    if value.dim() == 4:
        return joined if found.channel_dim == 1 else joined.movedim(-1, 1)
    if found.channel_dim != -1 or given.picture is None:
        return None
    try:
        laid = viz.tokens_to_map(joined, image=tuple(given.picture.shape[-2:]), grid=found.grid)
    except ValueError:  # not one answer: it has no places that could be told
        return None
    return torch.from_numpy(laid).to(joined.dtype)[:, None]


def _joined(value: Tensor, channel_dim: int, grouped: bool) -> Tensor:
    return value.mean(channel_dim, keepdim=True) if grouped else value.sum(channel_dim, keepdim=True)
