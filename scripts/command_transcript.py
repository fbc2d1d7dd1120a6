"""Run the commands of docs/command.md, and write what they print into the page: ``python scripts/command_transcript.py``.

The network of the page is trained here, in a second, to tell noisy circles from squares.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from funattr.__main__ import main as funattr

PAGE = Path(__file__).parents[1] / "docs" / "command.md"
SIDE = 32


def shapes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``[count, 1, 32, 32]`` in [0, 1] of circles (0) and the outlines of squares (1), on noise."""
    classes = torch.arange(count) % 2
    radius = torch.randint(5, 9, (count, 1, 1), generator=generator)
    middle = torch.randint(9, SIDE - 9, (count, 2, 1, 1), generator=generator)
    rows, columns = (torch.arange(SIDE).view(shape) - middle[:, i] for i, shape in enumerate([(1, SIDE, 1), (1, 1, SIDE)]))
    circle = ((rows**2 + columns**2).sqrt() - radius).abs() < 1.2
    square = (torch.maximum(rows.abs(), columns.abs()) - radius).abs() < 1
    ink = torch.where(classes[:, None, None] == 0, circle, square).float()
    noise = 0.3 * torch.rand(count, SIDE, SIDE, generator=generator)
    return (0.7 * ink + noise)[:, None], classes


def train(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.kaiming_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(120):
        x, classes = shapes(64, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), classes).backward()
        optimizer.step()


def prepare(page: str) -> None:
    """Make the files that the page speaks of, in the current folder."""
    code = re.search(r"```python\n(# my_net\.py\n.*?)```", page, re.S)
    assert code is not None
    Path("my_net.py").write_text(code[1])
    sys.modules.pop("my_net", None)
    importlib.invalidate_caches()
    model: nn.Module = importlib.import_module("my_net").Net()
    train(model)
    torch.save(model.state_dict(), "my_net.pt")
    x, classes = shapes(200, torch.Generator().manual_seed(1))
    right = (model(x).argmax(1) == classes).float().mean()
    assert right > 0.97, f"only {right:.0%} right"
    Image.fromarray((255 * x[1, 0]).round().byte().numpy()).save("shape.png")


def replay(page: str) -> str:
    """The page, with what its commands print now."""

    def run(block: re.Match[str]) -> str:
        lines = []
        for line in block[1].splitlines():
            if line.startswith("$ "):
                lines.append(line)
                out = io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                    funattr(shlex.split(line)[2:])
                lines += out.getvalue().splitlines()
        return "```console\n" + "\n".join(lines) + "\n```"

    return re.sub(r"```console\n(.*?)\n```", run, page, flags=re.S)


@contextlib.contextmanager
def workplace(page: str) -> Iterator[Path]:
    """A fresh folder with the page's files, as the current one."""
    before, path = os.getcwd(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            prepare(page)
            yield Path(folder)
        finally:
            os.chdir(before)
            sys.path[:] = path
            sys.modules.pop("my_net", None)


def main() -> None:
    page = PAGE.read_text()
    with workplace(page) as folder:
        PAGE.write_text(replay(page))
        shutil.copy(folder / "explained.png", PAGE.with_name("command.png"))


if __name__ == "__main__":
    main()
