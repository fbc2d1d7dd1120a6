"""Cures that a message gives in words, other than a line after "Write": what it says to pass is passed here."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> Tensor:
        out: Tensor = self.fc(self.relu(self.conv(x)).mean((2, 3))) * scale + shift
        return out


model = Net().double().eval()
x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
x0, references, scale = torch.zeros_like(x), torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.rand(3, 1).double()
mask = torch.arange(6) // 3
ig = fa.integrated_gradients


def told(call: Callable[[], Any]) -> str:
    with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
        call()
    return str(caught.value)


class Segments(nn.Module):
    """As a torchvision segmentation net: a dict of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.conv(x), "aux": 2 * self.conv(x)}


segments = Segments().double().eval()
maps = nn.Sequential(nn.Conv2d(3, 4, 3)).double().eval()


@dataclasses.dataclass
class Output:
    loss: Any
    first: Tensor
    second: Tensor


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "maps": segments,
    "a tuple": lambda x: (None, model(x), 2 * model(x)),
    "fields": lambda x: Output(None, model(x), model(x)),
    "two classes": lambda x: [model(x)[:, :2], model(x)],
    "scores": lambda x: {"a": model(x)[:, 0], "b": model(x)},
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_of_several_tensors_one_is_picked(kind: str) -> None:
    message = told(lambda: fa.saliency(OUTPUTS[kind], x, target=1))
    (target,) = re.findall(r"such as target=(.*)\.$", message)
    assert fa.saliency(OUTPUTS[kind], x, target=eval(target)).abs().sum() > 0


def test_several_values_per_example() -> None:
    message = told(lambda: fa.gradient(maps, x, target=2))
    (target,) = re.findall(r"target=(\(2.*\)); or", message)
    expected = fa.gradient(maps, x, target=lambda out: out[:, 2].sum((1, 2)))
    torch.testing.assert_close(fa.gradient(maps, x, target=eval(target)), expected)
    assert "slice(None), slice(None)" in told(lambda: fa.gradient(maps, x, target="argmax"))
    assert "slices" in told(lambda: fa.gradient(maps, x, target=(2, 1)))


def test_a_region_as_the_target() -> None:
    region = (1, slice(0, 2), slice(1, 4))
    expected = fa.gradient(maps, x, target=lambda out: out[:, 1, 0:2, 1:4].sum((1, 2)))
    for found in (
        fa.gradient(maps, x, target=region),
        fa.gradient(maps, x, target=fa.neuron("0", region)),
        fa.each_target(fa.gradient, [region, (0, 1, 1)])(maps, x)[0],
        fa.integrated_gradients(maps, x, target=region, multiply_by_inputs=False),
    ):
        torch.testing.assert_close(found, expected)
    assert "selects nothing" in told(lambda: fa.gradient(maps, x, target=(1, slice(9, 12), 0)))
    assert "out of range" in told(lambda: fa.gradient(maps, x, target=(4, slice(None), slice(None))))


def test_a_tuple_for_a_list() -> None:
    target = (0, 1, 2)
    assert "pass list(target)" in told(lambda: fa.saliency(model, x, target=target))
    assert fa.saliency(model, x, target=list(target)).shape == x.shape


def test_a_list_of_examples() -> None:
    listed = [x[0], x[1]]
    message = told(lambda: fa.saliency(model, listed, target=1))
    assert "torch.stack(x)" in message
    torch.testing.assert_close(fa.saliency(model, torch.stack(listed), target=1), fa.saliency(model, x[:2], target=1))
    assert "tuple(x)" in message
    two = fa.gradient(
        lambda a, b: model(a[None]) + model(b[None]), tuple(t for t in listed), target=lambda out: out[:, 1].expand(3)
    )
    assert len(two) == 2
    assert "one at a time" in told(lambda: fa.saliency(model, [x[:1], x[1:]], target=1))
    assert "torch.tensor(x)" in told(lambda: fa.saliency(lambda v: v.sum(1), [[1.0, 2.0]]))
    assert fa.saliency(lambda v: v.sum(1), torch.tensor([[1.0, 2.0]])).tolist() == [[1, 1]]
    assert "torch.from_numpy(x)" in told(lambda: fa.saliency(model, x.numpy(), target=1))
    assert fa.saliency(model, torch.from_numpy(x.numpy()), target=1).shape == x.shape


def test_what_has_no_gradient() -> None:
    pixels = torch.randint(0, 255, (2, 3, 6, 6), dtype=torch.uint8)
    single = copy.deepcopy(model).float()
    assert "x.float()" in told(lambda: fa.saliency(single, pixels, target=1))
    assert fa.saliency(single, pixels.float(), target=1).shape == pixels.shape
    waves = torch.randn(2, 4, dtype=torch.complex128)

    def power(z: Tensor) -> Tensor:
        return (z.abs() ** 2).sum(1)

    message = told(lambda: fa.gradient(power, waves))
    assert "torch.view_as_real(x)" in message
    found = fa.gradient(lambda parts: power(torch.view_as_complex(parts)), torch.view_as_real(waves))
    torch.testing.assert_close(found, 2 * torch.view_as_real(waves))
    embedded = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5))
    ids = torch.randint(0, 9, (2, 3))
    assert "layer after the embedding" in told(lambda: fa.saliency(embedded, ids, target=1))
    assert fa.saliency(embedded, ids, layer="0", target=1).shape == (2, 3, 4)


def test_one_example_without_its_batch_dimension() -> None:
    linear, image = nn.Linear(3, 4).double(), nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)).double()
    one = torch.randn(3, dtype=torch.float64)
    for net, example in ((linear, one), (image, x[0])):
        for target in (1, None, "argmax"):
            message = told(lambda net=net, example=example, target=target: fa.saliency(net, example, target=target))  # type: ignore[misc]  # a lambda with a default has no type for mypy
            assert "pass x[None]" in message
        assert fa.saliency(net, example[None], target=1).shape == example[None].shape


def test_a_loss_for_a_target() -> None:
    classes = torch.tensor([0, 1, 2])
    loss = functools.partial(nn.functional.cross_entropy, target=classes)
    assert "reduction='none'" in told(lambda: fa.saliency(model, x, target=loss))
    assert fa.saliency(model, x, target=functools.partial(loss, reduction="none")).shape == x.shape


def test_examples_without_a_label() -> None:
    target = torch.tensor([1, -100, 3])
    assert "x[target >= 0]" in told(lambda: fa.saliency(model, x, target=target))
    assert fa.saliency(model, x[target >= 0], target=target[target >= 0]).shape == x[:2].shape
    assert torch.equal(fa.saliency(model, x, target=-1), fa.saliency(model, x, target=4))  # as in a list, and documented


def test_of_inference_mode() -> None:
    with torch.inference_mode():
        made, inside = x.clone(), copy.deepcopy(model)
    for method in (fa.saliency, fa.gradient, fa.deep_lift, fa.integrated_gradients, fa.relu(fa.grad_cam)):
        where: Any = {"layer": "conv"} if "cam" in method.__name__ else {}
        torch.testing.assert_close(method(model, made, target=1, **where), method(model, x, target=1, **where))
    message = told(lambda: fa.saliency(inside, x, target=1))
    assert "copy.deepcopy(model)" in message
    torch.testing.assert_close(fa.saliency(copy.deepcopy(inside), x, target=1), fa.saliency(model, x, target=1))


def test_arrays_for_tensors() -> None:
    assert "torch.from_numpy(feature_mask)" in told(lambda: fa.feature_ablation(model, x, target=1, feature_mask=mask.numpy()))
    found = fa.feature_ablation(model, x, target=1, feature_mask=torch.from_numpy(mask.numpy()))
    torch.testing.assert_close(found, fa.feature_ablation(model, x, target=1, feature_mask=mask))
    assert "torch.from_numpy(baselines)" in told(lambda: ig(model, x, target=1, baselines=x0.numpy()))
    torch.testing.assert_close(ig(model, x, target=1, baselines=torch.from_numpy(x0.numpy())), ig(model, x, target=1))


def test_the_model_second() -> None:
    anything: Any = fa
    assert "the model comes first, then x" in told(lambda: anything.saliency(x, model, target=1))


@pytest.mark.parametrize("given", [None, 3, x.numpy(), (), {"a": "b"}])
@pytest.mark.parametrize("combinator", [fa.relu, fa.normalize, fa.noise_tunnel, lambda method: fa.multiply(method, method)])
def test_a_method_of_ones_own_that_gives_no_tensor(combinator: Any, given: Any) -> None:
    def own(model: Any, x: Tensor, target: Any = None) -> Any:
        return given

    assert "expected attributions" in told(lambda: combinator(own)(model, x, target=1))


def test_many_runs_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr._steps.progress.MANY", 20)
    with pytest.warns(UserWarning, match=r"109 runs of the model are ahead: watch them with fa.progress\(\)") as caught:
        fa.feature_ablation(model, x, target=1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.feature_ablation(model, x, target=1, feature_mask=mask)  # in groups
        with fa.progress(lambda done, total: None):  # watched
            fa.feature_ablation(model, x, target=1)
    with pytest.warns(UserWarning, match="30 runs"):
        ig(model, x, target=1, n_steps=30)
