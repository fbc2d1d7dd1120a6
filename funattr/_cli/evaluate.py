"""``funattr evaluate``: which of several methods makes the better maps of pictures or texts, for a model of yours or not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import funattr as fa

from . import facts, methods, write
from .facts import Failed, Found, per_token
from .how import OPTIONS, options_of, takes_away, where_of
from .inputs import Input, gather, read
from .judge import on_picture, squares
from .load import load, warn_of
from .options import MODEL_HELP, add_command, add_model, positive, seed
from .sites import Layers, Where, only_input
from .source import Source
from .targets import choose
from .words import answered, choices, legible, listed, mistake, say, writing

_EXAMPLES = """\
  funattr evaluate cat.png --model resnet50 --methods grad_cam,ig,saliency
  funattr evaluate reviews.txt --lines --model path/to/bert --methods ig,gradient
  funattr evaluate pictures/ --model my_net:build --size 32 --metrics deletion,insertion,randomisation --out table.html
"""
METRICS = ("deletion", "insertion", "comprehensiveness", "sufficiency", "infidelity", "sensitivity_max", "randomisation")
_DEFAULT = ("deletion", "insertion", "sensitivity_max", "randomisation")
_SHORT = {"sensitivity": "sensitivity_max", "randomization": "randomisation"}
_KINDS = (".json", ".html", ".png")
_BY_ORDER = METRICS[:4]


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    text = "Compare methods on pictures or texts: which of them makes the better maps?"
    parser = add_command(commands, "evaluate", text, _EXAMPLES, run, MODEL_HELP)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures, texts, or folders of them; - for standard input")
    names = "one or more, with commas; funattr methods lists them (default: grad_cam where it suits, ig and saliency)"
    parser.add_argument("--lines", action="store_true", help="each line of INPUT is a text of its own, or names a picture")
    parser.add_argument("--methods", metavar="NAMES", help=names)
    names = f"of {', '.join(METRICS)} (default: {', '.join(_DEFAULT)}; of texts without sensitivity_max)"
    parser.add_argument("--metrics", metavar="NAMES", default=",".join(_DEFAULT), help=names)
    parser.add_argument("--target", default="argmax", metavar="CLASS", help="a number, a name, or argmax, the predicted one")
    parser.add_argument("--layer", metavar="NAME", help="where in the model CAMs are made (default: the last that suits)")
    parser.add_argument("--steps", type=positive, default=16, metavar="N", help="points of a curve (default: 16)")
    parser.add_argument(
        "--n-samples", type=positive, default=10, metavar="N", dest="draws", help="samples of a metric that draws (default: 10)"
    )
    parser.add_argument("--chunk-size", type=positive, metavar="N", dest="at_once", help="runs at once: less takes less memory")
    parser.add_argument("--seed", type=seed, default=0, help="of what draws (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="a .json, .html or .png (default: none, the table is printed)")
    # What explain has options for, and methods take: their defaults.
    parser.set_defaults(**dict.fromkeys(OPTIONS))
    add_model(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and write the file.

    Raises:
        argparse.ArgumentError: something does not fit; the message says what.
        ImportError: an extra is missing.
    """
    metrics = _metrics(arguments.metrics)
    wanted = [methods.checked(name.strip()) for name in arguments.methods.split(",")] if arguments.methods else []
    for name in wanted:
        if missing := methods.missing(name):
            raise mistake(f"{name} needs {listed(missing)}, which the command has no option for: call it from Python.")
        if "infidelity" in metrics and (methods.is_cam(name) or "feature_mask" in methods.parameters(name)):
            text = (
                f"infidelity needs a number for each value, and {name} makes one for each place of a layer, or for each group"
            )
            raise mistake(f"{text}: leave one of them out.")
    if arguments.out is not None and Path(arguments.out).suffix.lower() not in _KINDS:
        raise mistake(f"--out must end with {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, got {arguments.out!r}.")
    if arguments.out is not None:
        write.check(Path(arguments.out), arguments.out)
    if not arguments.inputs:
        raise mistake("there is nothing to evaluate on: name a picture, a text, a folder of them, or - for standard input.")
    source = load(arguments)
    say("model", source.title)
    evaluate = _Evaluator(source, wanted, metrics, arguments)
    items = gather(source, arguments.inputs, arguments)
    for item in items:
        try:
            evaluate(read(source, item, arguments))
        except argparse.ArgumentError as error:
            if len(items) == 1:
                raise
            evaluate.failed.append(Failed(item.name, legible(str(error))))
    if not evaluate.names:
        raise mistake(f"{evaluate.failed[0].name}: {evaluate.failed[0].why}")
    warn_of(source, arguments)
    table = evaluate.table()
    print(_printed(table))
    if arguments.out is not None:
        _write(Path(arguments.out), source.title, evaluate, table)
        say("wrote", arguments.out)
    for each in evaluate.failed:
        print(f"funattr: not evaluated: {each.name}: {each.why}", file=sys.stderr)
    return 1 if evaluate.failed else 0


def _metrics(given: str) -> list[str]:
    names = [_SHORT.get(name.strip(), name.strip()) for name in given.split(",")]
    for name in names:
        if name in ("pointing_game", "relevance_mass", "agreement"):
            raise mistake(f"{name} needs more than pictures: call fa.metrics.{name} from Python.")
        if name not in METRICS:
            raise mistake(f"there is no metric {name!r}{choices(name, METRICS)}")
    return list(dict.fromkeys(names))


class _Evaluator:
    """Pictures one after another, by the methods at the layers that were found for the first."""

    def __init__(self, source: Source, wanted: list[str], metrics: list[str], arguments: argparse.Namespace) -> None:
        self.source, self.wanted, self.metrics, self.arguments = source, wanted, metrics, arguments
        self.places: dict[str, Where | None] = {}
        self.names: list[str] = []
        self.failed: list[Failed] = []
        self.found: list[dict[str, dict[str, Any]]] = []

    def __call__(self, given: Input) -> None:
        target = choose(self.source, given.x, self.arguments.target).target
        if not self.places:
            self._find(given, target)
        explains: dict[str, Any] = {name: partial(self._map, name, given) for name in self.wanted}
        for name, explain in explains.items():
            explain.method = name
        measures = {name: self._measure(name, given) for name in self.metrics}
        with answered(given.name):
            found = fa.metrics.compare(explains, measures, self.source.model, given.x, target=target, layer=self._site(given))
        self.found.append(found)
        self.names.append(given.name)

    def _site(self, given: Input) -> Any:
        """Where things are taken away: of a text, where its tokens become numbers."""
        where = None if given.tokens is None else self.places[self.wanted[0]]
        return None if where is None else where.layer

    def _find(self, given: Input, target: int | None) -> None:
        if given.tokens is not None and "sensitivity_max" in self.metrics:
            if self.arguments.metrics != ",".join(_DEFAULT):
                raise mistake("sensitivity_max is measured on pictures only: leave it out, or call fa.metrics from Python.")
            self.metrics.remove("sensitivity_max")
        layers = self.layers = Layers(self.source, given.x)
        cam = given.tokens is None and bool(layers.suiting()) and "infidelity" not in self.metrics
        self.wanted = self.wanted or ["grad_cam"] * cam + ["integrated_gradients", "saliency"]
        places = {}
        for name in self.wanted:
            if given.tokens is not None and methods.is_cam(name):
                raise mistake(f"{name} is compared on pictures only: leave it out.")
            layer = self.arguments.layer if methods.is_cam(name) else None
            places[name] = where = where_of(name, given, target, layers, layer)
            say("method", f"{name} at {'the input' if where is None else where.name}")
        self.places = places

    def _map(
        self, name: str, given: Input, model: Any, x: Any, *, target: Any = None, layer: Any = None, whole: bool = True
    ) -> Any:
        """What the method finds, on the model and x that the metric has: a map of the size of x, a number for each token (at
        the layer that all share), or as it is."""
        where = self.places[name]
        options = options_of(name, self.source, given, where, self.arguments)
        if "feature_mask" in options:
            options["feature_mask"] = options["feature_mask"].mask
        attribution = only_input(methods.call(name, model, x, {"target": target, **options}))
        if not whole:
            return attribution
        dim = 1 if where is None else where.channel_dim or 1
        grid = self.layers.grid(attribution.shape[1]) if dim == -1 else None
        found = Found(name, attribution, None if where is None else where.name, dim, takes_away(options), False, None, grid)
        if given.tokens is not None:
            sums = per_token(found, len(given.tokens))
            values = None if sums is None else sums[None, :, None]
        else:
            values = on_picture(found, given)
        if values is None:
            what = "picture" if given.tokens is None else "text"
            raise mistake(f"{name} makes no map of a {what} here: choose another method, or another --layer.")
        return values

    def _measure(self, name: str, given: Input) -> Callable[..., Any]:
        metric = getattr(fa.metrics, name)
        options: dict[str, Any] = {}
        if name in _BY_ORDER and given.tokens is None:
            options["feature_mask"] = squares(given.x)
        if name in ("deletion", "insertion"):
            options["steps"] = self.arguments.steps
        if name in ("infidelity", "sensitivity_max"):
            options["n_samples"] = self.arguments.draws
        if name == "randomisation":
            options["layers"] = blocks(self.source.model)
        elif name != "sensitivity_max":
            options["chunk_size"] = self.arguments.at_once
        return partial(metric, **options) if name in _BY_ORDER else partial(self._drawn, name, options)

    def _drawn(
        self, name: str, options: dict[str, Any], explained: Any, model: Any, x: Any, *, target: Any, layer: Any = None
    ) -> Any:
        """A metric that draws: the same numbers for every method."""
        import torch

        options = {**options, "generator": torch.Generator().manual_seed(self.arguments.seed), "target": target}
        options |= {} if layer is None else {"layer": layer}
        if name == "infidelity":  # of what the method finds for each value, slopes or shares
            slopes = explained.method in _SLOPES
            explained, options = partial(explained, whole=False), {**options, "multiply_by_inputs": not slopes}
        return getattr(fa.metrics, name)(explained, model, x, **options)

    def table(self) -> dict[str, dict[str, Any]]:
        """Each method's numbers by each metric, one for each picture; of a dict, a dict of these."""
        return {
            method: {key: _joined([one[method][key] for one in self.found]) for key in self.metrics} for method in self.wanted
        }


def _joined(each: Sequence[Any]) -> Any:
    if isinstance(each[0], Mapping):
        return {key: _joined([one[key] for one in each]) for key in each[0]}
    return [float(one) for one in each]


def blocks(model: Any) -> list[str]:
    """The largest parts of a model that have parameters, from the output to the input; what only wraps one is gone into."""
    prefix, module = "", model
    while True:
        inside = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        if len(inside) != 1 or any(True for _ in module.parameters(recurse=False)):
            break
        prefix, module = f"{prefix}{inside[0][0]}.", inside[0][1]
    return [f"{prefix}{name}" for name, _ in reversed(inside)] or [prefix.removesuffix(".")]


#: The methods that find slopes, and not shares of the score.
_SLOPES = ("gradient", "saliency", "smoothgrad", "internal_influence", "guided_backprop", "deconvnet")
_SIGN = {"deletion": "-", "insertion": "+", "comprehensiveness": "+", "sufficiency": "-", "infidelity": "-"}


def _printed(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as text: means, and standard errors where there are several pictures."""
    metrics = list(next(iter(table.values())))
    rows = [["", *(f"{name} ({_SIGN.get(name, '-')})" for name in metrics)]]
    rows += [[method, *(_cell(value) for value in row.values())] for method, row in table.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]) for row in rows]
    legend = "(+) higher is better, (-) lower is better"
    if any("±" in line for line in lines):
        legend += "; ±: the standard error of the mean"
    if "randomisation" in metrics:
        legend += "; randomisation: a map that stays at 1 does not look at the model"
    return "\n".join(["", *lines, "", legend])


def _cell(value: Any) -> str:
    import torch

    means = torch.tensor(list(value.values()) if isinstance(value, Mapping) else [value]).double().mean(0)
    if len(means) == 1:
        return f"{float(means):.3g}"
    return f"{float(means.mean()):.3g} ± {float(means.std()) / len(means) ** 0.5:.2g}"


def _write(out: Path, title: str, evaluate: _Evaluator, table: dict[str, dict[str, Any]]) -> None:
    from funattr import viz

    kind = out.suffix.lower()
    with writing(out):
        if kind == ".json":
            about = {"model": title, "versions": facts.versions(), "inputs": evaluate.names, "methods": table}
            failed = [each._asdict() for each in evaluate.failed]
            out.write_text(facts.json_text({**about, "failed": failed}), encoding="utf-8")
        elif kind == ".html":
            viz.table_page(table, title=f"Methods by metrics: {title}", examples=evaluate.names, out=out)
        else:
            viz.table(table, title=title, out=out)
