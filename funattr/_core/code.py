"""What the code of a model names, as far as that can be read: to look for a thing only where there can be one. What modules it
runs, which of them are in train mode (told of once per call, and nothing is learned of what a method has it run on), and which
have parameters without a size."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import is_registered, transforms_active
from .._types import Tree, as_arguments, copied, told_by
from .._words import complaint, warn
from .holders import HOLDING, LIBRARIES, generator_kind, is_made_of_code, of_library
from .where import all_modules, bind, own_weights

_PLAIN = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.BuiltinFunctionType, Tensor)
#: What runs before a model does, and not with it.
_BEFORE = {"__init__", "__repr__", "reset_parameters", "init_weights", "_init_weights", "from_pretrained"}
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_NAMED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, torch.jit.ScriptFunction)


class Words:
    """Whether code names a word of some: with what functions call, and what instances hold, but not what is torch's own.

    `also` are kinds of modules that count by themselves; a `rule` looks at all names of a function in place of words.
    """

    def __init__(self, *words: str, also: tuple[type, ...] = (), rule: Callable[[set[str]], bool] | None = None) -> None:
        self.rule = rule or (lambda names: any(word in name for name in names for word in words))
        self.narrow = rule is not None
        self.also = also
        self.known: dict[Any, bool] = {}  # by class, and by code
        self.harmless: set[type] = set()  # kinds of what modules keep

    def in_modules(self, modules: Sequence[nn.Module]) -> bool:
        """Whether the code of a module, or what it keeps, names one. Asked for in every call."""
        named, others = _looked_up(self, frozenset(map(type, modules)))
        if named or not others:
            return named
        held = [value for module in modules if type(module) in others for value in module.__dict__.values()]
        new = {*map(type, held)} - self.harmless
        self.harmless.update(kind for kind in new if kind not in _FUNCTIONS and not self.in_class(kind))
        left = () if new <= self.harmless else [value for value in held if type(value) not in self.harmless]
        return any(map(self.in_value, left))

    def in_value(self, value: Any) -> bool:
        """Whether what may be called names one."""
        return self.in_function(value) if type(value) in _FUNCTIONS else self.in_class(type(value))

    def in_class(self, kind: type) -> bool:
        """Whether a method that a class does not have from torch names one; with a `rule`, of those that `forward` reaches."""
        if kind not in self.known:
            own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins")]
            methods = {name: f for base in reversed(own) for name, f in vars(base).items() if name not in _BEFORE}
            asked = reached(methods) if self.narrow else list(methods.values())
            code = is_made_of_code(kind) and not self.narrow  # it may be anything
            counts = code or issubclass(kind, self.also) or (is_registered(kind) and self.rule({"ops"}))
            self.known[kind] = counts or any(map(self.in_function, asked))
        return self.known[kind]

    def in_function(self, f: Any) -> bool:
        f, whole = plain_function(f), f
        if not isinstance(f, types.FunctionType):
            return isinstance(whole, _FUNCTIONS[1:3]) and self.rule(_names_itself(whole))
        key = _key(f)
        if key not in self.known:
            self.known[key] = False  # while it is looked at: it may call itself
            names = set(_names(f.__code__))
            self.known[key] = self.rule(names | _behind(f, names)) or any(map(self.in_function, _called(f, names)))
        return self.known[key]


@functools.lru_cache(1024)
def _looked_up(words: Words, kinds: frozenset[type]) -> tuple[bool, frozenset[type]]:
    """Whether the code of a kind of module names one, and those of the kinds that may keep what does."""
    others = frozenset(kind for kind in kinds if not kind.__module__.startswith("torch.nn.modules."))
    return any(map(words.in_class, kinds)), others


@functools.cache
def methods_of(kind: type) -> list[Any]:
    """The functions of a class, and of those that it is made of, that run when `forward` does; all, where it has none."""
    own = [base for base in reversed(kind.__mro__) if not of_library(base)]
    methods = {name: f for base in own for name, f in vars(base).items()}
    return reached(methods) or list(methods.values())


def reached(methods: dict[str, Any]) -> list[Any]:
    """Those of the methods that run when `forward` does, by their names."""
    todo: list[str] = [name for name in ("forward", "__call__") if name in methods]
    for name in todo:  # which grows
        f = plain_function(methods[name])
        if isinstance(f, types.FunctionType):
            todo += [other for other in _names(f.__code__) if other in methods and other not in todo]
    return [methods[name] for name in todo]


def plain_function(f: Any) -> Any:
    """The function itself, of what stands for one."""
    while isinstance(f, functools.partial):
        f = f.func
    if isinstance(f, property):
        f = f.fget
    f = getattr(f, "__func__", f) if isinstance(f, (types.MethodType, staticmethod, classmethod)) else f
    return inspect.unwrap(f) if isinstance(f, types.FunctionType) else f


def _key(f: Any, depth: int = 0) -> Any:
    """What a function does, as far as its code says it: that of what is around it is another where it is made again."""
    f = plain_function(f)
    if not isinstance(f, types.FunctionType):
        return getattr(f, "__name__", None)
    inner = [_key(cell.cell_contents, depth + 1) for cell in f.__closure__ or () if depth < _DEEP and _filled(cell)]
    return (f.__code__, *inner) if inner else f.__code__


def _behind(f: types.FunctionType, names: set[str]) -> set[str]:
    """How functions and files name themselves that a code knows by other names (``from random import gauss as draw``)."""
    values = map(f.__globals__.get, names)
    return {name for v in values if isinstance(v, _NAMED) or is_registered(type(v)) for name in _names_itself(v)}


def _names_itself(value: Any) -> set[str]:
    """The name of a function or file; of a method of a generator, what kind of generator that is; what scripted code runs."""
    if isinstance(value, torch.jit.ScriptFunction):
        return {str(value.inlined_graph)}
    if is_registered(type(value)):
        return {"ops"}
    return {getattr(value, "__name__", ""), generator_kind(getattr(value, "__self__", None)) or ""}


def _called(f: types.FunctionType, names: set[str]) -> list[Any]:
    spaces = [f.__globals__, *(vars(m) for m in map(f.__globals__.get, names) if isinstance(m, types.ModuleType))]
    called = [space[name] for space in spaces for name in names if isinstance(space.get(name), types.FunctionType)]
    tables: list[Any] = [value for value in map(f.__globals__.get, names) if type(value) in (dict, list, tuple)]
    called += [g for table in tables for g in (table.values() if type(table) is dict else table) if isinstance(g, _FUNCTIONS)]
    called += [cell.cell_contents for cell in f.__closure__ or () if _filled(cell)]
    return [g for g in called if not str(getattr(g, "__module__", "torch.")).startswith("torch.")]


def _filled(cell: types.CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, _FUNCTIONS)
    except ValueError:
        return False


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)
        elif isinstance(inner, tuple):  # those of arguments, as dropout_p=, among others
            yield from (name for name in inner if isinstance(name, str))


# What functions run.

_DEEP = 4  # from a function to an object to a list of modules, with one to spare


def modules_of(model: Any) -> list[nn.Module]:
    """The modules of a model; of a function, those that it names: around it, in its file, and in what these hold and call.

    They keep state, draw and may be in train mode as those of a module do.
    """
    root = bind(model).root
    if root is not None:
        return all_modules(root)
    found: dict[Any, None] = {}
    _reach(model, lambda module: module.modules() if isinstance(module, nn.Module) else None, found, set(), 0)
    return list(found)


def generators_of(method: Any) -> tuple[torch.Generator, ...]:
    """The generators that a method of one's own names in the same ways, and those of the library's methods that it calls."""
    found: dict[Any, None] = {}

    def kept(value: Any) -> Iterable[Any] | None:
        told = None if isinstance(value, functools.partial) else told_by(value)  # what is bound is looked at, too
        return (value,) if isinstance(value, torch.Generator) else None if told is None else told.generators

    _reach(method, kept, found, set(), 0)
    return tuple(found)


def _reach(value: Any, kept: Callable[[Any], Iterable[Any] | None], found: dict[Any, None], met: set[int], depth: int) -> None:
    """Note what is `kept` of a value, or of what it holds where nothing is said of it."""
    if isinstance(value, _PLAIN) or id(value) in met or depth > _DEEP:
        return
    met.add(id(value))
    if (own := kept(value)) is not None:
        found.update(dict.fromkeys(own))
        return
    for held in _held(value):
        _reach(held, kept, found, met, depth + 1)


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, types.FunctionType):
        return _around(value)
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, dict):
        return list(value.values())
    if of_library(type(value)) and not isinstance(value, HOLDING):
        return ()
    return (*getattr(value, "__dict__", {}).values(), type(value).__call__ if callable(value) else None)


def _around(f: types.FunctionType) -> Iterator[Any]:
    """What the code of a function that is not torch's can name: what is around it, its defaults, and what is in its file."""
    if (f.__module__ or "").partition(".")[0] in LIBRARIES:
        return
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    yield getattr(f, "__wrapped__", None)
    for cell in f.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that nothing was put into yet
            yield cell.cell_contents
    for name in set(_names(f.__code__)):
        yield f.__globals__.get(name)


# Train mode.

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _varies(module: nn.Module) -> str | None:
    """What makes the result of a module in train mode depend on the batch or on chance."""
    if isinstance(module, BATCH_NORM) or (isinstance(module, INSTANCE_NORM) and module.track_running_stats):
        return "batch norm"
    if isinstance(module, _DROPOUT) and module.p > 0:
        return "dropout"
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and module.dropout > 0:
        return "dropout"
    return "random slopes" if isinstance(module, nn.RReLU) else None


def noisy_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules in train mode whose result depends on the batch or on chance."""
    # A frozen ScriptModule has no such attribute.
    return [module for module in modules if getattr(module, "training", False) and _varies(module)]


def tell_of_train_mode(training: Sequence[nn.Module]) -> None:
    """Warn about modules in train mode."""
    what = " and ".join(sorted({_varies(module) or "" for module in training}))
    warn(
        f"the model is in train mode with {what}: attributions depend on the batch or on chance. "
        f"Call model.eval() first. Running statistics are not updated."
    )


# Parameters that have no size yet.

SIZE = "the model has parameters without a size yet, and torch cannot give them one here: run it once before, model(x)."


def sized(modules: Sequence[nn.Module], model: Any, x: Tree) -> None:
    """Have parameters without a size get one in a plain pass: not the tensors of a transform, nor what is put back after it."""
    if without_size(modules):
        if transforms_active():
            raise complaint(ValueError, SIZE)
        args, kwargs = as_arguments(copied(x))
        modes = [(module, module.training) for module in modules]
        try:
            for module in modules:
                module.training = False  # it is about sizes: no statistics are learned, nothing is dropped
            with torch.no_grad():
                model(*args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training


def without_size(modules: Sequence[nn.Module]) -> bool:
    weights = [weight for module in modules for weight in own_weights(module).values()]
    # Dynamo does not trace is_lazy.
    return any(isinstance(weight, nn.UninitializedParameter) for weight in weights if type(weight) is not nn.Parameter)
