"""What the model matrix compares with: one example, one node, one group at a time, by plain hooks and nothing of funattr."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from funattr._core.where import Place

from .flow import flow
from .lifted import Recording, multipliers, record
from .reference import leaves

Leaves = list[Tensor]
Input = dict[str, Any] | tuple[Any, ...] | Tensor


def row(tree: Any, i: int) -> Any:
    """Example i alone, with a batch of 1."""
    return tree_map(lambda t: t[i : i + 1] if isinstance(t, Tensor) else t, tree)


def with_floats(tree: Any, floats: Sequence[Tensor]) -> Any:
    """The same structure with other floating-point tensors."""
    rest, (flat, spec) = iter(floats), tree_flatten(tree)
    return tree_unflatten([next(rest) if isinstance(t, Tensor) and t.is_floating_point() else t for t in flat], spec)


def called(model: Callable[..., Any], x: Input, bound: dict[str, Any]) -> Any:
    x = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)
    if isinstance(x, dict):
        return model(**x, **bound)
    return model(*(x if isinstance(x, tuple) else (x,)), **bound)


def recorded(
    model: nn.Module,
    x: Input,
    bound: dict[str, Any],
    site: Place | None,
    put: Leaves | None = None,
    connected: bool = False,
) -> tuple[Leaves, Any]:
    """One pass: the floating-point tensors at the site as leaves of the graph (those of `put`, if given; the very same ones,
    if they are to stay `connected`), and the output."""
    found: Leaves = []

    def fresh(value: Any) -> Any:
        given = leaves(value) if put is None else put
        found[:] = given if connected else [t.detach().clone().requires_grad_() for t in given]
        return with_floats(value, [t.clone() for t in found])

    if site is None:
        return found, called(model, fresh(x), bound)
    runs = 0

    def once(value: Any) -> Any:
        nonlocal runs
        runs += 1
        return fresh(value) if runs == (site.call or 0) + 1 else value

    module = model.get_submodule(site.layer) if isinstance(site.layer, str) else site.layer
    if site.inputs:
        handle: Any = module.register_forward_pre_hook(lambda _, args, kwargs: once((args, kwargs)), with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _, args, output: once(output))
    try:
        return found, called(model, x, bound)
    finally:
        handle.remove()


class Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, guided: bool) -> Tensor:
        ctx.guided = guided
        ctx.save_for_backward(x)
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
        return Ruled.apply(x, guided)  # type: ignore[no-any-return, no-untyped-call]

    with mock.patch.object(F, "relu", relu), mock.patch.object(torch, "relu", relu):
        yield


def gauss(n: int) -> list[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist()))


class Loops:
    """Everything that the methods are made of, for one model at one site, each made when first asked for."""

    def __init__(
        self,
        model: nn.Module,
        x: Input,
        bound: dict[str, Any],
        fixed: dict[str, Any],
        site: Place | None,
        pick: Callable[[Any, int], Tensor],
        start: Input,
        n_steps: int,
    ):
        """`pick(output, i)` is the score of example i from the output for it alone; `start` is where paths start."""
        self.model, self.x, self.site, self.n_steps = model, x, site, n_steps
        self.size = tree_flatten(x)[0][0].shape[0]
        self.bounds = [row(bound, i) | fixed for i in range(self.size)]
        self.pick, self.start = pick, start
        self.whole, self.output = recorded(model, x, bound | fixed, site)

    def rows(self) -> range:
        return range(self.size)

    def at(self, i: int, x: Any = None, put: Leaves | None = None) -> Leaves:
        """The values at the site for example i."""
        with torch.no_grad():
            return [
                v.detach() for v in recorded(self.model, row(self.x, i) if x is None else x, self.bounds[i], self.site, put)[0]
            ]

    def score(self, i: int, x: Any = None, put: Leaves | None = None) -> Tensor:
        with torch.no_grad():
            return self.pick(recorded(self.model, row(self.x, i) if x is None else x, self.bounds[i], self.site, put)[1], i)

    def slope(
        self, i: int, x: Any = None, put: Leaves | None = None, pick: Callable[[Any, int], Tensor] | None = None
    ) -> Leaves:
        """The gradient at the site for example i."""
        values, output = recorded(self.model, row(self.x, i) if x is None else x, self.bounds[i], self.site, put)
        found = torch.autograd.grad((pick or self.pick)(output, i), values, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(values, found)]

    # The batch, put together again: along the dimension that shows it, or as a sum where all examples share the tensor.

    @functools.cached_property
    def dims(self) -> list[int | None]:
        found: list[int | None] = []
        for whole, one in zip(self.whole, self.values[0]):
            differ = [d for d in range(whole.dim()) if whole.shape[d] != one.shape[d]]
            assert len(differ) <= 1
            assert not differ or whole.shape[differ[0]] == self.size * one.shape[differ[0]]
            found.append(differ[0] if differ else None)
        return found

    def joined(self, each: Sequence[Leaves], shared: str = "sum") -> Leaves:
        parts = zip(self.dims, zip(*each))
        return [
            torch.cat(same, d) if d is not None else same[0] if shared == "first" else torch.stack(same).sum(0)
            for d, same in parts
        ]

    def part(self, t: Tensor, j: int, i: int) -> Tensor:
        """What belongs to example i of the j-th tensor at the site."""
        d = self.dims[j]
        return t if d is None else t.chunk(self.size, d)[i]

    @functools.cached_property
    def values(self) -> list[Leaves]:
        return [self.at(i) for i in self.rows()]

    @functools.cached_property
    def value(self) -> Leaves:
        return self.joined(self.values, "first")

    @functools.cached_property
    def gradient(self) -> Leaves:
        return self.joined([self.slope(i) for i in self.rows()])

    @functools.cached_property
    def plain_scores(self) -> list[Tensor]:
        return [self.score(i) for i in self.rows()]

    @functools.cached_property
    def start_values(self) -> list[Leaves]:
        return [self.at(i, row(self.start, i)) for i in self.rows()]

    def between(self, i: int, a: float) -> Any:
        """A point on the way of example i from its baseline, in the input."""
        ends = zip(leaves(row(self.start, i)), leaves(row(self.x, i)))
        return with_floats(row(self.x, i), [s + a * (e - s) for s, e in ends])

    @functools.cached_property
    def slopes_along(self) -> list[list[Leaves]]:
        """Gradients at the nodes, while the input moves."""
        return [[self.slope(i, self.between(i, a)) for a, _ in gauss(self.n_steps)] for i in self.rows()]

    def integrated_gradients(self) -> Leaves:
        each = []
        for i, v, v0 in zip(self.rows(), self.values, self.start_values):
            total = [torch.zeros_like(t) for t in v]
            for a, w in gauss(self.n_steps):
                at = [s + a * (e - s) for s, e in zip(v0, v)]
                total = [t + w * g for t, g in zip(total, self.slope(i, put=at))]
            each.append([t * (e - s) for t, e, s in zip(total, v, v0)])
        return self.joined(each)

    def internal_influence(self) -> Leaves:
        return self.joined(
            [
                [sum(w * g for (_, w), g in zip(gauss(self.n_steps), same)) for same in zip(*slopes)]  # type: ignore[misc]
                for slopes in self.slopes_along
            ]
        )

    def conductance(self) -> Leaves:
        nodes, weights = zip(*gauss(self.n_steps))
        each = []
        for i in self.rows():
            values = [self.at(i, self.between(i, a)) for a in nodes]
            ends = [self.at(i, self.between(i, a)) for a in (0.0, 1.0)]
            leaves = range(len(ends[0]))
            each.append(
                [
                    flow(nodes, weights, [g[k] for g in self.slopes_along[i]], [v[k] for v in values], [e[k] for e in ends])
                    for k in leaves
                ]
            )
        return self.joined(each)

    def under(self, guided: bool) -> Leaves:
        with ruled(guided):
            return self.joined([self.slope(i) for i in self.rows()])

    def losses(self, groups: Sequence[Leaves], baseline: float) -> Tensor:
        """``[groups, N]``: the score less that with a group, given as masks for the tensors at the site, at the baseline."""
        found = []
        for masks in groups:
            each = []
            for i in self.rows():
                put = [torch.where(m.expand_as(v), torch.full_like(v, baseline), v) for m, v in zip(masks, self.values[i])]
                each.append((self.plain_scores[i] - self.score(i, put=put)).reshape(()))
            found.append(torch.stack(each))
        return torch.stack(found)

    def ablated(self, ids: Leaves, count: int, baseline: float) -> Leaves:
        """Each feature gets its group's loss; that of all examples, where a tensor has no row for each."""
        losses = self.losses([[m == k for m in ids] for k in range(count)], baseline)
        found = []
        for v, m in zip(self.value, ids):
            if v.shape[0] == self.size:
                found.append(torch.cat([losses[:, i][m].expand_as(v[:1]) for i in self.rows()]))
            else:
                found.append(losses.sum(1)[m].expand_as(v))
        return found

    def ablation_cam(self, channel: int) -> Leaves:
        found = []
        for j, v in enumerate(self.value):
            c = channel % v.dim()
            groups = []
            for k in range(v.shape[c]):
                mask = torch.zeros([v.shape[c] if d == c else 1 for d in range(v.dim())], dtype=torch.bool)
                mask.select(c, k).fill_(True)
                nothing = torch.zeros((), dtype=torch.bool)
                groups.append([mask if jj == j else nothing for jj in range(len(self.value))])
            shares = self.losses(groups, 0.0) / torch.stack([s.reshape(()) for s in self.plain_scores])
            weights = shares.t().reshape(self.size, v.shape[c], *[1] * (v.dim() - 2)).movedim(1, c)
            found.append((weights * v).sum(c, keepdim=True))
        return found

    def score_cam(self, channel: int) -> Leaves:
        found = []
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}
        for value in self.value:
            v, maps = value.movedim(channel, 1), []
            for i in self.rows():
                x, scores = row(self.x, i), []
                for c in v[i]:
                    masked = []
                    for t in leaves(x):
                        m = F.interpolate(c[None, None], t.shape[2:], mode=mode[t.dim() - 2])
                        flat = bool(c.max() == c.min())  # also where the interpolation's rounding is not
                        masked.append(t * 0 if flat else t * (m - m.min()) / (m.max() - m.min()))
                    scores.append(self.score(i, with_floats(x, masked)).reshape(()))
                weights = torch.stack(scores).softmax(0)
                maps.append(torch.einsum("c,c...->...", weights, v[i])[None, None])
            found.append(torch.cat(maps).movedim(1, channel))
        return found

    def at_other(self, put: Callable[[Leaves], Leaves] | None, x: Any) -> list[Leaves]:
        """Gradients with the values at the site (`put`) or the input (`x`) moved."""
        if put is None:
            return [self.slope(i, row(x, i)) for i in self.rows()]
        moved = put(self.value)
        return [self.slope(i, put=[self.part(t, j, i) for j, t in enumerate(moved)]) for i in self.rows()]

    def noisy(self, n_samples: int, stdev: float, seed: int) -> Leaves:
        """The mean gradient under noise in the input; at the site, where the input is integers."""
        generator = torch.Generator().manual_seed(seed)

        def shaken(floats: Leaves) -> Leaves:
            return [t + stdev * torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in floats]

        samples = []
        for _ in range(n_samples):
            if leaves(self.x):
                each = self.at_other(None, with_floats(self.x, shaken(leaves(self.x))))
            else:
                each = self.at_other(shaken, None)
            samples.append(self.joined(each))
        return [torch.stack(same).mean(0) for same in zip(*samples)]

    def gradient_shap(self, references: Sequence[Input], n_samples: int, seed: int) -> Leaves:
        """Random points between the references and x: in the input; at the site, where the input is integers."""
        generator = torch.Generator().manual_seed(seed)
        first, count = tree_flatten(self.x)[0][0], len(references)
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        steps = torch.rand((n_samples, self.size), generator=generator, dtype=wide)
        which = torch.randint(count, (n_samples, self.size), generator=generator)
        each = []
        for i, v in zip(self.rows(), self.values):
            total = [torch.zeros_like(t) for t in v]
            for k in range(n_samples):
                a, own = steps[k, i].double(), row(references[int(which[k, i])], i)
                v0 = self.at(i, own)
                if leaves(self.x):
                    ends = zip(leaves(own), leaves(row(self.x, i)))
                    slope = self.slope(i, with_floats(row(self.x, i), [s + a * (e - s) for s, e in ends]))
                else:
                    slope = self.slope(i, put=[s + a * (e - s) for s, e in zip(v0, v)])
                total = [t + g * (e - s) / n_samples for t, g, e, s in zip(total, slope, v, v0)]
            each.append(total)
        return self.joined(each)

    def going_on(self, i: int, put: Leaves, x: Any) -> Recording:
        """What example i's score is made of, from the values at the site on."""

        def run(put: Leaves, x: Any) -> Tensor:
            return self.pick(recorded(self.model, x, self.bounds[i], self.site, put, connected=True)[1], i).reshape(())

        return record(run, put, x)

    @functools.cached_property
    def recordings(self) -> list[Recording]:
        return [self.going_on(i, v, row(self.x, i)) for i, v in enumerate(self.values)]

    def deep_lift(self, starts: Sequence[Input]) -> Leaves:
        """The mean over the starts."""
        each = []
        for i, v in zip(self.rows(), self.values):
            total = [torch.zeros_like(t) for t in v]
            for start in starts:
                v0 = self.at(i, row(start, i))
                slopes = multipliers(self.recordings[i], self.going_on(i, v0, row(start, i)))
                total = [t + m * (a - b) / len(starts) for t, m, a, b in zip(total, slopes, v, v0)]
            each.append(total)
        return self.joined(each)

    def sums(self, attribution: Leaves) -> Tensor:
        """``[N]``: what the attributions of each example sum to."""
        each = [[self.part(t, j, i).sum() for j, t in enumerate(attribution) if self.dims[j] is not None] for i in self.rows()]
        return torch.stack([torch.stack(parts).sum() for parts in each])
