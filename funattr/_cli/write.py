"""What the command leaves behind: a picture, a page, or the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .inputs import Input
from .words import mistake

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".png", ".html", ".npz", ".safetensors")


class Found(NamedTuple):
    """An attribution, and what is needed to draw it."""

    name: str
    attribution: Any
    layer: str | None
    """Where it is, None at the input."""
    channel_dim: int
    grouped: bool
    """Whether every channel holds the value of all of them: a mean draws it, not a sum."""


def check(out: Path) -> None:
    """Refuse a file that cannot be written, before the work."""
    if out.suffix.lower() not in SUFFIXES:
        raise mistake(f"--out must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {str(out)!r}.")
    if out.is_dir():
        raise mistake(f"--out must name a file, and {str(out)!r} is a folder.")
    if not out.parent.is_dir():
        raise mistake(f"the folder {str(out.parent)!r} of --out does not exist: make it first, or choose another.")


def write(out: Path, given: Input, found: Sequence[Found], label: str, facts: Mapping[str, str]) -> None:
    """Write the file that its name asks for.

    Raises:
        argparse.ArgumentError: there is nothing to draw, or the file cannot be written.
        ImportError: what draws or writes it is not installed.
    """
    kind = out.suffix.lower()
    try:
        if kind == ".npz":
            import numpy as np

            arrays: Any = {name: t.numpy() for name, t in _numbers(given, found).items()}
            with out.open("wb") as file:
                np.savez(file, **arrays)
        elif kind == ".safetensors":
            _save_safetensors(out, _numbers(given, found), facts)
        else:
            _draw(out, given, found, label)
    except OSError as error:
        raise mistake(f"cannot write {str(out)!r}: {error.strerror or error}.") from error


def _save_safetensors(out: Path, values: dict[str, Tensor], facts: Mapping[str, str]) -> None:
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        raise ImportError('.safetensors files need safetensors: pip install "funattr[cli]".') from error
    save_file(values, out, metadata=dict(facts))


def _numbers(given: Input, found: Sequence[Found]) -> dict[str, Tensor]:
    """The input and the attributions as they are, nothing normalised, by name."""
    values: dict[str, Tensor] = {}
    for name, value in [("input", given.x), *((each.name, each.attribution) for each in found)]:
        for key, tensor in _flat(name, value):
            values[key] = (
                tensor.detach().cpu().float().contiguous() if tensor.is_floating_point() else tensor.cpu().contiguous()
            )
    return values


def _flat(name: str, value: Any) -> list[tuple[str, Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        return [(name, value)]
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    return [leaf for key, part in parts for leaf in _flat(f"{name}.{key}", part)]


def _draw(out: Path, given: Input, found: Sequence[Found], label: str) -> None:
    from funattr import viz

    page = out.suffix.lower() == ".html"
    if given.tokens is not None:
        tokens = list(given.tokens)
        values = {each.name: _per_token(each, len(tokens)) for each in found}
        if page:
            viz.page(tokens, values, titles=[label], title=label, out=out)
        else:  # a scale for each: methods have different units
            titles = [f"{name}, {label}" for name in values]
            viz.text([tokens] * len(values), list(values.values()), titles=titles, scale="example", out=out)
        return
    assert given.picture is not None
    height, width = given.picture.shape[-2:]
    maps = {_title(each): _as_map(each, height, width) for each in found}
    if page:
        viz.page(given.picture, maps, titles=[label], title=label, out=out)
    else:
        viz.show(given.picture, maps, titles=[label], scale="method", out=out)


def _title(found: Found) -> str:
    return found.name if found.layer is None else f"{found.name} at {found.layer}"


def _per_token(found: Found, count: int) -> Tensor:
    import torch

    value = found.attribution
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[:2] != (1, count):
        raise _cannot_draw(found, f"a value per token, [1, {count}, C]")
    return _joined(value.flatten(2) if value.dim() > 2 else value[..., None], -1, found.grouped)[0, :, 0]


def _as_map(found: Found, height: int, width: int) -> Tensor:
    """``[1, 1, h, w]``: channels summed, tokens laid out as they were in the image."""
    import torch

    value = found.attribution
    if isinstance(value, torch.Tensor) and value.dim() in (3, 4):
        joined = _joined(value, found.channel_dim, found.grouped)
        if value.dim() == 4:
            return joined if found.channel_dim == 1 else joined.movedim(-1, 1)
        grid = _grid(joined.numel(), height, width)
        if found.channel_dim == -1 and grid is not None:
            rows, columns = grid
            return joined[:, -rows * columns :, 0].reshape(1, 1, rows, columns)
    raise _cannot_draw(found, "a height and a width")


def _joined(value: Tensor, channel_dim: int, grouped: bool) -> Tensor:
    return value.mean(channel_dim, keepdim=True) if grouped else value.sum(channel_dim, keepdim=True)


def _grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """The rows and columns of patches that `tokens` are, after a few that are none (class token, registers)."""
    for extra in range(min(tokens, 9)):
        rows = math.isqrt(round((tokens - extra) * height / width))
        if rows and (tokens - extra) % rows == 0 and (tokens - extra) // rows == round(rows * width / height):
            return rows, (tokens - extra) // rows
    return None


def _cannot_draw(found: Found, wanted: str) -> Exception:
    import torch

    where = "the input" if found.layer is None else f"layer {found.layer!r}"
    value = found.attribution
    got = f"of the shape {list(value.shape)}" if isinstance(value, torch.Tensor) else f"of type {type(value).__name__}"
    return mistake(f"{found.name} at {where} is {got}, without {wanted} to draw: choose another --layer, or --out with .npz.")
