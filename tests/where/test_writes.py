"""Models that write in place what depends on the site into what does not: `out += shortcut`, outputs made beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close
from ..cost import cost
from ..reference import gauss, path_at_site


class Residual(nn.Module):
    """torchvision's block: what comes first does not depend on the shortcut, and the shortcut is added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.shortcut, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(self.relu(self.first(x))))
        out += self.shortcut(x)
        return self.ended(out)

    def ended(self, out: Tensor) -> Tensor:
        found: Tensor = self.last(self.relu(out).mean((2, 3)))
        return found


class ByAnotherName(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(self.relu(self.first(x))))
        other = out
        out += self.shortcut(x)
        return self.ended(other)


class Statement(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(self.relu(self.first(x))))
        out.add_(self.shortcut(x))
        return self.ended(torch.cat([out], 1))


class BehindAView(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(self.relu(self.first(x))))
        half = out[:, :4]
        out += self.shortcut(x)
        return self.ended(torch.cat([half, half], 1))


class ThroughAView(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(self.relu(self.first(x))))
        out[:, :4] += self.shortcut(x)[:, 4:]
        return self.ended(out)


class MadeBefore(Residual):
    """A recurrent net writes its steps into an output that was made before."""

    def forward(self, x: Tensor) -> Tensor:
        value = self.shortcut(x).mean((2, 3))
        steps = torch.zeros(len(x), 3, 8, dtype=x.dtype)
        for i in range(3):
            value = torch.tanh(value * (i + 1))
            steps[:, i] = value
        found: Tensor = self.last(steps.sum(1))
        return found


class Kept(Residual):
    """What is written to is the model's own, and was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(4, 8, 6, 6))
        self.kept: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.kept.zero_()
        self.kept.add_(self.shortcut(x))
        return self.ended(self.kept.clone())


class Turned(Residual):
    """Functionalized under vmap, the gradient of what is written to a view that is laid out otherwise is torch's, and wrong."""

    def forward(self, x: Tensor) -> Tensor:
        made, _ = torch.zeros(2, 4, 8, 6, 6, dtype=x.dtype).max(0)
        made.transpose(2, 3).copy_(self.shortcut(x))
        return self.ended(made)


NETS: list[Callable[[], nn.Module]] = [
    Residual,
    ByAnotherName,
    Statement,
    BehindAView,
    ThroughAView,
    MadeBefore,
    Kept,
    Turned,
]


def built(net: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return net().double().eval(), torch.randn(4, 3, 6, 6, dtype=torch.float64)


def second(output: Tensor) -> Tensor:
    return fa.score(output, 2)


@pytest.mark.parametrize("net", NETS)
def test_path_at_the_shortcut(net: Callable[[], nn.Module]) -> None:
    model, x = built(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fa.integrated_gradients(model, x, layer="shortcut", target=2, n_steps=4)
    close(found, path_at_site(model, x, "shortcut", second, 4))
    again = fa.integrated_gradients(model, x, layer="shortcut", target=2, n_steps=4, chunk_size=1)
    close(again, found)
    groups = torch.arange(8)[None, :, None, None].expand(1, 8, 6, 6) // 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ablated = fa.feature_ablation(model, x, layer="shortcut", target=2, feature_mask=groups)
    close(ablated, fa.feature_ablation(model, x, layer="shortcut", target=2, feature_mask=groups, chunk_size=1))
    assert all(bool(t.isfinite().all()) for t in model.buffers())  # plain still: what vmap has wrapped is dead by now


@pytest.mark.parametrize("net", [Residual, ByAnotherName, Statement, MadeBefore])
def test_nothing_is_run_twice_and_nobody_warned(net: Callable[[], nn.Module]) -> None:
    model, x = built(net)
    n = 8
    spent = cost(lambda: fa.integrated_gradients(model, x, layer="shortcut", target=2, n_steps=n)).flops
    early = partial(fa.activation, model, layer=fa.output_of("shortcut", call=0))
    before, reference = cost(partial(early, x)).flops, cost(partial(early, x[:1])).flops
    forward, there = cost(lambda: model(x)).flops, cost(lambda: fa.gradient(model, x, layer="shortcut", target=2)).flops
    after, back = forward - before, there - forward
    assert spent <= 1.05 * (before + reference + n * (after + back))


WRITERS = [
    (net, method) for net in (Residual, ByAnotherName, Statement) for method in (fa.integrated_gradients, fa.feature_ablation)
]


@pytest.mark.parametrize(("net", "method"), breadth(WRITERS, lambda case: case[0] is Residual, several=True))
def test_one_graph(net: Callable[[], nn.Module], method: Any) -> None:
    model, x = built(net)
    options: dict[str, Any] = {"layer": "shortcut", "target": 2}
    options |= {"n_steps": 3} if method is fa.integrated_gradients else {"feature_mask": torch.zeros(1, 8, 6, 6).long()}
    fast: Any = torch.compile(method, fullgraph=True, backend="aot_eager")
    close(fast(model, x, **options), method(model, x, **options))


def test_what_was_there_before_is_not_touched() -> None:
    """A tensor of the caller's, which the model function writes to, is his afterwards, and plain."""
    own = torch.zeros(2, 3)
    layer = nn.Linear(3, 3)

    def model(x: Tensor) -> Tensor:
        own.zero_()
        value = layer(x)
        own.add_(value)
        return own.clone().exp()

    x = torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fa.integrated_gradients(model, x, layer=layer, target=1, n_steps=3)
    assert type(own) is Tensor
    assert own.isfinite().all()
    close(found, fa.integrated_gradients(lambda x: layer(x).exp(), x, layer=layer, target=1, n_steps=3), 1e-6)


def scattered(y: Tensor, state: Tensor, t: int) -> Tensor:
    return y.select_scatter(state, 1, t)


def sliced(y: Tensor, state: Tensor, t: int) -> Tensor:
    return torch.slice_scatter(y, state[:, None], 1, t, t + 1)


def indexed(y: Tensor, state: Tensor, t: int) -> Tensor:
    return y.index_put((torch.arange(len(y)), torch.full((len(y),), t)), state)


def put(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[:, t : t + 1] = state[:, None]
    return y


def listed(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[:, [t]] = state[:, None]
    return y


def copied(y: Tensor, state: Tensor, t: int) -> Tensor:
    return y.index_copy_(1, torch.tensor([t]), state[:, None])


def filled(y: Tensor, state: Tensor, t: int) -> Tensor:
    return y.scatter_(1, torch.full((len(y), 1, 4), t), state[:, None])


def added(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[:, t] += state
    return y


def selected(y: Tensor, state: Tensor, t: int) -> Tensor:
    y.select(1, t).copy_(state)
    return y


def narrowed(y: Tensor, state: Tensor, t: int) -> Tensor:
    y.narrow(1, t, 1).add_(state[:, None])
    return y


def turned(y: Tensor, state: Tensor, t: int) -> Tensor:
    y.permute(1, 2, 0)[t] = state.t()
    return y


def on_the_diagonal(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[..., :3].diagonal(t, 1, 2).copy_(state[:, : 3 - t])
    return y


def by_steps(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[:, t::2, 1::2] -= state[:, None, 1::2]
    return y


def masked(y: Tensor, state: Tensor, t: int) -> Tensor:
    y[:, t, torch.arange(4) != t] = state[:, 1:]
    return y


def index_put(y: Tensor, state: Tensor, t: int) -> Tensor:
    return (
        y.view(len(y), -1).index_put_((torch.arange(len(y))[:, None], torch.tensor([[t, t]])), state[:, :2], True).view(y.shape)
    )


def beside_a_view(y: Tensor, state: Tensor, t: int) -> Tensor:
    seen = y[:, t]
    y.add_(state[:, None])
    return y * seen[:, None].cos()


def viewed_twice(y: Tensor, state: Tensor, t: int) -> Tensor:
    y.flatten(1)[:, 2:][:, t::3].mul_(state[:, :1])
    return y


#: What models make to fill, and how they do. (Of select_scatter, torch's gradient outside vmap is that of other places.)
BEFOREHAND: list[Callable[[Tensor], Tensor]] = [
    lambda v: v.new_zeros(v.shape),
    lambda v: torch.empty_like(v).fill_(0.25),
    lambda v: torch.full(v.shape, 0.5, dtype=v.dtype),
    lambda v: torch.ones(1, *v.shape[1:], dtype=v.dtype).repeat(len(v), 1, 1),
    lambda v: torch.arange(v.numel(), dtype=v.dtype).reshape(v.shape),
    lambda v: torch.ones(v.shape[1], v.shape[2], v.shape[0], dtype=v.dtype).permute(2, 0, 1),
]
WHOLE = [scattered, sliced, indexed, put, listed, copied, filled]
THROUGH_VIEWS = [added, selected, narrowed, turned, on_the_diagonal, by_steps, masked, index_put, beside_a_view, viewed_twice]
WRITES = [*WHOLE, *THROUGH_VIEWS]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("make", breadth(BEFOREHAND, lambda make: make in (BEFOREHAND[0], BEFOREHAND[4])))
def test_loops_that_fill_what_was_made_before(make: Callable[[Tensor], Tensor], write: Callable[..., Tensor]) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.cell, self.last = nn.Linear(3, 4), nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            v = self.a(x)
            y, state = make(v), v.new_zeros(len(v), 4)
            for t in range(v.shape[1]):
                state = torch.tanh(self.cell(torch.cat([v[:, t], state], 1)))
                y = write(y, state, t)
            return self.last(torch.sin(y).sum(1))

    torch.manual_seed(0)
    model, x = Loop().double().eval(), torch.randn(3, 3, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if hasattr(torch.utils, "swap_tensors") else "ignore")  # torch 2.0: slower, and says so
        for layer in (None, "a"):
            found = fa.integrated_gradients(model, x, layer=layer, target=1, n_steps=5)
            close(found, path_at_site(model, x, layer, lambda out: out[:, 1], 5))


class Relaid(nn.Module):
    """What `contiguous` returns is its argument, where that is contiguous: writing to one is writing to both."""

    def __init__(self, written: int) -> None:
        super().__init__()
        self.written, self.first, self.last = written, nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        pair = [torch.sin(self.first(x))]
        pair.append(pair[0].contiguous())
        pair[self.written].mul_(3)
        found: Tensor = self.last(torch.relu(pair[1] + pair[0]))
        return found


@pytest.mark.parametrize("written", [0, 1])
@pytest.mark.parametrize("method", [fa.deep_lift, partial(fa.integrated_gradients, n_steps=4)])
def test_rows_that_are_the_same_are_written_alike(written: int, method: Any) -> None:
    """Of a baseline for all examples one row is computed; written is to all of them."""
    torch.manual_seed(0)
    model, x = Relaid(written).double().eval(), torch.randn(3, 3, dtype=torch.float64)
    found = method(model, x, layer="first", target=1, baselines=0.5)
    each = [method(model, t[None], layer="first", target=1, baselines=0.5) for t in x]
    torch.testing.assert_close(found, torch.cat(each), rtol=1e-9, atol=1e-12)


def test_a_mapped_number_that_fills_places() -> None:
    """At a site of one number: torch's index_fill writes it elsewhere under vmap."""

    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.total, self.b = nn.Linear(6, 8), nn.Identity(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            return self.b(y.index_fill(1, torch.tensor([0, 2]), self.total(x.sum())))

    torch.manual_seed(0)
    model, x = Fills().double(), torch.randn(4, 6, dtype=torch.float64)
    found = fa.integrated_gradients(model, x, layer="total", target=1, n_steps=3)
    close(found, 4 * model.b.weight[1, [0, 2]].sum().detach() * x.sum())


@pytest.mark.skipif(not hasattr(torch.utils, "swap_tensors"), reason="torch 2.0 runs them one after another")
@pytest.mark.filterwarnings(*["ignore:the steps run one after another"] * torch.__version__.startswith("2.4."))
@pytest.mark.parametrize("net", [ThroughAView, MadeBefore, Residual])
def test_several_targets_of_what_is_written(net: Callable[[], nn.Module]) -> None:
    """Mapped over the targets too, the steps would run one after another: the targets share them, and nobody is warned."""
    model, x = built(net)
    for chunk_size in (None, 1, 2):
        found = fa.each_target(fa.integrated_gradients, [0, 2], chunk_size=chunk_size)(model, x, layer="shortcut", n_steps=4)
        for k, each in zip((0, 2), found):
            close(each, path_at_site(model, x, "shortcut", partial(fa.score, target=k), 4))
    groups = torch.arange(8)[:, None, None]
    ablated = fa.each_target(fa.feature_ablation, [0, 2])(model, x, layer="shortcut", feature_mask=groups)
    close(ablated[1], fa.feature_ablation(model, x, layer="shortcut", target=2, feature_mask=groups, chunk_size=1))


@pytest.mark.skipif(not hasattr(torch.utils, "swap_tensors"), reason="torch 2.0 runs them one after another")
@pytest.mark.parametrize("write", [sliced, scattered, *THROUGH_VIEWS])
def test_derivatives_of_what_is_written(write: Callable[..., Tensor]) -> None:
    """With `create_graph`, all steps at once as well: the values, and the derivative of a function of them, are a loop's."""
    torch.manual_seed(0)
    a, last, x = nn.Linear(3, 4).double(), nn.Linear(4, 2).double(), torch.randn(2, 3, 3, dtype=torch.float64)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = a

        def forward(self, x: Tensor) -> Any:
            v = self.a(x)
            y = torch.ones(v.shape, dtype=v.dtype)
            for t in range(v.shape[1]):
                y = write(y, torch.tanh(v[:, t]), t)
            return last(torch.sin(y).sum(1))

    def rest(v: Tensor) -> Tensor:
        y = torch.ones(v.shape, dtype=v.dtype)
        for t in range(v.shape[1]):
            y = write(y, torch.tanh(v[:, t]), t)
        return last(torch.sin(y).sum(1))[:, 1].sum()

    model, point = Loop(), x.clone().requires_grad_()
    found = fa.integrated_gradients(model, point, layer="a", target=1, n_steps=3, create_graph=True)
    (derivative,) = torch.autograd.grad(found.square().sum(), point)
    value, start, total = a(point), a(torch.zeros_like(point)), torch.zeros(())
    for node, weight in gauss(3):
        at = start + node * (value - start)
        total = total + weight * torch.autograd.grad(rest(at), at, create_graph=True)[0]
    wanted = total * (value - start)
    close(found, wanted)
    close(derivative, torch.autograd.grad(wanted.square().sum(), point)[0])
