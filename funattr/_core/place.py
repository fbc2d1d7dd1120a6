"""Where: selectors of a place inside a model, and the model cut there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import TreeSpec, tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import Layer, Model, Tree, as_arguments, copied
from .._words import complaint, door, kind_of
from .kernels import PlainAttention
from .model import Bound, bind, find, runs_cudnn_rnn, runs_fused, sees_nothing_inside
from .tap import Run, Site, Stop, Visit, call_tapped


@dataclass(frozen=True)
class Place:
    """A layer, the side of it that is meant, and which of its runs in one forward pass. See `input_of`, `output_of`."""

    layer: str | nn.Module
    inputs: bool
    call: int | None

    def __repr__(self) -> str:  # as it is written in a call, which error messages repeat
        layer = repr(self.layer) if isinstance(self.layer, str) else f"<{type(self.layer).__name__}>"
        return f"{'input_of' if self.inputs else 'output_of'}({layer}{'' if self.call is None else f', call={self.call}'})"


@door
def input_of(layer: str | nn.Module, call: int | None = None) -> Place:
    """What goes into a layer: a selector for any ``layer=`` argument.

    The value is the lone tensor the layer is called with, else a tuple of the positional arguments that hold tensors
    (keyword arguments in a dict by name; where there are both, the dict comes last in the tuple). Replacing it changes
    what *this* layer sees, and nothing else that uses the same tensor.

    Args:
        layer: a dotted name, or the module itself.
        call: which of the layer's runs in one forward pass: 0, 1, ... or -1 for the last. Needed where there are several.

    Raises:
        TypeError: `layer` is neither a name nor a module, or `call` is not an integer.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> fa.activation(model, torch.ones(1, 2, 2), layer=fa.input_of("1"))
        tensor([[1., 1., 1., 1.]])
    """
    return place_of(layer, True, call)


@door
def output_of(layer: str | nn.Module, call: int | None = None) -> Place:
    """What comes out of a layer: a selector for any ``layer=`` argument. A plain ``layer="name"`` means the same.

    Args:
        layer: a dotted name, or the module itself.
        call: which of the layer's runs in one forward pass: 0, 1, ... or -1 for the last. Needed where there are several.

    Raises:
        TypeError: `layer` is neither a name nor a module, or `call` is not an integer.

    Example:
        >>> import torch, funattr as fa
        >>> relu = torch.nn.ReLU()
        >>> model = torch.nn.Sequential(relu, torch.nn.Flatten(), relu)
        >>> fa.activation(model, torch.tensor([[-1.0, 2.0]]), layer=fa.output_of(relu, call=-1))
        tensor([[0., 2.]])
    """
    return place_of(layer, False, call)


def place_of(layer: Any, inputs: bool, call: Any) -> Place:
    if not isinstance(layer, (str, nn.Module)):
        raise complaint(TypeError, f"layer must be a dotted name or a module, got {kind_of(layer)}.")
    if not (call is None or (isinstance(call, int) and not isinstance(call, bool))):
        raise complaint(TypeError, f"call must be an integer (0, 1, ..., or -1 for the last) or None, got {call!r}.")
    return Place(layer, inputs, call)


class Sites(NamedTuple):
    """What `layer=` selects: sites (None is the model's input), and the structure to give results in."""

    sites: tuple[Site | None, ...]
    spec: TreeSpec | None

    def build(self, values: Sequence[Tree]) -> Tree:
        """One value per site in the structure that the caller selected them in."""
        return values[0] if self.spec is None else tree_unflatten(list(values), self.spec)

    def flat(self, joint: Tree) -> list[Tree]:
        """The values at the sites, from the structure that `build` gives."""
        if self.spec is None:
            return [joint]
        keys = tree_unflatten(list(range(len(self.sites))), self.spec)
        values: list[Tree] = [None] * len(self.sites)
        _collect(keys, joint, values)
        return values


def _collect(keys: Any, joint: Any, values: list[Tree]) -> None:
    if isinstance(keys, int):
        values[keys] = joint
    else:
        for key in keys if isinstance(keys, dict) else range(len(keys)):
            _collect(keys[key], joint[key], values)


def resolve(bound: Bound, layer: Layer) -> Sites:
    """Find the layers that a selector names."""
    if not isinstance(layer, (list, tuple, dict)):
        return Sites((_site(bound, layer),), None)
    selectors, spec = tree_flatten(layer)
    if not selectors:
        raise complaint(ValueError, "layer is empty: name at least one layer.")
    return Sites(tuple(_site(bound, selector) for selector in selectors), spec)


def _site(bound: Bound, selector: Any) -> Site | None:
    if selector is None:
        return None
    if not isinstance(selector, (str, nn.Module, Place)):
        raise complaint(
            TypeError,
            f"layer must be a dotted name, a module, input_of(...), output_of(...), a list, tuple or dict of these, "
            f"or None for the input; got {kind_of(selector)}.",
        )
    place = selector if isinstance(selector, Place) else Place(selector, False, None)
    named = isinstance(place.layer, str)
    module = find(bound.root, place.layer) if isinstance(place.layer, str) else place.layer
    return Site(module, repr(place.layer) if named else f"<{type(module).__name__}>", place.inputs, place.call)


class Unfused(TorchFunctionMode):
    """Does nothing, and that suffices: nn.TransformerEncoderLayer takes its fused path only when no mode is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def observe(bound: Bound, x: Tree, sites: Sequence[Site], visit: Visit, *, early: bool = False) -> tuple[Any, Run]:
    """Run the model on a copy of `x` (it may write to it), with `visit` at the sites."""
    run = Run(sites, visit, early)
    return watched(bound, x, run), run


def watched(bound: Bound, x: Tree, run: Run) -> Any:
    """The model's output for a copy of `x`, under `run`.

    Without gradients, nn.TransformerEncoder runs fused: layers inside are skipped, and nested tensors go from one to the
    next, which breaks where gradients are turned on half-way. So it is not fused where there are sites.
    """
    args, kwargs = as_arguments(copied(x))
    if not run.sites and not transforms_active() and not runs_cudnn_rnn(bound.root, x):
        return bound.call(*args, **kwargs)
    with _conditions(bound, run.sites, x):
        return call_tapped(bound.call, args, kwargs, run)


def _conditions(bound: Bound, sites: Sequence[Site], x: Tree) -> AbstractContextManager[Any]:
    """What the model's operations run under."""
    if runs_cudnn_rnn(bound.root, x):
        return torch.backends.cudnn.flags(enabled=False)  # no backward pass in eval mode otherwise
    if not tracing() and transforms_active():
        return PlainAttention(only="cpu")  # no batching rule there: vmap would loop over the examples, and warn
    if sites and runs_fused(bound.root):
        # A traced layer does not look at modes, but is not fused either where a gradient could be asked of it.
        return torch.enable_grad() if tracing() else Unfused()
    return _as_it_is


_as_it_is = nullcontext()


def settle(bound: Bound, x: Tree, sites: Sequence[Site]) -> list[Site]:
    """Sites with calls counted from the front. A negative `call` needs a pass of its own, to count."""
    if not any(site.call is not None and site.call < 0 for site in sites):
        return list(sites)
    with torch.no_grad():
        _, run = observe(bound, x, sites, lambda i, value, shared: value)
    settled = []
    for site, count in zip(sites, run.seen):
        call = site.call
        if call is not None and call < 0:
            if count + call < 0:
                raise complaint(ValueError, _not_reached(bound, site, count))
            call += count
        settled.append(site._replace(call=call))
    return settled


def check_reached(bound: Bound, run: Run) -> None:
    """Every site must have been reached, and without `call` just once."""
    for site, count in zip(run.sites, run.seen):
        if count <= (site.call or 0):
            raise complaint(ValueError, _not_reached(bound, site, count))
        if site.call is None and count > 1:
            side = "input_of" if site.inputs else "output_of"
            raise complaint(
                ValueError,
                f"layer {site.label} ran {count} times in one forward pass: say which with "
                f"{side}({site.label}, call=0), ..., call={count - 1} or call=-1 for the last.",
            )


def _not_reached(bound: Bound, site: Site, count: int) -> str:
    if count:
        return f"layer {site.label} ran {count} times, so call={site.call} does not exist: use 0 to {count - 1}, or -1."
    reason = "Is it part of this model, and used in its forward pass?"
    opaque = next((m for m in bound.root.modules() if sees_nothing_inside(m)), None) if bound.root is not None else None
    if opaque is not None:
        reason = (
            f"The model holds a {'scripted' if isinstance(opaque, torch.jit.ScriptModule) else 'compiled'} module "
            f"({type(opaque).__name__}), and layers inside one cannot be tapped: pass the model before it was."
        )
    elif isinstance(site.layer, (nn.ModuleList, nn.ModuleDict)):
        reason = f"A {type(site.layer).__name__} is a container that is never called: name one of its layers."
    elif type(site.layer).__name__ == "NonDynamicallyQuantizableLinear":
        reason = "nn.MultiheadAttention uses its weights without calling it: take the attention module itself."
    return f"layer {site.label} did not run. {reason}"


def read(bound: Bound, x: Tree, sites: Sequence[Site | None]) -> list[Tree]:
    """The values at the sites, as copies that nobody else holds; no more of the model is run than needed."""
    inner = settle(bound, x, [site for site in sites if site is not None])
    values: list[Tree] = [None] * len(inner)

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        values[i] = copied(value)
        return value

    if inner:
        _, run = observe(bound, x, inner, visit, early=True)
        check_reached(bound, run)
    rest = iter(values)
    return [copied(x) if site is None else next(rest) for site in sites]


def replace(bound: Bound, x: Tree, sites: Sequence[Site | None], values: Sequence[Tree]) -> Any:
    """The model's output with `values` at the sites."""
    for site, value in zip(sites, values):
        if site is None:
            x = value
    given = [value for site, value in zip(sites, values) if site is not None]
    inner = settle(bound, x, [site for site in sites if site is not None])

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        if not isinstance(value, Tensor) or not isinstance(given[i], Tensor):
            expected, got = tree_flatten(value)[1], tree_flatten(given[i])[1]
            if expected != got:
                text = f"the value at {inner[i].label} has the structure {expected}, the one to put there {got}."
                raise Stop(None, complaint(ValueError, text))
        return copied(given[i])

    output, run = observe(bound, x, inner, visit)
    check_reached(bound, run)
    return output


class Split(NamedTuple):
    """A model cut at a site: ``rest(value_at(x), x) == model(x)``. See `split`."""

    value_at: Callable[[Tree], Tree]
    rest: Callable[[Tree, Tree], Any]


@door
def split(model: Model, layer: Layer = None) -> Split:
    """Cut a model at a site into two pure functions, ``rest(value_at(x), x) == model(x)``.

    Both can be differentiated, vmapped and compiled. Under ``vmap`` over the value alone, what lies before the site runs
    once, not once per value.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.

    Returns:
        `Split(value_at, rest)`: ``value_at(x)`` is the value at the site, in the structure of `layer`, and ``rest(value, x)``
        the model's output with that value in its place.

    Raises:
        ValueError: there is no such layer, it does not run, or it runs several times and no `call` says which.
        TypeError: `layer` is not a selector.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> value_at, rest = fa.split(model, "1")
        >>> torch.equal(rest(value_at(x), x), model(x))
        True
        >>> rest(torch.zeros(5, 4), x).allclose(model[2].bias.expand(5, 2))
        True
    """
    bound = bind(model)
    sites = resolve(bound, layer)

    @door
    def value_at(x: Tree) -> Tree:
        return sites.build(read(bound, x, sites.sites))

    @door
    def rest(value: Tree, x: Tree) -> Any:
        return replace(bound, x, sites.sites, sites.flat(value))

    return Split(value_at, rest)
