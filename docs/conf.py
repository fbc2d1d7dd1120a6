"""The documentation site: ``python -m sphinx -W --keep-going -n -b html docs docs/_build/html``.

Everything is in the repository: no page fetches anything from elsewhere, when it is built or when it is read.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import funattr
import funattr.dataset
import funattr.viz

project = "funattr"
release = version = funattr.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
myst_enable_extensions = ["deflist"]
exclude_patterns = ["_build"]
nitpicky = True
smartquotes_action = "D"  # dashes; quotes stay as typed

html_theme = "furo"
html_title = "funattr"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_extra_path = ["llms.txt"]  # what the pages are about, for programs that read: as a file beside them
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 3  # headings can be linked to as on GitHub

autodoc_typehints = "none"  # the docstrings say what an argument may be, in words
napoleon_custom_sections = ["Returns"]  # prose: napoleon would take what stands before its first colon for a type
napoleon_use_rtype = False

default_role = "funattr"
PUBLIC = {name: module.__name__ for module in (funattr.dataset, funattr.viz, funattr) for name in module.__all__}


def single_backticks(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What docstrings have in single backticks: a link where it is a public name, code where it is an argument's or torch's."""
    literal = nodes.literal(rawtext, text)
    if text not in PUBLIC:
        return [literal], []
    docname = inliner.document.settings.env.docname
    where = {"refdomain": "py", "reftype": "obj", "reftarget": f"{PUBLIC[text]}.{text}", "refdoc": docname, "refwarn": True}
    return [addnodes.pending_xref(rawtext, literal, **where)], []


def setup(app: Sphinx) -> None:
    app.add_role("funattr", single_backticks)
