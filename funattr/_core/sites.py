"""Where in a model: selectors of layers, of their inputs and outputs, and the sites that they select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._torch import TreeSpec, tracing, tree_flatten, tree_unflatten
from .._types import Layer, Place, Tree
from .._words import complaint, door, in_short, kind_of, warn
from .checks import anywhere
from .tap import Run, Site
from .where import Bound, find, opaque_module


@door
def input_of(layer: str | nn.Module, call: int | None = None) -> Place:
    """What goes into a layer: a selector for any ``layer=`` argument.

    The value is the lone tensor the layer is called with, else a tuple of the positional arguments that hold tensors
    (keyword arguments in a dict by name; where there are both, the dict comes last in the tuple). Replacing it changes
    what *this* layer sees, and nothing else that uses the same tensor; what the layer writes into it (``inplace=True``), all
    who hold that tensor see, as they do in the model.

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

    def first(self) -> Sites:
        """The same, each at its first run where no call is given."""
        return self._replace(sites=tuple(s if s is None or s.call is not None else s._replace(call=0) for s in self.sites))

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
        return
    named = isinstance(keys, dict)
    fits = isinstance(joint, dict) and joint.keys() == keys.keys() if named else isinstance(joint, (list, tuple))
    if not fits or len(joint) != len(keys):
        kind, names = type(keys).__name__, f" {list(keys)}" if named else ""
        text = f"a {kind} of {len(keys)} layers{names} has a {kind} of as many values"
        raise complaint(ValueError, f"{text}, got {in_short(joint)}.")
    for key in keys if named else range(len(keys)):
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
            f"or None for the input; got {kind_of(selector)}{_as_name(bound, selector)}.",
        )
    place = selector if isinstance(selector, Place) else Place(selector, False, None)
    named = isinstance(place.layer, str)
    module = find(bound.root, place.layer, bound.outer) if isinstance(place.layer, str) else place.layer
    if place.layer == "" and not tracing():
        warn("layer='' is the model itself, whose value is its output: name a layer inside, which fa.layers lists.")
    return Site(module, repr(place.layer) if named else f"<{type(module).__name__}>", place.inputs, place.call)


def _as_name(bound: Bound, selector: Any) -> str:
    """How a number is written that was meant for the name of a layer."""
    known = isinstance(selector, int) and str(selector) in dict(bound.root.named_children() if bound.root is not None else ())
    return f": write layer={str(selector)!r}" if known else ""


def check_reached(bound: Bound, run: Run, found: Sequence[Tensor]) -> None:
    """Every site must have been reached, and without `call` just once; and nothing is `found` of what could not be put."""
    if run.torn and any(anywhere(t != t) for t in found):
        names = ", ".join(site.label for site in run.sites)
        text = f"what layer {names} writes to is read under another name, where torch.func.vmap cannot put what it maps over"
        raise complaint(ValueError, f"{text}: let the model go on with what the layer returns (h = layer(h)).", written=True)
    for site, count in zip(run.sites, run.seen):
        if count <= (site.call or 0):
            raise complaint(ValueError, not_reached(bound, site, count))
        if site.call is None and count > 1:
            which = f"{'input_of' if site.inputs else 'output_of'}({site.label}, call=0), ..., call={count - 1} or call=-1"
            text = f"layer {site.label} ran {count} times in one forward pass: say which with {which} for the last."
            raise complaint(ValueError, text)


def not_reached(bound: Bound, site: Site, count: int) -> str:
    """What to say of a layer that ran so many times, and not when it was to be seen."""
    if count:
        return f"layer {site.label} ran {count} times, so call={site.call} does not exist: use 0 to {count - 1}, or -1."
    reason = "Is it part of this model, and used in its forward pass? A method with baselines runs it there, too."
    if (opaque := opaque_module(bound.root)) is not None:
        reason = f"The model holds a {opaque}, and layers inside one cannot be tapped: pass the model before it was."
    elif isinstance(site.layer, (nn.ModuleList, nn.ModuleDict)):
        reason = f"A {type(site.layer).__name__} is a container that is never called: name one of its layers."
    elif type(site.layer) is nn.Module:
        reason = "It is a bare nn.Module, never called. Of a program of torch.export, pass torch.export.unflatten(program)."
    elif type(site.layer).__name__ == "NonDynamicallyQuantizableLinear":
        reason = "nn.MultiheadAttention uses its weights without calling it: take the attention module itself."
    return f"layer {site.label} did not run. {reason}"
