"""``funattr explain``: what in pictures or texts speaks for a class, with a model of yours or of a library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import judge, language, methods, speaker, write
from .explainer import Explainer
from .groups import GROUPS
from .how import OPTIONS, QUADRATURES, RULES, STEPS
from .inputs import gather
from .load import load, warn_of
from .options import MODEL_HELP, add_command, add_model, positive, seed
from .words import listed, mistake, say

_EXAMPLES = """\
  funattr explain cat.png --model my_net:build --checkpoint weights.safetensors --size 32
  funattr explain pictures/ --model resnet50 --out maps/          a heat map for each, in its own size
  funattr explain a.png b.png --model resnet50 --method grad_cam,ig --out both.html
  funattr explain cat.png --model timm/vit_base_patch16_224 --target "tabby cat"
  funattr explain "A moving film." --model path/to/bert --out film.json
  funattr explain reviews.txt --lines --model path/to/bert --out reviews.html
  cat film.txt | funattr explain - --model path/to/bert
  funattr explain "The capital of France is" --model path/to/llama --answer " Paris"
  funattr explain "Which city?" --model path/to/llama --chat --generate 20 --by word --out why.html
"""
_STATUS = """\
exit status: 0; 1 where some inputs could not be explained, and the others were; 2 after a mistake; 130 after Ctrl-C.
"""
_SAMPLINGS = ("leverage", "kernel", "permutation", "exact")


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    text = "Explain what a model sees in pictures, or reads in texts."
    parser = add_command(commands, "explain", text, _EXAMPLES, run, f"{_STATUS}\n{MODEL_HELP}")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="pictures, or folders of them; texts in quotes or in .txt files; - for standard input",
    )
    parser.add_argument("--lines", action="store_true", help="each line of INPUT is a text of its own, or names a picture")
    parser.add_argument(
        "--method",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="one or more; funattr methods lists them (default: grad_cam where a layer suits it, else integrated_gradients)",
    )
    parser.add_argument("--target", metavar="CLASS", help="a number, a name, or argmax, the predicted one (default)")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="where in the model; NAME@CALL for one run of several (default: for Grad-CAM the last that suits, else the input)",
    )
    _add_out(parser)
    parser.add_argument("--n-steps", type=positive, metavar="N", help=f"nodes on a path (default: {STEPS})")
    parser.add_argument("--quadrature", choices=QUADRATURES, help="the rule on a path (default: gausslegendre)")
    parser.add_argument("--n-samples", type=positive, metavar="N", help="samples of noise, or of a distribution")
    parser.add_argument("--sampling", choices=_SAMPLINGS, help="of shapley (default: leverage)")
    parser.add_argument("--window", type=positive, metavar="N", help="of occlusion: its side (default: a seventh, or a token)")
    parser.add_argument("--rules", choices=RULES, metavar="SET", help=f"of lrp: {', '.join(RULES)} (default: epsilon_plus)")
    parser.add_argument(
        "--groups",
        choices=GROUPS,
        help="what goes together (default: squares; of texts words for shapley and lime, else tokens)",
    )
    parser.add_argument(
        "--chunk-size", type=positive, metavar="N", help="steps, samples or groups at once: less takes less memory"
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="leave out the last line, deletion against a random order, for which the model runs 36 times for each input",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of random methods (default: 0)")
    language.add(parser)
    add_model(parser)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="a .png, .jpg, .html, .json, .csv, .npz or .safetensors; or FOLDER/, for a heat map of each picture in its own "
        "size (default: explained.png, for texts and several pictures explained.html)",
    )
    parser.add_argument(
        "--raw", action="store_true", help="draw maps as they are: a CAM in squares and with what speaks against"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what the model says and how it was explained, and write the file.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    wanted, inputs = _split(arguments)
    writes = speaker.architecture(arguments.model)
    wanted = _checked(wanted, arguments, writes is not None)
    if writes is not None:
        return language.run(arguments, writes, wanted, inputs)
    language.refuse(arguments)
    if arguments.out is not None:
        write.check(Path(arguments.out), arguments.out)
    if not inputs:
        raise mistake(
            "there is nothing to explain: name a picture, a folder of them, a text in quotes, or - for standard input."
        )
    source = load(arguments)
    items = gather(source, inputs, arguments)
    write.check_kept(arguments.out or "explained.png", items)
    say("model", source.title)
    folder = Path(arguments.out) if arguments.out and write.is_folder(Path(arguments.out), arguments.out) else None
    explain = Explainer(source, wanted, arguments, items, folder)
    try:
        for item in items:
            explain(item)
    except KeyboardInterrupt:
        kept = "nothing was written" if folder is None else f"{explain.drawn} pictures are in {folder}"
        raise KeyboardInterrupt(f"{explain.count} of {len(items)} inputs were explained; {kept}.") from None
    if not explain.count:
        raise mistake(f"{explain.failed[0].name}: {explain.failed[0].why}")
    warn_of(source, arguments)
    if folder is not None:
        say(
            "wrote",
            f"{explain.drawn} picture{'s' * (explain.drawn != 1)} in {folder}{'' if str(folder).endswith('/') else '/'}",
        )
    else:
        texts = explain.done[0].given.tokens is not None
        out = Path(arguments.out or ("explained.html" if texts or len(items) > 1 else "explained.png"))
        write.write(out, source.title, explain.done, explain.failed, arguments)
        say("wrote", str(out))
    if explain.judged:
        say("deletion", judge.line(explain.judged))
    for each in explain.failed:
        print(f"funattr: not explained: {each.name}: {each.why}", file=sys.stderr)
    return 1 if explain.failed else 0


def _split(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Methods and inputs: --method takes all words that follow it, also those that name inputs."""
    wanted: list[str] = []
    inputs: list[str] = list(arguments.inputs)
    for value in arguments.method or ():
        words = [part.strip() for part in value.split(",")]
        is_input = not all(methods.is_name(word) for word in words) and (value == "-" or (value != "" and _exists(value)))
        if is_input:
            inputs.append(value)
        else:
            wanted += words
    return wanted, inputs


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long to be a name
        return False


def _checked(given: Sequence[str], arguments: argparse.Namespace, writes: bool) -> list[str]:
    """The methods, each once; options that none of them takes are a mistake."""
    for name in given:
        if not arguments.inputs and not methods.is_name(name) and (" " in name or "." in name):
            raise mistake(f"{name!r} is no method, and no file: write what is to be explained before --method.")
    wanted = list(dict.fromkeys(methods.checked(name) for name in given))
    for name in wanted:
        if missing := methods.missing(name):
            raise mistake(f"{name} needs {listed(missing)}, which the command has no option for: call it from Python.")
    for option in OPTIONS:
        if option == "chunk_size" and writes:  # each token of an answer is a step
            continue
        taken = {"groups": "feature_mask"}.get(option, option)
        if getattr(arguments, option) is not None and not any(taken in methods.parameters(name) for name in wanted):
            takers = [name for name in methods.names() if taken in methods.parameters(name)]
            spelled = f"--{option.replace('_', '-')}"
            raise mistake(f"{spelled} is no option of {listed(wanted) or 'the default method'}, only of {listed(takers)}.")
    return wanted
