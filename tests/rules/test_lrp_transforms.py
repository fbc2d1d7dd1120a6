"""Relevance under what goes around a method: transforms of attention, threads, neurons, combinators, exported programs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close
from ..exported import operations_of
from ..models import CASES, case_id, double
from .test_lrp import NET, SETS, X

torch.manual_seed(0)
TOKENS = torch.randn(2, 5, 8, dtype=torch.float64)
OF_ATTENTION = {"attn_lrp": R.attn_lrp(), "cp_lrp": R.cp_lrp(), "frozen": R.frozen(), "epsilon": R.epsilon(0.1)}


class Encoder(nn.Module):
    """A layer of attention with a gate after it, which runs fused where nothing has to be seen inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True)
        self.gate, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, t: Tensor) -> Tensor:
        h = self.layer(t)
        out: Tensor = self.head((h * nn.functional.silu(self.gate(h))).mean(1))
        return out


ENCODER = Encoder().double().eval()


@pytest.mark.parametrize("name", breadth(OF_ATTENTION, lambda name: name == "attn_lrp"))
def test_transforms_of_attention(name: str) -> None:
    def method(x: Tensor, target: int = 1, **options: Any) -> Tensor:
        found: Tensor = fa.lrp(ENCODER, x, target=target, rules=OF_ATTENTION[name], **options)
        return found

    found = method(TOKENS)
    close(torch.func.vmap(lambda x: method(x[None])[0])(TOKENS), found, 1e-10)
    close(torch.cat([method(x[None]) for x in TOKENS]), found, 1e-10)
    rows = fa.each_target(fa.lrp, [2, 1])(ENCODER, TOKENS, rules=OF_ATTENTION[name])
    close(rows, torch.stack([method(TOKENS, 2), found]), 1e-10)
    sites = [None, "layer.norm1", "layer.linear1"]
    for site, part in zip(sites, method(TOKENS, layer=sites)):
        close(part, method(TOKENS, layer=site), 1e-12)


@pytest.mark.full
@pytest.mark.parametrize("name", OF_ATTENTION)
def test_attention_compiled(name: str) -> None:
    def method(x: Tensor) -> Tensor:
        found: Tensor = fa.lrp(ENCODER, x, target=1, rules=OF_ATTENTION[name])
        return found

    close(torch.compile(method, backend="aot_eager", fullgraph=True)(TOKENS), method(TOKENS), 1e-10)
    torch._dynamo.reset()


@pytest.mark.full
@pytest.mark.parametrize("method", [partial(fa.lrp, rules=fa.rules.attn_lrp()), fa.deep_lift])
def test_attention_with_a_padding_mask_compiled(method: Any) -> None:
    model, x = double(next(case for case in CASES if case_id(case) == "masked"))
    close(torch.compile(method, backend="aot_eager", fullgraph=True)(model, x, target=1), method(model, x, target=1), 1e-10)  # type: ignore[no-untyped-call]  # torch has no types for it
    torch._dynamo.reset()


@pytest.mark.parametrize("name", breadth(OF_ATTENTION, lambda name: name == "attn_lrp"))
def test_the_derivative_of_attention_is_that_of_the_relevance(name: str) -> None:
    way, weight = torch.randn_like(TOKENS), torch.randn_like(TOKENS)

    def total(x: Tensor, **options: Any) -> Tensor:
        return (fa.lrp(ENCODER, x, target=1, rules=OF_ATTENTION[name], **options) * weight).sum()

    x = TOKENS.clone().requires_grad_()
    total(x, create_graph=True).backward()
    assert x.grad is not None
    slope = (total(TOKENS + 1e-6 * way) - total(TOKENS - 1e-6 * way)) / 2e-6
    assert abs((x.grad * way).sum() - slope) < 1e-6 * abs(slope)


@pytest.mark.parametrize("name", breadth(["attention", "convolutions"], lambda name: name == "convolutions"))
def test_an_exported_program_is_as_the_model(name: str) -> None:
    """Its operations are torch's by other names: the same rules meet them."""
    model, x = (ENCODER, TOKENS) if name == "attention" else (NET, X)
    program = operations_of(model, x)
    for rules in (*OF_ATTENTION.values(), *SETS.values()):
        if name == "convolutions" and not {"linear", "activation"} & set(rules):
            continue
        found, kept = fa.lrp(program, x, target=1, rules=rules), fa.absorbed(program, x, target=1, rules=rules)
        close(found, fa.lrp(model, x, target=1, rules=rules), 1e-12)
        close(found.flatten(1).sum(1) + sum(kept.values()), model(x)[:, 1].detach(), 1e-9)


def test_other_threads_see_no_rule() -> None:
    """Each its own, all at once, and a plain gradient among them."""
    asked: dict[str, Callable[[], Any]] = {
        name: functools.partial(fa.lrp, NET, X, target=1, rules=rules) for name, rules in SETS.items()
    }
    asked["gradient"] = functools.partial(fa.gradient, NET, X, target=1)
    alone, found = {name: call() for name, call in asked.items()}, {}
    together = threading.Barrier(len(asked))

    def run(name: str) -> None:
        together.wait()
        found[name] = [asked[name]() for _ in range(3)]

    threads = [threading.Thread(target=run, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, several in found.items():
        assert all(torch.equal(t, alone[name]) for t in several)
    assert len(found) == len(asked)


@pytest.mark.parametrize("name", breadth(SETS, lambda name: name in ("epsilon", "epsilon_plus_flat")))
def test_of_a_neuron_it_is_that_of_the_model_up_to_there(name: str) -> None:
    """And what is absorbed up to there is the rest of the neuron's value."""
    rules = SETS[name]
    for layer, index, cut in (("3", (2, 1, 0), NET[:4]), ("7", (4,), NET[:8])):
        target = fa.neuron(layer, index)
        found, kept = fa.lrp(NET, X, target=target, rules=rules), fa.absorbed(NET, X, target=target, rules=rules)
        close(found, fa.lrp(cut, X, target=index, rules=rules), 1e-12)
        at = (slice(None), *index)
        close(found.flatten(1).sum(1) + sum(kept.values()), cut(X).detach()[at], 1e-9)


@pytest.mark.parametrize("name", breadth(SETS, lambda name: name in ("epsilon_plus_flat", "gamma")))
def test_combinators_take_it(name: str) -> None:
    rules, found = SETS[name], fa.lrp(NET, X, target=1, rules=SETS[name])
    large = fa.interpolate(fa.relu(fa.lrp), size=(9, 9), mode="bilinear")(NET, X, layer="0", target=1, rules=rules)
    at_layer = fa.lrp(NET, X, layer="0", target=1, rules=rules)
    close(large, nn.functional.interpolate(at_layer.relu(), (9, 9), mode="bilinear", align_corners=False), 1e-12)
    still = fa.noise_tunnel(fa.lrp, n_samples=2, stdevs=0.0)(NET, X, target=1, rules=rules)
    close(still, found, 1e-12)
    generator = torch.Generator().manual_seed(4)
    smooth = fa.noise_tunnel(fa.lrp, n_samples=3, stdevs=0.1, generator=generator)(NET, X, target=1, rules=rules)
    ruled = fa.noise_tunnel(fa.under(rules)(fa.input_x_gradient), n_samples=3, stdevs=0.1, generator=generator.manual_seed(4))
    close(smooth, ruled(NET, X, target=1), 1e-12)
    seen: list[Tensor] = []

    def net(x: Tensor) -> Tensor:
        seen.append(x.detach())
        out: Tensor = NET(x)
        return out

    fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.1, generator=generator.manual_seed(4), chunk_size=1)(net, X, target=1)
    close(smooth, torch.stack([fa.lrp(NET, x, target=1, rules=rules) for x in seen[-3:]]).mean(0), 1e-10)


# What is known of a tensor below a transform is what is known of it without.

#: A method under rules, or one of that sort, below the transforms of a combinator, of the caller, and of ours.
BELOW: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "noise_tunnel": lambda method, model, x: fa.noise_tunnel(method, n_samples=3, stdevs=0.0)(model, x, target=1),
    "vmap": lambda method, model, x: torch.func.vmap(lambda t: method(model, t[None], target=1)[0])(x),
    "create_graph": lambda method, model, x: method(model, x.clone().requires_grad_(), target=1, create_graph=True),
}
HALF = torch.randn(8, 8, dtype=torch.float64)

STARTS: dict[str, Callable[[Tensor], Tensor]] = {  # of what is written to: constant under a rule, or not
    "a statistic": lambda h: torch.rsqrt(h**2 + 0.5),
    "a new tensor": lambda h: torch.full(h.shape, 0.3, dtype=h.dtype),
    "zeros like it": lambda h: h.new_zeros(h.shape),
    "elementwise": lambda h: h * 2,
    "detached": lambda h: h.detach() * 1,
}
WRITTEN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a slice": lambda t, h: t[:, 2:].copy_(h[:, 2:]),
    "another shape": lambda t, h: t.view(-1, 4, 2)[:, 1].copy_(h.view(-1, 4, 2)[:, 1]),
    "one column": lambda t, h: t.select(1, 0).copy_(h[:, 0]),
    "transposed": lambda t, h: t.T[2:].copy_(h.T[2:]),
    "itself": lambda t, h: t.add_(h),
    "an index": lambda t, h: t.__setitem__((slice(None), [1, 3]), h[:, :2]),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("start", STARTS)
def test_what_a_model_writes_through_a_view_below_transforms(start: str, written: str) -> None:
    def model(x: Tensor) -> Tensor:
        h = x @ HALF
        t = STARTS[start](h)
        WRITTEN[written](t, h)
        return (t * torch.sigmoid(t)) @ HALF

    x = torch.randn(3, 8, dtype=torch.float64)
    for rules in (R.gamma(0.3, epsilon=0.1), R.attn_lrp()):
        method = fa.under(rules)(fa.input_x_gradient)
        found = method(model, x, target=1)
        for name, way in BELOW.items():
            if name != "vmap" or start != "a new tensor":  # into which torch writes nothing that vmap maps over
                close(way(method, model, x), found, 1e-10)


def squared(h: Tensor) -> Tensor:
    return torch.relu(h) * h


def by_hand(h: Tensor) -> Tensor:
    with torch.no_grad():
        h[:, :2].mul_(2)
    return h


HIDDEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "mapped by the model": (lambda h: torch.func.vmap(squared)(h), "no rule sees"),
    "the same, elementwise": (lambda h: torch.func.vmap(torch.tanh)(h), "no rule sees"),
    "written without a graph": (lambda h: by_hand(h * 1), "behind the graph's back"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_no_rule_sees_is_told_below_transforms(name: str) -> None:
    hides, told = HIDDEN[name]

    def model(x: Tensor) -> Tensor:
        return torch.relu(hides(x @ HALF) @ HALF) @ HALF

    method, x = fa.under(R.gamma(0.3, epsilon=0.1))(fa.input_x_gradient), torch.randn(3, 8, dtype=torch.float64)
    with pytest.warns(UserWarning, match=told):
        found = method(model, x, target=1)
    for way in BELOW.values():
        with pytest.warns(UserWarning, match=told):
            close(way(method, model, x), found, 1e-10)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_code_is_told_below_transforms() -> None:
    scripted: Any = torch.jit.script(squared)  # type: ignore[no-untyped-call]  # torch has no types for it

    def model(x: Tensor) -> Tensor:
        return torch.relu(scripted(x @ HALF) @ HALF) @ HALF

    x, gamma = torch.randn(3, 8, dtype=torch.float64), fa.under(R.gamma(0.3, epsilon=0.1))(fa.input_x_gradient)
    for method in (gamma, fa.guided_backprop, fa.deconvnet):
        with pytest.warns(UserWarning, match="no rule sees"):
            found = method(model, x, target=1)
        mapped = ["vmap"] if tuple(map(int, torch.__version__.split(".")[:2])) > (2, 0) else []  # where torch can
        for name in ("noise_tunnel", *mapped):  # scripted code has no second derivative
            with pytest.warns(UserWarning, match="no rule sees"):
                close(BELOW[name](method, model, x), found, 1e-10)


class InTime(nn.Module):
    """What it multiplies by comes of a step in time, and not of x."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.time, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, t: Tensor) -> Tensor:
        step = self.time(torch.arange(8, dtype=t.dtype))
        return self.head((torch.relu(self.before(t)) * (1 + step) + step).mean(1))  # type: ignore[no-any-return]  # of a module


@pytest.mark.parametrize("name", SETS)
def test_a_site_that_does_not_come_from_x_is_a_constant_to_the_others(name: str) -> None:
    torch.manual_seed(0)
    net, x = InTime().double(), TOKENS
    layers: list[Any] = [None, "time", "before"]
    method = partial(fa.lrp, net, target=1, rules=SETS[name])
    alone = [method(x, layer=layer) for layer in layers]
    each = fa.each_target(partial(fa.lrp, rules=SETS[name]), [0, 1])(net, x, layer=layers)
    for k, found in enumerate(method(x, layer=layers)):
        close(found, alone[k], 1e-12)
        close(each[k][1], alone[k], 1e-12)
    mapped = torch.func.vmap(lambda t: method(t[None], layer={"x": None, "t": "time"}))(x)
    close(mapped["x"][:, 0], alone[0], 1e-12)


def test_compiled_as_well() -> None:
    net, layers = InTime().double(), [None, "time"]
    fast = torch.compile(lambda t: fa.lrp(net, t, layer=layers, target=1), backend="aot_eager", fullgraph=True)
    for layer, found in zip(layers, fast(TOKENS)):
        close(found, fa.lrp(net, TOKENS, layer=layer, target=1), 1e-12)
