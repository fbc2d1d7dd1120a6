"""The argument space at random, right and wrong.

A call with right arguments must equal the plain loops of tests/reference. A call with a wrong one must be refused with a
ValueError or TypeError that starts with the call as written: never an error from inside, never a result.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import funattr as fa

from ..breadth import full
from ..fuzz import CAMS, SHAP, SITE, WRONG_MODELS, Asked, Net, calls, function, one_of
from ..methods import METHODS as TABLE
from ..reference import Asked as Loop
from ..reference import leaves, loops
from ..reference.passes import Score, called, with_leaves

#: For a long search by hand: FUZZ=20000 pytest tests/laws/test_fuzz.py
MANY = int(os.environ.get("FUZZ", "0"))
few = settings(max_examples=MANY or 400, derandomize=not MANY, suppress_health_check=list(HealthCheck))


def spelled_right(asked: Asked, message: str) -> bool:
    """The call as written: the name, then every argument by name, then a colon."""
    names = [name for name in asked.options if not (asked.method == "convergence_delta" and name == "attributions")]
    pattern = re.escape(asked.method) + r"\(" + ", ".join(f"{name}=.*" for name in names) + r"\): \S"
    return re.match(pattern, message, re.DOTALL) is not None


def ask(asked: Asked, model: Any) -> Any:
    options = dict(asked.options)
    if asked.method == "convergence_delta":
        return fa.convergence_delta(options.pop("attributions"), model, asked.x, **options)
    return function(asked.method)(model, asked.x, **options)


@few
@given(asked=calls(), wrong_model=one_of(*WRONG_MODELS))
def test_any_call(asked: Asked, wrong_model: Any) -> None:
    any_call(asked, wrong_model)


@full
@settings(few, max_examples=4000)
@given(asked=calls(), wrong_model=one_of(*WRONG_MODELS))
def test_many_calls(asked: Asked, wrong_model: Any) -> None:
    any_call(asked, wrong_model)


def any_call(asked: Asked, wrong_model: Any) -> None:
    if not asked.wrong:
        for a, b in zip_same(leaves(ask(asked, asked.net.model)), by_hand(asked)):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-11, msg=lambda text: f"{asked}: {text}")
        return
    try:
        found = ask(asked, wrong_model if "model" in asked.wrong else asked.net.model)
    except (ValueError, TypeError) as error:
        if spelled_right(asked, str(error)):
            return
        raise AssertionError(f"not in the caller's words: {error}, from {asked}") from error
    raise AssertionError(f"a wrong {asked.wrong[0]} gave a result: {asked}, {found}")


def zip_same(a: list[Tensor], b: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    assert len(a) == len(b) > 0
    return list(zip(a, b))


def score_of(target: Any, n: int) -> Score:
    """The score, by plain indexing."""
    if target is None:
        return lambda out: out
    if isinstance(target, str):
        return lambda out: out.gather(1, out.argmax(1, keepdim=True))[:, 0]
    if callable(target):
        return target
    if type(target).__name__ == "Neuron":
        if isinstance(target.index, tuple):
            return lambda out: out[:, target.index[0]].sum(1)
        return lambda out: out[:, target.index]
    if isinstance(target, tuple):
        return lambda out: out[:, target[0]]
    many = target.reshape(-1).tolist() if isinstance(target, Tensor) else np.array(target).reshape(-1).tolist()
    each = many * n if len(many) == 1 else many
    return lambda out: torch.stack([out[i, each[i]] for i in range(n)])


def by_hand(asked: Asked) -> list[Tensor]:
    """What the call must give."""
    name, net, n, x, options, _ = asked
    model, score = net.model, score_of(options.get("target"), n)
    if isinstance(options.get("target"), str):
        best = called(model, x, {}).argmax(1)  # at x, all along a path
        score = lambda out: out.gather(1, best[:, None])[:, 0]  # noqa: E731  as score_of gives one
    q = Loop(model, x, options.get("layer"), score)
    if name == "activation":
        return loops.value(q)
    if name in ("gradient", "saliency", "input_x_gradient", "value_and_gradient", "lrp"):
        v, g = loops.value(q), loops.slope(q)
        times = [a * b for a, b in zip(v, g)] if options.get("multiply_by_inputs", True) else g
        found = {"gradient": g, "saliency": [t.abs() for t in g], "value_and_gradient": v + g}
        return found.get(name, times)
    if name in CAMS:
        return [cam_by_hand(name, q, options.get("channel_dim", 1))]
    if name in ("guided_backprop", "deconvnet"):
        return loops.rectified(q, name == "guided_backprop")
    if name in SITE:
        return replaced_by_hand(name, q, options)
    return from_baselines(name, q, net, options)


def cam_by_hand(name: str, q: Loop, channel: int) -> Tensor:
    if name == "score_cam":
        return loops.score_cam(q, 1)[0]
    if name == "ablation_cam":
        return loops.ablation_cam(q, channel)[0]
    guided = name == "guided_grad_cam"
    formula = next(row.formula for row in TABLE if row.name == ("grad_cam" if guided else name))
    assert formula is not None
    (v,), (g,) = loops.value(q), loops.slope(q) if name != "eigen_cam" else loops.value(q)
    cam = formula(v.movedim(channel, 1), g.movedim(channel, 1)).movedim(1, channel)
    return cam.relu() * loops.rectified(q._replace(site=None), True)[0] if guided else cam


def replaced_by_hand(name: str, q: Loop, options: dict[str, Any]) -> list[Tensor]:
    ids = q.site is None and not leaves(q.x)
    like = loops.value(q, integers=ids)
    base = [filled(b, v) for b, v in zip(spread_over(options.get("baselines", 0.0), like), like)]
    mask = options.get("feature_mask")
    if name == "occlusion":
        windows = [[w] if isinstance(w, int) else list(w) for w in spread_over(options["window"], like)]
        return loops.occlusion(q, base, windows, [[1] * len(window) for window in windows], integers=ids)
    if name in ("shapley", "lime"):
        masks = [m.reshape((1,) * (v.dim() - m.dim()) + m.shape) for m, v in zip(spread_over(mask, like), like)]
        if name == "shapley":
            found = loops.shapley(q, base, masks, integers=ids)
            return found + [torch.zeros_like(t) for t in found] if options.get("standard_errors") else found
        players = len({int(i) for m in masks for i in m.unique()})
        generator = torch.Generator().manual_seed(5) if "generator" in options else None
        count = (options.get("n_samples") or 20 * players + 2) - 1
        kept = torch.rand(count, players, dtype=torch.float64, generator=generator) < 0.5
        kept = torch.cat([torch.ones(1, players, dtype=torch.bool), kept])
        return loops.lime(q, base, masks, kept, options.get("kernel_width", 0.25), integers=ids)
    return loops.feature_ablation(q, base, None if mask is None else spread_over(mask, like), integers=ids)


def from_baselines(name: str, q: Loop, net: Net, options: dict[str, Any]) -> list[Tensor]:
    given, x, n = options.get("baselines", 0.0), q.x, options.get("n_samples", 5)
    along = loops.nodes(options.get("quadrature", "gausslegendre"), options.get("n_steps", 50))
    multiply = options.get("multiply_by_inputs", True) or options.get("attribution_func") is not None
    if name in SHAP:
        given = given(x) if callable(given) else given
        rows = 1 if isinstance(given, float) else len((leaves(given) or [given])[0])
        each = [filled(b, t, rows) for b, t in zip(spread_over(given, leaves(x)), leaves(x))]
        starts = [with_leaves(x, [b[k].expand(t.shape) for b, t in zip(each, leaves(x))]) for k in range(rows)]
        if name == "gradient_shap":
            drawn = loops.draws(leaves(x)[0], n, rows, torch.Generator().manual_seed(5))
            return loops.gradient_shap(q, starts, *drawn, multiply)
        return loops.deep_lift(q, starts, multiply)
    if net.name == "words":
        x0: Any = torch.as_tensor(given).to(x.dtype).expand(x.shape)
    else:
        x0 = with_leaves(x, [filled(b, t) for b, t in zip(spread_over(given, leaves(x)), leaves(x))])
    if name == "integrated_gradients":
        return loops.integrated_gradients(q, x0, along, multiply)
    if name == "internal_influence":
        return loops.internal_influence(q, x0, along)
    if name == "conductance":
        return loops.conductance(q, x0, along)
    if name == "deep_lift":
        return loops.deep_lift(q, [x0], multiply)
    assert name == "convergence_delta"
    gained = loops.scores(q) - loops.scores(q, x0)
    return [options["attributions"].reshape(len(gained), -1).sum(1) - gained]


def filled(base: Any, like: Tensor, rows: int | None = None) -> Tensor:
    shape = like.shape if rows is None else (rows, *like.shape[1:])
    return torch.as_tensor(base, dtype=like.dtype).expand(shape).clone()


def spread_over(given: Any, floats: list[Tensor]) -> list[Any]:
    """One entry for each floating-point tensor."""
    if isinstance(given, dict):
        given = tuple(given.values())
    if isinstance(given, tuple):
        return [given[0], given[2]]  # between them, integers
    return [given] * len(floats)
