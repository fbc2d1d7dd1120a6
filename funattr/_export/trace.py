"""A function of tensors as a graph of torch's operations, for one batch or for any, with the weights as its state; and why
something is no program, in a sentence."""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize

from .._core.plain import PlainAttention
from .._steps.fold import rows_taken_alone
from .._torch import fake_batch, unlogged, writes
from .._types import as_it_is
from .decompositions import as_forward


class Way(Enum):
    """How the steps of a method run in a program."""

    FOLDED = "many in one batch, which takes it that rows are treated alone: to be shown of the program"
    ONE_BY_ONE = "one after another"
    MAPPED = "by vmap, for a batch of one size"


def traced(function: Callable[..., Any], values: Sequence[Tensor], sized: Sequence[bool], way: Way) -> fx.GraphModule:
    """The operations that `function` runs for tensors like these; of those `sized`, the first size is the program's to meet."""
    from torch.fx.experimental.proxy_tensor import make_fx

    fakes, is_number = fake_batch(values, sized)
    mode: Any = "fake" if way is Way.MAPPED else "symbolic"
    with rows_taken_alone() if way is Way.FOLDED else as_it_is, PlainAttention(), unlogged():
        graph = make_fx(function, as_forward(), tracing_mode=mode, _allow_non_fake_inputs=True)(*fakes)
    if _writes(graph):
        with contextlib.suppress(RuntimeError):  # the model writes to tensors of its own
            graph = make_fx(functionalize(graph), tracing_mode=mode, _allow_non_fake_inputs=True)(*fakes)
    if is_number():
        raise Refused(
            "something makes a number of the size of the batch, as len(x) does: write x.shape[0], or pass dynamic_batch=False."
        )
    return graph


def _writes(graph: fx.GraphModule) -> bool:
    """Whether something is written in place, without what was tried and failed, which has no value."""
    for node in reversed(graph.graph.nodes):
        if node.op == "call_function" and "val" not in node.meta and not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return any(writes(node.target) for node in graph.graph.nodes)


def tidied(graph: fx.GraphModule, model: nn.Module | None, names: Sequence[str]) -> fx.GraphModule:
    """The graph with each operation once, the model's own tensors under their names, and inputs of these names."""
    from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

    _name_state(graph, model)
    for node, name in zip(graph.graph.find_nodes(op="placeholder"), names):
        node.target = node.name = name
    if not _writes(graph):  # what is written to is another value from there on
        done = CSEPass(get_CSE_banned_ops())(graph)
        graph = graph if done is None else done.graph_module
        graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _name_state(graph: fx.GraphModule, model: nn.Module | None) -> None:
    """What the graph reads, under the name that the model has for it, and where the model has it, so that it is read once."""
    found: dict[int, str] = {}
    if model is not None:
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            found.setdefault(id(value), name)
    first: dict[int, fx.Node] = {}
    reads = graph.graph.find_nodes(op="get_attr")
    values = {node: getattr(graph, node.target) for node in reads}
    for node, value in values.items():
        if id(value) in first:
            node.replace_all_uses_with(first[id(value)])
            graph.graph.erase_node(node)
            continue
        first[id(value)] = node
        if id(value) in found:
            delattr(graph, node.target)
            node.target = found[id(value)]
            _put(graph, node.target, value)


def _put(root: nn.Module, name: str, value: Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, nn.Parameter(value.detach(), requires_grad=False))
    else:
        root.register_buffer(last, value.detach())


# Why something is no program.

#: What torch calls the errors of a trace that would have to look at data.
_LOOKED = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException")
_LOOKED_SAYING = ("data-dependent", "trying to get a value out of", "trying to get value out of", "aten._local_scalar_dense")
#: As they were imported: code names its file so, through a link, too.
_OURS = tuple(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent))


class Refused(Exception):
    """No program: the sentence is ready. `last` where no other way of tracing would help."""

    def __init__(self, text: str, last: bool = False) -> None:
        super().__init__(text)
        self.last = last


def check_draws(graph: fx.GraphModule, by_method: bool) -> None:
    """Refuse operations that draw random numbers: a program would draw its own, and nobody could give the seed."""
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and node.users:
            raise Refused(drawing(by_method, f" ({node.target})"), last=True)


def drawing(by_method: bool, what: str = "") -> str:
    cure = "export the method inside it, and draw outside" if by_method else "call model.eval() first"
    who = "method" if by_method else "model"
    return f"the {who} draws random numbers{what}, and a program takes no seed: {cure}."


def reason(error: Exception) -> str:
    """Why it cannot be traced, and what to do."""
    if isinstance(error, Refused):
        return str(error)
    text = " ".join(str(error).split())
    short = textwrap.shorten(text, 200, placeholder=" ...")
    at = _where(error.__traceback__)
    if type(error).__name__ in _LOOKED or any(said in text for said in _LOOKED_SAYING):
        return (
            f"{at or 'somewhere'} the values of a tensor decide what runs, and a program has one way for all: write it with "
            f"torch.where or a mask, or export a part of the model without it."
        )
    if hasattr(error, "complaint") and re.search(r"\bs\d+\b", text):  # a symbol for the size of the batch
        text = re.sub(r"\bs\d+\b", "any number of", text)
        return f"an argument is for the examples of x alone, and is no input of a program ({text}) Pass dynamic_batch=False."
    return f"{at or 'somewhere'} it cannot be traced ({type(error).__name__}: {short})."


def _where(trace: TracebackType | None) -> str:
    """The innermost line that is neither torch's nor ours."""
    found = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith((*_OURS, "<")):
            found = f"at {Path(name).name}:{trace.tb_lineno}, in {trace.tb_frame.f_code.co_name},"
        trace = trace.tb_next
    return found
