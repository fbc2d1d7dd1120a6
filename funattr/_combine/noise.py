"""A method over noisy inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_attributable, check_dense
from .._core.passes import question
from .._core.score import shares
from .._core.split import split
from .._core.where import bind, find
from .._steps.chunks import chunk_for, chunks, given_chunk
from .._steps.draws import Rewound, check_generator, normal_from
from .._steps.fold import attempted, repeated, rows_alone
from .._steps.matching import deviations
from .._steps.path import settled
from .._steps.points import with_floats
from .._steps.progress import Sum, reported
from .._steps.ways import Runner, Steps, mapped
from .._steps.without import look
from .._torch import tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import (
    ChunkSize,
    Explains,
    Layer,
    Method,
    Model,
    Neuron,
    Place,
    Tree,
    attributable,
    batch_size,
    floats_of,
    map_tensors,
    tensors,
)
from .._words import check_choice, check_count, complaint, door
from .baselines import at_layer, default_baselines
from .dress import about, combined, device_of, generators_given, has_steps, is_predicted, known_method, name_of, run_steps
from .targets import around_targets

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
    Where x holds only integers, the noise is added at the layer, and baselines, integers still, are read there without noise;
    several layers are then one joint site, and must not depend on each other. ``target="argmax"`` is the class predicted at x,
    in all samples. A deviation of 10 to 20 % of the range of x is usual. Calls of the method run together, in one batch or by
    vmap; one after another where the method takes many steps of its own or draws random numbers, where vmap cannot, and in a
    compiled function.

    Args:
        method: a method.
        n_samples: how many samples are taken for each example.
        stdevs: the standard deviation of the noise: a number, or one per input, by name or by position; integer inputs need
            none. Where the noise is at a layer, one per tensor there.
        nt_type: ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many evaluations run at once: the memory knob. None: as many as a budget of memory allows. The result
            does not depend on it.

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
    method = _of_one_class(known_method(method))
    check_count(n_samples, "n_samples")
    check_generator(generator)
    together = given_chunk(chunk_size)
    check_choice(nt_type, "nt_type", _TYPES)

    draw, told, default = normal_from(generator), about(method), default_baselines(method)
    generators = (*([] if generator is None else [generator]), *told.generators)
    # vmap would draw the same for all samples; and what has steps of its own fills the memory alone
    chunk = 1 if told.draws or (together is None and (has_steps(method) or told.leading > 0)) else together

    def tunnel(model: Model, x: Tree, **options: Any) -> Tree:
        if shares(options.get("target")):  # all targets of each sample from its passes
            again = {"n_samples": n_samples, "stdevs": stdevs, "nt_type": nt_type, "generator": generator}
            return around_targets(partial(noise_tunnel, **again, chunk_size=chunk_size), method, model, x, options)
        if is_predicted(options.get("target")):
            # The class predicted at x, in all samples: a mean over maps of several classes would be of none.
            options["target"] = settled(question(model, x, None, "argmax"))
        explain, steps = at_noise(method, default, model, x, options)
        start = steps.like
        for leaf in floats_of(start):
            check_dense(leaf, "x" if start is x else "the value at the site")
        spread = [*zip(floats_of(start), deviations(stdevs, start, "x" if start is x else "the value at the site"))]

        def drawn() -> list[Tensor]:  # one draw per sample, whatever the chunks: the same numbers in the same order
            return [s * draw(leaf.shape, leaf.dtype, leaf.device) for leaf, s in spread]

        noise = Rewound([*generators, *generators_given(options)], device_of(x))
        ways = _in_one_batch(method, model, x, options) if start is x and told.rows and not (told.draws or told.leading) else []
        return _moment(sampled(steps, partial(moved, explain, start), drawn, n_samples, chunk, noise, ways), n_samples, nt_type)

    return combined(tunnel, f"noise_tunnel({name_of(method)})", method, generators=generators, draws=True)


def _of_one_class(method: Explains) -> Explains:
    """Refuse what asks each sample for a class of its own."""
    if about(method).predicts:
        text = f'the "argmax" in {name_of(method)} would be another class in each sample'
        raise complaint(ValueError, f"{text}: pass target='argmax' to the tunnel, or a tunnel to each_target.")
    return method


def _in_one_batch(method: Explains, model: Model, x: Tree, options: dict[str, Any]) -> list[Callable[..., Tree]]:
    """How samples run as one batch, of a model that is known to treat rows alone: none where that is not so."""
    rest = [value for name, value in options.items() if name not in ("layer", "target")]
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in rest)
    if not (plain and isinstance(x, Tensor) and x.dim() and rows_alone(question(model, x, None, None))):
        return []

    def ask(function: Callable[..., Tree], noise: list[Tensor], shared: tuple[Any, ...], **named: Any) -> Tree:
        points = x + noise[0]
        count, size = points.shape[:2]
        target = {"target": repeated(options["target"], count, size)} if "target" in options else {}

        def one() -> Tree:
            found = method(model, points.flatten(0, 1), **options | target)
            return map_tensors(lambda t: t.unflatten(0, (count, size)), found)

        found = attempted(one)  # what is bound in the method may be for just its batch: vmap tells
        return mapped(function, noise, shared, **named) if found is None else found

    return [ask]


def moved(explain: Callable[[Tree], Tree], start: Tree, way: list[Tensor]) -> Tree:
    """What is found a way from the start, for each floating-point tensor there."""
    return explain(with_floats(start, [t + w for t, w in zip(floats_of(start), way)]))


def _moment(samples: Iterable[Tree], count: int, nt_type: str) -> Tree:
    """The mean, the mean of squares or the variance of `count` results, which come in chunks."""
    mean, square = Sum(), Sum()
    for found in samples:
        if nt_type != "smoothgrad_sq":
            mean.add(found)
        if nt_type != "smoothgrad":
            square.add(found, power=2)
    if nt_type == "vargrad":  # no rounding below 0
        sums = zip(mean.parts, square.parts)
        square.parts = [(b - a * a / count).clamp(min=0) if isinstance(a, Tensor) else a for a, b in sums]
    return (mean if nt_type == "smoothgrad" else square).total(count)


def at_noise(
    method: Explains, default: Any, model: Model, x: Tree, options: dict[str, Any]
) -> tuple[Callable[[Tree], Tree], Steps]:
    """What takes the noise, and calls with it: the method as a function of the input; or, for integers, of the value at the
    layer."""
    if any(attributable(leaf) for leaf in tensors(x)):
        return lambda noisy: method(model, noisy, **options), Steps(question(model, x, None, None), x)
    _check_takes_noise(model, x, options.get("layer"))
    if about(method).at_input:
        text = f"{name_of(method)} works at the input, whose integers take no noise, and the layer's value takes it"
        raise complaint(ValueError, f"{text}: pass the method itself, without at_input.")
    value_at, rest = split(model, options["layer"])
    create_graph = bool(options.get("create_graph"))
    value = value_at(x) if create_graph else map_tensors(torch.detach, value_at(x))
    options = (
        options
        | {"layer": None}
        | at_layer(about(method).baselines, value_at, x, options.get("baselines", default), create_graph)
    )
    if "target" in options:
        options["target"] = _by_module(model, options["target"])

    steps = Steps(question(model, x, None, None), value)
    if batch_size(value) == batch_size(x):
        after = partial(_after, rest, x, value)
        return lambda noisy: method(after, noisy, **options), steps
    # Its rows are not examples (the sentences of documents): an integer beside it, which is held, says how many there are.
    examples = torch.zeros(batch_size(x), dtype=torch.long, device=device_of(x))
    for name in ("baselines", "feature_mask"):
        if not isinstance(options.get(name), (int, float, type(None))):
            options[name] = (None, options[name])

    def explain(noisy: Tree) -> Tree:
        return method(lambda _, value: rest(value, x), (examples, noisy), **options)[1]

    return explain, steps


def _check_takes_noise(model: Model, x: Tree, layer: Layer) -> None:
    """Refuse noise for integers without a layer to take it, and at several of which one follows from another."""
    if layer is None:
        check_attributable(x, "x")
    if isinstance(layer, (list, tuple, dict)):
        look(question(model, x, layer, None))  # noise at one must not be undone by noise at another


def _after(rest: Callable[..., Any], x: Tree, value: Tree, *parts: Any, **named: Any) -> Any:
    """What comes of another value at the layer. One that is a tuple or a dict arrives as several inputs; a model's output is
    a dict of its own kind."""
    given = [named[name] for name in value if name in named] if named else list(parts)
    return rest(tree_unflatten(tree_flatten(given)[0], tree_flatten(value)[1]), x)


def _by_module(model: Model, target: Any) -> Any:
    """A neuron by its module, not by its name: names end at a cut."""
    if not (isinstance(target, Neuron) and isinstance(target.layer.layer, str)):
        return target
    return Neuron(Place(find(bind(model).root, target.layer.layer), target.layer.inputs, target.layer.call), target.index)


def sampled(
    steps: Steps,
    function: Callable[[Any], Tree],
    draw: Callable[[], list[Tensor]],
    count: int,
    chunk: int | None,
    noise: Rewound,
    ways: Iterable[Callable[..., Tree]] = (),
) -> Iterator[Tree]:
    """`function` of each of `count` draws, `chunk` at once: results with a leading dimension.

    Without a `chunk`, as many at once as there is memory for, if `function` lets them. `ways` to run them come before vmap.
    """
    run, size, met, done = Runner(), chunk or 1, [], 0
    run.ways = [*ways, *run.ways]
    if not tracing() and (chunk or not transforms_active()):
        size = min(count, chunk_for(count, chunk, steps.like, shares=False, root=steps.q.bound.root))
        if size > 1 and steps.runner(chunk, run).unsure:
            met, done = list(run.bounded(1, lambda first, last: run_steps(run, function, [draw()]))), 1
            size = max(1, min(size, run.most, count - 1))
            noise.begin()
        at_once = _at_once(run, function, draw, size, noise) if size > 1 else None
        if at_once is None:
            size = 1
        else:
            met, done = [*met, at_once], done + size
        del at_once
        if chunk is None:
            run.cause = None  # nobody has asked for more than one at once
    bounds = [(0, done)] * bool(met) + [(done + first, done + last) for first, last in chunks(count - done, size)]
    for first, last in reported(bounds):
        if met:
            yield from met
            met = []
            continue
        yield from run_steps(run, function, [draw() for _ in range(first, last)])
        run.warn()


def _at_once(
    run: Runner, function: Callable[[Any], Tree], draw: Callable[[], list[Tensor]], size: int, noise: Rewound
) -> Tree | None:
    """`function` of so many draws by vmap; None, and nothing is drawn, where it draws too: its numbers and ours take turns."""
    stacked = [torch.stack(same) for same in zip(*[draw() for _ in range(size)])]
    found = run.first(function, stacked) if stacked else None
    if found is None:
        noise.rewind()
    return found
