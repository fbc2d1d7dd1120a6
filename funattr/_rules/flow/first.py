"""Sets for the first layer alone, to be merged into others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._words import complaint, door
from .flows import Rules, box_rule, first_rule, flat_rule, wsquare_rule
from .operation import Flow


def flat() -> Rules:
    """At the first layer: every input of an operation gets the same share. To be merged into another set.

    ``R_i = g z / n`` for the n inputs that an output is made of; padding takes nothing, an exact 0 has relevance.

    Returns:
        A dict with the key ``"first"``.

    Example:
        >>> import funattr as fa
        >>> sorted({**fa.rules.epsilon_plus(), **fa.rules.flat()})[2]
        'first'

    References:
        Lapuschkin et al., "Unmasking Clever Hans Predictors and Assessing What Machines Really Learn", 2019.
    """
    return {"first": first_rule(flat_rule, "flat")}


def wsquare() -> Rules:
    """At the first layer: shares by the squares of the weights. To be merged into another set.

    ``R_i = g z w_i^2 / stab(sum w^2)``; an exact 0 has relevance.

    Returns:
        A dict with the key ``"first"``.

    Example:
        >>> import funattr as fa
        >>> fa.rules.wsquare()
        {'first': <rule wsquare>}

    References:
        Montavon et al., "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", 2017.
    """
    return {"first": first_rule(wsquare_rule, "wsquare")}


@door
def zbox(low: Any, high: Any) -> Rules:
    """At the first layer: shares by the way from the corner of the box that inputs lie in. To be merged into another set.

    ``R_i = g z q_i / stab(sum q)`` with ``q_i = x_i w_i - low_i w_i+ - high_i w_i-``.

    Args:
        low: the least value that an input can have: a number, or a tensor that broadcasts to x.
        high: the largest.

    Returns:
        A dict with the key ``"first"``.

    Raises:
        ValueError: low > high.

    Example:
        >>> import funattr as fa
        >>> fa.rules.zbox(-1.0, 1.0)
        {'first': <rule zbox>}

    References:
        Montavon et al., "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", 2017.
    """
    return {"first": boxed(low, high)}


def boxed(low: Any, high: Any, epsilon: float = 1e-6) -> Flow:
    for value, name in ((low, "low"), (high, "high")):
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise complaint(TypeError, f"{name} must be a number or a tensor that broadcasts to x, got {type(value).__name__}.")
    if bool((torch.as_tensor(low) > torch.as_tensor(high)).any()):
        text = f"low is {low} and high {high}" if not isinstance(low, Tensor) else "low is above high somewhere"
        raise complaint(ValueError, f"{text}: low is the least value that an input can have, high the largest.")
    return first_rule(box_rule(low, high), "zbox", epsilon)
