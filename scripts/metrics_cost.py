"""What metrics cost, beside Quantus: ``python scripts/metrics_cost.py``.

The curve of 64 digits in 64 steps, and a table of six methods by five metrics on 100. Of Quantus, where it is installed,
`PixelFlipping` of the same pixels in the same order: the calls take turns, and the times are the least of several, of the
processor. The floor is the model alone at the 65 points, which are ready made, in the best of several chunks: nobody who runs
the model at all points takes less. Where Quantus takes less than ten times the floor, nobody can be ten times as fast.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa
from funattr._demo.model import load_digits, load_model

M = fa.metrics
#: Points at once, for the floor.
CHUNKS = (1, 2, 4, 8, 16, 33, 65)


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    small = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    strided = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )
    return {
        "perceptron": perceptron.eval(),
        "two strided convolutions": strided.eval(),
        "two convolutions, max pooling": small.eval(),
        "the demo's network": load_model(),
    }


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least time of each, in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            start = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - start)
    return found


def points_of(x: Tensor, phi: Tensor, base: Tensor) -> Tensor:
    """All inputs of a curve of deletion with a step for each pixel, ``[65, 64, 1, 8, 8]``."""
    order = phi.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1).reshape(x.shape)
    return torch.stack([torch.where(places < j, base, x) for j in range(x[0].numel() + 1)])


def flipping(model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> str:
    phi, black = fa.input_x_gradient(model, x, target=y), x.amin((1, 2, 3), keepdim=True)

    def probability(output: Tensor) -> Tensor:
        return output.softmax(1)[torch.arange(len(x)), y]

    def ours() -> Any:
        return M.curve(phi, model, x, target=probability, baselines=black, steps=64)

    def bare(chunks: list[Tensor]) -> None:
        with torch.inference_mode():
            for chunk in chunks:
                model(chunk)

    calls: dict[str, Callable[[], object]] = {"ours": ours}
    for size in CHUNKS:
        chunks = [part.flatten(0, 1).clone() for part in points_of(x, phi, black).split(size)]
        calls[f"bare {size}"] = partial(bare, chunks)
    try:
        import quantus  # type: ignore[import-not-found, unused-ignore]  # nothing of ours needs it

        measure = quantus.PixelFlipping(features_in_step=1, disable_warnings=True)
        given = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": phi.numpy(), "device": "cpu", "channel_first": True}
        calls["quantus"] = lambda: measure(model=model, **given)
        gap = (torch.tensor(measure(model=model, **given)) - ours().scores[1:].T).abs().max()
    except ModuleNotFoundError:
        gap = torch.tensor(float("nan"))
    found = {name: 1e3 * seconds for name, seconds in best(calls, rounds).items()}
    floor = min(found[f"bare {size}"] for size in CHUNKS)
    text = f"ours {found['ours']:.1f} ms, floor {floor:.1f} ms, ours / floor {found['ours'] / floor:.2f}"
    if "quantus" in found:
        ratio = f"Quantus / ours {found['quantus'] / found['ours']:.1f}, Quantus / floor {found['quantus'] / floor:.1f}"
        text += f", Quantus {found['quantus']:.1f} ms, {ratio}; largest difference {gap:.1e}"
    return text


def table(model: nn.Module, x: Tensor) -> float:
    """Seconds for six methods by five metrics."""
    methods = {
        "gradient": fa.gradient,
        "input x gradient": fa.input_x_gradient,
        "integrated gradients": fa.integrated_gradients,
        "DeepLIFT": fa.deep_lift,
        "ablation": fa.feature_ablation,
        "Grad-CAM": partial(fa.interpolate(fa.relu(fa.grad_cam)), layer="relu3"),
    }
    metrics: dict[str, Any] = {
        "deletion": M.deletion,
        "insertion": M.insertion,
        "infidelity": M.infidelity,
        "sensitivity": M.sensitivity_max,
        "randomisation": M.randomisation,
    }
    start = time.perf_counter()
    M.compare(methods, metrics, model, x, target="argmax")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="calls of each (9)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    digits = load_digits()[1]
    for name, model in models().items():
        print(f"{name}: {flipping(model, digits.images[:64], digits.classes[:64], arguments.rounds)}", flush=True)
    print(f"six methods by five metrics, 100 digits, the demo's network: {table(load_model(), digits.images[:100]):.1f} s")


if __name__ == "__main__":
    main()
