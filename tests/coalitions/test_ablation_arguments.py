"""feature_ablation: masks, structures, targets, and bad input."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation
from torch import Tensor, nn

import funattr as fa
from funattr import feature_ablation, progress
from funattr._torch import transforms_active

from .. import reference
from ..close import close
from ..models import CASES, Mlp, Recurrent, Residual, double
from ..pairs import state
from ..reference import looped
from .test_ablation import TARGET

# Masks.


@pytest.mark.parametrize("chunk_size", [1, 2, None])
@pytest.mark.parametrize("site", [None, "stem", "layer2"])
def test_masks_of_every_form(site: Any, chunk_size: int | None) -> None:
    model, x = double(CASES[2])
    shape = (4, 3, 8, 8) if site is None else (4, 6, 6, 6)
    masks = {
        "shared": torch.randint(0, 4, (1, *shape[1:])),
        "no batch dimension": torch.randint(0, 4, shape[1:]),
        "channels": torch.arange(shape[1]).reshape(-1, 1, 1),
        "space": torch.randint(0, 3, shape[2:]),
        "per example": torch.randint(0, 3, shape),
        "ids per example": torch.arange(4).reshape(4, 1, 1, 1) * 10 + torch.randint(0, 2, (1, 1, *shape[2:])),
        "not contiguous, negative": torch.tensor([-7, 0, 10**12])[torch.randint(0, 3, (1, *shape[1:]))],
        "small dtype": torch.randint(0, 3, (1, 1, *shape[2:]), dtype=torch.uint8),
        "one group": torch.zeros((), dtype=torch.long),
    }
    for name, mask in masks.items():
        expected = looped(model, x, site, reference.pick(TARGET), masks=[mask])
        found = feature_ablation(model, x, layer=site, target=TARGET, feature_mask=mask, chunk_size=chunk_size)
        assert found.shape == shape, name
        close(found, expected)


def test_groups_shared_across_the_tensors_of_a_tuple() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    masks = (torch.randint(0, 3, (1, 1, 8, 8)), torch.tensor([[0, 0, 1, 5, 5, 2]]))
    expected = looped(model, x, None, reference.pick(TARGET), masks=masks)
    close(feature_ablation(model, x, target=TARGET, feature_mask=masks), expected)
    captums = FeatureAblation(model).attribute(x, target=TARGET, feature_mask=masks)
    close(feature_ablation(model, x, target=TARGET, feature_mask=masks), captums)
    # A number is a mask too: each tensor one group. None leaves a tensor out.
    by_tensor = feature_ablation(model, x, target=TARGET, feature_mask=(0, 1))
    close(by_tensor, looped(model, x, None, reference.pick(TARGET), masks=(torch.tensor(0), torch.tensor(1))))
    image, table = feature_ablation(model, x, target=TARGET, feature_mask=(None, 1))
    assert image is None
    close(table, by_tensor[1])


def test_structures_of_x_and_of_the_value() -> None:
    model, x = double(next(case for case in CASES if case.name == "two"))
    expected = feature_ablation(model, x, target=1, baselines=(0.5, x[1][:1]), chunk_size=4)
    assert isinstance(expected, tuple)
    named = feature_ablation(
        model, {"image": x[0], "table": x[1]}, target=1, baselines={"table": x[1][:1], "image": 0.5}, chunk_size=50
    )
    assert list(named) == ["image", "table"]
    close(named, expected)
    lstm, sequence = Recurrent().double().eval(), torch.randn(4, 3, 4, dtype=torch.float64)
    out, (h, c) = feature_ablation(lstm, sequence, layer="lstm", target=TARGET)
    assert (out.shape, h.shape, c.shape) == ((4, 3, 6), (1, 4, 6), (1, 4, 6))
    assert h.any()
    assert not c.any()  # the model does not use it
    assert not out[:, :-1].any()


# Targets.


def test_argmax_is_resolved_once() -> None:
    x = torch.tensor([[3.0, 2.0], [1.0, 5.0]])
    found = feature_ablation(nn.Identity(), x, target="argmax")
    assert torch.equal(found, torch.tensor([[3.0, 0.0], [0.0, 5.0]]))  # and not 1 and 4: the class stays
    for chunk_size in (1, 2, 3):
        assert torch.equal(feature_ablation(nn.Identity(), x, target="argmax", chunk_size=chunk_size), found)


@pytest.mark.parametrize("site", [None, "fc1"])
def test_neurons(site: Any) -> None:
    model, x = double(CASES[0])
    for index in (3, (slice(1, 4),), lambda v: v[:, 0] * v[:, 1]):
        for layer in ("fc2", fa.output_of("act1", call=-1)):
            at = model.fc2 if layer == "fc2" else model.act1
            kept: list[Tensor] = []
            with at.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out)):

                def score(_: Any, kept: list[Tensor] = kept, index: Any = index) -> Tensor:
                    value = kept[-1]
                    if callable(index):
                        return index(value)
                    return value[:, 3] if index == 3 else value[:, 1:4].sum(1)

                expected = looped(model, x, site, score)
            close(feature_ablation(model, x, layer=site, target=fa.neuron(layer, index)), expected)
    # A neuron before the layer does not see it.
    assert not feature_ablation(model, x, layer="fc3", target=fa.neuron("fc1", 0)).any()


# Progress.


def test_progress() -> None:
    model, x = double(CASES[0])
    heard: list[tuple[int, int]] = []
    with progress(lambda done, total: heard.append((done, total))):
        feature_ablation(model, x, target=1, chunk_size=3)
        feature_ablation(model, x, layer="fc1", target=1, chunk_size=1)
    assert heard[:4] == [(0, 7), (3, 7), (5, 7), (7, 7)]
    assert heard[4:] == [(i, 9) for i in range(10)]
    feature_ablation(model, x, target=1)
    assert len(heard) == 14
    others: list[Any] = []
    with progress(lambda done, total: others.append(done)):
        thread = threading.Thread(target=lambda: feature_ablation(model, x, target=1))
        thread.start()
        thread.join()
        compiled = torch.compile(feature_ablation, fullgraph=True, backend="aot_eager")
        compiled(model, x, target=1)
    assert not others


# Bad input.


class Attends(nn.Module):
    """Attention gives a tuple of one tensor and None, as most transformers' layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(torch.tanh(x + y).mean(1))


def test_one_tensor_stands_for_a_structure_with_one_tensor() -> None:
    net, x = Attends().double().eval(), torch.randn(4, 7, 8, dtype=torch.float64)
    mask, base = torch.arange(7).view(1, 7, 1), torch.randn(4, 7, 8, dtype=torch.float64)
    options: dict[str, Any] = {"layer": "attention", "target": 1}
    found = feature_ablation(net, x, feature_mask=mask, baselines=base, **options)
    expected = feature_ablation(net, x, feature_mask=(mask, None), baselines=(base, None), **options)
    assert found[1] is expected[1] is None
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], expected[0])
    lone = feature_ablation(net, {"x": x}, feature_mask=mask, baselines=base, target=1)
    torch.testing.assert_close(lone["x"], feature_ablation(net, x, feature_mask=mask, baselines=base, target=1))


def errors() -> Iterator[tuple[type[Exception], str, dict[str, Any]]]:
    image, ids = torch.randn(4, 3, 8, 8), torch.randint(0, 20, (4, 7))
    yield ValueError, r"feature_mask has the shape \[5\], which does not broadcast to x \[4, 3, 8, 8\]", {"feature_mask": [5]}
    yield ValueError, r"feature_mask has the shape \[2, 3, 8, 8\]", {"feature_mask": [2, 3, 8, 8]}
    yield ValueError, r"feature_mask has the shape \[1, 4, 3, 8, 8\]", {"feature_mask": [1, 4, 3, 8, 8]}
    yield ValueError, r"to the value at layer 'stem' \[4, 6, 6, 6\]", {"feature_mask": [3, 8, 8], "layer": "stem"}
    yield TypeError, "torch.float32, expected integers.*pass feature_mask.long", {"feature_mask": torch.zeros(8)}
    yield TypeError, "torch.bool, expected integers", {"feature_mask": torch.zeros(8) > 0}
    yield TypeError, "must hold integer tensors, one id per feature, got str", {"feature_mask": "channels"}
    yield ValueError, "feature_mask is a tuple of 1, and x is a tensor", {"feature_mask": (torch.zeros(8).long(),)}
    yield ValueError, "names no group", {"feature_mask": (None,)}
    yield ValueError, r"baselines has the shape \[5\], which does not broadcast to x", {"baselines": torch.zeros(5)}
    yield ValueError, r"baselines has the shape \[2, 3, 8, 8\]", {"baselines": torch.zeros(2, 3, 8, 8)}
    yield ValueError, "baselines is a tuple of 2, and x is a tensor", {"baselines": (0.0, 1.0)}
    yield ValueError, "baselines=nan cannot stand in x", {"baselines": float("nan")}
    yield ValueError, "baselines=1e[+]300 cannot stand in x, which is torch.float32", {"baselines": 1e300}
    yield ValueError, "a tensor of torch.float32 cannot stand in x", {"baselines": torch.full((8,), torch.inf)}
    yield TypeError, "baselines must be numbers or tensors for x, got str", {"baselines": "zero"}
    yield TypeError, "baselines must be numbers or tensors for x, got ndarray", {"baselines": torch.zeros(8).numpy()}
    yield ValueError, "no target says which", {"target": None}
    yield ValueError, "target 5 is out of range", {"target": 5}
    yield ValueError, "target 7 is out of range", {"target": torch.tensor([0, 1, 2, 7])}
    yield ValueError, "no layer 'layer9'", {"layer": "layer9"}
    yield ValueError, "ran 2 times in one forward pass", {"layer": "layer1.relu"}
    yield ValueError, "ran 2 times in one forward pass", {"layer": "layer1.relu", "feature_mask": 0}
    yield ValueError, "chunk_size must be at least 1, got 0", {"chunk_size": 0}
    yield TypeError, "chunk_size must be an int, got float", {"chunk_size": 1.5}
    yield TypeError, "x must be a tensor.*got list: pass torch.stack", {"x": [image]}
    yield TypeError, "x must be a tensor.*got ndarray", {"x": image.numpy()}
    yield ValueError, "x .* holds NaN or inf", {"x": image / 0}
    yield ValueError, "baselines=0.5 cannot stand in x, which is torch.int64: give whole numbers", {"x": ids, "baselines": 0.5}
    yield ValueError, "baselines=300 cannot stand in x, which is torch.uint8", {"x": ids.byte(), "baselines": 300}
    yield ValueError, "a tensor of torch.int64 cannot stand in x", {"x": ids.byte(), "baselines": torch.tensor([300])}
    yield ValueError, "a tensor of torch.float32 cannot stand in x", {"x": ids, "baselines": torch.tensor([0.5])}
    yield ValueError, "baselines=2 cannot stand in x, which is torch.bool", {"x": ids > 3, "baselines": 2}
    yield (
        ValueError,
        "a tensor.*with the keys|feature_mask is a tensor .* and x is a tuple of 2",
        {"x": (image, ids), "feature_mask": [8]},
    )
    yield (
        ValueError,
        "feature_mask is a dict with the keys 'a', and x is a dict with the keys 'b'",
        {
            "x": {"b": image},
            "feature_mask": {"a": 0},
        },
    )
    yield ValueError, "baselines is a tuple of 1, and layer is a list of 2", {"layer": ["stem", "fc"], "baselines": (0,)}


@pytest.mark.parametrize(("kind", "text", "call"), list(errors()), ids=[text[:50] for _, text, _ in errors()])
def test_bad_input(kind: type[Exception], text: str, call: dict[str, Any]) -> None:
    model = Residual().eval()
    options = {"target": 1} | {k: v for k, v in call.items() if k != "x"}
    if isinstance(options.get("feature_mask"), list):
        options["feature_mask"] = torch.zeros(options["feature_mask"], dtype=torch.long)
    x = call.get("x", torch.randn(4, 3, 8, 8))
    any_model: Any = model if "x" not in call else lambda *args, **named: F.one_hot(torch.zeros(4).long(), 5)
    before = state(model)
    with pytest.raises(kind, match=f"(?s)^feature_ablation.*{text}"):
        feature_ablation(any_model, x, **options)
    assert state(model) == before


def test_the_models_own_errors_come_through() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("vmap is what this model says")

    with pytest.raises(RuntimeError, match="is what this model says"):
        feature_ablation(broken, torch.randn(2, 3))

    class Late(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            self.fc1(x)
            raise KeyError("mine")

    for chunk_size in (1, 3):
        with pytest.raises(KeyError, match="mine"):
            feature_ablation(Late(), torch.randn(2, 6), layer="fc1", chunk_size=chunk_size)
        assert not transforms_active()


def test_a_layer_without_tensors() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = Names()

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) * self.names(x)[0]

    class Names(nn.Module):
        def forward(self, x: Tensor) -> tuple[int, ...]:
            return (x.shape[1],)

    with pytest.raises(TypeError, match="holds no tensor to ablate"):
        feature_ablation(Odd(), torch.randn(2, 3), layer="names")
