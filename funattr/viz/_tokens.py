"""Tokens and their values, as the caller has them. Nothing here needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._arrays import Array, numbers, shape_of


def sentences_of(tokens: Any, name: str) -> tuple[list[list[str]], bool]:
    """A list of tokens per sentence, and whether the caller's tokens were one list, for a single sentence."""
    if isinstance(tokens, str):
        raise TypeError(f"{name} is one string, expected a list of tokens: pass the tokenizer's tokens, or {name}.split().")
    if not isinstance(tokens, Sequence):
        raise TypeError(f"{name} must be a list of tokens, or a list of such lists, got {type(tokens).__name__}.")
    lone = bool(tokens) and all(isinstance(token, str) for token in tokens)
    sentences = [tokens] if lone else tokens
    for sentence in sentences:
        if isinstance(sentence, str) or not isinstance(sentence, Sequence):
            raise TypeError(
                f"{name} holds {sentence!r}, a {type(sentence).__name__}, expected strings, or a list of strings per sentence: "
                f"for ids, pass tokenizer.convert_ids_to_tokens(ids)."
            )
        for token in sentence:
            if not isinstance(token, str):
                raise TypeError(
                    f"{name} holds {token!r}, a {type(token).__name__}, in a sentence, expected strings: "
                    f"for ids, pass tokenizer.convert_ids_to_tokens(ids)."
                )
    if not sentences or not all(sentences):
        raise ValueError(f"{name} is empty or has a sentence without tokens: there is nothing to draw.")
    return [list(sentence) for sentence in sentences], lone


def token_values(value: Any, name: str, sentences: Sequence[Sequence[str]], lone: bool) -> list[Array]:
    """One value per token, ``[L]`` for each sentence: the sum over the features of its embedding, where there are any."""
    if lone:
        array = numbers(value, name)
        batched = array.ndim == 3 or (array.ndim == 2 and len(array) != len(sentences[0]))
        rows = list(array) if batched else [array]
    elif isinstance(value, (list, tuple)):
        rows = [numbers(row, f"{name}[{i}]") for i, row in enumerate(value)]  # which may differ in length
    else:
        array = numbers(value, name)
        rows = list(array) if array.ndim > 1 else [array]
    wanted = "[L], [L, D], [1, L] or [1, L, D]" if lone else "[N, L], [N, L, D] or a list of N times [L] or [L, D]"
    if len(rows) != len(sentences) or any(row.ndim not in (1, 2) for row in rows):
        raise ValueError(
            f"{name} has the shape {_shapes(value)}, expected {wanted} for {_counts(sentences)}: pass one value per token, or "
            f"one per feature of its embedding."
        )
    for i, (row, sentence) in enumerate(zip(rows, sentences)):
        if len(row) != len(sentence):
            where = "" if len(rows) == 1 else f" in sentence {i}"
            cure = "pass one value per token" if lone else "pass a list with the unpadded values of each, [row[:length], ...]"
            raise ValueError(f"{name} {_shapes(value)} has {len(row)} values for {len(sentence)} tokens{where}: {cure}.")
    return [row if row.ndim == 1 else row.sum(-1) for row in rows]


def printable(token: str) -> str:
    """A token as one line of what can be seen: a line break is drawn as an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token) or " "


def _counts(sentences: Sequence[Sequence[str]]) -> str:
    return f"{len(sentences[0])} tokens" if len(sentences) == 1 else f"{len(sentences)} sentences"


def _shapes(value: Any) -> str:
    """Of a list of rows, the shape of each."""
    return f"[{', '.join(shape_of(row) for row in value)}]" if isinstance(value, (list, tuple)) else shape_of(value)
