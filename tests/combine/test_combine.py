"""Combinators: the law of each, on models and inputs that Hypothesis makes up; and that each composes with every other.

What they are compared with is written here in plain loops over attributions of single calls.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import funattr as fa

from ..breadth import breadth
from ..close import close
from ..laws.test_laws import Made, batches, nets, seeds
from ..models import CASES, double

Attribution = Callable[..., Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The laws.


@given(net=nets, x=batches, k=st.integers(0, 3))
def test_multiply_is_the_product(net: Made, x: Tensor, k: int) -> None:
    a, b, c = fa.gradient, fa.input_x_gradient, fa.saliency
    product = fa.multiply(a, b)(net, x, target=k)
    assert torch.equal(product, a(net, x, target=k) * b(net, x, target=k))
    assert torch.equal(product, fa.multiply(b, a)(net, x, target=k))
    close(fa.multiply(fa.multiply(a, b), c)(net, x, target=k), fa.multiply(a, fa.multiply(b, c))(net, x, target=k))


@given(net=nets, x=batches, k=st.integers(0, 3))
def test_relu_and_absolute_are_parts_of_the_method(net: Made, x: Tensor, k: int) -> None:
    whole = fa.gradient(net, x, target=k)
    positive, size = fa.relu(fa.gradient)(net, x, target=k), fa.absolute(fa.gradient)(net, x, target=k)
    against = fa.relu(fa.gradient)(net, x, target=lambda out: -out[:, k])  # evidence against is evidence for less of it
    assert torch.equal(positive - against, whole)
    assert torch.equal(positive + against, size)
    assert torch.equal(size, fa.saliency(net, x, target=k))
    assert torch.equal(fa.relu(fa.relu(fa.gradient))(net, x, target=k), positive)
    assert torch.equal(fa.absolute(fa.absolute(fa.gradient))(net, x, target=k), size)


@given(net=nets, x=batches, k=st.integers(0, 3), factor=st.floats(1e-3, 1e3), many=st.booleans())
def test_normalize_keeps_all_but_the_scale(net: Made, x: Tensor, k: int, factor: float, many: bool) -> None:
    layer: Any = ["layers.0", None] if many else "layers.0"
    method = fa.normalize(fa.gradient)
    parts = method(net, x, layer=layer, target=k)
    whole = fa.gradient(net, x, layer=layer, target=k)
    parts, whole = (list(part) if many else [part] for part in (parts, whole))
    for n in range(len(x)):
        peak = max(float(part[n].abs().max()) for part in whole)
        for part, plain in zip(parts, whole):
            close(part[n], plain[n] / peak if peak else plain[n])
    again = fa.normalize(method)(net, x, layer=layer, target=k)
    scaled = method(net, x, layer=layer, target=lambda out: factor * out[:, k])
    for part, twice, other in zip(parts, again if many else [again], scaled if many else [scaled]):
        close(twice, part)
        close(other, part)


def test_normalize_of_nothing_is_nothing() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    found = fa.normalize(fa.input_x_gradient)(lambda x: (x[:, :1] * x[:, 1:]).sum(1) * torch.tensor([0.0, 1.0]), x)
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert fa.normalize(fa.gradient)(lambda x: x.sum(1), torch.zeros(0, 3)).shape == (0, 3)
    assert fa.normalize(fa.gradient)(lambda x: x * 3, torch.ones(2)).tolist() == [1.0, 1.0]


@given(net=nets, x=batches, k=st.integers(0, 3))
def test_sum_channels_keeps_the_sum(net: Made, x: Tensor, k: int) -> None:
    for site in ("layers.0", None):
        whole = fa.input_x_gradient(net, x, layer=site, target=k)
        summed = fa.sum_channels(fa.input_x_gradient)(net, x, layer=site, target=k)
        assert summed.shape == (len(x), 1, x.shape[2])
        close(summed.sum((1, 2)), whole.sum((1, 2)))
        close(summed, fa.hires_cam(net, x, layer=site, target=k))
        last = fa.sum_channels(fa.input_x_gradient, channel_dim=-1)(net, x, layer=site, target=k)
        close(last, whole.sum(-1, keepdim=True))


@given(net=nets, x=batches, factor=st.integers(1, 3), k=st.integers(0, 3))
def test_interpolate_repeats_and_keeps_constants(net: Made, x: Tensor, factor: int, k: int) -> None:
    cam = fa.grad_cam(net, x, layer="layers.0", target=k)
    assert torch.equal(fa.interpolate(fa.grad_cam)(net, x, layer="layers.0", target=k), cam)  # it has x's size already
    larger = torch.empty(len(x), 1, factor * x.shape[2])
    found = fa.interpolate(fa.grad_cam, size=larger)(net, x, layer="layers.0", target=k)
    assert torch.equal(found, cam.repeat_interleave(factor, 2))
    assert torch.equal(found, fa.interpolate(cam, larger))
    flat = torch.full((1, 2, 5), 7.0)
    for mode in ("nearest", "nearest-exact", "area", "linear"):
        torch.testing.assert_close(fa.interpolate(flat, 5 * factor, mode=mode), torch.full((1, 2, 5 * factor), 7.0))


@given(net=nets, x=batches, k=st.integers(0, 3))
def test_at_input_drops_the_layer(net: Made, x: Tensor, k: int) -> None:
    assert torch.equal(fa.at_input(fa.gradient)(net, x, layer="layers.0", target=k), fa.gradient(net, x, target=k))


@given(net=nets, x=batches, targets=st.lists(st.integers(-4, 3), min_size=1, max_size=5))
def test_each_target_is_linear_in_the_targets(net: Made, x: Tensor, targets: list[int]) -> None:
    every = fa.each_target(fa.gradient, targets)(net, x, layer="layers.0")
    assert every.shape[0] == len(targets)
    close(every.sum(0), fa.gradient(net, x, layer="layers.0", target=lambda out: out[:, targets].sum(1)))
    for k, found in zip(targets, every):
        close(found, fa.gradient(net, x, layer="layers.0", target=k))


@given(net=nets, x=batches, n=st.integers(1, 3), seed=seeds)
def test_mean_over_baselines_is_the_mean(net: Made, x: Tensor, n: int, seed: int) -> None:
    references = torch.randn(n, *x.shape[1:], dtype=x.dtype, generator=seeded(seed))
    for method in (functools.partial(fa.integrated_gradients, n_steps=3), fa.deep_lift, fa.feature_ablation):
        mean = fa.mean_over_baselines(method)(net, x, baselines=references, target=1)
        close(mean, torch.stack([method(net, x, baselines=r[None], target=1) for r in references]).mean(0))
    complete = fa.mean_over_baselines(fa.deep_lift)(net, x, baselines=references, target=1)
    close(complete.flatten(1).sum(1), net(x)[:, 1] - net(references)[:, 1].mean())


@pytest.mark.parametrize("method", [fa.feature_ablation, fa.shapley, functools.partial(fa.occlusion, window=2)])
def test_mean_over_baselines_at_the_site(method: Any) -> None:
    """What replaces values has its baselines where these are: at a layer, and for ids."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    ids = torch.tensor([[3, 1, 0, 2]])
    x, at_layer, others = ids.double(), torch.randn(3, 5, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    calls: list[tuple[Any, Any, Any, Any]] = [
        (net, x, "0", at_layer),
        (net, x, "0", 0.5),
        (net, x, None, 0.5),
        (lambda ids: net(ids.double()), ids, None, others),
    ]
    for model, given_x, layer, base in calls:
        found = fa.mean_over_baselines(method)(model, given_x, layer=layer, baselines=base, target=1)
        each = [base] if isinstance(base, float) else [row[None] for row in base]
        close(found, torch.stack([method(model, given_x, layer=layer, baselines=b, target=1) for b in each]).mean(0))
    joint: Any = fa.mean_over_baselines(method)(net, x, layer=["0"], baselines=[at_layer], target=1)
    close(joint[0], fa.mean_over_baselines(method)(net, x, layer="0", baselines=at_layer, target=1))
    with pytest.raises(ValueError, match=r"pass baselines\[None\]"):
        fa.mean_over_baselines(method)(net, x, layer="0", baselines=at_layer[0], target=1)


def test_mean_over_baselines_at_the_input() -> None:
    """What `at_input` puts there has its baselines there, whatever layer is named: it was asked for those of the layer."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x, base = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for bound in (fa.shapley, functools.partial(fa.shapley, layer="0")):
        found = fa.mean_over_baselines(fa.at_input(bound))(net, x, layer="0", baselines=base, target=1)
        close(found, fa.mean_over_baselines(fa.shapley)(net, x, baselines=base, target=1))
    ids = torch.tensor([[3, 1, 0, 2]])
    ablation = fa.mean_over_baselines(fa.at_input(fa.feature_ablation))
    found = ablation(lambda ids: net(ids.double()), ids, layer="any", baselines=ids.flip(1), target=1)
    close(found, fa.feature_ablation(lambda ids: net(ids.double()), ids, baselines=ids.flip(1), target=1))


@given(net=nets, x=batches, n=st.integers(1, 6), chunk=st.integers(1, 7), seed=seeds, stdev=st.floats(0, 2))
def test_noise_tunnel_is_a_moment(net: Made, x: Tensor, n: int, chunk: int, seed: int, stdev: float) -> None:
    g = seeded(seed)
    noisy = [x + stdev * torch.randn(x.shape, generator=g, dtype=x.dtype) for _ in range(n)]
    found = torch.stack([fa.gradient(net, point, target=2) for point in noisy])
    moments = {"smoothgrad": found.mean(0), "smoothgrad_sq": found.square().mean(0), "vargrad": found.var(0, correction=0)}
    for nt_type, expected in moments.items():
        options: dict[str, Any] = {"n_samples": n, "stdevs": stdev, "nt_type": nt_type, "chunk_size": chunk}
        tunnel = fa.noise_tunnel(fa.gradient, generator=seeded(seed), **options)
        torch.testing.assert_close(tunnel(net, x, target=2), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize(
    "target",
    [1, [2, 0, 1], torch.tensor([2, 0, 1]), "argmax", lambda output: output[:, 1] ** 2],
    ids=["one", "each", "tensor", "argmax", "callable"],
)
def test_noisy_samples_in_one_batch_are_those_of_vmap(target: Any, chunk_size: int | None) -> None:
    """Samples of layers that treat rows alone are one batch; the same layers behind a function are not known to be any."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).double()
    x, bound = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    for method in (fa.saliency, fa.normalize(fa.gradient), functools.partial(fa.deep_lift, baselines=bound)):
        found = [
            fa.noise_tunnel(method, n_samples=5, stdevs=0.5, generator=seeded(1), chunk_size=chunk_size)(
                model, x, target=target
            )
            for model in (layers, lambda x: layers(x))
        ]
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["at x", "of a method of one's own", "at a layer", "of each target", "of rows of examples", "mapped"]
)
def test_noise_is_over_maps_of_one_class(name: str) -> None:
    """Of "argmax", each sample had its own class, and the mean was over maps of several, in silence."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    x, ids = torch.randn(6, 4).double(), torch.arange(6) // 2
    kind: Any = (lambda *args, **options: fa.gradient(*args, **options)) if "own" in name else fa.gradient
    model: Any = net
    if name == "of rows of examples":
        kind, model = fa.by_examples(fa.gradient, ids), lambda x: net(x).reshape(3, 2, 3).mean(1)
    if name == "at a layer":
        x, model = (
            torch.arange(12).reshape(6, 2),
            torch.nn.Sequential(torch.nn.Embedding(12, 2).double(), torch.nn.Flatten(), net),
        )

    def smooth(target: Any) -> Any:
        method = fa.noise_tunnel(kind, n_samples=9, stdevs=3.0, generator=seeded())
        if name == "of each target":
            return fa.each_target(method, [target, 1])(model, x)
        if name == "mapped":
            return torch.func.vmap(lambda x: method(model, x, target=target), randomness="same")(x[None])
        return method(model, x, target=target, **({"layer": "0"} if name == "at a layer" else {}))

    close(smooth("argmax"), smooth(model(x).argmax(1)))


# Composition: each with every other. What the combination does is said by plain functions of plain functions.


class Pair(NamedTuple):
    """A combinator with its arguments, and the same in plain words."""

    name: str
    ours: Callable[[Any], Any]
    plain: Callable[[Attribution], Attribution]


def per_map(f: Callable[[Tensor], Tensor]) -> Callable[[Attribution], Attribution]:
    """A function of one attribution ``[N, C, L]``, which treats targets up front one by one."""

    def over(found: Tensor) -> Tensor:
        return f(found) if found.dim() == 3 else torch.stack([over(part) for part in found])

    return lambda inner: lambda *args, **options: over(inner(*args, **options))


def scaled(found: Tensor) -> Tensor:
    return torch.stack([part / part.abs().max() if part.abs().max() > 0 else part for part in found])


DRAWN: list[torch.Generator] = []


def plain_noise(inner: Attribution) -> Attribution:
    g = seeded(5)
    DRAWN.append(g)

    def tunnel(net: Any, x: Tensor, **options: Any) -> Tensor:
        points = [x + 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype) for _ in range(2)]
        return torch.stack([inner(net, point, **options) for point in points]).mean(0)

    return tunnel


def plain_mean(inner: Attribution) -> Attribution:
    def mean(net: Any, x: Tensor, *, baselines: Tensor, **options: Any) -> Tensor:
        return sum(inner(net, x, baselines=b[None], **options) for b in baselines) / len(baselines)  # type: ignore[return-value]  # sum begins at 0, an int to mypy

    return mean


def plain_targets(inner: Attribution) -> Attribution:
    def every(*args: Any, **options: Any) -> Tensor:
        before, found = [g.get_state() for g in DRAWN], []
        for k in (2, 0):  # with the same noise for each
            for g, state in zip(DRAWN, before):
                g.set_state(state)
            found.append(inner(*args, target=k, **options))
        return torch.stack(found)

    return every


PAIRS = [
    Pair("multiply", lambda m: fa.multiply(m, m), lambda m: lambda *a, **o: m(*a, **o) * m(*a, **o)),
    Pair("relu", fa.relu, per_map(lambda t: t.clamp(min=0))),
    Pair("absolute", fa.absolute, per_map(lambda t: torch.where(t < 0, -t, t))),
    Pair("normalize", fa.normalize, per_map(scaled)),
    Pair("sum_channels", fa.sum_channels, per_map(lambda t: torch.einsum("ncl->nl", t)[:, None])),
    Pair("interpolate", lambda m: fa.interpolate(m, size=7), per_map(lambda t: F.interpolate(t, 7))),
    Pair("at_input", fa.at_input, lambda m: lambda net, x, layer=None, **o: m(net, x, **o)),
    Pair("noise_tunnel", lambda m: fa.noise_tunnel(m, n_samples=2, stdevs=0.1, generator=seeded(5)), plain_noise),
    Pair("each_target", lambda m: fa.each_target(m, [2, 0]), plain_targets),
    Pair("mean_over_baselines", fa.mean_over_baselines, plain_mean),
]


def base(net: Any, x: Tensor, *, layer: Any = None, target: Any = None, baselines: Any = 0.0) -> Any:
    """A method with every argument that a combinator may be after."""
    return fa.integrated_gradients(net, x, layer=layer, target=target, baselines=baselines, n_steps=3)


COMBINATIONS = [(a, b) for a in PAIRS for b in PAIRS]
#: The targets are given once; and what averages over baselines gives its inner method single ones.
IMPOSSIBLE = {("each_target", "each_target"), ("mean_over_baselines", "mean_over_baselines")}


@pytest.mark.parametrize(("a", "b"), COMBINATIONS, ids=[f"{a.name}({b.name})" for a, b in COMBINATIONS])
def test_each_composes_with_every_other(a: Pair, b: Pair) -> None:
    net = Made(3, 4, ["relu", "tanh"]).double().eval()
    x = torch.randn(3, 3, 5, dtype=torch.float64)
    if (a.name, b.name) in IMPOSSIBLE:
        pytest.skip("once is all it can be applied")
    names = {a.name, b.name}
    options: dict[str, Any] = {"layer": "layers.0"}
    if "each_target" not in names:
        options["target"] = 2
    if "mean_over_baselines" in names:
        options["baselines"] = torch.randn(2, 3, 5, dtype=torch.float64)
    method = a.ours(b.ours(base))
    found = method(net, x, **options)
    expected = a.plain(b.plain(base))(net, x, **options)
    assert found.shape == expected.shape
    size = float(expected.abs().max())
    assert size > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * size)
    # Names and signatures stay readable.
    assert method.__name__.startswith(f"{a.name}({b.name}(base")
    assert "target" not in inspect.signature(method).parameters or "each_target" not in names
    assert list(inspect.signature(method).parameters)[:2] == ["net", "x"]


def test_a_traceback_names_the_composition() -> None:
    net, x = double(CASES[0])
    method = fa.relu(fa.noise_tunnel(fa.gradient))
    with pytest.raises(ValueError, match=r"relu\(noise_tunnel\(gradient\)\)\(target=77\): target 77 is out of range") as caught:
        method(net, x, target=77)
    assert "relu(noise_tunnel(gradient))" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def test_methods_with_arguments_bound_are_methods() -> None:
    net, x = double(CASES[0])
    few = functools.partial(fa.integrated_gradients, n_steps=4)
    method = fa.multiply(few, fa.noise_tunnel(few, stdevs=0.0, n_samples=2))
    close(method(net, x, target=1), fa.integrated_gradients(net, x, target=1, n_steps=4) ** 2)
    assert method.__name__ == "multiply(integrated_gradients, noise_tunnel(integrated_gradients))"
    every = fa.interpolate(functools.partial(fa.each_target(fa.grad_cam, [0, 1]), channel_dim=1))
    conv, image = double(CASES[1])
    assert every(conv, image, layer="conv1").shape == (2, 4, 1, 8, 8)


def test_signatures_say_what_is_needed() -> None:
    parameters = inspect.signature(fa.mean_over_baselines(fa.integrated_gradients)).parameters
    assert parameters["baselines"].default is inspect.Parameter.empty
    assert inspect.signature(fa.each_target(fa.gradient, [1])).parameters.keys() == {"model", "x", "layer", "create_graph"}
    assert fa.each_target(fa.gradient, [1]).__doc__


# Transforms.

COMPILED: list[tuple[str, Any]] = [
    *[(pair.name, pair.ours) for pair in PAIRS],
    ("relu(interpolate(each_target))", lambda m: fa.relu(fa.interpolate(fa.each_target(m, [0, 3]), size=3))),
    ("normalize(sum_channels(noise_tunnel))", lambda m: fa.normalize(fa.sum_channels(fa.noise_tunnel(m, stdevs=0.0)))),
    ("each_target(mean_over_baselines)", lambda m: fa.each_target(fa.mean_over_baselines(m), [0, 3])),
]
by_combinator = pytest.mark.parametrize(("name", "ours"), COMPILED, ids=[name for name, _ in COMPILED])


def arguments(name: str) -> dict[str, Any]:
    options: dict[str, Any] = {"layer": "layers.0"}
    if "each_target" not in name:
        options["target"] = 2
    if "mean_over_baselines" in name:
        options["baselines"] = torch.randn(2, 3, 5, dtype=torch.float64)
    return options


@pytest.mark.parametrize(
    ("name", "ours"),
    breadth(COMPILED, lambda case: case[0].startswith("noise"), several=True),
    ids=[name for name, _ in COMPILED],
)
def test_compiled_equals_eager(name: str, ours: Any) -> None:
    net = Made(3, 4, ["relu", "tanh"]).double().eval()
    x, options = torch.randn(3, 3, 5, dtype=torch.float64), arguments(name)
    compiled: Any = torch.compile(ours(base), fullgraph=True, backend="aot_eager")
    close(compiled(net, x, **options), ours(base)(net, x, **options))


@by_combinator
def test_vmapped_equals_looped(name: str, ours: Any) -> None:
    net = Made(3, 4, ["relu", "tanh"]).double().eval()
    x, options = torch.randn(3, 3, 5, dtype=torch.float64), arguments(name)

    def alone(example: Tensor) -> Any:
        return ours(base)(net, example[None], **options)

    close(torch.func.vmap(alone, randomness="same")(x), torch.stack([alone(example) for example in x]))


def test_a_generator_in_a_compiled_function() -> None:
    """Every call draws anew from the caller's generator, the numbers that the eager call draws."""
    net = Made(3, 4, ["relu", "tanh"]).double().eval()
    x, own = torch.randn(3, 3, 5, dtype=torch.float64), seeded(1)
    method = fa.noise_tunnel(fa.gradient, n_samples=3, stdevs=0.3, generator=own)
    eager = [method(net, x, target=1) for _ in range(2)]
    own.manual_seed(1)
    compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
    for expected in eager:
        close(compiled(net, x, target=1), expected)
    assert not torch.allclose(eager[0], eager[1])


@pytest.mark.parametrize(
    "targets", [[(0,), (3,), (0,)], [lambda out: out[:, 0], (1,), lambda out: out[:, 0]]], ids=["tuples", "callables"]
)
@pytest.mark.parametrize("own", [True, False])
def test_targets_of_a_compiled_function_meet_the_same_noise(targets: Any, own: bool) -> None:
    """What runs for one target after another drew anew for each, in silence: no generator is set back there."""
    net, x = Made(3, 4, ["tanh"]).double().eval(), torch.randn(3, 3, 5, dtype=torch.float64)
    generator = seeded(1) if own else None
    noisy = fa.noise_tunnel(functools.partial(fa.integrated_gradients, n_steps=2), n_samples=2, stdevs=0.3, generator=generator)
    found = torch.compile(fa.each_target(noisy, targets), fullgraph=True, backend="aot_eager")(net, x)
    assert torch.equal(found[0], found[2])
    if generator is not None:
        generator.manual_seed(1)
        close(found, fa.each_target(noisy, targets)(net, x))
