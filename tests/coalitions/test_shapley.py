"""Shapley values: exact ones against their formula, samplings against their laws, and against Captum, shap and shapiq."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import KernelShap, ShapleyValues
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa
from funattr._steps.shares import draw_pairs, rounded, shares_of

from ..breadth import full
from ..close import close
from ..cost import cost

SAMPLINGS = ("leverage", "kernel", "permutation")
NET = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double().eval()
X = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(players: int, seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(players, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    return net, torch.randn(3, players, dtype=torch.float64)


def by_orders(score: Callable[[Tensor], Tensor], x: Tensor, base: Tensor, orders: list[tuple[int, ...]]) -> Tensor:
    """The mean of what each feature adds, coming in one by one."""
    total = torch.zeros_like(x)
    for order in orders:
        now = base.expand(x.shape).clone()
        before = score(now)
        for player in order:
            now[:, player] = x[:, player]
            after = score(now)
            total[:, player] += after - before
            before = after
    return total / len(orders)


def test_exact_is_the_mean_over_all_orders() -> None:
    base = torch.tensor([[0.5, -1.0, 0.2, 0.0, 2.0, 1.0]], dtype=torch.float64)
    expected = by_orders(lambda x: NET(x)[:, 1].detach(), X, base, list(itertools.permutations(range(6))))
    close(fa.shapley(NET, X, target=1, baselines=base, sampling="exact"), expected)
    for sampling in SAMPLINGS:  # the budget is for all of them
        found, errors = fa.shapley(NET, X, target=1, baselines=base, sampling=sampling, standard_errors=True)
        close(found, expected)
        assert not errors.any()


@given(players=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_efficiency_at_every_budget(players: int, seed: int, data: st.DataObject) -> None:
    net, x = net_of(players, seed)
    sampling = data.draw(st.sampled_from(SAMPLINGS))
    layer, base = data.draw(st.sampled_from([(None, 0.3), ("1", torch.full((5, 1, 8), 0.2).cumsum(0).double())]))
    count = players if layer is None else 8
    least = min(2 * count if sampling == "permutation" else 4, 2**count)
    budget = data.draw(st.integers(least, least + 60))
    found = fa.shapley(
        net, x, target=0, layer=layer, baselines=base, sampling=sampling, n_samples=budget, generator=seeded(seed)
    )
    ends = fa.game(net, x, target=0, layer=layer, baselines=base)
    none, every = ends.value(torch.tensor([[False] * ends.players, [True] * ends.players]))
    close(found.sum(1), every - none)


@pytest.mark.parametrize(("players", "budget"), [(40, 81), (40, 82), (63, 127), (63, 128), (70, 141)])
def test_nearly_singular_fits_keep_the_sum(players: int, budget: int) -> None:
    """About as many pairs as unknowns: values of tens, from a few random rows."""
    net, x = net_of(players, 3)
    gain = net(x)[:, 0] - net(0 * x)[:, 0]
    for sampling in ("leverage", "kernel"):
        for seed in range(3):
            found = fa.shapley(net, x, target=0, sampling=sampling, n_samples=budget, generator=seeded(seed))
            close(found.sum(1), gain.detach())


@given(players=st.integers(2, 12), seed=st.integers(0, 99), sampling=st.sampled_from(("leverage", "kernel")))
def test_what_interacts_in_pairs_is_exact_at_full_rank(players: int, seed: int, sampling: str) -> None:
    torch.manual_seed(seed)
    square, line = torch.randn(players, players).double(), torch.randn(players).double()
    x = torch.randn(2, players, dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        return x @ line + torch.einsum("ni,ij,nj->n", x, square, x)

    found = fa.shapley(score, x, baselines=0.5, sampling=sampling, n_samples=6 * players + 2, generator=seeded(seed))
    exact = fa.shapley(score, x, baselines=0.5, sampling="exact")
    pairs = (6 * players + 2 - 2) // 2
    if 2**players > 6 * players + 2:
        rows = draw_pairs(players, pairs, sampling, rand(seeded(seed))).kept.double()
        if torch.linalg.matrix_rank(rows - rows.mean(1, keepdim=True)) < players - 1:
            return
    close(found, exact)


def rand(generator: torch.Generator) -> Callable[..., Tensor]:
    return lambda *shape: torch.rand(shape, dtype=torch.float64, generator=generator)


@given(seed=st.integers(0, 99), sampling=st.sampled_from(SAMPLINGS), data=st.data())
def test_linear_scores_and_linearity(seed: int, sampling: str, data: st.DataObject) -> None:
    x, weight = torch.randn(3, 9, dtype=torch.float64, generator=seeded(seed)), torch.arange(9.0, dtype=torch.float64)
    found = fa.shapley(lambda x: x @ weight, x, baselines=0.5, sampling=sampling, generator=seeded(seed))
    close(found, weight * (x - 0.5))
    net, x = net_of(9, seed)
    a, b = data.draw(st.floats(-3, 3)), data.draw(st.floats(-3, 3))
    options: dict[str, Any] = {"sampling": sampling, "n_samples": 60}
    mixed = fa.shapley(net, x, target=lambda out: a * out[:, 0] + b * out[:, 1], generator=seeded(1), **options)
    parts = [fa.shapley(net, x, target=k, generator=seeded(1), **options) for k in (0, 1)]
    close(mixed, a * parts[0] + b * parts[1])


@pytest.mark.parametrize("sampling", ["permutation", "exact"])
def test_what_the_score_ignores_gets_nothing(sampling: str) -> None:
    net, x = net_of(10, 3)
    found = fa.shapley(lambda x: net(torch.cat([x[:, :4], 0 * x[:, 4:6], x[:, 6:]], 1))[:, 0], x, sampling=sampling)
    assert found[:, 4:6].abs().max() <= 1e-15
    assert (found[:, [0, 1, 2, 3, 6, 7, 8, 9]] != 0).all()


@given(sampling=st.sampled_from(SAMPLINGS), chunk_size=st.sampled_from([None, 1, 7]), seed=st.integers(0, 50))
def test_a_batch_is_its_examples_and_chunks_change_nothing(sampling: str, chunk_size: int | None, seed: int) -> None:
    net, x = net_of(9, seed)
    mask = torch.stack([torch.arange(9), torch.arange(9).flip(0), torch.arange(9) % 5])  # the last lacks players
    options: dict[str, Any] = {"target": 1, "sampling": sampling, "n_samples": 50, "standard_errors": True}
    together = fa.shapley(net, x, feature_mask=mask, generator=seeded(seed), chunk_size=chunk_size, **options)
    whole = torch.arange(9)
    for n in range(2):
        alone = fa.shapley(net, x[n : n + 1], feature_mask=mask[n] if n else whole, generator=seeded(seed), **options)
        for a, b in zip(together, alone):
            close(a[n : n + 1], b)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_generators(sampling: str) -> None:
    net, x = net_of(10, 1)
    state = torch.get_rng_state()
    options: dict[str, Any] = {"target": 0, "sampling": sampling, "n_samples": 40}
    first, again, other = (fa.shapley(net, x, generator=seeded(k), **options) for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(fa.shapley(net, x, **options), first)
    with torch.no_grad():
        assert torch.equal(fa.shapley(net, x, generator=seeded(1), **options), first)
    with torch.inference_mode():
        assert torch.equal(fa.shapley(net, x, generator=seeded(1), **options), first)


def test_distributions_of_baselines() -> None:
    base = torch.randn(5, 6, dtype=torch.float64)
    found = fa.shapley(NET, X, target=1, baselines=base[:, None], sampling="exact")
    close(found, fa.mean_over_baselines(fa.shapley)(NET, X, target=1, baselines=base, sampling="exact"))
    with pytest.raises(ValueError, match=r"baselines\[:, None\]"):
        fa.shapley(NET, X, target=1, baselines=base)


# Which coalitions.


@given(players=st.integers(2, 40), count=st.integers(1, 200), seed=st.integers(0, 99), kernel=st.booleans())
def test_pairs_are_different_and_as_many_as_asked(players: int, count: int, seed: int, kernel: bool) -> None:
    count = min(count, 2 ** (players - 1) - 1)
    found = draw_pairs(players, count, "kernel" if kernel else "leverage", rand(seeded(seed)))
    rows = found.kept
    assert rows.shape == (count, players)
    assert len(torch.unique(torch.cat([rows, ~rows]), dim=0)) == 2 * count  # no pair twice, nor its complement
    sizes = rows.sum(1)
    assert (sizes >= 1).all()
    assert (2 * sizes <= players).all()
    assert ((found.chances > 0) & (found.chances <= 1)).all()


@pytest.mark.parametrize("sampling", ["leverage", "kernel"])
@pytest.mark.parametrize(("players", "count"), [(10, 39), (9, 30), (7, 50), (5, 9)])
def test_shares(players: int, count: int, sampling: str) -> None:
    sizes = range(1, players // 2 + 1)
    totals = [math.comb(players, s) // (2 if 2 * s == players else 1) for s in sizes]
    shares = shares_of(players, count, sampling, totals)
    assert math.isclose(sum(shares), count)
    free = [i for i, (share, total) in enumerate(zip(shares, totals)) if share < total]
    bases = [1.0 if sampling == "leverage" else 1 / (s * (players - s)) for s in sizes]
    bases[-1] /= 2 if players % 2 == 0 else 1
    assert len({round(shares[i] / bases[i], 9) for i in free}) <= 1
    draws = torch.tensor([rounded(shares, totals, (k + 0.5) / 1000) for k in range(1000)])
    assert (draws.sum(1) == count).all()
    torch.testing.assert_close(draws.double().mean(0), torch.tensor(shares, dtype=torch.float64), rtol=0, atol=0.01)


def test_every_coalition_of_a_size_is_as_likely() -> None:
    counts: dict[tuple[bool, ...], int] = {}
    generator = seeded(0)
    for _ in range(4000):
        for row in draw_pairs(6, 12, "leverage", rand(generator)).kept.tolist():
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 6 + 15 + 10
    for size in (1, 2, 3):
        own = torch.tensor([count for row, count in counts.items() if sum(row) == size]).double()
        assert own.std() <= 4 * own.mean().sqrt() / math.sqrt(2) + 1  # binomial, or all of them


# Standard errors, and the error itself: what the contract asks for, on models that need no download.


AROUND = {
    "normalize": fa.normalize(fa.shapley),
    "noise_tunnel": fa.noise_tunnel(fa.shapley, n_samples=2),
    "sum_groups": fa.sum_groups(fa.shapley, [0, 0, 1, 1, 1, 1]),
    "mean_over_baselines": functools.partial(fa.mean_over_baselines(fa.shapley), baselines=X),
}


@pytest.mark.parametrize("name", AROUND)
def test_standard_errors_are_of_shapley_alone(name: str) -> None:
    """A combinator did with them what it does with values: divided them by their own largest, added and averaged them."""
    with pytest.raises(TypeError, match="there is no argument 'standard_errors'"):
        AROUND[name](NET, X, target=1, standard_errors=True)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_standard_errors_are_about_the_true_ones(sampling: str) -> None:
    net, x = net_of(10, 5)
    net[2].weight.data *= 3
    exact = fa.shapley(net, x, target=0, sampling="exact")
    squares, told = torch.zeros_like(exact), torch.zeros_like(exact)
    for seed in range(60):
        found, errors = fa.shapley(
            net, x, target=0, sampling=sampling, n_samples=82, standard_errors=True, generator=seeded(seed)
        )
        plain = fa.shapley(net, x, target=0, sampling=sampling, n_samples=82, generator=seeded(seed))
        assert torch.equal(found, plain)
        squares, told = squares + (found - exact) ** 2 / 60, told + errors**2 / 60
    ratio = float((told.mean() / squares.mean()).sqrt())
    assert 0.8 <= ratio <= 1.2


# Others.


def test_captum_and_peers() -> None:
    mask = torch.tensor([0, 0, 1, 2, 2, 3])
    theirs = ShapleyValues(NET).attribute(X, 0.3, 1, feature_mask=mask[None])
    ours = fa.shapley(NET, X, target=1, baselines=0.3, feature_mask=mask)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)
    torch.manual_seed(0)
    theirs = KernelShap(lambda x: x @ weight).attribute(X[:1], 0.5, n_samples=200)  # right where the score is linear
    ours = fa.shapley(lambda x: x @ weight, X[:1], baselines=0.5)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-5)  # weights of 1e6 there


def test_the_orders_of_captums_sampling() -> None:
    """ShapleyValueSampling's own orders, played on the game."""
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(3)
    theirs = ShapleyValueSampling(NET).attribute(X, 0.3, 1, n_samples=7)
    torch.manual_seed(3)
    game, total = fa.game(NET, X, target=1, baselines=0.3), torch.zeros(6, 4, dtype=torch.float64)
    for _ in range(7):
        order = torch.randperm(6)
        kept = torch.zeros(7, 6, dtype=torch.bool)
        for k, player in enumerate(order):
            kept[k + 1 :, player] = True
        total[order] += game.value(kept).diff(dim=0) / 7
    torch.testing.assert_close(game.spread(total), theirs.double(), rtol=0, atol=1e-6)


# What captum 0.9.0, shap 0.51.0 and shapiq 1.8.0 gave for one net, whose weights come from numpy's frozen stream.
# fmt: off
OF_CAPTUM = [
    [-0.516343279507, -0.0783950798568, -0.271028174994, -1.20200698114, 0.429590224097],
    [-0.0033503465969, -0.00577752669634, -0.0273886001467, 0.0325159452222, -0.000595464704497],
]
OF_CAPTUMS_GROUPS = [
    [-0.62845669974, -0.62845669974, -1.4197006913, -1.4197006913, 0.409974099635],
    [-0.0155539525567, -0.0155539525567, 0.00845924016299, 0.00845924016299, 0.00249871947154],
]
OF_CAPTUMS_OCCLUSION = [
    [-1.10426545143, -0.956177294254, -1.35955440998, -1.56842184067, -1.22582399845],
    [-0.0104435449466, -0.0142000168562, 0.00240817968734, 0.0286509543657, 0.0345290601254],
]
OF_SHAP = [  # its KernelExplainer, all coalitions: class 2
    [0.67126494873, 0.0784833096818, 0.227421242766, 1.77490423691, -0.340494941931],
    [-0.156542655857, 0.0423238947006, -0.224416917584, 0.399689159946, -0.310076206518],
]
OF_SHAPIQ = [-0.5163432795067963, -0.07839507985675133, -0.2710281749942648, -1.2020069811428562, 0.4295902240972934]
# fmt: on


def of_peers() -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    stream = np.random.RandomState(0)
    with torch.no_grad():
        for _, p in sorted(net.named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_(torch.from_numpy(stream.standard_normal(tuple(p.shape)) / fan**0.5))
    x, base = (
        torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)) for seed, shape in ((1, (2, 5)), (2, (1, 5)))
    )
    return net, x, base


def test_numbers_of_captum_shap_and_shapiq() -> None:
    net, x, base = of_peers()
    options: dict[str, Any] = {"target": [1, 0], "baselines": base}
    close(fa.shapley(net, x, sampling="exact", **options), torch.tensor(OF_CAPTUM, dtype=torch.float64), 1e-9)
    grouped = fa.shapley(net, x, feature_mask=torch.tensor([0, 0, 1, 1, 2]), **options)
    close(grouped, torch.tensor(OF_CAPTUMS_GROUPS, dtype=torch.float64), 1e-9)
    close(fa.occlusion(net, x, window=2, **options), torch.tensor(OF_CAPTUMS_OCCLUSION, dtype=torch.float64), 1e-6)
    close(fa.shapley(net, x, target=2, baselines=base), torch.tensor(OF_SHAP, dtype=torch.float64), 1e-9)
    close(fa.shapley(net, x[:1], target=1, baselines=base), torch.tensor([OF_SHAPIQ], dtype=torch.float64), 1e-9)


@full
def test_shapiq_plays() -> None:
    shapiq = pytest.importorskip("shapiq")
    game = fa.game(NET, X[:1], target=1)
    empty = game.value(torch.zeros(6, dtype=torch.bool)).item()

    def play(kept: Any) -> Any:
        return game.value(torch.from_numpy(np.atleast_2d(kept)))[:, 0].numpy() - empty

    exact = fa.shapley(NET, X[:1], target=1)[0]
    values = shapiq.ExactComputer(game=play, n_players=6)("SV", 1)
    torch.testing.assert_close(exact, torch.tensor([values[(i,)] for i in range(6)], dtype=torch.float64), rtol=0, atol=1e-10)
    pairs = shapiq.ExactComputer(game=play, n_players=6)("k-SII", 2)  # the numbers of players and of pairs sum to the gain
    gain = game.value(torch.ones(6, dtype=torch.bool)).item() - empty
    assert sum(float(pairs[key]) for key in pairs.interaction_lookup if key) == pytest.approx(gain, abs=1e-9)
    found = shapiq.KernelSHAP(n=6, random_state=0).approximate(64, play)
    torch.testing.assert_close(exact, torch.tensor([found[(i,)] for i in range(6)], dtype=torch.float64), rtol=0, atol=1e-6)


# Transforms, and what is refused.


@pytest.mark.full
def test_compiled_mapped_and_differentiated() -> None:
    for layer in (None, "1"):

        def exact(x: Tensor, layer: Any = layer) -> Tensor:
            mask = torch.arange(6 if layer is None else 9)
            found: Tensor = fa.shapley(NET, x, layer=layer, target=1, feature_mask=mask, sampling="exact")
            return found

        close(torch.compile(exact, fullgraph=True, backend="aot_eager")(X), exact(X))
        close(torch.func.vmap(lambda x, exact=exact: exact(x[None])[0])(X), exact(X))
    x = X.clone().requires_grad_()
    for sampling in SAMPLINGS:
        options: dict[str, Any] = {"target": 1, "sampling": sampling, "n_samples": 30}
        found = fa.shapley(NET, x, create_graph=True, generator=seeded(0), **options)
        (slope,) = torch.autograd.grad(found.square().sum(), x)

        def summed(x: Tensor, options: dict[str, Any] = options) -> Tensor:
            return fa.shapley(NET, x, create_graph=True, generator=seeded(0), **options).square().sum()

        close(torch.func.grad(summed)(X), slope)
        step = torch.randn_like(X)
        ends = [fa.shapley(NET, X + h * step, generator=seeded(0), **options).square().sum() for h in (1e-6, -1e-6)]
        torch.testing.assert_close((slope * step).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_samplings_that_cannot_be_traced_say_so() -> None:
    net, x = net_of(12, 0)
    with pytest.raises(Exception, match=r"fa\.game"):
        torch.compile(lambda x: fa.shapley(net, x, target=1), fullgraph=True, backend="aot_eager")(x)
    for randomness in ("error", "different"):
        with pytest.raises(ValueError, match=r"sampling='exact'.*fa\.game"):
            torch.func.vmap(lambda x: fa.shapley(net, x[None], target=1), randomness=randomness)(x)


def test_groups_of_a_mask_that_cannot_be_counted_are_said_to_be_so() -> None:
    mask, x = torch.arange(24).reshape(1, 24) // 8, torch.randn(2, 24)

    def exact(x: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = fa.shapley(lambda x: x.sum(1) ** 2, x, feature_mask=mask, sampling="exact")
        return found

    with pytest.raises(Exception, match=r"compiled.*each number of a mask.*uncompiled, of a compiled model"):
        torch.compile(exact, fullgraph=True, backend="aot_eager")(x, mask)
    with pytest.raises(ValueError, match=r"maps over masks, each number of a mask.*map over x alone"):
        torch.func.vmap(exact, in_dims=(None, 0))(x, mask[None])
    close(torch.func.vmap(lambda x: exact(x[None], mask)[0])(x), exact(x, mask))


REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, r"no sampling 'perm'.*Did you mean 'permutation'", {"sampling": "perm"}),
    (TypeError, r"n_samples must be an int, got bool", {"n_samples": True}),
    (TypeError, r"n_samples must be an int, got float", {"n_samples": 30.0}),
    (ValueError, r"at least 4\.", {"n_samples": 3}),
    (ValueError, r"at least 24\.", {"n_samples": 23, "sampling": "permutation"}),
    (ValueError, r"n_samples=49.*at least 50\.", {"n_samples": 49, "standard_errors": True}),
    (ValueError, r"at least 46\.", {"n_samples": 45, "standard_errors": True, "sampling": "permutation"}),
    (ValueError, r"leave n_samples out", {"n_samples": 5000, "sampling": "exact"}),
    (TypeError, r"standard_errors must be True or False", {"standard_errors": "yes"}),
    (TypeError, r"generator", {"generator": 3}),
]


@pytest.mark.parametrize(("kind", "words", "options"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_bad_input(kind: type[Exception], words: str, options: dict[str, Any]) -> None:
    net, x = net_of(12, 0)
    with pytest.raises(kind, match=words) as error:
        fa.shapley(net, x, target=1, **options)
    assert str(error.value).startswith("shapley(target=1")


def test_too_many_players_for_all_coalitions() -> None:
    with pytest.raises(ValueError, match=r"2\*\*21.*feature_mask"):
        fa.shapley(lambda x: x.sum(1), torch.ones(1, 21), sampling="exact")
    with pytest.raises(ValueError, match=r"20,001 x 20,001.*feature_mask.*permutation"):
        fa.shapley(lambda x: x.sum(1), torch.ones(1, 20_001), n_samples=8)


@pytest.mark.parametrize(("sampling", "runs"), [("leverage", 66), ("kernel", 66), ("permutation", 62)])
def test_counted_work(sampling: str, runs: int) -> None:
    """One look, one prefix for each chunk, and what lies after the layer once for each coalition, example and baseline."""
    early, late, x = nn.Linear(5, 16), nn.Linear(16, 2), torch.randn(3, 5)
    model = nn.Sequential(early, nn.Tanh(), late).eval()
    before, after = cost(lambda: early(x)).flops, cost(lambda: late(torch.zeros(3, 16))).flops
    for base, rows in ((0.0, 1), (torch.zeros(4, 1, 16), 4)):
        told: list[int] = []

        def note(done: int, total: int, told: list[int] = told) -> None:
            told.append(total)

        ask = functools.partial(fa.shapley, model, x, layer="1", target=0, baselines=base, sampling=sampling, n_samples=66)
        with fa.progress(note):
            counted = cost(functools.partial(ask, chunk_size=22)).flops
        assert set(told) == {runs * rows}
        chunks = math.ceil(runs * rows / 22)
        assert counted - (chunks + 1) * before - runs * rows * after <= cost_of_fit(runs, 16, 3)


def cost_of_fit(runs: int, players: int, examples: int) -> int:
    """FLOPs of the products in a fit, which do not grow with the model."""
    pairs = runs // 2
    return 2 * pairs * players**2 * 2 + 20 * pairs * players * examples + 20 * players**2 * examples
