"""Train mode: told of once per call, and nothing is learned from what a method has the model run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from torch import nn

from .._torch import tracing
from .._words import warn
from .holders import statistics_kept
from .tap import shadowing
from .where import Bound, all_modules

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _in_train_mode(module: nn.Module) -> str | None:
    if isinstance(module, _BATCH_NORM) or (isinstance(module, _INSTANCE_NORM) and module.track_running_stats):
        return "batch norm"
    if isinstance(module, _DROPOUT) and module.p > 0:
        return "dropout"
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and module.dropout > 0:
        return "dropout"
    return "random slopes" if isinstance(module, nn.RReLU) else None


def noisy_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules in train mode whose result depends on the batch or on chance."""
    # A frozen ScriptModule has no such attribute.
    return [module for module in modules if getattr(module, "training", False) and _in_train_mode(module)]


def _tell(training: Sequence[nn.Module]) -> None:
    what = " and ".join(sorted({_in_train_mode(module) or "" for module in training}))
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
    training = noisy_modules(all_modules(bound.root)) if tracing() else []
    if not training:
        return bound
    _tell(training)
    # In train mode they do not read their statistics either.
    names = {_BATCH_NORM: ["track_running_stats"], _INSTANCE_NORM: ["running_mean", "running_var"]}
    hidden = [(norm, name, None) for norm in training for kind in names if isinstance(norm, kind) for name in names[kind]]
    return bound._replace(call=partial(shadowing, hidden, bound.call))
