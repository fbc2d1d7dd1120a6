"""A method averaged over a distribution of baselines."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._steps.baselines import distribution
from .._steps.chunks import chunks
from .._steps.mean import Sum
from .._steps.progress import reported
from .._torch import tree_flatten, tree_unflatten
from .._types import Explains, Method, Model, Tree, tensors
from .._words import complaint, door
from .dress import about, chosen, combined, name_of
from .repeat import as_one


@door
def mean_over_baselines(method: Explains) -> Method:
    """`method` averaged over a distribution of baselines: a method with the same arguments, and `baselines` in plural.

    ``mean_k method(x, baselines=x0_k)``. For `deep_lift` it is `deep_lift_shap`, which shares passes; any other method runs
    once per baseline.

    Args:
        method: any method that takes `baselines`.

    Returns:
        A method with the arguments of `method`, where `baselines` is a distribution ``[n_baselines, ...]`` or a callable
        ``x -> baselines``. Completeness is kept: the result sums to F(x) minus the mean of F over the baselines.

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
    faster = about(method).mean
    if faster is not None:
        return faster

    def averaged(model: Model, x: Tree, *, baselines: Tree, **options: Any) -> Tree:
        samples, count = distribution(x, baselines, ids=options.get("layer") is not None)
        total, like = Sum(), x
        for i, _ in reported(chunks(count, 1)):
            like = method(model, x, baselines=one_of(samples, [t[i] for t in tensors(samples)], x), **options)
            total.add(as_one(like))
        return total.total(like, count)

    return combined(averaged, f"mean_over_baselines({name_of(method)})", method, needs=["baselines"])


def one_of(samples: Tree, sample: list[Tensor], x: Tree) -> Tree:
    """One baseline in the structure of x, with batch 1; what has no baseline stays at x's value."""
    leaves, spec = tree_flatten(samples)
    rest = iter(sample)
    own = tree_flatten(x)[0]
    return tree_unflatten([leaf if t is None else next(rest)[None] for t, leaf in zip(leaves, own)], spec)
