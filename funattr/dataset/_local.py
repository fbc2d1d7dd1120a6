"""The local engine: one process with a writing thread, or a driver and several workers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ._data import Indexed, Stream
from ._folder import Folder, Part
from ._ids import Id
from ._methods import generators_in
from ._pool import Task, run_pool
from ._work import Job, Reader, Worker, batches_of, count_of
from ._writer import Writer

#: ``wanted()``: pairs of an id and what says where its example is, of the examples that are still to be done.
Wanted = Callable[[], Iterator[tuple[Id, Any]]]


def run_local(
    job: Job,
    folder: Folder,
    source: Indexed | Stream,
    wanted: Wanted,
    workers: int,
    threads: int | None,
    took: Callable[[Part], None],
    shows: Callable[[int], None],
) -> None:
    """Have all that is wanted done. `took` gets each part, `shows` how many examples each batch had."""
    if workers > 1:
        each = threads or max(1, (os.cpu_count() or 1) // workers)
        run_pool(job, folder, _tasks(source, wanted, job.part_size), workers, each, took, shows)
        return
    before = torch.get_num_threads()
    states = [(g, g.get_state()) for g in (torch.default_generator, *generators_in(job.method, job.arguments))]
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        _here(job, folder, source, wanted, took, shows)
    finally:
        torch.set_num_threads(before)
        for generator, state in states:
            generator.set_state(state)


def _here(
    job: Job,
    folder: Folder,
    source: Indexed | Stream,
    wanted: Wanted,
    took: Callable[[Part], None],
    shows: Callable[[int], None],
) -> None:
    worker = Worker(job)
    folder.check_model(worker.fingerprint)
    if isinstance(source, Indexed):
        batches = Reader(job, worker.device)(index for _, index in wanted())
    else:
        batches = _streamed(source, wanted(), job.batch_size)
    results = worker.results(batches)
    first = next(results, None)  # before there is a thread: a DataLoader forks
    if first is None:
        return
    writer = Writer(job, folder, took)
    try:
        for result in itertools.chain([first], results):
            writer.put(result)
            shows(count_of(result))
    except BaseException:
        _closed(writer)
        raise
    writer.close()


def _closed(writer: Writer) -> None:
    """What was explained before something else was raised is kept, if that can be."""
    if writer.error is None:
        writer.close()


def _streamed(source: Stream, wanted: Iterator[tuple[Id, Any]], size: int) -> Iterator[Any]:
    while chunk := list(itertools.islice(wanted, size)):
        yield from batches_of(source.read(chunk))


def _tasks(source: Indexed | Stream, wanted: Wanted, size: int) -> Iterator[Task]:
    """Tasks of one part each; examples of a stream are read here, and travel with them."""
    left = wanted()
    while chunk := list(itertools.islice(left, size)):
        if isinstance(source, Indexed):
            yield Task(dict(chunk))
        else:
            yield Task({example.id: example for example in source.read(chunk)})
