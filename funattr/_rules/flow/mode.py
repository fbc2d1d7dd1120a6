"""The mode under which a model runs: it meets every operation, knows what varies, and puts rules in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodWrapperType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..._core.kernels import unruled
from ..._torch import base_of, tracing, tree_flatten, tree_unflatten
from ..._types import tensors
from ..lift.dispatch import apply
from ..lift.hidden import custom
from ..lift.table import NAMES, SHAPES
from ..lift.tape import among
from ..relu import ReluRule
from ..spelled import Entry
from .facts import UNKNOWN, Event, Fact, Facts, Rules, spot
from .hold import switch
from .operation import Flow, Operation, own

#: What keeps the places of a tensor's elements, and is linear where but one of its tensors varies.
_SUMS = {
    "add",
    "sub",
    "subtract",
    "rsub",
    "__add__",
    "__radd__",
    "__sub__",
    "__rsub__",
    "neg",
    "negative",
    "positive",
    "__neg__",
}


#: ``f(z) / z`` is the derivative, also at 0.
_PROPORTIONAL = {"relu", "leaky_relu", "prelu", "abs", "absolute"}
_LOOKS_UP = {*NAMES["indexed"], "embedding", "embedding_bag"}


Table: TypeAlias = "dict[str, Callable[..., Any]]"


class Ruled(TorchFunctionMode):
    """Puts rules in the place of operations. One for a call of a method: what it met is told at the end."""

    baseline = None  # in-place operations keep what they overwrite
    scales: tuple[Tensor, ...] = ()

    def __init__(self, rules: Rules, table: Table, fired: list[str], unmet: list[str]):
        super().__init__()
        self.rules = rules
        self.table = table
        self.facts = Facts()
        # The caller's lists: an attribute could not be read after the mode exits in a compiled function.
        self.fired = fired  # the kinds of rules that met something
        self.unmet = unmet  # operations without one, which are not linear
        self.name = ""
        self.inputs: list[Tensor] = []
        self.relus = ReluRule(self._relu, [])  # knows one in every spelling
        self.events: list[Event] | None = None  # where somebody asks what goes into an operation, and comes out of it

    def begin(self, args: Any, kwargs: Any) -> None:
        """A new pass: nothing is known but that the model's x varies."""
        self.facts = Facts()
        self.relus.signs.clear()
        for t in tensors((args, kwargs)):
            self.facts[t] = Fact(varies=t.is_floating_point() or t.is_complex(), ids=not t.is_floating_point(), first=True)

    def follow(self, value: Any, other: Any) -> None:
        """`other` goes on in the place of `value`: what is asked about varies, wherever it comes from."""
        for t, new in zip(tensors(value), tensors(other)):
            fact = self.facts[t]
            self.facts[new] = fact._replace(root=None, made=None, varies=fact.varies or new.requires_grad)

    # What is known.

    def varies(self, t: Any) -> bool:
        return isinstance(t, Tensor) and self.facts[t].varies

    def of(self, t: Any) -> Fact:
        return self.facts[t] if isinstance(t, Tensor) else UNKNOWN

    def rooted(self, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The tensor that `t` is an elementwise function of, and that function."""
        fact = self.facts[t]
        return (t, _same) if fact.root is None or fact.made is None else (fact.root, fact.made)

    def source(self, t: Tensor) -> Tensor:
        """`t`, which an operation takes that was given something made of it."""
        if self.events is None:
            return t
        found = t.view_as(t)
        self.facts[found] = self.facts[t]
        self.inputs.append(found)
        return found

    def fixed(self, y: Tensor) -> Tensor:
        """`y`, which a rule has made a constant."""
        self.facts[y] = Fact()
        return y

    def know(self, y: Tensor, *given: Any, **facts: Any) -> Tensor:
        """`y`, of which is known what follows from what it was made of, and `facts`."""
        live = [self.facts[t] for t in among(given) if self.facts[t].varies]
        first = bool(live) and all(fact.first for fact in live)
        self.facts[y] = Fact(**({"varies": bool(live), "first": first} | facts))
        return y

    # The mode.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if type(func) is MethodWrapperType:  # an attribute, such as x.T
            found = unruled(func, args, kwargs)
            if isinstance(found, Tensor) and args and found is not args[0]:
                self.facts[found] = self.of(args[0])._replace(root=None, made=None, linear=None)
            return found
        if "relu" in self.rules.kinds:
            relu = self.relus.seen(func, args, kwargs)
            if relu is not None:
                return relu[0]
        given = list(among((args, tuple(kwargs.values()))))
        if not tracing():
            for t in given:
                self._unseen(t)
        found = apply(self, func, args, kwargs)
        self._note(func, args, kwargs, given, found)
        return found

    def _note(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], found: Any) -> None:
        """What follows for the results of an operation that has noted nothing itself."""
        name = getattr(func, "__name__", "")
        live = [self.facts[t] for t in given if self.facts[t].varies]
        looks_up = not live and any(self.facts[t].ids for t in given) and name.rstrip("_") in _LOOKS_UP | {"embedding"}
        for y in given[:1] if func is Tensor.__setitem__ else among((found,)):
            old = any(y is t for t in given)
            if not old and self.facts[y] is not UNKNOWN:
                continue  # its handler knew more
            if not (y.is_floating_point() or y.is_complex()):
                self.facts[y] = Fact(ids=func in SHAPES and any(self.facts[t].ids for t in given))
            elif live or looks_up:
                fact = Fact(True, first=not looks_up and all(fact.first for fact in live))
                if func in SHAPES and len(live) == 1:
                    fact = fact._replace(activated=live[0].activated)
                elif name in _SUMS and not old and not kwargs:
                    fact = self.elementwise(y, func, args, fact)
                self.facts[y] = fact
                if looks_up and self.events is not None and y.requires_grad:
                    self.events.append(Event(name, [], [spot(y)]))  # ids are no input: it keeps what comes to it
                if old:
                    self._wrote(y)

    def _unseen(self, t: Tensor) -> None:
        """Notes what no mode is told of, by the mark that it left on its result."""
        name = None if t.grad_fn is None else custom(t.grad_fn)
        if name is not None:
            self.unmet.append(name)
            if self.facts[t] is UNKNOWN:
                self.facts[t] = Fact(varies=True)

    def elementwise(self, y: Tensor, func: Any, args: Any, fact: Fact) -> Fact:
        """`fact` of an elementwise function of all that varies among `args`, with the one tensor that it is a function of."""
        rooted = [self.rooted(t) if self.varies(t) else None for t in args]
        roots = [found[0] for found in rooted if found is not None]
        if not roots or any(root is not roots[0] for root in roots) or y.shape != roots[0].shape:
            return fact

        def made(t: Tensor) -> Tensor:
            parts = [arg if found is None else found[1](t) for arg, found in zip(args, rooted)]
            return func(*parts)  # type: ignore[no-any-return]

        return fact._replace(root=roots[0], made=made)

    # What dispatch asks for.

    def rule_of(self, entry: Entry) -> Callable[..., Any]:
        self.name = entry.name
        handler = self.table.get(entry.name, other)
        return handler if self.events is None or hasattr(handler, "apart") else partial(_measured, handler)

    def probed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A linear operation whose inputs and outputs are noted."""
        x = args[0] if args else None
        name = getattr(func, "__name__", repr(func))
        in_place = name.startswith("__i") or name == "__setitem__" or (name.endswith("_") and not name.startswith("_"))
        if in_place and isinstance(x, Tensor) and self.varies(x):
            before = x.clone()  # what is overwritten, as something that nothing else reads
            x.copy_(before)
            inputs, rest = self.taken(args[1:], kwargs)
            found = func(x, *rest[0], **rest[1])
            self.came(name.strip("_"), [before, *inputs], x if func is Tensor.__setitem__ else found)
            return found
        inputs, rest = self.taken(args, kwargs)
        found = func(*rest[0], **rest[1])
        self.came(name.strip("_"), inputs, found)
        return found

    def taken(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Any]:
        """Aliases of what varies among the arguments, each for one operation alone, and the arguments with these."""
        inputs: list[Tensor] = []

        def alias(t: Any) -> Any:
            if not (isinstance(t, Tensor) and self.varies(t)):
                return t
            found = t.view_as(t)
            root, made = self.rooted(t)
            fact = self.facts[t]._replace(root=root, made=made)
            self.facts[found] = fact
            if fact.linear is not None and fact.linear.output is t:
                self.facts[found] = fact._replace(linear=fact.linear._replace(output=found))
            inputs.append(found)
            return found

        leaves, spec = tree_flatten((args, kwargs))
        return inputs, tree_unflatten([alias(t) for t in leaves], spec)

    def came(self, name: str, inputs: list[Tensor], found: Any) -> None:
        live = [t for t in among((found,)) if self.facts[t] is UNKNOWN or self.varies(t)]  # not what a rule has made a constant
        outputs = [t for t in live if t.requires_grad and t.is_floating_point()]
        if self.events is not None and inputs and outputs:
            inputs = [t for t in inputs if t.requires_grad]
            self.events.append(Event(name, [spot(t) for t in inputs], [spot(t) for t in outputs]))

    def copied(self, x: Tensor) -> Tensor:
        found = x.clone()
        self.facts[found] = self.facts[x]._replace(root=None, made=None, linear=None)
        return found

    def written(self, x: Tensor, y: Tensor) -> Tensor:
        fact = self.facts[y]
        found = x.copy_(y)
        self.facts[x] = fact._replace(root=None, made=None, linear=None)
        if fact.varies:
            self._wrote(x)
        return found

    def _wrote(self, y: Tensor) -> None:
        """What `y` is a view of varies too."""
        base = base_of(y)
        if base is not None:
            self.facts[base] = Fact(varies=True)

    def unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that the table does not have: its own gradient, and not known to be linear."""
        found = func(*args, **kwargs) if self.events is None else self.probed(func, args, kwargs)
        if any(map(self.varies, among((args, tuple(kwargs.values()))))) and any(t.is_floating_point() for t in among((found,))):
            self.unmet.append(getattr(func, "__name__", repr(func)))
        return found

    # Rules.

    def ruled(self, met: tuple[str, Any] | None, op: Operation, later: bool = False) -> Tensor:
        """The value of an operation, with what its rule makes of its gradient; `later`, in the backward pass, if one comes."""
        if met is None:
            return op.output
        self.fired.append(met[0])
        rule = met[1]
        if not isinstance(rule, Flow) or (later and rule.remakes and not tracing()):
            return own(rule, op)
        plain = rule.plain or (rule.name == "activation" and op.name in _PROPORTIONAL)
        return op.output if plain else switch(op.output, rule.flow(op))

    def _relu(self, x: Tensor, in_place: bool) -> Tensor:
        rule = self.rules.kinds["relu"]
        self.fired.append("relu")
        ready = getattr(rule, "relu", None)
        if ready is not None:
            y: Tensor = ready(x, in_place)
        elif isinstance(rule, Flow) and rule.plain:
            y = torch.relu_(x) if in_place else torch.relu(x)
        else:
            z = x.clone() if in_place else x
            y = torch.relu(z)
            op = Operation("relu", torch.relu, (z,), y)
            y = switch(y, rule.flow(op)) if isinstance(rule, Flow) else own(rule, op)
            if in_place:
                return self.written(x, self.know(y, z, activated=True))
        return self.know(y, x, activated=True)


def _measured(handler: Callable[..., Any], mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
    name, fired = mode.name, len(mode.fired)
    mode.inputs, rest = mode.taken(args, kwargs)
    found = handler(mode, func, *rest[0], **rest[1])
    mode.came(mode.fired[-1] if len(mode.fired) > fired else name, mode.inputs, found)
    return found


def _same(t: Tensor) -> Tensor:
    return t


def other(mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation whose gradient is its own, whatever the rules."""
    return func(*args, **kwargs)
