"""Named sets for some operations: all others, linear ones among them, keep their gradient. Those for the first layer are to be
merged into other sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._core.checks import anywhere, check_dense
from ..._words import complaint, door
from ..relu import deconv_relu, guided_relu
from .flows import BASE, CUT, GATE, NORMALIZATION, Rules, box_rule, first_rule, flat_rule, wsquare_rule
from .operation import Flow, Operation


def attn_lrp() -> Rules:
    """AttnLRP: the rules that conserve relevance in transformers; linear operations keep their gradient.

    Activations ``f(z) / z``, half of each product's gradient for either factor, softmax by its Jacobian, and the statistics of
    norms constant.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Example:
        >>> import funattr as fa
        >>> sorted(fa.rules.attn_lrp())
        ['activation', 'normalization', 'product', 'softmax']

    References:
        Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", 2024.
    """
    return dict(BASE)


def cp_lrp() -> Rules:
    """CP-LRP: as `attn_lrp`, but nothing flows through softmax, and gates are constant.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Example:
        >>> import funattr as fa
        >>> fa.rules.cp_lrp()["softmax"]
        <rule cut>

    References:
        Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", 2022.
    """
    return {**BASE, "softmax": CUT, "product": GATE}


def frozen() -> Rules:
    """The linearised graph: attention patterns and statistics of norms are constants; all else keeps its derivative.

    Returns:
        A dict of rules, for `under`.

    Example:
        >>> import funattr as fa
        >>> fa.rules.frozen()
        {'softmax': <rule cut>, 'normalization': <rule normalization>}

    References:
        Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", 2022.
    """
    return {"softmax": CUT, "normalization": NORMALIZATION}


class Rectified:
    """A rule for ReLU of its own backward pass, which is no function of values alone."""

    def __init__(self, relu: Any, name: str):
        self.relu = relu  # ReLU with that backward pass
        self.name = name

    def __call__(self, op: Operation, gradient: Tensor) -> Tensor:
        positive = torch.relu(gradient)
        return positive * (op.output > 0) if self.name == "guided" else positive

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


def guided() -> dict[Any, Any]:
    """Guided backpropagation: only positive gradients flow back through active ReLUs, in whatever spelling.

    ``relu(g) * (z > 0)`` at ``y = relu(z)``; all else keeps its gradient.

    Returns:
        A dict with the key ``"relu"``.

    Example:
        >>> import funattr as fa
        >>> fa.rules.guided()
        {'relu': <rule guided>}

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity", 2014, https://arxiv.org/abs/1412.6806
    """
    return {"relu": Rectified(guided_relu, "guided")}


def deconv() -> dict[Any, Any]:
    """The deconvolutional network: only positive gradients flow back through every ReLU, in whatever spelling.

    ``relu(g)`` at ``y = relu(z)``; all else keeps its gradient.

    Returns:
        A dict with the key ``"relu"``.

    Example:
        >>> import funattr as fa
        >>> fa.rules.deconv()
        {'relu': <rule deconv>}

    References:
        Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", 2013, https://arxiv.org/abs/1311.2901
    """
    return {"relu": Rectified(deconv_relu, "deconv")}


# Of the first layer alone.


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
        if isinstance(value, Tensor):
            check_dense(value, name)
            if value.is_complex() or value.is_meta:
                kind = f"of {value.dtype}" if value.is_complex() else "on the meta device"
                raise complaint(TypeError, f"{name} is a tensor {kind}, expected real numbers.")
    try:
        crossed = torch.as_tensor(low, device="cpu") > torch.as_tensor(high, device="cpu")
    except RuntimeError:
        raise complaint(ValueError, f"low {list(low.shape)} and high {list(high.shape)} do not broadcast to one x.") from None
    if anywhere(crossed):
        text = f"low is {low} and high {high}" if not isinstance(low, Tensor) else "low is above high somewhere"
        raise complaint(ValueError, f"{text}: low is the least value that an input can have, high the largest.")
    return first_rule(box_rule(low, high), "zbox", epsilon)
