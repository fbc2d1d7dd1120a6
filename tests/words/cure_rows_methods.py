"""The same of methods and rules. See `cures.py`."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa

from .cure_rows import (
    Complex,
    F,
    Size,
    answer,
    both,
    conv,
    embedded,
    ids,
    image,
    keep,
    language,
    likely,
    maps,
    mlp,
    named,
    prompt,
    said,
    text,
    through,
    times,
    two,
    x,
)
from .cures import Cure
from .wrong import Checkpointed


class Holds(nn.Module):
    """What it holds at the layer `a` has a number of each example in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 6), nn.Identity(), nn.Linear(6, 5)

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        return self.b(self.a(self.embed(ids).mean(1) * scale).tanh())


def spread(operation: Any, gradient: Tensor) -> Tensor:
    """A rule that hands it on to all that was summed."""
    return gradient[..., None].expand(4, 5, 2)


def reduced(v: Tensor) -> Tensor:
    return torch.logsumexp(both(v)[..., None].expand(4, 5, 2), -1)


scaled = functools.partial(Holds().eval(), scale=torch.rand(4, 1))
rows_of = torch.tensor([0, 0, 1, 1])


def pooled(v: Tensor) -> Tensor:
    """A model whose rows are parts of examples."""
    return torch.zeros(2, 6).index_add(0, rows_of, v.tanh())


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


def _of_bands(v: Tensor, mask: Tensor) -> Any:
    return F.shapley(lambda v: v.sum(1), v[None], feature_mask=mask, sampling="exact")


METHODS = [
    Cure(
        "_core/checks.py",
        "pass embeddings in place of ids, or take one that",
        lambda: F.conductance(text, ids, layer="mix", target=1),
        lambda: [
            F.conductance(
                lambda v: text.head(text.mix(v).tanh().mean(1)), text.embedding(ids).detach(), layer=text.mix, target=1
            ),
            F.integrated_gradients(text, ids, layer="mix", target=1),
        ],
    ),
    Cure(
        "_combine/shapes.py",
        "give the size to interpolate",
        lambda: F.interpolate(torch.ones(1, 1, 2, 2)),
        lambda: [F.interpolate(torch.ones(1, 1, 2, 2), size) for size in ((4, 4), image)],
    ),
    Cure(
        "_combine/elementwise.py",
        "Leave create_graph out, or multiply what the two methods return",
        lambda: F.multiply(fa.gradient, fa.lime)(mlp, x, target=1, create_graph=True),
        lambda: [
            F.multiply(fa.gradient, fa.lime)(mlp, x, target=1),
            F.gradient(mlp, x, target=1, create_graph=True) * F.lime(mlp, x, target=1),
        ],
    ),
    Cure(
        "_combine/shapes.py",
        "call the method without interpolate",
        lambda: F.interpolate(fa.gradient, 3)(text, ids, layer="embedding", target=1),
        lambda: F.interpolate(fa.gradient(text, ids, layer="embedding", target=1), 3),
    ),
    Cure(
        "_combine/shapes.py",
        ": pass mode={}",
        lambda: F.interpolate(fa.grad_cam, "bilinear"),
        lambda: F.interpolate(fa.grad_cam, mode="bilinear")(conv, image, layer="conv2", target=1),
    ),
    Cure(
        "_combine/shapes.py",
        "give a size of as many numbers, such as x.shape[2:]",
        lambda: F.interpolate(fa.grad_cam, image.shape)(conv, image, layer="conv2", target=1),
        lambda: F.interpolate(fa.grad_cam, image.shape[2:])(conv, image, layer="conv2", target=1),
    ),
    Cure(
        "_core/passes.py",
        "give it the same structure",
        lambda: F.split(mlp, "fc1").rest((F.activation(mlp, x, layer="fc1"),), x),
        lambda: F.split(mlp, "fc1").rest(F.activation(mlp, x, layer="fc1"), x),
    ),
    Cure(
        "_rules/flow/own.py",
        "return the gradient of its first input",
        lambda: F.under({torch.tanh: lambda op, gradient: None})(fa.gradient)(torch.tanh, x, target=1),
        lambda: F.under({torch.tanh: lambda op, gradient: gradient})(fa.gradient)(torch.tanh, x, target=1),
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
    Cure(
        "_core/entries.py",
        "of one-hot rows, pass target.argmax(1)",
        lambda: F.score(mlp(x), torch.eye(mlp(x).shape[1])[[0, 1, 2, 1]]),
        lambda: F.score(mlp(x), torch.eye(mlp(x).shape[1])[[0, 1, 2, 1]].argmax(1)),
    ),
    Cure("_core/entries.py", "choose by number", lambda: said(named, target="cat"), lambda: said(named, target=2)),
    Cure(
        "_core/entries.py",
        "for masks of their own pass a callable",
        lambda: said(maps, image, target=(3, torch.ones(5, 6) > 0)),
        lambda: said(maps, image, target=lambda output: (output[:, 3] * torch.ones(4, 6, 6)).sum((1, 2))),
    ),
    Cure(
        "_core/checks.py",
        "choose a layer where it is real",
        lambda: said(nn.Sequential(Complex(), Size()), layer="0", target=1),
        lambda: said(nn.Sequential(Complex(), Size()), layer="1", target=1),
    ),
    Cure(
        "_core/checks.py",
        "pass a callable one, such as",
        lambda: said(lambda v: v.to_sparse(), target=3),
        lambda: said(lambda v: v.to_sparse(), target=lambda output: output.to_dense()[:, 3]),
    ),
    Cure(
        "_core/cures.py",
        "wrap a model that takes them as one argument",
        lambda: said(lambda pair: two(*pair), (x, x)),
        lambda: said(lambda *x: (lambda pair: two(*pair))(x), (x, x)),
    ),
    Cure(
        "_core/checks.py",
        "take by_examples(method, examples)",
        lambda: said(lambda v: v[:2], target=1),
        lambda: F.by_examples(fa.saliency, rows_of)(pooled, x, target=1),
    ),
    Cure(
        "_core/checks.py",
        "ask each example alone",
        lambda: F.metrics.deletion(x, lambda v: v[:2].sum(1), x),
        lambda: F.metrics.deletion(x[:1], lambda v: v[:2].sum(1), x[:1]),
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
        "_rules/lift/compound.py",
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
        "_methods/shapley.py",
        "call it uncompiled, of a compiled model, or map over x alone",
        lambda: torch.func.vmap(_of_bands, (None, 0))(torch.ones(40), torch.arange(40)[None] // 10),
        lambda: torch.func.vmap(_of_bands, (0, None))(torch.ones(2, 40), torch.arange(40) // 10),
    ),
]
