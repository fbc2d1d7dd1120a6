"""What funattr does on a GPU: right in every precision, as one graph, in how much memory, how fast. Run by scripts/gpu.sh

Four parts, each within its share of the time, and each finding written as it is made: what an interrupted run has is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


def unpacked_wheels(folder: Path, into: Path) -> list[str]:
    """Make what lies in wheels there importable, without installing it."""
    names = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(into)
        names.append(wheel.name)
    sys.path.insert(0, str(into))
    return names


_unpacked = tempfile.TemporaryDirectory()
WHEELS = unpacked_wheels(Path(__file__).parent, Path(_unpacked.name))
sys.path.insert(0, str(ROOT))

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401  missing, it is named below
if "numpy" not in sys.modules:
    raise SystemExit(f"funattr imports numpy, which is not here: put its wheel into {Path(__file__).parent}, or install it")

import torch  # noqa: E402  after the wheels, which may hold what it looks for
from torch import Tensor  # noqa: E402  after the path

import benchmarks.measure as bench  # noqa: E402  after the path
import funattr as fa  # noqa: E402  after the path
from benchmarks import by_hand, report  # noqa: E402  after the path
from benchmarks.calls import TARGET, mask_for  # noqa: E402  after the path
from benchmarks.cases import Case, cases  # noqa: E402  after the path
from benchmarks.cost import cost  # noqa: E402  after the path
from benchmarks.rivals import missing, versions  # noqa: E402  after the path
from benchmarks.settings import Setting, settings  # noqa: E402  after the path
from benchmarks.tables import HEAD, by_model, duration, markdown, row  # noqa: E402  after the path

# Right in every precision.


class Regime(NamedTuple):
    """A way to run a model, and how far from plain autograd in float64 a result may be there, in each one's norm."""

    name: str
    dtype: torch.dtype
    within: float
    autocast: bool = False
    channels_last: bool = False


REGIMES = [
    Regime("float32", torch.float32, 1e-3),
    Regime("bfloat16", torch.bfloat16, 0.2),
    Regime("autocast", torch.float32, 0.2, autocast=True),
    Regime("channels_last", torch.float32, 1e-3, channels_last=True),
]

#: A method of ours, and the same by hand: ``f(setting, site)``.
Pair = tuple[Callable[[Setting, str], Tensor], Callable[[Setting, str], Tensor]]


def _pair(ours: Any, theirs: Any, floats: bool = False, **more: Any) -> Pair:
    steps = {"n_steps": more["n"]} if "n" in more else {}

    def own(s: Setting, site: str) -> Tensor:
        found: Tensor = ours(s.bound, s.floats if floats else s.x, layer=site, target=TARGET, **steps)
        return found

    def hand(s: Setting, site: str) -> Tensor:
        found: Tensor = theirs(s.bound, s.floats if floats else s.x, s.layer(site), TARGET, **more)
        return found

    return own, hand


def _of_input(ours: Any, theirs: Any, **more: Any) -> Pair:
    steps = {"n_steps": more["n"]} if "n" in more else {}
    return (
        lambda s, site: ours(s.model, s.x, target=TARGET, **steps),
        lambda s, site: theirs(s.model, s.x, TARGET, **more),
    )


def _cams() -> Pair:
    return (
        lambda s, site: fa.grad_cam(s.bound, s.x, layer=site, target=TARGET, channel_dim=s.channel_dim),
        lambda s, site: by_hand.grad_cam(s.bound, s.x, s.layer(site), TARGET, s.channel_dim),
    )


def _ablations() -> Pair:
    return (
        lambda s, site: fa.feature_ablation(s.bound, s.x, layer=site, target=TARGET, feature_mask=mask_for(s, site)),
        lambda s, site: by_hand.feature_ablation(s.bound, s.x, s.layer(site), TARGET, mask_for(s, site)),
    )


def _completeness() -> Pair:
    """DeepLIFT has no short form by hand: its law is the reference, the sum over a layer and what the score gains."""

    def gained(s: Setting, site: str) -> Tensor:
        with torch.no_grad():
            score, before = s.bound(s.floats)[:, TARGET], s.bound(torch.zeros_like(s.floats))[:, TARGET]
        gain: Tensor = score - before
        return gain

    return lambda s, site: fa.deep_lift(s.bound, s.floats, layer=site, target=TARGET).flatten(1).sum(1), gained


def _activations() -> Pair:
    return (
        lambda s, site: fa.activation(s.bound, s.x, layer=site),
        lambda s, site: by_hand.activation(s.bound, s.x, s.layer(site)),
    )


#: What a setting must be for a method, and the pair.
PAIRS: dict[str, tuple[str, Pair]] = {
    "activation": ("layer", _activations()),
    "input_x_gradient": ("layer", _pair(fa.input_x_gradient, by_hand.input_x_gradient)),
    "grad_cam": ("cam", _cams()),
    "integrated_gradients": ("path", _pair(fa.integrated_gradients, by_hand.integrated_gradients, n=8)),
    "internal_influence": ("path", _pair(fa.internal_influence, by_hand.internal_influence, floats=True, n=8)),
    "conductance": ("path", _pair(fa.conductance, by_hand.conductance, floats=True, n=8)),
    "feature_ablation": ("layer", _ablations()),
    "saliency": ("image", _of_input(fa.saliency, by_hand.saliency)),
    "integrated_gradients, input": (
        "image path",
        _of_input(fa.integrated_gradients, by_hand.integrated_gradients_of_the_input, n=8),
    ),
    "guided_backprop": ("image relu", _of_input(fa.guided_backprop, by_hand.guided_backprop)),
    "guided_grad_cam": ("image cam relu", _pair(fa.guided_grad_cam, by_hand.guided_grad_cam)),
    "deep_lift, sum": ("lift", _completeness()),
}


def laid_out(s: Setting, regime: Regime) -> Setting:
    """The setting in a regime's memory format."""
    if not regime.channels_last or s.x.dim() != 4:
        return s
    model: Any = s.model  # Any, because torch's types have no memory format for modules
    return s._replace(model=model.to(memory_format=torch.channels_last), x=s.x.to(memory_format=torch.channels_last))


@contextlib.contextmanager
def running(regime: Regime, device: str) -> Iterator[None]:
    with warnings.catch_warnings(), torch.autocast(device, torch.bfloat16, enabled=regime.autocast):
        warnings.simplefilter("ignore")
        yield


def distance(found: Tensor, expected: Tensor) -> float:
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def correctness(device: str, quick: bool, until: float) -> Iterator[dict[str, Any]]:
    """Every method in every regime: how far from autograd by hand in float64, and how far the same by hand there is."""
    exact = {s.name: s for s in settings(True, device, torch.float64)}
    for regime in REGIMES[:: 3 if quick else 1]:
        for found in settings(True, device, regime.dtype):
            s = laid_out(found, regime)
            for name, (needs, (ours, theirs)) in PAIRS.items():
                if not s.kinds.issuperset(needs.split()) or time.monotonic() > until:
                    continue
                site = s.sites[-1]
                entry: dict[str, Any] = {"regime": regime.name, "model": s.name, "method": name, "within": regime.within}
                try:
                    with running(REGIMES[0], device):
                        expected = theirs(exact[s.name], site)
                    with running(regime, device):
                        entry |= {"ours": distance(ours(s, site), expected), "by hand": distance(theirs(s, site), expected)}
                    entry["ok"] = entry["ours"] <= max(regime.within, 2 * entry["by hand"])
                except Exception as error:  # a finding, like the others
                    entry |= {"ok": False} | bench.failure(error)
                yield entry


# As one graph.

GRAPHS = ["input_x_gradient", "grad_cam", "integrated_gradients", "deep_lift", "feature_ablation", "conductance"]


def compiled(device: str, quick: bool, until: float, options: bench.Options) -> Iterator[dict[str, Any]]:
    """``mode="reduce-overhead"``: the same numbers as in eager, over several calls, and the time of a call."""
    for s in settings(True, device, torch.float32):
        if s.name not in ("two-layer MLP", "two-layer CNN"):
            continue
        for case in cases(s):
            if case.method.name in (GRAPHS[:2] if quick else GRAPHS) and time.monotonic() < until:
                yield _as_graph(case, options)


def _as_graph(case: Case, options: bench.Options) -> dict[str, Any]:
    entry: dict[str, Any] = {"case": case.name}
    try:
        with bench.settled():
            torch._dynamo.reset()
            own = case.own()
            graph = torch.compile(own.func, fullgraph=True, mode="reduce-overhead")
            fast = partial(graph, *own.args, **own.keywords)
            begun = time.perf_counter()
            results = [fast().clone() for _ in range(4)]  # the graph writes the next one into the same memory
            bench.synchronize(options)
            entry["seconds for four calls"] = time.perf_counter() - begun
            entry["apart"] = max(distance(found, own()) for found in results)
            times = bench.rounds([("eager", own), ("compiled", fast)], options)
            entry |= {name: statistics.median(found) for name, found in times.items()}
        entry["ok"] = entry["apart"] <= 1e-3
    except Exception as error:  # a finding, like the others
        entry |= {"ok": False} | bench.failure(error)
    return entry


# In how much memory.


def memory(device: str, quick: bool, until: float) -> Iterator[dict[str, Any]]:
    """The peak of a call over what was there before, for chunks of all sizes, beside the same by hand."""
    chosen = [s for s in settings(quick, device, torch.float32) if s.name in ("ResNet-18", "ViT-tiny")]
    for s in chosen:
        site = s.sites[len(s.sites) // 2]
        hand = partial(by_hand.integrated_gradients, s.bound, s.x, s.layer(site), TARGET, s.steps)
        own = partial(fa.integrated_gradients, s.bound, s.x, layer=site, target=TARGET, n_steps=s.steps)
        calls = {"by hand": hand} | {f"chunk_size={c}": partial(own, chunk_size=c) for c in (None, 1, 4, s.steps)}
        peaks: dict[str, int] = {}
        for name, call in calls.items():
            if time.monotonic() < until:
                with bench.settled():
                    call()
                    peaks[name] = peak(call, device)
        yield {"model": s.name, "method": "integrated_gradients", "site": site, "steps": s.steps, "bytes": peaks}


def peak(call: Callable[[], Any], device: str) -> int:
    if device == "cpu":
        return cost(call).peak
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# How fast.


def speed(device: str, quick: bool, until: float, options: bench.Options) -> Iterator[dict[str, Any]]:
    """The cases of `python -m benchmarks`, the last site of the largest models first, for as long as there is time."""
    table: list[Case] = [case for s in settings(quick, device, torch.float32) for case in cases(s)]
    first = [case for case in table if case.site in ("input", case.setting.sites[-1])]
    rest = [case for case in table if case not in first]
    without = missing()
    for case in first[:: 6 if quick else 1] + ([] if quick else rest):
        if time.monotonic() > until:
            return
        try:
            yield bench.measure(case, without, options)
        except Exception as error:
            yield {"case": case.name, "model": case.setting.name} | bench.failure(error)


# The page.


def page(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    right, graphs = found["correctness"], found["compiled"]
    checks = [*right, *graphs]
    lines = [
        "# funattr on a GPU" if found["machine"].get("gpu") else "# scripts/gpu.sh on a CPU",
        "",
        report.machine_line(found),
        "",
        f"{sum(e['ok'] for e in checks)} of {len(checks)} checks hold; {found['seconds']:.0f} s in all.",
        *("", "## Apart from plain autograd in float64", ""),
        _table(["regime", "model", "method", "ours", "by hand", ""], [_right(e) for e in right]),
        *("", '## One graph, mode="reduce-overhead"', ""),
        _table(["case", "apart from eager", "eager", "compiled", ""], [_graph(e) for e in graphs]),
        *("", "## Peak memory", ""),
        _table(["model", "layer", "call", "MB"], [line for e in found["memory"] for line in _peaks(e)]),
        *("", "## Speed", ""),
        "Times of others over ours (more than 1x: ours is faster), and ours over the bare passes.",
    ]
    for model, entries in by_model([e for e in found["speed"] if "columns" in e]).items():
        lines += ["", f"### {model}, input {entries[0]['input']}", "", markdown(HEAD, [row(e) for e in entries])]
    lines += ["", *(f"- {e['case']} fails: {e['fails']}" for e in found["speed"] if "fails" in e)]
    return "\n".join(lines).rstrip() + "\n"


def _right(e: dict[str, Any]) -> list[str]:
    return [e["regime"], e["model"], f"`{e['method']}`", _figure(e, "ours"), _figure(e, "by hand"), _verdict(e)]


def _graph(e: dict[str, Any]) -> list[str]:
    return [e["case"], _figure(e, "apart"), duration(e.get("eager")), duration(e.get("compiled")), _verdict(e)]


def _peaks(e: dict[str, Any]) -> list[list[str]]:
    call = f"`{e['method']}`, {e['steps']} steps"
    return [[e["model"], f"`{e['site']}`", f"{call}, {name}", f"{size / 1e6:.1f}"] for name, size in e["bytes"].items()]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _figure(entry: dict[str, Any], name: str) -> str:
    return f"{entry[name]:.1e}" if name in entry else ""


def _verdict(entry: dict[str, Any]) -> str:
    return "" if entry["ok"] else entry.get("fails", "too far")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu.sh", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu shows that every line runs")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="for gpu.json and gpu.md (here)")
    parser.add_argument("--minutes", type=float, default=7.0, help="of time in all: what does not fit in is left out (7)")
    parser.add_argument("--quick", action="store_true", help="small models and a case of each kind: shows that it runs")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no GPU here: --device cpu shows that the script runs")
    begun, seconds = time.monotonic(), 60 * given.minutes
    options = bench.Options(quick=given.quick, device=given.device, seconds=0.5)
    found: dict[str, Any] = {"machine": report.machine(torch.get_num_threads(), given.device, "float32"), "wheels": WHEELS}
    found |= {"missing": missing(), "versions": versions()}
    parts: dict[str, tuple[float, Callable[[float], Iterator[dict[str, Any]]]]] = {
        "correctness": (0.3, lambda until: correctness(given.device, given.quick, until)),
        "compiled": (0.6, lambda until: compiled(given.device, given.quick, until, options)),
        "memory": (0.65, lambda until: memory(given.device, given.quick, until)),
        "speed": (0.95, lambda until: speed(given.device, given.quick, until, options)),
    }
    found |= {name: [] for name in parts}
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, (share, run) in parts.items():
        for entry in run(begun + share * seconds):
            found[name].append(entry)
            found["seconds"] = time.monotonic() - begun
            (given.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (given.out / "gpu.md").write_text(page(found), encoding="utf-8")
        print(f"{name}: {len(found[name])} entries, {time.monotonic() - begun:.0f} s", flush=True)
    wrong = [entry for name in ("correctness", "compiled") for entry in found[name] if not entry["ok"]]
    for entry in wrong:
        print("not as expected:", json.dumps(entry), file=sys.stderr)
    print(f"{given.out / 'gpu.json'} and {given.out / 'gpu.md'} are written; {len(wrong)} checks fail")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
