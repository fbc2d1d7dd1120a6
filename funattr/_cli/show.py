"""``funattr show``: one stored result of a run, drawn."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import funattr as fa

from . import methods, write
from .facts import Explained, Found
from .how import takes_away
from .inputs import Input, Item, read
from .job import Ready, namespace
from .options import add_command
from .sites import Layers
from .targets import Chosen, Class, choose
from .words import answered, choices, mistake

if TYPE_CHECKING:
    from torch import Tensor

_EXAMPLES = """\
  funattr show maps
  funattr show maps --id 0001.png
  funattr show maps --id 0001.png 0002.png --out two.html
  funattr show maps --id 17 --out seventeen.csv
"""


_SHOWN = 20  # ids that are listed


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    parser = add_command(commands, "show", "Draw stored results of funattr run.", _EXAMPLES, run)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of results")
    parser.add_argument(
        "--id", action="extend", nargs="+", metavar="NAME", help="which examples, by their ids (default: say which there are)"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where the pictures are (default: where they were)")
    parser.add_argument("--out", default="shown.png", metavar="FILE", help="as in funattr explain (default: shown.png)")
    parser.add_argument(
        "--raw", action="store_true", help="draw maps as they are: a CAM in squares and with what speaks against"
    )
    parser.add_argument("--traceback", action="store_true", help="after a mistake, show Python's traceback too")


def run(arguments: argparse.Namespace) -> None:
    """Draw the results, over their pictures where there are some; without an id, say which there are.

    Raises:
        argparse.ArgumentError: there are no such results; the message says which there are.
        ImportError: an extra is missing.
    """
    out = Path(arguments.out)
    write.check(out, arguments.out)
    if write.is_folder(out, arguments.out):
        raise mistake(f"--out must name a file, and {arguments.out!r} is a folder.")
    with answered():
        results = fa.dataset.load(arguments.folder)
    if not arguments.id:
        _listed(results, arguments.folder)
        return
    every = [_explained(results, _identity(results, name, arguments.folder), arguments) for name in arguments.id]
    for each in every:
        print(f"{each.given.name}: {each.chosen.explained.told() if each.chosen.explained.number is not None else 'stored'}")
    write.write(out, str(results.about["model"]), every, [], arguments)
    print(f"wrote {out}")


def _listed(results: Any, folder: Path) -> None:
    """Say whose results there are, and the line that draws the first."""
    known = results.ids()
    failed = len(fa.dataset.failed(folder))
    print(
        f"{results.about['method']} of {results.about['model']}: {len(known)} results{f', {failed} failed' if failed else ''}"
    )
    for each in known[:_SHOWN]:
        print(f"  {each}")
    if len(known) > _SHOWN:
        print(f"  and {len(known) - _SHOWN} more")
    if known:
        print(f"draw one: {shlex.join(['funattr', 'show', str(folder), '--id', str(known[0])])}")


def _identity(results: Any, name: str, folder: Path) -> int | str:
    """The id that a word names."""
    known = results.ids()
    if name in known:
        return name
    if name.removeprefix("-").isdecimal() and int(name) in known:
        return int(name)
    for row in fa.dataset.failed(folder):
        if str(row["id"]) == name:
            raise mistake(f"{name!r} has no result: {' '.join(row['message'].split())}")
    raise mistake(f"{str(folder)!r} has no result {name!r}{choices(name, [str(each) for each in known], 6)}")


def _explained(results: Any, identity: int | str, arguments: argparse.Namespace) -> Explained:
    about = results.about
    notes = about.get("notes", {})
    with answered():
        value = results[identity]
    stored = value if isinstance(value, Mapping) and _several(about) else {str(about["method"]): value}
    layers = notes.get("layers", {})
    pool = about["storage"]["pool"]
    given = about["arguments"]
    found = [
        _found(name, each, layers.get(name, given.get("layer")), pool, _grouped(name, given)) for name, each in stored.items()
    ]
    pictured = _pictured(identity, notes, about, arguments)
    if pictured is None:
        return Explained(*_bare(identity, found), found)
    given, chosen, tables = pictured
    found = [each._replace(grid=tables.grid(each.attribution.shape[1])) if each.channel_dim == -1 else each for each in found]
    return Explained(given, chosen, found)


def _grouped(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a method was given groups or windows: of several methods, in what is its own, or of all."""
    own = given.get(name)
    everything = {**given, **(own.get("arguments", {}) if isinstance(own, dict) else {})}
    return methods.is_name(name) and takes_away(methods.parameters(methods.checked(name))) and takes_away(everything)


def _several(about: Mapping[str, Any]) -> bool:
    """Whether a dict is of several methods, and not one method's own."""
    names = str(about["method"]).split(" and ")
    return len(names) > 1 and all(isinstance(about["arguments"].get(name), dict) for name in names)


def _found(name: str, value: Any, layer: Any, pool: Any, grouped: bool) -> Found:
    import torch

    value = value.dense() if hasattr(value, "dense") else value
    if not isinstance(value, torch.Tensor):
        raise mistake(
            f"{name} has stored {type(value).__name__}s of tensors, of which there is no picture: read them in Python."
        )
    dim = 1
    if pool == "place":
        value = value[None]
    elif pool == "token":
        value, dim = value[:, None], -1
    elif value.dim() == 2:
        dim = -1  # [T, C]
    is_map = methods.is_name(name) and methods.is_cam(methods.checked(name)) and name != "guided_grad_cam"
    return Found(name, value[None].float(), None if layer is None else str(layer), dim, grouped and pool is None, is_map)


def _pictured(
    identity: int | str, notes: Mapping[str, Any], about: Mapping[str, Any], arguments: argparse.Namespace
) -> tuple[Input, Chosen, Layers] | None:
    """The picture as the model saw it, what the model says of it, and its layers; None where there is no picture."""
    folder = arguments.pictures or (Path(notes["pictures"]) if "pictures" in notes else None)
    if folder is None:
        return None
    file = folder / str(identity)
    if not file.is_file():
        raise mistake(f"there is no picture {str(file)!r}: say with --pictures where they are.")
    if "options" not in notes:
        raise mistake("this run notes no model for pictures: leave --pictures out, and the map is drawn alone.")
    ready = Ready(dict(notes["options"]))
    source = ready.source()
    item = Item(str(identity), file=file)
    write.check_kept(arguments.out, [item])
    given = read(source, item, namespace(ready.options))
    target = about["target"]
    chosen = choose(source, given.x, str(target) if isinstance(target, int) else "argmax")
    return given, chosen, Layers(source, given.x)


def _bare(identity: int | str, found: list[Found]) -> tuple[Input, Chosen]:
    """The map alone, over white."""
    import torch

    value: Tensor = found[0].attribution
    if value.dim() != 4:
        raise mistake(
            f"{found[0].name} has stored the shape {list(value.shape[1:])}, without a height and a width to draw: read it in "
            "Python, fa.dataset.load."
        )
    only = Class(None, None, float(value.double().sum()), None)
    picture = torch.ones(1, 1, *value.shape[-2:])
    return Input(value, "", str(identity), picture), Chosen(None, only, only)
