"""Operations that rules take apart: run again in plain operations, each of which has a rule of its own; recurrent layers, which
torch runs as one fused operation, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core.attention import plain_attention
from ..._types import by_channel
from ..._words import complaint
from .decomposed import DECOMPOSED
from .lengths import LENGTHS, single
from .losses import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from .secants import EXACT, Rule, unary
from .tape import Lift


def taken_apart(body: Callable[..., Any]) -> Rule:
    """A rule that runs `body` in the operation's place, with the `Lift` watching."""

    def rule(lift: Lift, func: Any, *args: Any, **kwargs: Any) -> Any:
        with lift:
            return body(*args, **kwargs)

    return rule


def variance(x: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Tensor:
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    dims = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    taken = correction if correction is not None else 1 if unbiased in (None, True) else 0
    count = math.prod([x.shape[d] for d in dims])
    c = x - x.mean(dims, keepdim=True)
    return (c * c).sum(dims, keepdim=keepdim) / max(count - taken, 0)


def deviation(*args: Any, **kwargs: Any) -> Tensor:
    return variance(*args, **kwargs).sqrt()


def variance_mean(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return variance(x, dim, *args, **kwargs), _mean_beside(x, dim, *args, **kwargs)


def deviation_mean(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return variance(x, dim, *args, **kwargs).sqrt(), _mean_beside(x, dim, *args, **kwargs)


def _mean_beside(x: Tensor, dim: Any, unbiased: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    dims = list(range(x.dim())) if dim is None or isinstance(dim, bool) else dim
    return x.mean(dims, keepdim=keepdim)


def sloped(x: Tensor, slope: Tensor) -> Tensor:
    """prelu, with slopes that vary: one, or one for each channel."""
    slope = by_channel(slope, x.dim()) if slope.numel() > 1 else slope.reshape(())
    return torch.where(x > 0, x, slope * x)


def prelu(lift: Lift, func: Any, x: Tensor, slope: Tensor) -> Any:
    return (taken_apart(sloped) if lift.varies(slope) else unary(EXACT))(lift, func, x, slope)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    return a * b.sigmoid()


def added(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """addmm and the like: a bias, and a product of two."""

    def body(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        found = alpha * product(x, y)
        return found if beta == 0 else beta * bias + found  # of a bias times 0, memory as it comes, torch looks at nothing

    return body


addmm = added(torch.matmul)


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (a * b)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (a / b)


def lerp(x: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return x + (end - x) * weight


def float_power(x: Any, y: Any) -> Tensor:
    return torch.pow(x.double() if isinstance(x, Tensor) else x, y.double() if isinstance(y, Tensor) else y)


def products(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """prod, by halves: a tree of products of two."""
    x = x if dtype is None else x.to(dtype)
    dim = dim if x.dim() else None  # a number has no dimensions, and torch takes 0 for one
    x = x.flatten() if dim is None else x.movedim(dim, -1)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        y = x[..., :half] * x[..., half : 2 * half]
        x = torch.cat([y, x[..., 2 * half :]], -1) if x.shape[-1] % 2 else y
    y = x[..., 0] if x.shape[-1] else torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device)
    return y.unsqueeze(dim) if keepdim and dim is not None else y


# Recurrent layers.


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


def _layers(step: Step, x: Tensor, states: State, weights: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
    """The options are torch's, in its order: whether there are biases, which the weights show, comes first."""
    _, num_layers, dropout, train, bidirectional, batch_first = options
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


# All of them.


#: Those that are called here as torch calls them.
_OWN = (glu, addcmul, addcdiv, lerp, mse_loss, cross_entropy, binary_cross_entropy_with_logits, float_power)
COMPOUND: dict[str, Callable[..., Any]] = {
    **DECOMPOSED,
    **{body.__name__: body for body in _OWN},
    **LENGTHS,
    "var": single(variance),
    "std": single(deviation),
    "var_mean": single(variance_mean),
    "std_mean": single(deviation_mean),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    "addbmm": added(lambda x, y: torch.matmul(x, y).sum(0)),
    "addr": added(lambda x, y: x.unsqueeze(1) * y),
    "prod": products,
    "scaled_dot_product_attention": plain_attention,
    "lstm": _layer(_lstm, False),
    "gru": _layer(_gru, True),
    "rnn_tanh": _layer(_plain(torch.tanh), True),
    "rnn_relu": _layer(_plain(torch.relu), True),
    "lstm_cell": _cell(_lstm, False),
    "gru_cell": _cell(_gru, True),
    "rnn_tanh_cell": _cell(_plain(torch.tanh), True),
    "rnn_relu_cell": _cell(_plain(torch.relu), True),
}
