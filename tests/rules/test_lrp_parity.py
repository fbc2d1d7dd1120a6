"""Relevance against stored numbers of zennit 1.0.0 and LXT 2.1, and against Captum 0.9.0, all in float64.

The nets are small, and their weights are drawn by numpy's RandomState, whose stream does not change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import captum.attr as ca
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

import funattr as fa
from funattr import rules as R

#: Of twelve digits that are stored, up to half of the last is lost, and as much is rounded on the way.
DIGITS = 1e-11
THEIRS = json.loads((Path(__file__).parents[1] / "reference" / "relevance.json").read_text())


def filled(model: nn.Module, scale: float = 1.0) -> nn.Module:
    """`model` in float64 and eval mode, its parameters and statistics drawn in the order of their names."""
    draw = np.random.RandomState(0)
    with torch.no_grad():
        for _, p in sorted(model.double().eval().named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_(torch.from_numpy(draw.standard_normal(tuple(p.shape)) * scale / fan**0.5))
        for name, b in sorted(model.named_buffers()):
            if name.endswith("running_mean"):
                b.copy_(torch.from_numpy(draw.standard_normal(tuple(b.shape)) * 0.3))
            if name.endswith("running_var"):
                b.copy_(torch.from_numpy(draw.uniform(0.5, 2.0, tuple(b.shape))))
    return model


def inputs(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal(shape))


def mlp() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)))


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.features = nn.Sequential(*first, nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class Residual(nn.Module):
    """A stem and two blocks, the second of which strides; batch norms whose scales have either sign."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 4, 3, 1), (4, 4, 3, 1), (4, 4, 3, 1), (4, 6, 3, 2), (6, 6, 3, 1), (4, 6, 1, 2)]
        for i, (before, after, size, stride) in enumerate(sizes, 1):
            self.add_module(f"conv{i}", nn.Conv2d(before, after, size, stride, size // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(after))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        def normed(i: int, t: Tensor) -> Tensor:
            return getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(t))  # type: ignore[no-any-return]  # a module's result

        x = normed(1, x).relu()
        x = (normed(3, normed(2, x).relu()) + x).relu()
        x = (normed(5, normed(4, x).relu()) + normed(6, x)).relu()
        out: Tensor = self.fc(self.pool(x).flatten(1))
        return out


RULES = {
    "Epsilon(1e-6)": R.epsilon(1e-6),
    "Epsilon(0.25)": R.epsilon(0.25),
    "ZPlus": R.zplus(),
    "AlphaBeta(2,1)": R.alpha_beta(2, 1),
    "Gamma(0.25)": R.gamma(0.25),
    "ZPlus(zero bias)": R.zplus(bias=False),
    "AlphaBeta(2,1,zero bias)": R.alpha_beta(2, 1, bias=False),
    "Gamma(0.25,zero bias)": R.gamma(0.25, bias=False),
}
COMPOSITES = {
    "EpsilonPlus": R.epsilon_plus(),
    "EpsilonPlusFlat": R.epsilon_plus_flat(),
    "EpsilonAlpha2Beta1": R.epsilon_alpha_beta(),
    "EpsilonAlpha2Beta1Flat": {**R.epsilon_alpha_beta(), **R.flat()},
    "EpsilonGammaBox(-3,3)": R.epsilon_gamma_box(-3, 3),
    "ExcitationBackprop": R.zplus(),
}
#: Where zennit adds 1e-6 to a sum, or to a mean over places, which we do not by ourselves.
SUMS = dict.fromkeys((torch.add, F.adaptive_avg_pool2d), R.epsilon(1e-6)["linear"])


def near(found: Tensor, expected: Any, bound: float, largest: float = 0.0) -> None:
    """Relative to the largest relevance."""
    theirs = _of(expected)
    torch.testing.assert_close(found.detach(), theirs, rtol=0, atol=bound * max(float(theirs.abs().max()), largest))


def _of(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
def test_rules_of_zennit(name: str) -> None:
    """It starts from a one where we start from the score; twelve digits of it are stored."""
    model, x = mlp(), inputs(2, 5)
    score = model(x)[:, 1:2].detach()
    near(fa.lrp(model, x, target=1, rules=RULES[name]), _of(THEIRS["zennit"][f"mlp {name}"]) * score, DIGITS)


@pytest.mark.parametrize("name", [*COMPOSITES, *RULES])
@pytest.mark.parametrize("net", ["vgg", "residual"])
def test_composites_of_zennit(net: str, name: str) -> None:
    model = filled(Vgg() if net == "vgg" else Residual(), scale=1.4)
    x, theirs = inputs(2, 3, 8, 8).clamp(-3, 3), THEIRS["zennit"][f"{net} {name}"]
    score, rules = model(x)[:, 1].detach(), {**RULES, **COMPOSITES}[name]
    rules = {**rules, **SUMS} if net == "residual" else rules
    relevance = fa.lrp(model, x, target=1, rules=rules)
    near(relevance.sum((1, 2, 3)), _of(theirs["sums"]) * score, DIGITS, float(relevance.abs().max()))
    near(relevance[0, :, 3], _of(theirs["row"]) * score[0], DIGITS)


@pytest.mark.parametrize("net", ["vgg", "residual"])
def test_guided_backprop_and_deconvnet_of_zennit(net: str) -> None:
    model, x = filled(Vgg() if net == "vgg" else Residual(), scale=1.4), inputs(2, 3, 8, 8).clamp(-3, 3)
    for name, method in (("GuidedBackprop", fa.guided_backprop), ("DeconvNet", fa.deconvnet)):
        found, theirs = method(model, x, target=1), THEIRS["zennit"][f"{net} {name}"]
        near(found.sum((1, 2, 3)), theirs["sums"], DIGITS)
        near(found[0, :, 3], theirs["row"], DIGITS)


# LXT, on language models of transformers.

SIZES = {"vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def language_model(name: str, attention: str) -> tuple[nn.Module, str]:
    """And its embedding."""
    tf = pytest.importorskip("transformers")
    if name == "llama":
        more = {"num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": False}
        made, words = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, **more, attn_implementation=attention)), "model.embed_tokens"
    elif name == "gpt2":
        sizes = {
            "vocab_size": 29,
            "n_positions": 64,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = tf.GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, attn_implementation=attention)
        made, words = tf.GPT2LMHeadModel(config), "transformer.wte"
    else:
        config = tf.BertConfig(**SIZES, num_labels=3, max_position_embeddings=32, attn_implementation=attention)
        made, words = tf.BertForSequenceClassification(config), "bert.embeddings.word_embeddings"
    return filled(made, scale=1.2), words


@pytest.mark.parametrize("case", THEIRS["lxt"])
def test_language_models_of_lxt(case: str) -> None:
    """To each token. LXT adds 1e-10 to what it divides by; RMSNorm and eager softmax of transformers compute in float32."""
    name, kind, attention = case.split("-")
    model, layer = language_model(name, attention)
    target: Any = 1 if name == "bert" else lambda output: output.logits[:, -1, 5]
    rules = {"attn": R.attn_lrp(), "cp": R.cp_lrp()}[kind]
    ids, theirs = torch.tensor([[3, 11, 7, 19, 5, 23]]), THEIRS["lxt"][case]
    near(fa.lrp(model, ids, layer=layer, target=target, rules=rules).sum(-1)[0], theirs["relevance"], 1.2e-9)


# Captum: epsilon alone, which it means as we do. It looks at no signs of contributions, only at those of weights.


@pytest.mark.parametrize("epsilon", [1e-9, 0.25])
def test_epsilon_of_captum(epsilon: float) -> None:
    """On a chain of linear layers exactly; its max pooling has a rule that adds 1e-9."""
    for model, x, bound in ((mlp(), inputs(2, 5), 1e-14), (filled(Vgg(), scale=1.4), inputs(2, 3, 8, 8), 3e-8)):
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.rule = EpsilonRule(epsilon=epsilon)
        theirs = ca.LRP(model).attribute(x.clone().requires_grad_(), target=1)
        near(fa.lrp(model, x, target=1, rules=R.epsilon(epsilon)), theirs.detach(), bound)
