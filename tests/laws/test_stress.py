"""The stress suite, short: every figure that scripts/stress.py prints for hours must be right after seconds, too."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import operator
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

import funattr as fa
from funattr._core.kept import Chance
from funattr._core.state import State

from .. import stress
from ..breadth import breadth, full
from ..pairs import state


@pytest.mark.parametrize("calls", breadth([500, 4000], lambda calls: calls == 500))
def test_threads_on_one_model(calls: int) -> None:
    figures = stress.threaded(calls)
    assert figures["calls"] >= calls
    assert figures == {"calls": figures["calls"], "wrong": 0, "changed": 0, "left": 0}


@pytest.mark.parametrize(
    ("kind", "stride", "some"),
    breadth(
        [
            *[("model", 7, 3), ("interrupted", 9, 1), ("operation", 11, 5), ("outside", 97, 5)],
            *[("model", 1, 3), ("interrupted", 1, 3), ("operation", 2, 3), ("outside", 23, 3)],
        ],
        lambda case: case in (("model", 7, 3), ("operation", 11, 5)),
        several=True,
    ),
)
def test_faults_leave_the_model_as_found(kind: str, stride: int, some: int) -> None:
    figures = stress.faults(kind, stride, some)
    assert figures["faults"] > 100
    given = ["calls", "faults", "tried again"] + (["never came", "mode left in the thread"] if kind == "outside" else [])
    assert {name: n for name, n in figures.items() if n and name not in given} == {}


class Aside(TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


#: What torch keeps for a thread, entered and never left, as where Ctrl-C comes while a context manager of Python is entered.
ENTERED: dict[str, Callable[[], Any]] = {
    "modes off": lambda: torch._C.DisableTorchFunction().__enter__(),
    "a mode": lambda: Aside().__enter__(),  # type: ignore[no-untyped-call]  # not typed there
    "no gradients": lambda: torch.set_grad_enabled(False),
    "no hooks": lambda: torch._C._autograd._saved_tensors_hooks_disable("for a test"),
    "a transform": lambda: torch._C._functorch._grad_increment_nesting(),
}


class Soon:
    """An exception from outside where `soon` has been read: in this thread, as soon as Python looks for one."""

    def __init__(self) -> None:
        self.shoot = ctypes.pythonapi.PyThreadState_SetAsyncExc

    # read by C alone: a function of Python would be where it arrives
    soon = property(operator.methodcaller("shoot", ctypes.c_ulong(threading.get_ident()), ctypes.py_object(KeyboardInterrupt)))


@contextlib.contextmanager
def level(interrupted: bool) -> Iterator[None]:
    """A level of a transform, as torch.func enters and leaves one, interrupted when all is entered."""
    torch._C._functorch._grad_increment_nesting()
    try:
        if interrupted:
            Soon().soon  # noqa: B018  # reading it is what it is for
        yield
    finally:
        torch._C._functorch._grad_decrement_nesting()


def in_enter() -> None:
    with level(interrupted=True):
        raise AssertionError("it arrives before")


def in_exit() -> None:
    made = level(interrupted=False)
    made.__enter__()
    if Soon().soon and made.__exit__(None, None, None):
        raise AssertionError("it arrives before")


@pytest.mark.parametrize("where", [in_enter, in_exit])
@pytest.mark.parametrize("method", [fa.saliency, fa.integrated_gradients])
def test_what_interrupts_the_middle_of_a_context_gets_out(where: Callable[[], None], method: Any) -> None:
    """Those around are left by generators that take off another's level each; the one cut short is left last, or never."""
    model, x = stress.subject()

    def cut_short(value: Tensor) -> Tensor:
        where()
        return model(value)  # type: ignore[no-any-return]  # a module's call returns anything

    late: list[Any] = []
    sys.unraisablehook = late.append
    try:
        with pytest.raises(KeyboardInterrupt):
            fa.each_target(method, [0, 1])(cut_short, x)
        gc.collect()
    finally:
        sys.unraisablehook = sys.__unraisablehook__
    assert late == []
    assert stress.alone()


@pytest.mark.parametrize("what", ENTERED)
def test_what_an_interrupted_call_has_entered_is_left(what: str) -> None:
    def cut_short(x: Tensor) -> Tensor:
        ENTERED[what]()
        raise KeyboardInterrupt

    model, x = stress.subject()
    expected = fa.guided_backprop(model, x, target=stress.TARGET)
    with pytest.raises(KeyboardInterrupt):
        fa.saliency(cut_short, x, target=0)
    assert stress.alone()
    assert stress.clean(model)
    assert stress.same(fa.guided_backprop(model, x, target=stress.TARGET), expected)


@pytest.mark.parametrize("which", range(8))
def test_a_mode_that_an_interruption_has_kept_does_not_come_back_later(which: int) -> None:
    """Torch takes a mode off while it handles a call; what puts it back may be interrupted, and run when its frame is freed."""
    around: Any = _pop_mode_temporarily()
    ended, inside = type(around).__exit__.__code__, around.gen.gi_code
    left = [which]

    def interrupt(frame: FrameType, event: str, arg: Any) -> None:
        if event == "line" and frame.f_code is ended and frame.f_locals["self"].gen.gi_code is inside:
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise KeyboardInterrupt

    model, x = stress.subject()
    expected = fa.saliency(model, x, target=stress.TARGET)
    tracing = sys.gettrace()
    sys.settrace(lambda frame, event, arg: interrupt if frame.f_code is ended else None)
    try:
        with pytest.raises(KeyboardInterrupt):  # and not torch's error of cleaning up after it
            fa.guided_backprop(model, x, target=stress.TARGET)
    finally:
        sys.settrace(tracing)
    gc.collect()  # frees the frames of the error
    assert stress.alone()
    assert stress.same(fa.saliency(model, x, target=stress.TARGET), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ValueError("of the caller")])
def test_a_call_in_a_handler(error: BaseException) -> None:
    """Python calls what the caller handles the context of every error inside: vmap's, after which steps run in turn."""
    torch.manual_seed(0)
    cell = nn.LSTM(3, 4, batch_first=True).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return cell(x)[0][:, -1]

    expected = fa.integrated_gradients(model, x, target=0)
    try:
        raise error
    except BaseException:
        assert stress.same(fa.integrated_gradients(model, x, target=0), expected)
        with pytest.raises(ValueError, match="target 9 is out of range"):
            fa.integrated_gradients(model, x, target=9)


class Streaming(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return x * self.seen + torch.rand(3)


@pytest.mark.parametrize("kind", [Chance, State])
def test_what_an_interrupted_call_notes_in_its_thread_is_forgotten(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = kind.__enter__

    def cut_short(self: Any) -> None:
        entered(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "__enter__", cut_short)
    model = Streaming()
    with pytest.raises(KeyboardInterrupt):
        fa.saliency(model, torch.ones(2, 3), target=0)
    assert stress.clean(model)


def test_a_fault_in_train_mode_keeps_the_running_statistics() -> None:
    model, x = stress.subject()
    model.train()
    before = state(model)
    for point in range(0, 60, 3):
        with pytest.warns(UserWarning, match="train mode"), stress.AnyOperation(point), pytest.raises(stress.Fault):
            fa.saliency(model, x, target=stress.TARGET)
        for module, entry in zip(model.modules(), before):
            assert [b.sum().item() for b in module.buffers(recurse=False)] == [total for _, total in entry[6]]


@full
def test_nothing_grows() -> None:
    figures = stress.growth(150)
    assert figures["bytes grown"] == 0
    assert figures["tensors grown"] == 0
    assert figures["hooks grown"] == 0
    assert figures["objects grown"] <= 5  # in 50 calls
    assert figures["peak RSS grown (bytes)"] < 1 << 26


def test_copies_after_use() -> None:
    model, x = stress.subject()
    before = state(model)
    for job in stress.jobs():
        job.run(model, x)
    assert state(model) == before
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert stress.clean(made)
        assert stress.same(made(x), model(x))
        for job in stress.jobs()[::9]:
            assert stress.same(job.run(made, x), job.run(model, x)), job.name


def test_seeds() -> None:
    figures = stress.repeated(3)
    assert figures == {"draws": figures["draws"], "differ": 0, "alike": 0}
    assert figures["draws"] >= 30
