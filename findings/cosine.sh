#!/usr/bin/env bash
# The gradient of F.cosine_similarity is not that of its value where a vector is shorter than `eps`: the value divides by eps there, and
# the gradient is neither that nor the one without eps. F.normalize has the gradient of its value. Whoever gives a large
# eps, to damp short vectors, and differentiates, gets this wrong, and so does a finite difference beside it.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torch.nn.functional as F

x = torch.tensor([[0.03, 0.04]], dtype=torch.float64)  # its length is 0.05
y = torch.tensor([[0.6, 0.8]], dtype=torch.float64)  # as x, of length 1
functions = {
    "cosine_similarity": lambda x, eps: F.cosine_similarity(x, y, eps=eps),
    "normalize": lambda x, eps: (F.normalize(x, eps=eps) * y).sum(1),
}
found = {}
for name, f in functions.items():
    for eps in (1e-8, 0.1, 0.5):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(leaf, eps).sum(), leaf)
        along = float((slope * y).sum())
        expected = float((f(x + 1e-6 * y, eps) - f(x - 1e-6 * y, eps)).sum() / 2e-6)
        found[name, eps] = (float(f(x, eps)), along, expected)
print(f"torch {torch.__version__}: a vector of length 0.05, and one of length 1 along it: value, gradient along it, central difference")
print(*(f"  {name}, eps={eps}: {value:.3f}, {along:.3f}, {expected:.3f}" for (name, eps), (value, along, expected) in found.items()), sep="\n")
right = {key: abs(along - expected) < 1e-3 for key, (_, along, expected) in found.items()}
if right != {key: key[0] == "normalize" or key[1] < 0.05 for key in found}:
    sys.exit("changed")
PY
# Seen with torch 2.13.0 (CPU): value, gradient, central difference
#   cosine_similarity, eps=1e-08: 1.000, 0.000, -0.000
#   cosine_similarity, eps=0.1: 0.500, 5.000, 10.000
#   cosine_similarity, eps=0.5: 0.100, 1.800, 2.000
#   normalize, eps=0.1: 0.500, 10.000, 10.000
#   normalize, eps=0.5: 0.100, 2.000, 2.000
