"""Which model: looking through what wraps a module, and what is known of the modules inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._habits import did_you_mean
from .._torch import as_written, compiled_from, may_be_compiled, tracing
from .._types import Model
from .._words import complaint, kind_of


class Bound(NamedTuple):
    """A model made ready: what to call with the inputs, and the module in which layer names resolve."""

    call: Callable[..., Any]
    root: nn.Module | None
    outer: nn.Module | None = None  # what wraps it, and has names of its own for the layers
    rules: Any = None  # the function mode that has them: on while it runs, and while a score is made of its output
    grouped: Any = None  # how values are laid out, where rows of x are parts of examples
    plain: Any = None  # what to call without the rules

    def under(self, mode: AbstractContextManager[Any]) -> Bound:
        """The same with a function mode on while the model runs, and only then: each operation that it sees costs time."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with mode:
                return as_written(self.call, *args, **kwargs)

        return self._replace(call=call)

    def look(self, scores: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        """Lets rules look at the graph of a pass, for what they were not told of."""
        if (look := getattr(self.rules, "look", None)) is not None:
            look(scores, leaves)

    def ruled(self, mode: Any) -> Bound:
        """The same under rules for the backward pass. A mode that asks where values come from has begin, follow, end."""
        begin = getattr(mode, "begin", None)
        found = self.under(mode)
        if begin is None:
            return found._replace(rules=mode, plain=self.call)

        def call(*args: Any, **kwargs: Any) -> Any:
            begin(args, kwargs)
            output = found.call(*args, **kwargs)
            mode.end(output)
            return output

        return found._replace(call=call, rules=mode, plain=self.call)

    def for_values(self, create_graph: bool) -> Bound:
        """The model for passes without a gradient of the score, which alone is under rules: if differentiated, without them."""
        return self._replace(call=self.plain, rules=None) if create_graph and self.rules is not None else self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


def bind(model: Model | Bound) -> Bound:
    """Look through compile, DataParallel, functools.partial and functional_call to the module that runs."""
    if isinstance(model, nn.Module):
        if isinstance(model, nn.DataParallel) or "_orig_mod" in model._modules:
            # A compiled module runs no hooks inside, and replicas run elsewhere: the module itself, once.
            inner = model.module if isinstance(model, nn.DataParallel) else model._modules["_orig_mod"]
            return bind(inner)._replace(outer=model) if inner is not None else Bound(model, model)
        return Bound(model, model)
    if isinstance(model, Bound):
        return model
    if compiled_from(model) is not None:
        return bind(compiled_from(model))
    if isinstance(model, partial):
        if is_functional_call(model):
            return _bind_functional(*model.args, **model.keywords)
        inner = bind(model.func)
        return inner._replace(call=partial(inner.call, *model.args, **model.keywords))
    if not callable(model) or isinstance(model, type):
        raise complaint(TypeError, f"model must be an nn.Module or a callable, got {kind_of(model)}.")
    owner = getattr(model, "__self__", None)  # a bound method, such as model.encode
    return Bound(model, owner if isinstance(owner, nn.Module) else None)


def is_functional_call(model: partial[Any]) -> bool:
    """Whether `model` is ``partial(torch.func.functional_call, module, parameters)``."""
    if not tracing():
        return model.func is torch.func.functional_call and bool(model.args)
    # Dynamo cannot compare that function with anything: it is known by what it is given.
    parameters = model.args[1] if len(model.args) > 1 else None
    return isinstance(model.args[0] if model.args else None, nn.Module) and isinstance(parameters, (dict, tuple))


def _bind_functional(module: nn.Module, params: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Bound:
    module = bind(module).root or module
    before = args if isinstance(args, tuple) else (args,)

    def call(*args: Any, **named: Any) -> Any:
        return torch.func.functional_call(module, params, (*before, *args), {**(kwargs or {}), **named}, **options)

    return Bound(call, module)


def find(root: nn.Module | None, name: str, outer: nn.Module | None = None) -> nn.Module:
    """The layer called `name`, also inside what `root` wraps (DistributedDataParallel, a compiled child), or so in `outer`."""
    if root is None:
        raise complaint(
            ValueError,
            f"the layer name {name!r} cannot be looked up in a plain function: pass the layer's module object, "
            f"or bind extra arguments with functools.partial(model, ...) in place of a lambda.",
        )
    child = root._modules[name] if name in root._modules else None  # noqa: SIM401  (the dictionary of a ScriptModule has no get)
    if child is not None:
        return child
    around = () if outer is None else (outer,)
    inner: nn.Module | None = root
    while inner is not None:
        for module in (inner, *around):
            if (child := _submodule(module, name)) is not None:
                return child
        inner = held_by(inner)
    for module in (root, *around):
        if (child := _past_wrappers(module, name)) is not None:  # not by its truth: of a container that is whether it holds any
            return child
    raise complaint(ValueError, _no_layer(root, name))


_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def held_by(module: nn.Module) -> nn.Module | None:
    """What a wrapper (DistributedDataParallel, a compiled child) holds; None of any other module."""
    return next((child for key, child in module._modules.items() if key in _WRAPPED), None)


def _past_wrappers(module: nn.Module, name: str) -> nn.Module | None:
    """The layer of that name where wrappers on the way to it are not named."""
    found: nn.Module | None = module
    for part in name.split("."):
        while found is not None and part not in found._modules:
            found = held_by(found)
        found = None if found is None else found._modules[part]
    return found


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    if not tracing() and isinstance(module, torch.jit.ScriptModule):  # it refuses get_submodule
        return dict(module.named_modules()).get(name)
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _no_layer(root: nn.Module, name: str) -> str:
    if tracing():
        return f"{type(root).__name__} has no layer {name!r}."
    names = [one for one, _ in root.named_modules() if one]
    has = f"It has {', '.join(map(repr, names[:8]))}{', ...' if len(names) > 8 else ''}."
    known = did_you_mean(name, names, has if names else "It has no named layers at all.")
    return f"{type(root).__name__} has no layer {name!r}. {known}"


def sees_nothing_inside(module: nn.Module) -> bool:
    """Whether taps and rules cannot see the operations inside `module`: it is scripted or compiled."""
    return isinstance(module, torch.jit.ScriptModule) or _is_compiled(module)


def _is_compiled(module: nn.Module) -> bool:
    in_place = getattr(module, "_compiled_call_impl", None) is not None
    forward = getattr(module, "forward", None)
    # A bound method takes its time to say what it does not have.
    return in_place or "_orig_mod" in module._modules or compiled_from(getattr(forward, "__func__", forward)) is not None


def unseen_modules(root: nn.Module, opaque: Callable[[nn.Module], bool] = sees_nothing_inside) -> set[nn.Module]:
    """The modules that taps do not reach: what a scripted or compiled module holds, and modules compiled in place."""
    hidden: set[nn.Module] = set()
    for module in all_modules(root):
        if opaque(module):
            wrapped = getattr(module, "_compiled_call_impl", None) is None
            hidden |= {inside for inside in module.modules() if not (wrapped and inside is module)}
    return hidden


def opaque_module(root: nn.Module | None) -> str | None:
    """The first module that nobody sees inside of, in words."""
    found = next(filter(sees_nothing_inside, all_modules(root)), None)
    kind = "scripted" if isinstance(found, torch.jit.ScriptModule) else "compiled"
    return None if found is None else f"{kind} module ({type(found).__name__})"


def uncompiled(bound: Bound, layers: Iterable[nn.Module] | None = None) -> Bound:
    """The model, in which what is compiled runs as it was written if one of the `layers`, or any, may be in there: taps see
    nothing of it otherwise. Of a function nobody knows what it runs."""
    if not may_be_compiled() or (layers is not None and not layers):
        return bound
    if layers is not None and bound.root is not None and not unseen_modules(bound.root, _is_compiled).intersection(layers):
        return bound
    return bound._replace(call=partial(as_written, bound.call))


def all_modules(root: nn.Module | None) -> list[nn.Module]:
    """``list(root.modules())``, several times faster: it is asked for in every call. A shared module may come twice."""
    modules: list[nn.Module] = []
    todo = [] if root is None else [root]
    while todo:
        module = todo.pop()
        modules.append(module)
        if module._modules:
            todo += [child for child in module._modules.values() if child is not None][::-1]
    return modules


def weights(root: nn.Module | None) -> Iterator[Tensor]:
    """The parameters, each as often as a module holds it."""
    return (weight for module in all_modules(root) for weight in module._parameters.values() if weight is not None)


def weights_before(root: nn.Module, layer: nn.Module) -> float:
    """About which part of the weights a model goes through before `layer`, as if its modules ran in the order of their names;
    tables, of which a pass reads some rows, do not count, nor what modules hold beside others."""
    before, total = None, 0
    for module in root.modules():
        if module is layer:
            before = total
        if not (module._modules or isinstance(module, (nn.Embedding, nn.EmbeddingBag))):
            total += sum(weight.numel() for weight in module._parameters.values() if weight is not None)
    return 1.0 if before is None else before / max(total, 1)


def own_numbers(root: nn.Module | None) -> int:
    """How many numbers modules that are not torch's hold themselves."""
    own = [module for module in all_modules(root) if not type(module).__module__.startswith("torch.nn.")]
    return sum(t.numel() for m in own for t in (*m.parameters(recurse=False), *m.buffers(recurse=False)) if not is_lazy(t))


def own_weights(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The container of a module's own parameters."""
    return module._parameters


def filled_weights(module: nn.Module) -> list[nn.Parameter]:
    """Those that have a size already."""
    return [weight for weight in own_weights(module).values() if weight is not None and not is_lazy(weight)]


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The container of a module's own buffers."""
    return module._buffers


def own_layers(module: nn.Module) -> dict[str, nn.Module | None]:
    """The container of a module's own layers."""
    return module._modules


def built(module: nn.Module) -> tuple[int, int]:
    """How many layers and parameters a module has: more after a first pass that makes them."""
    return len(module._modules), len(module._parameters)


def transparent(bound: Bound) -> Bound:
    """The model for rules for the backward pass, which see every operation, and alone: of two sets each held somewhere."""
    if bound.rules is not None:
        text = "a method with rules of its own (lrp, guided_backprop, deep_lift, under(...)) cannot be under others, too"
        raise complaint(ValueError, f"{text}: merge the sets, under({{**these, **those}})(gradient).")
    if tracing():
        return bound
    for module in all_modules(bound.root):
        if sees_nothing_inside(module) and not (may_be_compiled() and _is_compiled(module)):
            raise complaint(
                ValueError,
                f"the model holds a {type(module).__name__}, and a backward rule cannot reach the operations inside a "
                f"scripted or compiled module: pass the model before it was.",
            )
    return bound


def unfit(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """What the model calls its arguments, where these do not fit its signature, as far as that is known."""
    try:
        known = inspect.signature(call.forward if isinstance(call, nn.Module) else call)
    except (TypeError, ValueError):
        return None
    try:
        known.bind(*args, **kwargs)
    except TypeError:
        return f"({', '.join(known.parameters)})"
    return None
