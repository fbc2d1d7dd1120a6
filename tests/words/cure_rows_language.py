"""The rows of `cure_rows.py` for models of libraries: those of transformers that write text, and others."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ..command import make_bert, stand_in_timm, stand_in_torchvision, tiny
from .cure_command import Step, Within, row, told
from .cures import Cure


@functools.cache
def made() -> tempfile.TemporaryDirectory[str]:
    """Models of transformers, made once."""
    from ..language_models import make  # not before a row needs it: transformers takes seconds

    folder = tempfile.TemporaryDirectory()
    make(Path(folder.name))
    make_bert(Path(folder.name) / "bert")
    return folder


@contextlib.contextmanager
def models() -> Iterator[None]:
    Path("models").symlink_to(made().name, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@contextlib.contextmanager
def torchvision() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stand_in_torchvision(patch)
        torch.save(tiny(7).state_dict(), "mine.pt")
        yield


@contextlib.contextmanager
def timm() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stand_in_timm(patch)
        yield


def piped(line: str) -> Callable[[], None]:
    """A prompt through standard input."""

    def step() -> None:
        with pytest.MonkeyPatch.context() as patch, io.TextIOWrapper(io.BytesIO(b"The capital")) as stream:
            patch.setattr("sys.stdin", stream)
            found = told(line)
        assert (found.status, found.said) == (0, "")

    return step


def copied(name: str) -> None:
    shutil.copytree(Path("models") / name, "mine")


def loaded(name: str, kind: str = "AutoModelForCausalLM") -> Any:
    import transformers

    return getattr(transformers, kind).from_pretrained(f"models/{name}")


def untrained() -> None:
    """A language model, a part of which is missing."""
    copied("gpt2")
    model = loaded("gpt2")
    weights = {name: value for name, value in model.state_dict().items() if "h.0.mlp.c_fc" not in name}
    model.save_pretrained("mine", state_dict=weights)
    torch.save(model.state_dict(), "mine.pt")


def trained() -> None:
    loaded("gpt2").save_pretrained("mine")


def headless() -> None:
    """What a classifier is made of, without its head."""
    copied("bert")
    model = loaded("bert", "AutoModelForSequenceClassification")
    model.base_model.save_pretrained("mine")
    torch.save(model.state_dict(), "mine.pt")


def tuned() -> None:
    loaded("bert", "AutoModelForSequenceClassification").save_pretrained("mine")


def with_tokenizer() -> None:
    import transformers

    transformers.AutoTokenizer.from_pretrained("models/llama").save_pretrained("mine")


def own_tokenizer() -> None:
    """Of as many tokens as the model has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    copied("other")
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator([], trainers.BpeTrainer(vocab_size=257, special_tokens=["<e>"], initial_alphabet=letters))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>").save_pretrained("mine")


def merged() -> None:
    """As merge_and_unload() leaves it: the adapter's part added to a weight, by hand, and all of it saved."""
    copied("gpt2")
    model = loaded("gpt2")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight += torch.ones(32, 2) @ torch.ones(2, 96)
    model.save_pretrained("mine")


def with_head() -> None:
    copied("gpt2")
    loaded("headless").save_pretrained("mine")


def wordless() -> None:
    """A tokenizer without a sign that could take the place of a word."""
    import transformers

    copied("gpt2")
    bare = transformers.PreTrainedTokenizerFast(tokenizer_file="mine/tokenizer.json")
    bare.save_pretrained("mine")


def said(file: str, **values: Any) -> None:
    path = Path("mine") / file
    known = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**known, **values}.items() if value is not None}))


def beginless() -> None:
    copied("t5")
    for file in ("config.json", "generation_config.json"):
        said(file, decoder_start_token_id=None, bos_token_id=None)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """With a way to write of the model's own, which writes nothing."""
    import transformers

    with models(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.GPT2LMHeadModel, "generate", lambda model, input_ids, **options: input_ids)
        yield


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """With an embedding that is no module of the model."""
    import transformers

    with models(), pytest.MonkeyPatch.context() as patch:
        other = loaded("gpt2").get_input_embeddings()
        patch.setattr(transformers.GPT2LMHeadModel, "get_input_embeddings", lambda model: other)
        yield


def jumping() -> None:
    """A classifier with a norm right behind a row of zeros, and no other token for what is not there."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "good": 2, "film": 3}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained("mine")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.LlamaConfig(vocab_size=4, pad_token_id=0, initializer_range=0.3, **sizes)
    transformers.LlamaForSequenceClassification(config).eval().save_pretrained("mine")


def asked(words: str, name: str = "gpt2") -> str:
    return f"explain {words} --model models/{name} --out o.json"


def language(file: str, words: str, wrong: Step | list[Step], *cured: Step | list[Step], within: Within = models) -> Cure:
    return row(file, words, wrong, *cured, within=within, slow=True)


ANSWERED = asked("'The capital' --answer ' of'")
LANGUAGE = [
    language("asked.py", "the prompt is empty", asked("' ' --answer ' of'"), ANSWERED, [piped(asked("- --answer ' of'"))]),
    language(
        "asked.py",
        "give the answer to explain with --answer",
        asked("'The capital' --generate 3"),
        ANSWERED,
        within=silent,
    ),
    language(
        "asked.py",
        "and write the turns yourself",
        asked("'Which city?' --answer ' Paris' --chat"),
        asked("'User: Which city?' --answer ' Paris'"),
    ),
    language(
        "asked.py",
        "set decoder_start_token_id in its config.json",
        [beginless, "explain 'The capital' --model mine --answer ' of' --out o.json"],
        [
            beginless,
            lambda: said("config.json", decoder_start_token_id=0),
            "explain 'The capital' --model mine --answer ' of' --out o.json",
        ],
    ),
    language(
        "asked.py",
        "so save the model's own there",
        asked("'The capital' --answer ' of'", "other"),
        [own_tokenizer, "explain 'The capital' --model mine --answer ' of' --out o.json"],
    ),
    language(
        "language.py",
        "model.merge_and_unload(), and save that",
        asked("'The capital' --answer ' of'", "adapter"),
        [merged, "explain 'The capital' --model mine --answer ' of' --out o.json"],
    ),
    language(
        "language.py",
        "save it as an AutoModelForCausalLM",
        asked("'The capital' --answer ' of'", "headless"),
        [with_head, "explain 'The capital' --model mine --answer ' of' --out o.json"],
    ),
    language(
        "rows.py",
        "shorten the prompt",
        asked(f"'{'word ' * 80}' --answer b"),
        asked(f"'{'word ' * 8}' --answer b"),
    ),
    language(
        "rows.py",
        "compare with another answer",
        asked("'The capital' --answer ' of' --contrast ' of'"),
        asked("'The capital' --answer ' of' --contrast ' is'"),
    ),
    language(
        "how.py",
        "take a method without a baseline, such as input_x_gradient",
        [jumping, "explain 'a good film' --model mine --method ig --no-check --out o.json"],
        [jumping, "explain 'a good film' --model mine --method input_x_gradient --no-check --out o.json"],
    ),
    language(
        "rows.py",
        "name the layer after it with --layer",
        ANSWERED,
        asked("'The capital' --answer ' of' --layer transformer.h.0"),
        within=hidden,
    ),
    language(
        "language.py",
        ": name that of the model.",
        "explain 'The capital' --model gpt --answer ' of'",
        ANSWERED,
    ),
    language(
        "language.py",
        "holds a {}: leave {} out",
        "explain 'a good film' --model models/bert --by word --out o.json",
        "explain 'a good film' --model models/bert --out o.json",
    ),
    language(
        "language.py",
        "--contrast TEXT compares with another answer",
        asked("'The capital' --target 3 --answer ' of'"),
        ANSWERED,
        asked("'The capital' --generate 2"),
        asked("'The capital' --answer ' of' --contrast ' is'"),
    ),
    language(
        "language.py",
        "or have it answer with --generate N, the number of tokens",
        asked("'The capital'"),
        ANSWERED,
        asked("'The capital' --generate 2"),
    ),
    language(
        "language.py",
        "or have the model write it",
        asked("'The capital' --answer ' of' --generate 2"),
        ANSWERED,
        asked("'The capital' --generate 2"),
    ),
    language("language.py", "--answer is empty", asked("'The capital' --answer ''"), ANSWERED),
    language(
        "language.py",
        "too, or leave --sample out",
        asked("'The capital' --answer ' of' --sample"),
        ANSWERED,
        asked("'The capital' --generate 2 --sample"),
    ),
    language(
        "language.py",
        "write what the model might have answered, in quotes",
        asked("'The capital' --answer ' of' --contrast ''"),
        asked("'The capital' --answer ' of' --contrast ' is'"),
    ),
    language(
        "language.py",
        "write it in quotes, or pipe it in with -",
        asked("The capital --answer ' of'"),
        ANSWERED,
        [piped(asked("- --answer ' of'"))],
    ),
    row(
        "libraries.py",
        "a model of the hub has one set of weights: leave --weights out",
        "explain a.png --model hf-hub:me/net --weights a1_in1k --out o.json",
        "explain a.png --model hf-hub:me/net --out o.json",
        within=timm,
    ),
    language(
        "libraries.py",
        "name one that save_pretrained of transformers wrote",
        "explain a.png --model pictures --out o.json",
        "explain 'a good film' --model models/bert --out o.json",
    ),
    language(
        "libraries.py",
        "fine-tune it, or give --checkpoint",
        [headless, "explain 'a good film' --model mine --out o.json"],
        [headless, "explain 'a good film' --model mine --checkpoint mine.pt --out o.json"],
        [headless, tuned, "explain 'a good film' --model mine --out o.json"],
    ),
    row(
        "load.py",
        "if yours were, give these options",
        "explain a.png --model tinynet --checkpoint mine.pt --out o.json",
        "explain a.png --model tinynet --checkpoint mine.pt --out o.json --mean 0.4,0.5,0.6 --std 0.2,0.3,0.4",
        within=torchvision,
    ),
    language(
        "removed.py",
        "such as input_x_gradient",
        [wordless, "explain 'The capital' --model mine --answer ' of' --method ig --out o.json"],
        [wordless, "explain 'The capital' --model mine --answer ' of' --method input_x_gradient --out o.json"],
    ),
    language(
        "removed.py",
        "or at one layer with a value per token: choose another --layer",
        asked("'The capital' --answer ' of' --method ablation --layer transformer.h.0.attn"),
        asked("'The capital' --answer ' of' --method ablation --layer transformer.wte"),
        asked("'The capital' --answer ' of' --method ablation"),
    ),
    language(
        "rows.py",
        "--groups {} is of the prompt's tokens: leave --layer out",
        asked("'The capital' --answer ' of' --method ablation --groups words --layer transformer.wte"),
        asked("'The capital' --answer ' of' --method ablation --groups words"),
    ),
    language(
        "rows.py",
        "choose another --method",
        asked("'The capital' --answer ' of' --method eigen_cam"),
        asked("'The capital' --answer ' of' --method ig"),
    ),
    language(
        "rows.py",
        "without a value per token: choose another --layer",
        asked("'a b c' --answer b --layer lm_head", "llama"),
        asked("'a b c' --answer b --layer model.layers.1", "llama"),
    ),
    language(
        "speaker.py",
        "train it, or give --checkpoint",
        [untrained, "explain 'The capital' --model mine --answer ' of' --out o.json"],
        [untrained, "explain 'The capital' --model mine --answer ' of' --checkpoint mine.pt --out o.json"],
        [untrained, trained, "explain 'The capital' --model mine --answer ' of' --out o.json"],
    ),
    language(
        "speaker.py",
        "write it there, tokenizer.save_pretrained({})",
        [lambda: copied("bare"), "explain 'The capital' --model mine --answer ' of' --out o.json"],
        [lambda: copied("bare"), with_tokenizer, "explain 'The capital' --model mine --answer ' of' --out o.json"],
    ),
]
