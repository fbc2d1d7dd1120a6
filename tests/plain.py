"""Every method written out as a plain loop: forward hooks, plain autograd, one baseline, node or group at a time.

Slow, and nothing of funattr: what the fuzz and the stress tests compare with. The nets have one value per site, with the
batch first, and their nonlinear operations are modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import methods
from .reference import leaves

Score = Callable[[Any], Tensor]
Acts = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: A site: None for the input, or a module and whether its input is meant.
Site = tuple[nn.Module, bool] | None


def call(model: nn.Module, x: Any) -> Any:
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def with_floats(x: Any, floats: Iterable[Tensor]) -> Any:
    """x with other floating-point tensors."""
    rest = iter(floats)
    if isinstance(x, dict):
        return {name: next(rest) if part.is_floating_point() else part for name, part in x.items()}
    if isinstance(x, tuple):
        return tuple(next(rest) if part.is_floating_point() else part for part in x)
    return next(rest)


def run(
    model: nn.Module, x: Any, site: Site, put: list[Tensor] | None = None, acts: Acts | None = None
) -> tuple[list[Tensor], Any]:
    """The value at the site (or `put`, in its place), and the output; `acts(module, input, output)` replaces activations."""
    if site is None and put is not None:
        x = with_floats(x, put)
    met = leaves(x) if site is None else []

    def here(value: Tensor) -> Tensor:
        met[:] = [value if put is None else put[0]]
        return met[0]

    with ExitStack() as stack:
        if acts is not None:
            for module in model.modules():
                if isinstance(module, (nn.ReLU, nn.Tanh)):
                    hook = module.register_forward_hook(lambda m, args, out: acts(m, args[0], out))
                    stack.callback(hook.remove)
        if site is not None:
            module, inputs = site
            if inputs:
                stack.callback(module.register_forward_pre_hook(lambda m, args: (here(args[0]),)).remove)
            else:
                stack.callback(module.register_forward_hook(lambda m, args, out: here(out)).remove)
        return met, call(model, x)


def value(model: nn.Module, x: Any, site: Site) -> list[Tensor]:
    return [t.detach() for t in run(model, x, site)[0]]


def slope(
    model: nn.Module,
    x: Any,
    site: Site,
    score: Score,
    put: list[Tensor] | None = None,
    acts: Acts | None = None,
) -> list[Tensor]:
    """The gradient at the site, for x, or with `put` there."""
    start = [t.clone().requires_grad_() for t in (value(model, x, site) if put is None else put)]
    return list(torch.autograd.grad(score(run(model, x, site, start, acts)[1]).sum(), start))


def nodes(name: str, n: int) -> list[tuple[float, float]]:
    """Nodes and weights."""
    if name == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(n)
        return [((p + 1) / 2, w / 2) for p, w in zip(points, weights)]
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[name]
    return [((i + shift) / n, 1 / n) for i in range(n)]


def between(start: list[Tensor], end: list[Tensor], a: float | Tensor) -> list[Tensor]:
    return [s + a * (e - s) for s, e in zip(start, end)]


def added(parts: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(same).sum(0) for same in zip(*parts)]


def integrated_gradients(
    model: nn.Module, x: Any, x0: Any, site: Site, score: Score, n: int, rule: str, multiply: bool = True
) -> list[Tensor]:
    start, end = value(model, x0, site), value(model, x, site)
    mean = added([[w * g for g in slope(model, x, site, score, between(start, end, a))] for a, w in nodes(rule, n)])
    return [g * (e - s) for g, s, e in zip(mean, start, end)] if multiply else mean


def internal_influence(model: nn.Module, x: Any, x0: Any, site: Site, score: Score, n: int, rule: str) -> list[Tensor]:
    points = [(with_floats(x, between(leaves(x0), leaves(x), a)), w) for a, w in nodes(rule, n)]
    return added([[w * g for g in slope(model, point, site, score)] for point, w in points])


def conductance(model: nn.Module, x: Any, x0: Any, site: Site, score: Score, n: int, rule: str) -> list[Tensor]:
    if site is None:
        return integrated_gradients(model, x, x0, site, score, n, rule)
    parts, edge = [], 0.0
    for a, w in nodes(rule, n):
        low, high = (value(model, with_floats(x, between(leaves(x0), leaves(x), e)), site) for e in (edge, edge + w))
        g = slope(model, with_floats(x, between(leaves(x0), leaves(x), a)), site, score)
        parts.append([p * (h - b) for p, h, b in zip(g, high, low)])
        edge += w
    return added(parts)


def deep_lift(model: nn.Module, x: Any, x0: Any, site: Site, score: Score, multiply: bool = True) -> list[Tensor]:
    """The rescale rule for activation modules; everything else in the nets is linear."""
    base: list[Tensor] = []

    def note(module: nn.Module, given: Tensor, out: Tensor) -> Tensor:
        base.append(given.detach())
        return out

    run(model, x0, None, acts=note)
    order = iter(base)

    def secant(module: nn.Module, given: Tensor, out: Tensor) -> Tensor:
        there = next(order)
        dx, dy = given - there, module.forward(given) - module.forward(there)
        m = torch.where(dx.abs() > 1e-9, dy / torch.where(dx == 0, 1, dx), slope_of(module, given)).detach()
        return m * given + (out - m * given).detach()

    def slope_of(module: nn.Module, given: Tensor) -> Tensor:
        leaf = given.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(module.forward(leaf).sum(), leaf)[0]

    multipliers = slope(model, x, site, score, acts=secant)
    if not multiply:
        return multipliers
    return [m * (e - s) for m, e, s in zip(multipliers, value(model, x, site), value(model, x0, site))]


def rectified(model: nn.Module, x: Any, site: Site, score: Score, guided: bool) -> list[Tensor]:
    """Guided backpropagation, and the deconvolution."""

    def act(module: nn.Module, given: Tensor, out: Tensor) -> Tensor:
        if not isinstance(module, nn.ReLU):
            return out
        if not guided:
            out = given + (out - given).detach()
        if out.requires_grad:
            out.register_hook(torch.relu)
        return out

    return slope(model, x, site, score, acts=act)


def feature_ablation(
    model: nn.Module, x: Any, site: Site, score: Score, base: list[Tensor], masks: list[Tensor] | None = None
) -> list[Tensor]:
    """`base` and `masks` have the shapes of the value."""
    whole = score(run(model, x, site)[1])
    found = [torch.zeros(t.shape, dtype=whole.dtype) for t in base]
    there = value(model, x, site)
    if masks is None:
        ids, count = [], 0
        for t in base:
            size = t[0].numel()
            ids.append(torch.arange(count, count + size).reshape(1, *t.shape[1:]).expand(t.shape))
            count += size
        masks = ids
    for group in sorted({int(i) for mask in masks for i in mask.reshape(-1)}):
        put = [torch.where(mask == group, b, t) for mask, b, t in zip(masks, base, there)]
        lost = whole - score(run(model, x, site, put)[1])
        for out, mask in zip(found, masks):
            out += torch.where(mask == group, lost.reshape(-1, *[1] * (out.dim() - 1)), 0)
    return found


def gradient_shap(
    model: nn.Module, x: Any, baselines: list[Tensor], site: Site, score: Score, n: int, seed: int, multiply: bool
) -> list[Tensor]:
    """Without noise; steps and choices are drawn as the method draws them: all steps, then all choices."""
    generator = torch.Generator().manual_seed(seed)
    end = leaves(x)
    size = (n, end[0].shape[0])
    steps = torch.rand(size, generator=generator, dtype=end[0].dtype)
    which = torch.randint(len(baselines[0]), size, generator=generator)
    parts = []
    for k in range(n):
        start = [t[which[k]] for t in baselines]
        at = [s + steps[k].reshape(-1, *[1] * (e.dim() - 1)) * (e - s) for s, e in zip(start, end)]
        g = slope(model, with_floats(x, at), site, score)
        ends, starts = value(model, x, site), value(model, with_floats(x, start), site)
        parts.append([p * (e - s) / n if multiply else p / n for p, e, s in zip(g, ends, starts)])
    return added(parts)


def cam(name: str, v: Tensor, g: Tensor, channel: int) -> Tensor:
    """The formulas of the papers, from the table of methods."""
    row = next(row for row in methods.METHODS if row.name == name)
    assert row.formula is not None
    return row.formula(v.movedim(channel, 1), g.movedim(channel, 1)).movedim(1, channel)


def ablation_cam(model: nn.Module, x: Any, site: Site, score: Score, channel: int) -> Tensor:
    (v,) = value(model, x, site)
    whole = score(run(model, x, site)[1])
    total = torch.zeros_like(v.narrow(channel, 0, 1))
    for c in range(v.shape[channel]):
        kept = torch.tensor([float(i != c) for i in range(v.shape[channel])], dtype=v.dtype)
        put = v * kept.reshape([-1 if d == channel else 1 for d in range(v.dim())])
        share = (whole - score(run(model, x, site, [put])[1])) / whole
        total += share.reshape(-1, *[1] * (v.dim() - 1)) * v.narrow(channel, c, 1)
    return total.detach()


def score_cam(model: nn.Module, x: Tensor, site: Site, score: Score) -> Tensor:
    (v,) = value(model, x, site)
    scores = []
    for c in range(v.shape[1]):
        mask = F.interpolate(v[:, c : c + 1], x.shape[2:], mode="linear")
        low, high = mask.amin(2, keepdim=True), mask.amax(2, keepdim=True)
        scores.append(score(model(x * torch.where(high > low, (mask - low) / (high - low), 0))).detach())
    weights = torch.stack(scores, 1).softmax(1)
    return (weights[:, :, None] * v).sum(1, keepdim=True)
