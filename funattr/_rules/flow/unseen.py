"""What a model does to its own values or gradients behind the graph's back: no rule sees it, and relevance loses its sum."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._core.checks import may_read
from ..._core.written import WRITES
from ..._torch import is_plain, plain_data, times_written, tracing
from ..._words import warn
from .facts import Facts

_SETS: Any = Tensor.data.__set__  # type: ignore[attr-defined]  # a property of the class, to stubs a tensor
_READS: set[Any] = {Tensor.numpy, Tensor.__array__}
_WRITES = {*WRITES, _SETS, *(getattr(torch, name) for name in dir(torch) if name.endswith("_") and name[-2] != "_")}
_MET = {*_READS, *_WRITES, Tensor.register_hook}


class Unseen:
    """One for a mode, which says each thing once. `tells` is whether the rules are for all that a model does."""

    def __init__(self, tells: bool) -> None:
        self.tells = tells
        self.told: set[str] = set()
        self.lent: list[tuple[Tensor, Tensor, int]] = []  # to numpy: with copies, and how often they were written to

    def begin(self) -> None:
        """A pass is over: what numpy wrote shows."""
        for t, before, times in self.lent:
            if times_written(t) == times and not torch.equal(t, before):
                self._tell("numpy")
        self.lent = []

    def met(self, facts: Facts, func: Any, args: Any) -> Any:
        """The arguments of an operation about to run; hooks on gradients say when they change one."""
        if not self.tells or tracing() or func not in _MET or not args or not facts[args[0]].varies:
            return args
        t, sets = args[0], func == _SETS  # which is another one each time
        if func is Tensor.register_hook:
            return (t, partial(self._hooked, args[1]), *args[2:])
        if func in _READS:
            self.lent += [(t, t.detach().clone(), times_written(t))] if may_read() and is_plain(t) else []
        elif (sets or not (t.requires_grad and torch.is_grad_enabled())) and _in_graph(t, facts):
            self._tell("data" if sets else func.__name__)
        return args

    def _hooked(self, hook: Any, gradient: Tensor) -> Any:
        found = hook(gradient)
        if isinstance(found, Tensor) and found is not gradient and may_read() and not torch.equal(found, gradient):
            self._tell("register_hook")
        return found

    def _tell(self, name: str) -> None:
        if name not in self.told:
            self.told.add(name)
            what = "changes gradients" if name == "register_hook" else "writes to values behind the graph's back"
            text = f"the model {what} ({name}), which no rule sees, and no gradient: relevance does not sum to the score."
            warn(f"{text} feature_ablation sees all that the model does.")


def _in_graph(t: Tensor, facts: Facts) -> bool:
    """Whether a graph knows the memory of `t`, by whatever name."""
    others = [
        u for u in (ref() for ref, fact in list(facts.known.values()) if fact.varies) if u is not None and u.requires_grad
    ]
    memory = _memory(t)
    return memory is not None and any(_memory(u) == memory for u in others)


def _memory(t: Tensor) -> int | None:
    t = plain_data(t)
    return t.untyped_storage().data_ptr() if is_plain(t) and t.layout is torch.strided else None
