"""Workers that are processes: each makes its own model. The driver hands out tasks and commits what comes back.

A worker writes its parts under names that nobody reads; only the driver renames them. So a worker may die anywhere: what it
has not handed back, another does again. When the driver dies, the workers see their connection end, and end too.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from ._data import Bad, Example
from ._folder import Folder, Part
from ._ids import Id
from ._ship import shipped
from ._work import Job, Reader, Worker, batches_of, count_of
from ._writer import Writer

_DEATHS = 5  # of workers, without anything coming back: then it is not chance
_AHEAD = 2  # tasks that a worker has: one that it works on, and the next


class Task(NamedTuple):
    """What a worker does next: for each id the number of its example, or the example itself."""

    items: dict[Id, Any]


def run_pool(
    job: Job,
    folder: Folder,
    tasks: Iterator[Task],
    workers: int,
    threads: int,
    took: Callable[[Part], None],
    shows: Callable[[int], None],
) -> None:
    """Have all tasks done by so many processes.

    Raises:
        RuntimeError: workers die again and again.
        Exception: what a worker raised that belongs to no example.
    """
    pool = _Pool(job, folder, tasks, workers, threads, took, shows)
    try:
        pool.run()
    finally:
        pool.end()


class _Pool:
    def __init__(
        self,
        job: Job,
        folder: Folder,
        tasks: Iterator[Task],
        workers: int,
        threads: int,
        took: Callable[[Part], None],
        shows: Callable[[int], None],
    ) -> None:
        self.job = shipped((job, folder.out, folder.shard))
        self.folder, self.tasks, self.threads, self.took, self.shows = folder, tasks, threads, took, shows
        self.device, self.again, self.deaths = job.device, list[Task](), 0
        self.processes = [_Process(self, i) for i in range(workers)]

    def run(self) -> None:
        while True:
            for process in self.processes:
                while len(process.tasks) < _AHEAD and (task := self._next()) is not None:
                    process.give(task)
            busy = [process for process in self.processes if process.tasks]
            if not busy:
                return
            for connection in wait([process.connection for process in self.processes]):
                process = next(p for p in self.processes if p.connection is connection)
                try:
                    message = process.connection.recv()
                except (EOFError, OSError):
                    self._replace(process)
                else:
                    self._take(process, *message)

    def _next(self) -> Task | None:
        return self.again.pop() if self.again else next(self.tasks, None)

    def _take(self, process: _Process, kind: str, value: Any) -> None:
        if kind == "ready":
            self.folder.check_model(value)
        elif kind == "done":
            del process.tasks[value]
        elif kind == "count":
            process.ahead += value
            self.shows(value)
        elif kind == "part":
            self.took(value)
            self.deaths, process.ahead = 0, process.ahead - len(value.ids) - len(value.bads)
            process.forget([*value.ids, *(row.id for row in value.bads)])
        else:
            error, text = value
            raise pickle.loads(error) from RuntimeError(f"in a worker:\n{text}")

    def _replace(self, dead: _Process) -> None:
        """A worker that died: what it has not handed back is to be done again, by a new one too."""
        self.again += [Task(items) for items in dead.tasks.values() if items]
        self.deaths += 1
        self.shows(-dead.ahead)
        status = dead.end()
        if self.deaths >= _DEATHS:
            raise RuntimeError(
                f"run(): {_DEATHS} workers died, the last with status {status}, and nothing came back: out of memory? What is "
                "committed stays; run it again with a smaller batch_size or fewer workers."
            )
        self.processes[self.processes.index(dead)] = _Process(self, dead.number)

    def end(self) -> None:
        for process in self.processes:
            process.end()


_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from funattr.dataset._pool import serve
serve(int(sys.argv[2]))
"""


class _Process:
    def __init__(self, pool: _Pool, number: int) -> None:
        self.number, self.count = number, 0
        self.ahead = 0  # examples that it has explained and not handed back: they are lost when it dies
        self.tasks: dict[int, dict[Id, Any]] = {}
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": str(pool.threads), "MKL_NUM_THREADS": str(pool.threads)},
            )
        self.connection = Connection(ours.detach())
        self._send((pool.job, number, pool.threads))

    def give(self, task: Task) -> None:
        self.tasks[self.count] = dict(task.items)
        self._send((self.count, list(task.items.values())))
        self.count += 1

    def _send(self, message: Any) -> None:
        try:
            self.connection.send_bytes(pickle.dumps(message))  # not send: that shares tensors by file descriptors
        except OSError:  # it has died: the next read says so
            return

    def forget(self, ids: Sequence[Id]) -> None:
        for items in self.tasks.values():
            for identity in ids:
                items.pop(identity, None)

    def end(self) -> int:
        self.connection.close()
        self.process.kill()
        return self.process.wait()


# In the worker.


def serve(handle: int) -> None:
    """The worker's side, until the driver is gone."""
    connection = Connection(handle)
    blob, number, threads = pickle.loads(connection.recv_bytes())
    tasks: queue.Queue[Any] = queue.Queue()
    lock = threading.Lock()

    def say(*message: Any) -> None:
        with lock:
            connection.send(message)

    def listen() -> None:
        try:
            while True:
                tasks.put(pickle.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            os._exit(1)  # the driver is dead: nobody would take what comes

    threading.Thread(target=listen, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        job, out, shard = pickle.loads(blob)
        _work(job._replace(device=_own_device(job.device, number)), Folder(out, shard), tasks, say)
    except BaseException as error:
        say("error", (pickled(error), traceback.format_exc()))
        threading.Event().wait()  # until the driver has read it, and ends us


def _work(job: Job, folder: Folder, tasks: queue.Queue[Any], say: Callable[..., None]) -> None:
    worker = Worker(job)
    say("ready", worker.fingerprint)
    reader = Reader(job, worker.device) if job.source is not None else None
    writer = Writer(job, folder, lambda part: say("part" if isinstance(part, Part) else "done", part))
    while True:
        number, items = tasks.get()
        batches = reader(items) if reader is not None else _stacked(items, job.batch_size)
        for result in worker.results(batches):
            writer.put(result)
            say("count", count_of(result))
        writer.end_of_part(number)


def _stacked(items: list[Example | Bad], size: int) -> Iterator[Any]:
    for first in range(0, len(items), size):
        yield from batches_of(items[first : first + size])


def _own_device(device: Any, number: int) -> Any:
    """One of the machine's GPUs for each worker."""
    if str(device) == "cuda" and torch.cuda.device_count() > 1:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def pickled(error: BaseException) -> bytes:
    """An error as bytes, or its words where it cannot be put together again."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data
