#!/usr/bin/env bash
# A view that torch makes in a no_grad block, of a tensor in a graph, says that it requires a gradient, that it is a leaf and that nothing
# made it. What is computed of it later says so too, and `backward` runs, but leaves a gradient nowhere: neither where the view was taken
# from nor in the view's own `.grad`. Any other operation in the block gives what requires none. So who tells by `requires_grad` what hangs
# on an input (a function mode, a hook) takes the view for a part of the graph, and who tells by `is_leaf` takes it for a parameter.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" - <<'PY'
import sys

import torch

x = torch.ones(2, 3, requires_grad=True)
h = x * 2
with torch.no_grad():
    made = {"h.view(6)": h.view(6), "h.t()": h.t(), "h[0]": h[0], "h.detach()": h.detach(), "h * 1": h * 1}
print(f"torch {torch.__version__}: made in a no_grad block, of h in a graph")
told = {name: (t.requires_grad, t.is_leaf, t.grad_fn is None) for name, t in made.items()}
for name, (requires, leaf, bare) in told.items():
    print(f"  {name:11} requires_grad {requires!s:5}  is_leaf {leaf}  grad_fn is None {bare}")
view = made["h.view(6)"]
(view * 5).sum().backward()
print(f"  after backward through the view: its own .grad {view.grad}, x.grad {x.grad}")
right = [name for name, says in told.items() if says == (True, True, True)] == ["h.view(6)", "h.t()", "h[0]"]
sys.exit(0 if right and x.grad is None and view.grad is None else 1)
PY
