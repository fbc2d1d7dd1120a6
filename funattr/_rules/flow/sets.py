"""Rules for the backward pass, and named sets of them: plain dictionaries, to be merged with ``{**a, **b}``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._core.door import may_read
from ..._words import complaint, door
from .hold import hold
from .operation import Flow, Operation

Rules = dict[Any, Callable[..., Any]]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """`z`, away from 0 by `epsilon`, on its own side; 0 counts as positive."""
    return z + torch.where(z < 0, -epsilon, epsilon).to(z.dtype) if epsilon else z


def _share(z: Tensor, total: Tensor, epsilon: float) -> Tensor:
    """``z / total``, a constant; 0 where both are."""
    z, total = hold(z), stabilised(hold(total), epsilon)
    return z / total if epsilon else torch.where(total == 0, torch.zeros_like(z), z / torch.where(total == 0, 1.0, total))


# What flows in the place of an operation. `op.output` and the inputs carry the graph.


def _plain(op: Operation) -> Tensor:
    return op.output


def _cut(op: Operation) -> Tensor:
    return hold(op.output)


def _activation(op: Operation) -> Tensor:
    z, at = op.inputs[0], hold(op.inputs[0])
    zero = at == 0
    if may_read() and not bool(zero.any()):
        return z * (hold(op.output) / at)
    slope = torch.func.vjp(op.function, at)[1](torch.ones_like(op.output))[0]
    return z * torch.where(zero, slope, hold(op.output) / torch.where(zero, 1.0, at))


def _half(op: Operation) -> Tensor:
    return op.output / 2


def _normalization(op: Operation) -> Tensor:
    constant = getattr(op.function, "constant", None)  # of what is made with statistics, the same with these held
    return hold(op.output) if constant is None else constant(*op.inputs)  # type: ignore[no-any-return]


PLAIN = Flow(_plain, "gradient", plain=True)
CUT = Flow(_cut, "cut")
ACTIVATION = Flow(_activation, "activation")
HALF = Flow(_half, "half", both=True)
GATE = Flow(_half, "gate", both=True)  # the mode knows which of the two is one
NORMALIZATION = Flow(_normalization, "normalization", both=True)
_BASE: Rules = {"activation": ACTIVATION, "product": HALF, "softmax": PLAIN, "normalization": NORMALIZATION}


def _bias(op: Operation) -> Tensor | None:
    """The bias in the shape of the output, where the operation has one."""
    if len(op.inputs) < 3:
        return None
    weight, bias = op.inputs[1:3]
    return bias.reshape(-1, *[1] * (weight.dim() - 2)) if op.name.startswith("conv") else bias


def _parts(op: Operation, both: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of all positive contributions, and of all negative ones."""
    (x, w), f = op.inputs[:2], op.function
    above, more, less = x.clamp(min=0), w.clamp(min=0), w.clamp(max=0)
    if may_read() and bool((hold(x) >= 0).all()):
        return f(x, more), f(x, less) if both else None
    below = x - above
    return f(above, more) + f(below, less), f(above, less) + f(below, more) if both else None


def _epsilon(epsilon: float) -> Flow:
    if epsilon == 0:
        return PLAIN
    return Flow(lambda op: op.output * _share(op.output, op.output, epsilon), f"epsilon({epsilon:g})")


def _alpha_beta(alpha: float, beta: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation) -> Tensor:
        more, less = _parts(op, beta != 0)
        b = _bias(op) if bias else None
        found = alpha * more * _share(op.output, more if b is None else more + b.clamp(min=0), epsilon)
        if less is not None:
            found = found - beta * less * _share(op.output, less if b is None else less + b.clamp(max=0), epsilon)
        return found

    return Flow(flow, f"alpha_beta({alpha:g}, {beta:g})")


def _gamma(gamma: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation) -> Tensor:
        z, b = op.output, _bias(op)
        linear = z if b is None else z - b
        more, down = _parts(op, False)[0], hold(z) < 0
        found = linear + gamma * torch.where(down, linear - more, more)
        total = found
        if bias and b is not None:
            total = found + b + gamma * torch.where(down, b.clamp(max=0), b.clamp(min=0))
        return found * _share(z, total, epsilon)

    return Flow(flow, f"gamma({gamma:g})")


def _ones(x: Tensor) -> Tensor:
    """Ones that have, times x, the gradient 1: shares that do not depend on x."""
    at = hold(x)
    return 1 + (x - at) / torch.where(at == 0, nothing(at.dtype), at)


def nothing(dtype: torch.dtype) -> float:
    """What an exact 0 in x counts as where its share does not depend on it: too small to be seen in any sum."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _flat(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), torch.ones_like(op.inputs[1]))


def _wsquare(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), op.inputs[1] ** 2)


def _box(low: Any, high: Any) -> Callable[[Operation], Tensor]:
    def flow(op: Operation) -> Tensor:
        x, w = op.inputs[:2]
        ones, f = _ones(x), op.function
        found = f(ones * hold(x), w)
        for bound, part in ((low, w.clamp(min=0)), (high, w.clamp(max=0))):
            found = found - f(ones * torch.as_tensor(bound, dtype=x.dtype, device=x.device), part)
        return found

    return flow


def _first(quotas: Callable[[Operation], Tensor], name: str, epsilon: float = 1e-6) -> Flow:
    def flow(op: Operation) -> Tensor:
        found = quotas(op)
        return found * _share(op.output, found, epsilon)

    return Flow(flow, name, shares=True)


# The sets.


def _set(linear: Flow | None, convolution: Flow | None, first: Flow | None = None) -> Rules:
    given = {"linear": linear, "convolution": convolution, "first": first}
    return {**{key: rule for key, rule in given.items() if rule is not None}, **_BASE}


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise complaint(TypeError, f"{name} must be a number, got {type(value).__name__}.")
    if not 0 <= value < float("inf"):
        raise complaint(ValueError, f"{name} must not be negative, got {value}.")
    return float(value)


@door
def epsilon(epsilon: float = 1e-6) -> Rules:
    """LRP-epsilon at every linear operation and convolution.

    ``m_i = w_i g z / stab(z)`` with ``stab(z) = z + epsilon (-1 if z < 0 else 1)``; with 0 the gradient exactly.

    Args:
        epsilon: what keeps the denominator from 0, and takes relevance where z is small.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: it is negative.

    Example:
        >>> import funattr as fa
        >>> sorted(fa.rules.epsilon())
        ['activation', 'convolution', 'linear', 'normalization', 'product', 'softmax']

    References:
        Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", 2015.
    """
    rule = _epsilon(_number(epsilon, "epsilon"))
    return _set(rule, rule)


@door
def zplus(*, epsilon: float = 1e-6, bias: bool = True) -> Rules:
    """The z+ rule: positive contributions alone.

    ``x_i m_i = g z c_i+ / stab(sum c+ + b+)``, ``c_i = x_i w_i``; it is `alpha_beta` with 1 and 0.

    Args:
        epsilon: what keeps the denominator from 0.
        bias: False leaves the bias out of the denominator: the inputs take its share.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: `epsilon` is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.zplus()["linear"]
        <rule alpha_beta(1, 0)>

    References:
        Montavon et al., "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", 2017.
    """
    rule = _alpha_beta(1.0, 0.0, _number(epsilon, "epsilon"), bias)
    return _set(rule, rule)


def _checked(alpha: float, beta: float) -> tuple[float, float]:
    alpha, beta = _number(alpha, "alpha"), _number(beta, "beta")
    if abs(alpha - beta - 1) > 1e-9:
        text = f"alpha - beta must be 1, got {alpha:g} - {beta:g} = {alpha - beta:g}"
        raise complaint(ValueError, f"{text}: relevance would be made or lost. Pass beta=alpha - 1.")
    return alpha, beta


@door
def alpha_beta(alpha: float = 2.0, beta: float = 1.0, *, epsilon: float = 1e-6, bias: bool = True) -> Rules:
    """LRP-alpha-beta: positive contributions, and negative ones, each shared for themselves.

    ``x_i m_i = g z (alpha c_i+ / stab(sum c+ + b+) - beta c_i- / stab(sum c- + b-))``, ``alpha - beta = 1``.

    Args:
        alpha: how much the positive contributions get.
        beta: how much the negative ones take.
        epsilon: what keeps the denominators from 0.
        bias: False leaves the bias out of the denominators: the inputs take its share.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: alpha - beta is not 1, or a number is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.alpha_beta(3.0, 2.0)["convolution"]
        <rule alpha_beta(3, 2)>

    References:
        Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", 2015.
    """
    rule = _alpha_beta(*_checked(alpha, beta), _number(epsilon, "epsilon"), bias)
    return _set(rule, rule)


@door
def gamma(gamma: float = 0.25, *, epsilon: float = 1e-6, bias: bool = True) -> Rules:
    """LRP-gamma: contributions with the sign of the output count more.

    ``x_i m_i = g z c'_i / stab(sum c' + b')``, with ``c' = c + gamma * (the part of c with the sign of z)``, b' alike.

    Args:
        gamma: how much more; 0 is LRP-epsilon, infinity z+ for positive outputs.
        epsilon: what keeps the denominator from 0.
        bias: False leaves the bias out of the denominator: the inputs take its share.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: a number is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.gamma(0.5)["linear"]
        <rule gamma(0.5)>

    References:
        Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019.
    """
    rule = _gamma(_number(gamma, "gamma"), _number(epsilon, "epsilon"), bias)
    return _set(rule, rule)


@door
def epsilon_plus(*, epsilon: float = 1e-6) -> Rules:
    """`epsilon` at linear operations, `zplus` at convolutions: the usual set for networks of images.

    Args:
        epsilon: what keeps the denominators from 0.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: it is negative.

    Example:
        >>> import funattr as fa
        >>> rules = fa.rules.epsilon_plus()
        >>> rules["linear"], rules["convolution"]
        (<rule epsilon(1e-06)>, <rule alpha_beta(1, 0)>)

    References:
        Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with LRP", 2020.
    """
    e = _number(epsilon, "epsilon")
    return _set(_epsilon(e), _alpha_beta(1.0, 0.0, e, True))


@door
def epsilon_plus_flat(*, epsilon: float = 1e-6) -> Rules:
    """`epsilon_plus`, with `flat` at the first layer.

    Args:
        epsilon: what keeps the denominators from 0.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: it is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.epsilon_plus_flat()["first"]
        <rule flat>

    References:
        Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with LRP", 2020.
    """
    e = _number(epsilon, "epsilon")
    return _set(_epsilon(e), _alpha_beta(1.0, 0.0, e, True), _first(_flat, "flat", e))


@door
def epsilon_alpha_beta(alpha: float = 2.0, beta: float = 1.0, *, epsilon: float = 1e-6) -> Rules:
    """`epsilon` at linear operations, `alpha_beta` at convolutions.

    Args:
        alpha: how much the positive contributions get.
        beta: how much the negative ones take.
        epsilon: what keeps the denominators from 0.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: alpha - beta is not 1, or a number is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.epsilon_alpha_beta()["convolution"]
        <rule alpha_beta(2, 1)>

    References:
        Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with LRP", 2020.
    """
    e = _number(epsilon, "epsilon")
    return _set(_epsilon(e), _alpha_beta(*_checked(alpha, beta), e, True))


@door
def epsilon_gamma_box(low: Any, high: Any, *, gamma: float = 0.25, epsilon: float = 1e-6) -> Rules:
    """`epsilon` at linear operations, `gamma` at convolutions, `zbox` at the first layer.

    Args:
        low: the least value that an input can have: a number, or a tensor that broadcasts to x.
        high: the largest.
        gamma: how much more contributions with the sign of the output count.
        epsilon: what keeps the denominators from 0.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Raises:
        ValueError: low > high, or a number is negative.

    Example:
        >>> import funattr as fa
        >>> fa.rules.epsilon_gamma_box(-3.0, 3.0)["first"]
        <rule zbox>

    References:
        Anders et al., "Software for Dataset-wide XAI: From Local Explanations to Global Insights with Zennit", 2021.
    """
    e = _number(epsilon, "epsilon")
    return _set(_epsilon(e), _gamma(_number(gamma, "gamma"), e, True), _boxed(low, high, e))


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
    return {"first": _first(_flat, "flat")}


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
    return {"first": _first(_wsquare, "wsquare")}


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
    return {"first": _boxed(low, high)}


def _boxed(low: Any, high: Any, epsilon: float = 1e-6) -> Flow:
    for value, name in ((low, "low"), (high, "high")):
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise complaint(TypeError, f"{name} must be a number or a tensor that broadcasts to x, got {type(value).__name__}.")
    if bool((torch.as_tensor(low) > torch.as_tensor(high)).any()):
        text = f"low is {low} and high {high}" if not isinstance(low, Tensor) else "low is above high somewhere"
        raise complaint(ValueError, f"{text}: low is the least value that an input can have, high the largest.")
    return _first(_box(low, high), "zbox", epsilon)


def attn_lrp() -> Rules:
    """AttnLRP: the rules that conserve relevance in transformers; linear operations keep their gradient.

    Activations ``f(z) / z``, half of each product's gradient for either factor, softmax by its Jacobian, statistics of norms constant.

    Returns:
        A dict of rules, for `under` and `lrp`.

    Example:
        >>> import funattr as fa
        >>> sorted(fa.rules.attn_lrp())
        ['activation', 'normalization', 'product', 'softmax']

    References:
        Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", 2024.
    """
    return dict(_BASE)


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
    return {**_BASE, "softmax": CUT, "product": GATE}


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
