"""Named sets under which linear operations keep their gradient: of attention, and of ReLU alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..relu import deconv_relu, guided_relu
from .flows import BASE, CUT, GATE, NORMALIZATION, Rules
from .operation import Operation


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
