"""A method over targets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.split import split
from .._steps.chunks import chunk_for, chunks, fitting, given_chunk
from .._steps.draws import Rewound
from .._steps.progress import reported
from .._steps.ways import Runner
from .._torch import tracing, tree_flatten, tree_unflatten
from .._types import ChunkSize, Explains, Method, Model, Target, Tree, map_tensors, tensors
from .._words import complaint, door, kind_of
from .dress import about, check_method, combined, generators_given, has_steps, name_of
from .repeat import as_one, device_of, run_steps


@door
def each_target(method: Explains, targets: Sequence[Target] | Tensor, *, chunk_size: ChunkSize = None) -> Method:
    """One attribution per target, in a new leading dimension; for gradients from one forward pass.

    ``each_target(a, targets)(model, x, ...)[t] = a(model, x, ..., target=targets[t])``. Classes (integers, or one per example)
    and indices (tuples of as many integers: a position and a class) are mapped: what does not depend on the target, such as the
    forward pass, runs once per chunk; all are one chunk where their gradients fit into 0.2 GB. Other targets run one by one,
    and so does all that has a tolerance, `rtol`.

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
    steps = _steps(targets)

    def of_each(model: Model, x: Tree, **options: Any) -> Tree:
        noise = Rewound([*about(method).generators, *generators_given(options)], device_of(x))

        def explain(target: Target) -> Tree:
            noise.rewind()  # every target, in whatever chunk, meets the same noise
            return method(model, x, target=target, **options)

        if steps is None or options.get("rtol") is not None:  # each target takes nodes of its own
            parts = [as_one(explain(targets[i])) for i, _ in reported(chunks(len(targets), 1))]
        else:
            size = together or _at_once(method, len(steps), model, x, options.get("layer"))
            parts = _in_chunks(explain, map_tensors(lambda t: t.to(device_of(x)), steps), size)
        flat = [tree_flatten(part)[0] for part in parts]
        spec = tree_flatten(parts[0])[1]
        return tree_unflatten([torch.cat(same) if isinstance(same[0], Tensor) else same[0] for same in zip(*flat)], spec)

    leading = about(method).leading + 1
    return combined(of_each, f"each_target({name_of(method)})", method, without=["target"], errors=True, leading=leading)


#: How many elements the gradients for all targets may have: in float32, and with what is made of them, 0.2 GB.
ROOM = 1 << 24
#: How much larger than the input a value inside a model is at most, as a rule; and than ids, which become vectors.
WIDER, WIDER_THAN_IDS = 6, 1024


def _at_once(method: Explains, count: int, model: Model, x: Tree, layer: Any) -> int:
    """How many of so many classes to run at once: all, as far as there is room for the gradients at the site."""
    if has_steps(method):
        return chunk_for(count, None, x, shares=False)  # many points for each
    if tracing():
        return fitting(count, count, sum(t.numel() for t in tensors(x)), ROOM)
    floats = sum(t.numel() for t in tensors(x) if t.is_floating_point())
    size = floats or WIDER_THAN_IDS * sum(t.numel() for t in tensors(x))
    if layer is not None and count * max(size, WIDER * floats) > ROOM:
        # A pass to the layer tells. What is no layer to us may be one to the method: it gets to say.
        with torch.no_grad(), contextlib.suppress(ValueError, TypeError):
            size = sum(t.numel() for t in tensors(split(model, layer).value_at(x)))
            size = max(size, floats) if about(method).at_input else size
    return max(1, min(count, ROOM // max(size, 1)))


def _in_chunks(explain: Callable[[Target], Tree], steps: list[Any], size: int) -> list[Tree]:
    run = Runner()
    return [part for first, last in reported(chunks(len(steps), size)) for part in run_steps(run, explain, steps[first:last])]


def _steps(targets: Sequence[Target] | Tensor) -> list[Any] | None:
    """Targets that can be mapped, as tensors: classes (one, or one per example), or indices. None where they are others."""
    if isinstance(targets, Tensor):
        return list(targets.unbind())
    if _are_ints(targets):
        return list(torch.tensor(list(targets)).unbind())
    if all(isinstance(t, tuple) and _are_ints(t) for t in targets):
        indices = [t for t in targets if isinstance(t, tuple) and t]
        same = len(indices) == len(targets) and len({len(t) for t in indices}) == 1
        return [torch.tensor(t).unbind() for t in indices] if same else None
    given = [t for t in targets if isinstance(t, Tensor)]
    return list(given) if len(given) == len(targets) and len({t.shape for t in given}) == 1 else None


def _are_ints(values: Any) -> bool:
    return all(isinstance(i, int) and not isinstance(i, bool) for i in values)
