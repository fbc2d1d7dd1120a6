"""The laws on models at random: what no list of nets thinks of."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close
from ..programs import D, Program

X = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
START = 0.5 * torch.randn(1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SETS = [R.attn_lrp(), R.epsilon(0.1), R.gamma(), R.cp_lrp(), R.zplus(), R.alpha_beta(), R.frozen()]
#: For a long search by hand: PROGRAMS=5000 pytest tests/laws/test_programs.py -m full
NUMBERS = range(int(os.environ.get("PROGRAMS", "160")))
#: What may be said of a program, and ends the matter.
TOLD = (
    *("has no gradient with respect to", "no operation of the model met", "cannot run", "holds NaN or inf"),
    *("modified by an inplace operation", "a view of a leaf", "single memory location", "requires grad is being used"),
    "Such functions do not allow the output views",  # torch's, of a gate whose halves are views
    "Expected X.is_contiguous",  # torch's vmap of a group norm of a slice, as findings/vmapped_norm.sh has it
)
#: Whose second derivatives are not those of central differences: what is cut has none, torch's of a distance is none at 0, or
#: missing, and its gradient of a cosine similarity is of another function where a length is below eps (findings/cosine.sh).
UNLIKE = {"cut", "distance", "cosine"}


def told(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and what it says; None where it is refused."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = call()
        except (ValueError, RuntimeError) as error:
            if not any(text in str(error) for text in TOLD):
                raise
            found = None
    return found, [str(each.message) for each in said]


def again(way: Callable[..., Any], model: Program, options: dict[str, Any]) -> list[Callable[[], Any]]:
    """The same, asked in other ways."""
    method = partial(way, model, target=1, **options)
    ways: list[Callable[[], Any]] = [
        lambda: torch.cat([method(X[i : i + 1]) for i in range(3)]),
        lambda: method(X, create_graph=True).detach(),
        lambda: torch.func.vmap(lambda t: method(t[None])[0])(X),
        lambda: fa.each_target(way, [2, 1])(model, X, **options)[1],
    ]
    return [*ways, lambda: method(X, chunk_size=1)] if "n_steps" in options else ways


def differentiated(method: Callable[..., Any]) -> None:
    """By autograd, and by central differences of two lengths: where these are not alike there is an edge."""
    weights, direction = torch.randn(2, *X.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(3)).unbind()
    leaf = X.clone().requires_grad_()
    found, _ = told(lambda: method(leaf, create_graph=True))
    if found is None:
        return
    total = (found * weights).sum() + 0 * leaf.sum()
    slope, _ = told(lambda: torch.autograd.grad(total, leaf)[0])
    if slope is None or not slope.isfinite().all():  # at an edge, as of a deviation of 0
        return

    def along(h: float) -> Tensor:
        ahead, behind = (told(partial(method, X + step * direction))[0] for step in (h, -h))
        return torch.as_tensor(((ahead - behind) * weights).sum() / (2 * h))

    near, nearer = along(1e-5), along(1e-6)
    if abs(near - nearer) < 1e-4 * (1 + abs(near)):
        torch.testing.assert_close((slope * direction).sum(), near, rtol=1e-3, atol=1e-3)


def check(model: Program, layer: str | None, rules: dict[Any, Any], score: Tensor, start: Tensor) -> None:
    ways: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "lrp": (fa.lrp, {"rules": rules}),
        "deep_lift": (fa.deep_lift, {"baselines": START}),
        "path": (fa.integrated_gradients, {"baselines": START, "n_steps": 4}),
    }
    for name, (way, options) in ways.items():
        options["layer"] = layer
        method = partial(way, model, target=1, **options)
        found, said = told(partial(method, X))
        if found is None:
            continue
        if name == "lrp" and not any("behind the graph's back" in text for text in said):
            kept, _ = told(partial(fa.absorbed, model, X, rules=rules, layer=layer, target=1))
            if kept is not None:
                close(found.sum(1) + sum(kept.values()), score, 1e-8)
        if name == "deep_lift" and layer is None and not said:
            close(found.sum(1), score - start, 1e-6)
        for ask in again(way, model, options):
            other, _ = told(ask)
            if other is not None:
                close(other, found, 1e-7)
        if layer is None and not UNLIKE & {*model.names}:
            differentiated(method)


@pytest.mark.parametrize("number", breadth(NUMBERS, lambda number: number < 8))
def test_laws(number: int) -> None:
    model = Program(number)
    score, start = (model(t).detach()[:, 1] for t in (X, START))
    if score.isfinite().all() and start.isfinite().all():
        for layer in (None, "site"):
            check(model, layer, SETS[number % len(SETS)], score, start)
