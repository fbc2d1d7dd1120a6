"""The data set of a DataLoader, and which of its examples it gives."""

from __future__ import annotations

from typing import Any

import torch


def of_loader(loader: Any, ids: Any) -> tuple[Any, Any]:
    """The data set that a loader reads, in its order, with its collate_fn left out: examples are stacked here."""
    data, sampler = loader.dataset, getattr(loader, "sampler", None)
    if loader.collate_fn is not torch.utils.data.default_collate:
        raise TypeError(
            "run(): examples are stacked here, where a bad one can be told from the others, so a DataLoader's collate_fn is "
            "not called: make it a transform= of one example, and give the Dataset."
        )
    batches: Any = getattr(loader, "batch_sampler", None)
    own = type(batches) not in (torch.utils.data.BatchSampler, type(None))
    sampler = batches.sampler if batches is not None and not own else sampler
    if isinstance(data, torch.utils.data.IterableDataset) or (not own and _takes_all(sampler, data)):
        return data, ids
    order = [int(i) for batch in batches for i in batch] if own else [int(i) for i in sampler or range(len(data))]
    return torch.utils.data.Subset(data, order), order if ids is None else [ids[i] for i in order]


def _takes_all(sampler: Any, data: Any) -> bool:
    """Whether a sampler gives each example once, in whatever order."""
    if isinstance(sampler, torch.utils.data.RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(data)
    return isinstance(sampler, torch.utils.data.SequentialSampler)
