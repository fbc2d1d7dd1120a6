"""Classes by name in `target=`, where the model knows the names, and masks in index tuples."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

LABELS = {0: "tench, Tinca tinca", 1: "crane", 2: "golden retriever", 3: "crane", 4: "Great White Shark, white shark"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def net(**attributes: Any) -> nn.Module:
    torch.manual_seed(0)
    made = Net().double().eval()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


known, x = net(config=SimpleNamespace(id2label=LABELS)), torch.randn(2, 3, 6, 6, dtype=torch.float64)
BY_NAME = {
    "as it is written": ("golden retriever", 2),
    "in any case": ("Golden Retriever", 2),
    "one of synonyms": ("Tinca Tinca", 0),
    "another of them": ("white shark", 4),
}


@pytest.mark.parametrize("how", BY_NAME)
def test_a_name_is_its_number(how: str) -> None:
    name, number = BY_NAME[how]
    for method in (
        fa.gradient,
        fa.integrated_gradients,
        fa.relu(fa.input_x_gradient),
        fa.noise_tunnel(fa.saliency, stdevs=0.0),
    ):
        assert torch.equal(method(known, x, target=name), method(known, x, target=number))
    attributions = fa.gradient(known, x, target=number)
    for found, expected in [
        (fa.convergence_delta(attributions, known, x, target=target) for target in (name, number)),
        (fa.metrics.deletion(attributions, known, x, target=target, steps=3) for target in (name, number)),
        (fa.value_and_gradient(known, x, target=target)[1] for target in (name, number)),
    ]:
        assert torch.equal(found, expected)


WRAPPERS: dict[str, Any] = {
    "the model": known,
    "a list of names": net(classes=["tench", "a", "golden retriever", "b", "c"]),
    "keys as in JSON": net(config=SimpleNamespace(id2label={str(k): v for k, v in LABELS.items()})),
    "a partial": functools.partial(known),
    "DataParallel": nn.DataParallel(known),
    **({"compiled": torch.compile(known, backend="eager")} if hasattr(torch, "compiler") else {}),  # since torch 2.1
    "its forward": known.forward,
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_whatever_wraps_the_model(how: str) -> None:
    torch.testing.assert_close(fa.gradient(WRAPPERS[how], x, target="golden retriever"), fa.gradient(known, x, target=2))


def test_a_name_for_each_example_and_for_each_target() -> None:
    expected = fa.gradient(known, x, target=[0, 2])
    assert torch.equal(fa.gradient(known, x, target=["tench", "golden retriever"]), expected)
    each = fa.each_target(fa.gradient, ["tench", "golden retriever", ["tench", "golden retriever"], "argmax"])(known, x)
    torch.testing.assert_close(each[2], expected)
    torch.testing.assert_close(each[:2], fa.each_target(fa.gradient, [0, 2])(known, x))


@pytest.mark.full
def test_of_compiled_methods_too() -> None:
    compiled: Any = torch.compile(fa.gradient, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(known, x, target="golden retriever"), fa.gradient(known, x, target=2))
    torch.testing.assert_close(compiled(maps, x, target=(1, mask)), fa.gradient(maps, x, target=(1, mask)))


def refused(call: Any) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def test_a_name_that_there_is_not() -> None:
    message = refused(lambda: fa.saliency(known, x, target="golden retreiver"))
    assert message == (
        "saliency(target='golden retreiver'): the model has no class 'golden retreiver'. Did you mean 'golden retriever'?"
    )
    assert "It has 'tench, Tinca tinca', 'crane'" in refused(lambda: fa.saliency(known, x, target="zzz"))
    assert "Did you mean 'tench'?" in refused(lambda: fa.saliency(known, x, target="tenhc"))
    twice = refused(lambda: fa.saliency(known, x, target="Crane"))
    assert "is the name of several classes: choose by number, 1, 3." in twice
    fa.saliency(known, x, target=1)
    number = refused(lambda: fa.saliency(known, x, target="2"))
    assert "pass target=2" in number
    assert "has no class '--2'" in refused(lambda: fa.saliency(known, x, target="--2"))
    fa.saliency(known, x, target=2)


def test_a_model_without_names() -> None:
    labels = list(LABELS.values())
    message = refused(lambda: fa.saliency(net(), x, target="golden retriever"))
    assert "labels.index('golden retriever')" in message
    assert fa.saliency(net(), x, target=labels.index("golden retriever")).shape == x.shape
    assert "the only name is 'argmax'" in refused(lambda: fa.score(net()(x), "golden retriever"))


@pytest.mark.parametrize("model", [net(), known])
def test_a_misspelled_argmax(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"'argmx'.* Did you mean 'argmax'\?"):
        fa.saliency(model, x, target="argmx")


def test_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    vit, pixels = transformers.ViTForImageClassification(config).eval(), torch.randn(1, 3, 8, 8)
    assert torch.equal(fa.saliency(vit, pixels, target="dog"), fa.saliency(vit, pixels, target=1))


# Masks.

maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).double().eval()
mask = torch.rand(6, 6) > 0.5


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_mask_is_a_region(kind: str) -> None:
    target: Any = (1, mask if kind == "tensor" else mask.numpy())
    expected = fa.gradient(maps, x, target=lambda out: out[:, 1, mask].sum(1))
    for found in (
        fa.gradient(maps, x, target=target),
        fa.gradient(maps, x, target=fa.neuron("0", target)),
        fa.each_target(fa.gradient, [target, (0, 1, 1)])(maps, x)[0],
        fa.integrated_gradients(maps, x, target=target, multiply_by_inputs=False, chunk_size=3),
        torch.func.vmap(lambda one: fa.gradient(maps, one[None], target=target)[0])(x),
    ):
        torch.testing.assert_close(found, expected)
    rows = torch.tensor([True, False, True, False, False, True])
    found = fa.gradient(maps, x, target=(slice(1, 3), rows, 2))
    torch.testing.assert_close(found, fa.gradient(maps, x, target=lambda out: out[:, 1:3, rows, 2].sum((1, 2))))
    assert torch.equal(fa.score(maps(x), (mask.expand(4, 6, 6),)), fa.score(maps(x), (slice(None), mask)))


def test_a_mask_where_the_score_is_minus_infinity() -> None:
    out = torch.full((1, 2, 2), -torch.inf)
    out[0, 0] = 1
    assert fa.score(out, (torch.tensor([True, False]), slice(None))).tolist() == [2]


def test_masks_that_do_not_fit() -> None:
    assert "(1, <tensor [6, 6]>, 3) has 4" in refused(lambda: fa.gradient(maps, x, target=(1, mask, 3)))
    assert "selects nothing" in refused(lambda: fa.gradient(maps, x, target=(1, torch.zeros(6, 6).bool())))
    assert "takes: give 3" in refused(lambda: fa.gradient(maps, x, target=(1, mask.expand(2, 6, 6))))
    message = refused(lambda: fa.gradient(maps, x, target=(1, mask[:5])))
    assert "expected [6, 6]" in message
    assert "(output[:, 3] * mask).sum((1, 2))" in message
    each = torch.stack([mask, ~mask])
    found = fa.gradient(maps, x, target=lambda output: (output[:, 3] * each).sum((1, 2)))
    torch.testing.assert_close(found[1], fa.gradient(maps, x, target=(3, ~mask))[1])
    with pytest.raises(TypeError, match="masks"):
        fa.gradient(maps, x, target=(1, np.zeros((6, 6))))  # type: ignore[arg-type]  # wrong on purpose
