"""What a worker does: examples in, attributions and bad examples out."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ._config import Storage, fingerprint, layers_of
from ._data import FATAL, Bad, Batch, Example, Indexed, bad, collate
from ._draws import LATE, MIXED, Looks, Seeded
from ._methods import bound, generators_in, leading
from ._model import built, device_of
from ._parts import Found, reduced
from ._trees import flatten, mapped

_ALIKE = 8  # so many examples that fail alike before any has gone well are no bad examples, but a mistake in the call


#: How far an example alone may be from what it is in a batch, of its size: in half precision, and otherwise.
_COARSE, _FINE = 0.1, 0.01


def _is_coarse(t: torch.Tensor) -> bool:
    return t.is_floating_point() and t.element_size() < 4


class Job(NamedTuple):
    """All that a worker needs to know."""

    method: Callable[..., Any]
    arguments: dict[str, Any]
    model: Any
    target: Any
    own_target: bool
    seed: int
    batch_size: int
    part_size: int
    storage: Storage
    device: Any
    loaders: int
    strict: bool
    trusted: bool
    """Whether examples went well before: then no number of bad ones means that the call is wrong."""
    about: dict[str, Any]
    source: Indexed | None


def count_of(result: Found | Bad) -> int:
    """How many examples a result is of."""
    return 1 if isinstance(result, Bad) else len(result.ids)


class BadExample(RuntimeError):
    """The first bad example of a strict run."""


class Worker:
    """A model and a method, ready to explain."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model = built(job.model, job.device)
        self.device = torch.device(device_of(self.model, job.device))
        self.fingerprint = fingerprint(self.model), layers_of(self.model)
        call = bound(job.method, job.arguments, job.target, job.own_target)(self.model)
        self.leading = leading(job.method)
        self.seeded = Seeded(call, job.seed, generators_in(job.method, job.arguments), self.leading)
        self.well, self.alike = job.trusted, 0
        self.first = ""
        self.looks = Looks()
        self.coarse = isinstance(self.model, torch.nn.Module) and any(map(_is_coarse, self.model.parameters()))

    def results(self, batches: Iterable[Batch | Bad]) -> Iterator[Found | Bad]:
        """Attributions and bad examples; those that come before all others wait until the call is known to be right."""
        held: list[Bad] = []
        for batch in batches:
            for result in [self._checked(batch)] if isinstance(batch, Bad) else self._explained(batch):
                if isinstance(result, Bad) and not self.well:
                    held.append(result)
                    continue
                yield from held
                held.clear()
                yield result
        yield from held

    def _explained(self, batch: Batch) -> Iterator[Found | Bad]:
        """A batch; or, where it raises, its halves, down to the examples that do."""
        try:
            found = self._found(batch)
        except FATAL:
            raise
        except Exception as error:
            if _of_the_machine(error):
                raise
            if len(batch.ids) == 1:
                self._count(error, batch)
                yield self._checked(bad(batch.ids[0], "explain", error), error)
                return
            for half in _halves(batch):
                yield from self._explained(half)
            return
        self.well = True
        yield found

    def _found(self, batch: Batch) -> Found:
        leaves, spec = self._leaves(batch)
        # What draws is compared with examples alone.
        if len(batch.ids) > 1 and not self.seeded.random and self.looks.due(len(batch.ids)):
            # What has a row for each example of a batch, wherever it is, would have another one for them in another batch.
            alike = [self._alike(batch, row, leaves) for row in (0, len(batch.ids) - 1)]
            if not all(alike):
                warnings.warn(MIXED + (LATE if self.looks.count > 1 else ""), stacklevel=1)
                self.seeded.one_by_one()
                leaves, spec = self._leaves(batch)
        return Found(list(batch.ids), reduced(leaves, self.job.storage), spec)

    def _leaves(self, batch: Batch) -> tuple[dict[str, torch.Tensor], Any]:
        """What the method finds, a row for each example, and its structure."""
        x = mapped(lambda t: t.to(self.device, non_blocking=True), batch.x)
        target = batch.target if self.job.own_target else self.job.target
        leaves, spec = flatten(self.seeded(batch.ids, x, target))
        leaves = {name: leaf.detach().movedim(self.leading, 0) for name, leaf in leaves.items()}
        for name, leaf in leaves.items():
            if leaf.dim() == 0 or leaf.shape[0] != len(batch.ids):
                raise ValueError(f"{name} must have a row for each of the {len(batch.ids)} examples, got {list(leaf.shape)}.")
            if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
                raise ValueError(f"{name} holds NaN or inf.")
        if not leaves:
            raise TypeError("the method returned no tensor.")
        return leaves, spec

    def _alike(self, batch: Batch, row: int, leaves: dict[str, torch.Tensor]) -> bool:
        """Whether an example alone has what it has in its batch, but for rounding, which kinks make larger than it is."""
        alone, _ = self._leaves(_part(batch, slice(row, row + 1)))
        for name, leaf in leaves.items():
            both, one = leaf[row].double(), alone[name][0].double()
            most = _COARSE if self.coarse or _is_coarse(leaf) else _FINE
            if both.shape != one.shape or bool((both - one).norm() > most * torch.maximum(both.norm(), one.norm())):
                return False
        return True

    def _checked(self, row: Bad, error: Exception | None = None) -> Bad:
        """A bad example, unless the run is strict."""
        if self.job.strict:
            raise BadExample(f"run(): example {row.id!r} is bad: {row.error}: {row.message}") from error
        return row

    def _count(self, error: Exception, batch: Batch) -> None:
        """Raise an error that all examples have had so far: then the call is wrong, and not they.

        Not where x itself is not finite: that is an example's own fault, however often it is met.
        """
        if self.well or not all(bool(leaf.isfinite().all()) for leaf in flatten(batch.x)[0].values()):
            return
        words = f"{type(error).__name__} {getattr(error, 'complaint', error)}"  # without the call, which has the target in it
        words = re.sub(r"[\d.]+|True|False", "", words)  # nor which number, or class, it was
        self.first = self.first or words
        self.well, self.alike = words != self.first, self.alike + 1
        if self.alike >= _ALIKE and not self.well:
            raise error


def _of_the_machine(error: Exception) -> bool:
    """Whether a device is broken or full, which no other example would change."""
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch.ids) // 2
    return [_part(batch, part) for part in (slice(0, middle), slice(middle, None))]


def _part(batch: Batch, part: slice) -> Batch:
    target = batch.target[part] if isinstance(batch.target, list) else batch.target
    return Batch(batch.ids[part], mapped(lambda t: t[part], batch.x), target)


# Reading.


class Reader:
    """Batches of an indexed source: in this process, or by a DataLoader whose processes stay between tasks."""

    def __init__(self, job: Job, device: torch.device) -> None:
        assert job.source is not None
        self.source, self.size, self.order = job.source, job.batch_size, _Order(job.batch_size)
        self.loader: Any = None
        if job.loaders:
            self.loader = torch.utils.data.DataLoader(
                job.source,  # type: ignore[arg-type]  # anything with a length and items will do
                batch_sampler=self.order,
                num_workers=job.loaders,
                collate_fn=batches_of,
                persistent_workers=True,
                pin_memory=device.type == "cuda",
            )

    def __call__(self, indices: Iterable[int]) -> Iterator[Batch | Bad]:
        self.order.indices = indices
        if self.loader is None:
            for chunk in self.order:
                batch = self.source.sliced(chunk)
                yield from [batch] if batch is not None else batches_of(self.source.__getitems__(chunk))
            return
        for batches in self.loader:
            yield from batches


class _Order:
    """A batch sampler whose numbers change from task to task. They are not gathered: there may be very many."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.indices: Iterable[int] = ()

    def __iter__(self) -> Iterator[list[int]]:
        left = iter(self.indices)
        while chunk := list(itertools.islice(left, self.size)):
            yield chunk


def batches_of(read: Sequence[Example | Bad]) -> list[Batch | Bad]:
    bads = [one for one in read if isinstance(one, Bad)]
    return [*bads, *collate([one for one in read if isinstance(one, Example)])]
