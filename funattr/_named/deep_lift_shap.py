"""DeepLIFT averaged over a distribution of baselines, which shares its passes at x."""

from __future__ import annotations

from torch import Tensor

from .._combine.baselines import one_of
from .._core.door import method
from .._core.passes import Question
from .._core.where import weights
from .._methods.deep_lift import Attribution, attributed, deep_lift
from .._rules.lift.complete import Notes, tell
from .._rules.lift.passes import Task, asked
from .._steps.baselines import distribution
from .._steps.fold import rows_alone, stacked, taken
from .._steps.path import for_each
from .._steps.progress import Sum, reported
from .._steps.ways import Steps
from .._steps.without import look
from .._torch import tracing, transforms_active
from .._types import ChunkSize, Layer, Model, Target, Tree, map_tensors, says, tensors


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

    def found(q: Question) -> list[Tree]:
        return _averaged(Task(q, Notes()), x, baselines, multiply_by_inputs, attribution_func, chunk_size)

    return for_each(asked(model, x, layer, target, create_graph), found)


def _averaged(
    task: Task, x: Tree, baselines: Tree, multiply: bool, func: Attribution | None, chunk_size: ChunkSize
) -> list[Tree]:
    q = task.q
    if len(q.sites.sites) > 1 and not tracing() and not transforms_active():
        look(q)  # whether one feeds another: the passes cannot tell under vmap
    samples, count = distribution(x, baselines, ids=bool(q.inner))
    steps = Steps(q, x, shares=bool(q.inner), own=False)
    parts = steps.parts(count, chunk_size)
    if func is None and len(q.sites.sites) < 2 and len(parts) < 2 and _pays(q, count) and not q.create_graph:
        return _in_one_batch(task, samples, count, multiply)

    def against(sample: list[Tensor]) -> tuple[list[Tree], Tensor | None]:
        return attributed(task, one_of(samples, sample, x), multiply, func)

    run, total = steps.runner(chunk_size), Sum()
    for a, b in reported(parts):
        for part in run(against, [t[a:b] for t in tensors(samples)]):
            total.add(part)
    found: list[Tree]
    found, gap = total.total(count)
    tell(task.notes, gap)
    return found


#: Multiplications, about, that take no longer than entering vmap.
SMALL = 1 << 18


def _pays(q: Question, count: int) -> bool:
    """Whether one batch is exact without a look, and all that the model does with `count` copies is less than vmap costs."""
    if taken.alone and not transforms_active():
        return True
    if tracing() or transforms_active() or not rows_alone(q):
        return False
    uses = max(1, count * (q.x.shape[0] if q.x.dim() == 2 else q.x.numel()))  # of each weight, at most
    total: int = uses * sum(weight.numel() for weight in weights(q.bound.root))
    return total <= SMALL


def _in_one_batch(task: Task, samples: Tree, count: int, multiply: bool) -> list[Tree]:
    """The same from a single pass over ``[count * N, ...]``, of a model that is known to treat rows alone."""
    q = task.q
    points = [t.expand(count, *t.shape) for t in tensors(q.x)]
    reference = map_tensors(lambda t: t.repeat_interleave(q.size, 0), samples)
    whole = task._replace(q=stacked(q, points, list(range(len(points))))[0])
    found, gap = attributed(whole, reference, multiply, None, alike=count == 1)
    tell(task.notes, gap)
    mean: list[Tree] = map_tensors(lambda t: t.unflatten(0, (count, q.size)).mean(0), found)
    return mean


says(deep_lift, mean=deep_lift_shap)
says(deep_lift_shap, baselines="several")
