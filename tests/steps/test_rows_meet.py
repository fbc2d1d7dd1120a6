"""Nets whose rows meet: every method gives the function of this batch, whatever `chunk_size` is, and says nothing.

The references are loops over the batch as it is, one node, baseline or group at a time: see tests/reference.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import funattr as fa

from ..breadth import breadth, full
from ..close import close_and_not_zero as close
from ..methods import METHODS, Row, fits, seed
from ..models import EDGES, MIXING, Case, double
from ..reference import Asked, gauss, loops, pick
from ..reference.table import expected, start

TARGET = torch.tensor([1, 4, 0, 2])
#: `vmap` has no rule for an LSTM: then, and only then, the steps run one after another, and one is told.
pytestmark = pytest.mark.filterwarnings("ignore:the steps run one after another, which is slower:UserWarning")


def bound(case: Case) -> tuple[Any, Any]:
    """The net with the edges in a buffer; or, of no use there, bound to it."""
    model, x = double(case)
    model.edges = EDGES.flip(1)[:, :2]  # others
    return functools.partial(model, edges=EDGES), x


ASKED: dict[str, tuple[Case, Callable[[Case], tuple[Any, Any]]]] = {case.name: (case, double) for case in MIXING}
ASKED["nodes, bound"] = next(case for case in MIXING if case.name == "nodes"), bound


def sites(row: Row, case: Case) -> list[Any]:
    found: list[Any] = [None] if row.at_input else []
    return found + [site for site in case.layers if not (row.convolutional and site == fa.input_of("fc"))]


#: At full size: each has a like among the others.
FULL = ("gated", "rolled", "shares", "summed", "nodes, bound")
CALLS = [
    pytest.param(name, row, site, id=f"{name}-{row.name}-{i}", marks=full if name in FULL else ())
    for name, (case, _) in ASKED.items()
    for row in METHODS
    if fits(row, case)
    for i, site in enumerate(sites(row, case))
]


@pytest.mark.parametrize(("name", "row", "site"), CALLS)
def test_every_method_is_of_this_batch_in_chunks_of_every_size(name: str, row: Row, site: Any) -> None:
    case, build = ASKED[name]
    model, x = build(case)
    wanted = expected(Asked(model, x, site, pick(TARGET)), row)
    options = row.options | ({"target": TARGET} if row.targeted else {})
    chunked = "chunk_size" in inspect.signature(row.method).parameters
    for chunk_size in (None, "auto", 1, 2, 3, 64) if chunked else (None,):
        more = {"chunk_size": chunk_size} if chunked else {}
        close(row.method(model, x, layer=site, **options | more), wanted)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("baselines", [0.0, "one", "each"])
def test_however_many_rows_the_baseline_has(name: str, baselines: Any) -> None:
    """One number or one row stands for a baseline for each example: the model is run on no batch but such as this one."""
    case, build = ASKED[name]
    model, x = build(case)
    given = {"one": torch.randn_like(x[:1]), "each": torch.randn_like(x)}.get(baselines, baselines)
    x0 = given.expand_as(x) if isinstance(given, Tensor) else start(x, given)
    for site in (None, case.layers[0]):
        q = Asked(model, x, site, pick(TARGET))
        options: dict[str, Any] = {"layer": site, "target": TARGET, "baselines": given}
        close(fa.deep_lift(model, x, **options), loops.deep_lift(q, [x0]))
        for chunk_size in (None, 1, 2):
            along: dict[str, Any] = {**options, "n_steps": 5, "chunk_size": chunk_size}
            close(fa.integrated_gradients(model, x, **along), loops.integrated_gradients(q, x0, gauss(5)))
            close(fa.internal_influence(model, x, **along), loops.internal_influence(q, x0, gauss(5)))
            close(fa.conductance(model, x, **along), loops.conductance(q, x0, gauss(5)))


@pytest.mark.parametrize("name", ASKED)
def test_samples_and_targets_at_once(name: str) -> None:
    """noise_tunnel and each_target run copies of the call: each is of this batch."""
    case, build = ASKED[name]
    model, x = build(case)
    q = Asked(model, x, None, pick(TARGET))
    for chunk_size in (None, 1, 2):
        for method in (fa.gradient, fa.integrated_gradients):
            generator = torch.Generator().manual_seed(0)
            noisy = [x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(3)]
            if method is fa.gradient:
                each = [loops.slope(q, one)[0] for one in noisy]
            else:
                each = [loops.integrated_gradients(q._replace(x=one), start(x, 0.0), gauss(4))[0] for one in noisy]
            generator.manual_seed(0)
            tunnel = fa.noise_tunnel(method, n_samples=3, stdevs=0.1, generator=generator, chunk_size=chunk_size)
            more = {} if method is fa.gradient else {"n_steps": 4}
            close(tunnel(model, x, target=TARGET, **more), [torch.stack(each).mean(0)])
        targets = fa.each_target(fa.gradient, [0, 3], chunk_size=chunk_size)
        each = [loops.slope(q._replace(score=pick(torch.full_like(TARGET, k))))[0] for k in (0, 3)]
        close(targets(model, x), [torch.stack(each)])


@pytest.mark.parametrize("name", ASKED)
def test_groups_of_features(name: str) -> None:
    case, build = ASKED[name]
    model, x = build(case)
    for site in (None, case.layers[0]):
        q = Asked(model, x, site, pick(TARGET))
        (v,) = loops.value(q)
        mask = torch.arange(v[:1].numel()).reshape(v[:1].shape) % 3
        base = [torch.full_like(v, 0.25)]
        wanted = loops.feature_ablation(q, base, [mask])
        for chunk_size in (None, 1, 2, 5):
            options: dict[str, Any] = {"layer": site, "target": TARGET, "baselines": 0.25, "feature_mask": mask}
            close(fa.feature_ablation(model, x, chunk_size=chunk_size, **options), wanted)


class Kinked(torch.nn.Module):
    """Its rows meet before a ReLU: slopes are those of rows alone, nearly everywhere, and scores are not."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc, self.head = torch.nn.GRU(4, 4, batch_first=True), torch.nn.Linear(4, 6), torch.nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        value = self.fc(x) + 0.001 * self.rnn(x[:, None])[0].sum()  # which vmap has no rule for
        return self.head((value - 0.3 * value.detach().mean(0)).relu())


def test_rows_that_meet_before_a_kink() -> None:
    """Slopes of one step told that all could run in one batch, and those of others came out otherwise, in silence."""
    torch.manual_seed(0)
    model = Kinked().double().eval()
    for _ in range(10):
        x, base = torch.randn(4, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
        q = Asked(model, x, "fc", pick(TARGET))
        options: dict[str, Any] = {"layer": "fc", "target": TARGET, "baselines": base}
        for method in (fa.internal_influence, fa.conductance):
            wanted = getattr(loops, method.__name__)(q, base.expand_as(x), gauss(9))
            close(method(model, x, n_steps=9, **options), wanted)
            exact = method(model, x, n_steps=301, chunk_size=1, **options)
            found = method(model, x, n_steps=3000, rtol=1e-2, **options)
            assert (found - exact).abs().max() < 3e-2 * exact.abs().max()


class Recurrent(torch.nn.Module):
    """What vmap has no rule for, before its rows meet."""

    def __init__(self, meet: Callable[[Tensor], Tensor], inputs: int = 4) -> None:
        super().__init__()
        self.rnn, self.head, self.meet = torch.nn.GRU(inputs, 6, batch_first=True), torch.nn.Linear(6, 5), meet

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.meet(self.rnn(x[:, None])[0][:, 0]).tanh())


MEETINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda h: h / h.abs().max(),
    "clipped": lambda h: h / h.abs().max().clamp(min=0.5),
    "leader": lambda h: h + h[h.norm(dim=1).argmax()],
    "bounded": lambda h: h if h.equal(h.clamp(-0.3, 0.3)) else h / 2,
    "in turn": lambda h: h.masked_scatter((h[:, :1] > 0).expand_as(h), 2 * h.flip(1)),
}


@pytest.mark.parametrize("meet", MEETINGS)
def test_one_step_may_hold_the_largest_of_all(meet: str) -> None:
    """It gave in one batch what it gives alone, and was the one that was looked at: the others came out otherwise."""
    for i in range(16):
        torch.manual_seed(i)
        model = Recurrent(MEETINGS[meet]).double()
        x, base = 2 * torch.randn(1 + i % 3, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
        for method in (fa.feature_ablation, fa.integrated_gradients):
            more: dict[str, Any] = {} if method is fa.feature_ablation else {"n_steps": 4}
            wanted = method(model, x, target=1, baselines=base, chunk_size=1, **more)
            for chunk_size in (None, 4):
                found = method(model, x, target=1, baselines=base, chunk_size=chunk_size, **more)
                torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)


def tile(h: Tensor, rows: int) -> Tensor:
    return h * (torch.arange(len(h)) < rows)[:, None]


#: How many rows there are, or which of them it is, counts.
COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "even": lambda h: 2 * h if len(h) % 2 == 0 else h,
    "in eights": lambda h: 2 * h if len(h) % 8 == 0 else h,
    "five to nine": lambda h: h.sin() if 4 < len(h) < 10 else h,
    **{f"the first {rows}": partial(tile, rows=rows) for rows in (3, 4, 8, 16)},
}


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_of_another_size_is_looked_at_again(count: str) -> None:
    """The last chunk is smaller than those that were shown to be exact in one batch; and a batch may end in other rows."""
    torch.manual_seed(0)
    model = Recurrent(COUNTS[count], 5).double()
    for size in (1, 2, 3, 4):
        x = torch.randn(size, 5, dtype=torch.float64)
        calls: list[Callable[..., Tensor]] = [
            partial(fa.shapley, model, x, target=1, sampling="exact"),
            partial(fa.feature_ablation, model, x, target=1),
        ]
        for call in calls:
            for chunk_size in (None, *range(3, 10)):
                close(call(chunk_size=chunk_size), call(chunk_size=1))


def positive(h: Tensor) -> Tensor:
    """Rows of one kind have what these are in common, more or fewer at each point: of a single row, and of most pairs, nothing
    shows."""
    kind = h[:, 0] > 0
    return h + kind[:, None] * h[kind].sum(0) / 3


def counted(h: Tensor) -> Tensor:
    (of,) = torch.where(h[:, 0] > 0)
    return h.index_add(0, of, h.index_select(0, of).sum(0).expand(len(of), -1) / 3)


def bounded(h: Tensor) -> Tensor:
    return h if h.equal(h.clamp(-2, 2)) else h / h.abs().max()


def in_numpy(h: Tensor) -> Tensor:
    return h * float(np.asarray(h.detach()).max().clip(2.0, 4.0))


class Meeting(torch.nn.Module):
    def __init__(self, meet: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.meet = meet

    def forward(self, h: Tensor) -> Tensor:
        return self.meet(h)


@pytest.mark.parametrize("meet", [positive, counted, bounded, in_numpy])
def test_rows_that_meet_where_data_says_so(meet: Callable[[Tensor], Tensor]) -> None:
    """Where a few points in one batch gave what each gives alone, all were run so, and others had rows in common there."""
    for i in range(8):
        torch.manual_seed(i)
        enter, leave = torch.nn.Linear(4, 6).double(), torch.nn.Linear(6, 5).double()
        x, base = torch.randn(1 + i % 2, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
        model = torch.nn.Sequential(enter, Meeting(meet), torch.nn.Tanh(), leave)
        for method, more in ((fa.integrated_gradients, {"n_steps": 10}), (fa.shapley, {})):
            options: dict[str, Any] = {"target": 1, "baselines": 3 * base, **more}
            wanted = method(model, 3 * x, chunk_size=1, **options)
            for chunk_size in (None, 5):
                torch.testing.assert_close(method(model, 3 * x, chunk_size=chunk_size, **options), wanted)


#: torch neither compiles nor maps an LSTM.
TRACED = [name for name in ASKED if name != "frames"]
#: Methods that run several points, and a loop for each.
SEVERAL = [row for row in METHODS if row.name in ("integrated_gradients", "conductance", "gradient_shap", "deep_lift_shap")]


ALWAYS = (("nodes", "integrated_gradients"),)
#: Half of all, to save time: each net and each method.
ONE_GRAPH = [(name, row) for i, name in enumerate(ASKED) if name != "frames" for row in SEVERAL[i % 2 :: 2]]


@pytest.mark.parametrize(
    ("name", "row"),
    breadth(ONE_GRAPH, lambda case: (case[0], case[1].name) in ALWAYS, several=True),
    ids=[f"{name}-{row.name}" for name, row in ONE_GRAPH],
)
def test_compiled(name: str, row: Row) -> None:
    case, build = ASKED[name]
    model, x = build(case)
    compiled: Any = torch.compile(row.method, fullgraph=True, backend="aot_eager")
    options = row.options | {"layer": case.layers[0], "target": TARGET, "chunk_size": 2}
    wanted = expected(Asked(model, x, case.layers[0], pick(TARGET)), row)
    seed()
    close(compiled(model, x, **options), wanted)


@pytest.mark.parametrize("row", [row for row in SEVERAL if not row.draws], ids=lambda row: row.name)
@pytest.mark.parametrize("name", breadth(TRACED, lambda name: name in ("batch statistics", "centred", "nodes, bound")))
def test_vmapped_over_batches(name: str, row: Row) -> None:
    """Under vmap, each batch is one: its rows meet each other, and not those of the next."""
    case, build = ASKED[name]
    model, x = build(case)
    batches = torch.stack([x, x.flip(0), 0.5 * x])
    for site in (None, case.layers[0]):

        def one(x: Tensor, site: Any = site) -> Tensor:
            return row.method(model, x, layer=site, target=TARGET, **row.options)

        found = torch.func.vmap(one)(batches)
        for batch, mine in zip(batches, found):
            close(mine, expected(Asked(model, batch, site, pick(TARGET)), row))


def test_the_rows_of_these_nets_do_meet() -> None:
    """Else they would prove nothing: alone, or as a part of a larger batch, a row has another score."""
    for name, (case, build) in ASKED.items():
        model, x = build(case)
        with torch.no_grad():
            whole = model(x)
            larger = model(torch.cat([x, torch.randn_like(x)]))
            alone = model(x[-1:]) if "nodes" not in name else None
        assert alone is None or not torch.allclose(alone, whole[-1:]), name
        assert not torch.allclose(larger[: len(x)], whole) or name in ("summed", "frames", "nodes", "nodes, bound"), name
        assert not torch.allclose(model(torch.cat([torch.randn_like(x), x]))[len(x) :], whole), name
