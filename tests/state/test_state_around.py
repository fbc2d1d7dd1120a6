"""State that is in no attribute of a model: in functions around it, in files, in layers of torch, and after an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import funattr as fa
from funattr._torch import indexing_shown, traces
from funattr._torch import shown as showing

from ..reference import gauss
from .test_state import Counter, D, Keeps, Object, as_found, input_for, made

ONES = torch.ones(D, dtype=torch.float64)
row: Tensor | None = None
passes: list[int] = []


def start() -> None:
    """As before the first pass."""
    global row
    row = None
    passes.clear()


def in_a_closure(net: Keeps) -> Callable[[Tensor], Tensor]:
    seen, factor = ONES.clone(), None

    def call(x: Tensor) -> Tensor:
        nonlocal factor
        factor = ONES if factor is None else 0.5 * factor
        seen.add_(x.detach().mean(0))
        passes.append(len(x))
        return net.head(torch.tanh(net.before(x) * factor + seen.clone()))  # type: ignore[no-any-return]  # a module returns any

    return call


def in_defaults(net: Keeps) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor, store: Object = Object(), *, more: Object = Object()) -> Tensor:  # noqa: B008  (it is about these)
        store.rows = torch.cat([store.rows, x.detach()[:1]])
        more.rows = torch.cat([more.rows, 0.5 * more.rows])
        passes.append(len(x))
        return net.head(torch.tanh(net.before(x) * more.rows.sum() + store.rows.sum(0)))  # type: ignore[no-any-return]  # a module returns any

    return call


def times(x: Tensor) -> Tensor:
    global row
    row = ONES if row is None else 0.5 * row
    passes.append(len(x))
    return x * row


def in_the_file(net: Keeps) -> Callable[[Tensor], Tensor]:
    return lambda x: net.head(torch.tanh(net.before(times(x))))


class InItsFile(Keeps):
    def kept(self, h: Tensor) -> Tensor:
        return times(h)


@pytest.mark.parametrize("make", [in_a_closure, in_defaults, in_the_file, lambda net: net])
@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_what_functions_and_files_hold(make: Callable[[Keeps], Callable[[Tensor], Tensor]]) -> None:
    net = made(InItsFile)
    x = input_for(net)
    expected = torch.zeros_like(x)
    for a, w in gauss(4):
        start()
        at = (a * x).requires_grad_()
        expected += w * torch.autograd.grad(make(net)(at)[:, 1].sum(), at)[0] * x
    start()
    call = make(net)
    for chunk_size in (None, 1, 3):
        torch.testing.assert_close(fa.integrated_gradients(call, x, target=1, n_steps=4, chunk_size=chunk_size), expected)
        assert row is None
        assert passes  # what a caller writes down stays
    torch.testing.assert_close(fa.feature_ablation(call, x, target=1, baselines=x), torch.zeros_like(x))


class Registers(Keeps):
    """A buffer that the first pass makes, of what it has."""

    def kept(self, h: Tensor) -> Tensor:
        if "row" not in self._buffers:
            self.register_buffer("row", h.detach().mean(0))
        return h * self.row


class Grows(Keeps):
    """A tensor that is resized in place."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.ones(2)

    def kept(self, h: Tensor) -> Tensor:
        self.seen.resize_(len(self.seen) + 1).fill_(1.0)
        return h * self.seen.sum()


class HooksItsLayers(Keeps):
    def kept(self, h: Tensor) -> Tensor:
        self.head.register_forward_hook(lambda module, args, output: 2 * output)
        return h


class Turns(Keeps):
    """A mode, and what is learned, as a pass leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Dropout(0.0)

    def kept(self, h: Tensor) -> Tensor:
        factor = 2 if self.norm.training else 1
        self.norm.train()
        self.head.weight.requires_grad_(False)
        return h * factor


@pytest.mark.parametrize("kind", [Registers, Grows, HooksItsLayers, Turns])
@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_what_modules_of_torch_hold(kind: type[Keeps]) -> None:
    model = made(kind)
    x = input_for(model)

    def slope(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(as_found(model, at).sum(), at)[0]

    expected = sum(w * slope(a * x) * x for a, w in gauss(4))
    for chunk_size in (None, 1, 3):
        torch.testing.assert_close(fa.integrated_gradients(model, x, target=1, n_steps=4, chunk_size=chunk_size), expected)
    fa.deep_lift(model, x, target=1)
    assert "row" not in model._buffers
    assert not model.head._forward_hooks
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert tuple(getattr(model, "seen", torch.ones(2)).shape) == (2,)


def test_what_a_cure_is_tried_on_is_left_as_found() -> None:
    """After an error the model runs on what x might be made into."""
    counter = made(Counter)
    x = input_for(counter)
    with pytest.raises(ValueError, match=r"pass x.double\(\)"):
        fa.gradient(counter, x.float(), target=1)
    assert counter.steps == 0
    normed = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D)).double()
    with pytest.warns(UserWarning, match="train mode"), pytest.raises(ValueError, match=r"pass x.double\(\)"):
        fa.gradient(normed, x.float(), target=1)
    assert normed[1].num_batches_tracked == 0


@pytest.mark.parametrize("bound", [False, True])
def test_what_a_transform_differentiates_may_be_around_a_function(bound: bool) -> None:
    net = made(Keeps).head

    def model(x: Tensor, s: Tensor) -> Tensor:
        return net(torch.tanh(s * x))  # type: ignore[no-any-return]  # a module returns any

    def size(s: Tensor) -> Tensor:
        call: Any = partial(model, s=s) if bound else lambda x: model(x, s)
        return fa.gradient(call, torch.ones(2, D, dtype=torch.float64), target=1, create_graph=True).square().sum()  # type: ignore[no-any-return, union-attr]  # of one tensor

    s = ONES.clone().requires_grad_()
    expected = torch.autograd.grad(size(s), s)[0]
    torch.testing.assert_close(torch.func.grad(size)(ONES), expected)
    torch.testing.assert_close(torch.func.jacrev(size)(ONES), expected)


class Busy:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


#: Put there by the test that looks at it: those who collect tests may not.
busy: Any = None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_what_cannot_be_looked_at_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "busy", Busy())
    net = made(Keeps).head
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    x = torch.ones(2, D, dtype=torch.float64)
    found = fa.gradient(lambda x: net(x) if busy is not None and nested.numel() else x, x, target=1)
    torch.testing.assert_close(found, net.weight[1].detach().expand(2, D))


def test_modes_see_indexing_and_tensors_are_left_as_found() -> None:
    """In the way that torch 2.0 needs, on any torch."""
    met: list[Any] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            met.append(func)
            return func(*args, **(kwargs or {}))

    def both(t: Tensor) -> list[Tensor]:
        t[0] = 3.0
        t[t > 1] = t[1:2]
        t[1:] = t[None, :3] * 1
        return [t[0], t[t > 0], t[..., None], *t]

    plain, before = Tensor.__getitem__, dict(vars(Tensor))
    start = torch.linspace(0, 1, 4)
    wanted = both(start.clone())
    shown = indexing_shown if showing._hidden() else traces.WhileInside(showing._show, showing._hide)
    with shown, shown:
        assert Tensor.__getitem__ is plain
        assert all(map(torch.equal, both(start.clone()), wanted))
        with Seen():
            assert all(map(torch.equal, both(start.clone()), wanted))
    assert [met.count(func) for func in (plain, Tensor.__setitem__)] == [5, 3]
    assert dict(vars(Tensor)) == before


class Sums(nn.Module):
    """Adds up what it has seen in a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.mean(0))
        return self.head(torch.tanh(self.first(x) + self.seen))  # type: ignore[no-any-return]  # a module returns any


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))], ids=["grad", "jvp"])
@pytest.mark.parametrize(
    "method",
    [fa.gradient, fa.deep_lift, fa.integrated_gradients, fa.feature_ablation, fa.shapley, fa.conductance],
    ids=lambda method: method.__name__,
)
def test_written_inside_a_transform_of_the_callers(method: Any, transform: Any, training: bool, create_graph: bool) -> None:
    """Torch's error said "mutate a captured Tensor", of what passes without a gradient of their own had written."""
    model = Sums().train(training)
    said = r"call model.eval\(\) first" if training else "call the method outside of torch.func"
    with pytest.raises(ValueError, match=f"the model writes to its own .*{said}"):
        transform(lambda x: method(model, x, target=1, create_graph=create_graph).sum())(torch.randn(2, 3))
    assert not model.seen.any()


class Advances(nn.Module):
    """A buffer that each pass moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.register_buffer("memory", torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.memory.add_(1.0)
        found: Tensor = torch.tanh(self.head(x * self.memory[0].sin()))
        return found


@pytest.mark.parametrize("part", [slice(None), slice(0, 2)])
def test_what_is_explained_may_be_what_the_model_writes_to(part: slice) -> None:
    net = Advances().double().eval()
    whole = net.memory.clone()
    asked: list[Callable[[Tensor], Any]] = [
        lambda t: fa.input_x_gradient(net, t, target=1),
        lambda t: fa.integrated_gradients(net, t, target=1, n_steps=4),
        lambda t: fa.integrated_gradients(net, whole[: len(t)] + 1, baselines=t, target=1, n_steps=4),
    ]
    for ask in asked:
        torch.testing.assert_close(ask(net.memory[part]), ask(whole[part].clone()), rtol=0, atol=0)
        torch.testing.assert_close(net.memory, whole, rtol=0, atol=0)
