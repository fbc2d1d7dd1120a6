"""The Ray engine: Ray Data reads, and feeds a pool of actors; the driver commits the files that they write.

Ray has a checkpoint by id of its own (`ray.data.checkpoint.CheckpointConfig`). It belongs to Ray's writers: it notes ids beside
their files, keeps no table of bad rows, knows no configuration to refuse, and is removed when a run ends. The committed parts
are the checkpoint here, the same for both engines, so that one may go on where the other was ended.
"""

from __future__ import annotations

import importlib
import itertools
import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._data import Indexed, Stream
from ._folder import Folder, Part
from ._ids import Id, Ids, as_id
from ._parts import Found
from ._pool import pickled
from ._ship import shipped
from ._tables import rows_of_ray, shape_of
from ._work import Job, Reader, Worker, batches_of
from ._writer import written

_WINDOW = 64  # tasks of a stream that Ray holds at once


def run_ray(
    job: Job,
    folder: Folder,
    source: Indexed | Stream,
    wanted: Callable[[], Iterator[tuple[Id, Any]]],
    workers: int,
    num_gpus: float,
    data: Any,
    again: Iterable[Id] | None,
    took: Callable[[Part], None],
    shows: Callable[[int], None],
) -> None:
    """Have all that is wanted done by actors; of a table those rows that are not done, or those to be tried `again`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: the cluster has too few CPUs.
    """
    ray = _started(workers)
    table = getattr(source, "table", None)
    blob = ray.put(shipped((job, folder.out, folder.shard, table, shape_of(data) if table is not None else None)))
    known = Ids(again) if again is not None else folder.done | folder.failed
    for rows in _sets(ray, job, source, wanted, workers, data, known, again is not None):
        found = rows.map_batches(
            _Actor,
            fn_constructor_args=(blob,),
            batch_size=job.part_size,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=num_gpus or None,
        )
        for row in found.iter_rows():
            shows(_take(folder, pickle.loads(row["part"]), took))


def _started(workers: int) -> Any:
    """Ray, with a CPU for each worker and two for what reads: with fewer, readers wait for workers, and these for them."""
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ModuleNotFoundError as error:
        raise ImportError('engine="ray" needs Ray: pip install "funattr[ray]".') from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        cpus = {} if address else {"num_cpus": max(os.cpu_count() or 1, workers + 2), "include_dashboard": False}
        ray.init(address=address, **cpus)
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of ours
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < workers + 1:
        raise ValueError(
            f"run(): Ray has {there} CPUs, and {workers} workers and a reader need {workers + 1}: start it with more, "
            f"ray.init(num_cpus={workers + 2}), or have fewer workers."
        )
    return ray


def _sets(
    ray: Any,
    job: Job,
    source: Indexed | Stream,
    wanted: Callable[[], Iterator[tuple[Id, Any]]],
    workers: int,
    data: Any,
    known: Ids,
    again: bool,
) -> Iterator[Any]:
    """Ray data sets of what is to be done: of numbers, which actors read by; or of examples."""
    if isinstance(source, Indexed):
        numbers = np.fromiter((index for _, index in wanted()), np.int64)
        if len(numbers):
            yield ray.data.from_numpy(np.array_split(numbers, -(-len(numbers) // job.part_size)))
    elif source.table is not None:
        kind = type(data).__module__.split(".")[0]
        rows = data if kind == "ray" else ray.data.from_arrow(data) if hasattr(data, "combine_chunks") else None
        rows = ray.data.read_parquet(str(data) if isinstance(data, (str, Path)) else data.files) if rows is None else rows
        yield _only(ray, rows, source.table.ids, known, again)
    else:
        left = wanted()
        while chunk := list(itertools.islice(left, _WINDOW * job.part_size * workers)):
            yield ray.data.from_items([{"example": pickle.dumps(example)} for example in source.read(chunk)])


def _only(ray: Any, rows: Any, column: str, known: Ids, again: bool) -> Any:
    """The rows whose ids are not known; or, to try them again, those whose ids are."""
    shared = ray.put(known)

    def keep(batch: Any) -> Any:
        there = importlib.import_module("ray").get(shared)
        return batch.filter([(as_id(identity) in there) == again for identity in batch.column(column).to_pylist()])

    return rows.map_batches(keep, batch_format="pyarrow")


class _Actor:
    """A worker of Ray's. An error that belongs to no example is handed back, as Ray would try it again."""

    def __init__(self, blob: Any) -> None:
        self.blob = blob
        self.worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        try:
            message = self._part(batch)
        except Exception as error:
            message = ("error", (pickled(error), traceback.format_exc()))
        return {"part": [pickle.dumps(message)]}

    def _part(self, batch: dict[str, Any]) -> Any:
        if self.worker is None:
            self._make()
        assert self.worker is not None
        results = list(self.worker.results(self._batches(batch)))
        found = [result for result in results if isinstance(result, Found)]
        bads = [result for result in results if not isinstance(result, Found)]
        return "part", (self.worker.fingerprint, written(found, bads, self.job, self.folder))

    def _make(self) -> None:
        ray = importlib.import_module("ray")
        data = ray.get(self.blob) if isinstance(self.blob, ray.ObjectRef) else self.blob
        self.job, out, shard, self.table, self.shape = pickle.loads(data)
        if self.job.device is None and ray.get_gpu_ids():
            self.job = self.job._replace(device="cuda")
        self.folder, self.worker = Folder(out, shard), Worker(self.job)
        self.read = Reader(self.job, self.worker.device) if self.job.source is not None else None

    def _batches(self, batch: dict[str, Any]) -> Iterator[Any]:
        if self.read is not None:
            yield from self.read(batch["data"].tolist())
            return
        if self.table is not None:
            pairs = list(rows_of_ray(batch, self.table, self.shape))
            examples = Stream(list, self.table.transform, self.job.own_target, self.job.seed).read(pairs)
        else:
            examples = [pickle.loads(one) for one in batch["example"]]
        for first in range(0, len(examples), self.job.batch_size):
            yield from batches_of(examples[first : first + self.job.batch_size])


def _take(folder: Folder, message: Any, took: Callable[[Part], None]) -> int:
    kind, value = message
    if kind == "error":
        raise pickle.loads(value[0]) from RuntimeError(f"in a worker:\n{value[1]}")
    fingerprint, part = value
    folder.check_model(fingerprint)
    took(part)
    return len(part.ids) + len(part.bads)
