"""DeepLIFT where a part of the model has no gradient: masks, gates, indices, cuts; and what it says of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa


class Net(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 8), nn.Linear(8, 3), act

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


def gated(z: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(z)
    return z * gate


def filled(z: Tensor) -> Tensor:
    return z.clone().masked_fill_(z < 0.1, -0.5)


def put(z: Tensor) -> Tensor:
    y, mask = torch.zeros_like(z), z > 0
    y[mask] = z[mask]
    return y


def written(z: Tensor) -> Tensor:
    y = z.clone()
    y[y > 0.1] = 0.1
    return y


def written_inside(z: Tensor) -> Tensor:
    y = z.clone()
    y[:, :4][y[:, :4] < 0] = torch.tensor(-0.5, dtype=y.dtype)
    return y


TABLE = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8)
#: Elementwise: the slope that the gate makes between the baseline and x.
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "z * (z > 0)": lambda z: z * (z > 0),
    "z * (z > 0).float()": lambda z: z * (z > 0).to(z.dtype),
    "(z > 0) * z": lambda z: (z > 0) * z,
    "jump": lambda z: z * (z > 0.3),
    "window": lambda z: z * ((z > -1) & (z < 1)),
    "detached": lambda z: z * (z.detach() > 0),
    "one_hot": lambda z: F.one_hot(z.argmax(-1), 8) * z,
    "masked_fill": lambda z: z.masked_fill(z < 0, 0.0),
    "masked_fill_": filled,
    "y[y > 0.1] = 0.1": written,
    "y[:, :4][mask] = number": written_inside,
    "index_put": lambda z: torch.index_put(z, (z < 0,), torch.tensor(0.2, dtype=z.dtype)),
    "index_put_": lambda z: z.clone().index_put_((z < 0,), torch.tensor(0.2, dtype=z.dtype)),
    "exp of -inf": lambda z: z.masked_fill(z < 0, -torch.inf).exp(),
    "no_grad": gated,
    "a count": lambda z: z / (1 + (z > 0).sum(-1, keepdim=True)),
    "rows of a table": lambda z: z * TABLE[z.argmax(-1)],
    "chosen from a table": lambda z: z * TABLE[: len(z)].gather(1, z.argsort(-1)),
    "the largest, by topk": lambda z: z * torch.zeros_like(z).scatter(1, z.topk(3, -1).indices, 1.0),
    "ranks, by sort": lambda z: z * (z.sort(-1).indices < 4),
    "above a kthvalue": lambda z: z * (z >= z.kthvalue(4, -1, keepdim=True).values),
    "written by an index": lambda z: z * torch.zeros_like(z).scatter(1, z.argsort(-1)[:, 5:], 1.0),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gates_are_complete_by_the_slope_that_they_make(name: str) -> None:
    torch.manual_seed(0)
    act = ELEMENTWISE[name]
    model, x, base = Net(act).double().eval(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    with torch.no_grad():
        z, z0 = model.a(x), model.a(base)
        slope = (act(z) - act(z0)) / (z - z0)
        expected = (slope * model.b.weight[1]) @ model.a.weight * (x - base)
    torch.testing.assert_close(fa.deep_lift(model, x, baselines=base, target=1), expected, rtol=1e-9, atol=1e-9)


MASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill": lambda z: z.masked_fill(z < -0.2, -torch.inf).softmax(-1),
    "masked_fill by the largest number": lambda z: z.masked_fill(z < -0.2, -torch.finfo(z.dtype).max).softmax(-1),
    "where by the largest number": lambda z: torch.where(z < -0.2, -torch.finfo(z.dtype).max, z).log_softmax(-1).exp(),
    "where": lambda z: torch.where(z < -0.2, torch.full_like(z, -torch.inf), z).log_softmax(-1).exp(),
    "attention": lambda z: F.scaled_dot_product_attention(
        torch.ones_like(z)[:, :1, None],
        z[:, :, None],
        torch.eye(8, dtype=z.dtype).expand(len(z), 8, 8),
        z[:, None] >= -0.2,
    )[:, 0],
}


@pytest.mark.parametrize("name", MASKED)
def test_what_a_softmax_makes_of_a_mask_that_differs(name: str) -> None:
    """The limit of ``L (dz - sum L dz / sum L)``, L the logarithmic means, as z goes to -inf: there L goes to 0, and L dz to
    what p loses."""
    torch.manual_seed(2)
    model, x, base = Net(MASKED[name]).double().eval(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    with torch.no_grad():
        z, z0 = model.a(x), model.a(base)
        gone, gone0 = z < -0.2, z0 < -0.2
        assert bool((gone & ~gone0).any())
        assert bool((~gone & gone0).any())
        p, p0 = MASKED["masked_fill"](z), MASKED["masked_fill"](z0)
        here = ~gone & ~gone0
        mean = torch.where(here, (p - p0) / (p.log() - p0.log()), 0.0)
        moved = torch.where(here, mean * (z - z0), torch.where(gone & gone0, 0.0, p - p0))  # L dz of each place
        weight = model.b.weight[1]
        shared = (weight * mean).sum(-1, keepdim=True) / mean.sum(-1, keepdim=True)
        slope = moved * (weight - shared) / (z - z0)
        expected = slope @ model.a.weight * (x - base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.deep_lift(model, x, baselines=base, target=1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.sum(1), (model(x) - model(base))[:, 1], rtol=1e-7, atol=1e-8)


class Attention(nn.Module):
    """Self-attention with a mask that comes from its input, in one operation or in several."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.q, self.k, self.v = fused, nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, mask = self.q(x), self.k(x), self.v(x), (x[:, None, :, 0] > -0.2) | torch.eye(5, dtype=torch.bool)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).mean(1)
        return ((q @ k.mT / 2).masked_fill(~mask, -torch.inf).softmax(-1) @ v).mean(1)


def test_attention_with_a_mask_that_differs() -> None:
    torch.manual_seed(3)
    fused, apart = Attention(True).double(), Attention(False).double()
    apart.load_state_dict(fused.state_dict())
    x, base = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fa.deep_lift(fused, x, baselines=base, target=1)
        again = fa.deep_lift(apart, x, baselines=base, target=1)
    torch.testing.assert_close(found, again)
    torch.testing.assert_close(found.sum((1, 2)), (fused(x) - fused(base))[:, 1])


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in seen]


#: What no slope follows, and what the warning names.
CUT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "put": (put, "getitem"),
    "gather": (lambda z: z.gather(-1, z.argsort(-1)), "gather"),
    "detach": (lambda z: z + (z * z).detach(), "detach"),
    "shift": (lambda z: (z - z.amax(-1, keepdim=True).detach()).exp(), "detach"),
    "rounded": (lambda z: z + (torch.round(z) - z).detach(), "detach"),
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_lost_is_said_once_with_its_name(name: str) -> None:
    torch.manual_seed(0)
    act, cause = CUT[name]
    model, x, base = Net(act).double().eval(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    for layer in (None, "a"):  # all goes through both
        (text,) = said(lambda layer=layer: fa.deep_lift(model, x, baselines=base, target=1, layer=layer))  # type: ignore[misc]  # a lambda with a default has no type for mypy
        assert cause in text
        assert said(lambda layer=layer: fa.deep_lift_shap(model, x, baselines=base, target=1, layer=layer))  # type: ignore[misc]  # a lambda with a default has no type for mypy


def test_nothing_is_said_where_a_layer_does_not_cut_the_graph() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x + torch.tanh(self.a(x)))

    model, x = Skips().double().eval(), torch.randn(4, 6).double()
    assert not said(lambda: fa.deep_lift(model, x, layer="a", target=1))


class Text(nn.Module):
    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head, self.pool = nn.Embedding(30, 5, padding_idx=0), nn.Linear(5, 2), pool

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.pool(self.embed(ids), ids != 0))


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda h, real: (h * real[..., None]).sum(1),
    "mean": lambda h, real: h.sum(1) / real.sum(1, keepdim=True),
    "max": lambda h, real: h.masked_fill(~real[..., None], -1e4).amax(1),
    "last": lambda h, real: h[torch.arange(len(h)), real.sum(1) - 1],
}


def test_what_is_minus_infinity_twice_differs_by_nothing() -> None:
    """Decays of a state-space model: sums between two places, and none from a later one."""

    def decays(x: Tensor) -> Tensor:
        sums = x.tanh().cumsum(1)
        later = torch.ones(4, 4).triu(1).bool()
        return ((sums[:, :, None] - sums[:, None]).masked_fill(later, -torch.inf).exp() @ x[:, :, None]).flatten(1)

    x, base = torch.randn(2, 2, 4, dtype=torch.float64).unbind()
    found = fa.deep_lift(decays, x, target=3, baselines=base)
    assert float(fa.convergence_delta(found, decays, x, baselines=base, target=3).abs().max()) < 1e-9


@pytest.mark.parametrize("name", POOLS)
def test_masks_of_the_ids_are_those_of_x_and_it_says_so(name: str) -> None:
    torch.manual_seed(0)
    model = Text(POOLS[name]).double().eval()
    ids = torch.randint(1, 30, (3, 6))
    base = ids.clone()
    base[:, 3:] = 0
    assert any("DeepLIFT" in text for text in said(lambda: fa.deep_lift(model, ids, layer="embed", baselines=base, target=1)))


def test_the_mask_of_x_is_the_slope() -> None:
    torch.manual_seed(0)
    model = Text(POOLS["product"]).double().eval()
    ids = torch.tensor([[3, 4, 0], [5, 0, 0]])
    base = torch.tensor([[7, 0, 8], [9, 9, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fa.deep_lift(model, ids, layer="embed", baselines=base, target=1, multiply_by_inputs=False)
    assert torch.equal(found, (ids != 0)[..., None] * model.head.weight[1].expand(2, 3, 5))


def test_a_model_that_differentiates_itself() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forces(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0][:, :1]

    x = torch.randn(2, 3).double()
    with pytest.raises(ValueError, match="differentiates itself"):
        fa.deep_lift(forces, x)

    def curved(x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda z: net(z)[0]))(x)[:, 0] + net(x)[:, 0]

    def pushed(x: Tensor) -> Tensor:
        return torch.func.jvp(net, (x,), (torch.ones_like(x),))[1] + net(x)

    def dual(x: Tensor) -> Tensor:
        with torch.autograd.forward_ad.dual_level() as level:
            made = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            return torch.autograd.forward_ad.unpack_dual(net(made), level=level).tangent

    for model in (curved, pushed):
        assert any("torch.func" in text for text in said(partial(fa.deep_lift, model, x)))
    for method, differentiated in ((fa.lrp, pushed), (fa.lrp, dual), (fa.absorbed, dual), (fa.deep_lift, dual)):
        with pytest.raises(ValueError, match="differentiates itself"):
            method(differentiated, x)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("how", ["triangular", "unit", "solve", "inverse"])
def test_solving_is_a_product_from_the_other_side(how: str, left: bool) -> None:
    """By hand: ``A' dY + dA Y' = dB`` with both half way; the shares of A and of B, and what they sum to."""
    torch.manual_seed(0)
    eye = torch.eye(4).double()
    a, a0 = (torch.randn(1, 4, 4).double() + 4 * eye for _ in range(2))
    b, b0 = (torch.randn(1, 4, 4).double() for _ in range(2))
    options: dict[str, Any] = {} if left else {"left": False}

    def look(t: Tensor) -> Tensor:
        return t.tril() if how == "triangular" else t.tril(-1) + eye if how == "unit" else t

    def op(a: Tensor, b: Tensor) -> Tensor:
        if how in ("triangular", "unit"):
            return torch.linalg.solve_triangular(a, b, upper=False, unitriangular=how == "unit", **options)
        inverse = torch.linalg.inv(a) if how == "inverse" else None
        if inverse is not None:
            return inverse @ b if left else b @ inverse
        return torch.linalg.solve(a, b, **options)

    found = fa.deep_lift(lambda a, b: op(a, b).flatten(1).sum(1), (a, b), baselines=(a0, b0))
    y, y0 = op(a, b), op(a0, b0)
    assert torch.allclose(found[0].sum() + found[1].sum(), (y - y0).sum(), rtol=1e-9)
    if how != "inverse":
        middle, between = look((a + a0) / 2), (y + y0) / 2
        of_b = torch.linalg.solve(middle, b - b0, left=left)
        of_a = -torch.linalg.solve(
            middle, (look(a) - look(a0)) @ between if left else between @ (look(a) - look(a0)), left=left
        )
        torch.testing.assert_close(found[0].sum(), of_a.sum())
        torch.testing.assert_close(found[1].sum(), of_b.sum())


def test_solving_for_vectors_by_what_all_examples_share() -> None:
    """By the shape of the matrices torch tells that these are vectors; at the baseline, too."""
    torch.manual_seed(0)
    weight, x, x0 = (torch.randn(n, 4, dtype=torch.float64) for n in (4, 3, 3))

    def model(x: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve(weight.expand(len(x), 4, 4) + 4 * torch.eye(4).double(), x)
        return solved.sum(1)

    torch.testing.assert_close(fa.deep_lift(model, x, baselines=x0).sum(1), model(x) - model(x0))


class Hand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Powered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * ((x * x).mean(-1) + 1e-6)[:, None] ** -0.5


class Divided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / ((x * x).mean(-1, keepdim=True) + 1e-6).sqrt()


def root(x: Tensor) -> Tensor:
    return torch.rsqrt(x.pow(2).mean(-1) + 1e-6)


class Spelled(nn.Module):
    """The same, by other products with the root."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, root(x))


PRODUCTS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, r: torch.einsum("nd,n->nd", x, r),
    lambda x, r: torch.einsum("n,nd->nd", [r, x]),
    lambda x, r: x * r[:, None].repeat(1, x.shape[1]),
    lambda x, r: torch.diag(r) @ x,
    lambda x, r: torch.bmm(r[:, None, None], x[:, None])[:, 0],
    lambda x, r: (x[:, None] @ torch.diag_embed(r[:, None].expand_as(x)))[:, 0],
]
NORMS: list[Callable[[], nn.Module]] = [Hand, Powered, Divided, *(partial(Spelled, product) for product in PRODUCTS)]
if hasattr(nn, "RMSNorm"):  # since torch 2.4
    NORMS.append(lambda: nn.RMSNorm(16, eps=1e-6))


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_zeros_stay_in_bounds_in_every_spelling(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.f = norm(), nn.Linear(16, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.f(self.norm(x)))

    layers: list[nn.Module] = [*(Block() for _ in range(6)), norm(), nn.Linear(16, 3)]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(2, 16)
    found = fa.deep_lift(model, x, target=1)
    assert found.abs().max() < 100
    torch.testing.assert_close(found.sum(1), (model(x) - model(0 * x))[:, 1].detach(), rtol=1e-3, atol=1e-3)
    if norm is not Hand:
        other = nn.Sequential(*model)
        for block in list(other.children())[:6]:
            block.norm = Hand()
        other[6] = Hand()
        torch.testing.assert_close(fa.deep_lift(other, x, target=1), found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("looks", [lambda x: x.requires_grad, lambda x: torch.is_grad_enabled()])
def test_a_path_that_is_taken_for_gradients(looks: Callable[[Tensor], bool]) -> None:
    def act(h: Tensor) -> Tensor:
        return (-(h * h)).exp() * h if looks(h) else torch.exp(-torch.square(h)) * h

    model, x = Net(act).double().eval(), torch.randn(3, 6).double()
    found = fa.deep_lift(model, x, target=1)
    torch.testing.assert_close(found.sum(1), (model(x) - model(0 * x))[:, 1].detach())


@pytest.mark.parametrize("cast", [lambda w, h: w.to(h.dtype), lambda w, h: w.float(), lambda w, h: w.type(h.dtype) * 1.0])
def test_a_cast_parameter_under_vmap(cast: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Linear(6, 6), nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.a(x))
            return F.linear(h, cast(self.w, h))

    torch.manual_seed(0)
    model, x, bases = Routed().eval(), torch.randn(3, 6), torch.randn(5, 6)
    found = fa.deep_lift_shap(model, x, baselines=bases, target=1, chunk_size=5)
    torch.testing.assert_close(found.sum(1), (model(x)[:, 1] - model(bases)[:, 1].mean()).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "meet",
    [torch.mul, torch.add, torch.div, torch.maximum, lambda h, g: (h[:, :, None] @ g[:, None])[:, 0]],
)
def test_what_goes_around_a_layer_has_its_own_share(meet: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A layer has what it has beside the other branch in one joint site, and both sum to the difference of the scores."""
    torch.manual_seed(0)

    class Meet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.g, self.b = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Any:
            return self.b(torch.tanh(meet(torch.tanh(self.a(x)), torch.sigmoid(self.g(x)))))

    model, x, x0 = Meet().double(), torch.randn(3, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    alone = fa.deep_lift(model, x, layer="a", target=1, baselines=x0)
    both = fa.deep_lift(model, x, layer=["a", "g"], target=1, baselines=x0)
    torch.testing.assert_close(alone, both[0])
    torch.testing.assert_close(both[0].sum(1) + both[1].sum(1), (model(x) - model(x0))[:, 1].detach())


#: Gates that a layer makes with weights w `[5, 8]`, of values whose gradient does not get to the site.
OF_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rows that are looked up": lambda h, w: F.embedding((h > 0).long(), w).sum(1) * h,
    "a bag": lambda h, w: F.embedding_bag((h > 0).long(), w).tanh() * h,
    "rows by index": lambda h, w: w[(h > 0).sum(1) % 5] * h,
    "one of two": lambda h, w: torch.where(h > 0, w[0], w[1]) * h,
    "a weighted mask": lambda h, w: (h > 0) * w[0] * h,
    "a mask of numbers": lambda h, w: (h > 0).to(h) * w[0] * h.exp(),
    "detached": lambda h, w: h.detach() * w[0] * h,
    "of a softmax": lambda h, w: (h.detach() @ w.t()).softmax(-1) @ w * h,
    "of a softmax, by attribute": lambda h, w: (h.detach() @ w.T).softmax(-1) @ w * h,
    "of what is transposed twice": lambda h, w: F.linear(h.detach(), w.T.mT).tanh() @ w.mT.T * h,
    "rounded": lambda h, w: (h.round() * w[0]).tanh() * h,
}


@pytest.mark.parametrize("name", OF_WEIGHTS)
@pytest.mark.parametrize("layer", [None, "a"])
def test_gates_of_weights_are_alike_whether_these_are_trained(name: str, layer: str | None) -> None:
    """Their gradient is none of the site's: a gate is one, whether or not its weights require a gradient."""
    torch.manual_seed(0)
    w, x = nn.Parameter(torch.randn(5, 8, dtype=torch.float64)), torch.randn(3, 6, dtype=torch.float64)
    model = Net(lambda h: torch.tanh(OF_WEIGHTS[name](h, w))).double()
    found = fa.deep_lift(model, x, layer=layer, target=1)  # and no warning
    torch.testing.assert_close(found.sum(1), (model(x) - model(x * 0))[:, 1].detach())
    for part in (w, *model.parameters()):
        part.requires_grad_(False)
    torch.testing.assert_close(fa.deep_lift(model, x, layer=layer, target=1), found)


@pytest.mark.parametrize("name", ["new", "new_tensor"])
def test_numbers_that_are_read_off_a_value_and_made_a_tensor_like_it(name: str) -> None:
    """They may come from it, other than those of ones_like."""
    torch.manual_seed(0)
    first, last, x = nn.Linear(6, 6).double(), nn.Linear(6, 3).double(), torch.randn(3, 6).double()

    def model(x: Tensor) -> Tensor:
        h = first(x)
        return last(torch.tanh(h * getattr(h, name)([h.max().item()] * 6)))  # type: ignore[no-any-return]  # a module returns any

    found = fa.deep_lift(model, x, target=1)
    assert torch.allclose(found.sum(1), (model(x) - model(torch.zeros_like(x)))[:, 1], atol=1e-12)
