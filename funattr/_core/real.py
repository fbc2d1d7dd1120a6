"""What can be explained: numbers that have gradients, and are real."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._types import Tree, attributable, tensors
from .._words import complaint


def is_number(leaf: object) -> bool:
    """Whether a leaf holds real or complex numbers, which integers (ids, positions, masks) are not."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def check_attributable(value: Tree, label: str) -> None:
    """Refuse a value without floating-point tensors, and an input with complex ones; `label` is "x", or a layer's."""
    if attributable(value):
        return
    found, at_input = tensors(value), label == "x"
    some, complexes = any(map(attributable, found)), [t for t in found if t.is_complex()]
    where = "x" if at_input else f"the value at layer {label}"
    if complexes and (at_input or not some):
        cure = _VIEW if at_input else "choose a layer where it is real, or put torch.view_as_real(value) through one of its own"
        text = f"{where} is complex ({_dtypes(complexes)}), and attributions are of real numbers: {cure}."
    elif some:
        return
    else:
        cure = f", and {_FLOATS}" if at_input else ""
        text = f"{where} holds no floating-point tensor ({_dtypes(found) or 'no tensor at all'}){cure}."
    raise complaint(TypeError, text)


_FLOATS = "integers have no gradient: choose a layer after the embedding, layer='...'; of pictures, pass x.float()"
_VIEW = (
    "pass torch.view_as_real(x) to a model that begins with torch.view_as_complex, and sum over the last dimension; or bind "
    "what is not to be explained with functools.partial"
)


def _dtypes(found: Sequence[Tensor]) -> str:
    return ", ".join(sorted({str(t.dtype) for t in found}))


def real(value: Tensor, what: str, cure: str) -> Tensor:
    """`value`, which a score is made of: a complex number is none, and of a sparse or nested tensor entries cannot be taken."""
    if value.is_nested or value.layout is not torch.strided:
        kind, dense = ("nested", "to_padded_tensor(0.0)") if value.is_nested else (f"sparse ({value.layout})", "to_dense()")
        text = f"{what} {kind}, of which a target cannot take entries"
        raise complaint(ValueError, f"{text}: pass a callable one, such as lambda output: output.{dense}[:, 3].")
    if value.is_complex():
        raise complaint(ValueError, f"{what} complex ({value.dtype}), and a score is a real number: {cure}.")
    return value


def in_single(t: Tensor) -> Tensor:
    """In single precision, of what has less: half would be too coarse for a sum."""
    return t if t.element_size() >= 4 else t.float()


def in_double(t: Tensor) -> Tensor:
    """In the widest floating-point type that its device has."""
    return t.float() if t.device.type == "mps" else t.double()
