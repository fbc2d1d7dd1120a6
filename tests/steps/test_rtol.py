"""Path methods to a tolerance: `rtol`, and the error that they report, against means over thousands of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr._steps.quadrature import kronrod

from ..breadth import breadth, full
from ..close import close
from ..cost import cost

PATHS = [fa.integrated_gradients, fa.internal_influence, fa.conductance]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attend(h, h, h, need_weights=False)[0]
        return x + self.mix(self.norm2(x))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 9, 16) / 2)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))
        return out


def cnn(act: Callable[[], nn.Module], pool: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), act(), pool(2), nn.Conv2d(8, 12, 3, padding=1), act(), pool(2)),
        *(nn.Flatten(), nn.Linear(108, 24), act(), nn.Linear(24, 10)),
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(cnn, nn.ReLU, nn.MaxPool2d),
    "gelu": partial(cnn, nn.GELU, nn.AvgPool2d),
    "tanh": partial(cnn, nn.Tanh, nn.AvgPool2d),
    "vit": Vit,
}


def net(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = NETS[name]().double().eval()
    for parameter in model.parameters():  # as kinked as a trained one: the default start is nearly linear
        if parameter.dim() > 1 and name != "vit":
            nn.init.kaiming_normal_(parameter)
    return model


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norms(found: Tensor) -> Tensor:
    return found.flatten(1).norm(dim=1)


def by_hand(model: Any, x: Tensor, target: int, smooth: bool = False) -> Tensor:
    """Integrated gradients from 0, by plain autograd and the midpoint rule with 4,000 nodes; of what is smooth by Gauss's with
    200, which is more exact."""
    places, weights = (
        np.polynomial.legendre.leggauss(200) if smooth else (np.arange(1, 8000, 2) / 4000 - 1, np.full(4000, 1 / 2000))
    )
    rows, total = max(1, 2000 // len(x)), torch.zeros_like(x)
    for some, shares in zip(*(torch.tensor(part).split(rows) for part in ((places + 1) / 2, weights / 2))):
        points = (some.reshape(-1, 1, *[1] * (x.dim() - 1)) * x).requires_grad_()
        scores = model(points.flatten(0, 1))[:, target].unflatten(0, (len(some), -1)).sum(1)
        total += torch.autograd.grad(scores @ shares, points)[0].sum(0)
    return total * x


# The rule, and what it says of itself.


def test_rule_is_exact_for_polynomials_and_sees_what_it_cannot_integrate() -> None:
    places, rows = (np.array(part) for part in kronrod())
    for degree in range(23):
        assert abs(rows[0] @ places**degree - 1 / (degree + 1)) < 1e-14
        if degree < 11:
            assert np.abs(rows[1:] @ places**degree).max() < 1e-13


def test_estimate_covers_the_error_of_a_jump_wherever_it_is() -> None:
    places, rows = (np.array(part) for part in kronrod())
    for at in np.linspace(places[0] + 1e-9, places[-1] - 1e-9, 5000):
        jump = (places > at).astype(float)
        assert abs(rows[0] @ jump - (1 - at)) < np.linalg.norm(rows[1:] @ jump) / 2


# What is promised: the tolerance is met, and the error known.


@pytest.mark.parametrize("name", breadth(NETS, lambda name: name in ("relu", "vit")))
def test_tolerance_is_met_and_error_is_not_below_the_true_one(name: str) -> None:
    met(name, 8, seed=0)


@full
@pytest.mark.parametrize("name", NETS)
def test_tolerance_of_many(name: str) -> None:
    for seed in range(5):
        met(name, 50, seed)


def met(name: str, count: int, seed: int) -> None:
    model, x = net(name, seed), pictures(count, seed)
    found, error = fa.integrated_gradients(model, x, target=seed, rtol=1e-2, n_steps=5000, return_error=True)
    true, size = norms(found - by_hand(model, x, seed, smooth=name != "relu")), norms(found)
    assert error.shape == (count,)
    assert not error.requires_grad
    assert bool((error >= true).all())
    assert bool((error <= 1e-2 * size).all())
    assert bool((true > 1e-3 * size).all()) == (name == "relu")


@pytest.mark.parametrize("name", ["gelu", "tanh", "vit"])
def test_smooth_models_take_fifteen_evaluations(name: str) -> None:
    model, x = net(name), pictures(4)
    once = cost(lambda: fa.integrated_gradients(model, x, target=1, n_steps=15)).flops
    assert (
        cost(lambda: fa.integrated_gradients(model, x, target=1, rtol=1e-2, n_steps=1000)).flops <= 1.03 * once
    )  # the sums are counted too


@pytest.mark.parametrize(
    ("method", "layer"),
    breadth(
        list(itertools.product([fa.internal_influence, fa.conductance], [None, "3"])),
        lambda case: case == (fa.conductance, "3"),
        several=True,
    ),
)
def test_paths_in_the_input(method: Any, layer: Any) -> None:
    for name in ("relu", "tanh"):
        model, x = net(name), pictures(3)
        many = method(model, x, layer=layer, target=1, n_steps=4000, quadrature="riemann_middle", chunk_size=500)
        found, error = method(model, x, layer=layer, target=1, rtol=2e-2, n_steps=5000, return_error=True)
        assert bool((error >= norms(found - many)).all())
        assert bool((error <= 2e-2 * norms(found)).all())


def test_at_a_layer_and_jointly_at_several() -> None:
    model, x = net("relu"), pictures(3)
    many = fa.integrated_gradients(model, x, layer="3", target=1, n_steps=3000, quadrature="riemann_middle", chunk_size=500)
    found, error = fa.integrated_gradients(model, x, layer="3", target=1, rtol=1e-2, n_steps=3000, return_error=True)
    assert bool((error >= norms(found - many)).all())

    def two(a: Tensor, b: Tensor) -> Tensor:
        return (torch.tanh(a).flatten(1) * b.relu().flatten(1)).cumsum(1).relu().sum(1)

    pair = (pictures(3), pictures(3, 2))
    exact = fa.integrated_gradients(two, pair, n_steps=3000, quadrature="riemann_middle")
    result, error = fa.integrated_gradients(two, pair, rtol=1e-2, n_steps=3000, return_error=True)
    assert bool((error >= (sum(norms(a - b) ** 2 for a, b in zip(result, exact))) ** 0.5).all())
    assert bool((error <= 1e-2 * (sum(norms(a) ** 2 for a in result)) ** 0.5).all())


def test_tight_tolerances_of_smooth_models() -> None:
    model, x = net("tanh"), pictures(2)
    exact = fa.integrated_gradients(model, x, target=1, n_steps=300)
    found, error = fa.integrated_gradients(model, x, target=1, rtol=1e-9, n_steps=1000, return_error=True)
    close(found, exact, 1e-10)
    assert bool((error <= 1e-9 * norms(found)).all())


def test_nothing_to_attribute_is_nothing_to_integrate() -> None:
    found, error = fa.integrated_gradients(lambda x: x[:, 0], torch.zeros(2, 3), rtol=1e-2, return_error=True)
    assert not found.any()
    assert error.tolist() == [0.0, 0.0]
    found, error = fa.integrated_gradients(lambda x: x[:, 0], torch.zeros(0, 3), rtol=1e-2, return_error=True)
    assert found.shape == (0, 3)
    assert error.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, x = net("tanh"), pictures(2)
    exact = by_hand(model, x, 1)
    found, error = fa.integrated_gradients(model.to(dtype), x.to(dtype), target=1, rtol=0.05, n_steps=300, return_error=True)
    assert found.dtype == dtype
    assert error.dtype == torch.float32
    assert bool((norms(found.double() - exact) <= 0.05 * norms(exact)).all())


# Each example by itself, whatever runs beside it.


def options_of(method: Any) -> dict[str, Any]:
    return {"target": [1, 2, 3, 4], "rtol": 0.03, "n_steps": 2000, "layer": None if method is fa.integrated_gradients else "3"}


@pytest.mark.parametrize("method", PATHS)
def test_same_for_any_chunk_size_and_for_each_example_alone(method: Any) -> None:
    model, x = net("relu"), pictures(4) * torch.tensor([0.1, 0.5, 1.0, 3.0]).reshape(4, 1, 1, 1)
    options = options_of(method)
    found, error = method(model, x, **options, return_error=True)
    for chunk_size in (1, 4, 50):
        close(method(model, x, **options, return_error=True, chunk_size=chunk_size), (found, error))
    for i in range(4):
        close(method(model, x[i : i + 1], **options | {"target": i + 1}), found[i : i + 1])


def test_an_example_that_is_done_runs_no_more() -> None:
    model = net("relu")
    kinked, smooth = pictures(1), torch.zeros(7, 3, 12, 12, dtype=torch.float64)
    options: dict[str, Any] = {"target": 1, "rtol": 0.02, "n_steps": 2000, "chunk_size": 15}
    alone = cost(lambda: fa.integrated_gradients(model, kinked, **options)).flops
    both = cost(lambda: fa.integrated_gradients(model, torch.cat([kinked, smooth]), **options)).flops
    first = cost(lambda: fa.integrated_gradients(model, torch.cat([kinked, smooth]), target=1, n_steps=15)).flops
    assert both < 1.02 * (alone + first)


class Meet(nn.Module):
    """Rows that depend on each other: the function of a batch is of that batch."""

    def __init__(self, meet: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.meet = nn.Linear(6, 16), nn.Linear(16, 3), meet

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.meet(self.first(x)).relu())


#: Everywhere, or in a part of the path alone, of which its middle shows nothing.
MEETINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda h: h - h.mean(0),
    "largest": lambda h: h / h.abs().max().clamp(min=1.0),
    "length": lambda h: h / h.norm().clamp(min=3.5),
    "threshold": lambda h: h + (h.mean(0) - 0.4).relu(),
    "next": lambda h: h - (h.cumsum(0) - h - 1.2).relu(),
}


@pytest.mark.parametrize("meet", MEETINGS)
def test_rows_that_meet_stay_together(meet: str) -> None:
    torch.manual_seed(0)
    model, x = Meet(MEETINGS[meet]).double(), torch.randn(5, 6, dtype=torch.float64)
    many = fa.integrated_gradients(model, x, target=1, n_steps=4000, quadrature="riemann_middle")
    found, error = fa.integrated_gradients(model, x, target=1, rtol=5e-3, n_steps=4000, return_error=True)
    assert bool((error >= norms(found - many)).all())
    assert bool((error <= 5e-3 * norms(found)).all())


def test_rows_that_are_counted_stay_together() -> None:
    """Alone and among all an example gave the same, and among those that were not done yet, another."""
    torch.manual_seed(0)
    model = Meet(lambda h: 2 * h if len(h) % 2 == 0 else h).double()
    x = torch.randn(3, 6, dtype=torch.float64) * torch.tensor([[8.0], [0.01], [8.0]])
    many = fa.integrated_gradients(model, x, target=1, n_steps=4000, quadrature="riemann_middle")
    found = fa.integrated_gradients(model, x, target=1, rtol=5e-3, n_steps=4000)
    assert bool((norms(found - many) <= 5e-3 * norms(found)).all())


def test_arguments_bound_for_the_whole_batch() -> None:
    model, x = net("relu"), pictures(4)
    masks = (torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.3).double()

    def masked(x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = model(x * mask)
        return out

    many = by_hand(lambda p: masked(p, masks.repeat(len(p) // 4, 1, 1, 1)), x, 1)
    found, error = fa.integrated_gradients(partial(masked, mask=masks), x, target=1, rtol=0.02, n_steps=3000, return_error=True)
    assert bool((error >= norms(found - many)).all())
    per_example = fa.integrated_gradients(
        partial(masked, mask=masks), x, target=lambda output: output[:, 1], rtol=0.02, n_steps=3000
    )
    close(per_example, found)


def test_model_with_a_branch_on_its_data() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.relu() if bool((x.sum(1) > 0).all()) else x.abs()).sum(1)

    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="one after another"):
        many = fa.integrated_gradients(Branching(), x, n_steps=2000, baselines=-1.0, quadrature="riemann_middle")
    with pytest.warns(UserWarning, match="one after another"):
        found, error = fa.integrated_gradients(Branching(), x, baselines=-1.0, rtol=0.01, n_steps=2000, return_error=True)
    assert bool((error >= norms(found - many) - 1e-3 * norms(many)).all())


# Where the nodes run out, and what is refused.


def test_nodes_run_out_with_the_figure_reached() -> None:
    model, x = net("relu"), pictures(2)
    with pytest.warns(
        UserWarning, match=r"2 of 2 examples have not come to rtol=0.001 with n_steps=50 nodes: .* 0\.\d+\. Allow"
    ):
        found, error = fa.integrated_gradients(model, x, target=1, rtol=1e-3, return_error=True)
    assert bool((error > 1e-3 * norms(found)).all())
    assert bool((error >= norms(found - by_hand(model, x, 1))).all())


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"return_error": True}, ValueError, "needs a tolerance: pass rtol too"),
        ({"rtol": 0.0}, ValueError, "above 0"),
        ({"rtol": float("nan")}, ValueError, "above 0 and finite"),
        ({"rtol": "1e-2"}, TypeError, "rtol must be a number"),
        ({"rtol": 1e-2, "n_steps": 14}, ValueError, "15 are the fewest"),
        ({"rtol": 1e-2, "quadrature": "riemann_left"}, ValueError, "leave quadrature='riemann_left' out"),
        ({"rtol": 1e-2, "return_error": "yes"}, TypeError, "True or False"),
    ],
)
@pytest.mark.parametrize("method", PATHS)
def test_refused(method: Any, given: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as told:
        method(nn.Linear(3, 2), torch.ones(2, 3), target=0, **given)
    assert str(told.value).startswith(method.__name__)


def test_mapped_and_compiled_calls_are_refused_in_words() -> None:
    model, x = nn.Linear(3, 2), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"rtol chooses the nodes by what the model gives, .* call it outside"):
        torch.func.vmap(lambda x: fa.integrated_gradients(model, x[None], target=0, rtol=1e-2)[0])(x)
    with pytest.raises(Exception, match="rtol chooses the nodes by what the model gives"):
        torch.compile(fa.integrated_gradients, fullgraph=True, backend="eager")(model, x, target=0, rtol=1e-2)


def test_values_without_a_row_for_each_example() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Tanh(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.inner(x.transpose(0, 1)).sum(0))
            return out

    x = torch.randn(3, 5, 4)
    with pytest.raises(ValueError, match="has no row for each of the 3 examples of x, and rtol is for each"):
        fa.integrated_gradients(Turned(), x, layer="inner", target=0, rtol=1e-2)
    assert fa.integrated_gradients(Turned(), x[:1], layer="inner", target=0, rtol=1e-2).shape == (5, 1, 4)


# With others.


def test_differentiable_with_create_graph() -> None:
    model, x = net("tanh"), pictures(2).requires_grad_()
    found, error = fa.integrated_gradients(model, x, target=1, rtol=1e-6, n_steps=300, return_error=True, create_graph=True)
    exact = fa.integrated_gradients(model, x, target=1, n_steps=100, create_graph=True)
    assert not error.requires_grad
    ours, theirs = (torch.autograd.grad((a**2).sum(), x)[0] for a in (found, exact))
    close(ours, theirs, 1e-7)
    slope = torch.func.grad(
        lambda x: (fa.integrated_gradients(model, x, target=1, rtol=1e-6, n_steps=300, create_graph=True) ** 2).sum()
    )(x.detach())
    close(slope, theirs, 1e-7)


def test_combinators_take_a_tolerance() -> None:
    model, x = net("relu"), pictures(3)
    options: dict[str, Any] = {"rtol": 0.05, "n_steps": 600}
    one_by_one = [fa.integrated_gradients(model, x, target=t, **options, return_error=True) for t in (0, 4)]
    close(fa.each_target(fa.integrated_gradients, [0, 4])(model, x, **options), torch.stack([a for a, _ in one_by_one]))
    found, error = fa.each_target(fa.integrated_gradients, [0, 4])(model, x, **options, return_error=True)
    close((found, error), tuple(map(torch.stack, zip(*one_by_one))))

    starts = pictures(2, 5)
    each = [
        fa.integrated_gradients(model, x, target=1, baselines=starts[i : i + 1], **options, return_error=True) for i in (0, 1)
    ]
    mean = fa.mean_over_baselines(fa.integrated_gradients)(model, x, target=1, baselines=starts, **options, return_error=True)
    close(mean, tuple(torch.stack(same).mean(0) for same in zip(*each)))

    still = fa.noise_tunnel(fa.integrated_gradients, n_samples=2, stdevs=0.0)(model, x, target=0, **options)
    close(still, one_by_one[0][0])
    close(fa.relu(fa.integrated_gradients)(model, x, target=0, **options), one_by_one[0][0].relu())


@pytest.mark.parametrize("made", [fa.relu, fa.noise_tunnel, fa.at_input, partial(fa.multiply, fa.gradient)])
def test_combinators_that_have_no_use_for_the_error_say_so(made: Any) -> None:
    with pytest.raises(TypeError, match="there is no argument 'return_error'"):
        made(fa.integrated_gradients)(nn.Linear(3, 2), torch.ones(1, 3), target=0, rtol=0.1, return_error=True)


def test_progress_ends_at_the_most_nodes() -> None:
    met: list[tuple[int, int]] = []
    with fa.progress(lambda done, total: met.append((done, total))):
        fa.integrated_gradients(net("relu"), pictures(2), target=1, rtol=0.1, n_steps=300)
    assert met[0] == (0, 300)
    assert met[-1] == (300, 300)
    assert len(met) > 2
    assert met == sorted(set(met))
