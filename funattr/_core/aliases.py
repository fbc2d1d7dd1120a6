"""What a layer returned, and the model writes to under another name than that of what stands for it (its input, a view)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._types import copied, tensors
from .._words import warn
from .checks import anywhere
from .state import here
from .tap import Run, Site


def tell_of_writes(sites: Sequence[Site], passed: Callable[[Run], Any]) -> None:
    """Warn, once in a call, where such a write reaches the model's output: then it is another with copies at the sites."""
    asked = tuple((id(site.layer), site.inputs, site.call) for site in sites)
    if asked in here.looked:
        return
    here.looked = here.looked | {asked}
    with torch.no_grad():
        plain, of_copies = (tensors(passed(Run(sites, put))) for put in (_kept, _copied))
    if any(anywhere(t != other) for t, other in zip(plain, of_copies)):
        layers = " or ".join(dict.fromkeys(site.label for site in sites))
        text = f"the model writes to what layer {layers} returned under another name (its input, a view of it, what it keeps)"
        warn(f"{text}, which does not reach what is put there: attributions leave this write out. Choose a layer after it.")


def _kept(i: int, value: Any, shared: bool) -> Any:
    return value


def _copied(i: int, value: Any, shared: bool) -> Any:
    return copied(value)
