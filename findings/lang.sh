#!/usr/bin/env bash
# transformers' eager attention in float64: with left padding, all logits of the padded example are NaN, in float32 none is. The mask
# holds the least float64, and the softmax is taken in float32, where that is minus infinity: a row that sees padding alone is 0 / 0,
# and goes on to all tokens as NaN times 0. sdpa is right in both. A guess that the wider dtype is the safer reference gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$where/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
ids = torch.tensor([[0, 0, 7, 9, 11]])
mask = (ids > 0).long()
found = {}
for kind in ("sdpa", "eager"):
    for dtype in (torch.float32, torch.float64):
        model.set_attn_implementation(kind)
        model.to(dtype)
        with torch.no_grad():
            logits = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        found[kind, str(dtype)] = bool(logits[0, -1].isnan().any())
print(f"transformers {transformers.__version__}, torch {torch.__version__}: is the last token's row of logits NaN?")
for (kind, dtype), nan in found.items():
    print(f"  {kind:5} {dtype}: {nan}")
sys.exit(list(found.values()) != [False, False, False, True])
PY
