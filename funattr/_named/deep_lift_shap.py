"""A method averaged over a distribution of baselines, and DeepLIFT so averaged, which shares its passes at x."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._combine.dress import chosen, combined, name_of
from .._core.door import may_read, method
from .._methods.deep_lift import Attribution, attributions, deep_lift
from .._rules.lift.passes import Task, lifted, prepare, tell
from .._steps.baselines import distribution
from .._steps.chunks import chunk_for, chunks
from .._steps.fold import pays, stacked
from .._steps.mean import Sum
from .._steps.progress import reported
from .._steps.ways import each
from .._steps.without import look
from .._torch import tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import ChunkSize, Explains, Layer, Method, Model, Target, Tree, map_tensors, tensors
from .._words import complaint, door


@method
def deep_lift_shap(
    model: Model,
    x: Tree,
    *,
    baselines: Tree,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """DeepLIFT averaged over a distribution of baselines: an estimate of SHAP values.

    ``mean_k deep_lift(x, baselines=x0_k)``. The same as ``mean_over_baselines(deep_lift)``: the pass at x runs once for all
    baselines of a chunk, and each baseline alone once, in place of once per example.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: a distribution ``[n_baselines, ...]`` in the structure of x, or a callable ``x -> baselines``.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        multiply_by_inputs: False for the mean of the multipliers themselves.
        attribution_func: ``(multipliers, value, baseline_value) -> attribution`` in place of
            ``multipliers * (value - baseline_value)``, for one tensor and one baseline at a time.
        chunk_size: how many baselines at once: less memory, and one more pass at x per chunk. None, or "auto": as many as a
            budget of memory allows; in a model so small that vmap costs more than the work, x runs once for each, in one
            batch. The result does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure of the value at the site, in units of the score. It sums to F(x) minus the mean of F over the
        baselines, to rounding.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
        >>> x, baselines = torch.randn(5, 3).double(), torch.randn(20, 3).double()
        >>> attribution = fa.deep_lift_shap(model, x, baselines=baselines, target=1)
        >>> torch.allclose(attribution.sum(1), model(x)[:, 1] - model(baselines)[:, 1].mean())
        True

    References:
        Scott Lundberg and Su-In Lee (2017), A Unified Approach to Interpreting Model Predictions.
        https://arxiv.org/abs/1705.07874
    """
    task = prepare(model, x, layer, target, create_graph)
    q = task.q
    if len(q.inner) > 1 and not tracing() and not transforms_active():
        look(q)  # whether one feeds another: the passes cannot tell under vmap
    samples, count = distribution(x, baselines, ids=bool(q.inner))
    size = min(count, chunk_for(count, chunk_size, x, shares=bool(q.inner)))
    if attribution_func is None and len(q.inner) < 2 and size == count and pays(q, count) and not create_graph:
        found = _in_one_batch(task, samples, count, multiply_by_inputs)
        tell(task)
        return q.sites.build(found)

    def against(sample: list[Tensor]) -> list[Tree]:
        values, base, multipliers = lifted(task, _one(samples, sample, x))
        return attributions(values, base, multipliers, multiply_by_inputs, attribution_func)

    total = Sum()
    for part in each(against, tensors(samples), chunk=size):
        total.add(part)
    if task.suspects and may_read():  # under vmap there is no looking at the data: look at one baseline
        lifted(task, _one(samples, [t[0] for t in tensors(samples)], x))
    tell(task)
    return q.sites.build(total.total(count))


def _in_one_batch(task: Task, samples: Tree, count: int, multiply: bool) -> list[Tree]:
    """The same from a single pass over ``[count * N, ...]``, for a model that is known to treat rows alone."""
    q = task.q
    points = [t.expand(count, *t.shape) for t in tensors(q.x)]
    reference = map_tensors(lambda t: t.repeat_interleave(q.size, 0), samples)
    values, base, multipliers = lifted(task._replace(q=stacked(q, points, list(range(len(points))))[0]), reference)
    found = attributions(values, base, multipliers, multiply, None)
    return map_tensors(lambda t: t.unflatten(0, (count, q.size)).mean(0), found)


def _one(samples: Tree, sample: list[Tensor], x: Tree) -> Tree:
    """One baseline in the structure of x, with batch 1; what has no baseline stays at x's value."""
    leaves, spec = tree_flatten(samples)
    rest = iter(sample)
    own = tree_flatten(x)[0]
    return tree_unflatten([leaf if t is None else next(rest)[None] for t, leaf in zip(leaves, own)], spec)


def _plus(a: Tree, b: Tree) -> Tree:
    (left, spec), right = tree_flatten(a), tree_flatten(b)[0]
    return tree_unflatten([p + q if isinstance(p, Tensor) else p for p, q in zip(left, right)], spec)


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
    if method is deep_lift:
        return deep_lift_shap

    def averaged(model: Model, x: Tree, *, baselines: Tree, **options: Any) -> Tree:
        samples, count = distribution(x, baselines, ids=options.get("layer") is not None)
        total: Tree = None
        for i, _ in reported(chunks(count, 1)):
            part = method(model, x, baselines=_one(samples, [t[i] for t in tensors(samples)], x), **options)
            total = part if total is None else _plus(total, part)
        return map_tensors(lambda t: t / count, total)

    return combined(averaged, f"mean_over_baselines({name_of(method)})", method, needs=["baselines"])
