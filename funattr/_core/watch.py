"""What every form of the gradient recipe looks at in a forward pass: the sites, and the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .._types import Target, Tree, batch_size, copied
from .._words import complaint
from .model import Bound
from .place import resolve, settle
from .score import Neuron, neuron_score, score_of, the_tensor
from .tap import Site, Stop


class Watch:
    """The sites inside the model, a neuron target's last, and how to score: what every form of the recipe needs."""

    def __init__(self, bound: Bound, x: Tree, sites: Sequence[Site | None], target: Target):
        self.where = [i for i, site in enumerate(sites) if site is not None]
        inner = [site for site in sites if site is not None]
        self.neuron = target if isinstance(target, Neuron) else None
        if self.neuron is not None:
            inner += [site for site in resolve(bound, self.neuron.layer).sites if site is not None]
        self.sites = settle(bound, x, inner)
        self.target = target
        self.size = batch_size(x)

    def is_neuron(self, i: int) -> bool:
        return self.neuron is not None and i == len(self.sites) - 1

    def neuron_score(self, value: Tree) -> Tensor:
        assert self.neuron is not None
        # Of a copy: the model goes on, and may overwrite the value.
        return self.checked(neuron_score(copied(value), self.neuron.index, self.sites[-1].label))

    def score(self, output: Any) -> Tensor:
        if not callable(self.target) and (out := the_tensor(output)).dim():
            self.checked(out)  # before the target does not fit because of it
        return self.checked(score_of(output, self.target))

    def checked(self, scores: Tensor) -> Tensor:
        if scores.shape[0] != self.size:
            cure = "the first dimension of the model's output must be the batch; of one example without it, pass x[None]"
            if callable(self.target):
                cure = "the target must give one for each, and a loss takes reduction='none' for that"
            text = f"the score has {scores.shape[0]} values for the {self.size} examples of x"
            raise complaint(ValueError, f"{text}: {cure}.")
        return scores


def stopping(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)`, where a complaint ends the pass: a model may catch ValueError."""
    try:
        return f(*args)
    except (ValueError, TypeError) as error:
        if not hasattr(error, "complaint"):
            raise
        raise Stop(None, error) from None
