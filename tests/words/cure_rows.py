"""Wrong calls, the words of the cure that each message gives, and the cure, done. See `cures.py`."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Conv, Mlp, Recurrent, Text
from .cures import Cure
from .wrong import (
    Checkpointed,
    Detached,
    Frozen,
    PartScripted,
    Unused,
    attention,
    scripted,
)

F: Any = fa  # whose arguments are wrong on purpose
M: Any = fa.metrics
torch.manual_seed(0)
x, image, ids = torch.randn(4, 6), torch.randn(4, 3, 8, 8), torch.randint(0, 20, (4, 7))
mlp, conv, text = Mlp().eval(), Conv().eval(), Text().eval()
first = {"layer": "fc1", "target": 1}
maps = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
dropping = nn.Sequential(nn.Linear(6, 5), nn.Dropout())
waves = torch.randn(4, 6, dtype=torch.complex64)


class Thrice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.inner(x)).tanh())


def inner_vmap(x: Tensor) -> Tensor:
    return torch.func.vmap(mlp)(x)


smooth = torch.jit.script(nn.Sequential(nn.Linear(x.shape[1], 4), nn.Tanh(), nn.Linear(4, 3)))


class Streaming(nn.Module):
    """A memory of what has been seen, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        self.seen.mul_(0.9).add_(h.mean(0))
        return h * (1 + self.seen)


class WithContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        found: Tensor = gradient * ctx.saved_tensors[0].exp()
        return found


class WithSetup(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    backward = WithContext.backward


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function.apply(x)
        return found


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, 2 * x)


class Size(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class TimeFirst(nn.Module):
    """A layer with steps first, between layers with the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.rnn, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.rnn(self.before(x).movedim(1, 0)))[-1])


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor, logits_to_keep: int = 0) -> Any:
        return {"logits": self.head(torch.tanh(self.embed(ids).cumsum(1)))[:, -logits_to_keep:]}


thrice, steps, language = Thrice().eval(), TimeFirst().eval(), Language().eval()
times, prompt, answer = torch.randn(3, 7, 5), torch.randint(0, 9, (2, 6)), torch.tensor([3, 4])
likely: Any = fa.log_likelihood
embedded = {"layer": "embed"}
named = copy.deepcopy(mlp)
named.classes = ["cat", "dog", "cat", "bird", "fish"]  # type: ignore[assignment]  # a module's attributes are tensors and modules to mypy
side = torch.arange(6) // 2
inside = torch.rand(8, 8) < 0.5
phi = torch.randn(4, 3, 8, 8)


def said(model: Any = mlp, x: Any = x, **options: Any) -> Any:
    """A saliency that is refused."""
    return F.saliency(model, x, **options)


def through(target: Any, x: Any = prompt) -> Tensor:
    return F.integrated_gradients(language, x, target=target, n_steps=2, **embedded)


def keep(operation: Any, gradient: Tensor) -> Tensor:
    """A rule that hands on what it is given."""
    return gradient


both = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)).eval()


def two(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


CORE = [
    # x
    Cure("_types.py", "pass a tensor, or a tuple or dict", lambda: said(x=("a",)), lambda: said(x=(x,), target=1)),
    Cure("_types.py", "pass x[None]", lambda: said(x=torch.tensor(1.0)), lambda: said(lambda v: v, torch.tensor(1.0)[None])),
    Cure(
        "_core/checks.py",
        "clean the input first",
        lambda: said(x=x / 0, target=1),
        lambda: said(x=(x / 0).nan_to_num(), target=1),
    ),
    Cure(
        "_core/checks.py",
        "torch.from_numpy(x)",
        lambda: said(x=x.numpy(), target=1),
        lambda: said(x=torch.from_numpy(x.numpy()), target=1),
    ),
    Cure(
        "_core/checks.py",
        "where these are examples",
        lambda: said(x=[*x], target=1),
        lambda: said(x=torch.stack([*x]), target=1),
    ),
    Cure(
        "_core/checks.py",
        ".to_padded_tensor(0.0)",
        lambda: said(x=torch.nested.nested_tensor([x[0], x[1]]), target=1),
        lambda: said(x=torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0.0), target=1),
    ),
    Cure(
        "_core/checks.py",
        ".to_dense()",
        lambda: said(x=x.to_sparse(), target=1),
        lambda: said(x=x.to_sparse().to_dense(), target=1),
    ),
    Cure(
        "_core/checks.py",
        "Look at the model's output",
        lambda: F.input_x_gradient(lambda v: (v * 1e4 * v * 1e4).sum(1), x.half() + 3),
        lambda: F.input_x_gradient(lambda v: (v * 1e4 * v * 1e4).sum(1), x.float() + 3),  # its range, in another dtype
    ),
    Cure(
        "_core/checks.py",
        "choose a layer after the embedding",
        lambda: said(text, ids, target=1),
        lambda: said(text, ids, layer="embedding", target=1),
    ),
    Cure(
        "_core/checks.py",
        "pass torch.view_as_real(x)",
        lambda: said(lambda z: z.abs().sum(1), waves),
        lambda: said(lambda z: torch.view_as_complex(z).abs().sum(1), torch.view_as_real(waves)),
    ),
    Cure(
        "_core/code.py",
        "Call model.eval() first",
        lambda: said(dropping.train(), target=1),
        lambda: said(dropping.eval(), target=1),
    ),
    Cure(
        "_core/cures.py",
        "call model.eval() first",
        lambda: F.guided_backprop(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()).train(), x, target=1, create_graph=True),
        lambda: F.guided_backprop(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()).eval(), x, target=1, create_graph=True),
    ),
    Cure(
        "_core/cures.py",
        "and one with rules without create_graph=True",
        lambda: F.lrp(Streaming().eval(), x, target=1, create_graph=True),
        lambda: F.lrp(Streaming().eval(), x, target=1),
    ),
    Cure(
        "_core/cures.py",
        "call the method outside of torch.func",
        lambda: torch.func.grad(lambda x: F.saliency(Streaming().eval(), x, target=1).sum())(x),
        lambda: F.saliency(Streaming().eval(), x, target=1),
    ),
    Cure(
        "_core/cures.py",
        "give ids of its vocabulary",
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=99),
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=0),
    ),
    Cure(
        "_core/cures.py",
        "give it a setup_context, and a forward without ctx",
        lambda: F.guided_backprop(nn.Sequential(mlp, nn.ReLU(), Applied(WithContext)), x, target=1, create_graph=True),
        lambda: F.guided_backprop(nn.Sequential(mlp, nn.ReLU(), Applied(WithSetup)), x, target=1, create_graph=True),
    ),
    Cure(
        "_core/cures.py",
        "or run the method without create_graph=True, and outside of torch.func",
        lambda: torch.func.grad(lambda x: F.saliency(nn.Sequential(mlp, Applied(WithContext)), x, target=1).sum())(x),
        lambda: F.saliency(nn.Sequential(mlp, Applied(WithContext)), x, target=1),
    ),
    Cure(
        "_named/absorbed.py",
        "call it outside of these",
        lambda: torch.func.grad(lambda x: fa.absorbed(mlp, x, target=1)["linear"].sum())(x),
        lambda: fa.absorbed(mlp, x, target=1)["linear"],
    ),
    Cure(
        "_core/backward.py",
        "pass the model before it was scripted, or leave out create_graph=True",
        lambda: [  # from the third run on it is compiled
            run(x)
            for run in 4 * [smooth] + 2 * [torch.func.grad(lambda x: F.gradient(smooth, x, target=1, create_graph=True).sum())]
        ],
        lambda: torch.func.grad(lambda x: F.gradient(mlp, x, target=1, create_graph=True).sum())(x),
    ),
    Cure(
        "_core/checks.py",
        "choose a layer before or after it, or write that part of the model without torch.func",
        lambda: F.gradient(inner_vmap, x, layer=mlp.fc1, target=1),
        lambda: F.gradient(mlp, x, layer=mlp.fc1, target=1),
    ),
    # layers
    Cure(
        "_core/sites.py",
        "name at least one layer",
        lambda: F.activation(mlp, x, layer=[]),
        lambda: F.activation(mlp, x, layer=["fc1"]),
    ),
    Cure(
        "_core/sites.py",
        "name a layer inside",
        lambda: F.gradient(mlp, x, layer="", target=1),
        lambda: F.gradient(mlp, x, layer=fa.layers(mlp, x)[0].name, target=1),
    ),
    Cure(
        "_core/sites.py",
        "call=0), ..., call=",
        lambda: F.gradient(thrice, x, layer="inner", target=1),
        lambda: F.gradient(thrice, x, layer=fa.output_of("inner", call=-1), target=1),
    ),
    Cure(
        "_core/sites.py",
        "say which with",
        lambda: F.gradient(thrice, x, layer="inner", target=1),
        lambda: F.gradient(thrice, x, layer=fa.output_of("inner", call=0), target=1),
    ),
    Cure(
        "_core/sites.py",
        "use 0 to {}",
        lambda: F.activation(thrice, x, layer=fa.output_of("inner", call=3)),
        lambda: F.activation(thrice, x, layer=fa.output_of("inner", call=1)),
    ),
    Cure(
        "_core/sites.py",
        "pass the model before it was",
        lambda: F.gradient(PartScripted(), x, layer="body.fc1", target=1),
        lambda: F.gradient(mlp, x, **first),
    ),
    Cure(
        "_core/sites.py",
        "name one of its layers",
        lambda: F.gradient(Unused(), x, layer="many", target=1),
        lambda: F.gradient(Unused(), x, layer="used", target=1),
    ),
    Cure(
        "_core/sites.py",
        "take the attention module itself",
        lambda: F.activation(attention, torch.randn(2, 3, 6), layer="0.self_attn.out_proj"),
        lambda: F.activation(attention, torch.randn(2, 3, 6), layer="0.self_attn"),
    ),
    Cure(
        "_core/where.py",
        "pass the layer's module object, or bind",
        lambda: F.grad_cam(lambda v: conv(v), image, layer="conv1", target=1),
        lambda: (
            F.grad_cam(lambda v: conv(v), image, layer=conv.conv1, target=1),
            F.grad_cam(functools.partial(conv), image, layer="conv1", target=1),
        ),
    ),
    Cure(
        "_core/where.py",
        "pass the model before it was",
        lambda: F.deconvnet(scripted, x, target=1),
        lambda: F.deconvnet(mlp, x, target=1),
    ),
    Cure(
        "_core/backward.py",
        "rules hold it constant: take integrated_gradients",
        lambda: fa.lrp(lambda v: v.norm(dim=1, keepdim=True), x, target=0),
        lambda: fa.integrated_gradients(lambda v: v.norm(dim=1, keepdim=True), x, target=0, baselines=0.1),
    ),
    Cure(
        "_core/backward.py",
        "Remove the cut, or choose a later layer",
        lambda: F.gradient(Detached(), x, layer="body", target=1),
        lambda: F.gradient(Detached(), x, layer="head", target=1),
    ),
    Cure(
        "_core/backward.py",
        "Remove the cut, or choose a later layer",
        lambda: said(Frozen(), target=1),
        lambda: said(Frozen().inner, target=1),
    ),
    Cure(
        "_core/backward.py",
        "pass use_reentrant=False",
        lambda: F.gradient(Checkpointed(True), x, target=1),
        lambda: F.gradient(Checkpointed(False), x, target=1),
    ),
    Cure(
        "_core/backward.py",
        "Choose layers side by side, or call the method once for each",
        lambda: F.integrated_gradients(mlp, x, layer=["fc1", "fc2"], target=1),
        lambda: [F.integrated_gradients(mlp, x, layer=layer, target=1) for layer in ("fc1", "fc2")],
    ),
    Cure(
        "_core/checks.py",
        "choose a layer whose value is [N, C, ...]",
        lambda: F.grad_cam(nn.Sequential(nn.Flatten(1), nn.Flatten(0)), torch.randn(4, 1), layer="1"),
        lambda: F.grad_cam(nn.Sequential(nn.Flatten(1), nn.Flatten(0)), torch.randn(4, 1), layer="0"),
    ),
    Cure(
        "_core/checks.py",
        "choose a layer whose value has the batch first",
        lambda: F.grad_cam(steps, times, layer=fa.input_of("rnn"), target=1, channel_dim=-1),
        lambda: F.grad_cam(steps, times, layer="before", target=1, channel_dim=-1),
    ),
    Cure(
        "_methods/cam.py",
        "choose a layer whose value has the batch first",
        lambda: F.grad_cam(steps, times[:, :3], layer=fa.input_of("rnn"), target=1, channel_dim=-1),
        lambda: F.grad_cam(steps, times[:, :3], layer="before", target=1, channel_dim=-1),
    ),
    Cure(
        "_methods/ablation.py",
        "choose another",
        lambda: F.ablation_cam(steps, times, layer=fa.input_of("rnn"), target=1, channel_dim=-1),
        lambda: F.ablation_cam(steps, times, layer="before", target=1, channel_dim=-1),
    ),
    Cure(
        "_named/cams.py",
        "explain a probability",
        lambda: F.ablation_cam(conv, image, layer="conv1", target=lambda out: out[:, 0] * 0),
        lambda: F.ablation_cam(conv, image, layer="conv1", target=lambda out: out.softmax(1)[:, 0]),
    ),
    # targets
    Cure(
        "_core/entries.py", "leave the target out", lambda: said(lambda v: v.sum(1), target=1), lambda: said(lambda v: v.sum(1))
    ),
    Cure(
        "_core/entries.py",
        "without a batch dimension, pass x[None]",
        lambda: said(lambda v: v.sum(-1), target=1),
        lambda: said(mlp, x[0][None], target=1),
    ),
    Cure(
        "_core/entries.py", "pass a tuple of", lambda: said(maps, image, target=2), lambda: said(maps, image, target=(2, 0, 0))
    ),
    Cure(
        "_core/entries.py",
        "slices for what is to be summed: target={}",
        lambda: said(maps, image, target=2),
        lambda: said(maps, image, target=(2, slice(None), slice(None))),
    ),
    Cure(
        "_core/entries.py",
        "give all of them, with slices",
        lambda: said(maps, image, target=(2, 1)),
        lambda: said(maps, image, target=(2, 1, slice(None))),
    ),
    Cure(
        "_core/entries.py",
        "as one class per example, pass list(target)",
        lambda: said(target=(0, 1, 2, 3)),
        lambda: said(target=[0, 1, 2, 3]),
    ),
    Cure("_core/entries.py", "give {}", lambda: said(target=(1, 2)), lambda: said(target=(1,))),
    Cure(
        "_words.py",
        "leave out what has no label: x[target >= 0]",
        lambda: said(target=torch.tensor([0, -100, 1, 2])),
        lambda: said(x=x[torch.tensor([0, 2, 3])], target=torch.tensor([0, 1, 2])),
    ),
    Cure("_core/entries.py", "give one per example", lambda: said(target=[0, 1]), lambda: said(target=[0, 1, 0, 1])),
    Cure(
        "_core/entries.py",
        "pass target.long()",
        lambda: said(target=torch.zeros(4)),
        lambda: said(target=torch.zeros(4).long()),
    ),
    Cure(
        "_core/score.py",
        "pass target=3, one class per example",
        lambda: said(),
        lambda: [said(target=t) for t in (3, [3] * 4, "argmax", lambda out: out[:, 3])],
    ),
    Cure(
        "_core/score.py",
        "Of a class, give the number",
        lambda: F.score(mlp(x), "cat"),
        lambda: F.score(mlp(x), 1),
    ),
    Cure(
        "_core/entries.py",
        "give the number, such as labels.index({})",
        lambda: said(target="cat"),
        lambda: said(target=["cat", "dog"].index("cat")),
    ),
    Cure("_core/entries.py", "pass target={}", lambda: said(named, target="3"), lambda: said(named, target=3)),
    Cure(
        "_core/score.py",
        "pass a callable index, value -> Tensor [N]",
        lambda: F.gradient(Recurrent().eval(), torch.randn(2, 3, 4), target=fa.neuron("lstm", 1)),
        lambda: F.gradient(
            Recurrent().eval(), torch.randn(2, 3, 4), target=fa.neuron("lstm", lambda value: value[0][:, -1, 1])
        ),
    ),
    Cure(
        "_core/picking.py",
        "tensors: pass a callable target that",
        lambda: said(lambda v: (v, 2 * v), target=1),
        lambda: said(lambda v: (v, 2 * v), target=lambda out: out[0][:, 1]),
    ),
    Cure(
        "_core/score.py",
        "take its .abs(), .real or .imag",
        lambda: said(target=lambda out: out[:, 1] * 1j),
        lambda: said(target=lambda out: (out[:, 1] * 1j).abs()),
    ),
    Cure(
        "_core/score.py",
        "pass a callable target, such as lambda output: output[:, 3].abs()",
        lambda: said(lambda v: torch.complex(v, v), target=3),
        lambda: said(lambda v: torch.complex(v, v), target=lambda output: output[:, 3].abs()),
    ),
    Cure(
        "_core/score.py",
        "pass a callable index, such as lambda value: value[:, 3].abs()",
        lambda: said(nn.Sequential(Complex(), Size()), target=fa.neuron("0", 3)),
        lambda: said(nn.Sequential(Complex(), Size()), target=fa.neuron("0", lambda value: value[:, 3].abs())),
    ),
    Cure(
        "_core/passes.py",
        "a loss takes reduction='none'",
        lambda: said(target=functools.partial(nn.functional.cross_entropy, target=torch.tensor([0, 1, 2, 3]))),
        lambda: said(
            target=functools.partial(nn.functional.cross_entropy, target=torch.tensor([0, 1, 2, 3]), reduction="none")
        ),
    ),
    Cure(
        "_core/passes.py",
        "of one example without it, pass x[None]",
        lambda: said(lambda v: v[:2], target=1),
        lambda: said(mlp, x[0][None], target=1),
    ),
]
