"""noise_tunnel and each_target: their laws, on every method of the table, and what they cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import captum.attr as ca
import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from benchmarks.cost import cost
from benchmarks.models import ResNet18

from .. import reference
from ..breadth import full
from ..close import close
from ..methods import METHODS, Row, row_id
from ..models import CASES, Residual, Text, double

TARGETED = [row for row in METHODS if row.targeted]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("row", TARGETED, ids=row_id)
def test_without_noise_it_is_the_method(row: Row) -> None:
    model, x = double(CASES[2])
    options = row.options | {"layer": "layer1", "target": 1}
    plain = row.method(model, x, **options)
    close(fa.noise_tunnel(row.method, stdevs=0)(model, x, **options), plain)
    close(fa.noise_tunnel(row.method, stdevs=0.0, nt_type="smoothgrad_sq")(model, x, **options), plain**2)
    assert fa.noise_tunnel(row.method, stdevs=0, nt_type="vargrad")(model, x, **options).abs().max() < 1e-12


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_moments_by_hand(nt_type: str) -> None:
    model, x = double(CASES[0])
    g = seeded()
    found = [fa.gradient(model, x + 0.3 * torch.randn(x.shape, generator=g, dtype=x.dtype), target=2) for _ in range(7)]
    mean, square = sum(found) / 7, sum(f**2 for f in found) / 7
    expected = {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean**2}[nt_type]
    assert expected.abs().max() > 1e-6
    for chunk_size in (None, 1, 3, 7, 50):
        tunnel = fa.noise_tunnel(
            fa.gradient, n_samples=7, stdevs=0.3, nt_type=nt_type, generator=seeded(), chunk_size=chunk_size
        )
        close(tunnel(model, x, target=2), expected)


@pytest.mark.parametrize("row", TARGETED, ids=row_id)
def test_at_once_is_one_after_another(row: Row) -> None:
    model, x = double(CASES[2])
    found = []
    for chunk_size in (None, 1):
        torch.manual_seed(0)  # of what a method draws for itself, too
        tunnel = fa.noise_tunnel(row.method, n_samples=4, stdevs=0.1, generator=seeded(), chunk_size=chunk_size)
        found.append(tunnel(model, x, **(row.options | {"layer": "layer1", "target": "argmax"})))
    close(*found)


def test_integers_beside_what_takes_the_noise() -> None:
    runs = []

    def model(x: Tensor, ids: Tensor) -> Tensor:
        runs.append(x)
        return (table[ids] * torch.tanh(x)).sum(1)

    table = torch.randn(9, dtype=torch.float64)
    x = (torch.randn(4, 6, dtype=torch.float64), torch.randint(0, 9, (4, 6)))
    found = []
    for chunk_size in (None, 1):
        tunnel = fa.noise_tunnel(fa.gradient, stdevs=0.1, generator=seeded(), chunk_size=chunk_size)
        found.append(tunnel(model, x))
    assert len(runs) == 1 + 5
    assert [part[1] for part in found] == [None, None]
    close(found[0][0], found[1][0])


def passes(model: nn.Module, call: Callable[[], Any]) -> int:
    """How many forward passes `call` takes; an input under vmap is one."""
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    handle = model.register_forward_pre_hook(counted)
    try:
        call()
    finally:
        handle.remove()
    return count


def test_samples_run_at_once_where_they_can() -> None:
    model, x = double(CASES[2])
    drawing = partial(fa.gradient_shap, baselines=torch.zeros_like(x), stdevs=0.1, n_samples=2)
    for method, expected in ((fa.saliency, 1), (fa.deep_lift, 2), (fa.guided_backprop, 1)):
        tunnel = fa.noise_tunnel(method, n_samples=6, generator=seeded())
        assert passes(model, partial(tunnel, model, x, target=1)) == expected
    for method in (drawing, partial(fa.integrated_gradients, n_steps=3)):  # draws of its own, steps of its own
        tunnel = fa.noise_tunnel(method, n_samples=6, generator=seeded())
        assert passes(model, partial(tunnel, model, x, target=1)) >= 6


def test_a_method_that_draws_too_does_not_depend_on_the_chunks() -> None:
    def own(model: Any, x: Tensor, target: Any = None) -> Tensor:  # nobody has said that it draws
        return fa.gradient(model, x + 0.1 * torch.randn(x.shape, dtype=x.dtype), target=target)

    model, x = double(CASES[2])
    for method in (own, partial(fa.gradient_shap, baselines=torch.randn(5, *x.shape[1:]).double())):
        found = []
        for chunk_size in (1, None, 2, 50):
            torch.manual_seed(0)  # both draw from torch's global generator
            tunnel = fa.noise_tunnel(method, n_samples=4, stdevs=0.1, chunk_size=chunk_size)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found.append(tunnel(model, x, target=1))
            told = method is own and chunk_size in (2, 50)  # who asks for chunks and gets none is told
            assert ["one after another" in str(w.message) for w in caught] == [True] * told
        for other in found[1:]:
            close(found[0], other)


def test_what_cannot_be_mapped_runs_one_after_another_without_a_word() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x if x.sum() > 1e6 else x * 2  # a branch on data, and an LSTM that has no batching rule
            return self.fc(self.rnn(x)[0][:, -1])

    model, x = Branching().double().eval(), torch.randn(2, 5, 3, dtype=torch.float64)
    g, dropout = seeded(), nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    expected = sum(fa.gradient(model, x + torch.randn(x.shape, generator=g, dtype=x.dtype), target=1) for _ in range(5)) / 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(fa.noise_tunnel(fa.gradient, generator=seeded())(model, x, target=1), expected)
    masks = []
    for chunk_size in (None, 1):  # every sample has a dropout mask of its own
        torch.manual_seed(0)
        tunnel = fa.noise_tunnel(fa.gradient, generator=seeded(), chunk_size=chunk_size)
        with pytest.warns(UserWarning, match="train"):
            masks.append(tunnel(dropout, x[:, 0], target=1))
    close(*masks)


def test_hooks_on_the_backward_pass_run() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), torch.randn(4, 6, dtype=torch.float64)
    plain = fa.noise_tunnel(fa.gradient, generator=seeded())(model, x, layer="0", target=1)
    model[1].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 3,))
    for chunk_size in (None, 1):
        again = fa.noise_tunnel(fa.gradient, generator=seeded(), chunk_size=chunk_size)
        close(again(model, x, layer="0", target=1), 3 * plain)


def test_the_models_own_error_comes_through() -> None:
    class Odd(Exception):
        pass

    def model(x: Tensor) -> Tensor:
        raise Odd("mine")

    with pytest.raises(Odd, match="mine"):
        fa.noise_tunnel(fa.saliency)(model, torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        fa.noise_tunnel(fa.saliency)(lambda x: (x + torch.zeros(7)).sum(1), torch.randn(2, 3))


def test_samples_are_held_up_to_a_budget() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    x = torch.randn(8, 3, 64, 64)
    peaks = {}
    for n in (50, 200):
        tunnel = fa.noise_tunnel(fa.saliency, n_samples=n, stdevs=0.1)
        peaks[n] = cost(partial(tunnel, model, x, target=1)).peak
    assert peaks[200] <= 1.1 * peaks[50] < 1e8


def test_captum_in_expectation() -> None:
    model, x = double(CASES[0])
    own = fa.noise_tunnel(fa.saliency, n_samples=4000, stdevs=0.5, generator=seeded(), chunk_size=200)(model, x, target=1)
    theirs = ca.NoiseTunnel(ca.Saliency(model)).attribute(
        x.requires_grad_(), nt_samples=4000, stdevs=0.5, nt_type="smoothgrad", target=1
    )
    assert (own - theirs).norm() / theirs.norm() < 0.03
    assert (fa.saliency(model, x.detach(), target=1) - theirs).norm() / theirs.norm() > 0.05  # it is not just the method


def test_several_inputs_each_with_its_noise() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    g = seeded()
    total = [torch.zeros_like(part) for part in x]
    for _ in range(3):
        noisy = tuple(part + s * torch.randn(part.shape, generator=g, dtype=part.dtype) for part, s in zip(x, (0.1, 0.0)))
        total = [t + f / 3 for t, f in zip(total, fa.input_x_gradient(model, noisy, target=1))]
    tunnel = fa.noise_tunnel(fa.input_x_gradient, n_samples=3, stdevs=(0.1, 0.0), generator=seeded())
    close(tunnel(model, x, target=1), total)


def test_noise_at_the_layer_for_integers() -> None:
    model, ids = Text().double().eval(), torch.randint(0, 20, (4, 7))
    value = fa.activation(model, ids, layer="embedding")
    rest = fa.split(model, "embedding").rest
    expected = fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.2, generator=seeded())(
        lambda v: rest(v, ids), value, target=1
    )
    for chunk_size in (None, 2):
        tunnel = fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.2, generator=seeded(), chunk_size=chunk_size)
        close(tunnel(model, ids, layer="embedding", target=1), expected)
        neuron = tunnel(model, ids, layer="embedding", target=fa.neuron("mix", (1, 2)))
        assert neuron[:, 1].any()
        assert not neuron[:, 0].any()


def test_it_nests_and_composes() -> None:
    model, x = double(CASES[2])
    squares = fa.multiply(fa.saliency, fa.saliency)
    inner = fa.noise_tunnel(squares, n_samples=2, stdevs=0.1, generator=seeded())
    squared = fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.1, nt_type="smoothgrad_sq", generator=seeded())
    close(fa.relu(inner)(model, x, target=1), squared(model, x, target=1))
    path = fa.noise_tunnel(fa.integrated_gradients, n_samples=2, stdevs=0.1, generator=seeded())
    assert path(model, x, target=1, n_steps=3, layer="layer1").shape == (4, 6, 6, 6)
    assert path.__name__ == "noise_tunnel(integrated_gradients)"


@pytest.mark.parametrize("row", TARGETED, ids=row_id)
def test_each_target_is_a_stack_of_calls(row: Row) -> None:
    model, x = double(CASES[2])
    for site in ["layer1", *([None] if row.at_input else [])]:
        options = row.options | {"layer": site}
        for targets in (
            [0, 3, 3],
            torch.tensor([[1, 2, 3, 4], [0, 0, 1, 1]]),
            [torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 1, 1])],
            [(2,), "argmax", lambda out: out[:, 1], fa.neuron("fc", 2)],
        ):
            stack = torch.stack([row.method(model, x, target=target, **options) for target in targets])
            for chunk_size in (None, 1, 2):
                close(fa.each_target(row.method, targets, chunk_size=chunk_size)(model, x, **options), stack)


def test_each_target_of_nested_values() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    found = fa.each_target(fa.gradient, [0, 1, 4])(model, x, layer={"a": None, "b": ["conv", "fc"]})
    for t, target in enumerate([0, 1, 4]):
        alone = fa.gradient(model, x, layer={"a": None, "b": ["conv", "fc"]}, target=target)
        close([leaf[t] for leaf in reference.leaves(found)], reference.leaves(alone))


def test_all_targets_share_one_forward_pass() -> None:
    model, x = Residual().eval(), torch.randn(2, 3, 16, 16)
    forward = cost(lambda: model(x)).flops
    backward = cost(lambda: fa.grad_cam(model, x, layer="layer1", target=1)).flops - forward
    found = cost(lambda: fa.each_target(fa.grad_cam, [0, 1, 2, 3, 4], chunk_size=5)(model, x, layer="layer1")).flops
    assert found == forward + 5 * backward


def test_a_hundred_classes_of_a_resnet_cost_one_forward_pass() -> None:
    model, x = ResNet18().eval(), torch.randn(2, 3, 64, 64)
    forward = cost(lambda: model(x)).flops
    for layer in ("layer4", "layer3"):
        backward = cost(lambda layer=layer: fa.grad_cam(model, x, layer=layer, target=1)).flops - forward  # type: ignore[misc]  # a lambda with a default has no type for mypy
        found = cost(lambda layer=layer: fa.each_target(fa.grad_cam, range(100))(model, x, layer=layer))  # type: ignore[misc]  # a lambda with a default has no type for mypy
        assert found.flops == forward + 100 * backward
        values = fa.activation(model, x, layer=layer).nbytes
        assert found.peak < 4 * 100 * values + 2 * cost(lambda: model(x)).peak


def test_where_memory_is_short_there_are_fewer_targets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = double(CASES[2])
    elements = fa.activation(model, x, layer="layer1").numel()
    classes = [0, 1, 2, 3, 4, 0, 1, 2]
    stack = torch.stack([fa.grad_cam(model, x, layer="layer1", target=k) for k in classes])
    passes: list[int] = []
    handle = model.stem.register_forward_hook(lambda *_: passes.append(1))
    for room, expected in ((1 << 24, 1), (8 * elements, 1 + 1), (3 * elements, 1 + 1), (1, 1 + 1)):  # the first one finds out
        monkeypatch.setattr("funattr._combine.targets.ROOM", room)
        passes.clear()
        close(fa.each_target(fa.grad_cam, classes)(model, x, layer="layer1"), stack)
        assert len(passes) == expected
    handle.remove()


def test_each_target_meets_the_same_noise() -> None:
    """Whatever the chunks, and however the noise comes in: the generator's own, an argument's, or torch's."""
    model, x = double(CASES[2])
    noisy = fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.5, generator=seeded())
    expected = fa.noise_tunnel(fa.each_target(fa.gradient, [0, 3, 0]), n_samples=3, stdevs=0.5, generator=seeded())(model, x)
    torch.testing.assert_close(expected[0], expected[2], rtol=0, atol=0)
    for chunk_size in (None, 1, 2):
        noisy = fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.5, generator=seeded())
        close(fa.each_target(noisy, [0, 3, 0], chunk_size=chunk_size)(model, x), expected)
        torch.manual_seed(0)
        anywhere = fa.each_target(fa.noise_tunnel(fa.gradient, stdevs=0.5), [0, 3, 0], chunk_size=chunk_size)(model, x)
        close(anywhere[0], anywhere[2])
        shap = fa.each_target(fa.gradient_shap, [0, 3, 0], chunk_size=chunk_size)
        found = shap(model, x, baselines=x, generator=seeded())
        close(found[1], fa.gradient_shap(model, x, baselines=x, target=3, generator=seeded()))
        close(found[0], found[2])


@full
def test_compiled_and_vmapped() -> None:
    model, x = double(CASES[2])
    every = fa.each_target(fa.grad_cam, [0, 3], chunk_size=2)
    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="layer1"), every(model, x, layer="layer1"))
    in_one = torch.func.vmap(lambda example: every(model, example[None], layer="layer1")[:, 0])(x)
    close(in_one, every(model, x, layer="layer1").transpose(0, 1))
    tunnel = fa.noise_tunnel(fa.saliency, stdevs=0.0)
    compiled = torch.compile(tunnel, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, target=1), fa.saliency(model, x, target=1))


def test_differentiable() -> None:
    model, x = double(CASES[2])
    leaf = x.clone().requires_grad_()
    tunnel = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.1, generator=seeded())
    total = tunnel(model, leaf, target=1, create_graph=True).square().sum()
    found = torch.autograd.grad(total, leaf)[0]
    step = 1e-5 * torch.randn_like(x)

    def at(point: Tensor) -> Tensor:
        again = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.1, generator=seeded())
        return again(model, point, target=1).square().sum()

    torch.testing.assert_close((found * step).sum(), (at(x + step) - at(x - step)) / 2, rtol=1e-4, atol=1e-12)


mlp, row = CASES[0].build().eval(), torch.randn(4, 6)
ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: fa.noise_tunnel(3), TypeError, "noise_tunnel.*method"),
    (lambda: fa.noise_tunnel(fa.gradient, n_samples=0), ValueError, "n_samples must be at least 1"),
    (lambda: fa.noise_tunnel(fa.gradient, n_samples=2.0), TypeError, "n_samples must be an int"),
    (lambda: fa.noise_tunnel(fa.gradient, nt_type="smoothgard"), ValueError, "Did you mean 'smoothgrad'"),
    (lambda: fa.noise_tunnel(fa.gradient, stdevs=-1.0)(mlp, row, target=1), ValueError, "not negative"),
    (lambda: fa.noise_tunnel(fa.gradient, stdevs="big")(mlp, row, target=1), TypeError, "stdevs must be a number"),
    (lambda: fa.noise_tunnel(fa.gradient, stdevs=(1.0, 2.0))(mlp, row, target=1), ValueError, "2 entries for 1"),
    (lambda: fa.noise_tunnel(fa.gradient, chunk_size=0), ValueError, "chunk_size must be at least 1"),
    (lambda: fa.noise_tunnel(fa.gradient)(mlp, row.long(), target=1), TypeError, "torch.int64"),
    (
        lambda: fa.noise_tunnel(fa.gradient)(mlp, row, target=9),
        ValueError,
        r"noise_tunnel\(gradient\)\(target=9\).*out of range",
    ),
    (lambda: fa.each_target("gradient", [1]), TypeError, "each_target.*method"),
    (lambda: fa.each_target(fa.gradient, []), ValueError, "empty"),
    (lambda: fa.each_target(fa.gradient, 3), TypeError, "list of targets"),
    (lambda: fa.each_target(fa.gradient, "argmax"), TypeError, "list of targets"),
    (lambda: fa.each_target(fa.gradient, [1, 2])(mlp, row, target=1), TypeError, "given already"),
    (lambda: fa.each_target(fa.gradient, [1, 7])(mlp, row), ValueError, "7 is out of range"),
    (lambda: fa.each_target(fa.gradient, torch.zeros(2, 3, dtype=torch.long))(mlp, row), ValueError, r"\[3\]"),
]


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS)
def test_bad_input(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"(?s){words}"):
        call()


def test_a_model_that_vmap_cannot_run_warns_once_and_is_right() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return y * 2 if x.sum() > 0 else y

    model, x = Branches().double(), torch.randn(4, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match="one after another") as caught:
        found = fa.noise_tunnel(fa.gradient, n_samples=5, stdevs=0.1, generator=seeded(), chunk_size=2)(model, x, target=1)
    assert len(caught) == 1
    close(found, fa.noise_tunnel(fa.gradient, n_samples=5, stdevs=0.1, generator=seeded())(model, x, target=1))


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.prototypes = nn.Linear(6, 4), nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.embed(x), self.prototypes)


@pytest.mark.parametrize("layer", [None, "embed"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_targets_that_torch_would_mix_up(layer: Any, chunk_size: int | None) -> None:
    """torch's batching rule for the backward pass of cdist gives all cotangents the first one's gradient."""
    model, x = Prototypes().double(), torch.randn(3, 6, dtype=torch.float64)
    found = fa.each_target(fa.gradient, [0, 1, 4], chunk_size=chunk_size)(model, x, layer=layer)
    torch.testing.assert_close(found, torch.stack([fa.gradient(model, x, layer=layer, target=t) for t in (0, 1, 4)]))
