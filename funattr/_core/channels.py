"""Which dimension of a value holds the channels, and which ones are space."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .._words import check_int, complaint


def channel_of(value: Tensor, channel_dim: int, leading: int = 0) -> int:
    """The channel dimension, counted from the front; `channel_dim` does not count dimensions before the batch."""
    check_int(channel_dim, "channel_dim", "an integer")
    shape = list(value.shape[leading:])
    if len(shape) < 2:
        raise complaint(ValueError, f"the value {shape} has no channel dimension: choose a layer whose value is [N, C, ...].")
    if not -len(shape) <= channel_dim < len(shape):
        raise complaint(ValueError, f"channel_dim={channel_dim} is out of range for the value {shape}.")
    if channel_dim % len(shape) == 0:
        raise complaint(ValueError, f"channel_dim={channel_dim} is the batch of the value {shape}: channels are another one.")
    return leading + channel_dim % len(shape)


def check_rows(values: Sequence[Tensor], size: int) -> None:
    """Refuse a value of which no part has the batch first: of a sequence-first layer, a map mixes examples.

    Several rows for each example (sentences of a document, windows of a picture) are each a map, where there are several
    examples: of a single one, nothing tells such rows from steps in time.
    """

    def has_rows(value: Tensor) -> bool:
        return value.shape[0] == size or (size > 1 and value.shape[0] % size == 0)

    if values and not any(map(has_rows, values)):
        text = f"the layer gives a tensor {list(values[0].shape)} without a row for each of the {size} examples"
        raise complaint(ValueError, f"{text}: choose a layer whose value has the batch first.")


def over_space(value: Tensor, channel: int) -> Tensor:
    """The sum over all dimensions but the batch and the channels, kept with size 1."""
    space = [d for d in range(1, value.dim()) if d != channel]
    return value.sum(space, keepdim=True) if space else value  # a sum over no dimension would be over all of them


def mean_over_space(value: Tensor, channel: int) -> Tensor:
    """The mean over the same dimensions."""
    space = [d for d in range(1, value.dim()) if d != channel]
    return value.mean(space, keepdim=True) if space else value
