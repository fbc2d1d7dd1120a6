"""Complex numbers: refused in words where a gradient is asked for, ablated as they are, and never taken for ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Fourier(nn.Module):
    """A layer of complex numbers between real ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, dtype=torch.complex128))
        self.spectrum, self.power, self.head = nn.Identity(), nn.Identity(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        z = self.spectrum(x.to(torch.complex128) @ self.weight)
        return self.head(torch.tanh(self.power(z.real**2 + z.imag**3)))


MODEL = Fourier().eval()
REAL = torch.randn(2, 6, dtype=torch.float64)
COMPLEX = torch.randn(2, 6, dtype=torch.complex128)
#: Methods that take a gradient, or a difference from a baseline, with what they need.
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "saliency": fa.saliency,
    "input_x_gradient": fa.input_x_gradient,
    "integrated_gradients": fa.integrated_gradients,
    "conductance": fa.conductance,
    "internal_influence": fa.internal_influence,
    "deep_lift": fa.deep_lift,
    "deep_lift_shap": lambda model, x, **options: fa.deep_lift_shap(model, x, baselines=x, **options),
    "gradient_shap": lambda model, x, **options: fa.gradient_shap(model, x, baselines=x, **options),
    "noise_tunnel": fa.noise_tunnel(fa.gradient),
    "each_target": lambda *args, target, **options: fa.each_target(fa.gradient, [target])(*args, **options),
    "relu": fa.relu(fa.gradient),
}
CAMS = {name: getattr(fa, name) for name in ("grad_cam", "layer_cam", "xgrad_cam", "score_cam", "ablation_cam", "eigen_cam")}


@pytest.mark.parametrize("name", METHODS)
def test_complex_inputs_are_refused_with_the_cure(name: str) -> None:
    for x in (COMPLEX, (REAL, COMPLEX)):
        with pytest.raises(TypeError, match=r"x is complex \(torch\.complex128\).*torch\.view_as_real") as caught:
            METHODS[name](lambda x, z=0: MODEL(x + z), x, target=1)
        assert "embedding" not in str(caught.value)


def test_the_cure_cures() -> None:
    """The two real parts, summed: complete, and real. What is not to be explained is bound."""
    x = torch.view_as_real(COMPLEX)
    found = fa.integrated_gradients(lambda x: MODEL(torch.view_as_complex(x)), x, target=1, n_steps=100).sum(-1)
    torch.testing.assert_close(found.sum(1), (MODEL(COMPLEX) - MODEL(0 * COMPLEX))[:, 1].detach(), rtol=0, atol=1e-7)
    assert fa.gradient(partial(lambda z, x: MODEL(x + z), COMPLEX), REAL, target=1).shape == (2, 6)


@pytest.mark.parametrize("name", [*METHODS, *CAMS])
def test_complex_layers_are_refused_with_the_cure(name: str) -> None:
    options = {"layer": "spectrum"} | ({} if name == "eigen_cam" else {"target": 1})
    with pytest.raises(TypeError, match=r"the value at layer 'spectrum' is complex \(torch\.complex128\).*view_as_real"):
        (METHODS | CAMS)[name](MODEL, REAL, **options)


def test_complex_numbers_beside_real_ones_at_a_layer_are_held() -> None:
    """Rotary tables go from layer to layer as complex numbers."""

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x, torch.polar(torch.ones(3), torch.arange(3.0)).to(torch.complex128))

    class Block(nn.Module):
        def forward(self, h: Tensor, table: Tensor) -> Tensor:
            return (torch.view_as_complex(h.unflatten(1, (3, 2))) * table).real.sum(1)

    found = fa.gradient(Rotated(), REAL, layer=fa.input_of("block"))
    assert found[1] is None
    angles = torch.arange(3.0).double()
    torch.testing.assert_close(
        found[0], torch.stack([angles.cos(), -angles.sin()], 1).flatten().expand(2, 6), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("method", [fa.integrated_gradients, fa.deep_lift])
def test_a_real_layer_of_a_complex_input_starts_from_its_baseline(method: Any) -> None:
    for x, start in ((COMPLEX, 0 * COMPLEX), ((REAL, COMPLEX), (0 * REAL, 0 * COMPLEX))):

        def model(x: Any, z: Any = 0) -> Any:
            return MODEL(x + z)

        values = [model(*given) if isinstance(given, tuple) else model(given) for given in (x, start)]
        found = method(model, x, layer=MODEL.power, target=1)
        torch.testing.assert_close(found.sum(1), (values[0] - values[1])[:, 1].detach(), rtol=0, atol=1e-8)
        assert found.abs().max() > 1e-3


def test_feature_ablation_takes_complex_numbers() -> None:
    def score(z: Tensor) -> Tensor:
        return (z.real * z.imag).sum(1)

    expected = COMPLEX.real * COMPLEX.imag
    torch.testing.assert_close(fa.feature_ablation(score, COMPLEX), expected)
    for baselines in (1 + 2j, torch.tensor(1 + 2j)):
        torch.testing.assert_close(fa.feature_ablation(score, COMPLEX, baselines=baselines), expected - 2)
    found = fa.feature_ablation(lambda x, z: (x * z.imag).sum(1), (REAL, COMPLEX))
    torch.testing.assert_close(found, (REAL * COMPLEX.imag, REAL * COMPLEX.imag))  # each is lost with either
    with pytest.raises(ValueError, match=r"baselines=\(nan\+1j\) cannot stand in x"):
        fa.feature_ablation(score, COMPLEX, baselines=complex("nan+1j"))


@pytest.mark.parametrize("method", [fa.gradient, fa.integrated_gradients, fa.feature_ablation, fa.deep_lift])
def test_a_score_is_a_real_number(method: Any) -> None:
    """The sum of complex scores would be explained by its real part, silently."""
    for target in (None, 1, [0, 1], "argmax"):
        with pytest.raises(ValueError, match=r"the model's output is complex \(torch\.complex128\), and a score is a real"):
            method(lambda x: torch.fft.fft(x)[:, :2], REAL, target=target)
    with pytest.raises(ValueError, match=r"what the target returned is complex .* take its \.abs\(\), \.real or \.imag"):
        method(torch.fft.fft, REAL, target=lambda out: out[:, 1])
    with pytest.raises(ValueError, match=r"the value at ('spectrum'|<Identity>) is complex"):
        method(MODEL, REAL, target=fa.neuron("spectrum", 1))
    assert method(MODEL, REAL, target=fa.neuron("spectrum", lambda z: z[:, 1].abs())).shape == (2, 6)


def test_pictures_of_bytes_are_told_to_be_floats() -> None:
    with pytest.raises(TypeError, match=r"integers have no gradient: .*of pictures, pass x\.float\(\)"):
        fa.saliency(lambda x: x.float().sum((1, 2)), torch.zeros(1, 4, 4, dtype=torch.uint8))
