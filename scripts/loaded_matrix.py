"""How a language model was loaded x method, for docs/models.md: ``python scripts/loaded_matrix.py --write``.

Each cell is the distance to the plain model, in norms, for the rows of an answer of three tokens; or the error. What is not
installed (peft, torchao, bitsandbytes, accelerate) has no row.
"""

import argparse
import logging
import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import funattr as fa

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "models.md"
LAYER = "model.embed_tokens"
torch.manual_seed(0)
IDS = torch.randint(4, 96, (2, 24))
EVERY = fa.tokens(IDS[:, -3:])
METHODS: dict[str, Any] = {
    "input_x_gradient": fa.input_x_gradient,
    "integrated_gradients": partial(fa.integrated_gradients, n_steps=8, baselines=7),
    "deep_lift": partial(fa.deep_lift, baselines=7),
    "feature_ablation": partial(fa.feature_ablation, feature_mask=(torch.arange(24) // 4)[None, :, None]),
}


def plain() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=96, num_key_value_heads=2, **sizes)).eval()


def checkpointed(reentrant: bool) -> Any:
    model = plain().train()  # without dropout
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model


def attending(kind: str) -> Any:
    model = plain()
    model.set_attn_implementation(kind)
    return model


def adapted(state: str) -> Any:
    import peft  # type: ignore[import-not-found, unused-ignore]  # where it is installed

    model = peft.get_peft_model(plain(), peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    if state == "merged":
        return model.merge_and_unload()
    if state == "disabled":
        model.base_model.disable_adapter_layers()
    if state == "off":
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.zeros_(parameter)
    return model


def quantised() -> Any:
    from torchao.quantization import (  # type: ignore[import-not-found, unused-ignore]  # where it is installed
        Int8WeightOnlyConfig,
        quantize_,
    )

    model = plain()
    quantize_(model, Int8WeightOnlyConfig())
    return model


def dequantised() -> Any:
    """What the quantised weights say, in a plain model."""
    model = quantised()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.dequantize())
    return model


def from_folder(bits: int, dequantised: bool = False) -> Any:
    """By bitsandbytes, which quantises what is loaded; or what its weights say, in a plain model."""
    chosen: Any = {f"load_in_{bits}bit": True}
    with tempfile.TemporaryDirectory() as folder:
        plain().save_pretrained(folder)
        config = BitsAndBytesConfig(**chosen)
        model: Any = LlamaForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")
    return (model.dequantize().float() if dequantised else model).eval()


def dispatched() -> Any:
    import accelerate  # type: ignore[import-not-found, unused-ignore]  # where it is installed

    return accelerate.dispatch_model(plain(), {"": "cpu"}, force_hooks=True)


#: How it is loaded; and what it is compared with, where that is not the plain model.
LOADED: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "bfloat16": (lambda: plain().to(torch.bfloat16), plain),
    "float16": (lambda: plain().to(torch.float16), plain),
    'attention "eager"': (lambda: attending("eager"), plain),
    'attention "flex_attention", on a CPU': (lambda: attending("flex_attention"), plain),
    "gradient checkpointing, use_reentrant=False": (lambda: checkpointed(False), plain),
    "gradient checkpointing, use_reentrant=True": (lambda: checkpointed(True), plain),
    "torch.compile": (lambda: torch.compile(plain(), backend="aot_eager"), plain),
}
if find_spec("peft"):
    LOADED["peft LoRA, adapters as new (off)"] = (lambda: adapted("off"), plain)
    LOADED["peft LoRA, adapters on, and disabled"] = (lambda: adapted("disabled"), plain)
    LOADED["peft LoRA, adapters on (beside merged)"] = (lambda: adapted("on"), lambda: adapted("merged"))
if find_spec("torchao"):
    LOADED["torchao int8, weight only (beside its weights in float32)"] = (quantised, dequantised)
if find_spec("bitsandbytes") and find_spec("accelerate"):
    for bits in (8, 4):
        name = f"bitsandbytes {bits} bit (beside its weights in float32)"
        LOADED[name] = (partial(from_folder, bits), partial(from_folder, bits, True))
if find_spec("accelerate"):
    LOADED["device_map, one device, accelerate's hooks"] = (dispatched, plain)


def found(model: Any, method: Any) -> Tensor:
    layer = LAYER if not hasattr(model, "peft_config") else model.get_input_embeddings()
    rows: Tensor = fa.each_target(method, EVERY)(model, IDS, layer=layer)
    return rows.double()


def cell(name: str, method: Any) -> str:
    made, beside = LOADED[name]
    try:
        ours, expected = found(made(), method), found(beside(), method)
    except (ValueError, TypeError) as error:
        return "refused" if hasattr(error, "complaint") else f"{type(error).__name__}"
    except (RuntimeError, NotImplementedError):
        return "refused by torch"
    return f"{float((ours - expected).norm() / expected.norm()):.0e}"


def table() -> str:
    lines = [f"| loaded as | {' | '.join(f'`{name}`' for name in METHODS)} |", "|---|" + "---|" * len(METHODS)]
    for name in LOADED:
        lines.append(f"| {name} | {' | '.join(cell(name, method) for method in METHODS.values())} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    write = parser.parse_args().write
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    made = table()
    if write:
        marked = re.compile(r"(<!-- loaded -->\n).*?(\n<!-- end of loaded -->)", re.S)
        PAGE.write_text(marked.sub(lambda part: part[1] + made + part[2], PAGE.read_text()))
