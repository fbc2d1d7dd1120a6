"""What combinators share: a name, a signature and a door for the methods that they make, and running a method many times."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_dense
from .._core.code import generators_of
from .._core.door import method
from .._habits import did_you_mean
from .._steps.points import together
from .._steps.ways import Runner
from .._torch import tracing, transforms_active
from .._types import About, Layer, Method, Model, Tree, in_floats, innermost, map_tensors, tensors, told_by
from .._words import complaint, kind_of


def about(function: Callable[..., Any]) -> About:
    """What a method says of itself; what the signature tells of somebody else's."""
    if isinstance(function, partial):  # a method with some of its arguments bound
        inner = about(function.func)
        generators, bound = generators_given(function.keywords), {**inner.bound, **function.keywords}
        return inner._replace(generators=(*generators, *inner.generators), bound=bound, mean=None)
    found = told_by(function)
    if found is None:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # what is not written in Python does not say what it takes
            raise complaint(TypeError, f"expected a method such as fa.gradient, got {kind_of(function)}.") from None
        any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = None if any_name else tuple(p.name for p in parameters)
        found = About(names, layered=names is None or "layer" in names)
    return found


def generators_given(options: dict[str, Any]) -> list[torch.Generator]:
    """Of no tensor is it asked, which torch 2.14 does not trace."""
    return [value for value in options.values() if not isinstance(value, Tensor) and isinstance(value, torch.Generator)]


def chosen(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments that `function` takes."""
    told = about(function)
    known, given = told.accepts, told.given
    return {name: value for name, value in options.items() if (name not in given if known is None else name in known)}


def has_steps(function: Callable[..., Any]) -> bool:
    """Whether a method runs a model many times: then it has a `chunk_size`."""
    return "chunk_size" in (about(function).accepts or ())


#: What is so of a combination where it is so of one of its parts.
_OF_ANY = ("layered", "at_input", "draws", "front", "pictured", "predicts")


def combined(
    function: Callable[..., Tree],
    name: str,
    *parts: Callable[..., Any],
    extra: Sequence[str] = (),
    without: Sequence[str] = (),
    needs: Sequence[str] = (),
    errors: bool = False,
    **says: Any,
) -> Method:
    """`function`, dressed as a method that takes what `parts` take: readable in ``help()`` and in a traceback.

    What it `says` of itself is what its parts say, where nothing else is given. It takes `return_error` and `standard_errors`
    only where it takes care of the `errors` that a part then returns beside its attributions.
    """
    without = [*without, *([] if errors else ["return_error", "standard_errors"])]
    known = [about(part) for part in parts]
    any_name = any(part.accepts is None for part in known)
    names = [*extra, *(name for part in known for name in part.accepts or () if name not in without)]
    bound = _bound_in(known, [*without, "generator"])
    made: Any = _filled(function, bound) if bound else function  # to mypy a callable has no attributes
    facts: dict[str, Any] = {fact: any(getattr(part, fact) for part in known) for fact in _OF_ANY}
    facts["predicts"] |= "target" not in bound and any(is_predicted(part.bound.get("target")) for part in known)
    made.about = About(
        None if any_name else tuple(names),
        tuple({*without, *(name for part in known for name in part.given)}.difference(extra)) if any_name else (),
        leading=max(part.leading for part in known),
        rows=all(part.rows for part in known),
        spare=max(part.spare for part in known),
        generators=tuple(g for part in known for g in part.generators),
        bound=bound,
        baselines=next((part.baselines for part in known if "baselines" in (part.accepts or ())), "x"),
    )._replace(**facts | says)
    if tracing():
        found: Method = made
        return found
    made.__name__ = made.__qualname__ = name
    made.__doc__ = f"``{name}``, with the arguments of {' and '.join(name_of(part) for part in parts)}."
    made.__signature__ = _signature(parts, extra, without, needs)
    return method(made)


def is_predicted(target: Any) -> bool:
    return isinstance(target, str) and target == "argmax"


def _bound_in(known: list[About], without: Sequence[str]) -> dict[str, Any]:
    """What is bound to the same value in all parts."""
    first, *others = (part.bound for part in known)
    return {
        name: value
        for name, value in first.items()
        if name not in without and all(name in other and other[name] is value for other in others)
    }


def _filled(function: Callable[..., Tree], bound: dict[str, Any]) -> Callable[..., Tree]:
    """`function`, given what is bound in its parts where a call has nothing else to say."""

    def filled(model: Model, x: Tree, **options: Any) -> Tree:
        return function(model, x, **{**bound, **options})

    return filled


def _signature(
    parts: Sequence[Callable[..., Any]], extra: Sequence[str], without: Sequence[str], needs: Sequence[str]
) -> inspect.Signature:
    parameters: dict[str, inspect.Parameter] = {}
    for part in parts:
        own = list(inspect.signature(part).parameters.values())
        for parameter in own[2:] if parameters else own:  # the model and x, whatever a part calls them
            # Needed by one part is needed by the whole.
            if parameter.name not in parameters or parameter.default is parameter.empty:
                parameters[parameter.name] = parameter
    for added in extra:
        if added not in parameters:
            parameters[added] = inspect.Parameter(added, inspect.Parameter.KEYWORD_ONLY, default=None)
    for needed in needs:
        parameters[needed] = parameters.get(needed, inspect.Parameter(needed, inspect.Parameter.KEYWORD_ONLY)).replace(
            default=inspect.Parameter.empty
        )
    return inspect.Signature(sorted((p for p in parameters.values() if p.name not in without), key=lambda p: p.kind))


def then(f: Callable[[Tree, int, Tree], Tree], method: Any, name: str, **says: Any) -> Any:
    """``f(found, leading, x)`` of what `method` finds, as a method; or at once, of a tensor of attributions."""
    if isinstance(method, Tensor):
        check_dense(method, "the attribution")
        return f(method, 0, method)
    method = known_method(method)
    leading = about(method).leading

    def made(model: Model, x: Tree, **options: Any) -> Tree:
        return f(as_numbers(method(model, x, **options)), leading, x)

    return combined(made, f"{name}({name_of(method)})", method, **says)


def as_numbers(found: Tree) -> Tree:
    """What a method of one's own found, where that is integers and bools alone, as floating-point numbers. Integers beside
    others are those of an input that has no attribution."""
    return found if any(t.is_floating_point() for t in tensors(found)) else map_tensors(in_floats, found)


def name_of(function: Callable[..., Any]) -> str:
    """How a method is called in messages and in the names of what is made of it."""
    function = innermost(function)
    return getattr(function, "__name__", type(function).__name__)


def per_layer(f: Callable[[Any, Layer], Tree], layer: Any, found: Any) -> Tree:
    """`f` of what was found at each layer, and of the layer, in the structure in which the layers are named."""
    if isinstance(layer, dict):
        return {name: per_layer(f, part, found[name]) for name, part in layer.items()}
    if isinstance(layer, (list, tuple)):
        return type(layer)([per_layer(f, part, found[i]) for i, part in enumerate(layer)])
    return f(found, layer)


def is_constant(method: Any) -> bool:
    """Whether a method of the library gives what cannot be differentiated further; somebody else's has not said."""
    told = told_by(method)
    return told is not None and told.accepts is not None and "create_graph" not in told.accepts


def known_method(function: Any) -> Any:
    """A method as combinators call it: somebody else's has an x of its own in each call, to write to and to have a grad in."""
    check_method(function)
    if tracing() or told_by(function) is not None:
        return function

    @functools.wraps(function)
    def called(model: Model, x: Tree, **options: Any) -> Tree:
        return function(model, map_tensors(_own, x), **options)

    made: Any = called
    told = about(function)
    own = [g for g in generators_of(function) if all(g is not known for known in told.generators)]
    made.about, made.__name__ = told._replace(generators=(*told.generators, *own)), name_of(function)
    return made


def _own(t: Tensor) -> Tensor:
    """A copy, in the graph of what it was made of, that has a grad as what a method is called with has."""
    own = t.clone()
    if own.requires_grad and not (tracing() or transforms_active()):
        own.retain_grad()
    return own


def check_method(function: Any) -> None:
    """Refuse what cannot be called with a model and x: what a method returned, or the model itself."""
    text = "expected a method such as fa.gradient, got"
    if not callable(function):
        raise complaint(TypeError, f"{text} {type(function).__name__}.")
    names = about(function).accepts if isinstance(function, partial) else None
    for name in function.keywords if names is not None else ():
        if name not in (names or ()):
            raise complaint(TypeError, f"{name_of(function)} has no argument {name!r}. {did_you_mean(name, names or ())}")
    if tracing() or told_by(function) is not None:
        return
    with contextlib.suppress(ValueError):  # of what is not written in Python, nobody knows
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
        if sum(9 if p.kind is p.VAR_POSITIONAL else p.kind < p.VAR_POSITIONAL for p in parameters) < 2:
            takes = "a method takes a model and its input, method(model, x, ...)"
            raise complaint(TypeError, f"{text} {name_of(function)}: {takes}.")


# Running a method many times.


def run_steps(run: Runner, function: Callable[[Any], Tree], steps: list[Any]) -> Iterator[Tree]:
    """`function` at each of a chunk of steps (structures of tensors): results with a leading dimension."""
    if len(steps) == 1:
        yield as_one(function(steps[0]))
    else:
        yield from run(function, together(torch.stack, steps))


def device_of(x: Tree) -> torch.device:
    return next((t.device for t in tensors(x)), torch.device("cpu"))


def as_one(found: Tree) -> Tree:
    """A result with the leading dimension of a chunk of one."""
    for t in tensors(found):
        check_dense(t, "the attribution")
    return map_tensors(lambda t: t[None], found)
