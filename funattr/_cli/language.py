"""``funattr explain`` of a language model: which words of the prompt made it write this answer?"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import funattr as fa

from . import asked, gap, keep, rows, speaker
from .how import QUADRATURES, STEPS
from .libraries import is_known
from .load import is_code
from .pieces import words_of
from .source import Source
from .words import choices, listed, mistake, say

#: The options that only language models have, and those that they have not.
OWN = ("answer", "generate", "sample", "contrast", "chat", "by", "dtype")
_NOT = ("size", "mean", "std", "channels", "labels", "lines", "raw")
_DEFAULT = "input_x_gradient"
_WIDEST = 24  # of a token's text, in the table
_SHOWN = 24  # tokens of an answer, in its line
_EVERY = 10.0  # seconds between lines of progress


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("language models", "what made a model of transformers answer PROMPT, token by token")
    group.add_argument("--answer", metavar="TEXT", help="what it answered, as it is: ' Paris' and 'Paris' differ")
    group.add_argument("--generate", type=_count, metavar="N", help="have it write the answer, at most N new tokens")
    group.add_argument("--sample", action="store_true", help="draw these tokens, from the --seed, in place of the likeliest")
    group.add_argument("--contrast", metavar="TEXT", help="why the answer's token and not TEXT's, where they first differ")
    group.add_argument("--chat", action="store_true", help="the prompt is a user's message, in the tokenizer's chat template")
    group.add_argument("--by", choices=("token", "word"), help="what a column is (default: token)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: float32)")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number of tokens, got {text!r}.")
    return int(text)


def given(arguments: argparse.Namespace) -> list[str]:
    """The options of language models that the user gave."""
    return [f"--{name}" for name in OWN if getattr(arguments, name) not in (None, False)]


def refuse(arguments: argparse.Namespace) -> None:
    """Say that the model is no language model, where it is treated as one.

    Raises:
        argparse.ArgumentError: it is.
    """
    options, name = given(arguments), arguments.model
    if (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file():
        raise mistake(
            f"{name!r} holds an adapter without its model: merge them with peft, model.merge_and_unload(), and save that."
        )
    if not options:
        return
    if not Path(name).is_dir() and not is_code(name) and not is_known(name):
        folders = [each.name for each in Path().iterdir() if (each / "config.json").is_file()]
        raise mistake(f"there is no folder {name!r}{choices(name, folders) if folders else ': name that of the model.'}")
    verb, them = ("is", "it") if len(options) == 1 else ("are", "them")
    if kind := speaker.held(name):
        if kind.endswith("Model"):
            raise mistake(f"{name!r} holds a {kind}, which has no head to write with: save it as an AutoModelForCausalLM.")
        raise mistake(f"{listed(options)} {verb} for models that write text, and {name!r} holds a {kind}: leave {them} out.")
    raise mistake(
        f"{listed(options)} {verb} for language models, and {name!r} is none of transformers: leave {them} out, or name the "
        "folder of a model that writes text, with its tokenizer."
    )


def run(arguments: argparse.Namespace, kind: str, wanted: Sequence[str], prompts: Sequence[str]) -> int:
    """Print the answer and what made it, and write the file.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    out = Path(arguments.out or "explained.html")
    _check(arguments, prompts, out)
    prompt = asked.prompt_of(prompts[0])
    model = speaker.load(arguments, kind)
    say("model", f"{model.title}, {arguments.dtype or 'float32'}")
    exchange = asked.ask(model, prompt, arguments)
    of = rows.question(model, exchange, speaker.filler(model), arguments)
    _tell(of)
    every, found = exchange.every, {}
    kept = None
    for name in wanted or [_DEFAULT]:
        try:
            with _progress(name):
                row = rows.explained(of, name, arguments)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{name} was not done; nothing was written.") from None
        texts = [every.texts[i] for i in row.columns]
        groups = _words(of, row.columns) if arguments.by == "word" else range(len(texts))
        columns = ["".join(text for text, word in zip(texts, groups) if word == g) for g in dict.fromkeys(groups)]
        assert kept is None or list(kept.columns) == columns  # all are at one layer, or have all tokens
        found[name] = rows.joined(row.values, list(groups))
        kept = keep.Kept(exchange, of.log_probs, columns, of.filler, of.contrast, found)
        _table(row, columns, found[name].sum(0).tolist(), arguments)
    assert kept is not None
    keep.write(out, kept)
    say("wrote", str(out))
    return 0


def read(arguments: argparse.Namespace, kind: str, prompt: str | None) -> tuple[Source, Any, str]:
    """A language model and what it reads, for the table of its layers.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: transformers is missing.
    """
    model = speaker.load(arguments, kind)
    text = "a text" if prompt is None else asked.prompt_of(prompt)
    x = asked.to_read(model, text).x(arguments.device)
    told = f"{'a short text' if prompt is None else 'the prompt'}, {x['input_ids'].shape[1]} tokens"
    return Source(model.model, model.title, tokenizer=model.tokenizer), x, told


def _check(arguments: argparse.Namespace, prompts: Sequence[str], out: Path) -> None:
    """What can be known to be wrong before anything is loaded."""
    name = arguments.model
    if arguments.target is not None:
        raise mistake(
            f"--target names a class, and {name!r} writes text: say what it answered with --answer TEXT, or have it answer "
            "with --generate N; --contrast TEXT compares with another answer."
        )
    if wrong := [f"--{option}" for option in _NOT if getattr(arguments, option) not in (None, False)]:
        raise mistake(
            f"{listed(wrong)} {'is' if len(wrong) == 1 else 'are'} for pictures and classes, and {name!r} writes text."
        )
    if arguments.answer is None and arguments.generate is None:
        raise mistake(
            f"{name!r} writes text: say what it answered with --answer TEXT, or have it answer with --generate N, the number "
            "of tokens."
        )
    if arguments.answer is not None and arguments.generate is not None:
        raise mistake("--answer and --generate exclude each other: give the answer, or have the model write it.")
    if arguments.answer == "":
        raise mistake("--answer is empty: write what the model answered, in quotes.")
    if arguments.sample and arguments.generate is None:
        raise mistake("--sample draws the answer that --generate N has the model write: give that, too, or leave --sample out.")
    if arguments.contrast == "":
        raise mistake("--contrast is empty: write what the model might have answered, in quotes.")
    if len(prompts) != 1:
        many = f"got {len(prompts)}" if prompts else "there is none"
        raise mistake(f"a language model explains one PROMPT, and {many}: write it in quotes, or pipe it in with -.")
    keep.check(out)


def _tell(of: rows.Question) -> None:
    exchange, logs = of.asked, of.log_probs.tolist()
    read, texts = exchange.read, exchange.wrote.texts
    say("prompt", f"{_cut(exchange.prompt)}, {len(read.ids)} token{'s' * (len(read.ids) > 1)}")
    each = ", ".join(f"{text!r} {p:.4f}" for text, p in zip(texts[:_SHOWN], logs))
    more = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    count = f"{len(texts)} token{'s' * (len(texts) > 1)}"
    say("answer", f"{_cut(exchange.answer)}, {count}, log p {sum(logs):.4f}: {each}{more}")
    if of.contrast is not None:
        target = of.targets[0]
        say("contrast", f"{of.contrast.yes!r} against {of.contrast.no!r}, log-odds {_score(of, target):+.4f}")
    if exchange.seam:
        say("", exchange.seam)


def _score(of: rows.Question, target: Any) -> float:
    import torch

    with torch.no_grad():
        return float(target(of.model(**of.x)))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:97]} ... {text[-97:]}")


def _words(of: rows.Question, columns: Sequence[int]) -> list[int]:
    every, exchange = of.asked.every, of.asked
    ends = {len(exchange.read.ids), len(exchange.read.ids) + len(exchange.start.ids)}
    whole = words_of(every.texts, every.special, ends)
    first = whole[columns[0]]
    return [whole[i] - first for i in columns]


def _table(row: rows.Row, columns: Sequence[str], totals: Sequence[float], arguments: argparse.Namespace) -> None:
    say("method", f"{row.name} at {row.where}")
    if row.measured is not None:
        say("completeness", row.measured.line())
        if row.little:
            say("", row.little)
        elif row.measured.relative > gap.LARGE:
            steps, rule = arguments.n_steps or STEPS, arguments.quadrature or QUADRATURES[0]
            say("", gap.advice(row.name, steps, rule, row.measured.relative, arguments.layer is not None))
    shown = [repr(text) for text in columns]
    wide = min(_WIDEST, max(map(len, shown)))
    for number, (text, total) in enumerate(zip(shown, totals)):
        print(f"{number:5d}  {text:{wide}s}  {total:+.4f}")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[None]:
    """A bar where stderr is a terminal, and else a line now and then, of what takes long."""
    with fa.progress(None if sys.stderr.isatty() else _lines(name)):
        yield


def _lines(name: str) -> Callable[[int, int], None]:
    said = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal said
        if done < total and time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)

    return listen
