"""Nets, and strategies for arguments, right and wrong, of every public function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from .methods import METHODS as TABLE
from .methods import own_gradient
from .reference.passes import recorded


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(4, 3), nn.Tanh()
        self.fc2, self.relu = nn.Linear(3, 3), nn.ReLU()
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.fc2(self.act(self.fc1(x)))))


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv1d(2, 3, 3, padding=1), nn.ReLU()
        self.conv2, self.act = nn.Conv1d(3, 3, 3, padding=1), nn.Tanh()
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv2(self.relu(self.conv(x)))).mean(2))


class Pair(nn.Module):
    """Two inputs and, between them, integers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act, self.relu = nn.Linear(4, 3), nn.Linear(2, 3), nn.Tanh(), nn.ReLU()
        self.head = nn.Linear(3, 5)

    def forward(self, a: Tensor, kind: Tensor, b: Tensor) -> Tensor:
        return self.head(self.act(self.fc1(a)) * (1 + kind[:, None]) + self.relu(self.fc2(b.mean(1))))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.relu, self.head = nn.Embedding(6, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.relu(self.fc(self.embed(ids))).mean(1))


class Net(NamedTuple):
    name: str
    model: nn.Module
    inputs: Callable[[int, torch.dtype], Any]
    sites: tuple[Any, ...]  # as a caller names them
    spatial: bool = False


def made(build: type[nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    return build().double().eval()


def tensor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers, the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def pair(n: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tensor(n, 4, dtype=dtype), torch.arange(n), tensor(n, 2, 2, dtype=dtype)


def named(n: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return dict(zip(("a", "kind", "b"), pair(n, dtype)))


NETS = [
    Net("dense", made(Dense), lambda n, d: tensor(n, 4, dtype=d), (None, "fc1", "act", fa.input_of("relu"), "relu")),
    Net("maps", made(Maps), lambda n, d: tensor(n, 2, 6, dtype=d), (None, "conv", "relu", fa.output_of("act", call=0)), True),
    Net("pair", made(Pair), pair, (None, "fc1", fa.input_of("fc2"), fa.output_of("head", call=-1))),
    Net("named", made(Pair), named, (None, "fc1", "relu")),
    Net("words", made(Words), lambda n, d: torch.arange(4 * n).reshape(n, 4) % 6, ("embed", "fc", fa.input_of("relu"))),
]
METHODS = [*(row.name for row in TABLE if row.name in fa.__all__), "value_and_gradient", "convergence_delta"]
CAMS = [name for name in METHODS if "channel_dim" in inspect.signature(getattr(fa, name)).parameters] + ["guided_grad_cam"]
SHAP = ("gradient_shap", "deep_lift_shap")
#: What replaces features at the site, by baselines there.
SITE = ("feature_ablation", "shapley", "lime", "occlusion")


def fits(net: Net, method: str, layer: Any) -> bool:
    """Whether the combination has a meaning at all."""
    if method in CAMS and layer is None:
        return False
    if method in ("score_cam", "guided_grad_cam"):
        return net.spatial
    if method == "ablation_cam" and layer == fa.output_of("head", call=-1):
        return False  # most scores do not depend on most channels: 0 / 0
    if net.name == "words":
        # Integers have no path, no gradient and no reference of their own; gradient_shap's path at the site draws otherwise.
        return method not in ("internal_influence", "conductance", "gradient_shap", "deep_lift", "deep_lift_shap")
    return True


# Arguments, right and wrong.


class Bad:
    """Something that nobody asked for."""


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


JUNK = (Bad(), object(), "nonsense", 1.5, {"a": 1}, b"x", {1, 2}, 1j, range(3))


def right_target(n: int) -> st.SearchStrategy[Any]:
    k = st.integers(-5, 4)
    each = st.lists(k, min_size=n, max_size=n)
    return st.one_of(
        k,
        k.map(np.int64),
        k.map(lambda i: (i,)),
        k.map(torch.tensor),
        k.map(lambda i: torch.tensor([i])),
        each,
        each.map(torch.tensor),
        each.map(lambda many: torch.tensor(many, dtype=torch.int16)),
        each.map(np.array),
        each.map(lambda many: [(i,) for i in many]),
        st.just("argmax"),
        k.map(lambda i: lambda out: out[:, i] * 2 + out[:, 0]),
        k.map(lambda i: fa.neuron("head", i)),
        k.map(lambda i: fa.neuron(fa.output_of("head", call=0), (slice(i % 5, 5),))),
    )


def wrong_target(n: int) -> st.SearchStrategy[Any]:
    return st.one_of(
        one_of(None, 5, -6, 10**30, True, 1.0, "cat", "", (), (1, 2), (7,), ("a",), [], {}, b"1", Bad(), 2j),
        one_of(
            [0] * (n + 1),
            [9] * n,
            [0.5] * n,
            ["a"] * n,
            [(0, 0)] * n,
            [()] * n,
            [[0]] * n,
            [None] * n,
            [True] * n,
        ),
        one_of(
            torch.zeros(n + 1, dtype=torch.long),
            torch.full((n,), 5),
            torch.zeros(n),
            torch.zeros(n, dtype=torch.bool),
            torch.zeros(n, 2, dtype=torch.long),
            torch.zeros(0, dtype=torch.long),
            torch.zeros(n, dtype=torch.complex64),
            np.zeros(n + 1, dtype=int),
            np.zeros(n),
            np.zeros((n, 2), dtype=int),
            np.array(["a"] * n),
        ),
        one_of(
            lambda out: None,
            lambda out: out,
            lambda out: 1.0,
            lambda out: out[:, 0].tolist(),
            lambda out: torch.ones(n + 1) * out.sum(),
            fa.neuron("nowhere", 0),
            fa.neuron("head", 5),
            fa.neuron("head", (0, 0)),
            fa.neuron("head", (slice(7, 9),)),
            fa.neuron("head", (slice(None), 0)),
            fa.neuron("head", lambda value: value),
            fa.neuron("head", lambda value: None),
            fa.neuron(fa.output_of("head", call=1), 0),
        ),
    )


WRONG_LAYERS = (
    3, "nowhere", ".", "head.weight", "head.bias.x", nn.Linear(2, 2), nn.Linear, [], {}, (), ["nowhere"], [3], {"head"}, 1.5,
    b"head", True, fa.output_of("head", call=1), fa.input_of("head", call=-2), fa.input_of("nowhere"), torch.ones(2),
    fa.gradient, lambda model: model.head, fa.neuron("head", 1), np.array(["head"]),
)  # fmt: skip


def right_baselines(net: Net, method: str, layer: Any, n: int, dtype: torch.dtype) -> st.SearchStrategy[Any]:
    """For the input, or for what replaces features at the site."""
    if method in SITE and layer is not None:
        floats = recorded(net.model, net.inputs(n, torch.float64), layer)[0]
        like: Any = floats[0]
    else:
        like = net.inputs(n, dtype)
    if method in SHAP:
        b = st.integers(1, 3)
        options = b.map(lambda rows: shaped(like, lambda t: tensor(rows, *t.shape[1:], dtype=t.dtype), lambda ids: None))
        return st.one_of(options, options.map(lambda given: lambda x: given), st.just(0.5))
    if net.name == "words" and not (method in SITE and layer is not None):
        return one_of(0, 1, torch.tensor([[3]]), torch.tensor([1, 2, 3, 4]), torch.full((n, 4), 2))
    return st.one_of(
        st.just(0.0),
        st.just(2),
        st.floats(-2, 2),
        one_of(1, n).map(lambda rows: shaped(like, lambda t: 0.5 * tensor(rows, *t.shape[1:], dtype=t.dtype) + 1)),
        st.just(shaped(like, lambda t: torch.full([1] * t.dim(), 0.25, dtype=t.dtype))),
        *([] if isinstance(like, Tensor) else [st.just(shaped(like, lambda t: 0.75))]),
        *([st.just(tensor(*like.shape[1:]))] if isinstance(like, Tensor) else []),
    )


def shaped(like: Any, f: Callable[[Tensor], Any], held: Callable[[Tensor], Any] = lambda ids: ids) -> Any:
    """`f` of each floating-point tensor in the structure of `like`; `held` of integers, which are as they are."""

    def one(t: Tensor) -> Any:
        return f(t) if t.is_floating_point() else held(t)

    if isinstance(like, dict):
        return {name: one(t) for name, t in like.items()}
    return tuple(map(one, like)) if isinstance(like, tuple) else one(like)


def wrong_baselines(method: str) -> st.SearchStrategy[Any]:
    wrong = [
        float("nan"), float("inf"), "zero", Bad(), [], {}, {"z": 0.0}, (0.0, 0.0, 0.0, 0.0), 1j, [[0.0]], np.zeros(3),
        torch.zeros(4, 9), torch.zeros(2, 3, 4, 5, 6), torch.zeros(0, 9), torch.full((1, 1), float("nan")),
        torch.zeros(1, 1, dtype=torch.cfloat),
    ]  # fmt: skip
    if method in SHAP:
        wrong += [lambda x: "x", lambda x: None, torch.zeros(0, 4), torch.zeros(0, 2, 6), True]
    else:
        wrong += [lambda x: x, None, *([True] if method not in SITE else [])]
    return one_of(*wrong)


class Asked(NamedTuple):
    """A call, and which of its arguments are wrong."""

    def __repr__(self) -> str:
        return f"{self.method} of {self.net.name}, n={self.n}, {self.options}, wrong: {self.wrong}, x={self.x}"

    method: str
    net: Net
    n: int
    x: Any
    options: dict[str, Any]
    wrong: list[str]


RIGHT: dict[str, tuple[Any, ...]] = {
    "n_steps": (1, 2, 3),
    "quadrature": ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle"),
    "n_samples": (1, 3),
    "chunk_size": (None, "auto", 1, 2, 50),
    "multiply_by_inputs": (True, False),
    "create_graph": (True, False),
    "stdevs": (0.0, 0),
    "channel_dim": (1,),
    "mode": ("nearest", "linear"),
    "feature_mask": (None,),
    "attribution_func": (None, lambda m, v, v0: m * (v - v0)),
    "sampling": ("leverage", "kernel", "permutation", "exact"),
    "standard_errors": (True, False),
    "alpha": (0.0, 0),
    "kernel_width": (0.25, 1, 0.5),
    "rtol": (None,),
    "return_error": (False,),
    "rules": (dict.fromkeys(("linear", "convolution", "activation"), own_gradient),),
}
#: How many coalitions: all of the few there are in a mask; or enough of them.
COALITIONS: dict[str, tuple[Any, ...]] = {"shapley": (None,), "lime": (None, 30)}
WRONG: dict[str, tuple[Any, ...]] = {
    "n_steps": (0, -1, 1.5, True, None, "3", [3], torch.tensor(2.5), 1j),
    "quadrature": (
        "gauss", "", None, 3, Bad(), ["gausslegendre"], lambda n: None, lambda n: ([], []), lambda n: ([0.5], [0.5, 0.5]),
        lambda n: ([2.0], [1.0]), lambda n: ([0.5], [3.0]), lambda n: ([float("nan")], [1.0]), lambda n: (["a"], ["b"]),
        lambda n: ([[0.5]], [[1.0]]), lambda n: (0.5, 1.0), lambda n: ([0.5], [float("nan")]), lambda n: (None, None),
    ),
    "n_samples": (0, -1, 1.5, True, None, "3"),
    "chunk_size": (0, -1, 1.5, True, "3", [1], float("inf")),
    "multiply_by_inputs": (None, "yes", 2, 0.5, Bad()),
    "create_graph": (None, "yes", 2, 0.5, Bad()),
    "stdevs": (-0.1, float("nan"), float("inf"), "0.1", None, True, 1j, [0.1] * 7, {"z": 0.1}, Bad()),
    "channel_dim": (0, 17, -17, 1.5, None, "1", True, [1]),
    "mode": ("bilinaer", "", None, 3, "trilinear", ["nearest"]),
    "feature_mask": (
        "mask", 1.5, Bad(), [], {"z": 1}, (1, 2, 3, 4), np.zeros(3), torch.zeros(2), torch.zeros(3, dtype=torch.bool),
        torch.zeros(99, dtype=torch.long), torch.zeros(2, 3, 4, 5, 6, dtype=torch.long), torch.zeros(0, dtype=torch.long),
    ),
    "attribution_func": (
        3, "f", Bad(), lambda m, v, v0: None, lambda m, v, v0: "a", lambda m, v, v0: m.new_ones(7), lambda m, v, v0: m.sum(),
    ),
    "sampling": ("leverge", "", None, 3, Bad(), ["exact"]),
    "standard_errors": (None, "yes", 2, 0.5, Bad()),
    "alpha": (-0.1, float("nan"), float("inf"), "0", None, True, 1j, Bad()),
    "kernel_width": (0, 0.0, -0.1, float("nan"), float("inf"), "0", None, True, 1j, Bad()),
    "window": (None, 0, -1, 99, 1.5, True, "3", [], (1, 2, 3, 4, 5), {"z": 1}, Bad(), torch.tensor([1])),
    "strides": (0, -1, 99, 1.5, True, "3", (1, 2, 3, 4, 5), {"z": 1}, Bad()),
    "rtol": (0, -1, float("nan"), float("inf"), "0.1", True, [0.1], Bad()),
    "return_error": (None, "yes", 2, 0.5, Bad()),
    "rules": (3, "epsilon", fa.rules.epsilon, {"linear": 3}, {"linaer": print}, [1], Bad()),
    "generator": (3, "seed", Bad(), np.random.default_rng(0), torch.ones(2)),
    "attributions": (
        3, "a", None, Bad(), [], np.ones(3), torch.ones(7, 3), torch.tensor(1.0), torch.full((1, 2), float("nan")),
    ),
}  # fmt: skip
WRONG_X: tuple[Any, ...] = (
    None, 3, "x", Bad(), [tensor(2, 4)], np.zeros((2, 4)), torch.tensor(1.0), (), {}, ("a",), {"a": 1}, tensor(2, 4) / 0,
    (tensor(2, 4), torch.tensor(1), tensor(2, 4) * float("nan")),
)  # fmt: skip
WRONG_MODELS: tuple[Any, ...] = (None, "resnet18", 3, nn.Linear, Bad(), [nn.Linear(2, 2)], torch.ones(2), Dense)


def function(method: str) -> Any:
    return getattr(fa, method)


@st.composite
def calls(draw: st.DrawFn, methods: tuple[str, ...] = tuple(METHODS)) -> Asked:
    net = draw(one_of(*NETS))
    method = draw(one_of(*(name for name in methods if any(fits(net, name, layer) for layer in net.sites))))
    layer = draw(one_of(*(layer for layer in net.sites if fits(net, method, layer))))
    n = draw(st.integers(1, 3))
    dtype = torch.float64
    x: Any = net.inputs(n, dtype)
    options: dict[str, Any] = {}
    accepted = [p for p in inspect.signature(function(method)).parameters if p not in ("model", "x")]
    may_be_wrong = ["model", "x", *(p for p in accepted if p not in ("attribution_func",) or method != "x")]
    wrong = draw(st.one_of(st.just([]), st.lists(st.sampled_from(may_be_wrong), min_size=1, max_size=1)))
    for name in accepted:
        if name in wrong:
            options[name] = draw(wrong_value(net, method, name, n))
        elif name == "layer":
            needed = inspect.signature(function(method)).parameters[name].default is inspect.Parameter.empty
            if needed or layer is not None or draw(st.booleans()):
                options[name] = layer
        elif name == "target":
            options[name] = draw(right_target(n))
        elif name == "baselines":
            needed = method in SHAP or (net.name == "words" and layer is None)
            if needed or draw(st.booleans()):
                options[name] = draw(right_baselines(net, method, layer, n, dtype))
        elif name == "generator":
            options[name] = torch.Generator().manual_seed(5)
        elif name == "attributions":
            options[name] = tensor(n, 3)
        elif name == "window":
            options[name] = draw(windows(net, layer, n))
        elif name == "strides":
            options[name] = draw(st.sampled_from([None, 1]))
        elif draw(st.booleans()):
            options[name] = draw(one_of(*(COALITIONS.get(method, RIGHT[name]) if name == "n_samples" else RIGHT[name])))
    if "rules" in accepted and "rules" not in wrong:
        options["rules"] = draw(one_of(*RIGHT["rules"]))  # the default has no formula here
    if "feature_mask" in accepted and "feature_mask" not in wrong and (method in COALITIONS or draw(st.booleans())):
        options["feature_mask"] = draw(masks(net, layer, n))
    if "x" in wrong:
        x = draw(one_of(*WRONG_X))
    if method == "guided_grad_cam" and options.get("mode") == "linear":
        options["mode"] = "nearest"
    return Asked(method, net, n, x, options, wrong)


def windows(net: Net, layer: Any, n: int) -> st.SearchStrategy[Any]:
    x = net.inputs(n, torch.float64)
    like: Any = x if layer is None else recorded(net.model, x, layer)[0][0].detach()

    def sizes(t: Tensor) -> Any:
        half = [-(-size // 2) for size in t.shape[1:]]
        return one_of(half, list(t.shape[1:]), *(half if len(half) == 1 else []))

    if isinstance(like, Tensor):
        return sizes(like)
    parts = like if isinstance(like, dict) else dict(zip(("a", "kind", "b"), like))
    both = st.tuples(sizes(parts["a"]), sizes(parts["b"]))
    if isinstance(like, dict):
        return both.map(lambda pair: {"a": pair[0], "kind": None, "b": pair[1]})
    return both.map(lambda pair: (pair[0], None, pair[1]))


def masks(net: Net, layer: Any, n: int) -> st.SearchStrategy[Any]:
    x = net.inputs(n, torch.float64)
    if layer is not None:
        like: Any = recorded(net.model, x, layer)[0][0].detach()
    else:
        like = x

    def groups(t: Tensor) -> Tensor:
        return torch.arange(t[:1].numel()).reshape(t[:1].shape) % 3 - 1

    if isinstance(like, Tensor):
        return one_of(groups(like), groups(like).expand(like.shape), torch.tensor(4), groups(like)[0])
    mask = {k: groups(t) for k, t in like.items()} if isinstance(like, dict) else tuple(map(groups, like))
    return st.just({**mask, "kind": None} if isinstance(mask, dict) else (mask[0], None, mask[2]))


def wrong_value(net: Net, method: str, name: str, n: int) -> st.SearchStrategy[Any]:
    if name == "target":
        return wrong_target(n)
    if name == "layer":
        return one_of(*WRONG_LAYERS)
    if name == "baselines":
        return wrong_baselines(method)
    if name == "n_samples" and method in COALITIONS:
        return one_of(*(value for value in WRONG[name] if value is not None))
    return one_of(*WRONG[name])
