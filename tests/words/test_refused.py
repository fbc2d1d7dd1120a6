"""What is no dense tensor of real numbers, and generators of another library: refused in words, by every function alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

NET = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
X = torch.linspace(-1, 1, 24).reshape(4, 6)

#: Every kind of method and combinator, at the input.
AT_INPUT: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "input_x_gradient": fa.input_x_gradient,
    "value_and_gradient": fa.value_and_gradient,
    "integrated_gradients": fa.integrated_gradients,
    "conductance": fa.conductance,
    "deep_lift": fa.deep_lift,
    "feature_ablation": fa.feature_ablation,
    "noise_tunnel": fa.noise_tunnel(fa.gradient),
    "each_target": lambda model, x, target: fa.each_target(fa.gradient, [target])(model, x),
    "relu": fa.relu(fa.gradient),
    "gradient_shap": lambda *args, **options: fa.gradient_shap(*args, baselines=0.0, **options),
    "deep_lift_shap": lambda *args, **options: fa.deep_lift_shap(*args, baselines=X, **options),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", AT_INPUT)
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_inputs(name: str, layout: str) -> None:
    sparse = X.to_sparse() if layout == "coo" else X.to_sparse_csr()
    for x in (sparse, (X, sparse), {"a": sparse}):
        with pytest.raises(TypeError, match=rf"x is a sparse tensor \(torch.sparse_{layout}\).*to_dense"):
            AT_INPUT[name](lambda a, b=None: NET(a), x, target=1)
    assert not torch.equal(AT_INPUT["gradient"](NET, sparse.to_dense(), target=1), X)  # the cure cures


def test_a_sparse_tensor_that_is_no_input_is_bound() -> None:
    adjacency = torch.eye(4).to_sparse()
    found = fa.gradient(lambda x: torch.sparse.mm(adjacency, x)[:, 1], X)
    assert torch.equal(found, torch.eye(6)[1].expand(4, 6))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_inputs() -> None:
    nested = torch.nested.nested_tensor([torch.randn(2, 6), torch.randn(3, 6)])
    with pytest.raises(TypeError, match=r"x is a nested tensor: pass it padded, with \.to_padded_tensor"):
        fa.gradient(lambda x: NET(x).sum((1, 2)), nested)
    assert fa.gradient(lambda x: NET(x).sum((1, 2)), nested.to_padded_tensor(0.0)).shape == (2, 3, 6)


@pytest.mark.skipif(torch.__version__ < "2.5", reason="torch before cannot go back through their unbind")
def test_jagged_inputs() -> None:
    rows = [torch.randn(2, 6), torch.randn(3, 6)]
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)

    def model(x: Any) -> Tensor:
        return torch.stack([NET(t).sum(0) for t in x.unbind()])

    found: Any = fa.gradient(model, jagged, target=1)
    for part, row in zip(found.unbind(), rows):
        assert torch.allclose(part, fa.gradient(lambda x: NET(x[0]).sum(0)[None], row[None], target=1)[0])
    for method in (fa.integrated_gradients, fa.conductance, fa.deep_lift, fa.feature_ablation, fa.noise_tunnel(fa.saliency)):
        with pytest.raises(TypeError, match=r"x is a nested tensor: pass it padded"):  # what they put in is for each place
            method(model, jagged, target=1)
    with pytest.raises(TypeError, match=r"the attribution is a nested tensor: pass it padded"):
        fa.each_target(fa.gradient, [0, 1])(model, jagged)


@pytest.mark.parametrize("method", [fa.integrated_gradients, fa.deep_lift_shap, fa.gradient_shap, fa.feature_ablation])
def test_sparse_baselines_and_masks(method: Any) -> None:
    with pytest.raises(TypeError, match="baselines is a sparse tensor"):
        method(NET, X, baselines=X.to_sparse(), target=1)
    with pytest.raises(TypeError, match="feature_mask is a sparse tensor"):
        fa.feature_ablation(NET, X, feature_mask=torch.arange(6).to_sparse(), target=1)


class Sparse(nn.Module):
    """A layer whose value is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Identity(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.inner(x.to_sparse()), self.head.weight.t())


def test_sparse_values_at_a_layer() -> None:
    for method in (fa.feature_ablation, fa.integrated_gradients):
        with pytest.raises(TypeError, match="the value at layer 'inner' is a sparse tensor"):
            method(Sparse(), X, layer="inner", target=1)
    model = Sparse()  # a gradient has no need of zeros
    assert torch.allclose(fa.gradient(model, X, layer="inner", target=1).to_dense(), model.head.weight[1].expand(4, 6))


# Generators.


@pytest.mark.parametrize(
    ("generator", "told"),
    [
        (np.random.default_rng(0), r"got Generator Generator\(PCG64\).* of numpy"),
        (np.random.RandomState(0), r"got RandomState .* of numpy"),
        (3, "got int 3"),
    ],
)
def test_generators_are_torchs(generator: Any, told: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: fa.gradient_shap(NET, X, baselines=0.0, target=1, generator=generator),
        lambda: fa.noise_tunnel(fa.gradient, generator=generator),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"generator must be a torch\.Generator or None, {told}: pass torch\.Generator"):
            call()


class Picks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, [0, 1, 2]] ** 2


ALONE: dict[str, tuple[nn.Module, Tensor]] = {
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        torch.rand(3, 8, 8),
    ),
    "batch norm": (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3)).eval(), torch.rand(3, 8, 8)),
    "one dimension": (nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(24, 3)), torch.rand(1, 8)),
    "an index of the model's own": (Picks(), torch.rand(5)),
}


@pytest.mark.parametrize("name", ALONE)
def test_one_example_without_a_batch_dimension(name: str) -> None:
    """Torch's error says nothing of the batch; that the model takes ``x[None]`` is shown by running it."""
    model, x = ALONE[name]
    with pytest.raises(ValueError, match=r"saliency\(target=1\): .*pass x\[None\]"):
        fa.saliency(model, x, target=1)
    assert fa.saliency(model, x[None], target=1).shape == (1, *x.shape)


def test_an_error_of_the_model_stays_what_it_is() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match=r"^the disk is full$"):
        fa.saliency(Fails(), X, target=1)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):  # neither x nor x[None] fits
        fa.saliency(NET, torch.rand(2, 5), target=1)


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("rules", [fa.rules.epsilon(), fa.rules.guided()], ids=["epsilon", "guided"])
def test_rules_around_rules(layer: str | None, rules: Any) -> None:
    """One set held here and the other there, and others when compiled."""
    own = fa.lrp, fa.guided_backprop, fa.deconvnet, fa.deep_lift, fa.under(fa.rules.attn_lrp())(fa.gradient)
    for method in (*own, lambda *args, **options: fa.deep_lift_shap(*args, baselines=X, **options)):
        with pytest.raises(ValueError, match=r"with rules of its own .* cannot be under others, too: merge the sets"):
            fa.under(rules)(method)(NET, X, layer=layer, target=1)
    merged = {**fa.rules.attn_lrp(), **rules}
    assert (
        fa.under(merged)(fa.gradient)(nn.Sequential(*NET, nn.ReLU()), X, layer=layer, target=1).shape[0] == 4
    )  # the cure cures
    assert torch.equal(fa.under({})(fa.lrp)(NET, X, layer=layer, target=1), fa.lrp(NET, X, layer=layer, target=1))


@pytest.mark.parametrize("name", ["integrated_gradients", "feature_ablation", "deep_lift", "gradient_shap"])
def test_arguments_without_numbers(name: str) -> None:
    """Torch's words came for what is on the meta device, is nested or sparse."""
    method: Any = getattr(fa, name)
    numbers, classes = torch.zeros(1, 6, device="meta"), torch.tensor([0, 1, 2, 0])
    given: list[tuple[str, Any, type[Exception]]] = [
        ("baselines", numbers, ValueError),
        ("baselines", (torch.nested.nested_tensor([X[0]])), TypeError),
        ("target", classes.to("meta"), ValueError),
        ("target", classes.to_sparse(), TypeError),
    ]
    if name == "feature_ablation":
        given.append(("feature_mask", numbers.long(), ValueError))
    for argument, value, kind in given:
        options = {"target": 1, "baselines": X[:1], argument: value}
        with pytest.raises(kind, match=rf"^{name}\(.*\): {argument} is "):
            method(NET, X, **options)
    with pytest.raises(TypeError, match="an attribution is a sparse tensor"):
        fa.convergence_delta(X.to_sparse(), NET, X, target=1)


HUGE = 10**40  # torch has integers of 63 bits
M = fa.metrics
OF_HUGE: dict[str, Callable[[], Any]] = {
    "chunk_size": lambda: fa.integrated_gradients(NET, X, target=1, chunk_size=HUGE),
    "n_steps": lambda: fa.conductance(NET, X, target=1, n_steps=HUGE),
    "n_samples": lambda: fa.lime(NET, X, target=1, n_samples=HUGE),
    "baselines": lambda: fa.feature_ablation(NET, X, target=1, baselines=HUGE),
    "feature_mask": lambda: fa.feature_ablation(NET, X, target=1, feature_mask=HUGE),
    "target": lambda: fa.gradient(NET, X, target=HUGE),
    "targets": lambda: fa.gradient(NET, X, target=[HUGE, 1, 1, 1]),
    "each_target": lambda: fa.each_target(fa.gradient, range(HUGE, HUGE + 2))(NET, X),
    "noise": lambda: fa.noise_tunnel(fa.gradient, n_samples=HUGE),
    "radius": lambda: M.sensitivity_max(fa.gradient, NET, X, target=1, radius=HUGE),
    "perturb": lambda: M.infidelity(X, NET, X, target=1, perturb=HUGE),
    "answer": lambda: fa.log_likelihood([HUGE]),
    "ignore_index": lambda: fa.tokens([1], ignore_index=HUGE),
    "contrast": lambda: fa.contrast(1, HUGE),
    "groups": lambda: fa.sum_groups(fa.gradient, [HUGE, 1, 1]),
    "examples": lambda: fa.by_examples(fa.gradient, [0, 1 << 40]),
    "size": lambda: fa.interpolate(X[None], (HUGE,)),
    "long": lambda: fa.gradient(NET, X, target=10**5000),  # which Python does not write
}


@pytest.mark.parametrize("name", OF_HUGE)
def test_integers_that_torch_has_not(name: str) -> None:
    """An OverflowError, or torch's "Overflow when unpacking long long", came."""
    with pytest.raises(ValueError, match=r"\): .*(out of range|number them in a row)"):
        OF_HUGE[name]()


def test_numbers_of_numpy_are_numbers() -> None:
    """A mean of an array, or one of `np.arange`, was refused."""
    flag: Any = np.False_
    for given, plain in [(np.float32(0.5), 0.5), (np.int64(1), 1), (np.float16(0.25), 0.25)]:
        found = fa.feature_ablation(NET, X, target=np.int64(1), baselines=given, chunk_size=np.int8(3), create_graph=flag)
        assert torch.equal(found, fa.feature_ablation(NET, X, target=1, baselines=plain, chunk_size=3))
        assert torch.equal(
            M.deletion(X, NET, X, target=1, baselines=given, steps=np.uint8(3)),
            M.deletion(X, NET, X, target=1, baselines=plain, steps=3),
        )
    some: Any = fa.noise_tunnel(
        fa.gradient, n_samples=np.int32(2), stdevs=np.float32(0.5), generator=torch.Generator().manual_seed(0)
    )
    others: Any = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(some(NET, X, target=1), others(NET, X, target=1))
    one: Any = np.array(1)
    assert torch.equal(fa.gradient(NET, X, target=one), fa.gradient(NET, X, target=1))


def test_what_torch_has_no_words_for() -> None:
    """Its own words came."""
    for call in (
        lambda: M.sensitivity_max(fa.gradient, NET, X, target=1, norm=X),  # type: ignore[arg-type]  # on purpose
        lambda: fa.log_likelihood([1], shift=torch.zeros(2)),  # type: ignore[arg-type]  # on purpose
        lambda: fa.log_likelihood([1], reduction=np.zeros(2)),  # type: ignore[arg-type]  # on purpose
        lambda: fa.tokens([1], of=np.zeros(2)),  # type: ignore[arg-type]  # on purpose
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
    sparse, answer = torch.tensor([1, 0]).to_sparse(), torch.tensor([1], device="meta")
    of_sparse: list[Callable[[], Any]] = [
        lambda: M.agreement(X.to_sparse(), X),
        lambda: M.deletion(X.to_sparse(), NET, X, target=1),
        lambda: fa.each_target(fa.gradient, [sparse]),
        lambda: fa.sum_groups(fa.gradient, sparse),
        lambda: fa.log_likelihood(sparse),
    ]
    for call in of_sparse:
        with pytest.raises(TypeError, match="is a sparse tensor"):
            call()
    without: list[Callable[[], Any]] = [
        lambda: fa.each_target(fa.gradient, [answer, answer])(NET, X),
        lambda: fa.score(X, answer),
        lambda: fa.sum_groups(fa.gradient, answer),
        lambda: fa.log_likelihood(answer)(torch.rand(1, 3, 5)),
        lambda: fa.contrast(answer, 2)(torch.rand(1, 3, 5)),
    ]
    for call in without:
        with pytest.raises(ValueError, match="on the meta device"):
            call()
    assert fa.log_likelihood(answer)(torch.rand(1, 3, 5, device="meta")).is_meta
    for wrong in (int, max, partial(max)):
        with pytest.raises(TypeError, match=r"expected a method such as fa\.gradient, got"):
            fa.relu(wrong)


def test_bounds_of_a_box_that_do_not_fit() -> None:
    """Torch's words came where the first layer used them; and compiled, where bounds are made inside."""

    def boxed(x: Tensor, low: Any, high: Any = 1.0) -> Tensor:
        found: Tensor = fa.lrp(NET, x, target=1, rules={**fa.rules.epsilon(), **fa.rules.zbox(low, high)})
        return found

    with pytest.raises(ValueError, match=r"low \[3\] does not broadcast to what the first layer is given, \[4, 6\]"):
        boxed(X, -torch.ones(3))
    with pytest.raises(ValueError, match=r"low \[3\] and high \[2\] do not broadcast"):
        fa.rules.zbox(-torch.ones(3), torch.ones(2))
    for wrong in (X.to_sparse(), X.to("meta"), X.to(torch.complex64)):
        with pytest.raises(TypeError, match=r"zbox\(\): high is a"):
            fa.rules.zbox(-1.0, wrong)
    with pytest.raises(TypeError, match="bias must be True or False"):
        fa.rules.gamma(bias="no")  # type: ignore[arg-type]  # on purpose
    if torch.__version__ >= "2.4":
        compiled = torch.compile(lambda x: boxed(x, -torch.ones(6), torch.ones(1, 6)), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), boxed(X, -1.0))
    for some in (fa.relu, fa.normalize, partial(fa.interpolate, size=3)):
        with pytest.raises(TypeError, match="the attribution is a sparse tensor"):
            some(X[None].to_sparse())
    with pytest.raises(TypeError, match="the attribution is complex"):
        fa.interpolate(X[None].to(torch.complex64), size=3)
