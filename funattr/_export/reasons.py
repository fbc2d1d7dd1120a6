"""Why something is no program, in a sentence."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from types import TracebackType

import torch
from torch import fx

#: What torch calls the errors of a trace that would have to look at data.
_LOOKED = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException")
_LOOKED_SAYING = ("data-dependent", "trying to get a value out of", "trying to get value out of", "aten._local_scalar_dense")
_OURS = tuple(str(Path(folder).resolve()) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent))


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
