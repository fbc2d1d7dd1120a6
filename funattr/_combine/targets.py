"""A method over targets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_dense
from .._core.entries import check_there, numbered
from .._core.score import Every, Shared, own_row, reads_output
from .._core.split import split
from .._steps.chunks import chunk_for, chunks, fitting, given_chunk
from .._steps.draws import Rewound
from .._steps.points import together
from .._steps.progress import reported
from .._steps.ways import OneByOne, Runner, at_once_or_not
from .._torch import any_batch, tracing, transforms_active
from .._types import ChunkSize, Explains, Method, Model, Target, Tree, map_tensors, tensors
from .._words import as_number, complaint, door, is_int, kind_of
from .dress import (
    about,
    as_one,
    chosen,
    combined,
    device_of,
    generators_given,
    has_steps,
    is_predicted,
    known_method,
    name_of,
    run_steps,
)


@door
def each_target(method: Explains, targets: Sequence[Target] | Tensor, *, chunk_size: ChunkSize = None) -> Method:
    """One attribution per target, in a new leading dimension, from one forward pass.

    ``each_target(a, targets)(model, x, ...)[t] = a(model, x, ..., target=targets[t])``. All that read the output (classes,
    indices, `tokens`, any callable) share the forward passes: what takes one runs the model once, and a backward pass for each;
    `integrated_gradients` with n steps n and ``n T``, `feature_ablation` its passes once for all. Memory does not grow with
    T beyond the result. Classes are mapped over where that is faster and takes no memory to speak of: for small inputs, and on
    a GPU as long as their gradients fit into 0.2 GB. Neurons and ``"argmax"`` run one by one; so does all that has a tolerance,
    `rtol`, and all but classes under transforms; under `torch.compile` methods of one pass share it, and those of many do not.

    Args:
        method: a method.
        targets: several targets: a list of what `score` takes, `tokens`, or a tensor of classes ``[T]``, or ``[T, N]`` with one
            per example.
        chunk_size: how many backward passes run at once: the memory knob. None: as many as cost next to no memory. The result
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
    method = known_method(method)
    if "target" not in chosen(method, {"target": None}):
        raise complaint(TypeError, f"expected a method that takes a target, such as fa.gradient, got {name_of(method)}.")
    chunk, known = given_chunk(chunk_size), about(method).rows
    _check_targets(targets)

    def of_each(model: Model, x: Tree, **options: Any) -> Tree:
        each = targets if isinstance(targets, Tensor) else [numbered(target, model) for target in targets]
        classes = _classes(each)
        noise = Rewound([*about(method).generators, *generators_given(options)], device_of(x))

        def explain(target: Target) -> Tree:
            return noise.again(lambda: method(model, x, target=target, **options))  # in whatever chunk

        mapped = classes is not None and options.get("rtol") is None  # with which each target takes nodes of its own
        size = chunk or (_at_once(method, len(targets), model, x, options.get("layer")) if mapped else 1)
        at_once = size >= len(targets) or not known or tracing() or transforms_active() or any_batch()
        shares = not (transforms_active() or any_batch()) if not tracing() else known and not has_steps(method)
        parts = None
        if classes is not None and mapped and at_once:
            check_there(classes, device_of(x))
            parts, size = _in_chunks(explain, classes.to(device_of(x)), size, known and shares), chunk or 1
        return together(torch.cat, parts or _one_by_one(explain, list(each), known, shares, size, noise))

    says: dict[str, Any] = {"leading": about(method).leading + 1}
    if not isinstance(targets, Tensor) and any(map(is_predicted, targets)):
        says["predicts"] = True
    return combined(of_each, f"each_target({name_of(method)})", method, without=["target"], errors=True, **says)


def _check_targets(targets: Any) -> None:
    listed = targets.dim() > 0 if isinstance(targets, Tensor) else isinstance(targets, Sequence)
    if isinstance(targets, str) or not listed:
        text = f"targets must be a list of targets, such as [3] or range(10), or a tensor of classes, got {kind_of(targets)}"
        several = isinstance(targets, Iterable) and not isinstance(targets, (str, Tensor))
        cure = "pass list(targets)" if several else "give one alone to the method, as target="
        raise complaint(TypeError, f"{text}: {cure}.")
    if len(targets) == 0:
        raise complaint(ValueError, "targets is empty: name at least one.")
    for target in [targets] if isinstance(targets, Tensor) else targets:
        if isinstance(target, Tensor):
            check_dense(target, "a target")


def _one_by_one(
    explain: Callable[[Target], Tree], targets: list[Target], known: bool, shares: bool, size: int, noise: Rewound
) -> list[Tree]:
    """A call for each target, of which those that read the output share passes; of a method of one's own, callables do, which
    it cannot tell from others."""
    sharing = [k for k, t in enumerate(targets) if reads_output(t) and (known or callable(t))]
    if len(sharing) > 1 and shares:
        shared = Shared(tuple(targets[k] for k in sharing), size)
        for i, k in enumerate(sharing):
            targets[k] = shared.row(i)
    parts = []
    for first, last in reported(chunks(len(targets), size)):
        for k in range(first, last):
            parts.append(as_one(explain(targets[k])))
            noise.note()
    noise.resume()
    return parts


def around_targets(combinator: Callable[[Any], Any], method: Explains, model: Model, x: Tree, options: dict[str, Any]) -> Tree:
    """What ``combinator(method)`` gives for one of several targets, from ``combinator(each_target(method, targets))``."""
    row = options.pop("target")

    def every(each: Every) -> list[Tree]:
        found = combinator(each_target(method, list(each.targets), chunk_size=row.shared.together))(model, x, **options)
        return [map_tensors(itemgetter(k), found) for k in range(len(each.targets))]

    return own_row(row, every)


#: How many elements the gradients for all classes may have: in float32, and with what is made of them, 0.2 GB.
ROOM = 1 << 24
#: And on a CPU, where going back for one after another is as fast, but for small nets.
SMALL = 1 << 14
#: How much larger than the input a value inside a model is at most, as a rule; and than ids, which become vectors.
WIDER, WIDER_THAN_IDS = 6, 1024


def _at_once(method: Explains, count: int, model: Model, x: Tree, layer: Any) -> int:
    """How many of so many classes to run at once: all, as far as there is room for the gradients at the site; one, where they
    share passes, and going back for several at once is no faster."""
    floats = sum(t.numel() for t in tensors(x) if t.is_floating_point())
    size = floats or WIDER_THAN_IDS * sum(t.numel() for t in tensors(x))
    alone = tracing() or transforms_active() or any_batch()
    if about(method).rows and not alone and device_of(x).type == "cpu" and count * size > SMALL:
        return 1
    if has_steps(method):
        return chunk_for(count, None, x, shares=False)  # many points for each
    if tracing() or any_batch():
        return fitting(count, count, sum(t.numel() for t in tensors(x)), ROOM)
    if layer is not None and count * max(size, WIDER * floats) > ROOM:
        # A pass to the layer tells. What is no layer to us may be one to the method: it gets to say.
        with torch.no_grad(), contextlib.suppress(ValueError, TypeError):
            size = sum(t.numel() for t in tensors(split(model, layer).value_at(x)))
            size = max(size, floats) if about(method).at_input else size
    return max(1, min(count, ROOM // max(size, 1)))


def _in_chunks(explain: Callable[[Target], Tree], classes: Tensor, size: int, shares: bool) -> list[Tree] | None:
    """The classes mapped over; None where the steps of each would run one after another, and not if all share their passes."""
    run = Runner()
    try:
        with at_once_or_not(shares and not tracing()):
            return [
                part
                for first, last in reported(chunks(len(classes), size))
                for part in run_steps(run, explain, list(classes[first:last].unbind()))
            ]
    except OneByOne:
        return None


def _classes(targets: Sequence[Target] | Tensor) -> Tensor | None:
    """Targets that are classes, as a tensor ``[T]`` or ``[T, N]``; None where they are something else."""
    if isinstance(targets, Tensor):
        return targets
    if all(map(is_int, targets)):
        return torch.tensor([as_number(target) for target in targets], device="cpu")
    given = [t for t in targets if isinstance(t, Tensor)]
    return torch.stack(given) if len(given) == len(targets) and len({t.shape for t in given}) == 1 else None
