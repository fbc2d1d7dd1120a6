"""What: the score that is explained, one number per example; and several targets of one call, with passes that they share."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._torch import tracing, transforms_active, tree_flatten, visible
from .._types import Neuron, Place, Target, Tree, is_number, tensors
from .._words import check_range, complaint, door, is_index, kind_of
from .checks import real
from .entries import class_of_each, classes_of, entry, is_mask, is_one, one_of_each, one_value_of
from .picking import picking, several
from .sites import place_of


@door
def neuron(layer: str | nn.Module | Place, index: int | tuple[int | slice, ...] | Callable[[Any], Tensor]) -> Neuron:
    """A value inside the model, to be explained in place of its output: ``target=fa.neuron("fc1", 7)``.

    Args:
        layer: a dotted name, a module, `input_of` or `output_of`.
        index: into the value's trailing dimensions: an int for a value ``[N, C]``, a tuple of ints, slices and masks of bools
            (what these leave is summed), or a callable ``value -> Tensor [N]``.

    Raises:
        TypeError: `layer` or `index` is none of these.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> x = torch.randn(4, 2)
        >>> torch.equal(fa.gradient(model, x, target=fa.neuron("0", 1)), model[0].weight[1].expand(4, 2))
        True
    """
    place = layer if isinstance(layer, Place) else place_of(layer, False, None)
    indices = index if isinstance(index, tuple) else (index,)
    if not callable(index) and not (indices and all(is_index(i) or isinstance(i, slice) or is_mask(i) for i in indices)):
        text = "index must be an int, a tuple of ints, slices and masks, or a callable"
        raise complaint(TypeError, f"{text}, got {kind_of(index)}.")
    return Neuron(place, index)


@door
def score(output: Any, target: Target = None) -> Tensor:
    """The score that `target` names: one number per example.

    Args:
        output: what the model returned. Where it is not a tensor, its `logits`, or its only tensor, is used; a callable
            target is given all of it.
        target: None (the output is one value per example), an int or 1-element tensor (that class, for every example),
            a tensor ``[N]`` or list of N ints (one class per example), a tuple (index into the trailing dimensions; what
            slices and masks of bools in it leave is summed), a list of N tuples, ``"argmax"`` (each example's predicted class:
            a method that moves x means the one at x), or a callable ``output -> Tensor [N]``. To methods also the name of a
            class, where the model has names: ``model.config.id2label``, or a list ``model.classes``. Negative indices count
            from the end: -1 is the last class, not "no label". Dimensions of size 1 may follow: those of a fully
            convolutional head, or ``[N, 1]``.

    Returns:
        ``[N]``, in the unit of the output.

    Raises:
        ValueError: a target is needed and missing, out of range, or of the wrong length.
        TypeError: `target` is none of these.

    Example:
        >>> import torch, funattr as fa
        >>> fa.score(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [1, 0])
        tensor([2., 3.])
    """
    if isinstance(target, Neuron):
        raise complaint(ValueError, "a neuron is a value inside the model, and cannot be taken from its output.")
    if isinstance(output, nn.Module):
        raise complaint(TypeError, f"output is the model itself, {type(output).__name__}, and not what it gives, model(x).")
    return score_of(output, target)


def score_of(output: Any, target: Target, size: int | None = None) -> Tensor:
    """`score` without the door, of a batch of `size`."""
    if callable(target):
        return one_for_each(visible(target)(output), "the target")
    return entries_of(the_tensor(output, size), target)


def entries_of(out: Tensor, target: Any) -> Tensor:
    """The score of each example that a target, no callable, takes from `the_tensor` of an output."""
    if out.dim() == 2 and is_index(target):
        check_range(target, out.shape[1])
        return out.select(1, int(target))
    if out.dim() == 0:
        text = "the model's output is a 0-d tensor, expected one value (or row of values) per example"
        raise complaint(ValueError, f"{text}: leave out what sums or averages over the batch.")
    if isinstance(target, (list, np.ndarray)):
        return one_of_each(out, target)
    if isinstance(target, tuple):
        return entry(out, target)
    if isinstance(target, Tensor):
        return class_of_each(out, target)
    if target is None:
        return _only_one(out)
    if isinstance(target, str):
        if target != "argmax":
            text = f"target={target!r}: of an output alone the only name is 'argmax'. Of a class, give the number."
            raise complaint(ValueError, text)
        out = classes_of(out, "'argmax'")
        return out.gather(1, out.argmax(1, keepdim=True)).squeeze(1)
    if not is_index(target):
        text = "target must be None, an int, a tensor or list of ints (one per example), a tuple, a list of tuples, 'argmax'"
        cure = ": several are for each_target(method, targets)" if isinstance(target, Sequence) else ""
        raise complaint(TypeError, f"{text}, a callable or neuron(...), got {kind_of(target)}{cure}.")
    return entry(classes_of(out, f"{target}"), (target,))


def _only_one(out: Tensor) -> Tensor:
    if any(size != 1 for size in out.shape[1:]):
        text = f"the model's output {list(out.shape)} has several values per example, and no target says which"
        cure = "pass target=3, one class per example, target='argmax', or a callable"
        raise complaint(ValueError, f"{text}: {cure if is_one(out.shape[2:]) else one_value_of(out)}.")
    return out.reshape(out.shape[0])


def neuron_score(value: Tree, index: Any, label: str) -> Tensor:
    """The score that a neuron's index takes from the value at its layer."""
    if callable(index):
        return one_for_each(visible(index)(value), "the neuron's index")
    found = [leaf for leaf in tensors(value) if is_number(leaf)]
    if len(found) != 1:
        text = f"the value at {label} holds {len(found)} tensors: pass a callable index, value -> Tensor [N]."
        raise complaint(ValueError, text)
    out = real(found[0], f"the value at {label} is", "pass a callable index, such as lambda value: value[:, 3].abs()")
    return entry(out, index if isinstance(index, tuple) else (index,), f"the value at {label}", "index")


def the_tensor(output: Any, size: int | None = None) -> Tensor:
    """The tensor that targets index: the output itself, its `logits`, or its only tensor; of a batch of `size`.

    The score, or the classes, of one example may lack the batch dimension: a model that ends in ``squeeze()`` takes it away.
    """
    found = output if isinstance(output, Tensor) else _the_tensor(output, size)
    found = real(found, "the model's output is", "pass a callable target, such as lambda output: output[:, 3].abs()")
    return found[None] if size == 1 and (found.dim() == 0 or (found.dim() == 1 and found.shape[0] != 1)) else found


#: What stands beside a tensor in an output and is none that could be meant.
_NO_OUTPUT = (Tensor, numbers.Number, np.ndarray, str, bytes, type(None), torch.Size, torch.dtype, torch.device)


def _the_tensor(output: Any, size: int | None) -> Tensor:
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = [logits] if isinstance(logits, Tensor) else []
    if not found:
        plain = dataclasses.is_dataclass(output) and not isinstance(output, Mapping)
        parts = tree_flatten(vars(output) if plain else output)[0]
        found = [t for t in parts if isinstance(t, Tensor) and is_number(t)]
        # A distribution, a cache, or boxes: which is meant cannot be told.
        other = next((part for part in parts if not isinstance(part, _NO_OUTPUT)), None)
        if found and other is not None:
            text = (
                f"the model's output holds a tensor and a {type(other).__name__}: pass a callable target that picks one value"
            )
            raise complaint(ValueError, f"{text} per example, such as target=lambda output: {picking(output, size)}.")
    if len(found) == 1:
        return found[0]
    raise complaint(ValueError, several(output, size))


def predicted(output: Any, size: int | None = None) -> Tensor:
    """The class of each of `size` examples, ``[N]``."""
    return classes_of(the_tensor(output, size), "'argmax'").argmax(1)


def one_for_each(picked: Any, what: str) -> Tensor:
    if not isinstance(picked, Tensor):
        raise complaint(TypeError, f"{what} returned {kind_of(picked)}, expected a tensor [N].")
    real(picked, f"what {what} returned is", "take its .abs(), .real or .imag")
    if picked.dim() == 0:  # one example, and a target that sums over all it is given
        return picked.reshape(1)
    if picked.dim() > 1 and is_one(picked.shape[1:]):
        return picked.reshape(picked.shape[0])
    if picked.dim() != 1:
        raise complaint(ValueError, f"{what} returned a tensor {list(picked.shape)}, expected one value per example, [N].")
    return picked


# Several targets of one call: passes that the calls for each of them share, and what these left.


@dataclass(frozen=True, eq=False)
class Every:
    """Targets of one pass: their scores are a list, and what is found for them is a list that has each one's in turn."""

    targets: tuple[Target, ...]


@dataclass(eq=False)
class Shared:
    """What calls of a method leave for each other, one call for each target: in the order in which the first one made it."""

    targets: tuple[Target, ...]
    together: int = 1  # how many backward passes run at once
    made: list[Any] = field(default_factory=list)

    def row(self, index: int) -> Row:
        """The target number `index`, for one call."""
        return Row(self, index)


@dataclass(eq=False)
class Row:
    """One of several targets: a callable of the output like others, and to what knows it the passes that all share."""

    shared: Shared
    index: int
    met: int = 0

    def __call__(self, output: Any) -> Tensor:
        return score_of(output, self.plain)

    @property
    def plain(self) -> Target:
        """The target alone."""
        return self.shared.targets[self.index]

    @property
    def every(self) -> Every:
        """All of them."""
        return Every(self.shared.targets)

    def take(self, make: Callable[[], Any]) -> Any:
        """What the first call made here."""
        made = self.shared.made
        if self.met == len(made):
            made.append(make())
        self.met += 1
        return made[self.met - 1]


def reads_output(target: Target) -> bool:
    """Whether a target is made of the output: a neuron is not, and the predicted class is one of its own for each call."""
    return not isinstance(target, (Neuron, str))


def own_row(target: Target, make: Callable[[Every], Sequence[Tree]]) -> Tree:
    """The row's own of what is made for every target, once."""
    assert isinstance(target, Row)
    found: list[Any] = target.take(lambda: list(make(target.every)))
    mine, found[target.index] = found[target.index], None
    return mine


def shares(target: Target) -> bool:
    """Whether the target is one of several whose passes can be shared here: a transform's values die with it."""
    return isinstance(target, Row) and not (tracing() or transforms_active())


def once(target: Target, make: Callable[[], Any]) -> Any:
    """What is the same for all targets, made for the first of several."""
    return target.take(make) if isinstance(target, Row) and shares(target) else make()


def alone(target: Target) -> Target:
    """The target itself, where passes cannot be shared."""
    return target.plain if isinstance(target, Row) else target


def same_input(x: Tree, other: Tree) -> bool:
    """Whether two calls ask about the same input: some method of one's own may not."""
    some, others = tensors(x), tensors(other)
    same = (a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in zip(some, others))
    return len(some) == len(others) and all(same)


def each_of(target: Target | Every) -> tuple[Target, ...]:
    """The targets of one pass."""
    return target.targets if isinstance(target, Every) else (target,)
