"""The command with language models: what it prints and writes of an answer, compared with plain autograd and loops."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from torch import Tensor

from funattr.__main__ import main
from funattr._cli.pieces import decoded, special_ids, tokenized, words_of

from ..chromium import Tab
from ..language_models import make

PROMPT, ANSWER = "The capital of  France is\nof", " Paris, unbelievable."
FOLDERS = ("llama", "gpt2", "t5")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def explain(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What the command prints."""
    status = main(["explain", *words])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert err == ""
    return out.splitlines()


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    explain(capsys, *words, "--out", "a.json")
    return json.loads(Path("a.json").read_text(encoding="utf-8"))


def loaded(folder: Path) -> tuple[Any, Any]:
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    kind = tf.AutoModelForSeq2SeqLM if folder.name == "t5" else tf.AutoModelForCausalLM
    return kind.from_pretrained(folder).eval(), tokenizer


def ids_of(folder: Path, tokenizer: Any, prompt: str = PROMPT, answer: str = ANSWER) -> tuple[list[int], list[int]]:
    """Of the prompt, with the start of a decoder behind it, and of the answer."""
    read = tokenizer(prompt)["input_ids"]
    return read + [0] * (folder.name == "t5"), tokenizer(answer, add_special_tokens=False)["input_ids"]


def log_probs(folder: Path, model: Any, ids: list[int], count: int, embedded: Any = None) -> Tensor:
    """``[T]``, of the last `count` of the ids, by hand."""
    if folder.name == "t5":
        start = len(ids) - count - 1
        named = (
            {"inputs_embeds": embedded[:, :start], "decoder_inputs_embeds": embedded[:, start:]}
            if embedded is not None
            else {"input_ids": torch.tensor([ids[:start]]), "decoder_input_ids": torch.tensor([ids[start:]])}
        )
    else:
        named = {"inputs_embeds": embedded} if embedded is not None else {"input_ids": torch.tensor([ids])}
    logits = model(**named).logits[0, -count - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[-count:])[:, None])[:, 0]


def by_hand(folder: Path, model: Any, ids: list[int], count: int) -> Tensor:
    """``[T, S]``: value times gradient at the embedding, a backward pass for each token."""
    embedded = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
    rows = [torch.autograd.grad(p, embedded, retain_graph=True)[0] for p in log_probs(folder, model, ids, count, embedded)]
    return torch.stack([(row * embedded).sum(-1)[0].detach() for row in rows])


@pytest.mark.parametrize("name", FOLDERS)
def test_an_answer(name: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models / name
    model, tokenizer = loaded(folder)
    before, answer = ids_of(folder, tokenizer)
    found = facts(capsys, PROMPT, "--model", str(folder), "--answer", ANSWER)
    assert list(found) == [
        *("prompt", "answer", "input_ids", "tokens", "answer_start", "log_probs", "columns", "baseline_id", "attributions")
    ]
    assert (found["prompt"], found["answer"], found["input_ids"]) == (PROMPT, ANSWER, before + answer)
    start = found["answer_start"]
    assert start == len(before)
    assert found["columns"] == found["tokens"]
    assert "".join(found["tokens"][start:]) == ANSWER
    assert PROMPT in "".join(found["tokens"][:start])
    logs = log_probs(folder, model, before + answer, len(answer)).detach()
    torch.testing.assert_close(torch.tensor(found["log_probs"]), logs, rtol=1e-4, atol=1e-5)
    expected = by_hand(folder, model, before + answer, len(answer))
    rows = torch.tensor(found["attributions"]["input_x_gradient"])
    torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-4)
    later = torch.ones_like(rows).triu(start + 1 if name == "t5" else start).bool()
    assert bool((rows[later] == 0).all())
    said = explain(capsys, PROMPT, "--model", str(folder), "--answer", ANSWER)
    assert said[0] == f"model        {folder} ({type(model).__name__}), float32"
    assert said[1] == f"prompt       {PROMPT!r}, {len(before) - (name == 't5')} tokens"
    line = re.match(r"answer       ('.*'), (\d+) tokens, log p (-\d+\.\d{4}): ", said[2])
    assert line is not None
    assert (line[1], int(line[2])) == (repr(ANSWER), len(answer))
    assert float(line[3]) == pytest.approx(logs.sum().item(), rel=1e-5)
    assert said[3].startswith("method       input_x_gradient at ")
    assert said[-1] == "wrote        explained.html"
    table = [re.fullmatch(r" *(\d+)  ('.*'|\".*\") *  ([+-]\d+\.\d{4})", line) for line in said[4:-1]]
    assert [row and (int(row[1]), row[2].strip()) for row in table] == [
        (i, repr(text)) for i, text in enumerate(found["tokens"])
    ]
    np.testing.assert_allclose([float(row[3]) for row in table if row], rows.sum(0), atol=6e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_complete_methods_compare_with_the_prompt_without_its_content(
    name: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models / name
    model, tokenizer = loaded(folder)
    before, answer = ids_of(folder, tokenizer, answer=" Paris.")
    options = ["--method", "ig", "deep_lift", "feature_ablation", "gradient_shap", "--n-steps", "60", "--n-samples", "2"]
    found = facts(capsys, PROMPT, "--model", str(folder), "--answer", " Paris.", *options)
    filler = {"llama": tokenizer.unk_token_id, "gpt2": 0, "t5": 0}[name]  # the padding of a fresh Llama is a row of zeros
    assert found["baseline_id"] == filler
    special = set(tokenizer.all_special_ids)
    content = [i for i, number in enumerate(before) if number not in special]
    without = [filler if i in content else number for i, number in enumerate(before)]
    whole, alone = (log_probs(folder, model, ids + answer, len(answer)).detach() for ids in (before, without))
    found = {method: torch.tensor(rows) for method, rows in found["attributions"].items()}
    assert list(found) == ["integrated_gradients", "deep_lift", "feature_ablation", "gradient_shap"]
    torch.testing.assert_close(found["deep_lift"].sum(1), whole - alone, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["integrated_gradients"].sum(1), whole - alone, rtol=2e-2, atol=5e-2)
    for rows in found.values():
        kept = [i for i in range(len(before + answer)) if i not in content]
        assert float(rows[:, kept].abs().max()) < 1e-4
    for i in content:
        ids = [filler if i == j else number for j, number in enumerate(before)]
        loss = whole - log_probs(folder, model, ids + answer, len(answer)).detach()
        torch.testing.assert_close(found["feature_ablation"][:, i], loss, rtol=1e-3, atol=1e-4)


def test_a_prompt_that_hardly_counts(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No number of steps helps where the answer is as likely without the prompt: that is said, and no cure. The first token
    of the answer is the same, and what comes next hangs on it."""
    model, tokenizer = loaded(models / "gpt2")
    for block in model.transformer.h:
        block.attn.c_proj.weight.data.mul_(1e-4)
    model.save_pretrained("mine")
    tokenizer.save_pretrained("mine")
    how = ["--method", "ig", "--n-steps", "1", "--quadrature", "riemann_left"]
    said = explain(capsys, "The capital of France", "--model", "mine", "--answer", " of is", "--contrast", " of Paris", *how)
    (place,) = [i for i, line in enumerate(said) if line.startswith("completeness")]
    assert float(re.findall(r"\(([\d.]+)%\)", said[place])[0]) > 1
    score = float(re.findall(r"log-odds (\S+)", "\n".join(said))[0])
    known = re.findall(r"little to explain: the baseline alone has the score (\S+), the input (\S+);", said[place + 1])
    assert [float(number) for number in known[0]] == pytest.approx([score, score], rel=1e-2)
    assert not [line for line in said if "large: " in line]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_model_writes_the_answer(name: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models / name
    model, tokenizer = loaded(folder)
    ids = torch.tensor([tokenizer("Write the word")["input_ids"]])
    expected = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0]
    line = ["Write the word", "--model", str(folder), "--generate", "6"]
    found = facts(capsys, *line)
    assert found["input_ids"][len(ids[0]) :] == expected[0 if name == "t5" else len(ids[0]) :].tolist()
    assert found["answer"] == "".join(found["tokens"][found["answer_start"] :])
    drawn = [facts(capsys, *line, "--sample", "--seed", seed)["input_ids"] for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_against_another_answer(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models / "gpt2"
    model, tokenizer = loaded(folder)
    before, answer = ids_of(folder, tokenizer)
    other = tokenizer(" Paris and Rome", add_special_tokens=False)["input_ids"]
    place = next(i for i, (a, b) in enumerate(zip(answer, other)) if a != b)
    assert place > 0
    line = [PROMPT, "--model", str(folder), "--answer", ANSWER, "--contrast", " Paris and Rome"]
    found = facts(capsys, *line, "--method", "input_x_gradient,deep_lift")
    embedded = model.get_input_embeddings()(torch.tensor([before + answer])).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits[0, len(before) + place - 1]
    odds = logits[answer[place]] - logits[other[place]]
    expected = (torch.autograd.grad(odds, embedded)[0] * embedded).sum(-1).detach()
    torch.testing.assert_close(torch.tensor(found["attributions"]["input_x_gradient"]), expected, rtol=1e-3, atol=1e-4)
    assert found["contrast"]["place"] == place
    said = explain(capsys, *line)
    texts = [tokenizer.decode([ids[place]]) for ids in (answer, other)]
    assert f"contrast     {texts[0]!r} against {texts[1]!r}, log-odds {odds.item():+.4f}" in said
    page = Path("explained.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)[0])
    assert data["answer"] == [texts[0]]
    np.testing.assert_allclose(data["attributions"]["input_x_gradient"], expected, rtol=1e-3, atol=1e-4)


def test_the_chat_template(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, tokenizer = loaded(models / "llama")
    line = ["Which city?", "--model", str(models / "llama"), "--answer", "Paris"]
    found = facts(capsys, *line, "--chat", "--by", "word")
    message = [{"role": "user", "content": "Which city?"}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found["input_ids"][: found["answer_start"]] == list(expected)
    assert found["prompt"] == "Which city?"
    columns = [
        "<s>",
        "<|im_start|>",
        "user",
        "\nWhich",
        " city?",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant",
        "\n",
        "Paris",
    ]
    assert found["columns"] == columns
    assert facts(capsys, *line)["tokens"][0] == "<s>"  # never by itself
    assert "user" not in facts(capsys, *line)["tokens"]


@pytest.mark.parametrize("name", FOLDERS)
def test_words(name: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [PROMPT, "--model", str(models / name), "--answer", ", unbelievable Paris", "--method", "input_x_gradient,saliency"]
    tokens, words = facts(capsys, *line), facts(capsys, *line, "--by", "word")
    signs = {"llama": ["<s>"], "gpt2": [], "t5": []}[name]
    ends = {"llama": [], "gpt2": [], "t5": ["</s>", "<pad>"]}[name]
    answer = [",", " unbelievable", " Paris"]
    assert words["columns"] == [*signs, "The", " capital", " of", " ", " France", " is", "\nof", *ends, *answer]
    assert words["tokens"] == tokens["tokens"]
    for method in ("input_x_gradient", "saliency"):
        each, joined = (np.array(found["attributions"][method]) for found in (tokens, words))
        groups = words_of_columns(tokens["tokens"], words["columns"])
        expected = np.zeros_like(joined)
        np.add.at(expected.T, groups, each.T)
        np.testing.assert_allclose(joined, expected, atol=1e-5)


def words_of_columns(tokens: list[str], columns: list[str]) -> list[int]:
    """Which column each token is of, where their texts say it."""
    groups, left = [], list(columns)
    for token in tokens:
        while left and not left[0]:
            left.pop(0)
        assert left[0].startswith(token)
        groups.append(len(columns) - len(left))
        left[0] = left[0][len(token) :]
    return groups


def test_every_kind_of_file_has_the_same_numbers(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [PROMPT, "--model", str(models / "llama"), "--answer", ANSWER, "--method", "saliency,input_x_gradient"]
    found = facts(capsys, *line)
    for ending in ("npz", "safetensors", "html", "png"):
        explain(capsys, *line, "--out", f"a.{ending}")
    with np.load("a.npz") as stored:
        arrays = dict(stored)
    tensors = {name: value.numpy() for name, value in load_file("a.safetensors").items()}
    for values in (arrays, tensors):
        assert set(values) == {"input_ids", "answer_start", "log_probs", "saliency", "input_x_gradient"}
        assert values["input_ids"].tolist() == found["input_ids"]
        assert int(values["answer_start"]) == found["answer_start"]
        np.testing.assert_allclose(values["log_probs"], found["log_probs"], rtol=1e-6)
        for method in ("saliency", "input_x_gradient"):
            np.testing.assert_allclose(values[method], found["attributions"][method], rtol=1e-5, atol=1e-7)
    page = Path("a.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)[0])
    assert data["columns"] == found["columns"]
    assert data["answer"] == found["tokens"][found["answer_start"] :]
    np.testing.assert_allclose(data["log_probs"], found["log_probs"], rtol=1e-6)
    for method in ("saliency", "input_x_gradient"):
        np.testing.assert_allclose(data["attributions"][method], found["attributions"][method], rtol=1e-5, atol=1e-7)
    assert Path("a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_opens(models: Path, capsys: pytest.CaptureFixture[str], tab: Tab) -> None:
    explain(capsys, PROMPT, "--model", str(models / "llama"), "--generate", "3", "--method", "saliency,ig")
    tab.open(Path("explained.html").absolute().as_uri())
    assert tab.run("document.querySelectorAll('[data-row]').length") == 3
    assert tab.run("[...document.querySelectorAll('[role=tab]')].map(e => e.textContent)") == [
        "saliency",
        "integrated_gradients",
    ]
    assert tab.complaints == []


def test_layers_dtypes_and_chunks(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [PROMPT, "--model", str(models / "llama"), "--answer", ANSWER]
    plain, half = facts(capsys, *line), facts(capsys, *line, "--dtype", "bfloat16")
    assert half["log_probs"] != plain["log_probs"]
    np.testing.assert_allclose(half["log_probs"], plain["log_probs"], rtol=0.1)
    assert facts(capsys, *line, "--chunk-size", "2") == plain
    each, few = (facts(capsys, *line, "--method", "ablation", "--chunk-size", size) for size in ("1", "3"))
    rows = [np.array(found["attributions"]["feature_ablation"]) for found in (each, few)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
    deep = facts(capsys, *line, "--layer", "model.layers.0", "--method", "grad_cam,ig,ablation")
    assert {np.shape(rows) for rows in deep["attributions"].values()} == {(len(plain["log_probs"]), len(plain["tokens"]))}
    side = facts(capsys, PROMPT, "--model", str(models / "t5"), "--answer", ANSWER, "--layer", "encoder.block.0")
    assert side["columns"] == side["tokens"][: side["answer_start"] - 1]


def test_a_prompt_beyond_what_the_model_was_made_for(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "word " * 600, "--model", str(models / "llama"), "--answer", "b", "--by", "word"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4 + 603 + 1
    assert re.fullmatch(r"funattr: warning: \d+ tokens are more than the 512 that the model was made for.*\n", err)


def test_sampled_values_leave_the_answer_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [PROMPT, "--model", str(models / "llama"), "--answer", ANSWER, "--method", "shapley", "--n-samples", "8"]
    found = facts(capsys, *line)
    rows = np.array(found["attributions"]["shapley"])
    assert not rows[:, 0].any()
    assert not rows[:, found["answer_start"] :].any()
    assert rows[:, 1 : found["answer_start"]].all()


def test_what_is_taken_away_together(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [PROMPT, "--model", str(models / "gpt2"), "--answer", " Paris."]
    model, tokenizer = loaded(models / "gpt2")
    before, answer = ids_of(models / "gpt2", tokenizer, answer=" Paris.")

    def loss(*places: int) -> Tensor:
        ids = [0 if i in places else number for i, number in enumerate(before)]
        whole, without = (log_probs(models / "gpt2", model, ids + answer, len(answer)).detach() for ids in (before, ids))
        return whole - without

    found = facts(capsys, *line, "--method", "ablation,occlusion,lime", "--groups", "words")
    rows = {name: torch.tensor(values) for name, values in found["attributions"].items()}
    last = len(before) - 1
    assert found["tokens"][last - 2 : last + 1] == ["\n", "o", "f"]  # which are a word
    torch.testing.assert_close(rows["feature_ablation"][:, last], loss(last - 2, last - 1, last) / 3, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows["feature_ablation"][:, last - 2], rows["feature_ablation"][:, last])
    torch.testing.assert_close(rows["occlusion"][:, 1], loss(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows["lime"][:, last - 1], rows["lime"][:, last])
    at_layer = facts(capsys, *line, "--method", "ablation,occlusion", "--layer", "transformer.wte")["attributions"]
    for values in at_layer.values():
        torch.testing.assert_close(torch.tensor(values), rows["occlusion"], rtol=1e-3, atol=1e-4)
    sides = facts(capsys, "The capital", "--model", str(models / "t5"), "--answer", " of", "--method", "occlusion,ablation")
    np.testing.assert_allclose(sides["attributions"]["occlusion"], sides["attributions"]["feature_ablation"], atol=1e-5)
    for wrong in (["--groups", "squares"], ["--groups", "words", "--layer", "transformer.wte"]):
        assert main(["explain", *line, "--method", "ablation", *wrong]) == 2
        assert re.match(f"funattr: --groups {wrong[1]} (belongs to pictures|is of the prompt)", capsys.readouterr().err)


def test_progress_is_told(models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr._cli.language._EVERY", 0.0)
    assert main(["explain", PROMPT, "--model", str(models / "gpt2"), "--answer", ANSWER, "--method", "ig"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err
    assert all(re.fullmatch(r"integrated_gradients: \d+ of \d+", line) for line in err)


def test_both_sides_with_as_many_tokens(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models / "t5"
    model, tokenizer = loaded(folder)
    before, answer = ids_of(folder, tokenizer, "of is", " of is")
    assert len(before) - 1 == len(answer) + 1
    line = ["of is", "--model", str(folder), "--answer", " of is"]
    found = facts(capsys, *line, "--method", "input_x_gradient,ablation")
    assert found["columns"] == found["tokens"]
    expected = by_hand(folder, model, before + answer, len(answer))
    torch.testing.assert_close(torch.tensor(found["attributions"]["input_x_gradient"]), expected, rtol=1e-3, atol=1e-4)
    prompts, answers = slice(0, len(before) - 1), slice(len(before) - 1, None)
    crossed = "decoder.block.0.layer.1.EncDecAttention.k"  # names do not tell
    for layer, places in {"encoder.block.1": prompts, crossed: prompts, "decoder.block.0": answers, "lm_head": answers}.items():
        assert facts(capsys, *line, "--layer", layer)["columns"] == found["tokens"][places]
    assert facts(capsys, *line, "--layer", "encoder")["columns"] == found["tokens"][: len(before) - 1]


def test_the_seam_is_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = explain(capsys, "The capital of Fr", "--model", str(models / "gpt2"), "--answer", "ance")
    assert [line for line in said if "would be tokenised otherwise: ĠFrance in place of" in line]
    said = explain(capsys, "The capital of", "--model", str(models / "gpt2"), "--answer", " France")
    assert not [line for line in said if "otherwise" in line]


def test_prompts_from_elsewhere(models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["--model", str(models / "gpt2"), "--answer", ANSWER]
    expected = facts(capsys, PROMPT, *line)
    Path("prompt.txt").write_text(PROMPT + "\n", encoding="utf-8-sig")
    assert facts(capsys, "prompt.txt", *line) == expected
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(io.TextIOWrapper(io.BytesIO(f"{PROMPT}\n".encode())))
        monkeypatch.setattr("sys.stdin", stream)
        assert facts(capsys, "-", *line) == expected


def test_layers_of_a_language_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, layer in (("llama", "model.layers.1"), ("t5", "decoder.block.0")):
        assert main(["layers", "The capital", "--model", str(models / name)]) == 0
        assert f"\n{layer} " in capsys.readouterr().out


MISTAKES: dict[str, tuple[str, list[str], str]] = {
    "no answer": ("llama", ["a"], "writes text: say what it answered with --answer TEXT, or have it answer with --generate N"),
    "both": ("llama", ["a", "--answer", "b", "--generate", "2"], "--answer and --generate exclude each other"),
    "an empty answer": ("llama", ["a", "--answer", ""], "--answer is empty"),
    "no tokens": ("llama", ["a", "--generate", "0"], "must be a positive number of tokens, got '0'"),
    "sample": ("llama", ["a", "--answer", "b", "--sample"], "--sample draws the answer that --generate N has the model write"),
    "target": ("llama", ["a", "--answer", "b", "--target", "argmax"], "--target names a class.*--answer TEXT.*--contrast TEXT"),
    "no tokenizer": ("bare", ["a", "--answer", "b"], r"has no tokenizer: write it there, tokenizer.save_pretrained\("),
    "ending": (
        "llama",
        ["a", "--answer", "b", "--out", "a.csv"],
        r"must end with .html, .json, .npz, .safetensors or .png, got 'a",
    ),
    "folder": ("llama", ["a", "--answer", "b", "--out", "no/a.json"], "the folder 'no' of --out does not exist"),
    "no prompt": ("llama", ["--answer", "b"], "explains one PROMPT, and there is none"),
    "an empty prompt": ("llama", [" ", "--answer", "b"], "the prompt is empty"),
    "two prompts": ("llama", ["a", "c", "--answer", "b"], "explains one PROMPT, and got 2"),
    "no file": ("llama", ["a.txt", "--answer", "b"], "there is no file 'a.txt'"),
    "the same": (
        "llama",
        ["a", "--answer", " Paris", "--contrast", " Paris."],
        "no token that differs from the answer's, ' Paris'",
    ),
    "an empty contrast": ("llama", ["a", "--answer", "b", "--contrast", ""], "--contrast is empty"),
    "chat": ("gpt2", ["a", "--answer", "b", "--chat"], "has no chat template: leave --chat out"),
    "pictures": ("llama", ["a", "--answer", "b", "--size", "3", "--raw"], "--size, --raw are for pictures and classes"),
    "eigen_cam": ("llama", ["a", "--answer", "b", "--method", "eigen_cam"], "eigen_cam explains no score"),
    "a layer": ("llama", ["a", "--answer", "b", "--layer", "model.layers.7"], "has no layer 'model.layers.7'"),
    "the head": (
        "llama",
        ["a b c", "--answer", "b", "--layer", "lm_head"],
        "without a value per token: choose another --layer",
    ),
    "long": ("gpt2", ["word " * 80, "--answer", "b"], "more than the 64 positions that it has: shorten the prompt"),
    "headless": ("headless", ["a", "--answer", "b"], "holds a GPT2Model, which has no head to write with"),
    "another tokenizer": (
        "other",
        ["The capital", "--answer", "b"],
        "the model's embedding has 257 rows: the tokenizer is another",
    ),
    "an adapter": ("adapter", ["a", "--answer", "b"], "holds an adapter without its model: merge them with peft"),
    "a typo": ("cap", ["a", "--answer", "b"], "there is no folder '.*cap'"),
    "masked": (
        "masked",
        ["a", "--answer", "b", "--chat"],
        "are for models that write text, and '.*masked' holds a BertForMaskedLM",
    ),
    "nowhere": ("nowhere", ["a", "--answer", "b"], "there is no folder"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, words, message = MISTAKES[case]
    assert main(["explain", *words, "--model", str(models / name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("funattr: ")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert not list(Path().glob("*"))


def test_a_classifier_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Path("capitals").mkdir()
    Path("capitals/config.json").write_text("{}")
    assert main(["explain", "a", "--model", "capital", "--answer", "b"]) == 2
    assert capsys.readouterr().err == "funattr: there is no folder 'capital': did you mean 'capitals'?\n"
    assert main(["explain", "a.png", "--model", "my_net:build", "--answer", "b", "--by", "word"]) == 2
    assert "--answer, --by are for language models, and 'my_net:build' is none" in capsys.readouterr().err


# Pieces of text.


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("text", [PROMPT, "  two blanks, é漢🙂 and\ttabs \n\n end  ", "a"])
def test_the_pieces_are_the_text(name: str, text: str, models: Path) -> None:
    tokenizer = tf.AutoTokenizer.from_pretrained(models / name)
    found = tokenized(tokenizer, text, signs=True)
    assert found.ids == tokenizer(text)["input_ids"]
    assert "".join(piece for piece, sign in zip(found.texts, found.special) if not sign) == text
    if name != "t5":  # whose blanks at the beginning are no text
        alone = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(decoded(tokenizer, alone, []).texts) == text


def test_letters_in_parts_and_signs(models: Path) -> None:
    tokenizer = tf.AutoTokenizer.from_pretrained(models / "llama")
    ids = tokenizer("é漢", add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, ids, []).texts == ["", "é", "", "", "漢"]
    assert decoded(tokenizer, [*ids[:1], *ids[:2], 2, ids[2]], []).texts == ["\ufffd", "", "é", "</s>", "\ufffd"]
    assert special_ids(tokenizer) == {0, 1, 2, 4, 5}  # a word that is not known is a word
    assert special_ids(tf.AutoTokenizer.from_pretrained(models / "gpt2")) == {0}


WORDS: list[tuple[list[str], list[int]]] = [
    (["The", " cap", "ital", " of"], [0, 1, 1, 2]),
    (["a", "\n", "is", "b"], [0, 1, 1, 1]),
    (["a ", "b", " ", " c", "d"], [0, 1, 2, 3, 3]),
    (["", "T", "he", ""], [0, 0, 0, 0]),
]


@pytest.mark.parametrize(("texts", "expected"), WORDS)
def test_words_go_from_blank_to_blank(texts: list[str], expected: list[int]) -> None:
    assert words_of(texts, [False] * len(texts), ()) == expected
    assert words_of(["x", "<s>", "y", "z"], [False, True, False, False], (3,)) == [0, 1, 2, 3]
