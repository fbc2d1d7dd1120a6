"""Tokens to pictures: special tokens dropped, each patch in its place, and no guess where several answers are possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr import viz


def patches(special: int, rows: int, columns: int, *, features: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens ``[2, T, C]`` whose special ones would be seen in any map, and the map that they are."""
    expected = torch.arange(2 * rows * columns, dtype=torch.float64).reshape(2, rows, columns)
    tokens = torch.cat([torch.full((2, special), 1e6, dtype=torch.float64), expected.flatten(1)], 1)
    shares = torch.tensor([0.5, 2.0, -1.5] if features == 3 else [1.0], dtype=torch.float64)
    return tokens[:, :, None] * shares, expected


FOUND = {  # the special tokens, the grid, and a patch's side
    "ViT-B/16 at 224": (1, 14, 14, 16),
    "ViT-B/32 at 224": (1, 7, 7, 32),
    "ViT-L/14 at 224": (1, 16, 16, 14),
    "ViT-B/16 at 384": (1, 24, 24, 16),
    "DeiT distilled": (2, 14, 14, 16),
    "DINOv2 with registers": (5, 37, 37, 14),
    "DINOv2": (1, 37, 37, 14),
    "eight registers": (9, 16, 16, 14),
    "Swin, the last stage": (0, 7, 7, 32),
    "Swin, the first stage": (0, 56, 56, 4),
    "wide": (1, 14, 21, 16),  # 295: a square too, after six
    "wide, with registers": (5, 37, 50, 14),  # 1855: a square too, after six
    "as many patches as a square has": (0, 9, 16, 16),
    "tall": (0, 3, 2, 32),
    "small": (1, 4, 4, 8),  # 17: a square too, after eight
}


@pytest.mark.parametrize("name", FOUND)
def test_the_input_tells_which_tokens_are_patches_and_how_they_lie(name: str) -> None:
    special, rows, columns, side = FOUND[name]
    tokens, expected = patches(special, rows, columns)
    image = rows * side, columns * side
    np.testing.assert_allclose(viz.tokens_to_map(tokens, image=image), expected)
    np.testing.assert_allclose(viz.tokens_to_map(tokens, image=torch.zeros(1, 3, *image).shape[-2:], special=special), expected)
    np.testing.assert_allclose(viz.tokens_to_map(tokens.sum(-1), image=image), expected)
    np.testing.assert_allclose(viz.tokens_to_map(tokens, grid=(rows, columns)), expected)
    with pytest.raises(ValueError, match=r"how they lie is not in it: pass image=x.shape\[-2:\], or grid=\(rows, columns\)"):
        viz.tokens_to_map(tokens, special=special)


def test_an_ambiguous_number_is_asked_about_and_each_answer_works() -> None:
    tokens, expected = patches(1, 3, 3)  # 10: 9 after one, or 4 after six, or 1 after nine
    message = r"in several ways: pass special=1 \(3 x 3\), or special=6 \(2 x 2\), or special=9 \(1 x 1\)\."
    with pytest.raises(ValueError, match=message):
        viz.tokens_to_map(tokens, image=(96, 96))
    np.testing.assert_allclose(viz.tokens_to_map(tokens, image=(96, 96), special=1), expected)
    np.testing.assert_allclose(viz.tokens_to_map(tokens, image=(96, 96), special=6), tokens[:, 6:].sum(-1).reshape(2, 2, 2))


def test_rows_and_columns_of_a_layer_are_kept() -> None:
    value = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    np.testing.assert_allclose(viz.tokens_to_map(value), value.sum(-1))


def test_the_map_is_interpolated_to_a_size() -> None:
    tokens, expected = patches(1, 14, 14)
    by_torch = nn.functional.interpolate(expected[:, None], (224, 200), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(viz.tokens_to_map(tokens, image=(224, 224), size=(224, 200)), by_torch, rtol=1e-10)


# A transformer, and what is drawn.


class TinyViT(nn.Module):
    """One patch, one place: its class reads a single patch, so that what it sees is known."""

    def __init__(self, registers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, 1 + registers, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        found: Tensor = self.head(self.block(torch.cat([self.first.expand(len(x), -1, -1), tokens], 1))[:, 0])
        return found


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("shape", [(32, 32), (32, 48)])
def test_a_transformers_maps_are_drawn_where_the_patches_are(registers: int, shape: tuple[int, int]) -> None:
    model, x = TinyViT(registers).eval().double(), torch.rand(2, 3, *shape, dtype=torch.float64)
    found = fa.input_x_gradient(model, x, layer="block.linear1", target=1)  # [2, T, 16]
    rows, columns = shape[0] // 8, shape[1] // 8
    expected = found[:, 1 + registers :].sum(-1).reshape(2, rows, columns)
    for special in ("auto", 1 + registers):
        axes: Any = viz.show(x, {"a": found}, special=special, smooth=False).axes
        np.testing.assert_allclose(axes[1].get_images()[-1].get_array(), expected[0])
        np.testing.assert_allclose(axes[3].get_images()[-1].get_array(), expected[1])
        for one in (found[0], found[:1], found[0].sum(-1), found[:1].sum(-1)):
            axes = viz.overlay(one, x[0], special=special, smooth=False).axes
            np.testing.assert_allclose(axes[0].get_images()[-1].get_array(), expected[0])
        np.testing.assert_array_equal(viz.blend(found[0], x[0], special=special), viz.blend(expected[0], x[0]))
    pixels = fa.input_x_gradient(model, x, target=1)
    both: Any = viz.show(x, {"tokens": found, "pixels": pixels}, special="auto").axes
    np.testing.assert_allclose(both[2].get_images()[-1].get_array(), pixels[0].sum(0))  # [N, C, H, W] is never tokens


def test_the_last_tokens_are_the_patches_in_their_order() -> None:
    """A pixel's gradient reaches the patch that the picture shows it in, and no other."""
    model, x = TinyViT(0).eval().double(), torch.rand(1, 3, 32, 48, dtype=torch.float64)
    changed = x.clone()
    changed[0, :, 8:16, 40:48] += 1  # row 1, column 5
    difference = fa.activation(model, changed, layer="patches") - fa.activation(model, x, layer="patches")
    tokens = torch.cat([torch.zeros(1, 1, 8), difference.flatten(2).mT], 1)
    assert np.argwhere(viz.tokens_to_map(tokens.abs(), image=(32, 48))[0]).tolist() == [[1, 5]]


TOKENS = torch.zeros(1, 18, 4)

ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no grid": (
        lambda: viz.tokens_to_map(torch.zeros(1, 300, 4), image=(224, 224)),
        ValueError,
        r"300 tokens, and without the first 0 to 9 they are no square patches that fill 224 x 224: choose a layer",
    ),
    "not after so many": (lambda: viz.tokens_to_map(TOKENS, special=1, image=(64, 64)), ValueError, "without the first 1 they"),
    "grid": (lambda: viz.tokens_to_map(TOKENS, grid=(4, 5)), ValueError, r"18 tokens: a grid of 4 x 5 after 0 .* has 20"),
    "both": (lambda: viz.tokens_to_map(TOKENS, grid=(4, 4), special=1), ValueError, r"4 x 4 after 1 special ones has 16"),
    "no image": (lambda: viz.overlay(TOKENS, special=2), ValueError, "where these lie, the image says: pass it too"),
    "special": (lambda: viz.tokens_to_map(TOKENS, special=18), ValueError, "special must be from 0 to 17, got 18"),
    "a vector": (lambda: viz.tokens_to_map(torch.zeros(3)), ValueError, r"shape \[3\], expected \[N, T, C\]"),
    "a word": (lambda: viz.overlay(TOKENS, special="cls"), TypeError, "special must be a number of tokens, 'auto' or None"),
    "True": (lambda: viz.overlay(TOKENS, special=True), TypeError, "special must be a number of tokens"),
    "NaN": (lambda: viz.tokens_to_map(TOKENS / 0), ValueError, "NaN or inf"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
