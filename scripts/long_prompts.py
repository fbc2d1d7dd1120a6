"""Peak bytes by method and length of the prompt, for docs/long-prompts.md: ``python scripts/long_prompts.py --write``."""

import argparse
import pathlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import funattr as fa
from benchmarks.cost import cost

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "long-prompts.md"
WORDS, ANSWER, STEPS, SPANS = 32_000, 8, 16, 32
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LAYER = "model.embed_tokens"
#: What is not run for longer prompts than these: its passes back take minutes, and so do logits of all positions.
ROWS_OF_PATHS, ROWS_AT_MOST, ALL_AT_MOST = "rows of `integrated_gradients`", 4000, 2000


def calls(model: Any, ids: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is asked of a prompt with an answer of eight tokens."""
    answer, length = ids[:, -ANSWER:], ids.shape[1] - ANSWER
    score, every = fa.log_likelihood(answer), fa.tokens(answer)
    base = torch.where(torch.arange(ids.shape[1]) < length, 7, ids)
    spans = (torch.arange(ids.shape[1]) * SPANS // length).clamp(max=SPANS)[None]
    path: dict[str, Any] = {"layer": LAYER, "baselines": base, "n_steps": STEPS}
    yield "`input_x_gradient`", lambda: fa.input_x_gradient(model, ids, layer=LAYER, target=score)
    yield (
        "its rows, `each_target(sum_channels(...), tokens)`",
        lambda: fa.each_target(fa.sum_channels(fa.input_x_gradient, channel_dim=-1), every)(model, ids, layer=LAYER),
    )
    yield f"`integrated_gradients`, {STEPS} steps", lambda: fa.integrated_gradients(model, ids, **path, target=score)
    yield (
        ROWS_OF_PATHS,
        lambda: fa.each_target(fa.sum_channels(fa.integrated_gradients, channel_dim=-1), every)(model, ids, **path),
    )
    yield (
        f"`feature_ablation`, {SPANS} spans, and its rows",
        lambda: fa.each_target(fa.feature_ablation, every)(model, ids, baselines=base, feature_mask=spans),
    )


def table(lengths: list[int]) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=WORDS, max_position_embeddings=16_384, num_key_value_heads=2, **SIZES)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    lines: dict[str, list[str]] = {}
    for length in lengths:
        ids = torch.randint(8, WORDS, (1, length + ANSWER))
        for kept, bound in (("all", model), (f"the last {ANSWER + 1}", partial(model, logits_to_keep=ANSWER + 1))):
            for name, call in calls(bound, ids):
                asked = length <= (ALL_AT_MOST if kept == "all" else ROWS_AT_MOST if name == ROWS_OF_PATHS else length)
                cell = f"{cost(call).peak / 1e6:,.0f} MB" if asked else "not run"
                print(f"{length:6} {kept:12} {name}: {cell}", flush=True)
                lines.setdefault(f"| {name} | {kept} |", []).append(f" {cell} |")
    head = f"| method | logits |{''.join(f' {length:,} tokens |' for length in lengths)}"
    return "\n".join([head, "|---|---|" + "---|" * len(lengths), *(name + "".join(row) for name, row in lines.items())])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[500, 2000, 4000, 8000])
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    arguments = parser.parse_args()
    made = table(arguments.lengths)
    print(made)
    if arguments.write:
        marked = re.compile(r"(<!-- table -->\n).*?(\n<!-- end of table -->)", re.S)
        PAGE.write_text(marked.sub(lambda found: found[1] + made + found[2], PAGE.read_text()))
