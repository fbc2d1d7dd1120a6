"""Several targets of one call: each row is what its own call gives, and the model runs no more often than for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..close import close, close_and_not_zero
from ..cost import cost
from ..reference import gauss
from ..where.test_answers import ANSWER, IDS, NET

LIKELY = fa.log_likelihood(ANSWER)
#: Tokens, other callables, an index of a position and a class, one of each example: all that read the output.
MIXED: list[Any] = [*fa.tokens(ANSWER), LIKELY, fa.contrast(2, 3), (6, 4), [(5, 1), (2, 3)]]
BASES = torch.stack([torch.full((8,), 2), torch.full((8,), 7)])
SPANS = (torch.arange(8) // 3)[None, :, None]
HELD = torch.where(torch.arange(8) < 5, 3, IDS)


@pytest.fixture
def passes() -> Iterator[list[int]]:
    runs: list[int] = []
    handle = NET.head.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


def own(model: Any, x: Any, *, layer: Any = None, target: Any = None) -> Tensor:
    """A method of one's own, of which nothing is known."""
    value, slope = fa.value_and_gradient(model, x, layer=layer, target=target)
    return torch.relu(slope) * value.square()


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


#: Makers, so that each call draws from a generator of its own.
METHODS: dict[str, Callable[[], Any]] = {
    "gradient": lambda: fa.gradient,
    "input_x_gradient": lambda: fa.input_x_gradient,
    "sum_channels": lambda: fa.sum_channels(fa.input_x_gradient, channel_dim=-1),
    "sum_groups(normalize(relu))": lambda: fa.sum_groups(fa.normalize(fa.relu(fa.gradient)), [0, 0, 1, 1, 1, 2, 3, 3]),
    "multiply": lambda: fa.multiply(fa.gradient, fa.saliency),
    "grad_cam": lambda: partial(fa.grad_cam, channel_dim=-1),
    "ablation_cam": lambda: partial(fa.ablation_cam, channel_dim=-1),
    "integrated_gradients": lambda: partial(fa.integrated_gradients, n_steps=4, baselines=HELD),
    "integrated_gradients, one by one": lambda: partial(fa.integrated_gradients, n_steps=4, baselines=HELD, chunk_size=1),
    "deep_lift": lambda: partial(fa.deep_lift, baselines=HELD),
    "deep_lift_shap": lambda: partial(fa.deep_lift_shap, baselines=BASES),
    "gradient_shap": lambda: partial(fa.gradient_shap, baselines=BASES, n_samples=3, generator=seeded()),
    "feature_ablation": lambda: fa.feature_ablation,
    "occlusion": lambda: partial(fa.occlusion, window=(3, 6)),
    "shapley": lambda: partial(fa.shapley, feature_mask=SPANS, generator=seeded()),
    "shapley, sampled": lambda: partial(fa.shapley, feature_mask=SPANS, n_samples=30, generator=seeded()),
    "lime": lambda: partial(fa.lime, feature_mask=SPANS, n_samples=30, generator=seeded()),
    "mean_over_baselines": lambda: partial(
        fa.mean_over_baselines(partial(fa.integrated_gradients, n_steps=3)), baselines=BASES
    ),
    "noise_tunnel": lambda: fa.sum_channels(fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.1, generator=seeded())),
    "own": lambda: own,
}
#: Those whose samples or baselines run one after another, where a single target has them in one batch.
APART = {"noise_tunnel": 4}


#: What is asked of one tensor here: groups, spans and windows, noise at a layer, and a method that knows no dict.
IN_A_TENSOR = {"own", "noise_tunnel", "sum_groups(normalize(relu))", "occlusion", "shapley", "shapley, sampled", "lime"}


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("layer", ["embed", fa.input_of("mix", call=-1), {"a": "embed"}], ids=["embed", "call", "dict"])
@pytest.mark.parametrize("name", METHODS)
def test_each_row_is_its_own_call(name: str, layer: Any, chunk_size: Any, passes: list[int]) -> None:
    """The law, and the passes: as many for all as for one, whatever `chunk_size` is."""
    if isinstance(layer, dict) and name in IN_A_TENSOR:
        return
    made, targets = METHODS[name], MIXED
    if name == "own":
        targets = [t for t in MIXED if callable(t)]  # an index is left to it
    alone = [made()(NET, IDS, layer=layer, target=target) for target in targets]
    one = len(passes) // len(targets)
    passes.clear()
    found = fa.each_target(made(), targets, chunk_size=chunk_size)(NET, IDS, layer=layer)
    stack = [a["a"] if isinstance(layer, dict) else a for a in alone]
    close_and_not_zero(found["a"] if isinstance(layer, dict) else found, torch.stack(stack))
    assert len(passes) in (one, APART.get(name, one) + (name in APART and not isinstance(layer, str)) * 3)


def test_rows_are_a_loop_of_plain_autograd() -> None:
    leaf = NET.embed(IDS).detach().requires_grad_()
    handle = NET.embed.register_forward_hook(lambda *_: leaf)
    logits = NET(IDS)["logits"]
    handle.remove()
    rows = []
    for t in range(3):
        p = torch.log_softmax(logits[:, 4 + t], -1)[torch.arange(2), ANSWER[:, t]]
        rows.append(torch.autograd.grad(p.sum(), leaf, retain_graph=True)[0] * leaf.detach())
    found = fa.each_target(fa.input_x_gradient, fa.tokens(ANSWER))(NET, IDS, layer="embed")
    close_and_not_zero(found, torch.stack(rows))
    close(found.sum(0), fa.input_x_gradient(NET, IDS, layer="embed", target=LIKELY))
    for t in range(3):  # nothing at or after a token's own place
        assert not found[t][:, 5 + t :].any()
    for method in (partial(fa.integrated_gradients, n_steps=5, baselines=3), fa.deep_lift, fa.feature_ablation):
        every = fa.each_target(method, fa.tokens(ANSWER))(NET, IDS, layer="embed")
        total = method(NET, IDS, layer="embed", target=LIKELY)
        close_and_not_zero(every.sum(0), total)


def test_conductance_and_influence_of_embeddings() -> None:
    """Paths in the input, with sites further on."""

    class FromVectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mix(x)).cumsum(1))

    model, x = FromVectors().double(), torch.randn(2, 4, 6, dtype=torch.float64)
    targets: list[Any] = [(3, 1), (2, 0), fa.contrast(1, 2), fa.log_likelihood([3, 4])]
    shap = partial(fa.gradient_shap, baselines=x.flip(0), n_samples=3)
    for method in (fa.conductance, fa.internal_influence, partial(fa.integrated_gradients, n_steps=7), shap):
        layers: list[Any] = [None, "mix", [fa.input_of("head"), None]]
        for layer in layers:
            options: dict[str, Any] = {"generator": seeded()} if method is shap else {}
            if method is not fa.conductance and isinstance(layer, list) and method is not fa.internal_influence:
                continue
            rows = fa.each_target(method, targets)(model, x, layer=layer, **options)
            for t, target in enumerate(targets):
                again: dict[str, Any] = {"generator": seeded()} if method is shap else {}
                alone = method(model, x, layer=layer, target=target, **again)
                close([part[t] for part in rows] if isinstance(layer, list) else rows[t], alone)


def test_what_stays_one_by_one(passes: list[int]) -> None:
    """Neurons, the predicted class, and what runs under a transform."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    targets: list[Any] = [2, fa.neuron("0", 1), "argmax", lambda out: out[:, 3] ** 2, [0, 1, 2], (4,)]
    for method in (
        fa.gradient,
        partial(fa.integrated_gradients, n_steps=5),
        fa.deep_lift,
        fa.feature_ablation,
        fa.guided_backprop,
    ):
        stack = torch.stack([method(model, x, target=target) for target in targets])
        close_and_not_zero(fa.each_target(method, targets)(model, x), stack)
        mapped = torch.func.vmap(lambda e: fa.each_target(method, targets[:1] + targets[3:4])(model, e[None])[:, 0], out_dims=1)  # noqa: B023  called before the loop goes on
        if method is not fa.deep_lift:
            close(mapped(x), stack[[0, 3]])
    leaf = x.clone().requires_grad_()
    again = fa.each_target(fa.gradient, targets[3:5])(model, leaf, create_graph=True)
    expected = torch.stack([fa.gradient(model, leaf, target=t, create_graph=True) for t in targets[3:5]])
    close(torch.autograd.grad(again.square().sum(), leaf), torch.autograd.grad(expected.square().sum(), leaf))
    guided = fa.each_target(fa.guided_backprop, targets[3:5])(model, leaf, create_graph=True)
    close(guided, torch.stack([fa.guided_backprop(model, x, target=t) for t in targets[3:5]]))


def test_compiled() -> None:
    """In one graph, with the passes of one target in it."""
    ran: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        ran.append(sum("linear" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    for targets in (fa.tokens(ANSWER), [fa.contrast(2, 3)]):
        every = fa.each_target(fa.sum_channels(fa.input_x_gradient, channel_dim=-1), targets)
        compiled = torch.compile(lambda ids: every(NET, ids, layer="embed"), backend=counting, fullgraph=True)  # noqa: B023  called before the loop goes on
        close_and_not_zero(compiled(IDS), every(NET, IDS, layer="embed"))
    assert ran[0] == ran[1]


COMPILED: list[Any] = [
    fa.multiply(fa.gradient, fa.saliency),
    partial(fa.grad_cam, channel_dim=-1),
    partial(fa.integrated_gradients, n_steps=2),
]


@pytest.mark.full
@pytest.mark.parametrize("method", COMPILED)
def test_compiled_rows_are_those_of_eager_calls(method: Any) -> None:
    every = fa.each_target(method, MIXED[2:4])
    compiled = torch.compile(lambda ids: every(NET, ids, layer="embed"), backend="aot_eager", fullgraph=True)
    close_and_not_zero(compiled(IDS), every(NET, IDS, layer="embed"))


def test_a_method_may_ask_something_else_for_each_target() -> None:
    """What one call left is not another's, if it asks about another input."""
    count = iter(range(100))

    def moving(model: Any, x: Tensor, *, target: Any = None) -> Tensor:
        return fa.gradient(model, x + next(count), target=target)

    x = torch.randn(2, 4, 3, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return x**3 / 3

    found = fa.each_target(moving, [fa.contrast(0, 1, position=p) for p in range(3)])(model, x)
    for t in range(3):
        assert torch.allclose(found[t, :, t, 0], (x[:, t, 0] + t) ** 2)


def test_a_method_of_ones_own_may_call_its_target() -> None:
    """What it is given in its place is called as it is, and `score` takes it."""
    x, weight = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def direct(model: Any, x: Tensor, *, target: Any = None) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad((target(model(leaf)) + fa.score(model(leaf), target)).sum(), leaf)[0]

    found = fa.each_target(direct, [lambda out: out[:, 1], lambda out: out[:, 2] ** 2])(lambda x: x @ weight, x)
    close(found[0], 2 * weight[:, 1].expand(2, 3))
    close(found[1], 4 * (x @ weight)[:, 2:3] * weight[:, 2])


def test_rows_of_a_model_that_writes_what_its_graph_needs() -> None:
    """Two passes for each row, and a buffer that is put back between them: their graphs are not used again."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.linspace(0.5, 1.5, 6, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.scale.mul_(0.5).add_(0.2)
            return torch.tanh(x * self.scale)

    model, x = Writes(), torch.randn(2, 6, dtype=torch.float64)
    before = model.scale.clone()
    targets = [lambda out, k=k: out[:, k] for k in range(4)]
    method = fa.multiply(fa.gradient, fa.saliency)
    found = fa.each_target(method, targets)(model, x)
    close_and_not_zero(found, torch.stack([method(model, x, target=target) for target in targets]))
    assert torch.equal(model.scale, before)  # type: ignore[arg-type]  # a buffer, a Tensor or a Module to mypy


# Costs.


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.heads, self.out = nn.LayerNorm(size), nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide, self.narrow = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in self.heads(self.norm(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return h + self.narrow(F.gelu(self.wide(h)))


class Wide(nn.Module):
    """Attention, and a large vocabulary: logits are most of the memory."""

    def __init__(self, words: int = 1500, size: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.blocks = nn.Sequential(*[Block(size) for _ in range(3)])
        self.head = nn.Linear(size, words)

    def forward(self, ids: Tensor, keep: int = 0) -> Tensor:
        h = self.blocks(self.embed(ids))
        return self.head(h[:, -keep:] if keep else h)


WIDE = Wide().eval().requires_grad_(False)
LONG = torch.randint(0, 1500, (1, 96))


def by_hand(keep: int, length: int, rows: bool) -> list[Tensor]:
    """One forward pass from a leaf at the embeddings, with the positions sliced first, and one or several back."""
    leaf = WIDE.embed(LONG).requires_grad_()
    handle = WIDE.embed.register_forward_hook(lambda *_: leaf)
    z = WIDE(LONG, keep)[:, -length - 1 : -1]
    handle.remove()
    p = torch.log_softmax(z, -1).gather(2, LONG[:, -length:, None]).squeeze()
    del z
    if not rows:
        return [torch.autograd.grad(p.sum(), leaf)[0] * leaf.detach()]
    every = [torch.autograd.grad(p[t], leaf, retain_graph=t + 1 < length)[0] for t in range(length)]
    return [(g * leaf.detach()).sum(-1, keepdim=True) for g in every]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("length", [2, 12, pytest.param(40, marks=pytest.mark.full)])
def test_costs_of_one_pass(keep: bool, length: int) -> None:
    kept = length + 1 if keep else 0
    model = partial(WIDE, keep=kept)
    hand = cost(lambda: by_hand(kept, length, rows=False))
    answer = LONG[:, -length:]
    found = cost(lambda: fa.input_x_gradient(model, LONG, layer="embed", target=fa.log_likelihood(answer)))
    assert found.flops <= 1.02 * hand.flops
    assert found.peak <= 1.1 * hand.peak
    rows = cost(lambda: by_hand(kept, length, rows=True))
    runs: list[int] = []
    handle = WIDE.blocks.register_forward_hook(lambda *_: runs.append(1))
    summed = fa.sum_groups(fa.sum_channels(fa.input_x_gradient, channel_dim=-1), [0] * 40 + [1] * 56)
    for method in (fa.sum_channels(fa.input_x_gradient, channel_dim=-1), summed, fa.normalize(fa.relu(summed))):
        runs.clear()
        every = cost(lambda: fa.each_target(method, fa.tokens(answer))(model, LONG, layer="embed"))  # noqa: B023  called before the loop goes on
        assert len(runs) == 1
        assert every.flops <= 1.02 * rows.flops
        assert every.peak <= 1.3 * hand.peak
    handle.remove()
    raw = cost(lambda: fa.each_target(fa.input_x_gradient, fa.tokens(answer))(model, LONG, layer="embed"))
    assert raw.peak <= 1.3 * hand.peak + 2 * length * 96 * 32 * 4


@pytest.mark.parametrize("count", [3, pytest.param(40, marks=pytest.mark.full)])
def test_costs_of_classes(count: int) -> None:
    """Plain classes are targets like others."""

    def classes(ids: Tensor) -> Tensor:
        return WIDE(ids, 1)[:, 0]

    one = cost(lambda: fa.gradient(classes, LONG, layer=WIDE.embed, target=0))
    forward = cost(lambda: classes(LONG)).flops
    for method, kept in ((fa.sum_channels(fa.gradient, channel_dim=-1), 0), (fa.gradient, 2 * count * 96 * 32 * 4)):
        found = cost(lambda: fa.each_target(method, range(count))(classes, LONG, layer=WIDE.embed))  # noqa: B023  called before the loop goes on
        assert found.flops <= 1.02 * (forward + count * (one.flops - forward))
        assert found.peak <= 1.3 * one.peak + kept


def test_costs_of_steps_and_groups() -> None:
    answer, n = LONG[:, -6:], 4
    model = partial(WIDE, keep=7)
    forward = cost(lambda: model(LONG)).flops
    backward = cost(lambda: by_hand(7, 6, rows=False)).flops - forward
    spans = torch.arange(96)[None] // 24
    call: dict[str, Any] = {"layer": "embed", "baselines": LONG.flip(1), "n_steps": n}
    every = fa.each_target(fa.sum_channels(fa.integrated_gradients, channel_dim=-1), fa.tokens(answer))
    for chunk_size in (1, 2, None):
        found = cost(lambda: every(model, LONG, **call, chunk_size=chunk_size))  # noqa: B023  called before the loop goes on
        assert found.flops <= 1.05 * (n * forward + 6 * n * backward)
    every = fa.each_target(fa.feature_ablation, fa.tokens(answer))
    one = cost(lambda: fa.feature_ablation(model, LONG, feature_mask=spans, target=fa.log_likelihood(answer)))
    all_of_them = cost(lambda: every(model, LONG, feature_mask=spans))
    assert all_of_them.flops == one.flops <= 1.02 * (4 + 1) * forward
    assert all_of_them.peak <= 1.1 * one.peak


def test_outputs_of_a_vocabulary_limit_how_many_steps_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step shows how large the logits are; the result is what it was."""
    monkeypatch.setattr("funattr._steps.chunks.ROOM", 1 << 20)  # 96 x 1,500 numbers are more than half of it
    target, spans = fa.log_likelihood(LONG[:, -6:]), torch.arange(96)[None] // 8
    one = cost(lambda: by_hand(0, 6, rows=False)).peak
    calls: list[Callable[[], Any]] = [
        lambda: fa.integrated_gradients(WIDE, LONG, layer="embed", baselines=3, n_steps=8, target=target),
        lambda: fa.feature_ablation(WIDE, LONG, baselines=3, feature_mask=spans, target=target),
        lambda: fa.feature_ablation(WIDE, LONG, layer="embed", feature_mask=spans[..., None], target=target),
    ]
    few = [call() for call in calls]
    for call in calls:
        assert cost(call).peak <= 1.5 * one
    monkeypatch.setattr("funattr._steps.chunks.ROOM", 1 << 40)
    for call, found in zip(calls, few):
        assert cost(call).peak > 1.5 * one
        close(found, call(), 1e-5)


def test_integrated_gradients_of_the_rows_by_hand() -> None:
    """A loop over nodes and tokens."""
    target, n = fa.tokens(ANSWER), 5
    found = fa.each_target(partial(fa.integrated_gradients, n_steps=n), target)(NET, IDS, layer="embed", baselines=HELD)
    end, start = NET.embed(IDS).detach(), NET.embed(HELD).detach()
    total = torch.zeros(3, *end.shape, dtype=torch.float64)
    for node, weight in gauss(n):
        leaf = (start + node * (end - start)).requires_grad_()
        handle = NET.embed.register_forward_hook(lambda *_, leaf=leaf: leaf)
        logits = NET(IDS)["logits"]
        handle.remove()
        for t in range(3):
            p = torch.log_softmax(logits[:, 4 + t], -1)[torch.arange(2), ANSWER[:, t]].sum()
            total[t] += weight * torch.autograd.grad(p, leaf, retain_graph=True)[0]
    close_and_not_zero(found, total * (end - start))


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="leave target out"):
        fa.each_target(fa.gradient, fa.tokens(ANSWER))(NET, IDS, layer="embed", target=1)
    with pytest.raises(ValueError, match=r"each_target\(gradient\).*last 9 positions"):
        fa.each_target(fa.gradient, fa.tokens(torch.zeros(8, dtype=torch.long)))(NET, IDS, layer="embed")
    with pytest.raises(ValueError, match="empty"):
        fa.each_target(fa.gradient, fa.tokens(ANSWER)[3:])
