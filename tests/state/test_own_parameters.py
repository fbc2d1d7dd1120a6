"""Models that write to their own parameters when they run: every pass starts from what the call found, and leaves that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr._core.kept import _WRITING


def in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(0.9)


def through_data(layer: nn.Linear) -> None:
    layer.weight.data.mul_(0.9)


def other_data(layer: nn.Linear) -> None:
    layer.weight.data = torch.renorm(layer.weight.data, 2, 0, 0.5)


def detached(layer: nn.Linear) -> None:
    layer.weight.detach().clamp_(-0.2, 0.2)


def another(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 0.9)


WRITES: list[Callable[[nn.Linear], None]] = [in_place, through_data, other_data, detached, another]


class Writes(nn.Module):
    def __init__(self, write: Callable[[nn.Linear], None]) -> None:
        super().__init__()
        self.one, self.two, self.write = nn.Linear(4, 6), nn.Linear(6, 3), write

    def forward(self, x: Tensor) -> Any:
        self.renormed()
        return self.two(torch.tanh(self.one(x)))

    def renormed(self) -> None:
        with torch.no_grad():
            self.write(self.one)
            self.two.bias.add_(0.1)


def made(write: Callable[[nn.Linear], None]) -> Writes:
    torch.manual_seed(0)
    return Writes(write).double()


x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
METHODS: dict[str, Callable[[nn.Module], Tensor]] = {
    "gradient": lambda model: fa.gradient(model, x, target=1),
    "integrated_gradients": lambda model: fa.integrated_gradients(model, x, target=1, n_steps=64),
    "feature_ablation": lambda model: fa.feature_ablation(model, x, target=1),
    "at a layer": lambda model: fa.feature_ablation(model, x, target=1, layer="one"),
    "deep_lift": lambda model: fa.deep_lift(model, x, target=1),
    "each_target": lambda model: fa.each_target(fa.gradient, [0, 1, 2])(model, x)[1],
    "each_target, many steps": lambda model: fa.each_target(fa.integrated_gradients, [0, 1])(model, x, n_steps=64)[1],
    "noise_tunnel": lambda model: fa.noise_tunnel(fa.gradient, stdevs=0.0)(model, x, target=1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
def test_each_pass_starts_from_what_the_call_found(write: Callable[[nn.Linear], None], method: str) -> None:
    model, still = made(write), made(lambda layer: None)
    found = METHODS[method](model)
    for name, weight in made(write).named_parameters():
        kept = model.get_parameter(name)
        assert type(kept) is nn.Parameter
        assert torch.equal(kept, weight)
    write(still.one)  # once, as in every pass
    torch.testing.assert_close(found, METHODS[method](still))


def test_others_are_not_copied() -> None:
    class Quiet(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu_().detach()

        def reset(self, layer: nn.Linear) -> None:
            layer.weight.data.zero_()

    assert _WRITING.in_class(Writes)
    assert not _WRITING.in_class(nn.Linear)
    Quiet.forward = lambda self, x: x.relu()  # type: ignore[method-assign]  # without what could write
    assert not _WRITING.in_class(Quiet)


class Stays(Writes):
    """To move a module, torch puts other data into its parameters, and other buffers into its table."""

    def __init__(self, move: Callable[[Any, Tensor], nn.Module]) -> None:
        super().__init__(lambda layer: None)
        self.norm, self.move = nn.BatchNorm1d(6), move
        self.inner = nn.ModuleList([self.one])
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.two(torch.tanh(self.norm(self.move(self, x)(x))))


def kept(model: Any, x: Tensor) -> nn.Module:
    model.one = model.one.to(x.device)
    found: nn.Module = model.one
    return found


def in_a_list(model: Any, x: Tensor) -> nn.Module:
    found: nn.Module = next(layer.to(x.device) for layer in model.inner)
    return found


def all_of_it(model: Any, x: Tensor) -> nn.Module:
    model.to(x)
    model.cpu().double()
    found: nn.Module = model.one
    return found


def cast(model: Any, x: Tensor) -> nn.Module:
    model.one.float()
    model.norm.float()
    found: nn.Module = model.one.double()
    model.norm.double()
    return found


MOVES: dict[str, Callable[[Any, Tensor], nn.Module]] = {
    "at once": lambda model, x: model.one.to(x.device),
    "kept": kept,
    "in a list": in_a_list,
    "all of it": all_of_it,
    "cast, and back": cast,
}
LEVELS: dict[str, Callable[[nn.Module], Tensor]] = {
    **METHODS,
    "of several baselines": lambda model: fa.deep_lift_shap(model, x, baselines=torch.stack([x[0], -x[0]]), target=1),
    "noise, lifted": lambda model: fa.noise_tunnel(fa.deep_lift, stdevs=0.0, n_samples=3)(model, x, target=1),
    "noise, at once": lambda model: fa.noise_tunnel(fa.gradient, stdevs=0.0, n_samples=3)(model, x, target=1),
    "differentiated": lambda model: fa.lrp(model, x, target=1, create_graph=True).detach(),
}


@pytest.mark.parametrize("way", MOVES)
def test_what_moves_its_modules_keeps_them_as_they_are(way: str) -> None:
    """Where a transform's tensors came into their place, the process broke in the pass after."""
    torch.manual_seed(0)
    model, still = Stays(MOVES[way]), Stays(lambda model, x: model.one)  # type: ignore[no-any-return]  # a module's attribute
    still.load_state_dict({name: t.float().double() for name, t in model.state_dict().items()})
    model.load_state_dict(still.state_dict())
    for method in LEVELS.values():
        torch.testing.assert_close(method(model), method(still))
        assert all(type(weight) is nn.Parameter for weight in model.parameters())
        assert model(x).isfinite().all()
        assert {name: t.dtype for name, t in model.state_dict().items()} == {n: t.dtype for n, t in still.state_dict().items()}
