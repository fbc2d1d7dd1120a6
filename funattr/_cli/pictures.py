"""Pictures, made ready as the model wants them."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dataset._pictures import opened as _opened
from ..dataset._pictures import pillow, values_of
from .source import Source
from .words import answered, mistake

if TYPE_CHECKING:
    from torch import Tensor


class Ready(NamedTuple):
    """A picture made ready."""

    x: Tensor
    picture: Tensor
    """``[1, C, H, W]`` in [0, 1]: what the model sees."""
    how: str
    mean: Sequence[float] | None
    std: Sequence[float] | None


def opened(file: Path | None, data: bytes | None, name: str) -> Any:
    """The image in a file, or in what came through standard input.

    Raises:
        argparse.ArgumentError: there is no such file, or no image in it.
        ImportError: pillow is missing.
    """
    pillow()
    if data is not None:
        with answered():
            return _own_words(io.BytesIO(data), name)
    assert file is not None
    try:
        there = file.exists()
    except (OSError, ValueError):  # too long to be a name
        there = False
    if not there:
        raise mistake(f"there is no file {str(file)!r}: the model takes images.")
    return _own_words(file, str(file))


def _own_words(file: Any, name: str) -> Any:
    try:
        return _opened(file, name)
    except ValueError as error:
        raise mistake(str(error)) from error


def ready(source: Source, image: Any, name: str, options: argparse.Namespace) -> Ready:
    """The picture as the model's input.

    Raises:
        argparse.ArgumentError: the options do not fit, or the model's preprocessing fails.
    """
    import torch

    asked = [f"--{what}" for what in ("size", "mean", "std", "channels") if getattr(options, what) is not None]
    if source.how and asked:
        raise mistake(f"{' and '.join(asked)} would change what the model brings: images are made ready {source.how}.")
    x, how = transformed(source, image, options, name)
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[0] != 1 or not x.is_floating_point():
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise mistake(f"an image made ready {how} must be a floating-point tensor [C, H, W] or [1, C, H, W], got {got}.")
    mean, std = source.mean, source.std
    if source.image is None:
        mean, std = options.mean or (0.0,), options.std or (1.0,)
    return Ready(x.to(options.device), _picture(x, mean, std), how, mean, std)


def transformed(source: Source, image: Any, options: argparse.Namespace, name: str = "the image") -> tuple[Any, str]:
    """The input that an image becomes, with its batch, and a few words on how."""
    import torch

    channels = source.channels or options.channels or _channels(source, image)
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB"))
    if source.image is None:
        x, how = _plain(image, options)
    else:
        with answered(f"making {name!r} ready {source.how} failed"):
            x, how = source.image(image), source.how
    return (x[None] if isinstance(x, torch.Tensor) and x.dim() == 3 else x), how


def _channels(source: Source, image: Any) -> int:
    """What the first convolution takes; without one, what the image has."""
    from torch import nn

    convolution = next((m for m in source.model.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is not None and convolution.in_channels in (1, 3, 4):
        return convolution.in_channels
    return 1 if image.mode in ("1", "L", "LA") else 3


def _plain(image: Any, options: argparse.Namespace) -> tuple[Tensor, str]:
    """By --size, --mean and --std; as it is without them."""
    import torch

    how = []
    if options.size is not None:
        height, width = options.size
        most = pillow().MAX_IMAGE_PIXELS
        if most is not None and height * width > 2 * most:  # where pillow refuses to read one
            raise mistake(f"--size {height}x{width} is more than a picture may have ({2 * most:,} pixels): take less.")
        image = image.resize((width, height), pillow().Resampling.BILINEAR)
        how.append(f"resized to {height} x {width}")
    x = values_of(image)
    for what, given in (("mean", options.mean), ("std", options.std)):
        if given is not None and len(given) not in (1, len(x)):
            raise mistake(f"--{what} has {len(given)} values for {len(x)} channels: give one, or one per channel.")
    if options.std is not None and min(options.std) <= 0:
        raise mistake("--std must be positive: values are divided by it.")
    if options.mean is not None:
        x = x - torch.tensor(options.mean)[:, None, None]
        how.append(f"less {_spelled(options.mean)}")
    if options.std is not None:
        x = x / torch.tensor(options.std)[:, None, None]
        how.append(f"over {_spelled(options.std)}")
    if options.mean is None and options.std is None:
        how.append("not normalised")
    return x, ", ".join(["values in [0, 1]", *how])


def _spelled(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _picture(x: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """What was normalised, put back, as far as it is known how."""
    import torch

    shown = x.detach().cpu().float()
    for values, put_back in ((std, torch.mul), (mean, torch.add)):
        if values is not None:
            shown = put_back(shown, torch.tensor(list(values), dtype=shown.dtype)[:, None, None])
    if mean is not None or std is not None:
        shown = shown.clamp(0, 1)
    return shown if shown.shape[1] in (1, 3) else shown.mean(1, keepdim=True)
