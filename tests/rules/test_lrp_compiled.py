"""Rules compiled: whatever a model does between two layers, and by whatever spelling, the layers after it are met."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close
from ..operations import OPS

RELEASE = tuple(map(int, torch.__version__.split(".")[:2]))


def first_second_third(h: Tensor) -> Tensor:
    a, b, c = h
    return torch.stack([c, a, b])


def discounted(h: Tensor) -> Tensor:
    total, found = h[0] * 0, []
    for row in h:
        total = total / 2 + row
        found.append(total)
    return torch.stack(found)


def nested(h: Tensor) -> Tensor:
    (a, b), c = h[:2], h[2]
    return torch.stack([a, c, b])


def by_sizes(h: Tensor) -> Tensor:
    rows, width = h.shape
    return h.view(rows, 2, width // 2).flip(1).reshape(rows, width)


#: Of three rows of eight. Dynamo shows some of these to function modes only when it is told to.
SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "T": lambda h: (h.T * 2).T,
    "mT": lambda h: (h.mT * 2).mT,
    "H": lambda h: (h.H * 2).H,
    "mH": lambda h: (h.mH * 2).mH,
    "mT of three": lambda h: h.reshape(3, 2, 4).mT.flatten(1),
    "mH of complex": lambda h: torch.complex(h, 2 * h).mH.imag.mT,
    "unpacked": first_second_third,
    "nested": nested,
    "a loop": discounted,
    "a star": lambda h: torch.stack([*h]),
    "a list": lambda h: torch.stack(list(h)[::-1]),
    "a tuple": lambda h: torch.stack(tuple(h)),
    "zip": lambda h: torch.stack([a + 2 * b for a, b in zip(h, h.roll(1, -1))]),
    "enumerate": lambda h: torch.stack([row * (i + 1) for i, row in enumerate(h)]),
    "map": lambda h: torch.stack(list(map(torch.tanh, h))),
    "sum": lambda h: sum(h).expand(3, -1),
    "next": lambda h: h + next(iter(h)),
    "sizes": by_sizes,
    "chunks": lambda h: torch.cat(h.chunk(2, -1)[::-1], -1),
    "unbind": lambda h: torch.stack(h.unbind()),
    "a maximum": lambda h: h + h.max(-1, keepdim=True)[0],
    "values": lambda h: h + h.max(-1, keepdim=True).values,
    "real": lambda h: torch.complex(h, h).real * 2,
    "transposed in place": lambda h: (h * 2).t_().t_(),
    "the builtin abs": lambda h: abs(h - 0.3),
    "abs of several": lambda h: torch.cat(list(map(abs, (h - 0.3).split(4, -1))), -1),
    "math.prod": lambda h: math.prod([h, h.tanh(), 2]),
    "math.prod from somewhere": lambda h: math.prod([h.tanh()], start=h),
    "F.pad": lambda h: F.pad(h[:, 1:-1], (1, 1)),
    "F.pad, circular": lambda h: F.pad(h[:, None, 1:-1], (1, 1), "circular").squeeze(1),
    **({"nn.ZeroPad1d": lambda h: nn.ZeroPad1d(1)(h[:, 1:-1])} if hasattr(nn, "ZeroPad1d") else {}),  # since torch 2.1
    "as_strided": lambda h: torch.as_strided(h * 2, (3, 8), (8, 1)),
    "as_tensor": lambda h: torch.as_tensor(torch.as_tensor(h, dtype=torch.float32), dtype=torch.float64),
    "of torch.nn's own": lambda h: torch._C._nn.silu(h),
}
if RELEASE >= (2, 14):  # before, Dynamo does not trace it beside a mode
    SPELLINGS["the builtin pow"] = lambda h: pow(h, 2) + pow(2.0, h)


def chosen(h: Tensor) -> Tensor:
    """As of experts: by indices that an operation returns beside values."""
    values, at = h.softmax(-1).topk(4, -1)
    return torch.cat([h.tanh() * (values * (at == i)).sum(-1, keepdim=True) for i in range(4)], 1)


WEIGHT = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(4, 8).sin()
#: What keeps no sum, or is told of.
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "data": lambda h: h.data * h + h.data @ h.T @ h,
    "padded": lambda h: F.pad(h, (1, 2), value=0.3) * F.pad(h, (2, 1)),
    "reflected": lambda h: F.pad(h[:, None], (1, 2), mode="reflect").flatten(1),
    "padded rows": lambda h: nn.utils.rnn.pad_sequence([h[0, :4], h[1], h[2, :2]], batch_first=True),
    "strides": lambda h: torch.as_strided(h.tanh(), (3, 4), (8, 2)),
    "a complex product": lambda h: (lambda z: (z * z.conj()).real)(torch.complex(h, 2 * h)),
    "of complex matrices": lambda h: (torch.complex(h, 2 * h) @ torch.complex(h, h).T).real,
    "mapped": lambda h: torch.vmap(lambda row: torch.tanh(row) * row.sum())(h),
    "mapped products": lambda h: torch.vmap(lambda row, w: w @ row, in_dims=(0, None))(h, WEIGHT),
    "exported": lambda h: torch.ops.aten.relu(torch.ops.aten.mm.default(h, WEIGHT.T) - 0.3) * torch.ops.aten.sigmoid(h[:, :4]),
    "the larger half": chosen,
    "logsumexp": lambda h: h.logsumexp(-1, keepdim=True) + h,
}
KINDS = {"all": SPELLINGS, "others": OTHERS}


def wide(h: Tensor) -> Tensor:
    return h.repeat(1, 8)[:, :8]


class Many(nn.Module):
    """All of them side by side, each between two layers: one graph to compile."""

    def __init__(self, spellings: dict[str, Callable[[Any], Any]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spellings = spellings
        self.site, self.after, self.last = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5 * len(spellings), 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.site(x))
        parts = [torch.relu(self.after(wide(spelled(h)))) for spelled in self.spellings.values()]
        found: Tensor = self.last(torch.cat(parts, 1))
        return found


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_what_takes_apart_or_turns(kind: str) -> None:
    """Rules go by what comes from x, wherever they are asked for; DeepLIFT goes by what comes from the site."""
    model, x = Many(KINDS[kind]), torch.randn(3, 6, dtype=torch.float64)
    methods: dict[str, Any] = {
        "gamma": lambda x: fa.lrp(model, x, target=1, layer="site", rules=R.gamma(0.25)),
        "guided": lambda x: fa.guided_backprop(model, x, target=1),
        "deep_lift": lambda x: fa.deep_lift(model, x, target=1, layer="site", baselines=0.2),
    }
    for name in methods if kind == "others" else ("gamma", "deep_lift"):  # it takes half a minute each
        method = methods[name]
        torch._dynamo.reset()
        fast: Any = torch.compile(method, fullgraph=True, backend="aot_eager")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = fast(x)
        told = [text for text in (str(each.message) for each in said) if "torch.func" in text]
        assert bool(told) == ("mapped" in KINDS[kind] and name != "guided")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(found, method(x), 1e-10)


def slope(h: Tensor) -> Tensor:
    return torch.func.grad(lambda t: t.sin().sum())(h) + h  # type: ignore[no-any-return]  # torch.func's types


@pytest.mark.full
def test_a_model_that_differentiates_itself() -> None:
    """Rules would change what it finds: refused, as uncompiled. DeepLIFT leaves it alone, and says so."""
    model, x = Many({"slope": slope}), torch.randn(3, 6, dtype=torch.float64)

    def ruled(x: Tensor) -> Any:
        return fa.lrp(model, x, target=1, rules=R.gamma())

    def lifted(x: Tensor) -> Any:
        return fa.deep_lift(model, x, target=1)

    torch._dynamo.reset()
    for method in (ruled, torch.compile(ruled, fullgraph=True, backend="aot_eager")):
        with pytest.raises(Exception, match="differentiates itself"):
            method(x)
    found = []
    for method in (lifted, torch.compile(lifted, fullgraph=True, backend="aot_eager")):
        with pytest.warns(UserWarning, match=r"torch\.func inside the model"):
            found.append(method(x))
    close(found[1], found[0], 1e-10)


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_keeps_the_sum(name: str) -> None:
    """What rules see of it: nothing is lost but what biases absorb."""
    model, x = Many({name: SPELLINGS[name]}), torch.randn(3, 6, dtype=torch.float64)
    found, kept = (method(model, x, target=1, rules=R.epsilon(1e-9)) for method in (fa.lrp, fa.absorbed))
    close(found.sum() + sum(part.sum() for part in kept.values()), model(x)[:, 1].sum().detach(), 1e-6)


def kept_whole(h: Tensor) -> Tensor:
    return torch.relu(h) * 2


if RELEASE >= (2, 1):  # before, nothing here compiles
    torch.compiler.allow_in_graph(kept_whole)


TOLD = [  # what a model does between two layers, and what is said when a method is compiled that eager calls see through
    (kept_whole, "operations without a rule keep their gradient: kept_whole", "kept_whole is not known to be linear"),
    (torch.special.entr, "without a rule keep their gradient: special_entr", "special_entr is not known to be linear"),
]


@pytest.mark.full
@pytest.mark.parametrize(("does", "of_rules", "of_lift"), breadth(TOLD, lambda case: case is TOLD[0], several=True))
def test_what_no_rule_sees_is_told_when_it_is_compiled(does: Any, of_rules: str, of_lift: str) -> None:
    model, x = Many({"": lambda h: does(h + 0.5)}), torch.randn(3, 6, dtype=torch.float64)
    asked: list[Any] = [(fa.lrp, of_rules), (fa.deep_lift, of_lift)]
    asked += [(fa.guided_backprop, "code that no rule sees .*: a ReLU in there")] if does is kept_whole else []
    for method, text in asked:
        torch._dynamo.reset()
        fast: Any = torch.compile(method, fullgraph=True, backend="eager")
        with pytest.warns(UserWarning, match=text):
            fast(model, x, target=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fast(model, x + 1, target=1)  # nothing is compiled


class Counts(TorchFunctionMode):
    """How many operations it is shown that make floats of floats."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = found[0] if isinstance(found, tuple) else found
        if isinstance(made, Tensor) and made.is_floating_point() and made.dtype == torch.float64:
            self.counts.append(1)
        return found


def shown(ops: list[Callable[..., Any]], h: Tensor, g: Tensor) -> list[int]:
    """How many each of them is."""
    found = []
    for op in ops:
        counts: list[int] = []
        with Counts(counts):
            op(h * 1, g)
        found.append(len(counts))
    return found


#: A shape must be known to run eagerly.
NOT_TRACED = {"torch.exp(out=)"}
PARTS = 8


@pytest.mark.parametrize("part", breadth(range(PARTS), lambda part: part == 0))
def test_dynamo_shows_operations(part: int) -> None:
    """To a function mode, as eager calls do: what is not shown, no rule meets."""
    fast: Any = torch.compile(shown, backend="eager", fullgraph=True)
    import funattr._rules.traced  # noqa: F401  (imported for what it tells Dynamo)

    names = [name for name in OPS if name not in NOT_TRACED][part::PARTS]
    ops: list[Any] = [OPS[name] for name in names]
    h, g = torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 6, dtype=torch.float64)
    for op in ops:
        op(h.clone(), g)  # what is made when it first runs
    torch._dynamo.reset()
    counts = list(zip(names, fast(ops, h, g), shown(ops, h, g)))
    assert [found for found in counts if not found[1] >= found[2] > 0] == []


@pytest.mark.full
@pytest.mark.parametrize("rules", [R.epsilon(), R.attn_lrp()])
def test_gates_whose_slope_has_no_derivative(rules: Any) -> None:
    """MobileNetV3's: torch.func asks for one, and torch's error came."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Hardsigmoid(), nn.Linear(4, 2)).double(), torch.randn(2, 3).double()

    def method(x: Tensor) -> Tensor:
        return fa.lrp(model, x, target=1, rules=rules)  # type: ignore[return-value]  # a tensor, of a tensor

    close(torch.compile(method, backend="eager", fullgraph=True)(x), method(x), 1e-12)
    torch._dynamo.reset()
