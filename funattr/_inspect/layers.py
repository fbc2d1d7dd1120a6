"""Which layers a model has: what ``layer=`` may name, seen in one forward pass."""

from __future__ import annotations

import dataclasses
import html
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core.door import check_structure, statistics_kept
from .._core.passes import watched
from .._core.tap import Run, Site
from .._core.where import bind, sees_nothing_inside
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
        head, *rows = _HEAD, *map(_cells, self)
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(_HEAD))]
        lines = [
            "  ".join(
                cell.rjust(width) if i in _NUMBERS else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
            )
            for row in (head, *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = _HEAD, *map(_cells, self)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{body}</table>"


_HEAD = ("layer", "type", "runs", "value", "parameters", "CAM", "note")
_NUMBERS = (2, 4)


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
    root = bind(model).root
    if root is None:
        raise complaint(
            ValueError,
            "the layers of a plain function have no names: pass the nn.Module, or bind extra arguments with "
            "functools.partial(model, ...) in place of a lambda.",
        )
    if args:
        if not isinstance(x, Tensor):
            raise complaint(TypeError, f"further inputs come after a tensor, got x of type {type(x).__name__}: pass one tuple.")
        x = (x, *args)
    elif isinstance(x, UserDict):  # transformers' tokenizers return one
        x = dict(x)
    check_structure(x)
    names: dict[nn.Module, list[str]] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(module, []).append(name)
    hidden = _inside_opaque(root)
    tally = _Tally([Site(module, repr(called[0])) for module, called in names.items() if module not in hidden], batch_size(x))
    devices = sorted({t.device.index or 0 for t in tensors(x) if t.is_cuda})
    with (
        torch.random.fork_rng(devices),
        statistics_kept([module for module in (root, *names) if getattr(module, "training", False)]),
        torch.no_grad(),
    ):
        watched(bind(model), x, tally)
    return LayerTable(_info(module, called, tally, hidden) for module, called in names.items())


def _inside_opaque(root: nn.Module) -> set[nn.Module]:
    """The modules that taps do not reach: what a scripted or compiled module holds, and modules compiled in place."""
    hidden: set[nn.Module] = set()
    for module in root.modules():
        if sees_nothing_inside(module):
            inside = set(module.modules())
            in_place = getattr(module, "_compiled_call_impl", None) is not None
            hidden |= inside if in_place else inside - {module}
    return hidden


class _Seen:
    """What is known of a layer during the pass."""

    __slots__ = ("cams", "order", "shapes")

    def __init__(self) -> None:
        self.shapes: list[Any] = []
        self.cams: set[int | None] = set()
        self.order: int | None = None


class _Tally(Run):
    """A run that changes nothing, and notes the shape of every value of every layer; values themselves are not kept."""

    def __init__(self, sites: Sequence[Site], batch: int) -> None:
        super().__init__(sites, lambda i, value, shared: value)
        self.batch = batch
        self.found = {site.layer: _Seen() for site in sites}
        self.ended = 0
        self.layout: _Layout | None = None

    def layers(self) -> list[tuple[nn.Module, list[int]]]:
        return [(site.layer, [i]) for i, site in enumerate(self.sites)]  # each layer is one site

    def reach_output(self, indices: Sequence[int], args: tuple[Any, ...], output: Any) -> Any:
        layer = self.sites[indices[0]].layer
        seen = self.found[layer]
        self.layout = _layout(layer, output) or self.layout
        seen.shapes.append(_shape(output))
        seen.cams.add(_channel_dim(output, self.batch, self.layout))
        seen.order = self.ended
        self.ended += 1
        return output


class _Layout(NamedTuple):
    """Where the last layer that is sure of it had its channels, how many, and the dimensions of its value."""

    channel_dim: int
    channels: int
    dims: int


def _layout(layer: nn.Module, value: Tree) -> _Layout | None:
    if isinstance(layer, _CHANNELS_SECOND):
        channel_dim = 1
    elif isinstance(layer, _CHANNELS_LAST):
        channel_dim = -1
    else:
        return None
    channels = next((getattr(layer, name) for name in _CHANNELS if hasattr(layer, name)), None)
    if isinstance(channels, (tuple, torch.Size)):
        channels = channels[0] if len(channels) == 1 else None  # a norm over the whole image has no say
    if not isinstance(channels, int):
        return None
    first = value if isinstance(value, Tensor) else next(iter(tensors(value)), None)
    return _Layout(channel_dim, channels, first.dim()) if first is not None and first.dim() > 2 else None


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
    elif value.shape[layout.channel_dim] == layout.channels:
        channel_dim = layout.channel_dim
    elif value.shape[-layout.channel_dim] == layout.channels:
        channel_dim = -layout.channel_dim
    else:
        channel_dim = layout.channel_dim if value.dim() == layout.dims else None
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


def _info(layer: nn.Module, names: Sequence[str], tally: _Tally, hidden: set[nn.Module]) -> LayerInfo:
    seen = tally.found.get(layer) or _Seen()
    runs = len(seen.shapes)
    if layer in hidden:
        note = "inside a compiled or scripted module: pass the model before it was"
    elif not runs:
        note = _why_not(layer)
    else:
        note = "" if runs == 1 else f"say which: call=0 to {runs - 1}, or -1"
    numbers = sum(parameter.numel() for parameter in layer.parameters())
    cam = seen.cams.pop() if len(seen.cams) == 1 else None
    return LayerInfo(names[0], type(layer).__name__, runs, tuple(seen.shapes), numbers, cam, seen.order, tuple(names[1:]), note)


def _why_not(layer: nn.Module) -> str:
    if isinstance(layer, (nn.ModuleList, nn.ModuleDict)):
        return "a container, never called: name a layer inside"
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        return "used by nn.MultiheadAttention without a call: name that"
    if isinstance(layer, (nn.ParameterList, nn.ParameterDict)):
        return "holds parameters, and is never called"
    return "does not run: the forward pass does not call it"
