"""The model matrix: architectures that people use, places in them, and what every method must give there.

The hard cases, named first; each is in the matrix or in `test_text`:

- T5: one embedding matrix in three modules, encoder and decoder ids, attention biases that only the first block makes.
- Swin: windows are cut out of the batch (a value with more rows than examples), shifted by `roll`; masks made from shapes.
- Wav2Vec2: a weight made by a parametrization, masks made from an attention mask of another length, layer drop.
- Llama: RMSNorm and rotary embeddings in float32 inside a float64 model, grouped heads, a cache made in every pass.
- GPT-2: a causal mask made inside; the classifier looks at the data to find the last token that is no padding.
- Masks: models that branch on the data of a mask, which `vmap` forbids; masks in a dict `x`, and masks bound by `partial`,
  which no path may expand.
- CLIP: the two-tower output ``[N, N]`` mixes examples; the text tower finds its last token by comparing ids.
- Segformer: one score per example out of a map of logits; batch norm in the head.
- LSTM, GRU: no batching rule, nested values, states whose batch is not first; a graph's adjacency matrix that has no batch.
- Layers whose value, for all examples, is one tensor without a batch (rotary angles); values that hold None.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import funattr as fa
from funattr._types import Place

from .architectures import prepared
from .matrix_nets import Net, Site
from .methods import METHODS, Row, one_window
from .reference import Leaves, leaves, logits
from .reference.alone import Alone
from .reference.passes import called, row

STEPS, START, SEED, GROUPS = 3, 0.25, 5, 4
TOKEN = 5  # what stands in for a token


def more_targets(net: Net) -> list[Any]:
    """For the larger version: one class for all, and a function of the output that is not linear."""
    if callable(net.target) or isinstance(net.target[0], tuple):
        return []
    return [2, lambda output: logits(output)[:, 1] ** 2 - logits(output)[:, 0]]


def more_sites(net: Net, attention: str) -> dict[str, Site]:
    """For the larger version: every other layer that runs once and gives something to attribute."""
    torch.manual_seed(0)
    model, x = prepared(net.build(attention)), net.inputs()
    ran: dict[str, list[bool]] = {}
    asked = {site.layer for site in net.sites.values() if isinstance(site.layer, str)}
    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: ran.setdefault(name, []).append(bool(leaves(output))))
        for name, module in model.named_modules()
        if name and name not in asked
    ]
    with torch.no_grad():
        output = called(model, x, net.bound() | net.fixed())
    for handle in handles:
        handle.remove()
    del output
    once = [name for name, runs in ran.items() if runs == [True]]
    found: dict[str, Site] = {}
    for name in once:
        found.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), Site(name))
    return {site.layer: site for site in found.values()}


# Every row of the table of methods, and one that is not in it.

ROWS = [*METHODS, Row("each_target(gradient)", fa.gradient, None)]
#: Of few players, of windows side by side, and, in place of rules that change nothing, those that fit every model.
GAMES: dict[str, Callable[..., Any]] = {"shapley": fa.shapley, "lime": fa.lime, "occlusion": fa.occlusion, "lrp": fa.lrp}
DRAWN = 8  # coalitions, of a surrogate


#: Operations that no rule met: `lrp` names them.
UNMET = "operations without a rule keep their gradient: "


class Found(NamedTuple):
    """What became of one combination: the worst relative error of how many tensors, or why it cannot be; and the warnings."""

    error: float = 0.0
    compared: int = 0
    reason: str | None = None
    warnings: tuple[str, ...] = ()


#: Why a combination cannot be, and what the error says.
REASONS = {
    "ids": (TypeError, r"x holds no floating-point tensor|x holds only integers"),
    "relu": (ValueError, "the model has no ReLU"),
    "space": (ValueError, "spatial dimensions"),
    "rows": (
        ValueError,
        r"without a row for each|has no row for each|steps in time first|the score has \d+ values for the \d+ examples of x",
    ),
}

#: The only thing that a right answer may be accompanied by.
SEQUENTIAL = "the steps run one after another, which is slower: torch.func.vmap cannot run this model"


def tolerance(row: Row, net: Net, attention: str) -> float:
    """Some models compute the softmax of eager attention, or norms, in float32; so exact is DeepLIFT's sum there."""
    single = net.single or (attention == "eager" and len(net.attention) > 1)
    return 1e-5 if single and row.name.startswith("deep_lift") else 1e-9


class Question:
    """A net at a site: the reference's work, shared by all methods."""

    def __init__(self, net: Net, attention: str, kind: str, target: Any = None):
        torch.manual_seed(0)
        self.net, self.site = net, net.sites[kind]
        self.model = prepared(net.build(attention))
        self.x: Any = net.inputs()
        self.bound, self.fixed = net.bound(), net.fixed()
        self.channel = net.channel if self.site.channel is None else self.site.channel
        self.called = functools.partial(self.model, **self.bound, **self.fixed) if self.bound or self.fixed else self.model
        layer = self.site.layer
        self.place = layer if isinstance(layer, Place) or layer is None else Place(layer, False, None)
        target = net.target if target is None else target
        self.target = list(target) if isinstance(target, tuple) else target
        pick = self.picker(self.target)
        self.loops = Alone(self.model, self.x, self.bound, self.fixed, self.place, pick, self.start(), STEPS)
        self.integers = not leaves(self.x)

    def picker(self, target: Any) -> Callable[[Any, int], Tensor]:
        if callable(target):
            return lambda output, i: target(output)[0]
        return lambda output, i: logits(output)[0][target if isinstance(target, int) else target[i]]

    # Where paths start, as the methods take it and as the loops do.

    def baselines(self, make: Callable[[Tensor], Any], other: Callable[[Tensor], Any]) -> Any:
        if isinstance(self.x, dict):
            return {name: make(t) if name in self.net.ids else other(t) for name, t in self.x.items()}
        if isinstance(self.x, tuple):
            return tuple(make(t) if t.is_floating_point() else other(t) for t in self.x)
        return make(self.x)

    def start(self) -> Any:
        return self.baselines(lambda t: torch.full_like(t, START if t.is_floating_point() else TOKEN), lambda t: t)

    def given_start(self) -> Any:
        return self.baselines(lambda t: START if t.is_floating_point() else TOKEN, lambda t: None)

    def references(self) -> Any:
        """Two, for the methods that take many."""
        generator = torch.Generator().manual_seed(SEED)

        def two(t: Tensor) -> Tensor:
            if t.is_floating_point():
                return torch.randn((2, *t.shape[1:]), generator=generator, dtype=t.dtype)
            return torch.randint(4, 6, (2, *t.shape[1:]), generator=generator)

        return self.baselines(two, lambda t: None)

    def reference(self, k: int) -> Any:
        """One of them for every example; what has none is held."""
        leaf = iter(tree_flatten(self.references())[0])
        return tree_map(lambda t: t if (r := next(leaf)) is None else r[k : k + 1].expand(t.shape), self.x)

    # What cannot be.

    def reason(self, row: Row) -> str | None:
        values, floats = self.loops.whole, leaves(self.x)
        rows = [v.dim() > 0 and v.shape[0] == self.loops.size for v in values]
        if row.name.endswith(("_cam", "_plus_plus")) and row.name != "guided_grad_cam" and not self.mapped(row):
            return "rows"
        if row.name == "score_cam" and not (rows[0] if self.integers else all(rows)):
            return "rows"
        if self.integers and row.name in ("internal_influence", "conductance", "score_cam", "guided_grad_cam"):
            return "ids"
        if self.integers and self.place is None and row.name != "feature_ablation":
            return "ids"
        if row.relu and not self.net.relu:
            return "relu"
        if row.name == "guided_grad_cam" and len(values) > len(floats):
            return "space"
        if row.convolutional and any(v.dim() < 3 or v.dim() != t.dim() for v in values for t in floats):
            return "space"
        # Of integers, random points are at the place.
        needs = row.batch_first or (row.name == "gradient_shap" and self.integers)
        return "rows" if needs and not all(rows) else None

    def mapped(self, row: Row) -> bool:
        """Whether a value has a map for each example: no table of positions, nor states, whose layers come first."""
        size, values = self.loops.size, self.loops.whole
        for v, d in zip(values, self.loops.dims):
            if d == 1 and v.dim() > 2 and v.shape[0] % size == 0 and v.shape[1] == size:
                return False
        firsts = [v.shape[0] if v.dim() else 0 for v in values]
        return row.name in ("score_cam", "ablation_cam") or any(n and n % size == 0 for n in firsts)

    def applies(self, row: Row) -> bool:
        return row.at_input or self.place is not None

    # A combination.

    def ask(self, row: Row) -> Found:
        reason = self.reason(row)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if reason is not None:
                kind, text = REASONS[reason]
                with pytest.raises(kind, match=text):
                    self.answer(row)
                return Found(reason=reason)
            pairs = self.compare(row, self.answer(row))
        told = tuple(sorted({str(w.message) for w in caught}))
        floors = self.floors(row, len(pairs))
        error = max(relative(a, b, floor) for (a, b), floor in zip(pairs, floors))
        return Found(error, len(pairs), None, told)

    def floors(self, row: Row, count: int) -> list[float]:
        """What is summed may cancel to 0, but for rounding: gradients over channels before a layer norm, over keys."""
        if row.name == "sum_channels(gradient)":
            return [float(g.abs().max()) for g in self.loops.gradient]
        # Where a value does not move along the path (the text's, while the image does) nothing flows through it.
        if row.name == "conductance" or (row.formula is not None and row.name.endswith("cam")):
            return [float(g.abs().max() * v.abs().max()) for v, g in zip(self.loops.value, self.loops.gradient)]
        if row.name in GAMES:  # what a group adds to the score, which has the rounding of the score
            return [float(torch.stack(self.loops.plain_scores).abs().max())] * count
        return [0.0] * count

    def answer(self, row: Row, **more: Any) -> Any:
        options: dict[str, Any] = dict(row.options)
        if row.targeted:
            options["target"] = self.target
        if row.name in ("integrated_gradients", "internal_influence", "conductance", "deep_lift"):
            options["baselines"] = self.given_start()
        if row.name in ("gradient_shap", "deep_lift_shap"):
            options["baselines"] = self.references()
        if row.name == "gradient_shap":
            options |= {"n_samples": 2, "generator": torch.Generator().manual_seed(SEED)}
        if row.name == "feature_ablation":
            options |= {"baselines": TOKEN if self.integers and self.place is None else START, "feature_mask": self.mask()}
        if row.name in ("shapley", "lime", "occlusion"):
            options["baselines"] = START
            window = row.name == "occlusion"
            options |= {"window": self.windows(), "strides": self.windows()} if window else {"feature_mask": self.mask()}
        if row.name == "lime":
            options |= {"n_samples": DRAWN, "generator": torch.Generator().manual_seed(SEED)}
        if row.name == "lrp":
            options["rules"] = fa.rules.epsilon()
        if row.name.endswith("_cam") and row.name != "guided_grad_cam":
            options["channel_dim"] = self.channel
        method = GAMES.get(row.name, row.method)
        if row.name == "noise_tunnel(gradient)":
            method = fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.1, generator=torch.Generator().manual_seed(SEED))
        if row.name == "sum_channels(gradient)":
            method = fa.sum_channels(fa.gradient, channel_dim=self.channel)
        if row.name == "each_target(gradient)":
            del options["target"]
            method = fa.each_target(fa.gradient, self.targets())
        return method(self.called, self.x, layer=self.site.layer, **options, **more)

    def targets(self) -> list[Any]:
        """The target, and one that is another for the same examples."""
        target = self.target
        if callable(target):
            return [target, lambda output: 2 * target(output)]
        if isinstance(target, int):
            return [target, target - 1]
        if isinstance(target[0], tuple):
            return [target, [(t[0], t[1] + 1) for t in target]]
        return [torch.tensor(target), torch.tensor(target).flip(0)]

    def windows(self) -> Any:
        """Half of the last dimension of each tensor that is attributed, and all of the others."""
        like = self.x if self.place is None else fa.activation(self.called, self.x, layer=self.site.layer)
        return tree_map(one_window, like)

    def conserved(self, relevance: Leaves, rules: Any) -> tuple[Tensor, Tensor]:
        """Relevance, with what operations absorbed, and the score: of each example, or of all where they share a tensor."""
        kept = fa.absorbed(self.called, self.x, layer=self.site.layer, target=self.target, rules=rules)
        rest, score = sum(kept.values(), torch.zeros(())), torch.stack(self.loops.plain_scores).detach()
        if None in self.loops.dims:
            return sum(t.sum() for t in relevance) + rest.sum(), score.sum()
        return self.loops.sums(relevance) + rest, score

    def mask(self) -> Any:
        """A few groups of features, over all tensors at the site that are attributed."""
        generator = torch.Generator().manual_seed(SEED)
        like = self.x if self.place is None else fa.activation(self.called, self.x, layer=self.site.layer)
        floats = bool(leaves(like))
        self.ids: Leaves = []

        def groups(t: Any) -> Any:
            if not isinstance(t, Tensor) or (floats and not t.is_floating_point()):
                return None
            shape = list(t.shape)
            shape[0] = 1
            if floats:
                d = self.loops.dims[len(self.ids)]
                shape = [1 if k == d else size for k, size in enumerate(t.shape)]
            self.ids.append(torch.randint(0, GROUPS, shape, generator=generator))
            return self.ids[-1]

        return tree_map(groups, like)

    def compare(self, row: Row, found: Any) -> list[tuple[Tensor, Tensor]]:
        flat = leaves(found)
        assert not any(t.requires_grad for t in flat)
        if row.name == "lrp":
            return [self.conserved(flat, fa.rules.epsilon())]
        expected = self.expected(row)
        assert len(flat) == len(expected), f"{len(flat)} attributions, expected {len(expected)}"
        pairs = list(zip(flat, expected))
        if row.name in ("deep_lift", "deep_lift_shap") and self.site.cuts:
            pairs.append((self.loops.sums(flat), self.gains(row)))
        return pairs

    def expected(self, row: Row) -> Leaves:
        loops = self.loops
        if row.name == "noise_tunnel(gradient)":
            return loops.noisy(2, 0.1, SEED)
        if row.formula is not None:
            moves = row.name.endswith("_cam") or row.name == "sum_channels(gradient)"
            return [self.by_formula(row.formula, v, g, moves) for v, g in zip(loops.value, loops.gradient)]
        if row.name == "normalize(gradient)":
            peak = torch.stack([g.flatten(1).abs().amax(1) for g in loops.gradient]).amax(0)
            return [g / peak.reshape(-1, *[1] * (g.dim() - 1)) for g in loops.gradient]
        if row.name in ("guided_backprop", "deconvnet"):
            return loops.under(row.name == "guided_backprop")
        if row.name == "guided_grad_cam":
            return self.guided_grad_cam()
        if row.name in ("deep_lift", "deep_lift_shap"):
            return loops.deep_lift(self.starts(row))
        if row.name == "gradient_shap":
            return loops.gradient_shap([self.reference(k) for k in range(2)], 2, SEED)
        if row.name == "each_target(gradient)":
            each = []
            for target in self.targets():
                pick = self.picker(target.tolist() if isinstance(target, Tensor) else target)
                each.append(loops.joined([loops.slope(i, pick) for i in loops.rows()]))
            return [torch.stack(same) for same in zip(*each)]
        if row.name == "feature_ablation":
            self.mask()
            return self.tokens_ablated() if self.place is None and self.integers else loops.ablated(self.ids, GROUPS, START)
        if row.name in ("shapley", "lime"):
            self.mask()
            if row.name == "shapley":
                return loops.shapley(self.ids, START)
            count = len({int(i) for ids in self.ids for i in ids.unique()})
            drawn = torch.rand(DRAWN - 1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)) < 0.5
            return loops.lime(self.ids, START, torch.cat([torch.ones(1, count, dtype=torch.bool), drawn]))
        if row.name == "occlusion":
            return loops.occlusion([one_window(t) for t in self.loops.values[0]], START)
        if row.name in ("ablation_cam", "score_cam"):
            cam: Callable[[int], Leaves] = getattr(loops, row.name)
            return cam(self.channel)
        made: Callable[[], Leaves] = getattr(loops, row.name)
        return made()

    def by_formula(self, formula: Callable[[Tensor, Tensor], Tensor], v: Tensor, g: Tensor, moves: bool) -> Tensor:
        if not moves:
            return formula(v, g)
        c = self.channel % v.dim()
        return formula(v.movedim(c, 1), g.movedim(c, 1)).movedim(1, c)

    def guided_grad_cam(self) -> Leaves:
        grad_cam = next(r for r in METHODS if r.name == "grad_cam")
        at_input = Alone(self.model, self.x, self.bound, self.fixed, None, self.loops.pick, self.start(), STEPS).under(True)
        assert grad_cam.formula is not None
        maps = grad_cam.formula(self.loops.value[0], self.loops.gradient[0]).clamp(min=0)
        return [g * F.interpolate(maps, g.shape[2:], mode="nearest") for g in at_input]

    def tokens_ablated(self) -> Leaves:
        """At the input of ids: groups of all integers there."""
        parts = self.x if isinstance(self.x, dict) else {"": self.x}
        losses = []
        for k in range(GROUPS):
            each = []
            for i in self.loops.rows():
                without = {
                    name: torch.where(ids == k, torch.full_like(t[i : i + 1], TOKEN), t[i : i + 1])
                    for ids, (name, t) in zip(self.ids, parts.items())
                }
                x = without if isinstance(self.x, dict) else without[""]
                each.append(self.loops.plain_scores[i] - self.loops.score(i, x))
            losses.append(torch.stack(each))
        table = torch.stack(losses)
        return [torch.cat([table[:, i][ids] for i in self.loops.rows()]) for ids in self.ids]

    def starts(self, row: Row) -> list[Any]:
        return [self.reference(k) for k in range(2)] if row.name == "deep_lift_shap" else [self.start()]

    def gains(self, asked: Row) -> Tensor:
        """How the scores differ from those of the baselines."""
        starts = self.starts(asked)
        each = [[self.loops.score(i, row(start, i)) for start in starts] for i in self.loops.rows()]
        return torch.stack([score - torch.stack(before).mean() for score, before in zip(self.loops.plain_scores, each)])


def relative(found: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """The largest error, relative to the largest value."""
    assert found.shape == expected.shape, f"{list(found.shape)}, expected {list(expected.shape)}"
    assert found.dtype == expected.dtype, f"{found.dtype}, expected {expected.dtype}"
    if not expected.numel():
        return 0.0
    scale = max(float(expected.detach().abs().max()), floor)
    error = float((found.detach() - expected.detach()).abs().max())
    return error / scale if scale > 0 else error
