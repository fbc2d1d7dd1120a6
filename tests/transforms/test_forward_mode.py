"""Methods inside torch.func.jvp, jacfwd, linearize and hessian, and on dual numbers: forward derivatives, equal to those of the
backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import funattr as fa

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
POINTS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
METHODS: dict[str, Any] = {
    "gradient": fa.gradient,
    "input_x_gradient": fa.input_x_gradient,
    "grad_cam": partial(fa.grad_cam, layer="norm"),
    "lrp": fa.lrp,
    "attn_lrp": partial(fa.lrp, rules=fa.rules.attn_lrp()),
    "gamma": partial(fa.lrp, rules=fa.rules.gamma()),
    "own": fa.under({"activation": lambda op, gradient: gradient * op.output})(fa.gradient),
    "guided_backprop": fa.guided_backprop,
    "deconvnet": fa.deconvnet,
    "deep_lift": partial(fa.deep_lift, baselines=0.3),
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=POINTS),
    "integrated_gradients": partial(fa.integrated_gradients, n_steps=3),
    "feature_ablation": partial(fa.feature_ablation, feature_mask=torch.arange(3)[:, None].expand(3, 4)),
    "noise_tunnel": fa.noise_tunnel(fa.lrp, n_samples=1, stdevs=0.0),
}


class Block(nn.Module):
    """Attention, a norm, ReLU in place and not, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.norm, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h = x + torch.softmax(self.query(h) @ h.mT, -1) @ self.value(h)
        h = nn.functional.relu(self.value(h) + 0.5, inplace=True) * torch.sigmoid(x)
        found: Tensor = self.head(torch.relu(h + x).mean(1)).tanh()
        return found


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return partial(METHODS[request.param], Block().double().eval(), target=1)


@pytest.mark.parametrize("asked", METHODS, indirect=True)
def test_forward_is_backward(asked: Any) -> None:
    def explain(x: Tensor) -> Tensor:
        found: Tensor = asked(x, create_graph=True)
        return found

    way, x = torch.randn_like(X), X.clone().requires_grad_()
    numbers = explain(x).flatten()
    expected = torch.stack([torch.autograd.grad(t, x, retain_graph=True)[0].flatten() for t in numbers])
    torch.testing.assert_close(torch.func.jacfwd(explain, randomness="same")(X).reshape(expected.shape), expected)
    torch.testing.assert_close(torch.func.jvp(explain, (X,), (way,))[1].flatten(), expected @ way.flatten())
    with forward_ad.dual_level():
        for leaf in (X, x):  # a tensor that has no gradient, and one that has
            found = forward_ad.unpack_dual(explain(forward_ad.make_dual(leaf, way))).tangent
            torch.testing.assert_close(found.flatten(), expected @ way.flatten())


@pytest.mark.skipif(not hasattr(torch.func, "linearize"), reason="this torch has none")
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch's own, of constants that it folds
@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "integrated_gradients"])
def test_linearized(name: str) -> None:
    """Of a plain net: torch's linearize takes no operation in place, of attention, say."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    explain, way = partial(METHODS[name], model, target=1, create_graph=True), torch.randn_like(X)
    found = torch.func.linearize(explain, X)[1](way)
    torch.testing.assert_close(found, torch.func.jvp(explain, (X,), (way,))[1])


def test_a_constant_of_what_has_no_forward_derivative() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.SiLU())
    assert not torch.func.jvp(partial(fa.gradient, model, target=1), (X.float(),), (X.float(),))[1].any()


@pytest.mark.parametrize("asked", ["lrp", "guided_backprop", "deep_lift"], indirect=True)
def test_hessian(asked: Any) -> None:
    def total(x: Tensor) -> Tensor:
        return asked(x, create_graph=True).square().sum()  # type: ignore[no-any-return]  # asked is Any

    found, expected = torch.func.hessian(total)(X), torch.func.jacrev(torch.func.jacrev(total))(X)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("asked", METHODS, indirect=True)
def test_a_constant_without_create_graph(asked: Any) -> None:
    """And no part of the derivative: values were constants, and gradients were not."""
    assert not torch.func.jvp(asked, (X,), (torch.ones_like(X),))[1].any()
    with forward_ad.dual_level():
        for leaf in (X, X.clone().requires_grad_()):
            found = asked(forward_ad.make_dual(leaf, torch.ones_like(X)))
            assert forward_ad.unpack_dual(found).tangent is None
            assert not found.requires_grad


def test_a_delta_is_a_constant() -> None:
    model = Block().double().eval()
    assert not torch.func.jvp(lambda x: fa.convergence_delta(x, model, X, target=1), (X,), (torch.ones_like(X),))[1].any()


class Written(nn.Module):
    """A loop that writes its values into a tensor made for them."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.act, self.head = nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        state, states = x.new_zeros(len(x), 4), torch.empty_like(x)
        for t in range(x.shape[1]):
            state = self.act(self.cell(torch.cat([x[:, t], state], 1)))
            states[:, t] = state
        return self.head(states.sum(1))


def backward_of(asked: Any) -> Tensor:
    leaf = X.clone().requires_grad_()
    return torch.autograd.grad(asked(leaf), leaf)[0]


def test_rules_at_a_call_counted_from_the_end() -> None:
    """What counts the calls ran under rules without a graph: "'NoneType' object has no attribute 'clone'" came."""
    torch.manual_seed(0)
    model = Written().double()
    for rules in (None, fa.rules.epsilon()):

        def total(x: Tensor, rules: Any = rules) -> Tensor:
            layer = fa.output_of("cell", call=-1)
            return fa.lrp(model, x, layer=layer, target=1, rules=rules, create_graph=True).square().sum()

        tangent = torch.func.jvp(total, (X,), (POINTS,))[1]
        torch.testing.assert_close(tangent, (backward_of(total) * POINTS).sum())


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_noise_around_steps_where_the_caller_differentiates(chunk_size: int) -> None:
    """What was functionalized, to run at once, has no graph there: "derivative for aten::copy is not implemented" came."""
    torch.manual_seed(0)
    model = Written().double()
    mask = torch.arange(3)[:, None].expand(3, 4)

    def total(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noisy = fa.noise_tunnel(fa.feature_ablation, n_samples=3, stdevs=0.1, generator=generator, chunk_size=chunk_size)
        return noisy(model, x, target=1, feature_mask=mask, create_graph=True).square().sum()

    torch.testing.assert_close(torch.func.grad(total)(X), backward_of(total))


def test_a_product_with_a_constant_is_not_differentiated() -> None:
    """The derivative was that of the other factor alone, in silence."""
    model = Block().double().eval()
    product = fa.multiply(fa.gradient, partial(fa.lime, n_samples=40))
    assert product(model, X, target=1).shape == X.shape
    with pytest.raises(ValueError, match="lime takes no create_graph: its result is a constant"):
        product(model, X, target=1, create_graph=True)
