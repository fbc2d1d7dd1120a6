"""What is known of the tensors of a pass: where they come from, as far as rules ask for it; and what a model does to them
behind the graph's back, where no rule sees it, and relevance loses its sum.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from ..._core.checks import may_read
from ..._core.written import WRITES
from ..._torch import (
    as_recorded,
    base_of,
    depth,
    depth_traced,
    edge_of,
    is_plain,
    nodes_before,
    plain_data,
    times_written,
    tracing,
)
from ..._words import warn
from ..lift.complete import custom
from ..lift.origins import constant
from .operation import same

Chain = tuple[tuple[Tensor, Callable[[Tensor], Tensor]], ...]


class Fact(NamedTuple):
    """What a rule may want to know of a tensor."""

    varies: bool = False  # depends on the model's x through floats
    ids: bool = False  # integers of x as they are
    first: bool = False  # x, before any linear operation
    activated: bool = False  # came out of an activation
    root: Tensor | None = None  # the tensor that it is an elementwise function of
    made: Callable[[Tensor], Tensor] | None = None  # that function
    shifted: bool = False  # a constant was added last: `f(z) / z` of it is another than of what that was added to
    nearer: Chain = ()  # tensors after its root that were shifted, the nearest first, and what it is as a function of them
    linear: Any = None  # the linear operation that it came out of

    def rooted(self, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The tensor that `t`, which this is known of, is an elementwise function of, and that function."""
        return (t, same) if self.root is None or self.made is None else (self.root, self.made)

    def near(self, t: Tensor) -> Chain:
        """The same of all that was shifted after it, `t` among them."""
        return ((t, same), *self.nearer) if self.shifted else self.nearer

    def apart(self) -> Fact:
        """That of another tensor, which is made of nothing."""
        return self._replace(root=None, made=None, shifted=False, nearer=(), linear=None)


UNKNOWN = Fact()


def elementwise(y: Tensor, func: Callable[..., Tensor], args: Any, facts: list[Fact | None], fact: Fact) -> Fact:
    """`fact` of an elementwise function of `args`, of some of which something is known, with what it is a function of."""
    given = [(i, known) for i, known in enumerate(facts) if known is not None]

    def along(chain: list[tuple[Tensor, Callable[[Tensor], Tensor]]]) -> Callable[[Tensor], Tensor]:
        def made(t: Tensor) -> Tensor:
            parts = list(args)
            for (i, _), (_, f) in zip(given, chain):
                parts[i] = f(t)
            return func(*parts)

        return made

    roots = [known.rooted(args[i]) for i, known in given]
    root = roots[0][0] if roots else y
    if not roots or y.shape != root.shape or any(other is not root for other, _ in roots):
        return fact
    first, *others = [known.near(args[i]) for i, known in given]
    nearer = []
    for t, f in first:
        same_in = [next((pair for pair in other if pair[0] is t), None) for other in others]
        if y.shape == t.shape and None not in same_in:
            nearer.append((t, along([(t, f), *[pair for pair in same_in if pair is not None]])))
    return fact._replace(root=root, made=along(roots), nearer=tuple(nearer))


UNSEEN = "code that no rule sees (scripted, from C++, inside torch.func)"


def made_unseen(t: Tensor, fact: Fact, starts: set[Any], level: Any) -> str | None:
    """What to call what made `t`, where no mode was told: a function of somebody's own, by the mark that it leaves, or whatever
    made what comes from the `starts` of all that varies, and is not known to; what is made of parameters does not.

    `level` is that of the transforms around the pass: what the model runs below its own is left alone. Where Dynamo traces,
    what has a gradient is no parameter, and was made by nothing that was met, comes from there.
    """
    if tracing():
        hidden = fact is UNKNOWN and t.requires_grad and not (constant(t) or t.is_leaf) and depth_traced() == level
        return UNSEEN if hidden else None
    t = as_recorded(t) if level else t
    if t.grad_fn is None:
        return None
    name = custom(t.grad_fn)
    if name is not None or fact is not UNKNOWN or depth() != level:
        return name
    return None if starts.isdisjoint(nodes_before([t.grad_fn], starts)) else UNSEEN


class Facts:
    """Facts by tensor, for one pass."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Fact]] = {}

    def __getitem__(self, t: Tensor) -> Fact:
        found = self.known.get(id(t))
        return UNKNOWN if found is None or found[0]() is not t else found[1]

    def __setitem__(self, t: Tensor, fact: Fact) -> None:
        self.known[id(t)] = (weakref.ref(t), fact)

    def sharing(self, t: Tensor) -> list[Tensor]:
        """All that is known and has the memory of `t`, by whatever name: below transforms no view says of what it is one."""
        others, memory = [u for u in (ref() for ref, _ in list(self.known.values())) if u is not None], _memory(t)
        return [] if memory is None else [u for u in others if u is not t and _memory(u) == memory]


class Traced(Facts):
    """The same where Dynamo traces, which knows neither ids nor weak references."""

    def __init__(self) -> None:
        self.facts: list[tuple[Tensor, Fact]] = []

    def __getitem__(self, t: Tensor) -> Fact:
        return next((fact for other, fact in reversed(self.facts) if other is t), UNKNOWN)

    def __setitem__(self, t: Tensor, fact: Fact) -> None:
        self.facts.append((t, fact))


class Spot(NamedTuple):
    """A tensor as it was: its place in the graph, and its value, whatever is written to it later."""

    place: Any
    value: Tensor
    alias: Any  # what keeps the place: before torch 2.5 a node that was made in Python does not


def spot(t: Tensor) -> Spot:
    with torch.enable_grad():
        alias = t.view_as(t) if isinstance(t.grad_fn, BackwardCFunction) else t
    return Spot(edge_of(t), t.detach().clone(), alias.grad_fn)


class Event(NamedTuple):
    """One run of an operation: what went in, and what came out."""

    name: str
    inputs: list[Spot]
    outputs: list[Spot]


# What a model does behind the graph's back.

_DATA: Any = Tensor.data  # a property of the class, to stubs a tensor
_SETS = _DATA.__set__
_READS: set[Any] = {Tensor.numpy, Tensor.__array__}
_WRITES = {*WRITES, _SETS, *(getattr(torch, name) for name in dir(torch) if name.endswith("_") and name[-2] != "_")}
_MET = {*_READS, *_WRITES, Tensor.register_hook}


class Unseen:
    """One for a mode, which says each thing once. `tells` is whether the rules are for all that a model does, `first` whether
    there is one for the first layer."""

    def __init__(self, tells: bool, first: bool) -> None:
        self.tells, self.first = tells, first
        self.linear = False  # whether a linear operation has been met in this pass
        self.told: set[str] = set()
        self.lent: list[tuple[Tensor, Tensor, int]] = []  # to numpy: with copies, and how often they were written to

    def begin(self) -> None:
        """A pass is over: what numpy wrote shows."""
        for t, before, times in self.lent:
            if times_written(t) == times and not torch.equal(t, before):
                self._tell("numpy")
        self.lent = []
        self.linear = False

    def behind(self, name: str, t: Tensor, fact: Fact, facts: Facts) -> Fact:
        """What is known of what `name` made, of which no mode was told. What an autograd.Function runs inside is met, and what
        it returns as it came is a view of that."""
        base = None if fact is not UNKNOWN or tracing() else base_of(t)
        found = Fact(varies=True, first=(fact if base is None else facts[base]).first)
        if self.first and not (found.first or self.linear or name in self.told):
            self.told.add(name)
            text = f"{name} stands before all layers that rules meet, and may hold the first"
            warn(f"{text}: the rule for 'first' is for none of them.")
        return found

    def met(self, facts: Facts, func: Any, args: Any) -> Any:
        """The arguments of an operation about to run; hooks on gradients say when they change one."""
        if not self.tells or tracing() or func not in _MET or not args or not facts[args[0]].varies:
            return args
        t, sets = args[0], func == _SETS  # which is another one each time
        if func is Tensor.register_hook:
            return (t, partial(self._hooked, args[1]), *args[2:])
        if func in _READS:
            self.lent += [(t, t.detach().clone(), times_written(t))] if may_read() and is_plain(t) else []
        elif (sets or not (as_recorded(t).requires_grad and torch.is_grad_enabled())) and _in_graph(t, facts):
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
    """Whether a graph knows the memory of `t`."""
    return any(facts[u].varies and as_recorded(u).requires_grad for u in (t, *facts.sharing(t)))


def _memory(t: Tensor) -> int | None:
    t = plain_data(t)
    return t.untyped_storage().data_ptr() if is_plain(t) and t.layout is torch.strided else None
