"""Pictures and pages of attributions. Pictures need matplotlib (``pip install "funattr[viz]"``); a page needs nothing."""

from ._answer import answer
from ._blend import blend
from ._curves import curves
from ._draw import to_image
from ._figure import overlay, show
from ._file import Page
from ._page import page
from ._patches import tokens_to_map
from ._series import series
from ._strip import strip
from ._table import table, table_page
from ._text import text
from ._volume import volume

__all__ = [
    "Page",
    "answer",
    "blend",
    "curves",
    "overlay",
    "page",
    "series",
    "show",
    "strip",
    "table",
    "table_page",
    "text",
    "to_image",
    "tokens_to_map",
    "volume",
]
