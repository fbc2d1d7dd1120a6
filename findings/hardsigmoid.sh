#!/usr/bin/env bash
# torch's derivative of F.hardsigmoid in float64 is one sixth in float32: off by 5e-9 (3e-8 of itself), where those of the functions beside it (hardswish,
# relu6, softplus, gelu and others) are right to rounding. And it cannot be differentiated again, as hardswish's can. Whoever compares
# gradients of MobileNetV3 in float64 with a reference to 1e-10, or trains on gradients of it, gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torch.nn.functional as F

found = {}
for name in ("hardsigmoid", "hardswish", "relu6", "softplus", "gelu", "mish", "silu", "elu"):
    f = getattr(F, name)
    x = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    h = 1e-3
    with torch.no_grad():  # of fourth order: the error is below 1e-11
        expected = (f(x - 2 * h) - 8 * f(x - h) + 8 * f(x + h) - f(x + 2 * h)) / (12 * h)
    error = float((slope - expected).abs().max())
    try:
        if slope.requires_grad:
            torch.autograd.grad((slope * x).sum(), x)
        again = "again"
    except RuntimeError as stop:
        again = "not again" if "is not implemented" in str(stop) else str(stop)[:200]
    found[name] = (f"{error:.0e}" if error > 1e-10 else "right", again)
print(f"torch {torch.__version__}: derivatives in float64, and whether they can be differentiated again")
print(*(f"  {name}: {', '.join(each)}" for name, each in found.items()), sep="\n")
if found != {name: ("5e-09", "not again") if name == "hardsigmoid" else ("right", "again") for name in found}:
    sys.exit("changed")
PY
# Seen with torch 2.13.0 (CPU):
#   hardsigmoid: 5e-09, not again
#   hardswish, relu6, softplus, gelu, mish, silu, elu: right, again
