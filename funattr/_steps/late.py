"""A vmap entered by hand where the model reaches a site: over how many steps is only known once the value there is seen, and
a pass to look at it first would run what lies before the site a second time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .._torch import add_batch_dim, enter_vmap, leave_vmap, remove_batch_dim, transforms_active


class Late:
    """Steps mapped from where `enter` is called to the end of the pass."""

    def __init__(self) -> None:
        self.size = 0
        self.level: int | None = None

    def enter(self, steps: list[Tensor]) -> list[Tensor]:
        """The steps, as one; the first alone where a transform of the model's own runs, which would end before this one."""
        self.size = 1 if transforms_active() else steps[0].shape[0]
        if self.size == 1:
            return [t[0] for t in steps]
        level = self.level = enter_vmap(self.size, "same")
        return [add_batch_dim(t, 0, level) for t in steps]

    def run(self, function: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What `function`, which enters, returns, with a leading dimension for the steps."""
        try:
            found = function()
            return [t[None] if self.level is None else remove_batch_dim(t, self.level, self.size, 0) for t in found]
        finally:
            if self.level is not None:
                leave_vmap()
