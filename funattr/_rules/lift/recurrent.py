"""Recurrent layers, which torch runs as one fused operation, step by step: each step has rules of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._words import complaint

State = tuple[Tensor, ...]
Step = Callable[..., State]


def _gates(x: Tensor, h: Tensor, w: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    biases = w[2:4] if len(w) > 3 else (None, None)
    return F.linear(x, w[0], biases[0]), F.linear(h, w[1], biases[1])


def _plain(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, state: State, w: Sequence[Tensor]) -> State:
        a, b = _gates(x, state[0], w)
        return (activation(a + b),)

    return step


def _gru(x: Tensor, state: State, w: Sequence[Tensor]) -> State:
    (h,) = state
    a, b = (g.chunk(3, -1) for g in _gates(x, h, w))
    r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
    n = torch.tanh(a[2] + r * b[2])
    return (n + z * (h - n),)


def _lstm(x: Tensor, state: State, w: Sequence[Tensor]) -> State:
    h, c = state
    a, b = _gates(x, h, w[:4] if len(w) > 3 else w)
    i, f, g, o = (a + b).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (F.linear(h, w[-1]) if len(w) in (3, 5) else h, c)  # a projection of the hidden state comes last


def _layers(
    step: Step,
    x: Tensor,
    states: State,
    weights: Sequence[Tensor],
    bias: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    x = x.transpose(0, 1) if batch_first else x
    ways = 2 if bidirectional else 1
    per = len(weights) // (num_layers * ways)
    last: list[State] = []
    for layer in range(num_layers):
        sides = []
        for way in range(ways):
            i = layer * ways + way
            state = tuple(s[i] for s in states)
            found = []
            times = list(range(x.shape[0]))
            for t in times if way == 0 else times[::-1]:
                state = step(x[t], state, weights[i * per : (i + 1) * per])
                found.append(state[0])
            sides.append(torch.stack(found if way == 0 else found[::-1]))
            last.append(state)
        x = torch.cat(sides, -1)
        if dropout and train and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    x = x.transpose(0, 1) if batch_first else x
    return (x, *(torch.stack([state[k] for state in last]) for k in range(len(states))))


def _layer(step: Step, one_state: bool) -> Callable[..., Any]:
    def run(x: Tensor, states: Any, *rest: Any) -> Any:
        if isinstance(states, Tensor) and not states.is_floating_point():  # the lengths
            raise complaint(
                ValueError,
                "the model gives a packed sequence to a recurrent layer, and no rule can take that apart: pass padded "
                "sequences, without pack_padded_sequence.",
            )
        return _layers(step, x, (states,) if one_state else tuple(states), *rest)

    return run


def _cell(step: Step, one_state: bool) -> Callable[..., Any]:
    def run(x: Tensor, states: Any, *weights: Any) -> Any:
        found = step(x, (states,) if one_state else tuple(states), [w for w in weights if w is not None])
        return found[0] if one_state else found

    return run


RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": _layer(_lstm, False),
    "gru": _layer(_gru, True),
    "rnn_tanh": _layer(_plain(torch.tanh), True),
    "rnn_relu": _layer(_plain(torch.relu), True),
    "lstm_cell": _cell(_lstm, False),
    "gru_cell": _cell(_gru, True),
    "rnn_tanh_cell": _cell(_plain(torch.tanh), True),
    "rnn_relu_cell": _cell(_plain(torch.relu), True),
}
