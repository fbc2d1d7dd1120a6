"""Folders as people have them: a tiny language model with random weights, and a tokenizer trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "user assistant Which city lies on the Seine? Write the word again: banana, orange and unbelievable films.\n",
] * 4
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(signs: list[str]) -> Any:
    """As GPT-2's and Llama 3's: bytes, with their blanks before."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=360, special_tokens=signs, initial_alphabet=letters))
    return made


def llama(folder: Path) -> None:
    """With a beginning that the tokenizer adds, padding whose embedding is zeros, and a chat template."""
    made = byte_level(["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    signs = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    turns = ["<|im_start|>", "<|im_end|>"]
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=turns, **signs)
    tokenizer.chat_template = CHAT
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    more = {"num_key_value_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 512}
    config = tf.LlamaConfig(vocab_size=len(tokenizer), **sizes, **more, **ids)
    save(tf.LlamaForCausalLM(config), tokenizer, folder)


def gpt2(folder: Path) -> None:
    """With one sign for everything, no beginning, and 64 positions."""
    sign = "<|endoftext|>"
    signs = {"bos_token": sign, "eos_token": sign, "unk_token": sign}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=byte_level([sign]), **signs)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    config = tf.GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes)
    save(tf.GPT2LMHeadModel(config), tokenizer, folder)


def t5(folder: Path) -> None:
    """An encoder-decoder; its tokenizer adds an end, and splits as sentencepiece does."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    signs = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=120, special_tokens=signs, unk_token="<unk>"))
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    save(tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=len(tokenizer), **sizes, **ids)), tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {"llama": llama, "gpt2": gpt2, "t5": t5}


def make(folder: Path) -> None:
    """All of them, and some that lack a part."""
    tf.utils.logging.disable_progress_bar()
    tf.utils.logging.set_verbosity_error()
    for name, maker in MAKERS.items():
        torch.manual_seed(0)
        maker(folder / name)
    bare = folder / "bare"
    tf.AutoModelForCausalLM.from_pretrained(folder / "llama").save_pretrained(bare)
    tf.AutoModel.from_pretrained(folder / "gpt2").save_pretrained(folder / "headless")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    masked = folder / "masked"
    masked.mkdir()
    (masked / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    config = json.loads((folder / "gpt2" / "config.json").read_text())
    other = folder / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 257}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (other / file).write_text((folder / "gpt2" / file).read_text())
    small = tf.GPT2LMHeadModel(tf.GPT2Config(**{**config, "vocab_size": 257}))
    small.save_pretrained(other)
