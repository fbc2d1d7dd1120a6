"""Measure six methods, and two that look at no model, on digits and on photographs: ``python scripts/trust.py``.

Writes the tables of docs/trust.md between their markers, and trust-curves.png and trust-strip.png in docs/pictures.
The digits and the two photographs come with scikit-learn. The network of the digits is that of ``funattr demo``; the other is
trained here, in some seconds, to tell pieces of the one photograph from pieces of the other, and asked of pieces from parts of
them that it has not seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import funattr as fa
from funattr import viz
from funattr._demo.model import load_digits, load_model

M = fa.metrics
DOCS = Path(__file__).parents[1] / "docs"
SIDE, SEEN = 32, 0.65  # of a piece, in pixels; of a photograph, from the left


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def edges(model: Any, x: Tensor, *, target: Any) -> Tensor:
    """Where the picture changes: a map that looks at no model, and looks good."""
    return (x.diff(dim=-1, append=x[..., -1:]).abs() + x.diff(dim=-2, append=x[..., -1:, :]).abs()).sum(1, keepdim=True)


def chance(model: Any, x: Tensor, *, target: Any) -> Tensor:
    """Another random order for each picture."""
    return torch.rand(len(x), 1, *x.shape[2:], generator=seeded(1))


def methods(layer: str) -> dict[str, Any]:
    """For pixels: channels are summed."""
    return {
        "gradient": fa.sum_channels(fa.gradient),
        "input x gradient": fa.sum_channels(fa.input_x_gradient),
        "integrated gradients": fa.sum_channels(fa.integrated_gradients),
        "DeepLIFT": fa.sum_channels(fa.deep_lift),
        "ablation": fa.sum_channels(fa.feature_ablation),
        "Grad-CAM": partial(fa.interpolate(fa.relu(fa.grad_cam), mode="bilinear"), layer=layer),
        "edges (no model)": edges,
        "random order": chance,
    }


def size_of_similarity(*args: Any, **given: Any) -> Tensor:
    """Of all shuffled layers the mean size: -1 is as much of a likeness as 1."""
    found = M.randomisation(*args, generator=seeded(), **given)
    return torch.stack([value.abs() for value in found.values()]).mean(0)


def measured(model: nn.Module, x: Tensor, found: Mapping[str, Any], baselines: Any) -> dict[str, dict[str, Tensor]]:
    metrics: dict[str, Any] = {
        "deletion": partial(M.deletion, baselines=baselines),
        "insertion": partial(M.insertion, baselines=baselines),
        "sensitivity_max": lambda *args, **given: M.sensitivity_max(*args, generator=seeded(), n_samples=3, **given),
        "randomisation": size_of_similarity,
    }
    return M.compare(found, metrics, model, x, target="argmax")


def markdown(table: Mapping[str, Mapping[str, Tensor]]) -> str:
    """A table of means and standard errors."""
    heads = {
        "deletion": "deletion ↓",
        "insertion": "insertion ↑",
        "sensitivity_max": "sensitivity ↓",
        "randomisation": "shuffled ↓",
    }
    names = list(next(iter(table.values())))
    lines = ["| method | " + " | ".join(heads[name] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, row in table.items():
        cells = (f"{float(v.mean()):.2f} ± {float(v.std()) / len(v) ** 0.5:.2f}" for v in row.values())
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def agreements(model: nn.Module, x: Tensor, found: Mapping[str, Any]) -> str:
    """Mean rank correlations of all pairs."""
    target = model(x).argmax(1)
    maps = {name: method(model, x, target=target) for name, method in found.items() if name != "random order"}
    lines = ["| | " + " | ".join(maps) + " |", "|---" * (len(maps) + 1) + "|"]
    for name, one in maps.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{float(M.agreement(one, other).mean()):.2f}" for other in maps.values()) + " |"
        )
    return "\n".join(lines)


class Photos(nn.Module):
    """Pieces of photographs ``[N, 3, 32, 32]`` in [-1, 1] to two classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c, d in ((3, 12), (12, 24), (24, 32)):
            layers += [nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features, self.head = nn.Sequential(*layers[:-1]), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]  # a module's call is Any


def photographs() -> list[Tensor]:
    """The two, ``[3, 213, 320]`` in [-1, 1]."""
    images = (load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    large = [torch.from_numpy(image.copy()).float().movedim(-1, 0)[None] / 127.5 - 1 for image in images]
    return [nn.functional.avg_pool2d(image, 2)[0] for image in large]


def pieces(images: list[Tensor], count: int, seen: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces of the part that is trained on, at the left, or of the rest."""
    found, classes = [], torch.arange(count) % 2
    for k in classes.tolist():
        _, height, width = images[k].shape
        border = int(width * SEEN)
        low, high = (0, border - SIDE) if seen else (border, width - SIDE)
        left, top = (int(torch.randint(a, b + 1, (), generator=generator)) for a, b in ((low, high), (0, height - SIDE)))
        found.append(images[k][:, top : top + SIDE, left : left + SIDE])
    return torch.stack(found), classes


def trained(images: list[Tensor]) -> nn.Module:
    torch.manual_seed(0)
    model, generator = Photos(), seeded()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(150):
        x, classes = pieces(images, 64, True, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), classes).backward()
        optimizer.step()
    return model.eval()


def written(page: str, name: str, text: str) -> str:
    """The page with a table between its markers."""
    assert f"<!-- {name} -->" in page
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.S)


def main() -> None:
    page = (DOCS / "trust.md").read_text()
    model, digits = load_model(), load_digits()[1]
    x, found = digits.images[:100], methods("relu3")
    right = float((model(digits.images).argmax(1) == digits.classes).float().mean())
    print(f"digits: {right:.1%} right")
    table = measured(model, x, found, 0.0)
    page = written(written(page, "digits", markdown(table)), "agreement", agreements(model, x, found))
    shown = ("gradient", "integrated gradients", "Grad-CAM", "edges (no model)", "random order")
    curves = {name: M.curve(found[name], model, x, target="argmax") for name in shown}
    viz.curves(curves, title="Deletion, 100 digits", out=DOCS / "pictures" / "trust-curves.png")
    strip(model, x[:2], found)

    (DOCS / "trust.md").write_text(page)

    images = photographs()
    photos = trained(images)
    x, classes = pieces(images, 16, False, seeded(1))
    print(f"photographs: {float((photos(x).argmax(1) == classes).float().mean()):.1%} right")
    mask = torch.arange(64).reshape(8, 8).repeat_interleave(4, 0).repeat_interleave(4, 1)
    found = methods("features.7")
    found["ablation"] = fa.sum_channels(partial(fa.feature_ablation, feature_mask=mask))
    page = written(page, "photographs", markdown(measured(photos, x, found, 0.0)))
    (DOCS / "trust.md").write_text(page)


def strip(model: nn.Module, x: Tensor, found: Mapping[str, Any]) -> None:
    """Two methods, one below the other."""
    rows, given, shuffled, similarities, titles = [], [], [], [], []
    for name in ("integrated gradients", "edges (no model)"):
        maps: list[Tensor] = []

        def kept(one: Tensor, other: Tensor, maps: list[Tensor] = maps) -> Tensor:
            maps.append(other)
            return M.agreement(one, other)

        similarities.append(M.randomisation(found[name], model, x, target="argmax", similarity=kept, generator=seeded()))
        rows.append(x)
        given.append(found[name](model, x, target=model(x).argmax(1)))
        shuffled.append(dict(zip(similarities[-1], maps)))
        titles += [name] * len(x)
    layers = list(similarities[0])
    viz.strip(
        torch.cat(rows),
        torch.cat(given),
        {layer: torch.cat([each[layer] for each in shuffled]) for layer in layers},
        titles=titles,
        title="Layers shuffled, from the output on",
        out=DOCS / "pictures" / "trust-strip.png",
    )


if __name__ == "__main__":
    main()
