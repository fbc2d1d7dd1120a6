"""Write funattr/__init__.pyi, what type checkers see of the public names: python scripts/make_stub.py

A method gives a tensor where x is one and `layer` names one place, and anything else in the structure that it is asked for. In
Python's types these are overloads, two signatures for each method. Here they are written from the one in the source, which
need not repeat itself; a test compares the file with what this would write.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import funattr as fa

STUB = Path(fa.__file__).with_name("__init__.pyi")
#: Where the types are from that signatures name.
TYPES = {
    "collections.abc": ("Callable", "Mapping", "Sequence"),
    "typing": ("Any", "Literal", "overload"),
    "torch": ("Tensor", "nn"),
    "._methods.deep_lift": ("Attribution",),
    "._steps.quadrature": ("Quadrature",),
    "._types": ("ChunkSize", "Explains", "Layer", "Method", "Model", "Neuron", "OnePlace", "Place", "Target", "Tree"),
}
#: What takes a tensor of attributions in place of a method, and gives one.
OF_TENSORS = ("absolute", "interpolate", "normalize", "relu", "sum_channels")


def text() -> str:
    """What the file holds."""
    public = {name: getattr(fa, name) for name in fa.__all__}
    body = "\n".join(part for name, found in public.items() for part in _parts(name, found))
    kept = {name: found.__module__ for name, found in public.items() if f"def {name}(" not in body}
    lines = [
        "# Written by scripts/make_stub.py, from the signatures in the source.",
        "# ruff: noqa",
        "# fmt: off",
        "import torch",
    ]
    lines += [f"from {module} import {', '.join(used)}" for module, names in TYPES.items() if (used := _used(names, body))]
    lines += [
        "from . import dataset as dataset",
        "from . import masks as masks",
        "from . import metrics as metrics",
        "from . import rules as rules",
        "from . import viz as viz",
    ]
    lines += [f"from {module.replace('funattr', '', 1)} import {name} as {name}" for name, module in kept.items()]
    return "\n".join([*lines, "", "__version__: str", "__all__ = [", *(f'    "{name}",' for name in fa.__all__), "]", body, ""])


def _used(names: tuple[str, ...], body: str) -> list[str]:
    return [name for name in names if re.search(rf"\b{name}\b", body)]


def _parts(name: str, found: Any) -> list[str]:
    """The signatures of a method, or of what takes a method or a tensor; nothing of anything else."""
    if name in OF_TENSORS:
        return [_overload(name, found, "method", *kinds) for kinds in (("Tensor", "Tensor"), ("Explains", "Method"))]
    parameters = list(inspect.signature(found).parameters) if callable(found) else []
    if parameters[:2] != ["model", "x"] or inspect.signature(found).return_annotation not in ("Tree", "tuple[Tree, Tree]"):
        return []
    returned = inspect.signature(found).return_annotation
    return [
        _overload(name, found, "x", "Tensor", returned.replace("Tree", "Tensor"), layer="OnePlace"),
        _overload(name, found, "x", "Tree", returned.replace("Tree", "Any")),
    ]


def _overload(name: str, found: Any, argument: str, kind: str, returned: str, layer: str = "Layer") -> str:
    parts: list[str] = []
    by_name = False
    for p in inspect.signature(found).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not by_name:
            parts, by_name = [*parts, "*"], True
        annotation = kind if p.name == argument else layer if p.annotation == "Layer" else p.annotation
        if p.name == "return_error" and returned == "Tensor":  # with an error it is a pair
            annotation = "Literal[False]"
        parts.append(f"{p.name}: {annotation}" + ("" if p.default is p.empty else f" = {p.default!r}"))
    whole = f"def {name}({', '.join(parts)}) -> {returned}: ..."
    if len(whole) > 128:
        listed = "".join(f"    {part},\n" for part in parts)
        whole = f"def {name}(\n{listed}) -> {returned}: ..."
    return f"@overload\n{whole.replace(chr(39), chr(34))}"


if __name__ == "__main__":
    STUB.write_text(text())
