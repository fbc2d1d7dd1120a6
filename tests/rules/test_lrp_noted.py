"""Rules: each operation counts once, whatever it is made of; channels of groups; and nothing of a pass is held after it."""

from __future__ import annotations

import gc
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funattr as fa
from funattr import rules as R

from ..close import close

torch.manual_seed(0)
W, B = torch.randn(4, 5).double(), torch.randn(4).double()
HEAD = nn.Linear(4, 3).double()
X = torch.randn(3, 5).double()


@pytest.mark.parametrize("rules", [R.epsilon(0.1), R.alpha_beta(), {**R.gamma(), **R.flat()}])
def test_products_with_a_vector_and_sums_beside_them(rules: dict[Any, Any]) -> None:
    """A bias that varies, or a factor before it, takes the operation apart: then its parts count, and not the whole as well."""

    def model(x: Tensor, kind: int) -> Tensor:
        rows = [
            lambda: F.linear(x, W, B),
            lambda: torch.stack([torch.addmv(B, W, row) for row in x]),
            lambda: torch.stack([torch.addmv(B, W, row, beta=0.5) for row in x]),
            lambda: torch.addmm(x[:, :4].tanh(), x, W.T, alpha=2.0),
            lambda: torch.stack([F.linear(row.tanh(), row.reshape(1, 5) * W, row[:4]) for row in x]),
            lambda: F.conv1d(x[:, None], W[:, None, :3].contiguous(), B).mean(2),
        ]
        return HEAD(rows[kind]())

    found = [fa.lrp(lambda x, k=k: model(x, k), X, target=1, rules=rules) for k in range(6)]
    close(found[1], found[0], 1e-12)
    for k, relevance in enumerate(found):
        kept = fa.absorbed(lambda x, k=k: model(x, k), X, target=1, rules=rules)
        close(relevance.sum(1) + sum(kept.values()), model(X, k)[:, 1].detach(), 1e-9)


@pytest.mark.parametrize("rules", [R.epsilon(0.1), R.alpha_beta(), R.epsilon_plus_flat()])
def test_batch_norm_after_a_transposed_convolution_of_groups(rules: dict[Any, Any]) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2).double()
    norm = nn.BatchNorm2d(6).double().eval()
    for t in (norm.weight, norm.bias, norm.running_mean):
        assert t is not None
        nn.init.normal_(t)
    assert norm.running_mean is not None
    head, x = nn.Linear(6, 2).double(), torch.randn(2, 4, 5, 5).double()
    scale = norm.weight / torch.sqrt(torch.ones(6).double() + norm.eps)
    weight = (layer.weight.reshape(2, 2, 3, 3, 3) * scale.reshape(2, 1, 3, 1, 1)).reshape(layer.weight.shape)
    bias = (layer.bias - norm.running_mean) * scale + norm.bias

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        return head(F.conv_transpose2d(x, weight, bias, stride=2, groups=2).relu().mean((2, 3)))

    found = fa.lrp(lambda x: head(norm(layer(x)).relu().mean((2, 3))), x, target=1, rules=rules)
    close(found, fa.lrp(by_hand, x, target=1, rules=rules), 1e-11)


@pytest.mark.parametrize("rules", [R.epsilon(), R.epsilon_plus_flat(), R.attn_lrp()])
def test_nothing_of_a_pass_is_held_after_it(rules: dict[Any, Any]) -> None:
    """Not until the garbage collector comes: on a large model two calls would not fit where one does."""
    met: list[weakref.ref[Tensor]] = []

    class Keep(nn.Module):
        def forward(self, t: Tensor) -> Tensor:
            met.append(weakref.ref(t))
            return t

    model = nn.Sequential(
        nn.Linear(5, 4), Keep(), nn.GELU(), nn.Linear(4, 4), Keep(), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    x = torch.randn(2, 5)
    fa.lrp(model, x, target=0, rules=rules)
    met.clear()
    gc.disable()
    try:
        fa.lrp(model, x, target=0, rules=rules)
        assert [ref() is not None for ref in met] == [False, False]
    finally:
        gc.enable()


WRITES: dict[str, Any] = {
    "mask": (lambda h: h.masked_fill_(h.detach() < 0, 0.5), lambda h: h.masked_fill(h.detach() < 0, 0.5)),
    "item": (lambda h: [h.__setitem__(h.detach() < 0, 0.0), h][1], lambda h: h.masked_fill(h.detach() < 0, 0.0)),
    "rows": (lambda h: h.index_fill_(-1, torch.tensor([0, 2]), 0.0), lambda h: h * torch.tensor([0.0, 1.0, 0.0, 1.0]).double()),
    "more": (lambda h: h.index_add_(-1, torch.tensor([1]), h[..., :1] * 2), lambda h: h + h[..., :1] * 2 * torch.eye(4)[1]),
    "view": (lambda h: [h[..., :2].fill_(0.5), h][1], lambda h: torch.cat([torch.full_like(h[..., :2], 0.5), h[..., 2:]], -1)),
}


@pytest.mark.parametrize("rules", [R.epsilon(0.1), R.alpha_beta(), R.gamma(), {"linear": R.epsilon(0.0)["linear"]}])
@pytest.mark.parametrize("write", WRITES)
def test_rules_hold_before_and_after_what_is_written_in_place(write: str, rules: dict[Any, Any]) -> None:
    """Of three dimensions a linear layer's output is a view, whose place in the graph is another one once it is written to."""
    body, x = nn.Linear(5, 4).double(), torch.randn(2, 3, 5).double()
    models = [lambda x, f=f: HEAD(f(body(x)).sum(1)) for f in WRITES[write]]
    found, expected = (fa.lrp(model, x, target=1, rules=rules) for model in models)
    close(found, expected, 1e-12)
    kept = fa.absorbed(models[0], x, target=1, rules=rules)
    close(found.sum((1, 2)) + sum(kept.values()), models[0](x)[:, 1].detach(), 1e-9)


class Spectrum(nn.Module):
    """A filter among the frequencies, and products of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(4, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(self.fc(x)) * self.filter
        return self.head((z * z.flip(1)).real + torch.fft.irfft(z, 4) + z.abs())  # type: ignore[no-any-return]  # a module returns any


@pytest.mark.filterwarnings("ignore:operations without a rule:UserWarning")
def test_what_complex_numbers_absorb_is_real() -> None:
    torch.manual_seed(0)
    model, x = Spectrum(), torch.randn(3, 6).double()
    model.fc.double(), model.head.double()
    for rules in (R.epsilon(1e-3), R.epsilon_plus()):
        kept = fa.absorbed(model, x, target=1, rules=rules)
        assert not any(t.is_complex() for t in kept.values())
        total = torch.stack([fa.lrp(model, x, target=1, rules=rules).sum(1), *kept.values()]).sum(0)
        torch.testing.assert_close(total, model(x)[:, 1].detach(), rtol=0, atol=1e-9)


def test_what_a_complex_constant_brings() -> None:
    """Its real and its imaginary part times their gradients: a sum with the relevance does not tell one from another."""
    torch.manual_seed(0)
    head, x = nn.Linear(6, 3, bias=False).double(), torch.randn(3, 6).double()
    shift = torch.randn(4, dtype=torch.complex128)

    def model(x: Tensor, shift: Tensor = shift) -> Tensor:
        return head(torch.fft.irfft(torch.fft.rfft(x) + shift, 6))  # type: ignore[no-any-return]  # a module returns any

    parts = torch.view_as_real(shift).requires_grad_()
    scores = model(x, torch.view_as_complex(parts))[:, 1]
    expected = [(parts * torch.autograd.grad(score, parts, retain_graph=True)[0]).sum().detach() for score in scores]
    close(fa.absorbed(model, x, target=1, rules=R.epsilon(1e-12))["add"], torch.stack(expected), 1e-9)


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(lambda h: torch.tanh(h * h.flip(1)), self.fc(x), use_reentrant=False)
        return self.head(h)  # type: ignore[no-any-return]  # a module returns any


def test_parts_that_run_again_in_the_backward_pass_are_refused_in_words() -> None:
    for method in (fa.lrp, fa.absorbed):
        with pytest.raises(ValueError, match=r"^(lrp|absorbed)\(.*where rules cannot be: turn that off \(use_checkpoint=False"):
            method(Again(), torch.randn(2, 6), target=1)


def halved(op: R.Operation, gradient: Tensor) -> Tensor:
    return gradient / 2 * (op.inputs[0] > 0)


def part_of(h: Tensor) -> Tensor:
    h[:, :2].relu_()
    return h


NORM = nn.BatchNorm1d(4).double().eval()
RELUS: dict[str, tuple[Any, Any]] = {  # as they are written, and as what
    "in place": (lambda h: h.relu_(), torch.relu),
    "of a view": (part_of, lambda h: torch.cat([h[:, :2].relu(), h[:, 2:]], 1)),
    "beside a norm": (lambda h: NORM(h) + h.relu(), lambda h: NORM(h) + F.leaky_relu(h, 0)),
    "by a mask, beside a norm": (lambda h: NORM(h) + h * (h > 0), lambda h: F.leaky_relu(h, 0) + NORM(h)),
}


@pytest.mark.parametrize("relu", [R.guided()["relu"], halved, R.epsilon()["activation"]], ids=["guided", "own", "flow"])
@pytest.mark.parametrize("name", RELUS)
def test_a_rule_for_relu_beside_those_of_what_it_writes_over(name: str, relu: Any) -> None:
    rules = {**R.epsilon(0.5), "relu": relu}
    found, wanted = (fa.lrp(lambda x, f=f: HEAD(f(x @ W.T + 0)), X, target=1, rules=rules) for f in RELUS[name])
    close(found, wanted)
    found, wanted = (fa.lrp(lambda x, f=f: HEAD(f(F.linear(x, W, B))), X, target=1, rules=rules) for f in RELUS[name])
    close(found, wanted)
    kept = fa.absorbed(lambda x: HEAD(RELUS[name][0](F.linear(x, W, B))), X, target=1, rules=rules)
    score = HEAD(RELUS[name][1](F.linear(X, W, B)))[:, 1].detach()
    close(found.sum(1) + sum(kept.values()), score, 1e-9)


@pytest.mark.parametrize("rules", [R.guided(), R.deconv(), {"relu": halved}], ids=["guided", "deconv", "own"])
def test_a_relu_with_a_rule_keeps_something(rules: Any) -> None:
    def model(x: Tensor) -> Tensor:
        h = F.linear(x, W, B).relu_()
        return HEAD(torch.logsumexp(h[:, None] + h.relu()[:, :, None], 1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, kept = (method(model, X, target=1, rules=rules) for method in (fa.lrp, fa.absorbed))
    assert kept["relu"].abs().max() > 0.01
    close(found.sum(1) + sum(kept.values()), model(X)[:, 1].detach(), 1e-9)


LINEAR = {
    "unfold": lambda h: F.unfold(h, 2),
    "fold": lambda h: F.fold(h.flatten(2), 4, 2, stride=2),
    "fftshift": lambda h: torch.fft.fftshift(h, dim=(1, 2)),
    "hfft": lambda h: torch.fft.hfft(h),
    "atleast_3d": lambda h: torch.atleast_3d(h.flatten(1)),
    "column_stack": lambda h: torch.column_stack([h, h]),
    "block_diag": lambda h: torch.stack([torch.block_diag(*part) for part in h]),
    "slice_scatter": lambda h: torch.zeros_like(h).slice_scatter(h[:, :1], 1, 0, 1),
    "hsplit": lambda h: torch.hsplit(h, 2)[0],
    "as_strided": lambda h: h.as_strided((2, 4), (16, 3)),
    "affine_grid": lambda h: F.affine_grid(h.flatten(1)[:, :6].view(2, 2, 3), [2, 1, 3, 3], align_corners=False),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_needs_no_rule(name: str) -> None:
    """Nobody is told that it keeps its gradient, which is its rule."""
    x = torch.randn(2, 4, 2, 2).double()

    def model(x: Tensor) -> Tensor:
        return LINEAR[name](torch.tanh(x)).flatten(1).sum(1)  # type: ignore[no-any-return, no-untyped-call]  # torch's own, of no type

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.lrp(model, x, rules=R.attn_lrp())
    torch.testing.assert_close(found.flatten(1).sum(1), model(x))


def test_a_neuron_of_a_model_without_what_a_rule_is_for() -> None:
    with pytest.raises(ValueError, match="the model has no ReLU"):
        fa.guided_backprop(nn.Sequential(HEAD), torch.randn(2, 4).double(), target=fa.neuron("0", 1))


def kept_apart(h: Tensor) -> Tensor:
    made, again = torch.tanh(h), h * 1
    made, once = made * 1, torch.tanh(again)
    again[:, :2] = made[:, 2:]
    again += once
    return again


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_rule_of_ones_own_is_given_what_was_there(create_graph: bool) -> None:
    """Also where the model has written to it since."""

    def weighed(op: R.Operation, gradient: Tensor) -> Tensor:
        return gradient * (op.output.abs() + op.inputs[0] ** 2)

    def plain(h: Tensor) -> Tensor:
        return torch.cat([torch.tanh(h)[:, 2:], h[:, 2:]], 1) + torch.tanh(h)

    x = X.clone().requires_grad_(create_graph)
    found, wanted = (
        fa.lrp(lambda x, f=f: HEAD(f(F.linear(x, W, B))), x, target=1, rules={torch.tanh: weighed}, create_graph=create_graph)
        for f in (kept_apart, plain)
    )
    close(found.detach(), wanted.detach())
    if create_graph:
        slope, other = (torch.autograd.grad(relevance.square().sum(), x)[0] for relevance in (found, wanted))
        close(slope, other)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 3), (1, 2, 3, 4)])
def test_what_is_written_back_to_its_place_in_one_example(shape: tuple[int, ...]) -> None:
    def model(x: Tensor) -> Any:
        z = x * 2
        z[:, 0] += x.mean(1)  # which is written to z, and then put into z[:, 0]
        return z.tanh().flatten(1).sum(1)

    x = torch.randn(shape, dtype=torch.float64)
    rules = fa.rules.attn_lrp()
    total = fa.lrp(model, x, rules=rules).flatten(1).sum(1) + sum(fa.absorbed(model, x, rules=rules).values())
    torch.testing.assert_close(total, model(x))


@pytest.mark.parametrize(
    "view",
    [lambda t: t.permute(1, 2, 0).permute(2, 0, 1), lambda t: t.view(3, -1, 4), lambda t: (t @ torch.eye(4).double()).mT.mT],
)
def test_what_is_written_to_a_view_from_before_the_layer(view: Any) -> None:
    """As in Gemma 3n: torch's "created in no_grad mode" came."""
    layer = nn.Linear(4, 4).double()

    def model(x: Tensor) -> Any:
        h = x[:, :4].sin()
        rows = view(torch.stack([h, 2 * h, h.cos()]))
        rows[1:] += layer(h)
        return rows.tanh().sum((0, 2))

    for rules in (R.epsilon(), R.attn_lrp()):
        total = fa.lrp(model, X, layer=layer, rules=rules).sum(1) + sum(
            fa.absorbed(model, X, layer=layer, rules=rules).values()
        )
        close(total, model(X).detach(), 1e-9)


@pytest.mark.parametrize("run", [torch.func.grad, partial(torch.func.vmap, in_dims=0)])
def test_absorbed_under_torch_func(run: Any) -> None:
    """It looks at the graph, and raised torch's error."""
    with pytest.raises(ValueError, match=r"looks at the graph of each example.*outside"):
        run(lambda x: fa.absorbed(HEAD, x[None], target=1)["linear"].sum())(torch.randn(2, 3).double())


REMAKING = {"gamma": fa.rules.gamma()["linear"], "zplus": fa.rules.zplus()["linear"], "flat": fa.rules.flat()["first"]}


@pytest.mark.parametrize("rule", REMAKING)
@pytest.mark.parametrize(
    ("key", "model"),
    [
        (torch.add, lambda x: x + x.sin()),  # numbers without a meaning came of it, others with create_graph=True
        (torch.cat, lambda x: torch.cat([x, x.sin()], 1)),
        (torch.sum, lambda x: x.sum(1, keepdim=True)),  # "not enough values to unpack"
        (F.avg_pool1d, lambda x: F.avg_pool1d(x, 2)),
        ("activation", torch.tanh),
    ],
)
def test_rules_for_weights_where_there_are_none(rule: str, key: Any, model: Any) -> None:
    with pytest.raises(ValueError, match=r"looks at the weights of an operation, and \w+ has none: it is for 'linear'"):
        fa.under({key: REMAKING[rule]})(fa.gradient)(model, torch.randn(2, 4), target=0)
