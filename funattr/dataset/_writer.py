"""Results into files, off the path that computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any, NamedTuple

from ._data import Bad, bad
from ._files import sync
from ._folder import Folder, Part, layout_of
from ._ids import Id
from ._parts import Found, overflown, table_of, write
from ._work import BadExample, Job

_BYTES = 1 << 25  # of results, or seconds, after which the writing thread gets them
_WAIT = 5.0
_SECONDS = 60.0  # after which a part is closed, however small: what a crash may cost


class Writer:
    """Results into files, in a thread of its own: the queue is short, so memory is bounded.

    `take` gets each part that is written. An error in the thread is raised where the next result comes, or at the end.
    """

    def __init__(self, job: Job, folder: Folder, take: Callable[[Part | Any], None]) -> None:
        self.job, self.folder, self.take = job, folder, take
        self.queue: Queue[Any] = Queue(maxsize=4)
        self.pending: list[Found | Bad | _End] = []
        self.bytes, self.since = 0, time.monotonic()
        self.error: BaseException | None = None
        self.part = _Open()
        self.thread = threading.Thread(target=self._run, name="funattr-writer", daemon=True)
        self.thread.start()

    def put(self, item: Found | Bad) -> None:
        """Take a result. They go to the thread several at once: each time it wakes up, this one waits for it."""
        self._raise()
        if isinstance(item, Found):
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in item.leaves.values())
        self.pending.append(item)
        now = time.monotonic()
        many = len(self.pending) * self.job.batch_size >= self.job.part_size
        if many or self.bytes > _BYTES or now - self.since > _WAIT:
            self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        self.queue.put(self.pending)
        self.pending, self.bytes, self.since = [], 0, now

    def end_of_part(self, note: Any = None) -> None:
        """Close the part, and hand `note` on after it."""
        self._raise()
        self.pending.append(_End(note))
        self._hand_on(time.monotonic())

    def close(self) -> None:
        """Write what is left, and wait for it."""
        self.pending.append(_End(None))
        self.queue.put(self.pending)
        self.queue.put(None)
        self.thread.join()
        self._raise()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while (items := self.queue.get()) is not None:
            if self.error is not None:  # go on taking, so that nobody waits for room
                continue
            try:
                for item in items:
                    self._add(item)
            except BaseException as error:
                self.error = error

    def _add(self, item: Found | Bad | _End) -> None:
        part = self.part
        part.add(item)
        late = time.monotonic() - part.since > _SECONDS
        if isinstance(item, _End) or part.count >= self.job.part_size or late:
            if part.count:
                self.take(written(part.found, part.bads, self.job, self.folder))
            self.part = _Open()
        if isinstance(item, _End) and item.note is not None:
            self.take(item.note)


class _End(NamedTuple):
    note: Any


class _Open:
    """A part that is being filled."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.bads: list[Bad] = []
        self.count = 0
        self.since = time.monotonic()

    def add(self, item: Found | Bad | _End) -> None:
        if isinstance(item, Bad):
            self.bads.append(item)
            self.count += 1
        elif isinstance(item, Found):
            self.found.append(item._replace(leaves={name: leaf.cpu() for name, leaf in item.leaves.items()}))
            self.count += len(item.ids)


def written(found: list[Found], bads: list[Bad], job: Job, folder: Folder) -> Part:
    """A file of results, on the disk, under a name that nobody reads yet."""
    if job.storage.dtype == "float16":
        found, more = _without_overflow(found, job)
        bads = bads + more
    ids: list[Id] = [identity for part in found for identity in part.ids]
    if not ids:
        return Part(None, [], bads)
    table, path = table_of(found, job.storage, job.about), folder.new_file()
    write(table, path)
    sync(path)
    return Part(path, ids, bads, layout_of(table.schema))


def _without_overflow(found: list[Found], job: Job) -> tuple[list[Found], list[Bad]]:
    kept, bads = [], []
    for part in found:
        rows = overflown(part)
        for row in rows:
            error = OverflowError("its attribution does not fit float16: use dtype='bfloat16', or none.")
            if job.strict:
                raise BadExample(f"run(): example {part.ids[row]!r} is bad: {error}")
            bads.append(bad(part.ids[row], "store", error))
        left = [row for row in range(len(part.ids)) if row not in set(rows)]
        if left:
            leaves = {name: leaf[left] for name, leaf in part.leaves.items()}
            kept.append(Found([part.ids[row] for row in left], leaves, part.spec))
    return kept, bads
