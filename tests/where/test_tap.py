"""The five things that must hold of the tap at once: threads, no trace, transforms, one graph, microseconds.

(Transforms and graphs are in test_compiled.py, test_vmapped.py and test_differentiated.py, time in benchmarks/.)
"""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import pickle
import random
import sys
import threading
import time
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import funattr as fa
from funattr._core import tap

from ..models import CASES, Residual, Thrice, double
from ..pairs import state

TARGET = torch.tensor([1, 4, 0, 2])


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_pre_hooks_with_kwargs) for m in model.modules()
    )


def test_threads_on_one_model() -> None:
    """Different layers and methods at once, plain inference beside them: the serial results, and nothing left behind."""
    model, x = double(CASES[2])
    jobs: list[functools.partial[Any]] = [
        functools.partial(fa.grad_cam, model, x, layer="layer1", target=TARGET),
        functools.partial(fa.grad_cam, model, x, layer="layer2", target=1),
        functools.partial(fa.input_x_gradient, model, x, layer=fa.input_of("layer2"), target=TARGET),
        functools.partial(fa.guided_grad_cam, model, x, layer="layer1", target=0),
        functools.partial(fa.gradient, model, x, layer=[fa.output_of("layer1.relu", call=-1), "layer1"], target=TARGET),
        functools.partial(fa.activation, model, x, layer="layer1.conv1"),
        functools.partial(fa.guided_backprop, model, x, target=2),
        functools.partial(model, x),
    ]
    serial = [job() for job in jobs]
    before = state(model)
    wrong: list[str] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            i = chance.randrange(len(jobs))
            try:
                found = jobs[i]()
                same = all(torch.equal(a, b) for a, b in zip(_flat(found), _flat(serial[i])))
                if not same:
                    wrong.append(f"{jobs[i]}")
            except Exception as error:  # every error counts, and is shown
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert state(model) == before
    assert tap._tapped == {}


def _flat(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


def test_compiling_in_one_thread_while_others_run_eagerly() -> None:
    model, x = double(CASES[0])
    expected = fa.grad_cam(model, x, layer="act2", target=1)
    done = threading.Event()
    wrong: list[Any] = []

    def eager() -> None:
        while not done.is_set():
            try:
                if not torch.equal(fa.grad_cam(model, x, layer="act2", target=1), expected):
                    wrong.append("value")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=eager) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            torch._dynamo.reset()
            compiled = torch.compile(fa.grad_cam, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(model, x, layer="act2", target=1), expected)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []


class Interrupt(BaseException):
    pass


def test_exceptions_from_outside_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An asynchronous exception (Ctrl-C, a timeout) at any moment of a call; one that comes in a destructor is reported, and
    goes no further."""
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: lost.append(report.exc_type))
    model, x = double(CASES[2])
    fa.input_x_gradient(model, x, layer=["layer1", fa.input_of("layer2")], target=1)  # what torch imports late is imported
    before = state(model)
    hit = 0
    stop = threading.Event()
    main = threading.get_ident()
    armed = threading.Event()

    def shoot() -> None:
        chance = random.Random(0)
        while not stop.is_set():
            armed.wait(0.05)
            time.sleep(chance.random() * 0.004)
            if armed.is_set():
                # In this order: the other thread waits, inside its try, until the shot is fired.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(Interrupt))
                armed.clear()

    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        for _ in range(200):
            try:
                try:
                    armed.set()
                    fa.input_x_gradient(model, x, layer=["layer1", fa.input_of("layer2")], target=1)
                    while armed.is_set():
                        time.sleep(0.0002)
                    time.sleep(0.001)
                except Interrupt:
                    hit += 1
            except Interrupt:  # while handling the first
                hit += 1
            armed.clear()
            assert hooks(model) == 0
            assert tap._tapped == {}
            assert tap._frames.stack == []
    finally:
        stop.set()
        shooter.join()
    assert hit + len(lost) > 100
    assert set(lost) <= {Interrupt}
    assert state(model) == before


class Fails(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fc(x)
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyError("k"), KeyboardInterrupt(), RuntimeError("vmap: no"), SystemExit(3)]
)
def test_the_models_own_exceptions_come_through_unchanged(error: BaseException) -> None:
    model = Fails(error)
    for layer in ("fc", None):
        with pytest.raises(type(error)) as caught:
            fa.gradient(model, torch.randn(2, 6), layer=layer)
        assert caught.value is error
    assert hooks(model) == 0


class Stubborn(nn.Module):
    """Catches everything a model may catch, around the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            return self.fc(x).sum(1)
        except Exception:
            return torch.zeros(len(x))


def test_early_stops_and_complaints_pass_a_model_that_catches_exceptions() -> None:
    x = torch.randn(2, 6)
    model = Stubborn()
    assert fa.activation(model, x, layer=fa.output_of("fc", call=0)).equal(model.fc(x).detach())
    with pytest.raises(ValueError, match="structure"):
        fa.split(model, "fc").rest((x, x), x)


class Stops(nn.Module):
    """Says whether what comes after the layer was run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        after.append(1)  # outside: what a model itself keeps is put back
        return x.sum(1)


after: list[int] = []


def test_a_value_is_read_without_running_the_rest() -> None:
    model, x = Stops(), torch.randn(2, 6)
    after.clear()
    fa.activation(model, x, layer=fa.output_of("fc", call=0))
    fa.gradient(model, x, target=fa.neuron(fa.output_of("fc", call=0), 1))
    assert after == []
    fa.activation(model, x, layer="fc")  # it must be seen how often the layer runs
    assert after == [1]


class Attributes(nn.Module):
    """Explains another model inside its own forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fa.input_x_gradient(self.inner, x, layer=fa.output_of("inner", call=0), target=1, create_graph=True).sum(1)


def test_a_run_inside_a_run() -> None:
    inner = Thrice().double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    outer = Attributes(inner)
    found = fa.gradient(outer, x, layer=fa.output_of("inner.inner", call=0))

    value = inner.inner(x).detach().requires_grad_()
    h = torch.tanh(value)
    for _ in range(2):
        h = torch.tanh(inner.inner(h))
    slope = torch.autograd.grad(inner.head(h)[:, 1].sum(), value, create_graph=True)[0]
    expected = torch.autograd.grad((slope * value).sum(), value)[0]
    torch.testing.assert_close(found, expected)


def test_copies_made_in_mid_run_are_clean_or_clean_themselves() -> None:
    model = Residual().eval()
    x = torch.randn(2, 3, 8, 8)
    copies: list[nn.Module] = []

    def target(output: torch.Tensor) -> torch.Tensor:
        copies.append(copy.deepcopy(model))
        copies.append(pickle.loads(pickle.dumps(model)))
        return output[:, 0]

    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return target(self.model(x))

    expected = model(x)
    fa.gradient(Copies(), x, layer=[model.layer1, fa.input_of(model.layer2)])
    for made in copies:
        torch.testing.assert_close(made(x), expected)
        assert hooks(made) == 0


def test_hooks_of_the_user_are_seen_and_kept() -> None:
    model = Residual().eval()
    x = torch.randn(2, 3, 8, 8)
    calls: list[str] = []

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append("after")
        return output * 2

    first = model.layer1.register_forward_hook(after)
    second = model.layer1.register_forward_pre_hook(lambda m, a: calls.append("before"))
    value = fa.activation(model, x, layer="layer1")
    first.remove()
    torch.testing.assert_close(value, 2 * fa.activation(model, x, layer="layer1"))
    second.remove()
    assert calls[:2] == ["before", "after"]
    assert hooks(model) == 0


def test_nothing_pins_the_model_or_the_input() -> None:
    model, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    found = [fa.grad_cam(model, x, layer="layer1", target=1), *fa.value_and_gradient(model, x, target=1)]
    gone = [weakref.ref(model), weakref.ref(x)]
    del model, x
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert len(found) == 3


def test_inputs_and_results_share_no_memory_with_anyone() -> None:
    class Stores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 6))
            self.position = Position(self.table)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.add_(1.0)
            return (x + self.position(x)).square().sum(1)

    class Position(nn.Module):
        def __init__(self, table: nn.Parameter) -> None:
            super().__init__()
            self.table = table

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table[: len(x)]

    model, x = Stores(), torch.randn(4, 6)
    given, kept = x.clone(), model.table.detach().clone()
    found = [
        fa.activation(model, x, layer="position"),
        *fa.value_and_gradient(model, x, layer="position"),
        *fa.value_and_gradient(model, x),
        fa.gradient(model, x),
        fa.split(model, "position").value_at(x).detach(),
    ]
    for tensor in found:
        tensor.add_(100.0)
    assert torch.equal(x, given)
    assert torch.equal(model.table, kept)


def test_a_value_changed_later_through_another_name() -> None:
    """Dropout in eval mode returns its very input; the value is what it was when the layer returned it."""

    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x * 2
            out = self.drop(h).square()
            h.mul_(10)
            return (out + h).sum(1)

    x = torch.randn(4, 6)
    value, gradient = fa.value_and_gradient(Aliased().eval(), x, layer="drop")
    torch.testing.assert_close(value, 2 * x)
    torch.testing.assert_close(gradient, 4 * x)
    torch.testing.assert_close(fa.activation(Aliased().eval(), x, layer="drop"), 2 * x)
