"""One loop for each method, in the letters of its paper: one node, one baseline, one group at a time, on the batch as it is."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .flow import flow
from .lifted import Recording, multipliers, record
from .passes import Leaves, Score, leaves, recorded, with_leaves

Nodes = Sequence[tuple[float, float]]


class Asked(NamedTuple):
    """A model, its input, a site, and the score ``output -> [N]``."""

    model: Callable[..., Any]
    x: Any
    site: Any
    score: Score
    bound: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    def at(self, x: Any = None, put: Leaves | None = None, **how: Any) -> tuple[Leaves, Any]:
        return recorded(self.model, self.x if x is None else x, self.site, put, bound=self.bound, **how)


def value(q: Asked, x: Any = None, **how: Any) -> Leaves:
    return [t.detach() for t in q.at(x, **how)[0]]


def scores(q: Asked, x: Any = None, put: Leaves | None = None, **how: Any) -> Tensor:
    return q.score(q.at(x, put, **how)[1]).detach()


def slope(q: Asked, x: Any = None, put: Leaves | None = None) -> Leaves:
    values, output = q.at(x, put)
    return slopes_by_hand(q.score(output), values)


def slopes_by_hand(score: Tensor, values: Leaves) -> Leaves:
    """Plain autograd, with zeros for what is not used."""
    found = torch.autograd.grad(score.sum(), values, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(values, found)]


def value_and_gradient(model: Callable[..., Any], x: Any, layer: Any, score: Score) -> tuple[Leaves, Leaves]:
    q = Asked(model, x, layer, score)
    return value(q), slope(q)


# Along a path.


def gauss(n: int) -> list[tuple[float, float]]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return list(zip(((points + 1) / 2).tolist(), (weights / 2).tolist()))


def nodes(rule: str, n: int) -> list[tuple[float, float]]:
    """Nodes and weights."""
    if rule == "gausslegendre":
        return gauss(n)
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return [((i + shift) / n, 1 / n) for i in range(n)]


def between(start: Leaves, end: Leaves, a: float | Tensor) -> Leaves:
    return [s + a * (e - s) for s, e in zip(start, end)]


def in_input(q: Asked, x0: Any, a: float | Tensor) -> Any:
    """A point on the way from x0, in the structure of x."""
    return with_leaves(q.x, between(leaves(x0), leaves(q.x), a))


def added(parts: Sequence[Leaves]) -> Leaves:
    return [torch.stack(same).sum(0) for same in zip(*parts)]


def scaled(parts: Leaves, by: float) -> Leaves:
    return [by * t for t in parts]


def times(parts: Leaves, end: Leaves, start: Leaves) -> Leaves:
    return [p * (e - s) for p, e, s in zip(parts, end, start)]


def integrated_gradients(q: Asked, x0: Any, along: Nodes, multiply: bool = True) -> Leaves:
    """The path is at the site."""
    start, end = value(q, x0), value(q)
    mean = added([scaled(slope(q, put=between(start, end, a)), w) for a, w in along])
    return times(mean, end, start) if multiply else mean


def internal_influence(q: Asked, x0: Any, along: Nodes) -> Leaves:
    return added([scaled(slope(q, in_input(q, x0, a)), w) for a, w in along])


def conductance(q: Asked, x0: Any, along: Nodes) -> Leaves:
    nodes, weights = zip(*along)
    slopes, values = [slope(q, in_input(q, x0, a)) for a in nodes], [value(q, in_input(q, x0, a)) for a in nodes]
    ends = [value(q, in_input(q, x0, a)) for a in (0.0, 1.0)]
    return [flow(nodes, weights, *parts) for parts in zip(zip(*slopes), zip(*values), zip(*ends))]


def gradient_shap(q: Asked, references: Sequence[Any], steps: Tensor, which: Tensor, multiply: bool = True) -> Leaves:
    """`steps` and `which` are drawn, ``[n, N]``. The path is in the input; at the site, where the input is integers."""
    parts, end = [], value(q)
    for a, chosen in zip(steps, which):
        start = row_by_row(references, chosen)
        v0 = value(q, start)
        if leaves(q.x):
            ends = zip(leaves(start), leaves(q.x))
            g = slope(q, with_leaves(q.x, [s + per_example(a, e) * (e - s) for s, e in ends]))
        else:
            g = slope(q, put=[s + per_example(a, e) * (e - s) for s, e in zip(v0, end)])
        parts.append(scaled(times(g, end, v0) if multiply else g, 1 / len(steps)))
    return added(parts)


def draws(first: Tensor, n_samples: int, references: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All steps, then all choices, as the method draws them for a first input like `first`."""
    size, wide = (n_samples, first.shape[0]), torch.float64 if first.dtype == torch.float64 else torch.float32
    steps = torch.rand(size, generator=generator, dtype=wide)
    return steps.double(), torch.randint(references, size, generator=generator)


def row_by_row(references: Sequence[Any], chosen: Tensor) -> Any:
    """For example i, row i of the reference chosen for it."""
    parts = zip(*(leaves(one, True) for one in references))
    mixed = [torch.stack([same[int(k)][i] for i, k in enumerate(chosen)]) for same in parts]
    return with_leaves(references[0], mixed, True)


def per_example(a: Tensor, like: Tensor) -> Tensor:
    """One number for each example; for one example alone, it is a number, wherever its row is."""
    return a.reshape(()) if len(a) == 1 else a.reshape(-1, *[1] * (like.dim() - 1))


def path_at_site(model: Any, x: Any, layer: Any, score: Score, n: int, start: float = 0.0) -> Leaves:
    return integrated_gradients(Asked(model, x, layer, score), filled(x, start), gauss(n))


def path_in_input(model: Any, x: Any, layer: Any, score: Score, n: int, start: float = 0.0) -> tuple[Leaves, Leaves]:
    """Internal influence and conductance."""
    q, x0 = Asked(model, x, layer, score), filled(x, start)
    return internal_influence(q, x0, gauss(n)), conductance(q, x0, gauss(n))


def filled(x: Any, start: float) -> Any:
    return with_leaves(x, [torch.full_like(t, start) for t in leaves(x, True)], True)


# Rules.


class Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, guided: bool) -> Tensor:
        ctx.guided = guided
        ctx.save_for_backward(x.clone())  # in place, x is overwritten
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        g = g.clamp(min=0)
        return (torch.where(x > 0, g, torch.zeros_like(g)) if ctx.guided else g), None


@contextlib.contextmanager
def ruled(guided: bool) -> Iterator[None]:
    """Every ReLU that is called by a name of torch gets the rule."""

    def relu(x: Tensor, inplace: bool = False) -> Tensor:
        return Ruled.apply(x, guided)  # type: ignore[no-untyped-call]  # not typed there

    def relu_(x: Tensor) -> Tensor:
        return x.copy_(relu(x))

    named = [
        (F, "relu", relu),
        (torch, "relu", relu),
        (Tensor, "relu", relu),
        (Tensor, "relu_", relu_),
        (torch, "relu_", relu_),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, rule in named:
            stack.enter_context(mock.patch.object(owner, name, rule))
        yield


def rectified(q: Asked, guided: bool) -> Leaves:
    """Guided backpropagation, and the deconvolution."""
    with ruled(guided):
        return slope(q)


def going_on(q: Asked, put: Leaves, x: Any) -> Recording:
    """What the score is made of, from the values at the site on."""

    def run(put: Leaves, x: Any) -> Tensor:
        return q.score(q.at(x, put, connected=True)[1]).sum().reshape(())

    return record(run, put, x)


def deep_lift(q: Asked, starts: Sequence[Any], multiply: bool = True) -> Leaves:
    """The mean over the starts."""
    end, parts = value(q), []
    own = going_on(q, end, q.x)
    for x0 in starts:
        start = value(q, x0)
        slopes = multipliers(own, going_on(q, start, x0))
        parts.append(scaled(times(slopes, end, start) if multiply else slopes, 1 / len(starts)))
    return added(parts)


# What the score loses.


def losses(q: Asked, groups: Sequence[Leaves], base: Leaves, **how: Any) -> Tensor:
    """``[groups, N]``: the score less that with a group, given as masks for the tensors at the site, at `base`."""
    there, whole = value(q, **how), scores(q)
    found = []
    for masks in groups:
        put = [torch.where(mask.expand_as(v), b, v) for mask, b, v in zip(masks, base, there)]
        found.append(whole - scores(q, put=put, **how))
    return torch.stack(found)


def shared_out(lost: Tensor, ids: Leaves, like: Leaves) -> Leaves:
    """Each feature gets its group's loss; that of all examples, where a tensor has no row for each."""
    size, found = lost.shape[1], []
    for mask, v in zip(ids, like):
        mask = mask.expand_as(v)
        if v.dim() and v.shape[0] == size:
            found.append(torch.stack([one[k] for one, k in zip(lost.t(), mask)]))
        else:
            found.append(lost.sum(1)[mask])
    return found


def numbered(values: Leaves, size: int) -> Leaves:
    """A group for each feature: of every example, where there is a row for each."""
    found, start = [], 0
    for v in values:
        shape = torch.Size((1, *v.shape[1:])) if v.dim() and v.shape[0] == size else v.shape
        found.append((torch.arange(shape.numel()) + start).reshape(shape))
        start += shape.numel()
    return found


def feature_ablation(q: Asked, base: Leaves, masks: Sequence[Tensor] | None = None, **how: Any) -> Leaves:
    there = value(q, **how)
    ids = numbered(there, len(scores(q))) if masks is None else list(masks)
    names = sorted({int(i) for mask in ids for i in mask.unique()})
    ids = [torch.tensor([names.index(int(i)) for i in m.reshape(-1)]).reshape(m.shape) for m in ids]
    return shared_out(losses(q, [[m == k for m in ids] for k in range(len(names))], base, **how), ids, there)


# Coalitions.


def worth(q: Asked, ids: Leaves, inside: set[int], base: Leaves, **how: Any) -> Tensor:
    """The score with the features of these groups at x, and the others at `base`."""
    put = []
    for mask, b, v in zip(ids, base, value(q, **how)):
        there = torch.zeros_like(mask, dtype=torch.bool)
        for k in inside:
            there = there | (mask == k)
        put.append(torch.where(there.expand_as(v), v, b))
    return scores(q, put=put, **how)


def numbers_of(masks: Sequence[Tensor]) -> tuple[list[int], Leaves]:
    """The ids of the players, in order, and the masks with their places in that order."""
    players = sorted({int(i) for mask in masks for i in mask.unique()})
    return players, [torch.tensor([players.index(int(i)) for i in m.reshape(-1)]).reshape(m.shape) for m in masks]


def shapley(q: Asked, base: Leaves, masks: Sequence[Tensor], **how: Any) -> Leaves:
    return shared_out(added_by_each(q, base, masks, **how), numbers_of(masks)[1], value(q, **how))


def added_by_each(q: Asked, base: Leaves, masks: Sequence[Tensor], **how: Any) -> Tensor:
    """``[M, N]``: what each group adds, over all coalitions of the others."""
    players, _ = numbers_of(masks)
    count, found = len(players), []
    every = [frozenset(some) for size in range(count + 1) for some in itertools.combinations(players, size)]
    scored = {inside: worth(q, list(masks), set(inside), base, **how) for inside in every}
    for player in players:
        total = torch.zeros_like(scored[frozenset()])
        for some in (inside for inside in every if player not in inside):
            weight = math.factorial(len(some)) * math.factorial(count - len(some) - 1) / math.factorial(count)
            total = total + weight * (scored[some | {player}] - scored[some])
        found.append(total)
    return torch.stack(found)


def lime(q: Asked, base: Leaves, masks: Sequence[Tensor], kept: Tensor, width: float = 0.25, **how: Any) -> Leaves:
    return shared_out(surrogate(q, base, masks, kept, width, **how), numbers_of(masks)[1], value(q, **how))


def surrogate(q: Asked, base: Leaves, masks: Sequence[Tensor], kept: Tensor, width: float = 0.25, **how: Any) -> Tensor:
    """``[M, N]``: the slopes of a weighted least squares fit, with an intercept, to these coalitions ``[S, M]``."""
    players, _ = numbers_of(masks)
    y = torch.stack([worth(q, list(masks), {p for p, k in zip(players, row) if k}, base, **how) for row in kept])
    weights = [math.exp(-(((1 - math.sqrt(float(row.double().mean()))) / width) ** 2)) for row in kept]
    roots = torch.tensor(weights, dtype=torch.float64).sqrt()[:, None]
    rows = torch.cat([torch.ones(len(kept), 1, dtype=torch.float64), kept.double()], 1)
    slopes = np.linalg.lstsq((roots * rows).numpy(), (roots * y.double()).numpy(), rcond=None)[0][1:]
    return torch.from_numpy(slopes).to(y)


def occlusion(q: Asked, base: Leaves, windows: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], **how: Any) -> Leaves:
    """The mean, over the windows that cover a feature, of what the score loses under them; one window after another."""
    there, whole, found = value(q, **how), scores(q), []
    for j, (v, window, stride) in enumerate(zip(there, windows, strides)):
        total, count = torch.zeros(v.shape, dtype=whole.dtype), torch.zeros(v.shape, dtype=whole.dtype)
        starts = []
        for size, length, step in zip(v.shape[1:], window, stride):
            at = [0]
            while at[-1] + length < size:
                at.append(at[-1] + step)
            starts.append(at)
        for corner in itertools.product(*starts):
            part = (slice(None), *(slice(a, a + length) for a, length in zip(corner, window)))
            hidden = v.clone()
            hidden[part] = base[j].expand(v.shape)[part]
            lost = whole - scores(q, put=[hidden if i == j else t for i, t in enumerate(there)], **how)
            total[part] += lost.reshape(-1, *[1] * (v.dim() - 1))
            count[part] += 1
        found.append(total / count)
    return found


def looped(model: Any, x: Any, layer: Any, score: Score, baseline: float = 0.0, masks: Any = None) -> Leaves:
    """Feature ablation, of integers too, with one number as the baseline."""
    q = Asked(model, x, layer, score)
    base = [torch.tensor(baseline, dtype=t.dtype) for t in value(q, integers=True)]
    return feature_ablation(q, base, masks, integers=True)


# Maps.


def one_channel(t: Tensor, dim: int, k: int) -> Tensor:
    mask = torch.zeros([size if d == dim else 1 for d, size in enumerate(t.shape)], dtype=torch.bool)
    mask.select(dim, k).fill_(True)
    return mask


def ablation_cam(q: Asked, channel: int) -> Leaves:
    values, found = value(q), []
    base = [torch.zeros_like(t) for t in values]
    nothing = torch.zeros((), dtype=torch.bool)
    for j, v in enumerate(values):
        c = channel % v.dim()
        groups = [[one_channel(v, c, k) if i == j else nothing for i in range(len(values))] for k in range(v.shape[c])]
        weights = (losses(q, groups, base) / scores(q)).t()
        weights = weights.reshape(len(weights), v.shape[c], *[1] * (v.dim() - 2)).movedim(1, c)
        found.append((weights * v).sum(c, keepdim=True))
    return found


def score_cam(q: Asked, channel: int) -> Leaves:
    found = []
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    for v in (t.movedim(channel, 1) for t in value(q)):
        each = []
        for c in range(v.shape[1]):
            flat = v[:, c].flatten(1).amax(1) == v[:, c].flatten(1).amin(1)  # also where the interpolation's rounding is not
            masked = []
            for t in leaves(q.x):
                m = F.interpolate(v[:, c : c + 1], t.shape[2:], mode=modes[t.dim() - 2])
                low, high = (end(m.flatten(1), 1).reshape(-1, *[1] * (m.dim() - 1)) for end in (torch.amin, torch.amax))
                masked.append(t * torch.where(flat.reshape(low.shape), 0, (m - low) / (high - low)))
            each.append(scores(q._replace(site=None), with_leaves(q.x, masked)))
        weights = torch.stack(each, 1).softmax(1)
        found.append(torch.einsum("nc,nc...->n...", weights, v).unsqueeze(1).movedim(1, channel))
    return found
