"""What goes into the model: pictures and texts, from files, folders, lines and standard input, made ready for it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dataset._pictures import SUFFIXES, names_in, pillow
from . import pictures, texts
from .seen import as_seen
from .source import Source
from .words import answered, check_utf8, legible, mistake

if TYPE_CHECKING:
    from torch import Tensor


class Item(NamedTuple):
    """One thing to explain, not read yet: a file, a text, or what came through standard input."""

    name: str
    """For titles: never a whole path."""
    file: Path | None = None
    text: str | None = None
    data: bytes | None = None


class Input(NamedTuple):
    """One example, batch first, and how to show it."""

    x: Any
    told: str
    """A line that says what it is and how it was made ready."""
    name: str
    picture: Tensor | None = None
    """``[1, C, H, W]`` in [0, 1], what the model sees before its values are normalised."""
    tokens: Sequence[str] | None = None
    words: Sequence[tuple[str, Sequence[int]]] | None = None
    """The words that tokens are pieces of, and which."""
    whole: int | None = None
    """How many tokens the whole text has, where it was cut short."""
    mean: Sequence[float] | None = None
    """What was subtracted from values in [0, 1], and then divided by: None where that is not known."""
    std: Sequence[float] | None = None
    seen: Callable[[], Tensor | None] | None = None
    """Looks at the picture again, in its own size: the part that the model sees."""


def gather(source: Source, given: Sequence[str], options: argparse.Namespace) -> list[Item]:
    """What the user named, one by one: folders are gone through, and with ``--lines`` files line by line.

    Raises:
        argparse.ArgumentError: there is nothing in it, or no such file.
    """
    lines = getattr(options, "lines", False)
    found = [(each, item) for each in given for item in _items(source, each, lines)]
    if lines and len(given) > 1:  # each file has a first line
        names = {"-": "standard input"}
        found = [
            (each, item._replace(name=f"{names.get(each, each)}, {item.name}")) if item.text else (each, item)
            for each, item in found
        ]
    return _told_apart([item for _, item in found])


def files_of(items: Sequence[Item]) -> set[Path]:
    """The files that are read, and shall not be written over."""
    found = set()
    for item in items:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # no file has such a name
            found |= set() if item.file is None else {item.file.resolve()}
    return found


def _told_apart(items: Sequence[Item]) -> list[Item]:
    """Each once, under a name of its own: of files of one name with the folders that tell them apart."""
    items = list({_path(item) or place: item for place, item in enumerate(items)}.values())
    texts = [place for place, item in enumerate(items) if item.name == "the text"]
    for number, place in enumerate(texts if len(texts) > 1 else (), 1):
        items[place] = items[place]._replace(name=f"text {number}")
    depth = 1
    while len({item.name for item in items}) < len(items) and depth < _DEPTH:
        depth += 1
        often = Counter(item.name for item in items)
        items = [
            item._replace(name="/".join(_path(item)[1:][-depth:])) if item.file and often[item.name] > 1 else item
            for item in items
        ]
    return [item._replace(name=legible(item.name)) for item in items]


def _path(item: Item) -> tuple[str, ...]:
    """The parts of a file's whole path, which no other file has, and no ``..`` leads out of; none of what is no file."""
    return () if item.file is None else Path(os.path.abspath(item.file)).parts


_DEPTH = 64


def _items(source: Source, given: str, lines: bool) -> list[Item]:
    if given == "-":
        data = sys.stdin.buffer.read()
        if not data.strip():
            raise mistake("standard input is empty: pipe a text or a picture into the command.")
        if lines:
            return _lines(source, _decoded(data, "standard input"), "standard input")
        if source.text is None or (source.image is not None and _is_picture(data)):
            return [Item("standard input", data=data)]
        return [Item("standard input", text=_decoded(data, "standard input").strip())]
    if not given.strip():
        raise mistake("the text is empty: write it after the options, in quotes.")
    path = Path(given)
    if _is(path.is_dir):
        return _folder(source, path)
    if lines:
        if not _is(path.is_file):
            raise mistake(f"there is no file {given!r} of lines.")
        return _lines(source, _decoded(path.read_bytes(), given), given)
    if source.text is None or (source.image is not None and _is_file(given)):
        return [Item(path.name, file=path)]
    return [_text(source, given)]


def _folder(source: Source, path: Path) -> list[Item]:
    """The pictures below a folder, or the texts."""
    reads_pictures = source.text is None or source.image is not None
    if reads_pictures and (names := names_in(path)):
        return [Item(name, file=path / name) for name in names]
    files = sorted(file for file in path.rglob("*.txt") if not file.name.startswith(".")) if source.text is not None else []
    if not files:
        kinds = [kind for kind, read in (("pictures", reads_pictures), (".txt files", source.text is not None)) if read]
        raise mistake(f"there are no {' and no '.join(kinds)} in the folder {str(path)!r}.")
    return [Item(file.relative_to(path).as_posix(), file=file) for file in files]


def _lines(source: Source, text: str, name: str) -> list[Item]:
    """Of texts the lines, of pictures their files."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise mistake(f"there are no lines in {name!r}.")
    if source.text is None:
        return [Item(Path(line).name, file=Path(line)) for _, line in lines]
    return [Item(f"line {number}", text=line) for number, line in lines]


def _text(source: Source, given: str) -> Item:
    suffix = Path(given).suffix.lower() if len(given) < 256 and " " not in given else ""
    if suffix in SUFFIXES:
        raise mistake(f"the model takes a text, and {given!r} is the name of an image.")
    if suffix != ".txt":
        check_utf8(given, "the text")
        return Item("the text", text=given)
    if not Path(given).is_file():
        raise mistake(f"there is no file {given!r}.")
    return Item(Path(given).name, file=Path(given))


def _is_file(given: str) -> bool:
    return Path(given).suffix.lower() in SUFFIXES or _is(Path(given).is_file)


def _is(asked: Any) -> bool:
    try:
        return bool(asked())
    except (OSError, ValueError):  # too long to be a name
        return False


def _is_picture(data: bytes) -> bool:
    import io

    try:
        pillow().open(io.BytesIO(data)).close()
    except pillow().UnidentifiedImageError:
        return False
    return True


def _decoded(data: bytes, name: str) -> str:
    with answered(f"cannot read {name!r} as UTF-8"):
        return data.decode("utf-8-sig")


def read(source: Source, item: Item, options: argparse.Namespace) -> Input:
    """One thing, made ready.

    Raises:
        argparse.ArgumentError: there is no such file, or the model does not take it.
        ImportError: pillow is missing.
    """
    if item.text is None and (source.text is None or source.image is not None) and not _is_text(source, item):
        return _pictured(source, pictures.opened(item.file, item.data, item.name), item.name, options, item)
    text = item.text
    if text is None:
        assert item.file is not None  # an item has one or the other
        text = _decoded(item.file.read_bytes(), item.name).strip()
    made = texts.ready(source, text, options)
    cut = "" if made.whole is None else f" of {made.whole}: the rest is cut off, and not explained"
    told = f"{item.name}, {source.how}: {len(made.tokens)} tokens{cut}"
    return Input(made.x, told, item.name, None, made.tokens, made.words, made.whole)


def _is_text(source: Source, item: Item) -> bool:
    return source.text is not None and item.file is not None and item.file.suffix.lower() == ".txt"


def dummy(source: Source, options: argparse.Namespace) -> Input:
    """An input of the right shape, where the user gave none: a grey image, or a short text."""
    if source.text is not None and source.image is None:
        return read(source, Item("the text", text="a text"), options)
    if source.how and source.text is None:
        return _grey(source, (256, 256), options)
    if options.size is None:
        raise mistake(
            "say what goes into the model: an image file or a text after the options, or the size of its images with --size."
        )
    return _grey(source, options.size, options)


def _grey(source: Source, size: tuple[int, int], options: argparse.Namespace) -> Input:
    return _pictured(source, pillow().new("RGB", (size[1], size[0]), (128, 128, 128)), "a grey image", options)


def _pictured(source: Source, image: Any, name: str, options: argparse.Namespace, item: Item | None = None) -> Input:
    made = pictures.ready(source, image, name, options)
    frames = image.info.get("frames", 1)
    first = f", the first of {frames} frames" if frames > 1 else ""
    told = f"{name}, {image.width} x {image.height}{first}, {made.how}: {list(made.x.shape)}"
    seen = partial(_seen, source, item, options, made.picture.shape[1]) if item is not None else None
    return Input(made.x, told, name, made.picture, mean=made.mean, std=made.std, seen=seen)


def _seen(source: Source, item: Item, options: argparse.Namespace, channels: int) -> Tensor | None:
    image = pictures.opened(item.file, item.data, item.name)
    return as_seen(source, image.convert("L" if channels == 1 else "RGB"), options)
