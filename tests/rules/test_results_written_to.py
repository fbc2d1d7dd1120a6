"""Models that write in place to what an operation returned: a rule holds nothing for itself that the model has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close
from ..operations import OPS, Around

#: Norms without a weight, whose result is what their rule needs.
RESULTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    **OPS,
    "layer norm": lambda h, g: F.layer_norm(h, (6,)),
    "layer norm of two dimensions": lambda h, g: F.layer_norm(h, (4, 6)),
    "group norm": lambda h, g: F.group_norm(h, 2),
    "instance norm": lambda h, g: F.instance_norm(h),
    "batch norm": lambda h, g: F.batch_norm(h, torch.zeros(4).to(h), torch.ones(4).to(h)),
}
METHODS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "deep_lift": lambda model, x: fa.deep_lift(model, x, baselines=0.3),
    "differentiated": lambda model, x: fa.deep_lift(model, x, baselines=0.3, create_graph=True).detach(),
    "lrp": lambda model, x: fa.lrp(model, x, rules=R.gamma()),
    "absorbed": lambda model, x: sum(fa.absorbed(model, x, rules=R.epsilon(0.1)).values()),
}
CUT = "has no gradient with respect to the input"  # rules may leave nothing of an operation


def halved(y: Tensor) -> Tensor:
    return y.mul_(0.5)


@pytest.mark.parametrize("name", breadth(RESULTS, lambda name: name not in OPS or name[0] in "lmn"))
def test_what_is_written_to_a_result(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)
    written = Around(lambda h, g: halved(RESULTS[name](h, g))).double().eval()
    plain = Around(lambda h, g: RESULTS[name](h, g) * 0.5).double().eval()
    plain.load_state_dict(written.state_dict())
    try:
        torch.autograd.grad(written(x.requires_grad_()).sum(), x)
    except RuntimeError:  # it needs what it returned for its own gradient
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has no rule
        for method in METHODS.values():
            try:
                expected = method(plain, x.detach())
            except ValueError as error:
                if CUT not in str(error):
                    raise
                with pytest.raises(ValueError, match=CUT):
                    method(written, x.detach())
                continue
            close(method(written, x.detach()), expected, 1e-9)
