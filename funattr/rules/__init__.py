"""Named sets of rules for the backward pass, for `under` and `lrp`: each function returns a new dict, to be merged."""

from __future__ import annotations

from .._rules.flow.keeping import attn_lrp, cp_lrp, deconv, flat, frozen, guided, wsquare, zbox
from .._rules.flow.operation import Operation
from .._rules.flow.sets import (
    alpha_beta,
    epsilon,
    epsilon_alpha_beta,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    gamma,
    zplus,
)

__all__ = [
    "Operation",
    "alpha_beta",
    "attn_lrp",
    "cp_lrp",
    "deconv",
    "epsilon",
    "epsilon_alpha_beta",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "flat",
    "frozen",
    "gamma",
    "guided",
    "wsquare",
    "zbox",
    "zplus",
]
