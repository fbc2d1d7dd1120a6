"""Errors of torch that our own words cure: where a model does not take x, and is shown to take what x can be made into."""

from __future__ import annotations

import dis
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import must_rise, of_dynamo
from .._types import Tree, as_arguments, map_tensors, tensors
from .._words import complaint
from .checks import may_read
from .kept import left_as_found
from .where import all_modules, bind, unfit, weights


class Misfit(ValueError, RuntimeError):
    """An x that the model does not take: our words for it, and a RuntimeError still, as torch's own is."""


class Cure(NamedTuple):
    """What x is made into, why, and how that is written; several of them one after another."""

    why: tuple[str, ...]
    written: str
    x: Tree


def not_taken(error: Exception, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception | None:
    """Our words for arguments that do not fit the model's signature, as far as that is known."""
    if (names := unfit(call, args, kwargs)) is None:
        return None
    text = f"the model does not take x so ({error}): it takes {names}, a tuple by position and a dict by keyword"
    return complaint(
        TypeError, f"{text}; wrap a model that takes them as one argument: lambda {'**' if kwargs else '*'}x: model(x)."
    )


def _said_so(error: Exception, model: Any, x: Tree, given: Mapping[str, Any]) -> Exception | None:
    """The same of what the error itself says."""
    if "meta" in str(error) and (told := _without_numbers(x, given)) is not None:
        return told
    if str(error).startswith("Inference tensors cannot be saved"):
        text = "the model, or what is bound to it, was made inside torch.inference_mode(), and has no gradient"
        return complaint(ValueError, f"{text}: make it outside, or pass copy.deepcopy(model).")
    if isinstance(error, TypeError) and not hasattr(error, "complaint") and callable(model):  # which a rule, say, may have run
        return not_taken(error, bind(model).call, *as_arguments(x))
    return None


def _without_numbers(x: Tree, given: Mapping[str, Any]) -> Exception | None:
    """Our words for an argument on the meta device, where x is not."""
    device = next((t.device.type for t in tensors(x)), "meta")
    for name, value in given.items() if device != "meta" else ():
        if any(t.is_meta for t in tensors(value)):
            text = f"{name} is on the meta device, where tensors hold no numbers: make it with device={device!r}"
            return complaint(ValueError, f"{text}, where x is.")
    return None


_COMPILES = (
    "torch compiles a part of the model wherever it runs (torch.cond, say), and cannot here ({}): use gradients, "
    "integrated_gradients or feature_ablation for such a model."
)


def in_words(
    error: Exception, model: Any = None, x: Any = None, *_: Any, baselines: Any = None, target: Any = None, **others: Any
) -> Exception:
    """`error`, or ours where its cause can be shown: a model that a transform of torch.func does not take, or made in inference
    mode, an x that it takes once cured, ids in the baselines that it does not know, a target that takes more than an output."""
    if (told := _of_level(error, model) or _of_target(error, target)) is not None:
        return told
    if not may_read():
        return error
    if (told := _said_so(error, model, x, {"baselines": baselines, "target": target, **others})) is not None:
        return told
    ours = hasattr(error, "complaint") or isinstance(error, TypeError) or must_rise(error) or raised_by_model(error)
    if ours or not tensors(x) or any(t.is_meta for t in tensors(x)):
        return error
    said = shorten(str(error), 200, placeholder=" ...")
    if _runs(model, x):
        return _of_running(error, said, model, _ids_of(baselines, x))
    root = bind(model).root
    if any(weight.is_meta for weight in weights(root)):
        device = tensors(x)[0].device.type
        text = f"weights of the model are on the meta device, and hold no numbers ({said})"
        return complaint(Misfit, f"{text}: call model.to_empty(device={device!r}), and load a state_dict.")
    cure = next((cure for cure in _cures(x, root) if _runs(model, cure.x)), None)
    if cure is None:
        return _unknown_ids(error, model, x, root) if isinstance(error, IndexError) else error
    text = f"the model does not take x {_told(x, cure.x)} ({said})"
    return complaint(Misfit, f"{text}, and takes {_told(cure.x, x)}: {'; '.join(cure.why)}, pass {cure.written}.")


def _of_running(error: Exception, said: str, model: Any, ids: Any) -> Exception:
    """The same of a model that takes x."""
    if of_dynamo(error):
        return complaint(ValueError, _COMPILES.format(said))
    if not isinstance(error, IndexError) or _runs(model, ids):
        return error
    return complaint(IndexError, f"the model takes x, and not the baselines ({said}): give ids of its vocabulary.")


def _of_target(error: Exception, target: Any) -> Exception | None:
    if not isinstance(error, TypeError) or hasattr(error, "complaint") or not callable(target) or _takes_one(target):
        return None
    text = f"the target is called with the model's output alone, target(output), and does not take that so ({error})"
    return complaint(TypeError, f"{text}: bind the rest, such as lambda output: target(output, labels).")


def _takes_one(f: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument, as far as it says; of a module, whether its forward can."""
    try:
        inspect.signature(f.forward if isinstance(f, nn.Module) else f).bind(None)
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)  # of what is written in C nobody knows
    return True


_WRITES = {  # by whether part of the model is in train mode
    True: "the model writes to its own buffers (batch norm in train mode?), which torch.func does not allow here: "
    "call model.eval() first.",
    False: "the model writes to its own tensors, also in eval mode, which torch.func does not allow here: "
    "call the method outside of torch.func, and one with rules without create_graph=True.",
}
_NO_CONTEXT = (
    "the model runs a torch.autograd.Function that torch.func does not take: give it a setup_context, and a "
    "forward without ctx, or run the method without create_graph=True, and outside of torch.func."
)


def _of_level(error: Exception, model: Any) -> Exception | None:
    """Ours, where a pass fails for what a transform of torch.func does not take, and what to do."""
    if "mutate a captured Tensor" in str(error):
        return complaint(ValueError, _WRITES[any(module.training for module in all_modules(bind(model).root))])
    return complaint(ValueError, _NO_CONTEXT) if "setup_context staticmethod" in str(error) else None


def check_level(error: Exception, model: Any) -> None:
    """Say why a pass fails in a grad level, where that is known."""
    if (told := _of_level(error, model)) is not None:
        raise told from error


def _unknown_ids(error: Exception, model: Any, x: Tree, root: nn.Module | None) -> Exception:
    """Ours, where x is shown to hold an id that no embedding of the model has."""
    rows = max((m.num_embeddings for m in all_modules(root) if isinstance(m, nn.Embedding)), default=0)
    ids = [t for t in tensors(x) if t.dtype in (torch.int32, torch.int64) and t.numel()]
    odd = [i for t in ids for i in map(int, torch.aminmax(t)) if not 0 <= i < rows]
    known = map_tensors(lambda t: t.clamp(0, rows - 1) if any(t is one for one in ids) else t, x)
    if not (rows and odd) or not _runs(model, known):
        return error
    text = f"x holds the id {odd[0]}, and the model has embeddings of 0 to {rows - 1} ({error})"
    return complaint(IndexError, f"{text}: use its own tokenizer, and an id of its own for padding.")


def _ids_of(baselines: Any, x: Tree) -> Tree:
    """Baselines of ids as an x; x itself, where they are something else."""
    if isinstance(x, Mapping) and isinstance(baselines, Mapping):
        return {key: _ids_of(baselines.get(key), part) for key, part in x.items()}
    if not isinstance(x, Tensor):
        return x
    if isinstance(baselines, Tensor):
        return baselines if baselines.dim() == x.dim() else x
    return torch.full_like(x, baselines) if isinstance(baselines, int) else x


def _told(x: Tree, other: Tree) -> str:
    """What the tensors of x are, as far as those of another are not."""
    said = []
    for t, o in zip(tensors(x), tensors(other)):
        more = [str(t.dtype)] * (t.dtype != o.dtype) + [f"on {t.device}"] * (t.device != o.device)
        said.append(" ".join([str(list(t.shape)), *more]))
    return ", ".join(said)


_TORCH = os.path.dirname(torch.__file__) + os.sep


def raised_by_model(error: BaseException) -> bool:
    """Whether a `raise` statement outside torch made `error`, which says what it means: operations of torch raise without."""
    trace = error.__traceback__
    if trace is None or hasattr(error, "complaint"):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raising = dis.opname[code.co_code[trace.tb_lasti]].startswith(("RAISE", "RERAISE"))
    return raising and not code.co_filename.startswith(_TORCH)


def _runs(model: Any, x: Tree) -> bool:
    """Whether the model takes x; it is left as found."""
    args, kwargs = as_arguments(x)
    with torch.no_grad(), left_as_found(model):
        try:
            model(*args, **kwargs)
        except (ValueError, TypeError, RuntimeError, IndexError):
            return False
        return True


def _cures(x: Tree, root: nn.Module | None) -> Iterator[Cure]:
    """What x might be made into: of the kind of the weights, in another layout, or both; the smallest change first."""
    kinds = list(_kinds(x, root))
    yield from kinds
    for start in (Cure((), "x", x), *kinds):
        if isinstance(start.x, Tensor):
            yield from (Cure((*start.why, why), start.written + made, cured) for why, made, cured in _layouts(start.x, root))


_NAMES = {torch.float32: "float", torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}


def _kinds(x: Tree, root: nn.Module | None) -> Iterator[Cure]:
    """x on the device and of the dtype that all weights have; as ids, where it holds whole numbers."""
    found = list(weights(root))
    devices, dtypes = {w.device for w in found}, {w.dtype for w in found if w.is_floating_point()}

    def like_weights(t: Tensor) -> tuple[str, Tensor]:
        made = ""
        if len(devices) == 1 and t.device not in devices:
            t = t.to(next(iter(devices)))
            made = f".to({str(t.device)!r})"
        if len(dtypes) == 1 and t.dtype not in dtypes and (t.is_floating_point() or (whole and not t.is_complex())):
            t = t.to(next(iter(dtypes)))
            made += f".{_NAMES.get(t.dtype, f'to({t.dtype})')}()"
        return made, t

    whole = isinstance(x, Tensor)  # ids that come beside numbers stay what they are
    yield from _each(x, f"as the weights are {_listed(dtypes)} on {_listed(devices)}", like_weights)
    yield from _each(x, "ids are integers of 64 bits", _as_ids)


def _as_ids(t: Tensor) -> tuple[str, Tensor]:
    ids = t if t.is_complex() or t.dtype == torch.bool else t.long()
    return (".long()", ids) if ids.dtype != t.dtype and torch.equal(ids.to(t.dtype), t) else ("", t)


def _listed(kinds: set[Any]) -> str:
    return ", ".join(sorted(map(str, kinds)))


def _each(x: Tree, why: str, make: Callable[[Tensor], tuple[str, Tensor]]) -> Iterator[Cure]:
    """Each tensor of x made into something, where that changes any."""
    if isinstance(x, Tensor):
        made, value = make(x)
        if made:
            yield Cure((why,), f"x{made}", value)
    elif isinstance(x, (tuple, Mapping)):
        pairs = x.items() if isinstance(x, Mapping) else enumerate(x)
        parts = {key: (*make(part), f"x[{key!r}]") if isinstance(part, Tensor) else ("", part, "") for key, part in pairs}
        written = " and ".join(name + made for made, _, name in parts.values() if made)
        values = {key: value for key, (_, value, _) in parts.items()}
        if written:
            yield Cure((why,), written, values if isinstance(x, Mapping) else tuple(values.values()))


def _layouts(x: Tensor, root: nn.Module | None) -> Iterator[tuple[str, str, Tensor]]:
    """Other layouts of x: why, how that is written, and the tensor."""
    yield "the batch comes first", "[None]", x[None]
    convs = (m for m in all_modules(root) if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    first = next(convs, None)
    if first is None:
        return
    takes, dims = first.in_channels, first.weight.dim()
    why = f"the first convolution takes {takes} channel{'s' * (takes > 1)}, "
    if x.dim() == dims and x.shape[-1] == takes:
        yield why + "the dimension after the batch", ".movedim(-1, 1)", x.movedim(-1, 1)
    if x.dim() == dims - 1 and x.shape[-1] == takes:
        yield why + "the dimension after the batch, which comes first", ".movedim(-1, 0)[None]", x.movedim(-1, 0)[None]
    if x.dim() == dims and x.shape[1] == 1 < takes:
        sizes = (-1, takes, *[-1] * (dims - 2))
        yield why + "and a grey picture has one", f".expand{sizes}", x.expand(sizes)
    if x.dim() == dims and (takes, x.shape[1]) == (3, 4):
        yield why + "not the fourth, transparency", "[:, :3]", x[:, :3]
    if x.dim() == dims and (takes, x.shape[1]) == (1, 3):
        yield why + "a picture in grey", ".mean(1, keepdim=True)", x.mean(1, keepdim=True)
