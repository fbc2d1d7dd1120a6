"""How one value per example is taken from an output that holds several tensors, as it is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .._types import attributable
from .._words import kind_of

_ROWS = (list, tuple, deque)
_FROM_NUMPY = "target=lambda output: torch.from_numpy(output)[:, 3]"


def several(output: Any, size: int | None) -> str:
    """What there is to say of an output of which a target cannot tell what is meant, but for a callable one."""
    found = list(_parts(output))
    if found:
        text = f"the model's output is {_article(type(output).__name__)} with {len(found)} tensors: pass a callable target that"
        return f"{text} picks one value per example, such as target=lambda output: {picking(output, size)}."
    if output is None:
        return "the model's output is None: its forward has to return what is to be explained."
    if isinstance(output, np.ndarray):
        text = "the model's output is an array of numpy, which has no gradient"
        return f"{text}: return the tensor that it was made of, or for ablation pass {_FROM_NUMPY}."
    text = f"the model's output is {kind_of(output)}, in which no tensors are found"
    return f"{text}: return a tensor, or pass a callable target that makes one value per example of it, a tensor [N]."


def picking(output: Any, size: int | None) -> str:
    """The expression, of `size` examples: where they come first, else of the first tensor that has a gradient."""
    if isinstance(output, (list, tuple)) and len(output) == size and all(isinstance(one, Mapping) for one in output):
        where, t = _best(output[0], None, "one")  # one for each example, as detectors have it
        return (
            f"torch.stack([{where}{f'[{_row(t.shape[0])}]' if t.dim() else ''}{'.mean()' * (t.dim() > 1)} for one in output])"
        )
    where, t = _best(output, size, "output")
    row = f"[:, {_row(t.shape[1])}]" if t.dim() > 1 else ""
    return where + row + (".flatten(1).mean(1)" if t.dim() > 2 else "")


def _row(size: int) -> int:
    return min(3, max(size - 1, 0))


def _best(output: Any, size: int | None, name: str) -> tuple[str, Tensor]:
    found = [(name + where, t) for where, t in _parts(output)]
    floats = [(where, t) for where, t in found if attributable(t)] or found
    fitting = [(where, t) for where, t in floats if t.dim() and t.shape[0] == size] if size is not None else []
    return (fitting or sorted(floats, key=lambda pair: pair[1].dim() == 0 and name == "output"))[0]


def _parts(output: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, and how each is reached."""
    if isinstance(output, Tensor):
        yield "", output
        return
    if isinstance(output, Mapping):
        items = [(f"[{key!r}]", part) for key, part in output.items()]
    elif isinstance(output, _ROWS):
        items = [(f"[{i}]", part) for i, part in enumerate(output)]
    else:
        items = [(f".{name}", part) for name, part in getattr(output, "__dict__", {}).items() if name[:1] != "_"]
    for where, part in items:
        if isinstance(part, (Tensor, Mapping, *_ROWS)):
            yield from ((where + rest, t) for rest, t in _parts(part))


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"
