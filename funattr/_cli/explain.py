"""``funattr explain``: what in pictures or texts speaks for a class, with a model of yours or of a library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import draw, gap, judge, language, methods, speaker, write
from .facts import Explained, Failed, Found, as_map, with_errors
from .groups import COALITIONS, GROUPS, enough_for_errors, largest
from .how import OPTIONS, RULES, STEPS, options_of, where_of
from .inputs import Input, Item, gather, read
from .load import load, warn_of
from .options import MODEL_HELP, add_command, add_model, positive
from .sites import Layers, Where, only_input
from .source import Source
from .targets import Chosen, choose
from .words import answered, listed, mistake

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
_QUADRATURES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")


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
    parser.add_argument("--quadrature", choices=_QUADRATURES, help="the rule on a path (default: gausslegendre)")
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
    parser.add_argument("--seed", type=int, default=0, help="of random methods (default: 0)")
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
    _say("model", source.title)
    folder = Path(arguments.out) if arguments.out and write.is_folder(Path(arguments.out), arguments.out) else None
    explain = _Explainer(source, wanted, arguments, alone=len(items) == 1, keep=folder)
    try:
        for item in items:
            explain(item)
    except KeyboardInterrupt:
        kept = "nothing was written" if folder is None else f"{len(explain.written)} pictures are in {folder}"
        raise KeyboardInterrupt(f"{explain.count} of {len(items)} inputs were explained; {kept}.") from None
    if not explain.count:
        raise mistake(f"{explain.failed[0].name}: {explain.failed[0].why}")
    warn_of(source, arguments)
    if folder is not None:
        _say("wrote", f"{len(explain.written)} pictures in {folder}{'' if str(folder).endswith('/') else '/'}")
    else:
        texts = explain.done[0].given.tokens is not None
        out = Path(arguments.out or ("explained.html" if texts or len(items) > 1 else "explained.png"))
        write.write(out, source.title, explain.done, explain.failed, arguments)
        _say("wrote", str(out))
    if explain.judged:
        _say("deletion", judge.line(explain.judged))
    for each in explain.failed:
        print(f"funattr: not explained: {each.name}: {each.why}", file=sys.stderr)
    return 1 if explain.failed else 0


def _say(what: str, text: str) -> None:
    print(f"{what:13s}{text}", flush=True)


def _split(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Methods and inputs: --method takes all words that follow it, also those that name inputs."""
    wanted: list[str] = []
    inputs: list[str] = list(arguments.inputs)
    for value in arguments.method or ():
        words = [part.strip() for part in value.split(",")]
        is_input = not all(methods.is_name(word) for word in words) and (value == "-" or _exists(value))
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


class _Explainer:
    """Inputs one after another, at the layers that were found for the first; one that fails does not end the others."""

    def __init__(
        self, source: Source, wanted: list[str], arguments: argparse.Namespace, *, alone: bool, keep: Path | None
    ) -> None:
        self.source, self.wanted, self.arguments, self.alone, self.folder = source, wanted, arguments, alone, keep
        self.places: dict[str, Where | None] = {}
        self.done: list[Explained] = []
        self.failed: list[Failed] = []
        self.later: list[str] = []
        self.count = 0
        self.written: set[Path] = set()
        self.judged: list[tuple[str, judge.Judged]] = []

    def __call__(self, item: Item) -> None:
        if self.alone:
            self._one(item)
            return
        try:
            self._one(item)
        except argparse.ArgumentError as error:
            self.failed.append(Failed(item.name, str(error)))

    def _one(self, item: Item) -> None:
        given = read(self.source, item, self.arguments)
        chosen = choose(self.source, given.x, self.arguments.target or "argmax")
        first = not self.places
        if self.alone or first:
            _say("input", given.told)
        if self.alone:
            _say("predicted", chosen.predicted.told())
            _say("explained", chosen.explained.told())
        if first:
            layers = self.layers = Layers(self.source, given.x)
            self.wanted = self.wanted or _default(given, layers)
            self.places = {name: where_of(name, given, chosen.target, layers, self.arguments.layer) for name in self.wanted}
        found = [part for name in self.wanted for part in with_errors(self._found(name, given, chosen, first))]
        each = Explained(given, chosen, found)
        if not self.arguments.no_check:
            self._judge(each)
        if not self.alone:
            cut = f", {len(given.tokens)} tokens of {given.whole}" if given.whole and given.tokens else ""
            print(f"{given.name}: {chosen.explained.told()}{cut}", flush=True)
        self._say_later()
        self.count += 1
        if self.folder is None:
            self.done.append(each)
        elif given.picture is None:
            raise mistake("--out FOLDER/ is for pictures: write texts to a .html, .json or .csv.")
        else:
            draw.heat_maps(self.folder, each, self.arguments.raw, self.written)

    def _found(self, name: str, given: Input, chosen: Chosen, first: bool) -> Found:
        """One method's attribution, and what it says about itself."""
        where, arguments = self.places[name], self.arguments
        options = options_of(name, self.source, given, where, arguments)
        groups, errors = options.get("feature_mask"), None
        if groups is not None:
            options["feature_mask"] = groups.mask
            options["standard_errors"] = name == "shapley" and enough_for_errors(groups, arguments.n_samples)
        with answered(name):
            attribution = methods.call(name, self.source.model, given.x, {"target": chosen.target, **options})
        if options.get("standard_errors"):
            attribution, errors = map(only_input, attribution)
        attribution = only_input(attribution)
        if first:
            place = "at the input" if where is None else f"at {where.name}" + (f" ({where.chosen})" if where.chosen else "")
            _say("method", f"{name} {place}")
        if groups is not None and self.alone and name in COALITIONS:
            for i, line in enumerate(largest(groups, attribution, errors)):
                _say("" if i else "largest", line)
            if name == "shapley" and errors is None:
                least = 4 * len(groups.mask.unique()) + 2
                self.later.append(f"no standard errors: of so many groups, --n-samples {least} or more tell them")
        if groups is not None and groups.part is not None:
            attribution, errors = attribution * groups.part, None if errors is None else errors * groups.part
        measured = self._measured(name, attribution, given, chosen, options) if name in methods.COMPLETE else None
        dim = 1 if where is None else where.channel_dim or 1
        is_map = methods.is_cam(name) and name != "guided_grad_cam"
        layer = where.name if where is not None else None
        grid = self.layers.grid(attribution.shape[1]) if given.picture is not None and dim == -1 else None
        found = Found(name, attribution, layer, dim, "feature_mask" in options, is_map, measured, grid, errors)
        if is_map and not arguments.raw and given.picture is not None:
            values = as_map(found, given)
            if values is not None and not bool((values > 0).any()):
                self.later.append(f"{name} is nowhere positive: nothing speaks for the class; --raw draws what is against it")
        return found

    def _measured(self, name: str, attribution: Any, given: Input, chosen: Chosen, options: dict[str, Any]) -> gap.Gap:
        """Whether the sum is what it should be, and whether there was anything to explain."""
        baselines, several = options["baselines"], name.endswith("_shap")
        with answered("measuring the completeness gap failed"):
            measured = gap.measure(attribution, self.source.model, given.x, baselines, chosen.target, several=several)
        little = gap.little(measured, chosen.explained.score)
        if self.alone:
            _say("completeness", measured.line())
        elif measured.relative > gap.LARGE or little:
            self.later.append(f"{name}: {measured.line()}")
        if little:
            self.later.append(little)
        elif measured.relative > gap.LARGE:
            rule = self.arguments.quadrature or _QUADRATURES[0]
            self.later.append(gap.advice(name, self.arguments.n_steps or STEPS, rule, self.places[name] is not None))
        if self.alone:
            self._say_later()
        return measured

    def _judge(self, each: Explained) -> None:
        """Compare the maps with random orders."""
        chance: dict[Any, float] = {}
        for found in each.found:
            if found.name not in self.places:  # standard errors, which are no map
                continue
            where = self.places[found.name]
            target, seed = each.chosen.target, self.arguments.seed
            judged = judge.by_deletion(found, self.source, each.given, target, where, chance, seed)
            if judged is not None:
                self.judged.append((found.name, judged))

    def _say_later(self) -> None:
        """What belongs below the line of an input."""
        for line in self.later:
            _say("", line)
        self.later.clear()


def _default(given: Input, layers: Layers) -> list[str]:
    return ["grad_cam" if given.tokens is None and layers.suiting() else "integrated_gradients"]
