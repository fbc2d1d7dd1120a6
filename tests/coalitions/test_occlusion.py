"""Occlusion against Captum, against loops over windows, and against the ablation that tiles are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close
from ..models import Text, double
from ..reference import Asked, loops, pick

TARGET = torch.tensor([1, 4, 0, 2])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv(x)).mean((2, 3)))


NET = Net().double().eval()
X = torch.randn(4, 3, 6, 7, dtype=torch.float64)
WINDOWS = [((3, 3, 4), (3, 2, 1)), ((3, 4, 4), (3, 4, 4)), ((1, 2, 5), None), ((2, 6, 7), (1, 1, 1)), ((3, 6, 7), 2)]


@pytest.mark.parametrize(("window", "strides"), WINDOWS)
def test_captum(window: Any, strides: Any) -> None:
    theirs = Occlusion(NET).attribute(X, window, strides or 1, 0.3, TARGET)
    for chunk_size in (None, 1, 5):
        found = fa.occlusion(NET, X, window=window, strides=strides, baselines=0.3, target=TARGET, chunk_size=chunk_size)
        torch.testing.assert_close(found, theirs.double(), rtol=0, atol=1e-6)


@given(data=st.data(), seed=st.integers(0, 99), layer=st.sampled_from([None, "conv"]))
def test_one_window_after_another(data: st.DataObject, seed: int, layer: str | None) -> None:
    sizes = (3, 6, 7) if layer is None else (4, 6, 7)
    window = tuple(data.draw(st.integers(max(1, size - 4), size)) for size in sizes)
    strides = tuple(data.draw(st.integers(max(1, length - 2), length)) for length in window)
    base = torch.randn(1, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = loops.occlusion(Asked(NET, X[:2], layer, pick(TARGET[:2])), [base], [window], [strides])
    found = fa.occlusion(NET, X[:2], window=window, strides=strides, layer=layer, baselines=base, target=TARGET[:2])
    close(found, expected)


def test_tiles_and_ones_are_ablation() -> None:
    mask = torch.arange(6)[:, None] // 2 * 4 + torch.arange(7) // 2
    found = fa.occlusion(NET, X, window=(3, 2, 2), strides=(3, 2, 2), target="argmax", baselines=X.flip(0)[None])
    close(found, fa.feature_ablation(NET, X, feature_mask=mask, target="argmax", baselines=X.flip(0)))
    close(fa.occlusion(NET, X, window=(1, 1, 1), target=2), fa.feature_ablation(NET, X, target=2))
    ids = torch.randint(1, 20, (4, 7))
    text = Text().double().eval()
    close(fa.occlusion(text, ids, window=1, baselines=3, target=1), fa.feature_ablation(text, ids, baselines=3, target=1))


def test_a_distribution_of_baselines() -> None:
    base = torch.randn(3, 3, 6, 7, dtype=torch.float64)
    options: dict[str, Any] = {"window": (3, 4, 4), "strides": 2, "target": TARGET}
    found = fa.occlusion(NET, X, baselines=base[:, None], **options)
    close(found, sum(fa.occlusion(NET, X, baselines=row, **options) for row in base) / 3)


def test_several_tensors() -> None:
    a, b, ids = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64), torch.arange(2)

    def model(a: Tensor, ids: Tensor, b: Tensor) -> Tensor:
        return (a.sum(1) + ids) * b.mean((1, 2)).exp()

    first, held, third = fa.occlusion(model, (a, ids, b), window=(2, None, (3, 2)), strides=(1, None, (1, 2)))
    assert held is None
    close(first, fa.occlusion(lambda a: model(a, ids, b), a, window=2))
    close(third, fa.occlusion(lambda b: model(a, ids, b), b, window=(3, 2), strides=(1, 2)))
    named = fa.occlusion(model, {"a": a, "ids": ids, "b": b}, window={"a": 2, "ids": None, "b": None})
    close(named["a"], first)
    assert named["b"] is None
    _, own, _ = fa.occlusion(model, (a, ids, b), window=(None, (), None))  # ids, one for each example
    close(own, fa.occlusion(lambda ids: model(a, ids, b), ids, window=()))


def test_transforms_and_layers() -> None:
    for layer, window in ((None, (3, 4, 4)), ("conv", (4, 3, 3))):

        def hide(x: Tensor, layer: Any = layer, window: Any = window) -> Tensor:
            found: Tensor = fa.occlusion(NET, x, window=window, strides=2, layer=layer, target=1)
            return found

        close(torch.compile(hide, fullgraph=True, backend="aot_eager")(X), hide(X))
        close(torch.func.vmap(lambda x, hide=hide: hide(x[None])[0])(X), hide(X))
    x = X.clone().requires_grad_()
    found = fa.occlusion(NET, x, window=(3, 6, 4), strides=3, target=1, create_graph=True)
    assert torch.autograd.grad(found.square().sum(), x)[0].any()
    assert fa.occlusion(NET, X[:0], window=(3, 2, 2), target=1).shape == (0, 3, 6, 7)


def test_under_combinators() -> None:
    classes = fa.each_target(fa.occlusion, range(3))(NET, X, window=(3, 4, 4))
    close(classes[2], fa.occlusion(NET, X, window=(3, 4, 4), target=2))
    model, x = double(next(case for case in __import__("tests.models", fromlist=["CASES"]).CASES if case.name == "conv"))
    summed = fa.sum_channels(fa.occlusion)(model, x, window=(3, 4, 4), target=1)
    close(summed, fa.occlusion(model, x, window=(3, 4, 4), target=1).sum(1, keepdim=True))


REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, r"window is missing", {}),
    (ValueError, r"2 numbers for the 3 dimensions.*channels too", {"window": (3, 4)}),
    (ValueError, r"window=\(3, 7, 4\) does not fit", {"window": (3, 7, 4)}),
    (ValueError, r"window=\(0, 1, 1\)", {"window": (0, 1, 1)}),
    (TypeError, r"window must hold ints", {"window": (3, 4.0, 4)}),
    (ValueError, r"window holds every tensor", {"window": None}),
    (ValueError, r"strides=5 for window", {"window": (3, 4, 4), "strides": 5}),
    (ValueError, r"strides=\(1, 0, 1\)", {"window": (3, 4, 4), "strides": (1, 0, 1)}),
    (TypeError, r"strides must hold ints", {"window": (3, 4, 4), "strides": (1, True, 1)}),
    (ValueError, r"baselines\[:, None\]", {"window": (3, 4, 4), "baselines": torch.zeros(6, 3, 6, 7)}),
]


@pytest.mark.parametrize(("kind", "words", "options"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_bad_input(kind: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(kind, match=words) as error:
        fa.occlusion(NET, X, target=1, **options)
    assert str(error.value).startswith("occlusion(target=1")
