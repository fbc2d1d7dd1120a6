"""What a language model wrote, as a score: an answer, each of its tokens, one token against another.

Targets like any callable: of the output alone, and picklable. They know ids, and no tokenizer. Labels are aligned with the end
of the logits, so that logits may be kept for the last positions only, and left padding needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from .._types import in_single
from .._words import complaint, door, kind_of
from .labels import (
    Labels,
    check_data,
    check_range,
    extremes,
    kept_logits,
    labels_of,
    logits_of,
    readable,
    start_of,
    whole_numbers,
)

#: What ids are given as.
Ids: TypeAlias = "Tensor | Sequence[int] | Sequence[Sequence[int]] | np.ndarray[Any, Any]"


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """The log-probability of an answer: a target. See `log_likelihood`."""

    labels: Labels
    mean: bool

    def __call__(self, output: Any) -> Tensor:
        logits, labels = logits_of(output), self.labels
        taken = kept_logits(logits, start_of(labels, logits), labels.columns)
        columns = torch.tensor(labels.columns, device=labels.ids.device)
        ids, counts = (t.index_select(-1, columns).to(logits.device) for t in (labels.ids, labels.counts))
        total = torch.where(counts, _log_probs(taken, ids), 0).sum(1)
        return total / counts.sum(-1) if self.mean else total


@dataclass(frozen=True, eq=False)
class Token:
    """One token of an answer: a target. See `tokens`."""

    labels: Labels
    place: int
    of: str
    against: Labels | None

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        start = start_of(self.labels, logits)
        place = max(start + self.place, 0)  # one that nobody counts may have no position
        taken = logits[:, place : place + 1]
        ids, counts = self._at(self.labels, logits)
        if self.of == "log_prob" and self.against is None:
            found = _log_probs(taken, ids)
        elif self.of == "prob":
            found = _log_probs(taken, ids).exp()
        else:
            found = in_single(_picked(taken, ids))
        if self.against is not None:
            start_of(self.against, logits)  # its checks
            others, known = self._at(self.against, logits)
            found, counts = found - in_single(_picked(taken, others)), counts & known
        return torch.where(counts, found, 0).squeeze(1)

    def _at(self, labels: Labels, logits: Tensor) -> tuple[Tensor, Tensor]:
        ids, counts = (t[..., self.place : self.place + 1].to(logits.device) for t in (labels.ids, labels.counts))
        return ids, counts


@dataclass(frozen=True, eq=False)
class Tokens(Sequence[Token]):
    """Targets, one for each place of an answer. See `tokens`."""

    labels: Labels
    of: str
    against: Labels | None
    places: range

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Token: ...
    @overload
    def __getitem__(self, at: slice) -> Tokens: ...
    def __getitem__(self, at: int | slice) -> Token | Tokens:
        if isinstance(at, slice):
            return Tokens(self.labels, self.of, self.against, self.places[at])
        return Token(self.labels, self.places[at], self.of, self.against)

    def __iter__(self) -> Iterator[Token]:
        return (self[at] for at in range(len(self)))


@dataclass(frozen=True, eq=False)
class Contrast:
    """One token against another: a target. See `contrast`."""

    yes: Tensor  # [] or [N]
    no: Tensor
    position: Tensor
    extremes: tuple[int, int, int]  # the largest id, the first and the last position

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        size, positions, _ = logits.shape
        largest, first, last = self.extremes
        check_range(largest, logits, "contrast")
        if not -positions <= first <= last < positions:
            text = f"position {first if first < -positions else last} is out of range: the model gives logits for {positions}"
            raise complaint(ValueError, f"{text} (0 to {positions - 1}, or -1 for the last).")
        for t, name in zip((self.yes, self.no, self.position), _NAMES):
            check_data(t, name, logits)
        yes, no, position = (self._each(t, name, size) for t, name in zip((self.yes, self.no, self.position), _NAMES))
        at = torch.arange(size, device=logits.device), (position % positions).to(logits.device)
        row = logits[at].unsqueeze(1)
        yes, no = (t.to(logits.device).unsqueeze(1) for t in (yes, no))
        return (in_single(_picked(row, yes)) - in_single(_picked(row, no))).squeeze(1)

    def _each(self, t: Tensor, name: str, size: int) -> Tensor:
        if t.dim() and t.shape[0] != 1 and t.shape[0] != size:
            text = f"{name} has {t.shape[0]} entries for the {size} examples"
            raise complaint(ValueError, f"{text}: pass one for each, or one for all.")
        return t.expand(size)


_NAMES = ("yes", "no", "position")


def _picked(logits: Tensor, ids: Tensor) -> Tensor:
    """The logits ``[N, K]`` of ids ``[K]`` or ``[N, K]``."""
    return logits.gather(2, ids.expand(logits.shape[:2]).unsqueeze(2)).squeeze(2)


def _log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities of ids, of half precision in float32. The backward pass keeps what is made of these positions."""
    dtype = torch.float32 if logits.element_size() < 4 else logits.dtype
    return _picked(torch.log_softmax(logits, 2, dtype), ids)


@door
def log_likelihood(
    answer_ids: Ids, *, reduction: Literal["sum", "mean"] = "sum", ignore_index: int = -100, shift: int = 1
) -> LogLikelihood:
    """The log-probability of an answer, as a target: what made a language model write it?

    ``sum_t log p(answer_t | what precedes it)``, for each example. The input is prompt and answer; labels are aligned with
    the end of the logits: of L labels and P positions, label j is predicted by position ``P - L + j - shift``. So the answer
    ends the input, left padding needs nothing, and logits may be kept for the last ``L + 1`` positions
    (``partial(model, logits_to_keep=L + 1)``). Right padding: labels as long as the input, `ignore_index` everywhere else.

    Args:
        answer_ids: ids ``[T]`` for all examples, or ``[N, T]``: a tensor, lists or an array. Shorter answers are filled with
            `ignore_index` at the left. Others than the input's are allowed: what would have made it write that?
        reduction: ``"sum"``, or ``"mean"`` over the tokens of an example that are not ignored.
        ignore_index: what stands where there is no token to explain: it adds 0.
        shift: 1 where logits predict the next token; 0 where they stand at their own: masked models, and encoder-decoders fed
            with labels that were shifted right.

    Returns:
        A target: a callable ``output -> [N]``, in nats; float32 where the logits are of half precision. The law: it is the sum
        of what `tokens` of the same ids give.

    Raises:
        ValueError: no ids, a negative one that is not ignored, nothing to explain, or an unknown `reduction` or `shift`; when
            called, an id that the model has not, rows that are not the batch's, or fewer positions than tokens.
        TypeError: text, floats or booleans for ids.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))  # logits [N, P, 9]
        >>> ids = torch.tensor([[1, 5, 2, 7, 3]])  # the answer is 7, 3
        >>> found = fa.input_x_gradient(model, ids, layer="0", target=fa.log_likelihood([7, 3]))
        >>> found.abs().sum(2).bool()  # from the tokens before each
        tensor([[False, False,  True,  True, False]])
    """
    if not isinstance(reduction, str) or reduction not in ("sum", "mean"):
        raise complaint(ValueError, f"reduction must be 'sum' or 'mean', got {kind_of(reduction)}.")
    labels = labels_of(answer_ids, ignore_index, shift)
    if reduction == "mean" and readable(labels.counts) and not bool(labels.counts.any(-1).all()):
        text = "an example has nothing but ignore_index, and no mean: leave it out, or take reduction='sum'"
        raise complaint(ValueError, f"{text}, where it adds 0.")
    return LogLikelihood(labels, reduction == "mean")


@door
def tokens(
    answer_ids: Ids,
    *,
    of: Literal["log_prob", "prob", "logit"] = "log_prob",
    against: Ids | None = None,
    ignore_index: int = -100,
    shift: int = 1,
) -> Tokens:
    """The tokens of an answer, one target for each: ``each_target(method, tokens(ids))`` explains them one by one.

    ``log p(answer_t | what precedes it)`` for place t; with `against`, ``log p(answer_t) - log p(against_t)`` at the same
    place, which is the difference of their logits. Alignment is that of `log_likelihood`.

    Args:
        answer_ids: ids ``[T]`` for all examples, or ``[N, T]``: a tensor, lists or an array. Shorter answers are filled with
            `ignore_index` at the left. Others than the input's are allowed: what would have made it write that?
        of: ``"log_prob"``, whose rows sum to those of `log_likelihood`; ``"prob"``, which saturates; or ``"logit"``, which has
            no common zero.
        against: other ids, of the answer's shape or ``[T]``.
        ignore_index: what stands where there is no token to explain: it adds 0.
        shift: 1 where logits predict the next token; 0 where they stand at their own: masked models, and encoder-decoders fed
            with labels that were shifted right.

    Returns:
        A sequence of T targets, with a length, indices and slices. An ignored place is 0.

    Raises:
        ValueError: no ids, a negative one that is not ignored, nothing to explain, an unknown `of` or `shift`, or `against` of
            another length; when called, as `log_likelihood`.
        TypeError: text, floats or booleans for ids.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
        >>> ids, answer = torch.tensor([[1, 5, 2, 7, 3]]), [7, 3]
        >>> rows = fa.each_target(fa.sum_channels(fa.input_x_gradient, channel_dim=-1), fa.tokens(answer))
        >>> rows(model, ids, layer="0").shape  # [T, N, S, 1]
        torch.Size([2, 1, 5, 1])
    """
    if not isinstance(of, str) or of not in ("log_prob", "prob", "logit"):
        raise complaint(ValueError, f"of must be 'log_prob', 'prob' or 'logit', got {kind_of(of)}.")
    labels, others = labels_of(answer_ids, ignore_index, shift), None
    if against is not None:
        if of == "prob":
            text = "against compares log-probabilities (or logits, which differ by the same), and not of='prob'"
            raise complaint(ValueError, f"{text}: leave out one of them.")
        others = labels_of(against, ignore_index, shift, "against")
        if others.ids.shape != labels.ids.shape and others.ids.shape != labels.ids.shape[-1:]:
            text = f"against has the shape {list(others.ids.shape)} and answer_ids {list(labels.ids.shape)}"
            raise complaint(ValueError, f"{text}: pass one other id for each place.")
        both = labels.counts & others.counts.to(labels.counts.device)  # what the answer ignores needs no position
        others = labels_of(torch.where(both, others.ids.to(both.device), ignore_index), ignore_index, shift, "against")
    # The logits' difference: the sum over the vocabulary is the same for both.
    return Tokens(labels, of if others is None else "logit", others, range(labels.width))


@door
def contrast(yes: Any, no: Any, *, position: Any = -1) -> Contrast:
    """One token against another at a position, as a target: why this word and not that one?

    ``z_yes - z_no``, the difference of the logits, which is that of the log-probabilities.

    Args:
        yes: the id that was written: one for all examples, a tensor ``[N]`` or a list of N.
        no: the id that could have been.
        position: where the logits are that predict them, counted from the end when negative: an int, or one for each example.

    Returns:
        A target: a callable ``output -> [N]``, in nats (log-odds); float32 where the logits are of half precision.

    Raises:
        ValueError: a negative id, or none; when called, an id or a position that is out of range, or not one for each example.
        TypeError: text, floats or booleans for ids or positions.

    Example:
        >>> import torch, funattr as fa
        >>> logits = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 4.0, 2.0]]])  # [N, P, V]
        >>> fa.score(logits, fa.contrast(1, 0))
        tensor([3.])
    """
    found = []
    for given, name in ((yes, "yes"), (no, "no"), (position, "position")):
        one = [given] if isinstance(given, (int, np.integer)) else given
        cure = "pass an int, or one for each example" + ("" if name == "position" else "; ids, of a tokenizer, and not words")
        ids = whole_numbers(one, name, cure)
        if ids.dim() > 1 or not ids.numel():
            text = f"{name} has the shape {list(ids.shape)}, expected one for all examples, or [N]"
            raise complaint(ValueError, f"{text}: {cure}.")
        found.append(ids if ids.dim() else ids[None])
    known = [extremes(ids) for ids in found]
    for (least, _), name in zip(known[:2], _NAMES):
        if least < 0:
            raise complaint(ValueError, f"{name} holds {least}, which is no id: ids are 0 and up.")
    return Contrast(found[0], found[1], found[2], (max(known[0][1], known[1][1]), *known[2]))
