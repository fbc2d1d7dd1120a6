"""Curves, shares and infidelity against loops over points and examples, on models that are cut by hand; and their laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close
from ..models import Conv, Text, Two

M = fa.metrics
NET = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double().eval()
X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CONV = Conv().double().eval()
ANY = st.integers(0, 2**32 - 1)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def by_hand(
    score: Callable[[Tensor, int], Tensor], v: Tensor, base: Tensor, phi: Tensor, steps: int, insertion: bool = False
) -> tuple[list[float], Tensor]:
    """One point and one example at a time; units are the entries of phi, which broadcast to v."""
    fractions, scores = [], []
    units = phi[0].numel()
    count = min(steps, units)
    for j in range(count + 1):
        n = math.floor(j * units / count + 0.5)
        fractions.append(n / units)
        row = []
        for i in range(len(v)):
            order = sorted(range(units), key=lambda u: (-float(phi[i].flatten()[u]), u))
            first = torch.zeros(units, dtype=torch.bool)
            first[order[:n]] = True
            gone = first if not insertion else ~first
            row.append(score(torch.where(gone.reshape(phi[i].shape), base[i], v[i])[None], i))
        scores.append(torch.cat(row))
    return fractions, torch.stack(scores)


def area(fractions: list[float], scores: Tensor) -> Tensor:
    total = torch.zeros_like(scores[0])
    for j in range(1, len(fractions)):
        total += (fractions[j] - fractions[j - 1]) * (scores[j] + scores[j - 1]) / 2
    return total


@pytest.mark.parametrize("steps", [1, 3, 7, 32])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 1, 1), (1, 1, 8)])
@pytest.mark.parametrize("layer", [None, "relu1"])
def test_curves_are_what_a_loop_finds(layer: str | None, shape: tuple[int, ...], steps: int) -> None:
    classes = CONV(IMAGE).argmax(1)
    v, tail = (IMAGE, CONV) if layer is None else (CONV.relu1(CONV.conv1(IMAGE)).detach(), after_relu1)
    shape = tuple(v.shape[k + 1] if s != 1 else 1 for k, s in enumerate(shape))
    phi, base = normal(3, *shape, seed=3).round(decimals=1), normal(3, *v.shape[1:], seed=4)
    for kind, whole in (("deletion", M.deletion), ("insertion", M.insertion)):
        expected = by_hand(partial(of_class, tail, classes), v, base, phi, steps, kind == "insertion")
        asked: dict[str, Any] = {"layer": layer, "target": "argmax", "baselines": base, "steps": steps}
        fractions, scores = M.curve(phi, CONV, IMAGE, kind=kind, **asked)
        assert fractions.tolist() == expected[0]
        close(scores, expected[1])
        close(whole(phi, CONV, IMAGE, **asked), area(*expected))
        close(M.curve(phi, CONV, IMAGE, kind=kind, chunk_size=2, **asked).scores, expected[1])


def of_class(tail: Callable[[Tensor], Tensor], classes: Tensor, v: Tensor, n: int) -> Tensor:
    return tail(v)[:, classes[n]]


def after_relu1(v: Tensor) -> Tensor:
    found: Tensor = CONV.fc(CONV.relu2(CONV.conv2(CONV.pool(v))).mean((2, 3)))
    return found


def test_the_ends_and_the_rounding_of_points() -> None:
    for units in (1, 2, 5, 9, 20):
        x = normal(2, units)
        for steps in (1, 2, 3, 4, 7, 20, 100):
            fractions, scores = M.curve(x, lambda t: t.sin().sum(1), x, steps=steps, baselines=0.25)
            count = min(steps, units)
            assert fractions.mul(units).round().long().tolist() == [
                (2 * j * units + count) // (2 * count) for j in range(count + 1)
            ]
            close(scores[0], x.sin().sum(1))
            close(scores[-1], torch.full((2,), units * math.sin(0.25), dtype=torch.float64))


def test_ties_go_to_the_first() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    zeros = torch.tensor([[0.0, -0.0, 0.0, -0.0]], dtype=torch.float64)
    assert M.curve(zeros, lambda t: t.sum(1), x).scores[:, 0].tolist() == [15, 14, 12, 8, 0]
    assert M.curve(zeros, lambda t: t.sum(1), x, kind="insertion").scores[:, 0].tolist() == [0, 1, 3, 7, 15]


@given(seed=ANY, units=st.integers(1, 12), steps=st.integers(1, 14))
def test_insertion_is_deletion_of_the_opposite_backwards(seed: int, units: int, steps: int) -> None:
    x, phi = normal(2, units, seed=seed), normal(2, units, seed=seed + 1)
    if units % min(steps, units):
        return
    forward = M.curve(phi, lambda t: t.sin().sum(1), x, steps=steps, kind="insertion", baselines=0.5)
    back = M.curve(-phi, lambda t: t.sin().sum(1), x, steps=steps, baselines=0.5)
    close(forward.scores, back.scores.flip(0))
    close(forward.fractions, 1 - back.fractions.flip(0))


@given(seed=ANY, units=st.integers(1, 9), steps=st.integers(1, 10))
def test_a_linear_score_has_no_better_order_than_its_own_terms(seed: int, units: int, steps: int) -> None:
    x, w, b, other = (normal(2, units, seed=seed + i) for i in range(4))
    weights = w[0]

    def score(t: Tensor) -> Tensor:
        return t @ weights

    terms = weights * (x - b)
    for kind, sign in ((M.deletion, 1), (M.insertion, -1)):
        best = kind(terms, score, x, baselines=b, steps=steps)
        assert bool((sign * (best - kind(other, score, x, baselines=b, steps=steps)) <= 1e-10).all())
    assert bool(
        (M.comprehensiveness(terms, score, x, baselines=b) - M.comprehensiveness(other, score, x, baselines=b) >= -1e-10).all()
    )
    assert bool((M.sufficiency(terms, score, x, baselines=b) - M.sufficiency(other, score, x, baselines=b) <= 1e-10).all())


@pytest.mark.parametrize("layer", [None, "0"])
def test_each_point_is_the_value_of_its_coalition(layer: str | None) -> None:
    phi = normal(4, 5 if layer is None else 7, seed=8)
    base = normal(6, 4, phi.shape[1], seed=9)  # a distribution, each example's own
    play = fa.game(NET, X, layer=layer, target=2, baselines=base)
    for kind in ("deletion", "insertion"):
        fractions, scores = M.curve(phi, NET, X, layer=layer, target=2, baselines=base, kind=kind, steps=4)
        for f, found in zip(fractions, scores):
            place = phi.argsort(dim=1, descending=True).argsort(1)
            first = place < round(float(f) * phi.shape[1])
            kept = ~first if kind == "deletion" else first
            close(found, play.value(kept).diagonal())


def test_groups_are_ranked_by_their_mean() -> None:
    """So that densities and spread values rank the same; of several tensors together; a group that is lacking comes last."""
    x = (normal(2, 4), normal(2, 3, seed=1))
    mask = (torch.tensor([[7, 7, -3, 0], [7, -3, -3, -3]]), torch.tensor([[0, 7, 7], [7, 7, 9]]))

    def score(a: Tensor, b: Tensor) -> Tensor:
        return a.sin().sum(1) * b.cos().sum(1)

    phi = (normal(2, 4, seed=2), normal(2, 3, seed=3))
    ids = torch.cat(mask, 1)
    fractions, scores = M.curve(phi, score, x, feature_mask=mask)
    assert fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for n in range(2):
        flat, value = torch.cat(phi, 1)[n], torch.cat(x, 1)[n].clone()
        means = {k: float(flat[ids[n] == k].mean()) for k in sorted(set(ids[n].tolist()))}
        for j, k in enumerate([None, *sorted(means, key=lambda k: -means[k])]):
            value = value if k is None else torch.where(ids[n] == k, 0.0, value)
            close(scores[j, n], score(value[None, :4], value[None, 4:])[0])
        for later in scores[len(means) :, n]:
            close(later, scores[len(means), n])
    spread = (
        fa.shapley(score, x, feature_mask=mask) if hasattr(fa, "shapley") else fa.feature_ablation(score, x, feature_mask=mask)
    )
    sizes = torch.stack([(ids == k).sum(1) for k in (-3, 0, 7, 9)])
    game = fa.game(score, x, feature_mask=mask)
    per_player = torch.stack(
        [torch.cat(spread, 1).gather(1, (ids == k).long().argmax(1, keepdim=True))[:, 0] for k in (-3, 0, 7, 9)]
    )
    assert sizes.shape == per_player.shape == (game.players, 2)
    close(M.deletion(spread, score, x, feature_mask=mask), M.deletion(lambda *_, **__: spread, score, x, feature_mask=mask))


def test_equal_groups_of_different_sizes_tie() -> None:
    """The mean of 0.1, 0.1, 0.1 is not 0.1 by sums."""
    x = torch.arange(1.0, 7.0, dtype=torch.float64)[None]
    phi = torch.full((1, 6), 0.1, dtype=torch.float64)
    found = M.curve(phi, lambda t: t.sum(1), x, feature_mask=torch.tensor([0, 1, 1, 2, 2, 2])).scores[:, 0]
    assert found.tolist() == [21, 20, 15, 0]


def test_groups_of_the_same_mean_tie() -> None:
    """5 / 3 is that of 1, 2, 2 and of 0, 2, 3, and 1 + 2 / 3 is another number to a computer."""
    x = torch.arange(1.0, 7.0, dtype=torch.float64)[None]
    phi, mask = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0, 3.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert M.curve(phi, lambda t: t.sum(1), x, feature_mask=mask).scores[:, 0].tolist() == [21, 15, 0]
    assert M.curve(phi, lambda t: t.sum(1), x, feature_mask=1 - mask).scores[:, 0].tolist() == [21, 6, 0]


class Halves(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a, b = x.chunk(2, 1)
        return a, {"b": b, "ids": torch.arange(len(x))}


class Halved(nn.Module):
    """The value at a layer is nested, and holds integers."""

    def __init__(self) -> None:
        super().__init__()
        self.halves, self.head = Halves(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, rest = self.halves(x.sin())
        return self.head(a * rest["b"])


@pytest.mark.parametrize("kind", ["tuple", "dict", "ids", "output tuple", "layers"])
def test_structures(kind: str) -> None:
    """Attributions have the structure of the value; what they have none for is held."""
    method: Any = fa.input_x_gradient
    if kind == "tuple":
        model: Any = Two().double().eval()
        x: Any = (IMAGE, normal(3, 6))
        layer: Any = None
    elif kind == "dict":
        model, layer = (lambda a, b: a.sin().sum(1) + b.sum(1)), None
        x = {"a": normal(3, 4), "b": torch.randint(0, 9, (3, 2))}
    elif kind == "ids":
        model, x, layer = Text().double().eval(), torch.randint(0, 20, (3, 7)), None
        method = fa.feature_ablation
    elif kind == "output tuple":
        model, x, layer = Halved().double().eval(), normal(3, 6), "halves"
    else:
        model, x, layer = CONV, IMAGE, {"a": "conv1"}
    target = 0 if isinstance(model, nn.Module) else None
    found = method(model, x, target=target, **({} if layer is None else {"layer": layer}))
    asked: dict[str, Any] = {"target": target, "layer": layer}
    for metric in (M.deletion, M.insertion, M.comprehensiveness, M.sufficiency):
        all_of_them = metric(method, model, x, **asked)
        close(all_of_them, metric(found, model, x, **asked))
        assert all_of_them.shape == (3,)
    close(
        M.infidelity(method, model, x, generator=seeded(), **asked), M.infidelity(found, model, x, generator=seeded(), **asked)
    )


FAMILY: dict[str, Callable[..., Any]] = {
    "curve": M.curve,
    "deletion": M.deletion,
    "insertion": M.insertion,
    "comprehensiveness": M.comprehensiveness,
    "sufficiency": M.sufficiency,
    "infidelity": lambda *args, **given: M.infidelity(*args, generator=seeded(), **given),
    "noisy infidelity": lambda *args, **given: M.infidelity(
        *args, generator=seeded(), perturb=0.3, multiply_by_inputs=False, normalize=True, **given
    ),
    "sensitivity": lambda *args, **given: M.sensitivity_max(*args, generator=seeded(), **given),
    "randomisation": lambda *args, **given: M.randomisation(*args, generator=seeded(), **given),
}


@pytest.mark.parametrize("layer", [None, "relu1"])
@pytest.mark.parametrize("name", FAMILY)
def test_a_batch_is_its_examples_one_by_one_and_chunks_change_nothing(name: str, layer: str | None) -> None:
    metric, target = FAMILY[name], torch.tensor([2, 0, 4])
    method = fa.input_x_gradient
    whole = metric(method, CONV, IMAGE, layer=layer, target=target)
    each = [metric(method, CONV, IMAGE[i : i + 1], layer=layer, target=int(target[i])) for i in range(3)]
    if name == "curve":
        close(whole.scores, torch.cat([one.scores for one in each], 1))
    elif name == "randomisation":
        for key, value in whole.items():
            close(value, torch.cat([one[key] for one in each]))
        return
    else:
        close(whole, torch.cat(each))
    for chunk in (1, 3, 100):
        close(metric(method, CONV, IMAGE, layer=layer, target=target, chunk_size=chunk), whole)


@pytest.mark.parametrize("name", FAMILY)
def test_argmax_is_resolved_once_and_methods_are_handed_the_class(name: str) -> None:
    """On the model and x as given: a moved x, and a shuffled model, predict something else."""
    classes, seen = CONV(IMAGE).argmax(1), []

    def method(model: Any, x: Tensor, *, target: Any, layer: Any = None) -> Tensor:
        seen.append(target)
        return fa.gradient(model, x, target=target, layer=layer)

    found = FAMILY[name](method, CONV, IMAGE, target="argmax")
    assert all(isinstance(target, Tensor) and torch.equal(target, classes) for target in seen)
    assert len(seen) == {"sensitivity": 11, "randomisation": 4}.get(name, 1)
    expected = FAMILY[name](fa.gradient, CONV, IMAGE, target=classes)
    for a, b in zip(*(t.values() if isinstance(t, dict) else [t] for t in (found, expected))):
        close(a, b)


CAMS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "ablation_cam", "score_cam")


def test_a_method_is_called_without_a_layer_where_none_is_named() -> None:
    def method(model: Any, x: Tensor, *, target: Any) -> Tensor:
        return fa.gradient(model, x, target=target)

    close(M.deletion(method, CONV, IMAGE, target=1), M.deletion(fa.gradient, CONV, IMAGE, target=1))
    cam = fa.interpolate(fa.relu(fa.grad_cam))
    found = M.deletion(partial(cam, layer="conv2"), CONV, IMAGE, target=1)
    close(found, M.deletion(cam(CONV, IMAGE, layer="conv2", target=1), CONV, IMAGE, target=1))
    assert M.deletion(partial(fa.eigen_cam, layer="conv1"), CONV, IMAGE, target=1).shape == (3,)  # which takes no target
    for name in CAMS:  # maps of a layer that is as large as x are seen over it
        found = M.deletion(partial(getattr(fa, name), layer="conv1"), CONV, IMAGE, target=1)
        close(found, M.deletion(getattr(fa, name)(CONV, IMAGE, layer="conv1", target=1), CONV, IMAGE, target=1))


@pytest.mark.parametrize("kind", [M.deletion, M.insertion, M.comprehensiveness, M.sufficiency])
def test_differentiable_in_the_model_and_x(kind: Any) -> None:
    x, phi = X.clone().requires_grad_(), normal(4, 7, seed=3)
    found = kind(phi, NET, x, layer="0", target=1, create_graph=True)
    slopes = torch.autograd.grad(found.sum(), [x, *NET.parameters()])
    h, way = 1e-5, normal(4, 5, seed=4)
    with torch.no_grad():
        ends = [kind(phi, NET, X + s * h * way, layer="0", target=1).sum() for s in (1, -1)]
    close((slopes[0] * way).sum(), (ends[0] - ends[1]) / (2 * h), 1e-6)
    assert all(bool((slope != 0).any()) for slope in slopes[1:])
    assert not kind(phi, NET, x, layer="0", target=1).requires_grad


# Infidelity.


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_is_what_a_loop_finds(layer: str | None, shares: bool, normalize: bool) -> None:
    v, tail = (X, NET) if layer is None else (NET[0](X).detach(), NET[1:])
    phi, base, noise = normal(*v.shape, seed=5), normal(*v.shape, seed=6), normal(6, *v.shape, seed=7)
    base[0, 0] = v[0, 0]
    rest = iter(noise)
    dots, gains = torch.zeros(6, 4, dtype=torch.float64), torch.zeros(6, 4, dtype=torch.float64)
    for s in range(6):
        for n in range(4):
            for f in range(v.shape[1]):
                share = float(noise[s, n, f])
                if shares:
                    share /= float(v[n, f] - base[n, f]) or 1.0
                dots[s, n] += share * phi[n, f]
            gains[s, n] = (tail(v[n][None]) - tail((v[n] - noise[s, n])[None]))[0, 1]
    beta = (dots * gains).mean(0) / (dots**2).mean(0) if normalize else 1.0
    found = M.infidelity(
        phi, NET, X, layer=layer, target=1, baselines=base, perturb=lambda value, _: value - next(rest), n_samples=6,
        multiply_by_inputs=shares, normalize=normalize, chunk_size=4,
    )  # fmt: skip
    close(found, ((beta * dots - gains) ** 2).mean(0))


@given(seed=ANY)
def test_infidelity_of_an_additive_score_is_0_for_its_terms(seed: int) -> None:
    x, b = normal(2, 6, seed=seed), normal(2, 6, seed=seed + 1)
    assert float(M.infidelity(x.sin() - b.sin(), lambda t: t.sin().sum(1), x, baselines=b).max()) < 1e-20
    w = normal(6, seed=seed)
    found = M.infidelity(fa.gradient, lambda t: t @ w, x, perturb=0.5, multiply_by_inputs=False)
    assert float(found.max()) < 1e-20
    phi = normal(2, 6, seed=seed + 2)
    blind = [
        M.infidelity(f * phi, lambda t: t.sin().sum(1), x, normalize=n, generator=seeded(seed))
        for f, n in ((1.0, True), (1e3, True), (0.0, True), (0.0, False))
    ]
    close(blind[0], blind[1])
    close(blind[2], blind[3])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_infidelity_of_numbers_that_single_precision_has_not(dtype: torch.dtype) -> None:
    """Timestamps a second apart, and attributions in float32, in whose dtype they were one number: 1.3 in place of 0."""
    x = torch.tensor([[1_700_000_001, 1_700_000_003]]).to(dtype)
    found = M.infidelity(torch.tensor([[1.0, 3.0]]), lambda t: (t - 1_700_000_000).float().sum(1), x, baselines=1_700_000_000)
    assert float(found) == 0.0


def test_infidelity_is_differentiable() -> None:
    x, phi = X.clone().requires_grad_(), normal(4, 7, seed=3).requires_grad_()
    found = M.infidelity(phi, NET, x, layer="0", target=1, generator=seeded(), create_graph=True)
    slopes = torch.autograd.grad(found.sum(), [x, phi, *NET.parameters()])
    h, ways = 1e-5, (normal(4, 5, seed=4), normal(4, 7, seed=5))
    ends = [
        M.infidelity(phi.detach() + s * h * ways[1], NET, X + s * h * ways[0], layer="0", target=1, generator=seeded()).sum()
        for s in (1, -1)
    ]
    close((slopes[0] * ways[0]).sum() + (slopes[1] * ways[1]).sum(), (ends[0] - ends[1]) / (2 * h), 1e-6)
    assert all(bool((slope != 0).any()) for slope in slopes[2:] if slope.dim() == 2)  # a last bias is in no difference


def test_infidelity_of_a_method_is_differentiable() -> None:
    """The attributions were a constant, and a derivative of theirs was left out."""

    def of(x: Tensor, explained: Any, **options: Any) -> Tensor:
        return M.infidelity(explained, NET, x, target=1, baselines=0.5, generator=seeded(), **options).sum()

    way, bound = normal(4, 5, seed=4), partial(fa.input_x_gradient, create_graph=False)
    for method in (fa.integrated_gradients, fa.absolute(fa.gradient)):
        (slope,) = torch.autograd.grad(of(x := X.clone().requires_grad_(), method, create_graph=True), x)
        ends = [of(X + s * 1e-5 * way, method) for s in (1, -1)]
        close((slope * way).sum(), (ends[0] - ends[1]) / 2e-5, 1e-6)
    held = of(X.clone().requires_grad_(), bound, create_graph=True)  # what is bound stays
    close(held, of(X, bound(NET, X, target=1)))
    with pytest.raises(ValueError, match=r"lime takes no create_graph"):
        of(X, fa.lime, create_graph=True)


def test_what_perturb_is_called_with() -> None:
    seen: list[tuple[Any, Any]] = []
    generator = seeded()

    def perturb(value: Any, given: Any) -> Any:
        seen.append((value, given))
        value["a"].mul_(0.5)  # its own copy
        return value

    M.infidelity({"a": normal(4, 7)}, NET, X, layer={"a": "0"}, target=1, perturb=perturb, n_samples=5, generator=generator)
    assert len(seen) == 5
    assert all(given is generator for _, given in seen)
    close(seen[0][0]["a"], NET[0](X) / 2)
    close(seen[4][0]["a"], NET[0](X) / 2)
