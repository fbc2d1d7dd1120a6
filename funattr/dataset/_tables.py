"""Tables of Arrow: read row by row as examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._arrow import needs_pyarrow
from ._ids import Id, as_id


class Table(NamedTuple):
    """A table as pairs of an id and an item."""

    pairs: Callable[[], Iterable[tuple[Id, Any]]]
    size: int | None


class Columns(NamedTuple):
    """How rows are read: an item is ``(x, target)``, from the columns of these names; for a transform the row, as a dict."""

    ids: str
    transform: Callable[[Any], Any] | None


def pairs_of_table(data: Any, columns: Columns) -> Table | None:
    """A table, the path of Parquet files, or a Ray Dataset; None where `data` is none of them."""
    column, raw = columns.ids, columns.transform is not None
    kind = type(data).__module__.split(".")[0]
    if isinstance(data, (str, Path)):
        path, data = Path(data), needs_pyarrow("pyarrow.dataset").dataset(str(data), format="parquet")
        if not data.files:
            raise ValueError(f"run(): there are no Parquet files in {str(path)!r}.")
    elif kind not in ("pyarrow", "ray"):
        return None
    if kind == "ray":
        _check_columns(data.columns(), column, raw)
        return Table(lambda: _of_ray(data, columns), None)
    if not hasattr(data, "schema") or not hasattr(data, "to_batches"):
        raise TypeError(f"run(): of pyarrow data may be a Table or a Dataset, got {type(data).__name__}.")
    _check_columns(data.schema.names, column, raw)
    size = data.num_rows if hasattr(data, "num_rows") else data.count_rows()
    return Table(lambda: _of_arrow(data, column, raw), size)


def _check_columns(names: Iterable[str], column: str, raw: bool) -> None:
    needed = [column] if raw else [column, "x"]
    missing = [name for name in needed if name not in names]
    if missing:
        cure = "name the column of ids with ids=, and have columns x and target, or a transform= of rows, dicts, to (x, target)"
        raise ValueError(f"run(): the table has no column {missing[0]!r}, only {', '.join(names)}: {cure}.")


def _of_ray(data: Any, columns: Columns) -> Iterator[tuple[Id, Any]]:
    for batch in data.iter_batches(batch_size=256, batch_format="numpy"):
        yield from rows_of_ray(batch, columns, None)


def rows_of_ray(batch: dict[str, Any], columns: Columns, shape: list[int] | None) -> Iterator[tuple[Id, Any]]:
    """The rows of one of Ray's batches, a dict of arrays."""
    for row, identity in enumerate(batch[columns.ids]):
        if columns.transform is not None:
            yield as_id(identity), {name: part[row] for name, part in batch.items()}
            continue
        x = _plain(batch["x"][row])
        yield as_id(identity), (x if shape is None else x.reshape(shape), batch["target"][row] if "target" in batch else None)


def shape_of(data: Any) -> list[int] | None:
    """The shape that the field of x says, which Ray does not hand on."""
    if isinstance(data, (str, Path)):
        data = needs_pyarrow("pyarrow.dataset").dataset(str(data), format="parquet")
    schema: Any = getattr(data, "schema", None)
    if not hasattr(schema, "field") or "x" not in schema.names:
        return None
    found: list[int] | None = json.loads((schema.field("x").metadata or {}).get(b"shape", b"null"))
    return found


def _of_arrow(data: Any, column: str, raw: bool) -> Iterator[tuple[Id, Any]]:
    names = list(data.schema.names) if raw else [name for name in (column, "x", "target") if name in data.schema.names]
    batches = (
        data.select(names).to_batches(256)
        if hasattr(data, "combine_chunks")
        else data.to_batches(columns=names, batch_size=256)
    )
    for batch in batches:
        ids = batch.column(names.index(column)).to_pylist()
        if raw:
            yield from zip(map(as_id, ids), batch.to_pylist())
            continue
        x = batch.column(names.index("x"))
        targets = batch.column(names.index("target")).to_pylist() if "target" in names else [None] * len(ids)
        rows = _rows(x, data.schema.field("x"))
        yield from ((as_id(i), (row, target)) for i, row, target in zip(ids, rows, targets))


def _rows(column: Any, field: Any) -> Any:
    """The rows of a column as arrays: a tensor type, a list whose field says the shape, or lists in lists."""
    if hasattr(column, "to_numpy_ndarray"):
        return column.to_numpy_ndarray()
    if hasattr(field.type, "list_size") and column.null_count == 0:
        shape = json.loads((field.metadata or {}).get(b"shape", b"null")) or [field.type.list_size]
        flat = column.flatten()
        if not hasattr(flat.type, "value_type"):
            return flat.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    if hasattr(field.type, "num_fields") and hasattr(field.type, "names"):  # a struct: inputs by name
        parts = {name: _rows(column.field(name), field.type.field(name)) for name in field.type.names}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(column))]
    dtype = _numbers(field.type)
    return [None if value is None else np.array(value, dtype) for value in column.to_pylist()]


def _numbers(kind: Any) -> Any:
    """The dtype of the numbers in lists in lists: they go through Python, which has one kind of float."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind.to_pandas_dtype()


def _plain(value: Any) -> Any:
    """A value of Ray's: lists of lists arrive as arrays of arrays."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.stack([_plain(part) for part in value])
    return np.asarray(value)
