"""What goes together: squares and superpixels of a picture, words of a text, channels and places of a layer; windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import funattr as fa

from .inputs import Input
from .sites import Where
from .source import Source
from .words import mistake

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = ("squares", "superpixels", "words", "tokens", "channels")
#: Squares along the longer side, at most: of methods with a pass for each, and of those that ask many coalitions of them.
_MANY, _FEW = 14, 7
COALITIONS = ("shapley", "lime")
_TOLD = 5


class Groups(NamedTuple):
    """A mask, what its groups are called, and the part of its group's number that each of its features is drawn with."""

    mask: Tensor
    names: Mapping[int, str]
    part: Tensor | None = None


def groups_of(name: str, source: Source, given: Input, where: Where | None, kind: str | None) -> Groups:
    """The groups that were asked for; else squares of a picture, places of a layer, and of a text words or tokens."""
    if kind == "channels":
        if where is None or where.channel_dim is None:
            raise mistake("--groups channels goes with a layer of maps or of tokens: add --layer.")
        mask = fa.masks.channels(_value(source, given, where), where.channel_dim)
        return Groups(mask, {int(k): f"channel {int(k)}" for k in mask.reshape(-1)})
    if given.tokens is not None:
        if kind in ("squares", "superpixels"):
            raise mistake(f"--groups {kind} belongs to pictures, and this is a text: words, tokens or channels.")
        return _of_text(source, given, where, kind or ("words" if name in COALITIONS else "tokens"))
    if kind in ("words", "tokens"):
        raise mistake(f"--groups {kind} belongs to texts, and this is a picture: squares, superpixels or channels.")
    if kind == "superpixels":
        if where is not None:
            raise mistake("--groups superpixels are parts of the picture: leave --layer out.")
        count = _FEW**2 if name in COALITIONS else _MANY**2
        return Groups(fa.masks.superpixels(given.x.float(), count)[0], {})
    return _of_places(name, source, given, where)


def _value(source: Source, given: Input, where: Where) -> Any:
    return fa.activation(source.model, given.x, layer=where.layer)


def _of_places(name: str, source: Source, given: Input, where: Where | None) -> Groups:
    import torch

    few = name in COALITIONS
    if where is None or (few and where.channel_dim == 1):
        value = given.x if where is None else _value(source, given, where)
        sides = value.shape[2:] if value.dim() > 2 else value.shape[1:]
        side = max(1, -(-max(sides) // (_FEW if few else _MANY)))
        mask = fa.masks.grid(list(sides), side).to(value.device)
        across = -(-sides[-1] // side)
        names = {int(k): f"row {int(k) // across}, column {int(k) % across}" for k in mask.unique()} if len(sides) == 2 else {}
        return Groups(mask[None] if value.dim() > 2 else mask, names)
    shape = list(_value(source, given, where).shape[1:])
    if where.channel_dim is not None:
        shape[where.channel_dim - 1 if where.channel_dim > 0 else -1] = 1
    return Groups(torch.arange(torch.Size(shape).numel(), device=_device(given)).reshape(shape), {})


def _of_text(source: Source, given: Input, where: Where | None, kind: str) -> Groups:
    import torch

    tokens = list(given.tokens or ())
    places: Sequence[tuple[str, Sequence[int]]] = [(token, [i]) for i, token in enumerate(tokens)]
    if kind == "words" and given.words is not None:
        places = given.words
    mask, part = torch.full((len(tokens),), len(places)), torch.ones(len(tokens))
    for number, (_, where_it_is) in enumerate(places):
        mask[list(where_it_is)] = number
        part[list(where_it_is)] = 1 / len(where_it_is)
    names = {number: word for number, (word, _) in enumerate(places)}
    dims = 0 if where is None else _value(source, given, where).dim() - 2
    shape = (len(tokens), *[1] * dims)
    return Groups(mask.to(_device(given)).reshape(shape), names, part.to(_device(given)).reshape(shape))


def _device(given: Input) -> Any:
    return next(iter(given.x.values())).device if isinstance(given.x, Mapping) else given.x.device


def window_of(source: Source, given: Input, where: Where | None, side: int | None) -> dict[str, Any]:
    """A window and its strides: a square of about a seventh of the picture that moves by half of itself; of a text, a token."""
    value = given.x if where is None else _value(source, given, where)
    if not hasattr(value, "shape") or value.dim() < 2:
        raise mistake("occlusion slides over one tensor: choose another --layer.")
    dim = 1 if where is None else where.channel_dim
    sizes, dims = list(value.shape[1:]), range(1, value.dim())
    channels = None if dim is None or value.dim() < 3 else dim % value.dim()
    longest = max(size for d, size in zip(dims, sizes) if d != channels)
    length = side or (1 if given.tokens is not None else max(1, -(-longest // _FEW)))
    window = [size if d == channels else min(length, size) for d, size in zip(dims, sizes)]
    strides = [one if d == channels else max(1, one // 2) for d, one in zip(dims, window)]
    return {"window": window, "strides": strides}


def enough_for_errors(groups: Groups, n_samples: int | None) -> bool:
    """Whether so many coalitions tell how sure they are."""
    return n_samples is None or n_samples >= 4 * len(groups.mask.unique()) + 2


def of_each(groups: Groups, attribution: Tensor) -> Tensor:
    """The number of each group, in the order of their ids."""
    import torch

    mask = groups.mask.expand(attribution.shape[1:]).reshape(-1)
    first = [int((mask == k).nonzero()[0, 0]) for k in mask.unique()]
    return attribution[0].reshape(-1)[torch.tensor(first, device=mask.device)]


def largest(groups: Groups, attribution: Tensor, errors: Tensor | None) -> list[str]:
    """The groups that count most, each with its number, and how sure that is."""

    ids = groups.mask.unique()
    values = of_each(groups, attribution)
    spread = None if errors is None else of_each(groups, errors)
    order = values.abs().argsort(descending=True)[:_TOLD].tolist()
    told = []
    for i in order:
        name = groups.names.get(int(ids[i]), f"group {int(ids[i])}")
        sure = "" if spread is None else f" +- {float(spread[i]):.2g}" if bool(spread.any()) else " exactly"
        told.append(f"{name}: {float(values[i]):.4g}{sure}")
    return told
