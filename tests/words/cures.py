"""Cures that messages of the package give: how they are found in its code, and what holds each to be run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import funattr as fa

ROOT = Path(fa.__file__).parent
#: What a cure tells one to do.
VERBS = (
    "add|ask|average|bind|call|choose|clean|compare|convert|count|delete|drop|explain|fill|give|group(?= them)|have|install|"
    "keep|leave|let|load|look|make|merge|name|pass|pip|pipe|put|read|remove|replace|return|run|save|say|set|shorten|sum|take|train|turn|"
    "use|wait|watch|wrap|write"
)
#: Where a sentence or a clause begins with one: a noun is followed otherwise ("the sum of", "call must be", "add __add__").
CURE = re.compile(rf"(?:^|[:;,.] |\bor |\band |\bso )(?:{VERBS})\b(?! (?:(?:is|are|of|must)\b|__)|\()", re.IGNORECASE)
CURES = {"cure", "hint"}  # variables, and parts of names of functions
#: What declares the command, whose texts are those of --help.
DECLARES = {"add_argument", "add_argument_group", "add_command", "add_parser"}


class Cure(NamedTuple):
    """A wrong call, whose message is that of a file of the package with these words in it; and what it says, done."""

    file: str
    words: str
    wrong: Callable[[], Any]
    cured: Callable[[], Any]
    slow: bool = False
    """Whether it takes long: a library is imported, processes are started, or it is drawn."""


class Text(NamedTuple):
    """A text of a message, `{}` for what is put in, and where it stands."""

    file: str
    line: int
    text: str

    def matches(self, message: str) -> bool:
        """Whether it is in a message, whatever was put in."""
        return re.search(".*?".join(map(re.escape, self.text.split("{}"))), message, re.DOTALL) is not None


def texts_with_cures() -> list[Text]:
    """Every text of the package that tells one to do something: no documentation, and no help or answer of the command's."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        tree = ast.parse(file.read_text())
        texts = _texts(tree, False, _helps(tree))
        found += [Text(name, line, text) for text, line, cure in texts if " " in text.strip() and (cure or CURE.search(text))]
    return found


def texts_of(texts: Sequence[Text], file: str, words: str) -> list[Text]:
    """Those of a file with these words, of which it may be all."""
    found = [text for text in texts if text.file == file and words in text.text]
    return [text for text in found if text.text == words] or found


def _texts(node: ast.AST, cure: bool, helps: set[ast.AST]) -> Iterator[tuple[str, int, bool]]:
    """Texts below a node, with their lines, and whether what holds them is called a cure."""
    if node in helps or _tells_nothing(node):
        return
    if isinstance(node, (ast.Constant, ast.JoinedStr)) and (text := _written(node)) is not None:
        yield text, node.lineno, cure
    names = {n.id for t in getattr(node, "targets", ()) for n in ast.walk(t) if isinstance(n, ast.Name)}
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        cure = any(word in getattr(node, "name", "") for word in CURES)
    parts = node.values if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node)
    for part in parts:
        if not (isinstance(node, ast.JoinedStr) and isinstance(part, ast.Constant)):
            yield from _texts(part, cure or bool(names & CURES), helps)


def _tells_nothing(node: ast.AST) -> bool:
    """Documentation, what a value looks like, what asks for a text, and what goes to standard output, where answers go."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.FunctionDef):
        return node.name == "__repr__"
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Compare)
    return _called(node) == "print" and not any(each.arg == "file" for each in node.keywords)


def _helps(tree: ast.AST) -> set[ast.AST]:
    """What declares the command, and what it has by name: assigned in the same function, or in the module."""
    found: set[ast.AST] = set()
    for scope in (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.FunctionDef))):
        calls = [node for node in ast.walk(scope) if isinstance(node, ast.Call) and _called(node) in DECLARES]
        names = {node.id for call in calls for node in ast.walk(call) if isinstance(node, ast.Name)}
        found.update(calls)
        found.update(
            node
            for node in scope.body
            if isinstance(node, ast.Assign) and {getattr(target, "id", "") for target in node.targets} <= names
        )
    return found


def _called(call: ast.Call) -> str:
    """The last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


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
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ImportError) as error:
            return str(error)
    return "\n".join(str(one.message) for one in told)
