"""Which features go together: values for `feature_mask`, of squares of a picture, superpixels, words of a text, channels."""

from ._groups import channels, grid, superpixels, words

__all__ = ["channels", "grid", "superpixels", "words"]
