"""The mode that notes what goes into each operation, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._torch import base_of
from ..._types import map_leaves
from ..lift.origins import among, is_cut, parts, those_taken
from ..spelled import Entry, counterpart, dropout_off
from .facts import UNKNOWN, Event, Fact, Unseen, spot
from .given import Chosen
from .mode import Ruled, Table


class Measured(Ruled):
    """Rules, and a note of each operation, whose inputs are aliases for it alone: so they have gradients of their own."""

    def __init__(self, rules: Chosen, table: Table, fired: list[str], unmet: list[str], events: list[Event]):
        super().__init__(rules, table, fired, unmet)
        self.unseen = Unseen(True, "first" in rules.kinds)  # it is all to sum to the score, whatever the rules are for
        self.events: list[Event] = events
        self.inputs: list[Tensor] = []
        self.hidden: list[str] = []  # what was met by nobody, and noted in no event

    def _met(self, t: Tensor) -> Fact:
        count = len(self.unmet)
        fact = super()._met(t)
        self.hidden += self.unmet[count:]
        return fact

    def source(self, t: Tensor) -> Tensor:
        """`t`, which an operation takes that was given something made of it."""
        found = _alias(t)
        self.facts[found] = self.facts[t]
        self.inputs.append(found)
        return found

    def result(self, func: Any, args: Any, kwargs: Any, facts: list[Fact], y: Tensor) -> Fact:
        found = super().result(func, args, kwargs, facts, y)
        if found.varies and y.requires_grad and not any(fact.varies for fact in facts):
            self.events.append(Event(counterpart(func).__name__, [], [spot(y)]))  # ids are no input: it keeps what comes to it
        return found

    def rule_of(self, entry: Entry) -> Callable[..., Any]:
        return partial(_measured, super().rule_of(entry))

    def probed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A linear operation whose inputs and outputs are noted."""
        x = args[0] if args else None
        name = getattr(counterpart(func), "__name__", repr(func))  # add_ of an exported graph is torch.ops.aten.add_.Tensor
        in_place = name.startswith("__i") or name == "__setitem__" or (name.endswith("_") and not name.startswith("_"))
        if in_place and dropout_off(func, args, kwargs):
            return func(*args, **kwargs)
        if in_place and isinstance(x, Tensor) and (self.varies(x) or base_of(x) is not None):
            return self._over(name.strip("_"), func, x, args[1:], kwargs)
        inputs, rest = self.taken(args, kwargs)
        found = func(*rest[0], **rest[1])
        given = those_taken(counterpart(func), among((*args, *kwargs.values())))
        made = parts(func, given, among((x if func is Tensor.__setitem__ else found,)))
        # Not what is made like something that varies, or beside it.
        self.came(name.strip("_"), inputs, [t for some, own in made if any(map(self.varies, some)) for t in own])
        return found

    def _over(self, name: str, func: Any, x: Tensor, args: Any, kwargs: Any) -> Any:
        """What writes to something that varies, or to a view."""
        before = [x.clone()] if self.varies(x) else []  # what is overwritten, as something that nothing else reads
        made = x if base_of(x) is None else (*before, x)[0].clone()  # a view that is written to leaves its place in the graph
        if made is x:  # of a view, what is written may be another one, which would be made of `before` too
            for old in before:
                x.copy_(old)
        inputs, rest = self.taken(args, kwargs)
        found = func(made, *rest[0], **rest[1])
        self.came(name, [*before, *inputs], made)
        if made is x:
            return found
        self._put(name, x, made)
        return x if found is made else found

    def written(self, x: Tensor, y: Tensor) -> Tensor:
        return self._put(self.name, x, y, super().written)

    def _put(self, name: str, x: Tensor, y: Tensor, put: Callable[[Tensor, Tensor], Tensor] = Tensor.copy_) -> Tensor:
        """Writes y to x: of a view of a constant, what lies beside x is a part of what varies from here on."""
        base = base_of(x)
        # Made of parameters, it may require a gradient; cut off, it varies, and has none.
        constant = base is not None and not (base.requires_grad and self.varies(base))
        found = put(x, y)
        if constant and y.requires_grad:
            self.came(name, [y], base)
        return found

    def _relu(self, x: Tensor, in_place: bool) -> Tensor:
        self.name = "relu"
        inputs, ((z,), _) = self.taken((self.copied(x) if in_place else x,), {})
        y = super()._relu(z, False)
        self.came("relu", inputs, y)
        return self.written(x, y) if in_place else y

    def taken(self, args: Any, kwargs: Any) -> tuple[list[Tensor], Any]:
        """Aliases of what varies among the arguments, each for one operation alone, and the arguments with these."""
        inputs: list[Tensor] = []

        def alias(t: Any) -> Any:
            if not (isinstance(t, Tensor) and self.varies(t)):
                return t
            fact = self.facts[t]
            root, made = fact.rooted(t)
            inputs.append(self.stands(t, _alias(t), root=root, made=made, shifted=False, nearer=fact.near(t)))
            return inputs[-1]

        return inputs, map_leaves(alias, (args, kwargs))

    def stands(self, t: Tensor, found: Tensor, **facts: Any) -> Tensor:
        """`found`, which goes on in the place of `t`: what is known of that is known of it, and `facts`."""
        if self.facts[t] is UNKNOWN:  # nothing is noted yet
            return found
        fact = self.facts[t]._replace(**facts)
        linear = fact.linear if fact.linear is None or fact.linear.output is not t else fact.linear._replace(output=found)
        self.facts[found] = fact._replace(linear=linear)
        return found

    def came(self, name: str, inputs: list[Tensor], found: Any) -> None:
        outputs = [t for t in among((found,)) if not is_cut(t) and (t.is_floating_point() or t.is_complex())]
        if inputs and outputs:
            inputs = [t for t in inputs if t.requires_grad]
            self.events.append(Event(name, [spot(t) for t in inputs], [spot(t) for t in outputs]))


def _measured(handler: Callable[..., Any], mode: Measured, func: Any, *args: Any, **kwargs: Any) -> Any:
    if func is Tensor.__setitem__:  # it returns nothing, and what is written may be a constant
        return mode.probed(func, args, kwargs)
    name, fired, noted = mode.name, len(mode.fired), len(mode.events)
    mode.inputs, rest = mode.taken(args, kwargs)
    found = handler(mode, func, *rest[0], **rest[1])
    base = base_of(found) if isinstance(found, Tensor) else None
    if base is not None and not any(base is t or base is base_of(t) for t in mode.inputs):
        # It is a view only because of how it is made, and writing to it would leave the place that was noted.
        found = mode.stands(found, found.clone())
    if len(mode.events) == noted:  # else what it is made of was met by itself
        live = [t for t in among((found,)) if mode.facts[t] is UNKNOWN or mode.varies(t)]  # not what a rule has made a constant
        mode.came(mode.fired[-1] if len(mode.fired) > fired else name, mode.inputs, live)
    return found


def _alias(t: Tensor) -> Tensor:
    """`t` with a place of its own in the graph; what an autograd.Function has returned a view of gives its views none."""
    found = t[...] if t.layout is torch.strided else t.clone()  # with its strides, or torch refuses to write it to itself
    return found if found.grad_fn is not None or not t.requires_grad else t.clone()
