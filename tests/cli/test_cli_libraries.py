"""The command with models of libraries.

torchvision and timm are stood in for by modules with the part of their API that is used; transformers is the real one.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import funattr as fa
from funattr.__main__ import main
from funattr._cli import methods

from .. import command
from ..command import Preset, pixels, run, tiny, told
from ..language_models import byte_level

here, shown, vit, bert = command.here, command.shown, command.vit, command.bert
torchvision, timm = command.torchvision, command.timm


@pytest.mark.parametrize(
    ("options", "version"), [("", 2), ("--weights IMAGENET1K_V1", 1), ("--weights TinyNet_Weights.IMAGENET1K_V1", 1)]
)
@pytest.mark.parametrize("name", ["tinynet", "torchvision/tinynet"])
def test_torchvision(
    name: str, options: str, version: int, here: Path, capsys: pytest.CaptureFixture[str], torchvision: None, shown: list[Any]
) -> None:
    found = told(run(capsys, f'explain cat.png --model {name} {options} --target "tabby cat"'))
    weights = f"TinyNet_Weights.IMAGENET1K_V{version}"
    side = {1: 8, 2: 10}[version]
    assert found["model"] == f"torchvision's tinynet, {weights}"
    assert found["input"] == f"cat.png, 16 x 12, by the transforms of {weights}: [1, 3, {side}, {side}]"
    assert found["explained"].startswith("1 (tabby cat), score")
    (_, picture, maps, _) = shown[0]
    image = Image.open("cat.png").convert("RGB")
    x = Preset(side)(image)[None]
    cam = fa.grad_cam(tiny(version), x, layer="1", target=1)
    torch.testing.assert_close(maps["grad_cam at 1"], cam.clamp(min=0))
    torch.testing.assert_close(picture, pixels())


def test_torchvision_with_a_checkpoint_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str], torchvision: None) -> None:
    torch.save(tiny(7).state_dict(), "mine.pt")
    found = told(run(capsys, "explain cat.png --model tinynet --checkpoint mine.pt --weights IMAGENET1K_V1 --out a.npz"))
    assert found["model"] == "torchvision's tinynet, weights of mine.pt"
    assert "by the transforms of TinyNet_Weights.IMAGENET1K_V1" in found["input"]
    assert told(run(capsys, "explain cat.png --model tinynet --weights none --out a.npz"))["model"] == (
        "torchvision's tinynet, random weights"
    )


def test_weights_of_ones_own_without_their_normalisation(
    here: Path, capsys: pytest.CaptureFixture[str], torchvision: None
) -> None:
    """The library knows how its own weights were trained: the warning has the options to write, and they end it."""
    torch.save(tiny(7).state_dict(), "mine.pt")
    line = "explain cat.png --model tinynet --checkpoint mine.pt --out a.npz"
    assert main(shlex.split(line)) == 0
    err = capsys.readouterr().err
    assert err.startswith("funattr: warning: values are not normalised, and the library's own weights were trained with ")
    options = re.findall(r"--mean 0\.4,0\.5,0\.6 --std 0\.2,0\.3,0\.4", err)
    assert len(options) == 1
    found = told(run(capsys, f"{line} {options[0]}"))
    assert "less 0.4 0.5 0.6, over 0.2 0.3 0.4" in found["input"]


@pytest.mark.parametrize(
    ("line", "created", "title"),
    [
        ("--model tiny_vit", ("tiny_vit", True), "timm's tiny_vit"),
        ("--model timm/tiny_vit --weights a1", ("tiny_vit.a1", True), "timm's tiny_vit.a1"),
        ("--model tiny_vit.in1k --weights none", ("tiny_vit.in1k", False), "timm's tiny_vit.in1k, random weights"),
        ("--model hf-hub:me/tiny", ("hf-hub:me/tiny", True), "timm's hf-hub:me/tiny"),
    ],
)
def test_timm(
    line: str,
    created: tuple[str, bool],
    title: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    torchvision: None,
    timm: None,
    shown: list[Any],
) -> None:
    found = told(run(capsys, f"explain cat.png {line} --target 'Tabby cat'"))
    assert sys.modules["timm"].created == [created]
    assert found["model"] == title
    assert found["input"] == "cat.png, 16 x 12, by timm's transform of its data config: [1, 3, 9, 9]"
    assert found["explained"].startswith("1 (tabby, tabby cat)")
    torch.testing.assert_close(shown[0][1], pixels())


def test_an_image_classifier_of_transformers(
    vit: str, here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]
) -> None:
    found = told(run(capsys, f"explain cat.png --model {vit} --target fish --method grad_cam,ig"))
    assert found["model"] == f"{vit} (ViTForImageClassification)"
    assert re.fullmatch(r"cat\.png, 16 x 12, by its image processor: \[1, 3, 12, 12\]", found["input"])
    assert found["explained"].startswith("2 (fish)")
    # The last layer of all whose patches count, not the class token alone.
    assert found["method"].splitlines()[0].startswith("grad_cam at vit.layers.1.layernorm_before")
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(vit).eval()
    x = AutoImageProcessor.from_pretrained(vit)(Image.open("cat.png"), return_tensors="pt")["pixel_values"]
    (_, picture, maps, _) = shown[0]
    cam = fa.grad_cam(model, x, layer="vit.layers.1.layernorm_before", target=2, channel_dim=-1)
    torch.testing.assert_close(maps["grad_cam at vit.layers.1.layernorm_before"], cam[:, 1:].reshape(1, 1, 3, 3).clamp(min=0))
    assert cam[:, 1:].count_nonzero() == 9
    torch.testing.assert_close(maps["integrated_gradients"], fa.integrated_gradients(model, x, target=2).sum(1, keepdim=True))
    torch.testing.assert_close(picture, pixels())
    assert x.shape[-2:] == (12, 12)


def test_a_text_classifier_of_transformers(bert: str, here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    names = "ig,deep_lift,deep_lift_shap,input_x_gradient,gradient_shap,ablation"
    found = told(run(capsys, f'explain "It was a good film" --model {bert} --target positive --method {names}'))
    assert found["input"] == "the text, by its tokenizer: 7 tokens"
    assert found["explained"].startswith("1 (positive)")
    site = "bert.embeddings.word_embeddings"
    assert found["method"].splitlines() == [
        f"{methods.checked(name)} at {site} (where tokens become numbers)" for name in names.split(",")
    ]
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    x = {"input_ids": torch.tensor([[2, 9, 10, 5, 8, 6, 3]]), "token_type_ids": torch.zeros(1, 7, dtype=torch.long)}
    padded = {**x, "input_ids": torch.tensor([[2, 0, 0, 0, 0, 0, 3]])}
    expected = fa.integrated_gradients(model, x, layer=site, target=1, baselines=padded)
    (_, tokens, values, _) = shown[0]
    first = next(iter(values.values()))
    torch.testing.assert_close(first[0], expected.sum(2)[0])
    assert tokens == [["[CLS]", "It", "was", "a", "good", "film", "[SEP]"]]
    difference = float((model(**x).logits - model(**padded).logits)[0, 1].detach())
    lines = found["completeness"].splitlines()
    told_of = [float(each) for line in lines for each in re.findall(r"F\(baseline\) (\S+),", line)]
    assert told_of == pytest.approx([difference] * 3, rel=1e-3)
    assert abs(difference) < 0.01 * float(model(**x).logits[0, 1].detach())
    assert sum(line.startswith("little to explain: the baseline alone") for line in lines) == 3


def test_tokens_that_are_parts_of_letters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What byte pairs are called, `Ã` and `©` of é, is no text."""
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    made = byte_level(["<pad>", "<unk>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, **sizes)
    for part in (RobertaForSequenceClassification(config), tokenizer):
        part.save_pretrained("roberta")
    run(capsys, "explain 'a café, 日' --model roberta --method input_x_gradient --out a.json")
    (found,) = json.loads(Path("a.json").read_text(encoding="utf-8"))["explained"]
    assert found["tokens"] == ["a", " c", "a", "f", "", "é", ",", " ", "", "", "日"]
    assert [each["word"] for each in found["words"]][1] == "café"


def test_a_model_that_gives_padding_other_places(bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RoBERTa's positions follow from its ids: at the embedding, no path from padding is complete."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=11, max_position_embeddings=64, pad_token_id=0, initializer_range=0.5, **sizes)
    RobertaForSequenceClassification(config).save_pretrained("roberta")
    AutoTokenizer.from_pretrained(bert).save_pretrained("roberta")
    for layer in ("", " --layer roberta.encoder.layer.0.attention.self"):  # whose value is a tuple
        found = told(run(capsys, f'explain "it was a good film" --model ./roberta --method ig --out a.npz{layer}'))
        assert float(re.findall(r"gap \S+ \((\S+)%\)", found["completeness"])[0]) < 0.1 or layer


def test_a_model_that_jumps_at_padding(tmp_path: Path, bert: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row of zeros, and a norm right behind it: a path from there is complete after no number of steps."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    llama, tokenizer = LlamaForSequenceClassification(config).eval(), AutoTokenizer.from_pretrained(bert)
    llama.save_pretrained("llama")
    tokenizer.save_pretrained("llama")
    assert main(shlex.split('explain "it was a good film" --model ./llama --method ig --target 1 --no-check --out a.json')) == 0
    out, err = capsys.readouterr()
    assert "the embedding of [PAD] is all zeros, where the model jumps" in err
    assert "the baseline has [MASK]" in err
    gap = float(re.findall(r"gap \S+ \((\S+)%\)", out)[0])
    x = {"input_ids": torch.tensor([[2, 9, 10, 5, 8, 6, 3]])}
    padded, masked = ({"input_ids": torch.tensor([[2, *[number] * 5, 3]])} for number in (0, 4))
    of_each = []
    for base in (padded, masked):
        found = fa.integrated_gradients(llama, x, layer="model.embed_tokens", target=1, baselines=base)
        delta = fa.convergence_delta(found, llama, x, target=1, baselines=base)
        whole = (llama(**x).logits - llama(**base).logits)[0, 1].item()
        of_each.append(abs(delta.item() / whole))
    assert of_each[0] > 0.03
    assert of_each[1] < 0.001
    assert gap == pytest.approx(100 * of_each[1], abs=0.02)


@pytest.mark.parametrize("out", ["a.png", "a.html"])
def test_pictures_and_pages_are_written(out: str, here: Path, capsys: pytest.CaptureFixture[str], bert: str) -> None:
    """By the real functions, all the way."""
    run(capsys, f"explain cat.png --model my_net:build --method grad_cam,saliency --out {out}")
    image = Path(out).read_bytes()
    Path(out).unlink()
    run(capsys, f'explain "it was a good film" --model {bert} --method ig,ablation --out {out}')
    text = Path(out).read_bytes()
    assert image != text
    for written in (image, text):
        assert len(written) > 3000
        assert written.startswith(b"\x89PNG" if out == "a.png" else b"<!")
    if out == "a.html":
        assert b"grad_cam at blocks.0" in image
        assert b"film" in text


LIBRARY_MISTAKES = {
    "explain cat.png --model tinyne": "there is no model 'tinyne' in torchvision or timm: did you mean 'tinynet'?",
    "explain cat.png --model torchvision/x": "torchvision has no model 'x': choose one of offline, tinynet",
    "explain cat.png --model timm/tiny_vi": "timm has no model 'tiny_vi': did you mean 'tiny_vit'?",
    "explain cat.png --model tinynet --weights V1": "torchvision's tinynet has no weights 'V1': choose one of IMAGENET1K_V1",
    "explain cat.png --model offline": "torchvision did not make 'offline': OSError: no network",
    "explain cat.png --model tinynet --size 8": "--size would change what the model brings: images are made ready by",
    "explain cat.png --model tinynet --target 'tabby cta'": "there is no class 'tabby cta': did you mean 'tabby cat'?",
    "explain cat.png --model hf-hub:a/b --weights a1": "a model of the hub has one set of weights",
}


@pytest.mark.parametrize("line", LIBRARY_MISTAKES)
def test_mistakes_with_libraries(
    line: str, here: Path, capsys: pytest.CaptureFixture[str], torchvision: None, timm: None
) -> None:
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"funattr: {LIBRARY_MISTAKES[line]}")
    assert err.count("\n") == 1


def test_mistakes_with_transformers(
    here: Path, capsys: pytest.CaptureFixture[str], vit: str, bert: str, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTModel

    base = str(tmp_path / "base")
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8)
    ).save_pretrained(base)
    import shutil

    shutil.copy(Path(vit) / "preprocessor_config.json", base)
    capsys.readouterr()
    for line, words in {
        f"explain cat.png --model {bert}": "the model takes a text, and 'cat.png' is the name of an image",
        f"explain 'a film' --model {vit}": "there is no file 'a film': the model takes images",
        f"explain notes.txt --model {bert}": "there is no file 'notes.txt'",
        f"explain ' ' --model {bert}": "the text is empty",
        f"explain 'a film' --model {bert} --size 8": "--size belongs to images, and this is a text",
        f"explain 'a film' --model {bert} --method conductance": "conductance: x holds no floating-point tensor",
        f"explain 'a film' --model {bert} --weights x": "--weights chooses among those of torchvision and timm",
        f"explain cat.png --model {base}": "is no trained classifier, it lacks classifier.bias, classifier.weight",
    }.items():
        assert main(shlex.split(line)) == 2, line
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1, err
