"""The laws on models at random: what no list of nets thinks of."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa
from funattr import rules as R

from .breadth import breadth
from .close import close
from .programs import D, Program

X = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
START = 0.5 * torch.randn(1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SETS = [R.attn_lrp(), R.epsilon(0.1), R.gamma(), R.cp_lrp(), R.zplus(), R.alpha_beta(), R.frozen()]
#: For a long search by hand: PROGRAMS=5000 pytest tests/test_programs.py -m full
NUMBERS = range(int(os.environ.get("PROGRAMS", "160")))
#: What may be said of a program, and ends the matter.
TOLD = (
    *("has no gradient with respect to", "no operation of the model met", "cannot run", "holds NaN or inf"),
    *("modified by an inplace operation", "a view of a leaf", "single memory location", "requires grad is being used"),
    "Expected X.is_contiguous",  # torch's vmap of a group norm of a slice, see findings/vmapped_norm.sh
)


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


@pytest.mark.parametrize("number", breadth(NUMBERS, lambda number: number < 24))
def test_laws(number: int) -> None:
    model = Program(number)
    score, start = (model(t).detach()[:, 1] for t in (X, START))
    if not (score.isfinite().all() and start.isfinite().all()):
        return
    chosen = SETS[number % len(SETS)]
    for layer in (None, "site"):
        on: dict[str, Callable[..., Any]] = {
            "lrp": lambda x, at=layer, **more: fa.lrp(model, x, layer=at, target=1, rules=chosen, **more),
            "deep_lift": lambda x, at=layer, **more: fa.deep_lift(model, x, baselines=START, layer=at, target=1, **more),
            "path": lambda x, at=layer, **more: fa.integrated_gradients(
                model, x, baselines=START, layer=at, target=1, n_steps=4, **more
            ),
        }
        for name, method in on.items():
            found, said = told(lambda method=method: method(X))  # type: ignore[misc]
            if found is None:
                continue
            if name == "lrp":
                kept, _ = told(lambda at=layer: fa.absorbed(model, X, layer=at, target=1, rules=chosen))  # type: ignore[misc]
                if kept is not None and not any("behind the graph's back" in text for text in said):
                    close(found.sum(1) + sum(kept.values()), score, 1e-8)
            if name == "deep_lift" and layer is None and not said:
                close(found.sum(1), score - start, 1e-6)
            again: list[Callable[[], Tensor]] = [
                lambda method=method: torch.cat([method(X[i : i + 1]) for i in range(3)]),  # type: ignore[misc]
                lambda method=method: method(X, create_graph=True).detach(),  # type: ignore[misc]
                lambda method=method: torch.func.vmap(lambda t: method(t[None])[0])(X),  # type: ignore[misc]
            ]
            if name == "path":
                again.append(lambda method=method: method(X, chunk_size=1))  # type: ignore[misc]
            for call in again:
                other, _ = told(call)
                if other is not None:
                    close(other, found, 1e-7)
