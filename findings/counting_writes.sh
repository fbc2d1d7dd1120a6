#!/usr/bin/env bash
# How often a tensor was written to (`t._version`) is counted plainly and under torch.func.grad, and not under torch.func.vmap: there
# it stays as it was whatever is written in place; the tensor below the transform counts. Compiled, two such numbers cannot be compared at
# all, and of a tensor that an operation in place returns `is` holds while `id` differs. Whoever tells by them whether a value is still
# the one that was seen (a saved mask, a hooked layer) believes under vmap that nothing was ever written.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from torch._C._functorch import get_unwrapped

seen = {}


def counted(name, below):
    def f(x):
        h = x * 1
        inner = get_unwrapped(h) if below else h
        before = h._version, inner._version
        h.add_(1)
        h.mul_(2)
        seen[name] = (h._version - before[0], inner._version - before[1])
        return h.sum()

    return f


x = torch.ones(2, 3)
counted("plain", False)(x)
torch.func.vmap(counted("vmap", True))(x)
torch.func.grad(counted("grad", True))(x)


def compared(x):
    h = x * 1
    before = h._version
    torch.relu_(h)
    return h + 1 if h._version != before else h - 1


def same(x):
    h = x * 1
    y = torch.relu_(h)
    return h + (10 if y is h else 0) + (100 if id(y) == id(h) else 0)


try:
    torch.compile(compared, backend="eager", fullgraph=True)(x)
    seen["compared, compiled"] = "runs"
except Exception as error:
    seen["compared, compiled"] = type(error).__name__
names = {0: "neither", 10: "is", 100: "id", 110: "is, id"}
seen["same, plainly"] = names[int(same(torch.zeros(1)))]
seen["same, compiled"] = names[int(torch.compile(same, backend="eager", fullgraph=True)(torch.zeros(1)))]
print(f"torch {torch.__version__}: two writes in place, as counted by what is shown and by what lies below")
print(*(f"  {name}: {each}" for name, each in seen.items()), sep="\n")
expected = {
    "plain": (2, 2),
    "vmap": (0, 2),
    "grad": (2, 2),
    "compared, compiled": "UserError",
    "same, plainly": "is, id",
    "same, compiled": "is",
}
if seen != expected:
    sys.exit("changed")
PY
# Seen with torch 2.13.0 (CPU):
#   plain: (2, 2)   vmap: (0, 2)   grad: (2, 2)
#   compared, compiled: UserError   same, plainly: is, id   same, compiled: is
