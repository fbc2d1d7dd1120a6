#!/usr/bin/env bash
# F.l1_loss(x, y, weight=w) forgets its weights wherever a function mode is on: inside `with torch.device(...)`, after
# torch.set_default_device, under any TorchFunctionMode of a library that watches operations, and for subclasses of tensors. It hands
# on all it was given but the weights, and the loss without them comes, in silence. F.mse_loss and F.huber_loss, with the same argument,
# keep it. A weighed loss that is explained, counted or moved to a device by way of a mode is another loss.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import inspect
import sys

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


torch.manual_seed(0)
x, y, w = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4)
names = [n for n in ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss") if "weight" in inspect.signature(getattr(F, n)).parameters]
found = {}
for name in names:
    loss = getattr(F, name)
    weighed, plain = loss(x, y, weight=w, reduction="sum"), loss(x, y, reduction="sum")
    each = []
    for mode in (torch.device("cpu"), Watching()):
        with mode:
            got = loss(x, y, weight=w, reduction="sum")
        each.append("weighed" if torch.equal(got, weighed) else "not weighed" if torch.equal(got, plain) else "another")
    found[name] = each
print(f"torch {torch.__version__}: losses given weights, inside torch.device('cpu') and under a function mode that does nothing")
print(*(f"  {name}: {', '.join(each)}" for name, each in found.items()), sep="\n")
if found != {name: ["not weighed" if name == "l1_loss" else "weighed"] * 2 for name in names}:
    sys.exit("this has changed")
PY

# Output, seen on 1 December 2026 (torch 2.13.0, CPU):
# torch 2.13.0+cpu: losses given weights, inside torch.device('cpu') and under a function mode that does nothing
#   l1_loss: not weighed, not weighed
#   mse_loss: weighed, weighed
#   huber_loss: weighed, weighed
