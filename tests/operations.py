"""Every operation of torch that deep_lift has a rule for, in every spelling, between two tensors that vary."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Around(nn.Module):
    """Linear maps around one operation of two varying tensors [N, 4, 6], then a mean: every wrong slope shows in the sum."""

    def __init__(self, op: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 24), nn.Linear(5, 24)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        h, g = (f(x).unflatten(1, (4, 6)) for f in (self.left, self.right))
        y = self.op(h, g).reshape(x.shape[0], -1)
        return (y * torch.arange(1, y.shape[1] + 1)).sum(1)


def in_place(name: str, *args: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda h, g: getattr(h + 0, name)(*args)


def updated(update: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    def op(h: Tensor, g: Tensor) -> Tensor:
        h = h.clone()
        update(h, g)
        return h

    return op


def called(f: Any, *args: Any, **kwargs: Any) -> Any:
    """With names of arguments that torch's stubs do not have."""
    return f(*args, **kwargs)


def assign(f: Callable[[Any, Any], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda h, g: f(h.clone(), g)


FUNCTIONS = ["relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh"]
FUNCTIONS += ["gelu", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "tanhshrink", "softshrink", "hardshrink"]
METHODS = ["relu", "sigmoid", "tanh", "exp", "erf", "sin", "cos", "abs", "square"]
NAMES = ["exp2", "expm1", "erfc", "sinh", "cosh", "asinh", "atan", "selu", "round", "sign", "floor"]
POSITIVE = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma", "digamma"]
SPECIAL = ["gammaln", "psi"]
MODULES = [
    *[nn.ReLU(), nn.ReLU(True), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.CELU(0.5), nn.GELU("tanh"), nn.SiLU(True)],
    *[nn.Mish(), nn.Hardswish(True), nn.Hardsigmoid(), nn.Hardtanh(-0.3, 0.4), nn.Softplus(2.0), nn.Threshold(0.1, 0.3)],
    *[nn.PReLU(), nn.PReLU(4), nn.LogSigmoid(), nn.Softmin(-1), nn.Softmax(1), nn.LogSoftmax(-1), nn.GLU()],
    *[nn.LayerNorm(6), nn.LayerNorm((4, 6)), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)],
    *([nn.RMSNorm(6)] if hasattr(nn, "RMSNorm") else []),  # since torch 2.4
    *[nn.LocalResponseNorm(2), nn.MaxPool1d(3, 1), nn.MaxPool1d(3, 2, 1), nn.AdaptiveMaxPool1d(4), nn.LPPool1d(2, 2)],
    *[nn.AvgPool1d(2), nn.BatchNorm1d(4).eval()],
]
NORMS: dict[str, Any] = {"weight": None, "bias": None, "momentum": 0.1, "eps": 0.1, "cudnn_enabled": False}
MASK = torch.ones(4, 4, dtype=torch.bool).tril()
LOWEST = torch.finfo(torch.float64).min
OPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    # every activation, as a function
    **{f"F.{n}": lambda h, g, n=n: getattr(F, n)(h) for n in FUNCTIONS},
    **{f"F.{n} in place": lambda h, g, n=n: getattr(F, n)(h + 0, inplace=True) for n in FUNCTIONS[:11]},
    **{f"torch.{n}": lambda h, g, n=n: getattr(torch, n)(h) for n in [*METHODS, *NAMES]},
    **{f"torch.{n} of positives": lambda h, g, n=n: getattr(torch, n)(h.abs() + 0.1) for n in POSITIVE},
    **{f"special.{n}": lambda h, g, n=n: getattr(torch.special, n)(h.abs() + 0.1) for n in SPECIAL},
    **{f"Tensor.{n}": lambda h, g, n=n: getattr(h, n)() for n in METHODS},
    **{f"Tensor.{n}_": in_place(f"{n}_") for n in METHODS},
    **{f"nn.{m}": lambda h, g, m=m: m.to(h)(h) for m in MODULES},
    "torch.relu_": lambda h, g: torch.relu_(h + 0),
    "F.threshold_": lambda h, g: F.threshold_(h + 0, 0.1, 0.2),
    "clamp(min=0)": lambda h, g: h.clamp(min=0),
    "clamp(-.1, .2)": lambda h, g: torch.clamp(h, -0.1, 0.2),
    "clamp_": lambda h, g: (h + 0).clamp_(min=0.1),
    "clip": lambda h, g: h.clip(0.1, max=0.3),
    "torch.exp(out=)": lambda h, g: torch.exp(h, out=torch.empty(0, dtype=h.dtype)),
    "torch.mul(out=)": lambda h, g: torch.mul(h, g, out=torch.empty_like(h).detach()),
    "keyword input": lambda h, g: torch.sigmoid(input=h) + F.gelu(input=h, approximate="tanh"),
    # powers and products, in every spelling
    "x ** 2": lambda h, g: h**2,
    "x ** 3": lambda h, g: h**3,
    "x ** .5": lambda h, g: h.abs() ** 0.5,
    "2 ** x": lambda h, g: 2**h,
    "x ** y": lambda h, g: (h.abs() + 0.1) ** g,
    "torch.pow": lambda h, g: torch.pow(h, 2),
    "torch.pow(2, x)": lambda h, g: torch.pow(2, h),
    "pow_": in_place("pow_", 2),
    "x **= 2": assign(lambda h, g: operator.ipow(h, 2)),
    "x * y": lambda h, g: h * g,
    "x * x": lambda h, g: h * h,
    "x *= y": assign(operator.imul),
    "mul_": updated(lambda h, g: h.mul_(g)),
    "torch.multiply": lambda h, g: torch.multiply(h, g),
    "broadcast": lambda h, g: h * g[:, :1],
    "broadcast back": lambda h, g: h[:, :, :1] * g,
    "gate": lambda h, g: h * torch.sigmoid(g),
    "hand gelu": lambda h, g: 0.5 * h * (1 + torch.tanh(0.8 * (h + 0.044 * h**3))),
    "x / y": lambda h, g: h / (g.abs() + 0.5),
    "1 / y": lambda h, g: 1 / (g.abs() + 0.5),
    "x /= y": assign(lambda h, g: operator.itruediv(h, g.abs() + 0.5)),
    "torch.div": lambda h, g: torch.div(h, g.abs() + 0.5),
    "true_divide": lambda h, g: h.true_divide(g.exp()),
    "x @ y": lambda h, g: h @ g.transpose(1, 2),
    "torch.matmul": lambda h, g: torch.matmul(h, g.mT),
    "matmul broadcast": lambda h, g: h.unsqueeze(1) @ torch.stack([g.mT, h.mT], 1),
    "matmul 2d": lambda h, g: h @ g[0].mT,
    "bmm": lambda h, g: torch.bmm(h, g.mT),
    "baddbmm": lambda h, g: torch.baddbmm(h[:, :, :4], h, g.mT, beta=0.5, alpha=2),
    "addmm": lambda h, g: torch.addmm(h[:, 0], h[:, 1], g[0, :1].expand(6, 6)),
    "einsum": lambda h, g: torch.einsum("nij,nkj->nik", h, g),
    "einsum of three": lambda h, g: torch.einsum("nij,nkj,nik->ni", h, g, (h * g)[:, :, :4]),
    "einsum of three, two held": lambda h, g: torch.einsum("nij,jk,il->nlk", h, *(torch.ones(m, 2).to(h) for m in (6, 4))),
    "einsum of one": lambda h, g: torch.einsum("nij->nj", h),
    "einsum with a weight": lambda h, g: torch.einsum("nij,jk->nik", h, torch.ones(6, 2, dtype=h.dtype)),
    "linear of varying": lambda h, g: F.linear(h[:, 0], g[0], g[0, :, 0]),
    "conv of varying": lambda h, g: F.conv1d(h, g[0].view(2, 4, 3), g[0, :2, 0]),
    "conv of varying, of one": lambda h, g: torch.stack([F.conv1d(a, b[..., None], b[:, 0]) for a, b in zip(h, g[..., :4])]),
    "outer": lambda h, g: h.unsqueeze(3) * g.unsqueeze(2),
    "addcmul": lambda h, g: torch.addcmul(h, h, g, value=0.5),
    "addcdiv": lambda h, g: torch.addcdiv(h, h, g.exp()),
    "lerp": lambda h, g: torch.lerp(h, g, torch.sigmoid(h)),
    "prod": lambda h, g: h.prod(-1),
    "prod of all": lambda h, g: (h * 0.1 + 1).prod(1, keepdim=True),
    "cumsum": lambda h, g: h.cumsum(1).relu(),
    # rows
    "softmax": lambda h, g: h.softmax(-1),
    "F.softmax": lambda h, g: F.softmax(h, dim=1),
    "torch.softmax in float64": lambda h, g: torch.softmax(h, -1, dtype=torch.float64),
    "masked softmax": lambda h, g: (h @ g.mT).masked_fill(~MASK, -torch.inf).softmax(-1),
    "lowest-masked softmax": lambda h, g: (h @ g.mT + torch.zeros(4, 4).to(h).masked_fill(~MASK, LOWEST)).softmax(-1),
    "log_softmax": lambda h, g: F.log_softmax(h, -1),
    "logsumexp": lambda h, g: h.logsumexp(1),
    "logsumexp of two": lambda h, g: torch.logsumexp(h, (1, 2), keepdim=True),
    "logsumexp of one number": lambda h, g: torch.stack([t.logsumexp(0, keepdim=True) for t in h[:, 0, 0]]),
    "max of one number": lambda h, g: torch.stack([t.max(0, keepdim=True)[0] + t.amin(-1, keepdim=True) for t in h[:, 0, 0]]),
    "logaddexp": lambda h, g: torch.logaddexp(h, g),
    "attention": lambda h, g: F.scaled_dot_product_attention(h, g, h + g),
    "causal attention": lambda h, g: F.scaled_dot_product_attention(h, g, h, is_causal=True),
    "masked attention": lambda h, g: F.scaled_dot_product_attention(h, g, h, attn_mask=MASK),
    "normalize": lambda h, g: F.normalize(h, dim=-1),
    "norm": lambda h, g: h.norm(dim=-1),
    "linalg.norm": lambda h, g: torch.linalg.norm(h, dim=-1),
    "linalg.norm of matrices": lambda h, g: torch.stack([torch.linalg.norm(h, o, (1, 2)) for o in (1, -1, math.inf, "fro")]).T,
    "linalg.norm of the other side": lambda h, g: torch.linalg.norm(h, 1, (2, 1), True) + torch.linalg.norm(h, 3, 1, True),
    "linalg.norm of a matrix": lambda h, g: torch.stack([torch.linalg.norm(row, -math.inf) for row in h]),
    "matrix_norm": lambda h, g: torch.linalg.matrix_norm(h) + torch.linalg.matrix_norm(h, -1, keepdim=True).sum((1, 2)),
    "norm p=0": lambda h, g: h.relu().norm(p=0, dim=-1) + torch.linalg.vector_norm(h.relu(), 0, (1, 2))[:, None],
    "vector_norm": lambda h, g: torch.linalg.vector_norm(h, ord=1, dim=-1, keepdim=True),
    "norm p=3": lambda h, g: h.norm(p=3, dim=1),
    "cosine_similarity": lambda h, g: F.cosine_similarity(h, g, dim=-1),
    "var": lambda h, g: h.var(-1, keepdim=True) + torch.var(h, 1, unbiased=False)[:, None, :1],
    "std": lambda h, g: h.std(-1),
    "var_mean": lambda h, g: torch.var_mean(h, -1)[0],
    # the larger of
    "max": lambda h, g: h.max(-1).values,
    "max of all": lambda h, g: torch.stack([row.max() for row in h]),
    "min": lambda h, g: h.min(dim=1, keepdim=True)[0],
    "amax": lambda h, g: h.amax((1, 2)),
    "amin": lambda h, g: torch.amin(h, -1, keepdim=True),
    "maximum": lambda h, g: torch.maximum(h, g),
    "minimum": lambda h, g: torch.minimum(h, g),
    "torch.max of two": lambda h, g: torch.max(h, g),
    "h.min(other)": lambda h, g: h.min(g),
    "where": lambda h, g: torch.where(h > 0, h, 0.1 * h),
    "where of two": lambda h, g: torch.where(h > g, h, g * g),
    "h.where": lambda h, g: h.where(h > 0, torch.zeros((), dtype=h.dtype)),
    "where of numbers": lambda h, g: torch.where(MASK[:, :1], h, 0.0),
    "hypot": lambda h, g: torch.hypot(h, g),
    "atan2": lambda h, g: torch.atan2(h, g.exp()),
    **{f"max_pool2d {k}": lambda h, g, k=k: F.max_pool2d(h.unsqueeze(1), *k) for k in [(2,), (3, 1), (3, 2, 1), (2, 1, 0, 2)]},
    "max_pool2d with indices": lambda h, g: F.max_pool2d(h.unsqueeze(1), 2, return_indices=True)[0],
    "max_pool2d ceil": lambda h, g: F.max_pool2d(h.unsqueeze(1), 3, 2, ceil_mode=True),
    "torch.max_pool2d": lambda h, g: torch.max_pool2d(h.unsqueeze(1), 3, 1),
    "max_pool3d": lambda h, g: F.max_pool3d(h.view(-1, 1, 2, 3, 4), 2, 1),
    "adaptive_max_pool2d": lambda h, g: F.adaptive_max_pool2d(h.unsqueeze(1), 3),
    "adaptive_max_pool2d with indices": lambda h, g: nn.AdaptiveMaxPool2d((2, 3), return_indices=True)(h.unsqueeze(1))[0],
    "max_pool2d unbatched": lambda h, g: F.max_pool2d(h, 2),
    # bounds that vary, distances, arguments by name
    "clamp(min=y)": lambda h, g: h.clamp(min=g),
    "clamp(y, 1)": lambda h, g: torch.clamp(h, g, torch.ones((), dtype=h.dtype)),
    "clamp_max(y)": lambda h, g: h.clamp_max(g) + torch.clamp_min(h, g),
    "clamp_(max=y)": updated(lambda h, g: h.clamp_(max=g)),
    "pairwise_distance": lambda h, g: F.pairwise_distance(h, g) + F.pairwise_distance(x1=h, x2=g, p=1),
    "cdist": lambda h, g: torch.cdist(h, g) + torch.cdist(x1=h, x2=g, p=1.0) + torch.cdist(h.relu(), g, p=0.0),
    "bilinear": lambda h, g: F.bilinear(h, g, torch.arange(72.0).view(2, 6, 6).to(h), torch.ones(2).to(h)),
    "fake quantization": lambda h, g: torch.fake_quantize_per_tensor_affine(h, 0.25, 0, -128, 127),
    "torch.norm": lambda h, g: torch.norm(h, dim=-1) + torch.norm(h, p=1, dim=-1),
    "baddbmm by name": lambda h, g: torch.baddbmm(h[:, :, :4], batch1=h, batch2=g.mT, beta=0.5),
    "bmm by name": lambda h, g: torch.bmm(input=h, mat2=g.mT) + torch.matmul(h, other=g.mT),
    "products by name": lambda h, g: torch.mul(h, other=g) + torch.addcmul(h, tensor1=h, tensor2=g),
    "quotients by name": lambda h, g: torch.div(input=h, other=g.exp()) + g.exp().div_(other=h.exp()),
    "powers by name": lambda h, g: torch.pow(h, exponent=2) + torch.maximum(input=h, other=g) + torch.lerp(h, end=g, weight=g),
    "choice by name": lambda h, g: torch.where(h > 0, input=h, other=g * g) + h.where(condition=h > g, other=g),
    "attention by name": lambda h, g: F.scaled_dot_product_attention(query=h, key=g, value=h, is_causal=True),
    "similarity by name": lambda h, g: F.cosine_similarity(x1=h, x2=g, dim=-1) + torch.linalg.vecdot(x=h, y=g),
    "mm by name": lambda h, g: torch.stack([torch.mm(input=a, mat2=b.T) for a, b in zip(h, g)]),
    "norms by name": lambda h, g: (
        torch.native_layer_norm(input=h, normalized_shape=[6], weight=None, bias=None, eps=0.1)[0]
        + torch.native_group_norm(g, weight=None, bias=None, N=g.shape[0], C=4, HxW=6, group=2, eps=0.1)[0]
        + called(torch.batch_norm, h, running_mean=h.new_zeros(4), running_var=h.new_ones(4), training=False, **NORMS)
    ),
    # by numpy's names
    "softmax(axis=)": lambda h, g: called(torch.softmax, h, axis=1) + called(Tensor.log_softmax, g, axis=1),
    "max(axis=, keepdims=)": lambda h, g: called(h.max, axis=1, keepdims=True)[0] + called(torch.amin, g, axis=1)[:, None],
    "logsumexp(axis=)": lambda h, g: called(torch.logsumexp, h, axis=1),
    "moments(axis=)": lambda h, g: called(h.var, axis=1, keepdims=True) + called(torch.std, h, axis=1, keepdims=True),
    "prod(axis=)": lambda h, g: called(h.prod, axis=-1) + called(torch.var_mean, h, axis=-1)[0],
    "two by numpy's names": lambda h, g: called(torch.mul, h, x2=g) + called(torch.maximum, x=h, x2=g),
    "one by numpy's names": lambda h, g: called(torch.exp, a=h) + called(torch.relu, x1=h) + called(torch.sigmoid, x=h),
    # combinations
    "adjacent": lambda h, g: torch.tanh(F.relu(torch.sigmoid(h))),
    "reused": lambda h, g: F.relu(F.relu(h) - 0.1) * h,
    "entropy": lambda h, g: -(h.softmax(-1) * h.log_softmax(-1)).sum(-1),
    "loss": lambda h, g: F.cross_entropy(h.mT, torch.tensor([[0, 1, 2, 5]] * len(h)), reduction="none"),
    "mse": lambda h, g: F.mse_loss(h, g, reduction="none"),
    "bce": lambda h, g: F.binary_cross_entropy_with_logits(h, g.sigmoid().detach() * 0 + 0.3, reduction="none"),
}  # fmt: skip


def difference(model: Callable[..., Any], x: Tensor, baselines: Any, score: Callable[[Any], Tensor]) -> Tensor:
    with torch.no_grad():
        x0 = baselines.expand_as(x) if isinstance(baselines, Tensor) else torch.full_like(x, baselines)
        return score(model(x.clone())) - score(model(x0.clone()))


def assert_complete(attributions: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    found = attributions.flatten(1).sum(1)
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max().clamp_min(1e-30), (found, wanted)
