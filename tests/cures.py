"""Cures that messages of the package give: how they are found in its code, and what holds each to be run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import funattr as fa

ROOT = Path(fa.__file__).parent
#: What a cure tells one to do.
VERBS = (
    "add|ask|average|bind|call|choose|clean|convert|delete|drop|explain|fill|give|have|install|keep|leave|load|look|make|name|pass|"
    "pip|put|remove|replace|run|say|set|sum|take|train|turn|use|wait|watch|wrap|write"
)
#: Where a sentence or a clause begins with one.
CURE = re.compile(rf"(?:^|[:;,.] |\bor |\band )(?:{VERBS})\b(?! is\b| are\b|\()", re.IGNORECASE)
CURES = {"cure", "hint"}  # variables, and parts of names of functions


class Cure(NamedTuple):
    """A wrong call, whose message is that of a file of the package with these words in it; and what it says, done."""

    file: str
    words: str
    wrong: Callable[[], Any]
    cured: Callable[[], Any]


class Text(NamedTuple):
    """A text of a message, `{}` for what is put in, and where it stands."""

    file: str
    line: int
    text: str

    def matches(self, message: str) -> bool:
        """Whether it is in a message, whatever was put in."""
        return re.search(".*?".join(map(re.escape, self.text.split("{}"))), message, re.DOTALL) is not None


def texts_with_cures() -> list[Text]:
    """Every text of the package that tells one to do something: no documentation, and no help of the command's."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        tree = ast.parse(file.read_text())
        found += [
            Text(name, line, text) for text, line, cure in _texts(tree, False) if " " in text and (cure or CURE.search(text))
        ]
    return found


def _texts(node: ast.AST, cure: bool) -> Iterator[tuple[str, int, bool]]:
    """Texts below a node, with their lines, and whether what holds them is called a cure."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # documentation
        return
    if isinstance(node, ast.keyword) and node.arg in ("help", "description", "epilog"):
        return
    if isinstance(node, ast.Compare):  # asks for a text, and says none
        return
    if isinstance(node, (ast.Constant, ast.JoinedStr)) and (text := _written(node)) is not None:
        yield text, node.lineno, cure
    names = {n.id for t in getattr(node, "targets", ()) for n in ast.walk(t) if isinstance(n, ast.Name)}
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        cure = any(word in getattr(node, "name", "") for word in CURES)
    parts = node.values if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node)
    for part in parts:
        if not (isinstance(node, ast.JoinedStr) and isinstance(part, ast.Constant)):
            yield from _texts(part, cure or bool(names & CURES))


def _written(node: ast.Constant | ast.JoinedStr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def message_of(call: Callable[[], Any]) -> str:
    """What a call says: by an error, or by warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            call()
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            return str(error)
    return "\n".join(str(one.message) for one in told)
