"""A method averaged over a distribution of baselines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_attributable, may_read
from .._core.score import shares
from .._core.split import split
from .._steps.baselines import distribution, full_batch, references
from .._steps.chunks import chunks
from .._steps.points import together
from .._steps.progress import Sum, reported
from .._torch import tracing, tree_flatten
from .._types import Explains, Method, Model, Tree, batch_size, map_leaves, map_tensors, tensors
from .._words import complaint, door
from .dress import about, as_one, chosen, combined, known_method, name_of
from .targets import around_targets


@door
def mean_over_baselines(method: Explains) -> Method:
    """`method` averaged over a distribution of baselines: a method with the same arguments, and `baselines` in plural.

    ``mean_k method(x, baselines=x0_k)``. For `deep_lift` it is `deep_lift_shap`, which shares passes; any other method runs
    once per baseline.

    Args:
        method: any method that takes `baselines`.

    Returns:
        A method with the arguments of `method`, where `baselines` is a distribution ``[n_baselines, ...]`` or a callable
        ``x -> baselines``, where those of `method` are: of `shapley` and its kind, at the site. Completeness is kept: the
        result sums to F(x) minus the mean of F over the baselines.

    Raises:
        TypeError: `method` is not a method that takes `baselines`.

    Example:
        >>> import torch, funattr as fa
        >>> expected = fa.mean_over_baselines(fa.deep_lift)
        >>> expected(torch.nn.Linear(2, 1), torch.ones(3, 2), baselines=torch.zeros(4, 2)).shape
        torch.Size([3, 2])
    """
    if not callable(method) or "baselines" not in chosen(method, {"baselines": None}):
        text = f"expected a method that takes baselines, such as fa.deep_lift, got {name_of(method)}."
        raise complaint(TypeError, text)
    method = known_method(method)
    faster = about(method).mean
    if faster is not None:
        return faster

    def averaged(model: Model, x: Tree, *, baselines: Tree, **options: Any) -> Tree:
        if shares(options.get("target")):  # all targets of each baseline from its passes
            return around_targets(mean_over_baselines, method, model, x, options | {"baselines": baselines})
        return _mean(method, model, x, baselines, options)

    return combined(
        averaged,
        f"mean_over_baselines({name_of(method)})",
        method,
        needs=["baselines"],
        without=["standard_errors"],
        errors=True,
        baselines="several",
    )


def _mean(method: Explains, model: Model, x: Tree, baselines: Tree, options: dict[str, Any]) -> Tree:
    """A call for each baseline, which is where those of the method are."""
    kind, layer = about(method).baselines, options.get("layer")
    at_site = kind in ("site", "input")
    if at_site and isinstance(baselines, (int, float)):
        return method(model, x, baselines=baselines, **options)
    like = _value(model, x, layer) if kind == "site" and layer is not None else x
    samples, count = distribution(like, baselines, ids=at_site or layer is not None)
    total, held = Sum(), samples if at_site else x  # at a site, None may stay
    for i, _ in reported(chunks(count, 1)):
        given = one_of(samples, [t[i] for t in tensors(samples)], held)
        total.add(as_one(method(model, x, baselines=given, **options)))
    return total.total(count)


def _value(model: Model, x: Tree, layer: Any) -> Tree:
    """The value at a layer, for its shapes."""
    with torch.no_grad():
        return split(model, layer).value_at(x)


def default_baselines(method: Explains) -> Any:
    """The baselines of a method to which none are given; an empty parameter where it takes none, or needs them."""
    if tracing():
        return 0.0 if "baselines" in (about(method).accepts or ()) else inspect.Parameter.empty
    found = inspect.signature(method).parameters.get("baselines")
    return inspect.Parameter.empty if found is None else found.default


def at_layer(kind: str, value_at: Callable[[Tree], Tree], x: Tree, baselines: Any, create_graph: bool) -> dict[str, Any]:
    """The `baselines` of integers, as values at a layer: they are integers, and are read there."""
    if kind == "path":
        check_attributable(x, "x", moves=True)
    if kind == "site" or baselines is inspect.Parameter.empty:
        return {}
    if kind == "x":
        found = value_at(full_batch(references(x, baselines, ids=True), x))
    else:
        samples, count = distribution(x, baselines, ids=True)
        each = [one_of(samples, [t[i] for t in tensors(samples)], x) for i in range(count)]
        found = _one_row_each([value_at(full_batch(one, x)) for one in each], batch_size(x))
    return {"baselines": found if create_graph else map_tensors(torch.detach, found)}


def _one_row_each(each: list[Tree], size: int) -> Tree:
    """The values at a layer for several baselines, ``[n_baselines, ...]``: the same for all examples, or no distribution."""
    if any(t.dim() == 0 or t.shape[0] != size for value in each for t in tensors(value)):
        text = "the value at the site has no row for each example: choose a layer with the batch first."
        raise complaint(ValueError, text)
    stacked = together(torch.stack, each)
    if may_read() and not all(torch.allclose(t, t[:, :1].expand_as(t)) for t in tensors(stacked)):
        text = (
            "a baseline's value at the layer differs from example to example (something bound to the model has a row for "
            "each), and noise there takes one: pass noise_tunnel a method with a single baseline."
        )
        raise complaint(ValueError, text)
    return map_tensors(lambda t: t[:, 0] if size else t.new_zeros(len(t), *t.shape[2:]), stacked)


def one_of(samples: Tree, sample: list[Tensor], x: Tree) -> Tree:
    """One baseline in the structure of x, with batch 1; what has no baseline stays at x's value."""
    rest = iter(sample)

    def one(t: Tensor | None, own: Any) -> Any:
        return own if t is None else next(rest)[None] if own.dim() else next(rest)  # a scale has no batch

    return map_leaves(one, samples, tree_flatten(x)[0])
