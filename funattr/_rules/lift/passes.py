"""The two passes of DeepLIFT: the baseline, recorded, and x, replayed against it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._core.gradient import _one_pass, _two_passes, with_normal_tensors
from ..._core.model import Bound, bind, refuse_opaque
from ..._core.place import Place, Sites, check_reached, observe, resolve, settle
from ..._core.score import Neuron, the_tensor
from ..._core.tap import Run, Site, Stop, call_tapped
from ..._steps.baselines import full_batch
from ..._steps.twins import OneRow, same_rows
from ..._torch import tracing, transforms_active
from ..._types import Layer, Model, Target, Tree, batch_size, copied, map_tensors, tensors
from ..._words import complaint, warn
from .dispatch import apply
from .hidden import hidden, only_torch
from .tape import Lift, OutOfStep, Tape, fits

_PATHS = (
    "the model takes different paths at x and at the baseline (control flow that depends on the data), so there is nothing "
    "to compare: use integrated_gradients for such a model."
)
_DEPENDENT = (
    "the layers depend on each other: the difference at one contains the difference at the other, and would count twice. "
    "Choose layers side by side, or call deep_lift once for each."
)
_AGAIN = (
    "the model runs a part of itself again in the backward pass (torch.utils.checkpoint), where DeepLIFT's rules cannot be: "
    "turn that off (model.eval(), or model.gradient_checkpointing_disable(), for models of transformers)."
)


class Task(NamedTuple):
    """What one call asks for, with all sites settled."""

    model: Model
    bound: Bound
    x: Tree
    sites: Sites
    target: Target
    create_graph: bool
    neuron: tuple[Site, ...]  # the site of a neuron target, or nothing
    notes: list[str]  # operations that should have a rule and have none
    suspects: list[str]  # the same, where the data could not be looked at
    hidden: list[str]  # what the rules did not see

    @property
    def inner(self) -> list[Site]:
        return [site for site in self.sites.sites if site is not None]

    @property
    def pick(self) -> Callable[[Any], Tensor] | None:
        """What makes a score of the output, or of a neuron's value, and may not be linear."""
        pick = self.target.index if isinstance(self.target, Neuron) else self.target
        return pick if callable(pick) else None


def prepare(model: Model, x: Tree, layer: Layer, target: Target, create_graph: bool) -> Task:
    if tracing():
        from .. import traced  # noqa: F401
    bound = bind(model)
    refuse_opaque(bound)
    sites = resolve(bound, layer)
    settled = iter(settle(bound, x, [site for site in sites.sites if site is not None]))
    sites = sites._replace(sites=tuple(site and next(settled) for site in sites.sites))
    neuron: tuple[Site, ...] = ()
    if isinstance(target, Neuron):
        neuron = tuple(settle(bound, x, [s for s in resolve(bound, target.layer).sites if s is not None]))
        target = Neuron(Place(neuron[0].layer, neuron[0].inputs, neuron[0].call), target.index)
    if None in sites.sites and len(sites.sites) > 1:
        raise complaint(ValueError, _DEPENDENT)
    return Task(model, bound, x, sites, target, create_graph, neuron, [], [], [])


def lifted(task: Task, reference: Tree) -> tuple[list[Tree], list[Tree], list[Tree]]:
    """Values at the sites, values there at the baseline, and multipliers: ``(v, v0, m)`` with ``sum m (v - v0) = F - F0``."""
    if not tracing() and torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            # Tensors made in inference mode cannot be saved for a backward pass; copies of them can.
            bound = task.bound._replace(call=with_normal_tensors(task.bound.call))
            target = copied(task.target) if isinstance(task.target, Tensor) else task.target
            return lifted(task._replace(bound=bound, x=copied(task.x), target=target), copied(reference))
    try:
        return against(task, full_batch(reference, task.x))
    except OutOfStep:
        raise complaint(ValueError, _PATHS) from None


def against(task: Task, reference: Tree) -> tuple[list[Tree], list[Tree], list[Tree]]:
    tape, base = recorded(task, reference, batch_size(task.x))
    own = recorded(task, task.x, 1) if task.create_graph else None
    values, multipliers = replayed(task, tape, None if own is None else own[0])
    values = values if own is None else own[1]  # the first ones' graph has the rules in it
    for value, other in zip(values, base):
        if any(not fits(a.shape, b.shape) for a, b in zip(tensors(value), tensors(other))):
            raise OutOfStep
    return values, base, multipliers


def recorded(task: Task, x: Tree, alike: int) -> tuple[Tape, list[Tree]]:
    """A plain pass: its tape from the sites on, and the values at the sites; of one row where all `alike` rows are the same."""
    return same_rows(alike, lambda one_row: _recorded(task, x, one_row))


def _recorded(task: Task, x: Tree, one_row: OneRow) -> tuple[Tape, list[Tree]]:
    def keep(t: Tensor) -> Tensor:
        row = one_row(t)
        return (t if row is None else row).clone()

    tape = Tape(keep=keep)
    active = [True] if None in task.sites.sites else []
    found: list[Tree] = [None] * len(task.inner)
    pick = task.pick

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        if i < len(found):
            found[i] = map_tensors(keep, value)
            active.append(True)
        else:
            if pick is not None:
                pick(value)
            active.clear()
        return value

    # Dynamo does not tell nn.TransformerEncoderLayer of a mode, and it would run fused where no gradient is asked for.
    recording = tracing() or (task.create_graph and torch.is_grad_enabled())
    lift = Lift(apply, tape, active)
    with torch.set_grad_enabled(recording):
        output, run = observe(task.bound.under(lift), x, [*task.inner, *task.neuron], visit, early=bool(task.neuron))
        check_reached(task.bound, run)
        if pick is not None and not task.neuron:
            with lift:
                pick(output)
    rest = iter(found)
    return tape, [map_tensors(keep, x) if site is None else next(rest) for site in task.sites.sites]


def replayed(task: Task, tape: Tape, own: Tape | None) -> tuple[list[Tree], list[Tree]]:
    """The pass at x with the rules' slopes against `tape`, and back: values at the sites, and multipliers."""
    here = Tape()
    active: list[bool] = []
    lift = Lift(apply, here, active, tape, own)
    joint = len(task.inner) > 1 and not tracing() and not transforms_active()
    check = [dependence()]
    starts: list[Tensor] = []
    looks = own is None and not tracing() and not transforms_active() and not only_torch(task.bound.root, task.pick)

    def look(ends: Tree) -> None:
        if looks:
            task.hidden.extend(n for n in dict.fromkeys(hidden(ends, starts, lift.unknown)) if n not in task.hidden)

    def mark(i: int, value: Tree, shared: bool) -> Tree:
        if i < len(task.inner):
            active.append(True)
            starts.extend(tensors(value))
            if joint:
                check[0](value)
        else:
            look(value)
            if task.pick is None:
                active.clear()
        return value

    def watched(*args: Any, **kwargs: Any) -> Any:
        here.position[0] = 0
        check[0] = dependence()
        active.clear()
        starts.clear()
        if None in task.sites.sites:
            active.append(True)
            starts.extend(tensors((args, kwargs)))
        with lift, contextlib.nullcontext() if tracing() else _NothingRunsAgain():
            output = call_tapped(task.bound.call, args, kwargs, Run([*task.inner, *task.neuron], mark))
        if task.pick is None and not task.neuron:
            look(the_tensor(output))
        return output

    target = _under(lift, task, look)
    bound = Bound(watched, task.bound.root)
    if tracing():
        return _two_passes(bound, task.x, task.sites, target, task.create_graph)
    found = _one_pass(bound, task.x, task.sites, target, task.create_graph)
    for names, new in ((task.notes, lift.unknown), (task.suspects, lift.suspects)):
        names.extend(dict.fromkeys(name for name in new if name not in names))
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


def _under(lift: Lift, task: Task, look: Callable[[Tree], None]) -> Target:
    """The target, where it computes something, with the rules for what it computes."""
    pick = task.pick
    if pick is None:
        return task.target
    if not isinstance(task.target, Neuron):

        def scored(output: Any) -> Tensor:
            with lift:
                found = pick(output)
            look(found)
            return found

        return scored

    def neuron_scored(value: Any) -> Tensor:  # in the middle of the pass, so under the rules already
        found = pick(value)
        lift.active.clear()
        return found

    return Neuron(task.target.layer, neuron_scored)


def dependence() -> Callable[[Tree], None]:
    """Checks value after value, as replaced at the sites, that none feeds another: the joint differences would count twice."""
    nodes: set[Any] = set()

    def check(value: Tree) -> None:
        mine = {t.grad_fn for t in tensors(value) if t.grad_fn is not None}
        if mine & nodes:  # one layer, named twice
            raise Stop(None, complaint(ValueError, _DEPENDENT))
        todo, seen = list(mine), set(mine)
        while todo:
            for node, _ in todo.pop().next_functions:
                if node in nodes:
                    raise Stop(None, complaint(ValueError, _DEPENDENT))
                if node is not None and node not in seen:
                    seen.add(node)
                    todo.append(node)
        nodes.update(mine)

    return check


def tell(task: Task) -> None:
    if task.hidden:
        warn(
            f"DeepLIFT's rules do not reach into {', '.join(task.hidden)}, with a backward pass of its own: that is used, and "
            f"attributions need not sum to the difference of the scores."
        )
    if task.notes:
        warn(
            f"{', '.join(task.notes)} {'is' if len(task.notes) == 1 else 'are'} not linear and DeepLIFT has no rule for it: "
            f"its gradient is used, and attributions do not sum to the difference of the scores."
        )
