"""A language model of transformers with its tokenizer, out of a folder."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoint import load_checkpoint
from .libraries import needed
from .load import device_of
from .words import answered, listed, mistake

if TYPE_CHECKING:
    from torch import nn

#: How the classes are called that write text: GPT2LMHeadModel, LlamaForCausalLM, T5ForConditionalGeneration.
_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "EncoderDecoderModel")
_TOKENIZERS = ("tokeniz", "vocab", "merges", "spiece", "sentencepiece", ".model", ".tiktoken")


class Speaker(NamedTuple):
    """A language model that is ready, on its device."""

    model: nn.Module
    tokenizer: Any
    title: str
    name: str
    has_encoder: bool

    @property
    def takes_kept(self) -> bool:
        """Whether it computes logits for the last positions only, where it is asked to."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @property
    def embedding(self) -> Any:
        model: Any = self.model
        return model.get_input_embeddings()


def architecture(name: str) -> str | None:
    """The class of the language model that a folder, or a name of the hub, holds; None of what is none."""
    for found in _architectures(name):
        if found.endswith(_ENDINGS):
            return found
    return None


def held(name: str) -> str | None:
    """The class of whatever a folder holds, where it says so."""
    return next(iter(_architectures(name)), None)


def _architectures(name: str) -> list[str]:
    file = Path(name) / "config.json"
    if Path(name).is_dir():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whoever loads it says what is wrong
            return []
        return list(found.get("architectures") or ()) if isinstance(found, dict) else []
    if not name.startswith("transformers/"):
        return []
    config = needed("transformers", "transformers").AutoConfig
    with answered(f"transformers cannot load {name.partition('/')[2]!r}"):
        return list(config.from_pretrained(name.partition("/")[2]).architectures or ())


def load(arguments: argparse.Namespace, kind: str) -> Speaker:
    """The model and its tokenizer.

    Raises:
        argparse.ArgumentError: one is missing, or they do not belong together.
        ImportError: transformers is missing.
    """
    import torch

    transformers = needed("transformers", "transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = arguments.model.removeprefix("transformers/") if not Path(arguments.model).is_dir() else arguments.model
    if arguments.weights is not None:
        raise mistake("--weights chooses among those of torchvision and timm: a model of transformers has one set.")
    device = device_of(arguments.device)
    tokenizer = _tokenizer(transformers, name)
    with answered(f"transformers cannot load {name!r}"):
        config = transformers.AutoConfig.from_pretrained(name)
        has_encoder = bool(getattr(config, "is_encoder_decoder", False))
        auto = transformers.AutoModelForSeq2SeqLM if has_encoder else transformers.AutoModelForCausalLM
        model, told = getattr(transformers, kind, auto).from_pretrained(name, output_loading_info=True)
    if (missing := sorted(told["missing_keys"])) and arguments.checkpoint is None:
        raise mistake(f"{name!r} is no trained language model, it lacks {listed(missing, 4)}: train it, or give --checkpoint.")
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise mistake(f"{name!r} is a {kind}, which reads {model.main_input_name}, no text: this command explains texts.")
    title = f"{name} ({type(model).__name__})"
    if arguments.checkpoint is not None:
        load_checkpoint(model, arguments.checkpoint)
        title = f"{title}, weights of {arguments.checkpoint}"
    dtype = getattr(arguments, "dtype", None) or "float32"
    with answered(f"cannot move the model to {arguments.device} as {dtype}"):
        model.to(device=device, dtype=getattr(torch, dtype)).eval()
    return Speaker(model, tokenizer, title, name, has_encoder)


def _tokenizer(transformers: Any, name: str) -> Any:
    folder = Path(name)
    if folder.is_dir() and not any(part in file.name for file in folder.iterdir() for part in _TOKENIZERS):
        raise mistake(f"the folder {name!r} has no tokenizer: write it there, tokenizer.save_pretrained({name!r}).")
    with answered(f"transformers cannot load the tokenizer of {name!r}"):
        return transformers.AutoTokenizer.from_pretrained(name)


def filler(speaker: Speaker) -> int | None:
    """The id that takes the place of what is taken away: of padding, mask, unknown, end and beginning the first whose embedding
    is not all zeros. Normalised by its own size, a row of zeros has no direction, and its attributions would be rounding."""
    weight, tokenizer = speaker.embedding.weight, speaker.tokenizer
    for what in ("pad", "mask", "unk", "eos", "bos"):
        number = getattr(tokenizer, f"{what}_token_id", None)
        if number is not None and number < weight.shape[0] and bool((weight[number] != 0).any()):
            return int(number)
    return None
