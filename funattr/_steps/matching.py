"""What an argument (baselines, masks, standard deviations) says for each tensor of a structure, and whether it fits there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._core.checks import check_dense, may_read
from .._core.passes import Question
from .._core.sites import Sites
from .._torch import is_plain, tree_flatten, tree_unflatten
from .._types import Tree, attributable, broadcasts, floats_of, tensors
from .._words import check_size, complaint, kind_of

#: What in a part of a structure needs an entry.
Counts: TypeAlias = Callable[[Tree], Sequence[Any]]


def matched(
    given: Tree, like: Tree, what: str, label: str | None, *, deep: bool = False, counts: Counts = tensors
) -> list[Any]:
    """What `given` says for each leaf of `like`: by name in dicts, by position in tuples, lists and other structures.

    What is no structure (a number, None) holds for all leaves below it, a tensor for the only one there. A part of `like` in
    which nothing `counts` may be left out, and has None then. With `deep`, what `given` says for a leaf may have a structure
    of its own. `label` names `like` in messages; None is the input of a method whose baselines are inputs.
    """
    found = _entries(given, like, deep, counts)
    if found is None:
        raise _differs(given, like, what, label, counts)
    return found


def _entries(given: Tree, like: Tree, deep: bool, counts: Counts) -> list[Any] | None:
    if _is_leaf(like):
        return [given] if deep or _is_leaf(given) else None
    leaves, spec = tree_flatten(like)
    if not isinstance(given, Tensor) and _is_leaf(given):
        return [given] * len(leaves)
    if isinstance(given, Tensor):
        return [given if isinstance(leaf, Tensor) else None for leaf in leaves] if len(tensors(like)) == 1 else None
    if isinstance(like, Mapping) and isinstance(given, Mapping):
        # A ModelOutput leaves out what is None, and nobody has a baseline for a cache.
        needed = {key for key in like if key in given or counts(like[key])}
        pairs = [(given.get(key), like[key]) for key in like] if set(given) == needed else None
    elif isinstance(like, (tuple, list)) and isinstance(given, (tuple, list)):
        pairs = _by_position(given, like, counts)
    else:  # whatever else is registered as a structure
        parts, own = tree_flatten(given)
        return parts if own == spec else None
    each = [_entries(own, part, deep, counts) for own, part in pairs or ()]
    return None if pairs is None or None in each else [entry for entries in each for entry in entries or ()]


def _by_position(given: Sequence[Any], like: Sequence[Any], counts: Counts) -> list[tuple[Any, Any]] | None:
    if len(given) == len(like):
        return list(zip(given, like))
    rest, own = iter(given), [bool(counts(part)) for part in like]
    return [(next(rest) if mine else None, part) for mine, part in zip(own, like)] if len(given) == sum(own) else None


def _is_leaf(tree: Any) -> bool:
    if isinstance(tree, (Tensor, int, float, dict, tuple, list)):  # what nearly all are
        return not isinstance(tree, (dict, tuple, list))
    leaves = tree_flatten(tree)[0]
    return len(leaves) == 1 and leaves[0] is tree


def _differs(given: Any, like: Any, what: str, label: str | None, counts: Counts) -> Exception:
    has, wanted = _structure(given), _structure(like)
    fewer = isinstance(given, Mapping) and isinstance(like, Mapping) and set(given) < set(like)
    rest = ", None for what stays as it is" * fewer
    if label is None:
        text = f"{what} must be a scalar or have the structure of x ({wanted}){rest}, got {has}."
    elif counts is floats_of and isinstance(given, Mapping) and isinstance(like, Mapping):
        names = ", ".join(map(repr, given)), ", ".join(map(repr, like))
        text = f"{what} has the names {names[0]}, and {label} {names[1]}: give one for each."
    elif counts is floats_of and isinstance(given, (tuple, list)) and not isinstance(like, Mapping):
        count = len(floats_of(like))
        text = f"{what} has {len(given)} entries for {count} floating-point tensors of {label}: give one for each."
    else:
        text = f"{what} is {has}, and {label} is {wanted}: give {what} the same structure{rest}."
    return complaint(ValueError, text)


def _structure(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if not isinstance(value, (Mapping, tuple, list)):
        return f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        text, parts = f"a dict with the keys {', '.join(map(repr, value))}", list(value.values())
    else:
        text, parts = f"a {type(value).__name__} of {len(value)}", list(value)
    odd = [part for part in parts if not isinstance(part, (Tensor, int, float, type(None)))]
    return f"{text} that holds {kind_of(odd[0])}" if odd else text


def by_site(given: Tree, sites: Sites, what: str) -> list[Tree]:
    """What `given` says for each site."""
    if sites.spec is None:
        return [given]
    return matched(given, tree_unflatten(list(range(len(sites.sites))), sites.spec), what, "layer", deep=True)


def at_sites(given: Tree, q: Question, values: Sequence[Tree], what: str) -> list[list[Any]]:
    """What `given` says for each leaf of the value at each site."""
    each = zip(by_site(given, q.sites, what), values)
    return [matched(own, value, what, q.where(i)) for i, (own, value) in enumerate(each)]


def check_compares(baselines: Sequence[Any], what: str) -> None:
    """Refuse baselines that are None throughout."""
    if all(baseline is None for baseline in baselines):
        text = f"baselines hold {what} own value, so there is nothing to compare: give one (for ids, a token's)."
        raise complaint(ValueError, text)


def deviations(stdevs: Any, like: Tree, label: str) -> list[float]:
    """The standard deviation for each floating-point tensor of `like`.

    One number for all, or one for each: by name or by position. Integers take no noise, and need no entry.
    """
    floats = [attributable(leaf) for leaf in tree_flatten(like)[0]]
    lone = _is_leaf(like) and isinstance(stdevs, (tuple, list))
    each = matched(stdevs, (like,) if lone else like, "stdevs", label, counts=floats_of)
    for stdev in each if _is_leaf(stdevs) else [s for s in each if s is not None]:
        check_size(stdev, "stdevs", "a number, or one per input")
    return [float(stdev or 0.0) for stdev, takes in zip(each, floats) if takes]


# Tensors.

#: The smallest and the largest number in a tensor, by the tensor's id.
Ranges = dict[int, tuple[float, float]]


def ranges(given: Tree) -> Ranges:
    """What the data of `given` must be known for, read where it may be."""
    for t in tensors(given):
        check_dense(t, "baselines")
    return {id(t): _range(t) for t in tensors(given) if is_plain(t) and t.numel()} if may_read() else {}


def _range(t: Tensor) -> tuple[float, float]:
    t = torch.view_as_real(t.detach().resolve_conj()) if t.is_complex() else t.detach()
    try:
        low, high = torch.aminmax(t)
    except NotImplementedError:  # of unsigned integers, and of eight bits
        low, high = torch.aminmax(t.double())
    return (float(low), float(high)) if t.is_floating_point() else (int(low), int(high))


def fit(leaf: Tensor, given: Any, known: Ranges, label: str | None, shape: Sequence[int] | None = None) -> Tensor:
    """A baseline as a tensor in `leaf`'s dtype, on its device, that broadcasts to it (or to `shape`); None is `leaf` itself.

    An error where the dtype cannot hold it: integers no halves, and nobody NaN or inf.
    """
    check_dense(leaf, label or "x")
    if given is None:
        return leaf
    if isinstance(given, Tensor):
        check_fits(given, leaf.shape if shape is None else shape, "baselines", label)
    elif not isinstance(given, (int, float, complex)) or (isinstance(given, bool) and leaf.dtype != torch.bool):
        made = "torch.stack" if isinstance(given, list) and any(isinstance(part, Tensor) for part in given) else "torch.tensor"
        hints = {"ndarray": ": pass torch.from_numpy(baselines)", "list": f": pass {made}(baselines)"}
        hint = hints.get(type(given).__name__, "")
        place = "" if label is None else f" for {label}"
        raise complaint(TypeError, f"baselines must be numbers or tensors{place}, got {kind_of(given)}{hint}.")
    cure = _misheld(leaf, given, known)
    if cure is not None:
        name = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else repr(given)
        raise complaint(ValueError, f"baselines={name} cannot stand in {label or 'x'}, which is {leaf.dtype}: {cure}.")
    if isinstance(given, Tensor):
        return given.to(device=leaf.device, dtype=leaf.dtype)
    return torch.full((), given, device=leaf.device, dtype=leaf.dtype)


def _misheld(leaf: Tensor, given: Any, known: Ranges) -> str | None:
    """The cure, where `leaf`'s dtype cannot hold a number or the numbers of a tensor."""
    dtype, several = leaf.dtype, isinstance(given, Tensor)
    if not dtype.is_complex and (given.is_complex() if several else isinstance(given, complex)):
        return "give real ones"
    low, high = known.get(id(given), (0, 0)) if several else (abs(given), abs(given)) if dtype.is_complex else (given, given)
    if dtype.is_floating_point or dtype.is_complex:
        limits = torch.finfo(dtype)
        if limits.min <= low <= high <= limits.max:
            return None
        finite = low - low == 0 == high - high
        told = "baselines hold NaN or inf, give finite numbers" if several else "it is not a finite number"
        return "it is out of its range" if finite else told
    bounds = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    fractions = given.is_floating_point() if several else isinstance(given, float)
    if several and fractions:  # what cannot be read may hold any
        fractions = id(given) not in known or not bool((given == given.trunc()).all())
    elif fractions:
        fractions = not given.is_integer()
    held = bounds[0] <= low <= high <= bounds[1] and not fractions
    return None if held else "give whole numbers that it can hold, such as an integer id"


def check_fits(given: Tensor, shape: Sequence[int], what: str, label: str | None) -> None:
    """Broadcasting must not make what has `shape` larger."""
    if broadcasts(given.shape, shape):
        return
    if label is None:
        cure = "give each reference x's own shape"
        if given.dim() == len(shape) and broadcasts(given.shape[1:], shape[1:]):
            cure = "give one for all or one for each example, and several to fa.mean_over_baselines(method)"
        text = f"{what} {list(given.shape)} do not broadcast to {list(shape)}: {cure}."
    else:
        # Of each token, or each channel: dimensions lack behind.
        lacks = [len(shape) - given.dim() - k for k in (1, 0) if given.dim() and given.shape == shape[k : k + given.dim()]]
        behind = ", None" * (lacks or [0])[0]
        cure = f"pass {what}[...{behind}]" if lacks else "give each dimension that size or 1"
        text = f"{what} has the shape {list(given.shape)}, which does not broadcast to {label} {list(shape)}: {cure}."
    raise complaint(ValueError, text)


# Distributions of baselines: with a dimension of their own in front, ``[B, 1 | N, ...]``.


def is_distribution(leaf: Tensor, given: Any) -> bool:
    """Whether a baseline is one of several: it has one dimension more than what it stands in for."""
    return isinstance(given, Tensor) and given.dim() == leaf.dim() + 1


def rows_in(given: Sequence[Any], leaves: Sequence[Any]) -> int | None:
    """How many rows the distributions among the baselines of these leaves have: all as many. None: there is no distribution.

    Row b of all of them goes together; what is no distribution is the same in all rows. What is no tensor has no baseline.
    """
    pairs = [(base, leaf) for base, leaf in zip(given, leaves) if isinstance(leaf, Tensor)]
    counts = sorted({base.shape[0] for base, leaf in pairs if is_distribution(leaf, base)})
    if len(counts) > 1:
        text = f"baselines hold distributions of {' and '.join(map(str, counts))} rows: row b of each goes together, so give"
        raise complaint(ValueError, f"{text} all of them as many.")
    if counts[:1] == [0]:
        raise complaint(ValueError, "baselines is an empty distribution: pass at least one row, [1, 1, ...].")
    return counts[0] if counts else None


def fit_rows(leaf: Tensor, given: Any, known: Ranges, label: str | None) -> tuple[Tensor, bool]:
    """A baseline as `fit` makes it, or a distribution of them, ``[B, 1 | N, ...]``, and whether it is one."""
    if is_distribution(leaf, given):
        return fit(leaf, given, known, label, (given.shape[0], *leaf.shape)), True
    if isinstance(given, Tensor) and 0 < given.dim() == leaf.dim() and given.shape[0] not in (1, leaf.shape[0]):
        text = (
            f"baselines has the shape {list(given.shape)}, which does not broadcast to {label or 'x'} {list(leaf.shape)}: give "
        )
        cure = "each dimension that size or 1, or of a distribution, over which the mean is taken, pass baselines[:, None]"
        raise complaint(ValueError, f"{text}{cure}.")
    return fit(leaf, given, known, label), False


def picked(rows: Tensor, row: Tensor) -> Tensor:
    """The row of a distribution that has this number; for several numbers, each, up front."""
    return rows.index_select(0, row.reshape(-1)).reshape(*row.shape, *rows.shape[1:])
