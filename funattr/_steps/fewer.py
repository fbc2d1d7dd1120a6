"""Some rows of a batch by themselves: exact where the model treats rows alone, which is known or shown, never guessed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.passes import Question
from .._torch import tree_flatten, tree_unflatten
from .._types import Neuron, Target, Tree
from .fold import NoBranches, rows_alone


def of_rows(q: Question, rows: Sequence[int]) -> Question | None:
    """The question for some examples; None where it is not told what of it belongs to these."""
    x, told = rows_of(q.x, rows, q.size), _target_of(q.target, rows, q.size)
    if x is None or told is None:
        return None
    bound = q.bound if rows_alone(q) else q.bound.under(NoBranches())
    return q._replace(bound=bound, x=x, target=told[0], size=len(rows))


def rows_of(value: Tree, rows: Sequence[int], size: int, *, one_for_all: bool = False) -> Tree | None:
    """Some rows of every tensor; None where one has other rows than the batch. With `one_for_all`, it may have one."""
    leaves, spec = tree_flatten(value)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            if leaf.dim() and leaf.shape[0] == size:
                leaves[i] = leaf[torch.tensor(rows, device=leaf.device)]
            elif not (one_for_all and leaf.dim() and leaf.shape[0] == 1):
                return None
    return tree_unflatten(leaves, spec)


def _target_of(target: Target, rows: Sequence[int], size: int) -> tuple[Target] | None:
    """The target of some examples, in a tuple, for None is one; None for a callable, which may know its batch."""
    if callable(target) or (isinstance(target, Neuron) and callable(target.index)):
        return None
    if isinstance(target, Tensor) and target.numel() != 1:
        return (target[torch.tensor(rows, device=target.device)],)
    if isinstance(target, list) and len(target) == size:
        return ([target[i] for i in rows],)
    return (target,)
