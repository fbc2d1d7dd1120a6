"""DeepLIFT compiled: what has no gradient (casts, masks, detached parts) has the slope that it has in eager mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth
from ..close import close
from .test_lift_gates import ELEMENTWISE


def filled(z: Tensor) -> Tensor:
    y = torch.zeros_like(z)
    y[z > 0.2] = 1.5
    return y


#: Of a tensor z with a gradient: to another dtype and back, and gates that are cast. Beside z, some take what does
#: not come from the site.
CASTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "to bfloat16 and back": lambda z, g: torch.tanh(z.to(torch.bfloat16)).to(z.dtype),
    "float and back": lambda z, g: torch.sin(z.float()).double(),
    "type_as": lambda z, g: torch.sin(z.half()).type_as(z) * z,
    "type": lambda z, g: z.type(torch.float32).exp().type(torch.float64),
    "to a tensor": lambda z, g: (z.to(torch.float32) * z).to(z),
    "a softmax with a dtype": lambda z, g: torch.softmax(z, -1, dtype=torch.float32).to(z.dtype) * z,
    "a mask, type_as": lambda z, g: z * (z.abs() > 0.3).type_as(z),
    "a mask, half, float": lambda z, g: z * (1 - (z > 0).half().double()),
    "a mask that goes on": lambda z, g: z * ((z > 0).to(z.dtype).cumsum(-1) - 0.5)[None][0],
    "whole numbers": lambda z, g: z * (z * 3).long().double() + z * (z > 0).int(),
    "one of many": lambda z, g: z * F.one_hot(z.argmax(-1), 8).double(),
    "detached and rounded": lambda z, g: z * z.detach().round() + z / (1 + (z.detach() > 0.1).to(torch.float32)),
    "a mask from elsewhere": lambda z, g: z.tanh() * (g > 0),
    "a cast from elsewhere": lambda z, g: z.tanh() * (g > 0).double(),
    "a cast from elsewhere, like z": lambda z, g: z.tanh() * (g > 0).to(z),
    "a count from elsewhere": lambda z, g: z.tanh() / (1 + (g > 0).sum(-1, keepdim=True)) ** 0.5,
    "filled from elsewhere": lambda z, g: z * torch.zeros_like(z).masked_fill(g > 0, 2.0),
    "a mask that is added, from elsewhere": lambda z, g: (z + torch.where(g > 0, 0.0, -3.0)).softmax(-1),
    "filled": lambda z, g: z * filled(z),
    "detached, from elsewhere": lambda z, g: z.tanh() * g.detach(),
    "from elsewhere": lambda z, g: z.tanh() * g.sigmoid(),
}
GATES = {name: (lambda z, g, act=act: act(z)) for name, act in ELEMENTWISE.items()}
FROM_MASKS = ("a mask from elsewhere", "a cast from elsewhere", "a cast from elsewhere, like z")
OF_MASKS = (*FROM_MASKS, "a count from elsewhere", "filled from elsewhere", "a mask that is added, from elsewhere")
FEW = {name: CASTS[name] for name in ("a mask, type_as", "a cast from elsewhere", "detached, from elsewhere")}
ACTS: dict[str, dict[str, Callable[..., Tensor]]] = {"few": FEW, "casts": CASTS, "gates": GATES}


class Many(nn.Module):
    """All of them side by side: one graph to compile."""

    def __init__(self, acts: dict[str, Callable[..., Tensor]], first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.site, self.beside, self.first = nn.Linear(6, 8), nn.Linear(6, 8), first
        self.last, self.acts = nn.Linear(8 * len(acts), 3), acts
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        z = self.site(x) if self.first else None
        g = self.beside(x)
        z = self.site(x) if z is None else z
        found: Tensor = self.last(torch.cat([act(z, g) for act in self.acts.values()], 1))
        return found


METHODS = {
    "deep_lift": partial(fa.deep_lift, baselines=0.2),
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)),
}
#: Several references take the way of one: of them, at the input.
CALLS = [("deep_lift", kind, layer) for kind in ACTS for layer in (None, "site")] + [
    ("deep_lift_shap", kind, None) for kind in ACTS
]


@pytest.mark.parametrize(
    ("name", "kind", "layer"), breadth(CALLS, lambda call: call == ("deep_lift", "few", "site"), several=True)
)
def test_compiled_casts_and_gates(name: str, kind: str, layer: str | None) -> None:
    model, x = Many(ACTS[kind]), torch.randn(3, 6, dtype=torch.float64)
    method: Any = METHODS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eager = method(model, x, target=1, layer=layer)
        torch._dynamo.reset()
        fast: Any = torch.compile(method, fullgraph=True, backend="aot_eager")
        found = fast(model, x, target=1, layer=layer)
    close(found, eager, 1e-7)
    assert not found.requires_grad


@pytest.mark.parametrize("cast", [name for name in CASTS if "elsewhere" in name])
def test_what_runs_first_is_no_matter(cast: str) -> None:
    """What a layer beside the site gives does not come from it, also where it has a gradient, of its weights."""
    x, found = torch.randn(3, 6, dtype=torch.float64), []
    for first in (True, False):
        model = Many({cast: CASTS[cast]}, first)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found.append(fa.deep_lift(model, x, target=1, layer="site", baselines=0.2))
        assert ["others at the baseline" in str(each.message) for each in said] == [True] * (cast in OF_MASKS)
    close(found[0], found[1])
    if cast in FROM_MASKS:
        z, z0 = (model.site(t).tanh() for t in (x, torch.full_like(x, 0.2)))
        close(found[0], ((z - z0) * (model.beside(x) > 0) * model.last.weight[1]).detach())


def test_what_is_made_of_parameters_is_met_in_both_passes() -> None:
    """A spectral norm takes weight.flatten(1), to Dynamo the weight itself in one pass and another tensor in the other."""
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
    model, x = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3)).double().eval(), torch.randn(3, 6, dtype=torch.float64)
    torch._dynamo.reset()
    fast: Any = torch.compile(fa.deep_lift, fullgraph=True, backend="aot_eager")
    close(fast(model, x, target=1), fa.deep_lift(model, x, target=1))


def test_baselines_of_named_inputs() -> None:
    """Of a dict Dynamo cannot ask whether it is a function."""
    torch.manual_seed(0)
    side, x = nn.Linear(3, 4).double(), {"a": torch.randn(3, 3).double(), "b": torch.randn(3, 3).double()}
    baselines = {name: part[:2] / 2 for name, part in x.items()}
    torch._dynamo.reset()
    fast: Any = torch.compile(fa.deep_lift_shap, fullgraph=True, backend="aot_eager")
    options: Any = {"baselines": baselines, "target": 1}
    found, wanted = (f(lambda a, b: side(a).tanh() * side(b), x, **options) for f in (fast, fa.deep_lift_shap))
    for name in x:
        close(found[name], wanted[name])


ROW = torch.linspace(0.5, 1.0, 4, dtype=torch.float64)
COMPLEX: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "abs": (lambda f: f.abs(), True),
    "tanh": (lambda f: torch.tanh(f).real, True),
    "power": (lambda f: (f * f.conj()).real, True),
    "quotient": (lambda f: (1 / (f + 9)).real, True),
    "filter": (lambda f: (f * torch.complex(ROW, -ROW) + 1).real, False),
    "mixed": (lambda f: (torch.complex(f.real, f.imag) @ torch.complex(ROW, ROW)[:, None] / (2 + 1j)).imag, False),
}


@pytest.mark.parametrize("name", breadth(COMPLEX, lambda name: name in ("power", "filter")))
def test_complex_numbers_have_no_rule_and_compiled_that_is_told(name: str) -> None:
    does, told = COMPLEX[name]
    x, said = torch.randn(3, 4, dtype=torch.float64), []
    torch._dynamo.reset()
    compiled: Any = torch.compile(fa.deep_lift, fullgraph=True, backend="aot_eager")
    for method in (fa.deep_lift, compiled):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            method(lambda x: does(torch.fft.fft(x)).sum(1), x, baselines=0.3)
        said.append(any("DeepLIFT has no rule" in str(each.message) for each in caught))
    assert said == [told, told]
