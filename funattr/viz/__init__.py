"""Pictures of attributions. Needs matplotlib: ``pip install "funattr[viz]"``."""

from ._figure import overlay, show

__all__ = ["overlay", "show"]
