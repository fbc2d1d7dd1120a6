"""How far an explanation moves where its input hardly does."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._combine.baselines import default_baselines
from .._combine.dress import about, device_of, has_steps, known_method
from .._combine.noise import at_noise, moved, sampled
from .._steps.chunks import given_chunk
from .._steps.draws import Rewound, check_generator, drawn_by
from .._types import ChunkSize, Explains, Layer, Model, Target, Tree, floats_of, tensors, told_by
from .._words import check_count, check_size, complaint, kind_of
from ._agreement import rows, sizes
from ._judged import check_explains, judged, metric, options_throughout


@metric
def sensitivity_max(
    method: Explains,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    radius: float = 0.02,
    n_samples: int = 10,
    norm: float = 2,
    generator: torch.Generator | None = None,
    chunk_size: ChunkSize = None,
) -> Tensor:
    """How far an explanation moves, at most, where the input hardly does: maximal sensitivity.

    ``max over s of |a(x_s) - a(x)| / |a(x)|``, ``x_s = x + uniform in [-radius, radius]``; an explanation of norm 0 is divided
    by 1. Where x holds only integers, the value at the layer moves. Integers do not.

    Args:
        method: a method, called ``method(model, x_s, target=target)``, with `layer` where one is named. Options are bound by
            `functools.partial`.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        radius: how far each feature moves at most.
        n_samples: how many samples are taken, the same for each example.
        norm: of all that an example has: 1, 2 or ``math.inf``.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.
        chunk_size: how many calls of the method run at once: the memory knob; 1: one after another, on plain tensors. None: as
            many as a budget of memory allows, and one where the method is no method of this library.

    Returns:
        ``[N]``, without a unit; lower is steadier. The law: 0 for a method that ignores x, as the gradient of a linear score.

    Raises:
        ValueError: `radius` is negative, `n_samples` below 1, there is no such `norm`, or attributions hold NaN or inf.
        TypeError: attributions in place of a method, or there are only integers, and no layer.

    Example:
        >>> import torch, funattr as fa
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> fa.metrics.sensitivity_max(fa.gradient, lambda x: 3 * x.sum(1), x)
        tensor([0.])

    References:
        Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, https://arxiv.org/abs/1901.09392
    """
    check_explains(method)
    check_count(n_samples, "n_samples")
    check_generator(generator)
    together = given_chunk(chunk_size)
    check_size(radius, "radius")
    if isinstance(norm, bool) or not isinstance(norm, (int, float)) or norm not in (1, 2, math.inf):
        raise complaint(ValueError, f"norm must be 1, 2 or math.inf, got {kind_of(norm)}.")
    options = options_throughout(method, model, x, layer, target)
    told = about(method)
    if layer is None and not floats_of(x):
        text = "x holds no floating-point tensor, and integers do not move"
        raise complaint(TypeError, f"{text}: name a layer after the embedding, layer='...', whose value moves.")
    explain, steps = at_noise(known_method(method), default_baselines(method), model, x, options)
    start = steps.like
    given = judged(explain(start), "the method returned")
    here, most = rows(given), torch.zeros((), device="cpu")
    size = sizes(here)
    length = torch.linalg.vector_norm(here / size, norm, dim=1)
    length = torch.where(length == 0, 1.0, length)
    draw = partial(_uniform, start, radius, generator)
    noise = Rewound([*([] if generator is None else [generator]), *told.generators], device_of(x))
    for found in sampled(steps, partial(moved, explain, start), draw, n_samples, _chunk(method, together), noise):
        way = (_rows_of_each(judged(found, "the method returned"), here) - here) / size
        most = torch.maximum(most.to(way.device), torch.linalg.vector_norm(way, norm, dim=2).amax(0))
    return (most / length).to(tensors(given)[0].dtype)


def _chunk(method: Any, together: int | None) -> int | None:
    """How many calls at once. What is not of this library may do what vmap cannot, and not say so; what draws has numbers of
    its own for each call."""
    alone = has_steps(method) or told_by(method) is None
    return 1 if about(method).draws or (alone and together is None) else together


def _uniform(start: Tree, radius: float, generator: torch.Generator | None) -> list[Tensor]:
    """For each tensor that moves, how far each feature of one example does."""
    return [
        drawn_by(torch.rand, generator, t.device, t.shape[1:], dtype=t.dtype).mul(2 * radius).sub(radius)
        for t in floats_of(start)
    ]


def _rows_of_each(found: Tree, here: Tensor) -> Tensor:
    """All that each example has, of each of a chunk of calls: ``[c, N, M]``."""
    each = torch.cat([t.flatten(2) if t.dim() > 2 else t[..., None] for t in tensors(found)], 2).double()
    if each.shape[1:] != here.shape:
        text = f"the method returned {list(here.shape)} numbers for x and {list(each.shape[1:])} for a moved one"
        raise complaint(ValueError, f"{text}: they cannot be compared. Choose a layer around what depends on the data.")
    return each
