"""Path methods on nets that vmap cannot run, and on nets that are their own worst enemy."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funattr as fa
from funattr import conductance, gradient_shap, integrated_gradients, internal_influence

from ..close import close
from ..reference import gauss
from .test_path import PATHS, built, one_after_another


class Shortcut(nn.Module):
    """A mapped branch is added in place to an unmapped one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        out = self.a(x)
        out += self.b(x)
        return self.fc(torch.relu_(out).mean((2, 3)))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        return self.fc(torch.tanh(h) if h.sum() > 0 else torch.sigmoid(h))


class Adjacent(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.rand(4, 4))

    def forward(self, x: Tensor) -> Any:
        return self.fc(torch.tanh(self.matrix @ self.a(x)))


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # the old form, which torch.func refuses
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.saved_tensors[0].exp()


class Legacy(Branches):
    def forward(self, x: Tensor) -> Any:
        return self.fc(Exp.apply(torch.tanh(self.a(x))))  # type: ignore[no-untyped-call]  # not typed there


class Hooked(Branches):
    """Its backward pass is not what its forward pass says. Under vmap such a hook does not run, and nobody is told."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()
        self.act.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 3,))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.act(self.a(x)))


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("layer", [None, "a", "b"])
@pytest.mark.parametrize("net", [Shortcut, Branches, Adjacent, Legacy, Hooked])
def test_hard_nets(net: type[nn.Module], layer: str | None, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if layer == "b" and net is not Shortcut:
        return
    model = net().double().eval()
    x = torch.randn(4, *((3, 6, 6) if net is Shortcut else (6,))).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = method(model, x, layer=layer, target=1, n_steps=5)
    needs_loop = net is Branches or (net in (Legacy, Hooked) and layer == "a" and method is integrated_gradients)
    assert [("one after another" in str(w.message)) for w in caught] == [True] * needs_loop
    one_after_another(monkeypatch)
    close(found, method(model, x, layer=layer, target=1, n_steps=5), 1e-12)
    if isinstance(model, Hooked):
        model.act = nn.Tanh()
        close(found, 3 * method(model, x, layer=layer, target=1, n_steps=5), 1e-12)


@pytest.mark.parametrize("method", PATHS)
def test_own_exceptions_at_once(method: Any) -> None:
    calls = []

    class Fails(Branches):
        def forward(self, x: Tensor) -> Any:
            calls.append(1)
            raise RuntimeError("vmap is not to blame")

    for layer in (None, "a"):
        calls.clear()
        with pytest.raises(RuntimeError, match=r"^vmap is not to blame$"):
            method(Fails(), torch.randn(4, 6), layer=layer, target=1)
        assert len(calls) == 1


@pytest.mark.parametrize("method", PATHS)
def test_no_grad_inference_mode_and_requires_grad(method: Any) -> None:
    model, x = built(0)
    for layer in (None, "fc1"):
        expected = method(model, x, layer=layer, target=1, n_steps=3)
        assert not expected.requires_grad
        with torch.no_grad():
            close(method(model, x, layer=layer, target=1, n_steps=3), expected, 1e-12)
        with torch.inference_mode():
            close(method(model, x.clone(), layer=layer, target=1, n_steps=3), expected, 1e-12)
        found = method(model, x.clone().requires_grad_(), layer=layer, target=1, n_steps=3)
        assert not found.requires_grad
        close(found, expected, 1e-12)
        assert method(model, x[:0], layer=layer, target=1, n_steps=3).shape == (0, *expected.shape[1:])
    assert all(p.grad is None for p in model.parameters())


def test_train_mode_warns_once_and_runs() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 5))
    before = model[1].running_mean.clone()
    for layer in (None, "0"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            integrated_gradients(model, torch.randn(4, 6), layer=layer, target=1, n_steps=3)
        assert sum(str(w.message).startswith("the model is in train mode") for w in caught) == 1
    assert torch.equal(model[1].running_mean, before)


class Parts(nn.Module):
    """A frozen backbone, or one that is run again in the backward pass, and a head."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.how = how

    def backbone(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "frozen":
            with torch.no_grad():
                return self.head(self.backbone(x))
        return self.head(checkpoint(self.backbone, x, use_reentrant=False) if self.how == "again" else self.backbone(x))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_frozen_part_has_no_gradient_at_a_layer_inside(layer: str, create_graph: bool) -> None:
    model, x = Parts("frozen").double(), torch.randn(3, 6, dtype=torch.float64)
    for method in (fa.gradient, fa.integrated_gradients, fa.conductance, fa.internal_influence, fa.deep_lift):
        with pytest.raises(ValueError, match=rf"no gradient with respect to layer '{layer}'.*torch.no_grad"):
            method(model, x, layer=layer, target=1, create_graph=create_graph)


@pytest.mark.skipif(
    not hasattr(torch.utils.checkpoint, "set_checkpoint_early_stop") or torch.__version__.startswith("2.4."),
    reason="torch 2.0 and 2.4 miscount where recording begins inside",
)
def test_a_part_that_runs_again_in_the_backward_pass() -> None:
    model, x = Parts("again").double(), torch.randn(3, 6, dtype=torch.float64)
    plain = Parts("plain").double()
    plain.load_state_dict(model.state_dict())
    for layer in ("first", "second", "head", None):
        wanted = fa.integrated_gradients(plain, x, layer=layer, target=1)
        torch.testing.assert_close(fa.integrated_gradients(model, x, layer=layer, target=1), wanted)
        if layer in ("first", "second"):  # recorded all along, the points would be lost
            with pytest.raises(ValueError, match=rf"layer '{layer}' is in a part that the model runs again.*checkpoint"):
                fa.integrated_gradients(model, x, layer=layer, target=1, create_graph=True)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the steps run one after another")  # the part would run again under vmap
                found = fa.integrated_gradients(model, x, layer=layer, target=1, create_graph=True)
            torch.testing.assert_close(found.detach(), wanted)


class Positions(nn.Module):
    """Six places, as many as two examples at three points of a path: what all share is not taken for a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.head = nn.Linear(4, 8), nn.Embedding(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1]))
        return self.head(torch.tanh(self.embed(x) + places).mean(1))


@pytest.mark.parametrize("method", [internal_influence, conductance, partial(fa.gradient_shap, n_samples=3)])
def test_what_all_examples_share_is_no_batch(method: Any) -> None:
    model, x = Positions().double(), torch.randn(2, 6, 4, dtype=torch.float64)
    options = {"baselines": x[:1] * 0} if isinstance(method, partial) else {"n_steps": 3}
    torch.manual_seed(1)
    wanted = method(model, x, layer="places", target=1, chunk_size=1, **options)
    torch.manual_seed(1)
    found = method(model, x, layer="places", target=1, chunk_size=3, **options)
    assert found.shape == (6, 8)
    torch.testing.assert_close(found, wanted)


class Experts(nn.Module):
    """A mixture of experts, each of which sees the tokens that are routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts, self.head = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            hit = chosen == k
            out[hit] = torch.tanh(expert(x[hit])) * weights[hit].unsqueeze(-1)
        return self.head((x + out).mean(1))


@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_layers_that_see_what_the_data_sends_them() -> None:
    model, x = Experts().double(), torch.randn(2, 9, 4, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    noisy = fa.noise_tunnel(fa.gradient, n_samples=8, stdevs=3.0, generator=random)
    methods: list[Any] = [noisy, partial(conductance, baselines=-x), partial(internal_influence, baselines=-x)]
    for method in methods:
        for chunk in {} if method is noisy else {"chunk_size": 1}, {}:
            with pytest.raises(
                ValueError, match=r"shape \[\d+, 4\] for one input and \[\d+, 4\] for another.*a layer around it"
            ):
                method(model, x, layer="experts.0", target=1, **chunk)
    with pytest.raises(ValueError, match="a layer around it"):
        gradient_shap(model, x, layer="experts.0", target=1, baselines=-x, n_samples=8)
    conductance(model, x, layer="gate", target=1)


class Looks(nn.Module):
    """Asks for the graph of what it computes, and goes by it."""

    def __init__(self, goes: Any) -> None:
        super().__init__()
        self.a, self.fc, self.goes = nn.Linear(6, 6), nn.Linear(6, 5), goes

    def forward(self, x: Tensor) -> Any:
        return self.fc(torch.tanh(self.goes(self.a(x))))


def hooked_where_it_can_be(h: Tensor) -> Tensor:
    h = 1 * h
    if h.requires_grad:
        h.register_hook(lambda g: 3 * g)
    return h


LOOKS = {
    "requires_grad": lambda h: 3 * h if h.requires_grad else h,
    "is_leaf": lambda h: h if h.is_leaf else 3 * h,
    "grad_fn": lambda h: h if h.grad_fn is None else 3 * h,
    "register_hook": hooked_where_it_can_be,
}


@pytest.mark.parametrize("method", [*PATHS, fa.noise_tunnel(fa.gradient, n_samples=3)])
@pytest.mark.parametrize("layer", [None, "a"])
@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_each_step_finds_the_graph_that_it_has_by_itself(looks: str, layer: str | None, method: Any) -> None:
    torch.manual_seed(0)
    model, x = Looks(LOOKS[looks]).double().eval(), torch.randn(4, 6).double()
    plain = Looks(lambda h: (3 * h - (2 * h).detach()) if looks == "register_hook" else 3 * h).double().eval()
    plain.load_state_dict(model.state_dict())
    options: dict[str, Any] = {"n_steps": 4} if method in PATHS else {}

    def found(net: nn.Module) -> Tensor:
        torch.manual_seed(1)
        return method(net, x, layer=layer, target=1, **options)

    close(found(model), found(plain), 1e-12)


class Centred(nn.Module):
    """Rows meet in a mean without a gradient, for steps on both sides of a middle one that one's; vmap cannot run it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.fc(torch.tanh(Exp.apply(h - h.mean(0).detach())))  # type: ignore[no-untyped-call]  # not typed there


@pytest.mark.parametrize("n_steps", [3, 4, 5])
@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_steps_on_both_sides_of_their_middle_do_not_hide_that_rows_meet(n_steps: int) -> None:
    torch.manual_seed(0)
    model, x = Centred().double().eval(), torch.randn(3, 6).double()
    start = torch.randn_like(x)  # such that the mean moves along the path

    def slope(at: Tensor) -> Tensor:
        at = at.requires_grad_()
        return torch.autograd.grad(model(at)[:, 1].sum(), at)[0]

    mean = torch.stack([w * slope(start + a * (x - start)) for a, w in gauss(n_steps)]).sum(0)
    options: dict[str, Any] = {"target": 1, "baselines": start}
    for chunk_size in (None, 3, 4):
        along = {**options, "n_steps": n_steps, "chunk_size": chunk_size}
        close(internal_influence(model, x, **along), mean)
        close(integrated_gradients(model, x, **along), mean * (x - start))
    if n_steps == 3:
        fine = torch.stack([w * slope(start + a * (x - start)) for a, w in gauss(100)]).sum(0) * (x - start)
        found = integrated_gradients(model, x, **options, rtol=1e-6, n_steps=600)
        assert float((found - fine).abs().max()) <= 1e-5 * float(fine.abs().sum())
