"""Before a call: parameters get a size, train mode is told of, and nothing is learned from what methods run a model on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from .._torch import transforms_active
from .._types import Tree, as_arguments, copied
from .._words import complaint, warn
from .code import BATCH_NORM, INSTANCE_NORM, in_train_mode, noisy_modules
from .holders import statistics_kept
from .tap import shadowing
from .where import Bound, all_modules, own_weights


def _tell(training: Sequence[nn.Module]) -> None:
    what = " and ".join(sorted({in_train_mode(module) or "" for module in training}))
    warn(
        f"the model is in train mode with {what}: attributions depend on the batch or on chance. "
        f"Call model.eval() first. Running statistics are not updated."
    )


@contextlib.contextmanager
def mode_kept(training: list[nn.Module]) -> Iterator[None]:
    """Warn about modules in train mode, and keep their running statistics."""
    _tell(training)
    with statistics_kept(training):
        yield


def mode_kept_traced(bound: Bound) -> Bound:
    """The same where Dynamo traces. Below torch.func nothing can be written, to be put back, so norms do not write."""
    modules = all_modules(bound.root)
    if _without_size(modules):
        raise complaint(ValueError, _SIZE)
    training = noisy_modules(modules)
    if not training:
        return bound
    _tell(training)
    # In train mode they do not read their statistics either.
    names = {BATCH_NORM: ["track_running_stats"], INSTANCE_NORM: ["running_mean", "running_var"]}
    hidden = [(norm, name, None) for norm in training for kind in names if isinstance(norm, kind) for name in names[kind]]
    return bound._replace(call=partial(shadowing, hidden, bound.call))


_SIZE = "the model has parameters without a size yet, and torch cannot give them one here: run it once before, model(x)."


def sized(modules: Sequence[nn.Module], model: Any, x: Tree) -> None:
    """Have parameters without a size get one in a plain pass: not the tensors of a transform, nor what is put back after it."""
    if _without_size(modules):
        if transforms_active():
            raise complaint(ValueError, _SIZE)
        args, kwargs = as_arguments(copied(x))
        with torch.no_grad():
            model(*args, **kwargs)


def _without_size(modules: Sequence[nn.Module]) -> bool:
    weights = (weight for module in modules for weight in own_weights(module).values())
    return any(isinstance(weight, nn.UninitializedParameter) for weight in weights)  # Dynamo does not trace is_lazy
