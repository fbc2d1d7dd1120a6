"""Back from scores to the leaves of one recorded pass: from one score, or from several, one after another or together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import below_vmap, mapped_without, must_rise, quiet, transforms_active
from .._types import Tree, map_floats, map_tensors
from .._words import complaint
from .norms import mend
from .passes import Found, Question


class Recorded(NamedTuple):
    """A pass: the values at the sites, leaves in their place, and the scores that a graph leads to. The output is let go."""

    values: list[Tree]
    leaves: list[Tensor]
    scores: list[Tensor]
    anchor: Tensor | None
    mended: set[Any]  # what of its graph has been seen to


def found_by(q: Question, recorded: Recorded) -> Found:
    """The values, and the gradients of the score there, or of each of several in turn."""
    found = list(slopes_of(q, recorded, range(len(recorded.scores))))
    return found[0][0], [slope for _, slopes in found for slope in slopes]


def slopes_of(q: Question, recorded: Recorded, rows: range) -> Iterator[Found]:
    """The same for some of the scores, one by one; the graph goes with the last of all."""
    values, leaves, scores, anchor, mended = recorded
    for k in rows:
        backward = partial(_backward, q, leaves=leaves, keep=k + 1 < len(scores) or q.create_graph, mended=mended)
        yield _placed(q, values, backward(scores[k]) if anchor is None else below_vmap(backward, scores[k]))


def together(q: Question, recorded: Recorded, rows: range) -> list[Found] | None:
    """The same of some scores in one backward pass, by vmap; None where it cannot."""
    values, leaves, scores, _, mended = recorded
    found = [scores[k] for k in rows]
    if len(found) < 2 or not all(t.requires_grad for t in found) or len({t.dtype for t in found}) > 1:
        return None
    with torch.enable_grad():
        stacked = torch.stack(found)
    each = torch.eye(len(found), dtype=stacked.dtype, device=stacked.device)[:, :, None].expand(-1, -1, q.size)
    graph = {"retain_graph": rows.stop < len(scores) or q.create_graph, "create_graph": q.create_graph}
    try:
        if _goes_through(stacked, "CdistBackward0"):
            return None
        mend(q.bound, stacked, leaves, mended)
        with quiet:
            slopes = torch.autograd.grad(stacked, leaves, each, is_grads_batched=True, allow_unused=True, **graph)
    except RuntimeError as error:
        if must_rise(error):
            raise
        return None
    if all(slope is None for slope in slopes):
        return None
    zeros = [leaf.new_zeros(len(found), *leaf.shape) if slope is None else slope for leaf, slope in zip(leaves, slopes)]
    return [_placed(q, values, [slope[k] for slope in zeros]) for k in range(len(found))]


def _placed(q: Question, values: list[Tree], slopes: Iterable[Tensor]) -> Found:
    """The values, constants unless they are to be differentiated, and slopes in the places of their floating-point tensors."""
    rest = iter(slopes)
    constant = values if q.create_graph else [map_tensors(torch.detach, value) for value in values]
    return constant, [map_floats(lambda leaf: next(rest), value) for value in values]


def _backward(q: Question, found: Tensor, leaves: Sequence[Tensor], keep: bool, mended: set[Any]) -> list[Tensor]:
    """The gradient of the sum of the scores; each example's score is of the function of this batch."""
    slopes: Sequence[Tensor | None] = [None]
    if found.requires_grad:
        # Its batching rule gives all targets the first one's.
        if transforms_active() and mapped_without(found, leaves) and _goes_through(found, "CdistBackward0"):
            text = "torch.func.vmap is wrong in the backward pass of torch.cdist: ask for one target at a time."
            raise complaint(ValueError, text)
        mend(q.bound, found, leaves, mended)
        try:
            ones = None if found.numel() == 1 else torch.ones_like(found)
            graph = {"retain_graph": keep, "create_graph": q.create_graph}
            slopes = torch.autograd.grad(found, leaves, ones, allow_unused=True, **graph)
        except RuntimeError as error:
            if "heckpoint" not in str(error) or ".grad()" not in str(error):
                raise
            text = "the model runs a part of itself again in the backward pass with torch.utils.checkpoint(use_reentrant=True)"
            raise complaint(ValueError, f"{text}, which gives no gradients of values: pass use_reentrant=False.") from error
    if all(slope is None for slope in slopes):
        where = ", ".join("the input" if site is None else f"layer {site.label}" for site in q.sites.sites)
        raise complaint(
            ValueError,
            f"the score has no gradient with respect to {where}: the target does not depend on it, or the model cuts the "
            f"graph in between (torch.no_grad, detach, an integer or numpy step). Remove the cut, or choose a later layer.",
        )
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes)]


def _goes_through(scores: Tensor, name: str) -> bool:
    """Whether a backward pass of that name is in the graph."""
    todo, met = [scores.grad_fn], {scores.grad_fn}
    for node in todo:  # which grows
        if node is not None:
            if node.name() == name:
                return True
            new = {other for other, _ in node.next_functions} - met
            met |= new
            todo += new
    return False
