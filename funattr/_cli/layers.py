"""``funattr layers``: what ``--layer`` may name."""

from __future__ import annotations

import argparse
from typing import Any

from .inputs import dummy, gather, read
from .load import load
from .options import MODEL_HELP, add_command, add_model
from .sites import Layers

_EXAMPLES = """\
  funattr layers --model resnet50
  funattr layers --model my_net:build --size 32
  funattr layers cat.png --model my_net:build
  funattr layers "A moving film." --model path/to/bert
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
    source = load(arguments)
    given = (
        dummy(source, arguments)
        if arguments.input is None
        else read(source, gather(source, [arguments.input], arguments)[0], arguments)
    )
    layers = Layers(source, given.x)
    table = layers.table
    print(f"{source.title}, {given.told}\n")
    print(table)
    if suiting := layers.suiting():
        print(f"\nCAM: the {len(suiting)} layers that suit Grad-CAM and run once; the last is {suiting[-1].name}.")
