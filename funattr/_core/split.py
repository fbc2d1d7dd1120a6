"""The model cut at a site, public: the primitive to write methods with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._types import Layer, Model, Tree
from .._words import door
from .checks import check_kind
from .passes import question, read, replace
from .sites import resolve
from .where import bind


class Split(NamedTuple):
    """A model cut at a site: ``rest(value_at(x), x) == model(x)``. See `split`."""

    value_at: Callable[[Tree], Tree]
    rest: Callable[[Tree, Tree], Any]


@door
def split(model: Model, layer: Layer = None) -> Split:
    """Cut a model at a site into two pure functions, ``rest(value_at(x), x) == model(x)``.

    Both can be differentiated, vmapped and compiled. Under ``vmap`` over the value alone, what lies before the site runs
    once, not once per value.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.

    Returns:
        `Split(value_at, rest)`: ``value_at(x)`` is the value at the site, in the structure of `layer`, and ``rest(value, x)``
        the model's output with that value in its place.

    Raises:
        ValueError: there is no such layer, it does not run, or it runs several times and no `call` says which.
        TypeError: `layer` is not a selector.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> value_at, rest = fa.split(model, "1")
        >>> torch.equal(rest(value_at(x), x), model(x))
        True
        >>> rest(torch.zeros(5, 4), x).allclose(model[2].bias.expand(5, 2))
        True
    """
    bound = bind(model)
    sites = resolve(bound, layer)

    @door
    def value_at(x: Tree) -> Tree:
        check_kind(x)
        return sites.build(read(question(bound, x, layer, None), once=False))

    @door
    def rest(value: Tree, x: Tree) -> Any:
        check_kind(x)
        return replace(question(bound, x, layer, None), x, sites.flat(value))

    return Split(value_at, rest)
