"""Agreement with Captum 0.9.0 and Quantus 0.6.0 on the same moved inputs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import captum.metrics as cm
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Conv, Two

M = fa.metrics
CONV = Conv().double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stacked(samples: list[Tensor]) -> Tensor:
    """As Captum expands a batch: all samples of an example side by side."""
    return torch.stack(samples, 1).flatten(0, 1)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_infidelity_is_captums(shares: bool, normalize: bool, several: bool) -> None:
    net: Any = Two().double().eval() if several else CONV
    x = (normal(3, 3, 8, 8), normal(3, 6, seed=1)) if several else (normal(3, 3, 8, 8),)
    phi, base = (tuple(normal(*t.shape, seed=seed) for t in x) for seed in (2, 3))
    base[0][0, 0, 0] = x[0][0, 0, 0]  # divided by 1
    moved = [tuple(normal(*t.shape, seed=10 + s) for t in x) for s in range(7)]
    rest = iter(moved)

    @cm.infidelity_perturb_func_decorator(shares)  # type: ignore[untyped-decorator]  # Captum is not typed
    def perturb(inputs: Any, baselines: Any) -> Any:
        found = tuple(stacked([sample[i] for sample in moved]) for i in range(len(x)))
        return found if several else found[0]

    theirs = cm.infidelity(net, perturb, x, phi, baselines=base, target=1, n_perturb_samples=7, normalize=normalize)
    ours = M.infidelity(
        *((phi, net, x) if several else (phi[0], net, x[0])),
        target=1,
        baselines=base if several else base[0],
        perturb=lambda value, generator: next(rest) if several else next(rest)[0],
        n_samples=7,
        multiply_by_inputs=shares,
        normalize=normalize,
    )
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("norm", "name"), [(1, 1), (2, "fro"), (float("inf"), float("inf"))])
def test_sensitivity_is_captums(norm: float, name: Any) -> None:
    x, seen = normal(3, 3, 8, 8), []

    def ours(model: Any, x: Tensor, *, target: Any) -> Tensor:
        seen.append(x)
        return fa.saliency(model, x, target=target)

    found = M.sensitivity_max(ours, CONV, x, target=2, n_samples=6, norm=norm, radius=0.3, chunk_size=1)
    assert all(bool(((t - x).abs() <= 0.3).all()) for t in seen)

    def theirs(inputs: Any) -> Any:
        one = isinstance(inputs, tuple)
        found = fa.saliency(CONV, inputs[0] if one else inputs, target=2)
        return (found,) if one else found

    expected = cm.sensitivity_max(theirs, x, lambda inputs: stacked(seen[1:]), n_perturb_samples=6, norm_ord=name)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# Quantus, which moves on in numpy and float32, and softmaxes.


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def peer() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A net with weights of numpy's RandomState, an input, classes, and gradient times input, summed over channels."""
    model, draw = Vgg().double().eval(), np.random.RandomState(0)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_(torch.from_numpy(draw.standard_normal(tuple(p.shape)) * 1.4 / fan**0.5))
    x = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 8, 8))).float()
    model, y = model.float(), torch.tensor([1, 2])
    return model, x, y, fa.sum_channels(fa.input_x_gradient)(model, x, target=y)


def probability(y: Tensor, output: Tensor) -> Tensor:
    return output.softmax(1).gather(1, y[:, None])[:, 0]


#: quantus.PixelFlipping(features_in_step=8), black, on all 192 numbers: of equal channels, which go first is up to numpy.
PIXEL_FLIPPING = [
    [0.544601321, 0.597145557, 0.53960824, 0.613719225, 0.479081124, 0.615054131, 0.502130926, 0.689916968],
    [0.110410117, 0.0400605313, 0.0122327171, 0.0171063468, 0.0183571093, 0.096235007, 0.0094419606, 0.0733595267],
]
#: quantus.Selectivity(patch_size=4), black.
SELECTIVITY = [
    [0.637830794, 0.585909307, 0.542518377, 0.689916968],
    [0.201023638, 0.0773603246, 0.0194810592, 0.0733595267],
]


def test_quantus_pixel_flipping_and_selectivity() -> None:
    """The curve of whole pixels, where theirs has flipped all channels of each; and of patches."""
    model, x, y, phi = peer()
    black = x.flatten(1).amin(1)[:, None, None, None]
    asked: dict[str, Any] = {"target": partial(probability, y), "baselines": black}
    pixels = M.curve(phi, model, x, steps=8, **asked).scores
    torch.testing.assert_close(pixels[1:].T, torch.tensor(PIXEL_FLIPPING), rtol=0, atol=1e-6)
    torch.testing.assert_close(pixels[0], asked["target"](model(x)))
    mask = torch.arange(4).reshape(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    patches = M.curve(phi, model, x, feature_mask=mask, **asked).scores
    torch.testing.assert_close(patches[1:].T, torch.tensor(SELECTIVITY), rtol=0, atol=1e-6)


class Recorded(nn.Module):
    """What a model is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.model(x)


@pytest.mark.filterwarnings("ignore")
def test_quantus_itself_where_it_is_installed() -> None:
    quantus = pytest.importorskip("quantus")
    model, x, y, phi = peer()
    asked: dict[str, Any] = {"x_batch": x.numpy(), "y_batch": y.numpy(), "device": "cpu", "channel_first": True}
    recorded = Recorded(model).eval()
    theirs = quantus.Infidelity(disable_warnings=True)(model=recorded, a_batch=phi.numpy(), **asked)
    moved: Iterator[Tensor] = iter(recorded.seen[1:])
    ours = M.infidelity(
        phi.expand_as(x), model, x, target=y, perturb=lambda value, generator: next(moved), n_samples=len(recorded.seen) - 1,
        multiply_by_inputs=False,
    )  # fmt: skip
    torch.testing.assert_close(ours, torch.tensor(np.array(theirs)), rtol=1e-6, atol=1e-6)

    seen: list[Tensor] = [x]

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        seen.append(torch.from_numpy(np.asarray(inputs)).float())
        return fa.gradient(model, seen[-1], target=torch.as_tensor(targets)).numpy()

    measure = quantus.MaxSensitivity(nr_samples=5, normalise=False, disable_warnings=True)
    theirs = measure(model=model, a_batch=fa.gradient(model, x, target=y).numpy(), explain_func=explain, **asked)
    calls = iter(seen)

    def method(model: Any, x: Tensor, *, target: Any) -> Tensor:
        return fa.gradient(model, next(calls), target=target)

    ours = M.sensitivity_max(method, model, x, target=y, n_samples=5)
    torch.testing.assert_close(ours.double(), torch.tensor(np.array(theirs)), rtol=1e-6, atol=1e-6)
