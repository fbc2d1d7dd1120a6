"""Gradient SHAP: gradients at random points between random baselines and the input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import same
from .._core.door import method
from .._core.kept import drawn
from .._core.passes import Point, Question
from .._steps.baselines import distribution
from .._steps.draws import check_generator, drawn_by
from .._steps.fold import attempted, batch_dim, rows_alone
from .._steps.matching import deviations
from .._steps.path import explained
from .._steps.points import (
    at_input,
    at_points,
    at_steps,
    gathered,
    input_floats,
    slope_at,
    times_way,
    towards,
    value_at,
    width,
    with_floats,
)
from .._steps.progress import Sum, reported
from .._steps.ways import Runner, Steps
from .._torch import tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import ChunkSize, Layer, Model, Target, Tree, attributable, floats_of, map_floats, map_tensors, says, tensors
from .._words import check_count, complaint


@method
def gradient_shap(
    model: Model,
    x: Tree,
    *,
    baselines: Tree | Callable[[Tree], Tree],
    layer: Layer = None,
    target: Target = None,
    n_samples: int = 5,
    stdevs: Any = 0.0,
    generator: torch.Generator | None = None,
    multiply_by_inputs: bool = True,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tree:
    """Gradients at random points between random baselines and x, times the way: Gradient SHAP, expected gradients.

    ``mean over samples of (v(x') - v(x0)) * df/dv (x0 + a (x' - x0))`` with a uniform in [0, 1], x0 drawn from the baselines
    (for all inputs jointly) and ``x' = x + noise``. The path runs in the input; for integer inputs with a `layer`, the path
    and the noise are at the site.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        baselines: what x is compared with: a distribution ``[n_baselines, ...]``, the structure of x with these, or a callable
            ``x -> baselines``.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        n_samples: how many samples are taken for each example.
        stdevs: the standard deviation of the noise: a number, or one per input, by name or by position; integer inputs need
            none. Where the noise is at a layer, one per tensor there.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        multiply_by_inputs: True for the attribution, False for the multipliers alone.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in the unit of the score. The law: at the input its expectation
        sums to ``F(x) - mean F(baselines)`` without noise. An integer tensor has None.

    Raises:
        ValueError: there is no such layer, it does not run, the target or the baselines do not fit, or a standard deviation
            is negative.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> x, weight = torch.randn(5, 3), torch.tensor([1.0, 2.0, 3.0])
        >>> attribution = fa.gradient_shap(lambda x: x @ weight, x, baselines=torch.zeros(1, 3))
        >>> torch.allclose(attribution, x * weight)
        True

    References:
        Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, 2017, https://arxiv.org/abs/1705.07874
        Erion et al., Improving Performance of Deep Learning Models with Axiomatic Attribution Priors and Expected
        Gradients, 2021, https://arxiv.org/abs/1906.10670
    """
    check_count(n_samples, "n_samples")
    check_generator(generator)

    def attribution(q: Question, baselines: Tree) -> list[Tree]:
        # Integers cannot move in the input; what stands for them at a layer can, and the numbers beside them too.
        floats = [attributable(leaf) for leaf in tensors(q.x)]
        ids = not at_input(q) and (not any(floats) or (None in q.sites.sites and not all(floats)))
        samples, count = distribution(q.x, baselines, ids=ids)
        draws = Draws(q.x, count, n_samples, generator)
        run = _at_the_site if ids else _in_the_input
        return run(q, samples, draws, stdevs, multiply_by_inputs, chunk_size)

    return explained(attribution, model, x, layer, target, create_graph, baselines)


says(gradient_shap, baselines="several")


class Draws:
    """What is random: how far along the path, from which baseline, and noise. Drawn in an order that no chunk changes."""

    def __init__(self, x: Tree, references: int, n_samples: int, generator: torch.Generator | None):
        first = tensors(x)[0]
        for t in floats_of(x):
            if t.shape[:1] != first.shape[:1]:
                text = f"x holds a tensor {list(t.shape)} without a row for each of the {first.shape[0]} examples, for which"
                raise complaint(ValueError, f"{text} baselines are drawn: bind it to the model, with functools.partial.")
        self.generator = generator
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        size = (n_samples, first.shape[0])
        # One for each example and sample, the same for all inputs: they are drawn jointly.
        self.steps = drawn_by(torch.rand, generator, first.device, size, dtype=wide)
        self.which = drawn_by(torch.randint, generator, first.device, references, size)

    def noise(self, like: list[Tensor], stdevs: list[float], samples: int) -> list[Tensor]:
        """Noise ``[samples, ...]`` for each tensor, sample after sample."""
        if not any(stdevs):
            return [t.new_zeros(1).expand(samples, *t.shape) for t in like]
        normal = partial(drawn_by, torch.randn, self.generator)
        drawn = [[normal(t.device, t.shape, dtype=t.dtype) * s for t, s in zip(like, stdevs)] for _ in range(samples)]
        return [torch.stack(same) for same in zip(*drawn)]


def _in_the_input(q: Question, samples: Tree, draws: Draws, stdevs: Any, multiply: bool, chunk_size: ChunkSize) -> list[Tree]:
    """``mean_k g(x0_k + a_k (x_k - x0_k)) (V(x_k) - V(x0_k))`` for inputs x_k with noise and drawn baselines x0_k."""
    inputs, spread = input_floats(q), deviations(stdevs, q.x, "x")
    drawn = [t for t, x in zip(tree_flatten(samples)[0], tree_flatten(q.x)[0]) if attributable(x)]
    run, steps, total, count = Runner(), Steps(q, inputs, width(q)), Sum(), len(draws.steps)
    moves = multiply and not at_input(q)  # at the input, a value is the point itself
    own = map_tensors(lambda t: t[None], value_at(q, q.x)) if moves and not any(spread) else None
    start_of = starts(run, q, samples, draws.which, own) if moves else None
    run = steps.runner(chunk_size, run)
    for a, b in reported(steps.parts(count, chunk_size)):
        which, nodes = draws.which[a:b], draws.steps[a:b]
        ends = [t + e for t, e in zip(inputs, draws.noise(inputs, spread, b - a))]
        begins = [x.expand(b - a, *x.shape) if t is None else t[which] for t, x in zip(drawn, inputs)]  # None: held at x
        at = [towards(s, e, nodes.reshape(b - a, -1, *[1] * (e.dim() - 2))) for s, e in zip(begins, ends)]
        slopes = gathered(run, q, slope_at, at)
        if start_of is not None:
            slopes = times_way(slopes, gathered(run, q, value_at, ends) if own is None else own, start_of(which))
        elif multiply:
            slopes = times_way(slopes, [with_floats(q.x, ends)], [with_floats(q.x, begins)])
        total.add(slopes)
    found: list[Tree] = total.total(count)
    return found


def starts(run: Runner, q: Question, samples: Tree, every: Tensor, own: Tree | None) -> Callable[[Tensor], list[Tree]]:
    """The values at the sites for batches of drawn baselines, by their numbers ``[c, N]``.

    A value is that of its whole batch. Where rows are shown to stand alone, each baseline is read once, or once beside each
    example, and the values are picked: `own`, the value at x, or the first batch that is drawn, must come out the same.
    """
    leaves = tree_flatten(samples)[0]
    at = [i for i, t in enumerate(leaves) if t is not None]
    given = [leaves[i] for i in at]
    rows, (count, size) = given[0].shape[0], every.shape

    def read_at(numbers: Tensor) -> list[Tree]:
        found: list[Tree] = gathered(run, q, value_at, [t[numbers] for t in given], at)
        return found

    example = torch.arange(size, device=every.device)
    if tracing() or transforms_active():  # nothing can be shown
        return read_at
    if rows + 1 < count * size and all(t is not None for t in leaves):
        alone = _alone(q, given, value_at(q, q.x) if own is None else map_tensors(lambda t: t[0], own))
        if alone is not None:
            return lambda which: list(at_steps(alone, which))
    if rows + 1 < count:
        each = read_at(torch.arange(rows, device=every.device).unsqueeze(1).expand(rows, size))
        picked = [t[every[0], example] if t.shape[1:2] == (size,) else None for t in tensors(each)]
        if all(p is not None and same(p, t[0]) for p, t in zip(picked, tensors(read_at(every[:1])))):
            return lambda which: map_tensors(lambda t: t[which, example], each)
    return read_at


def _alone(q: Question, given: list[Tensor], own: list[Tree]) -> list[Tree] | None:
    """The values for all baselines in one pass, with the last example among them to show that rows stand alone there."""
    if rows_alone(q):
        return value_at(q, given[0])
    rows, at, x = given[0].shape[0], given[0].shape[0] // 2, tensors(q.x)
    together = [torch.cat([t[:at], leaf[-1:], t[at:]]) for t, leaf in zip(given, x)]
    found = attempted(lambda: value_at(q, tree_unflatten(together, tree_flatten(q.x)[1])))
    if found is None or drawn():
        return None
    for t, v in zip(tensors(found), tensors(own)):
        if batch_dim(v.shape, q.size, t.shape, rows + 1) != 0 or not same(t[at], v[-1]):
            return None
    return list(at_steps(found, [i for i in range(rows + 1) if i != at]))


def _point_between(q: Question, sizes: list[int], step: list[list[Tensor]]) -> Point:
    """Where a step takes the gradient at the sites, which have so many tensors each: between the drawn and the noisy value."""
    (at,), drawn, noise = step

    def moved(i: int, values: list[Tensor]) -> list[Tensor]:
        if any(v.shape[:1] != (q.size,) for v in values):
            text = "has no row for each example: choose a layer with the batch first, where baselines can be drawn."
            raise complaint(ValueError, f"{q.where(i)} {text}")
        own = slice(sum(sizes[:i]), sum(sizes[: i + 1]))
        moves = zip(drawn[own], values, noise[own])
        return [towards(s, v + e, at.reshape(-1, *[1] * (v.dim() - 1))) for s, v, e in moves]

    return moved


def _at_the_site(q: Question, samples: Tree, draws: Draws, stdevs: Any, multiply: bool, chunk_size: ChunkSize) -> list[Tree]:
    """The same for integer inputs, where a path can only run at the sites: baselines and noise are there too."""
    run, total, count = Runner(), Sum(), len(draws.steps)
    start = starts(run, q, samples, draws.which, None)(draws.which)
    begins = [floats_of(value) for value in start]
    first = [t[0] for part in begins for t in part]
    spread = deviations(stdevs, q.sites.build(map_tensors(lambda t: t[0], start)), "the value at the site")

    steps = Steps(q, first, width(q), shares=True)
    run, point = steps.runner(chunk_size, run), partial(_point_between, q, [len(part) for part in begins])
    for a, b in reported(steps.parts(count, chunk_size)):
        noise = draws.noise(first, spread, b - a)
        part = [[draws.steps[a:b]], [t[a:b] for t in floats_of(start)], noise]
        done = 0
        for values, slopes in at_points(run, q, part, point):
            here = slice(done, done + tensors(slopes)[0].shape[0])
            moves = itertools.cycle([v + e[here] - s[here] for v, e, s in zip(floats_of(values), noise, part[1])])
            total.add(map_floats(lambda g, m=moves: g * next(m), slopes) if multiply else slopes)
            done = here.stop
    found: list[Tree] = total.total(count)
    return found
