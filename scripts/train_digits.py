"""Train the demo's network: makes ``funattr/_demo/digits.pt``, in a few seconds on a CPU.

    python scripts/train_digits.py

Data: the 1797 handwritten 8 x 8 digits of scikit-learn, 1347 to train on and 450 held out, split as told in
`funattr._demo.model.load_digits`. Training never sees the held-out digits; they are counted for the last line printed:

    test: 442 of 450 correct (98.2%)

The seed is fixed and one thread adds the numbers in one order, so that the same PyTorch on the same kind of processor
writes the same bytes; elsewhere the weights differ by rounding, and the accuracy by a digit or two.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from funattr._demo.model import WEIGHTS, Digits, DigitsNet, load_digits

EPOCHS = 40
BATCH = 64


def train(digits: Digits, epochs: int = EPOCHS) -> DigitsNet:
    """A network trained from seed 0, its weights rounded to float16 as they are shipped."""
    torch.manual_seed(0)
    model = DigitsNet()
    batches = -(-len(digits.images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(digits.images)), BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.images[batch]), digits.classes[batch]).backward()
            optimizer.step()
            schedule.step()
    # Half the bytes, and what is measured below is what is shipped.
    return model.half().float().eval()


def n_correct(model: DigitsNet, digits: Digits) -> int:
    """How many of the digits the network gets right."""
    with torch.no_grad():
        return int((model(digits.images).argmax(1) == digits.classes).sum())


def save(model: DigitsNet, out: Path) -> None:
    """Write the weights as float16."""
    buffer = io.BytesIO()  # torch.save writes a file's own name into it: the same bytes wherever they go
    torch.save({name: value.half() for name, value in model.state_dict().items()}, buffer)
    out.write_bytes(buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo's network on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the weights (default: in the package)")
    out = parser.parse_args(argv).out

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits, held_out = load_digits()
    model = train(digits)
    save(model, out)
    correct, total = n_correct(model, held_out), len(held_out.images)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB, {sum(p.numel() for p in model.parameters())} parameters")
    print(f"train: {n_correct(model, digits)} of {len(digits.images)} correct")
    print(f"test: {correct} of {total} correct ({correct / total:.1%})")


if __name__ == "__main__":
    main()
