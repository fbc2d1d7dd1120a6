"""What a model writes behind the graph's back, where sums are promised: it is said. And values written through views, where the
sums hold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funattr as fa

from ..close import close

D = 4


class Net(nn.Module):
    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.does = nn.Linear(D, D).double(), nn.Linear(D, 2).double(), does

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.does(self.first(x))))


def after(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def does(h: Tensor) -> Tensor:
        write(h)
        return h

    return does


def assigned(h: Tensor) -> None:
    h.data = h.data * 2


def of_numpy(h: Tensor) -> None:
    h.detach().numpy()[...] *= 2


def hooked(h: Tensor, factor: float = 2.0) -> None:
    if h.requires_grad:
        h.register_hook(lambda g: g * factor)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda h: h.data.mul_(2),
    "part of data": lambda h: h.data[:, :2].mul_(2),
    "detach": lambda h: h.detach().mul_(2),
    "no_grad": torch.no_grad()(lambda h: h.mul_(2)),
    "item of data": lambda h: h.data.__setitem__((slice(None), 0), 3.0),
    "assigned": assigned,
    "numpy": of_numpy,
    "hook": hooked,
}
KEPT: dict[str, Callable[[Tensor], Any]] = {
    "of a copy": lambda h: h.detach().clone().mul_(2),
    "data that is read": lambda h: h.data.abs().sum(),
    "numpy that reads": lambda h: h.detach().numpy().sum(),
    "a hook that looks": lambda h: hooked(h, 1.0),
    "in the graph": lambda h: h.mul_(2),
    "numpy, and then the graph": lambda h: (h.detach().numpy().sum(), h.mul_(2)),
    "a table": torch.no_grad()(lambda h: torch.zeros_like(h).copy_(h)),
}


def said(method: Any, does: Callable[[Tensor], Any], layer: Any) -> list[str]:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        method(Net(after(does)), torch.randn(3, D).double(), layer=layer, target=0)
    return [str(warning.message) for warning in met]


def lifted(*given: Any, **asked: Any) -> Any:
    return fa.deep_lift(*given, baselines=0.0, **asked)


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", WRITES)
def test_it_is_said_once(name: str, layer: Any) -> None:
    (text,) = said(lifted, WRITES[name], layer)
    assert "miss the difference of the scores" in text
    (text,) = said(fa.lrp, WRITES[name], layer)
    assert "relevance does not sum to the score" in text


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", KEPT)
def test_nothing_is_said_of_what_changes_nothing(name: str, layer: Any) -> None:
    assert said(lifted, KEPT[name], layer) == []
    assert said(fa.lrp, KEPT[name], layer) == []


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice": after(lambda h: h[:, :2].mul_(2)),
    "a slice, augmented": after(lambda h: h.__setitem__((slice(None), slice(2)), h[:, :2] * 2)),
    "one of a view, augmented": after(lambda h: (v := h.view(-1, D)).__setitem__((slice(None), slice(2)), v[:, :2].add_(1))),
    "reshaped, by halves": after(lambda h: h.view(-1, 2, 2)[:, 0].relu_()),
    "a view of a view": after(lambda h: h[:, 1:][:, :2].add_(1)),
    "an attribute": after(lambda h: h.T[:2].add_(1)),
    "a function that returns a view": Same.apply,
}


@pytest.mark.filterwarnings("ignore:operations without a rule keep their gradient")
@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", VIEWS)
def test_what_is_written_through_a_view_is_absorbed(name: str, layer: Any) -> None:
    torch.manual_seed(0)
    net, x = Net(VIEWS[name]), torch.randn(3, D).double()
    kept = fa.absorbed(net, x, layer=layer, target=0, rules=fa.rules.epsilon(0.3))
    relevance = fa.lrp(net, x, layer=layer, target=0, rules=fa.rules.epsilon(0.3))
    close(relevance.sum(1) + sum(kept.values()), net(x)[:, 0])


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(lambda h: self.does(self.first(h)).sin(), x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("method", [fa.gradient, fa.lrp, lifted])
def test_layers_in_a_checkpoint_are_refused_with_the_cure(method: Any) -> None:
    with pytest.raises(ValueError, match=r"no gradient .* torch.utils.checkpoint without use_reentrant=False"):
        method(Checkpointed(after(lambda h: h)), torch.randn(3, D).double(), layer="first", target=0)


def test_a_norm_that_rules_hold_constant_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match="the rules hold it constant: take integrated_gradients") as met:
        fa.lrp(lambda x: torch.linalg.norm(x, dim=1)[:, None], torch.randn(3, D), target=0)
    assert "use_reentrant" in str(met.value)
    with pytest.raises(ValueError, match="no gradient") as met:
        fa.gradient(lambda x: x.detach(), torch.randn(3, D), target=0)
    assert "norm leads" not in str(met.value)


def test_a_cut_softmax_at_the_end_is_refused_with_the_cure() -> None:
    net, x, ids = nn.Linear(D, D).double(), torch.randn(3, 2, D).double(), torch.tensor([[1], [0], [3]])
    with pytest.raises(ValueError, match=r"explain a logit .* fa\.tokens"):
        fa.lrp(net, x, target=fa.log_likelihood(ids), rules=fa.rules.cp_lrp())
    logit, whole = fa.tokens(ids, of="logit")[0], fa.log_likelihood(ids)
    for target, rules in ((logit, {**fa.rules.cp_lrp(), **fa.rules.epsilon()}), (whole, fa.rules.attn_lrp())):
        kept = fa.absorbed(net, x, target=target, rules=rules)
        close(fa.lrp(net, x, target=target, rules=rules).sum((1, 2)) + sum(kept.values()), fa.score(net(x), target), 1e-9)


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return h * torch.tanh(h)


class Weighed(Net):
    """What is made of parameters alone, in whatever way, is nothing unseen."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.nn.functional.normalize(self.first.weight, dim=1)
        return self.last(torch.relu(self.does(x @ weight.t()) + self.first.bias.exp()[None]))


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("runs", [0, 3])  # from the third on, scripted code is compiled
@pytest.mark.parametrize("does", [scripted, torch.func.vmap(torch.tanh)], ids=["scripted", "vmap"])
@pytest.mark.parametrize("method", [fa.lrp, fa.absorbed])
def test_rules_say_what_they_do_not_see_and_go_on_after_it(method: Any, does: Any, runs: int, layer: Any) -> None:
    torch.manual_seed(0)
    model, x = Net(does), torch.randn(3, D).double()
    for _ in range(runs):
        model(x)
    with pytest.warns(UserWarning, match="keep their gradient: code that no rule sees"):
        found = method(model, x, layer=layer, target=0, rules=fa.rules.epsilon(0.5))
    if method is fa.lrp and layer == "first":
        h = model.first(x).detach().requires_grad_()
        made = does(h)
        (slope,) = torch.autograd.grad(made, h, relevance_after(model, made.detach()) / made.detach())
        close(found, h.detach() * slope)


def relevance_after(model: Net, made: Tensor) -> Tensor:
    """The relevance of what the unseen code returned, by the epsilon rule in its letters."""
    a = torch.relu(made)
    z = a @ model.last.weight.t() + model.last.bias
    z0 = z[:, :1]
    relevance: Tensor = a * model.last.weight[:1] * z0 / (z0 + 0.5 * torch.where(z0 < 0, -1.0, 1.0))
    return relevance.detach()


@pytest.mark.parametrize("layer", [None, "last"])
def test_what_is_made_of_parameters_is_seen(layer: Any) -> None:
    model = Weighed(torch.tanh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.lrp(model, torch.randn(3, D).double(), layer=layer, target=0)


def test_with_a_graph_nothing_is_said_of_what_rules_see() -> None:
    model, x = Net(torch.tanh), torch.randn(3, D).double()

    def similar(x: Tensor) -> Tensor:
        z = torch.nn.functional.normalize(model(x), dim=1)
        return z @ z.T

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.lrp(similar, x, target=lambda scores: scores.diagonal(), create_graph=True)


@torch.jit.script
def scripted_relu(h: Tensor) -> Tensor:
    return torch.relu(h * 2) + 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("method", [fa.guided_backprop, fa.deconvnet, fa.each_target(fa.guided_backprop, [0, 1])])
@pytest.mark.parametrize("layer", [None, "first"])
def test_a_relu_in_scripted_code_is_told(method: Any, layer: Any) -> None:
    x = torch.randn(3, D).double()
    asked = {} if "each_target" in method.__name__ else {"target": 1}
    for _ in range(4):  # scripted code is another one from the third run on
        with pytest.warns(UserWarning, match="code that no rule sees .*: a ReLU in there"):
            method(Net(scripted_relu), x, layer=layer, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(Net(lambda h: torch.relu(h * 2).clamp(min=0.5) + torch.relu(torch.ones(D).double())), x, layer=layer, **asked)
        if layer is not None:
            method(Net(scripted_relu), x, layer="last", **asked)  # it lies before


LIBRARY = torch.library.Library("funattr_tests", "DEF")
LIBRARY.define("tanh(Tensor x) -> Tensor")
LIBRARY.impl("tanh", lambda x: x * x.sigmoid(), "CompositeImplicitAutograd")


def test_a_librarys_operation_is_not_torchs_of_that_name() -> None:
    """It keeps its own gradient, which is said: no rule of torch's operation is for it."""
    ops: Any = torch.ops
    x, told = torch.randn(3, D).double(), "keep their gradient: funattr_tests.tanh.* no rule can be for funattr_tests.tanh"
    for tanh in (ops.funattr_tests.tanh, ops.funattr_tests.tanh.default):
        model = Net(tanh)
        for method, text in ((fa.deep_lift, "funattr_tests.tanh.* is not linear and DeepLIFT has no rule"), (fa.lrp, told)):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = method(model, x, target=1)
            assert any(re.search(text, str(each.message)) for each in said)
        h = model.first(x)
        swish = h * h.sigmoid()
        slope = h.sigmoid() * (1 + h * (1 - h.sigmoid()))
        wanted = x * (((swish > 0) * model.last.weight[1] * slope) @ model.first.weight)
        close(found, wanted.detach(), 1e-4)  # epsilon aside


def test_rules_where_a_part_runs_again() -> None:
    """A ReLU's zeros before an activation in a checkpoint: words, and no error of torch's."""
    part = partial(checkpoint, torch.tanh, use_reentrant=False)
    with pytest.raises(ValueError, match=r"torch\.utils\.checkpoint.*where rules cannot be"):
        fa.lrp(Net(lambda h: part(torch.relu(h))), torch.randn(3, D).double(), target=1)


@pytest.mark.parametrize("does", [scripted, torch.func.vmap(torch.tanh)], ids=["scripted", "vmap"])
@pytest.mark.parametrize("method", [fa.lrp, fa.absorbed])
def test_what_made_the_output_is_told_too(method: Any, does: Any) -> None:
    """No operation of the model is given its output."""
    for name, told in (("activation", "keep their gradient: code that no rule sees"), ("linear", "is not known, and")):
        rules = {name: fa.rules.epsilon()[name], "linear": fa.rules.epsilon()["linear"]}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            method(lambda x: does(Net(torch.tanh)(x)), torch.randn(3, D).double(), target=0, rules=rules)
        assert any(told in str(each.message) for each in said) is (name == "activation" or method is fa.absorbed)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Multiplied(Scaled):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h @ torch.eye(D).double()


class OfNumpy(Scaled):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return torch.from_numpy(h.detach().numpy() * 1)


def handed_on(h: Tensor) -> Tensor:
    return Same.apply(h * 1)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types for apply


def behind(does: Callable[[Tensor], Tensor]) -> nn.Module:
    """A network before which something runs."""
    torch.manual_seed(0)
    net = Net(torch.tanh)
    net.first.register_forward_pre_hook(lambda module, args: (does(args[0]),))
    return net


RULES_FIRST = {"alone": fa.rules.flat(), "beside others": {**fa.rules.gamma(), **fa.rules.zbox(-3.0, 3.0)}}


@pytest.mark.filterwarnings("ignore:operations without a rule keep their gradient", "ignore:.*is not known, and relevance")
@pytest.mark.parametrize("rules", RULES_FIRST.values(), ids=RULES_FIRST)
@pytest.mark.parametrize("method", [fa.lrp, lambda *given, **asked: sum(fa.absorbed(*given, **asked).values())])
def test_the_first_layer_behind_a_function_of_somebodys_own(rules: Any, method: Any) -> None:
    """What is no layer itself leaves it the first, as x * 1 does; so do hooks on the backward pass, of the layer itself."""
    x = torch.randn(3, D).double()
    wanted = method(behind(lambda h: h * 1), x, target=0, rules=rules)
    hooked = behind(lambda h: h * 1)
    hooked.first.register_full_backward_hook(lambda module, into, out: None)
    for net in (behind(Scaled.apply), behind(Same.apply), behind(handed_on), hooked):
        close(method(net, x, target=0, rules=rules), wanted, 1e-10)


@pytest.mark.filterwarnings("ignore:operations without a rule keep their gradient")
@pytest.mark.parametrize("does", [Multiplied.apply, OfNumpy.apply, scripted])
def test_a_first_layer_that_nobody_sees_is_told(does: Any) -> None:
    x, told = torch.randn(3, D).double(), "stands before all layers that rules meet, and may hold the first"
    with pytest.warns(UserWarning, match=told):
        fa.lrp(behind(does), x, target=0, rules=RULES_FIRST["beside others"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fa.lrp(Net(does), x, target=0, rules=RULES_FIRST["beside others"])  # after the first layer
        fa.lrp(behind(does), x, target=0, layer="first", rules=fa.rules.gamma())
    assert not any(told in str(each.message) for each in said)


@pytest.mark.filterwarnings("ignore:None of the inputs", "ignore:operations without a rule", "ignore:.*is not known, and")
@pytest.mark.parametrize("rules", [fa.rules.epsilon_plus(), fa.rules.zplus()], ids=["epsilon_plus", "zplus"])
def test_what_reaches_no_layer_is_not_absorbed(rules: Any) -> None:
    """As lrp says it: torch's own error came, or the score as what some operation keeps."""
    x, last = torch.randn(3, D).double(), nn.Linear(D, D).double()
    again = partial(checkpoint, torch.tanh, use_reentrant=True)
    for does, told in (
        (lambda h: torch.softmax(last(h.detach()), 1), "no gradient with respect to"),
        (again, "pass use_reentrant=False"),
    ):
        for method in (fa.lrp, fa.absorbed):
            with pytest.raises(ValueError, match=told):
                method(Net(does), x, target=0, layer="first", rules=rules)


@torch.no_grad()
def test_absorbed_where_no_gradient_is_asked_for() -> None:
    x, net = torch.randn(3, D).double(), Net(torch.tanh)
    total = sum(fa.absorbed(net, x, target=0).values()) + fa.lrp(net, x, target=0).sum(1)
    close(total, net(x)[:, 0], 1e-12)


class Ignores(torch.autograd.Function):
    """Says of its second input that nothing flows back to it."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a + b * 0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@pytest.mark.filterwarnings("ignore:operations without a rule")
@pytest.mark.parametrize("rules", [fa.rules.epsilon(), fa.rules.epsilon_plus()])
def test_a_function_that_hands_nothing_back(rules: dict[Any, Any]) -> None:
    first, second, last = (nn.Linear(D, D).double() for _ in range(3))
    x = torch.randn(3, D, dtype=torch.float64)
    run: Any = Ignores.apply
    found = fa.lrp(lambda x: last(run(first(x), second(x)).tanh()), x, target=1, rules=rules)
    close(found, fa.lrp(lambda x: last(first(x).tanh()), x, target=1, rules=rules), 1e-12)
