"""Nets of the kinds that papers publish, against plain loops, however many steps run at once; what they keep is as it was, and
nothing depends on which parameters are learned."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import funattr as fa

from ..breadth import breadth
from ..close import close
from ..reference import Asked, gauss, loops
from ..reference.passes import leaves, recorded
from ..zoo import ZOO, Kept, built

CASES = [(name, layer) for name, kept in ZOO.items() for layer in (None, *kept.layers)]
#: Those that run with every other test: one of each kind of difficulty.
FEW = [("router", "route"), ("continuous flow", None), ("spectral", "lift"), ("remembers", None), ("cached", "q")]
EVERY = breadth(CASES, lambda case: case in FEW, several=True)


class Fresh(Asked):
    """Each run of a model as it was built, whatever the runs before it wrote."""

    def at(self, x: Any = None, put: Any = None, **how: Any) -> tuple[list[Tensor], Any]:
        return recorded(copy.deepcopy(self.model), self.x if x is None else x, self.site, put, bound=self.bound, **how)


def asked(kept: Kept, model: Any, layer: Any) -> Fresh:
    target = kept.target
    return Fresh(model, kept.x, layer, target if callable(target) else lambda output: output[:, target])


def zeros(kept: Kept) -> Any:
    return tree_map(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, kept.x)


pytestmark = pytest.mark.filterwarnings("ignore:the steps run one after another")


@pytest.mark.parametrize(("name", "layer"), EVERY)
def test_gradients_and_paths(name: str, layer: Any) -> None:
    kept = ZOO[name]
    model = built(kept)
    q, x0 = asked(kept, model, layer), zeros(kept)
    how = {"layer": layer, "target": kept.target}
    close(fa.gradient(model, kept.x, **how), loops.slope(q))
    for n_steps, chunk_size in ((3, None), (4, 3), (5, 2), (5, None), (5, 1)):
        more = how | {"baselines": x0, "n_steps": n_steps, "chunk_size": chunk_size}
        close(fa.integrated_gradients(model, kept.x, **more), loops.integrated_gradients(q, x0, gauss(n_steps)))
        if layer is not None:
            close(fa.internal_influence(model, kept.x, **more), loops.internal_influence(q, x0, gauss(n_steps)))
            close(fa.conductance(model, kept.x, **more), loops.conductance(q, x0, gauss(n_steps)), 1e-8)


@pytest.mark.parametrize(("name", "layer"), EVERY)
def test_ablation(name: str, layer: Any) -> None:
    kept = ZOO[name]
    model = built(kept)
    q = asked(kept, model, layer)
    values = loops.value(q)
    if len(values) > 1:
        pytest.skip("of several tensors, masks come one for each")
    groups = (torch.arange(values[0][0].numel()) % 3).reshape(1, *values[0].shape[1:])
    mask = {next(iter(kept.x)): groups} if layer is None and isinstance(kept.x, dict) else groups
    wanted = loops.feature_ablation(q, [torch.zeros_like(values[0])], [groups])
    for chunk_size in (None, 1, 2):
        how = {"layer": layer, "target": kept.target, "feature_mask": mask, "chunk_size": chunk_size}
        close(fa.feature_ablation(model, kept.x, **how), wanted)


def held(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_modules", "training"):
                continue
            for k, v in value.items() if isinstance(value, dict) else [("", value)]:
                if v is None or isinstance(v, (Tensor, list, int)):
                    found[f"{name}.{key}.{k}"] = copy.deepcopy(v)
    return found


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return isinstance(b, Tensor) and torch.equal(a, b)
        return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else bool(a == b)

    return before.keys() == after.keys() and all(same(before[k], after[k]) for k in before)


@pytest.mark.parametrize(("name", "layer"), EVERY)
def test_nothing_is_kept_and_nothing_depends_on_what_is_learned(name: str, layer: Any) -> None:
    kept = ZOO[name]
    model = built(kept)
    before = held(model)
    how: dict[str, Any] = {"layer": layer, "target": kept.target, "baselines": zeros(kept)}
    for method in (fa.gradient, fa.integrated_gradients, fa.deep_lift):
        if method is fa.deep_lift and name == "continuous flow":
            with pytest.raises(ValueError, match="differentiates itself"):
                method(model, kept.x, **how)
            continue
        options = {key: value for key, value in how.items() if method is not fa.gradient or key != "baselines"}
        found = []
        for learned in (True, False, True):
            model.requires_grad_(learned)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(method(model, kept.x, **options))
            assert unchanged(before, held(model))
        close(found[1], found[0])
        close(found[2], found[0])


@pytest.mark.parametrize("name", breadth([*ZOO], lambda name: name in ("capsules", "missing values")))
def test_deep_lift_is_complete_or_says_so(name: str) -> None:
    kept = ZOO[name]
    model, x0 = built(kept), zeros(kept)
    if name == "continuous flow":
        pytest.skip("it is refused")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = fa.deep_lift(model, kept.x, baselines=x0, target=kept.target)
    q = asked(kept, model, None)
    assert bool(told) is (kept.complete is False)
    if kept.complete:
        close(sum(t.flatten(1).sum(1) for t in leaves(found)), loops.scores(q) - loops.scores(q, x0), 1e-8)


@pytest.mark.parametrize(("name", "layer"), EVERY)
@pytest.mark.filterwarnings("ignore::UserWarning")  # what some of them miss is another test's
def test_whether_weights_are_trained_is_no_matter(name: str, layer: Any) -> None:
    if name == "continuous flow":
        pytest.skip("it is refused")
    kept, found = ZOO[name], []
    for trained in (True, False):
        model = built(kept).requires_grad_(trained)
        found.append(fa.deep_lift(model, kept.x, layer=layer, target=kept.target))
    for first, second in zip(*map(leaves, found)):
        close(first, second, 1e-12)
