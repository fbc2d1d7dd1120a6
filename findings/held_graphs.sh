#!/usr/bin/env bash
# Torch's operations that hold a graph (torch.cond, map, while_loop, scan) have right first derivatives and no right second ones:
# with create_graph=True, the gradient through cond comes back as a constant, and the gradients through the other three require a
# gradient and have another derivative than the same code without them, in silence. What is trained through a gradient of such a model (penalties,
# attribution priors, meta-learning), and Hessians of it, are of something else.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import sys

import torch
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop


def f(h):
    return torch.tanh(h) * h


forms = {
    "plain": f,
    "cond": lambda h: torch.cond(torch.tensor(True), f, torch.sin, (h,)),
    "map": lambda h: torch_map(f, h),
    "while_loop": lambda h: while_loop(lambda i, h: i < 1, lambda i, h: (i + 1, f(h)), (torch.tensor(0), h))[1],
    "scan": lambda h: scan(lambda c, row: (c.clone(), f(row)), torch.zeros(3, dtype=h.dtype), h)[1],
}
torch.manual_seed(0)
h, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
found = {}
for name, form in forms.items():
    x = h.clone().requires_grad_()
    first = torch.autograd.grad((form(x * w)).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.pow(2).sum(), x)[0] if first.requires_grad else None
    found[name] = first.detach(), second
print(f"torch {torch.__version__}: derivatives of the sum of tanh(h) h, and of the sum of squares of these")
told = {}
for name, (first, second) in found.items():
    if second is None:
        told[name] = "a constant"
    else:
        told[name] = "right" if torch.allclose(second, found["plain"][1]) else "wrong, in silence"
    print(f"  {name}: first {'right' if torch.allclose(first, found['plain'][0]) else 'wrong'}, second {told[name]}")
right = all(torch.allclose(first, found["plain"][0]) for first, _ in found.values())
expected = {"plain": "right", "cond": "a constant", **dict.fromkeys(("map", "while_loop", "scan"), "wrong, in silence")}
if not right or told != expected:
    sys.exit("this has changed")
PY

# Output, seen on 1 December 2026 (torch 2.13.0, CPU):
# torch 2.13.0+cpu: derivatives of the sum of tanh(h) h, and of the sum of squares of these
#   plain: first right, second right
#   cond: first right, second a constant
#   map: first right, second wrong, in silence
#   while_loop: first right, second wrong, in silence
#   scan: first right, second wrong, in silence
