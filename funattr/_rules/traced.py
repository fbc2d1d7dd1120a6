"""What Dynamo must be told. Imported while it traces: importing Dynamo itself takes a second.

Functions to keep whole: Dynamo's own form of an autograd.Function loses the second derivative inside torch.func.grad (torch
2.13). The function is traced further down, where it has it, and where its grad level is known.

Functions to show to modes: without it, a rule would not meet `torch.relu_` in a compiled model, nor `y[mask] = 0` with
torch 2.14; and what follows `a, b = h` or `h.T` would pass for a constant.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from types import BuiltinFunctionType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.overrides import get_ignored_functions

from .._torch import (
    keep_checks_whole,
    operation_spaces,
    show_allowed_to_modes,
    show_assignment_to_modes,
    show_parts_to_modes,
    show_to_modes,
)
from .flow.operation import flowing, hold, standing
from .lift import slopes as slopes
from .lift.dispatch import GRADIENTS
from .lift.table import ENTRIES, NAMED, OPENED
from .rectifiers import KINDS, SPELLED
from .relu import deconv_relu, guided_relu
from .spelled import by_export

maps = (slopes.scaled, slopes.scaled2, slopes.matmul, slopes.rows, slopes.attention, slopes.normal, slopes.picked)
for function in (guided_relu, deconv_relu, hold, flowing, standing, *maps):
    torch.compiler.allow_in_graph(function)

ENTRIES.update(by_export(NAMED))
SPELLED.update(by_export(KINDS))
UNLISTED = "as_strided as_strided_ as_tensor asarray fill rand_like randint_like randn_like vander"
known = {id(function) for space in (torch, F) for function in vars(space).values() if callable(function)}
show_to_modes(function for function in {*SPELLED, *ENTRIES} if id(function) in known)
# F.pad is a C function to Dynamo, of the same name. What makes tensors of none, such as torch.zeros, need not be shown.
operations = {f for space in (torch, operation_spaces[0]) for f in vars(space).values() if isinstance(f, BuiltinFunctionType)}
more = (getattr(torch, name) for name in UNLISTED.split())
show_to_modes({math.prod, *GRADIENTS, *more, *(operations - get_ignored_functions())})
show_assignment_to_modes()
show_parts_to_modes()
show_allowed_to_modes()
keep_checks_whole()


def product(factors: Iterable[Any], *, start: Any = 1) -> Any:
    return functools.reduce(operator.mul, factors, start)


OPENED[math.prod] = cast("Any", product)  # which Dynamo puts into the graph as it is
