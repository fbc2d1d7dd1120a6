"""Combinators that run a method many times: over noise, over targets."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ._along import check_rows
from ._backward import Watch
from ._bind import bind, find
from ._chunks import check_count, chunk_for, chunks, fitting, given_chunk
from ._combined import check_method, combined, generators_of, name_of
from ._door import complaint, door, kind_of
from ._draw import Rewound, normal_from
from ._joint import look
from ._map import Runner
from ._progress import reported
from ._score import ROOM, Neuron, TooManyTargets, mapping_over
from ._site import Place, resolve, split
from ._torch import tracing, tree_flatten, tree_unflatten
from ._types import ChunkSize, Explains, Method, Model, Target, Tree, attributable, map_tensors, tensors

_TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")


@door
def noise_tunnel(
    method: Explains,
    *,
    n_samples: int = 5,
    stdevs: Any = 1.0,
    nt_type: str = "smoothgrad",
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
) -> Method:
    """A method averaged over noisy inputs: SmoothGrad, its square, or VarGrad.

    ``mean_i a_i``, ``mean_i a_i^2`` or ``mean_i a_i^2 - (mean_i a_i)^2``, for the attributions ``a_i`` of ``x + noise_i``.
    Where x holds only integers, the noise is added at the layer; several layers are then one joint site, and must not depend on
    each other.

    Args:
        method: a method.
        n_samples: how many noisy inputs.
        stdevs: the standard deviation of the noise: a number, or one per floating-point input.
        nt_type: ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many calls of the method run together, by vmap; None: one after another. The result does not depend
            on it.

    Returns:
        A method with the same arguments. The law: with ``stdevs=0`` ``"smoothgrad"`` is the method itself, and ``"vargrad"`` 0.

    Raises:
        ValueError: an argument is out of range, or there is no such `nt_type`.
        TypeError: not a method, or an argument of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> smooth = fa.noise_tunnel(fa.saliency, n_samples=25, stdevs=0.1)
        >>> smooth(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]])).round()
        tensor([[2., 4.]])

    References:
        Smilkov et al., "SmoothGrad", 2017, https://arxiv.org/abs/1706.03825;
        Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values", 2018,
        https://arxiv.org/abs/1810.03307
    """
    check_method(method)
    check_count(n_samples, "n_samples")
    together = given_chunk(chunk_size) or 1
    if nt_type not in _TYPES:
        close = difflib.get_close_matches(str(nt_type), _TYPES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Use one of {', '.join(map(repr, _TYPES))}."
        raise complaint(ValueError, f"there is no nt_type {nt_type!r}. {hint}")

    draw = normal_from(generator)

    def tunnel(model: Model, x: Tree, **options: Any) -> Tree:
        explain, start = _at_noise(method, model, x, options)
        leaves, spec = tree_flatten(start)
        spread = _spread(stdevs, [leaf for leaf in leaves if attributable(leaf)])

        def noisy(noise: list[Tensor]) -> Tree:
            rest = iter(noise)
            return explain(tree_unflatten([leaf + next(rest) if attributable(leaf) else leaf for leaf in leaves], spec))

        mean, square, found = _Mean(n_samples), _Mean(n_samples), None
        run = Runner()
        for first, last in reported(chunks(n_samples, together)):
            # One draw per sample, whatever the chunks: the same numbers in the same order.
            drawn = [[s * draw(leaf.shape, leaf.dtype, leaf.device) for leaf, s in spread] for _ in range(first, last)]
            for found in _run(run, noisy, drawn):
                mean.add(found)
                if nt_type != "smoothgrad":
                    square.add(found, 2)
        if nt_type == "smoothgrad":
            return mean.result(found)
        if nt_type == "smoothgrad_sq":
            return square.result(found)
        return square.result(found, [m * m for m in mean.sums])

    own = [] if generator is None else [generator]
    return combined(tunnel, f"noise_tunnel({name_of(method)})", method, generators=own)


def _at_noise(method: Explains, model: Model, x: Tree, options: dict[str, Any]) -> tuple[Callable[[Tree], Tree], Tree]:
    """What takes the noise: the method as a function of the input; or, for integers, of the value at the layer."""
    if any(attributable(leaf) for leaf in tensors(x)) or options.get("layer") is None:
        return lambda noisy: method(model, noisy, **options), x
    if isinstance(options["layer"], (list, tuple, dict)):
        bound = bind(model)
        sites = resolve(bound, options["layer"])
        look(bound, x, sites, Watch(bound, x, sites.sites, None))  # noise at one must not be undone by noise at another
    value_at, rest = split(model, options["layer"])
    options = {name: value for name, value in options.items() if name != "layer"}
    target = options.get("target")
    if isinstance(target, Neuron) and isinstance(target.layer.layer, str):  # names end at the cut
        module = find(bind(model).root, target.layer.layer)
        options["target"] = Neuron(Place(module, target.layer.inputs, target.layer.call), target.index)
    value = value_at(x)
    if not options.get("create_graph"):
        value = map_tensors(torch.detach, value)

    def after(*parts: Any, **named: Any) -> Any:
        # A value that is a tuple or a dict arrives as several inputs; a model's output is a dict of its own kind.
        given = [named[name] for name in value if name in named] if named else list(parts)
        return rest(tree_unflatten(tree_flatten(given)[0], tree_flatten(value)[1]), x)

    return lambda noisy: method(after, noisy, **options), value


def _spread(stdevs: Any, leaves: list[Tensor]) -> list[tuple[Tensor, float]]:
    """Each floating-point tensor with its standard deviation."""
    if isinstance(stdevs, dict):
        stdevs = tuple(stdevs.values())
    each = list(stdevs) if isinstance(stdevs, (tuple, list)) else [stdevs] * len(leaves)
    for s in each:
        if isinstance(s, bool) or not isinstance(s, (int, float)):
            raise complaint(TypeError, f"stdevs must be a number, or one per floating-point input, got {kind_of(s)}.")
        if not 0 <= s < float("inf"):
            raise complaint(ValueError, f"stdevs must be finite and not negative, got {s}.")
    if len(each) != len(leaves):
        raise complaint(ValueError, f"stdevs has {len(each)} entries for {len(leaves)} floating-point inputs.")
    return list(zip(leaves, each))


def _run(run: Runner, function: Callable[[Any], Tree], steps: list[Any]) -> Iterator[Tree]:
    """`function` at each of a chunk of steps (structures of tensors): results with a leading dimension."""
    if len(steps) == 1:
        yield _as_one(function(steps[0]))
        return
    flat = [tree_flatten(step)[0] for step in steps]
    spec = tree_flatten(steps[0])[1]
    yield from run(function, tree_unflatten([torch.stack(same) for same in zip(*flat)], spec))


def _as_one(found: Tree) -> Tree:
    """A result with the leading dimension of a chunk of one."""
    leaves, spec = tree_flatten(found)
    return tree_unflatten([leaf[None] if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


class _Mean:
    """The mean of attributions, or of a power of them, sum by sum."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sums: list[Any] = []

    def add(self, found: Tree, power: int = 1) -> None:
        parts = [(leaf**power).sum(0) / self.count if isinstance(leaf, Tensor) else leaf for leaf in tree_flatten(found)[0]]
        check_rows(self.sums, parts)
        self.sums = [a + b if isinstance(a, Tensor) else a for a, b in zip(self.sums, parts)] if self.sums else parts

    def result(self, like: Tree, less: Sequence[Any] | None = None) -> Tree:
        sums = self.sums
        if less is not None:
            sums = [(a - b).clamp(min=0) if isinstance(a, Tensor) else a for a, b in zip(sums, less)]  # no rounding below 0
        return tree_unflatten(sums, tree_flatten(like)[1])


@door
def each_target(method: Explains, targets: Sequence[Target] | Tensor, *, chunk_size: ChunkSize = None) -> Method:
    """One attribution per target, in a new leading dimension; for gradients from one forward pass.

    ``each_target(a, targets)(model, x, ...)[t] = a(model, x, ..., target=targets[t])``. Classes (integers, or one per example)
    are mapped: what does not depend on the target, such as the forward pass, runs once. Other targets run one by one.

    Args:
        method: a method.
        targets: several targets: a list of what `score` takes, a tensor of classes ``[T]``, or ``[T, N]`` with one per example.
        chunk_size: how many targets at once: the memory knob; what they share runs once per chunk. None, or
            "auto": all, where the gradients for all of them fit into 0.2 GB. The result does not depend on it.

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
        device = next((t.device for t in tensors(x)), torch.device("cpu"))
        given = [value for value in options.values() if isinstance(value, torch.Generator)]
        noise = Rewound([*generators_of(method), *given], device)

        def explain(target: Target) -> Tree:
            noise.rewind()  # every target, in whatever chunk, meets the same noise
            return method(model, x, target=target, **options)

        if classes is None:
            parts = [_as_one(explain(targets[i])) for i, _ in reported(chunks(len(targets), 1))]
        else:
            parts = _mapped(explain, classes.to(device), x, together)
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
        for part in _run(run, explain, list(classes[first:last].unbind()))
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
