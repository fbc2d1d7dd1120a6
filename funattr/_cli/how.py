"""How a method is called: where in the model, and with what of the command's options."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import Any

import funattr as fa

from . import methods
from .inputs import Input
from .sites import Layers, Where
from .source import Source

STEPS, _CELLS = 50, 14
#: The options that only some methods take, and what the command calls them.
OPTIONS = ("n_steps", "quadrature", "n_samples", "chunk_size")


def where_of(name: str, given: Input, target: int | None, layers: Layers, layer: str | None) -> Where | None:
    """The layer that the user named; else for a CAM the last that suits, for a text its embedding, for others the input."""
    if layer is not None:
        where = layers.named(layer)
        if methods.is_cam(name):
            layers.check_cam(where)
        return where
    if methods.is_cam(name):
        return layers.for_cam(target)
    return layers.embedding() if given.tokens is not None else None


def options_of(name: str, source: Source, given: Input, where: Where | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the method takes, of what the command has."""
    import torch

    taken = methods.parameters(name)
    options: dict[str, Any] = {key: getattr(arguments, key) for key in OPTIONS}
    options = {key: value for key, value in options.items() if key in taken and value is not None}
    if where is not None:
        options["layer"] = where.layer
        if "channel_dim" in taken:
            options["channel_dim"] = where.channel_dim
    if "generator" in taken:
        options["generator"] = torch.Generator(arguments.device).manual_seed(arguments.seed)
    if "feature_mask" in taken:
        options["feature_mask"] = _cells(source, given, where)
    if "baselines" in taken:
        distribution = taken["baselines"].default is inspect.Parameter.empty
        options["baselines"] = _baselines(source, given, distribution, where is not None and "feature_mask" in taken)
    return options


def _baselines(source: Source, given: Input, distribution: bool, at_site: bool) -> Any:
    """What is compared with: 0, which is the mean of normalised images; for a text the same length of padding.

    Where a distribution is wanted, images are compared with black, grey and white ones.
    """
    import torch

    x = given.x
    if isinstance(x, Mapping) and not at_site:
        return {**x, "input_ids": _padding(source.tokenizer, x["input_ids"])} if "input_ids" in x else 0.0
    if not distribution:
        return 0.0
    if given.tokens is not None:
        return torch.zeros_like(x)
    low, high = float(x.min()), float(x.max())
    if given.mean is not None and given.std is not None:
        mean, std = (torch.tensor(list(v), dtype=x.dtype, device=x.device)[:, None, None] for v in (given.mean, given.std))
        return torch.stack([((shade - mean) / std).expand(x.shape[1:]) for shade in (0.0, 0.5, 1.0)])
    return torch.stack([torch.full_like(x[0], shade) for shade in (low, (low + high) / 2, high)])


def _padding(tokenizer: Any, ids: Any) -> Any:
    """The ids with every token but the special ones replaced by padding."""
    import torch

    if tokenizer is None:
        return torch.zeros_like(ids)
    special = tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
    candidates = (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    nothing = next((token for token in candidates if token is not None), 0)
    return torch.where(torch.tensor([special], device=ids.device).bool(), ids, nothing)


def squares(x: Any) -> Any:
    """The squares of images, of which there are about 14 x 14, numbered: ``[1, H, W]``."""
    import torch

    height, width = x.shape[-2:]
    side = max(1, -(-max(height, width) // _CELLS))
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    return (rows[:, None] * int(columns[-1] + 1) + columns).to(x.device)[None]


def _cells(source: Source, given: Input, where: Where | None) -> Any:
    """What is ablated together: a token, a place of a layer, or a square of an image, of which there are about 14 x 14."""
    import torch

    if where is None:
        return squares(given.x)
    value = fa.activation(source.model, given.x, layer=where.layer)
    shape = list(value.shape[1:])
    if where.channel_dim is not None:
        shape[where.channel_dim - 1 if where.channel_dim > 0 else -1] = 1
    return torch.arange(torch.Size(shape).numel(), device=value.device).reshape(shape)
