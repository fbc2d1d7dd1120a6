"""What the command leaves behind of an answer: a page, a picture, or the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .asked import Asked
from .rows import Contrast
from .words import mistake, writing

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".html", ".json", ".npz", ".safetensors", ".png")


class Kept(NamedTuple):
    """An answer and all that was found about it."""

    asked: Asked
    log_probs: Tensor
    columns: Sequence[str]
    filler: int | None
    contrast: Contrast | None
    attributions: Mapping[str, Tensor]  # [T, C] each

    @property
    def answer_start(self) -> int:
        return len(self.asked.read.ids) + len(self.asked.start.ids)

    @property
    def rows(self) -> tuple[list[str], list[float]]:
        """The tokens that have a row, and their log-probabilities."""
        texts, logs = self.asked.wrote.texts, self.log_probs.tolist()
        if self.contrast is None:
            return texts, logs
        return [self.contrast.yes], [logs[self.contrast.place]]


def check(out: Path) -> None:
    """Refuse a file that cannot be written, before the work.

    Raises:
        argparse.ArgumentError: its name ends otherwise, or its folder does not exist.
    """
    if out.suffix.lower() not in SUFFIXES or out.is_dir():
        raise mistake(f"for an answer --out must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {str(out)!r}.")
    if not out.parent.is_dir():
        raise mistake(f"the folder {str(out.parent)!r} of --out does not exist: make it first, or choose another.")


def write(out: Path, kept: Kept) -> None:
    """Write the file that its name asks for.

    Raises:
        argparse.ArgumentError: the file cannot be written.
        ImportError: what draws or writes it is not installed.
    """
    writers = {".html": _page, ".json": _json, ".npz": _npz, ".safetensors": _safetensors, ".png": _picture}
    with writing(out):
        writers[out.suffix.lower()](out, kept)


def title_of(kept: Kept) -> str:
    """What the page and the picture are about."""
    prompt, answer = (text if len(text) <= 60 else f"{text[:57]}..." for text in (kept.asked.prompt, kept.asked.answer))
    if kept.contrast is not None:
        return f"{prompt!r}: why {kept.contrast.yes!r} rather than {kept.contrast.no!r}?"
    return f"{prompt!r}: why {answer!r}?"


def _page(out: Path, kept: Kept) -> None:
    from funattr import viz

    answer, logs = kept.rows
    known = logs if all(abs(p) < float("inf") for p in logs) else None  # a token that the model rules out has no number
    viz.answer(list(kept.columns), answer, kept.attributions, log_probs=known, title=title_of(kept), out=out)


def _picture(out: Path, kept: Kept) -> None:
    from funattr import viz

    names = list(kept.attributions)
    values = [kept.attributions[name].sum(0) for name in names]
    titles = [f"{title_of(kept)}\n{name}" for name in names]
    viz.text([list(kept.columns)] * len(names), values, titles=titles, scale="example", out=out)


def _json(out: Path, kept: Kept) -> None:
    every = kept.asked.every
    facts: dict[str, Any] = {
        "prompt": kept.asked.prompt,
        "answer": kept.asked.answer,
        "input_ids": every.ids,
        "tokens": every.texts,
        "answer_start": kept.answer_start,
        "log_probs": _short(kept.log_probs),
        "columns": list(kept.columns),
        "baseline_id": kept.filler,
        "attributions": {name: [_short(row) for row in values] for name, values in kept.attributions.items()},
    }
    if kept.contrast is not None:
        facts["contrast"] = kept.contrast._asdict()
    lines = [f" {json.dumps(key)}: {_one_line(value)}" for key, value in facts.items()]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(values: Tensor) -> list[float | None]:
    return [float(f"{value:.9g}") if abs(value) < float("inf") else None for value in values.tolist()]


def _numbers(kept: Kept) -> dict[str, Tensor]:
    import torch

    known = {
        "input_ids": torch.tensor(kept.asked.every.ids),
        "answer_start": torch.tensor(kept.answer_start),
        "log_probs": kept.log_probs.float(),
    }
    return known | {name: values.float().contiguous() for name, values in kept.attributions.items()}


def _npz(out: Path, kept: Kept) -> None:
    import numpy as np

    arrays: Any = {name: values.numpy() for name, values in _numbers(kept).items()}
    with out.open("wb") as file:
        np.savez(file, **arrays)


def _safetensors(out: Path, kept: Kept) -> None:
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        raise ImportError('.safetensors files need safetensors: pip install "funattr[cli]".') from error
    save_file(_numbers(kept), out)
