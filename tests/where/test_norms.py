"""The gradient of one image through batch norm on the CPU, where what comes back was made of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr._core import norms

from ..close import distance


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def with_class_token(t: Tensor) -> Tensor:
    return torch.cat([t.mean(1, keepdim=True), t], 1)


def attended(t: Tensor) -> Tensor:
    return (t @ t.transpose(1, 2)).softmax(-1) @ t


#: From the image to tokens: each but the last hands a strided gradient back for one image.
BACKS: dict[str, Callable[[Tensor], Tensor]] = {
    "a class token": lambda h: with_class_token(tokens(h)),
    "layer norm": lambda h: F.layer_norm(tokens(h), [4]),
    "attention": lambda h: attended(tokens(h)),
    "sequence first": lambda h: F.gelu(h.flatten(2).permute(2, 0, 1)).transpose(0, 1),
    "channels last": lambda h: h.permute(0, 2, 3, 1).flatten(1, 2),
}


class Called(nn.Module):
    """A batch norm called as a function."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.rand(4) + 0.5)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Any:
        return self.how(x, self.weight, self.mean, self.var)


class Exported(Called):
    """As programs call it that torch.export has written down."""

    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x: Tensor) -> Any:
        given = self.weight, self.weight, self.mean, self.var
        return torch.ops.aten._native_batch_norm_legit_no_training(x, *given, 0.1, 1e-5)[0]


NORMS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "InstanceNorm2d with statistics": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "F.batch_norm": lambda: Called(lambda x, w, m, v: F.batch_norm(x, m, v, w)),
    "native_batch_norm": lambda: Called(lambda x, w, m, v: torch.native_batch_norm(x, w, w, m, v, False, 0.1, 1e-5)[0]),
    **({"exported": Exported} if hasattr(torch.ops.aten, "_native_batch_norm_legit_no_training") else {}),  # since torch 2.1
}


class ToTokens(nn.Module):
    def __init__(self, norm: nn.Module, back: str = "a class token", before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.norm, self.back = before or nn.Identity(), norm, BACKS[back]
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        return self.two(F.gelu(self.one(self.back(self.norm(self.before(x))))).sum(1))


def made(norm: str, back: str = "a class token", before: nn.Module | None = None) -> ToTokens:
    torch.manual_seed(0)
    model = ToTokens(NORMS[norm](), back, before).double().eval()
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def by_differences(model: Callable[[Tensor], Tensor], x: Tensor, target: int = 1, step: float = 1e-5) -> Tensor:
    moves = step * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    with torch.no_grad():
        slopes = [(model(x + m)[:, target].sum() - model(x - m)[:, target].sum()) / (2 * step) for m in moves]
    return torch.stack(slopes).reshape(x.shape)


@pytest.mark.parametrize("back", BACKS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 4, 3, 3), (2, 4, 3, 3), (2, 4, 1, 3)])
def test_it_is_the_slope_of_the_score(norm: str, back: str, shape: tuple[int, ...]) -> None:
    model, x = made(norm, back), torch.randn(shape, dtype=torch.float64)
    assert distance(fa.gradient(model, x, target=1), by_differences(model, x)) < 1e-6


@pytest.mark.parametrize("norm", [name for name in ("BatchNorm2d", "InstanceNorm2d", "exported") if name in NORMS])
def test_compiled_and_vmapped_too(norm: str) -> None:
    model, x = made(norm), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    want = by_differences(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fa.gradient(model, x, target=1), backend="aot_eager", fullgraph=True)
    assert distance(compiled(x), want) < 1e-6
    assert distance(torch.func.vmap(lambda x: fa.gradient(model, x, target=1))(x[None])[0], want) < 1e-6
    several = torch.stack([x, x + 1])
    for one, found in zip(several, torch.func.vmap(lambda x: fa.gradient(model, x, target=1))(several)):
        assert distance(found, by_differences(model, one)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_other_dtypes_after_a_convolution(dtype: torch.dtype) -> None:
    wide = made("BatchNorm2d", before=nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(1, 3, 4, 4, dtype=dtype)
    want = by_differences(wide, x.double())
    found = fa.gradient(wide.to(dtype), x, target=1)
    assert distance(found, want) < (1e-4 if dtype == torch.float32 else 0.1)


def test_other_methods_agree_on_one_image_and_two() -> None:
    model = made("BatchNorm2d", before=nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    methods: list[Callable[[Tensor], Tensor]] = [
        lambda x: fa.integrated_gradients(model, x, target=1, layer="before"),
        lambda x: fa.conductance(model, x, target=1, layer="before"),
        lambda x: fa.grad_cam(model, x, target=1, layer="before"),
        lambda x: fa.deep_lift(model, x, target=1),
    ]
    for method in methods:
        assert distance(method(x), method(torch.cat([x, x]))[:1]) < 1e-9
    batched = fa.each_target(fa.gradient, [0, 1, 2])(model, x)
    for target, found in enumerate(batched):
        assert distance(found, by_differences(model, x, target)) < 1e-6


@pytest.mark.parametrize("back", BACKS)
@pytest.mark.parametrize("norm", ["BatchNorm2d", "InstanceNorm2d"])
def test_relevance_and_what_is_absorbed_sum_to_the_score(norm: str, back: str) -> None:
    model, x = made(norm, back, before=nn.Conv2d(3, 4, 3, padding=1)), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    for rules in (fa.rules.epsilon(), fa.rules.attn_lrp()):  # a norm that is merged into the convolution, and one that is not
        total = fa.lrp(model, x, target=1, rules=rules).sum() + sum(fa.absorbed(model, x, target=1, rules=rules).values())
        assert distance(total, model(x)[0, 1].detach()) < 1e-9


def test_its_own_derivative_is_right() -> None:
    model, x = made("BatchNorm2d"), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    x.requires_grad_()
    (found,) = torch.autograd.grad(fa.gradient(model, x, target=1, create_graph=True).square().sum(), x)

    def scored(x: Tensor) -> Tensor:
        return fa.gradient(model, x, target=1).square().sum().reshape(1, 1)

    assert distance(found, by_differences(scored, x.detach(), target=0)) < 1e-5


def test_where_the_input_lies_so_too() -> None:
    model = made("BatchNorm2d", back="channels last")
    tokens_first = torch.randn(9, 1, 4, dtype=torch.float64)
    x = tokens_first.permute(1, 2, 0).reshape(1, 4, 3, 3)
    assert distance(fa.gradient(model, x, target=1), by_differences(model, x.contiguous())) < 1e-6


def test_layouts_are_told_as_torch_tells_them() -> None:
    odd = torch.zeros(9, 1, 4).permute(1, 2, 0).view(1, 4, 3, 3)
    assert norms.looks_odd(odd)
    for shape in [(1, 4, 3, 3), (2, 4, 1, 3), (1, 1, 3, 3), (2, 4, 1, 1), (2, 3, 1, 4, 4)]:
        t = torch.zeros(shape)
        last = t.to(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)
        assert [norms.looks_odd(t), norms.looks_odd(last)] == [False, False]


def test_where_nothing_errs_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_mend_one", lambda node: pytest.fail("a graph was searched for nothing"))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fa.gradient(model, torch.randn(1, 3), target=1)  # torch's own layers, and none is a norm
    monkeypatch.setattr(norms, "kernel_errs", lambda: False)
    fa.gradient(made("BatchNorm2d"), torch.randn(1, 4, 3, 3, dtype=torch.float64), target=1)


def test_the_fault_is_looked_for_anywhere() -> None:
    found = norms.kernel_errs()
    norms._tried.cache_clear()
    assert torch.func.vmap(lambda x: x * norms.kernel_errs())(torch.ones(2)).bool().tolist() == [found, found]
