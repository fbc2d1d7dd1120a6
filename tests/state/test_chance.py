"""Models that draw random numbers in eval mode: one function in each call, and said so."""

from __future__ import annotations

import functools
import random
import random as chances
import warnings
from collections.abc import Callable
from functools import partial
from random import random as number
from random import shuffle
from typing import Any

import numpy as np
import numpy.random as draws
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import rand as fill
from torch._subclasses import FakeTensorMode
from torch.nn.functional import dropout as thin

import funattr as fa

SAMPLES = "the model draws random numbers"


def picked(h: Tensor) -> Tensor:
    which = torch.multinomial(torch.ones(6), 3)
    return h * torch.zeros(6, dtype=h.dtype).index_fill(0, which, 1.0)


def attend(h: Tensor, **options: float) -> Tensor:
    return h + F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], **options)[:, 0]  # type: ignore[arg-type]  # one of several


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "variational": lambda h: h + torch.randn_like(h) * h,
    "dropout that stays on": lambda h: F.dropout(h, 0.5, training=True),
    "Bernoulli": lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)),
    "rrelu": lambda h: F.rrelu(h, training=True),
    "multinomial": picked,
    "distributions": lambda h: torch.distributions.Normal(h, h.square() + 1).rsample(),
    "noise for all rows": lambda h: h * torch.randn(6, dtype=h.dtype),
    "attention": lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], None, 0.5)[:, 0],
    "by a name": lambda h: attend(h, dropout_p=0.5),
    "Python": lambda h: h * random.random(),
    "numpy": lambda h: h * torch.from_numpy(np.random.rand(6)),
}


class Sampler(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encode, self.decode, self.draw = nn.Linear(3, 6), nn.Linear(6, 2), draw

    def forward(self, x: Tensor) -> Any:
        return self.decode(torch.tanh(self.draw(torch.tanh(self.encode(x[:, :3])))))  # the others are ignored


def sampler(draw: str) -> Sampler:
    torch.manual_seed(0)
    return Sampler(DRAWS[draw]).double().eval()


x, base = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
cloud = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
METHODS: dict[str, Callable[..., Any]] = {
    "integrated_gradients": partial(fa.integrated_gradients, baselines=base, n_steps=12),
    "at a layer": partial(fa.integrated_gradients, baselines=base, layer="encode", n_steps=12),
    "conductance": partial(fa.conductance, baselines=base, layer="encode", n_steps=12),
    "feature_ablation": partial(fa.feature_ablation, baselines=base),
    "ablation at a layer": partial(fa.feature_ablation, layer="encode"),
    "gradient_shap": partial(fa.gradient_shap, baselines=cloud, n_samples=4),
    "gradient_shap of noise": partial(fa.gradient_shap, baselines=cloud, n_samples=4, stdevs=0.1),
    "infidelity": partial(fa.metrics.infidelity, x, n_samples=4),
    "infidelity of noise": partial(fa.metrics.infidelity, x, n_samples=4, perturb=0.1, multiply_by_inputs=False),
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=cloud),
}
COMBINED: dict[str, Callable[..., Any]] = {
    "noise_tunnel": lambda **size: fa.noise_tunnel(fa.gradient, n_samples=4, **size),
    "each_target": lambda **size: fa.each_target(fa.gradient, [0, 1, 1], **size),
}


def quietly(run: Callable[[], Any], seed: int = 7) -> tuple[Any, list[str], float]:
    """What it gives after a seed, what it warns of, and the next number of the global generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = run()
    return found, [str(warning.message) for warning in told], float(torch.rand(()))


def scores(model: Sampler, x: Tensor) -> Tensor:
    found: Tensor = quietly(lambda: model(x)[:, 1].detach())[0]
    return found


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("method", [*METHODS, *COMBINED])
def test_chunks_change_nothing_and_a_seed_gives_it_again(method: str, draw: str) -> None:
    model = sampler(draw)
    found, after = [], set()
    for size in ({}, {}, {"chunk_size": 1}, {"chunk_size": 3}):
        if method in METHODS:
            run = partial(METHODS[method], model, x, target=1, **size)
        else:
            rest = {"target": 1} if method == "noise_tunnel" else {}
            run = partial(COMBINED[method](**size), model, x, **rest)
        result, told, following = quietly(run)
        assert sum(SAMPLES in text for text in told) == 1
        found.append(result)
        after.add(following)
    assert len(after) == 1
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("draw", DRAWS)
def test_it_explains_the_function_of_these_draws(draw: str) -> None:
    model = sampler(draw)
    nothing = quietly(lambda: fa.feature_ablation(model, x, baselines=x, target=1))[0]
    assert float(nothing.abs().max()) == 0.0
    found = quietly(lambda: fa.feature_ablation(model, x, target=1))[0]
    assert float(found[:, 3:].abs().max()) == 0.0
    without = x.clone()
    without[:, 1] = 0
    torch.testing.assert_close(found[:, 1], scores(model, x) - scores(model, without))
    at_x = x.clone().requires_grad_()
    (slope,) = quietly(lambda: torch.autograd.grad(model(at_x)[:, 1].sum(), at_x))[0]
    torch.testing.assert_close(quietly(lambda: fa.gradient(model, x, target=1))[0], slope)


@pytest.mark.parametrize("draw", [name for name in DRAWS if name != "rrelu"])  # whose slopes depend on how many are negative
def test_sums_are_complete(draw: str) -> None:
    model = sampler(draw)
    gap = scores(model, x) - scores(model, base)
    lifted = quietly(lambda: fa.deep_lift(model, x, baselines=base, target=1))[0]
    torch.testing.assert_close(lifted.sum(1), gap)
    along = quietly(lambda: fa.integrated_gradients(model, x, baselines=base, target=1, n_steps=100))[0]
    torch.testing.assert_close(along.sum(1), gap, rtol=0.0, atol=1e-4)
    lifted_shap = quietly(lambda: fa.deep_lift_shap(model, x, baselines=cloud, target=1))[0]
    starts = torch.stack([scores(model, one.expand_as(x)) for one in cloud]).mean(0)
    torch.testing.assert_close(lifted_shap.sum(1), scores(model, x) - starts)


@pytest.mark.parametrize("model", [sampler("variational"), lambda x: (x**2)[:, :2]], ids=["draws", "function"])
def test_tensors_without_data(model: Any) -> None:
    """Where methods draw, too: the state from which a model's own stream begins was taken for a tensor of the mode."""
    calls = [
        partial(fa.gradient_shap, baselines=cloud, stdevs=0.1),
        fa.noise_tunnel(fa.gradient),
        partial(fa.shapley, sampling="exact"),
        partial(fa.metrics.infidelity, fa.gradient),
    ]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fake = mode.from_tensor(x)
        assert [list(call(model, fake, target=1).shape) for call in calls] == [[3, 5], [3, 5], [3, 5], [3]]


def test_another_call_draws_anew() -> None:
    model = sampler("variational")
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match=SAMPLES):
        one, two = fa.gradient(model, x, target=1), fa.gradient(model, x, target=1)
    assert not torch.equal(one, two)
    shap = partial(fa.gradient_shap, model, x, target=1, baselines=cloud, n_samples=2)
    tunnel = fa.noise_tunnel(fa.gradient, stdevs=0.0, n_samples=2, generator=torch.Generator().manual_seed(0))
    for call in (shap, partial(tunnel, model, x, target=1)):
        one, two = quietly(lambda: [f() for f in (call, call)])[0]  # noqa: B023  (called at once)
        assert not torch.equal(one, two)


class Own(nn.Module):
    """Draws from a generator that it keeps."""

    def __init__(self, generator: Any, draw: Callable[[Any], Any]) -> None:
        super().__init__()
        self.line, self.kept, self.draw = nn.Linear(5, 4), {"generator": generator}, draw

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.line(x)) * self.draw(self.kept["generator"])


OWN: dict[str, Callable[[], tuple[Any, Callable[[Any], Any]]]] = {
    "torch": lambda: (torch.Generator().manual_seed(0), lambda g: torch.rand(4, generator=g)),
    "numpy": lambda: (np.random.default_rng(0), lambda g: torch.from_numpy(g.random(4))),
    "numpy, as it was": lambda: (np.random.RandomState(0), lambda g: torch.from_numpy(g.rand(4))),
    "python": lambda: (random.Random(0), lambda g: g.random()),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_generator_of_the_models_own_is_state(kind: str) -> None:
    model = Own(*OWN[kind]()).double()
    nothing, told, _ = quietly(lambda: fa.feature_ablation(model, x, baselines=x, target=1, chunk_size=1))
    assert float(nothing.abs().max()) == 0.0
    assert sum(SAMPLES in text for text in told) == 1
    one = quietly(lambda: fa.integrated_gradients(model, x, target=1, chunk_size=1))[0]
    two = quietly(lambda: fa.integrated_gradients(model, x, target=1, chunk_size=7))[0]
    torch.testing.assert_close(one, two)
    want = model(x)[:, 1] - Own(*OWN[kind]()).double()(x)[:, 1]  # which has other weights; it has drawn as often
    assert want.shape == (3,)


def shuffled(h: Tensor) -> Tensor:
    order = list(range(h.shape[1]))
    shuffle(order)
    return h[:, order]


def applied(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One code for many functions."""
    return lambda h: f(h)


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return h * torch.rand_like(h)


def noisy(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator with a generator of its own."""
    generator = torch.Generator().manual_seed(0)
    return lambda *args: f(*args) * torch.rand(4, generator=generator, dtype=torch.float64)


FILE = torch.Generator().manual_seed(0)


class Hidden(nn.Module):
    def __init__(self, draw: Any = None) -> None:
        super().__init__()
        self.line, self.draw, self.dropout = nn.Linear(5, 4), draw, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drawn(torch.tanh(self.line(x)))

    def drawn(self, h: Tensor) -> Tensor:
        found: Tensor = self.draw(h)
        return found


class OfFile(Hidden):
    def drawn(self, h: Tensor) -> Tensor:
        return h * torch.rand(4, generator=FILE, dtype=h.dtype)


class OfDefault(Hidden):
    def drawn(self, h: Tensor, generator: torch.Generator = torch.Generator().manual_seed(0)) -> Tensor:  # noqa: B008  (on purpose)
        return h * torch.rand(4, generator=generator, dtype=h.dtype)


class Decorated(Hidden):
    @noisy
    def drawn(self, h: Tensor) -> Tensor:
        return h


class TurnsOn(Hidden):
    def drawn(self, h: Tensor) -> Tensor:
        found: Tensor = self.dropout.train()(h)
        return found


class OfLibrary(Hidden):
    def drawn(self, h: Tensor) -> Tensor:
        return h * self.draw()


class OfBits(Hidden):
    def drawn(self, h: Tensor) -> Tensor:
        return h * float(np.random.Generator(self.draw).random())


#: As a table of activations has them.
TABLE = {"rough": lambda h: h * torch.rand_like(h), "smooth": torch.tanh}
LISTED = [TABLE["rough"]]


@functools.cache
def shaken() -> Any:
    if not hasattr(torch.library, "custom_op"):
        pytest.skip("torch 2.4 registers operations so")
    return torch.library.custom_op(
        "funattr_tests::shaken",
        lambda h: h * torch.rand(h.shape, dtype=h.dtype),
        mutates_args=(),
        schema="(Tensor h) -> Tensor",
    )


def put_on(how: str) -> nn.Module:
    """A net of torch's own layers, on one of which somebody has put what draws."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    if how == "hook":
        net[1].register_forward_hook(lambda module, args, out: out * torch.rand_like(out))
    if how == "hook before":
        net[1].register_forward_pre_hook(lambda module, args: (args[0] * random.random(),))
    if how == "forward":
        net[1].forward = lambda h: F.dropout(h, 0.5, True)
    if how == "hook of a kind":
        net[1].register_forward_hook(Shakes())
    return net


class Registered(Hidden):
    def drawn(self, h: Tensor) -> Tensor:
        found: Tensor = self.draw(h)
        return found


class Shakes:
    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * torch.rand_like(out)


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    **{f"{how} on a layer": partial(put_on, how) for how in ("hook", "hook before", "forward", "hook of a kind")},
    "of a table": lambda: Hidden(lambda h: TABLE["rough"](h)),
    "of a list": lambda: Hidden(lambda h: LISTED[0](h)),
    "a registered operation": lambda: Registered(shaken()),
    "a registered operation, by name": lambda: shaken() and Hidden(lambda h: torch.ops.funattr_tests.shaken(h)),
    "torch, renamed": lambda: Hidden(lambda h: h * fill(4, dtype=h.dtype)),
    "dropout, renamed": lambda: Hidden(lambda h: thin(h, 0.5, True)),
    "numpy, renamed": lambda: Hidden(lambda h: h * draws.rand()),
    "Python, renamed": lambda: Hidden(lambda h: h * chances.random()),
    "from random": lambda: Hidden(lambda h: h * number()),
    "shuffle": lambda: Hidden(shuffled),
    "a scripted function": lambda: Hidden(lambda h: scripted(h)),
    "a function made as others are": lambda: Hidden(applied(lambda h: torch.rand_like(h) * h)),
    "of the file": OfFile,
    "of a default": OfDefault,
    "of a decorator": Decorated,
    "dropout turned on": TurnsOn,
    "a method of a generator": lambda: OfLibrary(random.Random(0).random),
    "a method of numpy's global one": lambda: OfLibrary(np.random.rand),
    "a bit generator": lambda: OfBits(np.random.PCG64(0)),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_draws_are_seen_wherever_they_come_from(kind: str) -> None:
    fa.gradient(Hidden(applied(torch.tanh)).double().eval(), x, target=1)  # that draws nothing, and is known from now on
    model = HIDDEN[kind]().double().eval()
    for f in (model, lambda x: model(x)):
        nothing, told, _ = quietly(lambda: fa.feature_ablation(f, x, baselines=x, target=1, chunk_size=1))  # noqa: B023  (at once)
        assert float(nothing.abs().max()) == 0.0
        assert sum(SAMPLES in text for text in told) == 1


def test_what_the_system_gives_has_no_state() -> None:
    model = OfLibrary(random.SystemRandom().random).double().eval()
    assert fa.gradient(model, x, target=1).shape == x.shape
    assert fa.gradient(Own(random.SystemRandom(), lambda g: g.random()).double(), x, target=1).shape == x.shape


def test_models_that_do_not_draw_leave_the_generator_alone() -> None:
    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.dropout = nn.Linear(5, 2), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Any:
            return F.dropout(self.dropout(self.line(x)), training=self.training)

    model = Quiet().double().eval()
    for run in (
        lambda: fa.integrated_gradients(model, x, target=1),
        lambda: fa.feature_ablation(model, x, target=1, chunk_size=2),
    ):
        _, told, following = quietly(run)
        torch.manual_seed(7)
        assert (told, following) == ([], float(torch.rand(())))
    following = quietly(lambda: fa.noise_tunnel(fa.gradient, n_samples=2)(model, x, target=1))[2]
    torch.manual_seed(7)
    for _ in range(2):
        torch.randn(x.shape, dtype=x.dtype)
    assert following == float(torch.rand(()))


@pytest.mark.filterwarnings(f"ignore:{SAMPLES}")
def test_generators_that_the_model_does_not_draw_from_stay() -> None:
    """A method that draws, too, moved all that the model's code names, of which it may draw from none."""

    def model(x: Tensor) -> Tensor:
        return (x * torch.rand_like(x)).tanh() if x.dim() == 2 else x * random.random() + np.random.random()

    before = random.getstate(), np.random.get_state()[2]
    fa.noise_tunnel(fa.gradient, n_samples=2)(model, x, target=1)
    assert (random.getstate(), np.random.get_state()[2]) == before
