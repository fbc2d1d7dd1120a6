"""Rows that are parts of examples: what `by_examples` gives each row is what its graph would be given alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close

D = torch.float64
#: Three graphs, their nodes in no order, and edges inside each.
IDS = torch.tensor([0, 2, 0, 1, 2, 2, 0])
SOURCE = torch.tensor([0, 2, 6, 1, 4, 5, 5])
TARGET = torch.tensor([2, 6, 0, 4, 5, 1, 4])
N, R = 3, 7


class Graphs(nn.Module):
    """A graph network, whose batch is one graph with several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6)
        self.bend, self.pool, self.head = nn.Tanh(), nn.Identity(), nn.Linear(6, 3)

    def forward(self, x: Tensor, source: Tensor, target: Tensor, ids: Tensor, count: int) -> Any:
        def spread(h: Tensor) -> Tensor:
            return h + torch.zeros_like(h).index_add(0, target, h[source])

        h = self.bend(self.two(spread(self.act(self.one(spread(x))))))
        return self.head(self.pool(torch.zeros(count, 6, dtype=h.dtype).index_add(0, ids, h)))


class Lone(nn.Module):
    """The same for one graph with a batch of its own, x ``[1, n, 4]``, with the batch first at its layers."""

    def __init__(self, net: Graphs, source: Tensor, target: Tensor):
        super().__init__()
        self.net, self.source, self.target = net, source, target
        self.act, self.bend, self.pool = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        def spread(h: Tensor) -> Tensor:
            return h + torch.zeros_like(h).index_add(1, self.target, h[:, self.source])

        h = self.act(self.net.act(self.net.one(spread(x))))
        h = self.bend(self.net.bend(self.net.two(spread(h))))
        return self.net.head(self.pool(h.sum(1)))


def made() -> tuple[Graphs, Any, Tensor]:
    torch.manual_seed(0)
    net = Graphs().double().eval()
    model = functools.partial(net, source=SOURCE, target=TARGET, ids=IDS, count=N)
    return net, model, torch.randn(R, 4, dtype=D)


def looped(method: Callable[..., Any], net: Graphs, x: Tensor, rows: dict[str, Tensor] | None = None, **options: Any) -> Tensor:
    """The method for each graph alone; `rows` are arguments with a row for each node."""
    found: Any = None
    for n in range(N):
        mine = torch.eq(IDS, n).nonzero()[:, 0]
        number = torch.full((R,), -1)
        number[mine] = torch.arange(len(mine))
        inside = IDS[SOURCE] == n
        lone = Lone(net, number[SOURCE[inside]], number[TARGET[inside]]).eval()
        own = {name: t[mine][None] for name, t in (rows or {}).items()}
        each = method(lone, x[mine][None], **options, **own)[0]
        if options.get("layer") == "pool":
            each, mine = each[None], torch.tensor([n])
        found = torch.zeros(N if options.get("layer") == "pool" else R, *each.shape[1:], dtype=D) if found is None else found
        found[mine] = each
    return found


MASK = torch.arange(4).expand(R, 4) // 2
START = torch.randn(R, 4, dtype=D, generator=torch.Generator().manual_seed(1))
#: A method, its arguments, those with a row for each node, and whether it is asked at layers too.
METHODS: list[tuple[str, Any, dict[str, Any], dict[str, Tensor], bool]] = [
    ("gradient", fa.gradient, {}, {}, True),
    ("input_x_gradient", fa.input_x_gradient, {}, {}, True),
    ("integrated_gradients", fa.integrated_gradients, {"n_steps": 9}, {}, True),
    ("its rows", fa.integrated_gradients, {"n_steps": 9}, {"baselines": START}, True),
    ("its rtol", fa.integrated_gradients, {"n_steps": 100, "rtol": 0.3}, {}, False),
    ("conductance", fa.conductance, {"n_steps": 9}, {}, True),
    ("internal_influence", fa.internal_influence, {"n_steps": 9}, {}, True),
    ("deep_lift", fa.deep_lift, {}, {"baselines": START}, True),
    ("guided_backprop", fa.guided_backprop, {}, {}, True),
    ("lrp", fa.lrp, {}, {}, True),
    ("feature_ablation", fa.feature_ablation, {}, {}, True),
    ("its groups", fa.feature_ablation, {}, {"feature_mask": MASK, "baselines": START}, False),
    ("shapley", fa.shapley, {}, {"feature_mask": MASK}, False),
    ("noise_tunnel", fa.noise_tunnel(fa.gradient, stdevs=0.0, n_samples=2), {}, {}, True),
    ("multiply", fa.multiply(fa.gradient, fa.saliency), {}, {}, True),
    ("normalize", fa.normalize(fa.gradient), {}, {}, True),
]


@pytest.mark.parametrize(
    ("name", "method", "options", "rows", "layered", "layer"),
    breadth(
        [(*m, layer) for m in METHODS for layer in (None, "act", "bend", "pool") if layer is None or m[4]],
        lambda case: case[0],
    ),
)
@pytest.mark.filterwarnings("ignore:. of . examples have not come")
def test_each_row_has_what_its_graph_alone_would_give(
    name: str, method: Any, options: dict[str, Any], rows: dict[str, Tensor], layered: bool, layer: str | None
) -> None:
    net, model, x = made()
    options = options | {"target": 1} | ({} if layer is None else {"layer": layer})
    found = fa.by_examples(method, IDS)(model, x, **options, **rows)
    close(found, looped(method, net, x, rows, **options))


CAMS = [fa.grad_cam, fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam, fa.eigen_cam, fa.ablation_cam]


@pytest.mark.parametrize("cam", CAMS, ids=[cam.__name__ for cam in CAMS])
def test_maps_of_nodes(cam: Any) -> None:
    """Graphs of other sizes: means are over the nodes that a graph has."""
    net, model, x = made()
    options: dict[str, Any] = {"layer": "act", "channel_dim": -1} | ({} if cam is fa.eigen_cam else {"target": 1})
    close(fa.by_examples(cam, IDS)(model, x, **options), looped(cam, net, x, **options))


def test_grad_cam_by_hand() -> None:
    net, model, x = made()
    value = net.act(net.one(x + torch.zeros_like(x).index_add(0, TARGET, x[SOURCE]))).detach().requires_grad_()
    h = net.bend(net.two(value + torch.zeros_like(value).index_add(0, TARGET, value[SOURCE])))
    scores = net.head(torch.zeros(N, 6, dtype=D).index_add(0, IDS, h))[:, 2]
    (slope,) = torch.autograd.grad(scores.sum(), value)
    want = torch.stack([(slope[torch.eq(IDS, IDS[r])].mean(0) * value[r]).sum(0, keepdim=True) for r in range(R)]).detach()
    close(fa.by_examples(fa.grad_cam, IDS)(model, x, layer="act", target=2, channel_dim=-1), want)


def test_combinators_inside_and_outside() -> None:
    net, model, x = made()
    each = torch.stack([looped(fa.feature_ablation, net, x, layer="act", target=t) for t in (0, 2)])
    close(fa.by_examples(fa.each_target(fa.feature_ablation, [0, 2]), IDS)(model, x, layer="act"), each)
    close(fa.each_target(fa.by_examples(fa.feature_ablation, IDS), [0, 2])(model, x, layer="act"), each)
    picks = [lambda out: out[:, 0], lambda out: out[:, 2]]
    close(fa.each_target(fa.by_examples(fa.feature_ablation, IDS), picks)(model, x, layer="act"), each)
    for one, want in zip(
        fa.by_examples(fa.gradient, IDS)(model, x, layer=["act", None, "pool"], target=1),
        [looped(fa.gradient, net, x, layer=layer, target=1) for layer in ("act", None, "pool")],
    ):
        close(one, want)
    alone = torch.stack([looped(fa.deep_lift, net, x, target=1, baselines=b[None, None]) for b in START])
    close(fa.by_examples(fa.deep_lift_shap, IDS)(model, x, target=1, baselines=START), alone.mean(0))
    found, error = fa.by_examples(fa.integrated_gradients, IDS)(model, x, target=1, rtol=0.5, return_error=True)
    assert (found.shape, error.shape) == (x.shape, (N,))


@pytest.mark.parametrize("target", [[2, 0, 1], torch.tensor([2, 0, 1]), "argmax", fa.neuron("bend", (slice(None), 3))])
def test_targets_are_those_of_examples(target: Any) -> None:
    net, model, x = made()
    found = fa.by_examples(fa.integrated_gradients, IDS)(model, x, target=target, n_steps=5)
    kinds = range(3) if not isinstance(target, (str, fa._types.Neuron)) else [target]
    every = [looped(fa.integrated_gradients, net, x, target=kind, n_steps=5) for kind in kinds]
    close(found, every[0] if len(every) == 1 else torch.stack(every)[torch.as_tensor(target)[IDS], torch.arange(R)])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
@settings(max_examples=25, deadline=None)
def test_bags_of_any_sizes(ids: list[int]) -> None:
    """Rows in any order, and bags without any: a loop of plain autograd, and of plain differences."""
    number, count = torch.tensor(ids), max(ids) + 1
    torch.manual_seed(len(ids))
    x, weight = torch.randn(len(ids), 3, dtype=D), torch.randn(3, 2, dtype=D)

    def model(x: Tensor) -> Tensor:
        return torch.zeros(count, 3, dtype=D).index_add(0, number, x.sin()).square() @ weight

    want = torch.zeros_like(x)
    for node, part in zip(*np.polynomial.legendre.leggauss(4)):
        point = ((node + 1) / 2 * x).requires_grad_()
        want += part / 2 * torch.autograd.grad(model(point)[:, 1].sum(), point)[0] * x
    close(fa.by_examples(fa.integrated_gradients, number)(model, x, target=1, n_steps=4), want)
    lost = torch.zeros_like(x)
    for r in range(len(ids)):
        for c in range(3):
            less = x.clone()
            less[r, c] = 0
            lost[r, c] = (model(x) - model(less))[number[r], 1]
    close(fa.by_examples(fa.feature_ablation, ids)(model, x, target=1), lost)


@pytest.mark.parametrize("named", [False, True])
def test_nodes_edges_and_graphs(named: bool) -> None:
    """Several inputs: features of nodes, of edges, and of whole graphs."""
    torch.manual_seed(0)
    node, edge, head = nn.Linear(4, 5).double(), nn.Linear(2, 5).double(), nn.Linear(6, 3).double()
    inputs = {"x": torch.randn(R, 4, dtype=D), "e": torch.randn(6, 2, dtype=D), "u": torch.randn(N, 1, dtype=D)}
    ids = {"x": IDS, "e": IDS[SOURCE[:6]]}

    def model(x: Tensor, e: Tensor, u: Tensor) -> Any:
        h = node(x)
        h = torch.tanh(h + torch.zeros_like(h).index_add(0, TARGET[:6], h[SOURCE[:6]] * edge(e)))
        return head(torch.cat([torch.zeros(N, 5, dtype=D).index_add(0, IDS, h), u], 1))

    x: Any = inputs if named else tuple(inputs.values())
    examples: Any = ids if named else (*ids.values(), None)
    leaves = [t.clone().requires_grad_() for t in inputs.values()]
    slopes = torch.autograd.grad(model(*leaves)[:, 1].sum(), leaves)
    found = fa.by_examples(fa.gradient, examples)(model, x, target=1)
    for one, want in zip(found.values() if named else found, slopes):
        close(one, want)
    ablated = fa.by_examples(fa.feature_ablation, examples)(model, x, target=1)
    for k, (one, own) in enumerate(zip(ablated.values() if named else ablated, (ids["x"], ids["e"], torch.arange(N)))):
        for at in np.ndindex(*one.shape):
            less = [t.clone() for t in inputs.values()]
            less[k][at] = 0
            close(one[at], (model(**inputs) - model(*less))[own[at[0]], 1].detach())


def test_transforms() -> None:
    _net, model, x = made()
    both = torch.stack([x, 2 * x])
    for method in (fa.integrated_gradients, fa.deep_lift, fa.feature_ablation):
        ours = functools.partial(fa.by_examples(method, IDS), model, target=1)
        close(torch.func.vmap(ours)(both), torch.stack([ours(one) for one in both]))
    few = functools.partial(fa.integrated_gradients, n_steps=4)
    point = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(fa.by_examples(few, IDS)(model, point, target=1, create_graph=True).square().sum(), point)
    total: Any = 0
    for node, part in zip(*np.polynomial.legendre.leggauss(4)):
        at = (node + 1) / 2 * point
        total = total + part / 2 * torch.autograd.grad(model(at)[:, 1].sum(), at, create_graph=True)[0]
    close(found, torch.autograd.grad((total * point).square().sum(), point)[0])


@pytest.mark.full
@pytest.mark.parametrize(
    ("method", "options"),
    [(fa.integrated_gradients, {"n_steps": 3}), (fa.grad_cam, {"layer": "act", "channel_dim": -1}), (fa.deep_lift, {})],
)
def test_compiled(method: Any, options: dict[str, Any]) -> None:
    _net, model, x = made()
    ours = fa.by_examples(method, IDS)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, target=1, **options), ours(model, x, target=1, **options))


# Without it.


def test_rows_that_are_shown_to_be_parts_of_examples() -> None:
    """Each row has a gradient of one of the scores alone, and there are as many for each: an answer, and a warning."""
    ids, x = torch.tensor([0, 2, 1, 1, 0, 2]), torch.randn(6, 4, dtype=D)
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()

    def model(x: Tensor) -> Any:
        return head(torch.zeros(3, 5, dtype=D).index_add(0, ids, layer(x).tanh()))

    told = "the score has 3 values for the 6 rows of x. Each row has a gradient of one of them alone"
    for method in (fa.integrated_gradients, fa.feature_ablation, fa.deep_lift, fa.relu(fa.gradient)):
        for place in (None, layer):
            with pytest.warns(UserWarning, match=told):
                found = method(model, x, layer=place, target=1)
            close(found, fa.by_examples(method, ids)(model, x, layer=place, target=1))
    each = fa.each_target(fa.gradient, [1, 0])  # which has the targets: the call has none
    with pytest.warns(UserWarning, match=told):
        close(each(model, x), fa.by_examples(each, ids)(model, x))
    of_two: Any = fa.each_target(fa.gradient, [lambda output: output[0][:, 1], lambda output: output[1][:, 0]])
    with pytest.raises(ValueError, match="the score has 3 values for the 6 examples of x: the target must"):
        of_two(lambda x: (model(x), model(x)), x)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x[:2],  # rows that nothing depends on
        lambda x: x.mean(0, keepdim=True),
        lambda x: torch.zeros(3, 4).index_add(0, IDS, x),  # examples of other sizes
        lambda x: x[:3] + x[3:6] * x[6:],  # a row that two scores depend on
        lambda x: torch.cat([x, x]),
    ],
)
def test_rows_that_are_not_shown_to_be_parts_of_examples(model: Any) -> None:
    with pytest.raises(ValueError, match=r"the score has \d+ values for the 7 examples of x: the first dimension"):
        fa.gradient(model, torch.randn(7, 4), target=1)


def test_refused_in_words() -> None:
    _net, model, x = made()
    with pytest.raises(ValueError, match="examples has the numbers of 2 rows, and there x is \\[7, 4\\]"):
        fa.by_examples(fa.gradient, [0, 1])(model, x, target=1)
    with pytest.raises(TypeError, match=r"by_examples\(\): examples is a tensor of torch.float32, expected integers"):
        fa.by_examples(fa.gradient, torch.zeros(7))
    with pytest.raises(ValueError, match="examples holds -1: number the examples from 0"):
        fa.by_examples(fa.gradient, IDS - 1)
    with pytest.raises(ValueError, match="examples must have the structure of x"):
        fa.by_examples(fa.gradient, (IDS,))(model, x, target=1)
    with pytest.raises(ValueError, match="count channels from the end, channel_dim=-1 for nodes"):
        fa.by_examples(fa.grad_cam, IDS)(model, x, layer="act", target=1)
    with pytest.raises(ValueError, match="depends on how many places an example has"):
        fa.by_examples(fa.lime, IDS)(model, x, target=1)
    with pytest.raises(ValueError, match="the score has 3 values for the 4 examples of x"):
        fa.by_examples(fa.gradient, IDS + 1)(model, x, target=1)


def test_a_mask_of_features_where_there_are_as_many_rows() -> None:
    """By its size it passed for a number of each row, and was refused."""
    x, ids, mask = torch.randn(4, 4), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 2])
    head = nn.Linear(4, 3)

    def bags(x: Tensor) -> Tensor:
        return head(torch.zeros(2, 4).index_add(0, ids, x.tanh()))

    asked: list[dict[str, Any]] = [{"feature_mask": mask}, {"feature_mask": mask, "baselines": torch.linspace(0, 1, 4)}]
    for options in asked:
        found = fa.by_examples(fa.feature_ablation, ids)(bags, x, target=1, **options)
        for n in range(2):
            rows = x[ids == n]
            alone = fa.feature_ablation(lambda x: head(x.tanh().sum(1)), rows[None], target=1, **options)
            torch.testing.assert_close(found[ids == n], alone[0])


@pytest.mark.filterwarnings("ignore:the score has 2 values for the 4 rows")
def test_metrics_of_attributions_of_rows_that_are_parts() -> None:
    """They were refused, where the method that they came from was not."""
    parts, x, found = torch.tensor([0, 0, 1, 1]), torch.randn(4, 3), torch.randn(4, 3)

    def bags(x: Tensor) -> Tensor:
        return torch.zeros(2).index_add(0, parts, x.sin().prod(1))

    def whole(x: Tensor) -> Tensor:
        return x.sin().prod(2).sum(1)

    for metric in (fa.metrics.deletion, fa.metrics.comprehensiveness):
        torch.testing.assert_close(metric(found, bags, x), metric(found.reshape(2, 2, 3), whole, x.reshape(2, 2, 3)))
    calls: list[Callable[[], Any]] = [
        lambda: fa.game(bags, x).value(torch.ones(1, 3, dtype=torch.bool)),  # torch's words came
        lambda: fa.metrics.deletion(
            found[:3], lambda x: x[:2].sum(1), x[:3]
        ),  # told to take by_examples, which takes no metric
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"where rows are parts of examples, ask each example alone\.$"):
            call()
