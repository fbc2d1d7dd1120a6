"""Models that keep something of a pass: every pass of a call starts from what the call found, and the call leaves that."""

from __future__ import annotations

import copy
import logging
from array import array
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..reference import gauss

N, D = 3, 4


class Keeps(nn.Module):
    """A net around something that it keeps; `reset` says what a pass by hand starts from."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.head = nn.Linear(D, D), nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.kept(self.before(x))))

    def kept(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class Memory(Keeps):
    """A tuple in an attribute, bound anew."""

    def __init__(self) -> None:
        super().__init__()
        self.state: tuple[Tensor, ...] = (torch.full((N, D), 0.3),)

    def kept(self, h: Tensor) -> Tensor:
        h = h + 0.9 * self.state[0]
        self.state = (h.detach(),)
        return h


class Counter(Keeps):
    """A number, on which the output depends."""

    steps = 0

    def kept(self, h: Tensor) -> Tensor:
        self.steps = self.steps + 1
        return h / self.steps


class InPlace(Keeps):
    """A buffer written in place, which the backward pass reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(0.5, 1.5, D))

    def kept(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.5).add_(0.1)
        return h * self.mean


class InATuple(InPlace):
    """The same, of a tensor in a tuple in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table = {"a": (torch.linspace(0.5, 1.5, D),)}

    def kept(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.table["a"][0].mul_(0.5).add_(0.1)
        return h * self.table["a"][0]


class Queue(Keeps):
    """A list that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [torch.ones(1, D)]

    def kept(self, h: Tensor) -> Tensor:
        self.seen.append(h.detach().mean(0, keepdim=True))
        return h + sum(self.seen)


class Cache(Keeps):
    """Made by the first pass, of what that has."""

    mask: Tensor | None = None

    def kept(self, h: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.tril(h.new_ones(D, D))
        return h @ self.mask


class Object:
    """Something else than a module that holds tensors."""

    def __init__(self) -> None:
        self.rows = torch.ones(1, D)


class Holder(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.store = Object()

    def kept(self, h: Tensor) -> Tensor:
        self.store.rows = torch.cat([self.store.rows, h.detach()[:1]])
        return h + self.store.rows.sum(0)


class Slotted:
    __slots__ = ("row",)

    def __init__(self) -> None:
        self.row = torch.ones(D)


class InASlot(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.store = Slotted()

    def kept(self, h: Tensor) -> Tensor:
        self.store.row = self.store.row + h.detach().mean(0)
        return h * self.store.row


class TakesTurns(Keeps):
    """Two layers that change places."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(D, D), nn.Linear(D, D)

    def kept(self, h: Tensor) -> Tensor:
        self.one, self.other = self.other, self.one
        return self.one(h)


class Counts(Keeps):
    """An array of numpy, written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.count = np.ones(D)

    def kept(self, h: Tensor) -> Tensor:
        self.count += np.arange(D)
        return h * torch.from_numpy(self.count.copy()).to(h.dtype)


class Data(Keeps):
    """A buffer whose data are others after each pass."""

    row: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", torch.full((D,), 0.3))

    def kept(self, h: Tensor) -> Tensor:
        self.row.data = 0.5 * self.row.data + h.detach().mean(0)
        return h + self.row


KINDS = [Data, Memory, Counter, InPlace, InATuple, Queue, Cache, Holder, InASlot, TakesTurns, Counts]


def made(kind: type[Keeps]) -> Keeps:
    torch.manual_seed(0)
    return kind().double().eval() if kind is not InATuple else kind().eval()


def input_for(model: Keeps) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(N, D).to(model.head.weight.dtype)


def as_found(model: Keeps, x: Tensor, value: Tensor | None = None) -> Tensor:
    """A pass of a model that has not run, with `value` after its first layer."""
    fresh = copy.deepcopy(model)
    if value is not None:
        fresh.before.register_forward_hook(lambda *_: value)
    return fresh(x)[:, 1]


def held(model: Keeps) -> list[Any]:
    """All that it holds, by identity and by value."""
    found: list[Any] = []

    def look(value: Any) -> None:
        found.append(id(value))
        if isinstance(value, Tensor):
            found.append(value.detach().clone().tolist())
        elif isinstance(value, (int, type(None))):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            for item in value.values():
                look(item)
        elif isinstance(value, Object):
            look(vars(value))
        elif isinstance(value, Slotted):
            look(value.row)
        elif isinstance(value, np.ndarray):
            found.append(value.tolist())

    for name, value in vars(model).items():
        if name in ("_buffers", "_parameters", "_modules") or not name.startswith("_"):
            found.append(name)
            look(value)
    return found


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients(kind: type[Keeps], chunk_size: int | None) -> None:
    model = made(kind)
    x = input_for(model)
    before = held(model)
    v, v0 = model.before(x).detach(), model.before(torch.zeros_like(x)).detach()
    total = torch.zeros_like(v)
    for a, w in gauss(5):
        point = (v0 + a * (v - v0)).requires_grad_()
        total += w * torch.autograd.grad(as_found(model, x, point).sum(), point)[0]
    found = fa.integrated_gradients(model, x, layer="before", target=1, n_steps=5, chunk_size=chunk_size)
    torch.testing.assert_close(found, total * (v - v0))
    assert held(model) == before


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_feature_ablation(kind: type[Keeps], chunk_size: int | None) -> None:
    model = made(kind)
    x = input_for(model)
    before = held(model)
    with torch.no_grad():
        lost = [as_found(model, x) - as_found(model, x.index_fill(1, torch.tensor(i), 0)) for i in range(D)]
    found = fa.feature_ablation(model, x, target=1, chunk_size=chunk_size)
    torch.testing.assert_close(found, torch.stack(lost, 1))
    assert held(model) == before


@pytest.mark.parametrize(
    "method",
    [
        partial(fa.gradient, target=1),
        partial(fa.deep_lift, target=1),
        partial(fa.conductance, n_steps=3, target=1),
        fa.each_target(fa.saliency, [0, 1]),
        partial(fa.noise_tunnel(fa.saliency, n_samples=2), target=1),
    ],
    ids=["gradient", "deep_lift", "conductance", "each_target", "noise_tunnel"],
)
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # torch.func does not let a model write to its buffers
@pytest.mark.filterwarnings("ignore:DeepLIFT's attributions miss")  # what is written has been detached
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_found(kind: type[Keeps], method: Callable[..., Any]) -> None:
    model = made(kind)
    x = input_for(model)
    before, expected = held(model), as_found(model, x)
    method(model, x, layer="before")
    assert held(model) == before
    torch.testing.assert_close(model(x)[:, 1], expected)


class OfAll(Keeps):
    """What a class holds for all its objects: a number, and a list."""

    passes, rows = 1, [1.0]

    def kept(self, h: Tensor) -> Tensor:
        OfAll.passes += 1
        OfAll.rows.append(float(OfAll.passes))
        return h * sum(OfAll.rows) / OfAll.passes


@pytest.mark.parametrize("method", [fa.integrated_gradients, fa.feature_ablation])
def test_what_a_class_holds(method: Any) -> None:
    model = made(OfAll)
    x = input_for(model)
    factor = (1.0 + 2.0) / 2
    torch.testing.assert_close(
        method(model, x, target=1), method(lambda x: model.head(torch.tanh(model.before(x) * factor)), x, target=1)
    )
    assert (OfAll.passes, OfAll.rows) == (1, [1.0])


def test_one_gradient_is_plain_autograds() -> None:
    for kind in KINDS:
        model = made(kind)
        x = input_for(model).requires_grad_()
        expected = torch.autograd.grad(as_found(model, x).sum(), x)[0]
        torch.testing.assert_close(fa.gradient(model, x.detach(), target=1), expected)


class Appends:
    """A key-value cache, bound to the model."""

    def __init__(self) -> None:
        self.keys = torch.ones(1, D, dtype=torch.float64)


def test_what_is_bound_starts_alike() -> None:
    net = made(Memory)

    def call(x: Tensor, cache: Appends, seen: list[Tensor], buffer: Tensor) -> Tensor:
        cache.keys = torch.cat([cache.keys, x.detach()[:1]])
        seen.append(x.detach())
        with torch.no_grad():
            buffer.add_(1)
        return net.head(torch.tanh(net.before(x) + cache.keys.mean(0) * len(seen) + buffer))

    cache, buffer, x = Appends(), torch.zeros(D, dtype=torch.float64), input_for(net)
    seen: list[Tensor] = []
    model = partial(call, cache=cache, seen=seen, buffer=buffer)
    keys = cache.keys
    expected = torch.zeros_like(x)
    for a, w in gauss(4):
        point = (a * x).requires_grad_()
        score = call(point, Appends(), [], torch.zeros(D, dtype=torch.float64))[:, 1].sum()
        expected += w * torch.autograd.grad(score, point)[0] * x
    for chunk_size in (None, 1, 3):
        found = fa.integrated_gradients(model, x, target=1, n_steps=4, chunk_size=chunk_size)
        torch.testing.assert_close(found, expected)
        assert cache.keys is keys
        assert seen == []
        assert torch.equal(buffer, torch.zeros_like(buffer))


def test_renormalised_embeddings() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Embedding(9, D, max_norm=0.5), nn.Flatten(), nn.Linear(2 * D, 2)).double().eval()
    weight: Any = model[0].weight
    before, ids = weight.detach().clone(), torch.tensor([[1, 2], [3, 4]])
    fa.integrated_gradients(model, ids, layer="0", target=1)
    fa.feature_ablation(model, ids, baselines=8, target=1)
    assert model[0].weight is weight
    assert torch.equal(weight, before)


class Named(tuple[int, int]):
    """A pair that says how it is to be read, and has no length."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_a_tuple_without_a_length() -> None:
    model: Any = nn.Sequential(Short(), nn.Linear(D, 2))
    model[0].kind, x = [Named((1, 2))], torch.randn(N, D)
    torch.testing.assert_close(fa.gradient(model, x, layer="0", target=1), model[1].weight[1].expand(N, D).detach())


class Short(nn.Module):
    """A parametrization with a bound of its own on norms."""

    def __init__(self) -> None:
        super().__init__()
        self.max_norm = 0.5

    def forward(self, weight: Tensor) -> Tensor:
        return torch.renorm(weight, 2, 0, self.max_norm)


class LooksUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.max_norm, self.table = 0.5, nn.Parameter(torch.randn(9, D))

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.table, max_norm=self.max_norm)


def test_a_bound_on_norms_of_a_module_without_a_weight() -> None:
    """Each method ended in "object has no attribute 'weight'"."""
    torch.manual_seed(0)
    x, model = torch.randn(2, D), nn.Linear(D, 2)
    torch.nn.utils.parametrize.register_parametrization(model, "weight", Short())
    torch.testing.assert_close(fa.gradient(model, x, target=1), model.weight[1].expand(2, D).detach())
    looks = nn.Sequential(LooksUp(), nn.Flatten(), nn.Linear(2 * D, 2))
    before = copy.deepcopy(looks.state_dict())
    fa.gradient(looks, torch.tensor([[1, 2], [3, 4]]), layer="0", target=1)
    torch.testing.assert_close(looks.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm], ids=["hook", "parametrized"]
)
def test_spectral_norm_in_train_mode(norm: Any) -> None:
    """Each pass takes a step of the power iteration: all of a call take the same."""
    torch.manual_seed(0)
    model, x = nn.Sequential(norm(nn.Linear(D, D)), nn.Tanh(), nn.Linear(D, 2)), torch.randn(N, D)
    before = copy.deepcopy(model.state_dict())

    def by_hand(x: Tensor) -> Tensor:
        return copy.deepcopy(model)(x)[:, 1]

    with torch.no_grad():
        lost = [by_hand(x) - by_hand(x.index_fill(1, torch.tensor(i), 0)) for i in range(D)]
    for chunk_size in (None, 1):
        found = fa.feature_ablation(model, x, target=1, chunk_size=chunk_size)
        torch.testing.assert_close(found, torch.stack(lost, 1), rtol=1e-4, atol=1e-5)
    fa.integrated_gradients(model, x, layer="1", target=1)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Logs(Keeps):
    """Holds a logger, through which all of Python's loggers can be reached, and makes one."""

    def __init__(self) -> None:
        super().__init__()
        self.logger, self.space = logging.getLogger(__name__), SimpleNamespace(count=0)

    def kept(self, h: Tensor) -> Tensor:
        logging.getLogger(f"{__name__}.made in a pass")
        self.space.count += 1
        return h * self.space.count


def test_objects_of_the_standard_library_are_not_a_models_state() -> None:
    model = made(Logs)
    x = input_for(model)
    expected = torch.autograd.grad(as_found(model, x.requires_grad_()).sum(), x)[0]
    logging.root.manager.loggerDict.pop(f"{__name__}.made in a pass")
    for _ in range(2):
        torch.testing.assert_close(fa.gradient(model, x.detach(), target=1), expected)
    assert model.space.count == 0
    assert f"{__name__}.made in a pass" in logging.root.manager.loggerDict


def test_a_method_of_an_object_that_keeps_something() -> None:
    class Plain:
        def __init__(self) -> None:
            self.steps = 0

        def score(self, x: Tensor) -> Tensor:
            self.steps += 1
            return x.sum(1) * self.steps

    plain, x = Plain(), torch.randn(2, 3)
    for model in (plain.score, partial(plain.score)):
        lost = fa.feature_ablation(model, x, chunk_size=1)
        torch.testing.assert_close(lost, x)
        assert plain.steps == 0


class Built(nn.Module):
    """Makes its layer in its first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is None:
            self.layer = nn.Linear(x.shape[1], 2).to(x.dtype)
        return self.layer(x)


def test_layers_made_by_the_first_pass_stay() -> None:
    model, x = Built().eval(), torch.randn(N, D)
    found = fa.feature_ablation(model, x, target=1, chunk_size=1)
    assert model.layer is not None
    torch.testing.assert_close(found, (model.layer.weight[1] * x).detach())


def test_a_parameter_whose_size_the_first_pass_tells() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.parameter.UninitializedParameter()

        def forward(self, x: Tensor) -> Tensor:
            if nn.parameter.is_lazy(self.scale):
                self.scale.materialize(x.shape[1:])
                self.scale.data.fill_(2)
            return x * self.scale

    assert float(fa.gradient(Lazy(), torch.randn(2, 3), target=1).sum()) == 4


class Packed(nn.Parameter):
    """Quantised weights, with their scale beside them until the first pass."""

    scale: Any


class Unpacks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kept: Any) -> Tensor:
        ctx.weight, ctx.kept = weight, kept
        return x @ (weight * kept.scale).t()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return slopes[0] @ (ctx.weight * ctx.kept.scale), None, None


class Quantised(nn.Module):
    """As bitsandbytes does it: the first pass takes the scale to where the backward passes look for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = Packed(torch.randint(-9, 9, (4, 3), dtype=torch.int8), requires_grad=False)
        self.weight.scale = torch.rand(4, 1).double()
        self.kept = SimpleNamespace(scale=None, weight=self.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.scale is not None:
            self.kept.scale, self.weight.scale = self.weight.scale, None
        return Unpacks.apply(x, self.weight, self.kept)  # type: ignore[no-untyped-call]  # torch does not type apply


@pytest.mark.parametrize("first", [fa.gradient, fa.feature_ablation, fa.integrated_gradients])
def test_what_the_first_pass_takes_out_of_a_parameter_stays_where_it_is_used(first: Any) -> None:
    model, x = Quantised(), torch.randn(2, 3, dtype=torch.float64)
    expected = (model.weight * model.weight.scale)[1].expand(2, 3)
    for method in (first, fa.gradient):
        found = method(model, x, target=1)
        torch.testing.assert_close(found, expected * (1 if method is fa.gradient else x))
    assert model.weight.scale is None
    torch.testing.assert_close(model(x)[:, 1], (x * expected).sum(1))


def test_a_model_that_keeps_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    clones: list[Any] = []
    clone = Tensor.clone

    def counted(t: Tensor, **options: Any) -> Tensor:
        clones.append(t.shape)
        return clone(t, **options)

    monkeypatch.setattr(Tensor, "clone", counted)
    fa.grad_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=1)
    assert not [shape for shape in clones if shape == (4,)]


class InARow(Keeps):
    """A count in numbers that are no tensor, and how many of them there are."""

    def __init__(self, row: Any) -> None:
        super().__init__()
        self.row = row

    def kept(self, h: Tensor) -> Tensor:
        self.row[0] += 1
        if isinstance(self.row, (array, bytearray)):
            self.row.append(1)
        return h * float(self.row[0]) / len(self.row)


@pytest.mark.parametrize(
    "make",
    [lambda: array("d", [1.0]), lambda: bytearray([1]), lambda: np.array([1.0], dtype=object)],
    ids=["array", "bytes", "objects"],
)
def test_numbers_in_a_row(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, x = InARow(make()), torch.randn(N, D)
    found = fa.feature_ablation(model, x, target=1, baselines=0.0)
    expected = [as_found(model, x) - as_found(model, x.index_fill(1, torch.tensor([i]), 0.0)) for i in range(D)]
    torch.testing.assert_close(found, torch.stack(expected, 1).detach())
    assert list(model.row) == list(make())
