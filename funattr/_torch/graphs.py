"""Places in the graph of autograd, and what its nodes have saved."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .tensors import nodes_before


@functools.lru_cache(1024)
def _saves(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def _saved_by(node: Any) -> Iterator[Any]:
    """What a node of the graph has saved, but for what hooks have packed, and what a backward pass has let go."""
    kind: Any = type(node)
    for name in _saves(kind):
        with contextlib.suppress(RuntimeError):  # of lists, torch says that they are gone
            found = getattr(node, name)
            for saved in found if isinstance(found, tuple) else (found,):
                if saved is not None and getattr(saved, "unpack_hook", None) is None:
                    yield saved


def copy_saved(found: Iterable[torch.Tensor], copies: Callable[[torch.Tensor], bool]) -> None:
    """Have the graph that `found` come from keep copies of what it has saved and `copies` is true of."""
    for node in nodes_before([t.grad_fn for t in found]):
        for saved in _saved_by(node):
            data = getattr(saved, "data", copies)  # where torch does not show it, it hands it to the hook alone
            if data is copies or (isinstance(data, torch.Tensor) and copies(data)):
                with contextlib.suppress(RuntimeError):  # where there are hooks already, of an earlier pass, say
                    saved.register_hooks(lambda t: t.clone() if copies(t) else t, lambda t: t)


def edge_of(value: torch.Tensor) -> Any:
    """The place of `value` in the graph, as it is now: it may be overwritten later."""
    if hasattr(torch.autograd.graph, "get_gradient_edge"):
        return torch.autograd.graph.get_gradient_edge(value)
    made = value.grad_fn
    if made is not None:
        return _Edge(made, value.output_nr)
    with torch.enable_grad():
        alias: Any = value.view_as(value).grad_fn  # of a leaf
    return _Edge(alias.next_functions[0][0], 0)


class _Edge(NamedTuple):
    """For torch before 2.2, which has none."""

    node: Any
    output_nr: int


def slopes_at(score: torch.Tensor, edges: Sequence[Any], leaves: Sequence[torch.Tensor]) -> Iterator[torch.Tensor | None]:
    """The gradients of `score` at places of its graph, and then at the leaves, as far back as which it goes."""
    if not edges or not isinstance(edges[0], _Edge):
        yield from torch.autograd.grad(score, [*edges, *leaves], allow_unused=True, retain_graph=True)
        return
    met: dict[Any, Any] = {}
    nodes = {edge.node for edge in edges}
    handles = [node.register_prehook(lambda given, node=node: met.update({node: given})) for node in nodes]
    ends = [*leaves, *(node.variable for node in nodes_before([score.grad_fn]) if hasattr(node, "variable"))]
    found = torch.autograd.grad(score, ends, allow_unused=True, retain_graph=True)  # what leads to no end does not run
    for handle in handles:
        handle.remove()
    slopes = {id(end): slope for end, slope in zip(ends, found)}
    for node, nr in edges:
        yield met[node][nr] if node in met else slopes.get(id(getattr(node, "variable", None)))
    yield from found[: len(leaves)]
