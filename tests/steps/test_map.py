"""How steps are run: mapped in chunks, or one after another, with the same result."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import funattr as fa
import funattr._steps.chunks
from funattr._core.kernels import Folded
from funattr._steps.chunks import chunk_for, chunks, fitting, keeps
from funattr._steps.ways import Runner

STEPS = torch.arange(10.0).reshape(10, 1)
X = torch.randn(3, 4)


def each(function: Any, steps: Tensor, *shared: Any, chunk: int | None = None) -> Iterator[Any]:
    run = Runner()
    for first, last in chunks(len(steps), chunk):
        yield from run(function, steps[first:last], *shared)


def ran(function: Any, chunk: int | None = None, x: Tensor = X) -> Tensor:
    return torch.cat(list(each(function, STEPS, x, chunk=chunk)))


@pytest.mark.parametrize("chunk", [None, 1, 3, 10, 99])
def test_every_step_in_order(chunk: int | None) -> None:
    assert torch.equal(ran(lambda step, x: x * step, chunk), torch.stack([X * step for step in STEPS]))


def test_chunks_are_of_about_the_same_size() -> None:
    assert chunks(10, 4) == [(0, 4), (4, 7), (7, 10)]
    assert chunks(10, None) == [(0, 10)]
    assert chunks(0, 4) == []
    for choose in (None, "auto"):
        assert chunk_for(100, choose, torch.zeros(2, 3), shares=True) == 50
        assert chunk_for(4, choose, torch.zeros(2, 3), shares=True) == 4
        assert chunk_for(100, choose, torch.zeros(8, 3, 512, 512), shares=False) == 1
    assert chunk_for(100, 7, X, shares=True) == 7


def test_a_budget_of_memory() -> None:
    """Half as many steps of double precision, and never more than there is room for, but for one."""
    x = torch.zeros(8, 3, 112, 112)
    found = {dtype: chunk_for(50, "auto", x.to(dtype), shares=True) for dtype in (torch.float16, torch.float32, torch.float64)}
    assert found[torch.float64] < found[torch.float32] < found[torch.float16]
    for dtype, size in found.items():
        assert size * x.numel() * x.to(dtype).element_size() <= 1 << 25 < 2 * size * x.numel() * x.to(dtype).element_size()
    for most, size, room in ((50, 1, 1000), (50, 30, 1000), (50, 999, 1000), (50, 1001, 1000), (3, 500, 1000)):
        for count in (1, 2, 7, 30, 1000):
            fits = fitting(count, most, size, room)
            assert fits == 1 or fits * size <= room
            assert fits in (most, count) or (fits + 1) * 4 // 3 * size > room
        assert len({fitting(count, most, size, room) for count in (50, 100, 1000)}) == 1  # memory does not grow with the count


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_a_cpu_keeps() -> None:
    """8 MB of the widest value, whatever the order of widths is, and in any case four examples; more of a deep net."""
    nets: dict[str, nn.Module] = {
        "wide": nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 10)
        ),
        "halved": nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.MaxPool2d(2), nn.Conv2d(8, 64, 1), nn.AvgPool2d((2, 1))
        ),
        "perceptron": nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10)),
        "attention": nn.Sequential(
            *(nn.Linear(*sizes) for _ in range(4) for sizes in ((16, 48), (16, 16), (16, 64), (64, 16)))
        ),
        "not a layer": nn.ReLU(),
        "lazy": nn.LazyLinear(7),
    }
    widest = {"wide": 64 * 64, "halved": 64 * 4, "perceptron": 1024, "attention": 256, "not a layer": 64, "lazy": 64}
    for name, net in nets.items():
        found = keeps(net, [torch.zeros(100, 1, 8, 8)])
        assert found == (3 if name == "attention" else 1) * (1 << 23) // (4 * 100 * widest[name]), name
        assert keeps(net.double(), [torch.zeros(100, 1, 8, 8, dtype=torch.float64)]) == found // 2
        assert keeps(net, [torch.zeros(1).expand(1, 1, 8192, 8192)]) == 4
        assert keeps(net, [torch.zeros(1).expand(50, 1, 8192, 8192)]) == 1
        assert keeps(net, [torch.zeros(100, 1, 8, 8)], 10) == max(1, found // 10)  # vmapped over ten
    deep = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.ReLU())]
    assert [keeps(nn.Sequential(*deep[:n]), [torch.zeros(128, 64)]) for n in (7, 8)] == [256, 768]
    assert chunk_for(50, None, torch.zeros(100, 1, 8, 8), shares=False, root=nets["wide"]) == 5
    assert chunk_for(50, 20, torch.zeros(100, 1, 8, 8), shares=False, root=nets["wide"]) == 20
    assert chunk_for(50, None, torch.zeros(100, 1, 8, 8), shares=True, root=nets["wide"]) == 50
    assert chunk_for(50, None, torch.zeros(100, 1, 8, 8), shares=False) == 25  # a plain function


def test_a_gpu_has_the_room_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        is_cuda, device = True, torch.device("cuda", 0)

        def __init__(self, elements: int):
            self.elements = elements

        def numel(self) -> int:
            return self.elements

        def element_size(self) -> int:
            return 4

    monkeypatch.setattr(funattr._steps.chunks, "tensors", lambda like: [like])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    for free, expected in ((0, 4), (62 << 30, 50)):  # and 2 GB that torch holds
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert chunk_for(100, None, OnGpu(1 << 21), shares=True) == expected


def test_what_steps_share_runs_once() -> None:
    calls = []

    def function(step: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        return x.exp() * step

    ran(function, 5)
    assert len(calls) == 2


def test_a_mapped_tensor_written_into_a_shared_one() -> None:
    def function(step: Tensor, x: Tensor) -> Tensor:
        out = x.sin()
        out += step
        return out.mul_(2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ran(function, 4), torch.stack([(X.sin() + step) * 2 for step in STEPS]))


def test_one_after_another_with_one_warning_that_names_the_cause() -> None:
    def function(step: Tensor, x: Tensor) -> Tensor:
        return x * step if step.sum() > 4 else x + step

    with pytest.warns(UserWarning, match="one after another.*data-dependent") as caught:
        found = ran(function, 4)
    assert len(caught) == 1
    assert torch.equal(found, torch.stack([X * s if s > 4 else X + s for s in STEPS]))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Dynamo")
@pytest.mark.skipif(not hasattr(torch, "cond"), reason="torch has no cond")
def test_whatever_torch_raises_under_vmap() -> None:
    """`torch.cond` compiles its branches: mapped over, where a gradient is asked for, an assertion of torch's fails."""

    def model(x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 1, lambda y: y.sin(), lambda y: y.cos(), (x,))
        return y.sum(1)

    x = torch.full((1, 2), 0.7)
    with pytest.warns(UserWarning, match="one after another") as caught:
        found = fa.integrated_gradients(model, x, n_steps=4)
    assert len([w for w in caught if "one after another" in str(w.message)]) == 1
    nodes = (x * a for a in (torch.from_numpy(np.polynomial.legendre.leggauss(4)[0]) + 1) / 2)
    slopes = torch.cat([p.cos() if p.sum() > 1 else -p.sin() for p in nodes])
    weights = torch.from_numpy(np.polynomial.legendre.leggauss(4)[1])[:, None] / 2
    torch.testing.assert_close(found, (x * (weights * slopes).sum(0)).float())


@pytest.mark.filterwarnings("ignore:Dynamo", "ignore:the steps run one after another")
@pytest.mark.skipif(not hasattr(torch, "cond"), reason="torch has no cond")
def test_what_torch_compiles_wherever_it_runs() -> None:
    """Under our own vmap, too: run as it is written, torch.cond returns something else. Its second derivative is lost."""

    class Chooses(nn.Module):
        def __init__(self, held: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.held = nn.Linear(4, 5), nn.Linear(5, 3), held

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            h = torch.cond(self.last.bias.sum() > -9, torch.tanh, torch.relu, (h,)) if self.held else torch.tanh(h)
            return self.last(h)  # type: ignore[no-any-return]  # a module returns any

    model, plain, x = Chooses(True).eval(), Chooses(False).eval(), torch.randn(2, 4)
    for layer in (None, "first"):
        found = fa.feature_ablation(model, x, layer=layer, target=1)
        torch.testing.assert_close(found, fa.feature_ablation(plain, x, layer=layer, target=1))
    with pytest.raises(ValueError, match=r"^lrp\(target=1\): torch compiles a part of the model wherever it runs"):
        fa.lrp(model, x, target=1)
    with pytest.warns(UserWarning, match="the model runs CondAutogradOp, whose second derivative torch may lose"):
        fa.gradient(model, x.clone().requires_grad_(), target=1, create_graph=True)


def test_where_the_derivative_cannot_be_looked_at() -> None:
    """A functionalized step is compared with one alone, slopes too: what has none there, runs one after another."""

    def function(step: Tensor, x: Tensor) -> Tensor:
        out = x.sin()
        out += step
        return torch.ops.aten.copy(x, out)  # type: ignore[no-any-return]  # torch's operations are Any here

    x = X.clone().requires_grad_()
    with pytest.warns(UserWarning, match="one after another"):
        found = ran(function, 4, x)
    assert torch.equal(found.detach(), torch.stack([X.sin() + step for step in STEPS]))


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError, KeyboardInterrupt])
def test_own_exceptions_at_once_and_unchanged(kind: type[BaseException]) -> None:
    calls = []

    def function(step: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        raise kind("vmap, torch.func and a batching rule")

    with pytest.raises(kind, match=r"vmap, torch\.func"):
        ran(function)
    assert len(calls) == 1


def test_an_operations_error_is_that_of_a_step_on_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="3x4 and 5x5"):
            ran(lambda step, x: (x * step) @ torch.zeros(5, 5))


def test_steps_of_a_chunk_draw_the_same() -> None:
    """One draw for a chunk, as if its steps were one: each step sees the model that the others see."""
    x = torch.ones(3, 4)
    for draw in (lambda t: F.dropout(t, 0.5, True), lambda t: t * torch.rand(3, 4), lambda t: t + torch.randn_like(t)):
        torch.manual_seed(5)
        found = ran(lambda step, x, draw=draw: step * draw(x), 4, x)
        torch.manual_seed(5)
        one_each = [draw(x) for _ in chunks(10, 4)]
        drawn = [one for one, (start, stop) in zip(one_each, chunks(10, 4)) for _ in range(start, stop)]
        torch.testing.assert_close(found, torch.stack([step * one for step, one in zip(STEPS, drawn)]))
        assert not torch.equal(drawn[0], drawn[-1])  # chunks draw anew: else "the same" would say nothing


class OperationNames(TorchDispatchMode):
    """What runs below transforms."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def attention(mask: Tensor | None, causal: bool = False) -> Any:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

    return model


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 5, 4)])
@pytest.mark.parametrize("mapped", [(0, 0, 0), (0, None, 0), (None, 0, None), (0, None, None)])
@pytest.mark.parametrize("kind", ["none", "causal", "shared mask", "mask per example"])
def test_attention_is_folded(shape: tuple[int, ...], mapped: tuple[Any, ...], kind: str) -> None:
    mask = {"shared mask": torch.rand(5, 5) > 0.3, "mask per example": torch.randn(*shape[:1], *[1] * (len(shape) - 3), 5, 5)}
    parts = [torch.randn(*([6] if dim == 0 else []), *shape, requires_grad=True) for dim in mapped]
    model = attention(mask.get(kind), kind == "causal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no sample by sample
        with Folded():
            found = torch.func.vmap(model, in_dims=mapped)(*parts)
        gradients = torch.autograd.grad(found.square().sum(), parts)
    expected = torch.stack([model(*(t[i] if dim == 0 else t for t, dim in zip(parts, mapped))) for i in range(6)])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), parts))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 5, 3)])
@pytest.mark.parametrize("mapped", [(0, None, None), (1, None, None), (None, None, None), (0, 0, None), (0, None, 0)])
def test_a_linear_layer_is_folded(shape: tuple[int, ...], mapped: tuple[Any, ...]) -> None:
    parts = [
        torch.randn(*t, requires_grad=True) if dim is None else torch.randn(6, *t).movedim(0, dim).requires_grad_()
        for t, dim in zip((shape, (4, 3), (4,)), mapped)
    ]
    plain = mapped[0] is not None and mapped[1:] == (None, None)
    with OperationNames() as seen, Folded():
        found = torch.func.vmap(F.linear, in_dims=mapped)(*parts) if any(d is not None for d in mapped) else F.linear(*parts)
    one = "aten::addmm" in seen.names and not {"aten::mul", "aten::add"} & seen.names
    assert one or not plain or not hasattr(torch.utils, "swap_tensors")  # torch 2.0 takes it apart in three dimensions
    steps = [F.linear(*(t if dim is None else t.select(dim, i) for t, dim in zip(parts, mapped))) for i in range(6)]
    expected = torch.stack(steps) if any(d is not None for d in mapped) else steps[0]
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), parts)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), parts))


def test_memory_of_a_chunk_is_freed_before_the_next() -> None:
    def live() -> int:
        gc.collect()
        return sum(type(o) is Tensor and o.numel() == 4 * 1234 for o in gc.get_objects())

    counts = []
    for part in each(lambda step, x: x.expand(1234) * step, torch.ones(16, 1), torch.ones(1), chunk=4):
        del part
        counts.append(live())
    assert max(counts) <= counts[0]


def test_what_is_no_tensor_in_a_result_comes_as_it_is() -> None:
    class Attends(nn.Module):
        """Gives its weights to those who ask, as attention does: None to the others."""

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return torch.tanh(x), None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attends()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x)[0])

    net, x = Net().double(), torch.randn(2, 4, dtype=torch.float64)
    found, nothing = fa.each_target(fa.gradient, [0, 2])(net, x, layer="attention")
    assert nothing is None
    torch.testing.assert_close(found, net.head.weight[[0, 2]].detach()[:, None].expand(2, 2, 4))
    references = torch.randn(3, 4, dtype=torch.float64)
    found, nothing = fa.deep_lift_shap(net, x, baselines=references, layer="attention", target=1)
    assert nothing is None
    expected = net.head.weight[1] * (torch.tanh(x) - torch.tanh(references).mean(0))
    torch.testing.assert_close(found, expected.detach())
