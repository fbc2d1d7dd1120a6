"""`fa.game` against a loop over coalitions, baselines and examples, on models that are cut by hand."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa
from funattr._steps.coalitions import coalition_scores, opened

from ..close import close
from ..cost import cost
from ..models import Recurrent, Text

NET = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double().eval()
X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
B = torch.randn(6, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def subsets(count: int, players: int, seed: int = 0) -> Tensor:
    return torch.rand(count, players, generator=torch.Generator().manual_seed(seed)) < 0.5


def by_hand(tail: Callable[[Tensor], Tensor], v: Tensor, ids: Tensor, baselines: Tensor, coalitions: Tensor) -> Tensor:
    """One coalition, one baseline and one example at a time: ``[S, N]``. `ids` [N, F], baselines [B, N, F]."""
    found = torch.zeros(len(coalitions), len(v), dtype=v.dtype)
    for s, coalition in enumerate(coalitions):
        for n in range(len(v)):
            for row in baselines[:, n]:
                mixed = [v[n, f] if coalition[ids[n, f]] else row[f] for f in range(v.shape[1])]
                found[s, n] += tail(torch.stack(mixed)[None])[0] / len(baselines)
    return found


def class_of(model: nn.Module, number: int, v: Tensor) -> Tensor:
    return model(v)[:, number]


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("rows", ["number", "one", "each", "several", "several each"])
def test_equals_one_pass_after_another(layer: str | None, rows: str) -> None:
    v = X if layer is None else NET[0](X).detach()
    full = B[..., : v.shape[1]]
    base: Any = {"number": 0.3, "one": full[0, :1], "each": full[0], "several": full[:, :1], "several each": full}[rows]
    asked = torch.as_tensor(base, dtype=v.dtype)
    asked = (asked if asked.dim() == 3 else asked[None]).expand(6 if asked.dim() == 3 else 1, 4, v.shape[1])
    mask = torch.tensor([4, 4, -1, 9, 9, 9, 2][: v.shape[1]])
    ids = torch.unique(mask, return_inverse=True)[1].expand(4, -1)
    players, classes = len(torch.unique(mask)), NET(X).argmax(1)
    whole = NET[0 if layer is None else 1 :]
    coalitions = subsets(8, players)
    columns = []
    for n in range(4):
        one = functools.partial(class_of, whole, int(classes[n]))
        columns.append(by_hand(one, v[n : n + 1], ids[n : n + 1], asked[:, n : n + 1], coalitions))
    expected = torch.cat(columns, 1)
    for chunk_size in (None, 1, 5):
        game = fa.game(NET, X, layer=layer, target="argmax", baselines=base, feature_mask=mask, chunk_size=chunk_size)
        assert game.players == players
        close(game.value(coalitions), expected.detach())
    close(game.value(coalitions.reshape(2, 4, players)), expected.detach().reshape(2, 4, 4))


def test_the_ends_are_the_scores_themselves() -> None:
    game = fa.game(NET, X, layer="1", target=2, baselines=0.7)
    close(game.value(torch.ones(7, dtype=torch.bool)), NET(X)[:, 2])
    close(game.value(torch.zeros(7, dtype=torch.bool)), NET[2](torch.full((4, 7), 0.7, dtype=torch.float64))[:, 2])
    empty = game.value(torch.zeros(0, 7, dtype=torch.bool))
    assert empty.shape == (0, 4)
    assert empty.dtype == torch.float64
    assert fa.game(NET, X[:0], target=2).value(subsets(3, 5)).shape == (3, 0)


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("rows", [1, 0])
def test_of_no_examples_over_a_distribution(layer: str | None, rows: int) -> None:
    width = 5 if layer is None else 7
    given: Any = {"layer": layer, "target": 2, "baselines": B[:, :rows, :width]}
    assert fa.game(NET, X[:0], **given).value(subsets(3, width)).shape == (3, 0)
    for method in (fa.shapley, fa.lime, fa.feature_ablation, functools.partial(fa.occlusion, window=2)):
        assert method(NET, X[:0], **given).shape == (0, width)


@given(seed=st.integers(0, 100), chunk_size=st.sampled_from([None, 1, 3, 64]), layer=st.sampled_from([None, "0", "1"]))
def test_without_one_player_is_ablation(seed: int, chunk_size: int | None, layer: str | None) -> None:
    width = 5 if layer is None else 7
    mask = torch.randint(-3, 9, (4, width), generator=torch.Generator().manual_seed(seed))
    options: dict[str, Any] = {"layer": layer, "target": [0, 1, 2, 0], "baselines": B[:, :1, :width], "feature_mask": mask}
    game = fa.game(NET, X, chunk_size=chunk_size, **options)
    all_in = torch.ones(1, game.players, dtype=torch.bool)
    lost = game.value(all_in) - game.value(~torch.eye(game.players, dtype=torch.bool))
    close(game.spread(lost), fa.feature_ablation(NET, X, **options))


@given(seed=st.integers(0, 100), chunk_size=st.sampled_from([None, 1, 4]))
def test_coalitions_of_each_example_are_those_of_each_alone(seed: int, chunk_size: int | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = None if seed % 3 == 0 else torch.randint(0, 4, (1 if seed % 3 == 1 else 4, 7), generator=generator)
    if mask is not None:
        mask[:, :4] = torch.arange(4)  # every example has every player
    options: dict[str, Any] = {"target": 1, "baselines": B}
    with torch.no_grad():
        play = opened(NET, X, "1", 1, B, mask, chunk_size, False)
        each = torch.rand(5, 4, play.players, generator=generator) < 0.5
        found = coalition_scores(play, each)
    for n in range(4):
        own = mask if mask is None or len(mask) == 1 else mask[n : n + 1]
        game = fa.game(NET, X[n : n + 1], layer="1", feature_mask=own, **options | {"baselines": B[:, n : n + 1]})
        close(found[:, n], game.value(each[:, n])[:, 0])


def test_integers_dicts_tuples_and_several_sites() -> None:
    text, ids = Text().double().eval(), torch.randint(1, 20, (3, 4))
    game = fa.game(text, ids, target=1, baselines=3)
    coalitions = subsets(6, 4)
    expected = torch.stack([text(torch.where(c, ids, 3)).logits[:, 1] for c in coalitions])
    close(game.value(coalitions), expected.detach())

    def two(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1) + a[:, 0] ** 2

    a, b = torch.randn(2, 3, 2, dtype=torch.float64)
    for x, mask in (
        ((a, b), (torch.tensor([0, 1]), torch.tensor([1, 5]))),
        ({"a": a, "b": b}, {"a": torch.tensor([0, 1]), "b": None}),
    ):
        game = fa.game(two, x, feature_mask=mask)
        kept = torch.tensor([[False, True, True][: game.players]])
        close(game.value(kept)[0], two(a * torch.tensor([0, 1]), b))
        assert game.players == (2 if isinstance(x, dict) else 3)

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(5, 2).double(), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x).prod(1) * self.right(x).sum(1)

    sides = Sides()
    joint = fa.game(sides, X, layer={"l": "left", "r": "right"})
    kept = torch.tensor([True, True, False, True, False])
    expected = sides.left(X).prod(1) * (sides.right(X) * torch.tensor([0, 1, 0])).sum(1)
    close(joint.value(kept), expected.detach())
    assert {k: v.shape for k, v in joint.spread(torch.zeros(5, 4)).items()} == {"l": (4, 2), "r": (4, 3)}

    held: dict[str, Any] = {"layer": {"l": "left", "r": "right"}, "feature_mask": {"l": torch.arange(2), "r": None}}
    assert fa.game(sides, X, **held).players == 2
    alone = {"layer": "left", "feature_mask": torch.arange(2)}
    methods: list[Callable[..., Any]] = [fa.shapley, fa.lime, fa.feature_ablation]
    for method in methods:
        torch.manual_seed(0)
        found = method(sides, X, **held)
        assert found["r"] is None
        torch.manual_seed(0)
        close(found["l"], method(sides, X, **alone))


def test_rows_that_vmap_cannot_map() -> None:
    model, x = Recurrent().double().eval(), torch.randn(2, 7, 4, dtype=torch.float64)
    mask = torch.arange(7)[:, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the steps run one after another")
        game = fa.game(model, x, target=1, feature_mask=mask, layer=fa.input_of("lstm"), chunk_size=5)
        coalitions = subsets(6, 7)
        found = game.value(coalitions)
    close(found, torch.stack([model(x * c[:, None])[:, 1] for c in coalitions]).detach())


def test_neurons_functions_half_precision_and_the_original_model() -> None:
    kept = subsets(5, 5)
    close(fa.game(NET, X, target=fa.neuron("1", 3)).value(kept), torch.stack([NET[:2](X * c)[:, 3] for c in kept]).detach())
    called = fa.game(NET, X, target=lambda out: out.logsumexp(1)).value(kept)
    close(called, torch.stack([NET(X * c).logsumexp(1) for c in kept]).detach())
    half = fa.game(lambda x: x.bfloat16().sum(1), X, baselines=torch.zeros(3, 1, 5)).value(kept)
    assert half.dtype == torch.bfloat16
    with torch.inference_mode():
        game = fa.game(NET, X, target=1)
        inside = game.value(kept)
    close(inside, game.value(kept))


def test_differentiated() -> None:
    x, net = X.clone().requires_grad_(), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    kept = subsets(5, 5)
    game = fa.game(net, x, layer="1", target=0, create_graph=True)
    (found,) = torch.autograd.grad(game.value(subsets(5, 4)).square().sum(), x)
    by_hand = (net[2](net[1](net[0](x)) * subsets(5, 4)[:, None])[..., 0]).square().sum()
    close(found, torch.autograd.grad(by_hand, x)[0])
    assert not fa.game(net, x, target=0).value(kept).requires_grad


@pytest.mark.full
def test_compiled_and_mapped() -> None:
    for layer, width in ((None, 5), ("0", 7)):
        kept = subsets(9, width)
        options: dict[str, Any] = {"layer": layer, "target": "argmax", "baselines": B[:, :1, :width]}
        game = fa.game(NET, X, **options)
        expected = game.value(kept)
        close(torch.compile(game.value, fullgraph=True, backend="aot_eager")(kept), expected)

        def whole(x: Tensor, kept: Tensor, options: dict[str, Any] = options) -> Tensor:
            return fa.game(NET, x, **options).value(kept)

        close(torch.compile(whole, fullgraph=True, backend="aot_eager")(X, kept), expected)
        mapped = torch.func.vmap(lambda x, whole=whole, kept=kept: whole(x[None], kept)[:, 0])(X)
        close(mapped.t(), expected)
        close(torch.func.vmap(game.value)(kept), expected)


def test_progress_and_cost() -> None:
    told: list[tuple[int, int]] = []
    game = fa.game(NET, X, layer="1", target=1, baselines=B[:2], chunk_size=3)
    with fa.progress(lambda done, total: told.append((done, total))):
        game.value(subsets(5, 7))
    assert told == [(0, 10), (3, 10), (6, 10), (8, 10), (10, 10)] or told[0] == (0, 10)
    assert told[-1] == (10, 10)

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0
            self.early = nn.Linear(5, 7).double()

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return self.early(x).square().sum(1)

    model = Counts()
    game = fa.game(model, X, layer="early", chunk_size=4)
    before = cost(lambda: model(X)).flops
    counted = cost(lambda: game.value(subsets(16, 7)))
    assert counted.flops <= 4 * before  # one prefix per chunk


def test_as_another_library_plays_it() -> None:
    game = fa.game(NET, X[:1], target=1, baselines=B[0, :1, :5])

    def play(coalitions: Any) -> Any:
        return game.value(torch.from_numpy(np.atleast_2d(coalitions)))[:, 0].numpy()

    one, many = play(np.array([True, False, True, True, False])), play(np.eye(5, dtype=bool))
    assert one.shape == (1,)
    assert many.shape == (5,)
    mixed = torch.where(torch.tensor([True, False, True, True, False]), X[:1], B[0, :1, :5])
    np.testing.assert_allclose(one, NET(mixed)[:, 1].detach().numpy())


REFUSED: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (
        TypeError,
        r"value\(\): coalitions must be a bool tensor .*float32.*pass torch.as_tensor\(coalitions\).bool\(\)",
        lambda: play(torch.ones(2, 5)),
    ),
    (TypeError, r"bool.*array", lambda: play(np.ones((2, 5), dtype=bool))),
    (ValueError, r"\[2, 4\], expected \[..., 5\].*the 5 players", lambda: play(torch.ones(2, 4, dtype=torch.bool))),
    (ValueError, r"expected \[..., 5\]", lambda: play(torch.tensor(True))),
    (ValueError, r"baselines\[:, None\]", lambda: fa.game(NET, X, target=1, baselines=torch.zeros(6, 5))),
    (ValueError, r"\[6, 3, 5\].*does not broadcast", lambda: fa.game(NET, X, target=1, baselines=torch.zeros(6, 3, 5))),
    (ValueError, r"empty distribution", lambda: fa.game(NET, X, target=1, baselines=torch.zeros(0, 1, 5))),
    (ValueError, r"distributions of 2 and 3 rows", lambda: fa.game(ADD, (X, X), baselines=(B[:2, :, :5], B[:3, :, :5]))),
    (ValueError, r"per_player.*\[5, 3\], expected \[5, 4\]", lambda: fa.game(NET, X, target=1).spread(torch.zeros(5, 3))),
    (TypeError, r"per_player must be a tensor", lambda: fa.game(NET, X, target=1).spread([0.0])),  # type: ignore[arg-type]  # on purpose
    (ValueError, r"has no layer 'conv9'", lambda: fa.game(NET, X, layer="conv9")),
    (ValueError, r"no target says which", lambda: fa.game(NET, X).value(subsets(2, 5))),
    (TypeError, r"feature_mask", lambda: fa.game(NET, X, target=1, feature_mask=torch.ones(5))),
    (TypeError, r"chunk_size", lambda: fa.game(NET, X, target=1, chunk_size=2.0)),  # type: ignore[arg-type]  # on purpose
]


def ADD(a: Tensor, b: Tensor) -> Tensor:
    return (a + b).sum(1)


def play(coalitions: Any) -> Tensor:
    return fa.game(NET, X, target=1).value(coalitions)


@pytest.mark.parametrize(("kind", "words", "call"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_bad_input(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_partial_model_and_a_held_tensor() -> None:
    scaled = functools.partial(ADD, b=2 * X)
    kept = subsets(4, 5)
    close(fa.game(scaled, X).value(kept), torch.stack([(X * c + 2 * X).sum(1) for c in kept]))
    game = fa.game(ADD, (X, X), feature_mask=(None, torch.arange(5)), baselines=(torch.zeros(9, 1, 5), 0.0))
    close(game.value(kept), torch.stack([(X + X * c).sum(1) for c in kept]))  # a held tensor has no baselines
