"""Masks: every feature in the group that it should be in, and none in two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import funattr as fa
from funattr import masks


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), data=st.data())
def test_a_grid_has_a_cell_for_each_corner(sizes: list[int], data: st.DataObject) -> None:
    sides = [data.draw(st.integers(1, 10)) for _ in sizes]
    found = masks.grid(sizes, sides)
    assert found.shape == tuple(sizes)
    cells: dict[int, set[tuple[int, ...]]] = {}
    for place in torch.cartesian_prod(*[torch.arange(size) for size in sizes]).reshape(-1, len(sizes)).tolist():
        cells.setdefault(int(found[tuple(place)]), set()).add(tuple(p // side for p, side in zip(place, sides)))
    assert sorted(cells) == list(range(len(cells)))
    assert all(len(corners) == 1 for corners in cells.values())
    assert len({next(iter(corners)) for corners in cells.values()}) == len(cells)
    like = torch.zeros(2, 3, *sizes)
    assert torch.equal(masks.grid(like, sides), found)
    assert fa.feature_ablation(lambda x: x.flatten(1).sum(1), like, feature_mask=found).shape == like.shape


def test_channels() -> None:
    assert masks.channels(torch.zeros(2, 5, 3, 4)).tolist() == [[[k]] for k in range(5)]
    assert masks.channels(torch.zeros(2, 7, 4), -1).tolist() == [0, 1, 2, 3]
    assert masks.channels(torch.zeros(2, 4)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [
        (["[CLS]", "un", "##believ", "##able", "film", "[SEP]", "[PAD]"], [-1, 0, 0, 0, 1, -1, -1]),
        (["<s>", "A", "Ġmoving", "Ġfil", "m", ".", "</s>"], [-1, 0, 1, 2, 2, 2, -1]),
        (["▁A", "▁mov", "ing", "▁film", "</s>"], [0, 1, 1, 2, -1]),
        ([None, 0, 0, 2, None], [-1, 0, 0, 2, -1]),
        ([None, 0, 1, 1, None, 0, 1, None], [-1, 0, 1, 1, -1, 2, 3, -1]),  # of two texts
        ([None, 0, None, 0, 2, None], [-1, 0, -1, 1, 3, -1]),
        ([0, 1, 0, 1, 1], [0, 1, 2, 3, 3]),
        ([-2, 0, 1, -2, None], [-2, 0, 1, -2, -1]),
        (["<s>", "▁film", "▁", "<0xF0>", "<0x9F>", "</s>", "<extra_id_0>"], [-1, 0, 1, 1, 1, -1, -1]),
        (["a", "film"], [0, 1]),
        (["[CLS]", "the", "[UNK]", "[UNK]", "film", "##s", "[SEP]"], [-1, 0, 1, 2, 3, 3, -1]),  # unknown words are words
        (["▁caf", "<unk>", "▁<unk>", "</s>"], [0, 0, 1, -1]),
        (["Line", "s", "Ċ", "Ċ", "go", "Ġon", ".Ċ", "and", "Ġ", "on"], [0, 0, 1, 2, 2, 3, 3, 4, 5, 5]),
        (["▁Lines", "<0x0A>", "go", "▁on"], [0, 1, 1, 2]),
        (["<|startoftext|>", "a</w>", "ca", "t</w>", "sits</w>", "<|endoftext|>"], [-1, 0, 1, 1, 2, -1]),
        (["<s>", "[INST]", "▁fil", "m", "[/INST]", "[TOOL_CALLS]", "▁a", "</s>"], [-1, -1, 0, 0, -1, -1, 1, -1]),
        (["<s>", "a", "mov@@", "i@@", "ng", "film", "</s>"], [-1, 0, 1, 1, 1, 2, -1]),
        ([], []),
    ],
)
def test_words(tokens: list[Any], ids: list[int]) -> None:
    assert masks.words(tokens).tolist() == ids


def test_words_of_tokenizers() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {
        token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "un", "##believ", "##able", "film", "s", "##s"])
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    encoding = tokenizer.encode("unbelievable films s")
    assert masks.words(encoding.word_ids).tolist() == masks.words(encoding.tokens).tolist() == [-1, 0, 0, 0, 1, 1, 2, -1]


def test_superpixels_follow_edges() -> None:
    pytest.importorskip("skimage")
    picture = torch.zeros(2, 3, 24, 24)
    picture[0, :, :, 12:] = 5.0
    picture[1, 0, 8:] = -3.0
    found = masks.superpixels(picture, 4)
    assert found.shape == (2, 1, 24, 24)
    assert found.dtype == torch.long
    for one, edge in zip(found[:, 0], (picture[0, 0] > 1, picture[1, 0] < -1)):
        for k in one.unique():
            assert len(edge[one == k].unique()) == 1  # no superpixel on both sides
    for channels in (1, 2):  # in grey as in colours, away from a grid of squares
        grey = torch.zeros(1, channels, 48, 48)
        grey[..., 17:] = 1.0
        left = masks.superpixels(grey, 16)[0, 0, :, :17].unique()
        assert not set(left.tolist()) & set(masks.superpixels(grey, 16)[0, 0, :, 17:].unique().tolist())
    assert masks.superpixels(picture[:0], 4).shape == (0, 1, 24, 24)
    assert fa.shapley(lambda x: x.mean((1, 2, 3)), picture, feature_mask=found).shape == picture.shape


REFUSED: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (TypeError, r"grid\(\): like must be", lambda: masks.grid(3, 2)),  # type: ignore[arg-type]  # on purpose, as the others
    (ValueError, r"no dimensions after", lambda: masks.grid(torch.zeros(2, 3), 2)),
    (ValueError, r"side=0", lambda: masks.grid((4, 4), 0)),
    (ValueError, r"side=\(1, 2, 3\)", lambda: masks.grid((4, 4), (1, 2, 3))),
    (TypeError, r"side must be", lambda: masks.grid((4, 4), (1.0, 2.0))),  # type: ignore[arg-type]  # wrong on purpose
    (TypeError, r"like must be a tensor", lambda: masks.channels([1, 2])),  # type: ignore[arg-type]  # wrong on purpose
    (ValueError, r"dim=0 is no dimension", lambda: masks.channels(torch.zeros(2, 3), 0)),
    (TypeError, r"tokens must be", lambda: masks.words("a film")),
    (TypeError, r"tokens must be", lambda: masks.words([1.0])),  # type: ignore[list-item]  # wrong on purpose
    (ValueError, r"holds 7 after 45.*convert_ids_to_tokens", lambda: masks.words([1, 45, 7, 2])),  # ids of tokens
    (TypeError, r"floating-point", lambda: masks.superpixels(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))),
    (ValueError, r"pictures\[None\]", lambda: masks.superpixels(torch.zeros(3, 8, 8))),
    (ValueError, r"count must be at least 1", lambda: masks.superpixels(torch.zeros(1, 3, 8, 8), 0)),
    (TypeError, r"count must be an int", lambda: masks.superpixels(torch.zeros(1, 3, 8, 8), 2.5)),  # type: ignore[arg-type]  # wrong on purpose
]


@pytest.mark.parametrize(("kind", "words", "call"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_bad_input(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        call()
