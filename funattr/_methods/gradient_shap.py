"""Gradient SHAP: gradients at random points between random baselines and the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.door import method
from .._core.place import read
from .._steps.along import Job, asked, floats_at, floats_of, slope_at, towards, value_at
from .._steps.at_points import at_points
from .._steps.baselines import distribution, full_batch, holds_batch, one_batch
from .._steps.chunks import check_count, chunk_for, parts
from .._steps.draws import seeded
from .._steps.matching import by_site, deviations
from .._steps.mean import Sum, check_rows
from .._steps.path import gathered
from .._steps.progress import reported
from .._steps.ways import check_generator
from .._torch import tree_flatten, tree_unflatten
from .._types import ChunkSize, Layer, Model, Target, Tree, attributable, says, tensors
from .._words import complaint


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

    def attribution(job: Job, baselines: Tree) -> Tree:
        ids = not any(attributable(leaf) for leaf in tensors(job.x)) and not job.at_input()
        references, count = distribution(job.x, baselines, ids=ids)
        draws = Draws(job.x, count, n_samples, generator)
        run = _at_the_site if ids else _in_the_input
        return job.result(run(job, references, draws, stdevs, multiply_by_inputs, chunk_size))

    return asked(attribution, model, x, layer, target, create_graph, baselines)


says(gradient_shap, draws=True, baselines="several")


class Draws:
    """What is random: how far along the path, from which baseline, and noise. Drawn in an order that no chunk changes."""

    def __init__(self, x: Tree, references: int, n_samples: int, generator: torch.Generator | None):
        first = tensors(x)[0]
        self.generator = generator
        self.device = first.device if generator is None else generator.device
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        size = (n_samples, first.shape[0])
        # One for each example and sample, the same for all inputs: they are drawn jointly.
        self.steps = torch.rand(size, device=self.device, dtype=wide, **seeded(generator)).to(first.device)
        self.which = torch.randint(references, size, device=self.device, **seeded(generator)).to(first.device)

    def noise(self, like: list[Tensor], stdevs: list[float], samples: int) -> list[Tensor]:
        """Noise ``[samples, ...]`` for each tensor, sample after sample."""
        if not any(stdevs):
            return [t.new_zeros(1).expand(samples, *t.shape) for t in like]
        drawn = [[self._normal(t) * stdev for t, stdev in zip(like, stdevs)] for _ in range(samples)]
        return [torch.stack(same) for same in zip(*drawn)]

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, device=self.device, dtype=like.dtype, **seeded(self.generator)).to(like.device)


def _in_the_input(job: Job, references: Tree, draws: Draws, stdevs: Any, multiply: bool, chunk_size: ChunkSize) -> list[Tensor]:
    """``mean_k g(x0_k + a_k (x_k - x0_k)) (V(x_k) - V(x0_k))`` for inputs x_k with noise and drawn baselines x0_k."""
    inputs, stdevs = job.input_floats(), deviations(stdevs, job.x, "x")
    # What has no baseline is held at x: the same for every draw.
    own = zip(*(tree_flatten(tree)[0] for tree in (job.x, references)))
    starts = [x if drawn is None else drawn for x, drawn in own if attributable(x)]
    held = [x is start for x, start in zip(inputs, starts)]
    at_input = job.at_input()
    known = None if at_input or not multiply else _values_of_references(job, references, len(draws.steps))
    value = None if at_input or not multiply or any(stdevs) else value_at(job, job.x)
    total, like = Sum(), inputs
    count = len(draws.steps)
    for a, b in reported(parts(count, chunk_size, inputs, shares=False)):
        steps, which = draws.steps[a:b], draws.which[a:b]
        ends = [t + e for t, e in zip(inputs, draws.noise(inputs, stdevs, b - a))]
        begins = [t.expand(b - a, *t.shape) if same else t[which] for t, same in zip(starts, held)]
        at = [towards(s, e, steps.reshape(b - a, -1, *[1] * (e.dim() - 2))) for s, e in zip(begins, ends)]
        like = gathered(job, slope_at, at)
        if not multiply:
            total.add(like)
            continue
        if not at_input:
            begins = known(which) if known is not None else gathered(job, value_at, begins)
            ends = [t[None] for t in value] if value is not None else gathered(job, value_at, ends)
        total.add([g * (e - s) for g, e, s in zip(like, ends, begins)])
    return total.total(like, count)


def _values_of_references(job: Job, references: Tree, samples: int) -> Callable[[Tensor], list[Tensor]] | None:
    """Picks the values at the sites for baselines that are drawn; None where it takes less to read what each draw needs.

    A model that looks at each example alone reads each baseline once. One that has something for each example (a mask) reads
    it for all examples, where there are more draws than baselines.
    """
    rows = tensors(references)[0].shape[0]
    alone = all(map(attributable, tree_flatten(references)[0])) and one_batch(job.x, job.size)
    if alone and not holds_batch(job.model, job.size):
        found = value_at(job, references)
        if all(t.dim() > 0 and t.shape[0] == rows for t in found):
            return lambda which: [t[which] for t in found]
    if rows >= samples:
        return None
    first = floats_at(_read_one(job, references, 0))
    if any(t.dim() == 0 or t.shape[0] != job.size for t in first) or chunk_for(rows, None, first, shares=True) < rows:
        return None
    each = [first, *(floats_at(_read_one(job, references, row)) for row in range(1, rows))]
    for part in each:
        check_rows(first, part)
    every = [torch.stack(same) for same in zip(*each)]
    return lambda which: [t[which, torch.arange(job.size, device=which.device)] for t in every]


def _at_the_site(job: Job, references: Tree, draws: Draws, stdevs: Any, multiply: bool, chunk_size: ChunkSize) -> list[Tensor]:
    """The same for integer inputs, where a path can only run at the sites: baselines and noise are there too."""
    count, size = len(draws.steps), job.size
    rows = tensors(references)[0].shape[0]
    held = any(
        isinstance(t, Tensor) and own is None for t, own in zip(*(tree_flatten(tree)[0] for tree in (job.x, references)))
    )
    if one_batch(job.x, size) and not held and not holds_batch(job.model, size):
        values = read(job.bound, references, job.first)
        per_site = [[_rows(t, rows)[draws.which] for t in floats_of(value)] for value in values]
    else:
        each = [_read_one(job, references, row) for row in range(rows)]
        values = each[0]
        examples = torch.arange(size, device=draws.which.device)
        per_site = [
            [
                torch.stack([_rows(t, size) for t in same])[draws.which, examples]
                for same in zip(*(floats_of(values[i]) for values in each))
            ]
            for i in range(len(job.first))
        ]
    starts = [t for part in per_site for t in part]
    given = zip(by_site(stdevs, job.sites, "stdevs"), values)
    stdevs = [stdev for own, value in given for stdev in deviations(own, value, "the value at the site")]
    offsets = [0]
    for part in per_site:
        offsets.append(offsets[-1] + len(part))

    def point(step: list[Tensor], values: list[Tensor], i: int) -> list[Tensor]:
        at, own = step[0], slice(1 + offsets[i], 1 + offsets[i + 1])
        noise = step[1 + len(starts) :][offsets[i] : offsets[i + 1]]
        moves = zip(step[own], values, noise)
        return [towards(s, v + e, at.reshape(-1, *[1] * (v.dim() - 1))) for s, v, e in moves]

    total, like = Sum(), starts
    for a, b in reported(parts(count, chunk_size, [t[0] for t in starts], shares=True)):
        noise = draws.noise([t[0] for t in starts], stdevs, b - a)
        part = [draws.steps[a:b], *(t[a:b] for t in starts), *noise]
        done = 0
        for values, slopes in at_points(job, part, point):
            here, like = slice(done, done + len(slopes[0])), slopes
            done += len(slopes[0])
            moves = [v + e[here] - s[here] for v, e, s in zip(values, noise, part[1:])]
            total.add([g * m for g, m in zip(slopes, moves)] if multiply else slopes)
    return total.total(like, count)


def _rows(value: Tensor, rows: int) -> Tensor:
    if value.dim() == 0 or value.shape[0] != rows:
        raise complaint(ValueError, "the value at the site has no row for each example: choose a layer with the batch first.")
    return value


def _read_one(job: Job, references: Tree, row: int) -> list[Tree]:
    """The values at the sites for one of the baselines, for all examples; what has no baseline stays at x's value."""
    leaves, spec = tree_flatten(job.x)
    given = zip(leaves, tree_flatten(references)[0])
    one = tree_unflatten([leaf if own is None else own[row : row + 1] for leaf, own in given], spec)
    return read(job.bound, full_batch(one, job.x), job.first)
