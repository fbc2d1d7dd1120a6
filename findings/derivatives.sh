#!/usr/bin/env bash
# An autograd.Function inside torch.func.grad, compiled: its backward is dropped where it is applied to the input itself (the gradient
# is that of its forward), and a second derivative through it is zero; eagerly both are right, and with `fullgraph=True` nothing is said.
# Whoever writes a straight-through estimator, a gradient reversal or a rule for a gradient as a Function, and compiles what
# differentiates it, gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch


class Sine(torch.autograd.Function):
    """Its value is x; its gradient is that of the sine."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


def at_input(x):
    return torch.func.grad(lambda t: Sine.apply(t).sum())(x)


def later(x):
    return torch.func.grad(lambda t: Sine.apply(t * 1).sum())(x)


def twice(x):
    return torch.func.grad(lambda t: later(t).sum())(x)


x = torch.tensor([0.3, 0.7], dtype=torch.float64)
right = {at_input: x.cos(), later: x.cos(), twice: -x.sin()}
print(f"torch {torch.__version__}: eager and compiled, and what is right")
found = {}
for f, truth in right.items():
    torch._dynamo.reset()
    eager, compiled = f(x), torch.compile(f, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(eager, truth)
    print(f"  {f.__name__}: {eager.tolist()}, {compiled.tolist()}, {truth.tolist()}")
    found[f.__name__] = torch.allclose(compiled, truth)
if found != {"at_input": False, "later": True, "twice": False}:
    sys.exit(f"changed: right where compiled are {found}")
PY
# Seen with torch 2.13.0 (CPU):
#   at_input: [0.9553, 0.7648], [1.0, 1.0], [0.9553, 0.7648]
#   later: [0.9553, 0.7648], [0.9553, 0.7648], [0.9553, 0.7648]
#   twice: [-0.2955, -0.6442], [0.0, 0.0], [-0.2955, -0.6442]
