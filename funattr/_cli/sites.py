"""Where in the model: the layer that the user names, or the one that suits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import funattr as fa

from .source import Source
from .words import answered, listed, mistake, one_line

if TYPE_CHECKING:
    from torch import Tensor

_SPECIAL = 9  # tokens that are no patches, at most


def _is_picture(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) == 4 and all(isinstance(size, int) for size in shape)


class Where(NamedTuple):
    """A layer, and how to say which it is."""

    layer: Any
    name: str
    channel_dim: int | None
    chosen: str = ""
    """Why this layer, where the user named none."""


class Layers:
    """The table of a model's layers, made when it is first asked for."""

    def __init__(self, source: Source, x: Any) -> None:
        self.source, self.x = source, x
        self._table: Sequence[Any] | None = None

    @property
    def table(self) -> Sequence[Any]:
        if self._table is None:
            with answered("the model failed"):
                self._table = fa.layers(self.source.model, self.x)
        return self._table

    def suiting(self) -> list[Any]:
        """The layers for a CAM, in the order in which they run."""
        return sorted((row for row in self.table if row.cam is not None and row.runs == 1), key=lambda row: row.order)

    def named(self, given: str) -> Where:
        """The layer `given`: a name, or name@call."""
        name, at, call = given.partition("@")
        if at and not call.removeprefix("-").isdecimal():
            raise mistake(f"--layer {given}: after the @ comes the number of a run, as in {name}@0 or {name}@-1.")
        row = next((row for row in self.table if name == row.name or name in row.aliases), None)
        if row is None:
            with answered(f"--layer {given}"):
                fa.activation(self.source.model, self.x, layer=name)  # which says what was meant
            raise mistake(f"--layer {given}: the model itself is no layer of it.")
        if not row.runs:
            raise mistake(f"the layer {name!r} cannot be used, {row.note}.")
        if row.runs > 1 and not at:
            raise mistake(f"the layer {name!r} runs {row.runs} times: say which, --layer {name}@0 to {name}@{row.runs - 1}.")
        if at and not -row.runs <= int(call) < row.runs:
            raise mistake(f"the layer {name!r} runs {row.runs} time{'s' * (row.runs > 1)}, so there is no {given}.")
        return Where(fa.output_of(name, int(call)) if at else name, given, row.cam)

    def for_cam(self, target: int | None) -> Where:
        """The last layer that suits a CAM and in which more than one place counts.

        Behind the last attention of a transformer, say, only the class token does. Single linear layers are left out: what a
        transformer projects to is no map of it.
        """
        suiting = self.suiting()
        if not suiting:
            raise mistake(
                f"{type(self.source.model).__name__} has no layer that suits a CAM (values of several places, [N, C, H, W] or "
                f"[N, T, C]): choose another --method, such as integrated_gradients."
            )
        refused = ""
        for row in reversed([row for row in suiting if row.type != "Linear"] or suiting):
            places, why = self._places(row, target)
            refused = refused or why
            if places > 1:
                return Where(row.name, row.name, row.cam, "the last that suits; funattr layers shows the others")
        names = listed([row.name for row in suiting])
        raise mistake(f"the score has no gradient at the layers that suit a CAM, {names}{refused}: choose another --method.")

    def grid(self, tokens: int) -> tuple[int, int] | None:
        """The rows and columns of patches that so many tokens are, a few of which are none (class token, registers).

        Where patches are made they still lie in rows: the model's own values say it, if one answer fits.
        """
        shapes = [shape for row in self.table for shape in row.shapes if _is_picture(shape)]
        fitting = {(shape[2], shape[3]) for shape in shapes if 0 <= tokens - shape[2] * shape[3] <= _SPECIAL}
        return fitting.pop() if len(fitting) == 1 else None

    def check_cam(self, where: Where) -> None:
        if where.channel_dim is None:
            names = [row.name for row in self.suiting()][::-1]
            raise mistake(f"the layer {where.name!r} does not suit a CAM{': choose one of ' + listed(names) if names else ''}.")

    def embedding(self) -> Where:
        """Where a text becomes numbers: the first embedding that runs, the model's own idea of it where it has one."""
        from torch import nn

        model: Any = self.source.model
        own = model.get_input_embeddings() if self.source.tokenizer is not None else None
        modules = dict(model.named_modules())
        rows = sorted((row for row in self.table if row.runs == 1), key=lambda row: row.order)
        for row in rows:
            module = modules[row.name]
            if module is own or (own is None and isinstance(module, nn.Embedding)):
                return Where(row.name, row.name, row.cam, "where tokens become numbers")
        raise mistake(f"{type(model).__name__} has no embedding that runs once: name the layer after it with --layer.")

    def _places(self, row: Any, target: int | None) -> tuple[int, str]:
        """How many places in a layer the score depends on, or why that is not known."""
        with answered("the gradient failed"):
            try:
                found = fa.gradient(self.source.model, self.x, layer=row.name, target=target)
            except ValueError as error:  # the score does not depend on it at all, say
                return 0, f" ({one_line(error).rstrip('.')})"
        return int((found.abs().sum(row.cam) > 0).sum()), ""


def only_input(attribution: Any) -> Any:
    """The attribution of the one input: out of the dict where there is one."""
    return next(iter(attribution.values())) if isinstance(attribution, Mapping) and len(attribution) == 1 else attribution


def flat(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a structure, by name."""
    import torch

    if isinstance(value, torch.Tensor):
        return [(name, value)]
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    return [leaf for key, part in parts for leaf in flat(f"{name}.{key}" if name else str(key), part)]
