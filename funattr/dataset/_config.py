"""What a run is, in words that can be compared: results of two different ones never share a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import platform
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_DEEP = 8


class Storage(NamedTuple):
    """How attributions are stored: rounded, pooled, or only the largest."""

    dtype: str | None = None
    pool: Any = None
    top_k: int | None = None
    varying: bool = False


def config_of(
    method: Any, arguments: dict[str, Any], model: Any, target: Any, seed: int, storage: Storage, transform: Any = None
) -> dict[str, Any]:
    """Everything that results depend on. Batch sizes, workers and devices are not among it, nor are the data.

    A transform counts where it says `about` itself.
    """
    name, bound = named(method)
    ready = getattr(transform, "about", None)
    return {
        **({} if ready is None else {"transform": describe(ready)}),
        "method": name,
        "arguments": {**bound, **{key: describe(value) for key, value in sorted(arguments.items())}},
        "model": model_name(model),
        "target": describe(target),
        "seed": seed,
        "storage": {key: describe(value) for key, value in storage._asdict().items()},
    }


def hash_of(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """What computed a part: noted in it, and not compared."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("funattr", "pyarrow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What is not the same, place by place: ``arguments.layer was 'relu2', and is 'relu3'``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in dict.fromkeys([*old, *new]):
            at = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                was, now = (repr(d[key]) if key in d else "not given" for d in (old, new))
                found.append(f"{at} was {was}, and is {now}")
            else:
                found += differences(old[key], new[key], at)
        return found
    return [] if old == new else [f"{where} was {old!r}, and is {new!r}"]


def named(method: Any) -> tuple[str, dict[str, Any]]:
    """A method's name, and what is bound in it."""
    bound: dict[str, Any] = {}
    while isinstance(method, partial):
        bound = {**{key: describe(value) for key, value in sorted(method.keywords.items())}, **bound}
        method = method.func
    if several := getattr(method, "together", None):
        parts = {name: dict(zip(("method", "arguments"), named(each))) for name, each in several.items()}
        return method_name(method), {**parts, **bound}
    found = describe(method)
    if isinstance(found, dict) and "function" in found:
        return found["function"], {**found["of"], **bound}
    return found if isinstance(found, str) else method_name(method), bound


def method_name(method: Any) -> str:
    while isinstance(method, partial):
        method = method.func
    return getattr(method, "__qualname__", type(method).__qualname__)


def model_name(model: Any) -> str:
    """The name of a factory, or of the class of a model."""
    if isinstance(model, str):
        return model
    if isinstance(told := getattr(model, "about", None), str) and not isinstance(model, nn.Module):
        return told
    if isinstance(model, nn.Module):
        return type(model).__qualname__
    if isinstance(model, partial):
        given = [repr(describe(a)) for a in model.args] + [f"{k}={describe(v)!r}" for k, v in sorted(model.keywords.items())]
        return f"{model_name(model.func)}({', '.join(given)})"
    return f"{model.__module__}:{model.__qualname__}" if hasattr(model, "__qualname__") else type(model).__qualname__


def describe(value: Any, depth: int = 0) -> Any:
    """A value as JSON holds it, the same in every process: tensors by their numbers, functions by name and what they hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.number, np.bool_)):
        return describe(value.item()) if isinstance(value.item(), (bool, int, float)) else repr(value)
    if depth > _DEEP:
        return type(value).__qualname__
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {str(value.dtype)[6:]} {_digest(value, whole=True)}"
    if isinstance(value, np.ndarray):
        data = repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
        return f"array {list(value.shape)} {value.dtype} {hashlib.sha256(data).hexdigest()[:16]}"
    if isinstance(value, nn.Module) and value.state_dict():
        return f"{type(value).__qualname__} {fingerprint(value)}"
    if isinstance(value, torch.Generator):
        return "generator"  # draws are by the run's seed, whatever its state
    if isinstance(value, Mapping):
        return {str(key): describe(part, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(part, depth + 1) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(describe(part, depth + 1)) for part in value)
    if isinstance(value, partial):
        held = [*value.args, *value.keywords.values()]
        if any(isinstance(part, torch.Generator) for part in held):
            return "generator"
        return {"function": describe(value.func, depth + 1), "of": describe([value.args, value.keywords], depth + 1)}
    return _function(value, depth) if callable(value) else _object(value, depth)


def _object(value: Any, depth: int) -> Any:
    """What is none of the kinds that are known: by what it holds, or, as a slice and a dtype, by what it says of itself."""
    if (held := _attributes(value, depth)) or _silent(type(value)):
        return {type(value).__qualname__: held}
    return repr(value)


def _silent(kind: Any) -> bool:
    return kind.__repr__ is object.__repr__  # type and address


def _function(function: Callable[..., Any], depth: int) -> Any:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    inner = inspect.unwrap(function)
    if inspect.ismethod(function):
        held = {"of": describe(function.__self__, depth + 1)}
    elif not hasattr(inner, "__code__") and not inspect.isroutine(function) and not isinstance(function, type):
        found = _object(function, depth)  # an object that can be called
        held = found[name] if isinstance(found, dict) else {"is": found}
    elif not hasattr(inner, "__code__") or getattr(inspect.getmodule(inner), name, None) is function:
        return name
    else:
        held = _closed_over(inner, depth) | _written(inner, depth)
    return {"function": name, "of": held} if held else name


def _closed_over(function: Any, depth: int) -> dict[str, Any]:
    pairs = zip(function.__code__.co_freevars, function.__closure__ or ())
    return {variable: describe(cell.cell_contents, depth + 1) for variable, cell in pairs if _filled(cell)}


def _written(function: Any, depth: int) -> dict[str, Any]:
    """What a function that no name finds, a lambda, does; of this library's own the name is enough, in any version."""
    if str(function.__module__).partition(".")[0] == "funattr":
        return {}
    used = [name for name in _names_in(function.__code__) if isinstance(function.__globals__.get(name), _VALUES)]
    held = {
        "defaults": describe([function.__defaults__, function.__kwdefaults__], depth + 1),
        "globals": {name: describe(function.__globals__[name], depth + 1) for name in used},
    }
    given = {key: part for key, part in held.items() if part not in ({}, [None, None])}
    return {"code": hashlib.sha256(repr(_code(function.__code__)).encode()).hexdigest()[:16], **given}


#: What a global name may stand for to count: numbers and the like, and not other functions and modules, which have names.
_VALUES = (bool, int, float, str, np.generic, np.ndarray, Tensor, list, tuple, dict, set, frozenset, slice)


def _code(code: CodeType) -> Any:
    """What a function does: without where it is written."""
    return code.co_code, code.co_names, [_code(c) if isinstance(c, CodeType) else describe(c) for c in code.co_consts]


def _names_in(code: CodeType) -> list[str]:
    inside = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names_in(c)]
    return sorted({*code.co_names, *inside})


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not yet bound
        return False


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    held = dict(getattr(value, "__dict__", {}))
    if not held and _silent(type(value)):
        slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
        names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
        held = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {key: describe(part, depth + 1) for key, part in sorted(held.items())}


_SAMPLE = 1 << 16


def _module_in(model: Any) -> Any:
    while isinstance(model, partial):
        model = model.args[0] if not isinstance(model.func, nn.Module) and model.args else model.func
    return model


def layers_of(model: Any) -> str:
    """A digest of what a model's layers say of themselves, and of which of them train: what has no weights is there, too."""
    model = _module_in(model)
    modes = [module.training for module in model.modules()] if isinstance(model, nn.Module) else None
    said = "no module" if modes is None else f"{re.sub(r' at 0x[0-9a-f]+', '', repr(model))} {modes}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def fingerprint(model: Any) -> str:
    """A digest of a model's weights: of a large tensor, of 65,536 numbers spread over it."""
    model = _module_in(model)
    if not isinstance(model, nn.Module):
        return "no module"
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {_digest(value) if isinstance(value, Tensor) else type(value).__name__}".encode())
    return digest.hexdigest()[:16]


def _digest(tensor: Tensor, whole: bool = False) -> str:
    flat = tensor.detach().reshape(-1)
    flat = flat[:: 1 if whole else max(1, flat.numel() // _SAMPLE)].cpu().contiguous()
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + data).hexdigest()[:16]
