"""The floor: the bare passes that a method cannot do without, and nothing else. No line of funattr runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .models import rows, stages
from .settings import Setting


class Passes(NamedTuple):
    """Numbers of examples, as in DESIGN's table: forward through the prefix and the suffix, and back through the suffix.

    The suffix runs forward for `suffix` examples, `graph` of them with a graph, and `times` backward through that.
    """

    prefix: int
    suffix: int
    graph: int = 0
    times: int = 1

    @property
    def backward(self) -> int:
        return self.graph * self.times


#: A site, None for the input, and what passes it there.
Part = tuple[str | None, Passes]


def cut(setting: Setting, site: str | None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The model before and after a site, as two functions."""
    parts = stages(setting.model, setting.mask)
    at = 0 if site is None else 1 + [name for name, _ in parts].index(site)
    return _chain([part for _, part in parts[:at]]), _chain([part for _, part in parts[at:]])


def _chain(parts: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def run(value: Tensor) -> Tensor:
        for part in parts:
            value = part(value)
        return value

    return run


def bare(setting: Setting, parts: list[Part], at_once: int | None = None, compiled: bool = False) -> Callable[[], Any]:
    """All passes of `parts`, at most `at_once` examples in a batch, ready to be called."""
    calls = [_bare(setting, site, passes, at_once, compiled) for site, passes in parts]
    return lambda: [call() for call in calls]


def _bare(setting: Setting, site: str | None, passes: Passes, at_once: int | None, compiled: bool) -> Callable[[], Any]:
    prefix, suffix = cut(setting, site)
    x = setting.floats if site is None else setting.x
    with torch.no_grad():
        value = prefix(x)
    inputs = [rows(x, size) for size in batches(passes.prefix, at_once)] if site is not None else []
    forward_only = [rows(value, size) for size in batches(passes.suffix - passes.graph, at_once)]
    with_graph = [rows(value, size) for size in batches(passes.graph, at_once)]
    back = _back_compiled if compiled else _back

    def forward(inputs: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [*map(prefix, inputs), *map(suffix, values)]

    def run(inputs: list[Tensor], values: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
        found = forward(inputs, values)
        return found + [gradient for leaf in leaves for gradient in back(suffix, leaf, passes.times)]

    if not compiled:
        # One result is alive at a time: a sum over steps needs no more.
        def one_by_one() -> Tensor | None:
            last: Tensor | None = None
            for t in inputs:
                last = forward([t], [])[0]
            for t in forward_only:
                last = forward([], [t])[0]
            for t in with_graph:
                last = back(suffix, t, passes.times)[-1]
            return last

        return one_by_one
    whole = torch.compile(run, fullgraph=True, mode="reduce-overhead" if x.is_cuda else None)
    return lambda: whole(inputs, forward_only, with_graph)


def _back(suffix: Callable[[Tensor], Tensor], value: Tensor, times: int) -> list[Tensor]:
    leaf = value.detach().requires_grad_()
    score = suffix(leaf)[:, 1].sum()
    gradient = value
    for i in range(times):
        (gradient,) = torch.autograd.grad(score, leaf, retain_graph=i + 1 < times)
    return [gradient]


def _back_compiled(suffix: Callable[[Tensor], Tensor], value: Tensor, times: int) -> list[Tensor]:
    score, pull, *_ = torch.func.vjp(lambda v: suffix(v)[:, 1].sum(), value)
    # Other cotangents, so that the compiler cannot make one pass of them.
    return [pull(torch.full_like(score, 1.0 + i))[0] for i in range(times)]


def batches(examples: int, at_once: int | None) -> list[int]:
    """So many examples in batches of at most `at_once`."""
    most = max(1, at_once or examples)
    return [min(most, examples - start) for start in range(0, examples, most)]
