#!/usr/bin/env bash
# torch.vmap of a group norm, where each example is contiguous and all of them together are not (a slice of a batch of one row each):
# it ends in "Expected X.is_contiguous(memory_format) to be true". Where an example is not contiguous either, it runs, as do other norms
# in any layout. Whoever maps a model over single examples that runs by itself, and over batches of more, gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torch.nn.functional as F

NORMS = {
    "group_norm": lambda t: F.group_norm(t, 2),
    "instance_norm": F.instance_norm,
    "layer_norm": lambda t: F.layer_norm(t, (4,)),
    "batch_norm": lambda t: F.batch_norm(t, torch.zeros(2), torch.ones(2)),
}
LAYOUTS = {
    "contiguous": torch.randn(3, 1, 2, 4),
    "contiguous one by one": torch.randn(3, 1, 2, 8).view(3, 1, 4, 4)[:, :, :2],
    "not contiguous": torch.randn(3, 2, 2, 6)[..., :4],
}
found = {}
for name, norm in NORMS.items():
    each = []
    for x in LAYOUTS.values():
        expected = torch.stack([norm(t) for t in x])
        try:
            each.append("equal" if torch.allclose(torch.vmap(norm)(x), expected, atol=1e-5) else "another result")
        except RuntimeError as error:
            each.append("not contiguous" if "is_contiguous" in str(error) else str(error)[:200])
    found[name] = each
print(f"torch {torch.__version__}: norms under vmap, of examples that are {', '.join(LAYOUTS)}")
print(*(f"  {name}: {', '.join(each)}" for name, each in found.items()), sep="\n")
wrong = ["equal", "not contiguous", "equal"]
if found != {name: wrong if name == "group_norm" else ["equal"] * 3 for name in NORMS}:
    sys.exit("changed")
PY
# Seen with torch 2.13.0 (CPU):
#   group_norm: equal, not contiguous, equal
#   instance_norm: equal, equal, equal
#   layer_norm: equal, equal, equal
#   batch_norm: equal, equal, equal
