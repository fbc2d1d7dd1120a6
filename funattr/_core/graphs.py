"""Graphs that outlive their pass, where the model writes to what they have saved, which is put back after the pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .._torch import beside_traces, copy_saved, is_plain, plain_data, tracing, without_transforms
from .state import State, kept


def writes_parameters() -> bool:
    """Whether the model may write to its parameters: in a transform of torch.func, it would write the transform's tensors."""
    return kept.state is not None and bool(kept.state.parameters)


def times_put_back() -> int:
    """How often tensors that passes of this call wrote to were put back: graphs of passes before may have saved them."""
    return 0 if kept.state is None else kept.state.times


def keep_written(create_graph: bool, found: Iterable[Tensor | None]) -> None:
    """Have the graph of what a pass `found`, where it is to be differentiated later, keep what the pass wrote."""
    if create_graph and not tracing() and kept.state is not None:
        with beside_traces(), without_transforms():
            if ranges := _written(kept.state):
                ends = [plain_data(t) for t in found if t is not None]
                copy_saved(ends, lambda t: any(start <= _start(t) < end for start, end in ranges))


def _written(state: State) -> list[tuple[int, int]]:
    """Where in memory what a pass wrote lies that is going to be put back."""
    found = [t for t, where in state.lies if t.data_ptr() != where.data_ptr()]
    found += [t for t, version, before, _ in state.tensors.values() if is_plain(t) and state.rewritten(t, version, before)]
    found += [where for where, before in state.parameters if not torch.equal(where, before)]
    memory = [t.untyped_storage() for t in map(plain_data, found)]
    arrays = [array for array, before in state.arrays if array.tobytes() != before.tobytes()]
    ranges = [(held.data_ptr(), held.data_ptr() + held.nbytes()) for held in memory]
    return ranges + [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays]


def _start(t: Tensor) -> int:
    t = plain_data(t)
    return t.data_ptr() if is_plain(t) and t.layout is torch.strided else 0
