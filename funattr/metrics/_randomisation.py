"""Whether an explanation looks at the model: what becomes of it where the model's parameters are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._combine.dress import about, device_of, known_method
from .._core.backward import CHECKPOINTS_OFF
from .._core.code import Words
from .._core.where import bind, find, sees_nothing_inside
from .._steps.draws import Rewound, check_generator, drawn_by
from .._torch import as_written
from .._types import Explains, Layer, Model, Target, Tree, innermost, map_tensors, tensors
from .._words import check_choice, complaint, kind_of
from ._agreement import SIMILARITIES, agreement
from ._judged import check_explains, judged, metric, options_throughout

ORDERS = ("cascading", "independent")


@metric
def randomisation(
    method: Explains,
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    order: str = "cascading",
    layers: Sequence[str] | None = None,
    similarity: str | Callable[[Tree, Tree], Tensor] = "spearman",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """What is left of an explanation where the model's parameters are shuffled, layer by layer: the sanity check.

    For each layer, the similarity of ``method(model, x)`` and the same with that layer's parameters shuffled: their own entries
    in a random order, which keeps their scale. What is constant (a new norm layer, zero biases) stays as it is, and so do
    buffers. A method that draws random numbers draws the same each time. The model itself is not written to.

    Args:
        method: a method, called ``method(model, x, target=target)``, with `layer` where one is named. Options are bound by
            `functools.partial`.
        model: an `nn.Module`, or `functools.partial` of one.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        order: ``"cascading"``: the layers before it in the list stay shuffled; ``"independent"``: it alone is.
        layers: the names of the layers, in the order in which they are shuffled; one without parameters of its own stands for
            all that are inside. None: every module with parameters of its own, from the output to the input.
        similarity: a `kind` of `agreement`, or a callable ``(as given, shuffled) -> [N]``.
        generator: where draws come from, or None for torch's global one. The same seed gives the same result.

    Returns:
        For each layer's name, in order, ``[N]``. Low is good: the law is that a method which does not look at the model stays
        at 1.

    Raises:
        ValueError: there is no such `order`, `similarity` or layer, a layer or the model has no parameters,
            `similarity` returns no ``[N]``, or there are NaN or inf.
        TypeError: attributions in place of a method, or the model is no module.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> found = fa.metrics.randomisation(lambda model, x, target: x, model, torch.randn(2, 6), target=0)
        >>> {name: similarity.tolist() for name, similarity in found.items()}
        {'2': [1.0, 1.0], '0': [1.0, 1.0]}

    References:
        Adebayo et al., Sanity Checks for Saliency Maps, 2018, https://arxiv.org/abs/1810.03292
    """
    check_explains(method)
    check_generator(generator)
    check_choice(order, "order", ORDERS)
    if not callable(similarity):
        check_choice(similarity, "similarity", SIMILARITIES)
    root = _root(model)
    options = options_throughout(method, model, x, layer, target)
    method = known_method(method)
    generators = [*([] if generator is None else [generator]), *about(method).generators]
    start = Rewound(generators, device_of(x))
    given = judged(method(model, x, **options), "the method returned")
    result: dict[str, Tensor] = {}
    shuffled: dict[str, Tensor] = {}
    for name, parameters in _parameters(root, layers):
        drawn = {key: _shuffled(p, generator) for key, p in parameters.items()}
        shuffled = drawn if order == "independent" else shuffled | drawn
        here = Rewound(generators, device_of(x))
        start.rewind()  # the method draws the same each time, and the shuffles go on
        found = judged(_asked(method, _with(model, _Shuffled(root, shuffled)), x, options), "the method returned")
        here.rewind()
        result[name] = _similarity(similarity, given, found)
    if not result:
        why = "the model has no parameters" if layers is None else "layers is empty"
        raise complaint(ValueError, f"{why}: there is nothing to shuffle.")
    return result


def _asked(method: Any, model: Model, x: Tree, options: dict[str, Any]) -> Tree:
    try:
        found: Tree = method(model, x, **options)
        return found
    except RuntimeError as error:
        if "heckpoint" not in str(error):
            raise
        text = "the model runs a part of itself again in the backward pass (torch.utils.checkpoint), with its own parameters"
        raise complaint(ValueError, f"{text}: {CHECKPOINTS_OFF}.") from error


def _similarity(similarity: str | Callable[[Tree, Tree], Tensor], given: Tree, found: Tree) -> Tensor:
    if not callable(similarity):
        return agreement(given, found, kind=similarity)
    value, size = similarity(given, found), tensors(given)[0].shape[0]
    if not isinstance(value, Tensor) or value.shape != (size,):
        got = list(value.shape) if isinstance(value, Tensor) else kind_of(value)
        raise complaint(ValueError, f"similarity must return one number for each example, a tensor [{size}], got {got}.")
    return value


#: What runs where no function mode is asked, or when it has gone: a Function's backward pass, a checkpoint's, numpy.
_BESIDE = Words(rule=lambda names: bool(names & {"apply", "checkpoint", "numpy", "data_ptr", "from_dlpack"}))


class _Swapped(TorchFunctionMode):
    """Has operations take other tensors for some, in this thread alone: nothing is written."""

    def __init__(self, others: dict[int, Tensor]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map(self.own, args), **{name: self.own(value) for name, value in (kwargs or {}).items()})

    def own(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.others.get(id(value), value)
        return type(value)(map(self.own, value)) if type(value) in (tuple, list) else value


class _Shuffled(nn.Module):
    """A module with other parameters while it runs; everything else, the names of its layers included, is its own.

    Operations take them, so that other threads, which may run the module, see nothing of it. Where some could pass that by, the
    module itself has them for as long as it runs.
    """

    def __init__(self, module: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.module, self.training = module, module.training
        self.__dict__["_shuffled"] = parameters
        others = {id(p): parameters[name] for name, p in module.named_parameters() if name in parameters}
        modules = tuple(module.modules())
        beside = _BESIDE.in_modules(modules) or any(map(sees_nothing_inside, modules))
        self.__dict__["_others"] = None if beside else others

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._others is None:
            return torch.func.functional_call(self.module, self._shuffled, args, kwargs)
        with _Swapped(self._others) as mode:
            return map_tensors(mode.own, as_written(self.module, *args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _root(model: Model) -> nn.Module:
    """The module whose parameters are shuffled."""
    inner = innermost(model)
    if not isinstance(inner, nn.Module):
        text = (
            f"the model must be an nn.Module, whose parameters are shuffled, or functools.partial of one, got {kind_of(inner)}"
        )
        raise complaint(TypeError, f"{text}: put what a function does besides into a module around it.")
    root = bind(inner).root
    assert root is not None
    if isinstance(root, torch.jit.ScriptModule):
        text = "the model is scripted or traced, and torch cannot run one with other parameters"
        raise complaint(TypeError, f"{text}: pass the model before it was.")
    return root


def _with(model: Model, module: nn.Module) -> Model:
    """`module` with what is bound to the model."""
    return partial(_with(model.func, module), *model.args, **model.keywords) if isinstance(model, partial) else module


def _parameters(root: nn.Module, layers: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each layer's name, and its parameters by theirs; one that is tied has one name, wherever it is used."""
    names = {p: name for name, p in root.named_parameters()}

    def own(module: nn.Module, recurse: bool = False) -> dict[str, Tensor]:
        return {names[p]: p for p in module.parameters(recurse)}

    if layers is None:
        yield from ((name, own(module)) for name, module in reversed([*root.named_modules()]) if own(module))
        return
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise complaint(TypeError, f"layers must be a list of names, got {kind_of(layers)}.")
    for name in layers:
        if not isinstance(name, str):
            meant = [repr(own) for own, module in root.named_modules() if module is name]
            cure = f": pass its name, {meant[0]}" if meant else ""
            raise complaint(TypeError, f"layers must be a list of names, and holds a {type(name).__name__}{cure}.")
        module = find(root, name) if name else root
        parameters = own(module) or own(module, recurse=True)
        if not parameters:
            has = [name for name, module in root.named_modules() if own(module)]
            text = f"layer {name!r} has no parameters to shuffle. These have: {', '.join(map(repr, has[:8]))}"
            raise complaint(ValueError, f"{text}{', ...' if len(has) > 8 else ''}.")
        yield name, parameters


def _shuffled(parameter: Tensor, generator: torch.Generator | None) -> Tensor:
    """A parameter's own entries in a random order."""
    order = drawn_by(torch.randperm, generator, torch.device("cpu"), parameter.numel())
    return parameter.detach().reshape(-1)[order.to(parameter.device)].reshape(parameter.shape)
