"""The options that several commands share: which model, and what goes into it."""

from __future__ import annotations

import argparse
import contextlib
import math
from typing import Any

MODEL_HELP = """\
models:
  my_net:build            in module my_net (the current folder is looked in): a class or a function that makes the model
                          when called without arguments, or the model itself
  resnet50                a name of torchvision or timm; torchvision/resnet50 and timm/resnet50 say which
  path/to/folder          what transformers saved with save_pretrained: an image or a text classifier, or a language model
  transformers/org/name   the same, from the model hub

what goes in:
  torchvision, timm and transformers models bring their own preprocessing. For a model of yours it is, in this order: the
  function `preprocess` of the model or of its module (an image of pillow to a tensor [C, H, W]; a text to a pair: the input,
  and the list of its tokens), or --size, --mean and --std, or the image as it is, in [0, 1]. The list `classes` of the model
  or of its module names the classes.
"""


def add_model(parser: argparse.ArgumentParser, *, needed: bool = True, device: str | None = "cpu") -> None:
    """Declare the options that say which model, and how inputs are made ready for it."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", required=needed, metavar="MODEL", help="package.module:factory, or a name; see below")
    group.add_argument(
        "--checkpoint", metavar="FILE", help="weights to load: .safetensors, or what torch.save wrote of a state_dict"
    )
    group.add_argument(
        "--weights",
        metavar="NAME",
        help="which of the weights of torchvision (IMAGENET1K_V2) or timm (a1_in1k); none: random (default: the library's own)",
    )
    group.add_argument("--labels", metavar="FILE", help="the names of the classes: one per line, or JSON")
    group.add_argument("--device", default=device, help="where to compute: cpu, cuda, cuda:1, mps (default: cpu)")
    group.add_argument("--size", type=size, metavar="HxW", help="resize images to this: 224, or 224x320")
    group.add_argument(
        "--mean", type=numbers, metavar="M[,M,M]", help="subtract this from values in [0, 1]: 0.5, or one per channel"
    )
    group.add_argument("--std", type=numbers, metavar="S[,S,S]", help="then divide by this")
    group.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="grey or RGB (default: what the first convolution takes, else the image's own)",
    )
    parser.add_argument("--traceback", action="store_true", help="after a mistake, show Python's traceback too")


def size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f"must be a size such as 224 or 224x320, got {text!r}.")
    return int(parts[0]), int(parts[-1])


def numbers(text: str) -> tuple[float, ...]:
    with contextlib.suppress(ValueError):
        found = tuple(float(part) for part in text.split(","))
        if all(map(math.isfinite, found)):
            return found
    raise argparse.ArgumentTypeError(f"must be a number, or several with commas, got {text!r}.")


def seed(text: str) -> int:
    """A number that torch takes for one."""
    with contextlib.suppress(ValueError):
        if -(2**63) <= int(text) < 2**64:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be an integer of at most 64 bits, got {text!r}.")


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}.")
    return int(text)


def add_command(commands: Any, name: str, text: str, examples: str, run: Any, more: str = "") -> argparse.ArgumentParser:
    """A subcommand with a description and examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=f"{text[0].lower()}{text[1:]}".rstrip("."),
        description=text,
        epilog=f"examples:\n{examples}" + (f"\n{more}" if more else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser
