"""`export`: a method of one model, as a program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._combine.dress import about, check_method, name_of
from .._core.checks import same
from .._core.door import opening
from .._core.holders import statistics_kept
from .._core.passes import forward, kept, question
from .._core.where import bind
from .._types import Explains, Model, Tree, batch_size, filled, map_tensors, tensors
from .._words import complaint, door, kind_of
from .trace import Refused, Way, check_draws, drawing, reason, tidied, traced


class Inputs(NamedTuple):
    """The tensors that a program is given: those of x, and arguments with a row for each example."""

    names: list[str]
    values: list[Tensor]
    sized: list[bool]  # whose first size is that of the batch
    given: Callable[[Sequence[Tensor]], list[Any]]  # x and these arguments, with others in their place
    method: Callable[..., Tree]  # for these
    by_name: bool

    def call(self, values: Sequence[Tensor]) -> Tree:
        return self.method(*self.given(values))

    def run(self, program: Any, values: Sequence[Tensor]) -> Tree:
        return program(**dict(zip(self.names, values))) if self.by_name else program(*values)


@door
def export(
    method: Explains, model: Model, x: Tree, *, dynamic_batch: bool = True, **arguments: Any
) -> torch.export.ExportedProgram:
    """A method of a model as a program that runs without Python, and without this package.

    ``export(method, model, x, **arguments).module()(y)`` is ``method(model, y, **arguments)``. From there on it is torch's:
    `torch.export.save`, `torch.onnx.export`, ``torch._inductor.aoti_compile_and_package`` for C++. The model's parameters and
    buffers are the program's state, under the model's names. The method runs a few times, here and as the program, on x and on
    batches made of it: they must agree.

    Args:
        method: a method.
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        dynamic_batch: True for a program that takes batches of any size, False for one that takes batches of x's size.
        arguments: the method's own. A `target` with one class per example, a tensor ``[N]`` or a list, and `baselines`
            ``[N, ...]`` with one for each, are inputs of the program, after those of x, here or bound in `method`; everything
            else is a constant of it.

    Returns:
        The program. Its inputs are the tensors of x, as the model takes them: by position, those of a dict by name. Its results
        are the method's.

    Raises:
        ValueError: it cannot be a program: the values of a tensor decide what runs, random numbers are drawn, or an operation
            fixes the size of the batch.
        TypeError: not a method, or an argument is of the wrong type.
        NotImplementedError: before torch 2.4.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).eval()
        >>> program = fa.export(fa.integrated_gradients, model, torch.randn(2, 3), target=1, n_steps=8)
        >>> y = torch.randn(5, 3)
        >>> torch.allclose(program.module()(y), fa.integrated_gradients(model, y, target=1, n_steps=8), atol=1e-6)
        True
    """
    if torch.__version__ < "2.4":  # as versions: this is no plain str
        raise complaint(NotImplementedError, f"programs need torch 2.4 or later, and this is {torch.__version__}.")
    check_method(method)
    if not isinstance(dynamic_batch, bool):
        raise complaint(TypeError, f"dynamic_batch must be True or False, got {kind_of(dynamic_batch)}.")
    if arguments.get("rtol") is not None:
        text = "rtol= chooses nodes by what it finds, and a program has one way for all: pass n_steps= in its place."
        raise complaint(ValueError, f"{name_of(method)} cannot be a program: {text}")
    inputs = _inputs(method, model, x, arguments)
    root = bind(model).root
    with torch.inference_mode(False), torch.no_grad(), statistics_kept([] if root is None else [*root.modules()]):
        before = torch.get_rng_state()
        inputs.call(inputs.values)  # what is wrong without an export is said as without one
        draws = about(method).draws or not torch.equal(before, torch.get_rng_state())
        try:
            return _exported(method, model, inputs, dynamic_batch, draws)
        except Refused as error:
            kind = "for batches of any size" if dynamic_batch else "for batches of one size"
            raise complaint(ValueError, f"{name_of(method)} cannot be a program {kind}: {error}") from error.__cause__


def _exported(method: Explains, model: Model, inputs: Inputs, dynamic: bool, draws: bool) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the method has given its own
        if dynamic:
            example, tries = _of_other_size(inputs), (Way.FOLDED, Way.ONE_BY_ONE)
            batches = [example.values, inputs.values, *(_with_rows(inputs, count) for count in (1, 2))]
        else:
            example, tries, batches = inputs._replace(sized=[False for _ in inputs.sized]), (Way.FOLDED, Way.MAPPED), []
            batches = [inputs.values]
        for way in tries:
            try:
                program = _program(example, model, way, about(method).draws)
                _check(program, inputs, model, batches)
                return program
            except Exception as error:
                if isinstance(error, Refused) and error.last:
                    raise
                if way is tries[-1]:
                    raise Refused(drawing(about(method).draws) if draws else reason(error)) from error
    raise AssertionError


def _program(inputs: Inputs, model: Model, way: Way, draws: bool) -> torch.export.ExportedProgram:
    graph = traced(lambda *values: inputs.call(values), inputs.values, inputs.sized, way)
    check_draws(graph, draws)
    graph = tidied(graph, bind(model).root, inputs.names)
    batch = torch.export.Dim("batch")
    dims = [{0: batch} if sized else None for sized in inputs.sized]
    if inputs.by_name:
        given, shapes = dict(zip(inputs.names, inputs.values)), dict(zip(inputs.names, dims))
        return torch.export.export(graph, (), given, dynamic_shapes=shapes)
    return torch.export.export(graph, tuple(inputs.values), dynamic_shapes=tuple(dims))


def _check(program: torch.export.ExportedProgram, inputs: Inputs, model: Model, batches: Sequence[Sequence[Tensor]]) -> None:
    """The program gives what the method gives, at batches of several sizes: what was taken for granted is shown."""
    run = program.module()
    for values in batches:
        size = next((t.shape[0] for t, sized in zip(values, inputs.sized) if sized), 0)
        try:
            expected = tensors(inputs.call(values))
        except Exception as error:
            if values is not inputs.values:
                text = shorten(str(error), 200, placeholder=" ...")
                raise Refused(f"the model does not take a batch of {size} ({text}): pass dynamic_batch=False.") from error
            raise
        found = tensors(inputs.run(run, values))
        noise = _rounding(model, inputs.given(values)[0])
        if len(found) != len(expected) or not all(_agree(*pair, noise) for pair in zip(found, expected)):
            raise Refused(
                f"what the program gives for a batch of {size} is not what the method gives: the model, or a callable in the "
                f"call, holds something of the batch that was traced (its size, or rows of its own). Pass dynamic_batch=False."
            )


def _agree(found: Tensor, expected: Tensor, noise: float) -> bool:
    """Whether two results are one, to rounding: of each other's size, or that of what cancels out."""
    if same(found, expected):
        return True
    return found.shape == expected.shape and found.dtype == expected.dtype and bool((found - expected).abs().max() <= noise)


@opening
def _rounding(model: Model, x: Tree) -> float:
    """How much is rounding, of numbers as large as the model's outputs."""
    outputs = [t for t in tensors(forward(question(model, x, None, None), kept).output) if t.is_floating_point() and t.numel()]
    return max((4 * torch.finfo(t.dtype).eps * float(t.abs().max()) for t in outputs), default=0.0)


# What goes into a program.


def _inputs(method: Explains, model: Model, x: Tree, arguments: Mapping[str, Any]) -> Inputs:
    size, own = batch_size(x), method.keywords if isinstance(method, partial) else {}
    given = {name: value for name, value in {**own, **arguments}.items() if _has_rows(method, name, value, size)}
    whole = map_tensors(_plain, [x, *map(_as_tensor, given.values())])
    values = tensors(whole)
    sized = [t.shape[:1] == (size,) for t in values]

    def run(first: Tree, *rest: Any) -> Tree:
        return method(model, first, **{**arguments, **dict(zip(given, rest))})

    names = [name for key, value in {"x": x, **given}.items() for name in _names(key, value)]
    return Inputs(names, values, sized, partial(filled, whole), run, isinstance(x, Mapping))


def _plain(value: Tensor) -> Tensor:
    return value.clone() if value.is_inference() else value.detach()


def _as_tensor(value: Any) -> Any:
    """Classes in a list or an array, as a tensor."""
    numbers = isinstance(value, list) and all(isinstance(each, (int, np.integer)) for each in value)
    return torch.as_tensor(value, device="cpu") if numbers or isinstance(value, np.ndarray) else value


def _has_rows(method: Explains, name: str, value: Any, size: int) -> bool:
    """Whether there is one for each example. A single row of baselines is a reference for all; a target of one is one's own."""
    if name == "baselines" and about(method).baselines != "several":
        rows = [t.shape[:1] == (size,) for t in tensors(value)] if isinstance(value, (Tensor, tuple, list, Mapping)) else []
        return size > 1 and any(rows)
    found = _as_tensor(value)
    return name == "target" and isinstance(found, Tensor) and found.shape == (size,)


def _names(name: str, value: Tree) -> list[str]:
    """What the tensors of `value` are called: as the caller calls them, where they stand in a dict."""
    count = len(tensors(value))
    if isinstance(value, Mapping) and len(value) == count:
        return [str(key) if name == "x" else f"{name}_{key}" for key in value]
    return [name] if count == 1 else [f"{name}{i}" for i in range(count)]


# Batches of other sizes.


def _of_other_size(inputs: Inputs) -> Inputs:
    """The inputs with a batch whose size is no other size, lest one be taken for the other."""
    taken = {size for t in inputs.values for size in t.shape}
    return inputs._replace(values=_with_rows(inputs, next(n for n in range(5, 1 << 20) if n not in taken)))


def _with_rows(inputs: Inputs, count: int) -> list[Tensor]:
    """Rows of the inputs, again and again, each time with smaller numbers: no two are the same."""
    found = []
    for t, sized in zip(inputs.values, inputs.sized):
        if sized:
            at = torch.arange(count, device=t.device)
            times = torch.div(at, t.shape[0], rounding_mode="floor")
            t = t[at % t.shape[0]]
            if t.is_floating_point():
                t = t * (8 / (8 + times)).to(t.dtype).reshape(-1, *[1] * (t.dim() - 1))
        found.append(t)
    return found
