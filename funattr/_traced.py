"""Functions that Dynamo must not look into, told to it. Imported while it traces: importing Dynamo itself takes a second.

Dynamo's own form of an autograd.Function loses the second derivative inside torch.func.grad (torch 2.13). Kept whole, the
function is traced further down, where it has it, and where its grad level is known.
"""

from __future__ import annotations

import torch

from ._rules import deconv_relu, guided_relu

for function in (guided_relu, deconv_relu):
    torch.compiler.allow_in_graph(function)  # type: ignore[no-untyped-call]
