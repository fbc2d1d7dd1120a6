"""``funattr layers``: what ``--layer`` may name."""

from __future__ import annotations

import argparse
from typing import Any

from . import language, speaker
from .inputs import dummy, gather, read
from .load import load
from .options import MODEL_HELP, add_command, add_model
from .sites import Layers

_EXAMPLES = """\
  funattr layers --model resnet50
  funattr layers --model my_net:build --size 32
  funattr layers cat.png --model my_net:build
  funattr layers "A moving film." --model path/to/bert
  funattr layers "The capital of France is" --model path/to/llama
"""


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    parser = add_command(commands, "layers", "List the layers of a model, for --layer.", _EXAMPLES, run, MODEL_HELP)
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="an image file or a text (default: a grey image or a short text)"
    )
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the table of `funattr.layers`.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    if kind := speaker.architecture(arguments.model):
        source, x, told = language.read(arguments, kind, arguments.input)
        _print(f"{source.title}, {told}", Layers(source, x))
        return
    source = load(arguments)
    given = (
        dummy(source, arguments)
        if arguments.input is None
        else read(source, gather(source, [arguments.input], arguments)[0], arguments)
    )
    _print(f"{source.title}, {given.told}", Layers(source, given.x))


def _print(title: str, layers: Layers) -> None:
    table = layers.table
    print(f"{title}\n")
    print(table)
    if suiting := layers.suiting():
        print(f"\nCAM: the {len(suiting)} layers that suit Grad-CAM and run once; the last is {suiting[-1].name}.")
