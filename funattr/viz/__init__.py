"""Pictures and pages of attributions. Pictures need matplotlib (``pip install "funattr[viz]"``); a page needs nothing."""

from ._draw import to_image
from ._figure import overlay, show
from ._text import text

__all__ = ["overlay", "show", "text", "to_image"]
