"""Methods along a straight path from the baselines to the input: at the site, or in the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from .._core.checks import check_dense
from .._core.door import method
from .._core.passes import Question
from .._steps.adaptive import flow_within, slope_within, told
from .._steps.baselines import full_batch, references
from .._steps.path import Path, asked, explained, flow, input_path, site_path, slope_along
from .._steps.points import at_input, score_at
from .._steps.quadrature import Quadrature, Tolerance, rates_for, rule_for, tolerance
from .._types import ChunkSize, Layer, Model, Target, Tree, says, tensors
from .._words import complaint, door, kind_of


@method
def integrated_gradients(
    model: Model,
    x: Tree,
    *,
    baselines: Tree = 0.0,
    layer: Layer = None,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """The mean gradient along a straight path from the baselines, times the way: Integrated Gradients.

    ``(v - v0) * mean over a in [0, 1] of df/dv (v0 + a (v - v0))``: with `layer`, the path runs at the site, from the value
    for the baselines to the value for x. What lies before the site runs once per chunk. Several layers are one joint path, and
    must not depend on each other. For integer inputs with a `layer`, baselines are ids; a number is one id for all positions.
    What has None there stays as it is in x; with a number, so do a dict's masks, position and token type ids.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what x is compared with: a number, a tensor that broadcasts to x (batch 1 or N), or the structure of x.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        n_steps: how many nodes on the path.
        quadrature: the rule: ``"gausslegendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"``,
            ``"riemann_trapezoid"``, or a callable ``n -> (nodes, weights)`` on [0, 1]. Weights sum to 1.
        rtol: the tolerance: how large the error of an example may be, as a part of the norm of its result. Each example then
            takes as many nodes as that needs, 15 at least and `n_steps` at most; where these run out, there is a warning. None:
            `n_steps` nodes, whatever the error is.
        return_error: True for ``(result, error [N])``: the error that is estimated for each example, as a norm. Needs `rtol`.
        multiply_by_inputs: True for the attribution, False for the multipliers alone.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in the unit of the score. The law: at a site that cuts the graph it
        sums to ``F(x) - F(baselines)`` for each example, but for the error of the quadrature. An integer tensor has None.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, or the layers depend on
            each other.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        >>> x = torch.randn(5, 3, dtype=torch.float64)
        >>> attribution = fa.integrated_gradients(model, x, target=0)
        >>> fa.convergence_delta(attribution, model, x, target=0).abs().max().item() < 1e-9
        True

    References:
        Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, 2017, https://arxiv.org/abs/1703.01365
    """
    within = tolerance(rtol, return_error, n_steps, quadrature)
    rule = rule_for(quadrature, n_steps if within is None else 1)

    def path(q: Question, baselines: Tree) -> Path:
        return (input_path if at_input(q) else site_path)(q, baselines)

    def refined(q: Question, baselines: Tree, within: Tolerance) -> Refined:
        return slope_within(path(q, baselines), within, chunk_size, whole_way=multiply_by_inputs)

    def attribution(q: Question, baselines: Tree) -> list[Tree]:
        return slope_along(path(q, baselines), rule, chunk_size, whole_way=multiply_by_inputs)

    return _answer(attribution, refined, within, model, x, layer, target, create_graph, baselines)


#: The result at each site, and its error for each example.
Refined: TypeAlias = tuple[list[Tree], Tensor]


def _answer(fixed: Callable[..., list[Tree]], refined: Callable[..., Refined], within: Tolerance | None, *asking: Any) -> Tree:
    """What is found with so many nodes, for each target where several share passes; or to a tolerance."""
    if within is None:
        return explained(fixed, *asking)
    return asked(lambda q, baselines: told(q, refined(q, baselines, within), within), *asking)


@method
def internal_influence(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """The mean gradient at a site while the input moves straight from the baselines to x: internal influence.

    ``mean over a in [0, 1] of df/dv (x0 + a (x - x0))``, for the value ``v`` at the site.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        baselines: what x is compared with: a number, a tensor that broadcasts to x (batch 1 or N), or the structure of x.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        n_steps: how many nodes on the path.
        quadrature: the rule: ``"gausslegendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"``,
            ``"riemann_trapezoid"``, or a callable ``n -> (nodes, weights)`` on [0, 1]. Weights sum to 1.
        rtol: the tolerance: how large the error of an example may be, as a part of the norm of its result. Each example then
            takes as many nodes as that needs, 15 at least and `n_steps` at most; where these run out, there is a warning. None:
            `n_steps` nodes, whatever the error is.
        return_error: True for ``(result, error [N])``: the error that is estimated for each example, as a norm. Needs `rtol`.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site; the unit is score per unit of the value. An integer tensor has None.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers to move.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> influence = fa.internal_influence(model, torch.randn(5, 3), layer="1", target=0)
        >>> torch.allclose(influence, model[2].weight[0].expand(5, 4))
        True

    References:
        Leino et al., Influence-Directed Explanations for Deep Convolutional Networks, 2018,
        https://arxiv.org/abs/1802.03788
    """
    within = tolerance(rtol, return_error, n_steps, quadrature)
    rule = rule_for(quadrature, n_steps if within is None else 1)

    def refined(q: Question, baselines: Tree, within: Tolerance) -> Refined:
        return slope_within(input_path(q, baselines), within, chunk_size, whole_way=False)

    def influence(q: Question, baselines: Tree) -> list[Tree]:
        return slope_along(input_path(q, baselines), rule, chunk_size, whole_way=False)

    return _answer(influence, refined, within, model, x, layer, target, create_graph, baselines)


@method
def conductance(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    baselines: Tree = 0.0,
    target: Target = None,
    n_steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    rtol: float | None = None,
    return_error: bool = False,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """What flows through each feature of a site while the input moves straight from the baselines to x: conductance.

    ``integral over a in [0, 1] of df/dv * dv/da`` along ``x0 + a (x - x0)``: gradients at the nodes, times the rates of change
    of the value there, each from the values at the eight nearest nodes. What it misses at a kink is added at the mean gradient.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        baselines: what x is compared with: a number, a tensor that broadcasts to x (batch 1 or N), or the structure of x.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        n_steps: how many nodes on the path.
        quadrature: the rule: ``"gausslegendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"``,
            ``"riemann_trapezoid"``, or a callable ``n -> (nodes, weights)`` on [0, 1]. Weights sum to 1.
        rtol: the tolerance: how large the error of an example may be, as a part of the norm of its result. Each example then
            takes as many nodes as that needs, 15 at least and `n_steps` at most; where these run out, there is a warning. None:
            `n_steps` nodes, whatever the error is.
        return_error: True for ``(result, error [N])``: the error that is estimated for each example, as a norm. Needs `rtol`.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in the unit of the score. The law: at a site that cuts the graph it
        sums to ``F(x) - F(baselines)`` for each example, but for the error of the quadrature; at the input it is
        `integrated_gradients`. An integer tensor has None.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, or the score has no graph.
        TypeError: an argument is of the wrong type, or there are only integers to move.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        >>> x = torch.randn(5, 3, dtype=torch.float64)
        >>> fa.convergence_delta(fa.conductance(model, x, layer="1", target=0), model, x, target=0).abs().max().item() < 1e-9
        True

    References:
        Dhamdhere, Sundararajan & Yan, How Important Is a Neuron?, 2018, https://arxiv.org/abs/1805.12233
        Shrikumar, Su & Kundaje, Computationally Efficient Measures of Internal Neuron Importance, 2018,
        https://arxiv.org/abs/1807.09946
    """
    within = tolerance(rtol, return_error, n_steps, quadrature)
    rates = rates_for(quadrature, n_steps if within is None else 1)

    def refined(q: Question, baselines: Tree, within: Tolerance) -> Refined:
        if at_input(q):  # the value moves evenly
            return slope_within(input_path(q, baselines), within, chunk_size, whole_way=True)
        return flow_within(q, baselines, within, chunk_size)

    def through(q: Question, baselines: Tree) -> list[Tree]:
        if at_input(q):
            return slope_along(input_path(q, baselines), rule_for(quadrature, n_steps), chunk_size, whole_way=True)
        return flow(q, rates, baselines, chunk_size)

    return _answer(through, refined, within, model, x, layer, target, create_graph, baselines)


says(internal_influence, baselines="path")
says(conductance, baselines="path")


@door
def convergence_delta(attributions: Tree, model: Model, x: Tree, *, baselines: Tree = 0.0, target: Target = None) -> Tensor:
    """How far attributions are from completeness: their sum minus what the score gains from the baselines to x.

    ``sum(attributions) - (F(x) - F(baselines))``, for each example.

    Args:
        attributions: what a method returned: tensors ``[N, ...]``, in any structure.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what x is compared with: a number, a tensor that broadcasts to x (batch 1 or N), or the structure of x.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.

    Returns:
        ``[N]``, in the unit of the score. The law: 0 for a complete method, but for the error of its quadrature.

    Raises:
        ValueError: the target or the baselines do not fit, or an attribution has no row for each example.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> fa.convergence_delta(x * 3, lambda x: 3 * x.sum(1), x)
        tensor([0.])
    """
    delta: Tensor = _delta(model, x, attributions=attributions, baselines=baselines, target=target)
    return delta


@method
def _delta(model: Model, x: Tree, *, attributions: Tree, baselines: Tree, target: Target) -> Tree:
    def delta(q: Question, attributions: Tree, baselines: Tree) -> Tree:
        start = full_batch(references(q.x, baselines, ids=True), q.x)
        total = score_at(q, start) - score_at(q, q.x)
        found = tensors(attributions)
        if not found:
            raise complaint(TypeError, f"attributions must be tensors [N, ...], in any structure, got {kind_of(attributions)}.")
        for t in found:
            check_dense(t, "an attribution")
            if t.dim() == 0 or t.shape[0] != q.size:
                text = f"attributions {list(t.shape)} have no row for each of the {q.size} examples of x."
                raise complaint(ValueError, text)
            total = total + t.reshape(q.size, t.shape[1:].numel()).sum(1)  # of no example, too
        return total.detach()  # forward mode takes no heed of no_grad

    return asked(delta, model, x, None, target, False, attributions, baselines)
