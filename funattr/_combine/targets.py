"""A method over targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._steps.at_once import ROOM, TooManyTargets, few_targets, mapping_over
from .._steps.chunks import chunk_for, chunks, fitting, given_chunk
from .._steps.draws import Rewound
from .._steps.progress import reported
from .._steps.ways import Runner
from .._torch import tracing, tree_flatten, tree_unflatten
from .._types import ChunkSize, Explains, Method, Model, Target, Tree, tensors
from .._words import complaint, door, kind_of
from .dress import check_method, combined, generators_of, name_of
from .repeat import as_one, device_of, generators_given, run_steps


@door
def each_target(method: Explains, targets: Sequence[Target] | Tensor, *, chunk_size: ChunkSize = None) -> Method:
    """One attribution per target, in a new leading dimension; for gradients from one forward pass.

    ``each_target(a, targets)(model, x, ...)[t] = a(model, x, ..., target=targets[t])``. Classes (integers, or one per example)
    are mapped: what does not depend on the target, such as the forward pass, runs once per chunk; all are one chunk where their
    gradients fit into 0.2 GB. Other targets run one by one.

    Args:
        method: a method.
        targets: several targets: a list of what `score` takes, a tensor of classes ``[T]``, or ``[T, N]`` with one per example.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.

    Returns:
        A method with the same arguments but `target`, whose results have a leading dimension T. A method that draws random
        numbers draws the same for each target.

    Raises:
        ValueError: there are no targets, or `chunk_size` is out of range; when called, as the method.
        TypeError: not a method, or `targets` is not a sequence.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Linear(2, 3)
        >>> every = fa.each_target(fa.gradient, [0, 1, 2])
        >>> torch.equal(every(model, torch.randn(4, 2))[:, 0], model.weight)
        True
    """
    check_method(method)
    together = given_chunk(chunk_size)
    if isinstance(targets, str) or not isinstance(targets, (Sequence, Tensor)):
        raise complaint(TypeError, f"targets must be a list of targets or a tensor of classes, got {kind_of(targets)}.")
    if len(targets) == 0:
        raise complaint(ValueError, "targets is empty: name at least one.")
    classes = _classes(targets)

    def of_each(model: Model, x: Tree, **options: Any) -> Tree:
        if "target" in options:
            raise complaint(TypeError, "the targets are given already: leave target out.")
        few_targets()  # nothing else is mapped around them
        noise = Rewound([*generators_of(method), *generators_given(options)], device_of(x))

        def explain(target: Target) -> Tree:
            noise.rewind()  # every target, in whatever chunk, meets the same noise
            return method(model, x, target=target, **options)

        if classes is None:
            parts = [as_one(explain(targets[i])) for i, _ in reported(chunks(len(targets), 1))]
        else:
            parts = _mapped(explain, classes.to(device_of(x)), x, together)
        flat = [tree_flatten(part)[0] for part in parts]
        spec = tree_flatten(parts[0])[1]
        return tree_unflatten([torch.cat(same) if isinstance(same[0], Tensor) else same[0] for same in zip(*flat)], spec)

    return combined(of_each, f"each_target({name_of(method)})", method, without=["target"], more=1)


def _mapped(explain: Callable[[Target], Tree], classes: Tensor, x: Tree, chunk_size: int | None) -> list[Tree]:
    """The attributions for all classes, in parts; all at once, unless somebody complains that memory is not for that."""
    if tracing():
        size = chunk_size or fitting(len(classes), len(classes), sum(t.numel() for t in tensors(x)), ROOM)
        return _in_chunks(explain, classes, size)
    size = chunk_size or len(classes)
    try:
        with mapping_over(classes, 0 if chunk_size else size):
            return _in_chunks(explain, classes, size)
    except TooManyTargets as error:
        size = error.at_most or chunk_for(len(classes), None, x, shares=False)
    with mapping_over(classes, 0):
        return _in_chunks(explain, classes, size)


def _in_chunks(explain: Callable[[Target], Tree], classes: Tensor, size: int) -> list[Tree]:
    run = Runner()
    return [
        part
        for first, last in reported(chunks(len(classes), size))
        for part in run_steps(run, explain, list(classes[first:last].unbind()))
    ]


def _classes(targets: Sequence[Target] | Tensor) -> Tensor | None:
    """Targets that are classes, as a tensor ``[T]`` or ``[T, N]``; None where they are something else."""
    if isinstance(targets, Tensor):
        return targets
    if all(isinstance(t, int) and not isinstance(t, bool) for t in targets):
        return torch.tensor(list(targets))
    if all(isinstance(t, Tensor) for t in targets) and len({t.shape for t in targets}) == 1:  # type: ignore[union-attr]
        return torch.stack(list(targets))  # type: ignore[arg-type]
    return None
