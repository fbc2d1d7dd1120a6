"""LIME against scikit-learn's fits to the same coalitions, and against Captum's with the same distances and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import Lime
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close

NET = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double().eval()
X = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, players: int, seed: int) -> Tensor:
    rows = torch.rand(count - 1, players, dtype=torch.float64, generator=seeded(seed)) < 0.5
    return torch.cat([torch.ones(1, players, dtype=torch.bool), rows])


@pytest.mark.parametrize("alpha", [0.0, 0.001, 0.003, 10.0])
@pytest.mark.parametrize("layer", [None, "1"])
def test_scikit_learn(alpha: float, layer: str | None) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    players = 6 if layer is None else 9
    found = fa.lime(NET, X, layer=layer, target=1, alpha=alpha, n_samples=60, kernel_width=0.4, generator=seeded(3))
    kept = drawn(60, players, 3)
    scores = fa.game(NET, X, layer=layer, target=1).value(kept)
    weights = torch.exp(-(((1 - kept.double().mean(1).sqrt()) / 0.4) ** 2))
    for n in range(4):
        model = linear.Lasso(alpha, tol=1e-15, max_iter=10**6) if alpha else linear.LinearRegression()
        model.fit(kept.double().numpy(), scores[:, n].numpy(), sample_weight=weights.numpy())
        torch.testing.assert_close(found[n], torch.from_numpy(model.coef_).double(), rtol=0, atol=1e-9)
    assert bool(found.any()) == (alpha < 10)


def test_captum() -> None:
    """The same draws, handed to Captum; its distances by ours; its intercept and its lasso are scikit-learn's."""
    rows = iter(drawn(40, 6, 5).double())
    theirs = Lime(
        NET,
        SkLearnLasso(alpha=0.01),
        lambda original, moved, kept, **_: torch.exp(-(((1 - kept.mean().sqrt()) / 0.25) ** 2)),
        lambda original, **_: next(rows)[None],
    ).attribute(X[:1], 0.3, 1, n_samples=40)
    ours = fa.lime(NET, X[:1], baselines=0.3, target=1, alpha=0.01, n_samples=40, generator=seeded(5))
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-4)  # to the tolerance of its lasso, and float32


@given(seed=st.integers(0, 99), chunk_size=st.sampled_from([None, 1, 7]))
def test_linear_scores_batches_and_chunks(seed: int, chunk_size: int | None) -> None:
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)
    found = fa.lime(lambda x: x @ weight + 2, X, baselines=0.5, generator=seeded(seed), chunk_size=chunk_size)
    close(found, weight * (X - 0.5))
    options: dict[str, Any] = {"target": 2, "alpha": 0.01, "n_samples": 50}
    together = fa.lime(NET, X, generator=seeded(seed), chunk_size=chunk_size, **options)
    for n in range(4):
        close(together[n : n + 1], fa.lime(NET, X[n : n + 1], generator=seeded(seed), **options))


def test_groups_distributions_integers_and_least_norm() -> None:
    mask = torch.tensor([3, 3, -1, -1, 8, 8])
    found = fa.lime(NET, X, target=1, feature_mask=mask, baselines=torch.zeros(3, 1, 6), generator=seeded(0))
    close(found, fa.lime(NET, X, target=1, feature_mask=mask, generator=seeded(0)))
    assert torch.equal(found[:, 0], found[:, 1])
    few = fa.lime(NET, X, target=1, n_samples=3, generator=seeded(0))  # two slopes are told, of six
    kept = drawn(3, 6, 0).double()
    weights = torch.exp(-(((1 - kept.mean(1).sqrt()) / 0.25) ** 2))
    share = (weights / weights.sum())[:, None]
    z, y = kept - (share * kept).sum(0), fa.game(NET, X, target=1).value(kept.bool())
    close(few, (torch.linalg.pinv(share.sqrt() * z) @ (share.sqrt() * (y - (share * y).sum(0)))).t())
    assert fa.lime(NET, X[:0], target=1).shape == (0, 6)
    ids = torch.randint(0, 5, (2, 4))
    close(fa.lime(lambda ids: ids.double().sum(1), ids, baselines=9), (ids - 9).double())


def test_generators_and_transforms() -> None:
    state = torch.get_rng_state()
    first, again, other = (fa.lime(NET, X, target=1, generator=seeded(k)) for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(Exception, match=r"fa\.game"):
        torch.compile(lambda x: fa.lime(NET, x, target=1), fullgraph=True, backend="aot_eager")(X)
    with pytest.raises(ValueError, match=r"fa\.game"):
        torch.func.vmap(lambda x: fa.lime(NET, x[None], target=1))(X)
    close(fa.each_target(fa.lime, [0, 2])(NET, X, generator=seeded(4))[1], fa.lime(NET, X, target=2, generator=seeded(4)))


REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, r"n_samples must be at least 2", {"n_samples": 1}),
    (TypeError, r"n_samples must be an int", {"n_samples": 3.0}),
    (ValueError, r"alpha must be finite and not negative", {"alpha": -1.0}),
    (TypeError, r"alpha must be a number", {"alpha": "1"}),
    (ValueError, r"kernel_width must be finite and above 0", {"kernel_width": 0.0}),
    (ValueError, r"none but the full one has any weight at kernel_width=0.001", {"kernel_width": 1e-3}),
    (TypeError, r"no argument 'create_graph', for the result is a constant", {"create_graph": True}),
]


@pytest.mark.parametrize(("kind", "words", "options"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_bad_input(kind: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(kind, match=words) as error:
        fa.lime(NET, X, target=1, **options)
    assert str(error.value).startswith("lime(target=1")
