"""Batch norm's backward kernel of the CPU, which takes the gradient of an image for another where that comes from tokens.

It reads memory in order where input and gradient are dense and in one memory format. But a dimension of size one (a batch of
one image) leaves a tensor dense with the channels last and still called channels first, as a transposed view is: the kernel
reads such a gradient beside a plain input in the wrong order, and the other way round. Instance norm is the same kernel. What
is dense in no format goes another way, which is right. So in torch 2.13, found by trying all pairs of layouts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import beside_traces, constant, nodes_before, saved_as, without_modes, without_transforms
from .code import Words
from .plain import InOrder, plain_batch_norm, unruled
from .where import Bound, all_modules


def mend(bound: Bound, scores: Tensor, leaves: Sequence[Tensor], mended: set[Any]) -> None:
    """See to it that no batch norm between the scores and the leaves reads its gradient in the wrong order, but for those that
    are `mended` already, in a graph that several scores go through."""
    if scores.device.type != "cpu" or not kernel_errs() or not _may_norm(bound.root):
        return
    ends = {leaf.grad_fn for leaf in leaves}
    for node in nodes_before([scores.grad_fn], ends):
        if "BatchNorm" in type(node).__name__ and node not in mended and node not in ends:
            mended.add(node)
            _mend_one(node)


def _mend_one(node: Any) -> None:
    x = saved_as("input", node)
    if x is not None and (x.dim() not in (4, 5) or 1 not in x.shape):
        return  # its layout tells
    unclear = x is None or looks_odd(x)

    def sparse(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        first, *rest = gradients
        if first is None or first.dim() not in (4, 5) or not (unclear or looks_odd(first)):
            return None
        return (F.pad(first, (0, 1))[..., :-1], *rest)  # with a gap after each row: dense in no format

    node.register_prehook(sparse)


def looks_odd(t: Tensor) -> bool:
    """Whether memory holds the channels last, and torch does not say so: a dimension of size one has a stride that fits not."""
    shape, strides = t.shape, t.stride()
    least, dense, called = 0, 1, True
    for d in (1, *range(t.dim() - 1, 1, -1), 0):
        if shape[d] != 1 and strides[d] != dense:
            return False
        dense *= shape[d]
        called = called and strides[d] >= least and not (d == 0 and least == strides[1])
        least = strides[d] * shape[d]
    return not (called or t.is_contiguous())


# To search a graph takes longer than to run a small net: where no code can have called a batch norm, nobody does.


def _may_norm(root: nn.Module | None) -> bool:
    """Whether a batch norm may run: a module is one, or its code names one."""
    return root is None or _NAMES.in_modules(all_modules(root))


_NAMES = Words("batch_norm", "instance_norm", also=(nn.modules.batchnorm._NormBase, torch.jit.ScriptModule))


@constant
def _calls_norm(kind: type) -> bool:
    return _NAMES.in_class(kind)


@constant
def kernel_errs() -> bool:
    """Whether this torch reads a gradient in the wrong order."""
    return _tried()


@functools.cache
def _tried() -> bool:
    with beside_traces(), without_transforms(), without_modes(), torch.enable_grad():
        tokens = torch.arange(8.0, device="cpu").as_strided((1, 2, 2, 2), (2, 1, 4, 2))
        x = torch.zeros(1, 2, 2, 2, device="cpu", requires_grad=True)
        made = F.batch_norm(x, torch.zeros(2, device="cpu"), torch.ones(2, device="cpu"), eps=0.0)
        return not torch.equal(torch.autograd.grad(made, x, tokens)[0], tokens)


# Compiled: no graph to look at, and plain operations cost nothing.


def mended_traced(bound: Bound) -> Bound:
    """The model with its batch norms in plain operations, where the kernel errs and the code names one; vmap may be around."""
    may = bound.root is None or any(_calls_norm(type(module)) for module in all_modules(bound.root))
    return (bound.under(PlainNorms()) if may and kernel_errs() else bound).under(InOrder())


class PlainNorms(TorchFunctionMode):
    """Batch norm and instance norm in plain operations, where the kernel could take one layout for another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        plainly = _PLAINLY.get(func)
        if plainly is not None and x.device.type == "cpu" and x.dim() in (4, 5) and (1 in x.shape or func in _BY_INSTANCE):
            return plainly(*args, **kwargs)
        return unruled(func, args, kwargs)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        running_var, running_mean = torch.var_mean(input, [0, *range(2, input.dim())], unbiased=False)
    return plain_batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    var, mean = torch.var_mean(input, list(range(2, input.dim())), unbiased=False, keepdim=True)
    made = (input - mean) * torch.rsqrt(var + eps)
    shape = [1, -1, *[1] * (input.dim() - 2)]
    made = made if weight is None else made * weight.reshape(shape)
    return made if bias is None else made + bias.reshape(shape)


def _ordered(norm: Callable[..., Tensor], input: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Tensor:
    return norm(input, mean, var, weight, bias, *rest)


def _native(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    return _ordered(_batch_norm, *args, **kwargs), *torch.native_batch_norm(*args, **kwargs)[1:]


def _in_eval(input: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> tuple[Tensor, ...]:
    return _native(input, weight, bias, mean, var, False, *rest)


def _spelled(table: dict[Callable[..., Any], list[Any]]) -> dict[Any, Callable[..., Any]]:
    """By every name that code, or an exported program, calls it by."""
    return {
        name: plainly for plainly, funcs in table.items() for func in funcs for name in (func, getattr(func, "default", func))
    }


_BY_INSTANCE = _spelled(
    {
        _instance_norm: [F.instance_norm],
        functools.partial(_ordered, _instance_norm): [torch.instance_norm, torch.ops.aten.instance_norm],
    }
)
_PLAINLY = _BY_INSTANCE | _spelled(
    {
        _batch_norm: [F.batch_norm],
        functools.partial(_ordered, _batch_norm): [torch.batch_norm, torch.ops.aten.batch_norm],
        _native: [torch.native_batch_norm, torch.ops.aten.native_batch_norm],
        # Torch 2.0 has it under another name, and exports nothing in it.
        _in_eval: [f for f in [getattr(torch.ops.aten, "_native_batch_norm_legit_no_training", None)] if f is not None],
    }
)
