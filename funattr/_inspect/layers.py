"""Which layers a model has: what ``layer=`` may name, seen in one forward pass."""

from __future__ import annotations

import dataclasses
import html
from collections import UserDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core.checks import check_structure
from .._core.holders import statistics_kept
from .._core.passes import kept, watched
from .._core.tap import Run, Site
from .._core.where import bind, sees_nothing_inside, uncompiled, unseen_modules
from .._types import Model, Tree, batch_size, tensors
from .._words import complaint, door


class LayerInfo(NamedTuple):
    """A layer, as `layers` lists it."""

    name: str
    """The dotted name, for any ``layer=``."""
    type: str
    """The name of its class."""
    runs: int
    """How often it runs in one forward pass: more than once needs ``call=``, 0 cannot be attributed to."""
    shapes: tuple[Any, ...]
    """The shape of its value at each run; where the value is a structure, that structure of shapes."""
    parameters: int
    """How many numbers its parameters hold, those of the layers inside it included."""
    cam: int | None
    """The ``channel_dim`` to give `grad_cam` here: 1, or -1 for channels last; None where a CAM makes no sense."""
    order: int | None
    """Its place in the order in which the layers end their last run; None: it never ran."""
    aliases: tuple[str, ...]
    """Its further names, where several attributes hold this one module."""
    note: str
    """What to know before naming it: why it does not run, or that it needs ``call=``."""


class LayerTable(tuple[LayerInfo, ...]):
    """The layers of a model, in the order of their definition: a tuple of `LayerInfo` that prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        if not self:
            return "The model has no layers inside: attribute to its input, with layer=None."
        rows = [_HEAD, *map(_cells, self)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ("  ".join(pad(cell, width) for pad, cell, width in zip(_PADS, row, widths)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("th", _HEAD), *(("td", _cells(row)) for row in self)]
        cells = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in rows)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


_HEAD = ("layer", "type", "runs", "value", "parameters", "CAM", "note")
_PADS = tuple(str.rjust if name in ("runs", "parameters") else str.ljust for name in _HEAD)


def _cells(row: LayerInfo) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(map(_spelled, row.shapes)))
    value = " / ".join(distinct if len(distinct) <= 3 else [*distinct[:2], "...", distinct[-1]]) or "-"
    cam = "" if row.cam is None else "yes" if row.cam == 1 else f"channel_dim={row.cam}"
    also = f"also {', '.join(row.aliases)}" if row.aliases else ""
    note = "; ".join(part for part in (row.note, also) if part)
    return row.name, row.type, str(row.runs), value, f"{row.parameters:,}", cam, note


def _spelled(shape: Any) -> str:
    if isinstance(shape, torch.Size):
        return str(list(shape))
    if isinstance(shape, Mapping):
        return f"{{{', '.join(f'{name}: {_spelled(part)}' for name, part in shape.items())}}}"
    if isinstance(shape, tuple):
        return f"({', '.join(map(_spelled, shape))}{',' if len(shape) == 1 else ''})"
    return "-" if shape is None else str(shape)


@door
def layers(model: Model, x: Tree, *args: Any) -> LayerTable:
    """Every layer of a model: its name, what it is, how often it runs, the shape of its value, and whether it suits a CAM.

    A CAM makes sense where the value is one floating-point tensor of a row per example with more than one place in it:
    ``[N, C, *S]``, or channels last, ``[N, T, C]`` and ``[N, H, W, C]``. Which it is, the layers around tell: the last
    convolution, batch or group norm before says where the channels are and how many (second, as many as it makes), or the
    last linear layer, layer norm or embedding (last). A value that has this many channels at the other end only has been
    permuted; one that has them at neither end is taken for the same layout if it has as many dimensions (channels were joined
    or split), and for none otherwise. Before any such layer, images ``[N, C, H, W]`` and volumes have channels second. A
    layer that runs several times is marked if all its runs agree.

    One forward pass, without gradients, in the mode that the model is in; running statistics and torch's generators are put
    back. It works on the meta device too, which computes nothing.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        args: further positional inputs, where x is the first.

    Returns:
        A tuple with a row per layer, in the order of definition: `name`, `type`, `runs`, `shapes` (one per run), `parameters`,
        `cam` (the ``channel_dim`` for `grad_cam`, or None), `order` (of execution), `aliases` (a module with several names
        has one row, under the first) and `note`. Layers that never run are listed, and the note says why. Printed, or last
        in a notebook's cell, it is a table.

    Raises:
        ValueError: the model is a plain function, whose layers have no names, or x is no batch.
        TypeError: an argument is of the wrong type.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> table = fa.layers(model, torch.randn(2, 3, 8, 8))
        >>> print(table)
        layer  type     runs  value         parameters  CAM  note
        0      Conv2d      1  [2, 8, 6, 6]         224  yes
        1      ReLU        1  [2, 8, 6, 6]           0  yes
        2      Flatten     1  [2, 288]               0
        3      Linear      1  [2, 5]             1,445
        >>> [row.name for row in table if row.cam]
        ['0', '1']
    """
    bound = bind(model)
    if bound.root is None:
        raise complaint(
            ValueError,
            "the layers of a plain function have no names: pass the nn.Module, or bind extra arguments with "
            "functools.partial(model, ...) in place of a lambda.",
        )
    x = _whole_input(x, args)
    names: dict[nn.Module, list[str]] = {}
    for name, module in bound.root.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    training = [module for module in names if getattr(module, "training", False)]
    names.pop(bound.root)
    seen = uncompiled(bound)
    opaque = sees_nothing_inside if seen is bound else lambda module: isinstance(module, torch.jit.ScriptModule)
    hidden = unseen_modules(bound.root, opaque)
    tally = _Tally([Site(module, repr(called[0])) for module, called in names.items() if module not in hidden], batch_size(x))
    devices = sorted({t.device.index or 0 for t in tensors(x) if t.is_cuda})
    with torch.random.fork_rng(devices), statistics_kept(training), torch.no_grad():
        watched(seen, x, tally)
    return LayerTable(_info(module, called, tally.runs[module], module in hidden) for module, called in names.items())


def _whole_input(x: Tree, further: tuple[Any, ...]) -> Tree:
    if isinstance(x, UserDict):  # transformers' tokenizers return one
        x = dict(x)
    if further:
        if not isinstance(x, Tensor):
            raise complaint(TypeError, f"further inputs come after a tensor, got x of type {type(x).__name__}: pass one tuple.")
        x = (x, *further)
    check_structure(x)
    return x


class _Ran(NamedTuple):
    """What is known of one run of a layer: no value is kept."""

    shape: Any
    cam: int | None
    order: int


class _Tally(Run):
    """A run that changes nothing, and notes what every layer returns."""

    def __init__(self, sites: Sequence[Site], batch: int) -> None:
        super().__init__(sites, kept)
        self.batch = batch
        self.runs: defaultdict[nn.Module, list[_Ran]] = defaultdict(list)
        self.ended = 0
        self.layout: _Layout | None = None

    def layers(self) -> list[tuple[nn.Module, list[int]]]:
        return [(site.layer, [i]) for i, site in enumerate(self.sites)]  # each layer is one site

    def leave(self, layer: nn.Module, indices: Sequence[int], args: Sequence[Any], output: Any) -> Any:
        self.layout = _layout(layer, output) or self.layout
        self.runs[layer].append(_Ran(_shape(output), _channel_dim(output, self.batch, self.layout), self.ended))
        self.ended += 1
        return output


class _Layout(NamedTuple):
    """Where the last layer that is sure of it had its channels, how many, and the dimensions of its value."""

    channel_dim: int
    channels: int
    dims: int


def _layout(layer: nn.Module, value: Tree) -> _Layout | None:
    channel_dim = 1 if isinstance(layer, _CHANNELS_SECOND) else -1 if isinstance(layer, _CHANNELS_LAST) else None
    channels = next((getattr(layer, name) for name in _CHANNELS if hasattr(layer, name)), None)
    if isinstance(channels, tuple) and len(channels) == 1:  # a norm over the whole image has no say
        channels = channels[0]
    first = next(iter(tensors(value)), None)
    if channel_dim is None or not isinstance(channels, int) or first is None or first.dim() < 3:
        return None
    return _Layout(channel_dim, channels, first.dim())


_CHANNELS_SECOND = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_CHANNELS_LAST = (
    *(nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention),
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),  # since torch 2.4
)
#: What these call the number of the channels they put out.
_CHANNELS = ("out_channels", "num_features", "num_channels", "out_features", "normalized_shape", "embedding_dim", "embed_dim")


def _channel_dim(value: Tree, batch: int, layout: _Layout | None) -> int | None:
    """The `channel_dim` for a CAM at this value, None where there is none."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_nested or value.dim() < 3:
        return None
    if layout is None:
        channel_dim = 1 if value.dim() > 3 else None  # tokens or a series: not to be told
    else:
        dims = layout.channel_dim, -layout.channel_dim
        alike = layout.channel_dim if value.dim() == layout.dims else None
        channel_dim = next((dim for dim in dims if value.shape[dim] == layout.channels), alike)
    if channel_dim is None or value.shape[0] != batch:  # a value that is not batch first has no row per example
        return None
    space = value.shape[2:] if channel_dim == 1 else value.shape[1:-1]
    return channel_dim if any(size > 1 for size in space) else None


def _shape(value: Any) -> Any:
    """The shapes of the tensors in a value, in its structure."""
    if isinstance(value, Tensor):
        return None if value.is_nested else value.shape
    if isinstance(value, Mapping):
        return {name: _shape(part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _shape(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return tuple(map(_shape, value))
    return None


def _info(layer: nn.Module, names: Sequence[str], runs: Sequence[_Ran], hidden: bool) -> LayerInfo:
    cams = {ran.cam for ran in runs}
    cam = cams.pop() if len(cams) == 1 else None
    order = runs[-1].order if runs else None
    shapes = tuple(ran.shape for ran in runs)
    numbers = sum(parameter.numel() for parameter in layer.parameters())
    note = _note(layer, len(runs), hidden)
    return LayerInfo(names[0], type(layer).__name__, len(runs), shapes, numbers, cam, order, tuple(names[1:]), note)


def _note(layer: nn.Module, runs: int, hidden: bool) -> str:
    if hidden:
        return "inside a compiled or scripted module: pass the model before it was"
    if runs:
        return "" if runs == 1 else f"say which: call=0 to {runs - 1}, or -1"
    if isinstance(layer, (nn.ModuleList, nn.ModuleDict)):
        return "a container, never called: name a layer inside"
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        return "used by nn.MultiheadAttention without a call: name that"
    if isinstance(layer, (nn.ParameterList, nn.ParameterDict)):
        return "holds parameters, and is never called"
    return "does not run: the forward pass does not call it"
