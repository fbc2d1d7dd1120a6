"""What passes show that are made once more, where something is not as it was: whether it matters to what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .._torch import is_plain, must_rise, plain_data
from .._types import Tree, as_arguments, copied, tensors
from .._words import warn
from .checks import same
from .code import Words
from .here import here
from .kept import observed
from .repeated import Notes
from .tap import Run, Site
from .where import bind


def tell_of_writes(sites: Sequence[Site], passed: Callable[[Run], Any]) -> None:
    """The model has written to what layers returned, or to what stands for that, and each has another name (its input, a view).
    Warn, once in a call, where that reaches its output, which is another with copies at the sites then."""
    asked = tuple((id(site.layer), site.inputs, site.call) for site in sites)
    if asked in here.looked:
        return
    here.looked = here.looked | {asked}
    plain, of_copies = (tensors(passed(Run(sites, put))) for put in (_kept, _copied))
    if _differ(plain, of_copies):
        layers = " or ".join(dict.fromkeys(site.label for site in sites))
        text = (
            f"the model writes to what layer {layers} returned, which has other names (its input, a view of it, what it keeps)"
        )
        warn(f"{text}: between these and what is put there, no write gets through. Choose a layer after it.")


def _differ(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two passes returned something else, as far as that can be seen."""
    return any(is_plain(plain_data(t)) and not same(t, other) for t, other in zip(some, others))


def _kept(i: int, value: Any, shared: bool) -> Any:
    return value


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
    now = Notes(notes.code)
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
