"""A page is one HTML file, which loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

_HERE = Path(__file__).parent
_HEIGHT = 680  # pixels of a notebook cell


@dataclass(frozen=True)
class Page:
    """A page of attributions. A notebook displays it; `save` writes it.

    Example:
        >>> from funattr import viz
        >>> viz.page(["good", "film"], {"saliency": [0.5, 0.25]}).html[:15]
        '<!DOCTYPE html>'
    """

    html: str = field(repr=False)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file.

        Args:
            path: where, such as ``"maps.html"``.

        Raises:
            ValueError: the name does not end in ``.html`` or ``.htm``.
        """
        if not fspath(path).lower().endswith((".html", ".htm")):
            raise ValueError(f"{fspath(path)!r} does not name a page: choose a name that ends in .html.")
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.html)

    def _repr_html_(self) -> str:
        """In a frame of its own: its names and styles meet those of no other cell, and it cannot touch the notebook."""
        style = f"width: 100%; height: {_HEIGHT}px; border: 0; resize: vertical; overflow: auto"
        return (
            f'<iframe title="attributions" sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.html)}"></iframe>'
        )


class Parts(NamedTuple):
    """The files that a page is made of."""

    template: str
    styles: Sequence[str]
    scripts: Sequence[str]


def filled(parts: Parts, title: str, data: dict[str, Any], **fields: Any) -> Page:
    """The template with its data, and with fields that are safe as they are."""
    css, script = ("".join((_HERE / name).read_text(encoding="utf-8") for name in names) for names in parts[1:])
    # In JSON, <, > and & are only within strings: escaped, no string can end the script element.
    escaped = json.dumps(data).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = Template((_HERE / parts.template).read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        css=css,
        script=script,
        hash=f"sha256-{digest}",  # no other script runs, whatever is in the page
        data=escaped,
        **fields,
    )
    return Page(text)


def written(page: Page, out: str | PathLike[str] | None) -> Page:
    """The page, saved where `out` names a file."""
    if out is not None:
        page.save(out)
    return page
