"""Attributions as columns of Arrow, and back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._arrow import needs_pyarrow
from ._config import Storage
from ._ids import Id
from ._trees import Spec, names_in, unflatten

#: What Arrow has no type for is stored as the bits of another.
_BITS = {torch.bfloat16: torch.int16}
ROWS = 256  # in a row group: what a reader holds of a part


class Found(NamedTuple):
    """The attributions of some examples: leaves ``[n, ...]`` by name."""

    ids: list[Id]
    leaves: dict[str, Tensor]
    spec: Spec


class TopK(NamedTuple):
    """The k largest attributions of an example by magnitude, the largest first."""

    values: Tensor
    """``[k]``"""
    indices: Tensor
    """``[k]``: places in the flattened attribution."""
    shape: tuple[int, ...]
    """The attribution's own shape."""

    def dense(self) -> Tensor:
        """The attribution with 0 where it was left out."""
        flat = self.values.new_zeros(int(np.prod(self.shape)))
        return flat.scatter(0, self.indices.long(), self.values).reshape(self.shape)


def reduced(leaves: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """What is stored of each attribution ``[n, ...]``; where the method ran, so that no more is moved than that."""
    found: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        leaf = pooled(leaf, storage.pool)
        if leaf.is_complex() or not (storage.varying or leaf[:1].numel()):
            what = "complex numbers" if leaf.is_complex() else "no numbers"
            raise ValueError(f"attributions {list(leaf.shape)} hold {what}, which no file holds: make others of them by pool=.")
        if storage.top_k is None:
            found[name] = _rounded(leaf, storage.dtype)
            continue
        flat = leaf.reshape(leaf.shape[0], -1)
        if storage.top_k > flat.shape[1]:
            raise ValueError(f"top_k={storage.top_k} is more than the {flat.shape[1]} numbers of an attribution.")
        order = flat.abs().argsort(dim=1, descending=True, stable=True)[:, : storage.top_k]
        shape = torch.tensor(leaf.shape[1:], device="cpu").expand(leaf.shape[0], -1)
        found[f"{name}.values"] = _rounded(flat.gather(1, order), storage.dtype)
        found[f"{name}.indices"], found[f"{name}.shape"] = order.int(), shape.int()
    return found


def pooled(leaf: Tensor, pool: Any) -> Tensor:
    """The sums over places (per channel), over channels (per place), or over what a token holds; or the caller's own."""
    if pool is None:
        return leaf
    if callable(pool):
        own = pool(leaf)
        if not isinstance(own, Tensor) or own.shape[:1] != leaf.shape[:1]:
            raise ValueError("pool must take attributions [N, ...] and return a tensor with the same N.")
        return own
    least = 3 if pool == "token" else 4
    if leaf.dim() < 3 or (pool != "channel" and (leaf.dim() == 3) != (least == 3)):
        wanted = {"channel": "[N, C, *S]", "place": "[N, C, H, W]", "token": "[N, T, C]"}[pool]
        raise ValueError(f"pool={pool!r} takes attributions {wanted}, got {list(leaf.shape)}: give pool a function of them.")
    if pool == "channel":
        return leaf.flatten(2).sum(2)
    return leaf.sum(1) if pool == "place" else leaf.sum(2)


def _rounded(leaf: Tensor, dtype: str | None) -> Tensor:
    return leaf.to(getattr(torch, dtype)) if dtype is not None and leaf.is_floating_point() else leaf


def overflown(found: Found) -> list[int]:
    """The rows that rounding made infinite: a method's own results are finite."""
    rows = torch.zeros(len(found.ids), dtype=torch.bool, device="cpu")
    for leaf in found.leaves.values():
        if leaf.is_floating_point():
            rows |= ~leaf.reshape(len(found.ids), -1).isfinite().all(1)
    return rows.nonzero()[:, 0].tolist()


def table_of(found: Sequence[Found], storage: Storage, about: dict[str, Any]) -> Any:
    """A table in the order of ids: a column of ids, and one or two for each leaf."""
    pa = needs_pyarrow()
    if any(part.spec != found[0].spec or list(part.leaves) != list(found[0].leaves) for part in found):
        raise ValueError("run(): the method's results differ in structure from batch to batch.")
    columns, fields = [], []
    ids = [identity for part in found for identity in part.ids]
    if len(set(map(type, ids))) > 1:
        raise TypeError("run(): ids must be all integers or all text.")
    fields.append(pa.field("id", pa.int64() if isinstance(ids[0], int) else pa.string(), nullable=False))
    columns.append(pa.array(ids, fields[0].type))
    for name in found[0].leaves:
        for column, field in _columns(name, [part.leaves[name] for part in found], storage):
            columns.append(column)
            fields.append(field)
    schema = pa.schema(fields, {"funattr": json.dumps({**about, "structure": found[0].spec})})
    table = pa.Table.from_arrays(columns, schema=schema)
    return table if _sorted(ids) else table.sort_by("id")


def _sorted(ids: Sequence[Any]) -> bool:
    return all(a < b for a, b in itertools.pairwise(ids))


def _columns(name: str, leaves: Sequence[Tensor], storage: Storage) -> list[tuple[Any, Any]]:
    pa = needs_pyarrow()
    shapes = [tuple(leaf.shape[1:]) for leaf in leaves]
    dtype, *others = dict.fromkeys(str(leaf.dtype)[6:] for leaf in leaves)
    if others:
        raise ValueError(f"run(): attributions differ in dtype, {dtype} and {others[0]}: run with dtype={dtype!r}, or another.")
    numbers = pa.array(np.concatenate([_numpy(leaf).reshape(-1) for leaf in leaves]))
    about = {"dtype": dtype, "shape": json.dumps(shapes[0])}
    if not storage.varying or name.endswith(".shape"):
        if len(set(shapes)) > 1:
            raise ValueError(
                f"run(): attributions differ in shape, {list(shapes[0])} and {list(min(set(shapes) - {shapes[0]}))}: give "
                "examples one size, or run with varying=True, into another folder."
            )
        size = int(np.prod(shapes[0]))
        column = numbers if not shapes[0] else pa.FixedSizeListArray.from_arrays(numbers, size)
        return [(column, pa.field(name, column.type, nullable=False, metadata=about))]
    counts = [int(np.prod(shape)) for shape, leaf in zip(shapes, leaves) for _ in range(len(leaf))]
    column = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *counts]), pa.int32()), numbers)
    each = pa.array([list(shape) for shape, leaf in zip(shapes, leaves) for _ in range(len(leaf))], pa.list_(pa.int32()))
    field = pa.field(name, column.type, nullable=False, metadata={"dtype": dtype})
    return [(column, field), (each, pa.field(f"{name}.of", each.type, nullable=False))]


def _numpy(leaf: Tensor) -> np.ndarray[Any, Any]:
    leaf = leaf.contiguous()
    return leaf.view(_BITS[leaf.dtype]).numpy().view(np.uint16) if leaf.dtype in _BITS else leaf.numpy()


def write(table: Any, path: Path) -> None:
    """Write a part. Attributions hardly repeat: a dictionary of them, or their least and largest, would gain nothing."""
    needs_pyarrow("pyarrow.parquet").write_table(
        table,
        path,
        row_group_size=ROWS,
        compression="zstd",
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
    )


# And back.


def rows_of(batch: Any, about: Mapping[str, Any], schema: Any) -> list[tuple[Id, Any]]:
    """The examples of a record batch: ids, and attributions as the method returned them, without the batch."""
    names, leaves = names_in(about["structure"]), dict[str, Any]()
    for name in names:
        if about["storage"]["top_k"] is None:
            leaves[name] = _read(batch, schema, name)
            continue
        parts = [_read(batch, schema, f"{name}.{what}") for what in ("values", "indices", "shape")]
        leaves[name] = [TopK(v, i, tuple(s.tolist())) for v, i, s in zip(*parts)]
    ids = batch.column("id").to_pylist()
    return [(i, unflatten({name: leaves[name][row] for name in names}, about["structure"])) for row, i in enumerate(ids)]


def _read(batch: Any, schema: Any, name: str) -> Tensor | list[Tensor]:
    column, metadata = batch.column(name), schema.field(name).metadata
    dtype = getattr(torch, metadata[b"dtype"].decode())
    nested = hasattr(column.type, "value_type")
    flat = (column.flatten() if nested else column).to_numpy(zero_copy_only=False)
    flat = flat.copy()
    numbers = torch.from_numpy(flat.view(np.int16)).view(dtype) if dtype in _BITS else torch.from_numpy(flat)
    if b"shape" in metadata:
        return numbers.reshape(len(column), *json.loads(metadata[b"shape"]))
    shapes = batch.column(f"{name}.of").to_pylist()
    return [part.reshape(shape) for part, shape in zip(numbers.split([int(np.prod(s)) for s in shapes]), shapes)]
