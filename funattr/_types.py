"""Shared types, and functions over structures of tensors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, overload

import torch
from torch import Tensor, nn

from ._torch import tree_flatten, tree_unflatten
from ._words import complaint


@dataclass(frozen=True)
class Place:
    """A layer, the side of it that is meant, and which of its runs in one forward pass. See `input_of`, `output_of`."""

    layer: str | nn.Module
    inputs: bool
    call: int | None

    def __repr__(self) -> str:  # as it is written in a call, which error messages repeat
        layer = repr(self.layer) if isinstance(self.layer, str) else f"<{type(self.layer).__name__}>"
        return f"{'input_of' if self.inputs else 'output_of'}({layer}{'' if self.call is None else f', call={self.call}'})"


@dataclass(frozen=True)
class Neuron:
    """A value inside the model as the target. See `neuron`."""

    layer: Place
    index: Any

    def __repr__(self) -> str:  # as it is written in a call, which error messages repeat
        layer = self.layer if self.layer.inputs or self.layer.call is not None else self.layer.layer
        shown = f"<{type(layer).__name__}>" if isinstance(layer, nn.Module) else repr(layer)
        index = getattr(self.index, "__name__", None) or repr(self.index)
        return f"neuron({shown}, {index})"


Model: TypeAlias = Callable[..., Any]
#: A tensor, or tuples, lists and dicts that hold tensors.
Tree: TypeAlias = Any
Selector: TypeAlias = "str | nn.Module | Place | None"
#: What selects a single value, which a layer mostly gives as a tensor.
OnePlace: TypeAlias = "str | nn.Module | None"
#: Selectors may be nested: lists of lists of them, and so on.
Layer: TypeAlias = "Selector | Sequence[Any] | Mapping[Any, Any]"
Target: TypeAlias = (
    "int | Tensor | Sequence[int] | tuple[int | slice | Tensor, ...] | Sequence[tuple[int, ...]] | Sequence[str] | str"
    "| Callable[[Any], Tensor] | Neuron | None"
)
#: How many steps run at once; None and "auto" let the library choose.
ChunkSize: TypeAlias = 'int | Literal["auto"] | None'


class Method(Protocol):
    """An attribution method: a pure function of a model and its input. Combinators take and return these."""

    __name__: str

    @overload
    def __call__(self, model: Model, x: Tensor, /, *args: Any, layer: OnePlace = None, **options: Any) -> Tensor: ...
    @overload
    def __call__(self, model: Model, x: Tree, /, *args: Any, **options: Any) -> Tree: ...


class About(NamedTuple):
    """What a method tells the combinators around it, in its attribute `about`."""

    accepts: tuple[str, ...] | None  #: the names of its arguments; None where it takes any
    given: tuple[str, ...] = ()  #: those that it does not take, though it takes any: what a combinator around it sees to
    leading: int = 0  #: how many dimensions its results have before the batch: one for each `each_target` in it
    layered: bool = True  #: whether its results are those of layers, in the structure in which these are named
    at_input: bool = False  #: whether it works at the input too, where a layer is given
    draws: bool = False  #: whether it draws random numbers; somebody else's method has not said
    generators: tuple[torch.Generator, ...] = ()  #: what is bound in it to draw from
    baselines: Literal["x", "several", "site", "input", "path"] = "x"  #: what its `baselines` are; "input": a site that is x
    rows: bool = False  #: whether several targets, one call for each, share its passes; somebody else's method has not said
    spare: Literal["", "no mask", "yes"] = ""  #: where places that hold nothing change what it finds
    front: bool = False  #: whether it takes dimension 1 for channels, and what follows for places, whatever is asked
    pictured: bool = False  #: whether its results are seen over the input, wherever they are made: maps, and what has its size
    predicts: bool = False  #: whether a target in it is the class that is predicted at the x of each call
    bound: Mapping[str, Any] = {}  #: the arguments that are bound in it: combinators look at them as at those of a call
    mean: Callable[..., Any] | None = None  #: the same averaged over baselines, where that takes less than a call for each


def says(method: Any, **facts: Any) -> None:
    """Have a method tell more about itself."""
    method.about = method.about._replace(**facts)


#: What combinators take: a method, with some of its arguments bound or not, or any function with a method's arguments.
Explains: TypeAlias = Callable[..., Tree]


#: For a `with` that has nothing to do.
as_it_is = contextlib.nullcontext()


def innermost(function: Any) -> Any:
    """What `function` is without the arguments that are bound to it."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def told_by(function: Any) -> About | None:
    """What a method tells of itself, with arguments bound to it or not; None of somebody else's, whatever it calls `about`."""
    found = getattr(innermost(function), "about", None)
    return found if isinstance(found, About) else None


def tensors(tree: Tree) -> list[Tensor]:
    """The tensors in `tree`, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    leaves = tree if _is_flat(tree) else tree_flatten(tree)[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _is_flat(tree: Tree) -> bool:
    """Whether it is a list of tensors: what most structures inside are, and walking through one takes a while."""
    return type(tree) is list and len([leaf for leaf in tree if isinstance(leaf, Tensor)]) == len(tree)


def attributable(leaf: object) -> bool:
    """Whether a leaf can carry an attribution: floating-point tensors can, integers and other objects cannot."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def is_number(leaf: object) -> bool:
    """Whether a leaf holds real or complex numbers, which integers (ids, positions, masks) are not."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


_EIGHT = [f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")]
#: Floating-point numbers in less than single precision.
HALVES = [d for d in map(torch.__dict__.get, ("float16", "bfloat16", *_EIGHT)) if d is not None]


def in_single(t: Tensor) -> Tensor:
    """In single precision, of floating-point numbers in less: half would be too coarse for a sum."""
    return t.float() if t.dtype in HALVES else t


def in_floats(t: Tensor) -> Tensor:
    """As floating-point numbers, of integers and bools: what a method of one's own may give."""
    return t.to(floats_for(t))


def floats_for(t: Tensor) -> torch.dtype:
    """The dtype of what is made of numbers: theirs, and of integers the default one."""
    return t.dtype if t.is_floating_point() or t.is_complex() else torch.get_default_dtype()


def in_double(t: Tensor) -> Tensor:
    """In the widest floating-point type that its device has."""
    return t.float() if t.device.type == "mps" else t.double()


def floats_of(tree: Tree) -> list[Tensor]:
    """The floating-point tensors in `tree`, in order."""
    return [leaf for leaf in tensors(tree) if leaf.is_floating_point()]


def map_floats(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `f` to the floating-point tensors of `tree` (and what stands in their place in `rest`), keeping the structure.

    An integer tensor, which has no attribution, becomes None; other objects pass through.
    """
    if isinstance(tree, Tensor) and tree.is_floating_point():
        return f(tree, *rest)
    if _is_flat(tree) and all(leaf.is_floating_point() for leaf in tree):
        return [f(*same) for same in zip(tree, *rest)]
    leaves, spec = tree_flatten(tree)
    floats = [i for i, leaf in enumerate(leaves) if attributable(leaf)]
    others = [_beside(leaves, floats, tree_flatten(other)[0]) for other in rest]
    mapped = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    for n, i in enumerate(floats):
        mapped[i] = f(leaves[i], *(other[n] for other in others))
    return tree_unflatten(mapped, spec)


def _beside(leaves: list[Any], floats: list[int], others: list[Any]) -> list[Any]:
    """Of another tree's leaves, those in the place of floating-point tensors. The outputs of transformers drop what is None:
    where one of the two has left out its integers, the order tells."""
    same = len(others) == len(leaves)
    return [others[i] for i in floats] if same else [other for other in others if attributable(other)]


def map_tensors(f: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Apply `f` to every tensor of `tree`, keeping the structure."""
    if isinstance(tree, Tensor):
        return f(tree)
    if _is_flat(tree):
        return [f(leaf) for leaf in tree]
    leaves, spec = tree_flatten(tree)
    return tree_unflatten([f(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def map_leaves(f: Callable[..., Any], tree: Tree, *beside: Iterable[Any]) -> Tree:
    """Apply `f` to every leaf of `tree`, whatever it is, and to what is given beside it for each, keeping the structure."""
    leaves, spec = tree_flatten(tree)
    return tree_unflatten([f(*same) for same in zip(leaves, *beside)], spec)


def filled(tree: Tree, new: Iterable[Any]) -> Tree:
    """`tree` with others in the place of its tensors, in order."""
    rest = iter(new)
    return map_tensors(lambda t: next(rest), tree)


def leaf_of(t: Tensor) -> Tensor:
    """A copy that somebody may ask for a gradient; `t` itself where it has none."""
    return t.detach().clone().requires_grad_() if t.is_floating_point() else t


def get_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tree:
    """The value at a layer's input: the lone tensor, else the arguments that hold tensors, keywords by name."""
    positional = [arg for arg in args if tensors(arg)]
    named = {name: arg for name, arg in kwargs.items() if tensors(arg)}
    lone = [*positional, *named.values()]
    if len(lone) == 1 and isinstance(lone[0], Tensor):
        return lone[0]
    if not positional:
        return named
    return (*positional, named) if named else tuple(positional)


def put_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], value: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `value`, of the structure that `get_inputs` gives, in place of what holds tensors."""
    where = [i for i, arg in enumerate(args) if tensors(arg)]
    names = [name for name, arg in kwargs.items() if tensors(arg)]
    if isinstance(value, Tensor):
        value = (value,) if where else {names[0]: value} if names else ()
    named: Mapping[str, Any] = value if isinstance(value, Mapping) else value[-1] if names else {}
    replaced = list(args)
    for i, arg in zip(where, () if isinstance(value, Mapping) else value):
        replaced[i] = arg
    return tuple(replaced), {**kwargs, **named}


def copied(tree: Tree) -> Tree:
    """A copy that somebody else may change in place."""
    return map_tensors(torch.clone, tree)


def batch_size(x: Tree) -> int:
    """The number of examples: the first dimension of the first tensor of `x`."""
    found = (x,) if isinstance(x, Tensor) else tensors(x)
    if not found:
        lists = isinstance(x, Mapping) and any(type(part).__name__ in ("list", "ndarray") for part in x.values())
        cure = "ask a tokenizer for tensors, return_tensors='pt'" if lists else "pass a tensor, or a tuple or dict with one"
        raise complaint(TypeError, f"x holds no tensor{', but lists or arrays' * lists}: {cure}.")
    if found[0].dim() == 0:
        raise complaint(ValueError, "x is a 0-d tensor, expected the batch first: pass x[None].")
    return found[0].shape[0]


def broadcasts(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether what has one shape broadcasts to the other: each dimension, from the last on, has that size or 1."""
    # Not `p in (1, q)`: of symbols, Dynamo says that it is not.
    return len(small) <= len(large) and all(p == 1 or p == q for p, q in zip(reversed(small), reversed(large)))


def by_channel(t: Tensor, dims: int) -> Tensor:
    """A number for each channel, to go with a value of so many dimensions, of which the second is the channels."""
    return t.reshape(-1, *[1] * (dims - 2))


def as_arguments(x: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with: a tuple is positional inputs, a dict is keyword inputs."""
    if isinstance(x, Tensor):
        return (x,), {}
    if isinstance(x, tuple):
        return x, {}
    if isinstance(x, Mapping):
        return (), dict(x)
    return (x,), {}
