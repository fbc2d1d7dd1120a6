"""Named sets of rules: plain dictionaries, to be merged with ``{**a, **b}``."""

from __future__ import annotations

from typing import Any

from ..._core.checks import check_flags
from ..._words import check_size, complaint, door
from .flows import (
    BASE,
    Rules,
    alpha_beta_rule,
    epsilon_rule,
    first_rule,
    flat_rule,
    gamma_rule,
)
from .keeping import boxed
from .operation import Flow


def _set(linear: Flow | None, convolution: Flow | None, first: Flow | None = None) -> Rules:
    given = {"linear": linear, "convolution": convolution, "first": first}
    return {**{key: rule for key, rule in given.items() if rule is not None}, **BASE}


def _number(value: Any, name: str) -> float:
    check_size(value, name)
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
    rule = epsilon_rule(_number(epsilon, "epsilon"))
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
    check_flags(["bias"], {"bias": bias})
    rule = alpha_beta_rule(1.0, 0.0, _number(epsilon, "epsilon"), bias)
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
    check_flags(["bias"], {"bias": bias})
    rule = alpha_beta_rule(*_checked(alpha, beta), _number(epsilon, "epsilon"), bias)
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
    check_flags(["bias"], {"bias": bias})
    rule = gamma_rule(_number(gamma, "gamma"), _number(epsilon, "epsilon"), bias)
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
    return _set(epsilon_rule(e), alpha_beta_rule(1.0, 0.0, e, True))


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
    return _set(epsilon_rule(e), alpha_beta_rule(1.0, 0.0, e, True), first_rule(flat_rule, "flat", e))


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
    return _set(epsilon_rule(e), alpha_beta_rule(*_checked(alpha, beta), e, True))


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
    return _set(epsilon_rule(e), gamma_rule(_number(gamma, "gamma"), e, True), boxed(low, high, e))
