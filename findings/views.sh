#!/usr/bin/env bash
# Below torch.func.vmap a view does not say of what it is one (`_base` is None, `_is_view()` False), and a tensor of a recorded graph
# says that it needs no gradient and was made by nothing; yet writing to the view writes to its base, and the gradient comes out right.
# Below torch.func.grad, as without a transform, all four are told. Who follows in-place writes or graphs from inside (a function mode,
# a hook, a layer that looks before it writes) and tries it without vmap, or with grad alone, gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" - <<'PY'
import sys

import torch

told = {}


def model(row, name):
    t = row * 1
    part = t[1:]
    told[name] = {
        "_base is the tensor": part._base is t,
        "_is_view()": part._is_view(),
        "requires_grad": part.requires_grad,
        "grad_fn": part.grad_fn is not None,
    }
    part.add_(1)
    return t


x = torch.arange(6.0).reshape(2, 3).requires_grad_()
model(x[0], "no transform")
torch.func.grad(lambda row: model(row, "torch.func.grad").sum())(x[0].detach())
y = torch.func.vmap(lambda row: model(row, "torch.func.vmap"))(x)
(slopes,) = torch.autograd.grad(y.sum(), x)
print(f"torch {torch.__version__}: what a view tells")
print(*(f"  {name}: {said}" for name, said in told.items()), sep="\n")
print("  written through the view below vmap:", y.tolist(), "and the gradient:", slopes.tolist())
right = y.tolist() == [[0.0, 2.0, 3.0], [3.0, 5.0, 6.0]] and bool((slopes == 1).all())
expected = {"no transform": True, "torch.func.grad": True, "torch.func.vmap": False}
sys.exit(not right or any(set(told[name].values()) != {value} for name, value in expected.items()))
PY
