"""Noise at a layer of integers: without noise it is the method itself, with its own baselines, whatever the rows there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close


class Words(nn.Module):
    """Ids to a score that is not linear; the value at ``embed`` has a row for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.masked, self.head = nn.Embedding(30, 5), nn.Identity(), nn.Linear(5, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.masked(self.embed(ids) if mask is None else self.embed(ids) * mask[..., None])
        return self.head(torch.tanh(h).mean(1).exp())


class Document(nn.Module):
    """A row for each sentence of a document: four times as many as there are examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 5), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        n, sentences, words = ids.shape
        h = torch.tanh(self.embed(ids.view(-1, words))).mean(1)
        return self.head(torch.tanh(h.view(n, sentences, -1).sum(1)))


def built(kind: type[Any]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    shape = (2, 4, 7) if kind is Document else (3, 7)
    model: Any = kind().double().eval()
    return model, torch.randint(1, 30, shape)


METHODS: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "input_x_gradient": fa.input_x_gradient,
    "grad_cam": partial(fa.grad_cam, channel_dim=-1),
    "integrated_gradients": partial(fa.integrated_gradients, n_steps=4),
    "from an id": partial(fa.integrated_gradients, n_steps=4, baselines=3),
    "deep_lift": partial(fa.deep_lift, baselines=3),
    "its size": fa.absolute(partial(fa.deep_lift, baselines=3)),
    "feature_ablation": partial(fa.feature_ablation, baselines=0.3),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [Words, Document])
def test_without_noise_it_is_the_method(name: str, kind: type[Any]) -> None:
    model, ids = built(kind)
    for options in ({"layer": "embed"}, {"layer": fa.output_of(model.embed)}):
        expected = METHODS[name](model, ids, target=1, **options)
        assert expected.abs().max() > 1e-3
        close(fa.noise_tunnel(METHODS[name], stdevs=0.0)(model, ids, target=1, **options), expected)


@pytest.mark.parametrize("kind", [Words, Document])
def test_a_mask_and_a_baseline_at_the_layer(kind: type[Any]) -> None:
    model, ids = built(kind)
    mask = torch.arange(5).expand(7, 5) % 3
    options: dict[str, Any] = {"layer": "embed", "target": 1, "feature_mask": mask, "baselines": torch.full((5,), 0.2).double()}
    expected = fa.feature_ablation(model, ids, **options)
    close(fa.noise_tunnel(fa.feature_ablation, stdevs=0.0)(model, ids, **options), expected)


def test_integrated_gradients_of_noisy_embeddings_by_a_loop() -> None:
    """From the embedding of the baseline, without noise, to that of x, with noise: gradients by hand, at Riemann's points."""
    model, ids = built(Words)
    generator = torch.Generator().manual_seed(7)
    start, end = model.embed(torch.full_like(ids, 3)).detach(), model.embed(ids).detach()
    expected = torch.zeros_like(end)
    for _ in range(3):
        noisy = end + 0.2 * torch.randn(end.shape, generator=generator, dtype=torch.float64)
        for k in range(4):
            h = (start + (k + 0.5) / 4 * (noisy - start)).requires_grad_()
            (slope,) = torch.autograd.grad(model.head(torch.tanh(h).mean(1).exp())[:, 1].sum(), h)
            expected += slope * (noisy - start) / 12
    tunnel = fa.noise_tunnel(fa.integrated_gradients, n_samples=3, stdevs=0.2, generator=torch.Generator().manual_seed(7))
    found = tunnel(model, ids, layer="embed", baselines=3, n_steps=4, quadrature="riemann_middle", target=1)
    close(found, expected)


SEVERAL: dict[str, Callable[..., Any]] = {
    "deep_lift_shap": fa.deep_lift_shap,
    "mean_over_baselines": fa.mean_over_baselines(partial(fa.integrated_gradients, n_steps=4)),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_without_noise_it_is_the_method_with_several_baselines(name: str) -> None:
    model, ids = built(Words)
    options: dict[str, Any] = {"layer": "embed", "target": 1, "baselines": torch.randint(30, (4, 7))}
    close(fa.noise_tunnel(SEVERAL[name], stdevs=0.0)(model, ids, **options), SEVERAL[name](model, ids, **options))
    # and they are refused where each example sees another baseline, or has no row
    masked = partial(model, mask=torch.rand(3, 7).double())
    with pytest.raises(ValueError, match="differs from example to example"):
        fa.noise_tunnel(SEVERAL[name])(masked, ids, **options | {"layer": "masked"})
    model, ids = built(Document)
    with pytest.raises(ValueError, match="no row for each example"):
        fa.noise_tunnel(SEVERAL[name])(model, ids, **options | {"baselines": ids})


def test_gradient_shap_of_one_baseline_is_from_its_embedding() -> None:
    """Of a score that is linear in the embeddings it is the difference, whatever is drawn."""
    model, ids = built(Words)
    linear = nn.Sequential(model.embed, nn.Flatten(), nn.Linear(35, 2).double())
    weight = linear[2].weight[1].reshape(7, 5)
    shap = partial(fa.gradient_shap, baselines=torch.full((1, 7), 3))
    found = fa.noise_tunnel(shap, stdevs=0.0)(linear, ids, layer="0", target=1)
    close(found, (weight * (model.embed(ids) - model.embed(torch.tensor(3)))).detach())


@pytest.mark.parametrize("method", [fa.conductance, fa.internal_influence])
def test_a_path_in_ids_stays_refused(method: Any) -> None:
    model, ids = built(Words)
    for asked in (method, fa.noise_tunnel(method, stdevs=0.0)):
        with pytest.raises(TypeError, match="x holds no floating-point tensor"):
            asked(model, ids, layer="embed", target=1)


def test_baselines_that_do_not_fit_are_told() -> None:
    model, ids = built(Words)
    tunnel = fa.noise_tunnel(fa.integrated_gradients)
    with pytest.raises(ValueError, match=r"noise_tunnel\(integrated_gradients\).*cannot stand in x, which is torch\.int64"):
        tunnel(model, ids, layer="embed", target=1, baselines=0.5)
    with pytest.raises(ValueError, match="nothing to compare"):
        tunnel(model, ids, layer="embed", target=1, baselines=None)


def test_chunks_and_second_derivatives() -> None:
    model, ids = built(Words)
    options: dict[str, Any] = {"layer": "embed", "target": 1, "baselines": 3, "n_steps": 4}

    def asked(**more: Any) -> Any:
        tunnel = fa.noise_tunnel(fa.integrated_gradients, stdevs=0.1, generator=torch.Generator().manual_seed(2), **more)
        return partial(tunnel, model, ids, **options)

    expected = asked()()
    for size in (1, 2, 5):
        close(asked(chunk_size=size)(), expected)
    assert not expected.requires_grad
    again = asked()(create_graph=True)
    close(again.detach(), expected)
    (slope,) = torch.autograd.grad(again[0].sum(), model.embed.weight)
    assert slope[3].abs().max() > 1e-4  # through the baseline's embedding, too
