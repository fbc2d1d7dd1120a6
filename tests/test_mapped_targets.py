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
    """torch's rule for its backward pass gives every target the gradient of the first: each_target runs them one by one, and
    a vmap of the caller's is refused. Over the inputs it is right."""
    centres = torch.randn(5, 6, dtype=torch.float64)

    def distances(x: Tensor) -> Tensor:
        return torch.cdist(x, centres)

    expected = torch.stack([fa.gradient(distances, X, target=k) for k in (0, 3)])
    with pytest.warns(UserWarning, match="one after another"):
        found = fa.each_target(fa.gradient, [0, 3])(distances, X)
    torch.testing.assert_close(found, expected)
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
    assert passes(lambda: every(NET, X)) == 2  # the input is there to be seen
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


class Tagger(nn.Module):
    """Classes at each of four positions, ``[N, 4, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x))).unflatten(1, (4, 3))


PLACES = [(0, 1), (3, 2), (-1, 0), (2, -3)]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (fa.gradient, {}),
        (fa.grad_cam, {"layer": "first"}),
        (fa.integrated_gradients, {"n_steps": 4}),
        (fa.integrated_gradients, {"n_steps": 4, "layer": "first"}),
        (fa.deep_lift, {}),
        (fa.feature_ablation, {}),
    ],
)
def test_indices_are_mapped_as_classes_are(method: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Tagger().double(), torch.randn(3, 6, dtype=torch.float64)
    every = fa.each_target(method, PLACES)
    one_by_one = torch.stack([method(model, x, target=place, **options) for place in PLACES])
    torch.testing.assert_close(every(model, x, **options), one_by_one)
    torch.testing.assert_close(fa.each_target(method, PLACES, chunk_size=3)(model, x, **options), one_by_one)
    fast: Any = torch.compile(every, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(model, x, **options), one_by_one)


def test_indices_take_one_forward_pass() -> None:
    model, x = Tagger(), torch.randn(3, 6)
    passes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        passes.append(1)
        return model(x)  # type: ignore[no-any-return]  # a module's call is not typed

    fa.each_target(fa.gradient, PLACES)(counted, x)
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([(0, 1), (0, 3)], "target 3 is out of range: there are 3"),
        ([(4, 0), (0, 0)], "target 4 is out of range: there are 4"),
        ([(0,), (1,)], r"target=\[0, 1\] has 1 of the 2 indices"),
        ([(0, 1, 2)], r"target=\(0, 1, 2\) has 3, more entries than the 2"),
    ],
)
def test_indices_that_do_not_fit(places: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fa.each_target(fa.gradient, places)(Tagger(), torch.randn(2, 6))
