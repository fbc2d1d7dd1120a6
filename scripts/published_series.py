"""Half-moons and the white box of ARMA processes, as in time_interpret: for scripts/published_figures.py.

Their settings: https://github.com/josephenguehard/time_interpret, experiments/moons and experiments/arma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

#: Purity at noise 0.05, the mean over five seeds: their results.csv.
MOONS = {"integrated gradients": 0.980, "GradientSHAP": 0.959, "SmoothGrad": 0.981}
#: Area under precision and under recall, rare features and rare times, the mean over five folds: their results.csv.
ARMA = {
    ("rare features", "integrated gradients"): (1.0, 0.135),
    ("rare features", "occlusion"): (1.0, 0.134),
    ("rare features", "Shapley values"): (1.0, 0.134),
    ("rare times", "integrated gradients"): (1.0, 0.125),
    ("rare times", "occlusion"): (1.0, 0.124),
    ("rare times", "Shapley values"): (1.0, 0.124),
}


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Two layers of ten ReLUs, fifty rounds of Adam with batches of 32."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2), nn.LogSoftmax(1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(50):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.nll_loss(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return net.eval()


def purity(seed: int) -> dict[str, float]:
    """Of the half of the points with the smallest attributions, the part that is predicted as the second moon."""
    from sklearn.datasets import make_moons
    from sklearn.model_selection import train_test_split

    x, y = make_moons(n_samples=10_000, noise=0.05, random_state=seed)
    parts = train_test_split(x, y, random_state=seed)
    x_train, x_test = (torch.from_numpy(part).float() for part in parts[:2])
    y_train, y_test = (torch.from_numpy(part).long() for part in parts[2:])
    net, base = trained(x_train, y_train, seed), torch.tensor([[-0.5, -0.5]])
    predicted = net(x_test).argmax(1)
    torch.manual_seed(seed)
    smooth: Callable[..., Any] = fa.noise_tunnel(fa.integrated_gradients, n_samples=10, stdevs=0.1)
    found = {
        "integrated gradients": fa.integrated_gradients(net, x_test, baselines=base, target=y_test),
        "GradientSHAP": fa.gradient_shap(net, x_test, baselines=base, target=y_test, n_samples=50),
        "SmoothGrad": smooth(net, x_test, baselines=base, target=y_test),
    }
    smallest = {name: each.abs().sum(1).topk(len(x_test) // 2, largest=False).indices for name, each in found.items()}
    return {name: float(predicted[part].float().mean()) for name, part in smallest.items()}


def moons() -> dict[str, list[float]]:
    """The purity of each method, for their five seeds."""
    each = [purity(seed) for seed in range(12, 61, 12)]
    return {name: [one[name] for one in each] for name in MOONS}


def process(count: int, seed: int) -> Tensor:
    """``2 x_t + 0.5 x_(t-1) + 0.2 x_(t-2) + 0.1 x_(t-3) = 2 e_t``: fifty times, fifty features."""
    noise = np.random.RandomState(seed).randn(count, 50, 50)
    x = np.zeros_like(noise)
    for t in range(50):
        past = sum(weight * x[:, t - k] for k, weight in ((1, 0.5), (2, 0.2), (3, 0.1)) if t >= k)
        x[:, t] = noise[:, t] - past / 2
    return torch.from_numpy(x).float()


def salient(count: int, rare: str) -> Tensor:
    """Where the white box looks: five features in the middle half of the times, or half of the features at five times."""
    found, generator = torch.zeros(count, 50, 50), torch.Generator().manual_seed(42)
    if rare == "rare features":
        found[:, 12:37, torch.randperm(50, generator=generator)[:5]] = 1
    else:
        first = int(torch.randint(45, (1,), generator=generator))
        found[:, first : first + 5, 12:37] = 1
    return found


def areas(attributions: Tensor, truth: Tensor) -> tuple[float, float]:
    """Under precision and under recall, over thresholds from 0 to 1 of what each series has, scaled to that range."""
    from sklearn.metrics import auc, precision_recall_curve

    flat = attributions.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = ((flat - low) / (high - low + 1e-5)).reshape(-1)
    precision, recall, at = precision_recall_curve(truth.reshape(-1).int().numpy(), scaled.numpy())
    return float(auc(at, precision[:-1])), float(auc(at, recall[:-1]))


def arma(folds: int = 5) -> dict[tuple[str, str], tuple[float, float]]:
    """Both areas of each method, the mean over the folds, of ten series each."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in ARMA}
    for fold in range(folds):
        x = process(10, 42 + fold)
        for rare in ("rare features", "rare times"):
            truth = salient(10, rare)
            maps: dict[str, list[Tensor]] = {name: [] for _, name in ARMA}
            for series, where in zip(x, truth):

                def score(rows: Tensor, where: Tensor = where) -> Tensor:
                    return (rows * where).square().sum(-1)

                mean = series.mean(0, keepdim=True)
                maps["integrated gradients"].append(fa.integrated_gradients(score, series))
                maps["occlusion"].append(fa.occlusion(score, series, window=1, baselines=mean))
                maps["Shapley values"].append(fa.shapley(score, series, baselines=mean))
            for name, each in maps.items():
                found[rare, name].append(areas(torch.stack(each).abs(), truth))
    return {key: (float(np.mean([a for a, _ in each])), float(np.mean([b for _, b in each]))) for key, each in found.items()}
