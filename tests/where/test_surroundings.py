"""What a caller has set for all of torch is for the model: methods, and all else, give what they give without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import funattr as fa
from funattr import masks, metrics

from ..breadth import breadth
from ..close import close
from ..methods import Row, seed
from ..models import Case, double
from ..pairs import PAIRS, TARGET, options_of, sites_of


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


#: On this device a tensor holds nothing: so it is seen where one is made without saying where.
SURROUNDINGS: dict[str, Callable[[], Any]] = {"a device": lambda: torch.device("meta"), "deterministic": deterministic}
by_name = pytest.mark.parametrize("name", SURROUNDINGS)


#: Of pictures, of words, and of several inputs.
SOME = [(case, row) for case, row in PAIRS if case.name in ("residual", "text", "keywords")]


@by_name
@pytest.mark.parametrize(
    ("case", "row"),
    breadth(SOME, lambda pair: pair[0].name == "residual", several=True),
    ids=[f"{case.name}-{row.name}" for case, row in SOME],
)
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM, nested tensors
@pytest.mark.filterwarnings("ignore:.* runs of the model are ahead")
def test_every_method(case: Case, row: Row, name: str) -> None:
    model, x = double(case)
    site = sites_of(row, case)[0]
    seed()
    expected = row.method(model, x, layer=site, **options_of(row, TARGET))
    seed()
    with SURROUNDINGS[name]():
        found = row.method(model, x, layer=site, **options_of(row, TARGET))
    close(found, expected, 0)


NET = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double().eval()
X = torch.randn(2, 2, 6, 6, dtype=torch.float64)
MASK = masks.grid(X, 3)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


CALLS: dict[str, Callable[[], Any]] = {
    "gamma": lambda: fa.lrp(
        NET, X, target=1, rules={**fa.rules.gamma(), **fa.rules.zbox(-3.0, torch.tensor(3.0, device="cpu"))}
    ),
    "absorbed": lambda: list(fa.absorbed(NET, X, target=1, rules=fa.rules.alpha_beta()).values()),
    "kernel": lambda: fa.shapley(NET, X, target=1, feature_mask=MASK, sampling="kernel", n_samples=12, generator=drawn()),
    "leverage": lambda: fa.shapley(NET, X, target=1, feature_mask=MASK, n_samples=14, generator=drawn()),
    "orders": lambda: fa.shapley(NET, X, target=1, feature_mask=MASK, sampling="permutation", n_samples=12, generator=drawn()),
    "windows": lambda: fa.occlusion(NET, X, target=1, window=(2, 3, 3), strides=(2, 2, 3)),
    "tolerance": lambda: fa.integrated_gradients(NET, X, target=1, rtol=1e-2),
    "noise": lambda: fa.noise_tunnel(fa.gradient, stdevs=0.1, generator=drawn())(NET, X, target=1),
    "targets": lambda: fa.each_target(fa.gradient, [0, 2])(NET, X),
    "insertion": lambda: metrics.insertion(fa.gradient, NET, X, target=1, feature_mask=MASK),
    "deletion": lambda: metrics.deletion(fa.gradient, NET, X, target=1, feature_mask=MASK),
    "infidelity": lambda: metrics.infidelity(fa.gradient, NET, X, target=1, perturb=0.1, generator=drawn()),
    "sensitivity": lambda: metrics.sensitivity_max(fa.gradient, NET, X, target=1, generator=drawn()),
    "curve": lambda: list(metrics.curve(fa.gradient, NET, X, target=1, feature_mask=MASK)),
    "randomisation": lambda: list(metrics.randomisation(fa.gradient, NET, X, target=1, generator=drawn()).values()),
    "agreement": lambda: metrics.agreement(X, X.flip(0)),
    "mass": lambda: metrics.relevance_mass(fa.gradient, NET, X, target=1, regions=(MASK > 1).expand(2, 6, 6)),
    "sufficiency": lambda: metrics.sufficiency(fa.gradient, NET, X, target=1, feature_mask=MASK),
    "words": lambda: masks.words(["the", "fi", "##lm"]).double(),
    "grid": lambda: masks.grid(X, 2).double(),
}


@by_name
@pytest.mark.parametrize("call", CALLS)
def test_all_else(call: str, name: str) -> None:
    expected = CALLS[call]()
    with SURROUNDINGS[name]():
        close(CALLS[call](), expected, 0)
