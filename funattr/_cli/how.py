"""How a method is called: where in the model, and with what of the command's options."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import Any

import funattr as fa

from . import methods
from .groups import groups_of, window_of
from .inputs import Input
from .sites import Layers, Where
from .source import Source
from .words import warn

STEPS = 50
QUADRATURES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")
#: The options that only some methods take, and what the command calls them.
OPTIONS = ("n_steps", "quadrature", "n_samples", "sampling", "window", "groups", "rules", "chunk_size")
#: Those that are not handed on as they are: of which groups and windows are made.
MADE = ("window", "groups", "rules")
#: The sets of rules that need no more than their name.
RULES = tuple(name for name in fa.rules.__all__ if name not in ("Operation", "epsilon_gamma_box", "zbox", "flat", "wsquare"))


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
    """What the method takes, of what the command has; in place of a mask, groups with their names."""
    import torch

    taken = methods.parameters(name)
    options: dict[str, Any] = {key: getattr(arguments, key) for key in OPTIONS if key not in MADE}
    options = {key: value for key, value in options.items() if key in taken and value is not None}
    if where is not None:
        options["layer"] = where.layer
        if "channel_dim" in taken:
            options["channel_dim"] = where.channel_dim
    if "generator" in taken:
        options["generator"] = torch.Generator(arguments.device).manual_seed(arguments.seed)
    if "rules" in taken and arguments.rules is not None:
        options["rules"] = getattr(fa.rules, arguments.rules)()
    if "feature_mask" in taken:
        options["feature_mask"] = groups_of(name, source, given, where, arguments.groups)
    if "window" in taken:
        options |= window_of(source, given, where, arguments.window)
    if "baselines" in taken:
        distribution = taken["baselines"].default is inspect.Parameter.empty
        at_site = where is not None and bool({"feature_mask", "window"} & {*taken})
        options["baselines"] = _baselines(source, given, where, distribution, at_site)
    return options


def takes_away(taken: Mapping[str, Any]) -> bool:
    """Whether a method asks the score without groups of its input, which may be of ids, and gives each feature of a group the
    group's number: by its arguments, or those that it is called with."""
    return "feature_mask" in taken or "window" in taken


def _baselines(source: Source, given: Input, where: Where | None, distribution: bool, at_site: bool) -> Any:
    """What is compared with: 0, which is the mean of normalised images; for a text the same length of padding.

    Where a distribution is wanted, images are compared with black, grey and white ones.
    """
    import torch

    x = given.x
    if isinstance(x, Mapping) and not at_site:
        return {**x, "input_ids": _padding(source, x, where)} if "input_ids" in x else 0.0
    if not distribution:
        return 0.0
    if given.tokens is not None:
        return torch.zeros_like(x)
    low, high = float(x.min()), float(x.max())
    if given.mean is not None and given.std is not None:
        mean, std = (torch.tensor(list(v), dtype=x.dtype, device=x.device)[:, None, None] for v in (given.mean, given.std))
        return torch.stack([((shade - mean) / std).expand(x.shape[1:]) for shade in (0.0, 0.5, 1.0)])
    return torch.stack([torch.full_like(x[0], shade) for shade in (low, (low + high) / 2, high)])


def _padding(source: Source, x: Mapping[str, Any], where: Where | None) -> Any:
    """The ids with every token but the special ones replaced by padding."""
    import torch

    ids, tokenizer = x["input_ids"], source.tokenizer
    if tokenizer is None:
        return torch.zeros_like(ids)
    special = tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
    kept = torch.tensor([special], device=ids.device).bool()
    tokens = (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    nothing = [token for token in tokens if token is not None] or [0]
    model: Any = source.model
    if where is not None:
        stays = (token for token in nothing if _stays(model, x, torch.where(kept, ids, token), where.layer))
        first = next(stays, nothing[0])
        nothing.sort(key=lambda token: token != first)
    found = torch.where(kept, ids, nothing[0])
    weight = getattr(model.get_input_embeddings(), "weight", None)
    if where is None or weight is None or bool((weight[nothing[0]] != 0).any()) or not _jumps(model, x, found, where.layer):
        return found
    other = next((token for token in nothing if bool((weight[token] != 0).any())), None)
    names = [tokenizer.convert_ids_to_tokens(token) for token in (nothing[0], other) if token is not None]
    then = f"the baseline has {names[1]}" if other is not None else "take a method without a baseline, such as input_x_gradient"
    warn(f"the embedding of {names[0]} is all zeros, where the model jumps, and no path from it is complete: {then}.")
    return found if other is None else torch.where(kept, ids, other)


def _stays(model: Any, x: Mapping[str, Any], baseline: Any, layer: Any) -> bool:
    """Whether all that the baseline changes is the value at the layer: RoBERTa gives padding other places, too."""
    import torch

    value_at, rest = fa.split(model, layer)
    start = {**x, "input_ids": baseline}
    with torch.no_grad():
        value = value_at(start)
        return torch.allclose(rest(value, x).logits, rest(value, start).logits, rtol=1e-3, atol=1e-5)


def _jumps(model: Any, x: Mapping[str, Any], baseline: Any, layer: Any) -> bool:
    """Whether a thousandth of the way from the baseline is a fiftieth of the change: a norm of zeros has no direction."""
    import torch

    value_at, rest = fa.split(model, layer)
    start = {**x, "input_ids": baseline}
    with torch.no_grad():
        here, there = value_at(start), value_at(x)
        if not isinstance(here, torch.Tensor):
            return False
        at, near, end = (rest(here + share * (there - here), start).logits for share in (0.0, 1e-3, 1.0))
    return bool((near - at).norm() > 0.02 * (end - at).norm())
