"""Pictures in files: a folder of them is data, its file names are the ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: What pillow reads and people have; other files of a folder are passed over.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Pictures(NamedTuple):
    """The pictures below a folder, by number: as pillow's images, or as tensors where nobody makes them ready."""

    root: Path
    names: Sequence[str]
    """Below the folder, with ``/`` between the parts: they are the ids."""
    raw: bool


class Read(torch.utils.data.Dataset[Any]):
    """Pictures, read when they are asked for."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures.names)

    def __getitem__(self, index: int) -> Any:
        image = opened(self.pictures.root / self.pictures.names[index])
        return image if self.pictures.raw else in_unit_range(image)


def names_in(root: Path) -> list[str]:
    """The pictures below a folder, in the order of their names; what is hidden is passed over."""
    names = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


#: A part of a run, whose folder may lie among the pictures.
_PART = re.compile(r"part-\d{8}-[0-9a-f]{8}\.parquet")


def are_tables(root: Path) -> bool:
    """Whether a folder is one of Parquet files, and not of pictures, whatever a run has left there."""
    found = list(root.rglob("*.parquet"))
    return any(not _PART.fullmatch(path.name) for path in found) or (bool(found) and not names_in(root))


def pillow() -> Any:
    """pillow's module for images.

    Raises:
        ImportError: pillow is not installed; the message says how to.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError('images need pillow: pip install "funattr[cli]".') from error
    return Image


def opened(file: Any, name: str | None = None) -> Any:
    """The image in a file, upright: of several, the first. How many frames there are is in its `info`.

    Raises:
        ValueError: it is no image, is damaged, or has more than 8 bits per value.
        ImportError: pillow is not installed.
    """
    images, name = pillow(), str(file) if name is None else name
    try:
        with images.open(file) as found:
            image = found.copy()  # which reads all of it, and lets the file go
            image.info["frames"] = getattr(found, "n_frames", 1)
    except images.UnidentifiedImageError as error:
        raise ValueError(f"{name!r} is not an image that pillow can read.") from error
    except Exception as error:  # truncated, not permitted, too large, ...
        raise ValueError(f"cannot read the image {name!r}: {' '.join(str(error).split())}") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{name!r} has more than 8 bits per value (mode {image.mode}): convert it to 8 bits first.")
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def in_unit_range(image: Any) -> Tensor:
    """An image as ``[C, H, W]`` with values in [0, 1]: one channel of a grey one, else three."""
    return values_of(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def values_of(image: Any) -> Tensor:
    """An image as it is, ``[C, H, W]`` with values in [0, 1]."""
    values = torch.from_numpy(np.array(image)).float() / 255
    return values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()
