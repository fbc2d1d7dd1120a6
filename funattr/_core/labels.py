"""Ids that stand for tokens: read from what people have, checked once, and aligned with the end of a model's logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._torch import is_plain, is_wrapped, plain_data, tracing
from .._types import as_it_is
from .._words import as_number, check_int, complaint, is_int, kind_of
from .checks import check_dense


def whole_numbers(given: Any, name: str, cure: str) -> Tensor:
    """`given`, a tensor, an array or nested lists, as a tensor of integers of its own."""
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given.astype(np.int64)) if given.dtype.kind in "iu" else given.tolist()
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        given = _stacked(list(given), name, cure)
    if not isinstance(given, Tensor):
        keys = ', such as ["input_ids"]' if isinstance(given, Mapping) or hasattr(given, "input_ids") else ""
        raise complaint(TypeError, f"{name} must hold integers{keys}, got {kind_of(given)}: {cure}.")
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise complaint(TypeError, f"{name} is a tensor of {given.dtype}, expected integers: {cure}.")
    check_dense(given, name)
    if tracing():
        return given.long().clone()
    with torch.inference_mode(False):  # what is made inside could not be saved for a backward pass
        return given.detach().clone().long()


def _stacked(items: list[Any], name: str, cure: str) -> Tensor:
    if any(isinstance(item, (Sequence, np.ndarray, Tensor)) and not isinstance(item, (str, bytes)) for item in items):
        rows = [whole_numbers(item, name, cure) for item in items]
        if len({row.shape for row in rows}) > 1:
            lengths = sorted({len(row) if row.dim() else 0 for row in rows})
            text = f"{name} has rows of {lengths} entries: make them one length, answers with ignore_index at the left"
            raise complaint(ValueError, f"{text}.")
        return torch.stack(rows)
    for item in items:
        if isinstance(item, (bool, np.bool_)) or not isinstance(item, (int, np.integer)):
            raise complaint(TypeError, f"{name} must hold integers, got {kind_of(item)}: {cure}.")
    return torch.tensor([as_number(item) for item in items], dtype=torch.long, device="cpu")


_IDS = "pass ids, tokenizer(text, add_special_tokens=False).input_ids"


@dataclass(frozen=True, eq=False)
class Labels:
    """The ids of an answer, and which of them count; the j-th of L is predicted by position ``P - L + j - shift`` of P."""

    name: str
    ids: Tensor  # [L] or [N, L]; 0 where ignored
    counts: Tensor  # the same shape
    shift: int
    columns: tuple[int, ...]  # those in which an id counts for some example
    largest: int  # of the ids that count

    @property
    def width(self) -> int:
        return self.ids.shape[-1]


def labels_of(answer_ids: Any, ignore_index: Any, shift: Any, name: str = "answer_ids") -> Labels:
    """The labels, checked."""
    check_int(ignore_index, "ignore_index", "an integer")
    if not is_int(shift) or shift not in (0, 1):
        text = "1 where logits predict the next token, 0 where they stand at their own (masked models, shifted labels)"
        raise complaint(ValueError, f"shift must be 0 or 1: {text}; got {kind_of(shift)}.")
    ids = whole_numbers(answer_ids, name, _IDS)
    if ids.dim() not in (1, 2):
        text = f"{name} has the shape {list(ids.shape)}, expected [T] for all examples, or [N, T]"
        raise complaint(ValueError, f"{text}: pass a list of ids.")
    if not ids.numel():
        raise complaint(ValueError, f"{name} is empty: pass at least one id.")
    with as_it_is if tracing() else torch.inference_mode(False):
        counts = ids != ignore_index
        kept = torch.where(counts, ids, 0)
    least, largest = extremes(kept)
    if least < 0:
        text = f"{name} holds {least}, which is no id, and not ignored"
        raise complaint(ValueError, f"{text}: fill with ignore_index={ignore_index}, or pass that as ignore_index.")
    if not readable(counts):
        return Labels(name, kept, counts, shift, tuple(range(ids.shape[-1])), largest)
    if not counts.any():
        raise complaint(ValueError, f"{name} has nothing but ignore_index={ignore_index}: there is nothing to explain.")
    columns = counts if counts.dim() == 1 else counts.any(0)
    return Labels(name, kept, counts, shift, tuple(columns.nonzero().flatten().tolist()), largest)


def check_data(ids: Tensor, name: str, *beside: Tensor) -> None:
    """Refuse ids without data, which nobody can look up, but beside logits that have none either."""
    if ids.is_meta and not any(t.is_meta for t in beside):
        raise complaint(ValueError, f"{name} is on the meta device, where tensors hold no numbers: make it with device='cpu'.")


def readable(t: Tensor) -> bool:
    """Whether checks may look at the data: it is neither traced, nor what a transform maps over."""
    return not (tracing() or is_wrapped(t)) and is_plain(t)


def extremes(ids: Tensor) -> tuple[int, int]:
    """The smallest and the largest, of all that they are mapped over; zeros where that cannot be seen."""
    known = None if tracing() else plain_data(ids)
    if known is None or not is_plain(known):
        return 0, 0
    least, largest = torch.aminmax(known)
    return int(least), int(largest)


def logits_of(output: Any) -> Tensor:
    """The logits ``[N, P, V]`` in what a language model returned."""
    found = output
    if isinstance(output, (tuple, list)) and not hasattr(output, "logits"):  # return_dict=False: what is asked for first
        found = next((part for part in output if isinstance(part, Tensor) and part.dim() == 3), output)
    elif not isinstance(output, Tensor):
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        cure = "load the model with its head (AutoModelForCausalLM), or have it return its logits"
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise complaint(ValueError, f"the model's output, a {type(output).__name__}{keys}, has no logits: {cure}.")
    if found.dim() != 3 or not found.is_floating_point():
        has = f"logits of the shape {list(found.shape)}" + ("" if found.is_floating_point() else f" and {found.dtype}")
        cure = "have the model return logits for each position; of a classifier, explain a class: target=3"
        raise complaint(ValueError, f"the model gives {has}, expected [N, positions, vocabulary]: {cure}.")
    return found


def check_range(largest: int, logits: Tensor, name: str) -> None:
    if largest >= logits.shape[2]:
        text = f"{name} holds the id {largest}, and the model has logits for the ids 0 to {logits.shape[2] - 1}"
        raise complaint(ValueError, f"{text}: use this model's tokenizer.")


def start_of(labels: Labels, logits: Tensor) -> int:
    """The position that predicts column 0, which may lie before the logits where that is ignored."""
    check_data(labels.ids, labels.name, logits)
    check_range(labels.largest, logits, labels.name)
    if labels.ids.dim() == 2 and labels.ids.shape[0] != logits.shape[0]:
        text = f"{labels.name} has {labels.ids.shape[0]} rows for the {logits.shape[0]} examples of the logits"
        raise complaint(ValueError, f"{text}: pass one row for each, or a single answer [T] for all.")
    start = logits.shape[1] - labels.width - labels.shift
    if start + labels.columns[0] < 0:
        needed = labels.width - labels.columns[0] + labels.shift
        text = f"{labels.name} needs the last {needed} positions of logits, and the model gives {logits.shape[1]}"
        cure = f"keep more of them, logits_to_keep={needed}" if labels.shift else "leave out labels that have none"
        raise complaint(ValueError, f"{text}: let the answer end the input, and {cure}.")
    return start


def kept_logits(logits: Tensor, start: int, columns: Sequence[int]) -> Tensor:
    """The logits that predict these columns ``[N, K, V]``."""
    first, stop = start + columns[0], start + columns[-1] + 1
    if stop - first == len(columns):
        return logits[:, first:stop]
    return logits.index_select(1, torch.tensor([start + column for column in columns], device=logits.device))
