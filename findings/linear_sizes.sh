#!/usr/bin/env bash
# torch.compile of a torch.vmap over a linear layer with a bias, whose rows are sequences ([batch, steps, features] for each copy): it
# runs for the first batch, and ends in "Cannot call sizes() on tensor with symbolic sizes/strides" for one of another size, when sizes
# become symbols. Of rows without steps, of rows with two dimensions more, without a bias, or as `t @ w.T + b` it runs. Whoever tries
# a compiled ensemble, or perturbations by vmap, on one batch, or on vectors, and trusts it on others of sequences gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torch.nn.functional as F

w, b = torch.randn(5, 4), torch.randn(5)
CASES = {
    "vectors": (lambda t: F.linear(t, w, b), ()),
    "sequences": (lambda t: F.linear(t, w, b), (6,)),
    "two dimensions more": (lambda t: F.linear(t, w, b), (2, 6)),
    "sequences, no bias": (lambda t: F.linear(t, w), (6,)),
    "sequences, t @ w.T + b": (lambda t: t @ w.T + b, (6,)),
}
found = {}
for name, (layer, more) in CASES.items():
    torch._dynamo.reset()
    mapped = torch.vmap(layer)
    compiled = torch.compile(lambda x, mapped=mapped: mapped(x), fullgraph=True, backend="aot_eager")
    each = []
    for batch in (2, 3):
        x = torch.randn(3, batch, *more, 4)
        try:
            each.append("equal" if torch.allclose(compiled(x), mapped(x), atol=1e-5) else "another result")
        except Exception as error:
            each.append("symbolic sizes" if "symbolic sizes" in str(error) else str(error)[:200])
    found[name] = each
print(f"torch {torch.__version__}: vmap over F.linear, compiled, for a batch of 2 and then one of 3")
print(*(f"  {name}: {', '.join(each)}" for name, each in found.items()), sep="\n")
if found != {name: ["equal", "symbolic sizes" if name == "sequences" else "equal"] for name in CASES}:
    sys.exit("changed")
PY
# Seen with torch 2.13.0 (CPU):
#   vectors: equal, equal
#   sequences: equal, symbolic sizes
#   two dimensions more: equal, equal
#   sequences, no bias: equal, equal
#   sequences, t @ w.T + b: equal, equal
