"""Every method under vmap, in other transforms, and inside no_grad: equal to the looped, plain result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import funattr as fa

from .. import reference
from ..close import close
from ..methods import METHODS, Row, row_id
from ..models import CASES, Case, double
from ..pairs import TARGET, by_pair, options_of, sites_of


@by_pair
def test_vmapped_equals_looped(case: Case, row: Row) -> None:
    if case.name in ("recurrent", "masked"):
        pytest.skip("torch has no batching rule for fused LSTMs and nested tensors: the model itself cannot be vmapped")
    model, x = double(case)
    several = isinstance(x, tuple)
    sites = sites_of(row, case)
    for site in (sites[0], sites[-1]):

        def alone(*parts: Any, site: Any = site) -> Any:
            *inputs, target = (part.unsqueeze(0) for part in parts)
            found = row.method(model, tuple(inputs) if several else inputs[0], layer=site, **options_of(row, target))
            return [leaf[0] if leaf.shape[0] == 1 else leaf[:, 0] for leaf in reference.leaves(found)]

        parts = (*(x if several else (x,)), TARGET)
        in_one = torch.func.vmap(alone, randomness="same")(*parts)
        looped = [alone(*example) for example in zip(*parts)]
        close(in_one, [torch.stack(leaves) for leaves in zip(*looped)])


def test_nested_transforms() -> None:
    """vmap of grad of an attribution, and forward over it."""
    model, x = double(CASES[0])

    def total(x: Any) -> Any:
        return fa.input_x_gradient(model, x[None], layer="act2", target=2, create_graph=True).square().sum()

    in_one = torch.func.vmap(torch.func.grad(total))(x)
    close(in_one, torch.stack([torch.func.grad(total)(example) for example in x]))
    close(torch.func.vmap(torch.func.jacfwd(total))(x), in_one)


@pytest.mark.parametrize("row", METHODS, ids=row_id)
def test_inside_no_grad(row: Row) -> None:
    model, x = double(CASES[2])
    for site in ("layer1", None) if row.at_input else ("layer1",):
        expected = row.method(model, x, layer=site, **options_of(row, TARGET))
        with torch.no_grad():
            close(row.method(model, x, layer=site, **options_of(row, TARGET)), expected, 0.0)
