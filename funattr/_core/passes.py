"""What one call asks, made ready once, and the one observed pass: the model run with something put at the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import Writes, depth, mapped_below, only_vmap_runs, out_of_levels, tracing, transforms_active, tree_flatten, views
from .._types import Layer, Model, Neuron, Target, Tree, as_arguments, as_it_is, batch_size, copied, map_tensors, tensors
from .._words import complaint, in_short
from .again import tell_of_writes
from .checks import OF_PARTS, check_outside, meet
from .cures import not_taken
from .kept import keep_written, laid_as, observed
from .kernels import Folded
from .plain import PlainAttention
from .score import Every, Row, entries_of, neuron_score, score_of, the_tensor
from .sites import Sites, check_reached, not_reached, resolve
from .tap import Run, Site, Stop
from .traced import model_traced
from .where import Bound, all_modules, bind, uncompiled


class Question(NamedTuple):
    """What one call asks: the model, its input, where, and what. Calls of the sites are counted from the front."""

    bound: Bound
    x: Tree
    sites: Sites
    target: Any  # what a score is made of; `Every` for several, whose scores are a list
    neuron: Site | None  # where a neuron target is
    size: int
    create_graph: bool

    @property
    def inner(self) -> list[Site]:
        """The sites that are not the input."""
        return [site for site in self.sites.sites if site is not None]

    def label(self, i: int) -> str:
        """What messages call the i-th site."""
        site = self.sites.sites[i]
        return "x" if site is None else site.label

    def where(self, i: int) -> str:
        """What messages call the value there."""
        return "x" if self.sites.sites[i] is None else f"the value at layer {self.label(i)}"

    def at(self, *sites: Site | None) -> Question:
        """The same at some of the sites; at none of them, of the model's output alone."""
        return self._replace(sites=self.sites._replace(sites=sites))


def question(model: Model | Bound, x: Tree, layer: Layer, target: Target, create_graph: bool = False) -> Question:
    """Find the sites and the neuron; a negative `call` takes a pass, here and once, to count."""
    bound = model_traced(bind(model)) if tracing() else bind(model)
    sites, neuron = resolve(bound, layer), None
    if isinstance(target, Neuron):
        neuron = resolve(bound, target.layer).sites[0]
    every = [site for site in (*sites.sites, neuron) if site is not None]
    if every:
        bound = uncompiled(bound, [site.layer for site in every])
    if any(site.call is not None and site.call < 0 for site in every):
        counted = partial(_counted, bound.for_values(True), x, (*sites.sites, neuron))
        *found, neuron = target.take(counted) if isinstance(target, Row) else counted()
        sites = sites._replace(sites=tuple(found))
    return Question(bound, x, sites, target, neuron, batch_size(x), create_graph)


def _counted(bound: Bound, x: Tree, sites: Sequence[Site | None]) -> list[Site | None]:
    with torch.no_grad():
        run = Run([site for site in sites if site is not None], kept)
        watched(bound, x, run)
    settled: list[Site | None] = []
    runs = iter(run.seen)
    for site in sites:
        count = 0 if site is None else next(runs)
        if site is not None and site.call is not None and site.call < 0:
            if count + site.call < 0:
                raise complaint(ValueError, not_reached(bound, site, count))
            site = site._replace(call=site.call + count)
        settled.append(site)
    return settled


# One pass.

#: ``put(i, value, shared)`` sees the value at the i-th site and says what the model goes on with there: the value itself (to
#: read), another one (to replace), a leaf (for a gradient), a point of a path, the value without a group of features.
Put: TypeAlias = Callable[[int, Tree, bool], Tree]
#: ``point(i, floats)``: where to take the gradient at the i-th site, from the floating-point tensors of the value there.
Point: TypeAlias = Callable[[int, list[Tensor]], list[Tensor]]
Found: TypeAlias = tuple[list[Tree], list[Tree]]  # values and gradients, one of each per site


class Seen(NamedTuple):
    """What a pass left: the model's output, or the score of a neuron; and whether it was being recorded where that was made."""

    output: Any
    neuron: Tensor | None
    recording: bool


def forward(q: Question, put: Put, x: Tree = None, *, early: bool = False, fresh: bool = False) -> Seen:
    """Run the model once on a copy of the input, with `put` at the sites; `early` stops after the last, if that can be told.
    `fresh` says that what `put` returns for the input is a copy already."""
    x = q.x if x is None else x
    where: list[int] = []
    neuron: list[Tensor] = []
    others: list[Writes] = []  # what is put in the place of what has another name
    recording, level = True, 0 if tracing() else depth()
    grouped, follow = q.bound.grouped, getattr(q.bound.rules, "follow", None)
    last = [] if q.neuron is None or early else [q.neuron]
    sites = [*q.inner, *last]
    for i, site in enumerate(q.sites.sites):
        if site is None:
            x = put(i, x, False)
        else:
            where.append(i)

    def visit(k: int, value: Tree, shared: bool) -> Tree:
        nonlocal recording, level
        if level >= 0 and not tracing():
            stopping(check_outside, sites[k].label, any(mapped_below(t, level) for t in tensors(value)))
            level = -1  # what is put there may be mapped over
        if k < len(where):
            found: Tree = stopping(put, where[k], value if grouped is None else grouped.laid(sites[k], value), shared)
            found = laid_as(found if grouped is None else grouped.taken(sites[k], found), value)
            if follow is not None:
                follow(value, found)
            if not (tracing() or sites[k].inputs or found is value) and (shared or any(map(views, tensors(value)))):
                others.extend(map(Writes, tensors(found)))
            return found
        recording = torch.is_grad_enabled()
        neuron[:] = [stopping(_neuron_score, q, value if grouped is None else grouped.laid(sites[k], value))]
        if not (q.create_graph or tracing()):  # compiled, the sum of the scores is still to come, in a grad of torch.func
            torch.set_grad_enabled(False)  # the rest only shows how often layers run
        return value

    run = Run(sites, visit, early or bool(last))  # which `visit` must not hold: a circle keeps what the pass left
    output = watched(q.bound, x, run, q.create_graph, fresh=fresh and None in q.sites.sites)
    if (written := not all(writes.as_noted for writes in (*run.replaced, *others))) or run.apart:
        tell_of_writes(q.inner, partial(watched, q.bound.for_values(True), q.x), written, run.apart)
    found = [*tensors(output), *neuron]
    check_reached(q.bound, run, found)
    keep_written(q.create_graph, found)
    return Seen(output, neuron[0] if neuron else None, recording if neuron else torch.is_grad_enabled())


def stopping(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)`, where a complaint ends the pass: a model may catch ValueError."""
    if tracing():
        return f(*args)
    try:
        return f(*args)
    except (ValueError, TypeError) as error:
        if not hasattr(error, "complaint"):
            raise
        raise Stop(None, error) from None


def _neuron_score(q: Question, value: Tree) -> Tensor:
    assert isinstance(q.target, Neuron)
    assert q.neuron is not None
    return neuron_score(copied(value), q.target.index, q.neuron.label)  # of a copy: the model may overwrite the value


def each_score(q: Question, seen: Seen) -> list[Tensor]:
    """The scores of each target of this pass."""
    if not isinstance(q.target, Every):
        return [scores(q, seen)]
    return [scores(q._replace(target=target), seen) for target in q.target.targets]


def scores(q: Question, seen: Seen) -> Tensor:
    """The score of each example."""
    if seen.neuron is not None:
        found = seen.neuron
    elif callable(q.target):
        with as_it_is if q.bound.rules is None else q.bound.rules:
            found = score_of(seen.output, q.target, q.size)
        keep_written(q.create_graph, [found])  # of an output, perhaps, in which nobody else finds tensors
    else:
        found = the_tensor(seen.output, q.size)
        if isinstance(seen.output, Tensor) and seen.output.dim():
            _one_for_each(q, found)  # before the target does not fit because of it
        found = entries_of(found, q.target)
    return meet(_one_for_each(q, found))


def _one_for_each(q: Question, found: Tensor) -> Tensor:
    if found.shape[0] != q.size:
        cure = "the first dimension of the model's output must be the batch; of one example without it, pass x[None]"
        cure += OF_PARTS if found.shape[0] < q.size else ""
        if callable(q.target.index if isinstance(q.target, Neuron) else q.target):
            cure = "the target must give one for each, and a loss takes reduction='none' for that"
        text = f"the score has {found.shape[0]} values for the {q.size} examples of x: {cure}."
        raise complaint(ValueError, text, scores=found.shape[0] if q.bound.grouped is None else 0)
    return found


def kept(i: int, value: Tree, shared: bool) -> Tree:
    """A `put` that changes nothing."""
    return value


def read(q: Question, x: Tree = None, *, once: bool = True) -> list[Tree]:
    """The values at the sites, as copies that nobody else holds. The model runs no further than the last of them: without
    `once`, where a site's `call` is not given, to the end, to see that its layer runs once."""
    values: list[Tree] = [None] * len(q.sites.sites)

    def keep(i: int, value: Tree, shared: bool) -> Tree:
        values[i] = copied(value)
        if not tracing() and depth() > level:  # the model differentiates it itself, by torch.func
            values[i] = map_tensors(lambda t: out_of_levels(t, level), values[i])
        return value

    level = 0 if tracing() else depth()
    q = q._replace(sites=q.sites.first()) if once else q
    if not q.inner:
        return [copied(q.x if x is None else x) for _ in values]
    forward(q._replace(bound=q.bound.for_values(q.create_graph)), keep, x, early=True)
    keep_written(q.create_graph, tensors(values))
    return values


def replace(q: Question, x: Tree, values: Sequence[Tree]) -> Any:
    """The model's output with `values` at the sites."""

    def put(i: int, value: Tree, shared: bool) -> Tree:
        expected, got = (None if isinstance(tree, Tensor) else tree_flatten(tree)[1] for tree in (value, values[i]))
        if expected != got and q.sites.sites[i] is not None:
            text = f"the value at {q.label(i)} is {in_short(value)}, and what is to be put there {in_short(values[i])}"
            raise complaint(ValueError, f"{text}: give it the same structure.")
        return copied(values[i])

    return forward(q, put, x).output


class Unfused(TorchFunctionMode):
    """Does nothing, and that suffices: nn.TransformerEncoderLayer takes its fused path only when no mode is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def watched(bound: Bound, x: Tree, run: Run, create_graph: bool = False, *, fresh: bool = False) -> Any:
    """The model's output for a copy of `x`, to which it may write, under `run`; for `x` itself where that is `fresh`.

    Without gradients, nn.TransformerEncoder runs fused: layers inside are skipped, and nested tensors go from one to the
    next, which breaks where gradients are turned on half-way. So it is not fused where there are sites.
    """
    args, kwargs = as_arguments(x if fresh else copied(x))
    with _kernels(create_graph), _conditions(bound.root, bool(run.sites), x):
        try:
            return observed(bound.call, args, kwargs, run)
        except TypeError as error:
            if tracing() or hasattr(error, "complaint") or (told := not_taken(error, bound.call, args, kwargs)) is None:
                raise
            raise told from error


def _kernels(create_graph: bool) -> AbstractContextManager[Any]:
    """Which form of an operation runs, where torch has several and not all will do."""
    mapped = not tracing() and transforms_active()
    if mapped and only_vmap_runs():
        return Folded(create_graph)
    if create_graph:
        return PlainAttention()  # the fused form has no second derivative
    return PlainAttention(only="cpu") if mapped else as_it_is  # no batching rule there: vmap would loop, and warn


def _conditions(root: nn.Module | None, tapped: bool, x: Tree) -> AbstractContextManager[Any]:
    """What else the model runs under."""
    if _runs_cudnn_rnn(root, x):
        return torch.backends.cudnn.flags(enabled=False)  # no backward pass in eval mode otherwise
    if tapped and runs_fused(root):
        # A traced layer does not look at modes, but is not fused either where a gradient could be asked of it.
        return torch.enable_grad() if tracing() else Unfused()
    return as_it_is


_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


def runs_fused(root: nn.Module | None) -> bool:
    """Whether the model may skip layers of its own when no gradient is asked for. Unknown (a plain function): it may."""
    return root is None or any(isinstance(module, _FUSED) for module in all_modules(root))


def _runs_cudnn_rnn(root: nn.Module | None, x: Tree) -> bool:
    """Whether cuDNN's recurrent layers may run, in eval mode."""
    on_cuda = any(t.is_cuda for t in tensors(x)[:1])
    return on_cuda and any(isinstance(module, nn.RNNBase) and not module.training for module in all_modules(root))
