"""Where examples come from: something indexed, which workers read, or a stream, which the driver reads and hands out."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._ids import Id, as_id, seed_of, state_of
from ._loader import of_loader
from ._pictures import SUFFIXES, Pictures, Read, are_tables, names_in
from ._tables import Columns, pairs_of_table
from ._trees import as_tensors, mapped, signature

#: The errors that belong to an example. Those of the machine (no memory, a broken device) end the run.
FATAL = (MemoryError, torch.cuda.OutOfMemoryError)


class Example(NamedTuple):
    """What is explained."""

    id: Id
    x: Any
    target: Any = None


class Bad(NamedTuple):
    """An example that could not be read or explained, and why."""

    id: Id
    stage: str
    """``"read"`` or ``"explain"``."""
    error: str
    message: str
    traceback: str


def bad(identity: Id, stage: str, error: Exception) -> Bad:
    text = "".join(traceback.format_exception(error))
    return Bad(identity, stage, type(error).__name__, str(error), text[-4000:])


class Batch(NamedTuple):
    """Examples that are explained together. `target` is a list with one for each, or what holds for all."""

    ids: list[Id]
    x: Any
    target: Any


def collate(examples: Sequence[Example]) -> list[Batch]:
    """Batches of the examples that can be stacked: those whose tensors have the same shapes, and targets the same kind."""
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        x, target = example.x, example.target
        key = (x.shape, x.dtype) if isinstance(x, Tensor) else signature(x)
        groups.setdefault((key, Tensor if isinstance(target, Tensor) else _kind(target)), []).append(example)
    return [_stacked(group) for group in groups.values()]


def _stacked(group: list[Example]) -> Batch:
    ids, rows, targets = zip(*group)
    x = torch.stack(rows) if isinstance(rows[0], Tensor) else mapped(lambda *leaves: torch.stack(leaves), *rows)
    if isinstance(targets[0], Tensor):
        return Batch(list(ids), x, torch.stack(targets).tolist())
    many = isinstance(targets[0], (int, tuple)) and not isinstance(targets[0], bool)
    return Batch(list(ids), x, list(targets) if many else targets[0])


def _kind(target: Any) -> Any:
    if isinstance(target, int):
        return int
    if isinstance(target, tuple):
        return len(target)
    return target if isinstance(target, str) else id(target)


def as_target(value: Any) -> Any:
    """An example's own target: a class, an index, or what else `score` takes. A class may be a tensor until it is stacked."""
    if isinstance(value, Tensor):
        return value if value.dim() == 0 else tuple(value.tolist())
    if hasattr(value, "item"):
        return value.item() if getattr(value, "ndim", 0) == 0 else tuple(value.tolist())
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Indexed:
    """A data set with a length, read by number: ``items[i]`` is x, or a pair of x and the target."""

    items: Any
    ids: Sequence[Any] | None = None
    transform: Callable[[Any], Any] | None = None
    own_target: bool = True
    seed: int = 0
    draws: list[bool] = field(default_factory=list)

    def id_at(self, index: int) -> Id:
        return index if self.ids is None else as_id(self.ids[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Example | Bad]:
        """The examples of a batch, as a DataLoader asks for them."""
        ids = indices if self.ids is None else [self.id_at(i) for i in indices]
        return _read(self, ids, indices, self.items)

    def sliced(self, indices: Sequence[int]) -> Batch | None:
        """A batch of what is in tensors already, which need not be taken apart and stacked again; None where it is not."""
        tensors = self.items.tensors if type(self.items) is torch.utils.data.TensorDataset else (self.items,)
        if self.transform is not None or type(tensors[0]) is not Tensor or len(tensors) > 2 or tensors[-1].dim() == 0:
            return None
        if len(tensors) == 2 and tensors[1].dim() != 1:
            return None
        rows = torch.tensor(indices, device="cpu")
        target = tensors[1][rows].tolist() if len(tensors) == 2 and self.own_target else None
        return Batch([self.id_at(i) for i in indices], tensors[0][rows], target)

    def __getitem__(self, index: int) -> Example | Bad:
        return self.__getitems__([index])[0]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Stream:
    """Pairs of an id and an item that come one after another; an item is x, or a pair of x and the target."""

    pairs: Callable[[], Iterable[tuple[Id, Any]]]
    transform: Callable[[Any], Any] | None = None
    own_target: bool = True
    seed: int = 0
    size: int | None = None
    table: Columns | None = None
    draws: list[bool] = field(default_factory=list)

    def read(self, pairs: Sequence[tuple[Id, Any]]) -> list[Example | Bad]:
        """The examples that items hold."""
        return _read(self, [identity for identity, _ in pairs], range(len(pairs)), [item for _, item in pairs])


_PLAIN = (list, Tensor, torch.utils.data.TensorDataset)  # these draw nothing, so that there is nothing to look for


def _read(source: Indexed | Stream, ids: Sequence[Id], places: Sequence[int], items: Any) -> list[Example | Bad]:
    """Examples, or why they cannot be read. Where reading draws, each is read again, with torch seeded by (seed, id)."""
    if source.transform is None and isinstance(items, _PLAIN):
        return [_read_one(source, identity, items, place) for identity, place in zip(ids, places)]
    if not source.draws:
        before = state_of(torch.default_generator)
        found = [_read_one(source, identity, items, place) for identity, place in zip(ids, places)]
        if state_of(torch.default_generator) == before:
            return found
        source.draws.append(True)
    found = []
    for identity, place in zip(ids, places):
        torch.default_generator.manual_seed(seed_of(source.seed, identity, "read"))
        found.append(_read_one(source, identity, items, place))
    return found


def _read_one(source: Indexed | Stream, identity: Id, items: Any, place: int) -> Example | Bad:
    try:
        item = items[place]
        if source.transform is not None:
            item = source.transform(item)
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        x, target = item if pair else (item, None)
        return Example(identity, as_tensors(x), as_target(target) if source.own_target else None)
    except FATAL:
        raise
    except Exception as error:
        return bad(identity, "read", error)


def source_of(
    data: Any, ids: Any, transform: Callable[[Any], Any] | None, own_target: bool, seed: int
) -> tuple[Indexed | Stream, int | None]:
    """What `data` is, and how many processes its own loader reads with.

    Raises:
        TypeError: it is nothing that can be read; the message says what can.
        ValueError: the ids do not fit.
    """
    loaders = None
    if isinstance(data, torch.utils.data.DataLoader):
        loaders = data.num_workers
        data, ids = of_loader(data, ids)
    pictures = _pictures_in(data, raw=transform is not None)
    if pictures is not None:
        data, ids = Read(pictures), pictures.names if ids is None else ids
    columns = Columns(ids if isinstance(ids, str) else "id", transform)
    table = pairs_of_table(data, columns)
    if table is not None:
        if ids is not None and not isinstance(ids, str):
            raise ValueError("run(): the ids of a table are a column of it: name it, ids='id'.")
        return Stream(table.pairs, transform, own_target, seed, table.size, columns), loaders
    if isinstance(ids, str):
        raise ValueError(f"run(): ids={ids!r} names a column, and data is no table: give one id for each example.")
    streams = (list, tuple, Mapping, torch.utils.data.IterableDataset)
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, streams)
    if indexed and not (ids is None and _has_ids(data)):
        _check_ids(data, ids)
        return Indexed(data, ids, transform, own_target, seed), loaders
    if (not isinstance(data, Iterable) and not indexed) or isinstance(data, (str, bytes, Mapping)):
        raise TypeError(f"run(): data must be {_KINDS}; got {type(data).__name__}.")
    size = len(data) if isinstance(data, Sized) else None
    rows = map(data.__getitem__, range(len(data))) if indexed else data
    return Stream(lambda: _pairs(rows, ids), transform, own_target, seed, size), loaders


_KINDS = (
    "a torch Dataset or DataLoader, an iterable of (id, x, target), a table of pyarrow, the path of Parquet files or of a "
    "folder of pictures, or a Ray Dataset"
)


def _pictures_in(data: Any, raw: bool) -> Pictures | None:
    """The pictures that a path names; None where it is no path, or one of Parquet files.

    Raises:
        ValueError: there is nothing of that name, or neither pictures nor Parquet files in it.
    """
    if not isinstance(data, (str, Path)) or "://" in str(data):
        return None
    path = Path(data)
    if not path.exists():
        raise ValueError(f"run(): there is no folder or file {str(data)!r}, which data names.")
    if path.is_file():
        return Pictures(path.parent, [path.name], raw) if path.suffix.lower() in SUFFIXES else None
    if are_tables(path):
        return None
    names = names_in(path)
    if not names:
        raise ValueError(f"run(): there are neither pictures nor Parquet files in {str(data)!r}, which data names.")
    return Pictures(path, names, raw)


def _has_ids(data: Any) -> bool:
    """Whether items bring their ids: (id, x, target)."""
    try:
        item = data[0] if len(data) else None
    except Exception:  # it will be met again, and told
        return False
    return isinstance(item, tuple) and len(item) == 3 and not isinstance(item[0], Tensor)


def _check_ids(data: Any, ids: Any) -> None:
    if ids is None:
        return
    if not hasattr(ids, "__len__") or (isinstance(ids, Tensor) and not ids.dim()):
        raise TypeError(f"run(): ids must be a list, one for each example, got {type(ids).__name__}.")
    if len(ids) != len(data):
        raise ValueError(f"run(): there are {len(ids)} ids for {len(data)} examples: give one for each.")
    seen: set[Id] = set()
    for value in ids:
        identity = as_id(value)
        if identity in seen:
            raise ValueError(f"run(): the id {identity!r} is given to two examples: ids must differ.")
        seen.add(identity)
    if len({type(identity) for identity in seen}) > 1:
        raise TypeError("run(): ids must be all integers or all text.")


def _pairs(data: Iterable[Any], ids: Any) -> Iterator[tuple[Id, Any]]:
    if ids is not None:
        for identity, item in itertools.zip_longest(ids, data, fillvalue=_END):
            if identity is _END or item is _END:
                raise ValueError(f"run(): there are {'fewer' if identity is _END else 'more'} ids than examples.")
            yield as_id(identity), item
        return
    for item in data:
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            raise TypeError(
                f"run(): an iterable must give (id, x, target) or (id, x), got {type(item).__name__}; or give ids=."
            )
        if getattr(item[0], "ndim", 0) or isinstance(item[0], (dict, tuple, list)):
            text = f"run(): an iterable must give (id, x, target) or (id, x), and {type(item[0]).__name__} comes first"
            raise TypeError(f"{text}: give the ids as ids=, or a torch Dataset, whose ids are its places.")
        yield as_id(item[0]), tuple(item[1:]) if len(item) == 3 else (item[1], None)


_END = object()
