"""Combinators that change the shape of a method's maps: to the size of the input, or to one channel."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.checks import channel_of, check_dense
from .._core.gradient import with_places
from .._core.passes import question
from .._torch import tree_flatten
from .._types import Layer, Model, Tree, attributable, map_floats, tensors
from .._words import as_number, check_choice, check_int, complaint, door, is_index, kind_of
from .dress import about, as_numbers, combined, known_method, name_of, per_layer, then

#: F.interpolate's modes, and the numbers of spatial dimensions they are for.
MODES = {
    **dict.fromkeys(("nearest", "nearest-exact", "area"), (1, 2, 3)),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


@door
def sum_channels(method: Any, channel_dim: int = 1) -> Any:
    """A method's attributions summed over the channels: one value per place.

    ``sum_channels(a)(model, x, ...) = sum_c a(model, x, ...)[:, c]``, the dimension kept with size 1. `hires_cam` is
    ``sum_channels(input_x_gradient)``; with ``channel_dim=-1``, the embeddings of a text ``[N, T, C]`` get a value per token.

    Args:
        method: a method.
        channel_dim: which dimension of the value holds the channels: 1, or -1 for the tokens of a transformer ``[N, T, C]``.

    Returns:
        A method with the same arguments. The law: the sum of each example stays what it is.

    Raises:
        TypeError: not a method, or `channel_dim` is not an integer.
        ValueError: when called, a result has no such dimension.

    Example:
        >>> import torch, funattr as fa
        >>> fa.sum_channels(fa.gradient)(lambda x: (x**2).sum((1, 2)), torch.tensor([[[1.0, 3.0], [-2.0, 0.5]]]))
        tensor([[[-2.,  7.]]])
    """
    check_int(channel_dim, "channel_dim", "an integer")

    def summed(found: Tree, leading: int, x: Tree) -> Tree:
        return map_floats(lambda t: t.sum(channel_of(t, channel_dim, leading), keepdim=True), found)

    return then(summed, method, "sum_channels", **({"front": True} if channel_dim >= 0 else {}))


@door
def interpolate(method: Any, size: Any = None, mode: str = "nearest") -> Any:
    """A method's maps at the spatial size of the input; or one tensor of maps at a given size.

    ``interpolate(a)(model, x, ...)`` is ``a(model, x, ...)`` ``[N, C, *s]`` at the size ``[N, C, *S]`` of `x`; for several
    inputs, one map for each, and None for one without as many spatial dimensions (a table beside an image), or of which the
    layer sees nothing (another image; in eager mode, for a compiler cannot look); for several layers, each layer's.

    Args:
        method: a method, or a tensor of attributions ``[N, C, *s]``.
        size: the spatial size, or a tensor ``[N, C, *S]`` that has it; None for that of the input.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"area"``, ``"linear"`` (one spatial dimension), ``"bilinear"``,
            ``"bicubic"`` (two) or ``"trilinear"`` (three), as in `torch.nn.functional.interpolate`.

    Returns:
        A method with the same arguments; or a tensor ``[N, C, *S]``, in the unit of what was given.

    Raises:
        ValueError: there is no such mode, it does not fit the dimensions, or there are no spatial dimensions.
        TypeError: neither a method nor a tensor.

    Example:
        >>> import torch, funattr as fa
        >>> fa.interpolate(torch.tensor([[[1.0, 2.0]]]), size=4)
        tensor([[[1., 1., 2., 2.]]])
    """
    check_choice(mode, "interpolation mode", MODES)
    if isinstance(method, Tensor):
        if size is None:
            text = "give the size to interpolate the tensor to: size=(height, width), or a tensor of that size."
            raise complaint(ValueError, text)
        return resized(method, _spatial(size), mode)
    method = known_method(method)
    told, name = about(method), name_of(method)
    if size is not None:
        _spatial(size)

    def upsampled(model: Model, x: Tree, **options: Any) -> Tree:
        def for_inputs(attribution: Tree, layer: Layer) -> Tree:
            if not (maps := tensors(attribution)):
                return attribution  # the door says so of it
            if not any(map(attributable, tensors(x))):
                text = "x holds no floating-point tensor, and a map is seen over one: call the method without interpolate"
                raise complaint(TypeError, f"{text}, and fa.interpolate(attributions, size) what it returns.")
            if len(maps) > 1:
                return _for_each_input(attribution, x, told.leading, size, mode, name)
            asked = partial(question, model, x, layer if told.layered else None, None)
            seen = iter(with_places(x, maps[0].dim() - told.leading, asked))
            return map_floats(lambda leaf: _at_size(maps[0], leaf, told.leading, size, mode) if next(seen) else None, x)

        return per_layer(for_inputs, options.get("layer") if told.layered else None, as_numbers(method(model, x, **options)))

    return combined(upsampled, f"interpolate({name})", method, front=True, pictured=True)


def _at_size(found: Tensor, leaf: Tensor, leading: int, size: Any, mode: str) -> Tensor:
    """Maps at the size of an input, or at a given one."""
    # Targets: to each map, as many examples more.
    maps = resized(found.flatten(0, leading), _spatial(leaf if size is None else size), mode)
    return maps.reshape(found.shape[: leading + 1] + maps.shape[1:])


def _for_each_input(attribution: Tree, x: Tree, leading: int, size: Any, mode: str, name: str) -> Tree:
    """What the method of that `name` found for each input."""
    if tree_flatten(attribution)[1] != tree_flatten(x)[1]:
        text = (
            f"{name} gives {len(tensors(attribution))} maps, and x has {len(tensors(x))} inputs: choose a layer whose value is "
            f"one tensor, with the spatial dimensions of the input."
        )
        raise complaint(ValueError, text)
    return map_floats(lambda leaf, found: _at_size(found, leaf, leading, size, mode), x, attribution)


def _spatial(size: Any) -> tuple[int, ...]:
    if isinstance(size, Tensor) and size.dim() > 2:
        return tuple(size.shape[2:])
    sides = tuple(size) if isinstance(size, (tuple, list)) or (isinstance(size, np.ndarray) and size.ndim) else (size,)
    if not all(is_index(side) or isinstance(side, torch.SymInt) for side in sides):
        cure = f": pass mode={size!r}" if isinstance(size, str) and size in MODES else ""
        text = f"size must be whole numbers, such as (height, width), or a tensor [N, C, *S] of that size, got {kind_of(size)}"
        raise complaint(TypeError, f"{text}{cure}.")
    if any(side < 1 for side in sides):
        raise complaint(ValueError, f"size must be at least 1 in each dimension, got {size}.")
    return tuple(map(as_number, sides))


def resized(attribution: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    check_dense(attribution, "the attribution")
    if attribution.is_complex():
        raise complaint(TypeError, f"the attribution is complex ({attribution.dtype}): take its .abs(), .real or .imag.")
    if attribution.dim() < 3 or attribution.dim() - 2 != len(size):
        raise complaint(
            ValueError,
            f"an attribution {list(attribution.shape)} has {max(attribution.dim() - 2, 0)} spatial dimensions and the size "
            f"{list(size)} has {len(size)}: choose a layer whose value is [N, C, *spatial] like the input, or give a size of "
            f"as many numbers, such as x.shape[2:].",
        )
    if len(size) not in MODES[mode]:
        fitting = ", ".join(repr(name) for name, dims in MODES.items() if len(size) in dims)
        raise complaint(ValueError, f"mode {mode!r} is not for {len(size)} spatial dimensions: use one of {fitting}.")
    return F.interpolate(attribution, size, mode=mode)
