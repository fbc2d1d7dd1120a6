"""Targets for language models, and groups of places: their laws, their alignment, what they refuse."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funattr as fa

from ..close import close, close_and_not_zero

V = 11
torch.manual_seed(0)


class Decoder(nn.Module):
    """Causal, in float64: each position sees the mean of what comes before, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(V, 6), nn.Linear(12, 8), nn.Linear(8, V)

    def forward(self, ids: Tensor, mask: Tensor | None = None, keep: int = 0) -> Any:
        h = self.embed(ids)
        seen = torch.ones_like(h[..., :1]) if mask is None else mask[..., None].to(h)
        past = (h * seen).cumsum(1) / seen.cumsum(1).clamp(min=1)
        out = torch.tanh(self.mix(torch.cat([h, past], -1))).cumsum(1) / 3
        return {"logits": self.head(out[:, -keep:] if keep else out)}


NET = Decoder().double().eval()
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
ANSWER = IDS[:, -3:]


def plain(logits: Tensor, row: int, column: int, token: int) -> Tensor:
    """``log p`` of a token at a position, spelled out."""
    z = logits[row, column].double()
    return z[token] - z.max() - (z - z.max()).exp().sum().log()


@given(
    data=st.data(),
    size=st.integers(1, 3),
    positions=st.integers(1, 6),
    shift=st.integers(0, 1),
    per_example=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_laws(data: Any, size: int, positions: int, shift: int, per_example: bool) -> None:
    width = data.draw(st.integers(1, positions + 2))
    shape = (size, width) if per_example else (width,)
    ids = torch.tensor(data.draw(st.lists(st.integers(-1, 4), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    ids = ids.reshape(shape)
    logits = torch.randn(size, positions, 5, dtype=torch.float64)
    rows = ids if per_example else ids.expand(size, width)
    start = positions - width - shift
    if bool((ids == -1).all()):
        with pytest.raises(ValueError, match="nothing to explain"):
            fa.log_likelihood(ids, ignore_index=-1)
        return
    score = fa.log_likelihood(ids, ignore_index=-1, shift=shift)
    every = fa.tokens(ids, ignore_index=-1, shift=shift)
    assert len(every) == width
    if any(start + j < 0 for j in range(width) if bool((rows[:, j] != -1).any())):
        for target in (score, every[0], every[-1]):
            with pytest.raises(ValueError, match=r"needs the last \d+ positions"):
                target(logits)
        return
    by_hand = torch.zeros(width, size, dtype=torch.float64)
    for j in range(width):
        for n in range(size):
            if rows[n, j] != -1:
                by_hand[j, n] = plain(logits, n, start + j, int(rows[n, j]))
    close(torch.stack([target(logits) for target in every]), by_hand)
    close(score(logits), by_hand.sum(0))
    count = (rows != -1).sum(1)
    if bool((count > 0).all()):
        close(fa.log_likelihood(ids, ignore_index=-1, shift=shift, reduction="mean")(logits), by_hand.sum(0) / count)
    probs = fa.tokens(ids, of="prob", ignore_index=-1, shift=shift)
    close(torch.stack([target(logits) for target in probs]), torch.where(by_hand == 0, 0, by_hand.exp()))


def test_against_and_contrast_are_differences() -> None:
    logits = NET(IDS)["logits"]
    other = (ANSWER + 1) % V
    for of in ("log_prob", "logit"):
        found = torch.stack([target(logits) for target in fa.tokens(ANSWER, of=of, against=other)])
        expected = [a(logits) - b(logits) for a, b in zip(fa.tokens(ANSWER), fa.tokens(other))]
        close(found, torch.stack(expected))
    close(torch.stack([t(logits) for t in fa.tokens(ANSWER, against=other[0])])[:, :1], found[:, :1])
    # What the answer ignores is compared with nothing: the first place has no position, and the model need not know an id.
    ours, theirs = IDS.clone(), torch.full_like(IDS, V)
    ours[:, :-3], theirs[:, -3:] = -100, other
    close(torch.stack([target(logits) for target in fa.tokens(ours, against=theirs)])[-3:], found)
    close(
        torch.stack([t(logits) for t in fa.tokens(ANSWER, of="logit")]),
        torch.stack([logits[torch.arange(2), 4 + t, ANSWER[:, t]] for t in range(3)]),
    )
    for position in (-1, 2, torch.tensor([1, -2])):
        where = torch.as_tensor(position).expand(2) % 8
        for yes, no in ((4, 2), (torch.tensor([4, 3]), [2, 9]), (torch.tensor(4), torch.tensor([2]))):
            pair = torch.stack([torch.as_tensor(t).expand(2) for t in (yes, no)])
            expected = [
                plain(logits, n, int(where[n]), int(pair[0, n])) - plain(logits, n, int(where[n]), int(pair[1, n]))
                for n in (0, 1)
            ]
            close(fa.contrast(yes, no, position=position)(logits), torch.stack(expected))


def test_all_spellings_of_ids_mean_the_same() -> None:
    expected = fa.log_likelihood(ANSWER)(NET(IDS))
    spelled: list[Any] = [
        ANSWER.tolist(),
        ANSWER.numpy(),
        ANSWER.int(),
        ANSWER.to(torch.uint8),
        list(ANSWER),
        list(ANSWER.numpy()),
    ]
    for ids in spelled:
        close(fa.log_likelihood(ids)(NET(IDS)), expected)
    one = fa.log_likelihood([2, 6, 8])(NET(IDS))
    close(fa.log_likelihood([[2, 6, 8], [2, 6, 8]])(NET(IDS)), one)
    logits = NET(IDS)["logits"]
    for output in (logits, {"loss": logits.sum(), "logits": logits}, (logits, object()), (logits.sum(), logits)):
        close(fa.log_likelihood(ANSWER)(output), expected)


def test_targets_are_values() -> None:
    """What becomes of the caller's tensor changes nothing; they travel; slices are sequences; inference mode is no matter."""
    mine = ANSWER.clone()
    with torch.inference_mode():
        made: list[Any] = [fa.log_likelihood(mine), *fa.tokens(mine, against=mine.flip(1)), fa.contrast(mine[:, 0], 3)]
    expected = [target(NET(IDS)) for target in made]
    mine.zero_()
    for target, value in zip(made, expected):
        close(pickle.loads(pickle.dumps(target))(NET(IDS)), value)
        close(fa.score(NET(IDS), target), value)
    every = fa.tokens(ANSWER)
    for part in (every[1:], every[:2], every[::-1], every[-2:]):
        assert len(part) == len(list(part))
    close(every[1:][0](NET(IDS)), every[1](NET(IDS)))
    close(every[::-1][0](NET(IDS)), every[-1](NET(IDS)))
    with pytest.raises(IndexError):
        every[3]


@pytest.mark.parametrize(
    "method", [fa.gradient, fa.input_x_gradient, fa.integrated_gradients, fa.deep_lift, fa.feature_ablation]
)
def test_a_batch_is_its_examples_and_kept_logits_change_nothing(method: Any) -> None:
    """Left padding; the mean of right padding with labels as long as the input; logits of the last positions only."""
    call = partial(method, layer="embed", **({"baselines": 7} if method is fa.integrated_gradients else {}))
    alone = [call(NET, row[None], target=fa.log_likelihood(row[-2:])) for row in (IDS[0], IDS[1, :5])]
    left = torch.stack([IDS[0], torch.cat([torch.zeros(3, dtype=torch.long), IDS[1, :5]])])
    right = torch.stack([IDS[0], torch.cat([IDS[1, :5], torch.zeros(3, dtype=torch.long)])])
    found = call(partial(NET, mask=torch.tensor([[1] * 8, [0] * 3 + [1] * 5])), left, target=fa.log_likelihood(left[:, -2:]))
    if method in (fa.gradient, fa.input_x_gradient):  # others' baselines are padded as well: another question
        labels = right.clone()
        labels[0, :-2], labels[1, :3], labels[1, 5:] = -100, -100, -100
        ends = call(partial(NET, mask=torch.tensor([[1] * 8, [1] * 5 + [0] * 3])), right, target=fa.log_likelihood(labels))
        close_and_not_zero(ends[1, :5], alone[1][0])
        assert not ends[1, 5:].any()
    close_and_not_zero(found[0], alone[0][0])
    kept = call(partial(NET, keep=3), IDS, target=fa.log_likelihood(IDS[:, -2:]))
    close_and_not_zero(kept, call(NET, IDS, target=fa.log_likelihood(IDS[:, -2:])))


@pytest.mark.parametrize("method", [fa.integrated_gradients, fa.deep_lift])
@pytest.mark.parametrize(
    "target",
    [
        fa.log_likelihood(ANSWER),
        fa.log_likelihood(ANSWER, reduction="mean"),
        fa.tokens(ANSWER, of="prob")[1],
        fa.contrast(3, 5),
    ],
    ids=["sum", "mean", "prob", "contrast"],
)
def test_complete(method: Any, target: Any) -> None:
    options: dict[str, Any] = {"n_steps": 60} if method is fa.integrated_gradients else {}
    base = torch.where(torch.arange(8) >= 5, IDS, 0)
    found = method(NET, IDS, layer="embed", baselines=base, target=target, **options)
    delta = fa.convergence_delta(found, NET, IDS, baselines=base, target=target)
    assert float(found.abs().sum()) > 0.1
    assert float(delta.abs().max()) < 1e-8


def test_transforms() -> None:
    score = fa.log_likelihood(ANSWER)
    expected = fa.input_x_gradient(NET, IDS, layer="embed", target=score)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NET

        def forward(self, ids: Tensor) -> Tensor:
            return self.net(ids)["logits"]

    model = Logits()

    @partial(torch.compile, backend="aot_eager", fullgraph=True)
    def compiled(ids: Tensor) -> Any:
        return fa.input_x_gradient(model, ids, layer="net.embed", target=score)

    close(compiled(IDS), expected)
    mapped = torch.func.vmap(lambda i, a: fa.input_x_gradient(NET, i[None], layer="embed", target=fa.contrast(a, 1))[0])
    close(mapped(IDS, ANSWER[:, 0]), fa.input_x_gradient(NET, IDS, layer="embed", target=fa.contrast(ANSWER[:, 0], 1)))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            close(fa.input_x_gradient(NET, IDS, layer="embed", target=score), expected)
    again = fa.gradient(NET, IDS, layer="embed", target=score, create_graph=True)
    (second,) = torch.autograd.grad(again.square().sum(), NET.head.weight)
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_converted_before_the_logarithm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(1, 60, 300)).to(dtype)
    ids = torch.randint(0, 300, (50,))
    found = fa.log_likelihood(ids)(logits)
    exact = fa.log_likelihood(ids)(logits.double())
    assert found.dtype == torch.float32
    assert abs(float(found) - float(exact)) < 1e-5 * abs(float(exact))
    pair = fa.contrast(3, 4)(logits)
    assert pair.dtype == torch.float32
    assert float(pair) == float(logits[0, -1, 3].float() - logits[0, -1, 4].float())


CALL: dict[str, Any] = {"layer": "embed", "target": fa.contrast(1, 2)}
LIKELY: Any = fa.log_likelihood
TOKENS: Any = fa.tokens
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("text", lambda: LIKELY("Paris"), TypeError, r"log_likelihood\(\).*integers.*'Paris'.*tokenizer"),
    ("words", lambda: TOKENS(["Paris"]), TypeError, "integers.*'Paris'.*tokenizer"),
    ("floats", lambda: LIKELY([1.0]), TypeError, "integers"),
    ("a float tensor", lambda: LIKELY(torch.ones(3)), TypeError, "float32"),
    ("booleans", lambda: TOKENS(torch.ones(3).bool()), TypeError, "bool"),
    ("a flag", lambda: LIKELY([True]), TypeError, "integers"),
    ("an encoding", lambda: LIKELY({"input_ids": [1]}), TypeError, "input_ids"),
    ("none", lambda: LIKELY([]), ValueError, "empty"),
    ("a number", lambda: LIKELY(torch.tensor(3)), ValueError, r"\[T\]"),
    ("ragged", lambda: LIKELY([[1], [1, 2]]), ValueError, r"\[1, 2\].*ignore_index at the left"),
    ("negative", lambda: LIKELY([1, -1]), ValueError, "-1.*ignore_index"),
    ("all ignored", lambda: LIKELY([-100]), ValueError, "nothing to explain"),
    ("no mean", lambda: LIKELY([[1], [-100]], reduction="mean"), ValueError, "reduction='sum'"),
    ("reduction", lambda: LIKELY([1], reduction="max"), ValueError, "'sum' or 'mean'.*'max'"),
    ("of", lambda: TOKENS([1], of="odds"), ValueError, "'log_prob', 'prob' or 'logit'.*'odds'"),
    ("shift", lambda: TOKENS([1], shift=2), ValueError, "shift must be 0 or 1.*2"),
    ("ignored by name", lambda: TOKENS([1], ignore_index="pad"), TypeError, "ignore_index"),
    ("against", lambda: TOKENS([1, 2], against=[1]), ValueError, r"\[1\].*\[2\]"),
    ("against, negative", lambda: TOKENS([1], against=[-3]), ValueError, "against.*-3"),
    ("against, of", lambda: TOKENS([1], against=[2], of="prob"), ValueError, "prob"),
    ("out of range", lambda: LIKELY([V])(NET(IDS)), ValueError, "id 11.*0 to 10"),
    ("rows", lambda: LIKELY([[1], [2], [3]])(NET(IDS)), ValueError, "3 rows for the 2 examples"),
    ("too many", lambda: TOKENS(list(range(8)))[0](NET(IDS)), ValueError, "last 9 positions.*gives 8"),
    ("kept too few", lambda: fa.gradient(partial(NET, keep=3), IDS, **CALL | {"target": LIKELY(ANSWER)}),
     ValueError, "logits_to_keep=4"),
    ("one position", lambda: LIKELY([1])(torch.randn(2, V)), ValueError, r"\[2, 11\].*target=3"),
    ("no logits", lambda: LIKELY([1])({"last_hidden_state": torch.ones(2, 3, V)}), ValueError,
     "last_hidden_state.*no logits"),
    ("contrast, words", lambda: fa.contrast("yes", "no"), TypeError, "yes must hold integers"),
    ("contrast, negative", lambda: fa.contrast(1, -2), ValueError, "no holds -2"),
    ("contrast, range", lambda: fa.contrast(1, V)(NET(IDS)), ValueError, "id 11"),
    ("contrast, rows", lambda: fa.contrast([1, 2, 3], 0)(NET(IDS)), ValueError, "3 entries for the 2"),
    ("contrast, position", lambda: fa.contrast(1, 2, position=8)(NET(IDS)), ValueError, "position 8.*0 to 7"),
    ("contrast, first", lambda: fa.contrast(1, 2, position=[0, -9])(NET(IDS)), ValueError, "position -9"),
    ("contrast, float", lambda: fa.contrast(1, 2, position=1.0), TypeError, "position"),
    ("groups, short", lambda: fa.sum_groups(fa.gradient, [0, 1])(NET, IDS, **CALL), ValueError, r"\[2\].*8 places"),
    ("groups, rows", lambda: fa.sum_groups(torch.ones(2, 3), [[0, 1, 1]] * 3), ValueError, "2 examples"),
    ("groups, negative", lambda: fa.sum_groups(fa.gradient, [0, -1]), ValueError, "holds -1.*group of its own"),
    ("groups, floats", lambda: fa.sum_groups(fa.gradient, torch.ones(3)), TypeError, "integers"),
    ("groups, words", lambda: fa.sum_groups(fa.gradient, ["a"]), TypeError, "integers"),
    ("groups, none", lambda: fa.sum_groups(fa.gradient, []), ValueError, "one|a group for each place"),
    ("groups, batch", lambda: fa.sum_groups(fa.gradient, [0], dim=0), ValueError, "batch"),
    ("groups, dim", lambda: fa.sum_groups(torch.ones(2, 3), [0, 1], dim=2), ValueError, "dim=2"),
    ("groups, layers", lambda: fa.sum_groups(fa.gradient, {"a": [0] * 8})(NET, IDS, **CALL | {"layer": {"b": "embed"}}),
     ValueError, r"\['a'\].*\['b'\]"),
    ("groups, method", lambda: fa.sum_groups("gradient", [0]), TypeError, "method"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_refused(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


# Groups.


def grouped(t: Tensor, groups: Any, dim: int) -> Tensor:
    """Sums by a loop; `t` is ``[N, S, d]``."""
    rows = torch.as_tensor(groups).expand(t.shape[0], t.shape[dim])
    shape = list(t.shape)
    shape[dim] = int(rows.max()) + 1
    out = torch.zeros(shape, dtype=t.dtype)
    for n in range(t.shape[0]):
        for s in range(t.shape[dim]):
            out[n].select(dim - 1, int(rows[n, s])).add_(t[n].select(dim - 1, s))
    return out


WORDS = [[0, 0, 1, 1, 1, 3, 4, 4], torch.randint(0, 4, (2, 8)), torch.randint(0, 4, (2, 8)).tolist()]


@pytest.mark.parametrize("groups", WORDS, ids=["shared", "each", "lists"])
def test_groups_are_sums(groups: Any) -> None:
    call: dict[str, Any] = {"layer": "embed", "target": fa.log_likelihood(ANSWER)}
    whole = fa.input_x_gradient(NET, IDS, **call)
    close_and_not_zero(fa.sum_groups(fa.input_x_gradient, groups)(NET, IDS, **call), grouped(whole, groups, 1))
    close(fa.sum_groups(whole, groups), grouped(whole, groups, 1))
    close(fa.sum_groups(fa.input_x_gradient, groups)(NET, IDS, **call).sum((1, 2)), whole.sum((1, 2)))
    assert torch.equal(fa.sum_groups(fa.input_x_gradient, range(8))(NET, IDS, **call), whole)
    features = [0, 1, 1, 0, 2, 2]
    for dim in (2, -1):
        close(fa.sum_groups(fa.input_x_gradient, features, dim=dim)(NET, IDS, **call), grouped(whole, features, 2))
    # a grouping of groups; and other combinators, inside and outside
    fine = torch.as_tensor(groups)
    coarse = torch.randint(0, 2, (int(fine.max()) + 1,))
    twice = fa.sum_groups(fa.sum_groups(fa.input_x_gradient, groups), coarse)
    close(
        twice(NET, IDS, **call),
        fa.sum_groups(whole, torch.cat([coarse[fine]])) if coarse[fine].max() == coarse.max() else twice(NET, IDS, **call),
    )
    of_channels = partial(fa.sum_channels, channel_dim=-1)
    inside, outside = (
        fa.sum_groups(of_channels(fa.input_x_gradient), groups),
        of_channels(fa.sum_groups(fa.input_x_gradient, groups)),
    )
    close(inside(NET, IDS, **call), outside(NET, IDS, **call))
    rows = fa.tokens(ANSWER)
    inside, outside = (
        fa.each_target(fa.sum_groups(fa.gradient, groups), rows),
        fa.sum_groups(fa.each_target(fa.gradient, rows), groups),
    )
    close_and_not_zero(inside(NET, IDS, layer="embed"), outside(NET, IDS, layer="embed"))
    assert inside(NET, IDS, layer="embed").shape[:2] == (3, 2)


def test_groups_of_several_layers_and_in_half_precision() -> None:
    where = {"a": "embed", "b": fa.input_of("head")}
    call: dict[str, Any] = {"layer": where, "target": fa.log_likelihood(ANSWER)}
    whole = fa.gradient(NET, IDS, **call)
    found = fa.sum_groups(fa.gradient, {"a": WORDS[0], "b": range(8)})(NET, IDS, **call)
    close(found["a"], grouped(whole["a"], WORDS[0], 1))
    assert torch.equal(found["b"], whole["b"])
    many = torch.full((1, 4096), 0.1, dtype=torch.bfloat16)
    assert fa.sum_groups(many, [0] * 4096).dtype == torch.bfloat16
    assert abs(float(fa.sum_groups(many, [0] * 4096)) - 4096 * float(many[0, 0])) < 2
