"""What a tensor is, and what autograd knows of it; and trees of them."""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, peek_interpreter_stack

# The memory of a tensor by a reference that does not hold it.
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import TreeSpec, tree_flatten
from torch.utils._pytree import tree_unflatten as _tree_unflatten

from .traces import observed_by_dispatch_mode, tracing
from .transforms import is_mapped, is_wrapped, levels, plain_data, transforms_active, without_modes, without_transforms

#: Makes of a tensor, by whatever name it is held, another; since torch 2.3.
swap_tensors: Any = getattr(torch.utils, "swap_tensors", None)


def alone_in_memory(value: torch.Tensor) -> bool:
    """Whether no other tensor, no view and no graph holds the memory of `value`; False where torch does not tell."""
    if _owners is None or is_wrapped(value) or not is_plain(value) or value.layout is not torch.strided:
        return False
    return _owners_of(value) <= _ALONE


_owners: Any = getattr(torch._C, "_storage_Use_Count", None)


def _owners_of(value: torch.Tensor) -> int:
    return int(_owners(value.untyped_storage()._cdata))


#: Of one tensor; in some torch versions, not in 2.4, the storage as Python has it counts besides.
_ALONE = 0 if _owners is None else _owners_of(torch.empty(1, device="cpu"))


def forward_class(node: Any) -> Any:
    """The torch.autograd.Function that a node of the graph is the backward pass of."""
    return type(node)._forward_cls


def once_only(nodes: Iterable[Any]) -> list[str]:
    """Of which autograd.Functions among them torch may lose the second derivative, and say nothing, by name: its own that hold
    a graph (torch.cond, map, while_loop, scan) or go through collectives, and what is marked with once_differentiable."""
    kinds = {kind for node in nodes if (kind := getattr(type(node), "_forward_cls", None)) is not None}
    return sorted(kind.__name__ for kind in kinds if kind.__module__.startswith(_LOSE) or _marked_once(kind.backward))


#: Seen to lose them on torch 2.13.
_LOSE = ("torch._higher_order_ops.", "torch.distributed.")


def _marked_once(backward: Any) -> bool:
    names = getattr(backward, "__globals__", {})
    return names.get("__name__") == "torch.autograd.function" and hasattr(backward, "__wrapped__")


#: What torch.autograd.grad hands its arguments to once it has looked at them, in Python, for as long as a small net's backward
#: pass takes; before torch 2.3, the engine itself.
_run_backward: Any = getattr(torch.autograd.graph, "_engine_run_backward", None)
_run_backward = _run_backward or torch.autograd.Variable._execution_engine.run_backward


def grad_of_sum(
    value: torch.Tensor, leaves: Sequence[torch.Tensor], keep: bool, create_graph: bool
) -> Sequence[torch.Tensor | None]:
    """``torch.autograd.grad(value.sum(), leaves, keep, create_graph, allow_unused=True)`` of a float that requires grad."""
    ones = torch.ones_like(value)
    if torch.overrides.has_torch_function((value, *leaves)):  # a subclass, or a mode, has its say
        return torch.autograd.grad(value, leaves, ones, keep, create_graph, allow_unused=True)
    found: tuple[torch.Tensor | None, ...] = _run_backward(
        (value,), (ones,), keep, create_graph, tuple(leaves), True, accumulate_grad=False
    )
    return found


_counted: Any = getattr(torch.autograd, "_get_sequence_nr", None)


def nodes_so_far() -> int:
    """The number of the next node that this thread puts into a graph; 0 where torch does not tell (before 2.1)."""
    return 0 if _counted is None else int(_counted())


def is_older(t: torch.Tensor, number: int) -> bool:
    """Whether a tensor that requires a gradient is a leaf, or was made before the node of that number. A view made in a no_grad
    block is neither, whatever it says."""
    node: Any = t.grad_fn
    return not is_view(t) if node is None else (number > 0 and node._sequence_nr() < number)


def is_newer(t: torch.Tensor, number: int) -> bool:
    """Whether a tensor is seen at once to have been made by the node of that number, or a later one."""
    node: Any = t.grad_fn
    return number > 0 and node is not None and bool(node._sequence_nr() >= number)


def slope_of_one(value: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor | None:
    """The same of what one operation made of a leaf, without the engine, which takes longer than small ones; else None."""
    node: Any = value.grad_fn
    before: Sequence[Any] = () if node is None else node.next_functions
    if len(before) != 1 or getattr(before[0][0], "variable", None) is not leaf or not callable(node):  # a Python Function's
        return None
    found = node(torch.ones_like(value))
    return found if isinstance(found, torch.Tensor) else None


def nodes_before(nodes: Iterable[Any], ends: Container[Any] = ()) -> Iterator[Any]:
    """The nodes of the graph that these are made of, these with them; the `ends` too, and nothing before those."""
    todo = [node for node in dict.fromkeys(nodes) if node is not None]
    met = {*todo, None}
    for node in todo:  # which grows
        yield node
        if node not in ends:
            for other, _ in node.next_functions:
                if other not in met:
                    met.add(other)
                    todo.append(other)


def saved_as(name: str, node: Any) -> torch.Tensor | None:
    """What a node of the graph has saved by a name, to be looked at; None where hooks pack it, or torch shows none."""
    saved = getattr(node, f"_raw_saved_{name}", None)
    if saved is None or getattr(saved, "unpack_hook", saved) is not None:
        return None
    data = saved.data
    return data if isinstance(data, torch.Tensor) else None


def times_written(value: torch.Tensor) -> int:
    """How often the memory of `value` was written to, as torch counts it; 0 where it does not."""
    # What a vmap shows of a tensor does not count.
    return 0 if tracing() or value.is_inference() else plain_data(value)._version


class Writes:
    """How often the memory of a tensor was written to, also later. What is large is not held: where that would be seen, nobody
    knows."""

    small, held = 1 << 10, False  # how many numbers cost less to hold than to let go; whether what would be seen is

    def __init__(self, value: torch.Tensor) -> None:
        value = plain_data(value)
        self._counter: torch.Tensor | None = value
        with without_modes():  # which are about the model
            if value.numel() > self.small:
                self._let_go(value)
            self.noted = times_written(value)

    def _let_go(self, value: torch.Tensor) -> None:
        if type(value) is torch.Tensor and not (value.is_inference() or observed_by_dispatch_mode()):
            with without_transforms() if transforms_active() else contextlib.nullcontext():
                self._counter = value.detach()
                self._counter.data = value.new_empty(0)  # which counts on with the others
        elif not self.held:
            self._counter = None

    @property
    def as_noted(self) -> bool:
        return self._counter is None or times_written(self._counter) == self.noted


class Memory(Writes):
    """The memory of a tensor, known for as long as it lives."""

    small, held = 0, True

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__(value)
        self._lives = StorageWeakRef(value.untyped_storage())

    @property
    def gone(self) -> bool:
        return bool(self._lives.expired())


def is_view(value: torch.Tensor) -> bool:
    """Whether `value` shares its memory with a tensor that autograd knows."""
    return value._is_view()


def views(value: torch.Tensor) -> bool:
    """The same, asked by nobody."""
    with without_modes():
        return value._is_view()


def base_of(value: torch.Tensor) -> torch.Tensor | None:
    """What `value` is a view of."""
    return value._base


def is_plain(value: Any) -> bool:
    """Whether the data of `value` may be read: no subclass, not on the meta device."""
    return type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta


def is_dressed(value: Any) -> bool:
    """Whether `value` is a tensor of a subclass that holds plain data and carries something besides, as MONAI's are.

    What dispatches operations by itself (a shard, a nested tensor) has no plain data to be taken out.
    """
    kind = type(value)
    plain = kind in (torch.Tensor, torch.nn.Parameter)
    return not plain and kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


# Trees, in the one pytree registry that model libraries (transformers' ModelOutput) register their outputs with.


def tree_unflatten(leaves: Iterable[Any], spec: TreeSpec) -> Any:
    """The leaves in their structure; in a plain tuple for a NamedTuple that refuses them, as a PackedSequence does None."""
    leaves = list(leaves)
    if tracing():
        return _tree_unflatten(leaves, spec)
    try:
        return _tree_unflatten(leaves, spec)
    except Exception:
        return _built(iter(leaves), spec)


def _built(leaves: Iterator[Any], spec: Any) -> Any:
    if spec.is_leaf() if hasattr(spec, "is_leaf") else not spec.children_specs:  # torch 2.0 has no is_leaf
        return next(leaves) if spec.num_leaves else _tree_unflatten([], spec)
    children = spec.children() if hasattr(spec, "children") else spec.children_specs
    parts = [_built(leaves, child) for child in children]
    try:
        return _tree_unflatten(parts, TreeSpec(spec.type, spec.context, [_LEAF] * len(parts)))
    except Exception:
        if spec.type is not namedtuple:
            raise
        return tuple(parts)


_LEAF: Any = tree_flatten(0)[1]


def scripted_names(module: torch.jit.ScriptModule) -> list[str]:
    """The attributes that scripted code can write to, as far as is known: all buffers need not be among them."""
    kinds = module.__dict__.get("_concrete_type")
    return [] if kinds is None else [name for name in kinds.get_attributes() if name[0] != "_" and name != "training"]


# What is recorded, and where.


def grad_levels_in_vmap(*given: torch.Tensor) -> int:
    """How many transforms run, if they are a vmap and grad levels inside of it, and nobody sees the operations; else 0, and so
    where a vmap alone runs that maps over nothing of what is given."""
    kinds = [] if observed_by_dispatch_mode() else [level.key() for level in levels()]
    fits = kinds == [TransformType.Vmap, *[TransformType.Grad] * (len(kinds) - 1)]
    return len(kinds) if fits and (len(kinds) > 1 or any(map(is_mapped, given))) else 0


#: Whether what looks for transforms around an autograd.Function can be gone past: in torch 2.14 it is no Python.
_PASSABLE = isinstance(vars(torch.autograd.Function).get("apply"), classmethod)


def nothing_below() -> bool:
    """Whether a grad level is the innermost transform, and was entered where nothing was to be recorded; and nobody sees it."""
    level = peek_interpreter_stack()
    if level is None or level.key() != TransformType.Grad or observed_by_dispatch_mode() or not _PASSABLE:
        return False
    return not _functorch.CGradInterpreterPtr(level).prevGradMode()
