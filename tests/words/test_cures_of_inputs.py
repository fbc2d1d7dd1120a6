"""An x that a model does not take: the cure is named where the model is shown to take it, and each is run here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor, other: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        x = x if other is None else x + other
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean(2))


torch.manual_seed(0)
net, grey, double, sequences = Net().eval(), Net(1).eval(), Net().double().eval(), Sequences().eval()
words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5)).eval()
images = torch.randint(0, 255, (2, 3, 8, 7)).float()
ids = torch.randint(0, 9, (2, 3))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = words

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        return self.words(ids) * scale


def compiled(model: Any) -> Any:
    try:
        return torch.compile(model, backend="eager")
    except RuntimeError:  # torch 2.0 has none on Python 3.11
        return model


#: A model, an x that it does not take, what to pass in its place, and the x that is meant.
CASES: dict[str, tuple[Any, Any, str, Any]] = {
    "float64 for float32": (net, images.double(), "x.float()", images),
    "float32 for float64": (double, images, "x.double()", images.double()),
    "float16": (net, images.half(), "x.float()", images),
    "bytes": (net, images.to(torch.uint8), "x.float()", images),
    "for bfloat16": (Net().to(torch.bfloat16), images, "x.bfloat16()", images.bfloat16()),
    "channels last": (net, images.movedim(1, -1), "x.movedim(-1, 1)", images),
    "channels last, of sequences": (sequences, images[:, :, 0].mT, "x.movedim(-1, 1)", images[:, :, 0]),
    "one picture as numpy has it": (net, images[0].movedim(0, -1), "x.movedim(-1, 0)[None]", images[:1]),
    "that in float64": (net, images[0].movedim(0, -1).double(), "x.float().movedim(-1, 0)[None]", images[:1]),
    "one picture in bytes": (net, images[0].to(torch.uint8), "x.float()[None]", images[:1]),
    "in grey": (net, images[:, :1], "x.expand(-1, 3, -1, -1)", images[:, :1].expand(-1, 3, -1, -1)),
    "in colours": (grey, images, "x.mean(1, keepdim=True)", images.mean(1, keepdim=True)),
    "with transparency": (net, torch.cat([images, images[:, :1]], 1), "x[:, :3]", images),
    "ids as floats": (words, ids.float(), "x.long()", ids),
    "ids of 16 bits": (words, ids.short(), "x.long()", ids),
    "ids by name": (Named(), {"ids": ids.float(), "scale": torch.tensor(0.5)}, "x['ids'].long()", None),
    "bound": (functools.partial(net, other=images), images.double()[0].movedim(0, -1), "", None),
    "compiled": (compiled(net), images.double(), "x.float()", images),
    "one of two": (net, (images, images.double()), "x[1].float()", (images, images)),
    "both": (net, (images.double(), images.half()), "x[0].float() and x[1].float()", (images, images)),
    "by name": (net, {"x": images, "other": images.double(), "ids": ids}, "x['other'].float()", None),
}  # fmt: skip


def told(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert isinstance(caught.value, RuntimeError)  # as torch's own is, for code that catches that
    assert caught.value.__cause__ is not None
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, row in CASES.items() if row[2]])
def test_the_cure_is_named_and_cures(name: str) -> None:
    model, x, cure, meant = CASES[name]
    where: Any = {"layer": {words: "0", net: "conv"}.get(model, "words.0")} if "bytes" in name or "ids " in name else {}
    message = told(lambda: fa.gradient(model, x, target=1, **where))
    assert message.startswith("gradient(")
    (written,) = re.findall(r"pass (.*)\.$", message)
    assert written == cure
    found = eval(written, {"x": x}) if isinstance(x, Tensor) else None
    if found is None:  # the parts that it names
        parts: Any = list(x) if isinstance(x, tuple) else dict(x)
        for part in written.split(" and "):
            key = eval(re.findall(r"x\[(.*?)\]", part)[0])
            parts[key] = eval(part, {"x": x})
        found = tuple(parts) if isinstance(x, tuple) else parts
    if isinstance(meant, Tensor):
        torch.testing.assert_close(found, meant)
    fa.gradient(model, found, target=1, **where)


def test_through_combinators_layers_and_paths() -> None:
    x = images.movedim(1, -1).double()
    for method in (fa.relu(fa.noise_tunnel(fa.saliency)), fa.integrated_gradients, fa.feature_ablation, fa.deep_lift):
        assert "pass x.float().movedim(-1, 1)." in told(lambda method=method: method(net, x, target=1))  # type: ignore[misc]  # a lambda with a default has no type for mypy
    assert "pass x.float()." in told(lambda: fa.grad_cam(net, images.double(), layer="conv", target=1))


@pytest.mark.parametrize("odd", [9, -100])
def test_an_id_that_no_embedding_has(odd: int) -> None:
    wrong = ids.clone()
    wrong[1, 2] = odd
    told_of = f"x holds the id {odd}, and the model has embeddings of 0 to 8"
    for method in (fa.gradient, fa.integrated_gradients, fa.relu(fa.saliency)):
        with pytest.raises(IndexError, match=told_of):
            method(words, wrong, layer="0", target=1)
    with pytest.raises(IndexError, match=told_of):
        fa.gradient(Named(), {"ids": wrong, "scale": torch.tensor(0.5)}, layer="words.0", target=1)
    x = {"ids": ids, "scale": torch.tensor(0.5)}
    with pytest.raises(IndexError, match="the model takes x, and not the baselines"):
        fa.integrated_gradients(Named(), x, layer="words.0", target=1, baselines={"ids": wrong, "scale": 0.5})
    with pytest.raises(IndexError, match=r"^index 9"):  # of another kind, and left alone
        fa.gradient(lambda x: words(x)[:, torch.tensor(9)], ids, layer=words[0])


def test_a_model_without_weights() -> None:
    made = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    empty, x = nn.Sequential(*(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).to("meta").eval(), torch.randn(2, 3)
    message = told(lambda: fa.saliency(empty, x, target=1))
    (cure,) = re.findall(r"call (model\..*?), and load a state_dict", message)
    eval(cure, {"model": empty})
    empty.load_state_dict(made.state_dict())
    assert torch.equal(fa.saliency(empty, x, target=1), fa.saliency(made, x, target=1))


def test_on_another_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    there = Net().cuda().eval()
    assert "pass x.to('cuda:0')." in told(lambda: fa.saliency(there, images, target=1))
    assert fa.saliency(there, images.to("cuda:0"), target=1).shape == images.shape
    assert "pass x.to('cpu')." in told(lambda: fa.saliency(net, images.cuda(), target=1))


def test_what_no_change_of_x_cures_stays_torchs() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        fa.saliency(nn.Linear(3, 4), torch.randn(2, 5), target=1)
    assert not isinstance(caught.value, ValueError)
    mixed = nn.Sequential(nn.Linear(3, 4).double(), nn.Linear(4, 2))  # at fault is the model
    with pytest.raises(RuntimeError, match="dtype"):
        fa.saliency(mixed, torch.randn(2, 3).double(), target=1)
    model, x, _, _ = CASES["bound"]
    with pytest.raises(RuntimeError):
        fa.saliency(model, x, target=1)


def test_an_error_below_the_model_is_left_alone() -> None:
    """The model takes x: what fails is the target."""
    with pytest.raises(RuntimeError, match="size of tensor"):
        fa.saliency(net, images, target=lambda out: out[:, 0] + torch.ones(7))
