"""The two passes of DeepLIFT: the baseline, recorded, and x, replayed against it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._core.backward import connected
from ..._core.cures import check_level
from ..._core.gradient import gradients
from ..._core.kept import kept_tensors
from ..._core.passes import Question, forward, question
from ..._core.score import Every, each_of, neuron_score, one_for_each, score_of, the_tensor
from ..._core.tap import Run, Stop, call_tapped
from ..._core.where import Bound, transparent
from ..._steps.baselines import full_batch
from ..._steps.twins import OneRow, same_rows
from ..._torch import as_written, depth, depth_traced, grad_level, tracing, transforms_active, unwrap_for_grad, without_modes
from ..._types import Layer, Model, Neuron, Target, Tree, as_it_is, floats_of, leaf_of, map_floats, map_tensors, tensors
from ..._words import complaint
from .complete import SCRIPTED, Notes, gap, hidden, only_torch
from .dispatch import apply
from .tape import Lift, OutOfStep, Tape, fits

_PATHS = (
    "the model takes different paths at x and at the baseline (by control flow or sizes that depend on the data, or by what it "
    "does in some passes only), so there is nothing to compare: use integrated_gradients for such a model."
)
_DEPENDENT = (
    "the layers depend on each other: the difference at one contains the difference at the other, and would count twice. "
    "Choose layers side by side, or call deep_lift once for each."
)
_AGAIN = (
    "the model runs a part of itself again in the backward pass (torch.utils.checkpoint), where DeepLIFT's rules cannot be, or "
    "puts elsewhere what it saves for that (save_on_cpu), which looks the same: "
    "turn that off (use_checkpoint=False, model.gradient_checkpointing_disable(), or whatever turned it on)."
)


class Task(NamedTuple):
    """What one call asks for, and what it has to tell."""

    q: Question
    notes: Notes

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target, or each of several that share passes."""
        return each_of(self.q.target)

    @property
    def pick(self) -> Callable[[Any], Tensor] | None:
        """What makes a score of the output, or of a neuron's value, and may not be linear: of several, one."""
        picks = [target.index if isinstance(target, Neuron) else target for target in self.targets]
        return next((pick for pick in picks if callable(pick)), None)


def asked(model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool) -> Question:
    """What one call asks, of a model in which the rules see every operation."""
    if tracing():
        from .. import traced  # noqa: F401  (imported for what importing it tells Dynamo; no name of it is used)
    q = question(model, x, layer, target, create_graph)
    return q._replace(bound=transparent(q.bound))


class Lifted(NamedTuple):
    """Values at the sites, values there at the baseline, and multipliers: ``sum m (v - v0) = F - F0``, but for the gap."""

    values: list[Tree]
    base: list[Tree]
    multipliers: list[Tree]
    products: list[Tree]  # m (v - v0)
    gap: Tensor | None


def lifted(task: Task, reference: Tree, alike: bool = True) -> Lifted:
    """`alike` says that rows of the reference may be the same, which is looked for."""
    reference = full_batch(reference, task.q.x)
    found = _in_step(task, reference, alike)
    if task.q.create_graph and not (tracing() or transforms_active()) and (task.notes.unknown or task.notes.hidden):
        return _again_in_level(task, reference, alike)
    return found


def _again_in_level(task: Task, reference: Tree, alike: bool) -> Lifted:
    """The same in a grad level. What keeps its gradient has it from values that, outside of the level, vary as the model has
    them; without one, they vary as the rules say."""
    with grad_level() as level, torch.enable_grad():
        try:
            found = _in_step(task._replace(notes=Notes()), reference, alike)
        except RuntimeError as error:
            check_level(error, task.q.bound)
            raise
        return Lifted(*(map_tensors(lambda t: unwrap_for_grad(t, level), part) for part in found))


def _in_step(task: Task, reference: Tree, alike: bool) -> Lifted:
    try:
        return against(task, reference, alike=alike)
    except OutOfStep:
        if tracing():
            raise complaint(ValueError, _PATHS) from None
    # Again. The first pass may have filled a table that functions keep for all models: then the next ones are alike. And some
    # models look whether a gradient is asked for (`x.requires_grad`), and take another path if not.
    try:
        return against(task, reference, learns=not (task.q.create_graph or transforms_active()))
    except OutOfStep:
        raise complaint(ValueError, _PATHS) from None


def against(task: Task, reference: Tree, learns: bool = False, alike: bool = True) -> Lifted:
    tape, base = same_rows(task.q.size if alike and not learns else 1, partial(_recorded, task, reference, learns))
    own = same_rows(1, partial(_recorded, task, task.q.x, False)) if task.q.create_graph else None
    here = Tape()
    values, multipliers = replayed(task, here, tape, None if own is None else own[0])
    values = values if own is None else own[1]  # the first ones' graph has the rules in it
    for value, other in zip(values, base):
        if any(not fits(a.shape, b.shape) for a, b in zip(tensors(value), tensors(other))):
            raise OutOfStep
    again = len(multipliers) // len(values)  # the multipliers for each target
    parts = zip(values * again, base * again, multipliers)
    products = [map_floats(lambda v, v0, m: m * (v - v0), *part) for part in parts]
    return Lifted(values, base, multipliers, products, gap(task.targets, (here, tape), products))


def _recorded(task: Task, x: Tree, learns: bool, one_row: OneRow) -> tuple[Tape, list[Tree]]:
    """A plain pass: its tape from the sites on, and the values at the sites; of one row where all are the same. Where it
    `learns`, from leaves at the sites, as the pass at x does."""

    def keep(t: Tensor) -> Tensor:
        row = one_row(t)
        kept = (t if row is None else row).clone()
        return kept.detach() if constants else kept

    q, tape = task.q, Tape(keep=keep)
    constants = learns or (tracing() and not q.create_graph)  # where a graph is made that nobody asked for
    active: list[bool] = []
    found: list[Tree] = [None] * len(q.sites.sites)

    def put(i: int, value: Tree, shared: bool) -> Tree:
        found[i] = map_tensors(keep, value)
        active.append(True)
        if learns:
            torch.set_grad_enabled(True)
            return map_tensors(leaf_of, value)
        return value

    # Dynamo does not tell nn.TransformerEncoderLayer of a mode, and it would run fused where no gradient is asked for.
    recording = tracing() or (q.create_graph and torch.is_grad_enabled())
    lift = Lift(apply, tape, active)
    lift.origins.enters.update((id(t), t) for t in tensors(x))
    with torch.set_grad_enabled(recording):
        seen = forward(q._replace(bound=q.bound.under(lift), target=_ending(q, active, tape)), put, x)
        if q.neuron is None:
            _keep_ends(task, tape, seen.output, lift)
    return tape, found


def _keep_ends(task: Task, tape: Tape, output: Any, lift: Lift) -> None:
    """Keep what the score of each target is taken of, or the score that it makes under `lift`."""
    whole = None
    for target in task.targets:
        if callable(target):
            with lift:
                tape.end.append(_end(as_written(target, output)))
            continue
        whole = _end(the_tensor(output, task.q.size)) if whole is None else whole
        tape.end.append(whole)


def _end(value: Any) -> Tensor:
    """What the score is taken of, or the score, kept from what the model does with it later."""
    if not isinstance(value, Tensor):
        value = one_for_each(value, "the target")  # which refuses it in words
    with as_it_is if tracing() else without_modes():
        found: Tensor = value.detach().clone()
    return found


def _ending(q: Question, active: list[bool], tape: Tape) -> Any:
    """The target; one that is a neuron, in the middle of the pass, ends what the rules are for."""
    if q.neuron is None:
        return q.target
    index, label = q.target.index, q.neuron.label

    def picked(value: Any) -> Tensor:
        found = neuron_score(value, index, label)
        tape.end.append(_end(found))
        active.clear()
        return found

    return Neuron(q.target.layer, picked)


def replayed(task: Task, here: Tape, tape: Tape, own: Tape | None) -> tuple[list[Tree], list[Tree]]:
    """The pass at x with the rules' slopes against `tape`, and back: values at the sites, and multipliers."""
    q, pass_ = task.q, _Replay(task, here, tape, own)
    # Under vmap in a grad level: below it, the maps of slopes.py would leave no graph.
    mapped = not tracing() and transforms_active()
    bound = Bound(pass_.run, q.bound.root, grouped=q.bound.grouped)
    found = gradients(q._replace(bound=bound, target=pass_.target()), own_level=mapped)
    lift = pass_.lift
    cuts = lift.origins.cuts
    task.notes.extend(unknown=lift.unknown, moved=lift.moved, hidden=lift.inside, cuts=cuts)
    task.notes.eps = max(task.notes.eps, 0.0 if tracing() else tape.eps())
    task.notes.claims = None in q.sites.sites or not lift.origins.around
    return found


class _Replay:
    """The pass at x, in which the rules put their slopes: the model, and the targets that compute something."""

    def __init__(self, task: Task, here: Tape, tape: Tape, own: Tape | None):
        self.task, self.here = task, here
        self.active: list[bool] = []
        self.starts: list[Tensor] = []
        self.lift = Lift(apply, here, self.active, tape, own)
        self.looks = not tracing() and not only_torch(task.q.bound.root, task.pick)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        q = self.task.q
        self.here.rewind()
        self.lift.level = depth_traced() if tracing() else depth()
        self.active.clear()
        self.starts.clear()
        if None in q.sites.sites:
            self._start((args, kwargs))
        else:
            self.lift.origins.comes_in(tensors((args, kwargs)))
            if not tracing():
                known = () if q.bound.root is None else q.bound.root.buffers()
                self.lift.origins.held.update((id(t), t) for t in (*known, *kept_tensors()))
        with self.lift, as_it_is if tracing() else _NothingRunsAgain():
            sites = q.inner if q.neuron is None else [*q.inner, q.neuron]
            output = as_written(call_tapped, q.bound.call, args, kwargs, Run(sites, self._mark))
        if self.task.pick is None and q.neuron is None:
            _keep_ends(self.task, self.here, output, self.lift)
            self._look(the_tensor(output, q.size))
        return output

    def target(self) -> Any:
        """The target; one that computes something does so by the rules too."""
        q = self.task.q
        if self.task.pick is None or q.neuron is not None:
            return _ending(q, self.active, self.here)
        every = tuple(partial(self._picked, target) for target in self.task.targets)
        return Every(every) if isinstance(q.target, Every) else every[0]

    def _start(self, values: Tree) -> None:
        self.starts.extend(floats_of(values))
        self.lift.origins.enters.update((id(t), t) for t in self.starts)
        self.active.append(True)

    def _look(self, ends: Tree) -> None:
        if self.looks:
            found = hidden(ends, self.starts, self.lift.unknown)
            self.task.notes.extend(hidden=[name for name in found if not (self.lift.inside and name == SCRIPTED)])

    def _mark(self, i: int, value: Tree, shared: bool) -> Tree:
        if i == len(self.task.q.inner):  # the neuron
            self._look(value)
            return value
        if self.starts and not tracing() and connected(value, self.starts):
            raise Stop(None, complaint(ValueError, _DEPENDENT))
        self._start(value)
        return value

    def _picked(self, target: Any, output: Any) -> Tensor:
        q = self.task.q
        if not callable(target):
            self.here.end.append(_end(the_tensor(output, q.size)))
            return score_of(output, target, q.size)
        with self.lift:
            found: Tensor = as_written(target, output)
        self.here.end.append(_end(found))
        self._look(found)
        return found


class _NothingRunsAgain:
    """Checkpointing hooks into what is saved for the backward pass: what it computes then knows nothing of the rules."""

    def __enter__(self) -> None:
        self.hooks: AbstractContextManager[Any] | None = torch.autograd.graph.disable_saved_tensors_hooks(_AGAIN)
        try:
            self.hooks.__enter__()
        except RuntimeError:  # hooks that are on around the call (saving on the CPU) are the caller's, and stay
            self.hooks = None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.hooks is not None:
            self.hooks.__exit__(None, None, None)
        if isinstance(error, RuntimeError) and _AGAIN in str(error):
            raise complaint(ValueError, _AGAIN) from None
