"""The loops, asked of one example after another, and the batch put together again: what the model matrix compares with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from . import loops
from .loops import Asked, gauss
from .passes import Leaves, leaves, recorded, row, with_leaves

Input = dict[str, Any] | tuple[Any, ...] | Tensor


def filled(q: Asked, baseline: float) -> Leaves:
    """The value at the site, all at one number."""
    return [torch.full_like(t, baseline) for t in loops.value(q)]


class Alone:
    """Everything that the methods are made of, for one model at one site, each made when first asked for."""

    def __init__(
        self,
        model: Callable[..., Any],
        x: Input,
        bound: dict[str, Any],
        fixed: dict[str, Any],
        site: Any,
        pick: Callable[[Any, int], Tensor],
        start: Input,
        n_steps: int,
    ):
        """`pick(output, i)` is the score of example i from the output for it alone; `start` is where paths start."""
        self.x, self.start, self.size = x, start, tree_flatten(x)[0][0].shape[0]
        self.pick, self.along = pick, gauss(n_steps)
        self.whole, self.output = recorded(model, x, site, bound=bound | fixed)
        bounds = [row(bound, i) | fixed for i in range(self.size)]
        self.asked = [
            Asked(model, row(x, i), site, lambda output, i=i: pick(output, i).reshape(1), bounds[i])  # type: ignore[misc]  # a lambda with a default has no type for mypy
            for i in range(self.size)
        ]

    def rows(self) -> range:
        return range(self.size)

    def score(self, i: int, x: Any = None) -> Tensor:
        return loops.scores(self.asked[i], x).reshape(())

    def slope(self, i: int, pick: Callable[[Any, int], Tensor]) -> Leaves:
        return loops.slope(self.asked[i]._replace(score=lambda output: pick(output, i).reshape(1)))

    def each(self, method: Callable[..., Leaves], *args: Any) -> Leaves:
        return self.joined([method(q, *args) for q in self.asked])

    def from_start(self, method: Callable[..., Leaves]) -> Leaves:
        return self.joined([method(q, row(self.start, i), self.along) for i, q in enumerate(self.asked)])

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
        return [loops.value(q) for q in self.asked]

    @functools.cached_property
    def value(self) -> Leaves:
        return self.joined(self.values, "first")

    @functools.cached_property
    def gradient(self) -> Leaves:
        return self.each(loops.slope)

    @functools.cached_property
    def plain_scores(self) -> list[Tensor]:
        return [self.score(i) for i in self.rows()]

    def integrated_gradients(self) -> Leaves:
        return self.from_start(loops.integrated_gradients)

    def internal_influence(self) -> Leaves:
        return self.from_start(loops.internal_influence)

    def conductance(self) -> Leaves:
        return self.from_start(loops.conductance)

    def under(self, guided: bool) -> Leaves:
        return self.each(loops.rectified, guided)

    def ablated(self, ids: Leaves, count: int, baseline: float) -> Leaves:
        groups = [[m == k for m in ids] for k in range(count)]
        lost = [loops.losses(q, groups, filled(q, baseline)) for q in self.asked]
        return loops.shared_out(torch.cat(lost, 1), ids, self.value)

    def shapley(self, ids: Leaves, baseline: float) -> Leaves:
        return self.played(ids, [loops.added_by_each(q, filled(q, baseline), ids) for q in self.asked])

    def lime(self, ids: Leaves, baseline: float, kept: Tensor) -> Leaves:
        return self.played(ids, [loops.surrogate(q, filled(q, baseline), ids, kept) for q in self.asked])

    def played(self, ids: Leaves, each: Sequence[Tensor]) -> Leaves:
        return loops.shared_out(torch.cat(list(each), 1), loops.numbers_of(ids)[1], self.value)

    def occlusion(self, windows: Sequence[Sequence[int]], baseline: float) -> Leaves:
        """Windows side by side."""
        return self.joined([loops.occlusion(q, filled(q, baseline), windows, windows) for q in self.asked])

    def ablation_cam(self, channel: int) -> Leaves:
        return self.each(loops.ablation_cam, channel)

    def score_cam(self, channel: int) -> Leaves:
        return self.each(loops.score_cam, channel)

    def noisy(self, n_samples: int, stdev: float, seed: int) -> Leaves:
        """The mean gradient under noise in the input; at the site, where the input is integers."""
        generator, samples = torch.Generator().manual_seed(seed), []
        for _ in range(n_samples):
            at_input = bool(leaves(self.x))
            shaken = [
                t + stdev * torch.randn(t.shape, dtype=t.dtype, generator=generator)
                for t in (leaves(self.x) if at_input else self.value)
            ]
            each = []
            for i, q in enumerate(self.asked):
                if at_input:
                    each.append(loops.slope(q, row(with_leaves(self.x, shaken), i)))
                else:
                    each.append(loops.slope(q, put=[self.part(t, j, i) for j, t in enumerate(shaken)]))
            samples.append(self.joined(each))
        return [torch.stack(same).mean(0) for same in zip(*samples)]

    def gradient_shap(self, references: Sequence[Input], n_samples: int, seed: int) -> Leaves:
        """Random points between the references and x."""
        generator = torch.Generator().manual_seed(seed)
        steps, which = loops.draws(tree_flatten(self.x)[0][0], n_samples, len(references), generator)
        return self.joined(
            [
                loops.gradient_shap(q, [row(one, i) for one in references], steps[:, i : i + 1], which[:, i : i + 1])
                for i, q in enumerate(self.asked)
            ]
        )

    def deep_lift(self, starts: Sequence[Input]) -> Leaves:
        """The mean over the starts."""
        return self.joined([loops.deep_lift(q, [row(start, i) for start in starts]) for i, q in enumerate(self.asked)])

    def sums(self, attribution: Leaves) -> Tensor:
        """``[N]``: what the attributions of each example sum to."""
        each = [[self.part(t, j, i).sum() for j, t in enumerate(attribution) if self.dims[j] is not None] for i in self.rows()]
        return torch.stack([torch.stack(parts).sum() for parts in each])
