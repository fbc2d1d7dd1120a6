"""Train mode: told of once per call, and nothing is learned from what a method has the model run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from .._words import warn
from .code import BATCH_NORM, INSTANCE_NORM, in_train_mode, noisy_modules
from .holders import statistics_kept
from .tap import shadowing
from .where import Bound, all_modules


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
    training = noisy_modules(all_modules(bound.root))
    if not training:
        return bound
    _tell(training)
    # In train mode they do not read their statistics either.
    names = {BATCH_NORM: ["track_running_stats"], INSTANCE_NORM: ["running_mean", "running_var"]}
    hidden = [(norm, name, None) for norm in training for kind in names if isinstance(norm, kind) for name in names[kind]]
    return bound._replace(call=partial(shadowing, hidden, bound.call))
