"""Agreement, regions, sensitivity, randomisation and comparison: references, laws, and what they cost."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close
from ..cost import cost
from ..models import Conv, Text

M = fa.metrics
CONV = Conv().double().eval()
IMAGE = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ANY = st.integers(0, 2**32 - 1)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


# Agreement.


@given(seed=ANY, digits=st.integers(0, 2), size=st.integers(2, 30))
def test_correlations_are_those_of_scipy(seed: int, digits: int, size: int) -> None:
    a, b = (normal(3, size, seed=seed + i).round(decimals=digits) for i in range(2))
    for kind, theirs in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        found = M.agreement((a[:, :1], a[:, 1:]), (b[:, :1], b[:, 1:]), kind=kind)
        by_name = M.agreement({"x": a[:, :1], "y": a[:, 1:]}, {"y": b[:, 1:], "x": b[:, :1]}, kind=kind)
        assert torch.equal(found, by_name)
        for n in range(3):
            constant = len(a[n].unique()) == 1 or len(b[n].unique()) == 1
            expected = 0.0 if constant else float(theirs(a[n].numpy(), b[n].numpy())[0])
            assert float(found[n]) == pytest.approx(expected, abs=1e-10)
    cosine = torch.nn.functional.cosine_similarity(a, b)
    close(M.agreement(a, b, kind="cosine"), cosine)


@given(seed=ANY, size=st.integers(1, 20), power=st.integers(-300, 300))
def test_agreement_is_blind_to_scale_and_never_nan(seed: int, size: int, power: int) -> None:
    a, b = normal(2, size, seed=seed), normal(2, size, seed=seed + 1)
    for kind in ("spearman", "pearson", "cosine"):
        found = M.agreement(a * 10.0**power, b, kind=kind)
        close(found, M.agreement(a, b, kind=kind))
        assert bool((found.abs() <= 1).all())
        assert M.agreement(torch.full_like(a, 0.1), a, kind="pearson").tolist() == [0, 0]
        assert M.agreement(torch.zeros_like(a), a, kind=kind).tolist() == [0, 0]
        if size > 1:
            close(M.agreement(a, a, kind=kind), torch.ones(2, dtype=torch.float64))
            close(M.agreement(a, -a, kind=kind), -torch.ones(2, dtype=torch.float64))


def test_the_largest_that_both_have() -> None:
    a, b = torch.tensor([[1.0, 1.0, 1.0, 5.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0]])
    assert [float(M.agreement(a, b, kind="topk", k=k)) for k in (1, 2, 3, 4, 5)] == pytest.approx([0, 0, 2 / 3, 3 / 4, 1])
    assert float(M.agreement(a, a, kind="topk")) == 1
    many = normal(1, 57)
    assert float(M.agreement(many, many.sort(descending=True).values, kind="topk")) == float(
        M.agreement(many, many.sort(descending=True).values, kind="topk", k=5)
    )


def test_agreement_of_what_methods_return() -> None:
    a, b = fa.gradient(CONV, IMAGE, target=0), fa.saliency(CONV, IMAGE, target=0)
    close(M.agreement(a.abs(), b), torch.ones(3, dtype=torch.float64))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert M.agreement(a.to(dtype), b.to(dtype)).dtype == dtype
    assert M.agreement(a.long(), b).dtype == torch.float64
    large = 2**24 + torch.tensor([[0, 1, 2]])  # which are two numbers to float32
    assert M.agreement(large, torch.tensor([[1.0, 2.0, 3.0]])).item() == pytest.approx(1.0)
    assert M.deletion(large, lambda x: x.sum(1), torch.tensor([[1.0, 2.0, 4.0]]), steps=3).item() == pytest.approx(7.5 / 3)
    assert M.pointing_game(large[None], regions=torch.tensor([False, False, True])).item() == 1
    assert M.agreement((a, None), (b, None)).shape == (3,)
    assert M.agreement(a[:0], b[:0]).shape == (0,)


# Regions.


def hits_by_hand(found: Tensor, region: Tensor, tolerance: float) -> float:
    """Each of the largest entries, and each place of the region in its channel."""
    places = [tuple(p) for p in (found == found.max()).nonzero().tolist()]
    inside = [tuple(p) for p in region.expand(found.shape).nonzero().tolist()]
    hit = [any(p[0] == q[0] and math.dist(p[1:], q[1:]) <= tolerance for q in inside) for p in places]
    return sum(hit) / len(hit)


@given(
    seed=ANY,
    tolerance=st.sampled_from([0, 1, 2**0.5, 2, 3**0.5, 5**0.5, 3, math.inf]),
    sizes=st.sampled_from([(7,), (4, 5), (3, 3, 3)]),
)
def test_pointing_is_what_a_loop_finds(seed: int, tolerance: float, sizes: tuple[int, ...]) -> None:
    found = normal(3, 2, *sizes, seed=seed).round().clamp(max=1)
    regions = torch.rand(3, 1, *sizes, generator=seeded(seed)) < 0.1
    expected = [hits_by_hand(found[n], regions[n], tolerance) for n in range(3)]
    assert M.pointing_game(found, regions=regions, tolerance=tolerance).tolist() == pytest.approx(expected)
    positive = found.clamp(min=0)
    mass = (positive * regions).flatten(1).sum(1) / positive.flatten(1).sum(1).clamp(min=1e-300)
    close(M.relevance_mass(found, regions=regions), mass)


def test_a_constant_map_gets_the_area() -> None:
    regions = torch.zeros(8, 8, dtype=torch.bool)
    regions[:2] = True
    assert M.pointing_game(torch.ones(2, 1, 8, 8), regions=regions).tolist() == [0.25, 0.25]
    assert M.relevance_mass(torch.ones(2, 1, 8, 8), regions=regions).tolist() == [0.25, 0.25]
    assert M.relevance_mass(-torch.ones(2, 1, 8, 8), regions=regions).tolist() == [0, 0]
    assert M.relevance_mass(torch.full((1, 1, 8, 8), 3e38), regions=regions).tolist() == [0.25]


def test_regions_of_a_method() -> None:
    regions = torch.rand(3, 1, 8, 8, generator=seeded()) < 0.5
    cam = fa.interpolate(fa.relu(fa.grad_cam))
    found = cam(CONV, IMAGE, layer="conv2", target=CONV(IMAGE).argmax(1))
    for metric in (M.pointing_game, M.relevance_mass):
        close(
            metric(partial(cam, layer="conv2"), CONV, IMAGE, regions=regions, target="argmax"), metric(found, regions=regions)
        )
    close(
        M.relevance_mass(fa.gradient, CONV, IMAGE, layer="conv2", regions=regions[:, :, :4, :4], target=1),
        M.relevance_mass(fa.gradient(CONV, IMAGE, layer="conv2", target=1), regions=regions[:, :, :4, :4]),
    )


# Sensitivity.


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_sensitivity_is_what_a_loop_finds(norm: float, chunk: int | None) -> None:
    noise = seeded(7)
    here, most = fa.saliency(CONV, IMAGE, target=1).flatten(1), torch.zeros(3, dtype=torch.float64)
    for _ in range(6):
        way = torch.empty(3, 8, 8, dtype=torch.float64).uniform_(-0.3, 0.3, generator=noise)
        there = fa.saliency(CONV, IMAGE + way, target=1).flatten(1)
        most = torch.maximum(most, (there - here).norm(norm, dim=1) / here.norm(norm, dim=1))
    found = M.sensitivity_max(
        fa.saliency, CONV, IMAGE, target=1, radius=0.3, n_samples=6, norm=norm, generator=seeded(7), chunk_size=chunk
    )
    close(found, most)


def test_sensitivity_of_what_stays() -> None:
    assert M.sensitivity_max(fa.gradient, lambda x: x.sum((1, 2, 3)), IMAGE).tolist() == [0, 0, 0]
    assert M.sensitivity_max(fa.saliency, CONV, IMAGE, target=1, radius=0).tolist() == [0, 0, 0]
    # An explanation of norm 0 is divided by 1.
    found = M.sensitivity_max(
        lambda model, x, target: x * (x > 0), CONV, torch.zeros(1, 4), radius=0.5, n_samples=50, norm=math.inf
    )
    assert 0.4 < float(found) < 0.5


def test_sensitivity_of_integers_moves_the_layer() -> None:
    model, ids = Text().double().eval(), torch.randint(0, 20, (3, 7), generator=seeded())
    found = M.sensitivity_max(fa.gradient, model, ids, layer="embedding", target="argmax", generator=seeded(3), radius=0.3)
    value_at, rest = fa.split(model, "embedding")
    value, classes = value_at(ids).detach(), model(ids).logits.argmax(1)
    expected = M.sensitivity_max(fa.gradient, lambda v: rest(v, ids), value, target=classes, generator=seeded(3), radius=0.3)
    close(found, expected)
    assert float(found.min()) > 0
    moved = M.sensitivity_max(fa.gradient, CONV, IMAGE, layer="conv2", target=1, generator=seeded(), radius=0.1)  # x moves
    assert float(moved.min()) > 0


# Randomisation.


def shuffled_by_hand(names: list[str], order: str, generator: torch.Generator) -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {}
    net = Conv().double().eval()
    for name in names:
        if order == "independent" or not models:
            net = Conv().double().eval()
            net.load_state_dict(CONV.state_dict())
        else:
            before, net = net, Conv().double().eval()
            net.load_state_dict(before.state_dict())
        with torch.no_grad():
            for (_, ours), (_, own) in zip(
                net.get_submodule(name).named_parameters(), CONV.get_submodule(name).named_parameters()
            ):
                ours.copy_(own.flatten()[torch.randperm(own.numel(), generator=generator)].reshape(own.shape))
        models[name] = net
    return models


@pytest.mark.parametrize("order", ["cascading", "independent"])
@pytest.mark.parametrize("similarity", ["spearman", "cosine", "mine"])
def test_randomisation_is_what_copies_of_the_model_give(order: Any, similarity: str) -> None:
    before = {name: (p.clone(), p._version) for name, p in CONV.named_parameters()}
    kind: Any = (lambda a, b: (a - b).flatten(1).norm(dim=1)) if similarity == "mine" else similarity
    found = M.randomisation(fa.gradient, CONV, IMAGE, target="argmax", order=order, similarity=kind, generator=seeded(5))
    assert list(found) == ["fc", "conv2", "conv1"]
    given, classes = fa.gradient(CONV, IMAGE, target="argmax"), CONV(IMAGE).argmax(1)
    for name, net in shuffled_by_hand(list(found), order, seeded(5)).items():
        other = fa.gradient(net, IMAGE, target=classes)
        close(found[name], kind(given, other) if callable(kind) else M.agreement(given, other, kind=kind))
        assert float(found[name].abs().max()) < 0.99 or similarity == "mine"
    for name, p in CONV.named_parameters():
        assert torch.equal(p, before[name][0])
        assert p._version == before[name][1]


def test_randomisation_of_some_layers_and_of_methods_at_layers() -> None:
    method = partial(fa.grad_cam, layer="conv2")
    every = M.randomisation(method, CONV, IMAGE, target=1, order="independent", generator=seeded())
    two = M.randomisation(method, CONV, IMAGE, target=1, layers=["fc", "conv2"], generator=seeded())
    assert list(two) == ["fc", "conv2"]
    close(two["fc"], every["fc"])
    named = M.randomisation(fa.grad_cam, CONV, IMAGE, layer="conv2", target=1, layers=["fc"], generator=seeded())
    close(named["fc"], every["fc"])
    by_module = M.randomisation(fa.grad_cam, CONV, IMAGE, layer=CONV.conv2, target=1, layers=["fc"], generator=seeded())
    close(by_module["fc"], every["fc"])
    neuron = M.randomisation(fa.gradient, CONV, IMAGE, target=fa.neuron("conv1", (0, 1, 1)), generator=seeded())
    assert neuron["fc"].tolist() == neuron["conv2"].tolist() == pytest.approx([1, 1, 1])
    assert max(neuron["conv1"].tolist()) < 1
    whole = M.randomisation(
        partial(fa.grad_cam, layer="0.conv2"), nn.Sequential(CONV), IMAGE, target=1, layers=["0"], generator=seeded()
    )
    assert max(whole["0"].tolist()) < 0.99


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.rand(5))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.second(torch.tanh(self.first(x)) * self.scale + shift)


def test_tied_and_own_parameters_and_what_is_bound() -> None:
    net, x = Tied().double().eval(), normal(4, 5)
    found = M.randomisation(fa.gradient, partial(net, shift=0.5), x, target=1, generator=seeded())
    assert list(found) == ["second", "first", ""]
    alone = M.randomisation(fa.gradient, partial(net, shift=0.5), x, target=1, layers=["second"], generator=seeded())
    weight, bias = (p.flatten()[torch.randperm(p.numel(), generator=g)] for g in [seeded()] for p in net.second.parameters())
    with torch.no_grad():
        other = Tied().double().eval()
        other.load_state_dict(net.state_dict())
        other.first.weight.copy_(weight.reshape(5, 5))  # of both
        other.second.bias.copy_(bias)
    expected = fa.gradient(partial(other, shift=0.5), x, target=1)
    close(alone["second"], M.agreement(fa.gradient(partial(net, shift=0.5), x, target=1), expected))


def test_what_does_not_look_at_the_model_stays() -> None:
    """Also where it draws: the same each time."""
    methods: dict[str, Any] = {
        "edges": lambda model, x, target: x.diff(dim=-1, append=x[..., -1:]).abs(),
        "noise": lambda model, x, target: torch.rand_like(x),
    }
    for method in methods.values():
        found = M.randomisation(method, CONV, IMAGE, target="argmax")
        assert all(value.tolist() == pytest.approx([1, 1, 1]) for value in found.values())
    noise = fa.noise_tunnel(fa.gradient, stdevs=0.2, generator=seeded(3))
    still = M.randomisation(noise, CONV, IMAGE, target=fa.neuron("conv1", (0, 1, 1)), layers=["fc"])
    assert still["fc"].tolist() == pytest.approx([1, 1, 1])


# Comparison.


def test_compare_is_a_table_of_calls_and_runs_each_method_once() -> None:
    calls: list[str] = []

    def counted(name: str, method: Any) -> Any:
        def call(model: Any, x: Tensor, *, target: Any) -> Any:
            calls.append(name)
            return method(model, x, target=target)

        return call

    methods = {"a": counted("a", fa.gradient), "b": counted("b", fa.input_x_gradient), "made": normal(3, 3, 8, 8)}
    judged: dict[str, Callable[..., Any]] = {
        "deletion": M.deletion,
        "sufficiency": partial(M.sufficiency, fractions=(0.5,)),
        "infidelity": lambda *args, **given: M.infidelity(*args, generator=seeded(), **given),
        "mass": partial(M.relevance_mass, regions=torch.rand(8, 8, generator=seeded()) < 0.5),
        "mine": lambda explained, model, x, target: "anything",
    }
    table = M.compare(methods, judged, CONV, IMAGE, target="argmax")
    assert list(table) == list(methods)
    assert calls == ["a", "b"]
    classes = CONV(IMAGE).argmax(1)
    for name, row in table.items():
        assert list(row) == list(judged)
        for key, found in row.items():
            expected = judged[key](methods[name], CONV, IMAGE, target=classes)
            assert found == expected == "anything" if key == "mine" else torch.equal(found, expected)
    calls.clear()
    again: dict[str, Callable[..., Any]] = {
        "sensitivity": partial(M.sensitivity_max, n_samples=3),
        "randomisation": M.randomisation,
        "deletion": M.deletion,
    }
    M.compare({"a": methods["a"]}, again, CONV, IMAGE, target=1)
    assert len(calls) == 1 + 3 + 3  # x once, three moved ones, three shuffled models


def test_compare_at_a_layer_and_in_inference_mode() -> None:
    table = M.compare({"a": fa.gradient}, {"deletion": M.deletion}, CONV, IMAGE, layer="conv2", target=1)
    close(table["a"]["deletion"], M.deletion(fa.gradient, CONV, IMAGE, layer="conv2", target=1))
    calls: list[Any] = []

    def method(model: Any, x: Tensor, *, target: Any) -> Any:
        calls.append(x)
        return fa.gradient(model, x, target=target)

    with torch.inference_mode():
        found = M.compare({"a": method}, {"d": M.deletion, "i": M.insertion}, CONV, IMAGE.clone(), target="argmax")
    close(found["a"]["d"], M.deletion(fa.gradient, CONV, IMAGE, target="argmax"))
    assert len(calls) == 1


# What they cost.


def counted(net: nn.Module, names: list[str]) -> dict[str, list[int]]:
    """How many examples go through each layer, pass by pass."""
    seen: dict[str, list[int]] = {name: [] for name in names}
    for name in names:
        net.get_submodule(name).register_forward_hook(lambda _, args, __, name=name: seen[name].append(len(args[0])))
    return seen


def flops(f: Callable[[], Any]) -> int:
    with torch.no_grad():
        return cost(f).flops


def test_what_lies_before_a_late_layer_runs_once() -> None:
    """And a look at the value there; after it, K + 1 times."""
    net = Conv().double().eval()
    prefix = flops(lambda: net.conv2(net.pool(net.relu1(net.conv1(IMAGE)))))
    phi = fa.gradient(net, IMAGE, layer="relu2", target=1)
    rest = flops(lambda: net(IMAGE)) - prefix
    asked: dict[str, Any] = {"layer": "relu2", "target": 1}
    assert flops(lambda: M.deletion(phi, net, IMAGE, **asked)) == 2 * prefix + 33 * rest
    assert flops(lambda: M.deletion(phi, net, IMAGE, chunk_size=11, **asked)) == 4 * prefix + 33 * rest
    assert flops(lambda: M.comprehensiveness(phi, net, IMAGE, **asked)) == 2 * prefix + 6 * rest
    assert flops(lambda: M.infidelity(phi, net, IMAGE, **asked)) == 2 * prefix + 11 * rest
    baselines = normal(4, 1, *phi.shape[1:])
    assert flops(lambda: M.deletion(phi, net, IMAGE, baselines=baselines, chunk_size=200, **asked)) == 2 * prefix + 132 * rest
    assert flops(lambda: M.deletion(phi, net, IMAGE, layer="relu2", target="argmax")) == 3 * prefix + 34 * rest


def test_the_model_is_left_as_found() -> None:
    net = Conv().double().eval()
    before = dict(net.named_parameters())
    generator = torch.get_rng_state()
    M.compare(
        {"a": fa.saliency},
        {
            "r": partial(M.randomisation, generator=seeded()),
            "s": partial(M.sensitivity_max, generator=seeded()),
            "i": partial(M.infidelity, generator=seeded(), perturb=0.1),
            "d": M.deletion,
        },
        net,
        IMAGE,
        target="argmax",
    )
    assert all(p is before[name] for name, p in net.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert np.isfinite([float(p.detach().sum()) for p in net.parameters()]).all()


class AsksAnother(nn.Module):
    """Another thread runs a layer while this one does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.known: Tensor
        self.register_buffer("known", self.fc(torch.ones(1, 4)).detach())

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        other = threading.Thread(target=lambda: found.append(self.fc(torch.ones(1, 4))))
        other.start()
        other.join()
        if not torch.equal(found[0], self.known):
            raise RuntimeError("another thread sees shuffled parameters")
        hidden: Tensor = self.fc(x).tanh()
        return self.head(hidden)


def test_other_threads_see_nothing_of_a_shuffled_model() -> None:
    """The module had the shuffled parameters while it ran: whoever ran it elsewhere had their results, in silence."""
    net, x = AsksAnother().eval(), torch.rand(2, 4)
    found = M.randomisation(fa.gradient, net, x, target=1, generator=seeded())
    assert bool((found["fc"] < 0.99).any())


class OfItsOwn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] * weight, gradients[0] * x


class Scaled(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.weight, self.head, self.own = nn.Parameter(torch.arange(1.0, 5.0)), nn.Linear(4, 3), own

    def forward(self, x: Tensor) -> Tensor:
        product: Any = OfItsOwn.apply(x, self.weight) if self.own else x * self.weight  # type: ignore[no-untyped-call]  # of torch
        return self.head(product.tanh())


def test_a_shuffled_parameter_reaches_a_function_of_its_own() -> None:
    """Whose backward pass runs when the model has ended."""
    torch.manual_seed(0)
    net, x = Scaled(True).eval(), torch.rand(3, 4)
    plain = Scaled(False).eval()
    plain.load_state_dict(net.state_dict())
    one, other = (M.randomisation(fa.gradient, model, x, target=1, generator=seeded(3)) for model in (net, plain))
    for name in one:
        close(one[name], other[name])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_shuffled_recurrent_layer_is_one_with_these_parameters(kind: Any) -> None:
    """Which keeps its parameters in a list, too."""
    net, x = kind(3, 4, batch_first=True).double().eval(), normal(2, 5, 3)
    met: list[Tensor] = []

    def spied(model: Any, x: Tensor, target: Any) -> Tensor:
        met.append(fa.gradient(model, x, target=target))
        return met[-1]

    M.randomisation(spied, net, x, target=lambda out: out[0][:, -1, 0], generator=seeded(1))
    shuffled, generator = copy.deepcopy(net), seeded(1)
    with torch.no_grad():
        for p in shuffled.parameters():
            p.copy_(p.reshape(-1)[torch.randperm(p.numel(), generator=generator)].reshape(p.shape))
    close(met[1], fa.gradient(shuffled, x, target=lambda out: out[0][:, -1, 0]))
