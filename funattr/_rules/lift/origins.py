"""Where tensors come from that carry no gradient: parameters, numbers, the site, or around it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from types import MethodWrapperType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..._torch import is_newer, is_older, nodes_so_far, tracing, without_modes
from ..._types import is_number
from ..spelled import functions

T = TypeVar("T")
_Given: TypeAlias = list[tuple[Tensor, bool]]  # and whether that has a gradient


class Origins:
    """Where tensors come from that carry no gradient. All that is noted is kept until the pass ends: an id is then its own.

    `fixed` are made of parameters and nothing else. `given` are parameters that are no `nn.Parameter`: tensors that require a
    gradient and were there before the pass, as torch.func.functional_call hands them in, but for what `enters` it. `cut` come
    from the site, by operations without a gradient: `cuts` are their names. `around` says that something else was used, which
    may depend on the input around the site. `steps` are made of masks, counts and the like alone, and of `numbers`: known by
    what made them, at the baseline as at x. `outside` is the input, where a site is further on, and what was made of it and
    not of the site.
    """

    def __init__(self) -> None:
        self.since = 0 if tracing() else nodes_so_far()
        self.enters: dict[int, Tensor] = {}
        self.given: dict[int, Tensor] = {}
        self.born: dict[int, Tensor] = {}  # in the pass, as leaves: ``torch.zeros(3, requires_grad=h.requires_grad)``
        self.fixed: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}  # of nothing but numbers
        self.cut: dict[int, Tensor] = {}
        self.cuts: list[str] = []
        self.held: dict[int, Tensor] = {}
        self.around: dict[int, weakref.ref[Tensor]] = {}
        self.beside: dict[int, weakref.ref[Tensor]] = {}  # made of that, and of parameters, which require a gradient
        self.numbers: dict[int, Tensor] = {}
        self.steps: dict[int, Tensor] = {}
        self.traced: list[Tensor] = []  # the same as `cut`, while Dynamo traces, which has no ids
        self.traced_steps: list[Tensor] = []
        self.outside: dict[int, weakref.ref[Tensor]] = {}
        self.traced_outside: list[Tensor] = []
        self.writes = False

    def is_step(self, t: Tensor) -> bool:
        """Whether `t` is a mask, a count or the like, or made of nothing but such."""
        return not is_number(t) or id(t) in self.steps

    def _note_steps(self, given: list[tuple[Tensor, bool]], made: list[Tensor]) -> bool:
        """Whether what was made is a step, or a number."""
        steps = False
        for t, _ in given:
            if id(t) not in self.numbers:
                if not self.is_step(t):
                    return False
                steps = True
        kind = self.steps if steps else self.numbers
        kind.update((id(t), t) for t in made if not steps or (t.is_floating_point() and not t.requires_grad))
        return True

    def is_live(self, t: Tensor) -> bool:
        """Whether `t` has a gradient, and not by parameters alone."""
        if not t.requires_grad or self.is_given(t) or (tracing() and self.is_traced(t)):
            return False
        made = self.beside.get(id(t))
        return (made is None or made() is not t) and id(t) not in self.born

    def is_given(self, t: Tensor) -> bool:
        """Whether `t`, which may require a gradient, is a parameter that is no `nn.Parameter`."""
        key = id(t)
        if key in self.given:
            return True
        if tracing() or not t.requires_grad or key in self.born or key in self.enters:
            return False
        if self.is_outside(t) or not is_older(t, self.since):
            return False
        self.given[key] = t
        return True

    def comes_in(self, made: Iterable[Tensor]) -> None:
        """Notes the input, and what is made of it before the site. Where these require a gradient, it is not the site's."""
        for t in made:
            if tracing():
                self.traced_outside.append(t)
            else:
                self.outside[id(t)] = weakref.ref(t)
                if t.requires_grad:
                    self.beside[id(t)] = weakref.ref(t)

    def is_outside(self, t: Tensor) -> bool:
        if tracing():
            return any(t is other for other in self.traced_outside)
        made = self.outside.get(id(t))
        return made is not None and made() is t

    def of_outside(self, func: Any, given: Iterable[Any]) -> bool:
        """Whether an operation takes numbers from outside."""
        return bool(self.outside or self.traced_outside) and any(map(self.is_outside, sources(func, given)))

    def trace(self, given: list[Tensor], made: list[Tensor]) -> None:
        """What a call that Dynamo traces made of tensors: numbers and indices, of topk."""
        for found in made:
            self._trace(given, found)

    def _trace(self, given: list[Tensor], found: Tensor) -> None:
        dead = is_cut(found) and not (found.requires_grad and any(t is found for t in given))
        live = [t for t in given if t.requires_grad and not t.is_leaf]  # a leaf is a parameter
        if dead and not live and found.is_floating_point() and self._has_numbers(given):
            self.traced_outside.append(found)
        elif dead and (live or any(map(self.is_traced, given))):
            self.traced.append(found)
        elif dead and all(not t.is_floating_point() or any(t is other for other in self.traced_steps) for t in given):
            self.traced_steps.append(found)

    def _has_numbers(self, given: Iterable[Tensor]) -> bool:
        """Whether numbers from outside are among these: what a gate or an index from the site makes of them is one of them."""
        numbers = (t for t in given if is_number(t) and self.is_outside(t))
        return any(not (self.is_traced(t) or id(t) in self.cut or id(t) in self.steps) for t in numbers)

    def is_traced(self, t: Tensor) -> bool:
        return any(t is other for other in self.traced)

    def carry(self, given: Iterable[Any], replays: bool) -> bool:
        """Whether all of these tensors come from the site, or may do so, but for parameters after the first: a call that makes
        a new one of them, with a gradient where the pass `replays`, leaves nothing to note."""
        noted = self.fixed or self.numbers or self.steps or self.beside
        some = False
        with without_modes():
            for t in given:
                kind = type(t)
                if kind is Tensor:
                    grows = t.requires_grad
                    if not t.is_floating_point() or (replays and not grows) or (noted and self._is_noted(id(t))):
                        return False
                    if grows and (self.given or not is_newer(t, self.since)) and self.is_given(t):
                        return False
                    some = True
                elif kind is nn.Parameter:
                    if not (some and t.is_floating_point()):
                        return False
                elif kind not in _NO_TENSORS and not (kind in _ROWS and set(map(type, t)) <= {int}):
                    return False
        return some

    def _is_noted(self, key: int) -> bool:
        return key in self.fixed or key in self.numbers or key in self.steps or key in self.beside

    def goes_on(self, given: list[tuple[Tensor, bool]], found: Any) -> bool:
        """Whether a call made of what has a gradient, and of parameters, what has one: as most do, and nothing to note."""
        if type(found) is not Tensor or is_cut(found):
            return False
        moves = False
        for t, live in given:
            if t is found or not (live or constant(t)):
                return False
            moves = moves or not self.is_fixed(t)
        return moves

    def note(self, func: Any, given: list[tuple[Tensor, bool]], results: list[Tensor], replays: bool) -> None:
        """What a call made of tensors that did require a gradient, or did not."""
        written = [given[0][0]] if func is Tensor.__setitem__ else results
        known = self._note_steps(given, written)
        if not given:
            self.made.update((id(t), t) for t in results)
            self.born.update((id(t), t) for t in results if t.requires_grad)
        elif self.is_fixed(given[0][0]) and all(self.is_fixed(t) for t, _ in given):
            if not self.writes:
                self.fixed.update((id(t), t) for t in results if not constant(t))
        else:
            others = [(t, live) for t, live in given if not self.is_fixed(t) and (live or id(t) not in self.made)]
            if func is Tensor.__setitem__ or (func not in _RETURNS and results and any(results[0] is t for t, _ in given)):
                # Something is written to.
                self.writes = self.writes or self.is_fixed(written[0])  # and what it is a view of may be a parameter
                self.fixed.clear()
                self.made.clear()
                if not known:
                    self.numbers.pop(id(given[0][0]), None)
                    self.steps.pop(id(given[0][0]), None)
                if not given[0][1] and any(live for _, live in given):
                    self.beside.clear()
            if replays:
                self._follow(func, given, others, written)

    def is_fixed(self, t: Tensor) -> bool:
        return constant(t) or id(t) in self.fixed or self.is_given(t)

    def _follow(self, func: Any, given: _Given, others: _Given, results: list[Tensor]) -> None:
        """The same of what may vary: `others` are those that were no constants before something was written to."""
        live = any(live for _, live in others)
        around = [t for t, live in others if not live and id(t) not in self.cut and id(t) not in self.held]
        self.around.update((id(t), weakref.ref(t)) for t in around)
        numbers = not live and self._has_numbers(t for t, _ in others)
        if not live and any(self.is_outside(t) for t, _ in others):
            self.comes_in(results)
        if live or any(id(t) in self.cut for t, _ in others):
            goes = results if torch.is_grad_enabled() else [t for t, _ in given]
            lives = {id(t) for t in goes if live and t.requires_grad}
            dead = [t for t in results if not (id(t) in lives or (numbers and is_number(t)))]
            self.cut.update((id(t), t) for t in dead)
            self.beside.update((id(t), weakref.ref(t)) for t in dead if t.requires_grad)  # rows of an embedding that is trained
            if live and (dead or getattr(func, "__name__", "") in _READS):
                named = func.__self__ if type(func) is MethodWrapperType else func  # of an attribute, x.data, its own name
                self.cuts.append(getattr(named, "__name__", repr(func)))
        elif others:
            self.beside.update((id(t), weakref.ref(t)) for t in results if t.requires_grad)
            self.held.update((id(t), t) for t in results if not around)
        else:
            self.made.update((id(t), t) for t in results)


#: What makes numbers of Python of a tensor's.
_READS = {"item", "tolist", "__float__", "numpy", "__array__"}
#: What gives a tensor back as it is, where it is that already: nothing is written to, and of one pass it may be a copy.
_RETURNS = functions("""
    contiguous to type_as float double half bfloat16 int long bool cpu cuda requires_grad_ atleast_1d atleast_2d atleast_3d
""")
#: What makes something of each of its tensors by itself. (A dict: Dynamo finds no function of C in a set.)
_EACH = dict.fromkeys(functions("broadcast_tensors meshgrid atleast_1d atleast_2d atleast_3d"))
_NO_TENSORS = {int, float, bool, str, type(None)}
_ROWS = {tuple, list, torch.Size}
#: What asks for no more than what a tensor is like.
ASKS = functions("""
    size dim ndimension numel nelement stride element_size storage_offset get_device __len__ is_contiguous is_floating_point
    is_complex is_signed is_same_size
""")
#: Of how many of its tensors an operation takes the numbers, where not of all: of none where it makes one like another, or asks
#: for a size.
_TAKES = {
    **dict.fromkeys(functions("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"), 0),
    **dict.fromkeys(functions("rand_like randn_like randint_like"), 0),
    **dict.fromkeys(ASKS, 0),
    **dict.fromkeys(functions("to type_as view_as reshape_as expand_as"), 1),
}


def sources(func: Any, given: Iterable[Any]) -> list[Tensor]:
    """The tensors whose numbers an operation takes."""
    return those_taken(func, among(given))


def those_taken(func: Any, of_each: list[T]) -> list[T]:
    """Of what is known of each of its tensors, that of those whose numbers an operation takes."""
    return of_each[: _TAKES[func]] if func in _TAKES else of_each


def parts(func: Any, of_each: list[T], made: list[Tensor]) -> list[tuple[list[T], list[Tensor]]]:
    """What an operation made of what: all of all, where it does not make something of each by itself."""
    apart = func in _EACH and len(of_each) == len(made)
    return [([one], [found]) for one, found in zip(of_each, made)] if apart else [(of_each, made)]


def among(values: Iterable[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += among(value)
    return found


def is_cut(made: Tensor) -> bool:
    """Whether what an operation has just made has no gradient: a view made in a no_grad block says that it requires one."""
    return not (made.requires_grad and torch.is_grad_enabled())


def is_new(made: Any, given: Sequence[Any], live: bool) -> bool:
    """Whether an operation made a tensor that is none of those that it was given; with a gradient, if it is to be `live`."""
    if type(made) is not Tensor or (live and is_cut(made)):
        return False
    return id(made) not in map(id, given)


def constant(t: Any) -> bool:
    return type(t) is not Tensor and isinstance(t, nn.Parameter)  # the first says it sooner of most
