"""The same of what needs models, examples or compilers of its own. See `cures.py`."""

from __future__ import annotations

import copy
import warnings
from collections import UserDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Recurrent
from .cure_rows import (
    F,
    M,
    answer,
    both,
    conv,
    dropping,
    embedded,
    first,
    image,
    inside,
    keep,
    language,
    likely,
    mlp,
    prompt,
    said,
    side,
    thrice,
    through,
    two,
    x,
)
from .cures import Cure
from .wrong import PartScripted, Unused, attention

#: With a layer whose value has the shape of x.
same = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).to(x.dtype)


def tokenizer(text: str, return_tensors: str = "", padding: bool = False) -> Any:
    """Ids of words, as a tokenizer of transformers gives them."""
    found = [[len(word) for word in text.split()]]
    return UserDict(ids=torch.tensor(found) if return_tensors else found)


def gated(v: Tensor) -> Tensor:
    a, b = both(v)[:, :4].chunk(2, dim=1)
    return a * b.sigmoid()


class Nodes(nn.Module):
    """Adds up rows: how many there are changes what each says."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(2, 6).index_add(0, uneven, self.act(x))


class Ignored(nn.Module):
    """Goes on with what a layer in place was given."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = 2 * x
        self.relu(h)
        return h


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


def of_codes(layer: str) -> Any:
    """An ablation at a layer of a model that quantises, which torch warns of."""
    model = nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.qint8), torch.ao.nn.quantized.DeQuantize(), mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.feature_ablation(model, x, layer=layer, target=1)


def filled() -> nn.Module:
    found = copy.deepcopy(hollow).to_empty(device="cpu")
    found.load_state_dict(mlp.state_dict())
    return found


def named_note(model: Any, given: Any, name: str, words: str) -> Any:
    """What `layers` notes of one, said as an error is."""
    (note,) = [info.note for info in fa.layers(model, given) if info.name == name]
    raise ValueError(note)


def traced_noise(generator: torch.Generator | None) -> Any:
    compiled = torch.compile(fa.gradient_shap, backend="eager", fullgraph=True)
    return compiled(mlp, x, target=1, baselines=x, generator=generator)


def traced_rule(rules: Any, backend: str = "eager") -> Any:
    return torch.compile(lambda v: F.under(rules)(fa.gradient)(mlp, v, target=1), backend=backend, fullgraph=True)(x)


factor = torch.tensor(2.0)


class Kept:
    """A rule that is no function."""

    def __call__(self, operation: Any, gradient: Tensor) -> Tensor:
        return gradient


def unsized(run: bool = False) -> nn.Module:
    """A net whose first layer gets its size when it runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that such layers are new
        net = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 3)).eval()
        if run:
            net(x)
    return net


def mapped_over(net: nn.Module) -> Any:
    return torch.vmap(lambda v: F.gradient(net, v[None], target=1))(x)


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
        "metrics/_judged.py",
        "give the metric the layer, too, or bring it to x",
        lambda: M.deletion(partial(fa.gradient, layer="0"), same, x, target=1),
        lambda: M.deletion(partial(fa.gradient, layer="0"), same, x, target=1, layer="0"),
    ),
    Cure(
        "_combine/noise.py",
        "or a tunnel to each_target",
        lambda: F.noise_tunnel(fa.each_target(fa.gradient, ["argmax"])),
        lambda: (
            F.each_target(fa.noise_tunnel(fa.gradient), ["argmax"])(same, x),
            F.noise_tunnel(fa.multiply(fa.gradient, fa.saliency))(same, x, target="argmax"),
        ),
    ),
    Cure(
        "_core/sites.py",
        "let the model go on with what the layer returns",
        lambda: torch.func.vmap(lambda v: F.split(Ignored(), "relu").rest(v, x))(torch.randn(3, 4, 6)),
        lambda: torch.func.vmap(lambda v: F.split(nn.Sequential(nn.ReLU(inplace=True)), "0").rest(v, x))(torch.randn(3, 4, 6)),
    ),
    Cure(
        "_combine/noise.py",
        "pass the method itself, without at_input",
        lambda: F.noise_tunnel(fa.at_input(fa.shapley))(language, prompt, target=likely(answer), **embedded),
        lambda: F.noise_tunnel(fa.shapley)(language, prompt, target=likely(answer), **embedded),
    ),
    Cure(
        "metrics/_judged.py",
        "pass target='argmax' to the metric",
        lambda: M.randomisation(fa.multiply(partial(fa.saliency, target="argmax"), fa.gradient), same, x),
        lambda: M.randomisation(fa.multiply(fa.saliency, fa.gradient), same, x, target="argmax"),
    ),
    Cure(
        "_steps/baselines.py",
        "with 1 where it is the same",
        lambda: F.mean_over_baselines(fa.deep_lift)(conv, image, target=1, baselines=torch.zeros(5, 8, 8)),
        lambda: F.mean_over_baselines(fa.deep_lift)(conv, image, target=1, baselines=torch.zeros(5, 1, 8, 8)),
    ),
    Cure(
        "metrics/_order.py",
        "give groups to what has some",
        lambda: M.deletion(of_the_first, two, (x, x), feature_mask=(None, side)),
        lambda: M.deletion(of_the_first, two, (x, x), feature_mask=(side, None)),
    ),
    Cure(
        "_core/cures.py",
        "make it with device={}",
        lambda: F.integrated_gradients(mlp, x, target=1, baselines=torch.zeros(1, 6, device="meta")),
        lambda: F.integrated_gradients(mlp, x, target=1, baselines=torch.zeros(1, 6, device="cpu")),
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
        "_core/kept.py",
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
    Cure(
        "_core/checks.py",
        "pass tokenizer(x, return_tensors='pt', padding=True)",
        lambda: through(likely([7]), "a film"),
        lambda: through(likely([7]), tokenizer("a film", return_tensors="pt", padding=True)),
    ),
    Cure(
        "_types.py",
        "ask a tokenizer for tensors, return_tensors='pt'",
        lambda: through(likely([7]), tokenizer("a film")),
        lambda: through(likely([7]), tokenizer("a film", return_tensors="pt")),
    ),
    Cure(
        "_core/cures.py",
        "use its own tokenizer, and an id of its own for padding",
        lambda: through(likely([7]), {"ids": torch.tensor([[4, -100]])}),
        lambda: through(likely([7]), {"ids": torch.tensor([[4, 0]])}),
    ),
    Cure(
        "_core/score.py",
        "several are for each_target(method, targets)",
        lambda: through(fa.tokens([7, 8])),
        lambda: F.each_target(fa.integrated_gradients, fa.tokens([7, 8]))(language, prompt, n_steps=2, layer="embed"),
    ),
    Cure(
        "_combine/targets.py",
        "pass list(targets)",
        lambda: F.each_target(fa.saliency, iter([0, 1])),
        lambda: F.each_target(fa.saliency, list(iter([0, 1])))(mlp, x),
    ),
    Cure(
        "_combine/grouped.py",
        "of words, fa.masks.words(tokens) + 1",
        lambda: F.sum_groups(fa.input_x_gradient, [None, 0, 0, 1, 2, None]),
        lambda: F.sum_groups(fa.input_x_gradient, fa.masks.words([None, 0, 0, 1, 2, None]) + 1)(
            language, prompt, layer="embed", target=likely([7])
        ),
    ),
    Cure(
        "_combine/targets.py",
        "give one alone to the method, as target=",
        lambda: F.each_target(fa.saliency, likely([7])),
        lambda: through(likely([7])),
    ),
    Cure(
        "masks/_groups.py",
        "pass tokenizer.convert_ids_to_tokens(ids), or its word_ids()",
        lambda: fa.masks.words([7, 4, 1]),
        lambda: [fa.masks.words(["a", "fil", "##m"]), fa.masks.words([0, 1, 1])],
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
        "_export/trace.py",
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
        lambda: F.relu(fa.grad_cam, mode="conv1"),
        lambda: F.relu(fa.grad_cam)(conv, image, layer="conv1", target=1),
    ),
    Cure(
        "_habits.py",
        "which takes the rest. Write {}",
        lambda: F.relu(fa.grad_cam, conv, image, layer="conv1", target=1),
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
        "_steps/draws.py",
        "pass generator=None, after torch.manual_seed",
        lambda: traced_noise(torch.Generator()),
        lambda: traced_noise(None),
        slow=True,
    ),
    Cure(
        "_steps/draws.py",
        "or make noise_tunnel",
        lambda: traced_noise(torch.Generator()),
        lambda: torch.compile(fa.noise_tunnel(fa.gradient, generator=torch.Generator()), backend="eager")(mlp, x, target=1),
        slow=True,
    ),
    Cure(
        "_rules/flow/own.py",
        "write it so, use a set of fa.rules",
        lambda: traced_rule({"activation": Kept()}),
        lambda: (traced_rule({"activation": keep}), traced_rule(fa.rules.epsilon())),
        slow=True,
    ),
    Cure(
        "_rules/flow/own.py",
        "or call the method uncompiled",
        lambda: traced_rule({"activation": Kept()}),
        lambda: F.under({"activation": Kept()})(fa.gradient)(mlp, x, target=1),
    ),
    Cure(
        "_rules/flow/own.py",
        "have it use numbers, or the operation's inputs",
        lambda: traced_rule({"activation": lambda op, gradient: gradient * factor}, "aot_eager"),
        lambda: traced_rule({"activation": lambda op, gradient: gradient * 2}, "aot_eager"),
        slow=True,
    ),
    Cure(
        "_core/where.py",
        "merge the sets, under({**these, **those})",
        lambda: F.under(fa.rules.frozen())(fa.lrp)(mlp, x, target=1),
        lambda: F.under({**fa.rules.epsilon_plus(), **fa.rules.flat()})(fa.gradient)(mlp, x, target=1),
    ),
    Cure(
        "_core/code.py",
        "run it once before, model(x)",
        lambda: mapped_over(unsized()),
        lambda: mapped_over(unsized(run=True)),
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
        "_steps/progress.py",
        "Choose a layer around it",
        lambda: F.conductance(Expert(), x, layer="inner", target=1, n_steps=4, chunk_size=1),
        lambda: F.conductance(Expert(), x, layer="before", target=1, n_steps=4, chunk_size=1),
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
    Cure("_core/checks.py", "take floats, or a layer after .dequantize()", lambda: of_codes("0"), lambda: of_codes("1")),
]
