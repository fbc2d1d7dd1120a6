"""Operations that no function mode sees, found in the graph that they leave: there DeepLIFT's rules are passed over."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from ..._core.tap import touched
from ..._core.where import all_modules
from ..._torch import forward_class, made_by_func, nodes_before
from ..._types import Tree, tensors
from .table import ELEMENTWISE


def only_torch(root: nn.Module | None, pick: Any) -> bool:
    """Whether nothing runs but torch's own layers: they hide nothing, and a look at the graph takes a small call's tenth."""
    return (
        (pick is None or not getattr(pick, "own", True))
        and root is not None
        and all(type(module).__module__.startswith("torch.nn.modules.") and not touched(module) for module in all_modules(root))
    )


def hidden(ends: Tree, starts: Iterable[Tensor], known: Iterable[str]) -> list[str]:
    """What brings a backward pass of its own between `starts` and `ends`: an autograd.Function, scripted code, an extension.

    `known` are operations without a rule, which are named already.
    """
    first = {t.grad_fn for t in starts} - {None}
    found = [(name, node) for node in nodes_before((t.grad_fn for t in tensors(ends)), first) if (name := _own(node))]
    if not found:
        return []
    inputs, named = {id(t) for t in starts}, {flat(name) for name in known}
    return [
        name
        for name, node in found
        if not (name == SCRIPTED and flat(node.name()) in named)
        and any(other in first or id(getattr(other, "variable", None)) in inputs for other in nodes_before([node], first))
    ]


SCRIPTED = "scripted code"


@functools.cache
def flat(name: str) -> str:
    """An operation's name as in that of its backward pass: log_softmax and LogSoftmaxBackward0."""
    return name.lower().replace("_", "").rstrip("0123456789").removesuffix("backward")


def _own(node: Any) -> str | None:
    """What to call a node that no rule can have left."""
    return custom(node) if isinstance(node, BackwardCFunction) else _native(node.name())


def custom(node: Any) -> str | None:
    """What to call a node that somebody's own autograd.Function has left."""
    if not isinstance(node, BackwardCFunction):
        return None
    kind = forward_class(node)
    return None if made_by_func(kind) or kind.__module__.startswith(_OURS) else f"the autograd.Function {kind.__name__}"


_OURS = "funattr."
#: What torch calls the backward passes of what the rules leave nothing of but slopes.
_RULED = {flat(name) for name in ELEMENTWISE}


@functools.cache
def _native(name: str) -> str | None:
    if "torch::jit" in name or flat(name) in _RULED:
        return SCRIPTED
    return "an operation from C++" if "CppNode" in name else None
