"""Targets that are mapped over, by each_target or by a vmap of the caller's: what is right then, and how many run at once."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double().eval()
X = torch.randn(4, 6, dtype=torch.float64)


def test_a_class_out_of_range_is_refused_under_a_vmap_of_ones_own() -> None:
    """A gather would read past the row, or wrap."""

    def explain(target: Tensor) -> Any:
        return fa.gradient(NET, X, target=target)

    for wrong in ([0, 5], [-6, 1]):
        with pytest.raises(ValueError, match="out of range: there are 5"):
            torch.func.vmap(explain)(torch.tensor(wrong))
    found = torch.func.vmap(explain)(torch.tensor([0, -1]))
    torch.testing.assert_close(found, torch.stack([fa.gradient(NET, X, target=k) for k in (0, 4)]))
    nested = torch.func.vmap(torch.func.vmap(explain))(torch.tensor([[0, 1], [2, 3]]))
    torch.testing.assert_close(nested[1, 0], fa.gradient(NET, X, target=2))


def test_cdist_under_a_vmap_over_targets() -> None:
    """torch's rule for its backward pass gives every target the gradient of the first: under each_target they share a forward
    pass, and a vmap of the caller's is refused. Over the inputs it is right."""
    centres = torch.randn(5, 6, dtype=torch.float64)

    def distances(x: Tensor) -> Tensor:
        return torch.cdist(x, centres)

    expected = torch.stack([fa.gradient(distances, X, target=k) for k in (0, 3)])
    torch.testing.assert_close(fa.each_target(fa.gradient, [0, 3])(distances, X), expected)
    with pytest.raises(ValueError, match="one target at a time"):
        torch.func.vmap(lambda k: fa.gradient(distances, X, target=k))(torch.tensor([0, 3]))
    alone = torch.func.vmap(lambda x: fa.gradient(distances, x[None], target=3)[0])(X)
    torch.testing.assert_close(alone, expected[1])


def passes(call: Any) -> int:
    runs: list[int] = []
    handle = NET[0].register_forward_hook(lambda *_: runs.append(1))
    try:
        call()
    finally:
        handle.remove()
    return len(runs)


def test_a_look_is_taken_only_where_memory_may_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    every = fa.each_target(fa.gradient, [0, 1, 2, 3])
    assert passes(lambda: every(NET, X, layer="1")) == 1
    monkeypatch.setattr("funattr._combine.targets.ROOM", 2 * X.numel())
    assert passes(lambda: every(NET, X)) == 1  # the input is there to be seen
    monkeypatch.setattr("funattr._combine.targets.ROOM", 4 * 8 * len(X))
    assert passes(lambda: every(NET, X, layer="1")) == 1 + 1
    assert passes(lambda: fa.each_target(fa.at_input(fa.gradient), [0, 1])(NET, X, layer="1")) == 1 + 1


def test_a_layer_of_ones_own_meaning() -> None:
    """What `layer` is to somebody else's method is not for us to find."""

    def own(model: Any, x: Tensor, *, layer: int, target: Any = None) -> Any:
        return fa.gradient(model, x, layer=str(layer), target=target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funattr._combine.targets.ROOM", 1)
        found = fa.each_target(own, [0, 1])(NET, X, layer=1)
    torch.testing.assert_close(found[1], fa.gradient(NET, X, layer="1", target=1))


def test_steps_inside_a_vmap_take_the_memory_of_all_its_copies() -> None:
    """A method of one's own that hides the steps it takes, and so says nothing of them."""
    x = torch.randn(1, 1 << 16, dtype=torch.float64)
    counts: list[int] = []

    def model(x: Tensor) -> Tensor:
        return (x**2).sum(1, keepdim=True).expand(-1, 5)

    def own(model: Any, x: Tensor, *, target: Any = None) -> Any:
        with fa.progress(lambda done, total: counts.append(done)):
            return fa.integrated_gradients(model, x, target=target, n_steps=12)

    own(model, x, target=1)
    alone, counts[:] = len(counts), []
    found = fa.each_target(own, [0, 1, 2, 3])(model, x)
    assert len(counts) > alone
    torch.testing.assert_close(found[2], x**2)


def test_noise_around_what_fills_the_memory_alone() -> None:
    g = partial(torch.Generator().manual_seed, 0)
    expected = torch.stack([fa.noise_tunnel(fa.gradient, stdevs=0.1, generator=g())(NET, X, target=k) for k in (0, 3)])
    found = fa.noise_tunnel(fa.each_target(fa.gradient, [0, 3]), stdevs=0.1, generator=g())(NET, X)
    torch.testing.assert_close(found, expected)


class Sine(torch.autograd.Function):
    """With a backward pass that looks at numbers, which vmap refuses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return torch.tensor(grads[0].tolist(), dtype=x.dtype) * x.cos()


def test_all_targets_at_once_where_the_way_back_cannot_be_mapped() -> None:
    """They go back one after another through the graph that is there: the try had let it go, and torch's error came."""
    weight = torch.eye(6, dtype=torch.float64).to_sparse()
    mine, sparse = nn.Sequential(NET[0], Apply(Sine.apply), NET[2]), nn.Sequential(Apply(lambda x: (weight @ x.T).T), NET)
    for model in (mine, sparse):
        expected = torch.stack([fa.gradient(model, X, target=k) for k in range(3)])
        for size in (2, 3, 7):
            torch.testing.assert_close(fa.each_target(fa.gradient, range(3), chunk_size=size)(model, X), expected)


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)
