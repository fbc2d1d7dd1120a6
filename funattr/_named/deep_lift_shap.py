"""DeepLIFT averaged over a distribution of baselines, which shares its passes at x."""

from __future__ import annotations

from torch import Tensor

from .._combine.baselines import one_of
from .._core.door import may_read, method, noisy_modules
from .._core.joint import look
from .._core.watch import Watch
from .._methods.deep_lift import Attribution, attributions, deep_lift
from .._rules.lift.passes import Task, lifted, prepare, tell
from .._steps.along import Mould, floats_at, sizes_beside_batch
from .._steps.baselines import distribution, holds_batch, one_batch
from .._steps.chunks import chunk_for, given_chunk
from .._steps.fold import repeated_target, small
from .._steps.mean import Sum
from .._steps.ways import each, raised_by_model
from .._torch import tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import ChunkSize, Layer, Model, Target, Tree, batch_size, map_floats, map_tensors, says, tensors


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
    baselines of a chunk, and each baseline alone once, in place of once per example. In a model so small that vmap costs more
    than the work, x runs once for each, in one batch.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what x is compared with: a distribution ``[n_baselines, ...]``, the structure of x with these, or a callable
            ``x -> baselines``.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        multiply_by_inputs: True for the attribution, False for the multipliers alone.
        attribution_func: ``(multipliers, value, baseline_value) -> attribution`` in place of
            ``multipliers * (value - baseline_value)``, for one tensor at a time.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
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
    if len(task.inner) > 1 and not tracing() and not transforms_active():
        # Whether one feeds another: the passes cannot tell under vmap.
        look(task.bound, task.x, task.sites, Watch(task.bound, task.x, task.sites.sites, task.target))
    samples, count = distribution(x, baselines, ids=bool(task.inner))
    if attribution_func is None and given_chunk(chunk_size) is None and _may_share_a_batch(task, count):
        found = _in_one_batch(task, samples, count, multiply_by_inputs)
        if found is not None:
            tell(task)
            return found

    mould = Mould()

    def against(sample: list[Tensor]) -> list[Tensor]:
        values, base, multipliers = lifted(task, one_of(samples, sample, x))
        mould.keep(values)
        return floats_at(attributions(values, base, multipliers, multiply_by_inputs, attribution_func))

    size = chunk_for(count, chunk_size, x, shares=bool(task.inner))
    total, like = Sum(), tensors(samples)
    for part in each(against, tensors(samples), chunk=min(size, count)):
        total.add(part)
        like = part
    if task.suspects and may_read():  # under vmap there is no looking at the data: look at one baseline
        lifted(task, one_of(samples, [t[0] for t in tensors(samples)], x))
    tell(task)
    return mould.fill(total.total(like, count), task.sites)


def _may_share_a_batch(task: Task, count: int) -> bool:
    """Whether the pass at x may run once for each baseline, in one batch."""
    if task.create_graph or len(task.inner) > 1 or not small(task.bound, task.x, count):
        return False
    rows = batch_size(task.x)
    if task.inner and count * rows in sizes_beside_batch(task.bound, task.x):  # a layer's value may be that of all examples
        return False
    return not holds_batch(task.model, rows) and one_batch(task.x, rows) and not noisy_modules(task.model)


def _in_one_batch(task: Task, samples: Tree, count: int, multiply: bool) -> Tree | None:
    """The same from a single pass over ``[count * N, ...]``; None where the model wants just its batch."""
    size, mixed = batch_size(task.x), list[bool]()
    x = map_tensors(lambda t: t.expand(count, *t.shape).flatten(0, 1), task.x)
    leaves, spec = tree_flatten(samples)
    given = zip(leaves, tree_flatten(x)[0])
    reference = tree_unflatten([own if t is None else t.repeat_interleave(size, 0) for t, own in given], spec)
    target = repeated_target(task.bound, task.x, task.target, count, mixed)
    try:
        values, base, multipliers = lifted(task._replace(x=x, target=target), reference)
    except (RuntimeError, ValueError) as error:
        if raised_by_model(error):
            raise
        return None
    found = attributions(values, base, multipliers, multiply, None)
    if any(mixed) or any(t.shape[:1] != (count * size,) or count * size in t.shape[1:] for t in tensors(found)):
        return None
    return task.sites.build([map_floats(lambda t: t.unflatten(0, (count, size)).mean(0), part) for part in found])


says(deep_lift, mean=deep_lift_shap)
says(deep_lift_shap, baselines="several")
