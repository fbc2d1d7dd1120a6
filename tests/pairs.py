"""Every method on every net that it is for, at every site that it may be asked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import funattr as fa

from .methods import METHODS, Row, fits
from .models import CASES, Case

TARGET = torch.tensor([1, 4, 0, 2])


def sites_of(row: Row, case: Case) -> list[Any]:
    sites: list[Any] = [site for site in case.layers if row.at_layer]
    if row.convolutional:
        sites = [site for site in sites if site not in (fa.input_of("fc"),)]
    if row.at_input and case.name != "text":
        sites.append(None)
    return sites


def options_of(row: Row, target: torch.Tensor) -> dict[str, Any]:
    return row.options | ({"target": target} if row.targeted else {})


PAIRS = [(case, row) for case in CASES for row in METHODS if fits(row, case)]
by_pair = pytest.mark.parametrize(("case", "row"), PAIRS, ids=[f"{case.name}-{row.name}" for case, row in PAIRS])


def state(model: torch.nn.Module) -> Any:
    """Everything of the model that a call might leave changed."""
    return [
        (
            sorted(module.__dict__),
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            dict(module._forward_pre_hooks_with_kwargs),
            module.training,
            [(p.requires_grad, p.grad, p._version, p.sum().item()) for p in module.parameters(recurse=False)],
            [(b._version, b.sum().item()) for b in module.buffers(recurse=False)],
        )
        for module in model.modules()
    ]
