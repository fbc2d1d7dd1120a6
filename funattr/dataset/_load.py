"""Results, in the order of ids, as tensors."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._files import about_of, reading
from ._folder import failures_of, parts_of
from ._ids import Id, Ids
from ._parts import rows_of


class Results:
    """The results in a folder: to be iterated over, as often as wanted, with a length, and what they were made with."""

    def __init__(self, parts: list[Path]) -> None:
        self.parts: list[tuple[Any, Path]] = []
        self.length, self.about = 0, dict[str, Any]()
        for path in parts:
            with reading(path) as file:
                self.about = self.about or about_of(file)
                self.parts.append((_order(file.read_row_group(0, ["id"]).column("id")[0].as_py()), path))
                self.length += file.metadata.num_rows
        self.parts.sort()

    def __len__(self) -> int:
        return self.length

    def ids(self) -> list[Id]:
        """The ids, in the order of the files."""
        return [identity for _, path in self.parts for identity in _ids_in(path)]

    def __getitem__(self, identity: Id) -> Any:
        """The attribution of one example.

        Raises:
            KeyError: there is none of that id.
        """
        for _, path in self.parts:
            ids = _ids_in(path)
            if identity in ids:
                return next(itertools.islice(_rows(path), ids.index(identity), None))[1]
        raise KeyError(f"there is no result of the id {identity!r}: ids() lists those that there are")

    def __iter__(self) -> Iterator[tuple[Id, Any]]:
        """A part is opened when its first id is next, and read a group of rows at a time."""
        waiting, last = list(reversed(self.parts)), None
        heads: list[tuple[Any, int, Any, Iterator[tuple[Id, Any]]]] = []
        while waiting or heads:
            while waiting and (not heads or waiting[-1][0] <= heads[0][0]):
                rows = _rows(waiting.pop()[1])
                identity, found = next(rows)
                heapq.heappush(heads, (_order(identity), len(waiting), found, rows))
            (_, identity), number, found, rows = heads[0]
            following = next(rows, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (_order(following[0]), number, following[1], rows))
            if identity == last:
                raise ValueError(f"load(): two results have the id {identity!r}: load folders with different ids.")
            last = identity
            yield identity, found


def _order(identity: Id) -> tuple[bool, Id]:
    """Numbers before names, where folders have both."""
    return isinstance(identity, str), identity


def _ids_in(path: Path) -> list[Id]:
    with reading(path) as file:
        ids: list[Id] = file.read(["id"]).column("id").to_pylist()
    return ids


def _rows(path: Path) -> Iterator[tuple[Id, Any]]:
    """The rows of a part. It is closed between groups: there may be more parts than a process may have files open."""
    group, groups = 0, 1
    while group < groups:
        with reading(path) as file:
            about, groups = about_of(file), file.metadata.num_row_groups
            table = file.read_row_group(group)
        for batch in table.to_batches():
            yield from rows_of(batch, about, table.schema)
        group += 1


def load(out: str | Path | Iterable[str | Path]) -> Results:
    """Attributions that `run` has stored, as tensors, in the order of ids.

    Args:
        out: the folder, or several, whose ids differ.

    Returns:
        An iterable, with a length, of pairs: the id, and the attribution of that example as the method returned it, without
        the batch: a tensor, or a tuple, list or dict. Where the largest were kept (``top_k``) it has `TopK` in the place of
        tensors. ``results[id]`` is one of them, and ``results.ids()`` says which there are. Its `about` is a dict of what made
        it: method, arguments, model, target, seed, storage, versions, hash, notes. It holds 256 examples of each part whose ids
        overlap with those of others at one place: of a run whose ids came in order, of about one part per worker.

    Raises:
        ValueError: there are no results, they are not of `run`, or an id is there twice.
        ImportError: the extra ``dataset`` is not installed.

    Example:
        >>> import tempfile, torch, funattr as fa
        >>> from torch import nn
        >>> net, x = nn.Linear(3, 2).eval(), torch.eye(3)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     out = f"{place}/maps"
        ...     _ = fa.dataset.run(fa.saliency, net, x, out, target=0)
        ...     [(i, a.shape) for i, a in fa.dataset.load(out)]
        [(0, torch.Size([3])), (1, torch.Size([3])), (2, torch.Size([3]))]
    """
    folders = [Path(out)] if isinstance(out, (str, Path)) else [Path(each) for each in out]
    parts = [part for folder in folders for part in parts_of(folder)]
    if not parts:
        raise ValueError(f"load(): there are no results in {', '.join(repr(str(folder)) for folder in folders)}.")
    return Results(parts)


def failed(out: str | Path) -> list[dict[str, Any]]:
    """The dead letters of a folder: the examples that could not be read or explained, and why.

    Args:
        out: the folder.

    Returns:
        For each example that is bad and has no result a dict: ``id``, ``stage`` (``"read"``, ``"explain"`` or ``"store"``),
        ``error`` (its type), ``message`` and ``traceback``.

    Raises:
        ImportError: the extra ``dataset`` is not installed.

    Example:
        >>> import tempfile, torch, funattr as fa
        >>> from torch import nn
        >>> x = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     out = f"{place}/maps"
        ...     _ = fa.dataset.run(fa.saliency, nn.Linear(2, 1).eval(), x, out)
        ...     [(row["id"], row["error"]) for row in fa.dataset.failed(out)]
        [(1, 'ValueError')]
    """
    done = Ids()
    for path in parts_of(Path(out)):
        with reading(path) as part:
            done.add(part.read(["id"]).column("id").to_pylist())
    return failures_of(Path(out), done)
