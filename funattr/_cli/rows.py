"""The attributions of an answer: a row for each of its tokens, from one forward pass where the method takes one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import funattr as fa

from ..dataset._names import method_named
from . import gap, methods, removed
from .asked import Asked, answer_of
from .groups import COALITIONS
from .how import MADE, OPTIONS, takes_away
from .sites import Layers
from .source import Source
from .speaker import Speaker
from .words import answered, mistake, warn

if TYPE_CHECKING:
    from torch import Tensor

ENCODER, DECODER = "prompt", "answer"
#: On which side of an encoder-decoder a value is, where it has a name.
_SIDES = {ENCODER: 0, "input_ids": 0, DECODER: 1, "decoder_input_ids": 1}


class Question(NamedTuple):
    """What is asked of every method: the same model, input and scores."""

    speaker: Speaker
    asked: Asked
    model: Any
    x: dict[str, Tensor]
    targets: Sequence[Any]
    log_probs: Tensor  # [T] of the answer's tokens
    filler: int | None
    contrast: Contrast | None


class Contrast(NamedTuple):
    """What the answer is compared with, at the first token where they differ."""

    text: str
    place: int
    yes: str
    no: str


class Row(NamedTuple):
    """What one method found."""

    name: str
    where: str
    values: Tensor  # [T, C]
    columns: Sequence[int]  # which tokens the columns are
    measured: gap.Gap | None
    little: str = ""
    """A word where there is nothing to explain."""


def question(speaker: Speaker, asked: Asked, filler: int | None, arguments: argparse.Namespace) -> Question:
    """The scores, and what the model says of the answer.

    Raises:
        argparse.ArgumentError: the model fails, or there is nothing to compare.
    """
    import torch

    ids = asked.wrote.ids
    kept = {"logits_to_keep": len(ids) + 1} if speaker.takes_kept and not speaker.has_encoder else {}
    model: Any = speaker.model
    model.config.use_cache = False  # a cache would be made in every pass, and never be read
    bound = partial(model, **kept) if kept else model
    x = asked.x(arguments.device)
    places = fa.tokens(ids)
    with answered(_failed(speaker, x)), torch.no_grad():
        output = bound(**x)
        log_probs = torch.cat([target(output) for target in places]).double().cpu()
    most = _positions(speaker)
    if most is not None and most < (length := max(t.shape[1] for t in x.values())):
        warn(f"{length} tokens are more than the {most} that the model was made for: what it says may be worth little.")
    contrast, targets = None, places
    if arguments.contrast is not None:
        contrast, targets = _contrast(speaker, asked, arguments.contrast)
    return Question(speaker, asked, bound, x, targets, log_probs, filler, contrast)


def _failed(speaker: Speaker, x: Mapping[str, Tensor]) -> str:
    most, length = _positions(speaker), max(t.shape[1] for t in x.values())
    if most is not None and length > most:
        return f"the model failed on {length} tokens, more than the {most} positions that it has: shorten the prompt"
    return f"the model failed on this prompt, {length} tokens"


def _positions(speaker: Speaker) -> int | None:
    """For how many positions the model was made, where it says so."""
    found = getattr(speaker.model.config, "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _contrast(speaker: Speaker, asked: Asked, text: str) -> tuple[Contrast, Any]:
    other, own = answer_of(speaker, text, "--contrast"), asked.wrote
    place = next((i for i, (a, b) in enumerate(zip(own.ids, other.ids)) if a != b), None)
    if place is None:
        raise mistake(
            f"--contrast {text!r} has no token that differs from the answer's, {asked.answer!r}, at the same place: compare "
            "with another answer."
        )
    target = fa.contrast(own.ids[place], other.ids[place], position=place - len(own.ids) - 1)
    return Contrast(text, place, own.texts[place], other.texts[place]), [target]


def explained(of: Question, name: str, arguments: argparse.Namespace) -> Row:
    """One method's rows.

    Raises:
        argparse.ArgumentError: the method fails, or what it finds is not by tokens.
    """
    taken = methods.parameters(name)
    by_id = takes_away(taken) and arguments.layer is None
    if arguments.groups is not None and not by_id:
        raise mistake(f"--groups {arguments.groups} is of the prompt's tokens: leave --layer out.")
    layer, where = (None, "the tokens") if by_id else _place(of, arguments.layer)
    options = _options(of, name, layer, arguments)
    method = method_named(name)
    if not by_id:
        method = fa.sum_channels(method, channel_dim=-1)
        options["layer"] = layer
    if "target" not in taken:
        raise mistake(f"{name} explains no score, so it has nothing to say of an answer: choose another --method.")
    rows = fa.each_target(method, of.targets, **_together(taken, arguments))
    with answered(name):
        found = rows(of.model, of.x, **options)
    values, columns = _table(of, found, f"{name} at {where}", layer)
    if by_id and "feature_mask" in taken:
        values = removed.shared(values, _players(of, name, arguments))
    elif by_id:
        values = removed.shared(values, removed.players(of.asked, False))
    elif takes_away(taken):  # each of a place's features has the value of all
        values = values / options["baselines"].shape[-1]
    told = _measured(of, values, options) if name in methods.COMPLETE else (None, "")
    return Row(name, where, values, columns, *told)


def _together(taken: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """How many backward passes run at once, where the method has no steps of which that could be said."""
    return {} if "chunk_size" in taken or arguments.chunk_size is None else {"chunk_size": arguments.chunk_size}


def _place(of: Question, given: str | None) -> tuple[Any, str]:
    """The layer that the user named; else where tokens become numbers, on each side."""
    if given is not None:
        where = Layers(Source(of.speaker.model, of.speaker.title, tokenizer=of.speaker.tokenizer), of.x).named(given)
        return where.layer, where.name
    model: Any = of.speaker.model
    if not of.speaker.has_encoder:
        name = _named(model, of.speaker.embedding)
        return name, f"{name} (where tokens become numbers)"
    parts = [part.get_input_embeddings() for part in (model.get_encoder(), model.get_decoder())]
    names = [_named(model, part) for part in parts]
    if parts[0] is parts[1]:  # one module, which runs once for each side
        layers = [fa.output_of(names[0], 0), fa.output_of(names[0], 1)]
        return dict(zip((ENCODER, DECODER), layers)), f"{names[0]}, in both its runs (where tokens become numbers)"
    return dict(zip((ENCODER, DECODER), names)), f"{names[0]} and {names[1]} (where tokens become numbers)"


def _named(model: Any, module: Any) -> str:
    found = [name for name, each in model.named_modules(remove_duplicate=False) if each is module]
    if not found:
        raise mistake(f"{type(model).__name__} does not say where its embedding is: name the layer after it with --layer.")
    return str(max(found, key=lambda name: name.count(".")))  # T5's shared one runs under another name


def _options(of: Question, name: str, layer: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    taken = methods.parameters(name)
    options: dict[str, Any] = {key: getattr(arguments, key) for key in OPTIONS if key not in MADE}
    options = {key: value for key, value in options.items() if key in taken and value is not None}
    if "channel_dim" in taken:
        options["channel_dim"] = -1
    if "generator" in taken:
        options["generator"] = torch.Generator(arguments.device).manual_seed(arguments.seed)
    if "rules" in taken and arguments.rules is not None:
        options["rules"] = getattr(fa.rules, arguments.rules)()
    if "baselines" not in taken:
        return options
    without = removed.baseline(of.x, of.asked, of.filler)
    if not takes_away(taken):
        return {**options, "baselines": without}
    if layer is None:
        if "window" in taken:
            return {**options, "baselines": without, "window": removed.window(of.x, arguments.window)}
        return {**options, "baselines": without, "feature_mask": removed.mask(of.x, _players(of, name, arguments))}
    with answered(f"{name} at {layer}"), torch.no_grad():
        value = fa.activation(of.model, without, layer=layer)
    sides = removed.at_layer(value, arguments.window) if "window" in taken else {"feature_mask": removed.places(value)}
    return {**options, "baselines": value, **sides}


def _players(of: Question, name: str, arguments: argparse.Namespace) -> list[int | None]:
    kind = arguments.groups or ("words" if name in COALITIONS else "tokens")
    if kind not in ("words", "tokens"):
        raise mistake(f"--groups {kind} belongs to pictures and layers, and this is a prompt: words or tokens.")
    return removed.players(of.asked, kind == "words")


def _table(of: Question, found: Any, what: str, layer: Any) -> tuple[Tensor, list[int]]:
    """``[T, C]`` in float64, and which tokens its columns are."""
    import torch

    parts: list[Tensor] = []
    columns: list[int] = []
    for value, at in _sides(of, found, what, layer):
        if value is None:  # of ids that were held
            value = torch.zeros(len(of.targets), 1, len(at))
        if not _fits(of, value, [at]):
            raise _no_tokens(what, value)
        parts.append(value.detach().double().cpu().reshape(len(of.targets), len(at), -1).sum(-1))
        columns += at
    return torch.cat(parts, 1), columns


def _sides(of: Question, found: Any, what: str, layer: Any) -> list[tuple[Any, range]]:
    """What was found, and of which tokens it is: of those that an encoder and a decoder read, or of all."""
    read, start = len(of.asked.read.ids), len(of.asked.start.ids)
    every = read + start + len(of.asked.wrote.ids)
    sides = [range(read), range(read, every)] if start else [range(every)]
    if isinstance(found, Mapping) and set(found) <= set(_SIDES):
        return [(value, sides[_SIDES[name]]) for name, value in found.items()]
    found = _first(found)
    fitting = _fits(of, found, sides)
    if not fitting:
        raise _no_tokens(what, found)
    return [(found, fitting[0] if len(fitting) == 1 or not _is_decoders(of, layer) else fitting[1])]


def _first(found: Any) -> Any:
    """Of a layer with several outputs the first is what goes on."""
    while isinstance(found, (tuple, list, Mapping)):
        inside = found.values() if isinstance(found, Mapping) else found
        found = next((part for part in inside if part is not None), None)
    return found


def _is_decoders(of: Question, layer: Any) -> bool:
    """Whether a layer has a place for each token of the decoder, where both sides have as many: with one token less it has one
    place less."""
    import torch

    ids = of.x["decoder_input_ids"]
    with torch.no_grad():
        value = _first(fa.activation(of.model, {**of.x, "decoder_input_ids": ids[:, 1:]}, layer=layer))
    return bool(value.shape[1] != ids.shape[1])


def _fits(of: Question, value: Any, sides: Sequence[range]) -> list[range]:
    known = hasattr(value, "shape") and len(value.shape) in (3, 4) and value.shape[:2] == (len(of.targets), 1)
    return [at for at in sides if known and len(at) == value.shape[2]]


def _no_tokens(what: str, value: Any) -> Exception:
    shape = f"of the shape {list(value.shape)}" if hasattr(value, "shape") else f"of type {type(value).__name__}"
    return mistake(f"{what} is {shape}, without a value per token: choose another --layer.")


def _measured(of: Question, values: Tensor, options: Mapping[str, Any]) -> tuple[gap.Gap, str]:
    """What the rows sum to, and what they should: the difference to the answer's score without the prompt's content."""
    import torch

    def score(x: Any) -> float:
        output = of.model(**x)
        return sum(float(target(output)) for target in of.targets)

    with torch.no_grad():
        whole, without = score(of.x), score(options["baselines"])
    measured = gap.Gap(float(values.sum()), whole - without)
    return measured, gap.little(measured, whole)


def joined(values: Tensor, groups: Sequence[int]) -> Tensor:
    """``[T, G]``: the columns of each group summed."""
    import torch

    found = torch.zeros(len(values), max(groups) + 1, dtype=values.dtype)
    return found.index_add(1, torch.tensor(groups), values)
