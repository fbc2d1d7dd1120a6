"""Every method under torch.compile, vmap, and differentiated again: equal to the eager, looped, plain result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import funattr as fa

from . import reference
from .breadth import breadth, full
from .close import close
from .methods import METHODS, Row, fits, row_id, seed
from .models import CASES, SPELLINGS, Case, Residual, Text, double

TARGET = torch.tensor([1, 4, 0, 2])


def sites_of(row: Row, case: Case) -> list[Any]:
    sites: list[Any] = [site for site in case.layers if row.at_layer]
    if row.convolutional:
        sites = [site for site in sites if site not in (fa.input_of("fc"),)]
    if row.at_input and case.name != "text":
        sites.append(None)
    return sites


def options_of(row: Row, target: torch.Tensor) -> dict[str, Any]:
    return row.options | ({"target": target} if row.targeted else {})


PAIRS = [(case, row) for case in CASES for row in METHODS if fits(row, case)]
by_pair = pytest.mark.parametrize(("case", "row"), PAIRS, ids=[f"{case.name}-{row.name}" for case, row in PAIRS])


#: One pair per method, and one per net: compiling all of them takes too long.
COMPILED = [(case, row) for case, row in PAIRS if case.name == "residual" or row.name == "input_x_gradient"]
#: torch.compile refuses nn.LSTM by itself, whatever is asked of it.
COMPILED = [(case, row) for case, row in COMPILED if case.name != "recurrent"]


#: Of these, one of each kind runs always.
ALWAYS = {
    ("residual", name)
    for name in ("grad_cam", "guided_backprop", "integrated_gradients", "gradient_shap", "relu(gradient)", "input_x_gradient")
} | {("writes", "input_x_gradient")}


def always(pair: tuple[Case, Row]) -> bool:
    return (pair[0].name, pair[1].name) in ALWAYS


@pytest.mark.parametrize(
    ("case", "row"), breadth(COMPILED, always, several=True), ids=[f"{case.name}-{row.name}" for case, row in COMPILED]
)
def test_compiled_equals_eager(case: Case, row: Row) -> None:
    model, x = double(case)
    more = tuple(part.flip(0) for part in x) if isinstance(x, tuple) else x.flip(0)
    before = state(model)
    sites = sites_of(row, case)
    for site in [sites[0], sites[-1]] if row.name != "input_x_gradient" else sites:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(row.method, fullgraph=True, backend=counter)
        eager = row.method(model, x, layer=site, **options_of(row, TARGET))
        seed()
        close(compiled(model, x, layer=site, **options_of(row, TARGET)), eager)
        # Other data, another target: the same graph.
        eager = row.method(model, more, layer=site, **options_of(row, TARGET.flip(0)))
        seed()
        close(compiled(model, more, layer=site, **options_of(row, TARGET.flip(0))), eager)
        assert counter.frame_count == 1
    assert state(model) == before


def state(model: torch.nn.Module) -> Any:
    """Everything of the model that a call might leave changed."""
    return [
        (
            sorted(module.__dict__),
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            dict(module._forward_pre_hooks_with_kwargs),  # type: ignore[call-overload]
            module.training,
            [(p.requires_grad, p.grad, p._version, p.sum().item()) for p in module.parameters(recurse=False)],
            [(b._version, b.sum().item()) for b in module.buffers(recurse=False)],
        )
        for module in model.modules()
    ]


@pytest.mark.parametrize("spelling", breadth(SPELLINGS, lambda spelling: spelling == "mixed"))
def test_compiled_rules_meet_every_spelling_of_relu(spelling: str) -> None:
    model, x = Residual(spelling).double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for method in (fa.guided_backprop, fa.deconvnet):
        torch._dynamo.reset()
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, x, target=1), method(model, x, target=1))


AGAIN = [fa.guided_backprop, fa.deconvnet, fa.input_x_gradient, fa.guided_grad_cam, fa.integrated_gradients, fa.deep_lift]


@pytest.mark.parametrize("method", breadth([*AGAIN, fa.feature_ablation], lambda m: m in (fa.guided_backprop, fa.deep_lift)))
def test_compiled_results_can_be_differentiated(method: Any) -> None:
    """Second derivatives through a compiled method: where Dynamo's own autograd.Function goes wrong."""
    model, x = double(CASES[2])

    def slope(method: Any) -> Any:
        leaf = x.clone().requires_grad_()
        found = method(model, leaf, layer="layer1", target=TARGET, create_graph=True)
        return torch.autograd.grad(found.square().sum(), leaf)[0]

    close(slope(torch.compile(method, fullgraph=True, backend="aot_eager")), slope(method))


@full
def test_compiled_with_inductor() -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.guided_grad_cam, fullgraph=True)
    close(compiled(model, x, layer="layer1", target=TARGET), fa.guided_grad_cam(model, x, layer="layer1", target=TARGET), 1e-8)


TARGETS = [3, (3,), [3, 0, 0, 1], torch.tensor([2]), "argmax", fa.neuron("layer2", (1, 2, 2)), lambda y: y[:, 0]]


@pytest.mark.parametrize("target", breadth(TARGETS, lambda target: isinstance(target, (str, type(fa.neuron("layer2", 1))))))
def test_compiled_targets(target: Any) -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="stem", target=target), fa.gradient(model, x, layer="stem", target=target))


def test_compiled_on_several_layers_and_a_composition() -> None:
    model, x = double(CASES[2])
    sites = {"a": ["stem", None], "b": fa.input_of("layer2")}
    own = fa.multiply(fa.relu(fa.gradient), fa.input_x_gradient)
    for method in (fa.input_x_gradient, own):
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, x, layer=sites, target=1), method(model, x, layer=sites, target=1))


def test_compiled_value_and_gradient_and_split() -> None:
    model, x = double(CASES[2])
    compiled = torch.compile(fa.value_and_gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="layer1", target=1), fa.value_and_gradient(model, x, layer="layer1", target=1))

    def own(model: Any, x: Any) -> Any:
        value_at, rest = fa.split(model, "layer1")
        value = value_at(x)
        return torch.func.grad(lambda v: fa.score(rest(v, x), 1).sum())(value) * value

    compiled_own = torch.compile(own, fullgraph=True, backend="aot_eager")
    close(compiled_own(model, x), fa.input_x_gradient(model, x, layer="layer1", target=1))


def mapped_text() -> tuple[Text, torch.Tensor, torch.Tensor]:
    return Text().double().eval(), torch.randint(0, 20, (4, 7)), torch.rand(4, 7, dtype=torch.float64)


def bound() -> tuple[Any, Any, dict[str, Any]]:
    text, ids, mask = mapped_text()
    return functools.partial(text, mask=mask), ids, {"layer": "mix"}


def by_keyword() -> tuple[Any, Any, dict[str, Any]]:
    text, ids, mask = mapped_text()
    return text, {"ids": ids, "mask": mask}, {"layer": "mix"}


def functional() -> tuple[Any, Any, dict[str, Any]]:
    net, x = double(CASES[2])
    parameters: dict[str, Any] = dict(net.named_parameters())
    return functools.partial(torch.func.functional_call, net, parameters), x, {"layer": "layer1"}


def wrapped(wrap: Callable[[Any], Any], layer: Callable[[Any], Any] = lambda net: "layer1") -> Callable[[], Any]:
    def kind() -> tuple[Any, Any, dict[str, Any]]:
        net, x = double(CASES[2])
        return wrap(net), x, {"layer": layer(net)}

    return kind


def two_inputs() -> tuple[Any, Any, dict[str, Any]]:
    return *double(next(case for case in CASES if case.name == "two")), {}


#: Each way to hand over a model, and an input in each form.
KINDS: dict[str, Callable[[], tuple[Any, Any, dict[str, Any]]]] = {
    "bound": bound,
    "by keyword": by_keyword,
    "functional": functional,
    "compiled": wrapped(lambda net: torch.compile(net, backend="eager")),
    "data parallel": wrapped(torch.nn.DataParallel),
    "lambda": wrapped(lambda net: lambda v: net(v), lambda net: net.layer1),
    "method": wrapped(lambda net: net.forward),
    "two inputs": two_inputs,
}


@pytest.mark.parametrize("kind", breadth(KINDS, lambda kind: kind in ("bound", "functional")))
def test_compiled_models_of_every_kind(kind: str) -> None:
    model, given, options = KINDS[kind]()
    for method in (fa.input_x_gradient, functools.partial(fa.integrated_gradients, n_steps=3)):
        torch._dynamo.reset()
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        close(compiled(model, given, target=1, **options), method(model, given, target=1, **options))


@full
def test_compiled_path_methods_twice_in_one_graph_and_with_another_number_of_steps() -> None:
    model, x = double(CASES[2])

    def both(model: Any, x: Any, n: int) -> Any:
        path = fa.integrated_gradients(model, x, target=1, n_steps=n)
        return path - fa.conductance(model, x, layer="layer1", target=1, n_steps=4).sum()

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for n in (5, 7, 3):
        close(compiled(model, x, n), both(model, x, n))


def test_compiled_with_other_hooks_on_the_layer() -> None:
    model, x = double(CASES[2])
    handle = model.layer1.register_forward_hook(lambda module, args, output: output * 2)  # type: ignore[union-attr,operator]
    eager = fa.input_x_gradient(model, x, layer="layer1", target=TARGET)
    compiled = torch.compile(fa.input_x_gradient, fullgraph=True, backend="aot_eager")
    close(compiled(model, x, layer="layer1", target=TARGET), eager)
    handle.remove()
    torch._dynamo.reset()
    assert not torch.allclose(fa.input_x_gradient(model, x, layer="layer1", target=TARGET), eager)


@by_pair
def test_vmapped_equals_looped(case: Case, row: Row) -> None:
    if case.name in ("recurrent", "masked"):
        pytest.skip("torch has no batching rule for fused LSTMs and nested tensors: the model itself cannot be vmapped")
    model, x = double(case)
    several = isinstance(x, tuple)
    sites = sites_of(row, case)
    for site in (sites[0], sites[-1]):

        def alone(*parts: Any, site: Any = site) -> Any:
            *inputs, target = (part.unsqueeze(0) for part in parts)
            found = row.method(model, tuple(inputs) if several else inputs[0], layer=site, **options_of(row, target))
            return [leaf[0] if leaf.shape[0] == 1 else leaf[:, 0] for leaf in reference.leaves(found)]

        parts = (*(x if several else (x,)), TARGET)
        in_one = torch.func.vmap(alone, randomness="same")(*parts)
        looped = [alone(*example) for example in zip(*parts)]
        close(in_one, [torch.stack(leaves) for leaves in zip(*looped)])


@by_pair
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # an LSTM, nested tensors: vmap cannot
def test_differentiable(case: Case, row: Row) -> None:
    """With create_graph, by backward() and by torch.func.grad, against second derivatives of the plain reference."""
    if case.name == "text":
        pytest.skip("integers in: there is nothing to differentiate by")
    model, x = double(case)
    inputs = x if isinstance(x, tuple) else (x,)
    for site in sites_of(row, case)[:: max(1, len(sites_of(row, case)) - 1)]:

        def total(*inputs: Any, site: Any = site) -> Any:
            given = inputs if isinstance(x, tuple) else inputs[0]
            found = row.method(model, given, layer=site, create_graph=True, **options_of(row, TARGET))
            return sum(leaf.square().sum() for leaf in reference.leaves(found))

        leaves = tuple(part.clone().requires_grad_() for part in inputs)
        by_backward = gradients(total(*leaves), leaves)
        by_func = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*inputs)
        close(by_backward, by_func)
        # A directional derivative by central differences knows nothing of autograd.
        direction = [torch.randn_like(part) for part in inputs]
        step = 1e-5
        ahead = total(*(part + step * d for part, d in zip(inputs, direction)))
        behind = total(*(part - step * d for part, d in zip(inputs, direction)))
        slope = sum((g * d).sum() for g, d in zip(by_func, direction))
        torch.testing.assert_close(slope, ((ahead - behind) / (2 * step)).detach(), rtol=1e-4, atol=1e-6)


def gradients(total: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Plain autograd, with zeros for what is not used."""
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in zip(leaves, found)]


def plain_attention() -> Any:
    """Attention in operations that have second derivatives."""
    if hasattr(torch.nn, "attention"):  # since torch 2.3
        return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)  # for the CPU, too


def test_differentiable_in_the_parameters() -> None:
    """functional_call with create_graph: an attribution prior's gradient, against plain double backward."""
    model, x = double(CASES[4])
    parameters = dict(model.named_parameters())

    def prior(parameters: dict[str, Any]) -> Any:
        called = functools.partial(torch.func.functional_call, model, parameters)
        return fa.gradient(called, x, layer="embed", target=TARGET, create_graph=True).square().sum()

    found = torch.func.grad(prior)(parameters)
    with plain_attention():
        value = model.embed(x)  # type: ignore[operator]
        rest = fa.split(model, "embed").rest
        slope = torch.autograd.grad(reference.pick(TARGET)(rest(value, x)).sum(), value, create_graph=True)[0]
        expected = gradients(slope.square().sum(), list(parameters.values()))
    close(found, expected)
    assert any(bool(g.abs().max() > 0) for g in expected)


def test_constant_results_pin_no_graph() -> None:
    model, x = double(CASES[2])
    x.requires_grad_()
    for row in METHODS:
        found = row.method(model, x, layer="layer1", **options_of(row, TARGET))
        assert all(not leaf.requires_grad and leaf.grad_fn is None for leaf in reference.leaves(found)), row.name
    # A constant for torch.func.grad as well.
    slope = torch.func.grad(lambda x: fa.gradient(model, x, layer="layer1", target=1).square().sum())(x.detach())
    assert not slope.any()


def test_nested_transforms() -> None:
    """vmap of grad of an attribution, and forward over it."""
    model, x = double(CASES[0])

    def total(x: Any) -> Any:
        return fa.input_x_gradient(model, x[None], layer="act2", target=2, create_graph=True).square().sum()

    in_one = torch.func.vmap(torch.func.grad(total))(x)
    close(in_one, torch.stack([torch.func.grad(total)(example) for example in x]))
    close(torch.func.vmap(torch.func.jacfwd(total))(x), in_one)


@pytest.mark.parametrize("row", METHODS, ids=row_id)
def test_inside_no_grad(row: Row) -> None:
    model, x = double(CASES[2])
    for site in ("layer1", None) if row.at_input else ("layer1",):
        expected = row.method(model, x, layer=site, **options_of(row, TARGET))
        with torch.no_grad():
            close(row.method(model, x, layer=site, **options_of(row, TARGET)), expected, 0.0)
