"""Whether attributions say what moving the features does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.passes import Question, Unfused, forward, read, runs_fused, scores
from .._steps.chunks import given_chunk
from .._steps.draws import check_generator, drawn_by, normal_from
from .._steps.matching import at_sites, fit, ranges
from .._steps.path import ready
from .._steps.points import along, at_input, score_at, together
from .._steps.progress import reported
from .._steps.ways import Runner, Steps
from .._steps.without import look
from .._torch import tree_flatten
from .._types import ChunkSize, Layer, Model, Target, Tree, copied, filled, in_double, tensors
from .._words import check_count, check_real, check_size, complaint, kind_of
from ._judged import attributions, check_place, check_shape, fitted, metric, resolved


@metric
def infidelity(
    explained: Any,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    baselines: Any = 0.0,
    perturb: float | Callable[[Tree, torch.Generator | None], Tree] | None = None,
    n_samples: int = 10,
    multiply_by_inputs: bool = True,
    normalize: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
    create_graph: bool = False,
) -> Tensor:
    """How far attributions are from what moving the features does to the score: infidelity.

    ``mean over s of (I_s a - (F(x) - F(x_s)))^2`` for attributions ``a`` and moved values ``x_s``, with
    ``I = (x - x_s) / (x - baseline)``, the share of each feature that is taken away, or ``I = x - x_s``.

    Args:
        explained: a method, called once, ``explained(model, x, target=target)``, with `layer` where one is named; or what it
            returned. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        baselines: what stands in for a feature, at the site: a number, a tensor that broadcasts to the value (batch 1 or
            N), or the structure of the value.
        perturb: how the value moves. None: each feature is at its baseline with probability 1/2; a number: less normal noise of
            that standard deviation; or a callable ``(value at the site, generator) -> x_s`` of the same structure, called
            `n_samples` times, one after another.
        n_samples: how many samples are taken, the same for each example.
        multiply_by_inputs: what the attributions are. True: they sum to differences of the score (integrated gradients,
            ablation, shapley), and are taken by the share that moves; False: slopes (`gradient`), taken by the way.
        normalize: True scales the attributions by what fits best, ``mean(I a (F(x) - F(x_s))) / mean((I a)^2)``: the
            result does not depend on their size.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        ``[N]``, in the unit of the score, squared; 0 is best. The law: an additive score's own terms have 0, and so has the
        gradient of a linear score, with a number for `perturb` and without `multiply_by_inputs`.

    Raises:
        ValueError: attributions, baselines or what `perturb` returns do not fit the value, there are NaN or inf, or `n_samples`
            is below 1.
        TypeError: an argument is of the wrong type, or noise is asked for where there are only integers.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.randn(4, 3, dtype=torch.float64)
        >>> found = fa.metrics.infidelity(fa.input_x_gradient, lambda x: 2 * x.sum(1), x)
        >>> bool((found < 1e-20).all())
        True

    References:
        Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, https://arxiv.org/abs/1901.09392
    """
    check_count(n_samples, "n_samples")
    check_generator(generator)
    given_chunk(chunk_size)
    if perturb is not None and not callable(perturb):
        check_real(perturb, "perturb", "None, a standard deviation, or a callable (value, generator) -> moved value")
        check_size(perturb, "perturb, a standard deviation,")
    target = resolved(model, x, target)
    found = attributions(explained, model, x, layer, target, create_graph=create_graph)
    with torch.set_grad_enabled(create_graph):
        q = ready(model, x, layer, target, create_graph)
        if runs_fused(q.bound.root):
            q = q._replace(bound=q.bound.under(Unfused()))  # one form for all steps: alone, a step might run fused
        site = _site(q, found, baselines)
        check_place(explained, layer)
        dots, scored = _sampled(q, site, _moves(q, site, perturb, generator), n_samples, multiply_by_inputs, chunk_size)
        square = _mean_square(dots[1:], scored[0] - scored[1:], normalize)
    return square.to(torch.promote_types(scored.dtype, tensors(found)[0].dtype))


class _Site(NamedTuple):
    """The leaves of the values at all sites, in one row."""

    values: list[Tree]
    leaves: list[Any]
    labels: list[str]  # what messages call the value that each is of
    phi: list[Tensor | None]
    base: list[Any]


def _site(q: Question, found: Tree, baselines: Any) -> _Site:
    if len(q.sites.sites) > 1:
        look(q)  # that none of them depends on another
    values = read(q)
    known = ranges(baselines)
    leaves = tree_flatten(values)[0]
    labels = [q.where(i) for i, value in enumerate(values) for _ in tree_flatten(value)[0]]
    phi: list[Tensor | None] = [*chain.from_iterable(fitted(q, found, values))]
    given = at_sites(baselines, q, values, "baselines")
    base: list[Tensor | None] = []
    for leaf, one, at, where in zip(leaves, phi, chain.from_iterable(given), labels):
        if one is None:
            base.append(None)
            continue
        if leaf.is_complex():
            raise complaint(TypeError, f"{where} is complex ({leaf.dtype}), and moves are of real numbers.")
        check_shape(one, leaf, where, shared=False)
        base.append(fit(leaf, at, known, where))
    return _Site(values, leaves, labels, phi, base)


def _moves(q: Question, site: _Site, perturb: Any, generator: torch.Generator | None) -> Callable[[], list[Any]]:
    """What gives the leaves moved, one draw after another."""
    if callable(perturb):
        return lambda: _perturbed(q, site, perturb, generator)
    if perturb is None:
        coin = partial(drawn_by, torch.rand, generator)
        return lambda: [
            leaf if base is None else torch.where(coin(leaf.device, leaf.shape[1:]) < 0.5, base, leaf)
            for leaf, base in zip(site.leaves, site.base)
        ]
    noisy = [base is not None and leaf.is_floating_point() for leaf, base in zip(site.leaves, site.base)]
    if not any(noisy):
        text = f"perturb={perturb} is noise, and there are only integers to move"
        raise complaint(TypeError, f"{text}: leave it out, which puts features at their baselines, or pass a callable.")
    draw = normal_from(generator)
    return lambda: [
        leaf - perturb * draw(leaf.shape[1:], leaf.dtype, leaf.device) if takes else leaf
        for leaf, takes in zip(site.leaves, noisy)
    ]


def _perturbed(q: Question, site: _Site, perturb: Any, generator: torch.Generator | None) -> list[Any]:
    given = at_sites(perturb(q.sites.build(copied(site.values)), generator), q, site.values, "what perturb returned")
    moved: list[Any] = []
    for own, leaf, where in zip(chain.from_iterable(given), site.leaves, site.labels):
        if isinstance(leaf, Tensor) and (not isinstance(own, Tensor) or own.shape != leaf.shape):
            got = list(own.shape) if isinstance(own, Tensor) else kind_of(own)
            raise complaint(ValueError, f"perturb returned {got} for {where} {list(leaf.shape)}: it must keep shapes.")
        moved.append(own.to(leaf) if isinstance(leaf, Tensor) else leaf)
    return moved


def _sampled(
    q: Question, site: _Site, move: Callable[[], list[Any]], count: int, shares: bool, chunk_size: ChunkSize
) -> tuple[Tensor, Tensor]:
    """``I_s a`` and ``F(x_s)`` for each sample, ``[1 + S, N]``: with nothing moved first."""
    dots: list[Tensor] = []
    found: list[Tensor] = []
    of_site = Steps(q, tensors(site.leaves), shares=bool(q.inner))
    run = of_site.runner(chunk_size)
    for a, b in reported(of_site.parts(count + 1, chunk_size)):
        points = together(torch.stack, [move() if s else site.leaves for s in range(a, b)])
        dots.append(_dots(site, points, shares))
        found += _scores(run, q, site, tensors(points))
    return torch.cat(dots), torch.cat(found)


def _dots(site: _Site, points: list[Any], shares: bool) -> Tensor:
    """``I a`` at each of a chunk of points, ``[c, N]``."""
    total = torch.zeros((), device=tensors(points)[0].device)
    for leaf, base, one, moved in zip(site.leaves, site.base, site.phi, points):
        if one is None:
            continue
        wide = torch.promote_types(one.dtype, torch.float32)
        # Differences first: a timestamp, or a double, and its neighbour may be one number to the attribution's dtype.
        here = in_double(leaf)
        way = here - in_double(moved)
        if shares:
            whole = here - in_double(base)
            way = way / torch.where(whole == 0, 1.0, whole)
        way = way.to(wide)
        total = total + (way * one.to(wide)).flatten(2).sum(2) if one.dim() > 1 else total + way * one.to(wide)
    return total


def _scores(run: Runner, q: Question, site: _Site, points: list[Tensor]) -> Iterator[Tensor]:
    """The scores at a chunk of points, with a leading dimension, in order."""
    if at_input(q):
        return along(run, q, score_at, points, [k for k, leaf in enumerate(site.leaves) if isinstance(leaf, Tensor)])
    return run(partial(_score_with, q, site.values), points, q.x)


def _score_with(q: Question, values: list[Tree], part: list[Tensor], x: Tree) -> Tensor:
    moved: list[Tree] = filled(values, part)
    return scores(q, forward(q, lambda i, value, shared: copied(moved[i]), x))  # a copy: the next operation may write to it


def _mean_square(dots: Tensor, gains: Tensor, normalize: bool) -> Tensor:
    wide = torch.promote_types(dots.dtype, gains.dtype)
    dots, gains = dots.to(wide), gains.to(wide)
    if normalize:
        size = dots.square().mean(0)
        dots = dots * torch.where(size == 0, 0.0, (dots * gains).mean(0) / torch.where(size == 0, 1.0, size))
    return (dots - gains).square().mean(0)
