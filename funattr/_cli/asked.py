"""What is explained of a language model: a prompt and its answer, as ids; the user's answer, or the model's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .pieces import Pieces, decoded, tokenized
from .speaker import Speaker
from .words import answered, check_utf8, mistake

if TYPE_CHECKING:
    from torch import Tensor


class Asked(NamedTuple):
    """A prompt and an answer."""

    prompt: str
    answer: str
    read: Pieces
    """What the model is given."""
    start: Pieces
    """The token with which a decoder of its own begins, if there is one."""
    wrote: Pieces
    """The tokens of the answer."""
    seam: str = ""
    """What is to be known of where the two meet."""

    @property
    def every(self) -> Pieces:
        return self.read.then(self.start).then(self.wrote)

    def x(self, device: Any) -> dict[str, Tensor]:
        """The model's input."""
        import torch

        if not self.start.ids:
            return {"input_ids": torch.tensor([self.read.ids + self.wrote.ids], device=device)}
        sides = {"input_ids": self.read.ids, "decoder_input_ids": self.start.ids + self.wrote.ids}
        return {name: torch.tensor([ids], device=device) for name, ids in sides.items()}


def prompt_of(given: str) -> str:
    """The prompt, as it is; of a .txt file or standard input without the line break at its end.

    Raises:
        argparse.ArgumentError: it is empty, or there is no such file.
    """
    text = given
    if given == "-":
        with answered("cannot read standard input as UTF-8"):
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        text = text.removesuffix("\n").removesuffix("\r")
    elif given.endswith(".txt") and len(given) < 256 and "\n" not in given:
        if not Path(given).is_file() and " " not in given:
            raise mistake(f"there is no file {given!r}.")
        if Path(given).is_file():
            with answered(f"cannot read {given!r} as UTF-8"):
                text = Path(given).read_bytes().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    check_utf8(text, "the prompt")
    if not text.strip():
        raise mistake("the prompt is empty: write it in quotes, or pipe it in with -.")
    return text


def to_read(speaker: Speaker, prompt: str) -> Asked:
    """The prompt alone.

    Raises:
        argparse.ArgumentError: it has no tokens.
    """
    with answered("making the prompt ready by its tokenizer failed"):
        read = tokenized(speaker.tokenizer, prompt, signs=True)
    if not read.ids:
        raise mistake("the prompt has no tokens: the tokenizer knows none of it.")
    found = Asked(prompt, "", read, _start(speaker), Pieces([], [], []))
    _check_ids(speaker, found)
    return found


def ask(speaker: Speaker, prompt: str, arguments: argparse.Namespace) -> Asked:
    """The prompt and the answer as ids; the model writes the answer where it is to.

    Raises:
        argparse.ArgumentError: they have no tokens, or the model fails.
    """
    text = _chat(speaker, prompt) if arguments.chat else prompt
    with answered("making the prompt ready by its tokenizer failed"):
        read = tokenized(speaker.tokenizer, text, signs=not arguments.chat)
    if not read.ids:
        raise mistake("the prompt has no tokens: the tokenizer knows none of it.")
    start = _start(speaker)
    if arguments.answer is None:
        with answered("the model failed to write"):
            ids = _generated(speaker, read, arguments)
        if not ids:
            raise mistake("the model wrote nothing: give the answer to explain with --answer.")
        before = [] if start.ids else read.ids
        wrote = decoded(speaker.tokenizer, ids, before)
        asked = Asked(prompt, "".join(wrote.texts), read, start, wrote)
    else:
        wrote = answer_of(speaker, arguments.answer, "--answer")
        seam = "" if start.ids else _seam(speaker, text, arguments.answer, read, wrote)
        asked = Asked(prompt, arguments.answer, read, start, wrote, seam)
    _check_ids(speaker, asked)
    return asked


def answer_of(speaker: Speaker, text: str, option: str) -> Pieces:
    """What the model might have written, as ids, without the tokenizer's signs."""
    check_utf8(text, option)
    with answered(f"making {option} ready by its tokenizer failed"):
        found = tokenized(speaker.tokenizer, text, signs=False)
    if not found.ids:
        raise mistake(f"{option} {text!r} has no tokens: the tokenizer drops all of it.")
    return found


def _chat(speaker: Speaker, prompt: str) -> str:
    if not getattr(speaker.tokenizer, "chat_template", None):
        raise mistake(
            f"the tokenizer of {speaker.name!r} has no chat template: leave --chat out, and write the turns yourself."
        )
    with answered("the chat template failed"):
        message = {"role": "user", "content": prompt}
        return str(speaker.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def _start(speaker: Speaker) -> Pieces:
    if not speaker.has_encoder:
        return Pieces([], [], [])
    model: Any = speaker.model
    for config in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            number = getattr(config, name, None)
            if isinstance(number, int):
                return Pieces([number], [str(speaker.tokenizer.convert_ids_to_tokens(number))], [True])
    raise mistake(f"{speaker.name!r} does not say what its decoder begins with: set decoder_start_token_id in its config.json.")


def _generated(speaker: Speaker, read: Pieces, arguments: argparse.Namespace) -> list[int]:
    """What the model writes, at most so many tokens: the likeliest each time, or drawn from the seed."""
    import torch

    model: Any = speaker.model
    ids = torch.tensor([read.ids], device=arguments.device)
    options: dict[str, Any] = {"do_sample": arguments.sample, "num_beams": 1, "max_new_tokens": arguments.generate}
    if model.generation_config.pad_token_id is None:
        options["pad_token_id"] = speaker.tokenizer.pad_token_id or speaker.tokenizer.eos_token_id or 0
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(arguments.seed)
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return [int(number) for number in out[0, 1 if speaker.has_encoder else ids.shape[1] :]]


def _seam(speaker: Speaker, text: str, answer: str, read: Pieces, wrote: Pieces) -> str:
    """Whether the two in one text would have other tokens."""
    together = tokenized(speaker.tokenizer, text + answer, signs=False)
    apart = tokenized(speaker.tokenizer, text, signs=False).ids + wrote.ids
    if together.ids == apart:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(together.ids, apart)) if a != b), min(len(together.ids), len(apart)))
    names = [speaker.tokenizer.convert_ids_to_tokens(ids[same : same + 3]) for ids in (together.ids, apart)]
    return (
        f"in one text, prompt and answer would be tokenised otherwise: {' '.join(names[0])} in place of {' '.join(names[1])}; "
        "a blank belongs to the answer, if anywhere"
    )


def _check_ids(speaker: Speaker, asked: Asked) -> None:
    rows = speaker.embedding.weight.shape[0]
    for number, text in zip(asked.every.ids, asked.every.texts):
        if number >= rows:
            raise mistake(
                f"the token {text!r} has the id {number}, and the model's embedding has {rows} rows: the tokenizer is another "
                "model's, so save the model's own there."
            )
