"""Rules for the backward pass: against dense formulas, spelling by spelling, and their laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

from ..breadth import breadth
from ..close import close

torch.manual_seed(0)
LOW, HIGH = -3.0, 3.0
SETS: dict[str, dict[Any, Any]] = {
    "epsilon": R.epsilon(0.25),
    "zplus": R.zplus(),
    "zplus without bias": R.zplus(bias=False),
    "alpha_beta": R.alpha_beta(),
    "gamma": R.gamma(),
    "gamma without bias": R.gamma(bias=False),
    "epsilon_plus": R.epsilon_plus(),
    "epsilon_plus_flat": R.epsilon_plus_flat(),
    "epsilon_alpha_beta": R.epsilon_alpha_beta(3.0, 2.0),
    "epsilon_gamma_box": R.epsilon_gamma_box(LOW, HIGH),
    "wsquare": {**R.epsilon(), **R.wsquare()},
}


def net() -> nn.Sequential:
    """Convolutions with strides and batch norms of either sign, max pooling, linear layers, biases everywhere."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    made = nn.Sequential(*layers).double().eval()
    for norm in (made[1], made[8]):
        assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0.0, 0.3)
        norm.running_var.uniform_(0.5, 2.0)
    return made


NET = net()
X = torch.randn(2, 2, 7, 7, dtype=torch.float64).clamp(LOW, HIGH)
X[:, :, 2, 3] = 0.0


# Dense formulas: every linear operation as a matrix, the share of each input written out.


def stab(z: Tensor, epsilon: float = 1e-6) -> Tensor:
    return torch.where(z < 0, z - epsilon, z + epsilon)


def shared(name: str, kind: str, w: Tensor, b: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """What each of the inputs x ``[I]`` gets of the relevance ``[O]``, by the rule of that set; `w` is ``[O, I]``."""
    c = x * w
    z = c.sum(1) + b
    padded = (w != 0).double()
    linear = {"epsilon_plus": "epsilon", "epsilon_plus_flat": "epsilon", "epsilon_alpha_beta": "epsilon"}
    linear["epsilon_gamma_box"] = linear["wsquare"] = "epsilon"
    by = {"epsilon_plus": "zplus", "epsilon_plus_flat": "zplus", "epsilon_alpha_beta": "3 2", "epsilon_gamma_box": "gamma"}
    first = {"epsilon_plus_flat": padded, "wsquare": w**2}
    first["epsilon_gamma_box"] = c - LOW * w.clamp(min=0) - HIGH * w.clamp(max=0)
    if kind == "first" and name in first:
        q = first[name]
        return (q / stab(q.sum(1))[:, None] * relevance[:, None]).sum(0)
    rule = linear.get(name, name) if kind == "linear" else by.get(name, "epsilon" if name == "wsquare" else name)
    bias = torch.zeros_like(b) if "without bias" in rule else b
    if rule == "epsilon":
        q, total = c, stab(z, 0.25 if name == "epsilon" else 1e-6)
    elif rule.startswith("gamma"):
        up = z >= 0
        q = c + 0.25 * torch.where(up[:, None], c.clamp(min=0), c.clamp(max=0))
        total = stab(q.sum(1) + bias + 0.25 * torch.where(up, bias.clamp(min=0), bias.clamp(max=0)))
    else:
        alpha, beta = {"alpha_beta": (2.0, 1.0), "3 2": (3.0, 2.0)}.get(rule, (1.0, 0.0))
        more = c.clamp(min=0) / stab(c.clamp(min=0).sum(1) + bias.clamp(min=0))[:, None]
        less = c.clamp(max=0) / stab(c.clamp(max=0).sum(1) + bias.clamp(max=0))[:, None]
        return ((alpha * more - beta * less) * relevance[:, None]).sum(0)
    return (q / total[:, None] * relevance[:, None]).sum(0)


def dense(f: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """An affine function as a matrix and a bias."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    bias = f(zero).flatten()
    units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *shape)
    return (f(units).flatten(1) - bias).T, bias


def by_hand(name: str, x: Tensor, target: int) -> Tensor:
    """The relevance of one image ``[C, H, W]``."""
    with torch.no_grad():
        cuts = [0, 2, 3, 4, 5, 6, 7, 9, 10, 11]
        blocks = [NET[first:last] for first, last in pairwise(cuts)]
        values = [x[None]]
        for block in blocks:
            values.append(block(values[-1]))
        relevance = torch.zeros(3, dtype=torch.float64)
        relevance[target] = values[-1][0, target]
        for i in reversed(range(len(blocks))):
            block, value = blocks[i], values[i]
            if isinstance(block[0], (nn.Conv2d, nn.Linear)):
                w, b = dense(block, value.shape[1:])
                kind = "first" if i == 0 else "linear" if isinstance(block[0], nn.Linear) else "convolution"
                relevance = shared(name, kind, w, b, value.flatten(), relevance)
            elif isinstance(block[0], nn.MaxPool2d):
                winners = F.max_pool2d(value, 2, return_indices=True)[1].flatten(2)
                passed = torch.zeros_like(value).flatten(2)
                relevance = passed.scatter_add(2, winners, relevance.reshape(winners.shape)).flatten()
    return relevance.reshape(x.shape)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_its_formula(name: str) -> None:
    """Batch norms are part of what precedes them, exact zeros in x have the relevance that a rule gives them."""
    found = fa.lrp(NET, X, target=1, rules=SETS[name])
    for n in range(2):
        expected = by_hand(name, X[n], 1)
        assert (found[n] - expected).abs().max() < 1e-11 * expected.abs().max()


@pytest.mark.parametrize("name", SETS)
def test_what_is_absorbed_is_the_rest(name: str) -> None:
    score = NET(X)[:, 2].detach()
    for layer in (None, "0", "3", "7"):
        found = fa.lrp(NET, X, layer=layer, target=2, rules=SETS[name])
        kept = fa.absorbed(NET, X, layer=layer, target=2, rules=SETS[name])
        assert set(kept) <= {"linear", "convolution", "first", "batch_norm", "add", "activation"}
        assert ((found.flatten(1).sum(1) + sum(kept.values()) - score).abs() < 1e-9 * score.abs()).all(), layer


def test_without_biases_nothing_is_absorbed() -> None:
    made = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5, bias=False), nn.ReLU())
    made = nn.Sequential(*made, nn.Linear(5, 3, bias=False)).double()
    for rules in (R.epsilon(1e-14), R.epsilon_plus(epsilon=1e-14), R.gamma(epsilon=1e-14)):
        for layer in (None, "0", "1", "3"):
            found = fa.lrp(made, X, layer=layer, target=0, rules=rules).flatten(1).sum(1)
            close(found, made(X)[:, 0].detach(), 1e-9)


@pytest.mark.parametrize("name", breadth(SETS, lambda name: name == "gamma"))
def test_transforms(name: str) -> None:
    def method(x: Tensor, **options: Any) -> Tensor:
        found: Tensor = fa.lrp(NET, x, target=1, rules=SETS[name], **options)
        return found

    found = method(X)
    close(torch.func.vmap(lambda x: method(x[None])[0])(X), found, 1e-10)
    close(torch.cat([method(x[None]) for x in X]), found, 1e-10)
    close(torch.compile(method, backend="aot_eager", fullgraph=True)(X), found, 1e-10)
    rows = fa.each_target(fa.lrp, [1, 0])(NET, X, rules=SETS[name])
    close(rows, torch.stack([found, fa.lrp(NET, X, target=0, rules=SETS[name])]), 1e-10)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", breadth(SETS, lambda name: name in ("epsilon", "alpha_beta")))
def test_the_derivative_is_that_of_the_relevance(name: str) -> None:
    torch.manual_seed(2)
    moved = X + 0.1 * torch.randn_like(X)
    way, weight = torch.randn_like(X), torch.randn_like(X)
    x = moved.clone().requires_grad_()
    (fa.lrp(NET, x, target=1, rules=SETS[name], create_graph=True) * weight).sum().backward()
    assert x.grad is not None
    ends = [(fa.lrp(NET, moved + step * way, target=1, rules=SETS[name]) * weight).sum() for step in (1e-6, -1e-6)]
    slope = (ends[0] - ends[1]) / 2e-6
    assert abs((x.grad * way).sum() - slope) < 1e-6 * abs(slope)


def test_several_sites_equal_each_alone() -> None:
    """Also between a convolution and its batch norm, and before both."""
    sites = [None, "0", "1", "3", "7", "8"]
    for rules in (R.epsilon(0.25), R.epsilon_plus_flat(), R.alpha_beta()):
        together = fa.lrp(NET, X, layer=sites, target=1, rules=rules)
        for site, found in zip(sites, together):
            close(found, fa.lrp(NET, X, layer=site, target=1, rules=rules), 1e-12)


@pytest.mark.parametrize("rules", [R.epsilon(0.25), R.gamma()])
def test_what_a_batch_norm_takes_may_be_used_beside_it(rules: dict[Any, Any]) -> None:
    """The norm is merged into the operation, whose output goes on elsewhere under its own rule: before the norm, or after."""
    before, norm, head = nn.Conv2d(2, 4, 3).double(), NET[1], nn.Linear(4, 3).double()

    def model(x: Tensor, order: str) -> Tensor:
        y = before(x)
        other = y.mean((2, 3)) if order == "first" else y
        z = norm(before(x) if order == "twice" else y).relu().mean((2, 3))
        return head(z + (other if order == "first" else y.mean((2, 3))))  # type: ignore[no-any-return]  # a module's result

    score = model(X, "twice")[:, 1].detach()
    expected = fa.lrp(lambda x: model(x, "twice"), X, target=1, rules=rules)
    for order in ("first", "last"):
        found = fa.lrp(lambda x, o=order: model(x, o), X, target=1, rules=rules)
        close(found, expected, 1e-12)
        kept = fa.absorbed(lambda x, o=order: model(x, o), X, target=1, rules=rules)
        close(found.flatten(1).sum(1) + sum(kept.values()), score, 1e-12)


def test_no_rules_and_rules_of_zero() -> None:
    assert torch.equal(fa.under({})(fa.saliency)(NET, X, target=1), fa.saliency(NET, X, target=1))
    # Batch norm is a part of the operation before it, and the gradient is that of both.
    close(fa.lrp(NET, X, target=1, rules=R.epsilon(0.0)), fa.input_x_gradient(NET, X, target=1), 1e-12)
    for rules, method in ((R.guided(), fa.guided_backprop), (R.deconv(), fa.deconvnet)):
        assert torch.equal(fa.under(rules)(fa.gradient)(NET, X, target=1), method(NET, X, target=1))


FIRST, LAST = nn.Linear(5, 5).double(), nn.Linear(5, 3).double()
ROWS = torch.randn(3, 5, dtype=torch.float64)
ROWS[0, 2] = 0.0

#: Functions of a score that a mask has made infinite, finite again after the exponential.
CLIPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "logsigmoid": F.logsigmoid,
    "clamp": lambda t: t.clamp(max=0.3),
    "minimum": lambda t: torch.minimum(t, t.new_tensor(0.2)),
    "pow": lambda t: t**3,
    "leaky": lambda t: F.leaky_relu(t, 0.1),
}


@pytest.mark.parametrize("rules", [R.epsilon(), R.gamma(), R.attn_lrp()], ids=["epsilon", "gamma", "attn_lrp"])
@pytest.mark.parametrize("clipped", CLIPPED)
def test_an_activation_of_what_is_infinite_is_that_of_what_is_far_away(clipped: str, rules: Any) -> None:
    def model(x: Tensor, far: float) -> Tensor:
        h = FIRST(x)
        scores = (h[:, :, None] - h[:, None]).masked_fill(torch.ones(5, 5).triu(1).bool(), far)
        return LAST(CLIPPED[clipped](scores).exp().sum(1))  # type: ignore[no-any-return]  # a module's call returns anything

    found, expected = (fa.lrp(lambda x, far=far: model(x, far), ROWS, target=1, rules=rules) for far in (-math.inf, -1e4))
    close(found, expected, 1e-12)
    kept = fa.absorbed(lambda x: model(x, -math.inf), ROWS, target=1, rules=rules)
    close(found.sum(1) + sum(kept.values()), model(ROWS, -math.inf)[:, 1], 1e-12)


@pytest.mark.parametrize("function", [F.softplus, torch.exp, torch.sigmoid, F.logsigmoid])
def test_what_is_no_normal_number_counts_as_zero(function: Callable[[Tensor], Tensor]) -> None:
    def model(x: Tensor, scale: float) -> Tensor:
        h = FIRST(x)
        return LAST(function(torch.cat([h[:, :2] * scale, h[:, 2:]], 1)))  # type: ignore[no-any-return]  # as above

    for number in (1e-320, 1e-310):
        kept = fa.absorbed(lambda x, n=number: model(x, n), ROWS, target=1, rules=R.epsilon())
        found, none = (
            fa.lrp(lambda x, scale=scale: model(x, scale), ROWS, target=1, rules=R.epsilon()) for scale in (number, 0.0)
        )
        close(found, none, 1e-12)
        close(found.sum(1) + sum(kept.values()), model(ROWS, number)[:, 1], 1e-12)


# Rules of one's own, threads, errors.


def test_own_rules_and_which_is_narrowest() -> None:
    seen: list[tuple[str, list[torch.Size]]] = []

    def look(op: R.Operation, gradient: Tensor) -> Tensor:
        seen.append((op.name, [t.shape for t in op.inputs]))
        close(op.function(*op.inputs), op.output, 1e-12)
        return torch.zeros_like(op.inputs[0])

    found = fa.under({"convolution": R.epsilon()["convolution"], "first": look})(fa.gradient)(NET, X, target=1)
    assert (found == 0).all()
    assert seen == [("conv2d", [X.shape, NET[0].weight.shape, NET[0].bias.shape])]
    both = {"activation": lambda op, g: 0 * g, torch.tanh: lambda op, g: g}
    close(fa.under(both)(fa.gradient)(lambda t: t.tanh().sum(1), ROWS), torch.ones_like(ROWS), 0)
    own = {"product": lambda op, g: (g * op.inputs[1], None)}
    a, b = fa.under(own)(fa.gradient)(lambda a, b: (a * b).sum(1), (ROWS, 2 * ROWS))
    close(a, 2 * ROWS, 1e-12)
    assert (b == 0).all()
    ready = R.epsilon(0.1)["linear"]
    half = fa.lrp(LAST, ROWS, target=0, rules={"linear": lambda op, g: ready(op, g) / 2})
    close(half, fa.lrp(LAST, ROWS, target=0, rules=R.epsilon(0.1)) / 2, 1e-12)


def test_a_rule_of_what_returns_several_is_refused() -> None:
    for key, f in ((torch.max, lambda t: t.max(1)[0]), (torch.chunk, lambda t: t.chunk(5, 1)[0].sum(1))):
        with pytest.raises(ValueError, match=f"a rule for {key.__name__} cannot be"):
            fa.under({key: lambda op, g: g})(fa.gradient)(f, ROWS)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: fa.under(R.epsilon), TypeError, "call it, fa.rules.epsilon()"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: fa.under(fa.saliency), TypeError, "got function: such as fa.rules.epsilon()"),  # type: ignore[arg-type]  # likewise
        (lambda: fa.under([1]), TypeError, "must be a dict"),  # type: ignore[arg-type]  # likewise
        (lambda: fa.under({"linear": 3}), TypeError, "must be callable"),  # type: ignore[dict-item]  # likewise
        (lambda: fa.under({"convolutions": print}), ValueError, "Did you mean 'convolution'?"),
        (lambda: fa.under({math.sin: print}), ValueError, "no operation of torch"),
        (lambda: fa.lrp(lambda t: t.sum(1), ROWS, rules={"softmax": R.cp_lrp()["softmax"]}), ValueError, "no operation of the"),
        (lambda: R.alpha_beta(2.0, 2.0), ValueError, "alpha - beta must be 1"),
        (lambda: R.epsilon(-1.0), ValueError, "must be finite and not negative, got -1.0"),
        (lambda: R.gamma(math.inf), ValueError, "gamma must be finite"),  # it was said to be negative
        (lambda: R.zbox(1.0, -1.0), ValueError, "low is 1.0 and high -1.0"),
        (
            lambda: fa.lrp(LAST, ROWS, target=0, rules={"linear": lambda op, g: g}),
            ValueError,
            "rule for linear returned [3, 3]",
        ),
        (lambda: fa.lrp(torch.compile(LAST), ROWS, target=0).sum(), None, ""),
    ],
)
def test_mistakes(call: Callable[[], Any], kind: Any, words: str) -> None:
    if kind is None:
        call()
        return
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


def test_what_has_no_rule_is_named_once() -> None:
    def model(t: Tensor) -> Tensor:
        return LAST(FIRST(t).logsumexp(1, keepdim=True) * FIRST(t).cumprod(1) + FIRST(t).logsumexp(1, keepdim=True))

    with pytest.warns(UserWarning, match="cumprod, logsumexp") as caught:
        found = fa.lrp(model, ROWS, target=0, rules=R.epsilon())
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="cumprod"):
        kept = fa.absorbed(model, ROWS, target=0, rules=R.epsilon())
    assert {"logsumexp", "cumprod"} <= set(kept)
    close(found.sum(1) + sum(kept.values()), model(ROWS)[:, 0].detach(), 1e-9)


def test_tokens_count_where_they_are_looked_up() -> None:
    """An embedding looked up by x's integers varies; what masks and places make of them does not."""
    words, places = nn.Embedding(11, 6).double(), nn.Embedding(7, 6).double()

    def model(ids: Tensor) -> Tensor:
        mask = (ids != 0).double().unsqueeze(-1)
        h = (words(ids) + places(torch.arange(ids.shape[1]))) * mask
        return LAST(FIRST(h.sum(1)[:, :5]).relu())

    ids = torch.tensor([[3, 5, 0], [2, 2, 7]])
    found = fa.lrp(model, ids, layer=words, target=1, rules=R.attn_lrp() | {"linear": R.epsilon(0.0)["linear"]})
    close(found, fa.input_x_gradient(model, ids, layer=words, target=1), 1e-12)


def test_the_command_takes_a_set_by_name(tmp_path: Any, capsys: Any, monkeypatch: Any) -> None:
    import numpy as np
    from PIL import Image

    from funattr.__main__ import main

    Image.fromarray((torch.rand(8, 8).numpy() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    told = "explain a.png --model funattr._demo.model:load_model --size 8 --method"
    assert main(f"{told} lrp --rules gamma --out a.npz".split()) == 0
    assert main(f"{told} lrp --out b.npz".split()) == 0
    gamma, plus = np.load("a.npz", allow_pickle=False), np.load("b.npz", allow_pickle=False)
    assert not np.allclose(gamma["lrp"], plus["lrp"])
    capsys.readouterr()
    assert main(f"{told} saliency --rules gamma".split()) == 2
    assert "--rules is no option of saliency, only of lrp" in capsys.readouterr().err
    assert main(f"{told} lrp --rules gama".split()) == 2


def test_what_no_mode_sees_is_named() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            ctx.save_for_backward(t)
            return t**3

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 3 * ctx.saved_tensors[0] ** 2 * gradient

    def model(t: Tensor) -> Tensor:
        return LAST(Cube.apply(FIRST(t)) * FIRST(t))  # type: ignore[no-untyped-call]  # nor for apply

    with pytest.warns(UserWarning, match="the autograd.Function Cube"):
        found = fa.lrp(model, ROWS, target=1, rules=R.epsilon(1e-12))
    h = FIRST(ROWS).detach()
    slope = LAST.weight[1] * (h**3 + 3 * h**2 * h) / 2  # both factors vary: half each
    close(found, ROWS * (slope @ FIRST.weight))


def test_what_is_overwritten_later_counts_as_it_was() -> None:
    """Dropout in place, of a view of what a pool has left: in eval mode it changes nothing, and nothing counts twice."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(4, 3)
    )
    model = net.double().eval()
    for rules in (R.epsilon(), R.gamma()):
        found, kept = fa.lrp(model, X, target=1, rules=rules), fa.absorbed(model, X, target=1, rules=rules)
        close(found.flatten(1).sum(1) + sum(kept.values()), model(X)[:, 1].detach())
        assert set(kept) <= set(rules)


def test_what_other_embeddings_keep() -> None:
    """At one of several embeddings the others count as what they keep, also where a column of ids is cut out of a table."""
    torch.manual_seed(0)
    one, two = nn.Embedding(5, 3).double(), nn.Embedding(7, 3).double()
    head = nn.Linear(3, 2).double()

    def model(numbers: Tensor, ids: Tensor) -> Tensor:
        return head(torch.tanh(one(ids[:, 0]) * two(ids[:, 1]) + two(ids[:, 1])) + numbers)

    x = (torch.randn(4, 3, dtype=torch.float64), torch.randint(0, 5, (4, 2)))
    for layer in (one, fa.output_of(two, call=0)):
        found = fa.lrp(model, x, layer=layer, target=1, rules=R.epsilon())
        kept = fa.absorbed(model, x, layer=layer, target=1, rules=R.epsilon())
        assert found.any()
        close(found.sum(1) + sum(kept.values()), model(*x)[:, 1].detach(), 1e-9)


def test_nothing_is_kept_after_the_last_layer_or_of_no_example() -> None:
    model = nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.randn(2, 7, dtype=torch.float64)
    for cut in (model, lambda x: model(x)[:, :2]):
        last = fa.absorbed(cut, x, layer=model[2], target=1, rules=R.epsilon())
        assert set(last) == {"linear", "activation"}
        assert not any(amount.any() for amount in last.values())
    close(fa.lrp(model, x, layer="2", target=1, rules=R.epsilon()).sum(1), model(x)[:, 1].detach())
    assert all(amount.shape == (0,) for amount in fa.absorbed(model, x[:0], target=1, rules=R.epsilon()).values())
