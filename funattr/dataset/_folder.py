"""The folder of a run: who may write into it, what is done, and how a part comes into it.

What is done is what lies in committed parts, nothing else. A part is written under another name, flushed to the disk, and
renamed: it is there as a whole or not at all. Only the process that holds the lock renames, and it knows every id that is
there: a worker of a run that was killed can leave a file that nobody renames, never a result twice.

The folder has parts and nothing else, for readers who take all that is there. What the run notes for itself (the lock, the
configuration, bad examples, parts in the making) lies beside it: of ``maps`` in ``.maps.funattr``.
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

from ._config import differences
from ._data import Bad
from ._files import about_of, first, read_json, reading, replace, sync
from ._ids import Id, Ids

_INSIDE = ".funattr"  # where older runs noted what is beside the folder now


def notes_of(out: Path) -> Path:
    """Where a run into `out` notes what is no result: beside it; inside where an older run did, or where beside is no room."""
    real = out.resolve()
    inside, beside = real / _INSIDE, real.with_name(f".{real.name}{_INSIDE}")
    if inside.exists() or not real.name:
        return inside
    if beside.exists() or not real.exists():
        return beside
    # Parts are renamed into the folder, which works within one file system: `out` may be where another is mounted.
    room = os.access(real.parent, os.W_OK) and real.parent.stat().st_dev == real.stat().st_dev
    return beside if room else inside


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
        self.notes = notes_of(self.out)
        self.place, self.own = self.out, self.notes
        if shard is not None:
            self.place, self.own = (_shard(place, shard[0]) for place in (self.out, self.notes))
        self.token = uuid.uuid4().hex
        self.temporary = self.own / "tmp"
        self.failures = self.own / "failed"
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
        self.own.mkdir(parents=True, exist_ok=True)
        with _locked(self.own / "lock", self.token, self.out) as self.lock:
            self._check_alone()
            if self.shard is None and not self._holds_results():
                self._forget()
            self.place.mkdir(parents=True, exist_ok=True)
            self.failures.mkdir(parents=True, exist_ok=True)
            self._check("run.json", config, self._made_by(config))
            shutil.rmtree(self.temporary, ignore_errors=True)  # what a killed run left
            self.temporary.mkdir()
            self._look()
            yield
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _check_alone(self) -> None:
        """That nobody does the same examples. Each takes its own lock before it looks: of two at once, one sees the other."""
        busy = [path for path in _shards(self.notes) if path != self.own and _is_held(path / "lock")]
        if self.shard is not None:
            world = str(self.shard[1])
            replace(self.own / "world", world.encode())
            busy = [path for path in busy if (path / "world").exists() and (path / "world").read_text() != world]
            busy += [self.notes] if _is_held(self.notes / "lock") else []
        if busy:
            raise RuntimeError(f"run(): another run writes into {str(self.out)!r}: wait for it to end.")

    def _holds_results(self) -> bool:
        return self.out.exists() and bool(parts_of(self.out) or failures_of(self.out, Ids()))

    def _forget(self) -> None:
        """The notes of a folder that has been removed since, or never held anything: they are about nothing."""
        for path in self.notes.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _made_by(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration that a part was made by, where there is one: a folder that was moved has left its notes behind."""
        part = next(iter(parts_of(self.out)), None)
        if part is None:
            return config
        with reading(part) as file:
            about = about_of(file)
        return {key: about.get(key) for key in config}

    def _check(self, name: str, config: dict[str, Any], noted: dict[str, Any]) -> None:
        """That the configuration is the one that is noted; the first run notes it."""
        first(self.notes / name, json.dumps(noted, indent=1).encode())
        found = differences(read_json(self.notes / name), json.loads(json.dumps(config)))
        if found:
            raise ValueError(
                f"run(): {str(self.out)!r} holds results of another configuration: {'; '.join(found)}. Choose another folder, "
                "or run it as it was."
            )

    def check_model(self, fingerprint: tuple[str, str]) -> None:
        """That the model has the weights and the layers that the results here were made with."""
        for name, what, found in zip(("model.json", "layers.json"), ("weights", "layers or modes"), fingerprint):
            self._check(name, here := {f"the model's {what}": found}, here)

    # What is there.

    def _look(self) -> None:
        last = -1
        for path in parts_of(self.out):
            with reading(path) as part:
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
            self._note(part.bads)
            self.failed.add(row.id for row in part.bads)
        return len(part.ids) + len(part.bads)

    def _check_layout(self, part: Part) -> None:
        self.layout = self.layout or part.layout
        if self.layout != part.layout:
            raise ValueError(
                f"run(): attributions differ in shape or dtype, {part.layout} and {self.layout}: give examples one size, "
                "or run with varying=True, into another folder."
            )

    def new_file(self) -> Path:
        return self.temporary / f"{uuid.uuid4().hex}.part"

    def _note(self, bads: Iterable[Bad]) -> None:
        rows = [bad._asdict() for bad in bads]
        replace(self.failures / f"{next(self.numbers):08d}-{self.token[:8]}.json", json.dumps(rows, indent=1).encode())
        sync(self.failures)

    def tidy_failures(self) -> None:
        """One table of what is still bad in the place of several: after a retry."""
        left = [Bad(**row) for row in _failures_in([self.own], self.done)]
        old = _failures(self.own)
        if left:
            self._note(left)
        for path in old:
            path.unlink()


def parts_of(out: Path) -> list[Path]:
    """The committed parts, those of shards too."""
    return [*sorted(out.glob("part-*.parquet")), *sorted(out.glob("shard-*/part-*.parquet"))]


def _shard(place: Path, rank: int) -> Path:
    return place / f"shard-{rank:05d}"


def _shards(notes: Path) -> list[Path]:
    """Where the drivers of shards note theirs; of older runs in the shard's own folder."""
    if notes.name == _INSIDE:
        return sorted({*notes.glob("shard-*"), *notes.parent.glob(f"shard-*/{_INSIDE}")})
    return sorted(notes.glob("shard-*"))


def layout_of(schema: Any) -> str:
    """The columns of a part: names, types and shapes."""
    columns = [f"{f.name}: {f.type} {(f.metadata or {}).get(b'shape', b'').decode()}".strip() for f in schema if f.name != "id"]
    return ", ".join(columns).replace("<element: ", "<item: ")  # Parquet has another name for what is in a list


def failures_of(out: Path, done: Ids) -> list[dict[str, Any]]:
    """The last word about each bad example that has no result since."""
    notes = notes_of(out)
    return _failures_in([notes, *_shards(notes)], done)


def _failures_in(places: Iterable[Path], done: Ids) -> list[dict[str, Any]]:
    found: dict[Id, dict[str, Any]] = {}
    for place in places:
        for path in _failures(place):
            found |= {row["id"]: row for row in _read_failures(path)}
    return [row for identity, row in found.items() if identity not in done]


def _failures(own: Path) -> list[Path]:
    """The files of bad examples, the latest last."""
    return sorted([*(own / "failed").glob("*.json"), *(own / "failed").glob("*.parquet")])


def _read_failures(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        rows: list[dict[str, Any]] = read_json(path)
        return rows
    with reading(path) as file:  # of an older run
        return list(file.read().to_pylist())


# Locks.


_held_here: set[Path] = set()  # the kernel's locks are one per process, and would let it in twice


@contextlib.contextmanager
def _locked(path: Path, token: str, out: Path) -> Iterator[int]:
    """Hold a file's lock, with a token in it, until the end of the block or of the process, however it ends."""
    import fcntl  # POSIX; a record lock, which no child inherits and network file systems know

    key = path.resolve()
    if key in _held_here:
        raise RuntimeError(f"run(): another run of this process writes into {str(out)!r}: wait for it to end.")
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    _held_here.add(key)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"run(): another run writes into {str(out)!r}: wait for it to end.") from error
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
