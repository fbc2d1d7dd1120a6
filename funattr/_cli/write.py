"""What the command leaves behind: pictures, a page, or the numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import draw, facts
from .facts import Explained, Failed
from .inputs import Item, files_of
from .words import mistake, writing

if TYPE_CHECKING:
    from torch import Tensor

_PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
SUFFIXES = (*_PICTURES, ".html", ".json", ".csv", ".npz", ".safetensors")


def is_folder(out: Path, given: str) -> bool:
    """Whether pictures go into a folder, one for each input and method."""
    return out.is_dir() or given.endswith(("/", "\\"))


def check(out: Path, given: str) -> None:
    """Refuse a file that cannot be written, before the work."""
    if is_folder(out, given):
        if not out.absolute().parent.is_dir():
            raise mistake(f"the folder {str(out.parent)!r} of --out does not exist: make it first, or choose another.")
        return
    if out.suffix.lower() not in SUFFIXES:
        listed = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise mistake(f"--out must end with {listed}, or with / for a folder of pictures, got {str(out)!r}.")
    if not out.parent.is_dir():
        raise mistake(f"the folder {str(out.parent)!r} of --out does not exist: make it first, or choose another.")


def check_kept(out: str, items: Sequence[Item]) -> None:
    """Refuse to write over what is explained."""
    if Path(out).resolve() in files_of(items):
        raise mistake(f"--out {out} is what is explained, and would be written over: choose another name.")


def write(out: Path, model: str, every: Sequence[Explained], failed: Sequence[Failed], options: Any) -> None:
    """Write the file that its name asks for.

    Raises:
        argparse.ArgumentError: there is nothing to draw, or the file cannot be written.
        ImportError: what draws or writes it is not installed.
    """
    kind = out.suffix.lower()
    with writing(out):
        if kind == ".json":
            text = facts.json_text(facts.facts_of(model, every, failed, maps=True))
            out.write_text(text, encoding="utf-8")
        elif kind == ".csv":
            rows = list(facts.rows_of(model, every))
            with out.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
        elif kind in (".npz", ".safetensors"):
            about = facts.json_text(facts.facts_of(model, every, failed, maps=False))
            (_save_npz if kind == ".npz" else _save_safetensors)(out, facts.numbers_of(every), about, every)
        else:
            draw.draw(out, model, every, options)


def _save_npz(out: Path, values: Mapping[str, Tensor], about: str, every: Sequence[Explained]) -> None:
    import numpy as np

    arrays: Any = {name: t.numpy() for name, t in values.items()}
    for each in every:
        if each.given.tokens is not None:
            below = f"{each.given.name}/" if len(every) > 1 else ""
            arrays[f"{below}tokens"] = np.array(list(each.given.tokens))
            sums = {found.name: facts.per_token(found, len(each.given.tokens)) for found in each.found}
            arrays |= {f"{below}{name}.sums": t.cpu().float().numpy() for name, t in sums.items() if t is not None}
    with out.open("wb") as file:
        np.savez(file, facts=np.array(about), **arrays)


def _save_safetensors(out: Path, values: Mapping[str, Tensor], about: str, every: Sequence[Explained]) -> None:
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        raise ImportError('.safetensors files need safetensors: pip install "funattr[cli]".') from error
    save_file(dict(values), out, metadata={"facts": about})
