"""``funattr run``: a method over a data set, as a file says."""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path
from typing import Any

import funattr as fa

from .options import add_command
from .words import answered, choices, mistake

_EXAMPLES = """\
  funattr run job.toml
  funattr run job.toml --workers 4        what is not in the file, or otherwise than there
  funattr run job.toml --retry            the bad examples again
"""
_FILE = """\
job.toml:
  method = "grad_cam"             a method of funattr, or "module:name"
  model = "my_net:build"          a function that makes the model; the current folder is looked in
  data = "my_data:dataset"        what makes the data set, or the data set itself; or Parquet files: data = "images/"
  out = "attributions"
  target = "argmax"               and what else funattr.dataset.run takes: dtype, workers, engine, ...
  [arguments]
  layer = "layer4"                the method's own
"""
_NEEDED = ("method", "model", "data", "out")


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    parser = add_command(commands, "run", "Attribute a data set, and go on where that was ended.", _EXAMPLES, run, _FILE)
    parser.add_argument("job", type=Path, metavar="JOB", help="a TOML file that says what to do")
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--out", metavar="FOLDER", help="the folder of results")
    parser.add_argument("--engine", choices=("local", "ray"), help="this machine, or Ray Data")
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1")
    parser.add_argument("--retry", action="store_true", default=None, help="the bad examples again, and nothing else")
    parser.add_argument("--strict", action="store_true", default=None, help="stop at the first bad example")
    parser.add_argument("--traceback", action="store_true", help="after a mistake, show Python's traceback too")


_NUMBERS = {
    "batch-size": "examples that are explained together",
    "part-size": "examples in one file",
    "workers": "processes that compute",
    "loaders": "processes that read ahead, for each worker",
    "threads": "threads of each worker",
}


def run(arguments: argparse.Namespace) -> None:
    """Do what the file says, and print what was done.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    job = _read(arguments.job)
    given = {name: value for name, value in vars(arguments).items() if name in _known() and value is not None}
    job |= given
    own = job.pop("arguments", {})
    for name in job:
        if name not in _known():
            raise mistake(f"{arguments.job}: there is no {name!r}{choices(name, [*_known(), 'arguments'], 30)}")
    if missing := [name for name in _NEEDED if name not in job]:
        raise mistake(f"{arguments.job} must say {missing[0]}, as in {missing[0]} = {_SAY[missing[0]]}.")
    with answered(f"{arguments.job}"):
        for name in ("data", "transform", "pool"):
            if ":" in str(job.get(name, "")):
                job[name] = _object(job[name])
        method, model, data, out = (job.pop(name) for name in _NEEDED)
        found = fa.dataset.run(method, model, data, out, **job, **own)
    print(f"explained {found.explained}, failed {found.failed}, skipped {found.skipped}; results in {out}")


_SAY = {"method": '"grad_cam"', "model": '"my_net:build"', "data": '"my_data:dataset"', "out": '"attributions"'}


def _known() -> list[str]:
    return [name for name in inspect.signature(fa.dataset.run).parameters if name != "arguments"]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise mistake(f"there is no file {str(path)!r}.")
    try:
        toml = importlib.import_module("tomllib")  # from Python 3.11
    except ModuleNotFoundError:
        toml = importlib.import_module("tomli")
    with answered(f"cannot read {path}"):
        found: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    return found


def _object(name: str) -> Any:
    """What 'module:name' names: a data set or a function; one that takes no arguments is called."""
    module, _, attribute = name.partition(":")
    from .source import imported

    found: Any = imported(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise mistake(f"{module} has no {part!r}{choices(part, [key for key in vars(found) if not key.startswith('_')])}")
        found = getattr(found, part)
    if callable(found) and not inspect.signature(found).parameters:
        return found()
    return found
