"""What is taken away of a prompt, and what goes together: the content of the prompt, token by token or word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .asked import Asked
from .pieces import words_of
from .words import mistake

if TYPE_CHECKING:
    from torch import Tensor


def baseline(x: Mapping[str, Tensor], asked: Asked, filler: int | None) -> dict[str, Tensor]:
    """The input with the content of the prompt taken away: what is special stays, and so does the answer.

    Raises:
        argparse.ArgumentError: no token could take its place.
    """
    import torch

    if filler is None:
        raise mistake(
            "no token could take the place of the prompt's: the tokenizer has none for padding, unknown words or an end that "
            "the model has learned; choose a --method without a baseline, such as input_x_gradient."
        )
    ids, kept = x["input_ids"], torch.ones_like(x["input_ids"], dtype=torch.bool)
    kept[0, : len(asked.read.ids)] = torch.tensor(asked.read.special, device=ids.device)
    return {**x, "input_ids": torch.where(kept, ids, filler)}


def players(asked: Asked, by_word: bool) -> list[int | None]:
    """The number of what each token of the prompt goes away with; None of what stays."""
    special = asked.read.special
    wholes = words_of(asked.read.texts, special, ()) if by_word else range(len(special))
    numbers: dict[int, int] = {}
    return [None if stays else numbers.setdefault(whole, len(numbers)) for whole, stays in zip(wholes, special)]


def mask(x: Mapping[str, Tensor], of: Sequence[int | None]) -> dict[str, Tensor]:
    """Groups. What stays goes with the first: a group of its own would take a pass, and of sampled Shapley values a share."""
    import torch

    found = {name: torch.zeros_like(ids) for name, ids in x.items()}
    ids = found["input_ids"]
    ids[0, : len(of)] = torch.tensor([player or 0 for player in of], device=ids.device)
    return found


def shared(values: Tensor, of: Sequence[int | None]) -> Tensor:
    """``[T, C]``, with the value of each player in equal parts on its tokens, and 0 on what stays."""
    import torch

    sizes = [0 if player is None else of.count(player) for player in of]
    parts = torch.zeros(values.shape[1], dtype=values.dtype)
    parts[: len(of)] = torch.tensor([1 / size if size else 0.0 for size in sizes], dtype=values.dtype)
    return values * parts


def window(x: Mapping[str, Tensor], side: int | None) -> dict[str, int | None]:
    """So many neighbouring tokens of what the model reads; the side of a decoder stays."""
    return {name: side or 1 if name == "input_ids" else None for name in x}


def places(value: Any) -> Any:
    """A group for each place of a layer."""
    import torch

    return torch.arange(_by_place(value).shape[1], device=value.device)[:, None]


def at_layer(value: Any, side: int | None) -> dict[str, Any]:
    """A window over so many places of a layer, with all that they hold."""
    size = _by_place(value).shape[2]
    return {"window": (side or 1, size), "strides": (1, size)}


def _by_place(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.dim() != 3:
        raise mistake("features are taken away at the tokens, or at one layer with a value per token: choose another --layer.")
    return value
