"""What is looked at: the arguments of a method, its input, the values at sites (what has gradients and is real, which dimension
holds channels), scores, and what it is about to return."""

from __future__ import annotations

import cmath
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._torch import (
    is_plain,
    observed_by_dispatch_mode,
    plain_data,
    tracing,
    transforms_active,
    tree_flatten,
    without_transforms,
)
from .._types import Tree, as_it_is, attributable, batch_size, tensors
from .._words import check_int, complaint, kind_of
from .here import here


def may_read(*given: Tensor) -> bool:
    """Whether checks may look at the data (of `given`): not under a transform, nor while somebody traces, nor without any."""
    return not (tracing() or transforms_active() or observed_by_dispatch_mode()) and all(map(is_plain, given))


def anywhere(flags: Tensor) -> bool:
    """Whether a flag is set, for anything that transforms map it over; False where no data may be read."""
    if tracing() or observed_by_dispatch_mode():
        return False
    flags = plain_data(flags)
    with without_transforms() if transforms_active() else as_it_is:
        return is_plain(flags) and bool(flags.any())


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two results are one, to rounding in another order; not so where that cannot be seen."""
    if a.shape != b.shape or not a.is_floating_point():
        return is_plain(a) and is_plain(b) and torch.equal(a, b)
    off, size = plain_data(a - b), plain_data(b)
    if not (is_plain(off) and is_plain(size)):
        return False
    with without_transforms() if transforms_active() else as_it_is:
        tolerance = 20 * torch.finfo(a.dtype).eps ** (3 / 4)
        return not size.numel() or bool(off.abs().max() <= tolerance * size.abs().max())


def check_outside(label: str, inside: bool) -> None:
    """Refuse a layer whose value is another one than that of the batch, or has no gradient outside."""
    if inside:
        raise complaint(ValueError, _INSIDE.format(label))


#: Of a model that writes to a part of what came before the layer, or goes back there itself.
UNRECORDED = ("created in no_grad mode", "to not have been used in the graph", "does not require grad")
_INSIDE = (
    "layer {} runs inside a transform of torch.func that the model makes itself (vmap, grad, jvp), where its value is not that "
    "of the batch: choose a layer before or after it, or write that part of the model without torch.func."
)


def is_finite(value: Tensor) -> bool:
    """Whether there is neither NaN nor inf in `value`."""
    if value.numel() <= 8:  # faster than an operation
        return all(map(cmath.isfinite, value.tolist() if value.dim() == 1 else value.flatten().tolist()))
    value = value.detach() if value.requires_grad else value
    # One sum tells, unless it overflows: only then look at each element.
    return cmath.isfinite(value.sum().item()) or bool(torch.isfinite(value).all())


def check_flags(flags: list[str], given: Mapping[str, Any]) -> None:
    """Refuse what is neither True nor False: "no" would count as True."""
    for name in flags:
        if name in given and not isinstance(given[name], (bool, np.bool_)):
            raise complaint(TypeError, f"{name} must be True or False, got {kind_of(given[name])}.")


def check_input(x: Tree, reads: bool) -> None:
    """Refuse what is not a batch of tensors, or not finite where it `reads` them."""
    found = tensors(x)
    for value in found:
        if not (value.is_nested and value.layout is getattr(torch, "jagged", None)):  # with which methods of one pass do well
            check_dense(value, "x")
    check_structure(x)
    if reads:
        for value in found:
            if (value.is_floating_point() or value.is_complex()) and is_plain(value) and not is_finite(value):
                raise complaint(ValueError, f"x {list(value.shape)} holds NaN or inf: clean the input first.")


def check_structure(x: Tree) -> None:
    """Refuse what is not a batch of tensors."""
    check_kind(x)
    batch_size(x)


def check_kind(x: Tree) -> None:
    """Refuse what holds no tensors as a model takes them."""
    if not isinstance(x, (Tensor, tuple, Mapping)):
        text = "x must be a tensor, a tuple of tensors (positional inputs) or a dict of tensors (keyword inputs)"
        raise complaint(TypeError, f"{text}, got {type(x).__name__}{_as_x(x)}.")


_OF_TEXTS = ": a text is ids to the model, pass tokenizer(x, return_tensors='pt', padding=True)"


def _as_x(given: Any) -> str:
    """How what was given as x is passed as x."""
    if isinstance(given, np.ndarray):
        return ": pass torch.from_numpy(x)"
    if hasattr(given, "__array_interface__"):
        return ": pass torch.from_numpy(numpy.array(x)), and what the model was trained on made of it"
    if isinstance(given, list):
        if any(isinstance(part, str) for part in given):
            return _OF_TEXTS
        shapes = {part.shape if isinstance(part, Tensor) else None for part in given}
        examples = "torch.tensor(x)" if None in shapes else "torch.stack(x)" if len(shapes) == 1 else "one at a time"
        return f": pass {examples} where these are examples, tuple(x) where they are inputs"
    return _OF_TEXTS if isinstance(given, str) else ": the model comes first, then x" if callable(given) else ""


def check_dense(value: Tensor, what: str) -> None:
    """Refuse a sparse, nested or quantised tensor: attributions are of numbers, all of them, and rows of one size."""
    if value.is_quantized:
        raise complaint(
            TypeError, f"{what} is a quantised tensor ({value.dtype}): take floats, or a layer after .dequantize()."
        )
    if value.is_nested:
        raise complaint(TypeError, f"{what} is a nested tensor: pass it padded, with .to_padded_tensor(0.0).")
    if value.layout is not torch.strided:
        cure = "a zero is a value like any other, so pass it dense, with .to_dense(), or bind what is no input with a partial"
        raise complaint(TypeError, f"{what} is a sparse tensor ({value.layout}): {cure}.")


def check_result(result: Tree, reads: bool) -> None:
    """Refuse to return what is no attribution, or not finite where it `reads` them."""
    found = tensors(result)
    if not found:
        raise complaint(TypeError, f"the method returned {kind_of(result)}, expected attributions, one or more tensors.")
    for value in found if reads else ():
        if value.is_floating_point() and is_plain(value) and not is_finite(value):
            text = f"the attribution {list(value.shape)} holds NaN or inf: the model's gradient or value is not finite here."
            raise complaint(ValueError, f"{text} Look at the model's output and, in {value.dtype}, at its range.")


_FEW = 1 << 12
_SOME = 4  # of which each is looked at as soon as all together


def meet(scores: Tensor, at: str = "") -> Tensor:
    """Keep the scores of a pass, to be looked at with those of all others when the call ends: nobody waits for them here."""
    if tracing() or (met := here.scores) is None:
        return scores
    if is_plain(value := plain_data(scores)):
        with without_transforms() if transforms_active() else as_it_is:
            met.append((_own(value.data), at))
    return scores


def _own(value: Tensor) -> Tensor:
    return value if value.untyped_storage().nbytes() < _FEW else value.clone()  # a view holds all classes


def check_scores(x: Tree) -> None:
    """Refuse to explain a score that is not finite: its gradient may well be, 0 where a constant NaN was put in its place."""
    scores = here.scores
    if not scores or (len(scores) < _SOME and all(is_finite(value) for value, _ in scores)):
        return
    met = [value for value, _ in scores]
    many = {value.device for value in met} if len(met) > 1 else ()
    together = [torch.cat([value.flatten() for value in met if value.device == device]) for device in many] or met
    if not all(map(is_finite, together)):
        value, at = next(each for each in scores if not is_finite(each[0]))
        first = int((~value.isfinite()).flatten().nonzero()[0])
        row = f" for example {first} of {size}" if value.shape == (size := batch_size(x),) else ""
        text = f"the model's score{at} holds NaN or inf ({value.flatten()[first].item()}{row}): there is nothing to explain"
        raise complaint(ValueError, f"{text}. Look at the model's output and, in {value.dtype}, at its range.")


OF_PARTS = "; where rows are parts of examples, take by_examples(method, examples)"


@contextlib.contextmanager
def each_alone() -> Iterator[None]:
    """Have errors of what is no method say so: `by_examples` does not take it, nor are its rows taken for parts of examples."""
    try:
        yield
    except ValueError as error:
        text = getattr(error, "complaint", "")
        if OF_PARTS not in text:
            raise
        told = text.replace(OF_PARTS, "; where rows are parts of examples, ask each example alone")
        raise complaint(ValueError, told) from None


# Values: what can be explained, and of what there are maps.


def check_attributable(value: Tree, label: str, moves: bool = False) -> None:
    """Refuse a value without floating-point tensors, and an input with complex ones; `label` is "x", or a layer's. `moves`: the
    method moves x, and a layer is what it explains."""
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
    elif not found and (kind := closed(value)) is not None:
        text = f"{where} {kind}."
    else:
        cure = f", and {_MOVES if moves else _FLOATS}" if at_input else ""
        text = f"{where} holds no floating-point tensor ({_dtypes(found) or 'no tensor at all'}){cure}."
    raise complaint(TypeError, text)


def closed(value: Tree) -> str | None:
    """What there is to say of an object that torch does not look into for tensors, but for plain ones."""
    kind = next((type(part) for part in tree_flatten(value)[0] if not isinstance(part, _PLAIN)), None)
    if kind is None:
        return None
    cure = f"torch.export.register_dataclass({kind.__name__})" if dataclasses.is_dataclass(kind) else "a layer inside it"
    verb = "call" if dataclasses.is_dataclass(kind) else "choose"
    return (
        f"is {kind.__name__}, and torch looks for no tensors in there: {verb} {cure}, or have it be a tensor, a tuple or a dict"
    )


_PLAIN = (Tensor, str, bytes, int, float, complex, type(None), torch.dtype, torch.device)


_FLOATS = "integers have no gradient: choose a layer after the embedding, layer='...'; of pictures, pass x.float()"
_MOVES = (
    "the method moves x, at a layer too: pass embeddings in place of ids, or take one that moves the layer's value, such as "
    "integrated_gradients"
)
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


def check_rows(found: Tree, size: int) -> None:
    """Refuse what was found at a layer where its first tensor has no row for each example: of a sequence-first layer, a map
    mixes examples. Others, such as the state of a recurrent layer, are by the formula, whatever they are.

    Several rows for each example (sentences of a document, windows of a picture) are each a map, where there are several
    examples: of a single one, nothing tells such rows from steps in time.
    """

    def has_rows(value: Tensor) -> bool:
        return value.shape[0] == size or (size > 1 and value.shape[0] % size == 0)

    parts = tensors(found)
    if parts and not has_rows(parts[0]):
        text = f"the layer gives a tensor {list(parts[0].shape)} without a row for each of the {size} examples"
        raise complaint(ValueError, f"{text}: choose a layer whose value has the batch first.")
