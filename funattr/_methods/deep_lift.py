"""DeepLIFT: the difference from a baseline, divided among the inputs by rules that lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from .._core.door import method
from .._core.passes import Question
from .._rules.lift.complete import Notes, tell
from .._rules.lift.passes import Task, asked, lifted
from .._steps.baselines import references
from .._steps.path import for_each
from .._steps.points import for_all
from .._types import Layer, Model, Target, Tree, map_floats
from .._words import complaint, kind_of

#: What replaces ``multipliers * (value - baseline_value)``.
Attribution = Callable[[Tensor, Tensor, Tensor], Tensor]


@method
def deep_lift(
    model: Model,
    x: Tree,
    *,
    baselines: Tree = 0.0,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    attribution_func: Attribution | None = None,
    create_graph: bool = False,
) -> Tree:
    """DeepLIFT: the difference of the score from a baseline, divided among the inputs by rules that lose nothing.

    ``m * (v - v0)`` with multipliers m from a backward pass in which each nonlinear operation ``y(x)`` has the slope
    ``(y - y0) / (x - x0)`` between the baseline and x (the rescale rule), and each product ``d(xy) = dx (y + y0) / 2 +
    dy (x + x0) / 2``. Max pooling, softmax, attention, normalisation and recurrent layers have rules to the same end. How
    the model spells an operation (module, function, method, in place, reused) changes nothing. Where one baseline
    serves a whole batch, what its rows have in common is computed once. Several layers are one joint site, and must not
    depend on each other.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what x is compared with: a number, a tensor that broadcasts to x (batch 1 or N), or the structure of x.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        multiply_by_inputs: True for the attribution, False for the multipliers alone.
        attribution_func: ``(multipliers, value, baseline_value) -> attribution`` in place of
            ``multipliers * (value - baseline_value)``, for one tensor at a time.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure of the value at the site, in units of the score (the multipliers: score per unit of the value). At the
        input, and at layers that cut the graph, it sums to F(x) - F(baselines), to rounding; where not, a warning says so.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, layers depend on each
            other, or the model takes different paths at x and at the baseline.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)).double()
        >>> x = torch.randn(5, 3).double()
        >>> attribution = fa.deep_lift(model, x, target=1)
        >>> torch.allclose(attribution.sum(1), (model(x) - model(torch.zeros(1, 3).double()))[:, 1])
        True

    References:
        Avanti Shrikumar, Peyton Greenside, Anshul Kundaje (2017), Learning Important Features Through Propagating
        Activation Differences. https://arxiv.org/abs/1704.02685
    """

    def found(q: Question) -> list[Tree]:
        task = Task(q, Notes())
        divided, gap = attributed(task, references(x, baselines, ids=bool(q.inner)), multiply_by_inputs, attribution_func)
        tell(task.notes, gap)
        return divided

    return for_each(asked(model, x, layer, target, create_graph), found)


def attributed(
    task: Task, reference: Tree, multiply: bool, func: Attribution | None, alike: bool = True
) -> tuple[list[Tree], Tensor | None]:
    """What the multipliers make of the differences, site by site; and what that misses of the difference of the scores."""
    values, base, multipliers, products, gap = lifted(task, reference, alike)
    if func is None:
        return products if multiply else multipliers, gap
    parts = zip(for_all(multipliers, values), for_all(multipliers, base), multipliers)
    return [map_floats(partial(_own, func), *part) for part in parts], gap


def _own(func: Any, value: Tensor, reference: Tensor, m: Tensor) -> Tensor:
    """What the caller's function makes of the multipliers."""
    if not callable(func):
        text = f"attribution_func must be a function of (multipliers, value, baseline_value), got {kind_of(func)}."
        raise complaint(TypeError, text)
    found: Any = func(m, value, reference.expand_as(value))
    if not isinstance(found, Tensor):
        raise complaint(TypeError, f"attribution_func returned {kind_of(found)}, expected a tensor.")
    if found.shape[:1] != value.shape[:1]:
        text = f"attribution_func returned a tensor {list(found.shape)} for the value {list(value.shape)}: keep its rows."
        raise complaint(ValueError, text)
    return found
