"""What DeepLIFT has to say is said however it runs: plainly, with a graph, mapped over classes, examples or baselines."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..reference import leaves


class Swish(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))


def low_frequencies(h: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(h)
    kept = torch.zeros(spectrum.shape, dtype=spectrum.dtype)
    kept[:, :2] = spectrum[:, :2]
    return torch.fft.irfft(kept, n=h.shape[1])


class Net(nn.Module):
    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.does = nn.Linear(5, 6).double(), nn.Linear(6, 3).double(), does

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.does(self.first(x)))


#: What a model does, and what is said of it.
SAID: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "no rule": (lambda h: h.sort(1)[0], "sort is not linear and DeepLIFT has no rule"),
    "other indices": (lambda h: h.gather(1, h.argsort(1)) ** 2, "argsort|gather"),
    "straight through": (lambda h: h + (h.round() - h).detach(), r"cuts its graph \(detach\)"),
    "a function": (Swish.apply, "the autograd.Function Swish"),
    "vmap": (torch.func.vmap(torch.tanh), "do not reach into torch.func inside the model, with"),
}
QUIET: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "a gate": lambda h: h * (h > 0.1),
    "a shift": lambda h: (h - h.amax(1, keepdim=True).detach()).softmax(1),
    "a maximum": lambda h: h.max(1, keepdim=True)[0] * h,
}


def ways(model: Net, x: Tensor, layer: Any) -> dict[str, Callable[[], Any]]:
    def mapped(row: Tensor) -> Tensor:
        return fa.deep_lift(model, row[None], layer=layer, target=0)[0]

    return {
        "plain": lambda: fa.deep_lift(model, x, layer=layer, target=0),
        "create_graph": lambda: fa.deep_lift(model, x, layer=layer, target=0, create_graph=True),
        "each_target": lambda: fa.each_target(fa.deep_lift, [0, 1])(model, x, layer=layer),
        "vmap": lambda: torch.func.vmap(mapped)(x),
        "baselines": lambda: fa.deep_lift_shap(model, x, baselines=torch.stack([x[0] * 0, -x[0]]), layer=layer, target=0),
        "noise": lambda: fa.noise_tunnel(fa.deep_lift, n_samples=2, stdevs=0.01)(model, x, layer=layer, target=0),
    }


def told(does: Callable[[Tensor], Tensor], way: str, layer: Any) -> list[str]:
    torch.manual_seed(0)
    model, x = Net(does), 3 * torch.randn(4, 5).double()
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        ways(model, x, layer)[way]()
    return [str(warning.message) for warning in met]


LAYERS = breadth([None, "first"], lambda layer: layer is not None)
WAYS = list(ways(Net(torch.tanh), torch.zeros(1, 5).double(), None))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAID)
def test_it_is_said(name: str, way: str, layer: Any) -> None:
    does, what = SAID[name]
    found = told(does, way, layer)
    assert found
    assert all(re.search(what, text) for text in found), found


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_said_where_sums_hold(name: str, way: str, layer: Any) -> None:
    assert told(QUIET[name], way, layer) == []


def test_around_the_layer_nothing_lacks_a_rule_with_a_graph_either() -> None:
    class Around(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.sort(1)[0] @ self.first.weight.t() + torch.tanh(self.first(x)))

    model, x = Around(torch.tanh), torch.randn(4, 5).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.deep_lift(model, x, layer="first", target=0)
        fa.deep_lift(model, x.requires_grad_(), layer="first", target=0, create_graph=True)


def test_rounding_of_coarse_numbers_is_no_cut() -> None:
    """The score may be finer than what the model computes in."""

    class Half(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x.bfloat16())
            return self.last(h * (h > 0)).double()

    torch.manual_seed(0)
    model = Half(torch.tanh).bfloat16()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.deep_lift(model, torch.randn(4, 5).double(), target=0)


def test_what_is_written_to_complex_zeros_is_linear_at_many_baselines_too() -> None:
    torch.manual_seed(0)
    model, x = Net(low_frequencies), torch.randn(4, 5).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not hasattr(torch.utils, "swap_tensors"):  # before torch 2.3 vmap cannot write there
            warnings.filterwarnings("ignore", "the steps run one after another")
        fa.deep_lift_shap(lambda x: model(x), x, baselines=torch.stack([x[0] * 0, -x[0]]), target=0)


SIZES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "size": lambda x, h: h.view(x.size(0), -1),
    "len": lambda x, h: h.reshape(len(x), -1),
    "shape": lambda x, h: h.reshape(x.shape[0], -1),
    "numel": lambda x, h: h.reshape(x.numel() // 6, -1),
    "dim": lambda x, h: h.flatten(x.dim() - 1) if x.is_floating_point() else h,
    "one like it": lambda x, h: h + torch.zeros_like(x)[:, :1] + x.new_zeros(1),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_of_the_input_hides_no_gap_at_a_layer(name: str) -> None:
    """It is no number that goes around the layer, to which what is missed could belong."""
    torch.manual_seed(0)
    a, b = nn.Linear(6, 8), nn.Linear(8, 3)

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x: Tensor) -> Any:
            h = torch.tanh(self.a(x))
            return self.b(SIZES[name](x, h + h.detach()))

    with pytest.warns(UserWarning, match=r"miss the difference of the scores, .*: the model cuts its graph \(detach\)"):
        fa.deep_lift(Sized(), torch.randn(3, 6), layer="a", target=1)


@pytest.mark.parametrize("read", [lambda h: h.max().item(), lambda h: max(h.amax(0).tolist())])
def test_numbers_that_are_read_are_told_as_a_cut(read: Any) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
    with pytest.warns(UserWarning, match=r"miss the difference .* the model cuts its graph \((item|tolist)\)"):
        fa.deep_lift(lambda x: last(torch.tanh((h := first(x)) * read(h))), torch.randn(3, 6).double(), target=1)


class Apart(nn.Module):
    """What a block without gradients makes of a value is as it is at either end, and has no share."""

    def __init__(self, apart: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = (nn.Linear(*sizes).double() for sizes in ((4, 6), (6, 6), (6, 3)))
        self.apart = apart

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        with torch.no_grad():
            gate = self.apart(h)
        return self.last(self.second(h) * gate)


@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", ["view", "t", "index", "times"])
@pytest.mark.filterwarnings("ignore:DeepLIFT.s attributions miss")
def test_a_view_without_a_gradient_is_cut_off(name: str, layer: str | None) -> None:
    """Torch says of such a view, and of nothing else made there, that it requires a gradient."""
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "view": lambda h: h.view(-1, 6),
        "t": lambda h: h.t().t(),
        "index": lambda h: h[:, :6],
        "times": lambda h: h * 1,
    }
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    model, cut = Apart(views[name]), Apart(torch.detach)
    want = fa.deep_lift(cut, x, layer=layer, target=1)
    difference = (cut(x) - cut(0 * x))[:, 1].detach() if layer is None else None
    if difference is not None:
        torch.testing.assert_close(want.sum(1), difference)
    torch.testing.assert_close(fa.deep_lift(model, x, layer=layer, target=1), want)
    torch.testing.assert_close(fa.deep_lift(model, x, layer=layer, target=1, create_graph=True), want)
    torch.testing.assert_close(fa.deep_lift_shap(model, x, baselines=0 * x, layer=layer, target=1), want)
    mapped = torch.func.vmap(lambda row: fa.deep_lift(model, row[None], layer=layer, target=1)[0])(x)
    torch.testing.assert_close(mapped, want)
    if name == "view":
        compiled = torch.compile(fa.deep_lift, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(model, x, layer=layer, target=1), want)


class Hands(nn.Module):
    """A layer that hands on what it is given, alone or among other things."""

    def __init__(self, among: str) -> None:
        super().__init__()
        self.among = among

    def forward(self, h: Tensor) -> Any:
        return {"alone": h, "tuple": (h, None), "dict": {"h": h}, "ids": (h, torch.arange(len(h)))}[self.among]


class Handed(Net):
    def __init__(self, does: Callable[[Tensor], Tensor], among: str) -> None:
        super().__init__(does)
        self.hands = Hands(among)

    def forward(self, x: Tensor) -> Tensor:
        found = self.hands(self.first(x))
        return self.last(self.does(next(iter(leaves(found)))))


@pytest.mark.parametrize("among", ["tuple", "dict", "ids"])
@pytest.mark.parametrize("name", [*SAID, *QUIET, "a mask"])
def test_a_value_among_others_is_a_value_of_the_layer(name: str, among: str) -> None:
    """It was taken for one from around the layer: nothing was said, and masks were those at x."""
    masked: Callable[[Tensor], Tensor] = lambda h: h * (h > 0) + (h > 0.2)  # noqa: E731  a row of the table
    does = SAID[name][0] if name in SAID else QUIET.get(name, masked)
    x, found = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), []
    for kind in ("alone", among):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = fa.deep_lift(Handed(does, kind), x, layer="hands", target=0)
        found.append((next(t for t in leaves(value)), [str(warning.message) for warning in caught]))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]


def test_indices_made_of_a_buffer_hide_no_gap_at_a_layer() -> None:
    class Graph(Net):
        def __init__(self) -> None:
            super().__init__(lambda h: h)
            self.register_buffer("ends", torch.tensor([0, 2, 2, 1, 0, 5]))

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            into = self.get_buffer("ends").expand_as(h)
            return self.last(torch.zeros_like(h).scatter_add(1, into, h + h.detach().tanh()))

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"miss the difference of the scores.*\(detach\)"):
        fa.deep_lift(Graph(), torch.randn(3, 5).double(), layer="first", target=0)


_ENDS = torch.tensor([0, 2, 2, 1, 0, 5])


@pytest.mark.parametrize("held", ["file", "attribute", "bound"])
def test_indices_that_the_model_holds_hide_no_gap_at_a_layer(held: str) -> None:
    """Nor does what is written to a tensor just made: both were taken for what comes around the layer."""

    class Graph(Net):
        def __init__(self) -> None:
            super().__init__(lambda h: h)
            self.ends = _ENDS.clone()

        def forward(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
            h = self.first(x)
            ends = ends if ends is not None else _ENDS if held == "file" else self.ends
            into = ends.expand_as(h)
            most = h.new_zeros(h.shape).scatter_reduce_(1, into, h.detach(), "amax")
            return self.last(torch.zeros_like(h).scatter_add_(1, into, (h - most.gather(1, into)).exp()))

    torch.manual_seed(0)
    model = functools.partial(Graph(), ends=_ENDS.clone()) if held == "bound" else Graph()
    with pytest.warns(UserWarning, match=r"miss the difference of the scores.*\(detach\)"):
        fa.deep_lift(model, torch.randn(3, 5).double(), layer="first", target=0)
