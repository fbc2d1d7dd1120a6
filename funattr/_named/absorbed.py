"""What never reaches the site under rules: the rest of relevance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.backward import tell_of_checkpoints, unreached
from .._core.checks import UNRECORDED, check_attributable
from .._core.door import method
from .._core.norms import mend
from .._core.passes import Put, Question, forward, question, scores
from .._core.where import bind, transparent
from .._rules.flow.facts import Event
from .._rules.flow.given import apart_from_zero, prepared
from .._rules.flow.kinds import TABLE
from .._rules.flow.measured import Measured
from .._rules.flow.sets import epsilon_plus
from .._torch import slopes_at, tracing, transforms_active, without_modes
from .._types import Layer, Model, Target, Tree, copied, leaf_of, map_tensors, tensors
from .._words import complaint
from .relevance import tell


@method
def absorbed(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    rules: Mapping[Any, Callable[..., Any]] | None = None,
) -> dict[str, Tensor]:
    """What never reaches the site: the relevance that each operation after it keeps to itself.

    ``output . gradient - sum of inputs . gradients`` of every operation, summed by kind: biases, stabilisers, constants that
    are added, what a rule does not hand on. The law: ``lrp.sum() + sum(absorbed.values()) == score``, for any set of rules.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        rules: a set of rules, such as ``fa.rules.attn_lrp()`` for transformers; None is ``fa.rules.epsilon_plus()``.

    Returns:
        A dict from operations to ``[N]``, in units of the score: under the name of its kind where a rule met an operation (a
        batch norm that is merged counts to its convolution), under torch's name elsewhere. It takes a backward pass for each
        example.

    Raises:
        ValueError: no rule met anything, it runs under torch.func or compiled, or as `lrp`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model, x = torch.nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
        >>> kept = fa.absorbed(model, x, target=1, rules=fa.rules.epsilon(1e-12))
        >>> torch.allclose(kept["linear"], model.bias[1].expand(4))
        True

    References:
        Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", 2015.
    """
    if tracing() or transforms_active():
        text = "absorbed looks at the graph of each example, which it cannot under torch.func or compiled"
        raise complaint(ValueError, f"{text}: call it outside of these.")
    rules = epsilon_plus() if rules is None else rules
    ready, bound = prepared(rules), transparent(bind(model))
    fired: list[Any] = []
    unmet: list[str] = []
    events: list[Event] = []
    leaves: list[Tensor] = []
    mode = Measured(ready, TABLE, fired, unmet, events)
    q = question(
        bound.ruled(mode), apart_from_zero(x) if getattr(ready.kinds.get("first"), "shares", False) else x, layer, target
    )

    def put(i: int, value: Tree, shared: bool) -> Tree:
        check_attributable(value, q.label(i))
        torch.set_grad_enabled(True)
        with without_modes():  # the rules' mode has nothing to do with this
            value = map_tensors(leaf_of, value)
            leaves.extend(t for t in tensors(value) if t.requires_grad)
            return copied(value)

    found = _passed(q, put, (fired, unmet, events, leaves, mode.hidden))
    tell(bound.ruled(mode), x, fired, unmet, ready.kinds, mode.hidden)
    total: dict[str, Tensor] = {}
    flown: dict[str, Tensor] = {}
    mend(q.bound, found, leaves, set())
    try:
        with torch.enable_grad():
            each = found.unbind()
        amounts = [_amounts(score, events, leaves) for score in each]
    except RuntimeError as error:
        tell_of_checkpoints(q, error)
        raise
    if amounts and not any(reached for _, reached in amounts):  # then lrp has nothing to be the rest of
        raise unreached(q)
    for n, (name, amount, size) in ((n, of_one) for n, (some, _) in enumerate(amounts) for of_one in some):
        for sums, value in ((total, amount), (flown, size)):
            sums.setdefault(name, found.new_zeros(q.size, dtype=value.dtype))[n] += value
    rounding = 100 * torch.finfo(found.dtype).eps
    kept = {name: a for name, a in total.items() if name in ready.kinds or not bool((a.abs() <= rounding * flown[name]).all())}
    return kept or {name: found.detach().new_zeros(q.size) for name in fired}  # nothing after the site keeps anything


def _passed(q: Question, put: Put, noted: tuple[list[Any], ...]) -> Tensor:
    """The scores, with the graph from the sites on; with all of it where the model needs that, as a gradient's pass does."""
    try:
        with torch.no_grad():  # up to the site
            return scores(q, forward(q, put))
    except RuntimeError as error:
        if not any(text in str(error) for text in UNRECORDED):
            raise
    for some in noted:
        some.clear()
    with torch.enable_grad():
        return scores(q, forward(q, put))


def _amounts(score: Tensor, events: list[Event], leaves: list[Tensor]) -> tuple[list[tuple[str, Tensor, Tensor]], bool]:
    """What comes out of each operation that the score depends on, less what goes in, and how much flows at all; and whether
    anything reaches the leaves."""
    if not score.requires_grad:
        return [], False
    found = []
    places = [spot.place for event in events for spot in (*event.outputs, *event.inputs)]
    # As far back as the leaves: where a value was written through a view, torch is wrong about what it need not compute.
    slopes = slopes_at(score, places, leaves)
    for event in events:
        out = [_flows(spot.value, g) for spot in event.outputs if (g := next(slopes)) is not None]
        into = [_flows(spot.value, g) for spot in event.inputs if (g := next(slopes)) is not None]
        if out or into:
            nothing = score.new_zeros(())
            amount = sum((t.sum() for t in out), nothing) - sum((t.sum() for t in into), nothing)
            found.append((event.name, amount.detach(), sum((t.abs().sum() for t in (*out, *into)), nothing).detach()))
    return found, any(slope is not None for slope in slopes)  # those that are left are of the leaves


def _flows(value: Tensor, gradient: Tensor) -> Tensor:
    """The relevance at a value; none where no gradient is, though the value be infinite (a mask)."""
    value, gradient = (t if t.layout is torch.strided else t.to_dense() for t in (value, gradient))
    flow = torch.where(gradient == 0, torch.zeros_like(gradient), value * gradient.conj())
    return flow.real if flow.is_complex() else flow  # of a complex value, what its two parts have
