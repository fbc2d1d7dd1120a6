"""``funattr run``: methods over a folder of pictures, or over a data set as a file says."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import funattr as fa

from ..dataset._names import SHORT, at, method_named
from ..dataset._pictures import are_tables, names_in
from .how import OPTIONS
from .job import READY, Prepared, Ready, ready_for
from .load import is_code
from .options import MODEL_HELP, add_command, add_model, positive
from .words import answered, choices, mistake

_EXAMPLES = """\
  funattr run pictures/ --model resnet50 --out maps
  funattr run pictures/ --model my_net:Net --checkpoint my_net.pt --size 224 --method grad_cam ig --out maps
  funattr run job.toml
  funattr run job.toml --workers 4        what is not in the file, or otherwise than there
  funattr run job.toml --retry            the bad examples again
"""
_FILE = """\
job.toml:
  method = "grad_cam"             a method of funattr, short or in full, or "module:name"; or several, in a list
  model = "my_net:build"          a function that makes the model; the current folder is looked in; or as --model below
  data = "my_data:dataset"        what makes the data set, or the data set itself; or a folder of Parquet files or of pictures
  out = "attributions"
  target = "argmax"               and what else funattr.dataset.run takes: dtype, workers, engine, ...; and checkpoint, size,
  [arguments]                     mean, std, labels and weights, as below
  layer = "layer4"                the methods' own; of one of several in [arguments.grad_cam]

exit status: 0; 1 where examples have no result, which are named; 2 after a mistake; 130 after Ctrl-C. Run it again to go on.
"""
_NEEDED = ("method", "model", "data", "out")
_TOLD = 10  # examples that failed


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    text = "Attribute a data set, and go on where that was ended."
    parser = add_command(commands, "run", text, _EXAMPLES, run, f"{_FILE}\n{MODEL_HELP}")
    parser.add_argument("job", type=Path, metavar="JOB", help="a folder of pictures, or a TOML file that says what to do")
    parser.add_argument("--out", metavar="FOLDER", help="the folder of results")
    parser.add_argument("--method", action="extend", nargs="+", metavar="NAME", help="one or more (default: grad_cam)")
    parser.add_argument("--layer", metavar="NAME", help="where in the model (default: as in funattr explain)")
    parser.add_argument("--target", metavar="CLASS", help="a number, a name, argmax, or data: each example's own")
    for name in ("n-steps", "n-samples", "chunk-size"):
        parser.add_argument(f"--{name}", type=positive, metavar="N", help="as in funattr explain")
    parser.add_argument("--quadrature", metavar="RULE", help="as in funattr explain")
    for name, told in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=positive, metavar="N", help=told)
    parser.add_argument("--engine", choices=("local", "ray"), help="this machine, or Ray Data")
    parser.add_argument("--retry", action="store_true", default=None, help="the bad examples again, and nothing else")
    parser.add_argument("--strict", action="store_true", default=None, help="stop at the first bad example")
    parser.add_argument("--quiet", action="store_true", help="no bar, and no lines of progress")
    add_model(parser, needed=False, device=None)


_NUMBERS = {
    "batch-size": "examples that are explained together",
    "part-size": "examples in one file",
    "workers": "processes that compute",
    "loaders": "processes that read ahead, for each worker",
    "threads": "threads of each worker",
}


def run(arguments: argparse.Namespace) -> int:
    """Do what the file says, and print what was done.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    name = str(arguments.job)
    job: dict[str, Any] = {"data": name} if arguments.job.is_dir() else _read(arguments.job)
    own = job.pop("arguments", {})
    if not isinstance(own, dict):
        raise mistake(f"{name}: arguments must be a table, [arguments] with a line for each, got {own!r}.")
    own = dict(own)
    known = [*_run_takes(), *READY]
    for key in job:
        if key not in known:
            raise mistake(f"{name}: there is no {key!r}{choices(key, [*known, 'arguments'], 30)}")
    job |= {key: value for key in known if (value := getattr(arguments, key, None)) is not None}
    own |= {key: value for key in ("layer", *OPTIONS) if (value := getattr(arguments, key, None)) is not None}
    pictures = _is_pictures(job.get("data"))
    if pictures:
        job = {"method": "grad_cam", "target": "argmax"} | job
    if missing := [key for key in _NEEDED if key not in job]:
        if arguments.job.is_dir():
            raise mistake(f"{name} is a folder: give --{missing[0]} as well.")
        raise mistake(f"{name} must say {missing[0]}, as in {missing[0]} = {_SAY[missing[0]]}; or give --{missing[0]}.")
    job.setdefault("progress", not arguments.quiet)
    out = job["out"]
    with answered("" if pictures else name), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "none of .* was explained")  # they are all named at the end
        found = _started(job, own, pictures)
    print(f"explained {found.explained}, failed {found.failed}, skipped {found.skipped}; results in {out}")
    return _failures(out)


_SAY = {"method": '"grad_cam"', "model": '"my_net:build"', "data": '"my_data:dataset"', "out": '"attributions"'}


def _started(job: dict[str, Any], own: dict[str, Any], pictures: bool) -> Any:
    """The run, with names in the place of what they stand for."""
    for key in ("data", "transform", "pool"):
        if ":" in str(job.get(key, "")):
            job[key] = _object(job[key])
    given = {key: job.pop(key) for key in READY if key in job}
    names = _listed(job.pop("method"))
    methods = {SHORT.get(each, each): method_named(each) for each in names}
    own = {SHORT.get(key, key) if isinstance(value, dict) else key: value for key, value in own.items()}
    shared = {key: value for key, value in own.items() if not isinstance(value, dict)}
    options = {each: dict(own.get(each, {})) for each in methods}
    _check_taken(methods, shared, [key for key, value in own.items() if isinstance(value, dict)])
    model = job.pop("model")
    ready = ready_for(model, given, job)
    if pictures or given or not is_code(model):
        job |= {"model": ready.model(), "notes": {"options": ready.options}}
    else:
        job["model"] = model
    if pictures:
        options = {each: {**shared, **options[each]} for each in methods}
        _prepare(job, ready, options)
        shared = {}
    elif isinstance(job.get("target"), str):
        job["target"] = ready.target(job["target"])
    if len(methods) == 1:
        ((name, method),) = methods.items()
        return fa.dataset.run(method, **job, **shared, **options[name])
    bound = {each: partial(method, **options[each]) if options[each] else method for each, method in methods.items()}
    return fa.dataset.run(bound, **job, **shared)


def _check_taken(methods: Mapping[str, Any], shared: Mapping[str, Any], tables: Sequence[str]) -> None:
    """That each argument is one of a method's, and each table one method's."""
    taken = {key: parameter for method in methods.values() for key, parameter in inspect.signature(method).parameters.items()}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    for key in shared:
        if key not in taken and not anything:
            raise mistake(f"{key} is no argument of {' or '.join(methods)}{choices(key, list(taken)[2:], 12)}")
    for key in tables:
        if key not in methods:
            raise mistake(f"[arguments.{key}] is for none of the methods{choices(key, list(methods))}")


def _prepare(job: dict[str, Any], ready: Ready, options: dict[str, dict[str, Any]]) -> None:
    """A folder of pictures: how they become inputs, which class and which layers."""
    root = Path(job["data"])
    job["target"] = ready.target(job["target"])
    layers = ready.complete(root, job["target"], options)
    job["transform"] = Prepared(ready.options)
    job["notes"] |= {"pictures": str(root), "layers": layers}


def _listed(method: Any) -> list[str]:
    """Methods as they are named: in one option or several, with commas or without."""
    given = [method] if isinstance(method, str) else method
    if not (isinstance(given, list) and given and all(isinstance(each, str) for each in given)):
        raise mistake(f"method must be a name, such as 'grad_cam', or a list of names, got {method!r}.")
    return list(dict.fromkeys(part.strip() for value in given for part in str(value).split(",")))


def _is_pictures(data: Any) -> bool:
    return isinstance(data, str) and Path(data).is_dir() and not are_tables(Path(data)) and bool(names_in(Path(data)))


def _failures(out: str) -> int:
    """Name the examples that have no result, and why; the exit status."""
    failed = fa.dataset.failed(out)
    for row in failed[:_TOLD]:
        print(f"funattr: not explained: {row['id']}: {shorten(_why(row), 300, placeholder=' ...')}", file=sys.stderr)
    if len(failed) > _TOLD:
        print(f"funattr: and {len(failed) - _TOLD} more: fa.dataset.failed({out!r}) in Python has all of them", file=sys.stderr)
    if failed:
        print("funattr: --retry explains them again, where the cause is gone", file=sys.stderr)
    return 1 if failed else 0


def _why(row: Mapping[str, Any]) -> str:
    """The message; after what it is of, where it says little."""
    message: str = row["message"]
    return message if message and row["error"] != "KeyError" else f"{row['error']}: {message}".removesuffix(": ")


def _run_takes() -> list[str]:
    return [name for name in inspect.signature(fa.dataset.run).parameters if name not in ("arguments", "notes")]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        cure = f': in a TOML file, data = "{path}" names what makes a data set.' if is_code(str(path)) else "."
        raise mistake(f"there is no file {str(path)!r}, and no folder of that name{cure}")
    try:
        toml = importlib.import_module("tomllib")  # from Python 3.11
    except ModuleNotFoundError:
        toml = importlib.import_module("tomli")
    with answered(f"cannot read {path}, which is neither a folder nor a TOML file that says what to do"):
        found: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8-sig"))
    return found


def _object(name: str) -> Any:
    """What 'module:name' names: a data set or a function; one that takes no arguments is called."""
    found = at(name)
    return found() if callable(found) and not inspect.signature(found).parameters else found
