"""The door of a metric, and what comes in through it: the class that is explained, and the attributions that are judged."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .._combine.dress import about, check_method, chosen, is_constant, is_predicted, known_method, name_of
from .._core.checks import check_dense, each_alone, is_finite, may_read
from .._core.door import entered
from .._core.passes import Question
from .._habits import refusal
from .._steps.matching import at_sites
from .._steps.path import ready
from .._torch import is_plain, tracing
from .._types import Layer, Model, Target, Tree, as_it_is, broadcasts, map_tensors, tensors, told_by
from .._words import complaint, door, kind_of

P = ParamSpec("P")
R = TypeVar("R")


def metric(function: Callable[P, R]) -> Callable[P, R]:
    """The door of a metric: that of a method, with what is judged in front of the model."""
    signature = inspect.signature(function)

    def turned(model: Model, x: Tree, **others: Any) -> R:
        whole: Any = function  # Any, because mypy keeps a ParamSpec's arguments from being put together anew
        result: R = whole(model=model, x=x, **others)
        return result

    made: Any = turned
    made.__name__ = function.__name__
    first = [p for p in signature.parameters.values() if p.name in ("model", "x")]
    rest = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p not in first]
    made.__signature__ = inspect.Signature([*first, *rest])
    behind = entered(turned, _check_scores)

    @door
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise complaint(TypeError, refusal(function, args, kwargs) or f"{error}.") from None
        with as_it_is if tracing() else each_alone():
            return behind(given.pop("model"), given.pop("x"), **given)

    told: Any = call  # to mypy a callable has no attributes
    told.measures = True
    return call


def _check_scores(result: Any, reads: bool) -> None:
    """Refuse to return what is not finite."""
    for value in tensors(result) if isinstance(result, (Tensor, tuple)) and reads else []:
        if is_plain(value) and not is_finite(value):
            text = f"what was measured {list(value.shape)} holds NaN or inf: the model's score is not finite somewhere"
            raise complaint(ValueError, f"{text}. Look at the baselines and, in {value.dtype}, at the score's range.")


# What is explained, by what.


def resolved(model: Model, x: Tree, target: Target) -> Target:
    """The target, with "argmax" as the class of each example: on the model and x as given, once for the whole metric."""
    if not isinstance(target, str):
        return target
    with torch.no_grad():
        settled: Target = ready(model, x, None, target, False).target
        return settled


def options_for(explain: Callable[..., Any], layer: Layer, target: Target) -> dict[str, Any]:
    """What a method is called with besides the model and x, of that what it takes. A target that is bound in it stays, where
    nothing else is asked."""
    if about(explain).leading:
        text = f"{name_of(explain)} finds something for each of several targets, and a metric judges one explanation"
        raise complaint(ValueError, f"{text}: measure the method inside it, once for each target.")
    bound = target is None and "target" in about(explain).bound
    return chosen(explain, {} if bound else {"target": target}) | ({} if layer is None else {"layer": layer})


def options_throughout(method: Callable[..., Any], model: Model, x: Tree, layer: Layer, target: Target) -> dict[str, Any]:
    """The same for a method that is called at other inputs or models, too: a class that is predicted is that of x as given,
    be "argmax" asked or bound."""
    told = about(method)
    if told.predicts:
        text = f'the "argmax" in {name_of(method)} would be another class in each call'
        raise complaint(ValueError, f"{text}: pass target='argmax' to the metric.")
    predicted = target is None and is_predicted(told.bound.get("target"))
    return options_for(method, layer, resolved(model, x, "argmax" if predicted else target))


def check_place(explained: Any, layer: Layer) -> None:
    """Refuse to judge at the input what is of a layer that is bound in a method, and has the shape of x by chance."""
    if layer is not None or told_by(explained) is None:
        return
    told = about(explained)
    place = told.bound.get("layer")
    if place is not None and told.layered and not told.pictured:
        text = f"what {name_of(explained)} finds is of layer {place!r}, which is bound in it, and is to be judged at the input"
        raise complaint(ValueError, f"{text}: give the metric the layer, too, or bring it to x with fa.interpolate(method).")


def attributions(explained: Any, model: Model, x: Tree, layer: Layer, target: Target, *, create_graph: bool = False) -> Tree:
    """What is judged: as it was given, or from one call of the method; with `create_graph` to be differentiated further."""
    if callable(explained):
        method, told = known_method(explained), about(explained)
        if create_graph and is_constant(explained):
            text = f"{name_of(explained)} takes no create_graph, and a derivative would lack its part"
            raise complaint(ValueError, f"{text}: leave create_graph out, or pass what the method returned.")
        varies = create_graph and "create_graph" in (told.accepts or ()) and "create_graph" not in told.bound
        options = options_for(explained, layer, target) | ({"create_graph": True} if varies else {})
        return judged(method(model, x, **options), "the method returned")
    return judged(explained)


def judged(found: Tree, what: str = "expected a method, or what one returned, got") -> Tree:
    """Attributions as numbers that can be compared."""
    if not tensors(found):
        cure = ": pass torch.from_numpy of it" if type(found).__name__ == "ndarray" else ""
        cure = ": pass the function, such as fa.gradient" if isinstance(found, str) else cure
        raise complaint(TypeError, f"{what} {kind_of(found)}, not attributions, tensors [N, ...] in any structure{cure}.")
    for value in tensors(found):
        check_dense(value, "the attribution")
        if value.is_complex():
            text = f"the attributions {list(value.shape)} are complex ({value.dtype}), and have no order: take their .abs()"
            raise complaint(TypeError, f"{text} or .real.")
        if value.dim() == 0:
            raise complaint(ValueError, "an attribution is a 0-d tensor, expected one row for each example, [N, ...].")
        if value.is_floating_point() and may_read() and is_plain(value) and not is_finite(value):
            text = f"the attributions {list(value.shape)} hold NaN or inf, and cannot be judged"
            raise complaint(ValueError, f"{text}: look at the method's result, and at the model's output for x.")
    return map_tensors(lambda t: t if t.is_floating_point() else t.double(), found)  # large integers stay apart


def flat_rows(t: Tensor) -> Tensor:
    """All that each example has, ``[N, M]``, also where there is none."""
    return t.flatten(1) if t.dim() > 1 else t[:, None]


def check_explains(explain: Any) -> None:
    """Refuse attributions where a method is called anew."""
    if not callable(explain):
        text = f"expected a method such as fa.gradient, which is called several times, got {kind_of(explain)}"
        raise complaint(TypeError, f"{text}: pass the method itself, with its options bound by functools.partial.")
    check_method(explain)


def fitted(q: Question, found: Tree, values: list[Tree]) -> list[list[Tensor | None]]:
    """The attribution of each leaf of the value at each site, whose entries broadcast to it; None for a leaf without one."""
    each = at_sites(found, q, values, "explained")
    for i, (entries, value) in enumerate(zip(each, values)):
        shapes = ", ".join(str(list(t.shape)) for t in tensors(value))
        for t in entries:
            if isinstance(t, Tensor) and t.shape[0] != q.size:
                text = f"the attributions {list(t.shape)} have no row for each of the {q.size} examples of x"
                raise complaint(ValueError, f"{text}; {q.where(i)} has {shapes}.")
    return [[t if isinstance(t, Tensor) else None for t in entries] for entries in each]


def check_shape(t: Tensor, leaf: Tensor, where: str, *, shared: bool) -> None:
    """Refuse an attribution that has not the shape of the tensor that it is of, or, `shared` by features, broadcasts to it."""
    if t.shape != leaf.shape and not (shared and t.dim() == leaf.dim() and broadcasts(t.shape, leaf.shape)):
        cure = "give each dimension that size or 1" if shared else "give one number for each feature"
        text = f"the attributions {list(t.shape)} do not fit {where} {list(leaf.shape)}: {cure}"
        maps = "; a map made at a layer is brought to the size of x by fa.interpolate(method), or judged at that layer"
        raise complaint(ValueError, f"{text}{maps if t.dim() == leaf.dim() > 2 else ''}.")
