"""What passes show that are made once more, where something is not as it was: whether it matters to what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import is_plain, must_rise, plain_data
from .._types import Tree, as_arguments, copied, map_tensors, tensors
from .._words import warn
from .checks import same
from .code import Words
from .here import here
from .kept import observed
from .repeated import Notes
from .tap import Run, Site
from .where import bind


def tell_of_writes(sites: Sequence[Site], passed: Callable[[Run], Any], written: bool, apart: bool) -> None:
    """The model has `written` to what layers returned, or to what stands for that, and each has another name (its input, a
    view); or a layer has, in place, and what is put there is not for those who hold its input (`apart`). Warn, once in a call,
    where that reaches the output: it is another with copies at the sites, or with other values that all see or some alone."""
    asked = (written, apart, *((id(site.layer), site.inputs, site.call) for site in sites))
    if asked in here.looked:
        return
    here.looked = here.looked | {asked}
    layers = " or ".join(dict.fromkeys(site.label for site in sites))
    if written and _differ(*(tensors(passed(Run(sites, put))) for put in (_kept, _copied))):
        text = f"the model writes to what layer {layers} returned, which has other names (its input, a view, what it keeps)"
        warn(f"{text}: between these and what is put there, no write gets through. Choose a layer after it.")
    if apart:
        with torch.no_grad():  # no graph needs what is there
            differs = _differ(*(tensors(passed(run)) for run in (Run(sites, _other), _Apart(sites, _other))))
        if differs:
            warn(
                f"what layer {layers} writes to is read under its old name, which is left out where a graph is kept: let the "
                f"model go on with what the layer returns, h = layer(h)."
            )


class _Apart(Run):
    """What is put in the place of what a layer writes to is for those alone who go on with what the layer returns."""

    def _share(self, theirs: list[Tensor], t: Any, new: Any) -> Any:
        return new


def _differ(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two passes returned something else, as far as that can be seen."""
    return any(is_plain(plain_data(t)) and not same(t, other) for t, other in zip(some, others))


def _kept(i: int, value: Any, shared: bool) -> Any:
    return value


def _other(i: int, value: Any, shared: bool) -> Any:
    return map_tensors(lambda t: 2 * t + 1 if t.is_floating_point() else t, value)


def _copied(i: int, value: Any, shared: bool) -> Any:
    return copied(value)


#: What gives another number in each pass, and leaves nothing that could be looked at.
_DRAWN = Words(rule=lambda names: bool(names & {"urandom", "getrandom", "token_bytes", "randbits", "SystemRandom", "uuid4"}))


def tell_of_notes(notes: Notes, modules: Sequence[nn.Module], model: Any, x: Tree) -> None:
    """Warn where the passes of a call were of different functions: two of the model, one after the other, are."""
    names = dict.fromkeys(map(repr, notes.changed()))
    drawn = _DRAWN.in_modules(modules) or (not isinstance(model, nn.Module) and _DRAWN.in_function(model))
    if not (names or drawn):
        return
    now = Notes(notes.code, notes.put_on)
    args, kwargs = as_arguments(x)
    try:
        found, again = (tensors(observed(bind(model).call, copied(args), copied(kwargs), Run((), _kept))) for _ in range(2))
        differs = _differ(found, again)
    except Exception as error:  # it does not run any more: an iterator has come to its end
        if must_rise(error):
            raise
        differs = True
    now.back()
    if differs:
        what = f"passes leave in {' and '.join(names)}" if names else "the system draws"
        text = f"the model goes on from what {what}, so that the passes of this call were of different functions"
        warn(f"{text}. What it keeps in an attribute or a buffer of a module is put back after each pass.")
