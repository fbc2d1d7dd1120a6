#!/usr/bin/env bash
# A layer that parallelize_module has made ColwiseParallel has the right gradient, and with create_graph=True that gradient is a constant, in silence:
# the collective in its backward pass has no derivative of its own. A RowwiseParallel layer, and tensors that are put into shards by hand, have right
# second derivatives. One process is enough to see it. A penalty on gradients, or training through attributions, of a model in tensor parallel learns
# nothing from such layers.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
"$where/venv/bin/python" -W ignore - "$where/store" 2>/dev/null <<'PY'
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

dist.init_process_group("gloo", store=dist.FileStore(sys.argv[1], 1), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
torch.manual_seed(0)
h, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)


def layer(style):
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh()).double()
    with torch.no_grad():
        net[0].weight.copy_(w.T)
    return net if style is None else parallelize_module(net, mesh, {"0": style})


def by_hand(x):
    return torch.tanh(DTensor.from_local(x, mesh, [Shard(0)]) @ distribute_tensor(w, mesh, [Replicate()])).to_local()


forms = {"plain": layer(None), "by hand": by_hand, "RowwiseParallel": layer(RowwiseParallel()), "ColwiseParallel": layer(ColwiseParallel())}
found = {}
for name, form in forms.items():
    x = h.clone().requires_grad_()
    first = torch.autograd.grad(form(x).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.pow(2).sum(), x)[0] if first.requires_grad else None
    same = second is not None and torch.allclose(second, found.get("plain", (first, second))[1])
    found[name] = first.detach(), second
    right = torch.allclose(first, found["plain"][0])
    print(f"  {name}: gradient {'right' if right else 'wrong'}, second derivative {'a constant' if second is None else 'right' if same else 'wrong'}")
    if not right or (second is None) != (name == "ColwiseParallel") or (second is not None and not same):
        sys.exit("this has changed")
print(f"torch {torch.__version__}, one process")
dist.destroy_process_group()
PY

# Output, seen on 1 December 2026 (torch 2.13.0, CPU):
#   plain: gradient right, second derivative right
#   by hand: gradient right, second derivative right
#   RowwiseParallel: gradient right, second derivative right
#   ColwiseParallel: gradient right, second derivative a constant
# torch 2.13.0+cpu, one process
