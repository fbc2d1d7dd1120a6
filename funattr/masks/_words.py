"""Masks of texts: the tokens of a word go together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .._words import complaint, door, is_int, kind_of

#: What a token begins with where a new word begins: byte pairs and sentence pieces.
_STARTS = ("Ġ", "▁")
_SPECIAL = re.compile(r"\[[A-Z]+\d*\]|<[^<>]+>|</?s>")


@door
def words(tokens: Sequence[str | int | None]) -> Tensor:
    """The tokens of a text, those of a word together.

    Args:
        tokens: for each token the number of its word, as a fast tokenizer's ``encoding.word_ids()`` has it, None for special
            tokens; or the tokens themselves, as ``tokenizer.convert_ids_to_tokens(ids)`` gives them, with the marks of
            WordPiece (``##ing``), byte pairs (``Ġfilm``) or sentence pieces (``▁film``).

    Returns:
        Ids ``[T]``. All special tokens are one player, of the lowest id. For a value ``[N, T, D]`` at an embedding, pass
        ``words(...)[:, None]``.

    Raises:
        TypeError: `tokens` are neither strings nor numbers.

    Example:
        >>> import funattr as fa
        >>> fa.masks.words(["[CLS]", "un", "##believ", "##able", "film", "[SEP]"])
        tensor([-1,  0,  0,  0,  1, -1])
        >>> fa.masks.words([None, 0, 0, 1, None])
        tensor([-1,  0,  0,  1, -1])
    """
    given = list(tokens) if isinstance(tokens, (list, tuple)) else None
    if given is not None and all(token is None or is_int(token) for token in given):
        return torch.tensor([-1 if token is None else token for token in given], dtype=torch.long)
    if given is None or not all(isinstance(token, str) for token in given):
        raise complaint(TypeError, f"tokens must be a list of strings, or of numbers of words and None, got {kind_of(tokens)}.")
    return torch.tensor(_numbers([str(token) for token in given]), dtype=torch.long)


def _numbers(tokens: list[str]) -> list[int]:
    marked, found, count, inside = any(token.startswith(_STARTS) for token in tokens), [], -1, False
    for token in tokens:
        if _SPECIAL.fullmatch(token):
            found.append(-1)
            inside = False
            continue
        continues = not token.startswith(_STARTS) if marked else token.startswith("##")
        if not (continues and inside):
            count += 1
        inside = True
        found.append(count)
    return found
