"""Inputs explained one after another: what is printed of each, and what is kept of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import draw, gap, judge, methods
from .facts import Explained, Failed, Found, as_map, with_errors
from .groups import COALITIONS, enough_for_errors, largest, of_each
from .how import QUADRATURES, STEPS, options_of, takes_away, where_of
from .inputs import Input, Item, files_of, read
from .sites import Layers, Where, only_input
from .source import Source
from .targets import Chosen, choose
from .words import answered, legible, mistake, say


class Explainer:
    """Inputs one after another, at the layers that were found for the first; one that fails does not end the others."""

    def __init__(
        self, source: Source, wanted: list[str], arguments: argparse.Namespace, items: Sequence[Item], keep: Path | None
    ) -> None:
        self.source, self.wanted, self.arguments, self.folder = source, wanted, arguments, keep
        self.alone = len(items) == 1
        self.places: dict[str, Where | None] = {}
        self.done: list[Explained] = []
        self.failed: list[Failed] = []
        self.later: list[str] = []
        self.count = 0
        self.taken = files_of(items)
        self.drawn = 0
        self.judged: list[tuple[str, judge.Judged]] = []

    def __call__(self, item: Item) -> None:
        if self.alone:
            self._one(item)
            return
        try:
            self._one(item)
        except argparse.ArgumentError as error:
            self.failed.append(Failed(item.name, legible(str(error))))

    def _one(self, item: Item) -> None:
        given = read(self.source, item, self.arguments)
        chosen = choose(self.source, given.x, "argmax" if self.arguments.target is None else self.arguments.target)
        first = not self.places
        if self.alone or first:
            say("input", given.told)
        if self.alone:
            say("predicted", chosen.predicted.told())
            say("explained", chosen.explained.told())
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
            print(f"{given.name}: {chosen.told()}{cut}", flush=True)
        self._say_later()
        self.count += 1
        if self.folder is None:
            self.done.append(each)
        elif given.picture is None:
            raise mistake("--out FOLDER/ is for pictures: write texts to a .html, .json or .csv.")
        else:
            self.drawn += draw.heat_maps(self.folder, each, self.arguments.raw, self.taken)

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
            say("method", f"{name} {place}")
        if groups is not None and self.alone and name in COALITIONS:
            for i, line in enumerate(largest(groups, attribution, errors)):
                say("" if i else "largest", line)
            if name == "shapley" and errors is None:
                least = 4 * len(groups.mask.unique()) + 2
                self.later.append(f"no standard errors: of so many groups, --n-samples {least} or more tell them")
        if groups is not None and arguments.groups == "channels" and first:
            self.later.append(f"{name}: each place has the mean over its channels, which is the same everywhere")
        total = None if groups is None else float(of_each(groups, attribution).double().sum())
        if groups is not None and groups.part is not None:
            attribution, errors = attribution * groups.part, None if errors is None else errors * groups.part
        measured = self._measured(name, attribution, given, chosen, options) if name in methods.COMPLETE else None
        dim = 1 if where is None else where.channel_dim or 1
        is_map = methods.is_cam(name) and name != "guided_grad_cam"
        layer = where.name if where is not None else None
        grid = self.layers.grid(attribution.shape[1]) if given.picture is not None and dim == -1 else None
        found = Found(name, attribution, layer, dim, takes_away(options), is_map, measured, grid, errors, total)
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
            say("completeness", measured.line())
        elif measured.relative > gap.LARGE or little:
            self.later.append(f"{name}: {measured.line()}")
        if little:
            self.later.append(little)
        elif measured.relative > gap.LARGE:
            steps, rule = self.arguments.n_steps or STEPS, self.arguments.quadrature or QUADRATURES[0]
            self.later.append(gap.advice(name, steps, rule, measured.relative, self.places[name] is not None))
        if self.alone:
            self._say_later()
        return measured

    def _judge(self, each: Explained) -> None:
        """Compare the maps with random orders."""
        chance: dict[Any, float] = {}
        for found in each.found:
            of_channels = self.arguments.groups == "channels" and found.total is not None
            if found.name not in self.places or of_channels:  # standard errors, and what has no places, are no maps
                continue
            where = self.places[found.name]
            target, seed = each.chosen.target, self.arguments.seed
            judged = judge.by_deletion(found, self.source, each.given, target, where, chance, seed)
            if judged is not None:
                self.judged.append((found.name, judged))

    def _say_later(self) -> None:
        """What belongs below the line of an input."""
        for line in self.later:
            say("", line)
        self.later.clear()


def _default(given: Input, layers: Layers) -> list[str]:
    return ["grad_cam" if given.tokens is None and layers.suiting() else "integrated_gradients"]
