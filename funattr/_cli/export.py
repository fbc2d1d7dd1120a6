"""``funattr export``: a method of a model as a file that runs without this package, and without Python."""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import funattr as fa

from ..dataset._names import method_named
from . import methods
from .how import OPTIONS, STEPS, options_of, where_of
from .inputs import dummy, gather, read
from .load import load, warn_of
from .options import MODEL_HELP, add_command, add_model, positive
from .sites import Layers
from .targets import choose, shapes
from .words import answered, mistake

if TYPE_CHECKING:
    import torch

_EXAMPLES = """\
  funattr export --model my_net:Net --method grad_cam --layer layer4 --to cam.onnx
  funattr export --model resnet50 --method ig --n-steps 16 --target "tabby cat" --to ig.pt2
  funattr export --model path/to/bert --method ig --target each --to ig.pt2
"""
_SUFFIXES = (".pt2", ".onnx")


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    text = "Write a method of a model as a program: for torch.export, or for ONNX."
    parser = add_command(commands, "export", text, _EXAMPLES, run, MODEL_HELP)
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="an image file or a text, whose shape counts (default: grey, or short)"
    )
    parser.add_argument("--method", required=True, metavar="NAME", help="funattr methods lists them")
    parser.add_argument("--to", required=True, metavar="FILE", help="a .pt2, for torch.export.load, or a .onnx")
    parser.add_argument(
        "--target",
        default="argmax",
        metavar="CLASS",
        help="a number, a name, argmax, what is predicted for each example (default), or each: an input with a class for each",
    )
    parser.add_argument("--layer", metavar="NAME", help="where in the model; NAME@CALL for one run of several")
    parser.add_argument("--batch", type=positive, metavar="N", help="for batches of N examples (default: of any number)")
    parser.add_argument("--n-steps", type=positive, metavar="N", help=f"nodes on a path (default: {STEPS})")
    parser.add_argument("--chunk-size", type=positive, metavar="N", help="steps or groups at once: less takes less memory")
    add_model(parser)
    parser.set_defaults(**dict.fromkeys(set(OPTIONS) - {"n_steps", "chunk_size"}), seed=0, lines=False)


def run(arguments: argparse.Namespace) -> None:
    """Write the file, and print what is in it.

    Raises:
        argparse.ArgumentError: something does not fit, or it cannot be a program; the message says what.
        ImportError: an extra is missing.
    """
    name, file = methods.checked(arguments.method), Path(arguments.to)
    if file.suffix.lower() not in _SUFFIXES:
        raise mistake(f"--to must end with {' or '.join(_SUFFIXES)}, got {arguments.to!r}.")
    if not file.parent.is_dir():
        raise mistake(f"the folder {str(file.parent)!r} of --to does not exist: make it first, or choose another.")
    if file.suffix.lower() == ".onnx" and importlib.util.find_spec("onnxscript") is None:
        raise ImportError("ONNX files need onnxscript: pip install onnxscript")
    _check_options(name, arguments)
    source = load(arguments)
    one = arguments.input
    given = dummy(source, arguments) if one is None else read(source, gather(source, [one], arguments)[0], arguments)
    target = _target(source, given.x, arguments)
    where = where_of(name, given, target, Layers(source, given.x), arguments.layer)
    options = options_of(name, source, given, where, arguments)
    if "feature_mask" in options:
        options["feature_mask"] = options["feature_mask"].mask
    taken = methods.parameters(name)
    options = {key: value for key, value in {"target": target, **options}.items() if key in taken}
    x, batch = given.x, arguments.batch
    if batch is not None:
        x, options = _repeated(x, batch), {k: _repeated(v, batch) if k == "target" else v for k, v in options.items()}
    with answered():
        program = fa.export(method_named(name), source.model, x, dynamic_batch=batch is None, **options)
        _write(program, file)
    place = "at the input" if where is None else f"at {where.name}"
    print(f"model        {source.title}\nmethod       {name} {place}\ntakes        {_told(x, options, batch)}")
    print(f"wrote        {file} ({file.stat().st_size / 1000:,.0f} kB)")
    warn_of(source, arguments)


def _check_options(name: str, arguments: argparse.Namespace) -> None:
    if missing := methods.missing(name):
        raise mistake(f"{name} needs {', '.join(missing)}, which the command has no option for: call fa.export from Python.")
    for option in ("n_steps", "chunk_size"):
        if getattr(arguments, option) is not None and option not in methods.parameters(name):
            raise mistake(f"--{option.replace('_', '-')} is no option of {name}.")


def _target(source: Any, x: Any, arguments: argparse.Namespace) -> Any:
    """What is explained: a class, the one predicted for each example, or one for each, which goes into the program."""
    import torch

    chosen = choose(source, x, "argmax" if arguments.target == "each" else arguments.target)
    if arguments.target == "each":
        if chosen.target is None:
            raise mistake("the model puts out one number, so there is no class to choose: leave --target out.")
        return torch.tensor([chosen.target], device=arguments.device)
    return "argmax" if arguments.target == "argmax" and chosen.target is not None else chosen.target


def _repeated(value: Any, count: int) -> Any:
    """One example, so many times."""
    import torch

    if isinstance(value, Mapping):
        return {key: _repeated(each, count) for key, each in value.items()}
    return value.repeat_interleave(count, 0) if isinstance(value, torch.Tensor) else value


def _write(program: torch.export.ExportedProgram, file: Path) -> None:
    import torch

    if file.suffix.lower() == ".pt2":
        torch.export.save(program, file)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch, which nobody here can heed
        made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    made.save(file)


def _told(x: Any, options: Mapping[str, Any], batch: int | None) -> str:
    """The inputs of the program."""
    target = " and target, a class for each" if hasattr(options.get("target"), "shape") else ""
    return f"{shapes(x)}{target}{', in batches of any size' if batch is None else ''}"
