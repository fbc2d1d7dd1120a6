"""Rows that are not examples: nodes of graphs, tiles of slides. To a method, a batch of examples with places of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import tracing, transforms_active, tree_flatten, without_modes
from .._types import About, Layer, Model, Neuron, Tree, as_arguments, as_it_is, attributable, broadcasts, map_tensors, tensors
from .._words import complaint, kind_of, warn
from .kept import left_as_found
from .labels import check_data, whole_numbers
from .score import alone, score_of, the_tensor
from .sites import resolve
from .tap import Site
from .where import Bound, bind

#: Numbers of groups, or of examples, which nobody means: what is made for so many would not fit.
MOST = 1 << 24

_IDS = "number the examples from 0, one integer for each row"


class Layout:
    """Where each of some rows is among the places of its example: rows ``[R, ...]`` as ``[N, L, ...]``, and back."""

    def __init__(self, ids: Tensor, count: int):
        self.rows, self.count = len(ids), count
        sizes = torch.bincount(ids, minlength=count)
        order = ids.argsort(stable=True)
        within = torch.empty_like(ids)
        within[order] = torch.arange(self.rows, device=ids.device) - (sizes.cumsum(0) - sizes)[ids[order]]
        self.sizes, self.most = sizes, int(sizes.max())
        self.places = ids * self.most + within
        self.there = torch.full((count * self.most,), self.rows, device=ids.device)
        self.there[self.places] = torch.arange(self.rows, device=ids.device)

    def laid(self, t: Tensor, spare: Tensor | None = None) -> Tensor:
        """``[R, ...]`` as ``[N, L, ...]``, with `spare`, or zeros, in the places that an example does not have."""
        spare = t.new_zeros(1, *t.shape[1:]) if spare is None else spare
        found = torch.cat([t, spare]).index_select(0, self.there.to(t.device))
        return found.reshape(self.count, self.most, *t.shape[1:])

    def taken(self, t: Tensor, leading: int = 0) -> Tensor:
        """The rows of ``[N, L, ...]``, in the order in which they came."""
        return t.flatten(leading, leading + 1).index_select(leading, self.places.to(t.device))

    def mean(self, t: Tensor) -> Tensor:
        """A mean over all L places, as one over those that the example has."""
        more: Tensor = self.most / self.sizes.clamp(min=1).to(t)
        return t * more.reshape(-1, *[1] * (t.dim() - 1))

    def fits(self, t: Tensor, leading: int = 0) -> bool:
        """Whether `t` is laid out so."""
        return tuple(t.shape[leading : leading + 2]) == (self.count, self.most)


class Grouped:
    """A call whose x has rows of examples: its layouts, and at which sites values were laid out so."""

    def __init__(self, layouts: Tree):
        self.layouts = layouts
        every: list[Layout] = [one for one in tree_flatten(layouts)[0] if one is not None]
        self.by_rows = {one.rows: one for one in every}
        self.full = all(one.rows == one.count * one.most for one in every)
        self.met: dict[tuple[int, bool], list[Layout]] = {}

    def around(self, bound: Bound) -> Bound:
        """The model for x as the method sees it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if isinstance(self.layouts, Layout) else kwargs if isinstance(self.layouts, dict) else args
            args, kwargs = as_arguments(over(_rows_of, self.layouts, given))
            return bound.call(*args, **kwargs)

        return bound._replace(call=call, grouped=self)

    def laid(self, site: Site, value: Tree) -> Tree:
        """The value at a site as the method sees it."""
        with as_it_is if tracing() else without_modes():
            known = [self.of_rows(t) for t in tensors(value)]
            found = self.met[id(site.layer), site.inputs] = [one for one in known if one is not None]
            return map_tensors(lambda t: t if (one := self.of_rows(t)) is None else one.laid(t), value) if found else value

    def of_rows(self, t: Tensor) -> Layout | None:
        """The layout of what has as many rows."""
        return self.by_rows.get(t.shape[0]) if t.dim() else None

    def taken(self, site: Site, value: Tree, leading: int = 0) -> Tree:
        """A value at a site, or what a method found there, as the model has it."""
        with as_it_is if tracing() else without_modes():
            return self._each(lambda one, t: one.taken(t, leading), site, value, leading)

    def mean(self, site: Site | None, value: Tree) -> Tree:
        return over(Layout.mean, self.layouts, value) if site is None else self._each(Layout.mean, site, value, 0)

    def _each(self, f: Callable[[Layout, Tensor], Tensor], site: Site, value: Tree, leading: int) -> Tree:
        met = self.met.get((id(site.layer), site.inputs), [])

        def of_one(t: Tensor) -> Tensor:
            known = next((one for one in met if one.fits(t, leading)), None)
            return t if known is None else f(known, t)

        return map_tensors(of_one, value) if met else value


def _rows_of(layout: Layout, t: Any) -> Any:
    if not layout.fits(t):
        raise ValueError("rows of examples come in one batch only")  # so that no steps are folded into it
    return layout.taken(t)


def over(f: Callable[..., Any], layouts: Tree, given: Any, *x: Any) -> Any:
    """`f` of what is given for each tensor that has rows, and of that tensor of x; all else as it is."""
    if isinstance(layouts, Layout):
        return f(layouts, given, *x)
    if isinstance(layouts, dict) and isinstance(given, Mapping):
        return {key: over(f, layouts.get(key), part, *(t.get(key) for t in x)) for key, part in given.items()}
    if isinstance(layouts, tuple) and isinstance(given, (tuple, list)) and len(given) == len(layouts):
        return type(given)([over(f, own, part, *(t[i] for t in x)) for i, (own, part) in enumerate(zip(layouts, given))])
    return given


def laid_out(examples: Tree) -> Tree:
    """The layouts of rows whose examples have these numbers, in the same structure; None stays."""
    named = isinstance(examples, Mapping)
    several = named or (isinstance(examples, (tuple, list)) and any(isinstance(part, Tensor) for part in examples))
    pairs = examples.items() if named else enumerate(examples) if several else [(None, examples)]
    found = {key: _numbers(own, "examples" if key is None else f"examples[{key!r}]") for key, own in pairs if own is not None}
    if not found:
        raise complaint(ValueError, f"examples names no rows: {_IDS}.")
    count = max(int(own.max()) + 1 for own in found.values())
    laid = {key: Layout(own, count) for key, own in found.items()}
    return laid if named else tuple(map(laid.get, range(len(examples)))) if several else laid[None]


def _numbers(own: Any, name: str) -> Tensor:
    ids = whole_numbers(own, name, _IDS)
    check_data(ids, name)
    if ids.dim() != 1 or not len(ids) or int(ids.min()) < 0:
        has = f"holds {int(ids.min())}" if ids.dim() == 1 and len(ids) else f"is {list(ids.shape)}"
        raise complaint(ValueError, f"{name} {has}: {_IDS}; of sizes, torch.repeat_interleave(torch.arange(N), sizes).")
    if int(ids.max()) >= MOST:
        text = f"{name} holds {int(ids.max())}, and there is an example for each number from 0 on"
        raise complaint(ValueError, f"{text}: number them in a row, torch.unique({name}, return_inverse=True)[1].")
    return ids


def _check(layouts: Tree, x: Tree) -> None:
    """Refuse layouts that are not those of x."""
    if isinstance(layouts, Layout) is not isinstance(x, Tensor) or (isinstance(layouts, dict) and not layouts.keys() <= {*x}):
        text = "examples must have the structure of x: numbers for tensors whose rows are parts of examples, None for others"
        raise complaint(ValueError, f"{text}, got {'one tensor' if isinstance(layouts, Layout) else type(layouts).__name__}.")
    if isinstance(layouts, tuple) and len(layouts) != len(x):
        text = f"examples has {len(layouts)} entries for {len(x)} inputs"
        raise complaint(ValueError, f"{text}: give one for each, None where it has a row for each example.")
    over(_check_rows, layouts, x)


def _check_rows(layout: Layout, t: Any) -> None:
    if not isinstance(t, Tensor) or not t.dim() or len(t) != layout.rows:
        has = f"{list(t.shape)}" if isinstance(t, Tensor) else kind_of(t)
        raise complaint(ValueError, f"examples has the numbers of {layout.rows} rows, and there x is {has}: {_IDS}.")


def of_examples(method: Callable[..., Any], told: About, layouts: Tree, model: Model, x: Tree, options: dict[str, Any]) -> Any:
    """What a method finds where rows of x are parts of examples: a value for each row."""
    _check(layouts, x)
    bound, layer, grouped = bind(model), options.get("layer"), Grouped(layouts)
    if told.spare and not grouped.full and not (told.spare == "no mask" and options.get("feature_mask") is not None):
        raise complaint(ValueError, _UNEVEN)
    if told.front:
        raise complaint(ValueError, _FRONT)
    options = {name: _laid_option(grouped, told, name, value, x, layer) for name, value in options.items()}
    found = method(grouped.around(bound), over(Layout.laid, layouts, x), **options)
    told_so = {**getattr(method, "keywords", {}), **options}.get("channel_dim", 1)
    counted = told_so if "channel_dim" in (told.accepts or ()) else -1
    if any(grouped.met.values()) and (counted >= 0 or told.at_input):
        raise complaint(ValueError, _FROM_THE_END)
    if options.get("return_error") or options.get("standard_errors"):
        return tuple(_back(grouped, told, bound, layer, part) for part in found)
    return _back(grouped, told, bound, layer, found)


_FROM_THE_END = (
    "the value at the layer is [N, L, ...] to the method, where dimension 1 has the rows of an example: count channels from "
    "the end, channel_dim=-1 for nodes [R, C], -3 for tiles [R, C, H, W]."
)
_FRONT = (
    "it takes dimension 1 for channels, where to the method are the rows of an example: put what changes the size or the "
    "channels of maps around by_examples, as in interpolate(by_examples(grad_cam, ids)), or call it for each example alone."
)
_UNEVEN = (
    "what the method finds depends on how many places an example has, and these examples have not as many rows as each other: "
    "call it for each example alone, or for those of one size."
)


def _back(grouped: Grouped, told: About, bound: Bound, layer: Layer, found: Tree) -> Tree:
    def of_x(tree: Tree) -> Tree:
        def rows(one: Layout, part: Tree) -> Tree:
            return map_tensors(lambda t: one.taken(t, told.leading) if one.fits(t, told.leading) else t, part)

        return over(rows, grouped.layouts, tree)

    if layer is None or not told.layered:
        return of_x(found)
    sites = resolve(bound, layer)
    if sites.spec is not None and isinstance(found, Tensor):  # of several layers, what is joint
        return found
    each = zip(sites.sites, sites.flat(found))
    return sites.build([of_x(part) if site is None else grouped.taken(site, part, told.leading) for site, part in each])


def _laid_option(grouped: Grouped, told: About, name: str, value: Any, x: Tree, layer: Layer) -> Any:
    """An argument with something for each row, as the method takes it."""
    if name == "target":
        return alone(value)
    if name not in ("baselines", "feature_mask", "explained"):  # what a metric judges has a row for each row, too
        return value
    if name == "baselines" and told.baselines == "several":
        given = value(x) if callable(value) and not isinstance(value, Tensor) else value
        return over(lambda one, t: t.unsqueeze(1) if isinstance(t, Tensor) and t.dim() else t, grouped.layouts, given)
    if layer is None or (name == "baselines" and told.baselines != "site"):
        return over(_laid_entry, grouped.layouts, value, x)
    return map_tensors(lambda t: t if (one := grouped.of_rows(t)) is None else _laid_entry(one, t), value)


def _laid_entry(layout: Layout, given: Any, x: Tensor | None = None) -> Any:
    """A baseline, or a mask: of each row, or of all, as what has fewer dimensions than x and broadcasts to a row of it."""
    if not isinstance(given, Tensor) or not given.dim():
        return given
    if x is not None and given.dim() < x.dim() and broadcasts(given.shape, x.shape[1:]):
        return given
    if given.shape[0] == layout.rows:
        return layout.laid(given, given[:1])  # no value that is not there already
    return given.unsqueeze(1) if given.shape[0] == 1 else given


# Rows that are shown to be parts of examples.


def shown(error: Exception, model: Any = None, x: Any = None, *_: Any, target: Any = None, **__: Any) -> Tensor | None:
    """The example of each row, where the model gives fewer scores than x has rows, each row has a gradient of one of them
    alone, and all of them have as many rows, so that no place is spare; None where that is not so, or cannot be seen.

    Of every bit of the scores' numbers, two gradients: of the sum of those that have it, and of the others'. What is in two
    examples has both, for some bit.
    """
    count: int = getattr(error, "scores", 0)
    if not (attributable(x) and 1 < count < len(x)) or len(x) % count or isinstance(target, Neuron) or transforms_active():
        return None
    bound, leaf = bind(model), x.detach().clone().requires_grad_()
    with torch.enable_grad(), left_as_found(model):
        output = bound(leaf.clone())
        try:  # of all that is there, where a combinator has the targets
            score = the_tensor(output).reshape(count, -1).sum(1) if target is None else score_of(output, alone(target))
        except ValueError:  # it is no one tensor
            return None
        if not score.requires_grad:
            return None

        def moved(which: Tensor) -> Tensor:
            """The rows that the sum of these scores depends on."""
            found = torch.autograd.grad(score[which.to(score.device)].sum(), leaf, retain_graph=True, allow_unused=True)[0]
            return torch.zeros(len(x), dtype=torch.bool, device="cpu") if found is None else found.flatten(1).ne(0).any(1).cpu()

        numbers, ids = torch.arange(count, device="cpu"), torch.zeros(len(x), dtype=torch.long, device="cpu")
        for bit in range((count - 1).bit_length()):
            has = (numbers >> bit & 1).bool()
            with_it = moved(has)
            if not bool((with_it ^ moved(~has)).all()):
                return None
            ids += with_it.long() << bit
    return ids if bool((torch.bincount(ids, minlength=count) == len(x) // count).all()) else None


def regrouped(function: Any, method: Any, ids: Tensor) -> Any:
    """A method with rows as they were shown to be parts of examples, dressed as the `function` that it is, and a warning."""
    text = (
        f"the score has {int(ids.max()) + 1} values for the {len(ids)} rows of x. Each row has a gradient of one of them alone"
    )
    warn(f"{text}, and is taken for a part of that example: say so with by_examples(method, examples).")
    layouts = laid_out(ids)

    @functools.wraps(function)
    def rows(model: Model, x: Tree, **options: Any) -> Any:
        return of_examples(method, method.about, layouts, model, x, options)

    return rows
