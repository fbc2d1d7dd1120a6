"""THE table of cases: every method at every site of every model that takes it, with all competitors ready to be called."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from . import rivals
from .calls import TARGET, Call
from .floor import Part, bare
from .methods import TABLE, Method
from .settings import Setting

#: In the order of the tables; `funattr` first.
COLUMNS = ("funattr", "Captum", "by hand", "grad-cam", "zennit", "tangermeme", "floor", "compiled", "compiled floor")


class Case(NamedTuple):
    method: Method
    setting: Setting
    site: str  # "input" for what runs there

    @property
    def name(self) -> str:
        return f"{self.setting.name}: {self.method.name}, {self.site}"

    def own(self) -> functools.partial[Any]:
        return self.method.own(self.setting, self.site)

    def parts(self) -> list[Part]:
        return self.method.floor(self.setting, self.site)

    def eager(self, at_once: int | None, without: dict[str, str]) -> dict[str, Call]:
        """All columns but the compiled ones. `at_once`: how many examples the floor runs in a batch."""
        method, setting, site = self.method, self.setting, self.site
        found: dict[str, Call | None] = {
            "funattr": self.own(),
            "Captum": method.captum(setting, site) if method.captum and "Captum" not in without else None,
            "by hand": method.hand(setting, site) if method.hand else None,
            "floor": bare(setting, self.parts(), at_once),
        }
        if "grad-cam" not in without:
            found["grad-cam"] = rivals.grad_cam_package(method.name, setting, site, TARGET)
        if "zennit" not in without:
            found["zennit"] = rivals.zennit(method.name, setting, TARGET) if method.at_input else None
        if "tangermeme" not in without and "sequence" in setting.kinds:
            found["tangermeme"] = rivals.tangermeme(setting, TARGET)
        return {column: call for column in COLUMNS if (call := found.get(column)) is not None}

    def compiled(self, at_once: int | None) -> dict[str, Call]:
        """Ours and the bare passes, each as one graph; compiled when first called."""
        own = self.own()
        mode = "reduce-overhead" if self.setting.x.is_cuda else None
        fast = torch.compile(own.func, fullgraph=True, mode=mode)
        return {
            "compiled": functools.partial(fast, *own.args, **own.keywords),
            "compiled floor": bare(self.setting, self.parts(), at_once, compiled=True),
        }


def cases(setting: Setting, words: str = "") -> Iterator[Case]:
    """Those whose name holds all of `words`, in any order."""
    for method in TABLE:
        if not setting.kinds.issuperset(method.needs.split()):
            continue
        for site in ["input"] if method.at_input else setting.sites:
            case = Case(method, setting, site)
            if all(word.casefold() in case.name.casefold() for word in words.split()):
                yield case
