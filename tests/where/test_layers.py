"""`layers` against torch's own hooks, against what the methods take, and against what people know of well-known nets."""

from __future__ import annotations

import copy
import functools
import math
import sys
import threading
from collections import UserDict
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..models import CASES, Case, Conv, Keywords, Mlp, Recurrent, Residual, Text, Thrice, Tokens, Two, case_id, image, table


def by_name(found: Any) -> dict[str, Any]:
    return {row.name: row for row in found}


def hooked(model: nn.Module, x: Any) -> dict[str, list[Any]]:
    """The values at each layer, by hooks of torch; with gradients, so that nothing is fused."""
    values: dict[str, list[Any]] = {name: [] for name, _ in model.named_modules() if name}
    handles = [
        layer.register_forward_hook(lambda m, a, value, name=name: values[name].append(value))
        for name, layer in model.named_modules()
        if name
    ]
    x = tuple(part.clone() for part in x) if isinstance(x, tuple) else x.clone()
    model(*x) if isinstance(x, tuple) else model(x)
    for handle in handles:
        handle.remove()
    return values


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_names_runs_and_shapes_are_those_that_hooks_see(case: Case) -> None:
    model, x = case.build().eval(), case.inputs()
    expected = hooked(copy.deepcopy(model), x)
    found = fa.layers(model, x)
    assert [row.name for row in found] == list(expected)
    for row in found:
        module = model.get_submodule(row.name)
        assert row.type == type(module).__name__
        assert row.runs == len(row.shapes) == len(expected[row.name])
        assert row.parameters == sum(math.prod(p.shape) for p in module.parameters())
        for shape, value in zip(row.shapes, expected[row.name]):
            if isinstance(value, Tensor):
                assert shape == value.shape
    ran = [row for row in found if row.order is not None]
    assert len({row.order for row in ran}) == len(ran) == sum(row.runs > 0 for row in found)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_is_listed_can_be_named(case: Case) -> None:
    model, x = case.build().eval(), case.inputs()
    for row in fa.layers(model, x):
        if row.runs == 1:
            value = fa.activation(model, x, layer=row.name)
            if isinstance(value, Tensor):
                assert (value.shape,) == row.shapes
        else:
            with pytest.raises(ValueError, match="did not run" if row.runs == 0 else f"ran {row.runs} times"):
                fa.activation(model, x, layer=row.name)
            assert row.note
        if row.cam is not None and row.runs == 1:
            cam = fa.grad_cam(
                model, x, layer=row.name, target=lambda out: getattr(out, "logits", out)[:, 1], channel_dim=row.cam
            )
            assert cam.shape[0] == 4
            assert cam.shape[row.cam] == 1
            assert cam.numel() > 4


def test_order_is_that_of_the_forward_pass() -> None:
    found = by_name(fa.layers(Residual().eval(), image()))
    order = sorted(found, key=lambda name: found[name].order)
    inner = ["conv1", "bn1", "conv2", "bn2", "relu"]  # relu also runs between, but ends here
    assert order == ["stem", *(f"layer{i}.{n}" for i in (1, 2) for n in inner)][:6] + ["layer1"] + [
        *(f"layer2.{n}" for n in inner),
        "layer2",
        "fc",
    ]


def test_nested_values_and_several_shapes() -> None:
    found = by_name(fa.layers(Recurrent().eval(), torch.randn(4, 7, 4)))
    assert found["lstm"].shapes == (((4, 7, 6), ((1, 4, 6), (1, 4, 6))),)
    assert "([4, 7, 6], ([1, 4, 6], [1, 4, 6]))" in str(fa.layers(Recurrent().eval(), torch.randn(4, 7, 4)))
    shared = nn.ReLU()
    twice = nn.Sequential(nn.Linear(6, 8), shared, nn.Linear(8, 5), shared)
    relu = fa.layers(twice, table())[1]
    assert (relu.name, relu.aliases, relu.runs, relu.shapes) == ("1", ("3",), 2, ((4, 8), (4, 5)))
    assert "[4, 8] / [4, 5]" in str(fa.layers(twice, table()))
    assert "say which: call=0 to 1, or -1; also 3" in str(fa.layers(twice, table()))
    whole = fa.layers(nn.ModuleDict({"net": Keywords()})["net"].eval(), table())
    assert [row.runs for row in whole] == [1, 1, 1]
    nested = fa.layers(nn.Sequential(Text(), Head()).eval(), torch.randint(0, 20, (4, 7)))
    assert by_name(nested)["0"].shapes == ({"logits": (4, 5), "hidden": (4, 7, 8)},)
    assert fa.layers(nn.Sequential(Keywords(), Head()), table())[0].shapes == ({"logits": (4, 5), "features": (4, 8)},)


class Head(nn.Module):
    def forward(self, out: Any) -> Tensor:
        logits: Tensor = out["logits"] if isinstance(out, dict) else out.logits
        return logits


# Which sites suit a CAM.


class Permuting(nn.Module):
    """As Swin: channels last inside, second at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 2, 2)
        self.norm = nn.LayerNorm(10)
        self.mlp = nn.Sequential(nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 10))
        self.back = Permute(0, 3, 1, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = self.back(self.mlp(self.norm(x)))
        return self.head(self.pool(x).flatten(1))


class Permute(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class Dense(nn.Module):
    """As DenseNet: a block gives more channels than any convolution in it."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = Grow()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.Sigmoid())
        self.scaled = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.grow(x)
        return self.scaled(x * self.gate(x)[:, :, None, None]).mean((2, 3))


class Grow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


class Heads(nn.Module):
    """Attention heads are no places."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 8)
        self.split = nn.Identity()
        self.first_dim = nn.Identity()
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q = self.split(self.q(x).unflatten(-1, (2, 4)).transpose(1, 2))
        q = self.first_dim(q.transpose(1, 2).flatten(2).transpose(0, 1)).transpose(0, 1)
        return self.out(q.mean(1))


class Functional(nn.Module):
    """No layer that says where channels are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.here, self.flat = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.here(F.conv2d(x, self.weight)).flatten(2)).mean(2)


CAMS: dict[str, tuple[nn.Module, Any, dict[str, int]]] = {
    "channels second": (Conv(), image(), dict.fromkeys(("conv1", "relu1", "pool", "conv2", "relu2"), 1)),
    "channels last, then permuted": (
        Permuting(),
        image(),
        {"stem": 1, "norm": -1, "mlp": -1, "mlp.0": -1, "mlp.1": -1, "mlp.2": -1, "back": 1},
    ),
    "joined channels, and a gate": (Dense(), image(), {"grow": 1, "grow.conv": 1, "scaled": 1}),
    "tokens": (Tokens(), torch.randn(4, 7, 4), dict.fromkeys(("embed", "norm1", "qkv", "proj", "norm2", "up", "down"), -1)),
    "heads, and a batch that is not first": (Heads(), torch.randn(4, 7, 4), {"q": -1}),
    "nobody says": (Functional(), image(), {"here": 1}),
    "a series": (
        nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        torch.randn(4, 3, 9),
        {"0": 1, "1": 1, "2": 1},
    ),
    "a volume": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten()), torch.randn(4, 1, 3, 3, 3), {"0": 1, "1": 1}),
    "one place only": (nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten()), image(), {}),
    "no place": (Mlp(), table(), {}),
    "nested": (Recurrent(), torch.randn(4, 7, 4), {}),
    "integers": (nn.Sequential(nn.Identity(), nn.Embedding(9, 3)), torch.randint(0, 9, (4, 2, 2)), {"1": -1}),
    "used for maps and for vectors": (
        (lambda relu: nn.Sequential(nn.Conv2d(3, 2, 3), relu, nn.Flatten(), nn.Linear(72, 5), relu))(nn.ReLU()),
        image(),
        {"0": 1},
    ),
}


@pytest.mark.parametrize("name", CAMS)
def test_which_sites_suit_a_cam(name: str) -> None:
    model, x, expected = CAMS[name]
    assert {row.name: row.cam for row in fa.layers(model.eval(), x) if row.cam is not None} == expected


def test_transformers_tell_by_their_layers() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=2
    )
    found = by_name(fa.layers(ViTForImageClassification(config).eval(), {"pixel_values": image()}))
    assert found["vit.embeddings.patch_embeddings.projection"].cam == 1
    assert {row.cam for name, row in found.items() if "layernorm" in name} == {-1}
    assert found["vit"].cam is None  # a ModelOutput
    assert found["vit"].shapes[0]["last_hidden_state"] == (4, 17, 8)
    assert found["classifier"].shapes == ((4, 2),)


# Nothing is changed, whatever the model.


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails: bool) -> None:
    model = nn.Sequential(Residual(), nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5)))
    if fails:
        model.append(nn.Linear(7, 7))  # does not fit
    model[0].layer1.eval()  # modes may be mixed
    x = image().requires_grad_()
    model[0](x).sum().backward()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [m.training for m in model.modules()]
    keys = [sorted(vars(m)) for m in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = x.detach().clone()
    if fails:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            fa.layers(model, x)
    else:
        fa.layers(model, x)  # in train mode, without a warning: shapes do not depend on it
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in model.modules()] == modes
    assert [sorted(vars(m)) for m in model.modules()] == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for p, grad in zip(model.parameters(), grads):
        assert p.requires_grad
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)  # type: ignore[arg-type]  # both are there, or neither
    assert torch.equal(x, before)


def test_one_forward_pass_and_linear_work() -> None:
    class Counts(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    counts = Counts()
    fa.layers(nn.Sequential(counts), table())
    assert counts.calls == 1

    def lines(size: int) -> int:
        count = 0

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace if "funattr" in frame.f_code.co_filename else None

        model = nn.Sequential(*(nn.Identity() for _ in range(size)))
        x = table()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            fa.layers(model, x)
        finally:
            sys.settrace(before)
        return count

    assert lines(400) < 2.2 * lines(200)


def test_wrapped_models() -> None:
    x, net = table(), Mlp().eval()
    expected = fa.layers(net, x)
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    wrapped: list[Any] = [
        nn.DataParallel(net),
        torch.compile(net, backend="eager"),
        functools.partial(net),
        functools.partial(torch.func.functional_call, net, parameters),
        net.forward,
    ]
    for model in wrapped:
        assert fa.layers(model, x) == expected
    ids = torch.randint(0, 20, (4, 7))
    masked = fa.layers(functools.partial(Text(), mask=torch.ones(4, 7)), ids)
    assert [row.runs for row in masked] == [1, 1, 1]


def test_inputs_in_every_form() -> None:
    x, y = image(), table()
    expected = fa.layers(Two(), (x, y))
    assert fa.layers(Two(), x, y) == fa.layers(Two(), {"image": x, "table": y}) == expected
    assert fa.layers(Two(), UserDict(image=x, table=y)) == expected
    assert [row.shapes for row in expected] == [((4, 4, 6, 6),), ((4, 4),), ((4, 5),)]
    assert fa.layers(Conv().to("meta"), x.to("meta")) == fa.layers(Conv(), x)
    assert fa.layers(Mlp(), torch.full((4, 6), float("nan"))) == fa.layers(Mlp(), table())  # only shapes count


def test_what_does_not_run_says_why() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(6, 6)])
            self.unused = nn.Linear(6, 6)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.fast = torch.compile(Mlp(), backend="eager")
            self.in_place = Mlp()
            self.in_place.compile(backend="eager")
            self.scripted = torch.jit.trace(Mlp(), table())

        def forward(self, x: Tensor) -> Tensor:
            x = self.attention(self.blocks[0](x)[:, None], x[:, None], x[:, None])[0][:, 0]
            return self.fast(x) + self.in_place(x) + self.scripted(x)

    model = Parts().eval()
    found = by_name(fa.layers(model, table()))
    why = {name: row.note for name, row in found.items() if not row.runs}
    opaque = "inside a compiled or scripted module: pass the model before it was"
    assert why["blocks"] == "a container, never called: name a layer inside"
    assert why["unused"] == "does not run: the forward pass does not call it"
    assert why["attention.out_proj"] == "used by nn.MultiheadAttention without a call: name that"
    assert why["scripted.fc1"] == opaque
    compiled = {name for name in found if name.startswith(("fast", "in_place"))}
    if not hasattr(torch.compiler, "set_stance"):  # before torch 2.6 nothing that is compiled can be run as it was written
        assert {why[name] for name in compiled - {"fast"}} == {opaque}
        compiled = {"fast"}
    assert {name for name, row in found.items() if row.runs} == {"blocks.0", "attention", "scripted", *compiled}
    for name, row in found.items():
        if row.runs == 0:
            with pytest.raises(ValueError, match="did not run"):
                fa.activation(model, table(), layer=name)


def test_threads_share_a_model() -> None:
    model, x = Residual().eval(), image()
    expected, cam = fa.layers(model, x), fa.grad_cam(model, x, layer="layer2", target=1)
    wrong: list[Any] = []

    def look() -> None:
        for _ in range(20):
            if fa.layers(model, x) != expected:
                wrong.append("layers")

    def explain() -> None:
        for _ in range(20):
            if not torch.allclose(fa.grad_cam(model, x, layer="layer2", target=1), cam):
                wrong.append("cam")

    threads = [threading.Thread(target=work) for work in (look, look, explain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# How it prints.


def test_the_table() -> None:
    found = fa.layers(Thrice(), table())
    assert str(found) == repr(found)
    assert str(found).splitlines() == [
        "layer  type    runs  value   parameters  CAM  note",
        "inner  Linear     3  [4, 6]          42       say which: call=0 to 2, or -1",
        "head   Linear     1  [4, 5]          35",
    ]
    assert found._repr_html_().count("<tr>") == 3
    assert "<td>[4, 6]</td>" in found._repr_html_()
    odd = nn.Sequential(type("<b>", (nn.Linear,), {})(6, 2))
    assert "<td>&lt;b&gt;</td>" in fa.layers(odd, table())._repr_html_()
    assert "no layers inside" in str(fa.layers(nn.Linear(6, 2), table()))
    assert len(fa.layers(nn.Linear(6, 2), table())) == 0
    assert "channel_dim=-1" in str(fa.layers(Tokens(), torch.randn(4, 7, 4)))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: fa.layers(lambda x: x, table()), ValueError, r"layers\(\): the layers of a plain function.*functools.partial"),
        (lambda: fa.layers(3, table()), TypeError, "model must be an nn.Module or a callable, got int 3"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: fa.layers(Mlp(), [1.0]), TypeError, r"x must be a tensor.*got list: pass .*tuple\(x\)"),
        (lambda: fa.layers(Mlp(), ()), TypeError, "x holds no tensor"),
        (lambda: fa.layers(Mlp(), torch.tensor(1.0)), ValueError, "0-d tensor, expected the batch first"),
        (lambda: fa.layers(Two(), (image(),), table()), TypeError, "further inputs come after a tensor, got x of type tuple"),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()
