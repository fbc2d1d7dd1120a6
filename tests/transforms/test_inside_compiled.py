"""Layers and rules inside what is compiled, wherever that stands in the model: it runs there as it was written."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import funattr as fa

pytestmark = [
    pytest.mark.skipif(
        not hasattr(getattr(torch, "compiler", None), "set_stance"), reason="torch 2.6 or later runs it as it was written"
    ),
    pytest.mark.filterwarnings("ignore"),
]


class Net(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Sharded(nn.Module):
    """As FSDP holds a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module

    def forward(self, x: Tensor) -> Any:
        return self._fsdp_wrapped_module(x)


def plain() -> Net:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.ReLU())
    return Net(inner).eval()


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Net:
    net = plain()
    net.inner = wrap(net.inner)
    return net


def in_place(which: Callable[[Net], Any]) -> Net:
    net = plain()
    which(net).compile(backend="eager")
    return net


def forward_compiled(which: Callable[[Net], Any]) -> Net:
    net = plain()
    which(net).forward = torch.compile(which(net).forward, backend="eager")
    return net


MODELS: dict[str, Callable[[], Any]] = {
    "child": lambda: wrapped(compiled),
    "parallel": lambda: wrapped(nn.DataParallel),
    "parallel and compiled": lambda: wrapped(lambda m: nn.DataParallel(compiled(m))),
    "sharded": lambda: wrapped(Sharded),
    "sharded and compiled": lambda: compiled(wrapped(lambda m: Sharded(compiled(m)))),
    "checkpointed": lambda: wrapped(checkpoint_wrapper),
    "compiled twice": lambda: compiled(wrapped(compiled)),
    "whole in place": lambda: in_place(lambda net: net),
    "child in place": lambda: in_place(lambda net: net.inner),
    "layer in place": lambda: in_place(lambda net: net.inner[1]),
    "forward": lambda: forward_compiled(lambda net: net),
    "forward of the child": lambda: forward_compiled(lambda net: net.inner),
    "method": lambda: torch.compile(plain().forward, backend="eager"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_layer_by_all_its_names(kind: str) -> None:
    model, x, expected = MODELS[kind](), image(), fa.grad_cam(plain(), image(), layer="inner.1", target=1)
    names = {"inner.1"}
    if isinstance(model, nn.Module):
        names |= {name for name, module in model.named_modules() if isinstance(module, nn.ReLU) and name.endswith("1")}
    for name in names:
        torch.testing.assert_close(fa.grad_cam(model, x, layer=name, target=1), expected)
    neuron = fa.gradient(model, x, target=fa.neuron("inner.4", 2))
    torch.testing.assert_close(neuron, fa.gradient(plain(), x, target=fa.neuron("inner.4", 2)))
    with pytest.raises(ValueError, match=r"has no layer 'inner\.one'"):
        fa.grad_cam(model, x, layer="inner.one", target=1)


def test_a_container_that_holds_nothing_is_a_layer_too() -> None:
    """An empty nn.Sequential, which is False as a list is: behind a wrapper that its name leaves out it was not found."""
    net = Net(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sequential(), nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    expected = fa.gradient(net, image(), layer="inner.1", target=1)
    net.inner = Sharded(net.inner)
    torch.testing.assert_close(fa.gradient(net, image(), layer="inner.1", target=1), expected)


METHODS: dict[str, Callable[..., Any]] = {
    "guided_backprop": fa.guided_backprop,
    "deep_lift": fa.deep_lift,
    "lrp": fa.lrp,
    "integrated_gradients": lambda m, x, target: fa.integrated_gradients(m, x, layer="inner.1", target=target, n_steps=5),
    "feature_ablation": lambda m, x, target: fa.feature_ablation(m, x, layer="inner.4", target=target),
}


@pytest.mark.parametrize("kind", ["child", "whole in place", "forward of the child", "compiled twice"])
@pytest.mark.parametrize("name", METHODS)
def test_rules_and_steps_see_what_is_inside(kind: str, name: str) -> None:
    expected = METHODS[name](plain(), image(), target=1)
    model = MODELS[kind]()
    torch.testing.assert_close(METHODS[name](model, image(), target=1), expected)
    torch.testing.assert_close(model(image()), plain()(image()))


def test_all_else_is_compiled_as_before() -> None:
    """In other threads too, once no call is inside; whatever ended them, and in whatever order."""
    stance = torch._dynamo.eval_frame._stance
    ran: list[Any] = []

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ran.append(torch._dynamo.eval_frame._stance.stance)
            first.set() if threading.current_thread() is other else first.wait()
            last.wait() if threading.current_thread() is other else None
            if threading.current_thread() is not other:
                raise KeyError("of the model")
            return x

    first, last = threading.Event(), threading.Event()
    model = wrapped(compiled)
    model.inner = nn.Sequential(model.inner, Fails())
    other = threading.Thread(target=lambda: fa.grad_cam(copy.copy(model), image(), layer="inner.0.1", target=1))
    other.start()
    with pytest.raises(KeyError):
        fa.grad_cam(model, image(), layer="inner.0.1", target=1)
    last.set()
    other.join()
    assert ran == ["force_eager", "force_eager"]
    assert torch._dynamo.eval_frame._stance is stance
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    net = plain()
    net.inner = torch.compile(net.inner, backend=backend)  # type: ignore[assignment]  # a module, whose type torch hides
    fa.grad_cam(net, image(), layer="inner.1", target=1)
    assert not calls
    fa.gradient(net, image(), target=1)
    fa.gradient(net, image(), layer="head", target=1)
    assert calls


@pytest.mark.parametrize("kind", ["whole in place", "child in place", "layer in place", "child"])
def test_what_is_wrong_at_a_layer_is_said_in_words(kind: str) -> None:
    """What torch.compile made of a module leaves a vmap that is entered inside of it: its complaint stood for ours, and the
    exception by which a pass is ended got out of the call."""
    with pytest.raises(ValueError, match=r"^feature_ablation\(.*feature_mask has the shape \[7\], which does not broadcast"):
        fa.feature_ablation(MODELS[kind](), image(), layer="inner.1", feature_mask=torch.arange(7), target=1)
    mask = torch.arange(4)[:, None, None]
    found = fa.feature_ablation(MODELS[kind](), image(), layer="inner.1", feature_mask=mask, target=1)
    torch.testing.assert_close(found, fa.feature_ablation(plain(), image(), layer="inner.1", feature_mask=mask, target=1))
