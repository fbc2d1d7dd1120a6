"""Files of a run: read, with what is damaged named; and written so that they are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._arrow import needs_pyarrow


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """A file of Parquet, for as long as the block; what is done with it in there is reading and nothing else.

    Raises:
        ValueError: it is damaged; the message says what to do.
    """
    pa, pq = needs_pyarrow(), needs_pyarrow("pyarrow.parquet")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def about_of(file: Any) -> dict[str, Any]:
    """What made a part: its configuration, and the versions."""
    metadata = file.schema_arrow.metadata or {}
    if b"funattr" not in metadata:
        raise ValueError("load(): these Parquet files were not written by run().")
    about: dict[str, Any] = json.loads(metadata[b"funattr"])
    return about


def read_json(path: Path) -> Any:
    """What JSON in a file of notes says."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    why = textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(". ")
    return ValueError(
        f"run(): the file {str(path)!r} is damaged ({why}): delete it and run again, which explains again what was in it."
    )


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk and not only in memory: a rename alone may survive what it renames."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(data)
    sync(temporary)
    os.replace(temporary, path)


def first(path: Path, data: bytes) -> bool:
    """Write a file if there is none: of several that try, one does."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(data)
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync(path.parent)
    return True
