"""What is asked for: names of wrapped models, outputs that need a target, batches of one, values in classes of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_flatten

import funattr as fa

METHODS = [fa.gradient, fa.input_x_gradient, fa.integrated_gradients, fa.conductance, fa.deep_lift, fa.feature_ablation]


# Names.


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def test_a_wrapped_models_own_names_and_those_inside() -> None:
    net, x = conv_net(), torch.randn(2, 3, 6, 6)
    expected = fa.grad_cam(net, x, layer="1", target=1)
    compiled: Any = torch.compile(net, backend="eager")
    for model in (
        nn.DataParallel(net),
        compiled,
        nn.DataParallel(compiled),
        torch.compile(nn.Sequential(net), backend="eager"),
    ):
        names = [name for name, module in model.named_modules() if module is net[1]]
        assert names
        for name in {*names, *(name.rpartition("module.")[2].rpartition("_orig_mod.")[2] for name in names)}:
            torch.testing.assert_close(fa.grad_cam(model, x, layer=name, target=1), expected)
            torch.testing.assert_close(fa.grad_cam(model, x, layer=fa.output_of(name), target=1), expected)
        with pytest.raises(ValueError, match=r"has no layer 'module\.conv'"):
            fa.grad_cam(model, x, layer="module.conv", target=1)


def test_a_name_inside_comes_before_one_of_the_wrapper() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.module(x))

    net, x = Odd(), torch.randn(2, 3)
    wrapped = nn.DataParallel(net)
    expected = fa.gradient(net, x, layer="module.0", target=1)
    torch.testing.assert_close(fa.gradient(wrapped, x, layer="module.0", target=1), expected)
    torch.testing.assert_close(fa.gradient(wrapped, x, layer="module.module.0", target=1), expected)


# Outputs.


class Policy(nn.Module):
    """An actor that returns a distribution, and the critic's value."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.actor, self.critic = kind, nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Any:
        value, found = self.critic(x), self.actor(x)
        if self.kind == "tuple":
            return Categorical(logits=found), value
        if self.kind == "dict":
            return {"value": value, "policy": Normal(found, 1.0)}
        return [value, object()]


@pytest.mark.parametrize("kind", ["tuple", "dict", "list"])
@pytest.mark.parametrize("target", [0, None, "argmax", (0,), [0, 0, 0]], ids=str)
def test_one_tensor_beside_something_else_is_a_question(kind: str, target: Any) -> None:
    model, x = Policy(kind), torch.randn(3, 4)
    for method in METHODS:
        with pytest.raises(ValueError, match="pass a callable target that picks one value per example"):
            method(model, x, target=target)


def test_one_tensor_beside_nothing_is_the_output() -> None:
    linear, x = nn.Linear(4, 3), torch.randn(2, 4)
    for wrap in (lambda y: (y, None), lambda y: {"out": y, "loss": None, "name": "a", "count": 3}, lambda y: [y, 0.5, True]):
        found = fa.gradient(lambda x, wrap=wrap: wrap(linear(x)), x, target=1)
        torch.testing.assert_close(found, linear.weight[1].detach().expand(2, 4))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_batch_of_one_that_the_model_squeezed(method: Any) -> None:
    classes, one, x = nn.Linear(5, 3).double(), nn.Linear(5, 1).double(), torch.randn(1, 5).double()
    for layer, target in ((classes, 1), (classes, "argmax"), (classes, [2]), (one, None)):
        expected = method(lambda v, layer=layer: layer(v), x, target=target)
        torch.testing.assert_close(method(lambda v, layer=layer: layer(v).squeeze(), x, target=target), expected)


def test_several_examples_are_not_squeezed() -> None:
    linear = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="the score has 3 values for the 2 examples of x"):
        fa.gradient(lambda x: linear(x)[0], torch.randn(2, 5), target=1)


# Values.


class Base(NamedTuple):
    value: Tensor
    scale: Tensor
    bits: Tensor


class Quantised(Base):
    """Turns what it is given to tensors, and refuses None."""

    def __new__(cls, value: Any, scale: Any, bits: Any) -> Quantised:
        bits = bits if isinstance(bits, Tensor) else torch.tensor(bits, dtype=torch.int)
        return super().__new__(cls, value, scale, bits)


class Quantise(nn.Module):
    def forward(self, x: Tensor) -> Quantised:
        return Quantised(torch.tanh(x), torch.tensor(0.5, dtype=x.dtype), torch.tensor(8))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.q, self.b = nn.Linear(4, 6), Quantise(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.a(x))
        return self.b(q.value * q.scale)


takes_tuples = pytest.mark.skipif(
    len(tree_flatten(Quantised(0, 0, 0))[0]) == 1, reason="torch 2.0 sees no tensors in such a tuple, as is told"
)


@takes_tuples
@pytest.mark.parametrize("method", [fa.gradient, fa.input_x_gradient, fa.integrated_gradients, fa.deep_lift])
def test_a_tuple_with_a_constructor_of_its_own(method: Any) -> None:
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(3, 4).double()
    found = method(model, x, layer="q", target=1)
    value = torch.tanh(model.a(x)).detach()
    start = torch.zeros_like(value) if method is fa.input_x_gradient else torch.tanh(model.a(0 * x)).detach()
    slope = (model.b.weight[1] * 0.5).detach().expand(3, 6)
    torch.testing.assert_close(found[0], slope if method is fa.gradient else slope * (value - start))
    assert found[2] is None


@takes_tuples
def test_a_packed_sequence() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([4, 6, 2]), batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(packed)[1][0][-1])

    model, x = Tagger().double().eval(), torch.randn(3, 6, 3).double()
    packed = pack_padded_sequence(x, torch.tensor([4, 6, 2]), batch_first=True, enforce_sorted=False)
    leaf = packed.data.clone().requires_grad_()
    value = PackedSequence(leaf, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    expected = torch.autograd.grad(model.head(model.rnn(value)[1][0][-1])[:, 1].sum(), leaf)[0]
    found = fa.gradient(model, x, layer=fa.input_of("rnn"), target=1)
    torch.testing.assert_close(found[0][0], expected)
    times = fa.input_x_gradient(model, x, layer=fa.input_of("rnn"), target=1)
    torch.testing.assert_close(times[0][0], expected * packed.data)


# Layers and inputs that are not all pictures.


@pytest.mark.parametrize("steps", [7, 5])
@pytest.mark.parametrize("n", [3, 1])
def test_cams_refuse_what_has_no_row_for_each_example(n: int, steps: int) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    body, head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), nn.Linear(8, 3)
    x = torch.randn(n, steps, 8)
    cams: list[Any] = [fa.grad_cam, fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam, fa.eigen_cam]
    for method in (*cams, fa.ablation_cam):
        target = {} if method is fa.eigen_cam else {"target": 1}
        with pytest.raises(ValueError, match="without a row for each of the"):
            method(lambda x: head(body(x.transpose(0, 1)).mean(0)), x, layer=body.layers[0], channel_dim=-1, **target)


class Patient(nn.Module):
    """A picture and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.head = nn.Conv2d(1, 3, 3), nn.Linear(5, 4), nn.Linear(7, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        h = torch.relu(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([h, torch.relu(self.table(table))], 1))


def test_maps_of_the_picture_and_none_of_the_table() -> None:
    torch.manual_seed(0)
    model = Patient().double()
    image, table = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 5).double()
    cam = fa.grad_cam(model, (image, table), layer="conv", target=1)
    expected = F.interpolate(cam, (8, 8), mode="bilinear")
    found = fa.interpolate(fa.grad_cam, mode="bilinear")(model, (image, table), layer="conv", target=1)
    torch.testing.assert_close(found[0], expected)
    assert found[1] is None
    guided = fa.guided_backprop(model, (image, table), target=1)[0]
    found = fa.guided_grad_cam(model, (image, table), layer="conv", target=1, mode="bilinear")
    torch.testing.assert_close(found[0], guided * F.interpolate(cam.relu(), (8, 8), mode="bilinear"))
    assert found[1] is None
    alone = fa.score_cam(lambda image: model(image, table), image, layer=model.conv, target=1)
    torch.testing.assert_close(fa.score_cam(model, (image, table), layer="conv", target=1), alone)


# Words.


def test_a_model_that_takes_one_dict_is_to_be_wrapped() -> None:
    linear, x = nn.Linear(4, 3), torch.randn(2, 4)

    def model(batch: dict[str, Tensor]) -> Tensor:
        return linear(batch["cont"])

    with pytest.raises(TypeError, match=r"wrap a model that takes them as one argument: lambda \*\*x: model\(x\)"):
        fa.gradient(model, {"cont": x}, target=1)
    found = fa.gradient(lambda **x: model(x), {"cont": x}, target=1)
    torch.testing.assert_close(found["cont"], linear.weight[1].detach().expand(2, 4))


def test_inputs_that_a_model_does_not_name_so_are_told_with_its_own_names() -> None:
    linear, x = nn.Linear(4, 3), torch.randn(2, 4)
    for wrong in ({"image": x}, (x, x)):
        with pytest.raises(TypeError, match=r"the model does not take x so \(.*\): it takes \(input\), a tuple"):
            fa.gradient(linear, wrong, target=1)
        for method in (fa.deep_lift, fa.lrp, fa.under({})(fa.feature_ablation)):  # under what sees the operations
            with pytest.raises(TypeError, match=r"the model does not take x so \(.*\): it takes \(input\), a tuple"):
                method(linear, wrong, target=1)
    assert fa.gradient(linear, {"input": x}, target=1)["input"].shape == x.shape


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_words_of_torch_are_not_cut_in_the_middle_of_one() -> None:
    conv, picture = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)), torch.randn(1, 3, 64, 64)
    conv(picture)
    with pytest.raises(ValueError, match=r"to have 3 channels, but got 64 channels instead\), and takes"):
        fa.gradient(conv, picture.movedim(1, -1), target=1)


def test_a_type_error_of_the_model_is_its_own() -> None:
    def model(x: Tensor) -> Tensor:
        return x + None

    with pytest.raises(TypeError, match="unsupported operand"):
        fa.gradient(model, torch.randn(2, 3), target=1)


def jagged(y: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(y), layout=torch.jagged)


PACKED: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse (torch.sparse_coo)": lambda y: y.to_sparse(),
    "sparse (torch.sparse_csr)": lambda y: y.to_sparse_csr(),
    "nested": lambda y: torch.nested.nested_tensor(list(y)),
    **({"nested, jagged": jagged} if hasattr(torch, "jagged") else {}),  # since torch 2.1
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("method", [fa.gradient, fa.integrated_gradients, fa.feature_ablation])
@pytest.mark.filterwarnings("ignore")  # torch's, of prototypes
def test_an_output_of_which_entries_cannot_be_taken_is_told_so(method: Any, kind: str) -> None:
    line = nn.Linear(4, 3)
    model, x = Runs(line, PACKED[kind]), torch.randn(3, 4)
    for target in (None, 1, (1,)):
        with pytest.raises(ValueError, match=re.escape(f"the model's output is {kind.partition(',')[0]}, of which")):
            method(model, x, target=target)
    if kind.startswith("sparse"):
        dense = fa.gradient(model, x, target=lambda output: output.to_dense()[:, 1])
        torch.testing.assert_close(dense, fa.gradient(line, x, target=1))


class Runs(nn.Module):
    """A layer, and a function after it."""

    def __init__(self, layer: nn.Module, after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.after = layer, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.layer(x))
