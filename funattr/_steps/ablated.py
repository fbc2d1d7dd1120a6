"""A model without some of its features: one forward pass per group of them, in chunks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core.door import noisy_modules
from .._core.joint import look
from .._core.kernels import Folded, folding
from .._core.model import Bound, all_modules, bind, runs_fused
from .._core.place import Unfused, check_reached, observe, resolve
from .._core.score import the_tensor
from .._core.watch import Watch, stopping
from .._torch import (
    TreeSpec,
    add_batch_dim,
    enter_vmap,
    leave_vmap,
    remove_batch_dim,
    tracing,
    transforms_active,
    tree_flatten,
    tree_unflatten,
)
from .._types import ChunkSize, Layer, Model, Target, Tree, as_arguments, copied, tensors
from .._words import complaint
from .baselines import holds_batch, one_batch
from .chunks import fitting, given_chunk
from .fold import Branch, NoBranches, mixes
from .groups import Meta, metas, numbered, one_each, spread
from .matching import by_site, check_compares, check_fits, fit, matched, ranges
from .progress import report
from .ways import Runner, interrupted, quiet, refused

_as_it_is = contextlib.nullcontext()


class Feature(NamedTuple):
    """A tensor at the site that is attributed: the group of each feature, and its shape."""

    ids: Tensor
    shape: tuple[int, ...]


class Ablated:
    """The model without one group: ``(group, x) -> [N]``, or its output where the target is yet to be resolved.

    Group -1 is none: nothing is replaced, as one more entry of the same vmap, so that what lies before the layer runs
    once for all.
    """

    def __init__(
        self,
        model: Model,
        x: Tree,
        layer: Layer,
        baselines: Any,
        target: Target,
        feature_mask: Any,
        chunk_size: ChunkSize,
        create_graph: bool,
    ):
        bound = bind(model)
        given = given_chunk(chunk_size)
        # Dynamo may have made a symbol of it: a number again.
        self.chunk_size = None if given is None else len(range(given))
        self.folding = not create_graph
        self.bound = bound if create_graph and not tracing() else folding(bound)
        self.sites = resolve(bound, layer)
        self.watch = Watch(bound, x, self.sites.sites, target)
        self.scored = self.watch.neuron is not None or callable(target)
        self.baselines = by_site(baselines, self.sites, "baselines")
        self.ranges = ranges(baselines)
        check_compares(tree_flatten(baselines)[0], "everything at its")
        self.values: list[tuple[list[Any], TreeSpec | None]] = [([], None) for _ in self.sites.sites]
        # Fused encoders have no batching rule, and hand on nested tensors. `observe` sees to it where there are sites.
        self.fused = not self.watch.sites and not tracing() and runs_fused(bound.root)
        self.folds = self.sites.sites == (None,) and self.watch.neuron is None and _may_fold(bound, model, x, self.watch.size)
        self.ids: list[Any] | None = None
        self.masks: list[Tree] | None = None
        self.total = self.chunk = 0
        if feature_mask is not None:
            self.masks, count = numbered(by_site(feature_mask, self.sites, "feature_mask"))
            self.plan(count, None)

    def plan(self, count: int, found: list[list[Meta | None]] | None) -> None:
        """How many steps there are, and how many of them at once."""
        self.total = count + 1 if self.watch.size else 1
        if found is None:  # the value has not been seen
            bounded = fitting(self.total, 50, self.watch.size, 128)
        else:
            bounded = _chunk_for(found, self.total, shares=bool(self.watch.where))
        self.chunk = self.chunk_size or bounded

    def look(self, found: list[list[Meta | None]]) -> None:
        """Take note of the values at the sites."""
        if self.masks is None:
            self.ids, count = one_each(found, self.watch.size)
            self.plan(count, found)
        else:
            self.plan(self.total - 1, found)

    def chunks(self, x: Tree) -> Iterator[Tensor]:
        """What the calls give, in order, for as many groups at once as memory allows."""
        run = Runner()
        start = 0
        simple = len(self.sites.sites) == 1
        if simple and self.watch.where and not tracing() and not transforms_active():
            first = self.opened(x, run)
            if first is not None:
                start = len(first)
                yield first
        elif self.masks is None or not simple or not self.watch.where:
            self.look(look(self.bound, x, self.sites, self.watch))
        if not start:
            report(0, self.total)
        steps = torch.arange(-1, self.total - 1, device=tensors(x)[0].device)
        count = -(-(self.total - start) // self.chunk)
        for i in range(count):  # of about the same size
            stop = self.total - (self.total - start) * (count - 1 - i) // (count - i)
            folded = self.folded(steps[start:stop], x, first=not start) if self.folds and stop - start > 1 else None
            if folded is not None:
                yield folded
            elif stop - start == 1:  # vmap over one step costs more than the step
                yield self(steps[start], x)[None]
            else:
                yield from run(self, steps[start:stop], x)
            start = stop

    def folded(self, steps: Tensor, x: Tree, first: bool) -> Tensor | None:
        """The calls as one batch, faster than vmap; None where the model does not take it, which shows at the first."""
        count, size = len(steps), self.watch.size
        leaves, spec = tree_flatten(x)
        try:
            where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            found = torch.func.vmap(lambda step: [tree_flatten(self.without(step, 0, x, "x"))[0][i] for i in where])(steps)
            for i, leaf in zip(where, found):
                leaves[i] = leaf.flatten(0, 1)
            with Unfused() if self.fused else _as_it_is, NoBranches():
                # All of it is new: the model may write to it as it is.
                args, kwargs = as_arguments(tree_unflatten(leaves, spec))
                del leaves, found
                output = self.bound.call(*args, **kwargs)
        except Branch:
            self.folds = False
        except Exception as error:
            # The model may want just its batch; its own errors come again.
            if not first or hasattr(error, "complaint") or interrupted(error):
                raise
            self.folds = False
        else:
            if mixes(self.bound, x, output, count * size):
                self.folds = False
                return None
            if not self.scored:
                out = the_tensor(output)
                self.folds = out.shape[:1] == (count * size,)
                return out.reshape(count, size, *out.shape[1:]) if self.folds else None
            parts, rows = tree_flatten(output)
            self.folds = all(isinstance(t, Tensor) and t.shape[:1] == (count * size,) for t in parts if t is not None)
            if self.folds:  # a callable may know its batch
                each = [[t if t is None else t[k * size :][:size] for t in parts] for k in range(count)]
                return torch.stack([self.watch.score(tree_unflatten(one, rows)) for one in each])
        return None

    def opened(self, x: Tree, run: Runner) -> Tensor | None:
        """The first chunk, with the value at the layer seen in the same pass; None where vmap cannot run the model."""
        late = _LateSteps(self, tensors(x)[0].device)
        try:
            with quiet, Folded() if self.folding else _as_it_is:
                return late.closed(self(late, x))
        except RuntimeError as error:
            if late.level is None or not refused(error):
                raise
            run.refuse(error)
            return None
        finally:
            late.leave()

    def __call__(self, group: Tensor | _LateSteps, x: Tree) -> Tensor:
        watch = self.watch
        scores: list[Tensor] = []

        def visit(i: int, value: Tree, shared: bool) -> Tree:
            if watch.is_neuron(i):
                scores[:] = [_in_words(watch.neuron_score, value)]
                return value
            return _in_words(self.without, group, watch.where[i], value, f"the value at layer {watch.sites[i].label}")

        for i, site in enumerate(self.sites.sites):
            if site is None:
                x = self.without(group, i, x, "x")
        with Unfused() if self.fused else _as_it_is:
            output, run = observe(self.bound, x, watch.sites, visit, early=watch.neuron is not None)
        check_reached(self.bound, run)
        if watch.neuron is not None:
            return scores[0]
        return watch.score(output) if self.scored else the_tensor(output)

    def without(self, group: Tensor | _LateSteps, i: int, value: Tree, label: str) -> Tree:
        """The value at site `i` with the group's features at the baseline; notes what it met there."""
        leaves, spec = tree_flatten(value)
        entered = group if isinstance(group, Tensor) else group.entered(value)
        ids = self.ids[i] if self.ids is not None else matched(self.masks[i] if self.masks else 0, value, "feature_mask", label)
        replaced: list[Any] = []
        met: list[Any] = []
        for leaf, ids_here, base in zip(leaves, ids, matched(self.baselines[i], value, "baselines", label)):
            if isinstance(leaf, Tensor) and ids_here is not None:
                check_fits(ids_here, leaf.shape, "feature_mask", label)
                there = ids_here.to(leaf.device)
                base = fit(leaf, base, self.ranges, label)
                replaced.append(torch.where(there == entered.to(leaf.device), base, leaf))
                met.append(Feature(there, tuple(leaf.shape)))
            else:
                replaced.append(copied(leaf))
                met.append(None if isinstance(leaf, Tensor) else leaf)
        if not any(isinstance(entry, Feature) for entry in met):
            raise complaint(TypeError, f"{label} holds no tensor to ablate.")
        self.values[i] = met, spec
        return tree_unflatten(replaced, spec)

    def spread(self, losses: Tensor) -> Tree:
        """Each group's loss ``[groups, N]`` at each of its features, in the structure of the value."""
        found = []
        for met, spec in self.values:
            leaves = [spread(losses, *entry) if isinstance(entry, Feature) else entry for entry in met]
            assert spec is not None
            found.append(tree_unflatten(leaves, spec))
        return self.sites.build(found)


class _LateSteps:
    """The steps of the first chunk, mapped from where the model reaches the layer to the end of the pass."""

    def __init__(self, ablated: Ablated, device: torch.device):
        self.ablated = ablated
        self.device = device
        self.size = 0
        self.level: int | None = None

    def entered(self, value: Tree) -> Tensor:
        self.ablated.look([metas(value)])
        report(0, self.ablated.total)
        total = self.ablated.total
        self.size = -(-total // -(-total // self.ablated.chunk))
        steps = torch.arange(-1, self.size - 1, device=self.device)
        if self.size == 1 or transforms_active():  # inside a transform of the model's own: it would end before this one
            self.size = 1
            return steps[0]
        self.level = enter_vmap(self.size, "same")
        return add_batch_dim(steps, 0, self.level)

    def closed(self, found: Tensor) -> Tensor:
        return found[None] if self.level is None else remove_batch_dim(found, self.level, self.size, 0)

    def leave(self) -> None:
        if self.level is not None:
            self.level = None
            leave_vmap()


def _may_fold(bound: Bound, model: Model, x: Tree, size: int) -> bool:
    """Whether groups may share the batch: each example alone, and nobody else has a row for each."""
    if bound.root is None or tracing() or transforms_active() or not one_batch(x, size) or holds_batch(model, size):
        return False
    mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in all_modules(bound.root))
    return not mixes and not noisy_modules(model)


def _chunk_for(found: list[list[Meta | None]], total: int, shares: bool) -> int:
    """How many groups at once: bounded memory, and on a CPU no more than its caches like.

    Where there is a part of the model to share, each chunk runs it again: larger ones, of small values any number.
    """
    known = [meta for value in found for meta in value if meta is not None]
    elements = sum(math.prod(meta.shape) for meta in known)
    if not shares:
        return fitting(total, 50, elements, 1 << (19 if all(meta.device.type == "cpu" for meta in known) else 21))
    size = fitting(total, 50, elements, 1 << 23)
    while 50 <= size < total and 2 * size * elements <= 1 << 20:
        size *= 2
    return size


def _in_words(f: Any, *args: Any) -> Any:
    # Inside the model, which may catch ValueError: a complaint ends the pass.
    return f(*args) if tracing() else stopping(f, *args)
