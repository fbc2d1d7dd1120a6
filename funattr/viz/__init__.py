"""Pictures and pages of attributions. Pictures need matplotlib (``pip install "funattr[viz]"``); a page needs nothing."""

from ._answer import answer
from ._blend import blend
from ._draw import to_image
from ._figure import overlay, show
from ._file import Page
from ._page import page
from ._patches import tokens_to_map
from ._series import series
from ._text import text
from ._volume import volume

__all__ = ["Page", "answer", "blend", "overlay", "page", "series", "show", "text", "to_image", "tokens_to_map", "volume"]
