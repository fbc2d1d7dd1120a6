"""Inputs that are not all pictures: of several kinds and sizes at once, with ids, masks and rows that are parts of examples.

The references are loops of plain autograd and of plain differences over what carries gradients at the site.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa

from ..close import close, close_and_not_zero
from ..reference import leaves

D = torch.float64
Made = tuple[Any, Any, "Asked"]


class Asked(NamedTuple):
    """What carries gradients at a site, the scores as a function of it, and whose each row is."""

    values: list[Tensor]
    scores: Callable[[list[Tensor]], Tensor]
    owners: list[Tensor] | None = None
    starts: list[Tensor] | None = None  # zeros
    options: Any = None
    examples: Any = None
    groups: Any = None  # a mask for each input, in the structure of x

    def whose(self, i: int) -> Tensor:
        return torch.arange(len(self.values[i])) if self.owners is None else self.owners[i]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=D)


def summed(rows: Tensor, ids: Tensor, count: int) -> Tensor:
    return rows.new_zeros(count, *rows.shape[1:]).index_add(0, ids, rows)


class Net(nn.Module):
    """Layers, and a function of them and of the input."""

    def __init__(self, call: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double().eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self, *args, **kwargs)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x)


def picture_and_table() -> Made:
    def call(m: Any, image: Tensor, table: Tensor) -> Any:
        h = torch.tanh(m.conv(image)).mean((2, 3))
        return m.head(torch.sigmoid(torch.cat([h, m.table(table).relu()], 1)))

    model = Net(call, conv=nn.Conv2d(2, 3, 2), table=nn.Linear(4, 3), head=nn.Linear(6, 3))
    x = {"table": draw(2, 4), "image": draw(2, 2, 3, 4)}
    groups = {"table": torch.tensor([2, 2, 3, 3]), "image": torch.arange(2).reshape(1, 2, 1, 1)}
    return model, x, Asked(list(x.values()), lambda v: model(v[1], v[0])[:, 1], groups=groups)


def two_pictures() -> Made:
    def call(m: Any, small: Tensor, large: Tensor) -> Any:
        return m.head(torch.cat([m.one(small).tanh().amax((2, 3)), F.gelu(m.two(large)).mean((2, 3))], 1))

    model = Net(call, one=nn.Conv2d(1, 3, 2), two=nn.Conv2d(2, 2, 2, stride=2), head=nn.Linear(5, 3))
    x = draw(2, 1, 3, 3), draw(2, 2, 4, 5)
    return model, x, Asked([*x], lambda v: model(*v)[:, 1], groups=(torch.tensor(0), torch.arange(2).reshape(1, 2, 1, 1)))


def numbers_ids_and_a_signal(joint: bool = False) -> Made:
    def call(m: Any, numbers: Tensor, ids: Tensor, wave: Tensor) -> Any:
        return top(m.embed(ids), numbers, wave)

    def top(e: Tensor, numbers: Tensor, wave: Tensor) -> Tensor:
        words = (e * e.sum(-1, keepdim=True).softmax(1)).sum(1)
        every = torch.cat([words, model.table(numbers).relu(), F.silu(model.conv(wave)).mean(2)], 1)
        return model.head(every.tanh())  # type: ignore[no-any-return]  # a module gives any

    layers = {"embed": nn.Embedding(9, 4), "table": nn.Linear(3, 4), "conv": nn.Conv1d(2, 4, 2)}
    model = Net(call, **layers, head=nn.Linear(12, 3))
    x = draw(2, 3), torch.randint(3, 9, (2, 3)), draw(2, 2, 4)
    e = model.embed(x[1]).detach()
    if not joint:
        return model, x, Asked([x[0], x[2]], lambda v: top(e, *v)[:, 1])
    starts = [model.embed(torch.full_like(x[1], 2)).detach(), 0 * x[0], 0 * x[2]]
    options = {"layer": ["embed", None], "baselines": (0.0, 2, 0.0)}
    return model, x, Asked([e, x[0], x[2]], lambda v: top(*v)[:, 1], starts=starts, options=options)


def film_and_sound() -> Made:
    def call(m: Any, film: Tensor, sound: Tensor) -> Any:
        s = m.sound(sound).tanh()
        return m.head(torch.cat([m.film(film).relu().mean((2, 3, 4)), (s * s.softmax(2)).sum(2)], 1))

    model = Net(call, film=nn.Conv3d(1, 3, 2), sound=nn.Conv1d(1, 3, 3, stride=2), head=nn.Linear(6, 3))
    x = {"sound": draw(2, 1, 7), "film": draw(2, 1, 2, 3, 3)}
    return model, x, Asked([x["sound"], x["film"]], lambda v: model(v[1], v[0])[:, 1])


def graphs(how: str) -> Made:
    def call(m: Any, x: Tensor, edges: Tensor, batch: Tensor) -> Any:
        h = m.one(x).relu()
        h = m.two(h + summed(h[edges[0]], edges[1], len(h))).tanh()
        return m.head(summed(h, batch, int(batch.max()) + 1))

    model = Net(call, one=nn.Linear(3, 4), two=nn.Linear(4, 4), head=nn.Linear(4, 3))
    edges, batch = (
        torch.tensor([[0, 2, 1, 3, 4, 5], [2, 0, 3, 1, 5, 4]]),
        torch.tensor([0, 3, 0, 3, 1, 1]),
    )  # of 2 there is none
    x, rest = draw(6, 3), {"edges": edges, "batch": batch}
    asked = Asked([x], lambda v: model(v[0], edges, batch)[:, 1], [batch], examples=batch, groups=torch.arange(3).expand(6, 3))
    if how == "bound":
        return functools.partial(model, **rest), x, asked
    if how == "in a dict":
        return model, {"x": x, **rest}, asked._replace(examples={"x": batch, "batch": batch}, groups=None)
    return model, (x, edges, batch), asked._replace(examples=(batch, None, None), groups=None)


def bags_with_attention() -> Made:
    def call(m: Any, x: Tensor, ids: Tensor) -> Any:
        h = m.one(x).relu()
        weights = m.score(h.tanh()).exp()
        return m.head(summed(h * weights / summed(weights, ids, 3)[ids], ids, 3))

    model = Net(call, one=nn.Linear(4, 5), score=nn.Linear(5, 1), head=nn.Linear(5, 3))
    ids, x = torch.tensor([0, 0, 0, 1, 2, 2]), draw(6, 4)
    return functools.partial(model, ids=ids), x, Asked([x], lambda v: model(v[0], ids)[:, 1], [ids], examples=ids)


def bags_with_offsets() -> Made:
    def call(m: Any, ids: Tensor, offsets: Tensor) -> Any:
        return m.head(m.bag(ids, offsets).tanh())

    model = Net(call, bag=nn.EmbeddingBag(9, 4, mode="mean"), head=nn.Linear(4, 3))
    x, offsets = torch.tensor([3, 4, 5, 6, 7, 8]), torch.tensor([0, 2, 3])
    value, start = (model.bag(t, offsets).detach() for t in (x, torch.full_like(x, 2)))
    options, examples = {"layer": "bag", "baselines": 2}, torch.tensor([0, 0, 1, 2, 2, 2])
    asked = Asked([value], lambda v: model.head(v[0].tanh())[:, 1], starts=[start], options=options, examples=examples)
    return functools.partial(model, offsets=offsets), x, asked


def tiles() -> Made:
    def call(m: Any, x: Tensor, ids: Tensor) -> Any:
        h = m.norm(m.conv(x)).relu().mean((2, 3))
        h = h * m.gate(h).sigmoid()
        return m.head(h.new_full((2, 3), -9.0).scatter_reduce(0, ids[:, None].expand_as(h), h, "amax"))

    model = Net(call, conv=nn.Conv2d(2, 3, 2), norm=nn.BatchNorm2d(3), gate=nn.Linear(3, 3), head=nn.Linear(3, 3))
    ids, x = torch.tensor([0, 1, 1, 1, 0]), draw(5, 2, 3, 3)
    groups = torch.arange(2).reshape(1, 2, 1, 1).expand(5, 2, 3, 3)
    asked = Asked([x], lambda v: model(v[0], ids)[:, 1], [ids], examples=ids, groups=groups)
    return functools.partial(model, ids=ids), x, asked


def ragged_clouds() -> Made:
    """Of other sizes, padded, with the mask beside them."""

    def call(m: Any, points: Tensor, there: Tensor) -> Any:
        h = m.two(m.one(points.mT).relu()).tanh().masked_fill(~there[:, None], -torch.inf)
        return m.head(h.amax(2))

    model = Net(call, one=nn.Conv1d(3, 4, 1), two=nn.Conv1d(4, 5, 1), head=nn.Linear(5, 3))
    x, there = draw(2, 4, 3), torch.tensor([[True, True, False, False], [True] * 4])
    return model, (x, there), Asked([x], lambda v: model(v[0], there)[:, 1], groups=(torch.arange(4).reshape(1, 4, 1), None))


def sets() -> Made:
    def call(m: Any, x: Tensor, mask: Tensor) -> Any:
        q, k, v = m.qkv(x).chunk(3, -1)
        z = F.scaled_dot_product_attention(q, k, F.gelu(v), mask[:, None])
        return m.head((z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    model = Net(call, qkv=nn.Linear(4, 12), head=nn.Linear(4, 3))
    x, mask = draw(3, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    asked = Asked([x], lambda v: model(v[0], mask)[:, 1], groups=torch.arange(3).reshape(1, 3, 1))
    return functools.partial(model, mask=mask), x, asked


KINDS: dict[str, Callable[[], Made]] = {
    "picture and table": picture_and_table,
    "two pictures": two_pictures,
    "numbers, ids and a signal": numbers_ids_and_a_signal,
    "numbers, ids and a signal, jointly": functools.partial(numbers_ids_and_a_signal, True),
    "film and sound": film_and_sound,
    **{f"graphs, {how}": functools.partial(graphs, how) for how in ("bound", "in a dict", "by position")},
    "bags with attention": bags_with_attention,
    "bags with offsets": bags_with_offsets,
    "tiles": tiles,
    "ragged clouds": ragged_clouds,
    "sets": sets,
}


@pytest.mark.parametrize("kind", KINDS)
def test_methods_are_their_loops(kind: str) -> None:
    torch.manual_seed(0)
    model, x, asked = KINDS[kind]()
    options = {"target": 1, **(asked.options or {})}
    at = {name: value for name, value in options.items() if name != "baselines"}

    def ours(method: Any, **more: Any) -> list[Tensor]:
        method = method if asked.examples is None else fa.by_examples(method, asked.examples)
        return leaves(method(model, x, **more))

    starts = asked.starts or [torch.zeros_like(v) for v in asked.values]
    close_and_not_zero(ours(fa.gradient, **at), slopes(asked, asked.values))
    close_and_not_zero(ours(fa.integrated_gradients, n_steps=5, **options), along(asked, starts))
    if asked.starts is None:  # of a layer, the baselines of an ablation would be there
        close_and_not_zero(ours(fa.feature_ablation, **options), lost(asked))
        if asked.groups is not None:
            close_and_not_zero(ours(fa.shapley, feature_mask=asked.groups, **options), shares(asked))
    rise = (asked.scores(asked.values) - asked.scores(starts)).detach()
    sums = torch.zeros_like(rise)
    for i, part in enumerate(ours(fa.deep_lift, **options)):
        sums = sums.index_add(0, asked.whose(i), part.flatten(1).sum(1))
    close_and_not_zero(sums, rise)


def slopes(asked: Asked, at: list[Tensor]) -> list[Tensor]:
    points = [t.detach().clone().requires_grad_() for t in at]
    return list(torch.autograd.grad(asked.scores(points).sum(), points))


def along(asked: Asked, starts: list[Tensor]) -> list[Tensor]:
    total = [torch.zeros_like(v) for v in asked.values]
    for node, weight in zip(*np.polynomial.legendre.leggauss(5)):
        point = [s + (node + 1) / 2 * (v - s) for v, s in zip(asked.values, starts)]
        total = [t + weight / 2 * g for t, g in zip(total, slopes(asked, point))]
    return [t * (v - s) for t, v, s in zip(total, asked.values, starts)]


def lost(asked: Asked) -> list[Tensor]:
    found, whole = [torch.zeros_like(v) for v in asked.values], asked.scores(asked.values).detach()
    for i, part in enumerate(found):
        for at in np.ndindex(*part.shape):
            less = [v.clone() for v in asked.values]
            less[i][at] = 0
            part[at] = (whole - asked.scores(less).detach())[asked.whose(i)[at[0]]]
    return found


def shares(asked: Asked) -> list[Tensor]:
    """Shapley values by all coalitions."""
    masks = [t for t in (asked.groups.values() if isinstance(asked.groups, dict) else leaves_of(asked.groups)) if t is not None]
    players = sorted({int(k) for mask in masks for k in mask.unique()})

    def worth(there: tuple[int, ...]) -> Tensor:
        some = [torch.isin(mask, torch.tensor(there, dtype=mask.dtype)) for mask in masks]
        return asked.scores([torch.where(on, v, 0.0) for on, v in zip(some, asked.values)]).detach()

    found = [torch.zeros_like(v) for v in asked.values]
    for player in players:
        rest, total = [k for k in players if k != player], torch.zeros(())
        for size in range(len(players)):
            weight = 1 / (len(players) * math.comb(len(rest), size))
            total = total + sum(weight * (worth((*some, player)) - worth(some)) for some in itertools.combinations(rest, size))
        for i, (part, mask) in enumerate(zip(found, masks)):
            mine = total[asked.whose(i)].reshape(-1, *[1] * (part.dim() - 1)).expand_as(part)
            part.copy_(torch.where(mask == player, mine, part))
    return found


def leaves_of(groups: Any) -> list[Any]:
    return list(groups) if isinstance(groups, tuple) else [groups]


# Maps.


def map_by_hand(value: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    value = value.detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(value).sum(), value)
    return (slope.flatten(2).mean(2).reshape(*value.shape[:2], *[1] * (value.dim() - 2)) * value).sum(1, keepdim=True).detach()


def test_maps_of_pictures_are_of_those_that_the_layer_sees() -> None:
    """A map at the size of a picture that the layer does not see shows nothing of it: it has none."""
    torch.manual_seed(0)
    model, x, _ = two_pictures()
    rest = F.gelu(model.two(x[1])).mean((2, 3))
    of_one = map_by_hand(model.one(x[0]), lambda v: model.head(torch.cat([v.tanh().amax((2, 3)), rest.detach()], 1))[:, 1])
    found: Any = fa.interpolate(fa.grad_cam)(model, x, layer="one", target=1)
    close(found[0], F.interpolate(of_one, (3, 3)))
    assert found[1] is None
    every: Any = fa.interpolate(fa.grad_cam)(model, x, layer={"a": "one", "b": "two"}, target=1)
    close(every["a"][0], found[0])
    assert every["a"][1] is None
    assert every["b"][0] is None
    assert every["b"][1].shape == (2, 1, 4, 5)
    named: Any = fa.interpolate(fa.grad_cam, size=(3, 3))(model, {"small": x[0], "large": x[1]}, layer="one", target=1)
    close(named["small"], found[0])
    assert named["large"] is None
    each: Any = fa.each_target(fa.interpolate(fa.grad_cam), [0, 1])(model, x, layer="one")  # mapped over
    close(each[0][1], found[0])
    assert each[1] is None
    noisy: Any = fa.noise_tunnel(fa.interpolate(fa.grad_cam), n_samples=3, stdevs=0.0)(model, x, layer="one", target=1)
    close(noisy[0], found[0])
    assert noisy[1] is None


def test_maps_of_pictures_at_a_layer_of_complex_numbers() -> None:
    torch.manual_seed(0)
    model, x, _ = two_pictures()
    model.one = nn.Sequential(model.one, Spectrum())

    def size(model: Any, x: Any, *, layer: Any, target: Any = None) -> Tensor:
        return fa.split(model, layer).value_at(x).abs()  # type: ignore[return-value, union-attr]  # of one tensor

    found: Any = fa.interpolate(size)(lambda small, large: model.one(small).real, x, layer=model.one)
    close(found[0], F.interpolate(model.one(x[0]).abs().detach(), (3, 3)))
    assert found[1] is None


def test_score_cam_sees_the_other_picture_whole() -> None:
    torch.manual_seed(0)
    model, x, _ = two_pictures()
    alone = fa.score_cam(functools.partial(model, large=x[1]), x[0], layer="one", target=1)
    close(fa.score_cam(model, x, layer="one", target=1), alone)
    close(fa.each_target(fa.score_cam, [1, 1])(model, x, layer="one"), torch.stack([alone, alone]))  # mapped over


def test_maps_of_films_and_of_sounds() -> None:
    torch.manual_seed(0)
    model, x, _ = film_and_sound()
    sound = model.sound(x["sound"]).tanh()
    heard = (sound * sound.softmax(2)).sum(2).detach()
    cam = map_by_hand(model.film(x["film"]), lambda v: model.head(torch.cat([v.relu().mean((2, 3, 4)), heard], 1))[:, 1])
    close(fa.grad_cam(model, x, layer="film", target=1), cam)
    found: Any = fa.interpolate(fa.grad_cam, mode="trilinear")(model, x, layer="film", target=1)
    close(found["film"], F.interpolate(cam, (2, 3, 3), mode="trilinear"))
    assert found["sound"] is None
    found = fa.interpolate(fa.grad_cam, mode="linear")(model, x, layer="sound", target=1)
    assert found["film"] is None
    assert found["sound"].shape == (2, 1, 7)


def test_maps_of_tiles_are_brought_to_their_size_outside() -> None:
    """Inside, dimension 1 is that of the rows of an example: what takes it for channels is refused."""
    torch.manual_seed(0)
    model, x, asked = tiles()
    at: dict[str, Any] = {"layer": "conv", "target": 1}
    maps = fa.by_examples(fa.grad_cam, asked.examples)(model, x, channel_dim=-3, **at)
    found = fa.interpolate(fa.by_examples(fa.grad_cam, asked.examples), mode="bilinear")(model, x, channel_dim=-3, **at)
    close(found, F.interpolate(maps, (3, 3), mode="bilinear"))
    close(fa.by_examples(functools.partial(fa.grad_cam, channel_dim=-3), asked.examples)(model, x, **at), maps)
    even, x = torch.tensor([0, 1, 1, 0]), x[:4]
    model = functools.partial(model.func, ids=even)
    for method, options in (
        (fa.interpolate(fa.grad_cam), {"channel_dim": -3, **at}),
        (fa.score_cam, {"channel_dim": -3, **at}),
        (fa.guided_grad_cam, at),
        (fa.sum_channels(fa.gradient), {"target": 1}),
        (fa.relu(fa.sum_channels(fa.gradient)), {"target": 1}),
    ):
        with pytest.raises(ValueError, match="takes dimension 1 for channels"):
            fa.by_examples(method, even)(model, x, **options)
    summed = fa.by_examples(fa.sum_channels(fa.gradient, channel_dim=-3), even)(model, x, target=1)
    close(summed, fa.by_examples(fa.gradient, even)(model, x, target=1).sum(1, keepdim=True))


def test_a_number_without_dimensions() -> None:
    """A temperature beside the input: it has no row for any example, and takes part as the others do."""
    net, x, scale = nn.Linear(4, 3, dtype=D), draw(3, 4), torch.tensor(0.5, dtype=D)

    def model(a: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(net(a))[:, 1] / (1 + scale**2)

    given, zeros = {"a": x, "scale": scale}, torch.zeros(1, 4, dtype=D)
    starts = [(0.0, 0.0), (0.1, {"a": 0.0, "scale": 0.1}), (0.1, {"a": zeros, "scale": torch.tensor(0.1, dtype=D)})]
    methods: list[Any] = [fa.integrated_gradients, fa.conductance, fa.deep_lift, fa.deep_lift_shap, fa.shapley]
    for method in (*methods, fa.mean_over_baselines(fa.integrated_gradients)):
        for first, start in starts:
            found = method(model, given, baselines=start)
            assert (found["a"].shape, found["scale"].shape) == (x.shape, scale.shape)
            gain = model(x, scale) - model(torch.zeros_like(x), torch.tensor(first, dtype=D))
            close(found["a"].sum() + found["scale"].sum(), gain.sum().detach())
        alone = method(functools.partial(model, scale=scale), x, baselines=zeros)
        close(method(model, given, baselines={"a": zeros, "scale": None})["a"], alone)
    for shared in (scale, draw(2, 1)):
        with pytest.raises(ValueError, match="without a row for each of the 3 examples, for which baselines are drawn"):
            fa.gradient_shap(lambda a, scale: model(a, scale.mean()), {"a": x, "scale": shared}, baselines=0.0)
