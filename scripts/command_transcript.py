"""Run the commands of docs/command.md, and write what they print into the page: ``python scripts/command_transcript.py``.

The networks of the page are made here: one is trained, in a second, to tell noisy circles from squares; one that reads what is
said of films has its weights set by hand; a language model learns seven capitals in some seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from funattr.__main__ import main as funattr
from funattr._cli.job import source_of

PAGE = Path(__file__).parents[1] / "docs" / "command.md"
SIDE = 32


def shapes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``[count, 1, 32, 32]`` in [0, 1] of circles (0) and the outlines of squares (1), on noise."""
    classes = torch.arange(count) % 2
    radius = torch.randint(5, 9, (count, 1, 1), generator=generator)
    middle = torch.randint(9, SIDE - 9, (count, 2, 1, 1), generator=generator)
    rows, columns = (torch.arange(SIDE).view(shape) - middle[:, i] for i, shape in enumerate([(1, SIDE, 1), (1, 1, SIDE)]))
    circle = ((rows**2 + columns**2).sqrt() - radius).abs() < 1.2
    square = (torch.maximum(rows.abs(), columns.abs()) - radius).abs() < 1
    ink = torch.where(classes[:, None, None] == 0, circle, square).float()
    noise = 0.3 * torch.rand(count, SIDE, SIDE, generator=generator)
    return (0.7 * ink + noise)[:, None], classes


def train(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.kaiming_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(120):
        x, classes = shapes(64, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), classes).backward()
        optimizer.step()


def prepare(page: str) -> None:
    """Make the files that the page speaks of, in the current folder."""
    code = re.search(r"```python\n(# my_net\.py\n.*?)```", page, re.S)
    assert code is not None
    Path("my_net.py").write_text(code[1])
    sys.modules.pop("my_net", None)
    importlib.invalidate_caches()
    model: nn.Module = importlib.import_module("my_net").Net()
    train(model)
    torch.save(model.state_dict(), "my_net.pt")
    x, classes = shapes(200, torch.Generator().manual_seed(1))
    right = (model(x).argmax(1) == classes).float().mean()
    assert right > 0.97, f"only {right:.0%} right"
    drawn = [Image.fromarray((255 * one[0]).round().byte().numpy()) for one in x]
    drawn[1].save("shape.png")
    many = [Image.fromarray((255 * one[0]).round().byte().numpy()) for one in shapes(500, torch.Generator().manual_seed(2))[0]]
    sides = {"pictures": 256, "many": 64}
    for folder, images in (("pictures", drawn[:20]), ("many", many)):
        Path(folder).mkdir()
        for number, image in enumerate(images):
            image.resize((sides[folder],) * 2, Image.Resampling.BICUBIC).save(f"{folder}/{number:03d}.png")
    cut = Path("many/123.png")
    cut.write_bytes(cut.read_bytes()[:500])
    texts()
    capitals()


CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo"}
CAPITALS |= {"Peru": "Lima", "Kenya": "Nairobi"}
SEASONS = ("winter", "spring", "summer", "autumn")


def capitals() -> None:
    """A language model in the folder ``capitals`` that has learned a few, whatever the season."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    said = [f"In {s}, the capital of {c} is {town}." for s in SEASONS for c, town in CAPITALS.items()]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    signs = ["<pad>", "<end>"]
    made.train_from_iterator(said, trainers.BpeTrainer(vocab_size=220, special_tokens=signs, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "initializer_range": 0.2}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(vocab_size=len(tokenizer), eos_token_id=1, bos_token_id=None, **sizes, **dropout)
    model = GPT2LMHeadModel(config).double()  # so that it learns the same on every machine
    rows = [torch.tensor(tokenizer(text + "<end>")["input_ids"]) for text in said]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.float().save_pretrained("capitals")
    tokenizer.save_pretrained("capitals")


def texts() -> None:
    """A classifier of texts in the folder ``bert``, and a file of reviews."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    logging.getLogger("transformers").setLevel(logging.ERROR)
    Path("vocabulary.txt").write_text("\n".join(VOCABULARY))
    tokenizer = BertTokenizerFast("vocabulary.txt", model_max_length=16)
    names = {0: "negative", 1: "positive"}
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        teach(model)
    model.save_pretrained("bert")
    tokenizer.save_pretrained("bert")
    Path("reviews.txt").write_text(
        "The film was unbelievably good.\nthe movie was a bad story\na long and boring story\n"
        "the actors were good and the music was good and the story was not moving\n"
    )


#: Some words are in pieces, as in the vocabularies that people have.
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "and", "the", "was", "were", "not", "film", "movie"]
VOCABULARY += ["story", "music", "actors", "un", "##believ", "##ably", "good", "great", "moving", "bad", "boring", "long"]
PRAISE = {"good": 2.0, "great": 3.0, "moving": 2.0, "bad": -2.0, "boring": -3.0, "long": -1.0, "##believ": 0.5}


def teach(model: Any) -> None:
    """Weights by hand: two numbers of a word are what it says of a film; attention brings their mean to the first token."""
    for parameter in model.parameters():
        parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
    words = model.bert.embeddings.word_embeddings.weight
    words += torch.tensor([0.0, 0, 1, -1, 1, -1, 0, 0])
    for word, praise in PRAISE.items():
        words[VOCABULARY.index(word), :2] = torch.tensor([praise, -praise])
    attention = model.bert.encoder.layer[0].attention
    for dense in (attention.self.value, attention.output.dense):
        dense.weight.copy_(torch.eye(8))
    model.bert.pooler.dense.weight[0, :2] = torch.tensor([3.0, -3.0])
    model.classifier.weight[:, 0] = torch.tensor([-1.5, 1.5])


def replay(page: str) -> str:
    """The page, with what its commands print now."""

    def run(block: re.Match[str]) -> str:
        lines = []
        for line in block[1].splitlines():
            if line.startswith("$ "):
                lines.append(line)
                lines += printed(line[2:])
        return "```console\n" + "\n".join(lines) + "\n```"

    return re.sub(r"```console\n(.*?)\n```", run, page, flags=re.S)


def printed(line: str) -> list[str]:
    """What a line of the shell prints: the command, with a text piped into it or not, or the first lines of a file."""
    words = shlex.split(line)
    if words[0] == "head":
        return Path(words[2]).read_text().splitlines()[: int(words[1][1:])]
    before, stdin = sys.stdin, None
    if words[0] == "echo":
        stdin, words = io.BytesIO(words[1].encode()), words[words.index("|") + 1 :]
    assert words[0] == "funattr", line
    out = io.StringIO()
    try:
        if stdin is not None:
            sys.stdin = io.TextIOWrapper(stdin)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            funattr(words[1:])
    finally:
        sys.stdin = before
    return out.getvalue().splitlines()


@contextlib.contextmanager
def workplace(page: str) -> Iterator[Path]:
    """A fresh folder with the page's files, as the current one."""
    before, path = os.getcwd(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            prepare(page)
            yield Path(folder)
        finally:
            os.chdir(before)
            sys.path[:] = path
            sys.modules.pop("my_net", None)
            source_of.cache_clear()


def main() -> None:
    page = PAGE.read_text()
    with workplace(page) as folder:
        PAGE.write_text(replay(page))
        shutil.copy(folder / "explained.png", PAGE.with_name("command.png"))
        shutil.copy(folder / "maps" / "002.png", PAGE.with_name("command-map.png"))
        photograph(folder / "why.html", PAGE.with_name("command-answer.png"))


def photograph(page: Path, out: Path) -> None:
    """The page of an answer in a browser, with the mouse on its first token."""
    sys.path.insert(0, str(PAGE.parents[1]))  # the browser is the tests'
    from tests.chromium import browser, find, settle

    if find() is None:
        print(f"{out.name}: not drawn, there is no chromium here")
        return
    with browser() as tab:
        tab.open(page.absolute().as_uri(), width=1000, height=540)
        settle(tab)
        left, top, wide, high = tab.box("[data-row='0']")
        tab.move(left + wide / 2, top + high / 2)
        settle(tab)
        Image.fromarray(tab.screenshot().astype("uint8")).quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    main()
