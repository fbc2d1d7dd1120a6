"""Stress with figures: threads, faults at every point, leaks. Short in test_stress.py, long in scripts/stress.py."""

from __future__ import annotations

import collections
import contextlib
import copy
import ctypes
import functools
import gc
import itertools
import os
import pickle
import random
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import funattr as fa
from funattr._core import tap
from funattr._core.here import here
from funattr._torch import put_back, surroundings

from .methods import METHODS, Row
from .models import Residual
from .pairs import state
from .reference import leaves

TARGET = torch.tensor([1, 4])
#: The methods of the table, and those that need arguments of their own.
ROWS: list[Row] = [
    *(row for row in METHODS if not row.draws),  # from the global generator, which threads share
    Row(
        "each_target(grad_cam)",
        lambda *args, target=None, **options: fa.each_target(fa.grad_cam, [0, 3])(*args, **options),
        None,
        at_input=False,
    ),
    Row(
        "mean_over_baselines(integrated_gradients)",
        fa.mean_over_baselines(fa.integrated_gradients),
        None,
        options={"baselines": torch.ones(2, 3, 8, 8, dtype=torch.float64), "n_steps": 2},
    ),
    Row(
        "gradient_shap",
        lambda *args, **options: fa.gradient_shap(*args, generator=torch.Generator().manual_seed(3), **options),
        None,
        options={"baselines": torch.zeros(2, 3, 8, 8, dtype=torch.float64), "n_samples": 3, "stdevs": 0.1},
    ),
    Row(
        "noise_tunnel(saliency)",
        lambda *args, **options: fa.noise_tunnel(fa.saliency, n_samples=2, generator=torch.Generator().manual_seed(3))(
            *args, **options
        ),
        None,
    ),
]


class Job(NamedTuple):
    """A call of a method, and its name."""

    name: str
    run: Callable[[nn.Module, Tensor], Any]


def subject() -> tuple[nn.Module, Tensor]:
    """A model with everything that is hard to share: in-place operations, a reused module, running statistics."""
    torch.manual_seed(0)
    return Residual().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def jobs() -> list[Job]:
    """Every method at a layer, and at the input where it may."""
    found = []
    for row in ROWS:
        for layer in ("layer1", fa.input_of("layer2"), *([None] if row.at_input else [])):
            options = row.options | ({"target": TARGET} if row.targeted else {}) | {"layer": layer}
            if row.name == "feature_ablation":  # of channels: every number on its own takes a while
                options["feature_mask"] = torch.arange(3 if layer is None else 6).reshape(1, -1, 1, 1)
            found.append(Job(f"{row.name} at {layer}", functools.partial(call, row, options)))
    return found


def call(row: Row, options: dict[str, Any], model: nn.Module, x: Tensor) -> Any:
    return row.method(model, x, **options)


def same(found: Any, expected: Any) -> bool:
    a, b = leaves(found), leaves(expected)
    return len(a) == len(b) > 0 and all(torch.allclose(p, q, rtol=1e-11, atol=1e-13) for p, q in zip(a, b))


def clean(model: nn.Module) -> bool:
    """Nothing of ours is left: no hook, no tapped layer, no run or call of this thread that still counts as going on."""
    hooks = any(m._forward_hooks or m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules())
    running = tap._frames.stack or here.inside or here.state or here.chance
    return not (hooks or tap._tapped or running)


#: No function mode, which are on, no transform, gradients on, hooks on saved tensors taken.
AT_REST = (0, True, 0, True, None)


def alone() -> bool:
    """Whether nothing is on in this thread."""
    return surroundings() == AT_REST


# Threads.


def threaded(calls: int, threads: int = 8) -> dict[str, int]:
    """All methods on one shared model at once, with plain inference, deepcopy and pickle beside them."""
    model, x = subject()
    work: list[Job] = jobs()
    work += [Job("the model", lambda m, v: m(v))] * 6
    work += [
        Job("deepcopy", lambda m, v: copy.deepcopy(m)(v)),
        Job("pickle", lambda m, v: pickle.loads(pickle.dumps(m))(v)),
    ] * 3
    serial = [job.run(model, x) for job in work]
    before = state(model)
    wrong: list[str] = []
    done = [0] * threads

    def loop(number: int) -> None:
        chance = random.Random(number)
        order = list(range(len(work))) * (1 + calls // threads // len(work))
        chance.shuffle(order)
        for i in order[: -(-calls // threads)]:
            try:
                if not same(work[i].run(model, x), serial[i]):
                    wrong.append(f"{work[i].name}: other numbers")
            except Exception as error:  # every error counts, and is shown
                wrong.append(f"{work[i].name}: {error!r}")
            done[number] += 1

    run_in_threads([functools.partial(loop, i) for i in range(threads)])
    for line, count in collections.Counter(wrong).most_common(20):
        print(f"  {count} x {line}")
    return {"calls": sum(done), "wrong": len(wrong), "changed": int(state(model) != before), "left": int(not clean(model))}


def run_in_threads(loops: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=loop) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Faults.


class Fault(Exception):
    """Thrown into a call."""


class FromOutside(BaseException):
    """As Ctrl-C, or a timeout in another thread."""


#: Operations until the fault. Outside the model: what a model itself keeps of a pass is put back.
countdown = [-1]


class Failing(nn.Module):
    """A model whose k-th operation raises; or is interrupted, and then what cleans up raises: torch's context managers do."""

    def __init__(self, inner: nn.Module, interrupted: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.interrupted = interrupted

    def forward(self, x: Tensor) -> Any:
        model = self

        class Counts(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                countdown[0] -= 1
                if countdown[0] == -1:
                    try:
                        raise FromOutside if model.interrupted else Fault("in the model")
                    finally:
                        if model.interrupted:
                            raise RuntimeError("generator didn't stop after throw()")
                return func(*args, **(kwargs or {}))

        with Counts():
            return self.inner(x)


class AnyOperation(TorchDispatchMode):
    """The k-th operation that reaches a kernel raises: the model's, the method's or the backward pass's."""

    def __init__(self, countdown: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # not typed there
        self.countdown = countdown

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.countdown -= 1
        if self.countdown == -1:
            raise Fault("in an operation")
        return func(*args, **(kwargs or {}))


def faults(kind: str, stride: int = 1, some: int = 1, offset: int = 0) -> dict[str, int]:
    """Every `some`-th method, with a fault at every `stride`-th point of its call.

    `kind` is "model" (an operation of the model raises), "interrupted" (it raises what cleans up after an interruption),
    "operation" (any operation raises) or "outside" (an asynchronous exception at any line of the library).
    """
    figures = {"calls": 0, "faults": 0, "changed": 0, "left": 0, "swallowed": 0, "wrong afterwards": 0}
    # An exception from outside may end in a destructor, or in what sends it. And torch takes a function mode off its stack
    # while the mode handles a call, and puts it back when a generator ends: after the call, where such an exception cut that
    # short.
    figures |= {"tried again": 0, "never came": 0, "mode left in the thread": 0}
    inner, x = subject()
    model = Failing(inner, kind == "interrupted") if kind in IN_MODEL else inner
    kept, before = x.clone(), state(model)
    for job in jobs()[offset::some]:
        job = through(job) if kind in IN_MODEL else job
        expected = job.run(model, x)
        figures["calls"] += 1
        point = 0
        while True:
            error: BaseException | None = None
            found: Any = None
            try:
                for _ in injected(kind, model, point):
                    found = job.run(model, x)
            except BaseException as raised:
                error = raised
            reached = fired(kind, model, error)
            if not reached:
                break
            figures["faults"] += 1
            if error is None and lost:  # in a destructor, where Python can only print it, or in the trace function
                figures["never came"] += 1
            elif error is None and found is not None and kind in ("model", "operation") and same(found, expected):
                figures["tried again"] += 1  # feature_ablation, where groups share a batch: the model may want just its own
            elif not came(error):
                figures["swallowed"] += 1
                print(f"  {error!r} out of {job.name} at point {point}")
            error = None  # its traceback holds everything
            point += stride
            if not clean(model):
                figures["left"] += 1
                print(f"  left by {job.name} at point {point - stride}")
                tap._frames.stack.clear()
                here.inside = False
            if not alone():
                figures["mode left in the thread"] += 1
                put_back(AT_REST, None)
            if state(model) != before or not torch.equal(x, kept) or x.requires_grad:
                figures["changed"] += 1
                print(f"  changed by {job.name} at point {point - stride}")
                before = state(model)
        figures["wrong afterwards"] += not same(job.run(model, x), expected)
    return figures


def through(job: Job) -> Job:
    """The job on the model inside `Failing`, whose layers have a longer name."""

    def run(model: nn.Module, x: Tensor) -> Any:
        options = dict(job.run.args[1])  # type: ignore[attr-defined]  # a partial, in the table of jobs
        layer = options["layer"]
        options["layer"] = (
            fa.input_of("inner.layer2") if isinstance(layer, type(fa.input_of("a"))) else layer and f"inner.{layer}"
        )
        return call(job.run.args[0], options, model, x)  # type: ignore[attr-defined]  # a partial, in the table of jobs

    return Job(job.name, run)


def came(error: BaseException | None) -> bool:
    """Whether the fault got through, and not what torch's cleaning up after it ran into."""
    return isinstance(error, (Fault, FromOutside))


IN_MODEL = ("model", "interrupted")
_fired = [False]
lost: list[Any] = []


def injected(kind: str, model: nn.Module, point: int) -> Iterator[None]:
    """A block of one turn, with the fault armed."""
    if kind in IN_MODEL:
        countdown[0] = point
        yield
    elif kind == "operation":
        mode = AnyOperation(point)
        _fired[0] = False
        try:
            with mode:
                yield
        finally:
            _fired[0] = mode.countdown < 0
    else:
        yield from _at_line(point)


def fired(kind: str, model: nn.Module, error: BaseException | None) -> bool:
    if kind not in IN_MODEL:
        return _fired[0]
    reached = countdown[0] < 0
    countdown[0] = -1
    return reached


_HERE = os.path.dirname(fa.__file__) + os.sep


def _at_line(point: int) -> Iterator[None]:
    """An asynchronous exception for this thread, sent by another once the point-th line of the library has been reached.

    It arrives where Python looks for one, some microseconds on. (Thrown by the trace function itself it would arrive between
    the body of a `with` and its end, where no exception from outside ever does.)
    """
    left = [point]
    _fired[0] = False
    lost.clear()
    thread = ctypes.c_ulong(threading.get_ident())
    armed, sent = threading.Lock(), threading.Event()
    armed.acquire()

    def shoot() -> None:
        with armed:
            if _fired[0]:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(FromOutside))
            sent.set()

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and not _fired[0]:
            left[0] -= 1
            if left[0] < 0:
                _fired[0] = True
                sys.settrace(None)
                try:
                    armed.release()
                except FromOutside as early:  # on a busy machine it may come at once, and must not go on from here
                    lost.append(type(early))
                return None
        return line

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_HERE) else None

    shooter = threading.Thread(target=shoot)
    interval = sys.getswitchinterval()
    shooter.start()
    try:
        sys.setswitchinterval(5e-5)
        sys.unraisablehook = lambda unraisable: lost.append(unraisable.exc_type)
        sys.settrace(enter)
        yield
        while _fired[0] and not sent.is_set():
            continue
    finally:
        sys.settrace(None)
        sys.setswitchinterval(interval)
        sys.unraisablehook = sys.__unraisablehook__
        if not _fired[0]:
            armed.release()
        while shooter.is_alive():
            continue


# Leaks.


class Held(NamedTuple):
    tensors: int
    bytes: int
    objects: int
    hooks: int


def held(model: nn.Module) -> Held:
    """What is alive: tensors, the bytes of their storages, Python's containers, hooks."""
    gc.collect()
    everything = gc.get_objects()
    alive = [o for o in everything if type(o) in (Tensor, nn.Parameter)]
    storages: dict[int, int] = {}
    for t in alive:
        with contextlib.suppress(NotImplementedError):  # of a tensor that torch has left undefined
            storage = t.untyped_storage()
            storages[storage._cdata] = storage.nbytes()  # of another test's functional tensor, no address can be read
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) + len(tap._tapped)
    found = Held(len(alive), sum(storages.values()), len(everything), hooks)
    del everything, alive
    return found


def growth(calls: int) -> dict[str, int]:
    """What grows over so many calls of all methods in turn, with a refused one after every tenth, when all is warm.

    Of Python's objects, over a third of the calls.
    """
    model, x = subject()
    work = jobs()

    def some(count: int) -> None:
        for i in range(count):
            job = work[i % len(work)]
            job.run(model, x)
            if i % 10 == 0:
                try:
                    fa.saliency(model, x, layer="layer1", target=99)
                except ValueError:
                    continue
                raise AssertionError("a target out of range was taken")

    some(2 * len(work))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds = [held(model)]
    for _ in range(3):
        some(-(-calls // 3))
        rounds.append(held(model))
    grown = {f"{name} grown": b - a for name, a, b in zip(Held._fields, rounds[0], rounds[-1])}
    # Others make objects too (a test runner keeps its reports): what every call leaves, every round leaves.
    grown["objects grown"] = min(b.objects - a.objects for a, b in itertools.pairwise(rounds))
    rss = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    return {"calls": calls, **grown, "peak RSS grown (bytes)": rss}


# Randomness.


def repeated(seeds: int) -> dict[str, int]:
    """Methods that draw: the same seed twice, in other chunks, and in two threads at once."""
    model, x = subject()
    baselines = torch.randn(3, 3, 8, 8, dtype=torch.float64)

    def shap(generator: torch.Generator | None, chunk: int | None) -> Any:
        options: dict[str, Any] = {"baselines": baselines, "n_samples": 3, "stdevs": 0.2, "target": TARGET}
        return fa.gradient_shap(model, x, layer="layer1", generator=generator, chunk_size=chunk, **options)

    def smooth(generator: torch.Generator | None, chunk: int | None) -> Any:
        return fa.noise_tunnel(fa.gradient, n_samples=3, generator=generator, chunk_size=chunk)(model, x, target=TARGET)

    figures = {"draws": 0, "differ": 0, "alike": 0}
    for method in (shap, smooth):
        last = None
        for seed in range(seeds):
            torch.manual_seed(seed)
            found = [method(None, None)]
            torch.manual_seed(seed)
            found.append(method(None, 2))
            found += [method(torch.Generator().manual_seed(seed), chunk) for chunk in (None, 1)]
            threads: list[Any] = []

            def put(method: Any = method, seed: int = seed, threads: list[Any] = threads) -> None:
                threads.append(method(torch.Generator().manual_seed(seed), None))

            run_in_threads([put, put])
            found += threads
            figures["draws"] += len(found)
            figures["differ"] += sum(not same(one, found[0]) for one in found)
            figures["alike"] += last is not None and same(found[0], last)  # another seed must give something else
            last = found[0]
    return figures
