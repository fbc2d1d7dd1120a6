"""What is found for several targets at once, given out one by one."""

from __future__ import annotations

from collections.abc import Callable

from .._types import Tree
from .passes import Question
from .rows import Every, Row, own_row, shares


def for_each(q: Question, f: Callable[[Question], list[Tree]]) -> Tree:
    """``f(q)``, a tree for each site, in the caller's structure; for one of several targets, its own of what all find."""
    if not isinstance(q.target, Row):
        return q.sites.build(f(q))
    if not shares(q.target):
        return q.sites.build(f(q._replace(target=q.target.plain)))
    count = len(q.sites.sites)

    def every(targets: Every) -> list[list[Tree]]:
        flat = f(q._replace(target=targets))
        return [flat[k : k + count] for k in range(0, len(flat), count)]

    return q.sites.build(own_row(q.target, every))
