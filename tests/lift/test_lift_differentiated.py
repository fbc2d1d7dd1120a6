"""DeepLIFT differentiated again, where a model runs what no rule is for: that keeps its gradient, which varies as it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * 3 * x * x

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return Cube.apply(x), in_dims[0]  # type: ignore[no-untyped-call]  # torch does not type apply


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * 3 * x * x


def cubed(h: Tensor) -> Tensor:
    return h * h * h


class Around(nn.Module):
    """A net with an operation between layers that have rules."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = (nn.Linear(i, o).double() for i, o in ((6, 8), (8, 8), (8, 3)))
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.operation(self.middle(torch.tanh(self.first(x))))))  # type: ignore[no-any-return]  # modules give Any


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "no rule": lambda h: h.cumprod(1),
    "autograd.Function": Cube.apply,
    "torch.func": torch.func.grad(lambda h: (h**3).sum()),
}
METHODS: dict[str, Any] = {
    "deep_lift": partial(fa.deep_lift, baselines=0.3),
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=torch.linspace(-0.5, 0.5, 12).double().reshape(2, 6)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.filterwarnings("ignore:DeepLIFT's rules do not reach", "ignore:.*DeepLIFT has no rule")
def test_derivatives_of_what_keeps_its_gradient(name: str, method: str) -> None:
    """By the parameters, with backward() and with torch.func.grad, against central differences."""
    model, x = Around(OPERATIONS[name]), torch.randn(4, 6, dtype=torch.float64)
    given = {name: p.detach() for name, p in model.named_parameters()}
    way = {name: torch.randn_like(p) for name, p in given.items()}

    def total(call: Any, create_graph: bool) -> Tensor:
        found: Tensor = METHODS[method](call, x, target=1, create_graph=create_graph)
        return (found * torch.linspace(1, 2, found.numel()).reshape(found.shape)).sum()

    def of(p: dict[str, Tensor], create_graph: bool = False) -> Tensor:
        return total(partial(torch.func.functional_call, model, p), create_graph)

    def moved(step: float) -> dict[str, Tensor]:
        return {name: p + step * way[name] for name, p in given.items()}

    expected = (of(moved(1e-6)) - of(moved(-1e-6))) / 2e-6
    total(model, True).backward()
    back = [(p.grad * way[name]).sum() for name, p in model.named_parameters() if p.grad is not None]
    func = torch.func.grad(partial(of, create_graph=True))(given)
    torch.testing.assert_close(torch.stack(back).sum(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sum((func[name] * way[name]).sum() for name in given), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("operation", "said"), [(Old.apply, "setup_context"), ("script", "scripted")])
@pytest.mark.skipif(torch.__version__ < "2.1", reason="scripted code sees no tensors of torch.func there, which torch says")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_has_no_such_derivative_is_refused(operation: Any, said: str) -> None:
    operation = torch.jit.script(cubed) if operation == "script" else operation
    for method in METHODS.values():
        with pytest.raises(ValueError, match=said):
            method(Around(operation), torch.randn(4, 6, dtype=torch.float64), target=1, create_graph=True)
