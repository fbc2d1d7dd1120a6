"""How good a map is, for the command: on the squares of a picture, or the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import funattr as fa

from .facts import Found, as_map, per_token
from .inputs import Input
from .sites import Where
from .source import Source
from .words import answered

if TYPE_CHECKING:
    from torch import Tensor

#: Points of a curve but its first, and random orders that a map is compared with: 36 runs of the model for the first method,
#: 9 for each other one.
STEPS, ORDERS = 8, 3


#: Squares along the longer side of a picture, at most.
_ALONG = 14


class Judged(NamedTuple):
    """The areas under the curves of deletion: by the map, and in a random order."""

    by_map: float
    by_chance: float


def squares(x: Tensor) -> Tensor:
    """The squares of images, of which there are about 14 x 14, numbered: ``[1, H, W]``."""
    sides = list(x.shape[-2:])
    return fa.masks.grid(sides, max(1, -(-max(sides) // _ALONG))).to(x.device)[None]


def on_picture(found: Found, given: Input) -> Tensor | None:
    """``[1, 1, H, W]``: the map at the size of what the model gets; None where it has no places."""
    values = as_map(found, given)
    if values is None or given.picture is None:
        return None
    size = tuple(given.x.shape[-2:])
    return values if values.shape[-2:] == size else fa.interpolate(values, size=size, mode="bilinear")


def by_deletion(
    found: Found, source: Source, given: Input, target: int | None, where: Where | None, chance: dict[Any, float], seed: int
) -> Judged | None:
    """How the score falls without the parts that a map puts first, squares or tokens; None where it has no such parts.

    `chance` keeps the areas of random orders, which are the same for all maps of an input.
    """
    import torch

    values = on_picture(found, given)
    options: dict[str, Any] = {"target": target, "steps": STEPS}
    if values is not None:
        options["feature_mask"] = squares(given.x)
    elif given.tokens is not None and where is not None and (sums := per_token(found, len(given.tokens))) is not None:
        values, options["layer"] = sums[None, :, None], where.layer
    if values is None:
        return None
    key = None if given.picture is not None else where
    with answered("measuring deletion failed"):
        if key not in chance:
            generator = torch.Generator().manual_seed(seed)
            orders = [torch.rand(values.shape, generator=generator).to(values) for _ in range(ORDERS)]
            if given.picture is not None:  # a number for each square, and not for each pixel of it
                cells = options["feature_mask"][:, None].expand(values.shape)
                orders = [torch.rand(int(cells.max()) + 1, generator=generator).to(values)[cells] for _ in range(ORDERS)]
            chance[key] = sum(_area(order, source, given, options) for order in orders) / ORDERS
        return Judged(_area(values, source, given, options), chance[key])


def _area(values: Any, source: Source, given: Input, options: dict[str, Any]) -> float:
    return float(fa.metrics.deletion(values, source.model, given.x, **options))


def line(judged: Sequence[tuple[str, Judged]]) -> str:
    """One line for all: the mean over the inputs of each method, and of the random orders."""
    names = list(dict.fromkeys(name for name, _ in judged))
    by_map = {name: [each.by_map for other, each in judged if other == name] for name in names}
    chance = [each.by_chance for _, each in judged]
    told = ", ".join(f"{name} {sum(values) / len(values):.3g}" for name, values in by_map.items())
    many = "" if len(judged) == len(names) else f" (mean of {len(judged) // len(names)})"
    return f"{told}; a random order {sum(chance) / len(chance):.3g}{many}: the lower, the better the map"
