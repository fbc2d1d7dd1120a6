"""A model, and what is known of it and of the inputs that it wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Source(NamedTuple):
    """A model, and what is known of it."""

    model: nn.Module
    title: str
    """The name, and where the weights are from."""
    image: Callable[[Any], Any] | None = None
    """Makes an image of pillow ready: a tensor ``[C, H, W]``, or with a batch. None: by --size, --mean and --std."""
    text: Callable[[str], Any] | None = None
    """Makes a text ready: a pair of the input and its tokens, or a `Text`."""
    how: str = ""
    """Whose preprocessing that is."""
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channels: int | None = None
    classes: Sequence[str] | None = None
    tokenizer: Any = None
    random: Sequence[str] = ()
    """The weights that nobody has trained."""
    trained_with: str = ""
    """How the options would spell the normalisation that the library's weights were trained with, where none is given."""


class Text(NamedTuple):
    """A text made ready."""

    x: Any
    tokens: Sequence[str]
    words: Sequence[tuple[str, Sequence[int]]] | None = None
    """The words that tokens are pieces of, and which; None where every token is one."""
    whole: int | None = None
    """How many tokens the whole text has, where that is more than the model takes."""
