"""``funattr explain`` with Shapley values, occlusion and LIME: groups, error bars, and what is refused."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import funattr as fa
from funattr.__main__ import main

from .. import command
from ..command import pixels, run, told

here, shown, bert = command.here, command.shown, command.bert


def test_shapley_of_squares(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    found = told(run(capsys, "explain cat.png --model my_net:build --method shapley --target 1"))
    my_net: Any = importlib.import_module("my_net")
    mask = fa.masks.grid((12, 16), 3)  # at most seven along a side
    values, errors = fa.shapley(
        my_net.build().eval(),
        pixels(),
        target=1,
        feature_mask=mask,
        standard_errors=True,
        generator=torch.Generator().manual_seed(0),
    )
    maps = shown[0][2]
    torch.testing.assert_close(maps["shapley"], values.mean(1, keepdim=True))
    torch.testing.assert_close(maps["shapley_error"], errors.mean(1, keepdim=True))
    first = found["largest"].splitlines()[0]
    k = int(values[0, 0].abs().argmax())
    row, column = k // 16, k % 16
    value, error = float(values[0, 0, row, column]), float(errors[0, 0, row, column])
    assert first == f"row {row // 3}, column {column // 3}: {value:.4g} +- {error:.2g}"
    assert len(found["largest"].splitlines()) == 5


def test_options(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    line = "explain cat.png --model my_net:build --target 1 --method"
    run(capsys, f"{line} occlusion --window 4")
    made: Any = importlib.import_module("my_net")
    model = made.build().eval()
    expected = fa.occlusion(model, pixels(), window=(3, 4, 4), strides=(3, 2, 2), target=1).mean(1, keepdim=True)
    torch.testing.assert_close(shown[-1][2]["occlusion"], expected)
    exact = told(run(capsys, f"{line} shapley --layer conv2 --groups channels"))
    mask = torch.arange(6)[:, None, None]
    expected = fa.shapley(model, pixels(), layer="conv2", feature_mask=mask, target=1).mean(1, keepdim=True)
    torch.testing.assert_close(shown[-1][2]["shapley at conv2"], expected)
    assert exact["largest"].startswith("channel ")
    assert "shapley: each place has the mean over its channels, which is the same everywhere" in exact["largest"]
    assert "deletion" not in exact  # a map of one number puts nothing first
    assert exact["largest"].splitlines()[0].endswith(" exactly")
    assert not any("error" in name for name in shown[-1][2])
    few = told(run(capsys, f"{line} shapley --sampling permutation --n-samples 80"))
    assert "no standard errors: of so many groups, --n-samples 98 or more" in few["largest"]
    run(capsys, f"{line} lime --n-samples 60")
    expected = fa.lime(
        model,
        pixels(),
        target=1,
        n_samples=60,
        feature_mask=fa.masks.grid((12, 16), 3),
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(shown[-1][2]["lime"], expected.mean(1, keepdim=True))


def test_superpixels(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    pytest.importorskip("skimage")
    run(capsys, "explain cat.png --model my_net:build --method shapley --target 1 --groups superpixels --n-samples 60")
    assert len(shown[0][2]["shapley"].unique()) > 4


def test_words_of_a_text(bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f'explain "It was a good film" --model {bert} --target positive --method'
    found = told(run(capsys, f"{line} shapley,lime,occlusion --out a.json"))
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    x = {"input_ids": torch.tensor([[2, 9, 10, 5, 8, 6, 3]]), "token_type_ids": torch.zeros(1, 7, dtype=torch.long)}
    site = "bert.embeddings.word_embeddings"
    values = fa.shapley(model, x, layer=site, target=1, feature_mask=torch.arange(7)[:, None])[0, :, 0]
    written = json.loads(Path("a.json").read_text())["explained"][0]["methods"]
    torch.testing.assert_close(torch.tensor(written["shapley"]["sums"]), values, rtol=1e-3, atol=1e-6)
    lost = fa.occlusion(model, x, layer=site, target=1, window=(1, 8))[0, :, 0]  # what the score loses, once
    torch.testing.assert_close(torch.tensor(written["occlusion"]["sums"]), lost, rtol=1e-3, atol=1e-6)
    for name, numbers in {"shapley": values, "lime": torch.tensor(written["lime"]["sums"])}.items():
        assert written[name]["sum"] == pytest.approx(float(numbers.sum()), rel=1e-3, abs=1e-6)  # each word's once
    assert written["occlusion"]["sum"] is None
    assert any(word in found["largest"] for word in ("film", "good", "was"))


REFUSED = {
    "shapley --groups words": "--groups words belongs to texts",
    "shapley --groups channels": "add --layer",
    "shapley --groups superpixels --layer conv2": "leave --layer out",
    "ig --groups squares": "--groups is no option of integrated_gradients",
    "ig --window 3": "--window is no option of integrated_gradients",
    "lime --sampling exact": "--sampling is no option of lime, only of shapley",
    "shapley --n-samples 3": "n_samples must be at least 4",
}


@pytest.mark.parametrize("options", REFUSED)
def test_mistakes(options: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"explain cat.png --model my_net:build --method {options}")) == 2
    assert REFUSED[options] in capsys.readouterr().err
