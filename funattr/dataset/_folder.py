"""The folder of a run: who may write into it, what is done, and how a part comes into it.

What is done is what lies in committed parts, nothing else. A part is written under another name, flushed to the disk, and
renamed: it is there as a whole or not at all. Only the process that holds the lock renames, and it knows every id that is
there: a worker of a run that was killed can leave a file that nobody renames, never a result twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ._arrow import needs_pyarrow
from ._config import differences
from ._data import Bad
from ._ids import Id, Ids

_OWN = ".funattr"  # hidden: readers of the folder look at the parts alone


class Part(NamedTuple):
    """Results that are written and not yet committed. `file` is None where all examples were bad."""

    file: Path | None
    ids: list[Id]
    bads: list[Bad]
    layout: str = ""


class Folder:
    """Where results of one configuration lie. `shard`: (rank, of how many), for several drivers at once."""

    def __init__(self, out: str | Path, shard: tuple[int, int] | None = None) -> None:
        self.out, self.shard = Path(out), shard
        self.own = self.out / _OWN
        self.place = self.out if shard is None else self.out / f"shard-{shard[0]:05d}"
        self.token = uuid.uuid4().hex
        self.temporary = self.place / _OWN / "tmp"
        self.failures = self.place / _OWN / "failed"
        self.done, self.failed, self.layout = Ids(), Ids(), ""
        self.numbers = itertools.count()

    # Who may write.

    @contextlib.contextmanager
    def claimed(self, config: dict[str, Any]) -> Iterator[None]:
        """Hold the folder: no other run may write into it, and what is in it was made by the same configuration.

        Raises:
            RuntimeError: another run holds it.
            ValueError: results of another configuration are in it.
        """
        self.failures.mkdir(parents=True, exist_ok=True)
        self.own.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.lock = stack.enter_context(_locked(self.place / _OWN / "lock", self.token))
            self._check_alone()
            self._check("run.json", config)
            shutil.rmtree(self.temporary, ignore_errors=True)  # what a killed run left
            self.temporary.mkdir()
            self._look()
            yield
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _check_alone(self) -> None:
        """That nobody does the same examples. Each takes its own lock before it looks: of two at once, one sees the other."""
        busy = [path for path in self.out.glob(f"shard-*/{_OWN}") if path.parent != self.place and _is_held(path / "lock")]
        if self.shard is not None:
            world = str(self.shard[1])
            _replace(self.place / _OWN / "world", world.encode())
            busy = [path for path in busy if (path / "world").exists() and (path / "world").read_text() != world]
            busy += [self.own] if _is_held(self.own / "lock") else []
        if busy:
            raise RuntimeError(f"run(): another run writes into {str(busy[0].parent)!r}: wait for it to end.")

    def _check(self, name: str, config: dict[str, Any]) -> None:
        """That the configuration is the one that is noted; the first run notes it."""
        if _first(self.own / name, json.dumps(config, indent=1).encode()):
            return
        found = differences(json.loads((self.own / name).read_text()), json.loads(json.dumps(config)))
        if found:
            raise ValueError(
                f"run(): {str(self.out)!r} holds results of another configuration: {'; '.join(found)}. Choose another folder, "
                "or run it as it was."
            )

    def check_model(self, fingerprint: str) -> None:
        """That the model has the weights that the results here were made with."""
        self._check("model.json", {"the model's weights": fingerprint})

    # What is there.

    def _look(self) -> None:
        pq = needs_pyarrow("pyarrow.parquet")
        last = -1
        for path in parts_of(self.out):
            part = pq.ParquetFile(path)
            self.layout = self.layout or layout_of(part.schema_arrow)
            self.done.add(part.read(["id"]).column("id").to_pylist())
            if path.parent == self.place:
                last = max(last, int(path.stem.split("-")[1]))
        self.numbers = itertools.count(last + 1)
        self.failed.add(row["id"] for row in failures_of(self.out, self.done))

    # What comes in.

    def commit(self, part: Part) -> int:
        """Take a part in, and say how many examples it has. One whose ids are there already is thrown away.

        Raises:
            RuntimeError: another run has taken the folder over.
            ValueError: the results have another shape than those that are there.
        """
        if os.pread(self.lock, 32, 0).decode() != self.token:
            raise RuntimeError(f"run(): another run has taken {str(self.out)!r} over: this one stops.")
        if part.file is not None:
            there = self.done.common(part.ids)
            if there or len(set(part.ids)) != len(part.ids):
                part.file.unlink()
                if len(set(there)) != len(part.ids):
                    twice = next((i for i, count in Counter(part.ids).items() if count > 1), None) if not there else there[0]
                    raise ValueError(f"run(): the id {twice!r} comes twice: ids must differ.")
                return 0
            self._check_layout(part)
            os.replace(part.file, self.place / f"part-{next(self.numbers):08d}-{self.token[:8]}.parquet")
            sync(self.place)
            self.done.add(part.ids)
        if part.bads:
            _write_failures(self.failures / f"{next(self.numbers):08d}-{self.token[:8]}.parquet", part.bads)
            self.failed.add(row.id for row in part.bads)
        return len(part.ids) + len(part.bads)

    def _check_layout(self, part: Part) -> None:
        self.layout = self.layout or part.layout
        if self.layout != part.layout:
            raise ValueError(
                f"run(): attributions differ in shape or dtype, {part.layout} and {self.layout}: run with varying=True, into "
                "another folder."
            )

    def new_file(self) -> Path:
        return self.temporary / f"{uuid.uuid4().hex}.parquet"

    def tidy_failures(self) -> None:
        """One table of what is still bad in the place of several: after a retry."""
        left = [Bad(**row) for row in failures_of(self.place, self.done)]
        old = sorted(self.failures.glob("*.parquet"))
        if left:
            _write_failures(self.failures / f"{next(self.numbers):08d}-{self.token[:8]}.parquet", left)
        for path in old:
            path.unlink()


def parts_of(out: Path) -> list[Path]:
    """The committed parts, those of shards too."""
    return [*sorted(out.glob("part-*.parquet")), *sorted(out.glob("shard-*/part-*.parquet"))]


def layout_of(schema: Any) -> str:
    """The columns of a part: names, types and shapes."""
    columns = [f"{f.name}: {f.type} {(f.metadata or {}).get(b'shape', b'').decode()}".strip() for f in schema if f.name != "id"]
    return ", ".join(columns).replace("<element: ", "<item: ")  # Parquet has another name for what is in a list


def failures_of(out: Path, done: Ids) -> list[dict[str, Any]]:
    """The last word about each bad example that has no result since."""
    pq = needs_pyarrow("pyarrow.parquet")
    found: dict[Id, dict[str, Any]] = {}
    for place in (out, *sorted(out.glob("shard-*"))):
        for path in sorted((place / _OWN / "failed").glob("*.parquet")):
            found |= {row["id"]: row for row in pq.ParquetFile(path).read().to_pylist()}
    return [row for identity, row in found.items() if identity not in done]


def _write_failures(path: Path, bads: Iterable[Bad]) -> None:
    pa, pq = needs_pyarrow(), needs_pyarrow("pyarrow.parquet")
    rows = [bad._asdict() for bad in bads]
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows), temporary)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


# Files.


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk and not only in memory: a rename alone may survive what it renames."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(data)
    sync(temporary)
    os.replace(temporary, path)


def _first(path: Path, data: bytes) -> bool:
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


_held_here: set[Path] = set()  # the kernel's locks are one per process, and would let it in twice


@contextlib.contextmanager
def _locked(path: Path, token: str) -> Iterator[int]:
    """Hold a file's lock, with a token in it, until the end of the block or of the process, however it ends."""
    import fcntl  # POSIX; a record lock, which no child inherits and network file systems know

    key = path.resolve()
    if key in _held_here:
        raise RuntimeError(f"run(): another run of this process writes into {str(path.parent.parent)!r}: wait for it to end.")
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    _held_here.add(key)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"run(): another run writes into {str(path.parent.parent)!r}: wait for it to end.") from error
        os.pwrite(handle, token.encode(), 0)
        yield handle
    finally:
        _held_here.discard(key)
        os.close(handle)


def _is_held(path: Path) -> bool:
    """Whether somebody else holds a lock."""
    import fcntl

    if not path.exists() or path.resolve() in _held_here:
        return path.exists()
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
