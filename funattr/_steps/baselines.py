"""Baselines: where a path or a comparison starts, in every form a caller may give them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_attributable
from .._core.kept import laid_as
from .._torch import tree_flatten, tree_unflatten
from .._types import Tree, broadcasts, is_number, map_leaves
from .._words import complaint
from .matching import Ranges, check_compares, fit, matched, ranges


def references(x: Tree, baselines: Any, *, ids: bool) -> Tree:
    """The baselines in the structure of `x`: each tensor of x's dtype, with batch 1 where one reference serves all.

    None holds a tensor at x's value. Integers stay there too; with `ids`, a baseline given for them counts, and a number is
    the id where x holds integers only: of tokens, but not of what says where they are.
    """
    if type(x) is Tensor and type(baselines) in (int, float) and x.is_floating_point():  # as by default, and soon done
        found = fit(x, baselines, {}, None).expand(1, *x.shape[1:])
        return found if x.is_contiguous() else laid_as(found, x)
    return map_leaves(partial(_reference, ranges(baselines)), x, _given(x, baselines, ids))


def _reference(known: Ranges, leaf: Any, given: Any) -> Any:
    if given is None:
        return leaf
    batched = isinstance(given, Tensor) and given.dim() == leaf.dim() and given.shape[:1] == leaf.shape[:1]
    shape = leaf.shape if batched or not leaf.dim() else (1, *leaf.shape[1:])
    found: Tensor = laid_as(fit(leaf, given, known, None).expand(shape), leaf)
    return found


def distribution(x: Tree, baselines: Any, *, ids: bool) -> tuple[Tree, int]:
    """Baselines ``[n_baselines, ...]`` in the structure of `x`, and how many there are. Those of several inputs go together.

    None stands for what is held at x's value: what the caller holds there, and integers as in `references`.
    """
    if not isinstance(baselines, (Tensor, tuple, list, Mapping)) and callable(baselines):  # of a dict Dynamo cannot ask that
        baselines = baselines(x)
    leaves, spec = tree_flatten(x)
    known = ranges(baselines)
    found = [None if own is None else _several(leaf, own, known) for leaf, own in zip(leaves, _given(x, baselines, ids))]
    counts = sorted({t.shape[0] for t in found if t is not None})
    if len(counts) > 1:
        text = f"the baselines of the inputs are joint samples and must be equally many, got {counts}."
        raise complaint(ValueError, text)
    if not counts[0]:
        raise complaint(ValueError, "baselines is an empty distribution: pass at least one reference, [n_baselines, ...].")
    return tree_unflatten(found, spec), counts[0]


def _several(leaf: Tensor, given: Any, known: Ranges) -> Tensor:
    count = 1
    if isinstance(given, Tensor):
        if given.dim() > 0 and given.shape == leaf.shape[1:]:
            text = f"baselines {list(given.shape)} lack the leading dimension of a distribution: pass baselines[None]."
            raise complaint(ValueError, text)
        rows = given.reshape(given.shape + (1,) * (max(leaf.dim(), 1) - given.dim()))
        if given.dim() < leaf.dim() and not broadcasts(rows.shape[1:], leaf.shape[1:]):
            text = f"baselines {list(given.shape)} do not broadcast to {[len(rows), *leaf.shape[1:]]}"
            raise complaint(ValueError, f"{text}: give each reference x's own shape, with 1 where it is the same.")
        known = known if id(given) not in known else {id(rows): known[id(given)]}
        given, count = rows, rows.shape[0]
    shape = (count, *leaf.shape[1:])
    found: Tensor = laid_as(fit(leaf, given, known, None, shape).expand(shape), leaf)
    return found


#: Keyword inputs of language models that are no tokens: what a number stands in for is not these.
_NO_TOKENS = ("mask", "position_ids", "token_type_ids")


def _given(x: Tree, baselines: Any, ids: bool) -> list[Any]:
    """The baseline of each leaf of x, as the caller gave it; None for what is held at x's value."""
    leaves = tree_flatten(x)[0]
    numbers = list(map(is_number, leaves))
    if not ids:
        check_attributable(x, "x")
    each = [baselines] if isinstance(x, Tensor) else matched(baselines, x, "baselines", None)
    moves = [isinstance(leaf, Tensor) for leaf in leaves]
    if not isinstance(baselines, (Tensor, tuple, list, Mapping)):  # one number for all
        moves = numbers if any(numbers) else _tokens(x, leaves)
    found = [own if number or (ids and may) else None for number, own, may in zip(numbers, each, moves)]
    check_compares(found, "every input at x's")
    return found


def _tokens(x: Tree, leaves: list[Any]) -> list[bool]:
    """Which integer leaves of x one id for all positions can stand in for."""
    names = [str(name) for name in x for _ in tree_flatten(x[name])[0]] if isinstance(x, Mapping) else [""] * len(leaves)
    return [getattr(t, "dtype", None) not in (None, torch.bool) and not n.endswith(_NO_TOKENS) for n, t in zip(names, leaves)]


def full_batch(reference: Tree, x: Tree) -> Tree:
    """`reference` with one row for each example of `x`."""
    return map_leaves(
        lambda a, b: a.expand(b.shape) if isinstance(a, Tensor) and a.shape != b.shape else a, reference, tree_flatten(x)[0]
    )
