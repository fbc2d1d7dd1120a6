"""What is explained: a class, by number or by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .source import Source
from .words import answered, choices, mistake

if TYPE_CHECKING:
    from torch import Tensor


class Class(NamedTuple):
    """A class, and what the model says of it. `number` is None of a model with one output, `probability` where nobody knows."""

    number: int | None
    name: str | None
    score: float
    probability: float | None

    @property
    def label(self) -> str:
        """Short, for a title."""
        if self.number is None:
            return "the output"
        return f"class {self.number}" if self.name is None else self.name

    def told(self) -> str:
        if self.number is None:
            return f"{self.score:.4g}, the model's only output"
        name = f"class {self.number}" if self.name is None else f"{self.number} ({self.name})"
        return f"{name}, score {self.score:.4g}" + (f" ({self.probability:.1%})" if self.probability is not None else "")

    def titled(self) -> str:
        return f"{self.label}, {self.probability:.1%}" if self.probability is not None else f"{self.label}, {self.score:.4g}"


class Chosen(NamedTuple):
    """The score to explain, and what the model says."""

    target: int | None
    predicted: Class
    explained: Class

    @property
    def title(self) -> str:
        """What the model says, and what is explained where that is another class."""
        if self.explained == self.predicted:
            return self.predicted.titled()
        return f"{self.predicted.titled()}\nexplained: {self.explained.titled()}"

    def told(self) -> str:
        """The same at length, on one line."""
        if self.explained == self.predicted:
            return self.predicted.told()
        return f"{self.predicted.told()}; explained: {self.explained.told()}"


def choose(source: Source, x: Any, wanted: str) -> Chosen:
    """Run the model, and find the class that is wanted in its output.

    Raises:
        argparse.ArgumentError: the model fails, or there is no such class.
    """
    scores = scores_of(source, x)
    if bool(scores.isnan().any()):
        raise mistake(f"the model puts out NaN for this input, {shapes(x)}: look at its weights, and at what goes into it.")
    if scores.numel() == 1:
        if wanted not in ("argmax", "0"):
            raise mistake(f"the model puts out one number, so there is no class {wanted!r} to choose: leave --target out.")
        only = Class(None, None, float(scores.reshape(())), None)
        return Chosen(None if scores.dim() == 1 else 0, only, only)
    count = len(source.classes or scores[0])
    if count != scores.shape[1]:
        empty = sum(not str(name).strip() for name in source.classes or ())
        counted = f" ({empty} of them empty lines)" if empty else ""
        text = f"there are names of {count} classes{counted}, and the model has {scores.shape[1]}"
        raise mistake(f"{text}: name each, one per line of --labels.")
    best = int(scores[0].argmax())
    target = best if wanted == "argmax" else number_of(wanted, scores.shape[1], source.classes)
    shares = _shares(source, x, scores)
    return Chosen(target, _class(source, scores, shares, best), _class(source, scores, shares, target))


def scores_of(source: Source, x: Any) -> Tensor:
    """What the model says, ``[1, C]``, or one number.

    Raises:
        argparse.ArgumentError: the model fails, or puts out something else.
    """
    import torch

    with torch.no_grad():
        scores = _run(source, x).detach().float()
    if scores.numel() != 1 and (scores.dim() != 2 or len(scores) != 1):
        raise mistake(f"the model's output has the shape {list(scores.shape)}: explain wants scores of classes, [1, C].")
    return scores


def shapes(x: Any) -> str:
    """The shape of the input, for a message."""
    if isinstance(x, Mapping):
        return ", ".join(f"{name} {list(value.shape)}" for name, value in x.items())
    return str(list(x.shape))


def _scores(output: Any) -> Tensor:
    import torch

    found = getattr(output, "logits", None)
    if isinstance(output, Mapping):
        found = output.get("logits", found)
    if found is None:
        values = (
            list(output.values()) if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else [output]
        )
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if len(tensors) != 1:
            raise mistake(
                f"the model's output is of type {type(output).__name__} with {len(tensors)} tensors: explain wants one, or "
                f"a field `logits`; wrap the model in a factory of yours that returns the scores."
            )
        found = tensors[0]
    result: Tensor = found
    return result


def number_of(wanted: str, count: int, classes: Sequence[str] | None) -> int:
    """A class by its number or its name.

    Raises:
        argparse.ArgumentError: there is no such class, or more than one.
    """
    if wanted.removeprefix("-").isdecimal():
        number = int(wanted)
        if not 0 <= number < count:
            raise mistake(f"--target must be from 0 to {count - 1}, the classes of the model, got {wanted}.")
        return number
    if not classes:
        raise mistake(
            f"--target {wanted!r} is a name, and the model's classes have none: give their names with --labels, or a number."
        )
    names = [str(name) for name in classes]
    lower = wanted.lower()
    matches = (wanted.__eq__, lambda name: name.lower() == lower, lambda name: lower in re.split(r",\s*", name.lower()))
    for match in matches:  # the last: ImageNet's classes are lists of synonyms
        same = [i for i, name in enumerate(names[:count]) if match(name)]
        if len(same) == 1:
            return same[0]
        if same:
            raise mistake(f"the name {wanted!r} stands for several classes: choose by number, {', '.join(map(str, same))}.")
    raise mistake(f"there is no class {wanted!r}{choices(wanted, names)}")


def _run(source: Source, x: Any) -> Tensor:
    with answered(f"the model failed on this input, {shapes(x)}"):
        return _scores(source.model(**x) if isinstance(x, Mapping) else source.model(x))


def _shares(source: Source, x: Any, scores: Tensor) -> Tensor | None:
    """The probability of each class: the softmax of the scores, but where they sum to 1, or several classes may hold at once;
    None where they came out of a sigmoid, and tell of each class by itself."""
    row, several = (
        scores[0],
        getattr(getattr(source.model, "config", None), "problem_type", None) == "multi_label_classification",
    )
    if several:
        return row.sigmoid()
    if not bool(((row >= 0) & (row <= 1)).all()):
        return row.softmax(0)
    return row if abs(float(row.sum()) - 1) < 1e-3 else None if _came_of_sigmoid(source, x) else row.softmax(0)


def _came_of_sigmoid(source: Source, x: Any) -> bool:
    import torch

    with torch.enable_grad():
        given = x if isinstance(x, Mapping) or not x.is_floating_point() else x.detach().requires_grad_()
        node: Any = _run(source, given).grad_fn
    while node is not None and node.name().startswith(
        ("View", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Select", "Alias", "ToCopy")
    ):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def _class(source: Source, scores: Tensor, shares: Tensor | None, number: int) -> Class:
    name = str(source.classes[number]) if source.classes else None
    return Class(number, name, float(scores[0, number]), None if shares is None else float(shares[number]))
