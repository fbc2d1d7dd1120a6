"""`run`: a method over a data set."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ._arrow import needs_pyarrow
from ._bar import bar
from ._checks import check, check_device, check_flags, check_folder, check_notes, check_seed, count
from ._config import Storage, config_of, hash_of, versions
from ._data import Indexed, Stream, source_of
from ._folder import Folder, Part
from ._ids import Id, Ids
from ._load import failed
from ._local import run_local
from ._methods import bound, method_of
from ._model import check_name
from ._names import NoSuchName
from ._work import Job


class Summary(NamedTuple):
    """What a run did."""

    explained: int
    """Examples whose attributions came into the folder now."""
    failed: int
    """Examples that turned out bad now."""
    skipped: int
    """Examples that were done, or known as bad, before."""


def run(
    method: Callable[..., Any] | str | Sequence[Any] | Mapping[str, Any],
    model: Any,
    data: Any,
    out: str | Path,
    *,
    ids: Any = None,
    target: Any = "data",
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
    dtype: str | None = None,
    pool: str | Callable[[Tensor], Tensor] | None = None,
    top_k: int | None = None,
    varying: bool = False,
    engine: str = "local",
    batch_size: int | None = None,
    part_size: int | None = None,
    workers: int = 1,
    loaders: int | None = None,
    threads: int | None = None,
    device: Any = None,
    num_gpus: float = 0,
    shard: tuple[int, int] | None = None,
    retry: bool = False,
    strict: bool = False,
    progress: bool | None = None,
    notes: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Summary:
    """Attribute a data set, and store the results as Parquet files; run again, it goes on where it was ended.

    ``result[id] = method(model, x[id], target=target[id], **arguments)``, each id once, whatever is killed in between.

    Args:
        method: a method, a combination of methods, any ``(model, x, target=...)``, or its name: of this library, or
            ``"module:name"``; or several, in a list or a dict: of each example a dict is stored, name -> attribution, and each
            method gets those of the arguments that it takes.
        model: a function that makes the model when called without arguments, or ``"module:function"``; so workers can make
            their own. With one worker also the model itself.
        data: a `torch.utils.data.Dataset` whose items are x or ``(x, target)``, or a `DataLoader` of one; an iterable of
            ``(id, x, target)``; a table or data set of pyarrow, the path of Parquet files, or a `ray.data.Dataset`, with
            columns ``id``, ``x`` and, if there is one, ``target``; or a folder of pictures, whose file names are the ids and
            whose items are images of pillow for a transform, tensors ``[C, H, W]`` in [0, 1] without one.
        out: the folder of results.
        ids: one id for each example, integers or text; of a table the name of their column. None: the numbers of a Dataset's
            items, the first entries of an iterable's, the column ``"id"``.
        target: what is explained, for all; or ``"data"``: each example's own, and None where it has none.
        transform: a function from what the data set gives (of a table a row, as a dict) to x or ``(x, target)``.
        seed: of random methods and transforms: what an example draws depends on this and its id.
        dtype: what attributions are rounded to: ``"float16"``, ``"bfloat16"``, ...; None: as the method returns them.
        pool: sums that are stored in their place: per ``"channel"`` of ``[N, C, *S]``, per ``"place"`` of ``[N, C, H, W]``, per
            ``"token"`` of ``[N, T, C]``, or a function of attributions ``[N, ...]``.
        top_k: store the k largest of each example by magnitude, and where they are.
        varying: whether attributions may differ in shape from example to example.
        engine: ``"local"``, or ``"ray"`` for Ray Data.
        batch_size: how many examples are explained together. None: the DataLoader's, or 32.
        part_size: how many lie in one file, and are handed to a worker at once. None: 16 batches.
        workers: how many processes compute. One works in this process; of several each makes its own model.
        loaders: how many processes read ahead, for each worker. None: the DataLoader's, or 0: the worker reads by itself.
        threads: of each worker. None: the cores, divided among them.
        device: where to compute. None: where the model is.
        num_gpus: GPUs for each worker of Ray.
        shard: (rank, of how many): this run does its share of the examples, beside others that do theirs.
        retry: explain the bad examples again, and nothing else.
        strict: stop at the first bad example with its error.
        progress: a bar with the rate and the time left, or a line every ten seconds where stderr is no terminal. None: a bar
            where it is one, else nothing.
        notes: what else to write down with the results, as JSON holds it: `load` gives it back in its ``about``.
        arguments: the method's own, such as ``layer`` and ``n_steps``.

    Returns:
        How many examples were explained, turned out bad, and were there before.

    Raises:
        ValueError: something does not fit, or the folder holds results of another configuration: the message says what differs.
        TypeError: an argument is of the wrong type.
        RuntimeError: another run writes into the folder, workers die, or a strict run met a bad example.
        ImportError: the extra ``dataset`` (or ``ray``) is not installed.

    Example:
        >>> import tempfile, torch, funattr as fa
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> images = torch.rand(5, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     out = f"{place}/maps"
        ...     print(fa.dataset.run(fa.grad_cam, net, images, out, layer="1", target="argmax"))
        ...     print(fa.dataset.run(fa.grad_cam, net, images, out, layer="1", target="argmax"))
        Summary(explained=5, failed=0, skipped=0)
        Summary(explained=0, failed=0, skipped=5)
    """
    needs_pyarrow()
    try:
        method = method_of(method)
        if isinstance(model, str):
            check_name(model)
    except NoSuchName as error:
        raise ValueError(f"run(): {error}") from error
    batch_size, part_size, threads, top_k = (
        count("batch_size", batch_size),
        count("part_size", part_size),
        count("threads", threads),
        count("top_k", top_k),
    )
    workers, loaders = count("workers", workers, needed=True), count("loaders", loaders, least=0)
    check_flags(varying=varying, retry=retry, strict=strict, progress=progress)
    own_target = isinstance(target, str) and target == "data"
    target = None if own_target else target
    storage, how = Storage(dtype, pool, top_k, varying), _How(engine, workers, threads, num_gpus, shard, retry, progress)
    check(model, target, storage, how)
    seed = check_seed(seed)
    check_device(device, engine == "local")
    check_folder(out)
    bound(method, arguments, target, own_target)
    source, own_loaders = source_of(data, ids, transform, own_target, seed)
    size, loaders = batch_size or getattr(data, "batch_size", None) or 32, (own_loaders or 0) if loaders is None else loaders
    config = config_of(method, arguments, model, "data" if own_target else target, seed, storage, transform)
    check_notes(notes)
    about = {**config, "hash": hash_of(config), "versions": versions(), "notes": dict(notes or {})}
    own = source if isinstance(source, Indexed) else None
    calls = (method, arguments, model, target, own_target, seed)
    job = Job(*calls, size, part_size or 16 * size, storage, device, loaders, strict, retry, about, own)
    with (folder := Folder(out, shard)).claimed(config):
        found = _run(job._replace(trusted=retry or len(folder.done) > 0), folder, source, data, how)
        if found.failed and not folder.done:  # fewer than are taken for a mistake in the call
            _tell(out, found)
        return found


def _tell(out: Any, found: Summary) -> None:
    """That nothing was explained, and why not."""
    row = failed(out)[0]
    text = f"none of {found.failed} examples was explained. The first: {row['message'] or row['error']}"
    warnings.warn(f"{text}\nfa.dataset.failed({str(out)!r}) has them all.", stacklevel=3)


class _How(NamedTuple):
    """What has no say in the results."""

    engine: str
    workers: int
    threads: int | None
    num_gpus: float
    shard: tuple[int, int] | None
    retry: bool
    progress: bool | None


def _run(job: Job, folder: Folder, source: Indexed | Stream, data: Any, how: _How) -> Summary:
    state = _Run(folder, source, how.shard, how.retry)
    with _said(state), bar(how.progress, state.total(), state.before()) as shows:
        if how.engine == "ray":
            from ._ray import run_ray

            again = state.again if how.retry else None
            run_ray(job, folder, source, state.wanted, how.workers, how.num_gpus, data, again, state.took, shows)
        else:
            run_local(job, folder, source, state.wanted, how.workers, how.threads, state.took, shows)
    if how.retry:
        folder.tidy_failures()
    return Summary(state.explained, state.failed, state.skipped or (0 if how.retry else state.old))


@contextlib.contextmanager
def _said(state: _Run) -> Iterator[None]:
    """Have Ctrl-C say how far the run has come: the same error, which had no words."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not error.args:
            total = state.total()
            of = "" if total is None else f" of {total}"
            error.args = (f"{state.before() + state.explained + state.failed}{of} examples are done; run it again to go on.",)
        raise


class _Run:
    """What is still to be done, and what has come in."""

    def __init__(self, folder: Folder, source: Indexed | Stream, shard: tuple[int, int] | None, retry: bool) -> None:
        self.folder, self.source, self.shard, self.retry = folder, source, shard or (0, 1), retry
        self.explained = self.failed = self.skipped = 0
        self.old = len(folder.done) + len(folder.failed)
        self.again = list(folder.failed.fresh) + folder.failed.sorted.tolist() if retry else []

    def total(self) -> int | None:
        if self.retry:
            return len(self.again)
        size = len(self.source) if isinstance(self.source, Indexed) else self.source.size
        return None if size is None else -(-(size - self.shard[0]) // self.shard[1])

    def before(self) -> int:
        return 0 if self.retry or self.shard[1] > 1 else self.old

    def wanted(self) -> Iterator[tuple[Id, Any]]:
        """Pairs of an id and where its example is."""
        rank, world = self.shard
        again, seen = set(self.again), Ids()
        known = self.folder.done | self.folder.failed  # before this run: what it adds does not come again
        for number, (identity, place) in enumerate(self._pairs()):
            if number % world != rank:
                continue
            if isinstance(self.source, Stream):  # of what is indexed the ids are known to differ
                if identity in seen:
                    raise ValueError(f"run(): the id {identity!r} comes twice: ids must differ.")
                seen.add([identity])
            if (self.retry and identity in again) or (not self.retry and not (known and identity in known)):
                yield identity, place
            else:
                self.skipped += not self.retry

    def _pairs(self) -> Iterator[tuple[Id, Any]]:
        if isinstance(self.source, Stream):
            return iter(self.source.pairs())
        source = self.source
        return ((source.id_at(i), i) for i in range(len(source)))

    def took(self, part: Part) -> None:
        """Commit a part that a worker has written."""
        if self.folder.commit(part):
            self.explained += len(part.ids)
            self.failed += len(part.bads)
