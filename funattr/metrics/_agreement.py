"""How much two results agree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._torch import tree_flatten
from .._types import Tree, tensors
from .._words import check_choice, check_int, complaint, door
from ._judged import flat_rows, judged


@door
def agreement(first: Tree, second: Tree, *, kind: str = "spearman", k: int | None = None) -> Tensor:
    """How much two attributions of the same examples agree: a correlation, or what they share of their largest entries.

    ``"pearson"``: ``sum (a - mean a)(b - mean b) / (|a - mean a| |b - mean b|)`` over all that an example has; ``"spearman"``:
    the same of the ranks, equal values at their mean rank; ``"cosine"``: ``a b / (|a| |b|)``; ``"topk"``: the part of the k
    largest entries that both have, of equal ones the first. Signed: for sizes pass absolute values.

    Args:
        first: what a method returned: tensors ``[N, ...]``, in any structure.
        second: another result, of the same structure and shapes.
        kind: ``"spearman"``, ``"pearson"``, ``"cosine"`` or ``"topk"``.
        k: how many entries ``"topk"`` compares: from 1 to all that an example has; None: a tenth of them, at least 1.

    Returns:
        ``[N]``, without a unit, from -1 to 1, for ``"topk"`` from 0 to 1; 0 where one of the two is constant (for ``"cosine"``:
        zero), never NaN. The law: a result agrees with itself, 1, unless it is constant.

    Raises:
        ValueError: there is no such `kind`, the results differ in structure or shape, hold NaN or inf, or `k` is out of range.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
        >>> fa.metrics.agreement(a, torch.tensor([[0.0, 5.0, 6.0], [9.0, 8.0, 0.0]]))
        tensor([ 1., -1.])

    References:
        Krishna et al., The Disagreement Problem in Explainable Machine Learning, 2022, https://arxiv.org/abs/2202.01602
    """
    check_choice(kind, "kind", SIMILARITIES)
    if kind != "topk" and k is not None:
        raise complaint(ValueError, f"k={k} is for kind='topk': leave it out for {kind!r}.")
    a, b = _rows_of_both(judged(first), judged(second))
    if kind == "topk":
        return _shared(a, b, k).to(_dtype(first, second))
    return KINDS[kind](a, b).to(_dtype(first, second))


def _dtype(first: Tree, second: Tree) -> torch.dtype:
    dtype = torch.promote_types(tensors(first)[0].dtype, tensors(second)[0].dtype)
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _rows_of_both(first: Tree, second: Tree) -> tuple[Tensor, Tensor]:
    """All that each example has, ``[N, M]``, of both."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        second = {key: second[key] for key in first}
    (a, spec), (b, other) = tree_flatten(first), tree_flatten(second)
    shapes = [[list(t.shape) if isinstance(t, Tensor) else None for t in leaves] for leaves in (a, b)]
    if spec != other or shapes[0] != shapes[1]:
        told = f"shapes {_told(shapes[0])} and {_told(shapes[1])}"
        if shapes[0] == shapes[1]:
            told = f"structures {_kept(first)} and {_kept(second)}"
        cure = "both must be of one structure; a map is brought to another size by fa.interpolate"
        raise complaint(ValueError, f"the two results have the {told}: {cure}.")
    here = rows(first)
    return here, rows(second).to(here.device)


def _told(shapes: list[list[int] | None]) -> str:
    return str(shapes[0]) if len(shapes) == 1 else str(tuple(shapes))


def _kept(found: Tree) -> str:
    return f"dict of {list(found)}" if isinstance(found, dict) else type(found).__name__


def rows(found: Tree) -> Tensor:
    """All that each example has, ``[N, M]``, in float64."""
    leaves = tensors(found)
    sizes = {t.shape[0] for t in leaves}
    if len(sizes) > 1:
        raise complaint(ValueError, f"the tensors of a result have {sorted(sizes)} rows, expected one for each example.")
    return torch.cat([flat_rows(t).double() for t in leaves], 1)


def ranks(a: Tensor) -> Tensor:
    """The rank of each entry in its row, from 1; equal entries at the mean of theirs."""
    ordered = a.sort(1).values
    below = torch.searchsorted(ordered, a.contiguous(), right=False)
    through = torch.searchsorted(ordered, a.contiguous(), right=True)
    return (below + through + 1).to(a.dtype) / 2


def largest_first(a: Tensor) -> Tensor:
    """The places of a row from its largest entry on; of equal ones the first comes first."""
    return (a + 0.0).argsort(dim=1, descending=True, stable=True)  # -0.0 is 0.0, also where bits are sorted


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a / sizes(a), b / sizes(b)
    size = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / torch.where(size == 0, 1.0, size)).clamp(-1, 1)


def sizes(a: Tensor) -> Tensor:
    """The largest entry of each row, 1 where there is none, to divide by: squares of small numbers, and of large ones, have no
    digits left, and sums of large ones may be inf."""
    size = a.abs().amax(1, keepdim=True) if a.shape[1] else a.sum(1, keepdim=True)
    return torch.where(size == 0, 1.0, size)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    return _cosine(_centred(a), _centred(b))


def _centred(a: Tensor) -> Tensor:
    """Less the mean; exactly 0 where all are the same, which the mean need not be."""
    if not a.shape[1]:
        return a
    a = a / sizes(a)
    constant = a.amax(1, keepdim=True) == a.amin(1, keepdim=True)
    return torch.where(constant, 0.0, a - a.mean(1, keepdim=True))


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    return _pearson(ranks(a), ranks(b))


def _shared(a: Tensor, b: Tensor, k: int | None) -> Tensor:
    size = a.shape[1]
    if k is None:
        k = max(1, size // 10)
    check_int(k, "k", "an int or None")
    if not 1 <= k <= size:
        raise complaint(ValueError, f"k={k} is out of range: an example has {size} entries, so give 1 to {size}.")
    chosen = [torch.zeros_like(t, dtype=torch.bool).scatter_(1, largest_first(t)[:, :k], True) for t in (a, b)]
    return (chosen[0] & chosen[1]).sum(1) / k


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"spearman": _spearman, "pearson": _pearson, "cosine": _cosine}
SIMILARITIES = (*KINDS, "topk")
