"""The door of an attribution method: checks of the input, of the model's mode and of the result, once per call."""

from __future__ import annotations

import functools
import inspect
import sys
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from .._habits import refusal
from .._torch import (
    Surroundings,
    as_written,
    enter,
    forward_mode,
    indexing_shown,
    interruption,
    is_dressed,
    put_back,
    surroundings,
    tracing,
    tree_flatten,
    tree_unflatten,
    without_tangents,
)
from .._types import About, Model, Tree, as_it_is, copied, map_tensors, tensors, told_by
from .._words import as_number, complaint, complete, door
from .again import tell_of_notes
from .checks import check_flags, check_input, check_result, check_scores, may_read
from .code import modules_of, noisy_modules, sized, tell_of_train_mode
from .cures import in_words
from .entries import numbered
from .examples import regrouped, shown
from .here import here
from .holders import statistics_kept
from .kept import chance_of, state_of

#: What looks at a result, where its data can be read.
Check: TypeAlias = Callable[[Any, bool], None]
P = ParamSpec("P")
R = TypeVar("R")


def method(function: Callable[P, R]) -> Callable[P, R]:
    """`door` for attribution methods ``(model, x, ...)``, with the checks of arguments, input, mode and result."""
    return entered(function, check_result)


class Entrance(NamedTuple):
    """What is known of a method before it is called."""

    function: Callable[..., Any]
    names: tuple[str, ...] | None  # the arguments it takes; None: any
    known: frozenset[str] | None  # beside the model and x
    needed: frozenset[str]
    flags: list[str]
    about: About

    def look(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit, the quick way where all is well."""
        fits = len(args) == 2 and self.needed <= kwargs.keys() and (self.known is None or kwargs.keys() <= self.known)
        given = self.about.given if self.known is not None else ("model", "x", *self.about.given)
        if tracing() or not fits or any(name in kwargs for name in given):
            check_arguments(self.function, self.names, args, kwargs, self.about.given)
        check_flags(self.flags, kwargs)

    def called(self, args: Any, kwargs: Any) -> Any:
        """What the method returns: without `create_graph` a constant, in forward mode too. What is compiled has no second
        derivative."""
        if kwargs.get("create_graph"):
            return as_written(self.function, *args, **kwargs)
        if not forward_mode() or "create_graph" not in (self.names or ()):
            return self.function(*args, **kwargs)
        with without_tangents():
            return self.function(*args, **kwargs)

    def ready(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], reads: bool
    ) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
        """The model and x, which is looked at, and the arguments with x made ready."""
        self.look(args, kwargs)
        x = args[1] if len(args) > 1 else kwargs["x"]
        if type(x) is not Tensor or x.is_inference():
            args, kwargs = _given(x := _ready(x), args, kwargs)
        check_input(x, reads)
        model = args[0] if args else kwargs["model"]
        return model, x, args, named({name: _plain(value) for name, value in kwargs.items()}, model)

    def run(self, check: Check, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call, in whose course the model keeps its state, and what it returns, looked at."""
        reads = may_read()
        model, x, args, kwargs = self.ready(args, kwargs, reads)
        modules = modules_of(model)
        sized(modules, model, x)
        training = noisy_modules(modules)
        state = state_of(modules, model)
        if state is not None:  # x, or baselines, may be a buffer of the model: it is meant as it is now
            args, kwargs = _given(x := state.apart(x), args, state.apart(kwargs))
        chance = chance_of(modules, model, x, self.about.draws, bool(training))
        if training:
            tell_of_train_mode(training)
        with statistics_kept(training) if training else as_it_is, state or as_it_is, chance, indexing_shown:
            here.scores = [] if reads else None
            result = self.called(args, kwargs)
            check_scores(x)
            if state is not None and state.passes > 1 and state.notes is not None:
                tell_of_notes(state.notes, modules, model, x)
        check(result, reads)
        if type(result) is not Tensor and any(is_dressed(t) for t in tensors(result)):
            return map_tensors(undressed, result)
        return result


def _entrance(function: Callable[..., Any]) -> Entrance:
    parameters = inspect.signature(function).parameters.values()
    about = told_by(function)
    names = tuple(p.name for p in parameters) if about is None else about.accepts
    needed = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)
    flags = [p.name for p in parameters if p.annotation == "bool"]
    own = names or ()
    about = about or About(names, layered="layer" in own, draws="generator" in own, rows=True)
    return Entrance(function, names, None if names is None else frozenset(names) - {"model", "x"}, needed, flags, about)


def _inner(function: Callable[P, R], entrance: Entrance) -> Callable[P, R]:
    """What one method calls of another, or Dynamo traces: the arguments are looked at, and nothing else."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        entrance.look(args, kwargs)
        if not tracing():
            return cast("R", entrance.called(args, kwargs))
        given: Any = (args, kwargs)  # to mypy, which knows no more of a ParamSpec's, they can be neither read nor changed
        return function(*args, **named(kwargs, given[0][0] if args else given[1]["model"]))

    return inner


def entered(function: Callable[P, R], check: Check) -> Callable[P, R]:
    """The door of `method` for what may return something else, which `check` looks at."""
    entrance = _entrance(function)
    inner = door(_inner(function, entrance))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if here.inside or tracing():
            return inner(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return call(*_normal(args), **_normal(kwargs))
        before, left = enter(), False
        here.inside = True
        try:
            found: R = entrance.run(check, args, kwargs)
            return found
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            ids = _after(error, function, args, kwargs)
            if ids is None:
                raise
        finally:
            # Again, where an exception from outside (Ctrl-C, a timeout) has cut the first one short.
            try:
                left = _leave(before)
            finally:
                left = left or _leave(before)
        again: Callable[P, R] = entered(regrouped(function, call, ids), check)
        return again(*args, **kwargs)

    made: Any = call  # to mypy a callable has neither code nor attributes
    # torch.compile keeps its graphs, and counts recompiles, per code object: give each method one of its own.
    made.__code__ = made.__code__.replace(co_name=function.__name__)
    made.about = entrance.about
    return call


def _after(error: Exception, function: Any, args: Any, kwargs: Any) -> Any:
    """Which example each row of x is a part of, where `error` shows that rows are parts of some; else the error in words, if
    there are any."""
    if (stop := interruption(error)) is not None:
        raise stop from None
    given = {**kwargs, **dict(zip(("model", "x"), args))}  # one may be there twice, which was refused
    ids = shown(error, **given)
    if ids is None:
        told = complete(in_words(error, **given), function, kwargs)
        if told is not error:
            raise told from error
    return ids


def opening(function: Callable[P, R]) -> Callable[P, R]:
    """The same for what takes a model and an input, and returns what to ask of them: no attribution."""
    return entered(function, lambda result, reads: None)


def undressed(value: Tensor) -> Tensor:
    """A plain tensor: what a subclass carries besides (the affine of an image) is x's, and says nothing of an attribution."""
    return value.as_subclass(Tensor) if is_dressed(value) else value


def check_arguments(
    function: Any, names: Sequence[str] | None, args: Sequence[Any], kwargs: Mapping[str, Any], given: Sequence[str] = ()
) -> None:
    """Refuse arguments that a method does not take, and a call without those that it needs, with the line to write. Of one
    that takes any, those that are `given` already."""
    if tracing() and (all(name not in given for name in kwargs) if names is None else all(name in names for name in kwargs)):
        return
    if names is None:
        own = inspect.signature(function).parameters.values()
        names = [*(p.name for p in own if p.kind is not p.VAR_KEYWORD), *(name for name in kwargs if name not in given)]
    text = refusal(function, args, kwargs, names)
    if text is not None:
        raise complaint(TypeError, text)


def _normal(given: Any) -> Any:
    """Arguments with copies of what was made in inference mode, bound ones of the model included."""
    leaves, spec = tree_flatten(given)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_inference():
            leaves[i] = leaf.clone()
        elif isinstance(leaf, functools.partial):
            leaves[i] = functools.partial(leaf.func, *_normal(leaf.args), **_normal(leaf.keywords))
    return tree_unflatten(leaves, spec)


def named(arguments: dict[str, Any], model: Model) -> dict[str, Any]:
    """The arguments of a call, with the numbers of the classes that the target names."""
    target = arguments.get("target")
    if not isinstance(target, (str, list)):
        return arguments
    return {**arguments, "target": numbered(target, model)}


def _plain(given: Any) -> Any:
    """A dict, where transformers' tokenizers return what is none, and Python's numbers."""
    return dict(given) if UserDict in type(given).__mro__ else as_number(given)  # an abstract class, asked, takes its time


def _ready(x: Tree) -> Tree:
    """x as a batch of tensors that autograd takes."""
    x = _plain(x)
    return copied(x) if any(t.is_inference() for t in tensors(x)) else x


def _given(x: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with this x."""
    return ((args[0], x), kwargs) if len(args) > 1 else (args, kwargs | {"x": x})


def _leave(before: Surroundings) -> bool:
    here.inside, here.state, here.chance, here.scores, here.looked = False, None, None, None, frozenset()
    error = sys.exc_info()[1]
    if error is not None or surroundings() != before:
        put_back(before, error)
    return True
