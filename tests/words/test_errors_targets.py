"""Bad targets and neurons: (call, exception, words that the message must contain)."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Recurrent
from .wrong import (
    Pair,
    Row,
    conv,
    image,
    mlp,
    net,
    refuses,
    tried,
    x,
)

TABLE: list[Row] = [
    # targets
    ("missing", lambda: fa.saliency(mlp, x), ValueError, ["saliency()", "[4, 5]", "target=3"]),
    ("out of range", lambda: fa.saliency(mlp, x, target=5), ValueError, ["target 5 is out of range", "0 to 4"]),
    ("out of range from the end", lambda: fa.saliency(mlp, x, target=-6), ValueError, ["target -6 is out of range"]),
    ("one of them", lambda: fa.saliency(mlp, x, target=torch.tensor([0, 1, 2, 5])), ValueError, ["target 5 is out of range"]),
    ("one of a list", lambda: fa.saliency(mlp, x, target=[0, 1, 2, 7]), ValueError, ["target 7 is out of range"]),
    ("too few", lambda: fa.saliency(mlp, x, target=[0, 1]), ValueError, ["2 entries for 4 examples"]),
    ("too few in a tensor", lambda: fa.saliency(mlp, x, target=torch.tensor([0, 1])), ValueError, ["[2]", "[4]"]),
    ("two dimensions", lambda: fa.saliency(mlp, x, target=torch.zeros(4, 1, dtype=torch.long)), ValueError, ["[4, 1]", "[4]"]),
    ("floats", lambda: fa.saliency(mlp, x, target=torch.zeros(4)), TypeError, ["torch.float32", "target.long()"]),
    ("bool", lambda: fa.saliency(mlp, x, target=True), TypeError, ["bool True"]),
    ("float", lambda: fa.saliency(mlp, x, target=1.0), TypeError, ["float 1.0"]),
    ("a name", lambda: fa.saliency(mlp, x, target="cat"), ValueError, ["'cat'", "labels.index('cat')", "'argmax'"]),
    ("mixed list", lambda: fa.saliency(mlp, x, target=[1, (1,), 2, 3]), TypeError, ["ints only"]),
    ("tuple too long", lambda: fa.saliency(mlp, x, target=(1, 2)), ValueError, ["(1, 2)", "[4, 5]"]),
    ("tuple of floats", lambda: fa.saliency(mlp, x, target=(1.0,)), TypeError, ["float 1.0"]),
    ("list of long tuples", lambda: fa.saliency(mlp, x, target=[(1, 2)] * 4), ValueError, ["(1, 2)"]),
    (
        "needless",
        lambda: fa.saliency(lambda v: v.sum(1), x, target=1),
        ValueError,
        ["one value per example", "leave the target out"],
    ),
    ("too little", lambda: fa.saliency(nn.Identity(), image, target=1), ValueError, ["[4, 3, 8, 8]", "tuple of 3"]),
    ("argmax of maps", lambda: fa.saliency(nn.Identity(), image, target="argmax"), ValueError, ["'argmax'", "tuple of 3"]),
    ("0-d output", lambda: fa.saliency(lambda v: v.sum(), x), ValueError, ["0-d", "per example"]),
    ("another batch", lambda: fa.saliency(lambda v: v[:2], x, target=1), ValueError, ["2 values for the 4 examples"]),
    ("callable gives a number", lambda: fa.saliency(mlp, x, target=lambda out: 1.0), TypeError, ["float 1.0", "tensor [N]"]),
    ("callable gives a matrix", lambda: fa.saliency(mlp, x, target=lambda out: out), ValueError, ["[4, 5]", "[N]"]),
    (
        "callable gives a constant",
        lambda: fa.saliency(mlp, x, target=lambda out: torch.ones(4)),
        ValueError,
        ["no gradient", "does not depend"],
    ),
    ("two outputs", lambda: fa.saliency(Pair(), x, target=1), ValueError, ["tuple with 2 tensors", "callable"]),
    ("no outputs", lambda: fa.saliency(lambda v: None, x, target=1), ValueError, ["the model's output is None", "return"]),
    # neurons
    ("neuron of no layer", lambda: fa.gradient(mlp, x, target=fa.neuron("fc9", 1)), ValueError, ["no layer 'fc9'"]),
    (
        "neuron out of range",
        lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", 8)),
        ValueError,
        ["index 8 is out of range", "0 to 7"],
    ),
    (
        "neuron in a map",
        lambda: fa.gradient(conv, image, target=fa.neuron("conv1", 1)),
        ValueError,
        ["index=1", "[4, 6, 8, 8]", "slices"],
    ),
    ("neuron with too many", lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", (1, slice(2)))), ValueError, ["more entries"]),
    (
        "neuron of nothing",
        lambda: fa.gradient(mlp, x, target=fa.neuron("fc1", (slice(9, 12),))),
        ValueError,
        ["selects nothing"],
    ),
    (
        "neuron of the whole batch",
        lambda: fa.integrated_gradients(mlp, x, target=fa.neuron("fc1", lambda v: v[:, 1].sum())),
        ValueError,
        ["1 values for the 4 examples", "the target must give one for each"],
    ),
    ("neuron index", lambda: fa.neuron("fc1", 1.5), TypeError, ["neuron()", "float 1.5"]),
    ("neuron layer", lambda: fa.neuron(3, 1), TypeError, ["neuron()", "int 3"]),
    (
        "neuron of a nested value",
        lambda: fa.gradient(Recurrent(), torch.randn(2, 3, 4), target=fa.neuron("lstm", 1)),
        ValueError,
        ["3 tensors", "callable"],
    ),
    (
        "neuron before the layer",
        lambda: fa.gradient(mlp, x, layer="fc3", target=fa.neuron("fc1", 1)),
        ValueError,
        ["layer 'fc3'", "does not depend"],
    ),
    ("neuron in score", lambda: fa.score(x, fa.neuron("fc1", 1)), ValueError, ["score()", "inside the model"]),
    # targets where something else is transformed
    (
        "out of range under a rule",
        lambda: fa.deconvnet(net, image, target=torch.tensor([0, 1, 2, 5]), create_graph=True),
        ValueError,
        ["deconvnet(target=<tensor [4]>, create_graph=True)", "target 5 is out of range"],
    ),
    (
        "out of range under vmap",
        lambda: torch.func.vmap(lambda part: fa.gradient(mlp, part[None], target=torch.tensor([5])))(x),
        ValueError,
        ["target 5 is out of range"],
    ),
    (
        "callable gives a list, several points at once",
        lambda: fa.score_cam(conv, image, layer="conv1", target=lambda out: out[:, 0].tolist()),
        TypeError,
        ["score_cam(layer='conv1', target=", "the target returned list"],
    ),
]


@tried(TABLE)
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    refuses(call, kind, words)


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda h: {"out": h, "aux": -h},
    "dict of numbers": lambda h: {7: h, 1: -h},
    "dict of tuples": lambda h: {("a", 1): h, ("b", 2): -h},
    "dict in a dict": lambda h: {"heads": {"age": h, "sex": -h}, "rest": [h]},
    "list in a tuple": lambda h: ([h, -h], h),
    "ordered": lambda h: OrderedDict(out=h, aux=h),
    "a view of a dict": lambda h: types.MappingProxyType({"out": h, "aux": h}),
    "deque": lambda h: deque([h, h]),
    "detectors": lambda h: [{"boxes": one.expand(2, 5), "scores": one} for one in h],
    "detectors with one score": lambda h: [{"name": "a", "score": one.sum(), "label": one.argmax()} for one in h],
    "the loss first": lambda h: (h.square().mean(), h),
    "classes first": lambda h: {"classes": h.argmax(1), "scores": h, "loss": h.mean()},
    "state first": lambda h: (h[None], h, h),
    "maps": lambda h: {"out": h[:, :, None, None].expand(-1, -1, 2, 2), "aux": h},
    "an object": lambda h: types.SimpleNamespace(scores=h, hidden=h),
    "beside a distribution": lambda h: {"pi": torch.distributions.Normal(h, 1.0), "value": {"v": h}},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_line_for_an_output_of_several_tensors_can_be_run(name: str) -> None:
    model = lambda v: OUTPUTS[name](mlp(v))  # noqa: E731  (of one test)
    with pytest.raises(ValueError, match="such as target=") as caught:
        fa.saliency(model, x, target=1)
    line = str(caught.value).partition("such as target=")[2].removesuffix(".")
    assert fa.saliency(model, x, target=eval(line)).shape == x.shape


@pytest.mark.parametrize("output", [None, 1.0, "logits", {}, object()])
def test_outputs_without_a_tensor_are_not_told_to_pick_one(output: Any) -> None:
    with pytest.raises(ValueError, match="the model's output is") as caught:
        fa.saliency(lambda v: output, x, target=1)
    assert "output[0]" not in str(caught.value)


def test_the_line_for_an_array_of_numpy_can_be_run() -> None:
    with pytest.raises(ValueError, match="array of numpy") as caught:
        fa.feature_ablation(lambda v: mlp(v).detach().numpy(), x, target=1)
    target = eval(str(caught.value).partition("pass target=")[2].removesuffix("."))
    with pytest.warns(UserWarning, match="one after another"):
        found = fa.feature_ablation(lambda v: mlp(v).detach().numpy(), x, target=target)
    torch.testing.assert_close(found, fa.feature_ablation(mlp, x, target=3))


def test_a_model_is_not_its_output() -> None:
    """What it holds was taken for outputs: it was told to take `output.mask[:, 3]`."""
    with pytest.raises(TypeError, match=r"score\(.*\): output is the model itself, Linear, and not what it gives, model\(x\)"):
        fa.score(nn.Linear(2, 3), torch.ones(1, 2))
