"""What goes into the model: an image file or a text, made ready as the model wants it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .source import Source
from .words import answered, mistake, one_line

if TYPE_CHECKING:
    from torch import Tensor

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Input(NamedTuple):
    """One example, batch first, and how to show it."""

    x: Any
    told: str
    """A line that says what it is and how it was made ready."""
    picture: Tensor | None = None
    """``[1, C, H, W]`` in [0, 1], what the model sees before its values are normalised."""
    tokens: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    """What was subtracted from values in [0, 1], and then divided by: None where that is not known."""
    std: Sequence[float] | None = None


def read(source: Source, given: str, options: argparse.Namespace) -> Input:
    """The input that the user gave: the name of a file, or a text.

    Raises:
        argparse.ArgumentError: there is no such file, or the model does not take it.
        ImportError: pillow is missing.
    """
    text_only = source.text is not None and source.image is None
    if text_only or (source.text is not None and not _looks_like_a_file(given)):
        return _text(source, given, options)
    return _image(source, _opened(given), given, options)


def dummy(source: Source, options: argparse.Namespace) -> Input:
    """An input of the right shape, where the user gave none: a grey image, or a short text."""
    if source.text is not None and source.image is None:
        return _text(source, "a text", options)
    if source.how and source.text is None:
        return _image(source, _pillow().new("RGB", (256, 256), (128, 128, 128)), "a grey image", options)
    if options.size is None:
        raise mistake(
            "say what goes into the model: an image file or a text after the options, or the size of its images with --size."
        )
    height, width = options.size
    return _image(source, _pillow().new("RGB", (width, height), (128, 128, 128)), "a grey image", options)


def _looks_like_a_file(given: str) -> bool:
    if Path(given).suffix.lower() in _IMAGES:
        return True
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long to be a name
        return False


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError('images need pillow: pip install "funattr[cli]".') from error
    return Image


def _opened(given: str) -> Any:
    pillow = _pillow()
    path = Path(given)
    if not _looks_like_a_file(given) or not path.exists():
        raise mistake(f"there is no file {given!r}: the model takes images.")
    if path.is_dir():
        raise mistake(f"{given!r} is a folder: name one image.")
    try:
        with path.open("rb") as file:
            image = pillow.open(file)
            image.load()
    except pillow.UnidentifiedImageError as error:
        raise mistake(f"{given!r} is not an image that pillow can read.") from error
    except Exception as error:  # truncated, not permitted, too large, ...
        raise mistake(f"cannot read the image {given!r}: {one_line(error)}") from error
    if image.mode.startswith(("I", "F")):
        raise mistake(f"{given!r} has more than 8 bits per value (mode {image.mode}): convert it to 8 bits first.")
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _image(source: Source, image: Any, name: str, options: argparse.Namespace) -> Input:
    import torch

    asked = [f"--{what}" for what in ("size", "mean", "std", "channels") if getattr(options, what) is not None]
    if source.how and asked:
        raise mistake(f"{' and '.join(asked)} would change what the model brings: images are made ready {source.how}.")
    before = f"{image.width} x {image.height}"
    channels = source.channels or options.channels or _channels(source, image)
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB"))
    mean, std = source.mean, source.std
    if source.image is not None:
        with answered(f"making {name!r} ready {source.how} failed"):
            x = source.image(image)
        how = source.how
    else:
        x, how = _plain(image, options)
        mean, std = options.mean or (0.0,), options.std or (1.0,)
    if isinstance(x, torch.Tensor) and x.dim() == 3:
        x = x[None]
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[0] != 1 or not x.is_floating_point():
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise mistake(f"an image made ready {how} must be a floating-point tensor [C, H, W] or [1, C, H, W], got {got}.")
    told = f"{name}, {before}, {how}: {list(x.shape)}"
    return Input(x.to(options.device), told, _picture(x, mean, std), None, mean, std)


def _channels(source: Source, image: Any) -> int:
    """What the first convolution takes; without one, what the image has."""
    from torch import nn

    convolution = next((m for m in source.model.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is not None and convolution.in_channels in (1, 3, 4):
        return convolution.in_channels
    return 1 if image.mode in ("1", "L", "LA") else 3


def _plain(image: Any, options: argparse.Namespace) -> tuple[Tensor, str]:
    """By --size, --mean and --std; as it is without them."""
    import numpy as np
    import torch

    how = []
    if options.size is not None:
        height, width = options.size
        image = image.resize((width, height), _pillow().Resampling.BILINEAR)
        how.append(f"resized to {height} x {width}")
    values = torch.from_numpy(np.array(image)).float() / 255
    x = values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()
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


def _text(source: Source, given: str, options: argparse.Namespace) -> Input:
    import torch

    asked = [f"--{what}" for what in ("size", "mean", "std", "channels") if getattr(options, what) is not None]
    if asked:
        raise mistake(f"{' and '.join(asked)} belongs to images, and this is a text.")
    suffix = Path(given).suffix.lower() if len(given) < 256 else ""
    if suffix in _IMAGES and " " not in given:
        raise mistake(f"{options.model} takes a text, and {given!r} is the name of an image.")
    name = "the text"
    if suffix == ".txt" and " " not in given:
        if not Path(given).is_file():
            raise mistake(f"there is no file {given!r}.")
        with answered(f"cannot read {given!r}"):
            name, given = given, Path(given).read_text(encoding="utf-8").strip()
    if not given.strip():
        raise mistake("the text is empty: write it after the options, in quotes.")
    assert source.text is not None
    with answered(f"making the text ready {source.how} failed"):
        made = source.text(given)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], (list, tuple))):
        raise mistake(
            f"a text made ready {source.how} must be a pair, the input and the list of its tokens, got {type(made).__name__}."
        )
    x, tokens = made
    if isinstance(x, torch.Tensor):
        x = x.to(options.device)
    elif isinstance(x, Mapping):
        x = {key: value.to(options.device) for key, value in x.items()}
    else:
        raise mistake(f"a text made ready {source.how} must be a tensor [1, T] or a dict of tensors, got {type(x).__name__}.")
    return Input(x, f"{name}, {source.how}: {len(tokens)} tokens", None, [str(token) for token in tokens])
