"""The graph of one recorded pass: leaves that stand for the values at sites, and the way back to them from scores, one after
another or several together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import (
    below_vmap,
    forward_mode,
    grad_of_sum,
    is_mapped,
    is_view,
    make_leaf,
    mapped_without,
    must_rise,
    nodes_before,
    once_only,
    quiet,
    transforms_active,
    without_modes,
)
from .._types import Tree, map_floats, map_tensors, tensors
from .._words import complaint, warn
from .kept import keep_written
from .norms import mend
from .passes import Found, Question
from .where import all_modules


class Recorded(NamedTuple):
    """A pass: the values at the sites, leaves in their place, and the scores that a graph leads to. The output is let go."""

    values: list[Tree]
    leaves: list[Tensor]
    scores: list[Tensor]
    anchor: Tensor | None
    mended: set[Any]  # what of its graph has been seen to


def look(q: Question, recorded: Recorded) -> None:
    """Looks at the graph: rules do, for what they were not told of, and for second derivatives, what has none is told of."""
    q.bound.look(recorded.scores, recorded.leaves)
    if q.create_graph and (once := once_only(nodes_before([score.grad_fn for score in recorded.scores]))):
        which = "torch.cond and its kind, tensors in shards, what is marked with once_differentiable"
        text = f"the model runs {' and '.join(once)}, whose second derivative torch may lose or get wrong ({which})"
        warn(f"{text}: derivatives of this result may lack it.")


def found_by(q: Question, recorded: Recorded) -> Found:
    """The values, and the gradients of the score there, or of each of several in turn."""
    if len(recorded.scores) == 1:
        return _slopes_of(q, recorded, 0)
    found = list(slopes_of(q, recorded, range(len(recorded.scores))))
    return found[0][0], [slope for _, slopes in found for slope in slopes]


def slopes_of(q: Question, recorded: Recorded, rows: range) -> Iterator[Found]:
    """The same for some of the scores, one by one; the graph goes with the last of all."""
    return (_slopes_of(q, recorded, k) for k in rows)


def _slopes_of(q: Question, recorded: Recorded, k: int) -> Found:
    values, leaves, scores, anchor, mended = recorded
    keep = k + 1 < len(scores) or q.create_graph
    if anchor is None:
        return _placed(q, values, _backward(q, scores[k], leaves, keep, mended))
    backward = partial(_backward, q, leaves=leaves, keep=keep, mended=mended)
    return _placed(q, values, below_vmap(backward, scores[k]))


def together(q: Question, recorded: Recorded, rows: range) -> list[Found] | None:
    """The same of some scores in one backward pass, by vmap; None where it cannot."""
    values, leaves, scores, _, mended = recorded
    found = [scores[k] for k in rows]
    if len(found) < 2 or not all(t.requires_grad for t in found) or len({t.dtype for t in found}) > 1:
        return None
    with torch.enable_grad():
        stacked = torch.stack(found)
    each = torch.eye(len(found), dtype=stacked.dtype, device=stacked.device)[:, :, None].expand(-1, -1, q.size)
    graph = {"retain_graph": True, "create_graph": q.create_graph}  # where it fails, one after another need it
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
    if rows.stop == len(scores):
        scores.clear()  # the graph goes with the last of all
    keep_written(q.create_graph, slopes)
    zeros = [leaf.new_zeros(len(found), *leaf.shape) if slope is None else slope for leaf, slope in zip(leaves, slopes)]
    return [_placed(q, values, [slope[k] for slope in zeros]) for k in range(len(found))]


def _placed(q: Question, values: list[Tree], slopes: Iterable[Tensor]) -> Found:
    """The values, constants unless they are to be differentiated, and slopes in the places of their floating-point tensors."""
    constant = values if q.create_graph else [map_tensors(torch.detach, value) for value in values]
    if len(values) == 1 and isinstance(values[0], Tensor):
        return constant, list(slopes)
    rest = iter(slopes)
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
            slopes = grad_of_sum(found, leaves, keep, q.create_graph)
        except RuntimeError as error:
            tell_of_checkpoints(q, error)
            raise
    keep_written(q.create_graph, slopes)
    if all(slope is None for slope in slopes):
        raise unreached(q)
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes)]


def unreached(q: Question) -> Exception:
    where = ", ".join("the input" if site is None else f"layer {site.label}" for site in q.sites.sites)
    return complaint(
        ValueError,
        f"the score has no gradient with respect to {where}: the target does not depend on it, or the model cuts the "
        f"graph in between ({_CUTS}). Remove the cut, or choose a later layer.{'' if q.bound.rules is None else _HELD}",
    )


_CUTS = "torch.no_grad, detach, an integer or numpy step, torch.utils.checkpoint without use_reentrant=False"
_HELD = (
    " Where nothing but a norm leads there, the rules hold it constant: take integrated_gradients. Rules that cut softmax "
    "(cp_lrp, frozen) cut log-probabilities too: explain a logit (a class, fa.contrast, fa.tokens(..., of='logit')), or take "
    "fa.rules.attn_lrp()."
)


def tell_of_checkpoints(q: Question, error: RuntimeError) -> None:
    """What failed in a backward pass for the parts of the model that it runs again is said in words."""
    told = _of_checkpoints(q, str(error))
    if told is not None:
        raise complaint(ValueError, f"the model runs a part of itself again in the backward pass {told}.") from error


def _of_checkpoints(q: Question, error: str) -> str | None:
    """Why a backward pass fails that runs parts of the model again, and what to do."""
    if "heckpoint" not in error:
        return None
    if ".grad()" in error:
        return "with torch.utils.checkpoint(use_reentrant=True), which gives no gradients of values: pass use_reentrant=False"
    return None if q.bound.rules is None else f"(torch.utils.checkpoint), where rules cannot be: {CHECKPOINTS_OFF}"


CHECKPOINTS_OFF = "turn that off (use_checkpoint=False, model.gradient_checkpointing_disable(), or whatever turned it on)"


def _goes_through(scores: Tensor, name: str) -> bool:
    """Whether a backward pass of that name is in the graph."""
    return any(node.name() == name for node in nodes_before([scores.grad_fn]))


# Leaves.


def leaf_of(t: Tensor, shared: bool, in_level: bool, connected: bool) -> Tensor:
    """`t` as a leaf of the graph to come, `connected` to what came before (a site, an outer transform, the caller's graph)."""
    if in_level or (connected and (t.requires_grad or forward_mode())):  # `detach` takes a tangent away
        leaf = t.clone()
    else:
        leaf = t.detach()
        if shared or is_view(t):  # written to later through another name, the value would change after the fact
            leaf = leaf.clone()
    if leaf.requires_grad:
        return leaf
    return make_leaf(leaf) if in_level else leaf.requires_grad_()


def leaf_below(t: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf below vmap, for all that is mapped at once, and the value as its sum with that leaf of zeros: fresh memory.

    The backward pass then runs without vmap: fused kernels have no batching rule, and the graph is torch's plain one.
    """
    made: list[Tensor] = []
    mapped = is_mapped(t)

    def below(t: Tensor, anchor: Tensor) -> list[Tensor]:
        whole = t if mapped else t.expand(anchor.shape[0], *t.shape)
        # Zeros in the memory of one: the model gets the sum, to write to as it likes, and nobody keeps the points.
        made.append(torch.zeros((), dtype=t.dtype, device=t.device).expand(whole.shape).requires_grad_())
        return [whole + made[0]]

    return below_vmap(below, t, anchor)[0], made[0]


def depends(value: Tree, leaves: Sequence[Tensor], anchor: Tensor | None) -> bool:
    """Whether a value met after a leaf was placed depends on it."""
    if anchor is not None:  # then it is mapped, for nothing else is
        return any(is_mapped(t) for t in tensors(value))
    return connected(value, leaves)


def connected(value: Tree, leaves: Sequence[Tensor]) -> bool:
    """Whether a graph leads from `value` back to one of the leaves."""
    return any(reached(value, leaves))


def reached(value: Tree, leaves: Sequence[Tensor]) -> list[bool]:
    """To which of the leaves a graph leads back from `value`."""
    with without_modes():  # a rule's mode has nothing to do with this
        ends = [t.sum().real for t in tensors(value) if t.requires_grad]
        found = torch.autograd.grad(ends, leaves, allow_unused=True, retain_graph=True) if ends else [None] * len(leaves)
        return [slope is not None for slope in found]


def dependent() -> Exception:
    return complaint(
        ValueError,
        "the layers depend on each other: a path runs at all of them jointly, and one that feeds another leaves it "
        "nothing to vary. Choose layers side by side, or call the method once for each.",
    )


def misses_gradients(q: Question) -> str | None:
    """Why a model goes without gradients where vmap hides that one will be asked for: hooks on a module's backward pass never
    run, and scripted code, once it has run without, records nothing."""
    modules, hooks = all_modules(q.bound.root), ("_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name, None) for module in modules for name in hooks):
        return "it has hooks on its backward pass"
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in modules)
    return "it is scripted, and may lose its gradients there" if scripted else None


def check_scripted(q: Question, recorded: Recorded) -> None:
    """Refuse scripted code in a grad level where the result is to be differentiated further."""
    if q.create_graph and any("torch::jit" in node.name() for node in nodes_before(t.grad_fn for t in recorded.scores)):
        raise complaint(ValueError, _SCRIPTED)


_SCRIPTED = (
    "the model runs scripted code, a part of whose further derivatives torch.func takes for constant: pass the model before it "
    "was scripted, or leave out create_graph=True."
)


def further(results: Sequence[Sequence[Tensor]], given: Iterable[Tensor]) -> list[list[Tensor]]:
    """The derivatives of each of some results, with respect to what was `given` and to the parameters in the graphs of all."""
    leaves = [t for t in given if t.requires_grad]
    nodes = nodes_before((t.grad_fn for each in results for t in each), {t.grad_fn for t in leaves})
    variables = [getattr(node, "variable", None) for node in nodes]
    leaves += [t for t in variables if t is not None and all(t is not leaf for leaf in leaves)]

    def slopes(each: Sequence[Tensor]) -> list[Tensor]:
        live = [t for t in each if t.requires_grad]
        if not live or not leaves:
            return [torch.zeros_like(leaf) for leaf in leaves]
        weights = [torch.linspace(1, 2, t.numel(), dtype=t.dtype, device=t.device).reshape(t.shape) for t in live]
        found = torch.autograd.grad(live, leaves, weights, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, found)]

    return list(map(slopes, results))
