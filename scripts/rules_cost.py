"""What rules cost beside the gradient, and beside zennit: ``python scripts/rules_cost.py``.

The time of `lrp` over that of `input_x_gradient`, and FLOPs alike, on a ResNet-18, a ViT-tiny and a small BERT with random
weights (from transformers). Of zennit, where it is installed, EpsilonPlusFlat on the same ResNet-18. The calls take turns; the
times are the median and the least of several, of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import funattr as fa

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rivals import with_torchvision

R = fa.rules
PARTS = ("attribution", "canonizers", "composites")


class Logits(nn.Module):
    """A model of transformers as one that returns a tensor."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits  # type: ignore[no-any-return]  # transformers' outputs are Any here


def nets() -> Iterator[tuple[str, nn.Module, Tensor, str | None]]:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    basic = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    small = {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
    tiny = {"num_hidden_layers": 12, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    yield "ResNet-18", Logits(ResNetForImageClassification(ResNetConfig(**basic))).eval(), image, None
    yield "ViT-tiny", Logits(ViTForImageClassification(ViTConfig(**tiny))).eval(), image, None
    bert = Logits(BertForSequenceClassification(BertConfig(**small))).eval()
    yield "BERT-small", bert, torch.randint(0, 30000, (2, 64)), "model.bert.embeddings.word_embeddings"


def zennit() -> list[Any] | None:
    """Its parts. To be asked for before transformers, which takes a torchvision that does not fit as it finds it."""
    try:
        return [with_torchvision(f"zennit.{part}") for part in PARTS]
    except (ImportError, RuntimeError, AttributeError):
        return None


def zennit_of(parts: list[Any], model: nn.Module, x: Tensor) -> Callable[[], object]:
    """EpsilonPlusFlat, batch norms merged; what it leaves out (a sum as a module) costs it nothing here."""
    attribution, canonizers, composites = parts
    composite = composites.EpsilonPlusFlat(canonizers=[canonizers.SequentialMergeBatchNorm()])
    start = torch.eye(model(x).shape[1])[[1]]

    def call() -> object:
        with attribution.Gradient(model, composite) as attributor:
            found: object = attributor(x, start)
        return found

    return call


def seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Of each call, the time of each round; the calls take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 2):  # two to warm up
        for name, call in calls.items():
            start = time.process_time()
            call()
            if i > 1:
                found[name].append(time.process_time() - start)
    return found


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = zennit()
    for name, model, x, layer in nets():
        sets = {"epsilon": R.epsilon(), "attn_lrp": R.attn_lrp(), "epsilon_plus": R.epsilon_plus()}
        if name == "ResNet-18":
            sets = {"epsilon": R.epsilon(), "epsilon_plus_flat": R.epsilon_plus_flat(), "alpha_beta": R.alpha_beta()}
        calls: dict[str, Callable[[], object]] = {
            "input_x_gradient": lambda m=model, x=x, at=layer: fa.input_x_gradient(m, x, layer=at, target=1),  # type: ignore[misc]  # mypy infers no lambda with defaults
            **{key: lambda m=model, x=x, at=layer, r=r: fa.lrp(m, x, layer=at, target=1, rules=r) for key, r in sets.items()},  # type: ignore[misc]  # likewise
        }
        change = getattr(model.model, "set_attn_implementation", None) if name != "ResNet-18" else None
        fused = getattr(getattr(model.model, "config", None), "_attn_implementation", None)
        if change is not None:
            change("eager")  # of fused attention on a CPU torch counts no FLOPs
        counted = {key: flops(call) for key, call in calls.items()}
        if change is not None:
            change(fused)
        if name == "ResNet-18" and parts is not None:
            calls["zennit's EpsilonPlusFlat"] = zennit_of(parts, model, x)
        taken = seconds(calls, rounds)
        floor = taken["input_x_gradient"]
        print(f"{name}: input_x_gradient {1e3 * statistics.median(floor):.0f} ms")
        for key, times in taken.items():
            if times is not floor:
                ratio, least = statistics.median(times) / statistics.median(floor), min(times) / min(floor)
                work = f", FLOPs {counted[key] / counted['input_x_gradient']:.2f}x" if key in counted else ""
                print(f"  {key}: {ratio:.2f}x (of the least times {least:.2f}x){work}")


if __name__ == "__main__":
    main()
