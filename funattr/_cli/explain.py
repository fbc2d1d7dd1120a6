"""``funattr explain``: what in an image or a text speaks for a class, with a model of yours or of a library."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import funattr as fa

from . import gap, methods, write
from .inputs import Input, read
from .options import MODEL_HELP, add_command, add_model, positive
from .sites import Layers, Where, only_input
from .source import Source, load
from .targets import Chosen, choose
from .words import answered, listed, mistake

_EXAMPLES = """\
  funattr explain cat.png --model my_net:build --checkpoint weights.safetensors --size 32
  funattr explain cat.png --model resnet50 --method grad_cam,integrated_gradients --out cat.html
  funattr explain cat.png --model timm/vit_base_patch16_224 --target "tabby cat"
  funattr explain cat.png --model my_net:build --layer features.8 --target 3 --out cat.npz
  funattr explain "A moving film." --model path/to/bert --out film.html
"""
_QUADRATURES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")
_STEPS, _CELLS = 50, 14


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    parser = add_command(
        commands, "explain", "Explain what a model sees in an image, or reads in a text.", _EXAMPLES, run, MODEL_HELP
    )
    parser.add_argument("input", metavar="INPUT", help="an image file; or a text in quotes, or in a .txt file")
    parser.add_argument(
        "--method",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="one or more; funattr methods lists them (default: grad_cam where a layer suits it, else integrated_gradients)",
    )
    parser.add_argument(
        "--target", default="argmax", metavar="CLASS", help="a number, a name, or argmax, the predicted one (default)"
    )
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="where in the model; NAME@CALL for one run of several (default: for Grad-CAM the last that suits, else the input)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a .png, .html, .npz or .safetensors (default: explained.png, for a text explained.html)",
    )
    parser.add_argument("--n-steps", type=positive, metavar="N", help=f"nodes on a path (default: {_STEPS})")
    parser.add_argument("--quadrature", choices=_QUADRATURES, help="the rule on a path (default: gausslegendre)")
    parser.add_argument("--n-samples", type=positive, metavar="N", help="samples of noise, or of a distribution")
    parser.add_argument(
        "--chunk-size", type=positive, metavar="N", help="steps, samples or groups at once: less takes less memory"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random methods (default: 0)")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print what the model says and how it was explained, and write the file.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    wanted = _wanted(arguments)
    if arguments.out is not None:
        write.check(arguments.out)
    source = load(arguments)
    given = read(source, arguments.input, arguments)
    out = arguments.out or Path("explained.png" if given.tokens is None else "explained.html")
    write.check(out)
    chosen = choose(source, given.x, arguments.target)
    _say("model", source.title)
    _say("input", given.told)
    _say("predicted", chosen.predicted)
    _say("explained", chosen.explained)
    layers = Layers(source, given.x)
    wanted = wanted or _default(given, layers)
    found = [_explain(name, source, given, chosen, layers, arguments) for name in wanted]
    facts = {"model": source.title, "input": given.told, "explained": chosen.explained, "methods": ", ".join(wanted)}
    facts |= {f"layer of {each.name}": each.layer for each in found if each.layer is not None}
    write.write(out, given, found, f"{arguments.input[:40] if given.tokens is None else 'text'}: {chosen.label}", facts)
    _say("wrote", str(out))


def _say(what: str, text: str) -> None:
    print(f"{what:13s}{text}", flush=True)


def _wanted(arguments: argparse.Namespace) -> list[str]:
    """The methods, each once; options that none of them takes are a mistake."""
    given = [part.strip() for value in arguments.method or () for part in value.split(",")]
    wanted = list(dict.fromkeys(methods.checked(name) for name in given))
    for name in wanted:
        if missing := methods.missing(name):
            raise mistake(f"{name} needs {listed(missing)}, which the command has no option for: call it from Python.")
    for option in ("n_steps", "quadrature", "n_samples", "chunk_size"):
        if getattr(arguments, option) is not None and not any(option in methods.parameters(name) for name in wanted):
            takers = [name for name in methods.names() if option in methods.parameters(name)]
            spelled = f"--{option.replace('_', '-')}"
            raise mistake(f"{spelled} is no option of {listed(wanted) or 'the default method'}, only of {listed(takers)}.")
    return wanted


def _default(given: Input, layers: Layers) -> list[str]:
    return ["grad_cam" if given.tokens is None and layers.suiting() else "integrated_gradients"]


def _explain(
    name: str, source: Source, given: Input, chosen: Chosen, layers: Layers, arguments: argparse.Namespace
) -> write.Found:
    """One method's attribution, and what it says about itself."""
    where = _where(name, given, chosen, layers, arguments)
    options = _options(name, source, given, where, arguments)
    with answered(name):
        attribution = methods.call(name, source.model, given.x, {"target": chosen.target, **options})
    attribution = only_input(attribution)
    place = "at the input" if where is None else f"at {where.name}" + (f" ({where.chosen})" if where.chosen else "")
    _say("method", f"{name} {place}")
    if name in methods.COMPLETE:
        baselines, several = options["baselines"], name.endswith("_shap")
        with answered("measuring the completeness gap failed"):
            measured = gap.measure(attribution, source.model, given.x, baselines, chosen.target, several=several)
        _say("completeness", measured.line())
        if measured.relative > gap.LARGE:
            rule = arguments.quadrature or _QUADRATURES[0]
            _say("", gap.advice(name, arguments.n_steps or _STEPS, rule, where is not None))
    dim = 1 if where is None else where.channel_dim or 1
    return write.Found(name, attribution, where.name if where is not None else None, dim, "feature_mask" in options)


def _where(name: str, given: Input, chosen: Chosen, layers: Layers, arguments: argparse.Namespace) -> Where | None:
    if arguments.layer is not None:
        where = layers.named(arguments.layer)
        if methods.is_cam(name):
            layers.check_cam(where)
        return where
    if methods.is_cam(name):
        return layers.for_cam(chosen.target)
    return layers.embedding() if given.tokens is not None else None


def _options(name: str, source: Source, given: Input, where: Where | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the method takes, of what the command has."""
    import torch

    taken = methods.parameters(name)
    options: dict[str, Any] = {"n_steps": arguments.n_steps, "quadrature": arguments.quadrature}
    options |= {"n_samples": arguments.n_samples, "chunk_size": arguments.chunk_size}
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


def _cells(source: Source, given: Input, where: Where | None) -> Any:
    """What is ablated together: a token, a place of a layer, or a square of an image, of which there are about 14 x 14."""
    import torch

    if where is None:
        height, width = given.x.shape[-2:]
        side = max(1, -(-max(height, width) // _CELLS))
        rows, columns = torch.arange(height) // side, torch.arange(width) // side
        return (rows[:, None] * int(columns[-1] + 1) + columns).to(given.x.device)[None]
    value = fa.activation(source.model, given.x, layer=where.layer)
    shape = list(value.shape[1:])
    if where.channel_dim is not None:
        shape[where.channel_dim - 1 if where.channel_dim > 0 else -1] = 1
    return torch.arange(torch.Size(shape).numel(), device=value.device).reshape(shape)
