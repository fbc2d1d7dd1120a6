"""The mode under which a model runs: it meets every operation, knows what varies, and puts rules in their place."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodWrapperType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..._core.plain import unruled
from ..._torch import as_recorded, base_of, depth, depth_traced, edge_of, tracing
from ..._types import map_leaves, tensors
from ..lift.dispatch import GRADIENTS, apply, bent, known
from ..lift.origins import among, parts, those_taken
from ..lift.table import ENTRIES, NAMES, PLAIN, SHAPES, is_chosen
from ..relu import ReluRule, in_place
from ..spelled import Entry, called, counterpart, name_in_torch, named
from .facts import UNKNOWN, Event, Fact, Facts, Traced, Unseen, elementwise, made_unseen
from .given import Chosen, check_weighted
from .operation import Flow, Operation, Scale, whole
from .own import own

#: What keeps the places of a tensor's elements, and is linear where but one of its tensors varies.
_SUMS = {"add", "sub", "rsub", "neg", "positive"}
_ACTIVATIONS = {*NAMES["exact"], *NAMES["smooth"], *NAMES["clamp"]}
_LOOKS_UP = {name + end for name in (*NAMES["indexed"], "embedding", "embedding_bag") for end in ("", "_")}
#: What may come between a linear operation and the batch norm that is merged into it.
_BEFORE_NORMS = {"batch_norm", "dim", "size", "numel", "stride", "is_contiguous", "register_hook", "__get__"}
Table: TypeAlias = "dict[str, Callable[..., Any]]"


class Ruled(TorchFunctionMode):
    """Puts rules in the place of operations. One for a call of a method: what it met is told at the end."""

    baseline = None  # in-place operations keep what they overwrite
    scales: tuple[Tensor, ...] = ()
    events: list[Event] | None = None  # where somebody asks what goes into an operation, and comes out of it

    def __init__(self, rules: Chosen, table: Table, fired: list[str], unmet: list[str]):
        super().__init__()
        self.rules = rules
        self.table = table
        self.starts: set[Any] = set()  # of the graph, where what varies begins
        self.facts, self.unseen = Facts(), Unseen("activation" in rules.kinds, "first" in rules.kinds)
        # The caller's lists: an attribute could not be read after the mode exits in a compiled function.
        self.fired = fired  # the kinds of rules that met something
        self.unmet = unmet  # operations without one, which are not linear
        self.anew: list[bool] = []  # for each site whose value did not vary before it was asked about
        self.name, self.count = "", 0  # of the operation, and how many were met
        self.level: Any = 0  # of transforms around a pass
        self.below = False  # whether there are any, and Dynamo does not trace
        self.late: list[tuple[Tensor, Tensor]] = []
        self.scale: Scale | None = None  # of the rule that was put last
        self.relus = ReluRule(self._relu, [], [])  # knows one in every spelling

    def begin(self, args: Any, kwargs: Any) -> None:
        """A new pass: nothing is known but that the model's x varies."""
        self.facts = Traced() if tracing() else Facts()
        self.level = depth_traced() if tracing() else depth()
        self.below = not tracing() and self.level > 0
        self.relus.signs.clear()
        self.relus.copies.clear()
        self.unseen.begin()
        given = tensors((args, kwargs))
        self.starts = set() if tracing() else {edge_of(t).node for t in map(as_recorded, given) if t.requires_grad}
        for t in given:
            self.facts[t] = Fact(varies=t.is_floating_point() or t.is_complex(), ids=not t.is_floating_point(), first=True)

    def follow(self, value: Any, other: Any) -> None:
        """`other` goes on in the place of `value`: what is asked about varies, wherever it comes from."""
        for t, new in zip(tensors(value), tensors(other)):
            fact, leaf = self.facts[t], new if tracing() else as_recorded(new)
            self.unseen.linear |= not fact.first
            self.anew += [True] if leaf.requires_grad and not fact.varies else []
            self.facts[new] = fact.apart()._replace(linear=fact.linear, varies=fact.varies or leaf.requires_grad)
            self.starts |= {edge_of(leaf).node} if leaf.requires_grad and not tracing() else set()

    def end(self, output: Any) -> None:
        """The pass is over: no operation is given its output."""
        list(map(self._met, tensors(output)))

    # What is known.

    def varies(self, t: Any) -> bool:
        return isinstance(t, Tensor) and self.facts[t].varies

    def shared(self, x: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None:
        """The nearest tensor that both are elementwise functions of, and these functions."""
        (fact, other), found = (self.facts[x], self.facts[y]), None
        (a, made), (b, others) = fact.rooted(x), other.rooted(y)
        if a is b:
            found = next(((t, f, g) for t, f in fact.near(x) for u, g in other.near(y) if t is u), (a, made, others))
        return found

    def source(self, t: Tensor) -> Tensor:
        """`t`, which an operation takes that was given something made of it."""
        return t

    def know(self, y: Tensor, *given: Any, **facts: Any) -> Tensor:
        """`y`, of which is known what follows from what it was made of, and `facts`; of nothing, it is a constant."""
        live = [fact for fact in [self.facts[t] for t in given if isinstance(t, Tensor)] if fact.varies]
        found = Fact(bool(live), first=bool(live) and all(fact.first for fact in live))
        self.facts[y] = found._replace(**facts) if facts else found
        return y

    # The mode.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.unseen.met(self.facts, func, args), kwargs or {}
        if type(func) is MethodWrapperType:
            return self._attribute(func, args, kwargs)
        own = self._own(func) if self.rules.named else None
        given = among((*args, *kwargs.values()))
        facts, left = [self._before(func, t) for t in given], False
        if self.late:
            return self._again(func, types, args, kwargs)
        if own is None and "relu" in self.rules.kinds and (relu := self.relus.seen(func, args, kwargs)) is not None:
            return relu[0]
        if not tracing():
            idle = not any(fact.varies or fact.ids for fact in facts) and func not in GRADIENTS
            left = idle or (own is None and self.events is None and (func in PLAIN or self._left(func, args, kwargs)))
        self.count = count = self.count + 1
        copied, self.relus.copied = self.relus.copied, None
        found = self.relus.made(func(*args, **kwargs) if left else apply(self, func, args, kwargs, own), copied)
        if self.count != count:  # taken apart, before this mode: what it noted nothing of does not vary
            for y in among((found,)):
                self.facts[y] = self.facts[y]._replace()
        if self.below or not (left and idle) or any(fact is not UNKNOWN for fact in facts):  # known: a statistic, held
            self._note(func, args, kwargs, found, given, facts, left)
        return found

    def _note(self, func: Any, args: Any, kwargs: Any, found: Any, given: list[Tensor], facts: list[Fact], left: bool) -> None:
        """What follows of the results, and of what was written to."""
        if given and (found is given[0] or func is Tensor.__setitem__) and self.facts[given[0]] is facts[0]:  # not yet noted
            fact = self.result(func, (), {"": None}, facts, given[0])
            self._wrote(given[0], fact._replace(activated=left and func not in PLAIN))
        for some, made in [(facts, [found])] if isinstance(found, Tensor) else parts(func, facts, among((found,))):
            for y in made:
                if self.facts[y] is UNKNOWN:  # else its handler knew more
                    self.facts[y] = self.result(func, args, kwargs, some, y)

    def _own(self, func: Any) -> Entry | None:
        """An operation that has a rule by its function, in whatever spelling."""
        entry = known(func)
        return None if entry is None or called(entry.name) not in self.rules.named else entry

    def _again(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The operation, of what stands for tensors that it uses late."""
        late, self.late = self.late, []
        args, kwargs = map_leaves(lambda t: next((new for old, new in late if old is t), t), (args, kwargs))
        return self.__torch_function__(func, types, args, kwargs)

    def _attribute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An attribute, such as x.T."""
        found = unruled(func, args, kwargs)
        if isinstance(found, Tensor) and args and found is not args[0]:
            fact = self._before(None, args[0])  # what is written to x.T is written to x, which a rule may look at later
            found = unruled(func, (self.late.pop()[1],), kwargs) if self.late else found
            self.facts[found] = fact.apart()
        return found

    def _before(self, func: Any, t: Tensor) -> Fact:
        """What is known of an argument. Makes a factor while its value is there."""
        fact = self._met(t)
        if fact.linear is not None and fact.linear.scale and name_in_torch(func) not in _BEFORE_NORMS:
            instead = fact.linear.scale.use(t)
            if instead is not None:
                self.facts[instead] = fact._replace(linear=None)
                self.late.append((t, instead))
        return fact

    def _met(self, t: Tensor) -> Fact:
        """What is known of a tensor. Notes what no mode is told of, by the mark that it left on its result."""
        fact = self.facts[t]
        if (name := made_unseen(t, fact, self.starts, self.level)) is not None:
            self.unmet.append(name)
            self.facts[t] = fact = self.unseen.behind(name, t, fact, self.facts)
        return fact

    def _left(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether an activation in place keeps its gradient: then nothing need be kept of what it overwrites."""
        entry = ENTRIES.get(func) if args else None
        if entry is None or entry.name not in _ACTIVATIONS or not in_place(func, entry, args, kwargs):
            return False
        met = self.rules.of(called(entry.name), "activation")
        self.fired += [] if met is None else [met[0]]
        return met is None or (isinstance(met[1], Flow) and met[1].keeps(entry.name))

    def result(self, func: Any, args: Any, kwargs: Any, facts: list[Fact], y: Tensor) -> Fact:
        """What follows for a result of an operation that has noted nothing itself."""
        func = counterpart(func)
        name = name_in_torch(func)
        facts = [] if name in ("new", "new_tensor") else those_taken(func, facts)
        ids, live = any(fact.ids for fact in facts), [fact for fact in facts if fact.varies]
        if not (y.is_floating_point() or y.is_complex()):
            return Fact(ids=ids and func in SHAPES)
        if not live:
            known = any(fact is not UNKNOWN for fact in facts)
            return Fact(varies=ids and name in _LOOKS_UP) if known else UNKNOWN
        fact = Fact(True, first=all(fact.first for fact in live))
        if func in SHAPES and len(live) == 1:
            return fact._replace(activated=live[0].activated)
        if called(name) not in _SUMS or kwargs:
            return fact
        return self.elementwise(y, func, args, fact)._replace(shifted=len(args) > 1 and not all(map(self.varies, args)))

    def elementwise(self, y: Tensor, func: Callable[..., Tensor], args: Any, fact: Fact) -> Fact:
        """`fact` of an elementwise function of all that varies among `args`, with the one tensor that it is a function of."""
        return elementwise(y, func, args, [self.facts[t] if self.varies(t) else None for t in args], fact)

    # What dispatch asks for.

    def rule_of(self, entry: Entry) -> Callable[..., Any]:
        self.name = called(entry.name)
        return self.table.get(entry.name, other)

    def probed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that keeps its gradient."""
        return func(*args, **kwargs)

    def copied(self, x: Tensor) -> Tensor:
        found = x.clone()
        self.facts[found] = self.facts[x].apart()
        return found

    def written(self, x: Tensor, y: Tensor) -> Tensor:
        found = x.copy_(y)
        self._wrote(x, self.facts[y].apart())
        return found

    def _wrote(self, y: Tensor, fact: Fact) -> None:
        """What `y` is a view of varies too."""
        self.facts[y] = fact
        if not fact.varies:
            return
        base = base_of(y)
        for other in self.facts.sharing(y) if self.below else [] if base is None else [base]:
            self.facts[other] = Fact(varies=True)

    def unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that the table does not have keeps its gradient. Where it is not linear, that is noted."""
        bends = not is_chosen(func) and bent(func, args, kwargs, self.varies)
        found = self.probed(func, args, kwargs)
        if bends and any(t.is_floating_point() for t in among((found,))):
            self.unmet.append(named(func, args))
        return found

    # Rules.

    def ruled(self, met: tuple[str, Any] | None, op: Operation, merges: Callable[..., Tensor] | None = None) -> Tensor:
        """The value of an operation, with what its rule makes of its gradient; with `merges` a batch norm may follow, which
        leaves nothing of that: so what takes long is done late."""
        if met is None:
            return op.output
        self.fired.append(met[0])
        rule = met[1]
        if not isinstance(rule, Flow) or (merges and rule.remakes and not tracing()):
            return own(rule, op)
        check_weighted(rule, op.name)
        if rule.keeps(op.name):
            return op.output
        self.scale = rule.hook(op) if self.events is None else None
        if self.scale is None:
            return rule.put(op)
        if merges is None:
            self.scale.settled()
        return op.output

    def _relu(self, x: Tensor, in_place: bool) -> Tensor:
        rule = self.rules.kinds["relu"]
        ready = getattr(rule, "relu", None)
        if ready is not None:
            self.fired.append("relu")
            y: Tensor = ready(x, in_place)
        else:
            z = self.copied(x) if in_place else x
            y = self.ruled(("relu", rule), Operation("relu", torch.relu, (z,), torch.relu(z)))
            if in_place:
                return self.written(x, self.know(y, z, activated=True))
        return self.know(y, x, activated=True)


def other(mode: Ruled, func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation with its own gradient, or that of a rule by its function. In place, this alone knows what was written."""
    given = among((*args, *kwargs.values()))
    met = mode.rules.of(mode.name) if any(map(mode.varies, given)) else None
    found, facts = func(*args, **kwargs), [mode.facts[t] for t in given]
    if met is not None:
        found = mode.ruled(met, whole(mode.name, func, args, kwargs, found, mode.varies))
    for y in among((found,)):
        if mode.facts[y] is UNKNOWN:
            mode.facts[y] = mode.result(func, args, kwargs, facts, y)
    return found
