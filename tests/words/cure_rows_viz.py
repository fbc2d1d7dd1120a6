"""The rows of `cure_rows.py` for pictures and pages."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch

import funattr as fa

from .cures import Cure

viz: Any = fa.viz  # whose arguments are wrong on purpose
torch.manual_seed(0)
signed, grey = torch.randn(2, 3, 4, 5), torch.rand(2, 1, 8, 10)
small, photo = torch.randn(4, 5), torch.rand(3, 8, 10)
tokens = torch.randn(1, 18, 4)
columns, answer, values = [f"t{i}" for i in range(20)], ["a", "b", "c", "d"], torch.randn(4, 20)
one = {"a": signed}


def show(images: Any = grey, attributions: Any = one, **options: Any) -> Any:
    return viz.show(images, attributions, **options)


def page(inputs: Any = grey, attributions: Any = one, **options: Any) -> Any:
    return viz.page(inputs, attributions, **options)


def written(draw: Any, *given: Any, name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return draw(*given, out=f"{folder}/{name}")


def table(*ids: int) -> list[str]:
    """As tokenizers have them."""
    return [f"w{i}" for i in ids]


VIZ = [
    Cure(
        "viz/_answer.py",
        "pass [{}], or the tokenizer's tokens",
        lambda: viz.answer("abc", ["b"], [[1.0]]),
        lambda: viz.answer(["abc"], ["b"], [[1.0]]),
    ),
    Cure(
        "viz/_answer.py",
        "pass [tokenizer.decode(id) for id in ids]",
        lambda: viz.answer(["a"], [3], [[1.0]]),
        lambda: viz.answer(["a"], table(3), [[1.0]]),
    ),
    Cure(
        "viz/_answer.py",
        "pass {'input_x_gradient': attribution}",
        lambda: viz.answer(["a"], ["b"], {}),
        lambda: viz.answer(["a"], ["b"], {"input_x_gradient": [[1.0]]}),
    ),
    Cure(
        "viz/_answer.py",
        "or the answer's text as its one token",
        lambda: viz.answer(columns, answer, torch.ones(1, 20, 8)),
        lambda: viz.answer(columns, ["".join(answer)], torch.ones(1, 20, 8).sum(-1)),
    ),
    Cure(
        "viz/_answer.py",
        "sum the features, attributions.sum(-1)",
        lambda: viz.answer(columns, answer, torch.ones(4, 20, 8)),
        lambda: viz.answer(columns, answer, torch.ones(4, 20, 8).sum(-1)),
    ),
    Cure(
        "viz/_answer.py",
        "choose one example of the batch, attributions[:, [0]]",
        lambda: viz.answer(columns, answer, torch.ones(4, 2, 20, 8)),
        lambda: viz.answer(columns, answer, torch.ones(4, 2, 20, 8)[:, [0]]),
    ),
    Cure(
        "viz/_answer.py",
        "turn it, attributions.T",
        lambda: viz.answer(columns, answer, torch.ones(20, 4)),
        lambda: viz.answer(columns, answer, torch.ones(20, 4).T),
    ),
    Cure(
        "viz/_answer.py",
        "pass one row per token of the answer",
        lambda: viz.answer(columns, answer, torch.ones(5, 20)),
        lambda: viz.answer(columns, answer, torch.ones(4, 20)),
    ),
    Cure(
        "viz/_answer.py",
        "pass one number per token of the answer",
        lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=[1, 2]),
        lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=[1]),
    ),
    Cure(
        "viz/_answer.py",
        "leave log_probs out, or replace it",
        lambda: viz.answer(["a"], ["b"], [[1.0]], log_probs=[-np.inf]),
        lambda: [viz.answer(["a"], ["b"], [[1.0]]), viz.answer(["a"], ["b"], [[1.0]], log_probs=[-99.0])],
    ),
    Cure(
        "viz/_arrays.py",
        "pass the channels to show, or channel_dim={}",
        lambda: viz.overlay(signed[0], torch.ones(4, 5, 3)),
        lambda: [
            viz.overlay(signed[0], torch.ones(4, 5, 3)[:, :, 0]),
            viz.overlay(signed[0].movedim(0, -1), torch.ones(4, 5, 3), channel_dim=-1),
            viz.overlay(signed[0], torch.ones(4, 5, 3).movedim(-1, -3)),
            viz.overlay(signed[0], np.moveaxis(np.ones((4, 5, 3)), -1, -3)),
        ],
    ),
    Cure(
        "viz/_arrays.py",
        "is for both: turn it",
        lambda: viz.overlay(signed[0], torch.ones(4, 5, 3), channel_dim=-1),
        lambda: viz.overlay(signed[0].movedim(-3, -1), torch.ones(4, 5, 3), channel_dim=-1),
    ),
    Cure(
        "viz/_arrays.py",
        "bring them to one size, or draw them one at a time",
        lambda: show([torch.ones(8, 8), torch.ones(6, 8)]),
        lambda: [show([torch.ones(8, 8), torch.ones(8, 8)]), viz.overlay(signed[0], torch.ones(6, 8))],
    ),
    Cure(
        "viz/_arrays.py",
        "choose what has these dimensions, and drop the others",
        lambda: viz.volume(torch.rand(2, 2), torch.rand(2, 2)),
        lambda: viz.volume(torch.rand(2, 4, 6, 6), torch.rand(2, 4, 6, 6)),
    ),
    Cure(
        "viz/_arrays.py",
        "pass one for each, in their order",
        lambda: viz.series(torch.rand(2, 1, 9), torch.rand(3, 1, 9)),
        lambda: viz.series(torch.rand(2, 1, 9), torch.rand(2, 1, 9)),
    ),
    Cure(
        "viz/_arrays.py",
        "titles is one string",
        lambda: viz.text(["a"], [1.0], titles="x"),
        lambda: viz.text(["a"], [1.0], titles=["x"]),
    ),
    Cure("viz/_arrays.py", "pass one title per {}", lambda: show(titles=["x"]), lambda: show(titles=["x", "y"])),
    Cure(
        "viz/_arrays.py",
        "pass {}[0], or use show() for several",
        lambda: viz.overlay(signed),
        lambda: [viz.overlay(signed[0]), show()],
    ),
    Cure(
        "viz/_arrays.py",
        "choose a layer whose value has a height and a width",
        lambda: viz.overlay(torch.ones(3)),
        lambda: viz.overlay(signed[0]),
    ),
    Cure(
        "viz/_arrays.py",
        "drop the other dimensions",
        lambda: viz.overlay(torch.ones(1, 1, 2, 3, 4)),
        lambda: viz.overlay(torch.ones(1, 1, 2, 3, 4)[0]),
    ),
    Cure(
        "viz/_arrays.py",
        "needs its batch dimension, {}[None]",
        lambda: show(grey[0, 0]),
        lambda: show(grey[0, 0][None], {"a": signed[:1]}),
    ),
    Cure(
        "viz/_arrays.py",
        "one number for each example is no map: choose",
        lambda: show(attributions={"a": torch.ones(2, 1)}),
        lambda: show(),
    ),
    Cure(
        "viz/_arrays.py",
        "replace them first",
        lambda: viz.overlay(signed[0] / 0),
        lambda: viz.overlay((signed[0] / 0).nan_to_num()),
    ),
    Cure(
        "viz/_blend.py",
        "pass it, or call overlay(attribution)",
        lambda: viz.blend(small, None),
        lambda: [viz.blend(small, photo), viz.overlay(small)],
    ),
    Cure(
        "viz/_curves.py",
        "pass {'gradient': fa.metrics.curve(fa.gradient, model, x)}",
        lambda: viz.curves([1]),
        lambda: viz.curves({"gradient": fa.metrics.curve(fa.gradient, torch.tanh, torch.rand(3, 4), target=1)}),
    ),
    Cure(
        "viz/_curves.py",
        "pass {'gradient': fa.metrics.curve(...)}",
        lambda: viz.curves({}),
        lambda: viz.curves({"gradient": fa.metrics.curve(fa.gradient, torch.tanh, torch.rand(3, 4), target=1)}),
    ),
    Cure(
        "viz/_figure.py",
        "got {}: pass {'saliency': attribution}",
        lambda: show(attributions=signed),
        lambda: show(attributions={"saliency": signed}),
    ),
    Cure(
        "viz/_figure.py",
        "at least one method: pass {'saliency': attribution}",
        lambda: show(attributions={}),
        lambda: show(attributions={"saliency": signed}),
    ),
    Cure(
        "viz/_figure.py",
        "pass one map per image, in their order",
        lambda: show(torch.ones(3, 8, 8), {"a": signed[:1]}),
        lambda: [show(torch.ones(1, 8, 8), {"a": signed[:1]}), show(torch.ones(8, 8)[None], {"a": signed[:1]})],
    ),
    Cure(
        "viz/_page.py",
        "got {}: pass {'saliency': attribution}",
        lambda: page(attributions=signed),
        lambda: page(attributions={"saliency": signed}),
    ),
    Cure(
        "viz/_page.py",
        "without targets: pass {'saliency': attribution}",
        lambda: page(attributions={}),
        lambda: page(attributions={"saliency": signed}),
    ),
    Cure(
        "viz/_patches.py",
        "the image says: pass it too",
        lambda: viz.overlay(tokens, special=2),
        lambda: viz.overlay(tokens, torch.rand(3, 8, 8), special=2),
    ),
    Cure(
        "viz/_patches.py",
        "choose a layer whose value has a row per token",
        lambda: viz.tokens_to_map(torch.zeros(3)),
        lambda: viz.tokens_to_map(tokens, image=(64, 64)),
    ),
    Cure(
        "viz/_patches.py",
        "pass image=x.shape[-2:], or grid=(rows, columns)",
        lambda: viz.tokens_to_map(torch.zeros(1, 17 * 2, 4)),
        lambda: [
            viz.tokens_to_map(torch.zeros(1, 16, 4), image=(64, 64)),
            viz.tokens_to_map(torch.zeros(1, 34, 4), grid=(4, 8)),
        ],
    ),
    Cure(
        "viz/_patches.py",
        "choose a layer of patches, or pass grid=(rows, columns)",
        lambda: viz.tokens_to_map(tokens, special=1, image=(64, 64)),
        lambda: viz.tokens_to_map(tokens, grid=(4, 4)),
    ),
    Cure(
        "viz/_strip.py",
        "pass {'fc': maps}",
        lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), []),
        lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), {"fc": torch.rand(1, 4, 4)}),
    ),
    Cure(
        "viz/_strip.py",
        "give one for each layer",
        lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), {"fc": torch.rand(1, 4, 4)}, similarities={}),
        lambda: viz.strip(torch.rand(1, 4, 4), torch.rand(1, 4, 4), {"fc": torch.rand(1, 4, 4)}, similarities={"fc": [0.5]}),
    ),
    Cure(
        "viz/_table.py",
        "give one for each",
        lambda: viz.table_page({"a": {"x": [1.0, 2.0]}}, examples=["one"]),
        lambda: viz.table_page({"a": {"x": [1.0, 2.0]}}, examples=["one", "two"]),
    ),
    Cure(
        "viz/_tokens.py",
        "pass the tokenizer's tokens, or {}.split()",
        lambda: viz.text("a film", [1.0, 2.0]),
        lambda: viz.text(["a", "film"], [1.0, 2.0]),
    ),
    Cure(
        "viz/_tokens.py",
        "or a list of strings per sentence: for ids",
        lambda: viz.text([101, 102], [1.0, 2.0]),
        lambda: viz.text(table(101, 102), [1.0, 2.0]),
    ),
    Cure(
        "viz/_tokens.py",
        "in a sentence, expected strings: for ids",
        lambda: viz.text([[101]], [[1.0]]),
        lambda: viz.text([table(101)], [[1.0]]),
    ),
    Cure(
        "viz/_tokens.py",
        "or one per feature of its embedding",
        lambda: viz.text(["a"], torch.ones(1, 1, 1, 1)),
        lambda: [viz.text(["a"], torch.ones(1)), viz.text(["a"], torch.ones(1, 8))],
    ),
    Cure(
        "viz/_tokens.py",
        "pass one value per token",
        lambda: viz.text(["a", "b"], torch.ones(3)),
        lambda: viz.text(["a", "b"], torch.ones(2)),
    ),
    Cure(
        "viz/_tokens.py",
        "pass a list with the unpadded values of each",
        lambda: viz.text([["a"], ["b", "c"]], torch.ones(2, 2)),
        lambda: viz.text([["a"], ["b", "c"]], [row[:n] for row, n in zip(torch.ones(2, 2), (1, 2))]),
    ),
    Cure(
        "viz/_blend.py",
        "choose a name that ends in .png or .jpg",
        lambda: viz.blend(small, photo, out="map.txt"),
        lambda: [written(viz.blend, small, photo, name=name) for name in ("map.png", "map.jpg")],
    ),
    Cure(
        "viz/_draw.py",
        "call page(), or choose .png or .svg",
        lambda: show(out="maps.html"),
        lambda: [written(page, name="maps.html"), *(written(show, name=name) for name in ("maps.png", "maps.svg"))],
    ),
    Cure(
        "viz/_file.py",
        "choose a name that ends in .html",
        lambda: page(out="maps.png"),
        lambda: written(page, name="maps.html"),
    ),
    Cure(
        "viz/_patches.py",
        "in several ways: pass {}",
        lambda: viz.tokens_to_map(torch.zeros(1, 5, 4), image=(64, 64)),
        lambda: viz.tokens_to_map(torch.zeros(1, 5, 4), image=(64, 64), special=1),
    ),
]
