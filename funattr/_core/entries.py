"""Entries of an output, one value per example: by class, by index, by a list of either; and classes by the names that the model
has for them, in `config.id2label`, or in a list or dictionary `classes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._habits import did_you_mean
from .._torch import any_batch, is_plain, observed_by_dispatch_mode, plain_data, tracing
from .._types import Model, Target
from .._words import as_number, check_range, complaint, in_short, is_index, kind_of
from .checks import check_dense
from .where import bind, held_by


def is_one(sizes: Sequence[int]) -> bool:
    """Whether dimensions of these sizes hold one value."""
    return all(size == 1 for size in sizes)


def classes_of(out: Tensor, what: str) -> Tensor:
    """Classes ``[N, C]``, also where a fully convolutional head left ``[N, C, 1, 1]``."""
    if out.dim() == 1:
        text = f"target={what}, but the model's output {list(out.shape)} is one value per example: leave the target out"
        raise complaint(ValueError, f"{text}, or where x is one example, without a batch dimension, pass x[None].")
    if not is_one(out.shape[2:]):
        text = f"target={what} leaves several values per example of the model's output {list(out.shape)}"
        raise complaint(ValueError, f"{text}: {one_value_of(out, what)}.")
    return out if out.dim() == 2 else out.reshape(out.shape[:2])


def one_value_of(out: Tensor, what: str = "") -> str:
    """How one value is taken of an output with more dimensions than those of classes."""
    example = f"({what if what.isdigit() else 1}{', slice(None)' * (out.dim() - 2)})"
    text = f"pass a tuple of {out.dim() - 1} indices, slices for what is to be summed: target={example}; or a callable"
    return f"{text}, which of a language model's logits is log_likelihood(ids)" if out.dim() == 3 else text


def entry(out: Tensor, index: tuple[Any, ...], what: str = "the model's output", name: str = "target") -> Tensor:
    """``out[:, i, j, ...]``, one value per example: what slices and masks leave is summed."""
    _check_entries(index, name)
    given, takes = sum(map(_dims_of, index)), out.dim() - 1
    summed = not all(map(is_index, index))
    if given > takes or not (summed or is_one(out.shape[1 + len(index) :])):
        few, text = given <= takes, f"{name}={in_short(index if len(index) != 1 else index[0])} has {given}"
        text += f" of the {takes}" if few else f", more entries than the {takes}"
        cure = "give all of them, with slices for what is to be summed, or pass a callable"
        if not few:
            cure = "as one class per example, pass list(target)" if len(index) == len(out) and not summed else f"give {takes}"
        raise complaint(ValueError, f"{text} indices that one value of {what} {list(out.shape)} takes: {cure}.")
    picked = _picked(out, index, name)
    if not summed:
        return picked if picked.dim() == 1 else picked.reshape(picked.shape[0])
    if out.numel() and not picked.numel():
        raise complaint(ValueError, f"{name}={in_short(index)} selects nothing of {what} {list(out.shape)}.")
    return picked.flatten(1).sum(1)


def _picked(out: Tensor, index: tuple[Any, ...], name: str) -> Tensor:
    """``out[:, i, j, ...]``, where a mask leaves zeros."""
    picked, dim = out, 1
    for i in index:
        if is_index(i):
            check_range(i, picked.shape[dim], name)
            picked = picked.select(dim, int(i))
        elif isinstance(i, slice):
            picked = picked[(slice(None),) * dim + (i,)]
            dim += 1
        else:
            mask = _mask(i, picked.shape[dim:], name).to(out.device)
            picked = picked.where(mask.reshape(*mask.shape, *[1] * (picked.dim() - dim - mask.dim())), 0.0)
            dim += mask.dim()
    return picked


def _check_entries(index: tuple[Any, ...], name: str) -> None:
    for i in index:
        if not (is_index(i) or isinstance(i, slice) or is_mask(i)):
            text = f"{name}={in_short(index)} must hold ints, slices, or masks (tensors of bools), got {kind_of(i)}"
            raise complaint(TypeError, f"{text}.")


def is_mask(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) and value.dtype in (torch.bool, np.bool_)


def _dims_of(i: Any) -> int:
    """How many dimensions of the output an entry of an index is for."""
    return i.ndim if is_mask(i) else 1


def _mask(given: Any, sizes: Sequence[int], name: str) -> Tensor:
    """A mask, the same for all examples."""
    mask = given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
    if mask.dim() and mask.shape == sizes[: mask.dim()]:
        if not (tracing() or bool(mask.any())):
            raise complaint(ValueError, f"the mask {list(mask.shape)} in {name} selects nothing: all of it is False.")
        return mask
    text = f"the mask in {name} has the shape {list(mask.shape)}, expected {list(sizes[: mask.dim()])}, for all examples"
    cure = "for masks of their own pass a callable, such as lambda output: (output[:, 3] * mask).sum((1, 2))"
    raise complaint(ValueError, f"{text}: {cure}.")


def one_of_each(out: Tensor, target: Any) -> Tensor:
    """One class, or one index, per example, from a list."""
    items = (target if target.ndim else np.repeat(target, out.shape[0])).tolist() if isinstance(target, np.ndarray) else target
    if len(items) != out.shape[0]:
        raise complaint(ValueError, f"target lists {len(items)} entries for {out.shape[0]} examples: give one per example.")
    if not items:
        return out.sum(list(range(1, out.dim()))) if out.dim() > 1 else out  # of no example, whatever a target of one would be
    if all(is_index(i) for i in items):
        return class_of_each(
            classes_of(out, "a list"), torch.tensor([as_number(i) for i in items], dtype=torch.long, device="cpu")
        )
    if not all(isinstance(item, tuple) and all(is_index(i) for i in item) for item in items):
        raise complaint(TypeError, f"target={target} must hold ints only, or tuples of ints only.")
    for item in items:
        if len(item) != out.dim() - 1:
            text = f"target holds {item}, but one value of the output {list(out.shape)} takes {out.dim() - 1} indices."
            raise complaint(ValueError, text)
        for i, size in zip(item, out.shape[1:]):
            check_range(i, size)
    columns = [torch.tensor(column, device=out.device, dtype=torch.long) for column in zip(*items)]
    rows = [torch.arange(len(items), device=out.device)]
    return out[tuple(rows + columns)] if columns else out.reshape(out.shape[0])


def check_there(target: Tensor, device: torch.device) -> None:
    """Refuse classes without data, but where the model has none either."""
    if target.device.type == "meta" != device.type:
        text = "target is on the meta device, where tensors hold no numbers: make it with device='cpu'."
        raise complaint(ValueError, text)


def class_of_each(out: Tensor, target: Tensor) -> Tensor:
    """One class per example, from a tensor: a gather, so that its data is never read in a compiled function."""
    check_dense(target, "target")
    check_there(target, out.device)
    out = classes_of(out, "a tensor")
    if target.numel() != 1 and target.shape != out.shape[:1]:
        cure = ": of one-hot rows, pass target.argmax(1)" if target.shape == out.shape else ""
        text = f"target has the shape {list(target.shape)}, expected one class per example, [{out.shape[0]}]{cure}."
        raise complaint(ValueError, text)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise complaint(TypeError, f"target is a tensor of {target.dtype}, expected integers: pass target.long().")
    classes = out.shape[1]
    target = target.to(out.device, torch.long)
    if not (tracing() or observed_by_dispatch_mode()):
        known = plain_data(target)  # all classes that it is mapped over
        if known.numel() and is_plain(known):
            for extreme in torch.aminmax(known):
                check_range(int(extreme), classes)
    target = torch.where(target < 0, target + classes, target)
    if tracing() or any_batch():  # a gather under vmap would fix the batch size
        return out[torch.arange(out.shape[0], device=out.device), target.reshape(-1).expand(out.shape[0])]
    return out.gather(1, target.reshape(-1, 1).expand(out.shape[0], 1)).squeeze(1)


# Classes by the names that the model has for them.


def numbered(target: Target, model: Model) -> Target:
    """The target with numbers in place of the names of classes, alone or in a list, one per example."""
    if isinstance(target, str) and target != "argmax":
        return _number(target, _names(model))
    if isinstance(target, list) and any(isinstance(each, str) for each in target):
        names = _names(model)
        return [_number(each, names) if isinstance(each, str) else each for each in target]
    return target


def _names(model: Model) -> dict[int, str]:
    """What the model calls its classes; nothing where it does not say."""
    module: nn.Module | None = bind(model).root
    while module is not None:
        config = getattr(module, "config", None)
        of_either: list[Any] = [getattr(config, "id2label", None), getattr(module, "classes", None)]
        for found in of_either:
            pairs: Any = (
                found.items() if isinstance(found, Mapping) else enumerate(found if isinstance(found, (list, tuple)) else ())
            )
            names = {int(number): name for number, name in pairs if isinstance(name, str)}
            if names:
                return names
        module = held_by(module)
    return {}


def _number(wanted: str, names: dict[int, str]) -> int:
    """The class of that name: as it is written, else in any case, else one of synonyms with commas between them."""
    if not names:
        text = (
            f"target={wanted!r} is a name, and the model does not say those of its classes (config.id2label, or a list classes)"
        )
        number = f"give the number, such as labels.index({wanted!r}), or 'argmax', the predicted one."
        raise complaint(ValueError, f"{text}: {did_you_mean(wanted, ['argmax'], number, 0.7)}")
    low = wanted.casefold()
    for same in (wanted.__eq__, lambda name: name.casefold() == low, lambda name: low in _synonyms(name)):
        found = [number for number, name in names.items() if same(name)]
        if len(found) > 1:
            listed = ", ".join(map(str, found[:8])) + ", ..." * (len(found) > 8)
            raise complaint(ValueError, f"target={wanted!r} is the name of several classes: choose by number, {listed}.")
        if found:
            return found[0]
    if wanted.removeprefix("-").isdecimal():
        raise complaint(ValueError, f"target={wanted!r} is a text, and no class is called so: pass target={int(wanted)}.")
    known = ["argmax", *names.values(), *(part for name in names.values() for part in name.split(", "))]
    every = ", ".join(map(repr, [*names.values()][:8])) + ", ..." * (len(names) > 8)
    raise complaint(ValueError, f"the model has no class {wanted!r}. {did_you_mean(wanted, known, f'It has {every}.')}")


def _synonyms(name: str) -> list[str]:
    return [part.strip().casefold() for part in name.split(",")]
