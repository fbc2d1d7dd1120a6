"""Which features go together: squares of a picture, channels, words of a text, superpixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._words import check_count, complaint, door, is_int, kind_of


@door
def grid(like: Tensor | Sequence[int], side: int | Sequence[int]) -> Tensor:
    """Squares of a picture, stretches of a signal, blocks of a volume: a grid over the dimensions after batch and channels.

    Args:
        like: a picture ``[N, C, H, W]``, a signal ``[N, C, T]``, a volume ``[N, C, D, H, W]``, or just the sizes ``(H, W)``.
        side: of a cell, in each dimension: an int for all of them. The last ones are cut at the edge.

    Returns:
        Ids ``[H, W]`` (``[T]``, ``[D, H, W]``), row by row from 0, which broadcast over examples and channels.

    Raises:
        TypeError: `like` is neither a tensor nor sizes, or `side` is no int.
        ValueError: `like` has no dimensions after the channels, or a side is below 1.

    Example:
        >>> import torch, funattr as fa
        >>> fa.masks.grid((4, 6), (2, 3))
        tensor([[0, 0, 0, 1, 1, 1],
                [0, 0, 0, 1, 1, 1],
                [2, 2, 2, 3, 3, 3],
                [2, 2, 2, 3, 3, 3]])
        >>> pictures = torch.rand(2, 3, 32, 32)
        >>> fa.shapley(lambda x: x.mean((1, 2, 3)), pictures, feature_mask=fa.masks.grid(pictures, 16)).shape
        torch.Size([2, 3, 32, 32])
    """
    sizes, device = (like.shape[2:], like.device) if isinstance(like, Tensor) else (like, torch.device("cpu"))
    if not isinstance(sizes, (tuple, list, torch.Size)) or not all(is_int(size) and size >= 0 for size in sizes):
        raise complaint(TypeError, f"like must be a tensor [N, C, *spatial] or its spatial sizes, got {kind_of(like)}.")
    if not sizes:
        got = list(like.shape) if isinstance(like, Tensor) else like
        raise complaint(ValueError, f"like {got} has no dimensions after batch and channels: pass [N, C, *spatial], or sizes.")
    sides: list[Any] = list(side) if isinstance(side, (tuple, list)) else [side] * len(sizes)
    if not all(is_int(one) for one in sides):
        raise complaint(TypeError, f"side must be an int, or one for each dimension, got {kind_of(side)}.")
    if len(sides) != len(sizes) or any(one < 1 for one in sides):
        text = f"side={side} for the sizes {list(sizes)}: give one number of at least 1, or one for each dimension."
        raise complaint(ValueError, text)
    found = torch.zeros((), dtype=torch.long, device=device)
    for size, one in zip(sizes, sides):
        found = found[..., None] * -(-size // one) + torch.arange(size, device=device) // one
    return found


@door
def channels(like: Tensor, dim: int = 1) -> Tensor:
    """Each channel of a value, with all of its places.

    Args:
        like: a value ``[N, C, *S]``, or ``[N, *S, C]`` with ``dim=-1``, such as `activation` gives of a layer.
        dim: which dimension holds the channels.

    Returns:
        Ids from 0 to C - 1 that broadcast to the value: ``[C, 1, 1]`` for ``[N, C, H, W]``.

    Raises:
        TypeError: `like` is no tensor.
        ValueError: it has no such dimension, or `dim` is that of the batch.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> mask = fa.masks.channels(fa.activation(model, x, layer="1"))
        >>> fa.shapley(model, x, layer="1", feature_mask=mask, target=3).shape
        torch.Size([2, 8, 6, 6])
    """
    if not isinstance(like, Tensor):
        raise complaint(TypeError, f"like must be a tensor, got {kind_of(like)}: of several, one mask for each.")
    if not is_int(dim) or not -like.dim() <= dim < like.dim() or dim % like.dim() == 0:
        raise complaint(
            ValueError, f"dim={dim} is no dimension of channels of {list(like.shape)}: 1, or -1 for tokens [N, T, C]."
        )
    at = dim % like.dim()
    return torch.arange(like.shape[at], device=like.device).reshape([-1] + [1] * (like.dim() - 1 - at))


#: What byte pairs and sentence pieces write for a blank, or the end of a line, with which a new word begins.
_BLANKS = "Ġ▁Ċĉč"
_STARTS = (*_BLANKS, "<0x0A>", "<0x09>", "<0x0D>")
#: What a word ends with, in byte pairs of other kinds.
_END = "</w>"
_SPECIAL = re.compile(r"\[(?!UNK\])/?[A-Z_]+\d*\]|<(?!0x[0-9A-F]{2}>|unk>|/w>)[^<>]+>")  # not a byte, nor an unknown word
_OF_IDS = "of the ids of one text, pass tokenizer.convert_ids_to_tokens(ids), or its word_ids()"


@door
def words(tokens: Sequence[str | int | None]) -> Tensor:
    """The tokens of a text, those of a word together.

    Args:
        tokens: for each token the number of its word, as a fast tokenizer's ``encoding.word_ids()`` has it, None for special
            tokens (where numbers begin anew a second text does, with words of its own); or the tokens themselves, as
            ``tokenizer.convert_ids_to_tokens(ids)`` gives them, with the marks of WordPiece (``##ing``), byte pairs (``Ġfilm``,
            ``film</w>``, ``fil@@``) or sentence pieces (``▁film``). Where no token has a mark, each is a word: a lone word in
            byte pairs has none.

    Returns:
        Ids ``[T]``. All special tokens but unknown words are one player, of the lowest id. For a value ``[N, T, D]`` at an
        embedding, pass ``words(...)[:, None]``.

    Raises:
        TypeError: `tokens` are neither strings nor numbers.
        ValueError: numbers that are not those of words: ids of tokens.

    Example:
        >>> import funattr as fa
        >>> fa.masks.words(["[CLS]", "un", "##believ", "##able", "film", "[SEP]"])
        tensor([-1,  0,  0,  0,  1, -1])
        >>> fa.masks.words([None, 0, 0, 1, None])
        tensor([-1,  0,  0,  1, -1])
    """
    given = list(tokens) if isinstance(tokens, (list, tuple)) else None
    if given is not None and all(token is None or is_int(token) for token in given):
        return torch.tensor(_in_a_row(given), dtype=torch.long, device="cpu")
    if given is None or not all(isinstance(token, str) for token in given):
        text = f"tokens must be a list of strings, or of numbers of words and None, got {kind_of(tokens)}"
        raise complaint(TypeError, f"{text}: {_OF_IDS}.")
    return torch.tensor(_numbers([str(token) for token in given]), dtype=torch.long, device="cpu")


def _in_a_row(given: list[Any]) -> list[int]:
    """Numbers of words, of a second text behind those of the first: a tokenizer begins with 0 again."""
    found: list[int] = []
    first, last, between = 0, -1, False
    for number in given:
        if number is None or number < 0:
            found.append(-1 if number is None else number)
            between = True
            continue
        if number < last and number and not between:
            raise complaint(ValueError, f"tokens holds {number} after {last}, and words are counted up: {_OF_IDS}.")
        if number < last or (between and number == last):
            first = max(found) + 1
        found.append(first + number)
        last, between = number, False
    return found


def _numbers(tokens: list[str]) -> list[int]:
    marked, ended = any(token.startswith(_STARTS) for token in tokens), any(token.endswith(_END) for token in tokens)
    found, count, before = list[int](), -1, ""
    for token in tokens:
        if _SPECIAL.fullmatch(token):
            found.append(-1)
            before = ""
            continue
        if ended:
            continues = not before.endswith(_END)
        elif marked:  # a blank alone belongs to what follows
            continues = not token.startswith(_STARTS) and not (before[-1:] in _BLANKS and before.strip(_BLANKS))
        else:
            continues = token.startswith("##") or before.endswith("@@")
        count += not (before and continues)
        found.append(count)
        before = token
    return found


@door
def superpixels(pictures: Tensor, count: int = 50, *, compactness: float = 10.0) -> Tensor:
    """Parts of a picture of about one colour: SLIC, by scikit-image (``pip install "funattr[superpixels]"``).

    Args:
        pictures: ``[N, C, H, W]``, with any scale of values: each is brought to the range from 0 to 1.
        count: about how many for each picture.
        compactness: how much nearness counts against colour: more makes them squares.

    Returns:
        Ids ``[N, 1, H, W]`` from 0, a mask for each picture, which broadcast over channels. Pictures with fewer superpixels
        than others lack the last ids: players of no effect there.

    Raises:
        TypeError: `pictures` is no tensor of floating-point numbers, or `count` no int.
        ValueError: it is not ``[N, C, H, W]``, or `count` is below 1.
        ImportError: scikit-image is not installed.

    Example:
        >>> import torch, funattr as fa
        >>> picture = torch.zeros(1, 3, 16, 16)
        >>> picture[..., 8:] = 1
        >>> mask = fa.masks.superpixels(picture, 2)  # doctest: +SKIP
        >>> mask.shape  # doctest: +SKIP
        torch.Size([1, 1, 16, 16])

    References:
        Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, 2012,
        https://doi.org/10.1109/TPAMI.2012.120
    """
    if not isinstance(pictures, Tensor) or not pictures.is_floating_point():
        got = f"a tensor of {pictures.dtype}: pass pictures.float()" if isinstance(pictures, Tensor) else kind_of(pictures)
        raise complaint(TypeError, f"pictures must be a tensor of floating-point numbers [N, C, H, W], got {got}.")
    if pictures.dim() != 4:
        cure = "pass pictures[None]" if pictures.dim() == 3 else "give four dimensions"
        raise complaint(ValueError, f"pictures have the shape {list(pictures.shape)}, expected [N, C, H, W]: {cure}.")
    check_count(count, "count")
    found = [_slic(picture, count, compactness) for picture in pictures.detach().cpu().double()]
    return torch.stack(found)[:, None].to(pictures.device) if found else pictures.new_zeros(0, 1, *pictures.shape[2:]).long()


def _slic(picture: Tensor, count: int, compactness: float) -> Tensor:
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError('superpixels() needs scikit-image: pip install "funattr[superpixels]".') from error
    low, high = picture.min(), picture.max()
    scaled = ((picture - low) / (high - low if high > low else 1)).permute(1, 2, 0).numpy()
    # Grey as colours, too: compactness is for those of Lab, from 0 to 100.
    colors = scaled if scaled.shape[2] == 3 else scaled.mean(2, keepdims=True).repeat(3, 2)
    labels: Any = slic(colors, n_segments=count, compactness=compactness, channel_axis=-1, start_label=0)
    return torch.from_numpy(labels).long()
