"""Combinators for what goes together: rows that are parts of examples (nodes of graphs in one batch, tiles of slides, instances
of bags), and places that are summed to groups (words of tokens, turns of a chat)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.examples import MOST, laid_out, of_examples
from .._core.labels import check_data, whole_numbers
from .._types import Explains, Method, Model, Tree, in_single, innermost, map_floats
from .._words import check_int, complaint, door
from .dress import about, combined, known_method, name_of, then


@door
def sum_groups(method: Any, groups: Any, *, dim: int = 1) -> Any:
    """A method's attributions summed over groups of places: words of tokens, turns of a chat, documents of a prompt.

    ``sum_groups(a, g)(model, x, ...)[n, k] = sum of a(model, x, ...)[n, s] over the places s with g[n, s] = k``. It adds. What
    `feature_ablation` finds under a `feature_mask` already has a group's value at each of its places: read one, and do not sum.

    Args:
        method: a method.
        groups: the group of each place: integers ``[S]``, or ``[N, S]`` with one row per example, a tensor or a list; for a
            dict of layers, a dict of these.
        dim: which dimension of the value holds the places: 1, or 2 for the features of a text ``[N, S, d]``.

    Returns:
        A method with the same arguments: ``[N, S, ...]`` becomes ``[N, G, ...]``, with ``G`` the largest id and one more; empty
        groups are 0. The law: the sum of each example stays what it is.

    Raises:
        ValueError: a negative group, or no place at all; when called, another number of places or of examples.
        TypeError: not a method, or groups that are not integers.

    Example:
        >>> import torch, funattr as fa
        >>> words = fa.sum_groups(fa.gradient, [0, 0, 1])
        >>> words(lambda x: (x**2).sum(1), torch.tensor([[1.0, -2.0, 0.5]]))
        tensor([[-2.,  1.]])
    """
    check_int(dim, "dim", "an integer")
    if dim == 0:
        raise complaint(ValueError, "dim=0 is the batch: places are another dimension, 1 for the tokens of a text [N, S, d].")
    known = _known(groups)

    def summed(found: Tree, leading: int, x: Tree) -> Tree:
        return _each(found, known, dim, leading)

    return then(summed, method, "sum_groups")


def _known(groups: Any, name: str = "groups") -> Any:
    if isinstance(groups, Mapping):
        return {key: _known(part, f"groups[{key!r}]") for key, part in groups.items()}
    cure = "number the groups from 0, one integer for each place; of words, fa.masks.words(tokens) + 1"
    ids = whole_numbers(groups, name, cure)
    check_data(ids, name)
    if ids.dim() not in (1, 2) or not ids.numel():
        raise complaint(
            ValueError, f"{name} has the shape {list(ids.shape)}, expected one group for each place, [S] or [N, S]."
        )
    if int(ids.min()) < 0:
        text = f"{name} holds {int(ids.min())}: every place has a group, so that totals are kept"
        raise complaint(ValueError, f"{text}. Give what is of no interest a group of its own.")
    if int(ids.max()) >= MOST:
        text = f"{name} holds {int(ids.max())}, and there is a sum for each group from 0 on"
        raise complaint(ValueError, f"{text}: number them in a row, torch.unique({name}, return_inverse=True)[1].")
    return ids, int(ids.max()) + 1


def _each(found: Tree, known: Any, dim: int, leading: int) -> Tree:
    if not isinstance(known, dict):
        ids, count = known
        return map_floats(lambda t: _summed(t, ids, count, dim, leading), found)
    if not isinstance(found, Mapping) or found.keys() != known.keys():
        has = f"layers {sorted(map(str, found))}" if isinstance(found, Mapping) else "a result that is no dict"
        text = f"groups are for {sorted(map(str, known))}, and there are {has}"
        raise complaint(ValueError, f"{text}: give each layer its groups.")
    return {name: _each(part, known[name], dim, leading) for name, part in found.items()}


def _summed(t: Tensor, ids: Tensor, count: int, dim: int, leading: int) -> Tensor:
    """The sums, in float32 where `t` is of half precision, and in the dtype of `t`."""
    shape, rest = list(t.shape[leading:]), ids.dim() - 1
    if not -len(shape) < dim < len(shape) or dim % max(len(shape), 1) == 0:
        raise complaint(ValueError, f"dim={dim} is no dimension of places of the attribution {shape}.")
    at = leading + dim % len(shape)
    if ids.shape[-1] != t.shape[at] or (rest and ids.shape[0] != shape[0]):
        text = f"groups are {list(ids.shape)}, and the attribution {shape} has {t.shape[at]} places in dimension {dim}"
        raise complaint(ValueError, f"{text}, for {shape[0]} examples: give each place its group.")
    wide, ids = in_single(t), ids.to(t.device)
    moved = wide.movedim((at, leading), (0, 1)) if rest else wide.movedim(at, 0)
    if not rest:
        return moved.new_zeros(count, *moved.shape[1:]).index_add(0, ids, moved).movedim(0, at).to(t.dtype)
    size = shape[0]
    numbers = (ids + count * torch.arange(size, device=t.device)[:, None]).t().flatten()  # of each example's own groups
    flat = moved.flatten(0, 1)
    found = flat.new_zeros(size * count, *flat.shape[1:]).index_add(0, numbers, flat)
    return found.reshape(size, count, *flat.shape[1:]).movedim((1, 0), (at, leading)).to(t.dtype)


@door
def by_examples(method: Explains, examples: Tree) -> Method:
    """A method where rows of x are parts of examples: the nodes of several graphs, the tiles of slides, the instances of bags.

    ``by_examples(a, ids)(model, x, ...)[ids == n] = a(model, x[ids == n], ...)`` for a model that gives one score for each
    example: each row has what it would be given if its example were alone. To the method, x is ``[N, L, ...]``, with places for
    the L rows of the largest example, and so is the value at a layer that has as many rows as x. What it finds comes back as
    rows. So a feature is one number of one row, a group of a `feature_mask` ``[R, ...]`` is ablated in all rows of an example
    at once, and `channel_dim` counts from the end: -1 for nodes ``[R, C]``, -3 for tiles ``[R, C, H, W]``.

    Args:
        method: a method.
        examples: the number of the example of each row: integers ``[R]``, from 0, in any order; of sizes,
            ``torch.repeat_interleave(torch.arange(N), sizes)``. Where x is a tuple or a dict, one for each of its tensors, and
            None for one that has a row for each example already.

    Returns:
        A method with the same arguments, of which `baselines` and `feature_mask` may have a row for each row of x. A
        distribution of baselines ``[n_baselines, ...]`` has a row that stands for all rows of an example. The law: the sum over
        the rows of each example is what the method's own law says of that example.

    Raises:
        ValueError: a negative number; when called, another number of rows or of scores, channels that are counted from the
            front (as `score_cam` and `interpolate` do), or examples of several sizes under a method to which places count
            (`occlusion`, `lime` of features without a mask).
        TypeError: not a method, or `examples` does not hold integers.

    Example:
        >>> import torch, funattr as fa
        >>> sizes = torch.tensor([0, 0, 1])
        >>> bags = lambda x: torch.zeros(2).index_add(0, sizes, x[:, 0] * x[:, 1])
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> fa.by_examples(fa.feature_ablation, sizes)(bags, x)
        tensor([[ 2.,  2.],
                [12., 12.],
                [30., 30.]])
    """
    if getattr(innermost(method), "measures", False):
        text = "a metric counts the places of whole examples, which is no method of rows that are parts"
        raise complaint(TypeError, f"{text}: ask each example alone, and call {name_of(innermost(method))} with the method.")
    method = known_method(method)
    told, layouts = about(method), laid_out(examples)

    def rows(model: Model, x: Tree, **options: Any) -> Tree:
        return of_examples(method, told, layouts, model, x, options)

    return combined(rows, f"by_examples({name_of(method)})", method, errors=True, rows=False)
