"""Rules for the backward pass in every spelling of an operation, attention among them, and at no more than a gradient costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R
from funattr._core.attention import plain_attention

from ..close import close
from ..operations import called
from .test_lrp import FIRST, HIGH, LAST, LOW, NET, ROWS, X

CUBE = 0.7978845608028654
SPELLINGS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "silu": [F.silu, lambda t: t * torch.sigmoid(t), lambda t: t / (1 + torch.exp(-t)), lambda t: t.clone().mul_(t.sigmoid())],
    "gelu": [
        lambda t: F.gelu(t, approximate="tanh"),
        lambda t: 0.5 * t * (1 + torch.tanh(CUBE * (t + 0.044715 * t**3))),
        lambda t: t.mul(0.5) * (torch.tanh(CUBE * (t + 0.044715 * torch.pow(t, 3.0))) + 1.0),
    ],
    "square": [lambda t: t * t, lambda t: t**2, torch.square, lambda t: torch.mul(t, t)],
    "relu": [F.relu, lambda t: t.clamp(min=0), lambda t: t.clone().relu_(), lambda t: F.relu(t.clone(), inplace=True)],
    "layer_norm": [
        lambda t: F.layer_norm(t, (5,)),
        lambda t: (t - t.mean(-1, keepdim=True)) / torch.sqrt(t.var(-1, unbiased=False, keepdim=True) + 1e-5),
        lambda t: (c := t - t.mean(-1, keepdim=True)) * torch.rsqrt(c.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda t: F.group_norm(t, 1),
    ],
    "rms_norm": [
        lambda t: t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda t: t / (t.pow(2).mean(-1, keepdim=True) + 1e-6) ** 0.5,
        lambda t: t * (t.pow(2).mean(-1, keepdim=True) + 1e-6) ** -0.5,
        lambda t: t * t.pow(2).mean(-1).add_(1e-6).rsqrt_().unsqueeze(-1),
        lambda t: t * t.pow(2).mean(-1, keepdim=True).add_(1e-6)[:, :1].rsqrt_().expand_as(t),
    ],
    "affine": [FIRST, lambda t: torch.addmm(FIRST.bias, t, FIRST.weight.T), lambda t: F.linear(t, FIRST.weight, FIRST.bias)],
    "matrix product": [
        lambda t: t @ FIRST.weight.T,
        lambda t: torch.einsum("ij,kj->ik", t, FIRST.weight),
        lambda t: (FIRST.weight @ t.T).T,
        lambda t: torch.bmm(t[None], FIRST.weight.T[None])[0],
        lambda t: torch.mm(t, FIRST.weight.T),
    ],
    "softmax": [lambda t: t + t.softmax(-1), lambda t: t + called(t.softmax, axis=-1), lambda t: t + F.softmax(t, dim=-1)],
    "maximum": [lambda t: torch.maximum(t, t.tanh()), lambda t: called(torch.maximum, a=t, x2=t.tanh())],
    "moments": [
        lambda t: t * t.var(-1, keepdim=True),
        lambda t: called(torch.mul, t, x2=called(t.var, axis=-1, keepdims=True)),
    ],
    "products of all": [lambda t: t + t.prod(-1, True), lambda t: t + called(t.prod, axis=-1, keepdims=True)],
    "product": [lambda t: FIRST(t) * t.tanh(), lambda t: FIRST(t).mul_(t.tanh()), lambda t: torch.mul(t.tanh(), FIRST(t))],
    "sum": [lambda t: t + FIRST(t), lambda t: FIRST(t).add_(t), lambda t: torch.add(FIRST(t), t)],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_agree(name: str) -> None:
    for rules in (R.epsilon(0.1), R.gamma(), {**R.cp_lrp(), **R.flat()}):
        first, *others = [fa.lrp(lambda t, f=f: LAST(f(FIRST(t).tanh())), ROWS, target=1, rules=rules) for f in SPELLINGS[name]]
        for found in others:
            close(found, first, 1e-12)


def test_formulas_of_single_operations() -> None:
    """``f(z) / z``, at 0 the slope; half of a product; statistics of a norm are constant, the mean is not."""
    z = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64)
    only = {"activation": R.attn_lrp()["activation"]}
    found = fa.under(only)(fa.gradient)(lambda t: F.silu(t).sum(1), z)
    close(found, torch.where(z == 0, 0.5, torch.sigmoid(z)), 1e-12)
    half = {"product": R.attn_lrp()["product"]}
    a, b = torch.tensor([[2.0]]).double(), torch.tensor([[5.0]]).double()
    both = fa.under(half)(fa.gradient)(lambda a, b: (a * b)[:, 0], (a, b))
    assert [t.item() for t in both] == [2.5, 1.0]
    assert fa.under({"product": half["product"], **only})(fa.gradient)(lambda t: (t * b.exp()).tanh()[:, 0], a).item() > 0
    norm = {"normalization": R.attn_lrp()["normalization"]}
    g = torch.tensor([[1.0, 2.0, 4.0]]).double()
    found = fa.under(norm)(fa.gradient)(lambda t: (F.layer_norm(t, (3,), eps=0.0) * g).sum(1), z)
    deviation = z.var(1, unbiased=False).sqrt()
    close(found, (g - g.mean()) / deviation, 1e-12)


W, B = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64), torch.linspace(0.3, -0.7, 6, dtype=torch.float64)
RUNNING = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
#: Norms of an x ``[3, 4, 6]``, over which dimensions they go, and the same without a weight and a bias.
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], list[int], Tensor | float]] = {
    "layer": (lambda x: F.layer_norm(x, (6,), W, B), [2], W),
    "layer, no weight": (lambda x: F.layer_norm(x, (6,), None, B), [2], 1.0),
    "layer, two dimensions": (lambda x: F.layer_norm(x, (4, 6), W.expand(4, 6)), [1, 2], W),
    "groups": (lambda x: F.group_norm(x, 1, W[:4], B[:4]), [1, 2], W[:4, None]),
    "instances": (lambda x: F.instance_norm(x, weight=W[:4], bias=B[:4]), [2], W[:4, None]),
    "batch, in train mode": (lambda x: F.batch_norm(x.mT, *RUNNING, W, B, training=True).mT, [0, 1], W),
}


@pytest.mark.parametrize("name", NORMS)
def test_what_flows_through_a_norm_is_that_of_what_is_centred(name: str) -> None:
    """By autograd, with the deviation held; of one example at a time, too, and where what torch has saved for its own gradient
    is not to be looked at."""
    norm, dims, weight = NORMS[name]
    rules = {"normalization": R.attn_lrp()["normalization"]}
    x, g = torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 6, dtype=torch.float64)

    def by_hand(x: Tensor) -> Tensor:
        c = x - x.mean(dims, keepdim=True)
        return c * torch.rsqrt((c**2).mean(dims, keepdim=True).detach() + 1e-5) * weight

    found = fa.under(rules)(fa.gradient)(lambda x: (norm(x) * g).flatten(1).sum(1), x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((by_hand(leaf) * g).sum(), leaf)
    close(found, expected, 1e-12)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        close(fa.under(rules)(fa.gradient)(lambda x: (norm(x) * g).flatten(1).sum(1), x), expected, 1e-12)
    if 0 not in dims:
        each = torch.func.vmap(lambda x, g: fa.under(rules)(fa.gradient)(lambda x: (norm(x) * g).flatten(1).sum(1), x[None])[0])
        close(each(x, g), expected, 1e-12)


# Attention.

ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()


def heads(t: Tensor) -> list[Tensor]:
    parts = F.linear(t, ATTENTION.in_proj_weight, ATTENTION.in_proj_bias).chunk(3, -1)
    return [p.unflatten(-1, (2, 4)).transpose(1, 2) for p in parts]


def joined(t: Tensor) -> Tensor:
    return ATTENTION.out_proj(t.transpose(1, 2).flatten(2))


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def fused_with(*given: Any, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(*given, **options)


def plain(t: Tensor) -> Tensor:
    q, k, v = heads(t)
    return joined((q @ k.transpose(-2, -1) / math.sqrt(4)).softmax(-1) @ v)


def summed(t: Tensor) -> Tensor:
    q, k, v = heads(t)
    return joined(torch.einsum("bhqk,bhkd->bhqd", torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / 2, -1), v))


FORMS: list[Callable[[Tensor], Tensor]] = [
    plain,
    summed,
    lambda t: joined(fused(*heads(t))),
    lambda t: ATTENTION(t, t, t, need_weights=False)[0],
    lambda t: ATTENTION(t, t, t)[0],
]


@pytest.mark.parametrize("rules", [R.attn_lrp(), R.cp_lrp(), R.frozen(), R.epsilon()], ids=["attn", "cp", "frozen", "epsilon"])
def test_any_form_of_attention(rules: dict[Any, Any]) -> None:
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    first, *others = [
        fa.lrp(lambda t, f=f: (t + f(F.layer_norm(t, (8,)))).flatten(1), tokens, target=11, rules=rules) for f in FORMS
    ]
    for found in others:
        close(found, first, 1e-10)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True).double().eval()
    found, kept = fa.lrp(layer, tokens, target=(3, 2), rules=rules), fa.absorbed(layer, tokens, target=(3, 2), rules=rules)
    score = layer(tokens)[:, 3, 2].detach()
    assert ((found.flatten(1).sum(1) + sum(kept.values()) - score).abs() < 1e-9).all()


SCALES = "scale=" in (F.scaled_dot_product_attention.__doc__ or "")  # since torch 2.1


@pytest.mark.parametrize("kind", ["causal", *["scale"] * SCALES, "mask", "added", "added that varies", "query alone"])
def test_attention_that_stays_whole_is_that_of_its_parts(kind: str) -> None:
    """Half of what flows goes to the value, a quarter to query and key; what does not vary takes nothing from them."""
    added = torch.randn(5, 5, dtype=torch.float64)
    kinds: dict[str, dict[str, Any]] = {
        "causal": {"is_causal": True},
        "scale": {"scale": 0.3},
        "mask": {"attn_mask": added > -1},
        "added": {"attn_mask": added},
    }
    options = kinds.get(kind, {})

    def model(t: Tensor, f: Callable[..., Tensor]) -> Tensor:
        q, k, v = heads(t)
        if kind == "query alone":
            k, v = added[:4, :4].expand(2, 2, 4, 4), torch.tanh(added[:4, :4]).expand(2, 2, 4, 4)
        if kind == "added that varies":
            options["attn_mask"] = q @ k.transpose(-2, -1)
        out = joined(f(q, k, v, **options) * q.sigmoid()) + t
        return out.flatten(1)  # type: ignore[no-any-return]  # a module's result

    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    for rules in (R.attn_lrp(), R.epsilon(), R.cp_lrp(), {"product": R.attn_lrp()["product"]}):
        found, parts = (
            fa.lrp(lambda t, f=f: model(t, f), tokens, target=11, rules=rules) for f in (fused_with, plain_attention)
        )
        close(found, parts, 1e-12)


def test_a_cut_softmax_hands_nothing_on_and_statistics_neither() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64)
    other = torch.randn(2, 4, dtype=torch.float64)
    found = fa.under(R.frozen())(fa.gradient)(lambda a, b: (a.softmax(1) * b).sum(1), (logits, other))
    assert (found[0] == 0).all()
    close(found[1], logits.softmax(1), 1e-12)  # not half: what is cut no longer varies


#: A function that a rule may be for, and calls that stand for it, of a tensor ``[3, 5]``.
OF_FUNCTIONS: list[tuple[Any, list[Callable[[Tensor], Tensor]]]] = [
    (torch.add, [lambda t: t + t.tanh(), lambda t: t.clone().add_(t.tanh()), lambda t: 1 + t, lambda t: torch.add(t, t.sin())]),
    (torch.Tensor.add_, [lambda t: t + t.tanh()]),
    (torch.sub, [lambda t: t - 1, lambda t: torch.subtract(t, t.tanh()), lambda t: t.clone().sub_(2)]),
    (torch.multiply, [lambda t: t * 2, lambda t: 2 * t, lambda t: t.clone().mul_(3.0), lambda t: torch.mul(t, t)]),
    (torch.true_divide, [lambda t: t / 2, lambda t: t.div(3), lambda t: 2 / t]),
    (torch.mm, [lambda t: t @ FIRST.weight, lambda t: torch.matmul(t, FIRST.weight), lambda t: t.T @ t[:, :1].expand(3, 5)]),
    (torch.einsum, [lambda t: torch.einsum("ij,jk->ik", t, FIRST.weight), lambda t: torch.einsum("ij,ij->ij", t, t)]),
    (torch.absolute, [abs, torch.abs, lambda t: t.clone().abs_()]),
    (torch.maximum, [lambda t: torch.maximum(t, t.tanh()), lambda t: torch.maximum(t, FIRST.bias)]),
    (F.max_pool1d, [lambda t: F.max_pool1d(t, 2), lambda t: torch.max_pool1d(t, 2), nn.MaxPool1d(2)]),
    (F.adaptive_avg_pool1d, [nn.AdaptiveAvgPool1d(1), lambda t: F.adaptive_avg_pool1d(t, 2)]),
    (
        F.dropout,
        [nn.Dropout().eval(), lambda t: F.dropout(t.clone(), 0.5, False, True), lambda t: torch.dropout(t, 0.5, False)],
    ),
    (F.normalize, [F.normalize, lambda t: F.normalize(t, dim=0)]),
    (F.scaled_dot_product_attention, [lambda t: F.scaled_dot_product_attention(t[None], t[None], t[None])]),
    (torch.cat, [lambda t: torch.cat([t, t.tanh()]), lambda t: torch.concat((t, FIRST.weight))]),
    (torch.where, [lambda t: torch.where(t > 0, t, 0.1 * t), lambda t: t.where(t > 0, FIRST.bias)]),
    (torch.addcmul, [lambda t: torch.addcmul(t, t, t), lambda t: t.addcmul(t, t, value=2.0)]),
    (
        F.bilinear,
        [
            lambda t: F.bilinear(t, t.tanh(), FIRST.weight.expand(4, 5, 5)),
            lambda t: F.bilinear(FIRST.bias.expand(3, 5), t, FIRST.weight[None], FIRST.bias[:1]),
        ],
    ),
    (torch.amax, [lambda t: t.amax(1)]),
    (torch.cumsum, [lambda t: t.cumsum(1)]),
]


@pytest.mark.parametrize(("key", "calls"), OF_FUNCTIONS, ids=[key.__name__ for key, _ in OF_FUNCTIONS])
def test_a_rule_of_a_function_holds_in_every_spelling(key: Any, calls: list[Callable[[Tensor], Tensor]]) -> None:
    """Linear or not, taken apart or not; in what varies all gradients are tripled."""

    def triple(op: R.Operation, gradient: Tensor) -> tuple[Tensor, ...]:
        close(op.function(*op.inputs), op.output, 1e-12)
        return torch.func.vjp(op.function, *op.inputs)[1](3 * gradient)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types for it

    ready = {key: R.attn_lrp()["product"]}
    for f in calls:
        model: Callable[[Tensor], Tensor] = lambda t, f=f: f(FIRST(t)).exp().sum().expand(3)  # type: ignore[misc]  # noqa: E731
        plain = fa.gradient(model, ROWS)
        close(fa.under({key: triple})(fa.gradient)(model, ROWS), 3 * plain, 1e-12)
        kept = fa.absorbed(model, ROWS, rules=ready)
        total = fa.under(ready)(fa.input_x_gradient)(model, ROWS).sum() + torch.stack([*kept.values()]).sum()
        close(total, model(ROWS).detach().sum(), 1e-9)
    both = {**R.guided(), torch.relu: lambda op, g: 5 * g}
    close(fa.under(both)(fa.gradient)(lambda t: F.relu(t).sum(1), ROWS), torch.full_like(ROWS, 5.0), 0)


@pytest.mark.full
def test_a_rule_of_a_function_compiles() -> None:
    """Where it is a named one, also of what Dynamo shows as a function of Python, such as ``2 - x``."""

    def model(t: Tensor) -> Tensor:
        return LAST(F.max_pool1d(2 - FIRST(t).repeat(1, 2), 2) + t)

    for key in (torch.add, torch.rsub, F.max_pool1d):
        rules = {**R.epsilon_plus(), key: R.epsilon(0.1)["linear"]}
        found = fa.lrp(model, ROWS, target=1, rules=rules)
        assert (found - fa.lrp(model, ROWS, target=1)).abs().max() > 1e-3
        call = torch.compile(lambda x, r=rules: fa.lrp(model, x, target=1, rules=r), backend="aot_eager", fullgraph=True)
        close(call(ROWS), found)
    torch._dynamo.reset()


def test_flops() -> None:
    FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode  # since torch 2.1

    def flops(method: Callable[..., Any], x: Tensor = X, model: Any = NET, **options: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            method(model, x, target=1, **options)
        return counter.get_total_flops()

    base = flops(fa.input_x_gradient)
    for rules in (R.epsilon(), R.attn_lrp(), R.cp_lrp(), R.guided(), R.deconv()):
        assert flops(fa.lrp, rules=rules) <= 1.0 * base
    assert flops(fa.absorbed, X[:1], rules=R.epsilon()) <= flops(fa.input_x_gradient, X[:1])  # of several, a pass back for each
    tokens, attention = torch.randn(2, 5, 8, dtype=torch.float64), lambda t: plain(F.layer_norm(t, (8,))).flatten(1)
    base = flops(fa.input_x_gradient, tokens, model=attention)
    for rules in (R.epsilon(), R.attn_lrp(), R.cp_lrp(), R.frozen()):
        assert flops(fa.lrp, tokens, model=attention, rules=rules) <= 1.0 * base
    base = flops(fa.input_x_gradient)
    assert flops(fa.lrp, rules=R.zplus()) <= 3.0 * base
    for rules in (R.alpha_beta(), R.gamma(), {**R.epsilon(), **R.zbox(LOW, HIGH)}):
        assert flops(fa.lrp, rules=rules) <= 4.5 * base
        assert flops(fa.lrp, X.abs(), rules=rules) <= 3.5 * base


@pytest.mark.parametrize("rules", [R.attn_lrp(), R.gamma(), {**R.frozen(), **R.deconv()}], ids=["attn", "gamma", "frozen"])
def test_a_distance_of_nothing_has_no_relevance(rules: dict[Any, Any]) -> None:
    """As torch has it, and not that of a root at 0: of points from themselves, as in kernels and clouds."""
    points, last = torch.randn(2, 3, 4, dtype=torch.float64), nn.Linear(9, 3).double()

    def model(t: Tensor) -> Tensor:
        found: Tensor = last((-torch.cdist(t, t)).exp().relu().flatten(1))
        return found

    found, kept = fa.lrp(model, points, target=1, rules=rules), fa.absorbed(model, points, target=1, rules=rules)
    assert (found != 0).any()
    close(found.flatten(1).sum(1) + sum(kept.values()), model(points)[:, 1].detach(), 1e-9)


def test_what_is_absorbed_is_not_left_out_where_it_is_no_number() -> None:
    """The model's own root at 0, of which nothing reaches x: it goes to a constant."""

    def model(t: Tensor) -> Tensor:
        h = torch.maximum(t, torch.full_like(t, 9.0))
        return LAST(t.softmax(1)) + (h - h.flip(1)).pow(2).sum(1, keepdim=True).sqrt()

    assert fa.lrp(model, ROWS, target=1, rules=R.frozen()).isfinite().all()
    with pytest.raises(ValueError, match="holds NaN or inf"):
        fa.absorbed(model, ROWS, target=1, rules=R.frozen())


SHIFT = torch.linspace(-2, 2, 8, dtype=torch.float64)
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a bias by hand": lambda h: h + SHIFT,
    "less a number": lambda h: h - 1.5,
    "a number less": lambda h: 2 - h,
    "two, and a scale": lambda h: (h + SHIFT) * SHIFT - SHIFT.sin(),
    "after an activation": lambda h: (h + SHIFT).tanh() + 0.3,
}
BY_HAND: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "silu": (F.silu, lambda t: t * t.sigmoid()),
    "gelu": (
        lambda t: F.gelu(t, approximate="tanh"),
        lambda t: 0.5 * t * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (t + 0.044715 * t**3))),
    ),
    "softsign": (F.softsign, lambda t: t / (1 + t.abs())),
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("act", BY_HAND)
def test_an_activation_by_hand_is_one_of_what_it_is_given(act: str, shift: str) -> None:
    """Not of what a constant was added to before: what the addition keeps is its own."""
    torch.manual_seed(0)
    first, last = nn.Linear(5, 8, bias=False).double(), nn.Linear(8, 3).double()
    x, rules = torch.randn(4, 5, dtype=torch.float64), fa.rules.attn_lrp()

    def around(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: last(f(SHIFTS[shift](first(x))))

    as_one, by_hand = map(around, BY_HAND[act])
    found = fa.lrp(by_hand, x, target=1, rules=rules)
    close(found, fa.lrp(as_one, x, target=1, rules=rules), 1e-10)
    close(torch.vmap(lambda x: fa.lrp(by_hand, x[None], target=1, rules=rules)[0])(x), found, 1e-10)
    kept = fa.absorbed(by_hand, x, target=1, rules=rules)
    close(found.sum(1) + sum(kept.values()), by_hand(x)[:, 1].detach(), 1e-9)
