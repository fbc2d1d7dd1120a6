#!/usr/bin/env bash
# torch's batch norm on the CPU, in eval mode: the gradient with respect to the input depends on the strides of the gradient that
# comes in, which hold the same numbers. Of one image whose gradient comes from tokens, it is wrong by more than its own size.
# Instance norm too, and there also for two images. Group norm and layer norm are right. A guess that gradients do not depend on
# layouts, or that a batch of one is the simplest case, gets this wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" - <<'PY'
import sys
import torch
import torch.nn.functional as F

torch.manual_seed(0)


def off(norm, batch, strides):
    """How far the gradient is from the one for the same numbers, contiguous."""
    x = torch.randn(batch, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(batch, 6, 4, 4, dtype=torch.float64)
    strided = torch.empty_strided(g.shape, strides, dtype=g.dtype).copy_(g)
    (found,) = torch.autograd.grad(norm(x), x, strided)
    (right,) = torch.autograd.grad(norm(x), x, g)
    if batch == 1 and norm is batch_norm:  # in eval mode it is one factor per channel
        scale = (w / (v + 1e-5).sqrt()).reshape(1, 6, 1, 1)
        assert torch.allclose(right, g * scale)
    return float((found - right).norm() / right.norm())


w, m, v = torch.rand(6).double() + 0.5, torch.randn(6).double(), torch.rand(6).double() + 0.5
batch_norm = lambda x: F.batch_norm(x, m, v, w)
instance_norm = lambda x: F.instance_norm(x, weight=w)
found = {
    "batch norm, one image, tokens first": off(batch_norm, 1, (6, 1, 24, 6)),
    "batch norm, one image, channels last": off(batch_norm, 1, (96, 1, 24, 6)),
    "batch norm, two images, tokens first": off(batch_norm, 2, (6, 1, 48, 12)),
    "instance norm, one image, channels last": off(instance_norm, 1, (96, 1, 24, 6)),
    "instance norm, two images, tokens first": off(instance_norm, 2, (6, 1, 48, 12)),
    "group norm, one image, tokens first": off(lambda x: F.group_norm(x, 2, w), 1, (6, 1, 24, 6)),
}
print("torch", torch.__version__)
for name, error in found.items():
    print(f"{name}: off by {error:.0%}")
wrong = [error > 0.5 for error in found.values()]
sys.exit(0 if wrong == [True, False, False, True, True, False] else 1)
PY
# Seen on 28 November 2026 (torch 2.13.0+cpu):
#   batch norm, one image, tokens first: off by 118%
#   batch norm, one image, channels last: off by 0%
#   batch norm, two images, tokens first: off by 0%
#   instance norm, one image, channels last: off by 114%
#   instance norm, two images, tokens first: off by 139%
#   group norm, one image, tokens first: off by 0%
