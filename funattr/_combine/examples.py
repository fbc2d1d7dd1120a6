"""A combinator for rows that are parts of examples: nodes of graphs in one batch, tiles of slides, instances of bags."""

from __future__ import annotations

from typing import Any

from .._core.examples import laid_out, of_examples
from .._types import Explains, Method, Model, Tree
from .._words import door
from .dress import about, check_method, combined, name_of


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
    check_method(method)
    told, layouts = about(method), laid_out(examples)

    def rows(model: Model, x: Tree, **options: Any) -> Tree:
        return of_examples(method, told, layouts, model, x, options)

    return combined(rows, f"by_examples({name_of(method)})", method, errors=True, rows=False)
