#!/usr/bin/env bash
# torch.compile does not show a TorchFunctionMode all operations that it is shown eagerly: `abs(t)` is one call eagerly and none
# compiled, and so are F.pad, math.prod, `t.imag` and the rows of `a, b = t`. Their results come as from nowhere, and whoever writes
# rules, counters or checks as function modes and trusts that a compiled model runs under them as an eager one does gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" - <<'PY'
import math
import sys

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Counts(TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(1)
        return func(*args, **(kwargs or {}))


def unpacked(t):
    a, b = t
    return a


SPELLINGS = {
    "t.abs()": lambda t: t.abs(),
    "abs(t)": lambda t: abs(t),
    "math.prod": lambda t: math.prod([t, t]),
    "F.pad": lambda t: F.pad(t, (1, 1)),
    "t.mT": lambda t: t.mT,
    "t.imag": lambda t: t.imag,
    "a, b = t": unpacked,
}


def shown(function, t):
    seen = []
    with Counts(seen):
        function(t)
    return len(seen)


found = {}
for name, function in SPELLINGS.items():
    t = torch.ones(2, 3, dtype=torch.complex64 if "imag" in name else torch.float32)
    torch._dynamo.reset()
    found[name] = shown(function, t), torch.compile(shown, backend="eager", fullgraph=True)(function, t)
print(f"torch {torch.__version__}: operations shown to a function mode, eagerly and compiled")
print(*(f"  {name}: {eager}, {compiled}" for name, (eager, compiled) in found.items()), sep="\n")
hidden = [name for name, (eager, compiled) in found.items() if not compiled < eager]
sys.exit(hidden != ["t.abs()"])
PY
