"""THE loop: time, FLOPs, live bytes and compile time of every column of a case."""

from __future__ import annotations

import contextlib
import gc
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

import funattr as fa

from .cases import Case
from .cost import Cost, cost
from .settings import Setting

Call = Callable[[], Any]


class Options(NamedTuple):
    quick: bool = False
    compile: bool = False
    device: str = "cpu"
    seconds: float = 4.0  # for the rounds of a case


def measure(case: Case, without: dict[str, str], options: Options) -> dict[str, Any]:
    """All columns of a case, in one run: an entry of the JSON file.

    Raises:
        Exception: ours fails. What a competitor raises is its entry.
    """
    own = case.own()
    steps = steps_at_once(own)
    at_once = None if steps is None else steps * len(case.setting.x)
    calls = case.eager(at_once, without)
    columns: dict[str, dict[str, Any]] = {}
    for name in list(calls):
        try:
            with settled():
                calls[name]()
                columns[name] = counted(calls[name], options)
        except Exception as error:
            if name in ("funattr", "floor"):
                raise
            columns[name] = failure(error)
            del calls[name]
    with settled(), contextlib.ExitStack() as caches:
        if options.compile:
            from torch._inductor.utils import fresh_inductor_cache  # takes seconds

            torch._dynamo.reset()
            for name, call in case.compiled(at_once).items():
                caches.enter_context(fresh_inductor_cache())
                columns[name] = first_calls(call, options)
                if "fails" not in columns[name]:
                    calls[name] = call
        for name, times in rounds(list(calls.items()), options).items():
            low, middle, high = statistics.quantiles(times, n=4)
            columns[name] |= {"seconds": middle, "low": low, "high": high, "rounds": len(times)}
    passes = [{"site": site, **part._asdict()} for site, part in case.parts()]
    return {
        "case": case.name,
        "method": case.method.name,
        "model": case.setting.name,
        "input": list(case.setting.x.shape),
        "site": case.site,
        "asked": case.method.asked,
        "steps at once": steps,
        "passes": passes,
        "columns": columns,
    }


def first_calls(call: Call, options: Options) -> dict[str, Any]:
    """Seconds to compile. That it cannot be compiled is a finding too: the summary names it."""
    start = time.perf_counter()
    try:
        call()
        synchronize(options)
        seconds = time.perf_counter() - start
        call(), call()  # CUDA graphs are recorded after the first
    except Exception as error:
        return failure(error)
    return {"first": seconds}


def failure(error: Exception) -> dict[str, Any]:
    return {"fails": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"}


def bare_forward(setting: Setting, options: Options) -> dict[str, float]:
    """Seconds of the model alone, without a graph, eager and compiled."""
    fast = torch.compile(setting.model, fullgraph=True, mode="reduce-overhead" if setting.x.is_cuda else None)
    more = () if setting.mask is None else (setting.mask,)
    with torch.no_grad(), settled():
        fast(setting.x, *more)
        calls: list[tuple[str, Call]] = [
            ("eager", lambda: setting.model(setting.x, *more)),
            ("compiled", lambda: fast(setting.x, *more)),
        ]
        found = rounds(calls, options)
    return {name: statistics.median(times) for name, times in found.items()}


def steps_at_once(own: Call) -> int | None:
    """How many steps, samples or groups of a call run together: the floor's passes come in the same batches."""
    done: list[int] = []
    with settled(), fa.progress(lambda count, total: done.append(count)):
        own()
    grown = [b - a for a, b in itertools.pairwise(done) if b > a]
    return max(grown) if grown else None


def counted(call: Call, options: Options) -> dict[str, Any]:
    """FLOPs, and the most bytes that were live at once, over what was before."""
    found: Cost = cost(call)
    if options.device == "cpu":
        return {"flops": found.flops, "bytes": found.peak}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return {"flops": found.flops, "bytes": torch.cuda.max_memory_allocated() - before}


def rounds(calls: list[tuple[str, Call]], options: Options) -> dict[str, list[float]]:
    """Seconds of each, in turn: a slow moment of the machine hits all of them."""
    found: dict[str, list[float]] = {name: [] for name, _ in calls}
    least, most = (2, 20) if options.quick else (5, 1000)
    gc.collect()
    for _ in range(20):  # small calls get faster for a while
        begun = time.perf_counter()
        for _, call in calls:
            seconds(call, options)
        if time.perf_counter() - begun > 0.01:
            break
    stop = time.perf_counter() + (0.1 if options.quick else options.seconds)
    for i in range(most):
        # Each is the first in its turn: what runs before a call leaves its traces in the caches.
        first = i % len(calls)
        for name, call in calls[first:] + calls[:first]:
            found[name].append(seconds(call, options))
        if i + 1 >= least and time.perf_counter() > stop:
            break
    return found


def seconds(call: Call, options: Options) -> float:
    if options.device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def synchronize(options: Options) -> None:
    if options.device != "cpu":
        torch.cuda.synchronize()


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Competitors warn about what they do to the model: that is not what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
