"""Models that torch has made of somebody's code (scripted, traced, exported, as a graph), and those that watch what is to be
quantised: what they keep and draw is as that of any model."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import funattr as fa

from ..close import close

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated", "ignore:the steps run one after another")
D = 4
X = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    """A running sum, of which each pass makes another model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, 3)
        self.sum: Tensor
        self.register_buffer("sum", torch.zeros(D))
        self.times = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.sum.add_(h.detach().mean(0))
        return self.last(torch.tanh(h) * self.sum)


class Rebinds(Counts):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.sum = self.sum + h.detach().mean(0)
        self.times += 1
        return self.last(torch.tanh(h) * self.sum * self.times)


class Draws(Counts):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.tanh(h + torch.randn_like(h)))


def model(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


def exported(net: nn.Module) -> Any:
    return torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim("batch", max=9999)},))


MADE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "scripted": torch.jit.script,
    "traced": lambda net: torch.jit.trace(net, X, check_trace=False),
    "graph": fx.symbolic_trace,
    "exported": lambda net: exported(net).module(),
    "exported, with layers": lambda net: torch.export.unflatten(exported(net)),
}


def once(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scores, and their gradients, of a pass that is undone."""
    before, x = copy.deepcopy(net.state_dict()), x.clone().requires_grad_()
    torch.manual_seed(7)
    scores = net(x)[:, 1]
    slope = torch.autograd.grad(scores.sum(), x)[0]
    net.load_state_dict(before)
    if hasattr(net, "times"):
        setattr(net, "times", 0)  # noqa: B010  (to mypy it is a tensor)
    return scores.detach(), slope


def by_hand(net: nn.Module, baseline: float, steps: int = 5) -> Tensor:
    """Integrated gradients as a loop."""
    each = [once(net, baseline + (k + 0.5) / steps * (X - baseline))[1] for k in range(steps)]
    return torch.stack(each).mean(0) * (X - baseline)


def integrated(net: nn.Module, **asked: Any) -> Tensor:
    torch.manual_seed(7)
    return fa.integrated_gradients(net, X, target=1, baselines=0.1, n_steps=5, quadrature="riemann_middle", **asked)


KEEPS = [(kind, name) for kind in (Counts, Rebinds) for name in MADE if kind is Counts or name == "scripted"]


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize(("kind", "name"), KEEPS)
def test_each_pass_starts_from_what_the_call_found(kind: type[nn.Module], name: str, chunk_size: int | None) -> None:
    net = MADE[name](model(kind))
    before = copy.deepcopy(net.state_dict())
    wanted = by_hand(net, 0.1)
    close(integrated(net, chunk_size=chunk_size), wanted, 1e-12)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert getattr(net, "times", 0) == 0
    each = [once(net, X)[0] - once(net, torch.where(torch.arange(D) == i, 0.1, X))[0] for i in range(D)]
    close(fa.feature_ablation(net, X, target=1, baselines=0.1, chunk_size=chunk_size), torch.stack(each, 1), 1e-12)


@pytest.mark.parametrize("name", MADE)
def test_all_passes_draw_the_same(name: str) -> None:
    net = MADE[name](model(Draws))
    with pytest.warns(UserWarning, match="the model draws random numbers"):
        found = integrated(net, chunk_size=1)
    close(found, by_hand(net, 0.1), 1e-12)


@pytest.mark.filterwarnings("ignore:.*must be a multiple")
@pytest.mark.parametrize("qat", [False, True])
def test_observers_are_left_as_found(qat: bool) -> None:
    """The statistics by which a model is to be quantised, some of which torch writes without counting it."""
    ao, fused = torch.ao.quantization, importlib.import_module("torch.ao.quantization.quantize_fx")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 3)).train(qat), X.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if qat:
            net = fused.prepare_qat_fx(net, ao.get_default_qat_qconfig_mapping("fbgemm"), x)
        else:
            net = fused.prepare_fx(net, ao.get_default_qconfig_mapping("fbgemm"), x)
        net(x), net(2 * x)
    net.eval()
    before = copy.deepcopy(net.state_dict())
    each = [once(net, x)[0] - once(net, torch.where(torch.arange(D) == i, 9.0, x))[0] for i in range(D)]
    close(fa.feature_ablation(net, x, target=1, baselines=9.0), torch.stack(each, 1), 1e-6)
    fa.integrated_gradients(net, x, target=1, baselines=9.0, layer="0", n_steps=5)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("kind", [Counts, Rebinds, Draws])
def test_a_scripted_part_keeps_its_gradient_in_steps_at_once(kind: type[nn.Module]) -> None:
    """Under vmap, scripted code that has run without a gradient records none, and another way to x hid that."""

    class Skips(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part, self.last = part, nn.Linear(3 + D, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.part(x), x], 1))

    plain, scripted = (Skips(part) for part in (model(kind), torch.jit.script(model(kind))))
    scripted.last = plain.last
    for _ in range(3):  # scripted code is another one from the second run on
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(integrated(scripted, chunk_size=2), integrated(plain, chunk_size=2), 1e-12)


class Quantised(nn.Module):
    """What is quantised has no gradient, and its values are no numbers to ablate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.codes = nn.Linear(D, D), nn.Identity()
        self.last = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(D, 3)), {nn.Linear})

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(self.codes(torch.quantize_per_tensor(h, 0.1, 0, torch.qint8)).dequantize())


@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered", "ignore:.*are deprecated and will be removed")
def test_quantised_values_and_operations_are_refused_in_words() -> None:
    net, x = Quantised().eval(), X.float()
    for method in (fa.feature_ablation, fa.shapley, fa.lime):
        with pytest.raises(TypeError, match=r"the value at layer 'codes' is a quantised tensor \(torch.qint8\)"):
            method(net, x, layer="codes", target=1)
        with pytest.raises(TypeError, match=r"x is a quantised tensor"):
            method(net, torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), target=1)
    parts = nn.Sequential(net.first, nn.ReLU(), *net.last)
    for rectified in (fa.gradient, fa.guided_backprop, fa.deconvnet, fa.deep_lift):
        with pytest.raises(ValueError, match="the score has no gradient with respect to layer '0'"):
            rectified(parts, x, layer="0", target=1)  # zeros came


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", ["gradient", "noise_tunnel", "each_target", "deep_lift_shap", "layers"])
def test_lazy_layers_get_their_size_in_a_plain_pass(name: str) -> None:
    """In a transform of torch.func they got the transform's tensors: the next pass broke the process."""
    x = torch.randn(3, 5)
    methods: dict[str, Any] = {
        "gradient": lambda model: fa.gradient(model, x, target=1),
        "noise_tunnel": lambda model: fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0)(model, x, target=1),
        "each_target": lambda model: fa.each_target(fa.gradient, [0, 1])(model, x)[1],
        "deep_lift_shap": lambda model: fa.deep_lift_shap(model, x, baselines=torch.zeros(2, 5), target=1),
        "layers": lambda model: fa.layers(model, x),
    }
    model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(3))
    found = methods[name](model)
    assert [layer.in_features for layer in model if isinstance(layer, nn.Linear)] == [5, 6]  # which was put back, to 0
    if name != "layers":
        torch.testing.assert_close(found, methods[name](model))
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_norms_in_train_mode_learn_nothing_from_a_call() -> None:
    model, x = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3)).train(), torch.randn(4, 5) + 3
    with pytest.warns(UserWarning, match="train mode with batch norm"):
        fa.gradient(model, x, target=1)
    assert isinstance(model[0], nn.BatchNorm1d)
    assert model[0].training
    assert model[0].running_mean.abs().max() == 0
    assert model[0].num_batches_tracked == 0


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_in_a_transform_of_the_callers_are_refused() -> None:
    model, x = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(3)), torch.randn(3, 5)

    def rows(x: Tensor) -> Any:
        return torch.func.vmap(lambda row: fa.gradient(model, row[None], target=1)[0])(x)

    def whole(x: Tensor) -> Any:
        return fa.gradient(model, x, target=1)

    runs: list[Any] = [rows]
    if torch.__version__ >= "2.10":  # Dynamo said no more than that something is raised
        torch._dynamo.reset()
        runs.append(torch.compile(whole, backend="eager", fullgraph=True))
    for run in runs:
        with pytest.raises(Exception, match=r"without a size yet.* run it once before, model\(x\)"):
            run(x)
        assert isinstance(model[0], nn.LazyLinear)
    model(x)
    torch.testing.assert_close(rows(x), fa.gradient(model, x, target=1))
