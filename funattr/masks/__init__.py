"""Which features go together: values for `feature_mask`, of squares of a picture, superpixels, words of a text, channels."""

from ._grid import channels, grid
from ._superpixels import superpixels
from ._words import words

__all__ = ["channels", "grid", "superpixels", "words"]
