"""Rules where the operand that varies is not the first, where both do or none, and for norms under all their names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

from ..close import close

torch.manual_seed(0)
FIRST, LAST = nn.Linear(5, 12).double(), nn.Linear(4, 3).double()
ROWS = torch.randn(4, 5, dtype=torch.float64)
LINES = torch.randn(1, 3, 7, dtype=torch.float64)
COLUMNS = LINES.unfold(2, 4, 1).transpose(1, 2).flatten(2)[0]  # a row for each place of a kernel of 4
HALF, BIAS = torch.randn(4, 12, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
SETS = {"epsilon": R.epsilon(0.1), "gamma": R.gamma(), "attn_lrp": R.attn_lrp(), "cp_lrp": R.cp_lrp()}
Form = Callable[[Tensor], Tensor]


def head(t: Tensor) -> Tensor:
    return LAST(t.tanh())  # type: ignore[no-any-return]  # a module's result


#: Each pair is one function, with what varies second, and first.
WEIGHTS: dict[str, tuple[Form, Form]] = {
    "linear": (lambda w: F.linear(HALF, w).T, lambda w: F.linear(w, HALF)),
    "linear with a bias": (
        lambda w: F.linear(HALF, w, torch.ones(4).double()).T,
        lambda w: F.linear(w, HALF, torch.ones(4).double()),
    ),
    "matrix product": (lambda w: (HALF @ w.T).T, lambda w: w @ HALF.T),
    "einsum": (lambda w: torch.einsum("ki,ni->nk", HALF, w), lambda w: torch.einsum("ni,ki->nk", w, HALF)),
    "einsum of numbers": (lambda w: torch.einsum(HALF, [1, 2], w, [0, 2], [0, 1]), lambda w: w @ HALF.T),
    "addmm": (lambda w: torch.addmm(BIAS[:, None], HALF, w.T).T, lambda w: torch.addmm(BIAS, w, HALF.T)),
    "convolution": (lambda w: F.conv1d(LINES, w.reshape(4, 3, 4))[0], lambda w: F.linear(w, COLUMNS)),
    "convolution of one example": (
        lambda w: F.conv1d(LINES[0], w.reshape(4, 3, 4), BIAS),
        lambda w: torch.addmm(BIAS[:, None], w, COLUMNS.T),
    ),
}


@pytest.mark.parametrize("rules", SETS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_varies_is_the_input(name: str, rules: str) -> None:
    second, first = WEIGHTS[name]
    found = fa.lrp(lambda x: head(second(FIRST(x))), ROWS, target=1, rules=SETS[rules])
    close(found, fa.lrp(lambda x: head(first(FIRST(x))), ROWS, target=1, rules=SETS[rules]), 1e-12)
    kept = fa.absorbed(lambda x: head(second(FIRST(x))), ROWS, target=1, rules=SETS[rules])
    close(found.sum(1) + sum(kept.values()), head(second(FIRST(ROWS)))[:, 1].detach(), 1e-9)


@pytest.mark.parametrize("bias", [None, torch.randn(4, dtype=torch.float64)])
def test_a_convolution_with_what_is_made_of_x_too_is_a_product(bias: Tensor | None) -> None:
    narrow = nn.Linear(5, 7).double()

    def direct(x: Tensor) -> Tensor:
        return head(F.conv1d(narrow(x)[None], FIRST(x).reshape(4, 4, 3), bias)[0].T)

    def spelled(x: Tensor) -> Tensor:
        columns = narrow(x).unfold(1, 3, 1).transpose(0, 1).flatten(1)
        product = columns @ FIRST(x).T
        return head(product if bias is None else product + bias)

    def method(model: Form, rules: dict[Any, Any]) -> Tensor:
        found: Tensor = fa.lrp(lambda x: model(x[0])[None, :, 1].sum(1), ROWS[None], rules=rules)
        return found

    for rules in (R.attn_lrp(), R.epsilon(0.1)):
        close(method(direct, rules), method(spelled, rules), 1e-12)
    score = direct(ROWS)[:, 1].sum()
    free = {**R.attn_lrp(), "linear": R.epsilon(0.0)["linear"]}
    kept = fa.absorbed(lambda x: direct(x[0])[None, :, 1].sum(1), ROWS[None], rules=free)
    close(method(direct, free).sum() + sum(kept.values()).sum(), score.detach(), 1e-9)


def test_of_what_does_not_vary_nothing_flows() -> None:
    """Products, a convolution and a recurrent layer of constants, beside x: as they are."""
    cell, gru = nn.GRUCell(3, 4).double(), nn.GRU(3, 4, batch_first=True).double()
    lines = LINES[0].T

    def beside() -> Tensor:
        made = F.linear(HALF, HALF).sum(0) + torch.addmm(BIAS, HALF, HALF.T).sum(0) + torch.einsum("ki,li->kl", HALF, HALF)[0]
        return made + F.conv1d(LINES, HALF.reshape(4, 3, 4))[0].sum(1) + cell(lines)[0] + gru(lines[None])[0][0, -1]

    constant = beside().detach()
    mix = nn.Linear(5, 4).double()
    found = fa.lrp(lambda x: LAST(mix(x) * beside()), ROWS, target=0, rules=R.gamma())
    close(found, fa.lrp(lambda x: LAST(mix(x) * constant), ROWS, target=0, rules=R.gamma()), 1e-12)


def written(t: Tensor, dims: Any, centred: bool = True) -> Tensor:
    c = t - t.mean(dims, keepdim=True) if centred else t
    return c * torch.rsqrt(c.pow(2).mean(dims, keepdim=True) + 1e-5)


def by_moments(t: Tensor, take: Any) -> Tensor:
    spread, mean = take(t, -1, unbiased=False, keepdim=True)
    return (t - mean) / (spread + 1e-5).sqrt() if take is torch.var_mean else (t - mean) / (spread * spread + 1e-5).sqrt()


def parts(t: Tensor) -> Tensor:
    return t.reshape(4, 4, 3)


KEPT = nn.InstanceNorm1d(4, affine=True, track_running_stats=True).double().eval()
NORMS: dict[str, tuple[Form, Form]] = {
    "instance_norm": (
        lambda t: nn.InstanceNorm1d(4)(t.reshape(4, 4, 3)).flatten(1),
        lambda t: written(t.reshape(4, 4, 3), 2).flatten(1),
    ),
    "instance_norm of running statistics": (lambda t: KEPT(t.reshape(4, 4, 3)).flatten(1), lambda t: t / (1 + 1e-5) ** 0.5),
    "var_mean": (lambda t: by_moments(t, torch.var_mean), lambda t: written(t, -1)),
    "std_mean": (lambda t: by_moments(t, torch.std_mean), lambda t: written(t, -1)),
}
if hasattr(F, "rms_norm"):  # since torch 2.4
    NORMS["rms_norm"] = (lambda t: F.rms_norm(t, (12,), eps=1e-5), lambda t: written(t, -1, centred=False))


@pytest.mark.parametrize("rules", ["attn_lrp", "gamma"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_what_they_are_written_out(name: str, rules: str) -> None:
    wide = nn.Linear(12, 3).double()
    one, other = (
        fa.lrp(lambda x, norm=norm: wide(norm(FIRST(x)).tanh()), ROWS, target=1, rules=SETS[rules]) for norm in NORMS[name]
    )
    close(one, other, 1e-12)


@pytest.mark.parametrize(
    ("of_two", "name"),
    [
        (lambda a, b: torch.atan2(a, b.exp()), "atan2"),
        (lambda a, b: torch.div(a, b.exp(), rounding_mode="floor") + a, "div"),
        (lambda a, b: torch.einsum("ni,ni,ni->ni", a, b, a.exp()), "einsum"),
    ],
)
def test_what_no_rule_is_for_keeps_its_gradient_and_is_named(of_two: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
    wide = nn.Linear(6, 3).double()

    def model(x: Tensor) -> Tensor:
        return wide(of_two(*FIRST(x).chunk(2, 1)))  # type: ignore[no-any-return]  # a module's result

    plain = {**R.attn_lrp(), "activation": lambda op, g: torch.func.vjp(op.function, *op.inputs)[1](g)[0]}
    with pytest.warns(UserWarning, match=f"operations without a rule keep their gradient: {name}"):
        found = fa.under(plain)(fa.gradient)(model, ROWS, target=1)
    close(found, fa.gradient(model, ROWS, target=1), 1e-12)


def test_an_activation_of_the_second_of_two() -> None:
    """``f(z) / z`` of what varies."""
    z = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    given = torch.tensor([[1.5, 0.25]], dtype=torch.float64)
    found = fa.under({"activation": R.attn_lrp()["activation"]})(fa.gradient)(lambda t: torch.atan2(given, t).sum(1), z)
    close(found, torch.atan2(given, z) / z, 1e-12)


def test_a_rule_for_relu_beside_others() -> None:
    """In place and not; of one's own, and guided, which with the gradient for all else is guided backpropagation."""
    for in_place in (False, True):
        net = nn.Sequential(FIRST, nn.ReLU(in_place), nn.Linear(12, 6).double(), nn.ReLU(in_place), nn.Linear(6, 3).double())
        plain = {"linear": R.epsilon(0.0)["linear"]}
        for rules, method in ((R.guided(), fa.guided_backprop), (R.deconv(), fa.deconvnet)):
            close(fa.under({**plain, **rules})(fa.gradient)(net, ROWS, target=1), method(net, ROWS, target=1), 1e-12)
        straight = fa.under({**plain, "relu": lambda op, g: g})(fa.gradient)(net, ROWS[:1], target=1)
        close(straight[0], net[4].weight[1] @ net[2].weight @ net[0].weight, 1e-12)


def test_a_rule_for_a_cell_as_a_whole() -> None:
    """It is given by its function; without one the cell is taken apart."""
    cell, last = nn.GRUCell(5, 4).double(), LAST

    def model(x: Tensor) -> Tensor:
        return last(cell(x))  # type: ignore[no-any-return]  # a module's result

    def whole(op: Any, g: Tensor) -> Any:
        assert op.name == "gru_cell"
        return torch.func.vjp(op.function, *op.inputs)[1](g)

    found = fa.under({torch.gru_cell: whole})(fa.gradient)(model, ROWS, target=1)
    close(found, fa.gradient(model, ROWS, target=1), 1e-12)


NODES = torch.randn(4, 12, dtype=torch.float64)
EDGES = torch.rand(4, 4, dtype=torch.float64) * (torch.rand(4, 4) > 0.4)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, of what sparse tensors lack
    COO, CSR = EDGES.to_sparse(), EDGES.to_sparse_csr()
SPARSE: dict[str, Form] = {
    "spmm": lambda h: torch.spmm(COO, h),
    "mm": lambda h: torch.mm(COO, h),
    "operator": lambda h: COO @ h,
    "sparse.mm": lambda h: torch.sparse.mm(COO, h),
    "addmm": lambda h: torch.sparse.addmm(torch.zeros_like(h), COO, h),
    "csr": lambda h: CSR @ h,
    "csr, second": lambda h: (h.T @ CSR.to_dense().T.to_sparse_csr()).T,
}
METHODS = {
    "deep_lift": fa.deep_lift,
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=torch.zeros(1, 12).double()),
    "box": partial(fa.lrp, rules={**R.epsilon(0.1), **R.zbox(-4.0, 4.0)}),
    "zplus": partial(fa.lrp, rules=R.zplus()),
    **{name: partial(fa.lrp, rules=rules) for name, rules in SETS.items()},
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse", "ignore:the steps run one after another")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_matrix_is_the_dense_one(name: str, method: str) -> None:
    """The adjacency of a graph, whose nodes are the rows of x."""
    layer = nn.Linear(12, 4).double()
    sparse = SPARSE[name]
    found, wanted = (METHODS[method](lambda x, f=f: head(layer(f(x))), NODES, target=1) for f in (sparse, EDGES.matmul))
    close(found, wanted)
    found, wanted = (METHODS[method](lambda x, f=f: head(f(layer(x))), NODES, target=1) for f in (sparse, EDGES.matmul))
    close(found, wanted)


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_a_sparse_matrix_that_varies() -> None:
    """Attention over the edges of a graph."""
    where = EDGES.nonzero().T

    def model(x: Tensor, dense: bool = False) -> Tensor:
        scores = torch.tanh(x.sum(1)[where[0]] * x.sum(1)[where[1]])
        matrix = torch.sparse_coo_tensor(where, scores, (4, 4))
        return head((matrix.to_dense() @ x if dense else torch.sparse.mm(matrix, x))[:, :4])

    with pytest.warns(UserWarning, match="a product of sparse matrices that vary.* no rule for it"):
        fa.deep_lift(model, NODES, target=1)
    found, kept = (method(model, NODES, target=1) for method in (fa.lrp, fa.absorbed))
    close(found.sum() + sum(amount.sum() for amount in kept.values()), model(NODES)[:, 1].sum().detach(), 1e-9)
    close(found, fa.lrp(partial(model, dense=True), NODES, target=1))


CUBE, VECTOR, PAIR = torch.randn(4, 12, 5).double(), torch.randn(5).double(), nn.Linear(5, 5).double()
TWO, ALONE = nn.Bilinear(12, 5, 4).double(), nn.Bilinear(12, 5, 4, bias=False).double()
FLAT = torch.einsum("oij,j->oi", CUBE, VECTOR)
THREE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {  # of FIRST(x), and of x
    "einsum": (lambda h, x: torch.einsum("ni,oij,j->no", h, CUBE, VECTOR), lambda h, x: h @ FLAT.T),
    "einsum, last": (lambda h, x: torch.einsum("oij,j,ni -> no", CUBE, VECTOR, h), lambda h, x: h @ FLAT.T),
    "einsum without an arrow": (lambda h, x: torch.einsum("ni,oij,j", h, CUBE, VECTOR), lambda h, x: h @ FLAT.T),
    "einsum with dots": (lambda h, x: torch.einsum("...i,oij,j->...o", h, CUBE, VECTOR), lambda h, x: h @ FLAT.T),
    "bilinear": (lambda h, x: ALONE(h, VECTOR.expand(4, 5)), lambda h, x: h @ (ALONE.weight @ VECTOR).T),
    "bilinear, second": (
        lambda h, x: F.bilinear(VECTOR.expand(4, 5), h, ALONE.weight.mT.contiguous()),
        lambda h, x: h @ (ALONE.weight @ VECTOR).T,
    ),
    "bilinear of two": (
        lambda h, x: TWO(h, PAIR(x)),
        lambda h, x: torch.einsum("ni,oij,nj->no", h, TWO.weight, PAIR(x)) + TWO.bias,
    ),
}


@pytest.mark.parametrize("rules", [*SETS, "zplus"])
@pytest.mark.parametrize("name", THREE)
def test_a_weight_of_several_factors_is_one(name: str, rules: str) -> None:
    """Contributions have the sign of all that is constant together."""
    ready = R.zplus() if rules == "zplus" else SETS[rules]
    found, wanted = (fa.lrp(lambda x, f=f: head(f(FIRST(x), x)), ROWS, target=1, rules=ready) for f in THREE[name])
    close(found, wanted)
    kept = fa.absorbed(lambda x: head(THREE[name][0](FIRST(x), x)), ROWS, target=1, rules=ready)
    close(found.sum(1) + sum(kept.values()), head(THREE[name][1](FIRST(ROWS), ROWS))[:, 1].detach(), 1e-9)


@pytest.mark.parametrize("rules", [R.epsilon_plus(), R.zplus(), R.gamma(), R.alpha_beta()], ids=["plus", "z+", "gamma", "ab"])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_units_without_positive_contributions_leave_no_rounding(rules: Any, dtype: torch.dtype, off: float) -> None:
    """Their share is of 1 / epsilon, and of that nothing goes to inputs that have none of it."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 2, 1, padding=1, bias=False), nn.Conv2d(2, 4, 2)
    second.bias = nn.Parameter(-torch.rand(4) - 0.5)
    model = nn.Sequential(first, second, nn.Flatten(), nn.Linear(144, 3)).to(dtype)
    x = torch.randn(2, 1, 5, 5, dtype=dtype)
    want = fa.lrp(copy.deepcopy(model).double(), x.double(), target=1, rules=rules)
    found = fa.lrp(model, x, target=1, rules=rules).double()
    assert (found - want).abs().max() < off * want.abs().max()


GRID, SOLVED = torch.rand(4, 2, 3, 2).double() * 2 - 1, torch.randn(4, 4).double()
#: Linear in what varies, though no table says so, or says it of what they are made of; and ones that are not.
STRAIGHT: dict[str, Form] = {
    "nanmean": lambda h: h.nanmean(-1),
    "trapezoid": torch.trapezoid,
    "cumulative_trapezoid": torch.cumulative_trapezoid,
    "torch.gradient": lambda h: torch.gradient(h, dim=2)[0],
    "max_unpool": lambda h: F.max_unpool1d(h, torch.tensor([1, 2, 5]).expand_as(h), [2]),
    "grid_sample": lambda h: F.grid_sample(h.unsqueeze(1), GRID, align_corners=False),
    "solve": lambda h: torch.linalg.solve(SOLVED, h),
    "cholesky_solve": lambda h: torch.cholesky_solve(h, SOLVED.tril()),
    "multi_dot": lambda h: torch.stack([torch.linalg.multi_dot([SOLVED, row, SOLVED[:3, :3]]) for row in h]),
    "scatter_reduce": lambda h: h.new_zeros(4, 4, 3).scatter_reduce(1, torch.ones_like(h).long(), h, "mean"),
    "ldexp": lambda h: torch.ldexp(h, torch.arange(3)),
    "sum_to_size": lambda h: h.sum_to_size(4, 1, 3),
    "to_sparse": lambda h: h.to_sparse().to_dense(),
    "native_dropout": lambda h: torch.native_dropout(h, 0.5, True)[0],
    "einsum of one, a view": lambda h: torch.einsum("bij->bji", h),
}
BENT: dict[str, Form] = {
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "trapezoid of two": lambda h: torch.trapezoid(h, h.cumsum(2)),
    "grid_sample of a grid": lambda h: F.grid_sample(h[:, None].detach() + 1, h[:, None, :, :2], align_corners=False),
    "solve of a matrix": lambda h: torch.linalg.solve(h[:, :3] + 4 * torch.eye(3), SOLVED[:3]),
    "infinite where it turns": lambda h: torch.special.entr(h.abs() + 0.1),
    "polygamma": lambda h: torch.polygamma(1, h.abs() + 1),
    "hardly bent": lambda h: torch.special.i1(h / 50),
}


@pytest.mark.parametrize("name", [*STRAIGHT, *BENT])
def test_operations_that_no_table_has(name: str) -> None:
    """What is linear in what varies is found to be, and keeps its gradient without a word."""
    form = {**STRAIGHT, **BENT}[name]

    def model(x: Tensor) -> Tensor:
        y = form(FIRST(x).tanh().unflatten(1, (4, 3))).flatten(1).tanh()
        return y @ torch.linspace(-1, 1, y.shape[1]).double()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(1)
        found = fa.lrp(model, ROWS)
        torch.manual_seed(1)
        kept = fa.absorbed(model, ROWS)
        torch.manual_seed(1)
    said = {str(warning.message).partition(":")[0] for warning in caught} - {"the model draws random numbers"}
    assert said == ({"operations without a rule keep their gradient"} if name in BENT else set())
    close(found.sum(1) + sum(kept.values()), model(ROWS).detach(), 1e-9)


@pytest.mark.parametrize("reduce", ["sum", "mean", "prod", "amax", "amin"])
def test_what_writes_to_a_constant_writes_once(reduce: str) -> None:
    """The look at whether an operation is linear ran it on the tensor that it writes to: the pass had other values."""

    def model(x: Tensor) -> Tensor:
        h = FIRST(x).tanh()
        into = torch.tensor([0, 0, 1] * (h.shape[1] // 3)).expand_as(h)
        return h.new_full((len(h), 4), 0.5).scatter_reduce_(1, into, h, reduce).tanh().sum(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, kept = fa.lrp(model, ROWS), fa.absorbed(model, ROWS)
    assert bool(caught) == (reduce in ("prod", "amax", "amin"))
    close(found.sum(1) + sum(kept.values()), model(ROWS).detach(), 1e-9)


DROPOUTS = [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, partial(torch.dropout_, p=0.5, train=False)]


@pytest.mark.parametrize("off", DROPOUTS)
def test_a_dropout_in_place_that_is_off_writes_nothing(off: Any) -> None:
    """It did under rules, and the softmax before it could not go back (the attention of TNT)."""
    off = off(inplace=True).eval() if isinstance(off, type) else off

    def model(x: Tensor) -> Tensor:
        h = FIRST(x).unflatten(1, (4, 3))
        return (off((h @ h.mT).softmax(-1)) @ h).tanh().flatten(1).sum(1)

    for rules in (R.epsilon(), R.attn_lrp()):
        found, kept = fa.lrp(model, ROWS, rules=rules), fa.absorbed(model, ROWS, rules=rules)
        close(found.sum(1) + sum(kept.values()), model(ROWS).detach(), 1e-9)
    close(fa.deep_lift(model, ROWS).sum(1), (model(ROWS) - model(ROWS * 0)).detach(), 1e-9)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="since torch 2.4")
@pytest.mark.filterwarnings(
    "ignore:the model draws random numbers", "ignore:operations without a rule", "ignore:DeepLIFT's rules do not"
)
def test_looking_at_an_operation_draws_nothing() -> None:
    @torch.library.custom_op("funattr_tests::thinned", mutates_args=())
    def thinned(h: Tensor) -> Tensor:
        return h * (torch.rand(h.shape) > 0.5)

    def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward((output / inputs[0]).round())

    thinned.register_autograd(lambda ctx, gradient: gradient * ctx.saved_tensors[0], setup_context=keep)

    def model(x: Tensor) -> Tensor:
        return F.dropout(thinned(FIRST(x)).tanh(), 0.5).sum(1)

    def again(method: Any, *options: Any) -> Any:
        torch.manual_seed(1)
        return method(*options)

    found, kept, scores = (again(fa.lrp, model, ROWS), again(fa.absorbed, model, ROWS), again(model, ROWS))
    close(found.sum(1) + sum(kept.values()), scores.detach(), 1e-9)
    close(again(fa.deep_lift, model, ROWS).sum(1), (scores - again(model, ROWS * 0)).detach(), 1e-9)


class Reader(nn.Module):
    """Queries that do not depend on x read what does, as in the first layer of a DETR's decoder."""

    def __init__(self, mask: Tensor | None, padding: Tensor | None, weights: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.out, self.weights = nn.Parameter(torch.randn(1, 3, 4)), nn.Linear(4, 2), weights
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.given = {"attn_mask": mask, "key_padding_mask": padding}
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.attention(self.query.expand(len(x), -1, -1), x, x, need_weights=self.weights, **self.given)
        return self.out(found.mean(1))  # type: ignore[no-any-return]  # a module's result


MASKS = {
    "bool": (torch.eye(3, 5).bool(), None),
    "float": (torch.linspace(-1, 1, 15).reshape(3, 5).double(), None),
    "padding": (None, torch.tensor([[False] * 4 + [True], [False] * 5])),
}


@pytest.mark.parametrize("rules", [R.epsilon(), R.gamma(), R.zplus(), R.alpha_beta()], ids=["epsilon", "gamma", "z+", "ab"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_no_bias_of_the_scores(name: str, rules: Any) -> None:
    """Where the weights of attention are asked for, it is the first argument of `torch.baddbmm`."""
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    mine, other = (Reader(*MASKS[name], weights) for weights in (True, False))
    found = fa.lrp(mine, x, target=1, rules=rules)
    close(found, fa.lrp(other, x, target=1, rules=rules), 1e-4)  # they scale the queries before, or after
    kept = fa.absorbed(mine, x, target=1, rules=rules)
    close(found.sum((1, 2)) + torch.stack(list(kept.values())).sum(0), mine(x)[:, 1].detach())
