"""Several methods by several metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._combine.dress import about, name_of
from .._core.checks import may_read
from .._torch import tree_flatten
from .._types import Layer, Model, Target, Tree, copied, told_by
from .._words import complaint, kind_of
from ._judged import metric, resolved


@metric
def compare(
    methods: Mapping[str, Any],
    metrics: Mapping[str, Callable[..., Any]],
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
) -> dict[str, dict[str, Any]]:
    """Several methods by several metrics, as a table.

    ``table[method][metric] = metric(method, model, x, target=target)``, with ``layer=layer`` where one is named. Each method
    runs once on x for all metrics that judge its result.

    Args:
        methods: names, and methods, or what they returned. Options are bound by `functools.partial`.
        metrics: names, and metrics: what is called like `deletion`. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.

    Returns:
        A dict for each method, in their order, of what each metric returned, in their order.

    Raises:
        ValueError: `methods` or `metrics` is empty; and as the metrics.
        TypeError: they are no dicts, or what they hold cannot be called; and as the metrics.

    Example:
        >>> import torch, funattr as fa
        >>> methods = {"gradient": fa.gradient, "input x gradient": fa.input_x_gradient}
        >>> metrics = {"deletion": fa.metrics.deletion, "infidelity": fa.metrics.infidelity}
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> table = fa.metrics.compare(methods, metrics, lambda x: (x**2).sum(1), x)
        >>> {name: {key: value.shape for key, value in row.items()} for name, row in table.items()}["gradient"]
        {'deletion': torch.Size([1]), 'infidelity': torch.Size([1])}
    """
    _check(methods, "methods", "such as {'gradient': fa.gradient}")
    _check(metrics, "metrics", "such as {'deletion': fa.metrics.deletion}")
    for name, one in metrics.items():
        if not callable(one):
            raise complaint(TypeError, f"metrics[{name!r}] must be a metric such as fa.metrics.deletion, got {kind_of(one)}.")
    options = {"target": resolved(model, x, target)} | ({} if layer is None else {"layer": layer})
    table: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        once = _once(method, model, x) if callable(method) else method
        table[name] = {key: measure(once, model, x, **options) for key, measure in metrics.items()}
    return table


def _check(given: Any, what: str, example: str) -> None:
    if not isinstance(given, Mapping):
        raise complaint(TypeError, f"{what} must be a dict of names, {example}, got {kind_of(given)}.")
    if not given:
        raise complaint(ValueError, f"{what} is empty: name at least one, {example}.")


def _once(method: Callable[..., Tree], model: Model, x: Tree) -> Callable[..., Tree]:
    """`method`, remembering what it found for this model and x; it runs anew for anything else."""
    found: list[tuple[dict[str, Any], Tree]] = []

    def remembering(given: Model, moved: Tree, /, **options: Any) -> Tree:
        if given is not model or not _same(moved, x):
            return method(given, moved, **options)
        known = next((result for before, result in found if _same(before, options)), None)
        if known is None:
            known = method(given, moved, **options)
            found.append((options, known))
        return copied(known)

    made: Any = functools.update_wrapper(remembering, method)
    made.__name__ = name_of(method)
    if told_by(method) is not None:
        made.about = about(method)
    return remembering


def _same(a: Any, b: Any) -> bool:
    """Whether two structures hold the same; where data cannot be seen, whether they are the same tensors."""
    (leaves, spec), (others, other) = tree_flatten(a), tree_flatten(b)
    return spec == other and all(p is q or _equal(p, q) for p, q in zip(leaves, others))


def _equal(p: Any, q: Any) -> bool:
    if isinstance(p, Tensor) or isinstance(q, Tensor):
        same = isinstance(p, Tensor) and isinstance(q, Tensor) and (p.dtype, p.device) == (q.dtype, q.device)
        return same and may_read() and torch.equal(p, q)
    return bool(p == q)
