"""Wrong calls, the words of the cure that each message gives, and the cure, done. See `tests/cures.py`."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import funattr as fa

from .cures import Cure
from .models import Conv, Mlp, Recurrent, Text
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


def through(target: Any) -> Tensor:
    return F.integrated_gradients(language, prompt, target=target, n_steps=2, **embedded)


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
        "_core/real.py",
        "choose a layer after the embedding",
        lambda: said(text, ids, target=1),
        lambda: said(text, ids, layer="embedding", target=1),
    ),
    Cure(
        "_core/real.py",
        "pass torch.view_as_real(x)",
        lambda: said(lambda z: z.abs().sum(1), waves),
        lambda: said(lambda z: torch.view_as_complex(z).abs().sum(1), torch.view_as_real(waves)),
    ),
    Cure(
        "_core/door.py",
        "Call model.eval() first",
        lambda: said(dropping.train(), target=1),
        lambda: said(dropping.eval(), target=1),
    ),
    Cure(
        "_core/gradient.py",
        "call model.eval() first",
        lambda: F.guided_backprop(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()).train(), x, target=1, create_graph=True),
        lambda: F.guided_backprop(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()).eval(), x, target=1, create_graph=True),
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
        "_core/channels.py",
        "choose a layer whose value is [N, C, ...]",
        lambda: F.grad_cam(nn.Sequential(nn.Flatten(1), nn.Flatten(0)), torch.randn(4, 1), layer="1"),
        lambda: F.grad_cam(nn.Sequential(nn.Flatten(1), nn.Flatten(0)), torch.randn(4, 1), layer="0"),
    ),
    Cure(
        "_core/channels.py",
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
        "_named/cams.py",
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
        "_core/entries.py",
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
        "_core/classes.py",
        "give the number, such as labels.index({})",
        lambda: said(target="cat"),
        lambda: said(target=["cat", "dog"].index("cat")),
    ),
    Cure("_core/classes.py", "pass target={}", lambda: said(named, target="3"), lambda: said(named, target=3)),
    Cure(
        "_core/score.py",
        "pass a callable index, value -> Tensor [N]",
        lambda: F.gradient(Recurrent().eval(), torch.randn(2, 3, 4), target=fa.neuron("lstm", 1)),
        lambda: F.gradient(
            Recurrent().eval(), torch.randn(2, 3, 4), target=fa.neuron("lstm", lambda value: value[0][:, -1, 1])
        ),
    ),
    Cure(
        "_core/score.py",
        "pass a callable target that",
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


class Holds(nn.Module):
    """What it holds at the layer `a` has a number of each example in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 6), nn.Identity(), nn.Linear(6, 5)

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        return self.b(self.a(self.embed(ids).mean(1) * scale).tanh())


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp() if bool(x.sum() > 0) else x.tanh()


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x.exp(), x.tanh())


class Counts(nn.Module):
    def __init__(self, by_shape: bool) -> None:
        super().__init__()
        self.by_shape = by_shape

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() / (x.shape[0] if self.by_shape else len(x))


def keep(operation: Any, gradient: Tensor) -> Tensor:
    """A rule that hands on what it is given."""
    return gradient


def spread(operation: Any, gradient: Tensor) -> Tensor:
    """A rule that hands it on to all that was summed."""
    return gradient[..., None].expand(4, 5, 2)


def reduced(v: Tensor) -> Tensor:
    return torch.logsumexp(both(v)[..., None].expand(4, 5, 2), -1)


scaled = functools.partial(Holds().eval(), scale=torch.rand(4, 1))


# the methods' own arguments
table, score = torch.randn(2, 5), functools.partial(torch.sum, dim=1)
norms = nn.Sequential(nn.Linear(6, 8), nn.Hardtanh(), nn.Linear(8, 5)).eval()
rows_of = torch.tensor([0, 0, 1, 1])
sequences = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5)).eval()
both = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)).eval()


def two(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def pooled(v: Tensor) -> Tensor:
    """A model whose rows are parts of examples."""
    return torch.zeros(2, 6).index_add(0, rows_of, v.tanh())


def gated(v: Tensor) -> Tensor:
    a, b = both(v)[:, :4].chunk(2, dim=1)
    return a * b.sigmoid()


def distances(v: Tensor) -> Tensor:
    return torch.cdist(v, torch.ones(5, 6))


class PooledMaps(nn.Module):
    """Examples of several pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.zeros(2, 4).index_add(0, rows_of, self.conv(x).tanh().mean((2, 3))))


pooled_maps = PooledMaps().eval()


class Forked(nn.Module):
    """Another way at the baseline than at x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh().exp() if x.abs().sum() > 0 else x


class Differentiates(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            v = x if x.requires_grad else x.clone().requires_grad_()
            return torch.autograd.grad(v.pow(3).sum(), v, create_graph=True)[0]


class Packed(nn.Module):
    def __init__(self, packs: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.packs = nn.RNN(5, 4, batch_first=True), nn.Linear(4, 3), packs

    def forward(self, x: Tensor) -> Tensor:
        given = nn.utils.rnn.pack_padded_sequence(x, [7] * len(x), batch_first=True) if self.packs else x
        return self.head(self.rnn(given)[1][-1])


def ablated(**options: Any) -> Any:
    return F.feature_ablation(mlp, x, target=1, **options)


def path(**options: Any) -> Any:
    return F.integrated_gradients(mlp, x, target=1, **options)


METHODS = [
    Cure(
        "_combine/shapes.py",
        "give the size to interpolate",
        lambda: F.interpolate(torch.ones(1, 1, 2, 2)),
        lambda: [F.interpolate(torch.ones(1, 1, 2, 2), size) for size in ((4, 4), image)],
    ),
    Cure(
        "_combine/shapes.py",
        "choose a layer whose value is [N, C, *spatial]",
        lambda: F.guided_grad_cam(conv, image, layer="fc", target=1),
        lambda: F.guided_grad_cam(conv, image, layer="conv2", target=1),
    ),
    Cure(
        "_combine/shapes.py",
        "use one of {}",
        lambda: F.guided_grad_cam(conv, image, layer="conv1", target=1, mode="linear"),
        lambda: F.guided_grad_cam(conv, image, layer="conv1", target=1, mode="bilinear"),
    ),
    Cure(
        "_combine/targets.py",
        "name at least one",
        lambda: F.each_target(fa.gradient, []),
        lambda: F.each_target(fa.gradient, [0])(mlp, x),
    ),
    Cure(
        "_combine/grouped.py",
        "Give what is of no interest a group of its own",
        lambda: F.sum_groups(fa.gradient, [0, -1]),
        lambda: F.sum_groups(fa.gradient, [0, 0, 0, 1, 1, 2])(mlp, x, target=1),
    ),
    Cure(
        "_combine/grouped.py",
        "give each layer its groups",
        lambda: F.sum_groups(fa.gradient, {"a": [0] * 6})(language, prompt, layer={"b": "embed"}, target=likely(answer)),
        lambda: F.sum_groups(fa.gradient, {"b": [0] * 6})(language, prompt, layer={"b": "embed"}, target=likely(answer)),
    ),
    Cure(
        "_combine/grouped.py",
        "give each place its group",
        lambda: F.sum_groups(torch.ones(2, 3), [0, 1]),
        lambda: F.sum_groups(torch.ones(2, 3), [0, 1, 1]),
    ),
    Cure(
        "_combine/baselines.py",
        "pass noise_tunnel a method with a single baseline",
        lambda: F.noise_tunnel(fa.deep_lift_shap, n_samples=2)(scaled, ids, layer="a", baselines=ids[:2], target=1),
        lambda: F.noise_tunnel(fa.deep_lift, n_samples=2)(scaled, ids, layer="a", baselines=ids[:1], target=1),
    ),
    Cure("_core/classes.py", "choose by number", lambda: said(named, target="cat"), lambda: said(named, target=2)),
    Cure(
        "_core/entries.py",
        "for masks of their own pass a callable",
        lambda: said(maps, image, target=(3, torch.ones(5, 6) > 0)),
        lambda: said(maps, image, target=lambda output: (output[:, 3] * torch.ones(4, 6, 6)).sum((1, 2))),
    ),
    Cure(
        "_core/real.py",
        "choose a layer where it is real",
        lambda: said(nn.Sequential(Complex(), Size()), layer="0", target=1),
        lambda: said(nn.Sequential(Complex(), Size()), layer="1", target=1),
    ),
    Cure(
        "_core/real.py",
        "pass a callable one, such as",
        lambda: said(lambda v: v.to_sparse(), target=3),
        lambda: said(lambda v: v.to_sparse(), target=lambda output: output.to_dense()[:, 3]),
    ),
    Cure(
        "_core/passes.py",
        "wrap a model that takes them as one argument",
        lambda: said(lambda pair: two(*pair), (x, x)),
        lambda: said(lambda *x: (lambda pair: two(*pair))(x), (x, x)),
    ),
    Cure(
        "_core/passes.py",
        "take by_examples(method, examples)",
        lambda: said(lambda v: v[:2], target=1),
        lambda: F.by_examples(fa.saliency, rows_of)(pooled, x, target=1),
    ),
    Cure(
        "_core/examples.py",
        "say so with by_examples(method, examples)",
        lambda: said(pooled, target=1),
        lambda: F.by_examples(fa.saliency, rows_of)(pooled, x, target=1),
    ),
    Cure(
        "_core/examples.py",
        "give one for each, None where it has a row for each example",
        lambda: F.by_examples(fa.gradient, (rows_of,))(lambda v, u: pooled(v) + u, (x, torch.randn(2, 6)), target=1),
        lambda: F.by_examples(fa.gradient, (rows_of, None))(lambda v, u: pooled(v) + u, (x, torch.randn(2, 6)), target=1),
    ),
    Cure(
        "_core/backward.py",
        "ask for one target at a time",
        lambda: torch.func.vmap(lambda k: F.gradient(distances, x, target=k))(torch.tensor([0, 1])),
        lambda: [F.gradient(distances, x, target=k) for k in (0, 1)],
    ),
    Cure(
        "_core/examples.py",
        "or call it for each example alone",
        lambda: F.by_examples(fa.interpolate(fa.grad_cam), rows_of)(
            pooled_maps, image, layer=pooled_maps.conv, target=1, channel_dim=-3
        ),
        lambda: [
            F.interpolate(fa.by_examples(fa.grad_cam, rows_of), (8, 8))(
                pooled_maps, image, layer="conv", target=1, channel_dim=-3
            ),
            F.interpolate(fa.grad_cam)(maps, image, layer="0", target=lambda out: out[:, 1].sum((1, 2))),
        ],
    ),
    # language
    Cure(
        "_core/labels.py",
        "make them one length, answers with ignore_index at the left",
        lambda: likely([[1], [1, 2]]),
        lambda: through(likely([[-100, 1], [1, 2]])),
    ),
    Cure("_core/labels.py", "pass a list of ids", lambda: likely(torch.tensor(3)), lambda: through(likely([3]))),
    Cure("_core/labels.py", "pass at least one id", lambda: likely([]), lambda: through(likely([3]))),
    Cure(
        "_core/labels.py",
        "fill with ignore_index={}, or pass that as ignore_index",
        lambda: likely([3, -1]),
        lambda: [through(likely([-100, 3])), through(likely([-1, 3], ignore_index=-1))],
    ),
    Cure(
        "_core/labels.py",
        "have it return its logits",
        lambda: likely([1])({"last_hidden_state": torch.ones(2, 3, 9)}),
        lambda: through(likely([1])),
    ),
    Cure(
        "_core/labels.py",
        "of a classifier, explain a class: target=3",
        lambda: said(text, ids, layer="embedding", target=likely([1])),
        lambda: said(text, ids, layer="embedding", target=3),
    ),
    Cure(
        "_core/labels.py",
        "pass one row for each, or a single answer [T] for all",
        lambda: through(likely([[1], [2], [3]])),
        lambda: [through(likely([[1], [2]])), through(likely([1]))],
    ),
    Cure(
        "_core/labels.py",
        "keep more of them, logits_to_keep={}",
        lambda: F.gradient(functools.partial(language, logits_to_keep=2), prompt, target=likely(answer), **embedded),
        lambda: F.gradient(functools.partial(language, logits_to_keep=3), prompt, target=likely(answer), **embedded),
    ),
    Cure(
        "_core/labels.py",
        "leave out labels that have none",
        lambda: through(likely([1] * 7, shift=0)),
        lambda: through(likely([1] * 6, shift=0)),
    ),
    Cure(
        "_core/answers.py",
        "pass one for each, or one for all",
        lambda: through(F.contrast([1, 2, 3], 0)),
        lambda: [through(F.contrast([1, 2], 0)), through(F.contrast(1, 0))],
    ),
    Cure(
        "_core/answers.py",
        "leave it out, or take reduction='sum'",
        lambda: likely([[1], [-100]], reduction="mean"),
        lambda: through(likely([[1], [-100]], reduction="sum")),
    ),
    Cure(
        "_core/answers.py",
        "leave out one of them",
        lambda: fa.tokens([1], against=[2], of="prob"),
        lambda: [through(fa.tokens([1], against=[2])[0]), through(fa.tokens([1], of="prob")[0])],
    ),
    Cure(
        "_core/answers.py",
        "pass one other id for each place",
        lambda: fa.tokens([1, 2], against=[1]),
        lambda: fa.tokens([1, 2], against=[2, 1]),
    ),
    Cure(
        "_core/answers.py",
        "pass an int, or one for each example",
        lambda: F.contrast(1, 2, position=1.0),
        lambda: through(F.contrast(1, 2, position=1)),
    ),
    # rules
    Cure(
        "_named/relevance.py",
        "use gradient or saliency for such a model",
        lambda: F.guided_backprop(both, x, target=1),
        lambda: F.saliency(both, x, target=1),
    ),
    Cure(
        "_named/relevance.py",
        "Give them one, by their function",
        lambda: F.lrp(reduced, x, target=1),
        lambda: F.lrp(reduced, x, target=1, rules={**F.rules.epsilon(), torch.logsumexp: spread}),
    ),
    Cure(
        "_rules/flow/given.py",
        "call it, fa.rules.{}()",
        lambda: F.lrp(mlp, x, target=1, rules=fa.rules.epsilon),
        lambda: F.lrp(mlp, x, target=1, rules=fa.rules.epsilon()),
    ),
    Cure(
        "_rules/flow/given.py",
        "use a function such as torch.tanh",
        lambda: F.under({nn.Tanh: keep}),
        lambda: F.under({torch.tanh: keep})(fa.gradient)(mlp, x, target=1),
    ),
    Cure(
        "_rules/flow/sets.py",
        "Pass beta=alpha - 1",
        lambda: F.rules.alpha_beta(2.0, 2.0),
        lambda: F.lrp(mlp, x, target=1, rules=fa.rules.alpha_beta(2.0, 1.0)),
    ),
    Cure(
        "_rules/lift/dispatch.py",
        "use integrated_gradients",
        lambda: F.deep_lift(Differentiates(), x, target=1),
        lambda: F.integrated_gradients(Differentiates(), x, target=1, n_steps=2),
    ),
    Cure(
        "_rules/lift/passes.py",
        "use integrated_gradients",
        lambda: F.deep_lift(Forked(), x, target=1),
        lambda: F.integrated_gradients(Forked(), x, target=1, n_steps=2),
    ),
    Cure(
        "_rules/lift/passes.py",
        "Choose layers side by side, or call deep_lift once for each",
        lambda: F.deep_lift(mlp, x, layer=["fc1", "fc2"], target=1),
        lambda: [F.deep_lift(mlp, x, layer=name, target=1) for name in ("fc1", "fc2")],
    ),
    Cure(
        "_core/backward.py",
        "turn that off (use_checkpoint=False",
        lambda: F.lrp(Checkpointed(False), x, target=1),
        lambda: F.lrp(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)), x, target=1),
    ),
    Cure(
        "_rules/lift/passes.py",
        "turn that off (use_checkpoint=False",
        lambda: F.deep_lift(Checkpointed(False), x, target=1),
        lambda: F.deep_lift(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)), x, target=1),
    ),
    Cure(
        "_rules/lift/recurrent.py",
        "pass padded sequences",
        lambda: F.deep_lift(Packed(True), times, target=1),
        lambda: F.deep_lift(Packed(False), times, target=1),
    ),
    Cure(
        "_methods/deep_lift.py",
        "keep its rows",
        lambda: F.deep_lift(mlp, x, target=1, attribution_func=lambda m, v, v0: m.sum(0)),
        lambda: F.deep_lift(mlp, x, target=1, attribution_func=lambda m, v, v0: m.sum(1)),
    ),
    # games
    Cure(
        "_methods/shapley.py",
        "take sampling='exact', or",
        lambda: torch.func.vmap(lambda v: F.shapley(mlp, v[None], target=1, n_samples=20, sampling="permutation"))(x),
        lambda: F.shapley(mlp, x, target=1, sampling="exact"),
    ),
    Cure(
        "_methods/shapley.py",
        "leave n_samples out",
        lambda: F.shapley(mlp, x, target=1, n_samples=3, sampling="exact"),
        lambda: F.shapley(mlp, x, target=1, sampling="exact"),
    ),
    Cure(
        "_methods/shapley.py",
        "put features together with feature_mask, or choose another sampling",
        lambda: F.shapley(lambda v: v.sum(1), torch.ones(1, 40), sampling="exact"),
        lambda: F.shapley(lambda v: v.sum(1), torch.ones(1, 40), sampling="exact", feature_mask=torch.arange(40) // 10),
    ),
    Cure(
        "_steps/coalitions.py",
        "coalitions must be a bool tensor",
        lambda: F.game(mlp, x, target=1).value(torch.ones(2, 6)),
        lambda: F.game(mlp, x, target=1).value(torch.ones(2, 6).bool()),
    ),
    Cure(
        "_steps/coalitions.py",
        "torch.from_numpy(coalitions).bool()",
        lambda: F.game(mlp, x, target=1).value(np.ones((2, 6))),
        lambda: F.game(mlp, x, target=1).value(torch.from_numpy(np.ones((2, 6))).bool()),
    ),
    Cure(
        "_steps/windows.py",
        "give each from 1 to the window's",
        lambda: F.occlusion(mlp, x, window=2, strides=3, target=1),
        lambda: F.occlusion(mlp, x, window=2, strides=2, target=1),
    ),
    Cure(
        "_steps/windows.py",
        "give one for each, channels too",
        lambda: F.occlusion(conv, image, window=(2, 2), target=1),
        lambda: F.occlusion(conv, image, window=(3, 4, 4), strides=(3, 4, 4), target=1),
    ),
    Cure(
        "_steps/windows.py",
        "choose a layer with the batch first",
        lambda: F.occlusion(steps, times, layer=fa.input_of("rnn"), window=(1, 2), target=1),
        lambda: F.occlusion(steps, times, layer="before", window=(1, 2), target=1),
    ),
    Cure(
        "_steps/windows.py",
        "so there is nothing to compare: give one",
        lambda: F.occlusion(two, (x, x), window=(None, None)),
        lambda: F.occlusion(two, (x, x), window=(2, None)),
    ),
    Cure(
        "_steps/draws.py",
        "pass torch.Generator().manual_seed(0)",
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=3),
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x, generator=torch.Generator().manual_seed(0)),
    ),
    Cure(
        "_steps/draws.py",
        "draw coalitions outside and ask fa.game for their values",
        lambda: torch.func.vmap(lambda v: F.shapley(mlp, v[None], target=1, n_samples=20, sampling="permutation"))(x),
        lambda: F.game(mlp, x, target=1).value(torch.rand(5, 6) < 0.5),
    ),
    Cure("_steps/plan.py", "leave it out to ablate every feature", lambda: ablated(feature_mask=(None,)), lambda: ablated()),
    Cure(
        "_steps/plan.py",
        "torch.from_numpy(feature_mask)",
        lambda: ablated(feature_mask=side.numpy()),
        lambda: ablated(feature_mask=torch.from_numpy(side.numpy())),
    ),
    Cure(
        "_steps/plan.py",
        "pass feature_mask.long()",
        lambda: ablated(feature_mask=side.float()),
        lambda: ablated(feature_mask=side.float().long()),
    ),
    Cure(
        "_steps/without.py",
        "choose layers side by side, or ask for each on its own",
        lambda: F.feature_ablation(mlp, x, layer=["fc1", "fc2"], target=1),
        lambda: [F.feature_ablation(mlp, x, layer=name, target=1) for name in ("fc1", "fc2")],
    ),
    # paths
    Cure(
        "_steps/adaptive.py",
        "pass rtol too, rtol=1e-2",
        lambda: path(return_error=True),
        lambda: F.integrated_gradients(both, x, target=1, return_error=True, rtol=1e-2),
    ),
    Cure(
        "_steps/adaptive.py",
        "leave quadrature={} out",
        lambda: path(rtol=1e-2, quadrature="riemann_left"),
        lambda: path(rtol=1e-2, n_steps=500),
    ),
    Cure(
        "_steps/adaptive.py",
        "pass n_steps={} or more",
        lambda: path(rtol=1e-2, n_steps=3),
        lambda: F.integrated_gradients(both, x, target=1, rtol=1e-2, n_steps=15),
    ),
    Cure(
        "_steps/adaptive.py",
        "Allow more with n_steps, or pass return_error=True",
        lambda: path(rtol=1e-9, n_steps=15),
        lambda: [path(rtol=1e-2, n_steps=2000), path(rtol=1e-2, n_steps=2000, return_error=True)],
    ),
    Cure(
        "_steps/adaptive.py",
        "call it outside, or say how many nodes to take",
        lambda: torch.func.vmap(lambda v: F.integrated_gradients(mlp, v[None], target=1, rtol=1e-2))(x),
        lambda: [
            path(rtol=1e-2, n_steps=2000),
            torch.func.vmap(lambda v: F.integrated_gradients(mlp, v[None], target=1, n_steps=4))(x),
        ],
    ),
    Cure(
        "_steps/adaptive.py",
        "choose a layer with the batch first, or one example at a time",
        lambda: F.integrated_gradients(steps, times, layer=fa.input_of("rnn"), target=1, rtol=1e-2),
        lambda: [
            F.integrated_gradients(steps, times, layer="before", target=1, rtol=1e-2, n_steps=500),
            F.integrated_gradients(steps, times[:1], target=1, rtol=1e-2, n_steps=500),
        ],
    ),
    Cure(
        "_steps/baselines.py",
        "pass at least one reference",
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x[:0]),
        lambda: F.gradient_shap(mlp, x, target=1, baselines=x[:1]),
    ),
    Cure(
        "_steps/baselines.py",
        "pass baselines[None]",
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=x[0]),
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=x[0][None]),
    ),
    Cure(
        "_steps/matching.py",
        "give one for each",
        lambda: F.gradient_shap(lambda a, b: two(a, b), {"a": x, "b": x}, baselines=0.0, stdevs={"a": 0.1, "c": 0.1}),
        lambda: F.gradient_shap(lambda a, b: two(a, b), {"a": x, "b": x}, baselines=0.0, stdevs={"a": 0.1, "b": 0.1}),
    ),
    Cure(
        "_steps/matching.py",
        "entries for {} floating-point tensors",
        lambda: F.noise_tunnel(fa.gradient, n_samples=2, stdevs=(1.0, 1.0))(mlp, x, target=1),
        lambda: F.noise_tunnel(fa.gradient, n_samples=2, stdevs=(1.0,))(mlp, x, target=1),
    ),
    Cure(
        "_steps/matching.py",
        "give {} the same structure",
        lambda: ablated(baselines=(0.0, 1.0)),
        lambda: ablated(baselines=0.0),
    ),
    Cure(
        "_steps/matching.py",
        "give one (for ids, a token's)",
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=None),
        lambda: F.integrated_gradients(text, ids, layer="embedding", target=1, baselines=3, n_steps=2),
    ),
    Cure(
        "_steps/matching.py",
        "torch.from_numpy(baselines)",
        lambda: path(baselines=x.numpy()),
        lambda: path(baselines=torch.from_numpy(x.numpy())),
    ),
    Cure("_steps/matching.py", "give real ones", lambda: path(baselines=x[:1] * 1j), lambda: path(baselines=(x[:1] * 1j).real)),
    Cure("_steps/matching.py", "give finite numbers", lambda: path(baselines=x / 0), lambda: path(baselines=torch.zeros(4, 6))),
    Cure(
        "_steps/matching.py",
        "give whole numbers that it can hold",
        lambda: F.feature_ablation(text, ids, target=1, baselines=0.5),
        lambda: F.feature_ablation(text, ids, target=1, baselines=3),
    ),
    Cure(
        "_steps/matching.py",
        "give each reference x's own shape",
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=torch.zeros(3, 5)),
        lambda: F.deep_lift_shap(mlp, x, target=1, baselines=torch.zeros(3, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "give each dimension that size or 1.",
        lambda: ablated(feature_mask=torch.arange(5)),
        lambda: ablated(feature_mask=torch.arange(6)),
    ),
    Cure(
        "_steps/matching.py",
        "pass at least one row, [1, 1, ...]",
        lambda: ablated(baselines=torch.zeros(0, 1, 6)),
        lambda: ablated(baselines=torch.zeros(1, 1, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "does not broadcast to {} {}: give ",
        lambda: ablated(baselines=torch.zeros(3, 6)),
        lambda: ablated(baselines=torch.zeros(1, 6)),
    ),
    Cure(
        "_steps/matching.py",
        "pass baselines[:, None]",
        lambda: ablated(baselines=torch.zeros(3, 6)),
        lambda: ablated(baselines=torch.zeros(3, 6)[:, None]),
    ),
    # export, layers
    Cure(
        "_export/program.py",
        "pass n_steps= in its place",
        lambda: F.export(fa.integrated_gradients, mlp, x, target=1, rtol=1e-2),
        lambda: F.export(fa.integrated_gradients, mlp, x, target=1, n_steps=2),
    ),
    Cure(
        "_export/reasons.py",
        "export the method inside it, and draw outside",
        lambda: F.export(fa.noise_tunnel(fa.gradient), mlp, x, target=1),
        lambda: F.export(fa.gradient, mlp, x, target=1),
    ),
    Cure(
        "_export/reasons.py",
        "write it with torch.where or a mask",
        lambda: F.export(fa.gradient, Branches(), x, target=1),
        lambda: F.export(fa.gradient, Chooses(), x, target=1),
    ),
    Cure(
        "_export/trace.py",
        "write x.shape[0], or pass dynamic_batch=False",
        lambda: F.export(fa.gradient, Counts(False), x, target=1),
        lambda: [
            F.export(fa.gradient, Counts(True), x, target=1),
            F.export(fa.gradient, Counts(False), x, target=1, dynamic_batch=False),
        ],
    ),
    Cure(
        "_inspect/layers.py",
        "pass the nn.Module, or bind",
        lambda: F.layers(lambda v: mlp(v), x),
        lambda: [F.layers(mlp, x), F.layers(functools.partial(mlp), x)],
    ),
    Cure(
        "_inspect/layers.py",
        "pass one tuple",
        lambda: F.layers(mlp, {"x": x}, x),
        lambda: F.layers(nn.Bilinear(6, 6, 2), (x, x)),
    ),
    # masks
    Cure(
        "masks/_grid.py",
        "pass [N, C, *spatial], or sizes",
        lambda: F.masks.grid(x, 2),
        lambda: [F.masks.grid(image, 2), F.masks.grid((8, 8), 2)],
    ),
    Cure(
        "masks/_grid.py",
        "give one number of at least 1",
        lambda: F.masks.grid((8, 8), (2, 2, 2)),
        lambda: F.masks.grid((8, 8), (2, 2)),
    ),
    # metrics
    Cure(
        "metrics/_agreement.py",
        "leave it out for {}",
        lambda: M.agreement(phi, phi, kind="spearman", k=3),
        lambda: M.agreement(phi, phi, kind="spearman"),
    ),
    Cure(
        "metrics/_agreement.py",
        "a map is brought to another size by fa.interpolate",
        lambda: M.agreement(phi, phi[..., :4, :4]),
        lambda: M.agreement(phi, F.interpolate(phi[..., :4, :4], phi)),
    ),
    Cure(
        "metrics/_compare.py",
        "name at least one",
        lambda: M.compare({}, {"d": M.deletion}, conv, image),
        lambda: M.compare({"g": fa.gradient}, {"d": M.deletion}, conv, image, target=1),
    ),
    Cure(
        "metrics/_infidelity.py",
        "leave it out, which puts features at their baselines",
        lambda: M.infidelity(torch.randn(4, 7), text, ids, target=1, perturb=0.1),
        lambda: M.infidelity(torch.randn(4, 7), text, ids, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass torch.from_numpy of it",
        lambda: M.deletion(phi.numpy(), conv, image, target=1),
        lambda: M.deletion(torch.from_numpy(phi.numpy()), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass the function, such as fa.gradient",
        lambda: M.deletion("gradient", conv, image, target=1),
        lambda: M.deletion(fa.gradient, conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "take their .abs()",
        lambda: M.deletion(phi + 0j, conv, image, target=1),
        lambda: M.deletion((phi + 0j).abs(), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "look at the method's result",
        lambda: M.deletion(phi / 0, conv, image, target=1),
        lambda: M.deletion((phi / 0).nan_to_num(), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "pass the method itself, with its options bound",
        lambda: M.sensitivity_max(phi, conv, image, target=1),
        lambda: M.sensitivity_max(functools.partial(fa.gradient), conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "give each dimension that size or 1",
        lambda: M.deletion(phi[..., :7], conv, image, target=1),
        lambda: M.deletion(phi[..., :1], conv, image, target=1),
    ),
    Cure(
        "metrics/_judged.py",
        "give one number for each feature",
        lambda: M.infidelity(phi[:, :1], conv, image, target=1),
        lambda: M.infidelity(phi, conv, image, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "put what a function does besides into a module",
        lambda: M.randomisation(fa.gradient, lambda v: 2 * mlp(v), x, target=1),
        lambda: M.randomisation(fa.gradient, nn.Sequential(mlp, nn.Tanh()), x, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "pass the model before it was",
        lambda: M.randomisation(fa.gradient, scripted, x, target=1),
        lambda: M.randomisation(fa.gradient, Mlp().eval(), x, target=1),
    ),
    Cure(
        "metrics/_randomisation.py",
        "pass its name, {}",
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=[conv.conv1]),
        lambda: M.randomisation(fa.gradient, conv, image, target=1, layers=["conv1"]),
    ),
    Cure(
        "metrics/_regions.py",
        "pass that one",
        lambda: M.pointing_game((phi, phi), regions=inside),
        lambda: M.pointing_game(phi, regions=inside),
    ),
    Cure(
        "metrics/_regions.py",
        "regions > 0",
        lambda: M.pointing_game(phi, regions=inside.float()),
        lambda: M.pointing_game(phi, regions=inside.float() > 0),
    ),
    Cure(
        "metrics/_regions.py",
        "torch.as_tensor(regions, dtype=torch.bool)",
        lambda: M.relevance_mass(phi, regions=inside.numpy()),
        lambda: M.relevance_mass(phi, regions=torch.as_tensor(inside.numpy(), dtype=torch.bool)),
    ),
    Cure(
        "metrics/_regions.py",
        "regions must be a bool tensor",
        lambda: M.pointing_game(phi, regions=inside.float()),
        lambda: M.pointing_game(phi, regions=inside),
    ),
    Cure(
        "metrics/_regions.py",
        "pass regions[:, None]",
        lambda: M.relevance_mass(phi[:2], regions=inside.expand(2, 8, 8)),
        lambda: M.relevance_mass(phi[:2], regions=inside.expand(2, 8, 8)[:, None]),
    ),
    Cure(
        "metrics/_regions.py",
        "give each dimension that size or 1",
        lambda: M.relevance_mass(phi, regions=inside[:, :4]),
        lambda: [M.relevance_mass(phi, regions=inside), M.relevance_mass(phi, regions=inside[:, :1])],
    ),
    Cure(
        "metrics/_sensitivity.py",
        "name a layer after the embedding",
        lambda: M.sensitivity_max(fa.gradient, text, ids, target=1),
        lambda: M.sensitivity_max(fa.gradient, text, ids, layer="embedding", target=1),
    ),
    Cure(
        "metrics/_shares.py",
        "pass fractions.tolist()",
        lambda: M.sufficiency(phi, conv, image, target=1, fractions=np.ones(2)),
        lambda: M.sufficiency(phi, conv, image, target=1, fractions=np.ones(2).tolist()),
    ),
    Cure(
        "metrics/_shares.py",
        "name at least one, above 0",
        lambda: M.sufficiency(table, score, table, fractions=()),
        lambda: M.sufficiency(table, score, table, fractions=(0.5,)),
    ),
]


class Nodes(nn.Module):
    """Adds up rows: how many there are changes what each says."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(2, 6).index_add(0, uneven, self.act(x))


class Expert(nn.Module):
    """Takes the rows above 0 alone: how many there are depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return h + torch.zeros_like(h).masked_scatter(h > 0, self.inner(h[h > 0]))


uneven = torch.tensor([0, 1, 1, 1])
with torch.inference_mode():
    inside_mode = copy.deepcopy(mlp)
hollow = copy.deepcopy(mlp).to("meta")


def filled() -> nn.Module:
    found = copy.deepcopy(hollow).to_empty(device="cpu")
    found.load_state_dict(mlp.state_dict())
    return found


def named_note(model: Any, given: Any, name: str, words: str) -> Any:
    """What `layers` notes of one, said as an error is."""
    (note,) = [info.note for info in fa.layers(model, given) if info.name == name]
    raise ValueError(note)


def traced_rule(rules: Any, backend: str = "eager") -> Any:
    return torch.compile(lambda v: F.under(rules)(fa.gradient)(mlp, v, target=1), backend=backend, fullgraph=True)(x)


class TimeIds(nn.Module):
    """An embedding, and its value with steps first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.turned, self.head = nn.Embedding(9, 4), nn.Identity(), nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.turned(self.embed(ids).movedim(1, 0))).sum(0))


def of_the_first(model: Any, given: Any, **options: Any) -> Any:
    return fa.gradient(model, given, **options)[0], None


def quiet(call: Any) -> Any:
    """Of a call that warns of something else besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


MORE = [
    Cure(
        "metrics/_sensitivity.py",
        "Choose a layer around what depends on the data",
        lambda: M.sensitivity_max(fa.gradient, Expert(), x, layer="inner", target=1, radius=5.0),
        lambda: M.sensitivity_max(fa.gradient, Expert(), x, layer="before", target=1, radius=5.0),
    ),
    Cure(
        "_methods/shapley.py",
        "or take sampling='permutation'",
        lambda: F.shapley(lambda v: v.sum(1), torch.ones(1, 20001), sampling="kernel"),
        lambda: F.shapley(
            lambda v: v.sum(1), torch.ones(1, 20001), sampling="kernel", feature_mask=torch.arange(20001) // 8000
        ),
    ),
    Cure(
        "metrics/_order.py",
        "give groups to what has some",
        lambda: M.deletion(of_the_first, two, (x, x), feature_mask=(None, side)),
        lambda: M.deletion(of_the_first, two, (x, x), feature_mask=(side, None)),
    ),
    Cure(
        "_core/cures.py",
        "pass copy.deepcopy(model)",
        lambda: said(inside_mode, target=1),
        lambda: said(copy.deepcopy(inside_mode), target=1),
    ),
    Cure(
        "_core/cures.py",
        "call model.to_empty(device={}), and load a state_dict",
        lambda: said(hollow, target=1),
        lambda: said(filled(), target=1),
    ),
    Cure(
        "_core/cures.py",
        "{}, and takes {}: {}, pass {}.",
        lambda: said(x=x.double(), target=1),
        lambda: said(x=x.double().float(), target=1),
    ),
    Cure(
        "_core/chance.py",
        "torch.manual_seed gives the same again; average calls",
        lambda: F.gradient(lambda v: v * torch.rand(4, 6), x, target=1),
        lambda: [torch.manual_seed(0), quiet(lambda: F.gradient(lambda v: v * torch.rand(4, 6), x, target=1))],
    ),
    Cure(
        "_core/examples.py",
        "call it for each example alone, or for those of one size",
        lambda: F.by_examples(fa.lime, uneven)(Nodes(), x, target=1),
        lambda: [F.lime(lambda v: v.tanh().sum(1), x[uneven == i].reshape(1, -1), n_samples=40) for i in (0, 1)],
    ),
    Cure("_core/labels.py", "pass ids, tokenizer(text", lambda: likely("Paris"), lambda: through(likely([7]))),
    Cure("_core/labels.py", "use this model's tokenizer", lambda: through(likely([9])), lambda: through(likely([8]))),
    Cure(
        "_core/answers.py",
        "; ids, of a tokenizer, and not words",
        lambda: F.contrast("yes", "no"),
        lambda: through(F.contrast(3, 4)),
    ),
    Cure(
        "_export/reasons.py",
        "call model.eval() first",
        lambda: quiet(lambda: F.export(fa.gradient, dropping.train(), x, target=1)),
        lambda: F.export(fa.gradient, dropping.eval(), x, target=1),
    ),
    Cure(
        "_inspect/layers.py",
        "say which: call=0 to {}, or -1",
        lambda: named_note(thrice, x, "inner", ""),
        lambda: F.gradient(thrice, x, layer=fa.output_of("inner", call=-1), target=1),
    ),
    Cure(
        "_inspect/layers.py",
        "name a layer inside",
        lambda: named_note(Unused(), x, "many", ""),
        lambda: F.gradient(Unused(), x, layer="used", target=1),
    ),
    Cure(
        "_inspect/layers.py",
        "pass the model before it was",
        lambda: named_note(PartScripted(), x, "body.fc1", ""),
        lambda: F.gradient(mlp, x, **first),
    ),
    Cure(
        "_inspect/layers.py",
        "name that",
        lambda: named_note(attention, torch.randn(2, 3, 6), "0.self_attn.out_proj", ""),
        lambda: F.activation(attention, torch.randn(2, 3, 6), layer="0.self_attn"),
    ),
    Cure(
        "_habits.py",
        "leave target out",
        lambda: F.each_target(fa.gradient, [1])(mlp, x, target=1),
        lambda: F.each_target(fa.gradient, [1])(mlp, x),
    ),
    Cure(
        "_habits.py",
        "leave create_graph out",
        lambda: F.lime(mlp, x, target=1, create_graph=True),
        lambda: F.lime(mlp, x, target=1, n_samples=40),
    ),
    Cure(
        "_habits.py",
        "Use one of {}.",
        lambda: F.interpolate(fa.grad_cam, mode="zzz"),
        lambda: F.interpolate(fa.grad_cam, mode="nearest")(conv, image, layer="conv1", target=1),
    ),
    Cure(
        "_habits.py",
        "nothing else",
        lambda: F.relu(fa.grad_cam, layer="conv1"),
        lambda: F.relu(fa.grad_cam)(conv, image, layer="conv1", target=1),
    ),
    Cure("_habits.py", "{}. Write {}", lambda: F.Saliency, lambda: F.saliency(mlp, x, target=1)),
    Cure(
        "_methods/gradient_shap.py",
        "choose a layer with the batch first, where baselines can be drawn",
        lambda: F.gradient_shap(TimeIds(), prompt, layer="turned", baselines=prompt, target=1),
        lambda: F.gradient_shap(TimeIds(), prompt, layer="embed", baselines=prompt, target=1),
    ),
    Cure(
        "_rules/flow/operation.py",
        "use a set of fa.rules",
        lambda: traced_rule({"activation": keep}),
        lambda: traced_rule(fa.rules.epsilon()),
    ),
    Cure(
        "_rules/flow/operation.py",
        "or call the method uncompiled",
        lambda: traced_rule({"activation": keep}),
        lambda: F.under({"activation": keep})(fa.gradient)(mlp, x, target=1),
    ),
    Cure(
        "_rules/flow/operation.py",
        "Give one to an operation that uses what it returns",
        lambda: F.under({torch.chunk: keep})(fa.gradient)(gated, x, target=1),
        lambda: F.under({torch.sigmoid: keep})(fa.gradient)(gated, x, target=1),
    ),
    Cure(
        "_named/relevance.py",
        "Take integrated_gradients",
        lambda: F.lrp(lambda v: torch.special.entr(both(v).sigmoid()), x, target=1),
        lambda: F.integrated_gradients(lambda v: torch.special.entr(both(v).sigmoid()), x, target=1, n_steps=4),
    ),
    Cure(
        "_steps/mean.py",
        "Choose a layer around it",
        lambda: F.conductance(Expert(), x, layer="inner", target=1, n_steps=4),
        lambda: F.conductance(Expert(), x, layer="before", target=1, n_steps=4),
    ),
    Cure(
        "metrics/_regions.py",
        "or what it returned alone",
        lambda: M.pointing_game(fa.gradient, regions=inside),
        lambda: [
            M.pointing_game(fa.gradient, conv, image, regions=inside, target=1),
            M.pointing_game(fa.gradient(conv, image, target=1), regions=inside),
        ],
    ),
    Cure(
        "_combine/baselines.py",
        "choose a layer with the batch first",
        lambda: F.noise_tunnel(fa.deep_lift_shap, n_samples=2)(TimeIds(), prompt, layer="turned", baselines=prompt, target=1),
        lambda: F.noise_tunnel(fa.deep_lift_shap, n_samples=2)(TimeIds(), prompt, layer="embed", baselines=prompt, target=1),
    ),
    Cure(
        "_combine/shapes.py",
        "choose a layer whose value is one tensor",
        lambda: F.interpolate(fa.gradient)(
            Recurrent().eval(),
            torch.randn(2, 3, 4),
            layer="lstm",
            target=lambda out: out[0][:, -1, 0] if isinstance(out, tuple) else out[:, 0],
        ),
        lambda: F.interpolate(fa.grad_cam)(conv, image, layer="conv2", target=1),
    ),
    Cure(
        "_steps/plan.py",
        "or take a method that uses gradients",
        lambda: F.feature_ablation(lambda v: v.sum(1), torch.ones(1, 10001)),
        lambda: [
            F.saliency(lambda v: v.sum(1), torch.ones(1, 10001)),
            F.feature_ablation(lambda v: v.sum(1), torch.ones(1, 10001), feature_mask=torch.arange(10001) // 3000),
        ],
    ),
    Cure(
        "metrics/_judged.py",
        "Look at the baselines and, in {}",
        lambda: M.deletion(x.abs(), lambda v: v.log().sum(1), x.abs() + 1),
        lambda: M.deletion(x.abs(), lambda v: v.log().sum(1), x.abs() + 1, baselines=1.0),
    ),
]
