"""``python -m benchmarks``: what a method costs, as a ratio to Captum 0.9.0 in the same run.

Time is the median of interleaved calls: a slow moment of the machine hits both. FLOPs and peak live bytes are counted,
and the same on every machine.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
import warnings
from collections.abc import Iterable

import torch

from .cases import Case, layers, overhead, settings
from .cost import cost


def interleaved(case: Case, repeats: int) -> tuple[float, float]:
    """Median seconds of both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, found in zip((case.own, case.captum), times):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def show_overhead(cases: Iterable[Case], repeats: int) -> None:
    print("Python overhead: two-layer MLP (CAMs: two-layer CNN), batch 1, one thread")
    print(f"{'method':26s}{'funattr':>12s}{'Captum':>12s}{'ratio':>8s}")
    for case in cases:
        interleaved(case, 20)
        own, captum = interleaved(case, repeats)
        print(f"{case.name:26s}{own * 1e6:9.0f} us{captum * 1e6:9.0f} us{captum / own:7.2f}x")


def show_layers(title: str, cases: Iterable[Case], repeats: int) -> None:
    print(f"\n{title}: time, FLOPs and peak live memory, Captum's over ours (more is better)")
    print(f"{'method, site':40s}{'funattr':>10s}{'Captum':>10s}{'time':>8s}{'FLOPs':>8s}{'memory':>8s}")
    speed: list[float] = []
    for case in cases:
        ours, theirs = cost(case.own), cost(case.captum)
        gc.collect()
        interleaved(case, 1)
        own, captum = interleaved(case, repeats)
        speed.append(captum / own)
        print(
            f"{case.name:40s}{own * 1e3:7.1f} ms{captum * 1e3:7.1f} ms{captum / own:7.2f}x"
            f"{theirs.flops / ours.flops:7.2f}x{theirs.peak / ours.peak:7.2f}x",
            flush=True,
        )
    if speed:
        print(
            f"geometric mean of the speed-up: {math.exp(statistics.fmean(map(math.log, speed))):.2f}x; least: {min(speed):.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, small settings: shows that it runs, not how fast")
    parser.add_argument("--filter", default="", metavar="WORDS", help="only cases whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", module="captum")
    warnings.filterwarnings("ignore", "Setting forward, backward hooks|Input Tensor|\\s*Setting forward")
    wanted = [case for case in overhead() if options.filter in case.name]
    if wanted:
        show_overhead(wanted, 30 if options.quick else 1000)
    for setting in settings(options.quick):
        chosen = [case for case in layers(setting, options.quick) if options.filter in case.name]
        if chosen:
            shape = list(setting.x.shape)
            show_layers(f"{setting.name}, x {shape}, one thread", chosen, 1 if options.quick else 5)


if __name__ == "__main__":
    main()
