"""Texts, made ready as the model wants them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from .source import Source, Text
from .words import answered, mistake

_OF_PICTURES = ("size", "mean", "std", "channels")


def ready(source: Source, given: str, options: argparse.Namespace) -> Text:
    """The input of a text, on the device; its tokens, and what is not padding of them.

    Raises:
        argparse.ArgumentError: the text is empty, or the model's preprocessing fails.
    """
    import torch

    asked = [f"--{what}" for what in _OF_PICTURES if getattr(options, what) is not None]
    if asked:
        raise mistake(f"{' and '.join(asked)} belongs to images, and this is a text.")
    if not given.strip():
        raise mistake("the text is empty: write it after the options, in quotes.")
    assert source.text is not None
    with answered(f"making the text ready {source.how} failed"):
        made: Any = source.text(given)
    if not isinstance(made, Text):
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], (list, tuple))):
            raise mistake(
                f"a text made ready {source.how} must be a pair, the input and the list of its tokens, got "
                f"{type(made).__name__}."
            )
        made = Text(*made)
    if isinstance(made.x, torch.Tensor):
        x: Any = made.x.to(options.device)
    elif isinstance(made.x, Mapping):
        x = {key: value.to(options.device) for key, value in made.x.items()}
    else:
        raise mistake(
            f"a text made ready {source.how} must be a tensor [1, T] or a dict of tensors, got {type(made.x).__name__}."
        )
    for part in [x] if isinstance(x, torch.Tensor) else x.values():
        if part.shape[:1] != (1,):
            text = f"a text made ready {source.how} must have the batch first, [1, T], got {list(part.shape)}"
            raise mistake(f"{text}, which [None] brings.")
    tokens = [str(token) for token in made.tokens]
    return Text(x, tokens, _shown(x, tokens, made.words), made.whole)


def _shown(x: Any, tokens: list[str], words: Any) -> list[tuple[str, list[int]]] | None:
    """The words that are shown: without padding, which the mask says. None where each token is a word and all are shown."""
    mask = x.get("attention_mask") if isinstance(x, Mapping) else None
    if mask is None or tuple(mask.shape) != (1, len(tokens)) or bool(mask.bool().all()):
        return words if words is None else [(word, list(places)) for word, places in words]
    every = words if words is not None else [(token, [place]) for place, token in enumerate(tokens)]
    kept = [(word, [place for place in places if bool(mask[0, place])]) for word, places in every]
    return [(word, places) for word, places in kept if places]
