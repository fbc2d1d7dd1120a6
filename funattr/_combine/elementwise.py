"""Combinators of what methods return, element by element: take a method, return a method with the same arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch import tree_flatten, tree_unflatten
from .._types import Explains, Method, Model, Tree, batch_size, map_floats, tensors
from .._words import complaint, door, in_short
from .dress import about, chosen, combined, is_constant, known_method, name_of, per_layer, then


@door
def multiply(method: Explains, other: Explains) -> Method:
    """The product of two methods' attributions.

    ``multiply(a, b)(model, x, ...) = a(model, x, ...) * b(model, x, ...)``. Each method is given those of the arguments that it
    takes; sizes of 1 broadcast. For several layers, what is no layer's (`at_input`) goes with each of them.

    Args:
        method: a method.
        other: another, whose result has the same structure.

    Returns:
        A method with the arguments of both.

    Raises:
        TypeError: not a method; when called, an argument that neither takes.
        ValueError: when called, results that do not fit each other.

    Example:
        >>> import torch, funattr as fa
        >>> signed_square = fa.multiply(fa.gradient, fa.saliency)
        >>> signed_square(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[  4., -16.]])
    """
    constant = [name_of(part) for part in (method, other) if is_constant(part)]
    method = known_method(method)
    other = known_method(other)
    mine, others = about(method), about(other)

    def product(model: Model, x: Tree, **options: Any) -> Tree:
        if constant and options.get("create_graph"):
            text = f"{constant[0]} takes no create_graph: its result is a constant, of which a derivative would lack its part"
            raise complaint(ValueError, f"{text}. Leave create_graph out, or multiply what the two methods return.")
        a, b = method(model, x, **chosen(method, options)), other(model, x, **chosen(other, options))
        layer = options.get("layer")
        if mine.layered and not others.layered:
            return per_layer(lambda part, _: times(part, b), layer, a)
        if others.layered and not mine.layered:
            return per_layer(lambda part, _: times(a, part), layer, b)
        return times(a, b)

    def times(a: Tree, b: Tree) -> Tree:
        (left, spec), (right, spec_of_right) = _flat(a, b)
        if spec != spec_of_right:
            text = f"{name_of(method)} gives {in_short(a)}, {name_of(other)} gives {in_short(b)}: they cannot be multiplied."
            raise complaint(ValueError, text)
        # Where one has a dimension for targets up front, the other is the same for each.
        shorter = mine.leading - others.leading
        left, right = [_with_leading(leaf, -shorter) for leaf in left], [_with_leading(leaf, shorter) for leaf in right]
        return tree_unflatten([_product(p, q, name_of(method), name_of(other)) for p, q in zip(left, right)], spec)

    return combined(product, f"multiply({name_of(method)}, {name_of(other)})", method, other)


def _flat(a: Tree, b: Tree) -> list[Any]:
    """The leaves and the structure of each; without integers where that differs: an output of transformers, which has no entry
    for what is None, has left them out of one of the two."""
    flat = [tree_flatten(a), tree_flatten(b)]
    return flat if flat[0][1] == flat[1][1] else [tree_flatten(map_floats(lambda t: t, found)) for found in (a, b)]


def _with_leading(leaf: Any, count: int) -> Any:
    return leaf.reshape((1,) * count + leaf.shape) if isinstance(leaf, Tensor) and count > 0 else leaf


def _product(a: Any, b: Any, name: str, other: str) -> Any:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return None  # an integer input has no attribution
    if a.dim() != b.dim() or any(p != q and 1 not in (p, q) for p, q in zip(a.shape, b.shape)):
        raise complaint(ValueError, f"{name} gives {list(a.shape)}, {other} gives {list(b.shape)}: they cannot be multiplied.")
    return a * b


@door
def relu(method: Any) -> Any:
    """The positive part of a method's attributions.

    ``relu(a)(model, x, ...) = max(a(model, x, ...), 0)``

    Args:
        method: a method.

    Returns:
        A method with the same arguments.

    Raises:
        TypeError: not a method.

    Example:
        >>> import torch, funattr as fa
        >>> fa.relu(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[2., 0.]])
    """
    return then(lambda found, *_: map_floats(torch.relu, found), method, "relu")


@door
def absolute(method: Any) -> Any:
    """The size of a method's attributions, without their sign.

    ``absolute(a)(model, x, ...) = |a(model, x, ...)|``; `saliency` is ``absolute(gradient)``.

    Args:
        method: a method.

    Returns:
        A method with the same arguments.

    Raises:
        TypeError: not a method.

    Example:
        >>> import torch, funattr as fa
        >>> fa.absolute(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[2., 4.]])
    """
    return then(lambda found, *_: map_floats(torch.abs, found), method, "absolute")


@door
def normalize(method: Any) -> Any:
    """A method's attributions on a scale from -1 to 1: each example divided by its largest absolute value.

    ``normalize(a)(model, x, ...)[n] = a[n] / max |a[n]|``. Signs and zeros stay. The largest value is that of the whole
    example, over all tensors of a tuple, dict or list, so that inputs (or layers) keep their relation to each other.

    Args:
        method: a method.

    Returns:
        A method with the same arguments, whose results have no unit. The laws: normalizing twice is normalizing once; a
        positive factor on the method's result changes nothing; an example that is 0 everywhere stays 0.

    Raises:
        TypeError: not a method.
        ValueError: when called, a result has a tensor without a row for each example.

    Example:
        >>> import torch, funattr as fa
        >>> fa.normalize(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]))
        tensor([[ 0.5000, -1.0000]])
    """

    def scaled(found: Tree, leading: int, x: Tree) -> Tree:
        rows = leading + 1  # the dimensions before the features
        peaks = [_peak(leaf, rows, batch_size(x), name_of(method)) for leaf in tensors(found) if leaf.is_floating_point()]
        if not peaks:
            return found
        peak = torch.stack(peaks).amax(0)
        scale = torch.where(peak > 0, peak, 1)
        return map_floats(lambda t: t / scale.to(t.dtype).reshape(scale.shape + (1,) * (t.dim() - rows)), found)

    return then(scaled, method, "normalize")


@door
def at_input(method: Explains) -> Method:
    """A method at the input, whatever `layer` it is called with: for compositions of a layer's map and the input's.

    ``at_input(a)(model, x, layer=..., ...) = a(model, x, ...)``

    Args:
        method: a method that works without a layer.

    Returns:
        A method with the same arguments, and `layer`, which it drops, given in a call or bound in `method`.

    Raises:
        TypeError: not a method.

    Example:
        >>> import torch, funattr as fa
        >>> fa.at_input(fa.gradient)(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0]]), layer="any")
        tensor([[ 2., -4.]])
    """
    method = known_method(method)
    told = about(method)
    dropped = {"layer": None} if told.bound.get("layer") is not None else {}
    says: dict[str, Any] = {"baselines": "input"} if told.baselines == "site" else {}

    def there(model: Model, x: Tree, *, layer: Any = None, **options: Any) -> Tree:
        return method(model, x, **options, **dropped)

    says |= {"layered": False, "at_input": True, "pictured": True}
    return combined(there, f"at_input({name_of(method)})", method, extra=["layer"], **says)


def _peak(found: Tensor, rows: int, size: int, name: str) -> Tensor:
    """The largest absolute value of each example."""
    if found.dim() < rows or found.shape[rows - 1] != size:
        text = (
            f"{name} gives a tensor {list(found.shape)} without a row for each of the {size} examples: normalize it yourself."
        )
        raise complaint(ValueError, text)
    flat = found.unsqueeze(-1).flatten(rows)
    return flat.abs().amax(-1) if flat.shape[-1] else flat.sum(-1)
