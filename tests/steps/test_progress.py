"""`progress`: what reports, to whom, and what the bars look like."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa
from funattr._steps.progress import report, reported

from ..models import Mlp, table

torch.manual_seed(0)
net, x, baselines = Mlp().eval(), table(), torch.randn(7, 6)
classes: list[Any] = [lambda out: out[:, 0], lambda out: out[:, 1], fa.neuron("fc1", 2)]

#: What runs long: the call, and what it says, run by run.
RUNS: dict[str, tuple[Callable[[], Any], list[tuple[int, int]]]] = {
    "steps": (
        lambda: fa.integrated_gradients(net, x, target=1, n_steps=10, chunk_size=3),
        [(0, 10), (3, 10), (6, 10), (8, 10), (10, 10)],
    ),
    "steps at a layer": (
        lambda: fa.integrated_gradients(net, x, layer="fc1", target=1, n_steps=4, chunk_size=2),
        [(0, 4), (2, 4), (4, 4)],
    ),
    "steps of the input": (
        lambda: fa.internal_influence(net, x, layer="fc1", target=1, n_steps=4, chunk_size=2),
        [(0, 4), (2, 4), (4, 4)],
    ),
    "steps of conductance": (
        lambda: fa.conductance(net, x, layer="fc1", target=1, n_steps=4, chunk_size=2),
        [(0, 4), (2, 4), (4, 4)],
    ),
    "samples": (
        lambda: fa.gradient_shap(net, x, baselines=baselines, target=1, n_samples=5, chunk_size=2),
        [(0, 5), (2, 5), (4, 5), (5, 5)],
    ),
    "samples of noise": (
        lambda: fa.noise_tunnel(fa.saliency, n_samples=3, chunk_size=1)(net, x, target=1),
        [(0, 3), (1, 3), (2, 3), (3, 3)],
    ),
    "samples of noise, all at once": (lambda: fa.noise_tunnel(fa.saliency, n_samples=3)(net, x, target=1), [(0, 3), (3, 3)]),
    "samples of noise in chunks": (
        lambda: fa.noise_tunnel(fa.saliency, n_samples=4, chunk_size=2)(net, x, target=1),
        [(0, 4), (2, 4), (4, 4)],
    ),
    "perturbations": (
        lambda: fa.feature_ablation(net, x, target=1, chunk_size=3),
        [(0, 7), (3, 7), (5, 7), (7, 7)],  # six features, and nothing ablated
    ),
    "baselines": (
        lambda: fa.deep_lift_shap(net, x, baselines=baselines, target=1, chunk_size=3),
        [(0, 7), (3, 7), (5, 7), (7, 7)],
    ),
    "baselines of any method": (
        lambda: fa.mean_over_baselines(fa.integrated_gradients)(net, x, baselines=baselines[:2], target=1, n_steps=2),
        [(0, 2), (0, 2), (2, 2), (1, 2), (0, 2), (2, 2), (2, 2)],
    ),
    "targets": (lambda: fa.each_target(fa.saliency, [0, 1, 2, 3], chunk_size=2)(net, x), [(0, 4), (2, 4), (4, 4)]),
    "targets one by one": (lambda: fa.each_target(fa.saliency, classes)(net, x), [(0, 3), (1, 3), (2, 3), (3, 3)]),
    "steps of each sample": (
        lambda: fa.noise_tunnel(fa.integrated_gradients, n_samples=2)(net, x, target=1, n_steps=4, chunk_size=2),
        [(0, 2), (0, 4), (2, 4), (4, 4), (1, 2), (0, 4), (2, 4), (4, 4), (2, 2)],
    ),
    "nothing long": (lambda: fa.gradient(net, x, target=1), []),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_reports(name: str) -> None:
    call, expected = RUNS[name]
    heard: list[tuple[int, int]] = []
    torch.manual_seed(1)
    quiet = call()
    torch.manual_seed(1)
    with fa.progress(lambda done, total: heard.append((done, total))):
        result = call()
    assert heard == expected
    assert torch.equal(result, quiet)
    call()
    assert heard == expected  # silent again


def test_outside_nothing_is_even_wrapped() -> None:
    chunks = [(0, 2), (2, 4)]
    assert reported(chunks) is chunks
    with fa.progress(lambda done, total: None):
        assert reported(chunks) is not chunks
    assert reported(chunks) is chunks


def test_each_thread_for_itself() -> None:
    heard: dict[str, list[tuple[int, int]]] = {"first": [], "second": [], "none": []}
    together = threading.Barrier(3)

    def work(name: str, n_steps: int) -> None:
        together.wait()
        for _ in range(5):
            if name == "none":
                fa.integrated_gradients(net, x, target=1, n_steps=n_steps, chunk_size=1)
            else:
                with fa.progress(lambda done, total: heard[name].append((done, total))):
                    fa.integrated_gradients(net, x, target=1, n_steps=n_steps, chunk_size=1)

    threads = [threading.Thread(target=work, args=pair) for pair in (("first", 3), ("second", 4), ("none", 5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"first": [(i, 3) for i in range(4)] * 5, "second": [(i, 4) for i in range(5)] * 5, "none": []}


def test_silent_under_compile() -> None:
    heard: list[int] = []
    compiled = torch.compile(fa.integrated_gradients, fullgraph=True, backend="eager")
    with fa.progress(lambda done, total: heard.append(done)):
        found = compiled(net, x, target=1, n_steps=3, chunk_size=1)
    assert heard == []
    torch.testing.assert_close(found, fa.integrated_gradients(net, x, target=1, n_steps=3))


def test_blocks_nest_and_end() -> None:
    outer: list[int] = []
    inner: list[int] = []
    with fa.progress(lambda done, total: outer.append(done)):
        report(0, 2)
        with contextlib.suppress(KeyError), fa.progress(lambda done, total: inner.append(done)):
            report(1, 2)
            raise KeyError
        report(2, 2)
    report(3, 3)
    assert (outer, inner) == ([0, 2], [1])
    with pytest.raises(TypeError, match=r"progress\(\): callback must be callable, called with \(done, total\); got int"):
        fa.progress(3).__enter__()  # type: ignore[arg-type]  # wrong on purpose


class Bars:
    """In place of tqdm: what was made, and how far each came."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def tqdm(self, total: int, leave: bool) -> Any:
        bar = self.Bar(total, leave)
        self.made.append(bar)
        return bar

    class Bar:
        def __init__(self, total: int, leave: bool) -> None:
            self.total, self.leave, self.n, self.closed = total, leave, 0, 0

        def update(self, more: int) -> None:
            assert not self.closed
            assert more > 0
            self.n += more

        def close(self) -> None:
            self.closed += 1


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    stand_in: Any = Bars()
    monkeypatch.setitem(sys.modules, "tqdm.auto", stand_in)
    return stand_in.made


@pytest.mark.parametrize("name", [name for name in RUNS if name != "nothing long"])
def test_a_bar_per_run(name: str, bars: list[Any]) -> None:
    call, said = RUNS[name]
    with fa.progress():
        call()
    assert [bar.total for bar in bars] == [total for done, total in said if done == 0]
    assert all(bar.n == bar.total and bar.closed == 1 for bar in bars)
    assert [bar.leave for bar in bars] == [True] + [False] * (len(bars) - 1)


def test_bars_of_runs_that_fail(bars: list[Any]) -> None:
    def fails(x: Tensor) -> Tensor:
        raise KeyError

    with fa.progress():
        with pytest.raises(KeyError):
            fa.integrated_gradients(fails, x, target=1, n_steps=4)
        report(0, 3)
        report(0, 5)
        report(2, 5)  # and then an error, that the run around it catches
        report(1, 3)
        report(3, 3)
        report(0, 2)
    assert [(bar.total, bar.n, bar.closed) for bar in bars] == [(4, 0, 1), (3, 3, 1), (5, 2, 1), (2, 0, 1)]


def test_the_real_bar(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm")
    with fa.progress():
        fa.integrated_gradients(net, x, target=1, n_steps=4, chunk_size=2)
    err = capsys.readouterr().err
    assert "4/4" in err
    assert "100%" in err
    assert not getattr(tqdm.tqdm, "_instances", ())


def test_the_plain_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with fa.progress():
        fa.integrated_gradients(net, x, target=1, n_steps=4, chunk_size=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert [frame.split() for frame in err.replace("[", "").replace("]", " ").split("\r")[1:]] == [
        ["0/4"],
        ["#" * 15, "2/4"],
        ["#" * 30, "4/4"],
    ]
    with fa.progress():
        RUNS["steps of each sample"][0]()
    assert capsys.readouterr().err.count("\n") == 1
