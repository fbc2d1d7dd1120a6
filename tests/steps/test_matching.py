"""What baselines, masks and standard deviations say for each input: by name, by position, and in every function alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close

NAMES = ("a", "b", "ids")


class Named(nn.Module):
    """Two floating-point inputs and ids, by name or by position; nothing of it is symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b, self.head = nn.Embedding(9, 4), nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(a) * self.b(b) + self.embed(ids).mean(1)))


@pytest.fixture
def net() -> Named:
    torch.manual_seed(0)
    return Named().double().eval()


def inputs(n: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randn(n, 5, generator=g, dtype=torch.float64)
    return {"a": a, "b": b, "ids": torch.randint(9, (n, 6), generator=g)}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# Dict order never matters.

STARTS = {"a": 0.5, "b": torch.linspace(-1, 1, 5, dtype=torch.float64), "ids": 3}
SEVERAL = {"a": torch.randn(3, 3).double(), "b": torch.randn(3, 5).double(), "ids": torch.randint(9, (3, 6))}
MASKS = {"a": torch.tensor([0, 0, 1]), "b": torch.tensor([1, 2, 2, 2, 0]), "ids": None}
#: A call with arguments by name, and which of them.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "integrated_gradients": (fa.integrated_gradients, {"baselines": STARTS, "n_steps": 3}),
    "at a layer": (fa.integrated_gradients, {"baselines": STARTS, "n_steps": 3, "layer": "embed"}),
    "conductance": (fa.conductance, {"baselines": STARTS, "n_steps": 3, "layer": "a"}),
    "internal_influence": (fa.internal_influence, {"baselines": STARTS, "n_steps": 3, "layer": "a"}),
    "deep_lift": (fa.deep_lift, {"baselines": STARTS}),
    "deep_lift_shap": (fa.deep_lift_shap, {"baselines": SEVERAL}),
    "mean_over_baselines": (fa.mean_over_baselines(fa.integrated_gradients), {"baselines": SEVERAL, "n_steps": 2}),
    "gradient_shap": (fa.gradient_shap, {"baselines": SEVERAL, "stdevs": {"a": 0.0, "b": 0.0, "ids": 1.0}}),
    "feature_ablation": (fa.feature_ablation, {"baselines": STARTS, "feature_mask": MASKS}),
    "no noise on one": (fa.noise_tunnel(fa.gradient, stdevs={"ids": 2.0, "b": 0.0, "a": 0.0}), {}),
}


@settings(max_examples=8, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_names_never_matters(name: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    model, x = Named().double().eval(), inputs()
    method, options = CALLS[name]

    def shuffled(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: given[key] for key in data.draw(st.permutations(list(given)))}

    def asked(x: Any, options: dict[str, Any]) -> Any:
        more = {"generator": seeded()} if name == "gradient_shap" else {}
        return method(model, x, target=1, **options, **more)

    expected = asked(x, options)
    one_by_one = {key: shuffled(value) for key, value in options.items()}
    close(asked(x, one_by_one), expected)
    if name != "gradient_shap":  # whose draws are made in the order of the inputs
        found = asked(shuffled(x), one_by_one)
        assert isinstance(found, Tensor) or set(found) == set(expected)
        close(found if isinstance(found, Tensor) else {key: found[key] for key in expected}, expected)


def test_noise_goes_to_the_input_that_it_names(net: Named) -> None:
    """By a loop: the noise that a generator gives, to b and not to a, in whatever order they are named."""
    x, generator = inputs(), seeded()
    total = {"a": torch.zeros(2, 3).double(), "b": torch.zeros(2, 5).double()}
    for _ in range(4):
        noise = {name: torch.randn(x[name].shape, generator=generator, dtype=torch.float64) for name in ("a", "b")}
        a, b = x["a"].clone().requires_grad_(), (x["b"] + 0.3 * noise["b"]).requires_grad_()
        slopes = torch.autograd.grad(net(a, b, x["ids"])[:, 1].sum(), (a, b))
        total = {name: total[name] + slope / 4 for name, slope in zip(("a", "b"), slopes)}
    for stdevs in (
        {"b": 0.3, "a": 0.0},
        {"a": 0, "b": 0.3},
        {"ids": 9.0, "b": 0.3, "a": 0.0},
        {"b": 0.3, "ids": None, "a": 0.0},
    ):
        found = fa.noise_tunnel(fa.gradient, n_samples=4, stdevs=stdevs, generator=seeded())(net, x, target=1)
        close(found, total | {"ids": None})


@pytest.mark.parametrize("stdevs", [(0.0, 0.2), (0.0, 0.2, 5.0), [0.0, 0.2, None]], ids=["floats", "inputs", "None"])
@pytest.mark.parametrize("named", [False, True])
def test_both_functions_read_stdevs_alike(net: Named, stdevs: Any, named: bool) -> None:
    """One per input, or one per floating-point input where integers stand beside them; by name for a dict."""
    x: Any = inputs()
    if named:
        stdevs = dict(zip(NAMES, stdevs))
    else:
        x = tuple(x.values())

    def shap(stdevs: Any) -> Any:
        options: dict[str, Any] = {"baselines": 0.0, "n_samples": 3, "generator": seeded(), "target": 1}
        return fa.gradient_shap(net, x, stdevs=stdevs, **options)

    def tunnel(stdevs: Any) -> Any:
        return fa.noise_tunnel(fa.gradient, stdevs=stdevs, generator=seeded())(net, x, target=1)

    plain = dict(zip(NAMES, (0.0, 0.2, 0.0))) if named else (0.0, 0.2, 0.0)
    for asked in (shap, tunnel):
        close(asked(stdevs), asked(plain))
        quiet = asked(0.0)
        key: Any = "a" if named else 0
        assert not torch.allclose(asked(stdevs)[key], quiet[key])  # the noise on b reaches a through the product


WRONG_STDEVS: list[tuple[Any, str, type[Exception], str]] = [
    ({"zzz": 1.0, "q": 0.0}, "dict", ValueError, "stdevs has the names 'zzz', 'q', and x 'a', 'b', 'ids': give one for each."),
    ({"a": 1.0}, "dict", ValueError, "stdevs has the names 'a', and x 'a', 'b', 'ids': give one for each."),
    ((1.0, 1.0, 1.0), "dict", ValueError, "stdevs is a tuple of 3, and x is a dict with the keys 'a', 'b', 'ids'"),
    ({"a": 1.0, "b": 1.0}, "tuple", ValueError, "stdevs is a dict with the keys 'a', 'b', and x is a tuple of 3"),
    ((1.0,), "tuple", ValueError, "stdevs has 1 entries for 2 floating-point tensors of x: give one for each."),
    ((1.0, 1.0), "tensor", ValueError, "stdevs has 2 entries for 1 floating-point tensors of x"),
    ("big", "tuple", TypeError, "stdevs must be a number, or one per input, got str 'big'."),
    ((0.1, "big"), "tuple", TypeError, "stdevs must be a number, or one per input, got str 'big'."),
    (True, "tuple", TypeError, "stdevs must be a number, or one per input, got bool True."),
    (None, "tuple", TypeError, "stdevs must be a number, or one per input, got NoneType None."),
    ((0.1, -1), "tuple", ValueError, "stdevs must be finite and not negative, got -1."),
    ({"a": 0.0, "b": float("nan")}, "dict", ValueError, "stdevs must be finite and not negative, got nan."),
    (float("inf"), "tensor", ValueError, "stdevs must be finite and not negative, got inf."),
]


@pytest.mark.parametrize(("stdevs", "kind", "error", "text"), WRONG_STDEVS)
def test_both_functions_refuse_stdevs_in_the_same_words(
    net: Named, stdevs: Any, kind: str, error: type[Exception], text: str
) -> None:
    named = inputs()
    x: Any = {"dict": named, "tuple": tuple(named.values()), "tensor": named["a"]}[kind]
    model: Any = (lambda a: net(a, named["b"], named["ids"])) if kind == "tensor" else net
    calls: list[Callable[[], Any]] = [
        lambda: fa.noise_tunnel(fa.gradient, stdevs=stdevs)(model, x, target=1),
        lambda: fa.gradient_shap(model, x, baselines=0.0, stdevs=stdevs, target=1),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert text in str(caught.value)


class Pair(nn.Module):
    """Two embeddings that meet in a product: the gradient at one is the value of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q = nn.Embedding(9, 4), nn.Embedding(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return (self.p(ids) * self.q(ids)).sum((1, 2))


@pytest.mark.parametrize("way", ["noise_tunnel", "gradient_shap"])
@pytest.mark.parametrize("layer", [["p", "q"], {"one": "p", "two": "q"}])
def test_noise_at_layers_goes_to_the_layer_that_it_names(way: str, layer: Any) -> None:
    torch.manual_seed(0)
    model, ids = Pair().double(), inputs()["ids"]

    def asked(p: float, q: float, layer: Any) -> Any:
        stdevs: Any = {"two": q, "one": p} if isinstance(layer, dict) else (p, q)
        if way == "noise_tunnel":
            found = fa.noise_tunnel(fa.gradient, stdevs=stdevs, generator=seeded())(model, ids, layer=layer)
        else:
            options: dict[str, Any] = {"generator": seeded(), "multiply_by_inputs": False, "layer": layer}
            found = fa.gradient_shap(model, ids, baselines=ids[:1], stdevs=stdevs, **options)
        return list(found.values()) if isinstance(found, dict) else found

    quiet, noisy = asked(0.0, 0.0, layer), asked(0.5, 0.0, layer)
    close(noisy[0], quiet[0])  # at p it is the value of q, which has no noise
    assert (noisy[1] - quiet[1]).abs().max() > 0.05
    with pytest.raises(ValueError, match="stdevs"):
        fa.noise_tunnel(fa.gradient, stdevs={"p": 1.0})(model, ids, layer=layer)


# None holds an input at x's value.

HELD: dict[str, Callable[..., Any]] = {
    "integrated_gradients": lambda *args, **options: fa.integrated_gradients(*args, n_steps=4, **options),
    "multipliers": lambda *args, **options: fa.integrated_gradients(*args, n_steps=4, multiply_by_inputs=False, **options),
    "conductance": lambda *args, **options: fa.conductance(*args, n_steps=4, layer="b", **options),
    "deep_lift": fa.deep_lift,
    "at a layer": lambda *args, **options: fa.deep_lift(*args, layer="a", **options),
    "feature_ablation": fa.feature_ablation,
}


@pytest.mark.parametrize("name", HELD)
def test_none_is_x_itself(net: Named, name: str) -> None:
    x, method = inputs(), HELD[name]
    expected = method(net, x, baselines={"a": x["a"], "b": 0.5, "ids": x["ids"]}, target=1)
    close(method(net, x, baselines={"b": 0.5, "ids": None, "a": None}, target=1), expected)
    close(method(net, tuple(x.values()), baselines=(None, 0.5, None), target=1), as_tuple(expected))
    if isinstance(expected, dict) and name != "multipliers":
        assert expected["b"].abs().max() > 0.01
        assert not expected["a"].any()


def as_tuple(found: Any) -> Any:
    return tuple(found.values()) if isinstance(found, dict) else found


def test_none_in_a_distribution_is_x_itself(net: Named) -> None:
    x = inputs()
    own = {"a": None, "b": SEVERAL["b"], "ids": None}
    each = [fa.deep_lift(net, x, baselines={"a": x["a"], "b": row[None], "ids": None}, target=1) for row in SEVERAL["b"]]
    expected = {name: sum(found[name] for found in each) / 3 for name in ("a", "b")} | {"ids": None}
    close(fa.deep_lift_shap(net, x, baselines=own, target=1), expected)
    close(fa.mean_over_baselines(fa.deep_lift)(net, x, baselines=own, target=1), expected)
    # One baseline, and a score that is linear in it: whatever is drawn, it is the difference.
    weight = torch.randn(5).double()
    found = fa.gradient_shap(lambda a, b: a.sum(1) + b @ weight, (x["a"], x["b"]), baselines=(None, 0.5), n_samples=2)
    close(found, (torch.zeros(2, 3).double(), weight * (x["b"] - 0.5)))
    layered = fa.gradient_shap(net, x, baselines=own, layer="a", n_samples=8, target=1, generator=seeded())
    assert not layered.any()  # the value there depends on a alone


@pytest.mark.parametrize("method", [fa.integrated_gradients, fa.deep_lift, fa.feature_ablation, fa.deep_lift_shap])
@pytest.mark.parametrize("baselines", [None, {"a": None, "b": None, "ids": None}])
def test_nothing_to_compare(net: Named, method: Any, baselines: Any) -> None:
    with pytest.raises(ValueError, match=r"baselines hold every.* own value, so there is nothing to compare"):
        method(net, inputs(), baselines=baselines, target=1)


# What a dtype cannot hold.

WIDE = torch.tensor([[1e300, 0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("baselines", "dtype", "text"),
    [
        (WIDE, torch.float32, "a tensor of torch.float64 cannot stand in x, which is torch.float32: it is out of its range"),
        (1e300, torch.float32, "baselines=1e+300 cannot stand in x, which is torch.float32: it is out of its range"),
        (7e4, torch.float16, "baselines=70000.0 cannot stand in x, which is torch.float16: it is out of its range"),
        (float("nan"), torch.float32, "baselines=nan cannot stand in x, which is torch.float32: it is not a finite number"),
        (WIDE / 0, torch.float64, "cannot stand in x, which is torch.float64: baselines hold NaN or inf, give finite numbers"),
        (WIDE * 1j, torch.float64, "a tensor of torch.complex128 cannot stand in x, which is torch.float64: give real ones"),
    ],
)
def test_what_floats_cannot_hold(baselines: Any, dtype: torch.dtype, text: str) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    for method in (
        fa.integrated_gradients,
        fa.deep_lift,
        fa.conductance,
        fa.deep_lift_shap,
        fa.gradient_shap,
        fa.feature_ablation,
    ):
        with pytest.raises(ValueError) as caught:
            method(lambda x: x.sum(1), x, baselines=baselines)
        assert text in str(caught.value)


@pytest.mark.parametrize("baselines", [300, torch.tensor([[300]]), 0.5, torch.tensor([[0.5]]), -1])
def test_what_integers_cannot_hold(net: Named, baselines: Any) -> None:
    """An id of 300 in eight bits would be 44, silently."""
    ids = inputs()["ids"].to(torch.uint8)
    model = nn.Sequential(net.embed, nn.Flatten(), nn.Linear(24, 2).double())
    for method in (fa.integrated_gradients, fa.deep_lift, fa.deep_lift_shap, fa.gradient_shap):
        with pytest.raises(ValueError, match=r"cannot stand in x, which is torch\.uint8: give whole numbers that it can hold"):
            method(lambda ids: model(ids.long()), ids, baselines=baselines, layer=net.embed, target=1)
    whole = torch.full((1, 6), 3.0)  # whole numbers are ids, in whatever dtype
    close(
        fa.integrated_gradients(model, inputs()["ids"], baselines=whole, layer="0", target=1),
        fa.integrated_gradients(model, inputs()["ids"], baselines=3, layer="0", target=1),
    )
