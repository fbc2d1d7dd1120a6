"""What combinators make of methods of one's own, and of methods with arguments bound: numbers of any kind, and what is bound is
what a call would give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close
from ..models import Conv, Text
from ..reference import leaves

torch.manual_seed(0)
model, image = Conv().eval(), torch.randn(4, 3, 8, 8)


def positive(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    """Where the gradient is above 0: the mean over noise is how often."""
    return fa.gradient(model, x - baselines, target=target) > 0


def counted(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    return (1e4 * fa.gradient(model, x - baselines, target=target)).long()


def tunnel(nt_type: str, chunk_size: int | None = None) -> Callable[[Any], Any]:
    def made(method: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return fa.noise_tunnel(method, n_samples=7, stdevs=0.5, nt_type=nt_type, generator=generator, chunk_size=chunk_size)

    return made


AROUND: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "relu": (fa.relu, {}),
    "absolute": (fa.absolute, {}),
    "normalize": (fa.normalize, {}),
    "sum_channels": (fa.sum_channels, {}),
    "sum_groups": (lambda method: fa.sum_groups(method, [0, 0, 1]), {}),
    "interpolate": (lambda method: fa.interpolate(method, (4, 4), mode="bilinear"), {}),
    "smoothgrad": (tunnel("smoothgrad"), {}),
    "smoothgrad_sq": (tunnel("smoothgrad_sq", 2), {}),
    "vargrad": (tunnel("vargrad", 1), {}),
    "mean_over_baselines": (fa.mean_over_baselines, {"baselines": torch.randn(3, 3, 8, 8)}),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("method", [positive, counted])
def test_integers_and_bools_are_numbers(name: str, method: Any) -> None:
    """A mean of them was rounded to an integer, or to True, in silence; others dropped them, or kept them as they were."""
    around, options = AROUND[name]

    @functools.wraps(method)
    def in_floats(*args: Any, **named: Any) -> Tensor:
        found: Tensor = method(*args, **named).float()
        return found

    found = around(method)(model, image, target=1, **options)
    assert found.is_floating_point()
    close(found, around(in_floats)(model, image, target=1, **options), 1e-6)
    assert found.abs().sum() > 0


class Two(torch.nn.Module):
    """Takes two pictures, each through a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(8, 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(a).tanh().mean((2, 3)), self.right(b).tanh().mean((2, 3))], 1))


two, text = Two().eval(), Text().eval()
ids, slides, tiles = torch.randint(0, 20, (4, 7)), torch.tensor([0, 1, 0, 1, 1]), torch.randn(5, 6)


def bags(tiles: Tensor) -> Tensor:
    return torch.zeros(2, 6).index_add(0, slides, tiles.tanh())


def squared(method: Any) -> Any:
    size: Any = fa.absolute(method)
    return fa.interpolate(fa.multiply(method, size))


def noisy(method: Any) -> Any:
    return fa.noise_tunnel(method, n_samples=5, stdevs=3.0, generator=torch.Generator().manual_seed(0))


#: A combinator, a method, a model, its input, what is bound, and what else is given.
BOUND: dict[str, tuple[Any, Any, Any, Any, dict[str, Any], dict[str, Any]]] = {
    "which picture a layer sees": (fa.interpolate, fa.grad_cam, two, (image, image), {"layer": "left"}, {"target": 1}),
    "deeper inside": (
        lambda method: fa.interpolate(fa.relu(fa.absolute(method))),
        *(fa.grad_cam, two, (image, image), {"layer": "left"}, {"target": 1}),
    ),
    "in both of two": (
        squared,
        *(fa.grad_cam, two, (image, image), {"layer": "left"}, {"target": 1}),
    ),
    "where noise is added": (noisy, fa.gradient, text, ids, {"layer": "embedding"}, {"target": 1}),
    "at the input all the same": (fa.at_input, fa.gradient, model, image, {"layer": "conv2"}, {"target": 1}),
    "a class under noise": (noisy, fa.gradient, model, image, {"target": "argmax"}, {}),
    "where baselines are": (
        fa.mean_over_baselines,
        *(fa.integrated_gradients, text, ids, {"layer": "embedding"}, {"target": 1, "baselines": ids[:2].flip(1)}),
    ),
    "rows of baselines": (
        lambda method: fa.by_examples(method, slides),
        *(fa.integrated_gradients, bags, tiles, {"baselines": tiles.flip(0)}, {"target": 1}),
    ),
}


@pytest.mark.parametrize("name", BOUND)
def test_what_is_bound_is_what_a_call_gives(name: str) -> None:
    """Combinators looked at the call alone: noise was added nowhere, and maps drawn over pictures that a layer does not see."""
    around, method, net, x, bound, options = BOUND[name]
    found = around(functools.partial(method, **bound))(net, x, **options)
    expected = around(method)(net, x, **bound, **options)
    close(found, expected)
    if isinstance(x, tuple):
        assert found[1] is None is expected[1]


def test_noise_on_integers_alone_is_refused() -> None:
    """It was added nowhere, and the mean was the method, in silence."""
    for method in (fa.feature_ablation, lambda model, x, target: fa.gradient(model, x, layer="embedding", target=target)):
        with pytest.raises(TypeError, match="integers have no gradient: choose a layer after"):
            fa.noise_tunnel(method)(text, ids, target=1)
    fa.noise_tunnel(fa.feature_ablation, n_samples=2)(text, ids, layer="embedding", target=1)
    with pytest.raises(TypeError, match=r"x is complex.*view_as_real"):
        fa.noise_tunnel(fa.saliency)(lambda x: x.abs().sum(1), torch.randn(2, 3, dtype=torch.complex64))


def classic(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    """As it is written by hand: gradients are added up in x."""
    x.requires_grad_(True)
    fa.score(model(x), target).sum().backward()
    assert x.grad is not None
    return x.grad * (x - baselines).detach()


def writes(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    """Moves x where it lies."""
    return fa.gradient(model, x, target=target) * x.sub_(baselines)


def plain(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    return fa.gradient(model, x, target=target) * (x - baselines)


#: What calls a method several times with the same x.
SEVERAL: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "each_target": (lambda method: fa.each_target(method, [0, 1, 2]), {"baselines": 0.5}),
    "each_target, callables": (lambda method: fa.each_target(method, [lambda out: out[:, 0], lambda out: out[:, 1]]), {}),
    "each_target, one at a time": (lambda method: fa.each_target(method, [0, 1, 2], chunk_size=1), {"baselines": 0.5}),
    "multiply": (lambda method: fa.multiply(method, method), {"target": 1, "baselines": 0.5}),
    "multiply, with another": (lambda method: fa.multiply(method, fa.gradient), {"target": 1, "baselines": 0.5}),
    "mean_over_baselines": (fa.mean_over_baselines, {"target": 1, "baselines": torch.randn(3, 3, 8, 8)}),
    "relu": (fa.relu, {"target": 1, "baselines": 0.5}),
    "bound": (lambda method: fa.each_target(functools.partial(method, baselines=0.5), [0, 1]), {}),
    "randomisation": (
        lambda method: (
            lambda model, x, **options: fa.metrics.randomisation(
                functools.partial(method, baselines=0.5), model, x, generator=torch.Generator().manual_seed(0), **options
            )
        ),
        {"target": 1},
    ),
    "sensitivity": (
        lambda method: (
            lambda model, x, **options: fa.metrics.sensitivity_max(
                functools.partial(method, baselines=0.5), model, x, generator=torch.Generator().manual_seed(0), **options
            )
        ),
        {"target": 1},
    ),
}


@pytest.mark.filterwarnings("ignore:the steps run one after another")  # classic's cannot be mapped
@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("method", [classic, writes])
@pytest.mark.parametrize("asks", [False, True])
def test_each_call_has_an_x_of_its_own(name: str, method: Any, asks: bool) -> None:
    """What a call left in x was in the next one's: gradients added up, and x moved twice, in silence. Of a copy in the graph of
    an x that asks for a gradient, torch keeps no grad."""
    around, options = SEVERAL[name]
    x = image.clone().requires_grad_(asks)
    close(around(method)(model, x, **options), around(plain)(model, image, **options), 1e-5)
    assert torch.equal(x, image)
    assert x.requires_grad is asks
    for p in model.parameters():
        p.grad = None


def test_metrics_ask_what_is_bound() -> None:
    """No target of theirs took the place of the one that was bound, in silence where the model has one output."""

    def one(x: Tensor) -> Tensor:
        return model(x)[:, 0]

    for measure in (fa.metrics.randomisation, functools.partial(fa.metrics.sensitivity_max, n_samples=2)):
        found, wanted = (
            measure(method, at, image, target=target, generator=torch.Generator().manual_seed(0))
            for method, at, target in ((functools.partial(fa.gradient, target=2), model, None), (fa.gradient, model, 2))
        )
        close(found, wanted, 1e-6)


@pytest.mark.parametrize("around", [lambda method: method, fa.relu])
def test_a_class_that_is_predicted_is_that_of_x(around: Callable[[Any], Any]) -> None:
    """Bound in the method, it was another in each call of it: at other inputs, or of a model that is shuffled."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(6, 4)
    bound = around(functools.partial(fa.gradient, target="argmax"))
    for measure in (fa.metrics.randomisation, functools.partial(fa.metrics.sensitivity_max, n_samples=9, radius=5.0)):
        found, wanted, otherwise = (
            measure(method, net, x, target=target, generator=torch.Generator().manual_seed(0))
            for method, target in (
                (bound, None),
                (around(fa.gradient), net(x).argmax(1)),
                (lambda model, x: bound(model, x), None),
            )
        )
        close(found, wanted, 1e-6)
        assert not all(torch.allclose(a, b) for a, b in zip(leaves(found), leaves(otherwise)))


class Described:
    """A method with an attribute of its own that methods of the library have, too."""

    about = "my own"

    def __call__(self, model: Any, x: Tensor, *, target: Any = None) -> Tensor:
        return fa.gradient(model, x, target=target)


@pytest.mark.parametrize(
    "around",
    [
        *(fa.relu, fa.noise_tunnel, fa.absolute),
        lambda method: fa.each_target(method, [0, 1]),
        lambda method: fa.multiply(method, fa.saliency),
    ],
)
def test_what_somebody_else_calls_about(around: Callable[[Any], Any]) -> None:
    options = {} if around(fa.gradient).about.leading else {"target": 1}
    torch.manual_seed(0)
    found = around(Described())(model, image, **options)
    torch.manual_seed(0)
    close(found, around(fa.gradient)(model, image, **options))
    assert fa.metrics.sensitivity_max(Described(), model, image, target=1, n_samples=2).shape == (4,)
    with pytest.raises(TypeError, match="there is no argument 'methods'"):
        fa.saliency(model, image, methods=Described())  # type: ignore[call-overload]  # which it has not


def test_a_wrong_name_that_is_bound() -> None:
    with pytest.raises(TypeError, match=r"shapley has no argument 'samples'\. Did you mean 'n_samples'\?"):
        fa.relu(functools.partial(fa.shapley, samples=3))


def anything(model: Any, x: Tensor, **named: Any) -> Any:
    return fa.integrated_gradients(model, x, n_steps=3, **named)


def test_what_takes_any_argument_takes_none_that_a_combinator_sees_to() -> None:
    """Python's words came for a target beside those of each_target, and a KeyError for baselines that no signature names; the
    error of each example was averaged as if it were an attribution."""
    every = fa.each_target(anything, [0, 1])
    close(
        fa.multiply(every, fa.gradient)(model, image, target=1)[0],
        anything(model, image, target=0) * fa.gradient(model, image, target=1),
        1e-5,
    )
    base = torch.randn(2, 3, 8, 8)
    found = fa.mean_over_baselines(anything)(model, image, target=1, baselines=base)
    close(found, fa.mean_over_baselines(fa.integrated_gradients)(model, image, target=1, baselines=base, n_steps=3), 1e-5)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: every(model, image, target=1), "there is no argument 'target'"),
        (lambda: fa.mean_over_baselines(anything)(model, image, target=1), "baselines is missing"),
        (lambda: fa.noise_tunnel(anything)(model, image, target=1, return_error=True), "there is no argument 'return_error'"),
        (lambda: fa.relu(anything)(model, image, 1), r"takes model, x and no more. Write method\(model, x\)"),
        (lambda: fa.relu(anything)(model, image, x=image), "x is given twice"),
        (lambda: fa.relu(lambda net, data, layer=None: data)(model, image, foo=1), "there is no argument 'foo'"),
        (lambda: fa.interpolate(lambda model, x: None)(model, image), "the method returned NoneType"),
    ]
    twice: Any = {"x": image}
    calls.append(
        (lambda: fa.gradient(model, image, target=1, **twice), r"x is given twice.* Write fa.gradient\(model, x, target=1\)")
    )
    for call, words in calls:
        with pytest.raises(TypeError, match=words):
            call()


class Draws:
    """A method that keeps a generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self, model: Any, x: Tensor, *, target: Any = None) -> Tensor:
        return fa.gradient(model, x + 0.5 * torch.randn(x.shape, generator=self.generator), target=target)


SEEN = torch.Generator()
smooth = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.5, generator=SEEN)


def from_file(model: Any, x: Tensor, *, target: Any = None) -> Tensor:
    return smooth(model, x, target=target)


def by_default(model: Any, x: Tensor, *, target: Any = None, generator: torch.Generator = SEEN) -> Tensor:
    return fa.gradient(model, x + 0.5 * torch.randn(x.shape, generator=generator), target=target)


@pytest.mark.parametrize("method", [Draws(), from_file, by_default], ids=["kept", "in its file", "by default"])
@pytest.mark.parametrize("targets", [[0, 3], [lambda out: out[:, 0] ** 2, (3,)]], ids=["classes", "others"])
def test_each_target_meets_the_same_draws(method: Any, targets: Any) -> None:
    """Of a method's own generator each target had other numbers, where they ran one after another, in silence."""
    generator = getattr(method, "generator", SEEN)

    def seeded(call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        generator.manual_seed(0)
        return call(), generator.get_state()

    alone = [seeded(lambda target=target: method(model, image, target=target)) for target in targets]  # type: ignore[misc]  # a lambda with a default has no type for mypy
    for chunk_size in (None, 1, 2):
        every, state = seeded(lambda size=chunk_size: fa.each_target(method, targets, chunk_size=size)(model, image))  # type: ignore[misc]  # the same
        close(every, torch.stack([found for found, _ in alone]), 1e-5)
        assert torch.equal(state, alone[0][1])
