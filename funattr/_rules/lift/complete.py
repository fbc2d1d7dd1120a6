"""What DeepLIFT's rules do not see, whether its attributions sum to the difference of the scores, and what it has to say."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from ..._core.checks import meet
from ..._core.score import one_for_each, predicted, score_of
from ..._core.tap import touched
from ..._core.where import all_modules
from ..._torch import (
    forward_class,
    is_plain,
    made_by_func,
    nodes_before,
    observed_by_dispatch_mode,
    plain_data,
    tracing,
    transforms_active,
    without_transforms,
)
from ..._types import Neuron, Target, Tree, as_it_is, tensors
from ..._words import warn
from .table import ELEMENTWISE
from .tape import Tape


def only_torch(root: nn.Module | None, pick: Any) -> bool:
    """Whether nothing runs but torch's own layers: they hide nothing, and a look at the graph takes a small call's tenth."""
    return (
        (pick is None or not getattr(pick, "own", True))
        and root is not None
        and all(type(module).__module__.startswith("torch.nn.modules.") and not touched(module) for module in all_modules(root))
    )


def hidden(ends: Tree, starts: Iterable[Tensor], known: Sequence[str]) -> list[str]:
    """What brings a backward pass of its own between `starts` and `ends`: an autograd.Function, scripted code, an extension.

    `known` are operations without a rule, which are named already, and may be made of those that have one.
    """
    first = {t.grad_fn for t in starts} - {None}
    nodes = list(nodes_before((t.grad_fn for t in tensors(ends)), first))
    # Of the nodes that are called as their class, one tells of all.
    ours = {kind for kind, node in {type(n): n for n in nodes}.items() if node.name() == kind.__name__ and not _own(node)}
    found = [(name, node) for node in nodes if type(node) not in ours and (name := _own(node))]
    if not found:
        return []
    inputs = {id(t) for t in starts}
    return [
        name
        for name, node in found
        if not (name == SCRIPTED and known and "torch::jit" not in node.name())
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


# Whether the attributions sum to the difference of the scores, which the two passes know.


class Notes:
    """What a call has to say, when it is done."""

    def __init__(self) -> None:
        self.unknown: list[str] = []  # operations that should have a rule and have none
        self.moved: list[str] = []  # operations with masks or indices that are others at the baseline, around the site
        self.hidden: list[str] = []  # what the rules did not see
        self.cuts: list[str] = []  # operations that came from the site and had no gradient
        self.claims = True  # whether nothing goes around the sites
        self.eps = 0.0  # of the coarsest numbers that the passes met

    def extend(self, **found: list[str]) -> None:
        for kind, names in found.items():
            known = getattr(self, kind)
            known.extend(dict.fromkeys(name for name in names if name not in known))


def gap(targets: Sequence[Target], ends: tuple[Tape, Tape], products: list[Tree]) -> Tensor | None:
    """By how much the sum misses the difference of the scores, that difference, and the size of the scores: over the batch,
    whose rows may meet, for each target. Not compiled, where nobody reads it, nor without data."""
    if tracing() or not all(tape.end and not tape.end[-1].is_meta for tape in ends):
        return None
    found, count = [], len(products) // len(targets)
    with torch.no_grad():
        for k, target in enumerate(targets):
            own = [tape.end[k - len(targets)] for tape in ends]
            found += _gap(target, own, products[k * count : (k + 1) * count])
        return torch.stack(found).reshape(-1, 3)


def _gap(target: Target, found: list[Tensor], products: list[Tree]) -> list[Tensor]:
    if callable(target) or isinstance(target, Neuron):
        scores = [one_for_each(end, "the target") for end in found]
    else:
        pick = predicted(found[0]) if isinstance(target, str) else target
        # One class is what the pass at x was asked for, and checked.
        scores = [end.select(1, pick) if type(pick) is int and end.dim() == 2 else score_of(end, pick) for end in found]
    meet(scores[1], " at the baseline")  # of x they have been met
    rise = scores[0] - scores[1]
    off = rise.sum()
    for product in tensors(products):  # integers have none
        off = off - product.sum()
    return [off.abs(), rise.abs().sum(), torch.cat(scores).abs().sum()]


def tell(notes: Notes, missed: Tensor | None) -> None:
    _known(notes)
    quiet = not notes.claims or notes.hidden or notes.moved or notes.unknown  # nothing is claimed, or it has been said why not
    if missed is None or quiet or observed_by_dispatch_mode():
        return
    parts = [plain_data(part) for part in missed.unbind(-1)]
    if not all(map(is_plain, parts)):
        return
    eps = max(torch.finfo(missed.dtype).eps, notes.eps)
    with without_transforms() if transforms_active() else as_it_is:
        each = torch.stack(parts, -1).reshape(-1, 3).tolist()  # for all that transforms map it over
    for off, rise, size in each:
        if off > max(100 * eps ** (2 / 3), 1e-6) * rise + 1000 * eps * size:  # more than rounding may do
            cuts = ", ".join(dict.fromkeys(notes.cuts))
            cause = (
                f"the model cuts its graph ({cuts})" if cuts else "a part of it was lost to rounding, or to what no rule sees"
            )
            warn(
                f"DeepLIFT's attributions miss the difference of the scores, {rise:.3g} over the batch, by {off:.3g}: {cause}. "
                f"integrated_gradients may serve better."
            )
            return


def _known(notes: Notes) -> None:
    """What is known to go wrong, whatever the sums say."""
    if notes.hidden:
        warn(
            f"DeepLIFT's rules do not reach into {', '.join(notes.hidden)}, with a backward pass of its own: that is used, and "
            f"attributions need not sum to the difference of the scores."
        )
    if notes.moved:
        warn(
            f"DeepLIFT: masks or indices of {', '.join(notes.moved)} are others at the baseline than at x, and do not come "
            f"from the layer. Those at x are used, but for what is added, so attributions need not sum to the difference of "
            f"the scores."
        )
    if notes.unknown:
        linear, do = ("not known to be linear", "need") if tracing() else ("not linear", "do")  # compiled, nobody looks
        be, it, its = ("is", "it", "its") if len(notes.unknown) == 1 else ("are", "them", "their")
        warn(
            f"{', '.join(notes.unknown)} {be} {linear} and DeepLIFT has no rule for {it}: {its} gradient is used, and "
            f"attributions {do} not sum to the difference of the scores."
        )
