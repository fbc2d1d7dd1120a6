"""Operations that no function mode sees, found in the graph that they leave: there DeepLIFT's rules are passed over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from ._types import Tree, tensors


def hidden(ends: Tree, starts: Iterable[Tensor], ruled: set[str]) -> list[str]:
    """What brings a backward pass of its own between `starts` and `ends`: an autograd.Function, scripted code, an extension.

    `ruled` are the operations, as `flat` spells them, whose own backward passes the rules leave nowhere.
    """
    inputs = {id(t) for t in starts}
    first = {t.grad_fn for t in starts} - {None}

    def before(nodes: Iterable[Any]) -> list[Any]:
        """All nodes of the graph back to the starts, which come with it."""
        todo, met = list(nodes), set(nodes)
        for node in todo:  # which grows
            if node not in first:
                new = {other for other, _ in node.next_functions} - met - {None}
                met |= new
                todo += new
        return todo

    found = [(name, node) for node in before({t.grad_fn for t in tensors(ends)} - {None}) if (name := _own(node, ruled))]
    return [
        name
        for name, node in found
        if any(other in first or id(getattr(other, "variable", None)) in inputs for other in before({node}))
    ]


def flat(name: str) -> str:
    """An operation's name as in that of its backward pass: log_softmax and LogSoftmaxBackward0."""
    return name.lower().replace("_", "").rstrip("0123456789").removesuffix("backward")


def _own(node: Any, ruled: set[str]) -> str | None:
    """What to call a node that no rule can have left."""
    if isinstance(node, BackwardCFunction):
        kind = type(node)._forward_cls  # type: ignore[attr-defined]
        return None if kind.__module__.startswith(f"{__package__}.") else f"the autograd.Function {kind.__name__}"
    name = node.name()
    if "torch::jit" in name or flat(name) in ruled:
        return "scripted code"
    return "an operation from C++" if "CppNode" in name else None
